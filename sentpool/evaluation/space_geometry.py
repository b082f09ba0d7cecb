"""The geometry of a set of vectors: how close pairs are, how evenly the space is used. NumPy in float64.

Functions of an array; `evaluation.geometry` applies them to layers and poolings of a model. Bits are not promised to be
equal across machines, since those of NumPy's products and decompositions are not.
"""

from __future__ import annotations

import contextlib
import math

import numpy as np

from sentpool.checks import positive_number
from sentpool.errors import shown
from sentpool.progress import progress_bar

# Exponents of so many pairs are held at a time: 32 MB.
_BLOCK_PAIRS = 1 << 22


def alignment(x, y, alpha: float = 2.0) -> float:
    """How far apart the two vectors of a positive pair are: the mean of ‖x̂ᵢ − ŷᵢ‖^alpha, x̂ being x at length 1.

    T. Wang, P. Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere", ICML 2020. 0 if partners point the same way, 2 (for alpha = 2) if they are orthogonal; lower is
    better.

    Parameters
    ----------
    x, y : array_like, shape (n, d)
        Row i of one belongs to row i of the other.
    alpha : float, default 2
        Above 0.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        Not two arrays of one shape (n, d), n >= 1; NaN, infinity or a vector of zeros; an `alpha` that is not above 0.

    Examples
    --------
    >>> alignment([[1.0, 0.0]], [[0.0, 3.0]])
    2.0
    """
    positive_number("alpha", alpha)
    x, y = unit_rows("x", x, fewest=1), unit_rows("y", y, fewest=1)
    if x.shape != y.shape:
        raise ValueError(f"x has shape {x.shape} and y {y.shape}: row i of one belongs to row i of the other")
    squares = ((x - y) ** 2).sum(axis=1)
    return float((squares ** (alpha / 2)).mean())


