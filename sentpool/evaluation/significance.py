"""How large chance is: bootstrap intervals, Williams' test of two correlations, Holm's correction, without SciPy."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sentpool.checks import positive_integer, seed
from sentpool.errors import shown


class Bootstrap(NamedTuple):
    """How intervals are made: percentile bootstrap, items drawn with replacement within each subset.

    The percentile interval: tests/test_significance.py simulates how often it covers the true difference of
    two coefficients, and of two means.
    """

    resamples: int
    seed: int
    confidence: float

    @classmethod
    def checked(cls, resamples, seed_, confidence) -> Bootstrap:
        """From arguments of users.

        Raises
        ------
        TypeError, ValueError
            Names the argument, its value and what is allowed.
        """
        resamples = positive_integer("resamples", resamples)
        if resamples < 100:
            raise ValueError(f"resamples is {resamples}: an interval needs at least 100, and 1,000 are usual")
        if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 < confidence < 1:
            raise ValueError(f"confidence is {shown(confidence)}: pass a number between 0 and 1, such as 0.95")
        return cls(resamples, seed("seed", seed_), float(confidence))


class Interval(NamedTuple):
    """The ends of a confidence interval; both nan where the number itself is undefined."""

    low: float
    high: float


class Williams(NamedTuple):
    """Williams' t, its degrees of freedom and its two-sided p."""

    t: float
    df: int
    p: float


def percentile_interval(replicates, confidence: float) -> Interval:
    """The interval between two percentiles of a number's values over resamples (Efron 1979).

    Parameters
    ----------
    replicates : ndarray, shape (resamples,)
        Undefined ones (nan) are left out.
    confidence : float
    """
    replicates = replicates[~np.isnan(replicates)]
    if not replicates.size:
        return Interval(math.nan, math.nan)
    tail = (1 - confidence) / 2
    return Interval(*np.quantile(replicates, [tail, 1 - tail]).tolist())


def bootstrap_p(replicates) -> float:
    """Two-sided p of "no difference" from a difference's values over resamples.

    The smallest 1 - confidence whose percentile interval excludes 0, never below 2 / (resamples + 1): so many resamples
    can tell no more. nan where all values are undefined.
    """
    replicates = replicates[~np.isnan(replicates)]
    if not replicates.size:
        return math.nan
    smaller = min(np.count_nonzero(replicates <= 0), np.count_nonzero(replicates >= 0))
    return min(1.0, 2 * (smaller + 1) / (replicates.size + 1))


def williams(r12: float, r13: float, r23: float, n: int) -> Williams:
    """Test whether two correlations that share a variable differ: r12 = r13, where 2 and 3 correlate by r23.

    t = (r12 − r13) √[ (n − 1)(1 + r23) / (2 |R| (n − 1)/(n − 3) + r̄² (1 − r23)³) ], with |R| the determinant of the
    three variables' correlation matrix and r̄ = (r12 + r13)/2, has n − 3 degrees of freedom (Williams 1959, in the form
    of Steiger 1980, T2). Exact for normal variables; applied to ranks (Spearman) an approximation.

    Parameters
    ----------
    r12, r13, r23 : float
        In [-1, 1].
    n : int
        Items, at least 4.

    Returns
    -------
    Williams
        ``t``, ``df``, ``p`` (two-sided). Equal correlations: t 0, p 1. nan where a correlation is nan, or where
        the three leave no room for chance (|R| = 0 and r23 = 1).

    Raises
    ------
    ValueError
        A correlation outside [-1, 1], three that no data have, or n below 4.

    Examples
    --------
    >>> t, df, p = williams(0.4, 0.5, 0.1, 103)
    >>> f"{t:.2f} {df} {p:.2f}"
    '-0.89 100 0.37'
    """
    if n < 4:
        raise ValueError(f"n is {n}: Williams' test needs at least 4 items")
    for name, value in (("r12", r12), ("r13", r13), ("r23", r23)):
        if not math.isnan(value) and not -1 <= value <= 1:
            raise ValueError(f"{name} is {value}: a correlation is between -1 and 1")
    determinant = 1 - r12**2 - r13**2 - r23**2 + 2 * r12 * r13 * r23
    if determinant < -1e-9:
        raise ValueError(f"r12, r13 and r23 are {r12}, {r13} and {r23}: no data have these three correlations")
    df = n - 3
    spread = 2 * max(determinant, 0.0) * (n - 1) / df + ((r12 + r13) / 2) ** 2 * (1 - r23) ** 3
    if r12 == r13:
        return Williams(0.0, df, 1.0)
    if math.isnan(spread) or spread <= 0:
        return Williams(math.nan, df, math.nan)
    t = (r12 - r13) * math.sqrt((n - 1) * (1 + r23) / spread)
    return Williams(t, df, student_p(t, df))


def student_p(t: float, df: int) -> float:
    """The chance that Student's t with `df` degrees of freedom lies at least as far from 0 as `t`."""
    total = df + t * t
    return _incomplete_beta(df / 2, 0.5, df / total, t * t / total)


def holm(p_values) -> np.ndarray:
    """Holm's (1979) step-down correction of p values for their number; nan stays nan and is not counted.

    Parameters
    ----------
    p_values : array-like, shape (m,)

    Returns
    -------
    ndarray, shape (m,), float64
        Rejecting where these are at most α keeps the chance of any false rejection at most α, however the tests depend
        on each other.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    stepped = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(stepped))
    return adjusted


def _incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """The regularised incomplete beta function I_x(a, b) with y = 1 - x, by Lentz's continued fraction."""
    if x <= 0 or y <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction of the other tail converges faster
        return 1 - _incomplete_beta(b, a, y, x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y)
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d or tiny)
    fraction = d
    for m in range(1, 10_000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / ((1 + step * d) or tiny)
            c = (1 + step / c) or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(log_front) * fraction / a
