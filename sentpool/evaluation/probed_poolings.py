"""Which poolings of which layers an evaluation looks at, and how each is called in its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from sentpool.errors import shown
from sentpool.pooling import TOKEN_POOLINGS, Layers, Pooling, SbertWk
from sentpool.pooling.composition import UserPooling
from sentpool.pooling.layers import token_poolings
from sentpool.pooling.names import layer_pooling

# States of one block: its sentences times layers, token poolings and H.
_BLOCK_BYTES, _MOST_SENTENCES, _FEWEST_SENTENCES = 32 << 20, 512, 64
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
        for layer in layer_numbers(layers, model.n_layers):
            found[token, layer] = Pooling(Layers([layer], token))
        for name in averages:
            found[token, name] = Pooling(Layers(layer_pooling(name).config()["indices"], token))
    found[tokens_of(model.pooling), "model"] = model.pooling
    for name, pooling in named_poolings(poolings, model._checked_pooling):
        add_named(found, tokens_of(pooling), name, pooling)
    return [
        ProbedPooling(
            *place, pooling, model._kept_dimensions(None, pooling.dimension(model.hidden_size, model.n_layers))
        )
        for place, pooling in found.items()
    ]


def layer_numbers(layers, n_layers: int) -> tuple[int, ...]:
    """The layers that a user names, 0 … L; None: all."""
    if layers is None:
        return tuple(range(n_layers + 1))
    if isinstance(layers, int | np.integer):
        layers = [layers]
    with naming("layers"):
        return tuple(dict.fromkeys(Layers(layers).needed_layers(n_layers)))


def named_poolings(poolings, checked: Callable[[object], Pooling]) -> Iterator[tuple[str, Pooling]]:
    """The user's poolings, made `Pooling` by `checked`, and their names."""
    if poolings is None:
        return
    if isinstance(poolings, Mapping):
        named = list(poolings.items())
    else:
        named = [(None, one) for one in (poolings if isinstance(poolings, list | tuple) else [poolings])]
    for name, value in named:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"poolings has the key {shown(name)}; names of poolings are str")
        with naming("poolings"):
            pooling = checked(value)
        yield name or (value if isinstance(value, str) else _title(pooling)), pooling


def _title(pooling: Pooling) -> str:
    if isinstance(pooling.layers, UserPooling):
        return ", ".join([type(pooling.layers.pooling).__name__, *map(str, pooling.head)])
    return str(pooling)


def add_named(found: dict, tokens: str, name: str, pooling: Pooling) -> None:
    """Add a pooling unless it is there; another one of the same name gets a number."""
    title, number = name, 1
    while (tokens, title) in found:
        if found[tokens, title] == pooling:
            return
        number += 1
        title = f"{name} ({number})"
    found[tokens, title] = pooling


def tokens_of(pooling: Pooling) -> str:
    """Its token poolings as a result shows them."""
    return "+".join(pooling.tokens) or "every token"


@contextmanager
def naming(argument: str) -> Iterator[None]:
    """Let an error about a part say which argument of ours held it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{argument}: {error}") from error


class BlockPooler:
    """The vectors of every pooling from one pass of the encoder, block by block.

    Parameters
    ----------
    model : SentenceEncoder
    run : EncodingRun
    probed : list of ProbedPooling
    """

    def __init__(self, model, run, probed: list[ProbedPooling]) -> None:
        self.model, self.run = model, run
        from_states = [one.pooling for one in probed if not one.needs_own_pass(run.prompt)]
        self.tokens = tuple(dict.fromkeys(token for pooling in from_states for token in pooling.tokens))
        self.layers = sorted({layer for pooling in from_states for layer in pooling.needed_layers(model.n_layers)})

    def blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """The states of the texts [start, stop) of ``run.unique``, finite; one block is held at a time.

        Raises
        ------
        ValueError
            If a state is not finite; the text is named.
        """
        for start, stop, states in self.run.blocks_of_states(self.layers, self.tokens, most=self._block_sentences()):
            _require_finite(states, self.run.unique[start:stop], "the states")
            yield start, stop, states
            del states  # before the next block is computed

    def _block_sentences(self) -> int:
        size = 4 * len(self.layers) * len(self.tokens) * self.model.hidden_size
        return max(_FEWEST_SENTENCES, min(_MOST_SENTENCES, _BLOCK_BYTES // size))

    def vectors(self, one: ProbedPooling, states: np.ndarray, sentences: list[str]) -> np.ndarray:
        """What encode gives for the sentences with this pooling, bit for bit."""
        if isinstance(one.layers, int):  # an average of one: the state itself, known to be finite
            return states[:, self.layers.index(one.layers), self.tokens.index(one.tokens), : one.width]
        if one.needs_own_pass(self.run.prompt):
            return self.model.encode(sentences, **self._options(one))
        vectors = np.asarray(one.pooling.combine(*self._views(one.pooling, states), self.run.threads))
        vectors = vectors[:, : one.width].astype(np.float32, copy=False)
        if vectors.shape != (len(sentences), one.width):
            raise ValueError(
                f"pooling {one.name} gave shape {vectors.shape} for {len(sentences)} sentences; expected "
                f"({len(sentences)}, {one.width})"
            )
        _require_finite(vectors, sentences, f"the vector by pooling {one.name}")
        return vectors

    def layer_weights(self, one: ProbedPooling, states: np.ndarray, sentences: list[str]) -> np.ndarray:
        if one.needs_own_pass(self.run.prompt):
            return self.model.layer_weights(sentences, **self._options(one))
        return one.pooling.layers.layer_weights(*self._views(one.pooling, states), self.run.threads)

    def _options(self, one: ProbedPooling) -> dict:
        """Those of a further pass over one block."""
        return {
            "pooling": one.pooling,
            "batch_size": self.run.batch_size,
            "threads": self.run.threads,
            "show_progress_bar": False,
        }

    def _views(self, pooling: Pooling, states: np.ndarray) -> tuple[list[np.ndarray], list[int]]:
        """The arguments of `combine`."""
        views = [states[:, :, self.tokens.index(token)] for token in pooling.tokens]
        return views, [self.layers.index(layer) for layer in pooling.needed_layers(self.model.n_layers)]


def _require_finite(numbers: np.ndarray, sentences: list[str], what: str) -> None:
    if np.isfinite(numbers).all():
        return
    finite = np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1)
    raise ValueError(
        f"{what} of {shown(sentences[int(np.argmin(finite))])}: NaN or infinity as float32, so no cosine is defined; "
        "check the model's weights and poolings of your own"
    )