def uniformity(x, t: float = 2.0, *, show_progress_bar: bool | None = None) -> float:
    """How evenly vectors spread over the sphere: log of the mean of exp(−t ‖x̂ᵢ − x̂ⱼ‖²) over distinct pairs.

    T. Wang, P. Isola, ICML 2020 (see `alignment`). Exact over all n (n − 1) / 2 pairs, which are never held together. 0
    if all vectors point the same way, −4 (for t = 2) if all are orthogonal; lower is better.

    Parameters
    ----------
    x : array_like, shape (n, d)
        At least two vectors.
    t : float, default 2
        Above 0.
    show_progress_bar : bool, optional
        By default a bar appears where somebody can see it and the work takes more than two seconds.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        No array (n, d) of at least two vectors; NaN, infinity or a vector of zeros; a `t` that is not above 0.

    Examples
    --------
    >>> uniformity([[1.0, 0.0], [0.0, 1.0]])
    -4.0
    """
    positive_number("t", t)
    x = unit_rows("x", x)
    n = len(x)
    rows = max(1, _BLOCK_PAIRS // n)
    # Sums of exp(exponent - largest): a large t must not make them vanish.
    largest, total = -math.inf, 0.0
    with contextlib.closing(_Rows(n, show_progress_bar)) as progress:
        for start in range(0, n - 1, rows):
            block = x[start : start + rows]
            cosines = block @ x[start + 1 :].T
            # Row k of the block meets those after it: columns from k on.
            exponents = 2 * t * (np.minimum(cosines, 1.0) - 1.0)
            exponents[np.tril_indices(len(block), -1, exponents.shape[1])] = -math.inf
            before, largest = largest, max(largest, float(exponents.max()))
            total = total * math.exp(before - largest) + float(np.exp(exponents - largest).sum())
            progress.add(len(block))
    return largest + math.log(total) - math.log(n * (n - 1) / 2)


def mean_cosine(x, *, centred: bool = False) -> float:
    """The mean cosine of all pairs of different rows: the anisotropy of Ethayarajh (EMNLP 2019), without sampling.

    Parameters
    ----------
    x : array_like, shape (n, d)
        At least two vectors.
    centred : bool, default False
        Subtract the mean vector first (Cai et al., ICLR 2021).

    Returns
    -------
    float
        In [-1, 1]; nan where `centred` leaves a vector of zeros.

    Raises
    ------
    TypeError, ValueError
        No array (n, d) of at least two vectors; NaN, infinity or, unless `centred`, a vector of zeros.
    """
    if centred:
        x = _centred(matrix("x", x))
        if x is None or not np.abs(x).max(axis=1).all():
            return math.nan
    x = unit_rows("x", x)
    n = len(x)
    return float((np.square(x.sum(axis=0)).sum() - np.square(x).sum()) / (n * (n - 1)))


def singular_values(x) -> np.ndarray:
    """The singular values of the matrix of vectors as given, neither centred nor scaled: (min(n, d),), largest first.

    Raises
    ------
    TypeError, ValueError
        No array (n, d) of at least two vectors; NaN or infinity.
    """
    return np.linalg.svd(matrix("x", x), compute_uv=False)


def effective_rank(x) -> float:
    """exp of the entropy of σ / Σσ, σ being `singular_values`: in how many dimensions the vectors lie, so to speak.

    O. Roy, M. Vetterli, "The Effective Rank: A Measure of Effective Dimensionality", EUSIPCO 2007; as RankMe (Garrido
    et al., ICML 2023). Between 1 and min(n, d), so few vectors bound it.

    Parameters
    ----------
    x : array_like, shape (n, d)
        At least two vectors.

    Returns
    -------
    float
        nan if all vectors are zero.

    Raises
    ------
    TypeError, ValueError
        As `singular_values`.
    """
    return math.exp(entropy(singular_values(x)))


def isoscore(x) -> float:
    """IsoScore: which part of the dimensions the variance fills evenly. 1: all of them; 0: one.

    W. Rudman, N. Gillman, T. Rayne, C. Eickhoff, "IsoScore: Measuring the Uniformity of Embedding Space Utilization",
    Findings of ACL 2022. Its seven steps reduce to (r − 1) / (d − 1), where r = (Σλ)² / Σλ² and λ are the eigenvalues
    of the covariance: with Σv = √d Σλ / ‖λ‖, the isotropy defect δ satisfies d − δ² (d − √d) = Σv. Fewer than d + 1
    vectors bound it by (n − 2) / (d − 1).

    Parameters
    ----------
    x : array_like, shape (n, d)
        At least two vectors of at least two numbers.

    Returns
    -------
    float
        nan if all vectors are equal.

    Raises
    ------
    TypeError, ValueError
        No array (n, d) of at least two vectors, d >= 2; NaN or infinity.
    """
    x = matrix("x", x)
    n, d = x.shape
    if d < 2:
        raise ValueError(f"x has shape {x.shape}: IsoScore compares directions, of which one number has only one")
    x = _centred(x)
    if x is None:
        return math.nan
    # Either product has the covariance's eigenvalues other than 0, up to a factor that cancels.
    scatter = x.T @ x if d <= n else x @ x.T
    participation = np.trace(scatter) ** 2 / np.square(scatter).sum()
    return float((participation - 1) / (d - 1))


def entropy(weights, alpha: float = 1.0) -> float | np.ndarray:
    """Rényi's entropy of order `alpha`, in nats, of weights >= 0 scaled to the sum 1; Shannon's for alpha = 1.

    Parameters
    ----------
    weights : ndarray, shape (..., k)
        Numbers below 0, which decompositions give in place of 0, count as 0.
    alpha : float, default 1

    Returns
    -------
    float or ndarray, shape (...)
        nan where all weights are 0.
    """
    weights = np.maximum(weights, 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    shares = np.divide(weights, total, out=np.full_like(weights, math.nan), where=total > 0)
    if alpha == 1:
        logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        result = -(shares * logs).sum(axis=-1)
    else:
        result = np.log((shares**alpha).sum(axis=-1)) / (1 - alpha)
    result = result + 0.0  # no -0.0
    return float(result) if np.ndim(result) == 0 else result


def matrix(name: str, values, fewest: int = 2) -> np.ndarray:
    """`values` as float64 (n, d), finite, with at least `fewest` rows.

    Raises
    ------
    TypeError
        If it is no array of real numbers.
    ValueError
        If it has another shape, too few rows, or NaN or infinity (the row is named).
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be an array of real numbers, not {type(values).__name__} {shown(values)}")
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"{name} has shape {array.shape}; it must be (n, d), a vector in each row")
    if len(array) < fewest:
        least = "one vector" if fewest == 1 else f"{fewest} vectors"
        raise ValueError(f"{name} has {len(array)} rows; at least {least} are needed, better some hundreds")
    array = array.astype(np.float64)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name}[{int(np.argmin(finite))}] holds NaN or infinity; leave such vectors out")
    return array


def unit_rows(name: str, values, fewest: int = 2) -> np.ndarray:
    """`values` as `matrix` has it, each row scaled to length 1.

    Raises
    ------
    TypeError, ValueError
        As `matrix`; also for a row of zeros, which has no direction.
    """
    array = matrix(name, values, fewest)
    largest = np.abs(array).max(axis=1, keepdims=True)
    if not largest.all():
        raise ValueError(
            f"{name}[{int(np.argmin(largest))}] is a vector of zeros, which has no direction; leave it out"
        )
    # First by the largest number, so that squares neither overflow nor vanish.
    array /= largest
    array /= np.sqrt(np.square(array).sum(axis=1, keepdims=True))
    return array


def _centred(x: np.ndarray) -> np.ndarray | None:
    """Deviations from the mean, the largest of them 1; None if all rows are equal."""
    if (x == x[0]).all():
        return None
    x = x / np.abs(x).max()
    x -= x.mean(axis=0)
    return x / np.abs(x).max()


class _Rows:
    """A progress bar of rows, which may be none."""

    def __init__(self, n: int, show: bool | None) -> None:
        self._bar = progress_bar(n, "Comparing", "vectors", show)

    def add(self, rows: int) -> None:
        if self._bar is not None:
            self._bar.update(rows)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
