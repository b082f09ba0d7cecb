"""`_core.Training`: a forward pass with a tape, gradients, parameters; the same bits however they are computed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy_dropout
import pytest
from golden_cases import EPS, LENGTHS, MODELS, build, load, sentences, tensors
from noise import noise
from test_bits import environments

from sentpool import _core
from sentpool.objectives import InfoNCE

pytestmark = pytest.mark.training

HERE = Path(__file__).resolve().parent
POOLINGS = ("cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last_token")
RATES = numpy_dropout.of_bert(0.1, 0.2)
DROPOUT = {"dropout": RATES, "seed": 7}


def layers_of(name):
    return list(range(MODELS[name]["layers"] + 1))


def gradient_bits(name, *, threads=1, cuts=(), **dropout) -> bytes:
    """All gradients of a golden case, of one loss, its sentences run in chunks that begin at `cuts`."""
    training = _core.Training(build(name), **dropout)
    ids, offsets = sentences(name)
    layers, n, hidden = layers_of(name), len(offsets) - 1, MODELS[name]["hidden"]
    d_states = noise(1, n, len(layers), len(POOLINGS), hidden)
    positions = np.arange(0, len(ids), 3)
    d_rows = noise(2, len(positions), hidden)
    for first, end in zip((0, *cuts), (*cuts, n), strict=True):
        start, stop = offsets[first], offsets[end]
        mine = (positions >= start) & (positions < stop)
        training.forward(
            ids[start:stop],
            offsets[first : end + 1] - start,
            layers,
            POOLINGS,
            step=5,
            first_row=first,
            positions=positions[mine] - start,
            threads=threads,
        )
        training.backward(d_states[first:end], d_rows[mine], threads=threads)
    return training.gradients.tobytes()


# ---- values --------------------------------------------------------------------------------------------------------


def test_masters_are_the_weights():
    training = _core.Training(build("odd"))
    arrays = tensors("odd")
    assert training.slices.keys() == arrays.keys()
    taken = np.zeros(training.masters.size, int)
    for name, (start, stop, shape) in training.slices.items():
        np.testing.assert_array_equal(training.masters[start:stop].reshape(shape), arrays[name])
        taken[start:stop] += 1
    assert taken.max() == 1, "tensors overlap"
    assert not training.gradients.any() and not training.masters[taken == 0].any()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dropout", [{}, DROPOUT])
def test_forward_gives_the_bits_of_the_encoder(keep, dropout):
    model, (ids, offsets) = build("deep_products"), sentences("deep_products")
    training = _core.Training(model, **dropout)
    positions = [0, 259, 260, 300, 590]
    states, rows = training.forward(
        ids, offsets, [2, 0], POOLINGS, step=3, first_row=4, positions=positions, keep=keep, threads=2
    )
    masks = (RATES, 7, 3, 4) if dropout else None
    np.testing.assert_array_equal(states, model.layer_states(ids, offsets, [2, 0], POOLINGS, dropout=masks))
    np.testing.assert_array_equal(rows, model.hidden_states(ids, offsets, dropout=masks)[-1][positions])


def test_gradients_with_dropout():
    """Along random directions, against central differences of a BERT in float64 with the masks of the same draws."""
    arrays, (ids, offsets) = tensors("odd"), sentences("odd")
    training = _core.Training(build("odd"), **DROPOUT)
    layers = layers_of("odd")
    d_states = noise(3, len(offsets) - 1, len(layers), 2, MODELS["odd"]["hidden"])
    training.forward(ids, offsets, layers, ("cls", "mean"), step=2, first_row=9)
    training.backward(d_states)

    def loss(weights):
        total = 0
        for i, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
            draws = {"seed": 7, "step": 2, "row": 9 + i, "hidden": 0.1, "attention": 0.2}
            h = numpy_dropout.bert(weights, ids[start:end], layers=3, heads=5, eps=EPS, **draws)
            total += (np.stack([h[:, 0], h.mean(1)], 1) * d_states[i]).sum()
        return total

    for seed in range(3):
        rng, step = np.random.default_rng(seed), 1e-5
        direction = {name: rng.standard_normal(array.shape) for name, array in arrays.items()}
        ends = [loss({name: a + sign * step * direction[name] for name, a in arrays.items()}) for sign in (1, -1)]
        along = sum(
            (training.gradients[start:stop] * direction[name].ravel()).sum(dtype=float)
            for name, (start, stop, _) in training.slices.items()
        )
        assert along == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)


def test_layers_above_the_pooled_ones_get_no_gradient():
    training = _core.Training(build("odd"))
    ids, offsets = sentences("odd")
    states = training.forward(ids, offsets, [1], ["mean"], step=0, first_row=0)
    training.backward(np.ones_like(states))
    for name, (start, stop, _) in training.slices.items():
        above = name.startswith(("encoder.layer.1.", "encoder.layer.2."))
        assert training.gradients[start:stop].any() != above, name


def test_gradients_add_up():
    twice = _core.Training(build("odd"))
    ids, offsets = sentences("odd")
    for _ in range(2):
        states = twice.forward(ids, offsets, [3], ["mean"], step=0, first_row=0)
        once = twice.gradients.copy()
        twice.backward(np.ones_like(states))
    np.testing.assert_allclose(twice.gradients, 2 * once, rtol=1e-4, atol=1e-5)


def gradient_of_positives(z, temperature):
    """Of -mean cosine(z[0, i], z[1, i]) / temperature, the part of SimCSE's loss that pulls copies together."""
    norms = np.linalg.norm(z, axis=2, keepdims=True)
    u = z / norms
    return ((u[0] * u[1]).sum(1)[:, None] * u - u[::-1]) / norms / temperature / z.shape[1]


