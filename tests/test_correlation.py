"""Correlations against SciPy and against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sentpool.evaluation.correlation import average_ranks, pearson, spearman


def test_average_ranks_by_hand():
    assert average_ranks([10, 20, 20, 5]).tolist() == [2.0, 3.5, 3.5, 1.0]
    assert average_ranks([0.0, -0.0, 7.0]).tolist() == [1.5, 1.5, 3.0]
    assert average_ranks([]).tolist() == []


def test_coefficients_by_hand():
    # x = 1 2 3, y = 1 3 2: deviations (-1 0 1) and (-1 1 0), so r = 1 / sqrt(2 * 2).
    assert pearson([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5, abs=1e-15)
    assert spearman([1, 2, 3], [1, 30, 2]) == pytest.approx(0.5, abs=1e-15)
    assert pearson([0, 1, 5], [1, 3, 11]) == pytest.approx(1.0, abs=1e-15)
    assert spearman([1, 2, 3, 4], [9, 7, 5, 3]) == -1.0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ties", [False, True])
def test_same_as_scipy(seed, ties):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 400))
    x = rng.normal(size=n)
    y = 0.5 * x + rng.normal(size=n)
    if ties:
        x, y = np.round(x), np.round(y, 1)
        x[0], x[1], y[0], y[1] = -9, 9, 9, -9  # never all equal
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert average_ranks(x) == pytest.approx(stats.rankdata(x), abs=0)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e307])
def test_extreme_scales_do_not_overflow_or_vanish(scale):
    x, y = np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert pearson(x * scale, y) == pytest.approx(pearson(x, y), abs=1e-14)


def test_a_tiny_spread_around_a_large_mean():
    x = 1.0 + np.array([0, 1, 2, 3]) * 2.0**-40
    assert pearson(x, [0, 1, 2, 3]) == pytest.approx(1.0, abs=1e-15)
    assert pearson([1.0, np.nextafter(1.0, 2.0)], [0, 1]) == pytest.approx(1.0, abs=1e-15)


def test_order_of_pairs_leaves_the_bits_alone():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=501), rng.normal(size=501)
    order = rng.permutation(501)
    assert pearson(x, y) == pearson(x[order], y[order])
    assert spearman(x, y) == spearman(x[order], y[order])


@pytest.mark.parametrize("function", [pearson, spearman])
@pytest.mark.parametrize("x, y", [([], []), ([1.0], [2.0]), ([0.1, 0.1, 0.1], [1, 2, 3]), ([1, 2, 3], [5, 5, 5])])
def test_undefined_is_nan(function, x, y):
    assert math.isnan(function(x, y))


@pytest.mark.parametrize("function", [pearson, spearman])
def test_bad_input_is_named(function):
    with pytest.raises(ValueError, match="x has 2 values and y has 3"):
        function([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"y\[1\] is nan"):
        function([1, 2], [1, math.nan])
    with pytest.raises(ValueError, match=r"x has shape \(1, 2\)"):
        function([[1, 2]], [1, 2])
