"""What training makes small: a loss of a batch's embeddings, and its gradient.

An objective is called with embeddings (roles, n, d): role by role what the texts of n samples became. Which column of
the data a role reads is said by `roles`: with one column, both roles of `InfoNCE` read it, and dropout alone tells the
two embeddings of a text apart (SimCSE, unsupervised).
"""

from __future__ import annotations

import math

import numpy as np

from sentpool import _core
from sentpool.checks import one_of, positive_number
from sentpool.errors import shown
from sentpool.threads import resolve

_LARGEST_LOGARITHM = 700  # whose exponential is finite


class InfoNCE:
    """The contrastive loss over cosines with the batch's other samples as negatives (SimCSE, Gao et al. 2021, eq. 5).

    With embeddings a, b and, of triplets, hard negatives c:
    ``loss = -mean_i log(exp(cos(a_i, b_i) / t) / sum_j (exp(cos(a_i, b_j) / t) + alpha_ij exp(cos(a_i, c_j) / t)))``,
    where alpha_ij is `hard_negative_alpha` for a sample's own hard negative and 1 for those of others (eq. 8).

    Parameters
    ----------
    temperature
        t, above 0; 0.05 unless given.
    scale
        1 / t instead, as sentence-transformers has it.
    hard_negative_alpha
        The weight of a sample's own hard negative, above 0; 1 unless given.
    hard_negative_weight
        Its logarithm instead, as the code of SimCSE and of Oh et al. has it.
    symmetric
        Take the mean with the loss in which a and b have changed places; hard negatives count in the first only.

    Attributes
    ----------
    temperature, hard_negative_alpha, symmetric
        As given, or as what was given means.

    Raises
    ------
    TypeError, ValueError
        If a value is not as said, or two are given for the same thing.
    """

    needs_scores = False

    def __init__(
        self,
        temperature: float | None = None,
        *,
        scale: float | None = None,
        hard_negative_alpha: float | None = None,
        hard_negative_weight: float | None = None,
        symmetric: bool = False,
    ) -> None:
        self.temperature, self._scale = _temperature_and_scale(temperature, scale)
        _at_most_one(
            "hard_negative_alpha", hard_negative_alpha, "hard_negative_weight", hard_negative_weight, "its logarithm"
        )
        one_of("symmetric", symmetric, (False, True))
        if hard_negative_weight is not None:
            self._log_alpha = _logarithm("hard_negative_weight", hard_negative_weight)
            self.hard_negative_alpha = math.exp(self._log_alpha)
        else:
            alpha = 1.0 if hard_negative_alpha is None else positive_number("hard_negative_alpha", hard_negative_alpha)
            self.hard_negative_alpha, self._log_alpha = alpha, math.log(alpha)
        self.symmetric = symmetric

    def __repr__(self) -> str:
        return (
            f"InfoNCE(temperature={self.temperature!r}, hard_negative_alpha={self.hard_negative_alpha!r}, "
            f"symmetric={self.symmetric!r})"
        )

    def roles(self, columns: int) -> tuple[int, ...]:
        """The column that each role reads: texts alone are their own positives, triplets have hard negatives.

        Raises
        ------
        ValueError
            If `columns` is not 1, 2 or 3.
        """
        if columns not in (1, 2, 3):
            raise ValueError(
                f"InfoNCE takes texts, pairs or triplets (text, positive, hard negative), not {shown(columns)} columns"
            )
        return ((0, 0), (0, 1), (0, 1, 2))[columns - 1]

    def __call__(self, embeddings: np.ndarray, scores=None, threads: int | None = None) -> tuple[float, np.ndarray]:
        """The loss of a batch and its gradient.

        Parameters
        ----------
        embeddings
            (2, n, d) or, with hard negatives, (3, n, d). A vector of zeros has cosine 0 with all others, and a
            gradient of zeros.
        scores
            None: this objective has no use for scores.
        threads
            How many threads to use; None means `get_num_threads()`. The bits do not depend on it.

        Returns
        -------
        loss : float
        gradient : numpy.ndarray
            float32, of the embeddings' shape.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as said.
        """
        if scores is not None:
            raise ValueError("InfoNCE has no use for scores; drop them, or train with CoSENT")
        return _core.infonce(embeddings, self._scale, self._log_alpha, self.symmetric, resolve(threads))


class CoSENT:
    """The loss of pairs with similarity scores that ranks their cosines (Su 2022, https://kexue.fm/archives/8847).

    ``loss = log(1 + sum over i, j with score_i < score_j of exp(scale (cos(a_i, b_i) - cos(a_j, b_j))))``.

    Parameters
    ----------
    scale
        Above 0; 20 unless given, as in sentence-transformers.
    temperature
        Instead of `scale`, its reciprocal.

    Raises
    ------
    TypeError, ValueError
        If an argument is no number above 0, or if both are given.
    """

    needs_scores = True

    def __init__(self, scale: float | None = None, *, temperature: float | None = None) -> None:
        self.scale = _temperature_and_scale(temperature, scale)[1]

    def __repr__(self) -> str:
        return f"CoSENT(scale={self.scale!r})"

    def roles(self, columns: int) -> tuple[int, int]:
        """The column that each role reads.

        Raises
        ------
        ValueError
            If `columns` is not 2.
        """
        if columns != 2:
            raise ValueError(f"CoSENT takes pairs of texts with scores, not {shown(columns)} columns")
        return (0, 1)

    def __call__(self, embeddings: np.ndarray, scores=None, threads: int | None = None) -> tuple[float, np.ndarray]:
        """The loss of a batch and its gradient.

        Parameters
        ----------
        embeddings
            (2, n, d).
        scores
            n finite numbers, higher for pairs that are more alike; only their order counts.
        threads
            As for `InfoNCE`.

        Returns
        -------
        loss : float
        gradient : numpy.ndarray
            float32, of the embeddings' shape.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as said.
        """
        if scores is None:
            raise ValueError("CoSENT needs the pairs' scores; without scores, train with InfoNCE")
        scores = np.asarray(scores, np.float64)
        if not np.isfinite(scores).all():
            raise ValueError("scores contain NaN or Inf; drop those pairs")
        return _core.cosent(embeddings, scores, self.scale, resolve(threads))


def _temperature_and_scale(temperature: float | None, scale: float | None) -> tuple[float, float]:
    """Both, each the reciprocal of the other, from one of them or neither."""
    _at_most_one("temperature", temperature, "scale", scale, "its reciprocal")
    if scale is not None:
        scale = positive_number("scale", scale)
        return 1 / scale, scale
    temperature = 0.05 if temperature is None else positive_number("temperature", temperature)
    return temperature, 1 / temperature


def _at_most_one(name: str, value, other: str, other_value, what: str) -> None:
    if value is not None and other_value is not None:
        raise ValueError(f"{name} is {shown(value)} and {other}, {what}, is {shown(other_value)}; give one of them")


def _logarithm(name: str, value: object) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__} {shown(value)}")
    if not abs(value) <= _LARGEST_LOGARITHM:
        limits = f"from -{_LARGEST_LOGARITHM} to {_LARGEST_LOGARITHM}"
        raise ValueError(f"{name} is {shown(value)}; it is a logarithm, and must be a number {limits}")
    return float(value)


__all__ = ["CoSENT", "InfoNCE"]
