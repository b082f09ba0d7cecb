"""Losses of embeddings: twins in float64 against central differences, the core against the twins, and equal bits."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import numpy_losses
import pytest

from sentpool import _core
from sentpool.objectives import CoSENT, InfoNCE

pytestmark = pytest.mark.training


def embeddings(seed, roles, n, d):
    return np.random.default_rng(seed).standard_normal((roles, n, d))


SETTINGS = [
    {},
    {"temperature": 0.3},
    {"temperature": 0.2, "alpha": 2.5},
    {"temperature": 0.1, "alpha": 0.4, "symmetric": True},
]


@pytest.mark.parametrize("roles", [2, 3])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_twin_of_infonce_has_the_gradient_of_central_differences(roles, settings):
    z = embeddings(1, roles, 4, 5)
    _, gradient = numpy_losses.infonce(z, **settings)
    numeric = numpy_losses.central_differences(lambda x: numpy_losses.infonce(x, **settings)[0], z)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-6 * np.abs(gradient).max())


def test_twin_of_cosent_has_the_gradient_of_central_differences():
    z, scores = embeddings(2, 2, 6, 5), np.array([0.1, 0.5, 0.5, 1, 0, 0.3])
    _, gradient = numpy_losses.cosent(z, scores, 3.0)
    numeric = numpy_losses.central_differences(lambda x: numpy_losses.cosent(x, scores, 3.0)[0], z)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-6 * np.abs(gradient).max())


SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65)


def shapes():
    rng = np.random.default_rng(0)
    yield from ((1, 1), (1, 384), (64, 1), (257, 3), (64, 768))
    for _ in range(45):
        yield int(rng.choice(SIZES)), int(rng.choice(SIZES))


def assert_close(result, expected):
    loss, gradient = result
    assert loss == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, expected[1], rtol=0, atol=1e-4 * np.abs(expected[1]).max() + 1e-7)


@pytest.mark.parametrize(("n", "d"), list(shapes()))
def test_core_equals_the_twins(n, d):
    seed = 1000 * n + d
    rng = np.random.default_rng(seed)
    z = embeddings(seed, 3, n, d).astype(np.float32)
    for temperature, alpha, symmetric in ((0.05, 1.0, False), (0.3, 2.5, True)):
        objective = InfoNCE(temperature, hard_negative_alpha=alpha, symmetric=symmetric)
        for roles in (2, 3):
            expected = numpy_losses.infonce(z[:roles], temperature, alpha, symmetric)
            assert_close(objective(z[:roles]), expected)
    scores = rng.integers(0, 4, n) / 4
    assert_close(CoSENT(5)(z[:2], scores), numpy_losses.cosent(z[:2], scores, 5.0))


def test_losses_by_hand():
    """Orthogonal unit vectors: cosines are 1 and 0."""
    z = np.stack([np.eye(2, dtype=np.float32)] * 2)
    assert InfoNCE(0.5)(z)[0] == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-12)
    # every b is the first unit vector: the first pair has cosine 1, the second 0
    z[1] = [1, 0]
    assert CoSENT(3)(z, [1, 0])[0] == pytest.approx(math.log(1 + math.exp(-3)), rel=1e-12)
    assert CoSENT(3)(z, [0, 1])[0] == pytest.approx(math.log(1 + math.exp(3)), rel=1e-12)
    loss, gradient = CoSENT()(z, [2, 2])
    assert loss == 0 and not gradient.any()


def test_hard_negative_alpha_weighs_the_own_one_alone():
    """Two samples in a plane, all by hand: alpha stands before the own negative's term and no other."""
    z = np.array([[[1, 0], [0, 1]], [[1, 0], [0, 1]], [[1, 0], [1, 0]]], np.float32)
    e, alpha = math.e, 3
    first = -math.log(e / (e + 1 + alpha * e + e))
    second = -math.log(e / (1 + e + 1 + alpha))
    assert InfoNCE(1, hard_negative_alpha=alpha)(z)[0] == pytest.approx((first + second) / 2, rel=1e-7)


