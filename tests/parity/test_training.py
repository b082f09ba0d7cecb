"""Ten steps of the Trainer against ten steps of PyTorch in float64: losses, embeddings and weights.

Only random draws are taken over (which tokens are masked, the slopes of RReLU), and the tokenizer's ids.
"""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fabricate import bert_folder  # noqa: E402
from numpy_poolings import drawn_slopes  # noqa: E402

from sentpool import SentenceEncoder, Trainer  # noqa: E402
from sentpool.errors import SentpoolWarning  # noqa: E402
from sentpool.masked_language_model import MaskedLanguageModel  # noqa: E402
from sentpool.objectives import CoSENT, InfoNCE  # noqa: E402
from sentpool.trained_weights import trained_tensors  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

# Threads that wait for each other take longer than these small products.
torch.set_num_threads(1)

STEPS, BATCH, RATE, SEED = 10, 8, 1e-3, 3
WORDS = "the a cat dog sat on mat big small runs happy unhappy".split()


def sentences(n, seed):
    rng = random.Random(seed)
    found = {}
    while len(found) < n:
        found[" ".join(rng.choices(WORDS, k=rng.randint(2, 12)))] = None
    return list(found)


COLUMNS = [sentences(STEPS * BATCH, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bert_folder(tmp_path_factory.mktemp("model"), seed=5)


class Reference:
    """The loop in PyTorch."""

    def __init__(self, folder, pool, loss, *, columns, parameters=(), weight_decay=0.0, warmup=0, mlm=None):
        self.encoder = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).double().eval()
        self.tokenizer = SentenceEncoder(folder).tokenizer
        self.pool, self.loss, self.columns, self.mlm = pool, loss, columns, mlm
        named = [*self.encoder.named_parameters(), *parameters]
        exempt = [p for name, p in named if "bias" in name or "LayerNorm" in name]
        decayed = [p for name, p in named if not ("bias" in name or "LayerNorm" in name)]
        self.parameters = [p for _, p in named]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE)
        self.schedule = transformers.get_linear_schedule_with_warmup(self.optimizer, warmup, STEPS)

    def states(self, ids):
        """All layers' states (L + 1, T, H) of each sentence, one by one: no padding."""
        found = []
        for row in ids:
            out = self.encoder(torch.tensor(row)[None], output_hidden_states=True)
            found.append(torch.stack(out.hidden_states)[:, 0])
        return found

    def ids(self, texts):
        batch = self.tokenizer.encode(list(texts))
        return [batch.ids[a:b].tolist() for a, b in pairwise(batch.offsets)]

    def run(self):
        losses = []
        for step in range(STEPS):
            items = slice(step * BATCH, (step + 1) * BATCH)
            ids = self.ids([text for column in self.columns for text in column[items]])
            embeddings = self.pool(self.states(ids), step)
            total = loss = self.loss(embeddings.reshape(len(self.columns), BATCH, -1), items)
            if self.mlm is not None:
                total = loss + self.mlm(self, ids, step)
            self.optimizer.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.schedule.step()
            losses.append(total.item())
        return losses


def mean(states, step):
    return torch.stack([of_sentence[-1].mean(0) for of_sentence in states])


def infonce(temperature=0.05, alpha=1.0):
    def loss(z, items):
        z = torch.nn.functional.normalize(z, dim=2)
        logits = z[0] @ z[1].T / temperature
        if len(z) == 3:
            negatives = z[0] @ z[2].T / temperature + np.log(alpha) * torch.eye(BATCH)
            logits = torch.cat([logits, negatives], dim=1)
        return torch.nn.functional.cross_entropy(logits, torch.arange(BATCH))

    return loss


def cosent(scores, scale=20.0):
    def loss(z, items):
        cosines = scale * torch.nn.functional.cosine_similarity(z[0], z[1], dim=1)
        gold = torch.tensor(scores[items])
        apart = (cosines[:, None] - cosines[None])[gold[:, None] < gold[None]]
        return torch.logsumexp(torch.cat([torch.zeros(1), apart]), dim=0)

    return loss


def assert_close(found, expected, what):
    """Within 1e-4 of the largest entry."""
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), what


def compare(folder, data, objective, reference, *, pooling="mean", **options):
    model = SentenceEncoder(folder)
    settings = {"batch_size": BATCH, "learning_rate": RATE, "max_steps": STEPS, "dropout": 0, "seed": SEED}
    history = Trainer(model, objective, pooling=pooling, shuffle=False, **settings, **options).fit(data)
    losses = reference.run()
    np.testing.assert_allclose([row["loss"] for row in history.log], losses, rtol=1e-4)
    weights = dict(reference.encoder.state_dict())
    for name, array in trained_tensors(model._core).items():
        if not name.endswith("key.bias"):  # its true gradient is 0, so its way is noise
            assert_close(array, weights[name].numpy(), name)
    return model, reference


