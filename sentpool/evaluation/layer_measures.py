"""Measures of a layer that need no labels, from its token states and from views of its texts. NumPy in float64.

O. Skean et al., "Layer by Layer: Uncovering Hidden Representations in Language Models", ICML 2025 (arXiv 2502.02013)
collect them and ask which tells a good layer. `evaluation.geometry` applies these functions to a model.
"""

from __future__ import annotations

import math

import numpy as np

from sentpool.checks import one_of, positive_number
from sentpool.errors import shown
from sentpool.evaluation.space_geometry import entropy, matrix, unit_rows

# Cosines of so many pairs are held at a time: 32 MB.
_BLOCK_PAIRS = 1 << 22


def unit_states(states) -> np.ndarray:
    """Token states (..., T, H) as float64, each scaled to length 1.

    Raises
    ------
    TypeError, ValueError
        No array of real numbers (..., T, H); NaN, infinity, or a state of zeros.
    """
    states = _token_states(states)
    lengths = np.sqrt(np.square(states).sum(axis=-1, keepdims=True))
    if not lengths.all():
        token = int(np.argwhere(lengths == 0)[0][-2])
        raise ValueError(f"the state of token {token} is a vector of zeros, which has no direction")
    return states / lengths


def prompt_entropy(states, alpha: float = 1.0, *, clamp: bool = False) -> float | np.ndarray:
    """How different the directions of a text's tokens are: the entropy of their Gram matrix's spectrum, in nats.

    With Z the states at length 1 and λ the eigenvalues of Z Zᵀ / T: −Σ λ log λ, or log(Σ λ^alpha) / (1 − alpha). 0 if
    all tokens are equal, log T if they are orthogonal; `largest_entropy` is the bound.

    Parameters
    ----------
    states : array_like, shape (..., T, H)
        Of one text; several layers at a time give several numbers.
    alpha : float, default 1
        Order of Rényi's entropy; 1 is Shannon's.
    clamp : bool, default False
        Replace cosines below 0 by 0 first, as the code of the paper does (OFSkean/information_flow) and its formula
        does not.

    Returns
    -------
    float or ndarray, shape (...)

    Raises
    ------
    TypeError, ValueError
        No array of real numbers (..., T, H); NaN, infinity, or a state of zeros; an `alpha` that is not above 0.
    """
    positive_number("alpha", alpha)
    return entropy(_gram_spectrum(unit_states(states), clamp), alpha)


def dataset_entropy(vectors, alpha: float = 1.0, *, clamp: bool = False) -> float:
    """How different texts are: the entropy of the spectrum of M Mᵀ / trace, in nats.

    Row i of M belongs to text i: the mean of its token states, each at length 1. The spectrum that enters is σ², σ
    being the singular values of M; `effective_rank` takes σ.

    Parameters
    ----------
    vectors : array_like, shape (n, d)
        M; at least two rows.
    alpha, clamp
        As in `prompt_entropy`; `clamp` concerns the entries of M Mᵀ, or of Mᵀ M where n > d.

    Returns
    -------
    float
        nan if all vectors are zero.

    Raises
    ------
    TypeError, ValueError
        No array (n, d) of at least two vectors; NaN or infinity; an `alpha` that is not above 0.
    """
    positive_number("alpha", alpha)
    return entropy(_gram_spectrum(matrix("vectors", vectors), clamp), alpha)


def largest_entropy(n: int, d: int) -> float:
    """log min(n, d): the entropy of n vectors of d numbers at most, by which the paper divides ("maxEntropy")."""
    return math.log(min(n, d))


def curvature(states, of: str = "differences") -> float | np.ndarray:
    """How sharply a text turns on its way through the states of its tokens: the mean angle, in radians.

    Parameters
    ----------
    states : array_like, shape (..., T, H)
        As given; `evaluation.geometry` gives states at length 1, as Skean et al. do.
    of : {"differences", "states"}
        "differences": between successive steps z_{k+1} − z_k, as E. Hosseini, E. Fedorenko, "Large language models
        implicitly learn to straighten neural sentence trajectories", NeurIPS 2023: 0 on a straight line, π to and fro.
        "states": between successive states z_k themselves, as early code of Skean et al. did under the same name.

    Returns
    -------
    float or ndarray, shape (...)
        Over the angles that exist: a step of length 0 has none. nan where there is none, as in a text of two tokens.

    Raises
    ------
    TypeError, ValueError
        No array of real numbers (..., T, H); NaN or infinity; another `of`.
    """
    one_of("of", of, ("differences", "states"))
    steps = _token_states(states)
    if of == "differences":
        steps = np.diff(steps, axis=-2)
    lengths = np.sqrt(np.square(steps).sum(axis=-1, keepdims=True))
    moves = lengths[..., 0] > 0
    steps = np.divide(steps, lengths, out=np.zeros_like(steps), where=lengths > 0)
    before, after = steps[..., :-1, :], steps[..., 1:, :]
    # W. Kahan's formula: exact near 0 and π, where arccos of a rounded cosine is not.
    apart, together = (np.sqrt(np.square(v).sum(axis=-1)) for v in (before - after, before + after))
    angles = 2 * np.arctan2(apart, together)
    exist = moves[..., :-1] & moves[..., 1:]
    count = exist.sum(axis=-1)
    total = np.where(exist, angles, 0.0).sum(axis=-1)
    result = np.divide(total, count, out=np.full(np.shape(total), math.nan), where=count > 0)
    return float(result) if result.ndim == 0 else result


