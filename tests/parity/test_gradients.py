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


def simcse_loss(vectors):
    """Cross-entropy of cosines / 0.05 between the two halves of `vectors` (2n, d), each other's copies."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    logits = unit[: len(unit) // 2] @ unit[len(unit) // 2 :].T / 0.05
    return float((np.log(np.exp(logits).sum(1)) - np.diag(logits)).mean())


def test_dropout_of_attention_is_that_of_pytorch():
    """With hidden dropout 0 the loss has PyTorch's mean over 200 seeds, within 3 standard errors of the difference."""
    ids, offsets = sentences("odd")
    ids, offsets = ids[: offsets[10]], offsets[:11]  # the short ones
    ids, offsets = np.tile(ids, 2), np.concatenate([offsets, offsets[1:] + offsets[-1]])
    training = _core.Training(build("odd"), dropout=(0, 0.1, 0, 0, 0), seed=1)
    ours = [
        simcse_loss(training.forward(ids, offsets, [3], ["cls"], step=step, first_row=0, keep=False)[:, 0, 0])
        for step in range(200)
    ]

    model = reference("odd").float().train()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1 if name.endswith("attention.self.dropout") else 0.0
    lengths = np.diff(offsets)
    padded, mask = np.zeros((len(lengths), lengths.max()), np.int64), np.zeros((len(lengths), lengths.max()), np.int64)
    for row, (start, length) in enumerate(zip(offsets, lengths, strict=False)):
        padded[row, :length], mask[row, :length] = ids[start : start + length], 1
    theirs = []
    for seed in range(200):
        torch.manual_seed(seed)
        with torch.no_grad():
            states = model(torch.from_numpy(padded), torch.from_numpy(mask)).last_hidden_state
        theirs.append(simcse_loss(states[:, 0].numpy()))

    error = np.sqrt(np.var(ours, ddof=1) / 200 + np.var(theirs, ddof=1) / 200)
    assert abs(np.mean(ours) - np.mean(theirs)) < 3 * error
    # far from the loss without dropout, which the same test would tell apart
    still = _core.Training(build("odd")).forward(ids, offsets, [3], ["cls"], step=0, first_row=0, keep=False)
    assert np.mean(ours) - simcse_loss(still[:, 0, 0]) > 10 * error