def test_names_of_the_same_thing():
    z = embeddings(3, 3, 9, 12).astype(np.float32)
    for one, other in (
        (InfoNCE(), InfoNCE(temperature=0.05, hard_negative_alpha=1)),
        (InfoNCE(scale=4), InfoNCE(0.25)),
        (InfoNCE(hard_negative_weight=0), InfoNCE(hard_negative_alpha=1)),
        (InfoNCE(hard_negative_weight=1), InfoNCE(hard_negative_alpha=math.e)),
    ):
        assert one(z)[0] == other(z)[0]
        np.testing.assert_array_equal(one(z)[1], other(z)[1])
    assert InfoNCE(hard_negative_weight=1).hard_negative_alpha == math.e


def test_symmetric_is_the_mean_of_both_directions():
    z = embeddings(4, 2, 7, 6).astype(np.float32)
    there, back = InfoNCE()(z), InfoNCE()(z[::-1])
    loss, gradient = InfoNCE(symmetric=True)(z)
    assert loss == pytest.approx((there[0] + back[0]) / 2, rel=1e-12)
    np.testing.assert_allclose(gradient, (there[1] + back[1][::-1]) / 2, rtol=1e-4, atol=1e-6)


def test_a_zero_vector_has_no_direction():
    z = embeddings(5, 2, 4, 6).astype(np.float32)
    z[0, 1] = z[1, 2] = 0
    for loss, gradient in (InfoNCE()(z), CoSENT()(z, [1, 2, 3, 4])):
        assert np.isfinite(loss) and np.isfinite(gradient).all()
        assert not gradient[0, 1].any() and not gradient[1, 2].any() and gradient[0, 0].any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_shows(value):
    z = embeddings(6, 2, 4, 6).astype(np.float32)
    z[1, 2, 3] = value
    for loss, gradient in (InfoNCE()(z), InfoNCE(symmetric=True)(z), CoSENT()(z, [1, 2, 3, 4])):
        assert not np.isfinite(loss) and np.isnan(gradient).any()


def test_cosines_that_float64_cannot_raise():
    """exp(20000) is infinite; the loss is not."""
    z = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], np.float32)
    assert InfoNCE(scale=20000)(z)[0] == pytest.approx(20000)
    z[1, 0] = [1, 0]
    z[1, 1] = [0, -1]
    loss, gradient = CoSENT(10000)(z, [0, 1])
    assert loss == pytest.approx(20000) and np.isfinite(gradient).all()
    assert CoSENT(10000)(z, [1, 0])[0] == 0


