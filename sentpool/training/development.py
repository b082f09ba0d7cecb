"""The development set: how good the model is while it is trained."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sentpool import _core
from sentpool.errors import shown
from sentpool.evaluation.correlation import spearman
from sentpool.evaluation.similarity_data import read_tasks
from sentpool.evaluation.space_geometry import alignment, uniformity
from sentpool.training.data import TrainingData

_TASK = "STSB-dev"
# Wang & Isola 2020 and SimCSE call pairs of STS-B with a score above 4 of 5 positive.
_POSITIVE = 0.8
# Texts whose layer weights are averaged.
_WEIGHED = 256


class DevelopmentSet:
    """What scores a model: Spearman's correlation of cosines and human scores on pairs, or a function.

    Parameters
    ----------
    data : path, sequence or callable
        A folder in SentEval's layout, of which STS-B's development pairs are taken, or one of .tsv files, as
        `evaluation.sts` reads them. A file of scored pairs, or a sequence of them, as `TrainingData.of` takes them. Or
        a function that gives a number for a model; higher is better.

    Raises
    ------
    FileNotFoundError
    TypeError, ValueError
        No scored pairs.
    """

    def __init__(self, data) -> None:
        self.function: Callable | None = data if callable(data) else None
        if self.function is not None:
            return
        if isinstance(data, str | os.PathLike) and Path(data).is_dir():
            self.first, self.second, self.gold = _pairs_of_folder(Path(data))
        else:
            scored = TrainingData.of(data, "eval_data")
            if scored.scores is None:
                raise ValueError(f"eval_data is {scored!r}; expected are two sentences and a score per item")
            (self.first, self.second), self.gold = scored.columns, scored.scores
        if len(self.gold) < 2 or np.ptp(self.gold) == 0:
            raise ValueError("eval_data has a single score for all pairs, with which nothing can be correlated")
        self.texts = list(dict.fromkeys([*self.first, *self.second]))

    def evaluate(self, model, threads: int) -> dict:
        """`score`; of pairs also `alignment` and `uniformity`, and `layer_weights` where the pooling has some."""
        if self.function is not None:
            score = self.function(model)
            if not isinstance(score, int | float | np.integer | np.floating):
                raise TypeError(f"eval_data gave {type(score).__name__} {shown(score)}; expected a number")
            return {"score": float(score)}
        vectors = model.encode(self.texts, threads=threads, show_progress_bar=False)
        place = {text: k for k, text in enumerate(self.texts)}
        first, second = (vectors[[place[text] for text in half]] for half in (self.first, self.second))
        cosines = _core.similarity_pairwise(first, second, "cosine")
        row = {"score": float(spearman(cosines, self.gold))}
        positive = self.gold > self.gold.min() + _POSITIVE * np.ptp(self.gold)
        row["alignment"] = alignment(first[positive], second[positive]) if positive.any() else math.nan
        row["uniformity"] = uniformity(vectors, show_progress_bar=False)
        return row | self._layer_weights(model, threads)

    def _layer_weights(self, model, threads: int) -> dict:
        if len(model.pooling.needed_layers(model.n_layers)) < 2 or not model.pooling.trainable_parameters():
            return {}
        try:
            weights = model.layer_weights(self.texts[:_WEIGHED], threads=threads, show_progress_bar=False)
        except ValueError:  # a pooling of the user's own
            return {}
        return {"layer_weights": [float(weight) for weight in weights.mean(axis=0)]}


def _pairs_of_folder(folder: Path) -> tuple[list[str], list[str], np.ndarray]:
    try:
        (task,) = read_tasks(folder, _TASK).tasks.values()
    except FileNotFoundError:
        if not any(folder.glob("*.tsv")):
            raise
        (task,) = read_tasks(folder, folder.resolve().name).tasks.values()
    first = [text for part in task.subsets for text in part.first]
    second = [text for part in task.subsets for text in part.second]
    return first, second, np.concatenate([part.gold for part in task.subsets])
