"""Gradients of every encoder family, along random directions, against central differences of NumPy in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fabricate import write_safetensors
from fabricate_families import CONFIGS, family_folder, family_tensors
from numpy_families import Encoder
from test_bits import POOLINGS
from test_families import BERT_RATES, RATES, VARIANTS, packed

from sentpool import SentenceEncoder, _core

pytestmark = [pytest.mark.kernels, pytest.mark.training]
STEP = 1e-5
NONE = (0.0,) * 5


def places(folder, tensors):
    """Which value of all tensors, one after the other, each of the core's parameters is, counted from 1; else 0."""
    counts = np.cumsum([0, *(array.size for array in tensors.values())])
    assert counts[-1] < 2**24, "float32 must count them"
    numbered = {
        name: np.arange(first + 1, first + 1 + array.size, dtype=np.float32).reshape(array.shape)
        for first, (name, array) in zip(counts[:-1], tensors.items(), strict=True)
    }
    write_safetensors(folder / "model.safetensors", numbered)
    return _core.Training(SentenceEncoder(folder)._core).masters.astype(int)


def derivative(tensors, direction, loss):
    """Of loss(tensors), along `direction`, a part of the tensors."""
    ends = []
    for sign in (1, -1):
        moved = {name: array.astype(float) for name, array in tensors.items()}
        for name, array in direction.items():
            moved[name] = moved[name] + sign * STEP * array
        ends.append(loss(moved))
    return (ends[0] - ends[1]) / (2 * STEP)


@pytest.mark.parametrize("variant", [*VARIANTS, *(f"{family} with dropout" for family in CONFIGS)])
def test_gradients(tmp_path, variant):
    """Each stored tensor's derivative along a direction of its own; for long sentences that of all tensors together."""
    name, drops, _ = variant.partition(" with dropout")
    family, changes = VARIANTS[name]
    changes = changes | (RATES.get(family, BERT_RATES) if drops else {})
    folder = family_folder(tmp_path / "model", family, **changes)
    config = json.loads((folder / "config.json").read_text())
    tensors = family_tensors(config)
    model = SentenceEncoder(folder)
    is_long = model.folder.config.max_tokens > 300
    ids, offsets = packed(model, (300, 2) if is_long else (1, 2, 7, 33, 72))
    layers = list(range(model.folder.config.num_hidden_layers + 1))
    training = _core.Training(model._core, dropout=model.folder.config.dropout if drops else NONE, seed=7)
    states = training.forward(ids, offsets, layers, POOLINGS[:2], step=0, first_row=0)
    weights = np.random.default_rng(1).standard_normal(states.shape).astype(np.float32)
    training.backward(weights, threads=2)

    def loss(tensors):
        total = 0
        for i, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
            draws = {"seed": 7, "step": 0, "row": i} if drops else None
            h = Encoder(config, tensors, draws).states(ids[start:end])
            total += (np.stack([h[:, 0], h.mean(1)], 1) * weights[i]).sum()
        return total

    rng = np.random.default_rng(2)
    drawn = {name: rng.standard_normal(array.shape).astype(np.float32) for name, array in tensors.items()}
    parts = [drawn] if is_long else [{name: array} for name, array in drawn.items()]
    scale = float(np.linalg.norm(training.gradients))
    where = places(folder, tensors)
    for part in parts:
        values = (part.get(name, np.zeros_like(array)) for name, array in tensors.items())
        direction = np.concatenate([[0], *(array.ravel() for array in values)])[where]
        along = float(training.gradients.astype(float) @ direction)
        exact = derivative(tensors, part, loss)
        assert along == pytest.approx(exact, rel=1e-3, abs=1e-5 * scale), list(part)
    assert scale > 1
