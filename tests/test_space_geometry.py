"""Measures of vectors and of layers: hand-worked cases, SciPy, and the formulas written out once more."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats
from scipy.spatial.distance import pdist

from sentpool.evaluation import alignment, layer_measures, space_geometry, uniformity
from sentpool.evaluation.layer_measures import (
    curvature,
    dataset_entropy,
    infonce,
    largest_entropy,
    lidar,
    prompt_entropy,
    unit_states,
)
from sentpool.evaluation.space_geometry import effective_rank, isoscore, mean_cosine, singular_values

EQUAL = np.full((6, 4), 0.3)
SHAPES = [(2, 1), (2, 3), (5, 2), (33, 7), (40, 64)]


def cloud(n, d, seed=0, shift=0.7):
    return np.random.default_rng(seed).normal(shift, 1, (n, d))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# ---- alignment, uniformity, cosines -------------------------------------------------------------------------------


def test_hand_worked_alignment_and_uniformity():
    assert alignment(EQUAL, 7 * EQUAL) == pytest.approx(0, abs=1e-30)
    assert uniformity(EQUAL) == pytest.approx(0, abs=1e-14)
    orthogonal = np.diag([1.0, 2.0, 3.0, 0.5])
    assert alignment(orthogonal, np.roll(orthogonal, 1, axis=0)) == pytest.approx(2, abs=1e-14)
    assert uniformity(orthogonal) == pytest.approx(-4, abs=1e-14)
    assert alignment([[1.0, 0]], [[-2.0, 0]]) == 4
    assert alignment([[1.0, 0]], [[0, 1.0]], alpha=1) == pytest.approx(math.sqrt(2))
    assert uniformity([[1.0, 0], [-1.0, 0]], t=0.5) == pytest.approx(-2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("t", [0.5, 2.0, 40.0])
def test_uniformity_is_that_of_all_distances(shape, t):
    x = cloud(*shape)
    assert uniformity(x, t) == pytest.approx(np.log(np.exp(-t * pdist(unit(x)) ** 2).mean()), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("pairs", [1, 33, 33 * 2 + 5, 33 * 32])
def test_uniformity_in_blocks_equals_the_whole(monkeypatch, pairs):
    x = cloud(33, 5)
    whole = uniformity(x)
    monkeypatch.setattr(space_geometry, "_BLOCK_PAIRS", pairs)
    assert uniformity(x) == pytest.approx(whole, rel=1e-13)


def test_uniformity_never_holds_all_pairs():
    x = cloud(6000, 3).astype(np.float32)
    tracemalloc.start()
    uniformity(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.6 * 8 * 6000**2


def test_uniformity_of_a_large_t_does_not_vanish():
    assert uniformity(np.eye(5), t=1e5) == pytest.approx(-2e5)


@pytest.mark.parametrize("shape", [(2, 3), (33, 7), (40, 64)])
def test_alignment_and_mean_cosine_are_those_of_scipy(shape):
    x, y = cloud(*shape), cloud(*shape, seed=1)
    squares = np.linalg.norm(unit(x) - unit(y), axis=1)
    assert alignment(x, y) == pytest.approx((squares**2).mean())
    assert alignment(x, y, alpha=3) == pytest.approx((squares**3).mean())
    assert mean_cosine(x) == pytest.approx((1 - pdist(x, "cosine")).mean())
    assert mean_cosine(x, centred=True) == pytest.approx((1 - pdist(x - x.mean(0), "cosine")).mean())


def test_hand_worked_mean_cosine():
    assert mean_cosine(EQUAL) == pytest.approx(1)
    assert mean_cosine([[1.0, 0], [0, 3.0], [-2.0, 0]]) == pytest.approx(-1 / 3)
    assert math.isnan(mean_cosine(EQUAL, centred=True))
    assert math.isnan(mean_cosine([[1.0, 0], [2.0, 0], [3.0, 0]], centred=True))  # the second becomes zero


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_no_scale_overflows_or_vanishes(scale):
    x = cloud(20, 6)
    for measure in (uniformity, mean_cosine, isoscore, effective_rank):
        assert measure(scale * x) == pytest.approx(measure(x), rel=1e-9)
    assert alignment(scale * x, x[::-1]) == pytest.approx(alignment(x, x[::-1]))


# ---- spectrum, effective rank, IsoScore ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_spectrum_and_effective_rank_are_those_of_scipy(shape):
    x = cloud(*shape).astype(np.float32)
    sigma = linalg.svdvals(x.astype(np.float64))
    np.testing.assert_allclose(singular_values(x), sigma, rtol=1e-10)
    assert effective_rank(x) == pytest.approx(np.exp(stats.entropy(sigma)))


def test_hand_worked_effective_rank():
    assert effective_rank(np.outer([1.0, 2, 3], [1.0, -1])) == pytest.approx(1)
    assert effective_rank(5 * np.eye(7)) == pytest.approx(7)
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(4 / 3**0.75)  # exp of the entropy of 3/4, 1/4
    assert math.isnan(effective_rank(np.zeros((3, 2))))


def isoscore_step_by_step(x):
    """The seven steps of the paper, with its own normalisations."""
    d = x.shape[1]
    variances = np.linalg.eigvalsh(np.cov(x, rowvar=False).reshape(d, d))
    normed = np.sqrt(d) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(normed - 1) / np.sqrt(2 * (d - np.sqrt(d)))
    used = (d - defect**2 * (d - np.sqrt(d))) ** 2 / d**2
    return (d * used - 1) / (d - 1)


@pytest.mark.parametrize("shape", [(3, 2), (33, 7), (40, 64), (200, 3)])
def test_isoscore_is_that_of_the_papers_steps(shape):
    x = cloud(*shape) * np.linspace(1, 4, shape[1])
    assert isoscore(x) == pytest.approx(isoscore_step_by_step(x), rel=1e-10)


def test_hand_worked_isoscore():
    assert isoscore(np.vstack([np.eye(5), -np.eye(5)])) == pytest.approx(1)
    assert isoscore(np.outer([1.0, 2, 5], [1.0, 1, 1])) == pytest.approx(0, abs=1e-12)
    # Two of four dimensions, evenly: (2 - 1) / (4 - 1).
    assert isoscore([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, -1.0, 0, 0]]) == pytest.approx(1 / 3)
    assert isoscore(cloud(50_000, 4)) == pytest.approx(1, abs=1e-3)
    assert math.isnan(isoscore(EQUAL))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(2, 12), st.integers(0, 10**6))
def test_bounds(n, d, seed):
    x = cloud(n, d, seed)
    assert -8 - 1e-12 <= uniformity(x) <= 1e-12
    assert 0 <= alignment(x, x[::-1]) <= 4 + 1e-12
    assert -1 - 1e-12 <= mean_cosine(x) <= 1 + 1e-12
    assert 1 - 1e-9 <= effective_rank(x) <= min(n, d) + 1e-9
    assert -1e-9 <= isoscore(x) <= min(1, (n - 2) / (d - 1)) + 1e-9


# ---- layers -------------------------------------------------------------------------------------------------------


def test_hand_worked_prompt_entropy():
    assert prompt_entropy(EQUAL) == pytest.approx(0, abs=1e-12)
    assert prompt_entropy(np.diag([1.0, 2, 3])) == pytest.approx(math.log(3)) == largest_entropy(3, 9)
    assert prompt_entropy(np.diag([1.0, 2, 3]), alpha=2) == pytest.approx(math.log(3))
    # More tokens than dimensions: two directions, three tokens and one.
    assert prompt_entropy([[1.0, 0], [2.0, 0], [5.0, 0], [0, 1.0]]) == pytest.approx(stats.entropy([3, 1]))
    assert prompt_entropy([[1.0, 0], [-1.0, 0]]) == pytest.approx(0, abs=1e-12)
    assert prompt_entropy([[1.0, 0], [-1.0, 0]], clamp=True) == pytest.approx(math.log(2))


@pytest.mark.parametrize("shape", [(1, 4), (5, 9), (12, 3)])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_prompt_and_dataset_entropy_are_those_of_the_gram_matrix(shape, alpha):
    def expected(rows):
        shares = linalg.eigvalsh(rows @ rows.T)
        shares = shares[shares > 1e-12] / shares.sum()
        return stats.entropy(shares) if alpha == 1 else np.log((shares**alpha).sum()) / (1 - alpha)

    states = cloud(*shape, seed=3).astype(np.float32)
    assert prompt_entropy(states, alpha) == pytest.approx(expected(unit(states.astype(float))), rel=1e-7, abs=1e-7)
    if len(states) > 1:
        assert dataset_entropy(states, alpha) == pytest.approx(expected(states.astype(float)), rel=1e-6)


def test_hand_worked_curvature():
    line = np.outer(np.arange(5), [1.0, 2, -1]) + [3.0, 0, 0]
    assert curvature(line) == pytest.approx(0, abs=1e-12)
    assert curvature([[0.0, 0], [1, 0], [0, 0], [1, 0]]) == pytest.approx(math.pi)
    assert curvature([[0.0, 0], [1, 0], [1, 1], [0, 1]]) == pytest.approx(math.pi / 2)
    assert curvature([[1.0, 0], [1, 1], [0, 2]], of="states") == pytest.approx(math.pi / 4)
    # A step of length 0 makes no angle.
    assert curvature([[0.0, 0], [1, 0], [1, 0], [1, 1], [1, 2]]) == pytest.approx(0)
    assert math.isnan(curvature([[0.0, 1], [1, 0]])) and math.isnan(curvature([[1.0, 1]] * 4))


def test_curvature_is_the_mean_angle():
    states = cloud(9, 6)
    steps = unit(np.diff(states, axis=0))
    assert curvature(states) == pytest.approx(np.arccos((steps[:-1] * steps[1:]).sum(1)).mean())
    steps = unit(states)
    assert curvature(states, of="states") == pytest.approx(np.arccos((steps[:-1] * steps[1:]).sum(1)).mean())


def test_several_layers_at_a_time():
    layers = np.stack([cloud(7, 5, seed) for seed in range(4)])
    for measure in (prompt_entropy, curvature):
        np.testing.assert_allclose(measure(layers), [measure(states) for states in layers], rtol=1e-12)
    np.testing.assert_allclose(unit_states(layers), unit(layers), rtol=1e-12)


@pytest.mark.parametrize("pairs", [1, 100, 1 << 22])
def test_infonce_is_simclrs_loss(monkeypatch, pairs):
    monkeypatch.setattr(layer_measures, "_BLOCK_PAIRS", pairs)
    a, b = cloud(11, 6), cloud(11, 6, seed=1)
    views = unit(np.concatenate([a, b]))
    losses = []
    for i, view in enumerate(views):
        logits = views @ view / 0.3
        partner = (i + 11) % 22
        losses.append(np.log(sum(np.exp(logits[j]) for j in range(22) if j != i)) - logits[partner])
    assert infonce(a, b, temperature=0.3) == pytest.approx(np.mean(losses))


def test_hand_worked_infonce():
    assert infonce(EQUAL, EQUAL) == pytest.approx(math.log(11))
    assert infonce(np.eye(4), np.eye(4)) == pytest.approx(math.log(1 + 6 * math.exp(-10)))


@pytest.mark.parametrize("shape", [(20, 2, 5), (20, 3, 5), (6, 4, 9)])
def test_lidar_is_that_of_matrix_roots(shape):
    views = np.random.default_rng(0).normal(size=shape) + 2 * cloud(shape[0], shape[2])[:, None]
    means = views.mean(1)
    between = np.cov(means.T, bias=True)
    within = sum(np.outer(v - m, v - m) for of_text, m in zip(views, means, strict=True) for v in of_text)
    within = within / (shape[0] * shape[1]) + 1e-4 * np.eye(shape[2])
    root = linalg.inv(linalg.sqrtm(within))
    shares = linalg.eigvalsh(root @ between @ root)
    assert lidar(views) == pytest.approx(stats.entropy(np.maximum(shares, 0)), rel=1e-6)


def test_hand_worked_lidar():
    # Equal views, texts spread evenly over two of three dimensions.
    texts = np.array([[1.0, 0, 5], [-1, 0, 5], [0, 1, 5], [0, -1, 5]])
    assert lidar(np.stack([texts, texts], axis=1)) == pytest.approx(math.log(2))
    assert math.isnan(lidar(np.stack([EQUAL, EQUAL], axis=1)))


# ---- what is refused ----------------------------------------------------------------------------------------------

NAN, INFINITE, ZERO = cloud(3, 2), cloud(3, 2), cloud(3, 2)
NAN[1, 0], INFINITE[2, 1], ZERO[1] = math.nan, math.inf, 0


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: uniformity([[1.0, 2.0]]), ValueError, r"x has 1 rows; at least 2 vectors are needed"),
        (lambda: mean_cosine(np.ones(3)), ValueError, r"x has shape \(3,\); it must be \(n, d\)"),
        (lambda: uniformity(NAN), ValueError, r"x\[1\] holds NaN or infinity"),
        (lambda: singular_values(INFINITE), ValueError, r"x\[2\] holds NaN or infinity"),
        (lambda: uniformity(ZERO), ValueError, r"x\[1\] is a vector of zeros, which has no direction"),
        (lambda: alignment(ZERO, EQUAL[:3, :2]), ValueError, r"x\[1\] is a vector of zeros"),
        (lambda: alignment(EQUAL, EQUAL[:5]), ValueError, r"x has shape \(6, 4\) and y \(5, 4\)"),
        (lambda: alignment(["a", "b"], ["c", "d"]), TypeError, r"x must be an array of real numbers"),
        (lambda: uniformity(EQUAL, t=0), ValueError, r"t is 0; it must be a number above 0"),
        (lambda: uniformity(EQUAL, t="2"), TypeError, r"t must be a number above 0, not str '2'"),
        (lambda: alignment(EQUAL, EQUAL, alpha=math.nan), ValueError, r"alpha is nan"),
        (lambda: isoscore(np.ones((4, 1))), ValueError, r"of which one number has only one"),
        (lambda: prompt_entropy(np.ones(3)), ValueError, r"states has shape \(3,\)"),
        (lambda: prompt_entropy(ZERO), ValueError, r"state of token 1 is a vector of zeros"),
        (lambda: prompt_entropy(NAN), ValueError, r"states holds NaN or infinity"),
        (lambda: prompt_entropy([["a"]]), TypeError, r"states must be an array of real numbers"),
        (lambda: curvature(EQUAL, of="steps"), ValueError, r"of is 'steps'; it must be 'differences' or 'states'"),
        (lambda: infonce(EQUAL, EQUAL[:5]), ValueError, r"a has shape \(6, 4\) and b \(5, 4\)"),
        (lambda: infonce(EQUAL, EQUAL, 0), ValueError, r"temperature is 0"),
        (lambda: lidar(np.ones((3, 1, 2))), ValueError, r"views has shape \(3, 1, 2\).*at least two views"),
        (lambda: lidar(np.ones((1, 2, 2))), ValueError, r"at least two texts"),
        (lambda: lidar(np.ones((3, 2, 2)), delta=-1), ValueError, r"delta is -1"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
