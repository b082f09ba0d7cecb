"""A pooling as a whole: tokens to one vector per layer, layers to one vector, then the head."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

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
        states of zeros, to learn d.
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
        return {
            f"{place}.{name}": array
            for place, part in self._components().items()
            if isinstance(part, Component)
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
        states = np.stack([view[:, index] for view in views], axis=2)
        return checked_vectors(self.pooling.forward(states), len(states), self.pooling)

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
