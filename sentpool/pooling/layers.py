"""From one vector per layer to one vector: averages and weighted sums of layers.

Every class here has `tokens`, the token poolings of which it needs the states; `needed_layers(L)`, the layers that it
needs of an encoder with layers 0 … L; and `combine`, which takes a view of the states per token pooling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sentpool import _core
from sentpool.errors import shown
from sentpool.pooling.component import Component, parameter

TOKEN_POOLINGS = ("cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last_token")


def token_poolings(tokens: str | Sequence[str], argument: str = "tokens") -> tuple[str, ...]:
    """One or several names of token poolings as a tuple.

    Raises
    ------
    TypeError, ValueError
        If one is not known or there is none.
    """
    names = (tokens,) if isinstance(tokens, str) else tokens
    if not isinstance(names, (tuple, list)) or not names:
        raise TypeError(
            f"{argument} must be a name or a sequence of names, not {type(tokens).__name__} {shown(tokens)}"
        )
    for name in names:
        if name not in TOKEN_POOLINGS:
            raise ValueError(f"{argument} is {shown(name)}; it must be one of {', '.join(TOKEN_POOLINGS)}")
    return tuple(names)


def layer_number(name: str, value: object) -> int:
    """`value` as the number of a layer; raises ValueError unless it is an integer from 0 on."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"{name} is {shown(value)}; it must be a layer, from 0 on")
    return int(value)


