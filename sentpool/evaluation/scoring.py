"""From the cosines of a task's pairs to its numbers: SentEval's three aggregations of both coefficients."""

from __future__ import annotations

import math

import numpy as np

from sentpool.evaluation.correlation import Correlated
from sentpool.evaluation.report import Aggregates, SubsetScores, TaskScores
from sentpool.evaluation.similarity_data import Task


class TaskScorer:
    """Scores one task for any number of models or poolings; what the gold scores alone decide is computed once.

    Parameters
    ----------
    task : Task
    """

    def __init__(self, task: Task) -> None:
        golds = [pairs.gold for pairs in task.subsets]
        self._subsets = {pairs.name: Correlated(gold) for pairs, gold in zip(task.subsets, golds, strict=True)}
        self._together = Correlated(np.concatenate(golds)) if len(golds) > 1 else None

    def score(self, cosines: list[np.ndarray]) -> TaskScores:
        """The task's numbers from the cosines (n,) of each subset's pairs."""
        subsets = {
            name: SubsetScores(len(gold), gold.spearman(cosine), gold.pearson(cosine))
            for (name, gold), cosine in zip(self._subsets.items(), cosines, strict=True)
        }
        if self._together is None:
            (together,) = subsets.values()
            spearman, pearson = together.spearman, together.pearson
        else:
            every = np.concatenate(cosines)
            spearman, pearson = self._together.spearman(every), self._together.pearson(every)
        return TaskScores(
            n=sum(scores.n for scores in subsets.values()),
            spearman=_aggregate(spearman, [(s.spearman, s.n) for s in subsets.values()]),
            pearson=_aggregate(pearson, [(s.pearson, s.n) for s in subsets.values()]),
            subsets={name: scores for name, scores in subsets.items() if name},
        )


def _aggregate(together: float, parts: list[tuple[float, int]]) -> Aggregates:
    """A task's three numbers, from the one over everything and from (correlation, pairs) of its subsets."""
    if len(parts) == 1:
        return Aggregates(together, together, together)
    n = sum(size for _, size in parts)
    mean = math.fsum(value for value, _ in parts) / len(parts)
    wmean = math.fsum(value * size for value, size in parts) / n if n else math.nan
    return Aggregates(together, mean, wmean)