def test_one_mask_for_both_copies_leaves_nothing_to_pull_together():
    """Unsupervised SimCSE lives on two masks; with one, its scores collapse (Gao et al. 2021, "Fixed 0.1"): both copies
    are one vector, and all that the loss still does is to push others away."""
    model, (ids, offsets) = build("odd"), sentences("odd")
    n = len(offsets) - 1

    def step(first_rows):
        """The copies' embeddings, and gradients by all parameters: of the loss, and of its pull."""
        training, parts = _core.Training(model, **DROPOUT), []

        def states(row, keep):
            return training.forward(ids, offsets, [3], ["mean"], step=0, first_row=row, keep=keep)

        z = np.concatenate([states(row, keep=False) for row in first_rows]).reshape(2, n, -1)
        for d_z in (InfoNCE(0.05)(z)[1], gradient_of_positives(z.astype(float), 0.05)):
            training.gradients[:] = 0
            for row, d_copy in zip(first_rows, d_z, strict=True):
                training.backward(d_copy.reshape(states(row, keep=True).shape))
            parts.append(training.gradients.astype(float))
        return z, *parts

    z, loss, pull = step((0, n))
    assert (z[0] != z[1]).any(axis=1).all()
    assert np.linalg.norm(pull) > 0.1 * np.linalg.norm(loss)

    z, loss, nothing = step((0, 0))
    np.testing.assert_array_equal(z[0], z[1])
    assert np.linalg.norm(nothing) < 1e-12 * np.linalg.norm(pull)
    assert np.linalg.norm(loss) > 0


def test_update_gives_the_model_these_weights():
    model, (ids, offsets) = build("odd"), sentences("odd")
    training = _core.Training(model)
    training.masters[:] = training.masters * np.float32(1.01)
    before = model.layer_states(ids, offsets, [3], ["mean"])
    training.update(threads=2)
    changed = {name: array * np.float32(1.01) for name, array in tensors("odd").items()}
    fresh = load(_core.Model(**MODELS["odd"], type_vocab_size=2, layer_norm_eps=EPS), changed)
    np.testing.assert_array_equal(
        model.layer_states(ids, offsets, [3], ["mean"]), fresh.layer_states(ids, offsets, [3], ["mean"])
    )
    assert (model.layer_states(ids, offsets, [3], ["mean"]) != before).any()
    states = training.forward(ids, offsets, [3], ["mean"], step=0, first_row=0)
    training.backward(np.ones_like(states))
    other = _core.Training(fresh)
    other.forward(ids, offsets, [3], ["mean"], step=0, first_row=0)
    other.backward(np.ones_like(states))
    np.testing.assert_array_equal(training.gradients, other.gradients)


# ---- bits ----------------------------------------------------------------------------------------------------------


@pytest.mark.bits
@pytest.mark.parametrize("name", ["odd", "deep_products", "thin"])
def test_threads_and_cuts_change_nothing(name):
    expected = gradient_bits(name, **DROPOUT)
    boundaries = _core.Training.groups(np.cumsum([0, *LENGTHS[name]]))[1:-1].tolist()
    for threads in (1, 2, 3):
        for cuts in ((), boundaries, boundaries[::2]):
            assert gradient_bits(name, threads=threads, cuts=cuts, **DROPOUT) == expected, (threads, cuts)


CHILD = """
import sys, hashlib
sys.path.insert(0, sys.argv[1])
from test_training_core import DROPOUT, gradient_bits
print(hashlib.sha256(gradient_bits(sys.argv[2], threads=2, **DROPOUT)).hexdigest())
"""


@pytest.mark.every_way
@pytest.mark.bits
@pytest.mark.parametrize("way", [*environments(), "scalar"])
def test_every_way_to_compute_gives_one_hash(way):
    name = "odd" if way in ("generic", "scalar") else "deep_products"
    variables = {"SENTPOOL_ISA": "scalar"} if way == "scalar" else environments()[way]
    command = [sys.executable, "-c", CHILD, str(HERE), name]
    run = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == hashlib.sha256(gradient_bits(name, **DROPOUT)).hexdigest()


