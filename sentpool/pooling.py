"""What turns an encoder's layers into one vector: tokens to one vector per layer, layers to one, then the head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sentpool import _core
from sentpool.errors import shown
from sentpool.modules import Dense, Normalize

TOKEN_POOLINGS = ("cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last_token")


@dataclass(frozen=True)
class Pooling:
    """Token poolings of the last layer, one behind the other, and the head that follows.

    Attributes
    ----------
    tokens : tuple of str
        Of "cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last_token"; [CLS] and [SEP] count as tokens.
    head : tuple of Dense and Normalize
    include_prompt : bool
        Whether the tokens of a prompt are pooled too.
    """

    tokens: tuple[str, ...] = ("mean",)
    head: tuple[Dense | Normalize, ...] = ()
    include_prompt: bool = True

    @classmethod
    def from_name(cls, name: str | tuple[str, ...] | list[str] | Pooling, argument: str = "pooling") -> Pooling:
        """A pooling by its name, or several to be concatenated; `argument` is what a message calls it.

        Raises
        ------
        TypeError, ValueError
            If it is no known name.
        """
        if isinstance(name, Pooling):
            return name
        names = (name,) if isinstance(name, str) else name
        if not isinstance(names, (tuple, list)) or not names:
            raise TypeError(
                f"{argument} must be a name or a sequence of names, not {type(name).__name__} {shown(name)}"
            )
        for one in names:
            if one not in TOKEN_POOLINGS:
                raise ValueError(f"{argument} is {shown(one)}; it must be one of {', '.join(TOKEN_POOLINGS)}")
        return cls(tuple(names))

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """The layers it needs of an encoder whose last one is `n_layers`."""
        return (n_layers,)

    def forward(self, states: np.ndarray) -> np.ndarray:
        """Embeddings (n, d) float32 from states (n, layers, tokens, H) of the layers and tokens that it needs."""
        embeddings = np.ascontiguousarray(states[:, -1]).reshape(len(states), -1)
        for module in self.head:
            if isinstance(module, Dense):
                embeddings = _core.dense(embeddings, module.weight, module.bias, module.activation)
            else:
                embeddings = _core.normalize(embeddings)
        return embeddings

    def dimension(self, hidden_size: int) -> int:
        """How many numbers an embedding has."""
        dense = [module for module in self.head if isinstance(module, Dense)]
        return len(dense[-1].weight) if dense else hidden_size * len(self.tokens)

    def __str__(self) -> str:
        names = ["+".join(self.tokens)]
        for module in self.head:
            if isinstance(module, Dense):
                names.append(f"dense {module.weight.shape[1]}→{module.weight.shape[0]} {module.activation}")
            else:
                names.append("normalize")
        return ", ".join(names) + ("" if self.include_prompt else ", without the prompt")
