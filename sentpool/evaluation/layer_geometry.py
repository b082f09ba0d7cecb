"""The geometry of every layer and pooling of an encoder, or of vectors from elsewhere."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sentpool.checks import sentence_list
from sentpool.errors import shown, warn
from sentpool.evaluation.embedding import describe_model, embed
from sentpool.evaluation.geometry_result import GeometryResult
from sentpool.evaluation.measures import SPACE
from sentpool.evaluation.probed_poolings import (
    BlockPooler,
    add_named,
    layer_numbers,
    named_poolings,
    naming,
    probed_poolings,
    tokens_of,
)
from sentpool.evaluation.sample import sample_folder
from sentpool.evaluation.similarity_data import SimilarityData, read_tasks
from sentpool.evaluation.space_geometry import (
    alignment,
    entropy,
    isoscore,
    mean_cosine,
    singular_values,
    uniformity,
)
from sentpool.evaluation.token_measures import checked_views, measure_layers
from sentpool.layer_states import LayerStates
from sentpool.pooling import AllButTheTop, Layers, Pooling, Whitening
from sentpool.pooling.postprocessing import varying_dimensions
from sentpool.progress import progress_bar

_TOKENS = ("cls", "mean")
_STEPS = ("whitening", "all_but_the_top")


def geometry(
    model,
    data=None,
    *,
    tasks=None,
    poolings=None,
    layers=None,
    tokens=None,
    after=(),
    positives=None,
    positive_above: float = 4.0,
    token_measures: bool = True,
    views: int = 2,
    batch_size: int = 32,
    threads: int | None = None,
    show_progress_bar: bool | None = None,
) -> GeometryResult:
    """Measure how an encoder's layers and poolings, or given vectors, use their space.

    For every token pooling of every layer, the model's own pooling and those of `poolings`: mean cosine of distinct
    pairs, uniformity and alignment (Wang & Isola 2020), singular values and effective rank (Roy & Vetterli 2007),
    IsoScore (Rudman et al. 2022); their formulas are in `sentpool.evaluation.space_geometry`. For every layer: the
    entropies, curvature, InfoNCE and LiDAR of Skean et al. 2025, in `sentpool.evaluation.layer_measures`.

    By default the protocol of SimCSE (Gao et al. 2021): on the STS benchmark, alignment over pairs with a gold score
    above 4, everything else over the sentences. SimCSE does not say which split; here it is the development set, each
    distinct sentence once. The result names data and threshold.

    One pass of the encoder gives the vectors of all poolings; they are held as float32. Measures of token states take
    a second pass, text by text, and a pass for each view.

    Parameters
    ----------
    model : SentenceEncoder, LayerStates, array_like (n, d), object with ``encode``, or callable
        A callable takes a list of n strings and returns an array (n, d). For the last two only the vectors that they
        give are measured.
    data : str, Path or sequence of str, optional
        A folder as in `sts`, or sentences; by default the bundled sample, which is no benchmark. Not for `LayerStates`
        and arrays.
    tasks : str or sequence of str, optional
        Of the folder; by default ``STSB-dev`` if it is there, else the first task that is.
    poolings : optional
        Further poolings, as in `probe`.
    layers : int or sequence of int, optional
        The single layers that are measured, by default all.
    tokens : str or sequence of str, optional
        Token poolings; by default "cls" and "mean", or all that given states hold.
    after : str, Whitening, AllButTheTop or a sequence of those
        Measure once more after this step, fitted to the same vectors: "whitening" (the dimensions in which they vary,
        one less than d where a layer norm comes last), "all_but_the_top" (without a hundredth of the dimensions, at
        least one), or an object such as ``Whitening(128)``.
    positives : array_like of int, shape (m, 2), optional
        Pairs for alignment where `data` is no folder: row numbers of partners.
    positive_above : float, default 4
        In a folder, pairs with a higher gold score are positive.
    token_measures : bool, default True
        Whether to measure the token states of each layer of a `SentenceEncoder`.
    views : int, default 2
        Passes with dropout for InfoNCE (of the first two) and LiDAR; 0: neither.
    batch_size, threads, show_progress_bar
        As in `SentenceEncoder.encode`.

    Returns
    -------
    GeometryResult

    Raises
    ------
    FileNotFoundError
        The folder, or a named task, is missing.
    TypeError
        Something that gives no vectors, or an argument of a wrong type or that does not go with `model`.
    ValueError
        Fewer than two vectors; NaN, infinity or a vector of zeros; an unknown task, layer, pooling or step; too few
        sentences to whiten as many dimensions.

    Warns
    -----
    SentpoolWarning
        No pair is positive; a step cannot be fitted to a layer (its numbers are nan); fewer sentences than dimensions.

    Examples
    --------
    >>> result = evaluation.geometry(model, evaluation.sample_folder(), tokens="mean", token_measures=False)
    >>> result.at(6, "mean")["mean_cosine"] < result.at(0, "mean")["mean_cosine"]
    True
    >>> evaluation.geometry(model.encode(sentences), positives=[[0, 1], [2, 3]])    # doctest: +SKIP
    """
    began = time.perf_counter()
    views = checked_views(views)
    steps = _steps(after)
    texts = _texts(model, data, tasks, positives, positive_above)
    chosen = {"poolings": poolings, "layers": layers, "tokens": tokens}
    options = {"batch_size": batch_size, "threads": threads, "show_progress_bar": show_progress_bar}
    read = time.perf_counter()
    spaces = _spaces(model, texts, chosen, options)
    if texts.positives is None:
        texts.positives = _pairs(positives, spaces.n)
    _require_enough(spaces, steps)
    spaces.give()
    encoded = time.perf_counter()
    rows, spectra = _measured(spaces, steps, texts.positives, show_progress_bar)
    layer_rows = []
    if token_measures and spaces.has_token_states:
        layer_rows = measure_layers(model, texts.sentences, views, **options)
    return GeometryResult(
        rows=rows,
        own=spaces.own,
        layer_rows=layer_rows,
        spectra=spectra,
        protocol={
            "data": texts.name,
            "sentences": spaces.n,
            "positives": len(texts.positives),
            "positive_above": texts.positive_above,
            "views": views if layer_rows else 0,
        },
        model=spaces.description,
        encoding=spaces.encoding,
        data=texts.data,
        seconds={"read": read - began, "encode": encoded - read, "measure": time.perf_counter() - encoded},
    )


# ---- texts and positive pairs ---------------------------------------------------------------------------------------


@dataclass
class _Texts:
    """What is embedded; `positives` (m, 2) are row numbers, None where the user's have not been checked yet."""

    sentences: list[str] = field(default_factory=list)
    name: str = ""
    positives: np.ndarray | None = None
    positive_above: float | None = None
    data: dict[str, Any] = field(default_factory=dict)


