"""Gradients of trainable poolings against PyTorch's autograd in float64."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from numpy_poolings import drawn_slopes, fixed_slopes  # noqa: E402

from sentpool.pooling import Dense, LayerAttention, Normalize, Pooling, ScalarMix, Truncate, WeightedLayer  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

DRAWS = (99, 3, 1000)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


class Attention(torch.nn.Module):
    """Layer-wise attention of Oh et al. 2022 for one sentence: K and V anew for every source, by given slopes."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        layers = {name: torch.nn.Linear(hidden, hidden, bias=False) for name in ("query", "key", "value")}
        self.projections = torch.nn.ModuleDict(layers)

    def forward(self, states, slopes):
        """states (L + 1, 2, H) → [s_L ; u] (2H,)"""
        sources, targets = states[:, 0], states[:, 1]

        def rrelu(name, x, slope):
            z = self.projections[name](x)
            return torch.where(z > 0, z, slope * z)

        contexts = []
        for i, source in enumerate(sources):
            K = rrelu("key", targets, slopes["key"][i])
            V = rrelu("value", targets, slopes["value"][i])
            Q = rrelu("query", source, slopes["query"][i])
            contexts.append(torch.softmax(K @ Q / len(states), dim=0) @ V)
        return torch.cat([sources[-1], torch.stack(contexts).mean(0)])


def compare(chosen, states, torch_parameters, embed, training=None):
    """Embeddings and all gradients of sum(dy * embeddings), each within 1e-4 of its largest entry."""
    theirs = torch.tensor(states, dtype=torch.float64, requires_grad=True)
    embeddings = embed(theirs)
    dy = normal(*embeddings.shape, seed=7)
    (embeddings * torch.tensor(dy, dtype=torch.float64)).sum().backward()
    found, cache = chosen.forward_with_cache(states, training=training, threads=2)
    d_states, d_parameters = chosen.backward(dy, cache, threads=2)
    assert list(d_parameters) == list(torch_parameters)
    pairs = [(found, embeddings.detach()), (d_states, theirs.grad)]
    pairs += [(d_parameters[name], tensor.grad) for name, tensor in torch_parameters.items()]
    for ours, expected in pairs:
        expected = expected.numpy()
        assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


def set_weight(module, array):
    module.weight.data = torch.tensor(array, dtype=torch.float64)
    return module.weight


@pytest.mark.parametrize("training", [None, DRAWS])
@pytest.mark.parametrize(("layers", "hidden", "n"), [(2, 8, 1), (7, 33, 5), (13, 64, 3), (13, 384, 2)])
def test_layer_attention(layers, hidden, n, training):
    states = normal(n, layers, 2, hidden)
    attention, mlp = Attention(hidden).double(), torch.nn.Linear(2 * hidden, hidden).double()
    arrays = {name: normal(hidden, hidden, seed=i) / hidden**0.5 for i, name in enumerate(("query", "key", "value"))}
    weights = {f"layers.{name}": set_weight(attention.projections[name], array) for name, array in arrays.items()}
    weights["head.0.weight"] = set_weight(mlp, normal(hidden, 2 * hidden) / hidden**0.5)
    weights["head.0.bias"] = mlp.bias
    mlp.bias.data = torch.tensor(normal(hidden), dtype=torch.float64)
    head = Dense(mlp.weight.detach().numpy(), mlp.bias.detach().numpy(), "tanh")
    shape = (n, layers, hidden)
    slopes = drawn_slopes(shape, *training) if training else fixed_slopes(shape)
    slopes = {name: torch.tensor(array) for name, array in slopes.items()}

    def embed(states):
        rows = [attention(states[i], {name: s[i] for name, s in slopes.items()}) for i in range(n)]
        return torch.tanh(mlp(torch.stack(rows)))

    compare(Pooling(LayerAttention(**arrays), head=(head,)), states, weights, embed, training)


def test_rrelu_of_the_core_is_pytorchs():
    """PyTorch's own RReLU draws from the same interval, and has the same slope at inference."""
    rrelu, x = torch.nn.RReLU(), torch.full((200_000,), -1.0)
    drawn = -rrelu.train()(x)
    slopes = np.concatenate([s.ravel() for s in drawn_slopes((8, 13, 120), *DRAWS).values()])
    assert drawn.min() >= 1 / 8 and drawn.max() <= 1 / 3
    for quantile in (0.01, 0.25, 0.5, 0.75, 0.99):
        assert np.quantile(slopes, quantile) == pytest.approx(float(drawn.quantile(quantile)), abs=2e-3)
    assert float(-rrelu.eval()(x)[0]) == pytest.approx(fixed_slopes((1, 1, 1))["key"].item())


@pytest.mark.parametrize("activation", ["identity", "tanh", "gelu", "relu", "sigmoid"])
def test_scalar_mix_and_heads(activation):
    states, logits = normal(6, 5, 2, 12), normal(5)
    function = {
        "identity": torch.nn.Identity(),
        "tanh": torch.tanh,
        "gelu": torch.nn.functional.gelu,
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
    }[activation]
    arrays = {
        "layers.weights": logits,
        "layers.gamma": np.float32([1.3]),
        "head.0.weight": normal(9, 24) / 5,
        "head.0.bias": normal(9),
    }
    tensors = {name: torch.tensor(a, dtype=torch.float64, requires_grad=True) for name, a in arrays.items()}
    chosen = Pooling(
        ScalarMix(logits, 1.3, ("cls", "mean")),
        head=(Dense(arrays["head.0.weight"], arrays["head.0.bias"], activation), Normalize(), Truncate(7)),
    )

    def embed(states):
        weights, gamma, weight, bias = tensors.values()
        mixed = gamma * torch.einsum("l,nlph->nph", torch.softmax(weights, 0), states).reshape(6, 24)
        return torch.nn.functional.normalize(function(mixed @ weight.T + bias), dim=1)[:, :7]

    compare(chosen, states, tensors, embed)


def test_weighted_layer():
    states, weights = normal(6, 5, 2, 12), normal(5) ** 2
    tensor = torch.tensor(weights, dtype=torch.float64, requires_grad=True)

    def embed(states):  # the formula of sentence-transformers' WeightedLayerPooling
        return ((tensor[:, None, None] * states).sum(1) / tensor.sum()).reshape(6, 24)

    compare(Pooling(WeightedLayer(weights, 0, ("cls", "mean"))), states, {"layers.weights": tensor}, embed)