def test_groups():
    """As many whole sentences as have up to 256 tokens; a longer one alone."""
    groups = _core.Training.groups(np.cumsum([0, 100, 156, 1, 255, 1, 300, 256, 7]))
    assert groups.tolist() == [0, 2, 4, 5, 6, 7, 8]
    assert _core.Training.groups([0]).tolist() == [0]


# ---- what is refused, what can fail --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": (1.0, 0, 0, 0, 0)}, "the rates of dropout are .1.0"),
        ({"dropout": (0, 0, 0, 0, -0.5)}, "the rates of dropout are .*-0.5"),
        ({"dropout": (0, 0, 0, float("nan"), 0)}, "the rates of dropout are .*nan"),
        ({"seed": -1}, "seed is -1"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        _core.Training(build("odd"), **options)


def test_model_must_be_finished():
    with pytest.raises(TypeError, match="model must be a Model"):
        _core.Training("model")
    with pytest.raises(ValueError, match="finish"):
        _core.Training(_core.Model(**MODELS["odd"], type_vocab_size=2, layer_norm_eps=EPS))


def test_model_must_be_in_float32():
    half = load(_core.Model(**MODELS["odd"], type_vocab_size=2, layer_norm_eps=EPS, dtype="bfloat16"), tensors("odd"))
    with pytest.raises(ValueError, match="model is in low precision"):
        _core.Training(half)


def test_a_signal_ends_a_pass():
    """KeyboardInterrupt, and no tape is left."""
    training = _core.Training(build("deep_products"))
    ids, offsets = sentences("deep_products")
    ids, offsets = np.tile(ids, 20), np.concatenate([[0], *(offsets[1:] + i * offsets[-1] for i in range(20))])
    old = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            for _ in range(1000):
                states = training.forward(ids, offsets, [2], ["mean"], step=0, first_row=0)
                training.backward(states)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    states = training.forward(ids, offsets, [2], ["mean"], step=0, first_row=0)
    training.backward(states)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "step is -1"),
        ({"first_row": 2**32}, "first_row is 4294967296"),
        ({"positions": [3, 3]}, "positions\\[1\\] is 3"),
        ({"positions": [371]}, "positions\\[0\\] is 371"),
        ({"positions": [-1]}, "positions\\[0\\] is -1"),
        ({"layers": [4]}, "layers\\[0\\] is 4"),
        ({"tokens": ["median"]}, "median"),
        ({"ids": [101] * 370}, "ids|offsets"),
    ],
)
def test_bad_batches(change, message):
    ids, offsets = sentences("odd")
    arguments = {"ids": ids, "offsets": offsets, "layers": [3], "tokens": ["cls"], "step": 0, "first_row": 0} | change
    training = _core.Training(build("odd"))
    with pytest.raises(ValueError, match=message):
        training.forward(**arguments)
    with pytest.raises(ValueError, match="no tape"):
        training.backward(np.zeros((len(offsets) - 1, 1, 1, 40)))


def test_one_backward_for_a_tape():
    training = _core.Training(build("odd"))
    ids, offsets = sentences("odd")
    states, rows = training.forward(ids, offsets, [3], ["cls"], step=0, first_row=0, positions=[2])
    with pytest.raises(ValueError, match="d_rows must be given"):
        training.backward(states)
    with pytest.raises(ValueError, match="d_states has 1 entries along axis 0"):
        training.backward(states[:1], rows)
    training.backward(states, rows)
    with pytest.raises(ValueError, match="no tape"):
        training.backward(states, rows)
    training.forward(ids, offsets, [3], ["cls"], step=0, first_row=0, keep=False)
    with pytest.raises(ValueError, match="no tape"):
        training.backward(states)


def test_no_sentences():
    training = _core.Training(build("odd"))
    states = training.forward([], [0], [3], ["cls"], step=0, first_row=0)
    assert states.shape == (0, 1, 1, 40)
    training.backward(states)
    assert not training.gradients.any()


def test_arrays_outlive_their_training():
    masters = _core.Training(build("odd")).masters
    np.testing.assert_array_equal(masters, _core.Training(build("odd")).masters)


def test_every_allocation_may_fail():
    model, (ids, offsets) = build("odd"), sentences("odd")

    def step():
        training = _core.Training(model, **DROPOUT)
        states = training.forward(ids, offsets, [3], ["cls"], step=0, first_row=0)
        training.backward(np.ones_like(states))
        return training.gradients.tobytes()

    expected = step()
    for n in range(1, 100):
        _core.fail_allocation(n)
        try:
            assert step() == expected
            break
        except MemoryError:
            continue
        finally:
            _core.fail_allocation(0)
    # the Training and two sets of weights with three blocks each, five of its own; the encoder's four and the tape;
    # and four of the backward pass
    assert n - 1 >= 18
