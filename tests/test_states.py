"""Layer and hidden states of the core against hidden states from transformers in float64 (tests/golden/states.npz)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden_cases import LENGTHS, MODELS, build, sentences

STATES = Path(__file__).resolve().parent / "golden" / "states.npz"


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_are_those_of_transformers(name):
    with np.load(STATES) as golden:
        expected = golden[name]
    found = build(name).hidden_states(*sentences(name))[:, ::7]
    assert found.shape == expected.shape
    for layer, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max(), layer


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("skip", [0, 1, 4])
def test_token_poolings_are_those_of_the_hidden_states(name, skip):
    model, (ids, offsets) = build(name), sentences(name)
    hidden = model.hidden_states(ids, offsets).astype(np.float64)
    layers = [MODELS[name]["layers"], 0, 1]
    poolings = {
        "cls": lambda h, w: h[0],
        "last_token": lambda h, w: h[-1],
        "mean": lambda h, w: h.mean(0),
        "mean_sqrt_len": lambda h, w: h.sum(0) / np.sqrt(len(h)),
        "max": lambda h, w: h.max(0),
        "weighted_mean": lambda h, w: (w[:, None] * h).sum(0) / w.sum(),
    }
    states = model.layer_states(ids, offsets, layers, list(poolings), skip=skip)
    for i, T in enumerate(LENGTHS[name]):
        for slot, layer in enumerate(layers):
            h = hidden[layer, offsets[i] + skip : offsets[i + 1]]
            weights = np.arange(skip + 1, T + 1)
            for p, pool in enumerate(poolings.values()):
                expected = pool(h, weights) if len(h) else np.zeros(hidden.shape[2])
                np.testing.assert_allclose(states[i, slot, p], expected, rtol=1e-5, atol=2e-6)


def test_only_layers_asked_for_are_computed():
    """A request for layer 0 multiplies no matrix."""
    from sentpool import _core

    model, (ids, offsets) = build("odd"), sentences("odd")
    before = _core.gemm_calls()
    model.layer_states(ids, offsets, [0], ["mean"])
    assert _core.gemm_calls() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": [0, 101]}, r"ids\[1\] is 101; it must be from 0 to 100"),
        ({"ids": [0, -1]}, r"ids\[1\] is -1"),
        ({"ids": [0, 2**32 + 1]}, r"ids\[1\] is 4294967297, which needs more than 32 bits"),
        ({"ids": [0.5, 1]}, "ids must be an array of integers"),
        ({"ids": [[1, 2]]}, "ids must have 1 dimension"),
        ({"offsets": [0, 1]}, "offsets must start with 0 and end with the number of ids"),
        ({"offsets": [1, 2]}, "offsets must start with 0"),
        ({"offsets": []}, "offsets must start with 0"),
        ({"offsets": [0, 0, 2]}, "sentence 0 must have from 1 to 67 tokens"),
        ({"offsets": [0, 2**62, 2]}, "sentence 0 must have from 1 to 67 tokens"),
        ({"offsets": [0, -(2**63), 2]}, "sentence 0 must have"),
        ({"ids": [1] * 68, "offsets": [0, 68]}, "sentence 0 must have from 1 to 67 tokens"),
        ({"layers": [4]}, r"layers\[0\] is 4; it must be from 0 to 3"),
        ({"layers": [-1]}, r"layers\[0\] is -1"),
        ({"tokens": ["mean", "median"]}, "'median' is no token pooling"),
        ({"tokens": [3]}, "3 is no token pooling"),
        ({"threads": 0}, "threads is 0; it must be from 1"),
        ({"batch_size": -4}, "batch_size is -4"),
        ({"skip": -1}, "skip is -1"),
    ],
)
def test_the_core_refuses_what_it_cannot_run(change, message):
    model = build("odd")
    arguments = {"ids": [0, 1], "offsets": [0, 2], "layers": [3], "tokens": ["mean"], **change}
    with pytest.raises((ValueError, TypeError), match=message):
        model.layer_states(**arguments)
    assert model.layer_states([0, 1], [0, 2], [3], ["mean"]).shape == (1, 1, 1, 40)


def test_nothing_in_gives_nothing_out():
    model = build("odd")
    assert model.layer_states([], [0], [3, 0], ["mean", "cls"]).shape == (0, 2, 2, 40)
    assert model.hidden_states([], [0]).shape == (4, 0, 40)
