"""Pearson and Spearman correlation in float64, without SciPy.

Sums go through `math.fsum`, which rounds once at the end: a coefficient does not depend on the order of the
pairs, nor on the vector width of the machine that adds them up.
"""

from __future__ import annotations

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
    x, y = _checked_pair(x, y)
    if _is_constant(x) or _is_constant(y):
        return math.nan
    x, y = _centred(x), _centred(y)
    covariance = math.fsum((x * y).tolist())
    variances = math.fsum((x * x).tolist()), math.fsum((y * y).tolist())
    # Two roots, not the root of the product, which may leave the range of a double.
    coefficient = covariance / (math.sqrt(variances[0]) * math.sqrt(variances[1]))
    return min(1.0, max(-1.0, coefficient))


def spearman(x, y) -> float:
    """Spearman's rank correlation of two lists of numbers; equal values share the average of their ranks.

    Parameters, result and errors are those of `pearson`.
    """
    x, y = _checked_pair(x, y)
    return pearson(average_ranks(x), average_ranks(y))


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


def _checked_pair(x, y) -> tuple[np.ndarray, np.ndarray]:
    x, y = _checked("x", x), _checked("y", y)
    if x.size != y.size:
        raise ValueError(f"x has {x.size} values and y has {y.size}: a correlation needs pairs")
    return x, y


def _checked(name: str, values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"{name} has shape {values.shape}: pass a one-dimensional list of numbers")
    finite = np.isfinite(values)
    if not finite.all():
        index = int(np.argmin(finite))
        raise ValueError(f"{name}[{index}] is {values[index]}: a correlation needs finite numbers")
    return values


def _is_constant(values: np.ndarray) -> bool:
    return values.size < 2 or values.min() == values.max()


def _centred(values: np.ndarray) -> np.ndarray:
    """Deviations from the mean, scaled so that their squares can neither overflow nor vanish."""
    # The first mean is off by up to half a unit in the last place, which is much where all values nearly
    # agree; the second round, on the scaled deviations, removes what is left of it.
    for _ in range(2):
        values = values / np.abs(values).max()
        values = values - math.fsum(values.tolist()) / values.size
    return values
