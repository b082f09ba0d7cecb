"""Gradients of whole encoders against PyTorch in float64."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden_cases import EPS, MODELS, build, sentences, tensors  # noqa: E402

from sentpool import _core  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

POOLINGS = ("cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last_token")


def pooled(h):
    """All poolings (6, H) of the states (T, H) of a sentence."""
    T = len(h)
    weights = torch.arange(1, T + 1, dtype=h.dtype)[:, None]
    return torch.stack([h[0], h.mean(0), h.max(0)[0], h.sum(0) / T**0.5, (weights * h).sum(0) / weights.sum(), h[-1]])


def reference(name):
    """transformers' BERT in float64, with the weights of a golden case."""
    sizes = MODELS[name]
    config = transformers.BertConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["hidden"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        intermediate_size=sizes["intermediate"],
        max_position_embeddings=sizes["max_positions"],
        layer_norm_eps=EPS,
        attn_implementation="eager",
        pad_token_id=None,
    )
    model = transformers.BertModel(config, add_pooling_layer=False).double().eval()
    model.load_state_dict({tensor: torch.from_numpy(array).double() for tensor, array in tensors(name).items()})
    return model


def gradients_of_reference(model, ids, offsets, layers, d_states, positions, d_rows):
    """Gradients by tensor name of the sum of states times d_states and rows times d_rows."""
    loss = 0
    for i, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        h = model(torch.from_numpy(ids[start:end].astype(np.int64))[None], output_hidden_states=True).hidden_states
        for slot, layer in enumerate(layers):
            loss = loss + (pooled(h[layer][0]) * torch.from_numpy(d_states[i, slot].astype(float))).sum()
        chosen = (positions >= start) & (positions < end)
        rows = h[-1][0][torch.from_numpy(positions[chosen] - start)]
        loss = loss + (rows * torch.from_numpy(d_rows[chosen].astype(float))).sum()
    loss.backward()
    return {tensor: parameter.grad.numpy() for tensor, parameter in model.named_parameters()}


def by_name(training):
    return {
        name: training.gradients[start:stop].reshape(shape) for name, (start, stop, shape) in training.slices.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_bert(name):
    """Every tensor's within 1e-4 of its largest entry; the key bias, whose true gradient is 0, near it."""
    ids, offsets = sentences(name)
    rng = np.random.default_rng(0)
    layers = list(range(MODELS[name]["layers"] + 1))
    hidden = MODELS[name]["hidden"]
    positions = np.flatnonzero(rng.random(len(ids)) < 0.2)
    d_states = rng.standard_normal((len(offsets) - 1, len(layers), 6, hidden)).astype(np.float32)
    d_rows = rng.standard_normal((len(positions), hidden)).astype(np.float32)
    expected = gradients_of_reference(reference(name), ids, offsets, layers, d_states, positions, d_rows)

    training = _core.Training(build(name))
    states, rows = training.forward(ids, offsets, layers, POOLINGS, step=0, first_row=0, positions=positions)
    assert rows.shape == d_rows.shape and states.shape == d_states.shape
    training.backward(d_states, d_rows, threads=2)
    found = by_name(training)
    assert found.keys() == expected.keys()
    for tensor, gradient in found.items():
        if tensor.endswith("key.bias"):
            query = found[tensor.replace("key", "query")]
            assert np.abs(gradient).max() < 1e-4 * np.abs(query).max(), tensor
        else:
            error, largest = np.abs(gradient - expected[tensor]).max(), np.abs(expected[tensor]).max()
            assert error <= 1e-4 * largest, (tensor, error / largest)
