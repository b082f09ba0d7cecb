"""Which poolings of which layers an evaluation looks at, and how each is called in its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from sentpool.errors import shown
from sentpool.pooling import TOKEN_POOLINGS, Layers, Pooling, SbertWk
from sentpool.pooling.composition import UserPooling
from sentpool.pooling.layers import token_poolings
from sentpool.pooling.names import layer_pooling

AVERAGES = ("first_last", "embedding_last", "top2", "all_layers")


@dataclass(frozen=True, eq=False)
class ProbedPooling:
    """One pooling and its place in a result.

    Attributes
    ----------
    tokens : str
        Its token poolings, joined by "+".
    layers : int or str
        A single layer; or the name of an average of layers, "model" for the model's own pooling, or a user's name.
    pooling : Pooling
    width : int
        Numbers in its vectors, after the folder's truncation.
    """

    tokens: str
    layers: int | str
    pooling: Pooling
    width: int

    @property
    def name(self) -> str:
        """As a message or a legend calls it."""
        return f"layer {self.layers}, {self.tokens}" if isinstance(self.layers, int) else self.layers

    def needs_own_pass(self, prompt: str) -> bool:
        """Whether the states of layers, which include the prompt, are not what this pooling is made of."""
        return isinstance(self.pooling.layers, SbertWk) or bool(prompt and not self.pooling.include_prompt)


def probed_poolings(model, poolings, layers, tokens, averages: tuple[str, ...] = AVERAGES) -> list[ProbedPooling]:
    """Every token pooling of every layer and of the named averages, the model's own pooling, and the user's.

    Parameters
    ----------
    model : SentenceEncoder
    poolings, layers, tokens
        As in `sentpool.evaluation.probe`.
    averages : tuple of str
        Names of averages of layers.

    Raises
    ------
    TypeError, ValueError
        `model` is no SentenceEncoder; an unknown layer or pooling, or a pooling that does not fit the model.
    """
    from sentpool.encoder import SentenceEncoder  # not needed to score other libraries' models

    if not isinstance(model, SentenceEncoder):
        raise TypeError(
            f"model is {shown(model)}: expected a SentenceEncoder, whose layers can be seen; evaluation.sts takes "
            "any model"
        )
    chosen = TOKEN_POOLINGS if tokens is None else tuple(dict.fromkeys(token_poolings(tokens)))
    found: dict[tuple[str, int | str], Pooling] = {}
    for token in chosen:
        for layer in _layer_numbers(layers, model.n_layers):
            found[token, layer] = Pooling(Layers([layer], token))
        for name in averages:
            found[token, name] = Pooling(Layers(layer_pooling(name).config()["indices"], token))
    found[_tokens_of(model.pooling), "model"] = model.pooling
    for name, pooling in _given(model, poolings):
        _add(found, _tokens_of(pooling), name, pooling)
    return [
        ProbedPooling(
            *place, pooling, model._kept_dimensions(None, pooling.dimension(model.hidden_size, model.n_layers))
        )
        for place, pooling in found.items()
    ]


def _layer_numbers(layers, n_layers: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(n_layers + 1))
    if isinstance(layers, int | np.integer):
        layers = [layers]
    with _naming("layers"):
        return tuple(dict.fromkeys(Layers(layers).needed_layers(n_layers)))


def _given(model, poolings) -> Iterator[tuple[str, Pooling]]:
    """The user's poolings and their names."""
    if poolings is None:
        return
    if isinstance(poolings, Mapping):
        named = list(poolings.items())
    else:
        named = [(None, one) for one in (poolings if isinstance(poolings, list | tuple) else [poolings])]
    for name, value in named:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"poolings has the key {shown(name)}; names of poolings are str")
        with _naming("poolings"):
            pooling = model._checked_pooling(value)
        yield name or (value if isinstance(value, str) else _title(pooling)), pooling


def _title(pooling: Pooling) -> str:
    if isinstance(pooling.layers, UserPooling):
        return ", ".join([type(pooling.layers.pooling).__name__, *map(str, pooling.head)])
    return str(pooling)


def _add(found: dict, tokens: str, name: str, pooling: Pooling) -> None:
    """Add a pooling unless it is there; another one of the same name gets a number."""
    title, number = name, 1
    while (tokens, title) in found:
        if found[tokens, title] == pooling:
            return
        number += 1
        title = f"{name} ({number})"
    found[tokens, title] = pooling


def _tokens_of(pooling: Pooling) -> str:
    return "+".join(pooling.tokens) or "every token"


@contextmanager
def _naming(argument: str) -> Iterator[None]:
    """Let an error about a part say which argument of ours held it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{argument}: {error}") from error
