"""A confidence interval for every number of an STS result, from the cosines of its pairs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from sentpool.evaluation.report import COEFFICIENTS, STANDARD_SEVEN, Aggregates
from sentpool.evaluation.resampling import correlation_replicates
from sentpool.evaluation.significance import Bootstrap, Interval, percentile_interval
from sentpool.evaluation.tables import AVERAGE


def sts_intervals(pairs: Mapping, bootstrap: Bootstrap) -> dict[str, dict[str, dict[str, Interval]]]:
    """Percentile bootstrap intervals of every task, coefficient and aggregation, and of the average of seven tasks.

    Parameters
    ----------
    pairs : mapping
        As in `STSResult`.
    bootstrap : Bootstrap

    Returns
    -------
    dict
        Task (or "average of 7"), coefficient and aggregation to `Interval`.
    """
    intervals: dict[str, dict[str, dict[str, Interval]]] = {name: {} for name in pairs}
    for coefficient in COEFFICIENTS:
        average = np.zeros((len(Aggregates._fields), bootstrap.resamples))
        for name, parts in pairs.items():
            (of_task,) = task_replicates(name, [parts], coefficient, bootstrap)
            intervals[name][coefficient] = _of_each(of_task, bootstrap)
            if name in STANDARD_SEVEN:
                average += of_task / len(STANDARD_SEVEN)
        if all(name in pairs for name in STANDARD_SEVEN):
            intervals.setdefault(AVERAGE, {})[coefficient] = _of_each(average, bootstrap)
    return intervals


def task_replicates(name: str, results, coefficient: str, bootstrap: Bootstrap) -> np.ndarray:
    """One task's coefficient in several results over the same resamples; the draws of two tasks are independent.

    Parameters
    ----------
    name : str
        The task.
    results : sequence of mapping
        For each result, subset to (cosines, gold scores); gold scores are those of the first.
    coefficient : {"spearman", "pearson"}
    bootstrap : Bootstrap

    Returns
    -------
    ndarray, float64, shape (results, 3, resamples)
        `all`, `mean`, `wmean`.
    """
    golds = [gold for _, gold in results[0].values()]
    cosines = [[parts[subset][0] for subset in results[0]] for parts in results]
    return correlation_replicates(golds, cosines, coefficient, bootstrap, zlib.crc32(name.encode()))


def _of_each(replicates: np.ndarray, bootstrap: Bootstrap) -> dict[str, Interval]:
    return {
        aggregation: percentile_interval(row, bootstrap.confidence)
        for aggregation, row in zip(Aggregates._fields, replicates, strict=True)
    }
