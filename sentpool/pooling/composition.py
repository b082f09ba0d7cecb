"""A pooling as a whole: tokens to one vector per layer, layers to one vector, then the head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from sentpool import checks
from sentpool.errors import shown
from sentpool.pooling import names
from sentpool.pooling.attention import SbertWk
from sentpool.pooling.component import Component, checked_vectors
from sentpool.pooling.layers import LayerPooling, Layers, token_poolings


class Pooling:
    """What turns an encoder's layers into one vector per sentence.

    Parameters
    ----------
    layers : LayerPooling, str, sequence of str, or object
        `Layers`, `ScalarMix`, `WeightedLayer`, `LayerAttention`, `SbertWk`; or names of token poolings, which are taken
        from the last layer and concatenated; or an object of your own with `tokens`, a sequence of token poolings, and
        `forward(states)`, which gets (n, L + 1, len(tokens), H) float32 and returns (n, d). It is also called with
        states of zeros, to learn d. It can be trained if it has `backward(d_embeddings, cache)`, which returns the
        gradient of the states and a dict of those of its parameters: `cache` is what `forward` returned as the second
        of a pair, or else the states. `parameters()`, where it has one, is a dict of float32 arrays that training
        changes in place.
    head : sequence of callables
        `Dense`, `Normalize`, `Truncate`, `Whitening`, `AllButTheTop`, or functions of vectors (n, d).
    include_prompt : bool, default True
        Whether the tokens of a prompt are pooled too.

    Examples
    --------
    >>> Pooling(Layers([1, -1]))
    Pooling(Layers(indices=[1, -1], tokens=['mean']))
    >>> Pooling("mean") == Pooling.from_name("avg")
    True
    """

    def __init__(self, layers="mean", head: Iterable[Callable] = (), include_prompt: bool = True) -> None:
        if isinstance(layers, (str, tuple, list)):
            layers = Layers([-1], token_poolings(layers, "layers"))
        elif not isinstance(layers, LayerPooling):
            layers = UserPooling(layers)
        self.layers = layers
        self.head = tuple(head)
        for module in self.head:
            if not callable(module):
                raise TypeError(f"head holds {shown(module)}; it must be callable with vectors (n, d)")
        if not isinstance(include_prompt, bool):
            raise TypeError(f"include_prompt must be True or False, not {shown(include_prompt)}")
        self.include_prompt = include_prompt

    @classmethod
    def from_name(cls, name, argument: str = "pooling") -> Pooling:
        """A pooling by its name: a token pooling, `first_last`, `embedding_last`, `top2`, `all_layers`, `sbert_wk`,
        "layers=[1, 6]", one of SimCSE's (`avg`, `avg_first_last`, `avg_top2`, `cls_before_pooler`); or a pooling as it
        is.

        Raises
        ------
        TypeError, ValueError
            If it is no known name, or one of a pooling whose parameters have to be trained.
        """
        if isinstance(name, Pooling):
            return name
        if isinstance(name, str):
            return cls(names.layer_pooling(name, argument))
        if isinstance(name, (tuple, list)):
            return cls(Layers([-1], token_poolings(name, argument)))
        return cls(name)

    def then(self, *modules: Callable) -> Pooling:
        """The same with further steps at the end of the head."""
        return Pooling(self.layers, (*self.head, *modules), self.include_prompt)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The token poolings that it needs."""
        return self.layers.tokens

    def needed_layers(self, n_layers: int) -> tuple[int, ...]:
        """The layers that it needs of an encoder with layers 0 … `n_layers`."""
        return self.layers.needed_layers(n_layers)

    def forward(self, states: np.ndarray, threads: int = 1) -> np.ndarray:
        """Embeddings (n, d) float32 from states (n, layers, tokens, H) of the layers and tokens that it needs."""
        return self.combine([states[:, :, p] for p in range(states.shape[2])], range(states.shape[1]), threads)

    def combine(self, views, index, threads: int = 1) -> np.ndarray:
        """As `LayerPooling.combine`, with the head."""
        return self.apply_head(self.layers.combine(views, index, threads))

    def apply_head(self, embeddings: np.ndarray) -> np.ndarray:
        """The head's steps, one after the other."""
        for module in self.head:
            result = module(embeddings)
            own = isinstance(module, Component)
            embeddings = result if own else checked_vectors(result, len(embeddings), module)
        return embeddings

    def forward_with_cache(
        self, states: np.ndarray, *, training: tuple[int, int, int] | None = None, threads: int = 1
    ) -> tuple[np.ndarray, object]:
        """The embeddings of a training step, and what `backward` needs to know of it.

        They are those of `forward` unless the head has a part that acts in training alone, or slopes are drawn.

        Parameters
        ----------
        states : ndarray, float32, shape (n, k, P, H)
            Of the k layers and P token poolings that it needs. Views and memory-mapped arrays are not copied.
        training : (seed, step, first_row), optional
            Where `LayerAttention` draws the slopes of its RReLU: the seed, the number of the step, and which row of
            the batch states[0] is. None: the slope of inference.

        Returns
        -------
        ndarray, float32, shape (n, d)
        object
            For `backward`. It keeps `states`, which must stay as they are.

        Raises
        ------
        TypeError
            If a part has no gradient.
        ValueError
            If a part does not fit the states, or has no gradient.
        """
        for part in (self.layers, *self.head):
            if not hasattr(part, "backward"):
                raise TypeError(f"{shown(part)} has no backward, so nothing before it can be trained: leave it out")
        if np.ndim(states) != 4 or states.shape[2] != len(self.tokens):
            raise ValueError(
                f"states has shape {np.shape(states)}; {self.layers!r} takes (n, layers, {len(self.tokens)}, H), for "
                f"{', '.join(self.tokens)}"
            )
        embeddings, cache = self.layers.forward_with_cache(states, _checked_draws(training), threads)
        caches = [cache]
        for module in self.head:
            embeddings, cache = module.forward_with_cache(embeddings)
            caches.append(cache)
        return embeddings, caches

    def backward(self, d_embeddings: np.ndarray, cache, threads: int = 1) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The gradients of states and parameters.

        Parameters
        ----------
        d_embeddings : ndarray, float32, shape (n, d)
        cache
            What `forward_with_cache` gave.

        Returns
        -------
        ndarray, float32, shape (n, k, P, H)
            A row depends on that of `d_embeddings` alone.
        dict of ndarray, float32
            By the names of `trainable_parameters`; sums over the rows in ascending order, the same for any `threads`.
        """
        gradients: dict[str, np.ndarray] = {}
        for i in reversed(range(len(self.head))):
            d_embeddings, found = self.head[i].backward(d_embeddings, cache[1 + i])
            gradients |= {f"head.{i}.{name}": gradient for name, gradient in found.items()}
        d_states, found = self.layers.backward(d_embeddings, cache[0], threads)
        return d_states, {f"layers.{name}": gradient for name, gradient in found.items()} | gradients

    def trainable_parameters(self) -> dict[str, np.ndarray]:
        """Those of `parameters` that training changes; what was fitted, such as a `Whitening`, stays."""
        return self._arrays(lambda part: part.trainable)

    def with_parameters(self, arrays: Mapping[str, np.ndarray]) -> Pooling:
        """The same with these arrays, by the names of `parameters`, in the place of its own; others stay.

        A pooling of one's own gets their numbers in place.

        Raises
        ------
        ValueError
            If there is no parameter of such a name, or it has another shape.
        """
        own = self.parameters()
        for name, array in arrays.items():
            if name not in own or np.shape(array) != own[name].shape:
                shape = own[name].shape if name in own else "no such parameter"
                raise ValueError(f"arrays holds {name!r} of shape {np.shape(array)}; the pooling has {shape}")
        layers, *head = (
            part.with_parameters(
                {name.rpartition(".")[2]: array for name, array in arrays.items() if name.rpartition(".")[0] == place}
            )
            if isinstance(part, Component)
            else part
            for place, part in self._components().items()
        )
        return Pooling(layers, head, self.include_prompt)

    def at_inference(self) -> Pooling:
        """The same without the parts of the head that act in training alone."""
        head = [module for module in self.head if not getattr(module, "train_only", False)]
        return Pooling(self.layers, head, self.include_prompt)

    def dimension(self, hidden_size: int, n_layers: int) -> int:
        """How many numbers an embedding has.

        Raises
        ------
        ValueError
            If a part does not fit the encoder or the part before it.
        """
        self.layers.needed_layers(n_layers)
        if isinstance(self.layers, UserPooling) or not all(hasattr(module, "dimension") for module in self.head):
            return self._dimension_of_zeros(hidden_size, n_layers)
        width = self.layers.dimension(hidden_size)
        for module in self.head:
            width = module.dimension(width)
        return width

    def _dimension_of_zeros(self, hidden_size: int, n_layers: int) -> int:
        # A function of the user's says how wide its result is only by giving one.
        if isinstance(self.layers, SbertWk):
            return self.apply_head(np.zeros((1, hidden_size), np.float32)).shape[1]
        states = np.zeros((1, len(self.needed_layers(n_layers)), len(self.tokens), hidden_size), np.float32)
        with np.errstate(all="ignore"):
            return self.forward(states).shape[1]

    def _components(self) -> dict[str, Component]:
        return {"layers": self.layers} | {f"head.{i}": module for i, module in enumerate(self.head)}

    def config(self) -> dict:
        """What, with `parameters`, `from_config` builds it from; ready for JSON.

        Raises
        ------
        TypeError
            If a part is an object of the user's own, which JSON cannot hold.
        """
        for part in (self.layers, *self.head):
            if not isinstance(part, Component) or isinstance(part, UserPooling):
                raise TypeError(f"{part!r} is no part of sentpool and has no configuration to save")
        return {
            "layers": self.layers.config(),
            "head": [module.config() for module in self.head],
            "include_prompt": self.include_prompt,
        }

    def parameters(self) -> dict[str, np.ndarray]:
        """The arrays of all parts by name: "layers.query", "head.0.weight", …"""
        return self._arrays(lambda part: True)

    def _arrays(self, wanted: Callable[[Component], bool]) -> dict[str, np.ndarray]:
        return {
            f"{place}.{name}": array
            for place, part in self._components().items()
            if isinstance(part, Component) and wanted(part)
            for name, array in part.parameters().items()
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pooling):
            return NotImplemented
        return (self.layers, self.head, self.include_prompt) == (other.layers, other.head, other.include_prompt)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        head = f", head=({', '.join(map(repr, self.head))},)" if self.head else ""
        return f"Pooling({self.layers!r}{head}{'' if self.include_prompt else ', include_prompt=False'})"

    def __str__(self) -> str:
        parts = [names.short_name(self.layers), *map(str, self.head)]
        return ", ".join(parts) + ("" if self.include_prompt else ", without the prompt")


def _checked_draws(training: object) -> tuple[int, int, int] | None:
    """`training` of `forward_with_cache`, as the core takes it."""
    if training is None:
        return None
    if not isinstance(training, tuple) or len(training) != 3:
        raise TypeError(f"training must be None or (seed, step, first_row), not {shown(training)}")
    return tuple(checks.seed(f"training[{i}]", value) for i, value in enumerate(training))


class _UserCache(NamedTuple):
    given: object
    shape: tuple[int, ...]


class UserPooling(LayerPooling):
    """A pooling of the user's own in the place of a `LayerPooling`."""

    def __init__(self, pooling) -> None:
        if not hasattr(pooling, "tokens") or not callable(getattr(pooling, "forward", None)):
            raise TypeError(
                f"pooling must be a name, a sequence of names, a Pooling, or an object with `tokens` and "
                f"`forward(states)`, not {type(pooling).__name__} {shown(pooling)}"
            )
        self.pooling, self.tokens = pooling, token_poolings(pooling.tokens)

    def combine(self, views, index, threads=1):
        return self._forward(np.stack([view[:, index] for view in views], axis=2))[0]

    def forward_with_cache(self, states, training, threads):
        if not callable(getattr(self.pooling, "backward", None)):
            raise TypeError(f"{shown(self.pooling)} has no backward(d_embeddings, cache), so it cannot be trained")
        return self._forward(states)

    def _forward(self, states: np.ndarray) -> tuple[np.ndarray, object]:
        result = self.pooling.forward(states)
        embeddings, cache = result if isinstance(result, tuple) and len(result) == 2 else (result, states)
        return checked_vectors(embeddings, len(states), self.pooling), _UserCache(cache, states.shape)

    def backward(self, d_embeddings, cache, threads):
        result = self.pooling.backward(d_embeddings, cache.given)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
            kinds = [type(part).__name__ for part in (result if isinstance(result, tuple) else (result,))]
            raise TypeError(
                f"{shown(self.pooling)}.backward returned {', '.join(kinds)}; expected the gradient of the states, and "
                f"a dict of those of its parameters, {{}} where it has none"
            )
        d_states, gradients = result
        shapes = {name: array.shape for name, array in self.parameters().items()}
        found = {name: np.shape(gradient) for name, gradient in gradients.items()}
        if np.shape(d_states) != cache.shape or found != shapes:
            raise ValueError(
                f"{shown(self.pooling)}.backward returned gradients of shapes {np.shape(d_states)} and {found}; "
                f"expected {cache.shape} and {shapes}"
            )
        return np.asarray(d_states, np.float32), {name: np.asarray(gradients[name], np.float32) for name in shapes}

    def parameters(self):
        arrays = dict(self.pooling.parameters()) if hasattr(self.pooling, "parameters") else {}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not array.flags.writeable:
                raise TypeError(
                    f"{shown(self.pooling)}.parameters() holds {shown(name)}, which must be a writable float32 array"
                )
        return arrays

    def with_parameters(self, arrays):
        own = self.parameters()
        for name, array in arrays.items():
            own[name][...] = array
        return self

    def layer_weights(self, views, index, threads=1):
        raise ValueError(f"{shown(self.pooling)} has no layer weights that sentpool knows of")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, UserPooling):
            return NotImplemented
        return self.pooling is other.pooling  # its own == may not give one truth value

    def __hash__(self) -> int:
        return hash((id(self.pooling), self.tokens))

    def __repr__(self) -> str:
        return shown(self.pooling)