OBJECTIVES = {
    "infonce": lambda z, threads: InfoNCE(hard_negative_alpha=2)(z, threads=threads),
    "symmetric": lambda z, threads: InfoNCE(symmetric=True)(z, threads=threads),
    "cosent": lambda z, threads: CoSENT()(z[:2], np.arange(z.shape[1]) % 7, threads=threads),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(("n", "d"), [(5, 7), (64, 48), (300, 20)])
def test_bits_do_not_depend_on_threads(name, n, d):
    z = embeddings(7, 3, n, d).astype(np.float32)
    loss, gradient = OBJECTIVES[name](z, 1)
    for threads in (2, 3, 5):
        again = OBJECTIVES[name](z, threads)
        assert again[0] == loss
        np.testing.assert_array_equal(again[1], gradient)


HASH = """
import hashlib, sys
import numpy as np
from sentpool.objectives import CoSENT, InfoNCE
z = np.random.default_rng(8).standard_normal((3, 70, 300)).astype(np.float32)
digest = hashlib.sha256()
for loss, gradient in (InfoNCE(hard_negative_alpha=2, symmetric=True)(z), CoSENT()(z[:2], np.arange(70) % 9)):
    digest.update(np.float64(loss).tobytes() + gradient.tobytes())
print(digest.hexdigest())
"""


def test_bits_do_not_depend_on_the_instruction_set():
    hashes = set()
    for isa, blis in (("generic", "haswell"), ("avx2", "haswell"), ("avx512", "skx")):
        if isa in _core.isas():
            environment = os.environ | {"SENTPOOL_ISA": isa, "SENTPOOL_BLIS_ARCH": blis}
            run = subprocess.run(
                [sys.executable, "-c", HASH], env=environment, capture_output=True, text=True, check=True
            )
            hashes.add(run.stdout)
    assert len(hashes) == 1


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_allocation_may_fail(name):
    z = embeddings(9, 3, 6, 5).astype(np.float32)
    expected = OBJECTIVES[name](z, 1)
    for n in range(1, 50):
        _core.fail_allocation(n)
        try:
            OBJECTIVES[name](z, 1)
        except MemoryError:
            continue
        finally:
            _core.fail_allocation(0)
        break
    assert 2 < n < 49
    np.testing.assert_array_equal(OBJECTIVES[name](z, 1)[1], expected[1])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_signal_ends_a_long_call(name):
    import signal
    import time

    class Stop(Exception):
        pass

    def handler(*_):
        raise Stop

    z = embeddings(10, 3, 6000, 64).astype(np.float32)
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        start = time.perf_counter()
        with pytest.raises(Stop):
            OBJECTIVES[name](z, 1)
        assert time.perf_counter() - start < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_roles():
    assert [InfoNCE().roles(columns) for columns in (1, 2, 3)] == [(0, 0), (0, 1), (0, 1, 2)]
    assert CoSENT().roles(2) == (0, 1)
    for objective, columns in ((InfoNCE(), 4), (InfoNCE(), 0), (CoSENT(), 1), (CoSENT(), 3)):
        with pytest.raises(ValueError, match="columns"):
            objective.roles(columns)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"temperature": 0.1, "scale": 10}, ValueError, "temperature is 0.1 and scale, its reciprocal, is 10"),
        ({"hard_negative_alpha": 1, "hard_negative_weight": 0}, ValueError, "give one of them"),
        ({"temperature": 0}, ValueError, "temperature is 0"),
        ({"temperature": "0.1"}, TypeError, "temperature"),
        ({"scale": -1}, ValueError, "scale is -1"),
        ({"hard_negative_alpha": 0}, ValueError, "hard_negative_alpha is 0"),
        ({"hard_negative_weight": math.nan}, ValueError, "hard_negative_weight is nan"),
        ({"hard_negative_weight": 1e4}, ValueError, "from -700 to 700"),
        ({"hard_negative_weight": True}, TypeError, "hard_negative_weight"),
        ({"symmetric": 1}, ValueError, "symmetric is 1"),
    ],
)
def test_arguments_of_infonce(arguments, error, message):
    with pytest.raises(error, match=message):
        InfoNCE(**arguments)


@pytest.mark.parametrize("shape", [(1, 4, 5), (4, 4, 5), (2, 0, 5), (2, 4, 0), (4, 5)])
def test_shapes_of_embeddings(shape):
    with pytest.raises(ValueError, match="embeddings"):
        InfoNCE()(np.ones(shape, np.float32))


def test_scores():
    z = embeddings(11, 2, 4, 5).astype(np.float32)
    with pytest.raises(ValueError, match="no use for scores"):
        InfoNCE()(z, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="needs the pairs' scores"):
        CoSENT()(z)
    with pytest.raises(ValueError, match="scores has 3 values for 4 pairs"):
        CoSENT()(z, [1, 2, 3])
    with pytest.raises(ValueError, match="NaN or Inf"):
        CoSENT()(z, [1, 2, 3, np.nan])
    with pytest.raises(ValueError, match="with 2 roles"):
        CoSENT()(np.ones((3, 4, 5), np.float32), [1, 2, 3, 4])
    with pytest.raises(ValueError, match="scale is 0"):
        CoSENT(0)


def test_repr():
    assert eval(repr(InfoNCE(scale=4, symmetric=True))).temperature == 0.25
    assert repr(CoSENT(5)) == "CoSENT(scale=5.0)"
