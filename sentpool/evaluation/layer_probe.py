"""Scoring every layer and every pooling of an encoder on semantic textual similarity, in one pass."""

from __future__ import annotations

import time

import numpy as np

from sentpool import _core
from sentpool.errors import warn
from sentpool.evaluation.embedding import describe_model
from sentpool.evaluation.pair_stream import PairStream
from sentpool.evaluation.probe_result import ProbeResult
from sentpool.evaluation.probed_poolings import BlockPooler, ProbedPooling, probed_poolings
from sentpool.evaluation.report import Aggregates
from sentpool.evaluation.sample import sample_folder
from sentpool.evaluation.scoring import TaskScorer
from sentpool.evaluation.similarity_data import SimilarityData, read_tasks
from sentpool.pooling import LayerAttention


def probe(
    model,
    folder=None,
    poolings=None,
    layers=None,
    *,
    tasks=None,
    tokens=None,
    batch_size: int = 32,
    threads: int | None = None,
    show_progress_bar: bool | None = None,
) -> ProbeResult:
    """Score every layer and every pooling of an encoder on semantic textual similarity.

    Each distinct sentence of all tasks goes through the encoder once. Scored are every token pooling of every layer,
    and of `first_last`, `embedding_last`, `top2` and `all_layers`; the model's own pooling; and
    what `poolings` adds. The numbers equal those of ``evaluation.sts(model, folder, pooling=…)``. Cosines of pairs are
    kept, and the vectors of sentences that wait for a partner; layers never pile up.

    Parameters
    ----------
    model : SentenceEncoder
    folder : str or Path, optional
        As in `sts`; by default the bundled sample, which is no benchmark.
    poolings : optional
        Further poolings: a name, a `Pooling`, an object of your own (see `Pooling`), a sequence of those, or a mapping
        from the name that the result shall show to one of those. What needs more than states of layers (`sbert_wk`, and
        a pooling that leaves out the model's prompt) is computed by further passes.
    layers : int or sequence of int, optional
        The layers that are scored one by one, by default all: 0 is the embedding output, negative numbers count from
        the last.
    tasks : str or sequence of str, optional
        As in `sts`.
    tokens : str or sequence of str, optional
        Token poolings; by default all six.
    batch_size, threads, show_progress_bar
        As in `SentenceEncoder.encode`.

    Returns
    -------
    ProbeResult
        A correlation is nan where all cosines are equal: layer 0 has the same [CLS] state for every sentence.

    Raises
    ------
    FileNotFoundError
        The folder, a named task or every task is missing.
    TypeError
        `model` is no SentenceEncoder, or another argument has a wrong type.
    ValueError
        An unknown task, layer or pooling, a pooling that does not fit the model, a malformed line, or a vector that is
        not finite.

    Warns
    -----
    SentpoolWarning
        A file that does not hold the pairs it should.

    Examples
    --------
    >>> result = evaluation.probe(model, evaluation.sample_folder())
    >>> [best["tokens"] for best in result.best(1)]
    ['mean']
    >>> result.heat_map("cls")                                                         # doctest: +SKIP
    >>> evaluation.probe(model, "data/sts", {"ours": trained}).plot_layer_weights()    # doctest: +SKIP
    """
    began = time.perf_counter()
    probed = probed_poolings(model, poolings, layers, tokens)
    data = read_tasks(sample_folder() if folder is None else folder, tasks)
    for deviation in data.deviations:
        warn(deviation)
    stream = PairStream.of(data.tasks.values())
    read = time.perf_counter()
    # Before the long part: a model that cannot say what it is shall fail at once.
    description = describe_model(model)
    started = time.perf_counter()
    run = model._run(stream.sentences, batch_size=batch_size, threads=threads, show_progress_bar=show_progress_bar)
    passes = _Passes(model, run, probed)
    cosines, weights = passes.compare(stream)
    encoded = time.perf_counter()
    rows = _scored(data, stream, probed, cosines)
    return ProbeResult(
        rows=rows,
        layer_weights={name: _summary(stream, of_sentences) for name, of_sentences in weights.items()},
        skipped=data.skipped,
        model=description,
        encoding={
            "sentences": len(stream.sentences),
            "truncated": run.info().n_truncated,
            "batch_size": run.batch_size,
            "threads": run.threads,
            "encoded_again_for": [one.name for one in probed if one.needs_own_pass(run.prompt)],
        },
        data=data.describe(),
        seconds={"read": read - began, "encode": encoded - started, "score": time.perf_counter() - encoded},
    )


