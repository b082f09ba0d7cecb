"""The promise: the same sentence gives the same bits, whatever the batch, order, threads, instruction set or engine."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden_cases import LENGTHS, MODELS, build, load, sentences
from noise import noise

from sentpool import _core

pytestmark = pytest.mark.bits

HERE = Path(__file__).resolve().parent
POOLINGS = ("cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last_token")
# Made-up tokens stand in for real sentences: MiniLM's hash must not depend on a tokenizer's version.
MINILM_LENGTHS = [11, 3, 24, 9, 60, 17, 2, 33]


def golden() -> dict[str, str]:
    return json.loads((HERE / "golden" / "hashes.json").read_text())


def digest(model, ids, offsets, **options) -> str:
    """SHA-256 over every pooling of every layer, and over all hidden states."""
    layers = range(model_layers(model) + 1)
    states = model.layer_states(ids, offsets, layers, POOLINGS, **options)
    hidden = model.hidden_states(ids, offsets, threads=options.get("threads", 1))
    return hashlib.sha256(states.tobytes() + hidden.tobytes()).hexdigest()


def model_layers(model) -> int:
    return sum(name.endswith("attention.self.query.weight") for name in model.tensors())


def minilm_digest(folder) -> str:
    """The digest of MiniLM's real weights on made-up token ids."""
    from safetensors.numpy import load_file

    model = _core.Model(
        vocab_size=30522, max_positions=512, type_vocab_size=2, hidden=384, layers=6, heads=12, intermediate=1536
    )
    stored = load_file(Path(folder) / "model.safetensors")
    load(model, {name: stored[name] for name in model.tensors()})
    offsets = np.cumsum([0, *MINILM_LENGTHS])
    ids = ((noise(5, int(offsets[-1])) + 1) * 15261).astype(np.int32)
    return digest(model, ids, offsets)


# ---- against the golden hashes of the scalar twins -----------------------------------------------------------------


def environments() -> dict[str, dict[str, str]]:
    """Every way to compute on this machine: instruction sets, BLIS with each sub-configuration."""
    ways = {isa: {"SENTPOOL_ISA": isa, "SENTPOOL_GEMM": "panel"} for isa in _core.isas() if isa != "scalar"}
    for arch, needs in (("haswell", "avx2"), ("skx", "avx512")):
        if needs in ways:
            ways[f"blis-{arch}"] = {"SENTPOOL_GEMM": "blis", "SENTPOOL_BLIS_ARCH": arch}
    return ways


CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
from test_bits import digest, minilm_digest
from golden_cases import MODELS, build, sentences
from sentpool import _core
names = sys.argv[3].split(",")
found = {name: digest(build(name), *sentences(name), threads=2) for name in names}
sweep = [(threads, batch) for threads in (1, 2, 3, 7) for batch in (1, 8, 512)] if len(names) > 1 else []
for threads, batch in sweep:
    assert digest(build("odd"), *sentences("odd"), threads=threads, batch_size=batch) == found["odd"], (threads, batch)
if sys.argv[2]:
    found["all-MiniLM-L6-v2"] = minilm_digest(sys.argv[2])
print(json.dumps([found, _core.config(), _core.gemm_calls()]))
"""


@pytest.mark.every_way
@pytest.mark.parametrize("way", environments())
def test_golden_hashes(way, request):
    folder = "" if way == "generic" else str(request.getfixturevalue("minilm"))  # software fma is slow
    names = ["odd"] if way == "generic" else list(MODELS)
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(HERE), folder, ",".join(names)],
        env=os.environ | environments()[way],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found, config, calls = json.loads(run.stdout.splitlines()[-1])
    expected = golden()
    assert found == {name: expected[name] for name in found}
    by_blis = way.startswith("blis")
    assert config["gemm"] == ("blis" if by_blis else "panel")
    assert config["isa"] == (_core.config()["isa"] if by_blis else way)
    assert (calls["blis"] > 0, calls["panel"] > 0) == (by_blis, not by_blis)


# ---- batch, order, threads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_batch_and_threads_change_nothing(name):
    model, (ids, offsets) = build(name), sentences(name)
    expected = golden()[name]
    for threads in (1, 2, 3, 7):
        for batch_size in (1, 8, 64, 512):
            assert digest(model, ids, offsets, threads=threads, batch_size=batch_size) == expected, (
                threads,
                batch_size,
            )


@pytest.mark.parametrize("name", MODELS)
def test_each_sentence_alone_gives_the_bits_of_the_batch(name):
    model, (ids, offsets) = build(name), sentences(name)
    layers = range(MODELS[name]["layers"] + 1)
    whole = model.layer_states(ids, offsets, layers, POOLINGS)
    for i, T in enumerate(LENGTHS[name]):
        alone = model.layer_states(ids[offsets[i] : offsets[i + 1]], [0, T], layers, POOLINGS)
        assert alone.tobytes() == whole[i].tobytes()


def orders(texts):
    """Three orders: as given, reversed, and shuffled; the last with a third of the texts repeated."""
    rng = np.random.default_rng(0)
    shuffled = [texts[i] for i in rng.permutation(len(texts))]
    return [texts, texts[::-1], shuffled + shuffled[: len(texts) // 3]]


def test_encode_gives_one_hash(minilm, sixty_sentences):
    import sentpool

    model = sentpool.SentenceEncoder(minilm)
    expected = model.encode(sixty_sentences, threads=1)
    by_text = dict(zip(sixty_sentences, expected, strict=True))
    # The orders in turn: each meets every number of threads and every batch size.
    for (threads, batch_size), texts in zip(
        itertools.product((1, 2, 3, 7), (1, 8, 64, 512)), itertools.cycle(orders(sixty_sentences)), strict=False
    ):
        vectors = model.encode(texts, threads=threads, batch_size=batch_size)
        wanted = np.stack([by_text[text] for text in texts])
        assert hashlib.sha256(vectors).digest() == hashlib.sha256(wanted).digest(), (threads, batch_size)


@pytest.fixture
def sixty_sentences() -> list[str]:
    """60 different sentences of 3 to 32 words."""
    words = "a the dog red runs over 12 lazily, into München's café where nobody — really — waits; 東京 is far".split()
    return [
        " ".join(words[(i * 7 + j * (1 + i % 5)) % len(words)] for j in range(3 + i // 2)) + f" {i}" for i in range(60)
    ]