def infonce(a, b, temperature: float = 0.1) -> float:
    """SimCLR's loss of two views of the same texts: how well a view finds its partner among all others.

    T. Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020 (NT-Xent): the
    mean over all 2n views of −log(exp(cos⁺ / temperature) / Σ exp(cos / temperature)), the sum being over the other
    2n − 1 views. log(2n − 1) if all are equal; lower is better. 2n × 2n cosines are never held together.

    Parameters
    ----------
    a, b : array_like, shape (n, d)
        Row i of one is a view of the same text as row i of the other.
    temperature : float, default 0.1

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        Not two arrays of one shape (n, d), n >= 2; NaN, infinity or a vector of zeros; a `temperature` that is not
        above 0.
    """
    positive_number("temperature", temperature)
    a, b = unit_rows("a", a), unit_rows("b", b)
    if a.shape != b.shape:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}: row i of one is a view of the text of row i")
    views = np.concatenate([a, b])
    partners = (a * b).sum(axis=1) / temperature
    rows = max(1, _BLOCK_PAIRS // len(views))
    total = 0.0
    for start in range(0, len(views), rows):
        logits = views[start : start + rows] @ views.T / temperature
        here = np.arange(len(logits))
        logits[here, start + here] = -math.inf  # no view is its own partner
        largest = logits.max(axis=1, keepdims=True)
        total += float((largest[:, 0] + np.log(np.exp(logits - largest).sum(axis=1))).sum())
    return total / len(views) - float(partners.mean())


def lidar(views, delta: float = 1e-4) -> float:
    """LiDAR: in how many directions texts differ by more than their views do, as an entropy in nats.

    V. Thilak et al., "LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures", ICLR 2024: the
    entropy of the eigenvalues of Σ_w^(−1/2) Σ_b Σ_w^(−1/2), scaled to the sum 1, where Σ_b is the covariance of the
    texts' mean vectors and Σ_w that of views around them plus `delta` on the diagonal. Higher is better; the paper's
    own number is exp of it.

    Parameters
    ----------
    views : array_like, shape (n, q, d)
        q >= 2 views of each of n >= 2 texts.
    delta : float, default 1e-4

    Returns
    -------
    float
        nan if all texts have the same mean.

    Raises
    ------
    TypeError, ValueError
        No array of real numbers (n, q, d); fewer than two texts or views; NaN or infinity; a `delta` that is not above
        0.
    """
    positive_number("delta", delta)
    views = np.asarray(views)
    if views.ndim != 3 or views.shape[1] < 2:
        raise ValueError(f"views has shape {views.shape}; it must be (n, q, d) with at least two views q of each text")
    n, q, d = views.shape
    views = matrix("views", views.reshape(n * q, d)).reshape(n, q, d)
    if n < 2:
        raise ValueError(f"views has shape {views.shape}; at least two texts are needed, better some hundreds")
    means = views.mean(axis=1)
    within = (views - means[:, None]).reshape(n * q, d)
    between = means - means.mean(axis=0)
    if (means == means[0]).all():
        return math.nan
    factor = np.linalg.cholesky(within.T @ within / (n * q) + delta * np.eye(d))
    # F⁻¹ Σ_b F⁻ᵀ, with Σ_w = F Fᵀ, has the eigenvalues of Σ_w^(−1/2) Σ_b Σ_w^(−1/2).
    spread = np.linalg.solve(factor, between.T)
    return entropy(np.linalg.eigvalsh(spread @ spread.T if d <= n else spread.T @ spread))


def _token_states(states) -> np.ndarray:
    array = np.asarray(states)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"states must be an array of real numbers, not {type(states).__name__} {shown(states)}")
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(f"states has shape {array.shape}; it must be (..., T, H), none of them empty")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError("states holds NaN or infinity")
    return array


def _gram_spectrum(rows: np.ndarray, clamp: bool) -> np.ndarray:
    """Eigenvalues, up to a factor, of the smaller of the two Gram matrices (..., k, k) of `rows` (..., n, d)."""
    turned = np.swapaxes(rows, -1, -2)
    gram = rows @ turned if rows.shape[-2] <= rows.shape[-1] else turned @ rows
    return np.linalg.eigvalsh(np.maximum(gram, 0.0) if clamp else gram)
