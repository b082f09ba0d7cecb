"""The result of transfer probes: accuracies with intervals, the predictions behind them, a file."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sentpool.config_report import versions
from sentpool.evaluation.plain_tables import pandas_module
from sentpool.evaluation.resampling import mean_replicates
from sentpool.evaluation.saved_result import SavedResult
from sentpool.evaluation.significance import Bootstrap, Interval, percentile_interval
from sentpool.evaluation.tables import interval_text, percent


class Predicted(NamedTuple):
    """What was predicted of one task.

    Attributes
    ----------
    classes : list of str
        The labels.
    answers, gold : ndarray, int64, shape (n,)
        Predicted and true class of each text that was scored, as indices into `classes`, in the file's order.
    strengths : list of float
        The C that was chosen for each set of predictions: one per fold, or one.
    dev : list of float
        The accuracy by which it was chosen.
    """

    classes: list[str]
    answers: np.ndarray
    gold: np.ndarray
    strengths: list[float]
    dev: list[float]

    @property
    def right(self) -> np.ndarray:
        """1 where a prediction is right, else 0; float64 (n,)."""
        return (self.answers == self.gold).astype(np.float64)

    @property
    def majority(self) -> float:
        """The accuracy of always answering the most frequent class."""
        return float(np.bincount(self.gold).max() / len(self.gold))


@dataclass(repr=False, eq=False)
class TransferResult(SavedResult, Mapping):
    """What `evaluation.transfer` returns: a mapping from task name to `Predicted`.

    Attributes
    ----------
    tasks : dict of str to Predicted
    protocol : dict
        ``folds``, ``seed`` and the ``strengths`` that were tried.
    bootstrap : Bootstrap or None
        Of the intervals.
    model, encoding, data, seconds, versions : dict
        As in `STSResult`.
    """

    FORMAT = "sentpool transfer result 1"

    tasks: dict[str, Predicted]
    protocol: dict[str, Any] = field(default_factory=dict)
    bootstrap: Bootstrap | None = None
    model: dict[str, Any] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)

    def __getitem__(self, task: str) -> Predicted:
        if task not in self.tasks:
            raise KeyError(f"task {task!r} is not among {', '.join(self.tasks)}")
        return self.tasks[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def accuracy(self, task: str) -> float:
        """The share of a task's texts whose label was predicted, in [0, 1].

        Of folds, all texts together; SentEval takes the mean of the folds' accuracies, which differs by less than a
        hundredth of a percent, for folds differ in size by one text at most.
        """
        return float(self[task].right.mean())

    def average(self) -> float:
        """The mean accuracy of the tasks."""
        return math.fsum(map(self.accuracy, self)) / len(self)

    def interval(self, task: str) -> Interval:
        """The confidence interval of a task's accuracy: percentile bootstrap of its texts, the predictions kept.

        Raises
        ------
        KeyError
            No such task here.
        ValueError
            This result was made without intervals.
        """
        predicted = self[task]
        if self.bootstrap is None:
            raise ValueError("this result has no intervals: it was made with resamples=0")
        (replicates,) = mean_replicates(predicted.right[None], self.bootstrap, zlib.crc32(task.encode()))
        return percentile_interval(replicates, self.bootstrap.confidence)

    def to_frame(self):
        """The table as a pandas DataFrame, shares in [0, 1]: ``texts``, ``classes``, ``accuracy``, ``low``, ``high``
        (if there are intervals), ``majority``, ``dev``.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        pandas = pandas_module()
        rows = [
            {
                "texts": len(one.gold),
                "classes": len(one.classes),
                "accuracy": self.accuracy(task),
                **(self.interval(task)._asdict() if self.bootstrap else {}),
                "majority": one.majority,
                "dev": math.fsum(one.dev) / len(one.dev),
            }
            for task, one in self.items()
        ]
        return pandas.DataFrame(rows, index=pandas.Index(list(self), name="task"))

    def to_dict(self) -> dict[str, Any]:
        """Everything, all predictions too, ready for JSON."""
        tasks = {
            task: {
                "accuracy": self.accuracy(task),
                **one._asdict(),
                "answers": one.answers.tolist(),
                "gold": one.gold.tolist(),
            }
            for task, one in self.items()
        }
        bootstrap = None if self.bootstrap is None else self.bootstrap._asdict()
        return {"format": self.FORMAT, "measure": "accuracy", **self._fields(), "tasks": tasks, "bootstrap": bootstrap}

    @classmethod
    def _restored(cls, parts):
        parts["tasks"] = {
            task: Predicted(
                one["classes"],
                np.array(one["answers"], dtype=np.int64),
                np.array(one["gold"], dtype=np.int64),
                one["strengths"],
                one["dev"],
            )
            for task, one in parts["tasks"].items()
        }
        parts["bootstrap"] = Bootstrap(**parts["bootstrap"]) if parts["bootstrap"] else None
        return parts

    def _head(self) -> list[str]:
        facts = {**self.model, **self.encoding}
        lines = [f"Transfer of {self.model.get('name', 'a model')}: accuracy (%) of logistic regression on its vectors"]
        how = [f"pooling {facts['pooling']}"] if "pooling" in facts else []
        how += [f"{self.protocol['folds']} folds"] if "folds" in self.protocol else []
        return [*lines, "; ".join(how)] if how else lines

    def _tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        interval = [f"{100 * self.bootstrap.confidence:g} % interval"] if self.bootstrap else []
        rows = []
        for task, one in self.items():
            ends = [interval_text(self.interval(task))] if self.bootstrap else []
            numbers = [percent(self.accuracy(task)), *ends, percent(one.majority), _strengths(one.strengths)]
            rows.append([task, "", f"{len(one.gold):,}", str(len(one.classes)), *numbers])
        if len(self) > 1:
            rows.append(["average", "", "", "", percent(self.average()), *[""] * len(interval), "", ""])
        yield (
            "majority: always the most frequent class; C: inverse regularisation as chosen",
            ["task", "", "texts", "classes", "accuracy", *interval, "majority", "C"],
            rows,
        )


def _strengths(strengths: list[float]) -> str:
    low, high = min(strengths), max(strengths)
    return f"{low:g}" if low == high else f"{low:g}–{high:g}"
