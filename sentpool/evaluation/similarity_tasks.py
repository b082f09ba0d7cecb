"""Scoring a model on semantic textual similarity."""

from __future__ import annotations

import math
import time

import numpy as np

from sentpool import _core
from sentpool.errors import warn
from sentpool.evaluation.embedding import describe_model, embed
from sentpool.evaluation.intervals import sts_intervals
from sentpool.evaluation.report import STSResult
from sentpool.evaluation.scoring import TaskScorer
from sentpool.evaluation.significance import Bootstrap
from sentpool.evaluation.similarity_data import Task, read_tasks


def sts(
    model, folder, tasks=None, *, batch_size=32, show_progress_bar=None, resamples=1000, seed=0, **encode_options
) -> STSResult:
    """Score a model on semantic textual similarity, under SentEval's rules.

    The cosine of each pair's embeddings is correlated with the gold scores. A task with subsets gets three
    numbers: `all` (one correlation over the concatenated subsets), `mean` (mean of the subsets' correlations)
    and `wmean` (that mean weighted by pairs). Each distinct sentence is encoded once, in one call. The cosine
    with a zero vector is 0.

    Parameters
    ----------
    model : SentenceEncoder, object with ``encode``, or callable
        A callable takes a list of n strings and returns an array (n, d).
    folder : str or Path
        A folder in SentEval's layout; ``STS/``, ``downstream/`` and ``downstream/STS/`` below it are searched
        too. SentEval's ``get_transfer_data.bash`` (github.com/facebookresearch/SentEval) makes it;
        ``senteval.tar`` of ``princeton-nlp/datasets-for-simcse`` (huggingface.co) holds it. Or a folder of
        ``*.tsv`` files, each line a score and two sentences: a task named like the folder, a subset per file.
    tasks : str or sequence of str, optional
        Of ``STS12`` … ``STS16``, ``STSB-dev``, ``STSB-test``, ``STSB-train``, ``SICKR-test`` (4,927 pairs),
        ``SICKR-all`` (9,927 pairs); ``STSB`` stands for dev and test, ``SICKR`` for test and all; case, ``-``
        and ``_`` are free. None: what is there, without ``STSB-train``; ``result.skipped`` says what is not.
    resamples, seed : int
        Of the bootstrap that gives every number its 95 % interval (see `STSResult.interval`); 0: no intervals.
    batch_size, show_progress_bar, **encode_options
        Passed to ``model.encode``, the first two only if it takes them (a plain callable takes no options and does
        its own batching).

    Returns
    -------
    STSResult

    Raises
    ------
    FileNotFoundError
        The folder, a named task or every task is missing.
    ValueError
        An unknown task name, a malformed line (named by file and line), or embeddings of the wrong shape or
        with NaN or infinity.
    TypeError
        A model that can neither encode nor be called, options that it does not take, a `folder` that is no path, or
        `tasks` that are no names.

    Warns
    -----
    SentpoolWarning
        A file that does not hold the pairs it should, or an undefined correlation.

    Examples
    --------
    >>> result = evaluation.sts(model, evaluation.sample_folder())
    >>> result["sample"].spearman.wmean > 0.8
    True
    >>> evaluation.sts(model, "data/sts").spearman("STSB-test")         # doctest: +SKIP
    0.8203...
    """
    began = time.perf_counter()
    bootstrap = None if resamples == 0 else Bootstrap.checked(resamples, seed, 0.95)
    data = read_tasks(folder, tasks)
    for deviation in data.deviations:
        warn(deviation)
    index = data.distinct_sentences()
    read = time.perf_counter()
    # Before the long part: a model that cannot say what it is shall fail at once.
    description = describe_model(model)
    started = time.perf_counter()
    vectors, encoding = embed(
        model, list(index), batch_size=batch_size, show_progress_bar=show_progress_bar, **encode_options
    )
    encoded = time.perf_counter()
    cosines = {name: _cosines(task, index, vectors) for name, task in data.tasks.items()}
    pairs = {
        name: {part.name: (c, part.gold) for part, c in zip(task.subsets, cosines[name], strict=True)}
        for name, task in data.tasks.items()
    }
    result = STSResult(
        tasks={name: TaskScorer(task).score(cosines[name]) for name, task in data.tasks.items()},
        pairs=pairs,
        intervals={} if bootstrap is None else sts_intervals(pairs, bootstrap),
        bootstrap=bootstrap,
        skipped=data.skipped,
        model=description,
        encoding=encoding,
        data=data.describe(),
        seconds={"read": read - began, "encode": encoded - started, "score": time.perf_counter() - encoded},
    )
    for name, scores in result.items():
        if math.isnan(sum(scores.spearman)):
            warn(f"{name}: a correlation is undefined (nan), all cosines or all gold scores being equal")
    return result


def _cosines(task: Task, index: dict[str, int], vectors: np.ndarray) -> list[np.ndarray]:
    return [
        _core.similarity_pairwise(
            vectors[[index[s] for s in pairs.first]], vectors[[index[s] for s in pairs.second]], "cosine"
        )
        for pairs in task.subsets
    ]
