"""Pearson and Spearman correlation in float64, without SciPy.

Sums go through `math.fsum`, which rounds once at the end: a coefficient does not depend on the order of the
pairs, nor on the vector width of the machine that adds them up.
"""

from __future__ import annotations

import functools
import math

import numpy as np


def pearson(x, y) -> float:
    """Pearson's correlation of two lists of numbers.

    Parameters
    ----------
    x, y : array-like, shape (n,)
        Finite numbers; computed in float64.

    Returns
    -------
    float
        In [-1, 1]; nan where the coefficient is undefined: fewer than two pairs, or all values of one list
        equal.

    Raises
    ------
    ValueError
        Lists that are not one-dimensional, differ in length, or hold NaN or infinity.
    """
    return Correlated(y).pearson(x)


def spearman(x, y) -> float:
    """Spearman's rank correlation of two lists of numbers; equal values share the average of their ranks.

    Parameters, result and errors are those of `pearson`.
    """
    return Correlated(y).spearman(x)


def average_ranks(values) -> np.ndarray:
    """Ranks 1…n in ascending order; equal values share the average of the ranks they take up together.

    Parameters
    ----------
    values : array-like, shape (n,)

    Returns
    -------
    ndarray, shape (n,), float64
    """
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(sizes)
    return (last_rank - (sizes - 1) / 2)[group]


class Correlated:
    """One list of numbers that is correlated with many others: what depends on it alone is computed once.

    `pearson(x)` and `spearman(x)` are those of the functions, bit for bit.

    Parameters
    ----------
    y : array-like, shape (n,)
        As in `pearson`.
    """

    def __init__(self, y) -> None:
        self._y = _checked("y", y)

    def __len__(self) -> int:
        return self._y.size

    def pearson(self, x) -> float:
        """Pearson's correlation of `x` and this list."""
        return _coefficient(_standardised(self._fitting(x)), self._deviations)

    def spearman(self, x) -> float:
        """Spearman's rank correlation of `x` and this list."""
        return _coefficient(_standardised(average_ranks(self._fitting(x))), self._rank_deviations)

    @functools.cached_property
    def _deviations(self):
        return _standardised(self._y)

    @functools.cached_property
    def _rank_deviations(self):
        return _standardised(average_ranks(self._y))

    def _fitting(self, x) -> np.ndarray:
        x = _checked("x", x)
        if x.size != self._y.size:
            raise ValueError(f"x has {x.size} values and y has {self._y.size}: a correlation needs pairs")
        return x


def _standardised(values: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Scaled deviations from the mean and the root of the sum of their squares; None where all values are equal."""
    if values.size < 2 or values.min() == values.max():
        return None
    deviations = _centred(values)
    return deviations, math.sqrt(math.fsum((deviations * deviations).tolist()))


def _coefficient(x: tuple[np.ndarray, float] | None, y: tuple[np.ndarray, float] | None) -> float:
    if x is None or y is None:
        return math.nan
    covariance = math.fsum((x[0] * y[0]).tolist())
    # Two roots, not the root of the product, which may leave the range of a double.
    return min(1.0, max(-1.0, covariance / (x[1] * y[1])))


def _checked(name: str, values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"{name} has shape {values.shape}: pass a one-dimensional list of numbers")
    finite = np.isfinite(values)
    if not finite.all():
        index = int(np.argmin(finite))
        raise ValueError(f"{name}[{index}] is {values[index]}: a correlation needs finite numbers")
    return values


def _centred(values: np.ndarray) -> np.ndarray:
    """Deviations from the mean, scaled so that their squares can neither overflow nor vanish."""
    # The first mean is off by up to half a unit in the last place, which is much where all values nearly
    # agree; the second round, on the scaled deviations, removes what is left of it.
    for _ in range(2):
        values = values / np.abs(values).max()
        values = values - math.fsum(values.tolist()) / values.size
    return values
