"""Every pooling against NumPy in float64 on transformers' hidden states, and layer-wise attention against PyTorch."""

from __future__ import annotations

import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from sentpool import SentenceEncoder, pooling  # noqa: E402
from sentpool.pooling import Dense, LayerAttention, Layers, Normalize, Pooling, ScalarMix, WeightedLayer  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
SENTENCES = [
    "A man is playing a large flute.",
    "Three men are playing chess on a wooden table in the park.",
    "No",
    "",
    "The quick brown fox, which was not that quick, jumped over the lazy dog: twice!",
    "a b c d e f g",
]


class Attention(torch.nn.Module):
    """Layer-wise attention of Oh et al. 2022 at inference, written for one sentence from the paper's equations."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        layers = {name: torch.nn.Linear(hidden, hidden, bias=False) for name in ("query", "key", "value")}
        self.projections = torch.nn.ModuleDict(layers)
        self.rrelu = torch.nn.RReLU(1 / 8, 1 / 3).eval()
        self.dense = torch.nn.Linear(2 * hidden, hidden)

    def forward(self, states):
        """states (L + 1, T, H) → the embedding (H,) and the mean weights (L + 1,)."""
        cls, mean = states[:, 0], states.mean(1)
        K, V = self.rrelu(self.projections["key"](mean)), self.rrelu(self.projections["value"](mean))
        contexts, weights = [], []
        for source in cls:
            Q = self.rrelu(self.projections["query"](source))
            weights.append(torch.softmax(K @ Q / len(states), dim=0))
            contexts.append(weights[-1] @ V)
        u = torch.stack(contexts).mean(0)
        return torch.tanh(self.dense(torch.cat([cls[-1], u]))), torch.stack(weights).mean(0)


def random_bert(folder, seed):
    rng = random.Random(seed)
    heads = rng.choice([1, 2, 3])
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=heads * rng.choice([8, 11, 32]),
        num_attention_heads=heads,
        num_hidden_layers=[1, 2, 4, 6][seed % 4],
        intermediate_size=rng.choice([31, 100]),
        max_position_embeddings=120,
        initializer_range=0.2,
    )
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


@pytest.fixture(scope="module", params=["MiniLM", 0, 1, 2, 3])
def case(request, tmp_path_factory):
    """Our model, and for each sentence transformers' hidden states (L + 1, T, H) in float64."""
    if request.param == "MiniLM":
        folder = request.getfixturevalue("minilm")
    else:
        folder = random_bert(tmp_path_factory.mktemp("bert"), request.param)
    ours = SentenceEncoder(folder)
    theirs = transformers.AutoModel.from_pretrained(folder).eval().double()
    batch = ours.tokenizer.encode(SENTENCES)
    states = []
    for ids in np.split(batch.ids, batch.offsets[1:-1]):
        with torch.no_grad():
            hidden = theirs(torch.tensor(ids[None]).long(), output_hidden_states=True).hidden_states
        states.append(torch.stack(hidden)[:, 0])
    return ours, states


TOKENS = {
    "cls": lambda h: h[:, 0],
    "mean": lambda h: h.mean(1),
    "max": lambda h: h.max(1),
    "mean_sqrt_len": lambda h: h.sum(1) / np.sqrt(h.shape[1]),
    "weighted_mean": lambda h: (
        np.einsum("lth,t->lh", h, np.arange(1, h.shape[1] + 1)) / (h.shape[1] * (h.shape[1] + 1) / 2)
    ),
    "last_token": lambda h: h[:, -1],
}


def agree(found, expected):
    """At most 1e-5 apart, relative to the largest number of a sentence's vector."""
    expected = np.stack(expected)
    assert found.shape == expected.shape
    assert (np.abs(found - expected).max(1) <= 1e-5 * np.abs(expected).max(1)).all()


@pytest.mark.parametrize("name", TOKENS)
def test_token_poolings(case, name):
    ours, states = case
    agree(ours.encode(SENTENCES, pooling=name), [TOKENS[name](h.numpy())[-1] for h in states])


