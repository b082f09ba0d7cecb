"""Steps that are fitted to given vectors: whitening and all-but-the-top."""

from __future__ import annotations

import numpy as np

from sentpool import _core
from sentpool.checks import positive_integer
from sentpool.errors import shown
from sentpool.pooling.component import parameter, require_width
from sentpool.pooling.head import HeadModule


class _Fitted(HeadModule):
    """A step with a mean and a matrix that `fit` finds, in float64. Not promised to be bit-equal across machines."""

    trainable = False
    mean: np.ndarray | None = None
    matrix: np.ndarray | None = None

    def __init__(self, mean=None, matrix=None) -> None:
        if (mean is None) != (matrix is None):
            raise ValueError("mean and matrix belong together: give both, or neither and fit()")
        if mean is not None:
            self.mean, self.matrix = parameter("mean", mean, 1), parameter("matrix", matrix, 2)
            if self.matrix.shape[1] != len(self.mean):
                raise ValueError(f"matrix has rows of {self.matrix.shape[1]} numbers and mean {len(self.mean)}")

    def parameters(self):
        return {} if self.mean is None else {"mean": self.mean, "matrix": self.matrix}

    def dimension(self, width):
        self._require_fit()
        require_width(self, len(self.mean), width)
        return width

    def _require_fit(self) -> None:
        if self.mean is None:
            raise ValueError(f"{self!r} has not been fitted: call fit(X) with vectors first")

    def _centred(self, embeddings: np.ndarray) -> np.ndarray:
        self.dimension(embeddings.shape[1])
        return embeddings - self.mean


class Whitening(_Fitted):
    """(x - μ) U Λ^(-1/2), the first k columns: BERT-whitening (Su et al. 2021, algorithm 1).

    U and Λ are the eigenvectors and eigenvalues of the covariance of the vectors that it was fitted to, largest first.

    Parameters
    ----------
    k : int, optional
        Dimensions to keep; by default all.
    mean, matrix : array_like, shapes (d,) and (k, d), optional
        Of a fitted one.
    """

    def __init__(self, k: int | None = None, *, mean=None, matrix=None) -> None:
        super().__init__(mean, matrix)
        self.k = None if k is None else positive_integer("k", k)

    def config(self):
        return {"type": "Whitening", "k": self.k}

    def fit(self, X) -> Whitening:  # noqa: N803 - scikit-learn's name
        """Fit to vectors X (n, d); returns a fitted copy.

        Raises
        ------
        ValueError
            If X does not vary in k dimensions; the largest possible k is named.
        """
        mean, values, vectors = _spectrum(X)
        k = self.k or len(mean)
        rank = _rank(values)
        if k > rank:
            raise ValueError(f"k is {k}; X varies in {rank} of its {len(mean)} dimensions: pass k <= {rank}")
        return Whitening(k, mean=mean, matrix=(vectors[:, :k] / np.sqrt(values[:k])).T)

    def dimension(self, width):
        super().dimension(width)
        return len(self.matrix)

    def __call__(self, embeddings):
        return _core.dense(self._centred(embeddings), self.matrix, None, "identity")

    def backward(self, d_embeddings, cache):
        return _core.dense(d_embeddings, self.matrix.T, None, "identity"), {}

    def __str__(self) -> str:
        return "whitening" if self.k is None else f"whitening {self.k}"


class AllButTheTop(_Fitted):
    """x - μ without its part in the first d principal components (Mu & Viswanath 2018, algorithm 1).

    Parameters
    ----------
    d : int
        Components to remove; the paper's rule is about width / 100.
    mean, matrix : array_like, shapes (width,) and (d, width), optional
        Of a fitted one.
    """

    def __init__(self, d: int, *, mean=None, matrix=None) -> None:
        super().__init__(mean, matrix)
        self.d = positive_integer("d", d)

    def config(self):
        return {"type": "AllButTheTop", "d": self.d}

    def fit(self, X) -> AllButTheTop:  # noqa: N803 - scikit-learn's name
        """Fit to vectors X (n, width); returns a fitted copy."""
        mean, _, vectors = _spectrum(X)
        if self.d >= len(mean):
            raise ValueError(f"d is {self.d}; vectors of {len(mean)} numbers would leave nothing")
        return AllButTheTop(self.d, mean=mean, matrix=vectors[:, : self.d].T)

    def __call__(self, embeddings):
        return self._project(self._centred(embeddings))

    def backward(self, d_embeddings, cache):
        return self._project(d_embeddings), {}

    def _project(self, vectors: np.ndarray) -> np.ndarray:
        parts = _core.dense(vectors, self.matrix, None, "identity")
        return vectors - _core.dense(parts, self.matrix.T, None, "identity")

    def __str__(self) -> str:
        return f"all but the top {self.d}"


def varying_dimensions(X) -> int:  # noqa: N803
    """In how many dimensions vectors X (n, d) vary beyond the rounding of float32: the largest k of a `Whitening`."""
    return _rank(_spectrum(X)[1])


def _rank(values: np.ndarray) -> int:
    return int((values > values[0] * len(values) * np.finfo(np.float32).eps).sum())


def _spectrum(X) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # noqa: N803
    """Mean, eigenvalues and eigenvectors (columns) of the covariance of X, largest first, float64."""
    X = np.asarray(X)  # noqa: N806
    if X.dtype.kind != "f" or X.ndim != 2 or len(X) < 2:
        raise ValueError(f"X must be an array (n, d) of at least two vectors, not {shown(X.dtype)} of shape {X.shape}")
    X = X.astype(np.float64)  # noqa: N806
    if not np.isfinite(X).all():
        raise ValueError("X holds NaN or infinity")
    mean = X.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(X, rowvar=False).reshape(X.shape[1], -1))
    return mean, values[::-1], vectors[:, ::-1]
