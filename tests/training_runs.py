"""Short training runs: data, a trained model, what tells its bits."""

from __future__ import annotations

import hashlib
import random
import warnings
from contextlib import contextmanager

from sentpool import SentenceEncoder, Trainer
from sentpool.errors import SentpoolWarning
from sentpool.trained_weights import digest, trained_tensors

WORDS = "the a cat dog sat on mat big small runs happy unhappy".split()


def sentences(n: int, seed: int = 0) -> list[str]:
    """Different sentences of two to seven words."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        found[" ".join(rng.choices(WORDS, k=rng.randint(2, 7)))] = None
    return list(found)


TEXTS = sentences(60)
TRIPLETS = list(zip(TEXTS[:40], sentences(40, seed=1), sentences(40, seed=2), strict=True))


def trained(folder, data=TEXTS, objective="simcse-unsup", *, resume=False, pooling="mean", **options):
    """A model and its history after a short run; `digest` tells its bits."""
    model = SentenceEncoder(folder, pooling=None if pooling == "folder's" else pooling)
    options = {"batch_size": 8, "max_steps": 6, "learning_rate": 1e-3} | options
    with quiet():
        history = Trainer(model, objective, **options).fit(data, resume=resume)
    return model, history


@contextmanager
def quiet():
    """Without warnings of a pooling that is not the recipe's, of missing dropout, of much the same for all texts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(pooling|collapse|fresh one|its own positive)", SentpoolWarning)
        yield


def bits(model) -> str:
    """All that was trained: encoder and pooling."""
    whole = hashlib.sha256(digest(trained_tensors(model._core)).encode())
    for name, array in model.pooling.parameters().items():
        whole.update(name.encode() + array.tobytes())
    return whole.hexdigest()


def scored():
    return [(TEXTS[k], TEXTS[k + 1], float(k % 5)) for k in range(30)]