def _texts(model, data, tasks, positives, positive_above) -> _Texts:
    if _is_vectors(model):
        if data is not None or tasks is not None:
            raise TypeError(
                "data and tasks are sentences for a model to encode; model is given vectors: leave them out"
            )
        return _Texts()
    if data is None or isinstance(data, str | os.PathLike):
        if positives is not None:
            raise TypeError(
                "positives go with sentences or vectors; in a folder the gold scores decide: positive_above"
            )
        return _folder_texts(sample_folder() if data is None else data, tasks, positive_above)
    if tasks is not None:
        raise TypeError("tasks name parts of a folder; data is a sequence of sentences: leave tasks out")
    sentences, _ = sentence_list(data)
    return _Texts(sentences, "the given list")


def _folder_texts(folder, tasks, positive_above) -> _Texts:
    if isinstance(positive_above, bool) or not isinstance(positive_above, int | float | np.number):
        raise TypeError(f"positive_above must be a number, not {type(positive_above).__name__} {shown(positive_above)}")
    data = _default_task(folder) if tasks is None else read_tasks(folder, tasks)
    for deviation in data.deviations:
        warn(deviation)
    index = data.distinct_sentences()
    pairs = dict.fromkeys(
        (index[first], index[second])
        for task in data.tasks.values()
        for part in task.subsets
        for first, second, gold in zip(part.first, part.second, part.gold, strict=True)
        if gold > positive_above
    )
    if not pairs:
        warn(f"no pair of {', '.join(data.tasks)} has a gold score above {positive_above:g}: alignment is undefined")
    positives = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    return _Texts(list(index), ", ".join(data.tasks), positives, float(positive_above), data.describe())


def _default_task(folder) -> SimilarityData:
    try:
        return read_tasks(folder, "STSB-dev")
    except FileNotFoundError:
        return read_tasks(folder, next(iter(read_tasks(folder).tasks)))


def _pairs(positives, n: int) -> np.ndarray:
    if positives is None:
        return np.empty((0, 2), np.int64)
    pairs = np.asarray(positives)
    if pairs.dtype.kind not in "iu" or pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"positives must be integers of shape (m, 2), not {pairs.dtype} of shape {pairs.shape}")
    if pairs.size and (pairs.min() < 0 or pairs.max() >= n):
        raise ValueError(f"positives holds row numbers from {pairs.min()} to {pairs.max()}; they must be 0 … {n - 1}")
    return pairs.astype(np.int64)


