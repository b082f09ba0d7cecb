"""The result of an STS run: numbers by name, a table to look at, a file to reproduce it from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sentpool.config_report import versions
from sentpool.evaluation import tables
from sentpool.evaluation.plain_tables import pandas_module
from sentpool.evaluation.saved_result import reading, restored_nan, write_json
from sentpool.evaluation.significance import Bootstrap, Interval
from sentpool.evaluation.similarity_data import SUBSETS, task_name

STANDARD_SEVEN = (*SUBSETS, "STSB-test", "SICKR-test")
COEFFICIENTS = ("spearman", "pearson")
AGGREGATION = {
    "all": "one correlation over the task's concatenated subsets",
    "mean": "mean of the correlations of the task's subsets",
    "wmean": "that mean weighted by pairs",
}


class Aggregates(NamedTuple):
    """One coefficient of one task under the three aggregations; equal where the task is one list."""

    all: float
    mean: float
    wmean: float


@dataclass(frozen=True)
class SubsetScores:
    """Pairs and correlations of one subset."""

    n: int
    spearman: float
    pearson: float


@dataclass(frozen=True)
class TaskScores:
    """Pairs and correlations of one task; `subsets` is empty where the task is one list."""

    n: int
    spearman: Aggregates
    pearson: Aggregates
    subsets: dict[str, SubsetScores]


@dataclass(repr=False, eq=False)
class STSResult(Mapping):
    """What `evaluation.sts` returns: a mapping from task name to `TaskScores`.

    Coefficients are in [-1, 1]; the tables show them ×100.

    Attributes
    ----------
    tasks : dict of str to TaskScores
    skipped : dict of str to str
        Tasks that the folder does not hold, and what is missing.
    model, encoding, data : dict
        What was run on what: names, SHA-256 of weight and data files, pooling, maximum length, sentences
        truncated.
    seconds : dict of str to float
        Wall-clock time of reading, encoding and scoring.
    versions : dict of str to str
    pairs : dict
        ``pairs[task][subset]`` is (cosines, gold scores); see `scores` and `gold`.
    intervals : dict
        ``intervals[task][coefficient][aggregation]`` is (low, high), for the average too, under ``"average of 7"``; see
        `interval`. Empty where none were made.
    bootstrap : Bootstrap or None
        How they were made: resamples, seed, confidence.

    Examples
    --------
    >>> result["STS12"].spearman.all                       # doctest: +SKIP
    >>> result["STS12"].subsets["MSRpar"].pearson          # doctest: +SKIP
    >>> result.spearman("STSB-test")                       # doctest: +SKIP
    >>> result.spearman("STS15", "wmean")                  # doctest: +SKIP
    >>> result.average().all                               # doctest: +SKIP
    >>> result.interval("STS15", "wmean")                  # doctest: +SKIP
    >>> result.save("minilm.json")                         # doctest: +SKIP
    """

    FORMAT = "sentpool STS result 1"

    tasks: dict[str, TaskScores]
    pairs: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]
    skipped: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)
    intervals: dict[str, dict[str, dict[str, Interval]]] = field(default_factory=dict)
    bootstrap: Bootstrap | None = None

    def __getitem__(self, task: str) -> TaskScores:
        name = self._name(task)
        if name not in self.tasks:
            why = self.skipped.get(name)
            reason = f"was skipped: {why}" if why else f"is not among {', '.join(self.tasks)}"
            raise KeyError(f"task {task!r} {reason}")
        return self.tasks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def spearman(self, task: str, aggregation: str = "all") -> float:
        """Spearman's coefficient of a task under ``"all"``, ``"mean"`` or ``"wmean"``."""
        return _pick(self[task].spearman, aggregation)

    def pearson(self, task: str, aggregation: str = "all") -> float:
        """Pearson's coefficient of a task under ``"all"``, ``"mean"`` or ``"wmean"``."""
        return _pick(self[task].pearson, aggregation)

    def average(self, coefficient: str = "spearman") -> Aggregates | None:
        """Mean over the seven standard tasks (STS12–16, STSB-test, SICKR-test); None if one is missing.

        Parameters
        ----------
        coefficient : {"spearman", "pearson"}
        """
        _check_coefficient(coefficient)
        if any(task not in self.tasks for task in STANDARD_SEVEN):
            return None
        rows = np.array([getattr(self.tasks[task], coefficient) for task in STANDARD_SEVEN])
        return Aggregates(*rows.mean(axis=0).tolist())

    def interval(self, task: str, aggregation: str = "all", coefficient: str = "spearman") -> Interval:
        """The confidence interval of a task's number, or of ``"average of 7"``: (low, high), in [-1, 1].

        Percentile bootstrap: pairs are drawn with replacement within their subset, and the number is computed from each
        resample as it is from the pairs themselves. Pairs are taken to be independent of each other.

        Raises
        ------
        KeyError
            No such task here.
        ValueError
            An unknown aggregation or coefficient, or a result without intervals.
        """
        _check_coefficient(coefficient)
        if not self.intervals:
            raise ValueError("this result has no intervals: it was made with resamples=0")
        known = self.intervals[task] if task in self.intervals else self.intervals[self._name_of(task)]
        return _pick(Aggregates(**known[coefficient]), aggregation)

    def scores(self, task: str, subset: str | None = None) -> np.ndarray:
        """Cosine of every pair of a task (or of one subset), float64 (n,), in the files' order."""
        return self._column(0, task, subset)

    def gold(self, task: str, subset: str | None = None) -> np.ndarray:
        """Gold score of every pair of a task (or of one subset), float64 (n,), in the order of `scores`."""
        return self._column(1, task, subset)

    def to_frame(self, subsets: bool = False):
        """The table as a pandas DataFrame, coefficients in [-1, 1].

        Parameters
        ----------
        subsets : bool
            False: one row per task, columns ``pairs``, ``spearman_all``, ``spearman_mean``, … ,
            ``pearson_wmean``, and ``spearman_all_low``, ``spearman_all_high`` … for the intervals if there are any.
            True: one row per (task, subset), columns ``pairs``, ``spearman``, ``pearson``.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        pandas = pandas_module()
        if subsets:
            rows = {
                (task, name): {"pairs": part.n, "spearman": part.spearman, "pearson": part.pearson}
                for task, scores in self.items()
                for name, part in scores.subsets.items()
            }
            index = pandas.MultiIndex.from_tuples(rows, names=["task", "subset"])
            return pandas.DataFrame(list(rows.values()), index=index, columns=["pairs", "spearman", "pearson"])
        rows = [
            {
                "pairs": scores.n,
                **{f"spearman_{name}": value for name, value in scores.spearman._asdict().items()},
                **{f"pearson_{name}": value for name, value in scores.pearson._asdict().items()},
                **{
                    f"{coefficient}_{aggregation}_{end}": value
                    for coefficient, of_coefficient in self.intervals.get(task, {}).items()
                    for aggregation, interval in of_coefficient.items()
                    for end, value in interval._asdict().items()
                },
            }
            for task, scores in self.items()
        ]
        return pandas.DataFrame(rows, index=pandas.Index(list(self), name="task"))

    def save(self, path, scores: bool = True) -> None:
        """Write the result and what is needed to reproduce it as JSON, replacing the file in one step.

        Parameters
        ----------
        path : str or Path
        scores : bool
            Also write cosine and gold score of every pair, without which no interval can be made anew (some 35,000
            pairs in all tasks, less than a megabyte).

        Raises
        ------
        OSError
            The file cannot be written; what was there before is untouched.
        """
        content = {
            "format": self.FORMAT,
            "measure": "correlation of cosine similarity with gold scores, in [-1, 1]",
            "aggregation": AGGREGATION,
            "tasks": {task: _task_to_json(scores) for task, scores in self.items()},
            "average of seven": _average_to_json(self),
            "skipped": self.skipped,
            "model": self.model,
            "encoding": self.encoding,
            "data": self.data,
            "seconds": self.seconds,
            "versions": self.versions,
            "bootstrap": None if self.bootstrap is None else self.bootstrap._asdict(),
            "intervals": self.intervals,
        }
        if scores:
            content["pairs"] = {
                task: {name: {"cosine": c.tolist(), "gold": g.tolist()} for name, (c, g) in parts.items()}
                for task, parts in self.pairs.items()
            }
        write_json(path, content)

    @classmethod
    def load(cls, path) -> STSResult:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            The file is not a saved result, or of a later format.
        """
        with reading(path, cls.FORMAT, cls) as content:
            return cls(
                tasks={task: _task_from_json(scores) for task, scores in content["tasks"].items()},
                pairs={
                    task: {name: (_array(part["cosine"]), _array(part["gold"])) for name, part in parts.items()}
                    for task, parts in content.get("pairs", {}).items()
                },
                intervals=_intervals_from_json(content.get("intervals", {})),
                bootstrap=Bootstrap(**content["bootstrap"]) if content.get("bootstrap") else None,
                **{name: content[name] for name in ("skipped", "model", "encoding", "data", "seconds", "versions")},
            )

    def __repr__(self) -> str:
        return tables.as_text(self)

    def _repr_html_(self) -> str:
        return tables.as_html(self)

    def _name(self, task: str) -> str:
        return task if task in self.tasks else task_name(task)

    def _name_of(self, task: str) -> str:
        """The name of a task that is here."""
        self[task]
        return self._name(task)

    def _column(self, column: int, task: str, subset: str | None) -> np.ndarray:
        known = self[task].subsets
        parts = self.pairs.get(self._name(task))
        if parts is None:
            raise ValueError(
                f"this result holds no scores of pairs for {task!r}: it was saved without them; save(path, "
                "scores=True) keeps them"
            )
        if subset is None:
            return np.concatenate([part[column] for part in parts.values()])
        if subset not in known:
            raise KeyError(f"{task} has no subset {subset!r}: choose from {', '.join(known) or 'none, it is one list'}")
        return parts[subset][column].copy()


