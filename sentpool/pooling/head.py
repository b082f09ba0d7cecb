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
    """

    def __init__(self, weight, bias, activation: str = "tanh") -> None:
        one_of("activation", activation, ACTIVATIONS)
        self.activation = activation
        self.weight = parameter("weight", weight, 2)
        self.bias = None if bias is None else parameter("bias", bias, 1)
        if bias is not None and len(self.bias) != len(self.weight):
            raise ValueError(f"bias has {len(self.bias)} numbers; weight gives {len(self.weight)}")

    def config(self):
        return {"type": "Dense", "activation": self.activation}

    def parameters(self):
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def dimension(self, width):
        require_width(self, self.weight.shape[1], width)
        return len(self.weight)

    def __call__(self, embeddings):
        return _core.dense(embeddings, self.weight, self.bias, self.activation)

    def __str__(self) -> str:
        return f"dense {self.weight.shape[1]}→{self.weight.shape[0]} {self.activation}"


class Normalize(HeadModule):
    """Division by the Euclidean norm (at least 1e-12)."""

    def __call__(self, embeddings):
        return _core.normalize(embeddings)

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

    def __str__(self) -> str:
        return f"truncate {self.k}"
