"""What follows the layers: dense layers, normalisation, truncation. Called with vectors (n, d), they give (n, d')."""

from __future__ import annotations

import numpy as np

from sentpool import _core
from sentpool.checks import one_of, positive_integer
from sentpool.pooling.component import Component, parameter, require_width

ACTIVATIONS = ("identity", "tanh", "gelu", "relu", "sigmoid")


class HeadModule(Component):
    """A step from vectors to vectors."""

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Vectors (n, d') float32 from vectors (n, d) float32."""
        raise NotImplementedError

    def forward_with_cache(self, embeddings: np.ndarray) -> tuple[np.ndarray, object]:
        """The vectors in training, and what `backward` needs."""
        return self(embeddings), embeddings

    def backward(self, d_embeddings: np.ndarray, cache) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The gradient of the vectors that came in, and those of parameters, from that of the vectors that came out."""
        raise NotImplementedError

    def dimension(self, width: int) -> int:
        """How many numbers come out for vectors of `width`; raises ValueError if it does not take such."""
        return width


class Dense(HeadModule):
    """activation(x Wᵀ + b).

    Parameters
    ----------
    weight : array_like, shape (out, in)
    bias : array_like, shape (out,), or None
    activation : {"identity", "tanh", "gelu", "relu", "sigmoid"}
    train_only : bool, default False
        Whether it acts in training alone, as in unsupervised SimCSE (Gao et al. 2021): called, it gives vectors back
        as they are, and a saved model is without it.
    """

    def __init__(self, weight, bias=None, activation: str = "tanh", *, train_only: bool = False) -> None:
        one_of("activation", activation, ACTIVATIONS)
        one_of("train_only", train_only, (True, False))
        self.activation, self.train_only = activation, train_only
        self.weight = parameter("weight", weight, 2)
        self.bias = None if bias is None else parameter("bias", bias, 1)
        if bias is not None and len(self.bias) != len(self.weight):
            raise ValueError(f"bias has {len(self.bias)} numbers; weight gives {len(self.weight)}")

    def config(self):
        return {"type": "Dense", "activation": self.activation} | ({"train_only": True} if self.train_only else {})

    def parameters(self):
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def dimension(self, width):
        require_width(self, self.weight.shape[1], width)
        return width if self.train_only else len(self.weight)

    def __call__(self, embeddings):
        return embeddings if self.train_only else self._apply(embeddings)

    def forward_with_cache(self, embeddings):
        return self._apply(embeddings), embeddings

    def backward(self, d_embeddings, cache):
        d_input, *gradients = _core.dense_backward(d_embeddings, cache, self.weight, self.bias, self.activation)
        return d_input, dict(zip(self.parameters(), gradients, strict=False))

    def _apply(self, embeddings: np.ndarray) -> np.ndarray:
        return _core.dense(embeddings, self.weight, self.bias, self.activation)

    def __str__(self) -> str:
        kind = f"dense {self.weight.shape[1]}→{self.weight.shape[0]} {self.activation}"
        return f"{kind} in training" if self.train_only else kind


class Normalize(HeadModule):
    """Division by the Euclidean norm (at least 1e-12)."""

    def __call__(self, embeddings):
        return _core.normalize(embeddings)

    def backward(self, d_embeddings, cache):
        return _core.normalize_backward(d_embeddings, cache), {}

    def __str__(self) -> str:
        return "normalize"


class Truncate(HeadModule):
    """The first `k` numbers.

    Parameters
    ----------
    k : int
    """

    def __init__(self, k: int) -> None:
        self.k = positive_integer("k", k)

    def config(self):
        return {"type": "Truncate", "k": self.k}

    def dimension(self, width):
        if self.k > width:
            raise ValueError(f"k is {self.k}; what is truncated has only {width} numbers")
        return self.k

    def __call__(self, embeddings):
        self.dimension(embeddings.shape[1])
        return embeddings[:, : self.k]

    def backward(self, d_embeddings, cache):
        d_input = np.zeros(cache.shape, np.float32)
        d_input[:, : self.k] = d_embeddings
        return d_input, {}

    def __str__(self) -> str:
        return f"truncate {self.k}"