def test_concatenation(case):
    ours, states = case
    expected = [np.concatenate([TOKENS[name](h.numpy())[-1] for name in ("mean", "cls", "max")]) for h in states]
    agree(ours.encode(SENTENCES, pooling=("mean", "cls", "max")), expected)


@pytest.mark.parametrize("tokens", ["mean", "cls", "max"])
@pytest.mark.parametrize("name", ["first_last", "embedding_last", "top2", "all_layers", "layers"])
def test_averages_of_layers(case, name, tokens):
    ours, states = case
    layers = {
        "first_last": [1, -1],
        "embedding_last": [0, -1],
        "top2": [-2, -1],
        "all_layers": slice(None),
        "layers": [0, 1],
    }
    expected = [TOKENS[tokens](h.numpy())[layers[name]].mean(0) for h in states]
    chosen = Layers("all" if name == "all_layers" else layers[name], tokens=tokens)
    agree(ours.encode(SENTENCES, pooling=chosen), expected)
    if name != "layers" and tokens == "mean":
        agree(ours.encode(SENTENCES, pooling=name), expected)


def test_scalar_mix(case):
    ours, states = case
    weights = np.random.default_rng(0).normal(size=ours.n_layers + 1).astype(np.float32)
    softmax = np.exp(weights.astype(np.float64)) / np.exp(weights.astype(np.float64)).sum()
    expected = [0.7 * softmax @ TOKENS["mean"](h.numpy()) for h in states]
    agree(ours.encode(SENTENCES, pooling=ScalarMix(weights, gamma=0.7)), expected)


def test_weighted_layer(case):
    ours, states = case
    start = ours.n_layers // 2
    weights = np.random.default_rng(1).uniform(0.1, 2, ours.n_layers + 1 - start).astype(np.float32)
    expected = [
        weights.astype(np.float64) @ TOKENS["cls"](h.numpy())[start:] / weights.sum(dtype=np.float64) for h in states
    ]
    agree(ours.encode(SENTENCES, pooling=WeightedLayer(weights, start, tokens="cls")), expected)


def test_layer_attention(case):
    ours, states = case
    torch.manual_seed(3)
    module = Attention(ours.hidden_size).double()
    arrays = {name: layer.weight.detach().float().numpy() for name, layer in module.projections.items()}
    dense = Dense(module.dense.weight.detach().float().numpy(), module.dense.bias.detach().float().numpy(), "tanh")
    # what our float32 parameters are, the twin's are too
    for name, layer in module.projections.items():
        layer.weight.data = torch.from_numpy(arrays[name]).double()
    module.dense.weight.data, module.dense.bias.data = (
        torch.from_numpy(a).double() for a in (dense.weight.copy(), dense.bias.copy())
    )
    with torch.no_grad():
        expected = [module(h) for h in states]
    chosen = Pooling(LayerAttention(**arrays, preset="oh2022"), head=(dense,))
    agree(ours.encode(SENTENCES, pooling=chosen), [embedding.numpy() for embedding, _ in expected])
    agree(ours.layer_weights(SENTENCES, pooling=chosen), [weights.numpy() for _, weights in expected])


def test_heads(case):
    ours, states = case
    rng = np.random.default_rng(2)
    weight, bias = rng.normal(size=(9, ours.hidden_size)).astype(np.float32), rng.normal(size=9).astype(np.float32)
    functions = {
        "identity": lambda x: x,
        "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "gelu": lambda x: torch.nn.functional.gelu(torch.from_numpy(x)).numpy(),
    }
    assert set(functions) == set(pooling.head.ACTIVATIONS)
    for name, function in functions.items():
        chosen = Pooling("mean", head=(Dense(weight, bias, name), Normalize()))
        expected = [function(weight.astype(np.float64) @ TOKENS["mean"](h.numpy())[-1] + bias) for h in states]
        agree(ours.encode(SENTENCES, pooling=chosen), [x / np.linalg.norm(x) for x in expected])