# ---- one pass -----------------------------------------------------------------------------------------------------


class _Passes:
    """The encoder's pass over the sentences of a stream, and the cosines that every pooling gives there."""

    def __init__(self, model, run, probed: list[ProbedPooling]) -> None:
        self.model, self.run, self.probed = model, run, probed
        self.pooler = BlockPooler(model, run, probed)
        # Each pooling's vectors of the sentences that wait for a partner.
        self.waiting = {one: np.empty((0, one.width), np.float32) for one in probed}

    def compare(self, stream: PairStream) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Cosines (poolings, D) float64 of the distinct pairs; layer weights (sentences, L + 1) by pooling."""
        cosines = np.empty((len(self.probed), len(stream.later)))
        weights = {
            one: np.empty((len(stream.sentences), self.model.n_layers + 1), np.float32)
            for one in self.probed
            if isinstance(one.pooling.layers, LayerAttention)
        }
        waiting = np.empty(0, dtype=np.int64)
        for start, stop, states in self.pooler.blocks():
            sentences = stream.sentences[start:stop]
            here = np.concatenate([waiting, np.arange(start, stop)])
            arrived = slice(*np.searchsorted(stream.later, (start, stop)))
            earlier, later = (np.searchsorted(here, some[arrived]) for some in (stream.earlier, stream.later))
            stay = np.flatnonzero(stream.needed_until[here] >= stop)
            for one, row in zip(self.probed, cosines, strict=True):
                vectors = np.concatenate([self.waiting[one], self.pooler.vectors(one, states, sentences)])
                row[arrived] = _core.similarity_pairwise(vectors[earlier], vectors[later], "cosine")
                self.waiting[one] = vectors[stay]
                if one in weights:
                    weights[one][start:stop] = self.pooler.layer_weights(one, states, sentences)
            waiting = here[stay]
            del states
        return cosines, _named(weights)


def _named(weights: dict[ProbedPooling, np.ndarray]) -> dict[str, np.ndarray]:
    """By the names of the poolings, with the token poolings where one name stands for several."""
    names = [one.name for one in weights]
    return {
        one.name if names.count(one.name) == 1 else f"{one.name}, {one.tokens}": of_one
        for one, of_one in weights.items()
    }


# ---- numbers ------------------------------------------------------------------------------------------------------


def _scored(data: SimilarityData, stream: PairStream, probed: list[ProbedPooling], cosines: np.ndarray) -> list[dict]:
    rows = []
    scorers = {name: TaskScorer(task) for name, task in data.tasks.items()}
    for one, of_pairs in zip(probed, cosines, strict=True):
        for name, scorer in scorers.items():
            scores = scorer.score([of_pairs[lines] for lines in stream.places[name]])
            for aggregation, spearman, pearson in zip(Aggregates._fields, scores.spearman, scores.pearson, strict=True):
                rows.append(
                    {
                        "tokens": one.tokens,
                        "layers": one.layers,
                        "task": name,
                        "pairs": scores.n,
                        "aggregation": aggregation,
                        "spearman": spearman,
                        "pearson": pearson,
                    }
                )
    return rows


def _summary(stream: PairStream, weights: np.ndarray) -> dict[str, dict]:
    """Mean and standard deviation of the layer weights over the distinct sentences of each task."""
    summary = {}
    for task, places in stream.places.items():
        lines = np.concatenate(places)
        if not len(lines):
            continue
        sentences = np.unique(np.concatenate([stream.earlier[lines], stream.later[lines]]))
        of_task = weights[sentences].astype(np.float64)
        summary[task] = {
            "sentences": len(sentences),
            "mean": of_task.mean(axis=0).tolist(),
            "sd": of_task.std(axis=0).tolist(),
        }
    return summary