def _pick(aggregates: Aggregates, aggregation: str) -> float:
    if aggregation not in Aggregates._fields:
        raise ValueError(f"aggregation is {aggregation!r}: choose from {', '.join(Aggregates._fields)}")
    return getattr(aggregates, aggregation)


def _check_coefficient(coefficient: str) -> None:
    if coefficient not in COEFFICIENTS:
        raise ValueError(f"coefficient is {coefficient!r}: choose 'spearman' or 'pearson'")


def _task_to_json(scores: TaskScores) -> dict[str, Any]:
    return {
        "pairs": scores.n,
        "spearman": scores.spearman._asdict(),
        "pearson": scores.pearson._asdict(),
        "subsets": {
            name: {"pairs": part.n, "spearman": part.spearman, "pearson": part.pearson}
            for name, part in scores.subsets.items()
        },
    }


def _task_from_json(content: dict[str, Any]) -> TaskScores:
    return TaskScores(
        n=content["pairs"],
        spearman=Aggregates(**{name: restored_nan(value) for name, value in content["spearman"].items()}),
        pearson=Aggregates(**{name: restored_nan(value) for name, value in content["pearson"].items()}),
        subsets={
            name: SubsetScores(part["pairs"], restored_nan(part["spearman"]), restored_nan(part["pearson"]))
            for name, part in content["subsets"].items()
        },
    )


def _intervals_from_json(content: dict[str, Any]) -> dict[str, dict[str, dict[str, Interval]]]:
    return {
        task: {
            coefficient: {name: Interval(*map(restored_nan, ends)) for name, ends in of_coefficient.items()}
            for coefficient, of_coefficient in of_task.items()
        }
        for task, of_task in content.items()
    }


def _average_to_json(result: STSResult) -> dict[str, Any] | None:
    spearman, pearson = result.average("spearman"), result.average("pearson")
    if spearman is None or pearson is None:
        return None
    return {"tasks": STANDARD_SEVEN, "spearman": spearman._asdict(), "pearson": pearson._asdict()}


def _array(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float64)