# ---- vectors --------------------------------------------------------------------------------------------------------


@dataclass
class _Space:
    """One pooling's place in the result and what gives its vectors (n, d)."""

    tokens: str
    layers: int | str
    width: int
    vectors: Callable[[], np.ndarray]

    @property
    def name(self) -> str:
        """As a message calls it."""
        return f"layer {self.layers}, {self.tokens}" if isinstance(self.layers, int) else str(self.layers)


@dataclass
class _Spaces:
    """All that is measured of one model, once `give` has made the vectors."""

    n: int
    own: dict[str, Any]
    spaces: list[_Space]
    description: dict[str, Any] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)
    has_token_states: bool = False
    give: Callable[[], None] = lambda: None


def _is_vectors(model) -> bool:
    return isinstance(model, LayerStates | np.ndarray | list | tuple)


def _spaces(model, texts: _Texts, chosen: dict, options: dict) -> _Spaces:
    from sentpool.encoder import SentenceEncoder  # not needed for other libraries' models

    if isinstance(model, SentenceEncoder):
        return _of_encoder(model, texts.sentences, chosen, options)
    if isinstance(model, LayerStates):
        return _of_states(model, chosen, options["threads"])
    given = [name for name, value in chosen.items() if value is not None]
    if given:
        raise TypeError(f"{', '.join(given)}: only a SentenceEncoder or LayerStates has layers to choose from")
    if _is_vectors(model):
        return _of_vectors(model)
    return _of_other_model(model, texts.sentences, options)


def _of_encoder(model, sentences: list[str], chosen: dict, options: dict) -> _Spaces:
    tokens = _TOKENS if chosen["tokens"] is None else chosen["tokens"]
    probed = probed_poolings(model, chosen["poolings"], chosen["layers"], tokens, averages=())
    arrays: dict[int, np.ndarray] = {}
    spaces = [
        _Space(one.tokens, one.layers, one.width, lambda number=number: arrays.pop(number))
        for number, one in enumerate(probed)
    ]
    result = _Spaces(
        len(sentences),
        {"tokens": tokens_of(model.pooling), "layers": "model"},
        spaces,
        describe_model(model),
        has_token_states=True,
    )

    def give() -> None:
        run = model._run(sentences, one_by_one=True, **options)
        pooler = BlockPooler(model, run, probed)
        for number, one in enumerate(probed):
            arrays[number] = np.empty((len(sentences), one.width), np.float32)
        with contextlib.closing(pooler.blocks()) as blocks:
            for start, stop, states in blocks:
                for number, one in enumerate(probed):
                    arrays[number][start:stop] = pooler.vectors(one, states, sentences[start:stop])
                del states
        result.encoding.update(
            sentences=len(sentences),
            truncated=run.info().n_truncated,
            batch_size=run.batch_size,
            threads=run.threads,
            encoded_again_for=[one.name for one in probed if one.needs_own_pass(run.prompt)],
        )

    result.give = give
    return result


def _of_states(states: LayerStates, chosen: dict, threads: int | None) -> _Spaces:
    tokens = states.tokens if chosen["tokens"] is None else Layers([0], chosen["tokens"]).tokens
    missing = [token for token in tokens if token not in states.tokens]
    if missing:
        raise ValueError(f"tokens holds {missing[0]!r}; these states hold {', '.join(states.tokens)}")
    hidden = states.array.shape[3]
    last = states.layers[-1]
    found = {}
    for token in tokens:
        for layer in layer_numbers(chosen["layers"], last):
            view = states.array[:, layer, states.tokens.index(token)]
            found[token, layer] = _Space(token, layer, hidden, lambda view=view: view)
    named: dict[tuple[str, str], Pooling] = {}
    for name, pooling in named_poolings(chosen["poolings"], Pooling.from_name):
        add_named(named, tokens_of(pooling), name, pooling)
    for place, pooling in named.items():
        with naming("poolings"):
            width = pooling.dimension(hidden, last)
        found[place] = _Space(*place, width, lambda pooling=pooling: states.pool(pooling, threads))
    own = "mean" if "mean" in tokens else tokens[0]
    layers = [layer for token, layer in found if token == own and isinstance(layer, int)]
    return _Spaces(len(states), {"tokens": own, "layers": max(layers)}, list(found.values()), {"name": repr(states)})


def _of_vectors(values) -> _Spaces:
    vectors = np.asarray(values)
    if vectors.dtype.kind not in "biuf" or vectors.ndim != 2:
        raise TypeError(
            f"model is {shown(values)}: expected a SentenceEncoder, LayerStates, an object with encode(sentences), a "
            "callable, or an array (n, d) of real numbers; sentences are the second argument"
        )
    own = {"tokens": "", "layers": "embeddings"}
    return _Spaces(len(vectors), own, [_Space(**own, width=vectors.shape[1], vectors=lambda: vectors)])