def assert_embeddings(model, reference):
    texts = COLUMNS[0][:20]
    with torch.no_grad():
        expected = reference.pool(reference.states(reference.ids(texts)), None).numpy()
    assert_close(model.encode(texts), expected, "embeddings")


def test_unsupervised(folder):
    reference = Reference(folder, mean, infonce(), columns=[COLUMNS[0]] * 2)
    assert_embeddings(*compare(folder, COLUMNS[0], "simcse-unsup", reference))


def test_hard_negatives_weight_decay_and_warm_up(folder):
    reference = Reference(folder, mean, infonce(0.1, 3.0), columns=COLUMNS, weight_decay=0.1, warmup=4)
    objective = InfoNCE(temperature=0.1, hard_negative_alpha=3.0)
    data = list(zip(*COLUMNS, strict=True))
    assert_embeddings(*compare(folder, data, objective, reference, weight_decay=0.1, warmup_steps=4, chunk_size=5))


def test_scored_pairs(folder):
    scores = np.random.default_rng(0).integers(0, 6, len(COLUMNS[0])) / 5
    reference = Reference(folder, mean, cosent(scores), columns=COLUMNS[:2])
    data = list(zip(*COLUMNS[:2], scores.tolist(), strict=True))
    assert_embeddings(*compare(folder, data, CoSENT(), reference))


def test_layer_attention_with_the_slopes_of_its_draws(folder):
    model = SentenceEncoder(folder)
    Trainer(model, pooling="layer_attention", seed=SEED)
    start = {name: torch.tensor(a.astype(float), requires_grad=True) for name, a in model.pooling.parameters().items()}
    layers, width = model.n_layers + 1, model.hidden_size

    def attention(states, step):
        n = len(states)
        cls = torch.stack([of_sentence[:, 0] for of_sentence in states])
        tokens = torch.stack([of_sentence.mean(1) for of_sentence in states])
        if step is None:
            slopes = dict.fromkeys(("query", "key", "value"), 11 / 48)
        else:
            drawn = drawn_slopes((n, layers, width), SEED, step, 0)
            slopes = {part: torch.tensor(slope) for part, slope in drawn.items()}

        def rrelu(x, slope):
            return torch.where(x >= 0, x, x * slope)

        query = rrelu(cls @ start["layers.query"].T, slopes["query"])
        key = rrelu((tokens @ start["layers.key"].T)[:, None].expand(n, layers, layers, width), slopes["key"])
        value = rrelu((tokens @ start["layers.value"].T)[:, None].expand(n, layers, layers, width), slopes["value"])
        weights = torch.softmax(torch.einsum("nijh,nih->nij", key, query) / layers, dim=2)
        u = torch.einsum("nij,nijh->nih", weights, value).mean(1)
        return torch.tanh(torch.cat([cls[:, -1], u], 1) @ start["head.0.weight"].T + start["head.0.bias"])

    reference = Reference(folder, attention, infonce(), columns=COLUMNS, parameters=start.items())
    data = list(zip(*COLUMNS, strict=True))
    trained, _ = compare(folder, data, InfoNCE(), reference, pooling="layer_attention")
    for name, array in trained.pooling.parameters().items():
        assert_close(array, start[name].detach().numpy(), name)
    assert_embeddings(trained, reference)


def test_masked_language_model_beside_it(folder):
    weight = 0.3
    with pytest.warns(SentpoolWarning, match="fresh one"):
        ours = MaskedLanguageModel(SentenceEncoder(folder), seed=SEED, weight=weight)
    head = {name: torch.tensor(a.astype(float), requires_grad=True) for name, a in ours.store.parameters().items()}

    def masked_loss(reference, ids, step):
        """Of the tokens that ours chooses; the mean over all of them."""
        offsets = np.cumsum([0, *map(len, ids)])
        masked = ours.choose(np.concatenate(ids).astype(np.int32), offsets, step=step, first_row=len(ids))
        assert len(masked.positions) > 0
        states = reference.states([masked.ids[a:b].tolist() for a, b in pairwise(offsets)])
        rows = torch.cat([of_sentence[-1] for of_sentence in states])[masked.positions]
        hidden = torch.nn.functional.gelu(rows @ head["dense.weight"].T + head["dense.bias"])
        hidden = torch.nn.functional.layer_norm(
            hidden, hidden.shape[1:], head["norm.weight"], head["norm.bias"], reference.encoder.config.layer_norm_eps
        )
        logits = hidden @ reference.encoder.embeddings.word_embeddings.weight.T + head["bias"]
        return weight * torch.nn.functional.cross_entropy(logits, torch.tensor(masked.labels.astype(np.int64)))

    reference = Reference(folder, mean, infonce(), columns=[COLUMNS[0]] * 2, parameters=head.items(), mlm=masked_loss)
    assert_embeddings(*compare(folder, COLUMNS[0], "simcse-unsup", reference, mlm_weight=weight, chunk_size=6))