class LayerPooling(Component):
    """One vector per layer and token pooling becomes one vector.

    Attributes
    ----------
    tokens : tuple of str
        The token poolings whose states are needed, in this order.
    """

    tokens: tuple[str, ...]

    def needed_layers(self, n_layers: int) -> tuple[int, ...]:
        """The layers that are needed of an encoder with layers 0 … `n_layers`, in the order of `combine`.

        Raises
        ------
        ValueError
            If the encoder has no such layers.
        """
        return tuple(range(n_layers + 1))

    def combine(self, views: Sequence[np.ndarray], index: Sequence[int], threads: int = 1) -> np.ndarray:
        """The vectors (n, d) float32.

        Parameters
        ----------
        views : sequence of ndarray, float32, shape (n, k, H)
            One for each of `tokens`; rows may be apart.
        index : sequence of int
            Where the needed layers are among the k.
        """
        raise NotImplementedError

    def forward_with_cache(
        self, states: np.ndarray, training: tuple[int, int, int] | None, threads: int
    ) -> tuple[np.ndarray, object]:
        """The vectors in training, and what `backward` needs; see `Pooling.forward_with_cache`."""
        views = [states[:, :, place] for place in range(states.shape[2])]
        return self.combine(views, range(states.shape[1]), threads), states

    def backward(self, d_embeddings: np.ndarray, cache, threads: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Gradients of states and of parameters; see `Pooling.backward`."""
        raise NotImplementedError

    def dimension(self, hidden_size: int) -> int:
        """How many numbers a vector has."""
        return hidden_size * len(self.tokens)

    def layer_weights(self, views: Sequence[np.ndarray], index: Sequence[int], threads: int = 1) -> np.ndarray:
        """The weights (n, len(index)) with which the layers enter, float32."""
        weights, divisor = self._weights(len(index))
        return np.tile(weights / np.float32(divisor), (len(views[0]), 1))

    def _weights(self, count: int) -> tuple[np.ndarray, float]:
        """A weight for each of `count` layers, and what their sum of states is divided by."""
        raise NotImplementedError


class _WeightedSum(LayerPooling):
    """A weighted sum over layers, for each token pooling by itself, concatenated."""

    def combine(self, views, index, threads=1):
        weights, divisor = self._weights(len(index))
        parts = [_core.mix_layers(view, index, weights, divisor) for view in views]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def backward(self, d_embeddings, cache, threads):
        weights, divisor = self._weights(cache.shape[1])
        d_states, d_weights = _core.mix_layers_backward(d_embeddings, cache, weights, divisor)
        return d_states, {name: np.float32(value) for name, value in self._d_parameters(d_weights).items()}

    def _d_parameters(self, d_weights: np.ndarray) -> dict[str, np.ndarray]:
        """Gradients of parameters in float64, from those of the weights with a fixed divisor."""
        return {}


class Layers(_WeightedSum):
    """The average of some layers.

    Parameters
    ----------
    indices : sequence of int, or "all"
        0 is the embedding output, negative numbers count from the last layer: -1.
    tokens : str or sequence of str, default "mean"
        Token poolings; several are averaged each by itself and concatenated.

    Examples
    --------
    >>> Layers([1, -1])
    Layers(indices=[1, -1], tokens=['mean'])
    """

    def __init__(self, indices, tokens="mean") -> None:
        self.tokens = token_poolings(tokens)
        if isinstance(indices, str) and indices == "all":
            self.indices = None
            return
        if isinstance(indices, str) or not isinstance(indices, Sequence | np.ndarray) or not len(indices):
            raise TypeError(f"indices must be a sequence of layers or 'all', not {shown(indices)}")
        for index in indices:
            if isinstance(index, bool | np.bool_) or not isinstance(index, int | np.integer):
                raise TypeError(f"indices holds {shown(index)}; layers are integers")
        self.indices = tuple(int(index) for index in indices)

    def config(self):
        indices = "all" if self.indices is None else list(self.indices)
        return {"type": "Layers", "indices": indices, "tokens": list(self.tokens)}

    def needed_layers(self, n_layers):
        if self.indices is None:
            return super().needed_layers(n_layers)
        for index in self.indices:
            if not -n_layers - 1 <= index <= n_layers:
                raise ValueError(
                    f"indices holds layer {index}; this encoder has layers 0 (the embedding output) to {n_layers}"
                )
        return tuple(index % (n_layers + 1) for index in self.indices)

    def _weights(self, count):
        return np.ones(count, np.float32), float(count)


class ScalarMix(_WeightedSum):
    """γ · Σ softmax(w)_l h_l over all layers 0 … L (ELMo; Peters et al. 2018, equation 1).

    Parameters
    ----------
    weights : array_like, shape (L + 1,)
        Before the softmax.
    gamma : float, default 1
    tokens : str or sequence of str, default "mean"
    """

    def __init__(self, weights, gamma: float = 1.0, tokens="mean") -> None:
        self.tokens = token_poolings(tokens)
        self.weights = parameter("weights", weights, 1)
        number = parameter("gamma", np.atleast_1d(gamma), 1)
        if len(number) != 1:
            raise ValueError(f"gamma has {len(number)} numbers; it is one")
        self.gamma = float(number[0])

    def config(self):
        return {"type": "ScalarMix", "tokens": list(self.tokens)}

    def parameters(self):
        return {"weights": self.weights, "gamma": parameter("gamma", [self.gamma], 1)}

    def needed_layers(self, n_layers):
        _require_weights(self, self.weights, n_layers + 1, f"layers 0 to {n_layers}")
        return super().needed_layers(n_layers)

    def _weights(self, count):
        return (self.gamma * self._softmax()).astype(np.float32), 1.0

    def _softmax(self) -> np.ndarray:
        exponentials = np.exp(self.weights.astype(np.float64) - self.weights.max())
        return exponentials / exponentials.sum()

    def _d_parameters(self, d_weights):
        softmax = self._softmax()
        d_gamma = (softmax * d_weights).sum()
        return {"weights": self.gamma * softmax * (d_weights - d_gamma), "gamma": np.array([d_gamma])}


class WeightedLayer(_WeightedSum):
    """Σ w_l h_l / Σ w_l over the layers from `layer_start` on: sentence-transformers' WeightedLayerPooling.

    Parameters
    ----------
    weights : array_like, shape (L + 1 - layer_start,)
    layer_start : int, default 4
    tokens : str or sequence of str, default "mean"
        Not "max", for sentence-transformers mixes layers first, and a maximum of sums is no sum of maxima.
    """

    def __init__(self, weights, layer_start: int = 4, tokens="mean") -> None:
        self.tokens = token_poolings(tokens)
        if "max" in self.tokens:
            raise ValueError(
                "tokens is 'max'; WeightedLayer mixes the states of tokens, and their maximum is not the mix of maxima"
            )
        self.weights = parameter("weights", weights, 1)
        self.layer_start = layer_number("layer_start", layer_start)
        self._sum = float(self.weights.sum(dtype=np.float64))
        if not abs(self._sum) > 0:
            raise ValueError("weights add up to 0, by which they are divided")

    def config(self):
        return {"type": "WeightedLayer", "layer_start": self.layer_start, "tokens": list(self.tokens)}

    def parameters(self):
        return {"weights": self.weights}

    def needed_layers(self, n_layers):
        count = n_layers + 1 - self.layer_start
        _require_weights(self, self.weights, count, f"layers {self.layer_start} to {n_layers}")
        # Layers of weight 0 are left out, so that weights of 0 and 1 give the bits of `Layers`.
        return tuple(self.layer_start + int(place) for place in np.flatnonzero(self.weights))

    def _weights(self, count):
        return self.weights[self.weights != 0], self._sum

    def _d_parameters(self, d_weights):
        taken = np.flatnonzero(self.weights)
        whole = np.zeros(len(self.weights))
        whole[taken] = d_weights - (self.weights[taken] * d_weights).sum() / self._sum
        return {"weights": whole}


def _require_weights(pooling: LayerPooling, weights: np.ndarray, count: int, layers: str) -> None:
    if len(weights) != count:
        raise ValueError(f"{pooling!r} has {len(weights)} weights; this encoder needs {max(count, 0)}, for {layers}")