def _of_other_model(model, sentences: list[str], options: dict) -> _Spaces:
    bar_and_batch = {name: options[name] for name in ("batch_size", "show_progress_bar")}
    description = describe_model(model)
    vectors, encoding = embed(model, sentences, **bar_and_batch)
    own = {"tokens": "", "layers": "model"}
    space = _Space(**own, width=vectors.shape[1], vectors=lambda: vectors)
    return _Spaces(len(vectors), own, [space], description, encoding)


# ---- steps and numbers ----------------------------------------------------------------------------------------------


def _steps(after) -> list[str | Whitening | AllButTheTop]:
    steps = [after] if isinstance(after, str | Whitening | AllButTheTop) else list(after)
    for step in steps:
        if not isinstance(step, Whitening | AllButTheTop) and step not in _STEPS:
            raise ValueError(
                f"after holds {shown(step)}; a step is {' or '.join(map(repr, _STEPS))}, or a Whitening or AllButTheTop"
            )
    return steps


def _applied(step, vectors: np.ndarray) -> np.ndarray:
    """The vectors, as float32, after a step that is fitted to them."""
    with np.errstate(over="ignore"):
        vectors = vectors.astype(np.float32, copy=False)
    if (vectors == vectors[0]).all():
        raise ValueError("all vectors are equal")
    if step == "whitening":
        step = Whitening(varying_dimensions(vectors))
    elif step == "all_but_the_top":
        step = AllButTheTop(max(1, round(vectors.shape[1] / 100)))
    return step.fit(vectors)(vectors)


def _step_name(step) -> str:
    return step.replace("_", " ") if isinstance(step, str) else str(step)


def _require_enough(spaces: _Spaces, steps) -> None:
    """Raise, before the long part, if there are too few vectors for any result."""
    if spaces.n < 2:
        raise ValueError(f"vectors to measure: {spaces.n}; a geometry needs at least two, better some hundreds")
    widest = max(space.width for space in spaces.spaces)
    for step in steps:
        wanted = (step.k or widest) if isinstance(step, Whitening) else 0
        if wanted >= spaces.n:
            raise ValueError(
                f"after holds {step!r}: {spaces.n} vectors vary in at most {spaces.n - 1} dimensions, so {wanted} "
                f"cannot be whitened; give more sentences, or Whitening(k) with k < {spaces.n}"
            )
    if spaces.n <= widest:
        warn(
            f"{spaces.n} vectors of {widest} numbers: effective rank and IsoScore are bounded by how few they are; "
            "give more sentences to compare them with other models'"
        )


def _measured(spaces: _Spaces, steps, positives: np.ndarray, show: bool | None) -> tuple[list[dict], list[np.ndarray]]:
    rows, spectra = [], []
    undefined: dict[str, list[str]] = {}
    bar = progress_bar(len(spaces.spaces), "Measuring", "poolings", show)
    with contextlib.closing(bar) if bar is not None else contextlib.nullcontext():
        for space in spaces.spaces:
            vectors = space.vectors()
            for step in (None, *steps):
                after = "" if step is None else _step_name(step)
                width = vectors.shape[1]
                try:
                    changed = vectors if step is None else _applied(step, vectors)
                    width = changed.shape[1]
                    numbers, spectrum = _of_space(changed, positives)
                except ValueError as error:
                    if step is None:
                        raise ValueError(f"{space.name}: {error}") from error
                    undefined.setdefault(after, []).append(f"{space.name} ({error})")
                    numbers, spectrum = dict.fromkeys(SPACE, math.nan), np.empty(0)
                place = {"tokens": space.tokens, "layers": space.layers, "after": after, "dimension": width}
                rows.append(place | numbers)
                spectra.append(spectrum)
            if bar is not None:
                bar.update()
    for after, names in undefined.items():
        warn(f"after {after} nothing is defined for {'; '.join(names)}")
    return rows, spectra


def _of_space(vectors: np.ndarray, positives: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """The measures `SPACE` and the singular values."""
    spectrum = singular_values(vectors)
    first, second = positives.T
    return {
        "mean_cosine": mean_cosine(vectors),
        "mean_cosine_centred": mean_cosine(vectors, centred=True),
        "uniformity": uniformity(vectors, show_progress_bar=False),
        "alignment": alignment(vectors[first], vectors[second]) if len(positives) else math.nan,
        "effective_rank": math.exp(entropy(spectrum)),
        "isoscore": isoscore(vectors),
    }, spectrum
