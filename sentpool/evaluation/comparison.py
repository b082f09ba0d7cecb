"""Comparing two results: how far they are apart, whether that is more than chance, and what could be the cause."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sentpool.checks import one_of
from sentpool.evaluation.correlation import pearson, spearman
from sentpool.evaluation.intervals import task_replicates
from sentpool.evaluation.plain_tables import cut, number, pandas_module
from sentpool.evaluation.probe_result import ProbeResult
from sentpool.evaluation.protocol import Difference, differences, label
from sentpool.evaluation.report import COEFFICIENTS, STANDARD_SEVEN, Aggregates, STSResult
from sentpool.evaluation.resampling import mean_replicates
from sentpool.evaluation.retrieval_result import RetrievalResult
from sentpool.evaluation.saved_result import SavedResult, restored_nan, saved_class
from sentpool.evaluation.significance import Bootstrap, bootstrap_p, holm, percentile_interval, williams
from sentpool.evaluation.tables import AVERAGE, percent
from sentpool.evaluation.transfer_result import TransferResult

_NUMBERS = ("a", "b", "diff", "low", "high", "p", "p_holm", "williams_t", "williams_p")
_MOST_ROWS = 20
_NO_COSINES = (
    "a probe keeps no cosines of pairs, so nothing can be tested: run evaluation.sts(model, folder, pooling=...) with "
    "the poolings in question"
)


def compare(
    a,
    b,
    *,
    aggregation: str = "all",
    coefficient: str = "spearman",
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two results of one evaluation: is the gap more than chance, and what is it due to?

    Where both results hold the same pairs, the difference a − b of every task gets an interval by the paired bootstrap:
    one resample of the pairs, both numbers from it. Correlations over one list are tested by Williams' test too (see
    `significance.williams`), which takes ranks for normal variables. Holm's correction is over the tasks.

    Parameters
    ----------
    a, b : STSResult, ProbeResult, TransferResult, RetrievalResult, or path of a file that one of them saved
        Both of one kind. Of a probe every row is compared, without a test: it keeps no cosines.
    aggregation : {"all", "mean", "wmean"}
        Of the subsets of an STS task, as in `STSResult`.
    coefficient : {"spearman", "pearson"}
        Of STS tasks.
    resamples, seed : int
        Of the bootstrap.
    confidence : float
        Of the intervals; where p after Holm's correction is at most 1 − `confidence`, a gap is called beyond chance.

    Returns
    -------
    Comparison

    Raises
    ------
    TypeError
        `a` or `b` is no such result, or they are of different kinds.
    ValueError
        They have no task in common, an argument is out of range, or a file is no saved result.
    FileNotFoundError
        There is no such file.

    Examples
    --------
    >>> first = evaluation.sts(model, evaluation.sample_folder(), pooling="mean")
    >>> second = evaluation.sts(model, evaluation.sample_folder(), pooling="first_last")
    >>> comparison = evaluation.compare(first, second)
    >>> [difference.words for difference in comparison.differences]
    ['pooling: mean and first_last']
    >>> comparison.to_frame()[["diff", "low", "high"]]                  # doctest: +SKIP
    """
    one_of("aggregation", aggregation, Aggregates._fields)
    one_of("coefficient", coefficient, COEFFICIENTS)
    bootstrap = Bootstrap.checked(resamples, seed, confidence)
    a, b = (_result(name, value) for name, value in (("a", a), ("b", b)))
    if type(a) is not type(b):
        raise TypeError(f"a is {type(a).__name__} and b is {type(b).__name__}: compare results of one kind")
    pair = _PAIRS[type(a)](a, b, aggregation, coefficient, bootstrap)
    rows = list(pair.rows())
    if not rows:
        raise ValueError(f"a and b have no task in common: a has {', '.join(a.tasks)}; b has {', '.join(b.tasks)}")
    _correct(rows)
    return Comparison(
        rows=rows,
        labels={"a": label(a), "b": label(b)},
        differences=differences(a, b),
        notes=pair.notes,
        measure=pair.measure,
        items=pair.items,
        bootstrap=bootstrap,
    )


@dataclass(repr=False, eq=False)
class Comparison(SavedResult):
    """What `evaluation.compare` returns.

    Attributes
    ----------
    rows : list of dict
        One per task (and pooling, of a probe). Numbers are coefficients or shares; the tables show them ×100. Keys:

        task, pooling : str
            ``"average of 7"`` where both have the seven standard tasks; the pooling of a probe's row, else "".
        n : int
            How many `items`.
        a, b, diff : float
            ``diff`` is a − b.
        low, high : float
            Ends of its interval by the paired bootstrap; nan where nothing can be tested.
        p, p_holm : float
            Two-sided, of "no difference", from the same bootstrap; corrected for the number of tasks, to which the
            average does not belong.
        williams_t, williams_p : float
            Williams' test; nan where the number is no single correlation.
    labels : dict of str to str
        What "a" and "b" are.
    differences : list of Difference
        What differs between how the two were made: ``what``, ``a``, ``b``, ``words``, ``matters``.
    notes : list of str
        What to keep in mind.
    measure, items : str
        What was compared, and what it is computed from: "pairs", "texts" or "queries".
    bootstrap : Bootstrap
    """

    FORMAT = "sentpool comparison 1"

    rows: list[dict[str, Any]]
    labels: dict[str, str]
    differences: list[Difference]
    notes: list[str]
    measure: str
    items: str
    bootstrap: Bootstrap

    def verdict(self, row: Mapping) -> str:
        """What a row says: "a higher" or "b higher" beyond chance, "chance", "equal", or "not tested"."""
        p = row["p"] if row["task"] == AVERAGE else row["p_holm"]
        if row["diff"] == 0:
            return "equal"
        if math.isnan(p):
            return "not tested"
        if p > 1 - self.bootstrap.confidence + 1e-12:
            return "chance"
        return "a higher" if row["diff"] > 0 else "b higher"

    @property
    def words(self) -> list[str]:
        """What the comparison says, in sentences."""
        return [*self._about_gaps(), self._about_causes(), *self.notes]

    def to_frame(self):
        """`rows` as a pandas DataFrame, indexed by task (of a probe, by pooling and task), with a column ``verdict``.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        frame = pandas_module().DataFrame([{**row, "verdict": self.verdict(row)} for row in self.rows])
        return (
            frame.set_index(["pooling", "task"]) if self._is_probe else frame.set_index("task").drop(columns="pooling")
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON but for nan."""
        content = self._fields()
        content["differences"] = [one._asdict() for one in self.differences]
        content["bootstrap"] = self.bootstrap._asdict()
        return {"format": self.FORMAT, "words": self.words, **content}

    @classmethod
    def _restored(cls, parts):
        parts["rows"] = [row | {name: restored_nan(row[name]) for name in _NUMBERS} for row in parts["rows"]]
        parts["differences"] = [Difference(**one) for one in parts["differences"]]
        return parts | {"bootstrap": Bootstrap(**parts["bootstrap"])}

    @property
    def _is_probe(self) -> bool:
        return any(row["pooling"] for row in self.rows)

    def _head(self) -> list[str]:
        how = f"{self.measure} ×100; diff is a − b"
        return [f"a: {self.labels['a']}", f"b: {self.labels['b']}", how, *self.words]

    def _tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        confidence = f"{100 * self.bootstrap.confidence:g} %"
        rows = self.rows
        title = f"paired bootstrap, {self.bootstrap.resamples:,} resamples; p Holm: corrected for the number of tasks"
        if self._is_probe and len(rows) > _MOST_ROWS:
            rows = sorted(rows, key=lambda row: -abs(row["diff"]) if row["diff"] == row["diff"] else 0)[:_MOST_ROWS]
            title = f"the {_MOST_ROWS} largest gaps of {len(self.rows)} rows"
        head = ["task", "pooling" * self._is_probe, self.items, "a", "b", "diff"]
        tested = any(not math.isnan(row["low"]) for row in rows)
        williams_too = any(not math.isnan(row["williams_p"]) for row in rows)
        yield (
            title,
            [*head, *[f"{confidence} interval", "p", "p Holm"] * tested, *["p Williams"] * williams_too, "verdict"],
            [self._cells(row, tested, williams_too) for row in rows],
        )

    def _cells(self, row: Mapping, tested: bool, williams_too: bool) -> list[str]:
        cells = [row["task"], cut(row["pooling"]), f"{row['n']:,}" * (row["task"] != AVERAGE)]
        cells += [percent(row["a"]), percent(row["b"]), _signed(row["diff"])]
        if tested:
            cells.append(f"{_signed(row['low'])} to {_signed(row['high'])}" if row["low"] == row["low"] else "–")
            cells += [_p(row["p"]), _p(row["p_holm"])]
        return [*cells, *[_p(row["williams_p"])] * williams_too, self.verdict(row)]

    def _notes(self) -> list[str]:
        if not self.differences:
            return []
        return ["what differs (a and b):", *(f"- {one.words}" for one in self.differences)]

    def _about_gaps(self) -> Iterator[str]:
        tasks = [row for row in self.rows if row["task"] != AVERAGE]
        by_verdict: dict[str, list[str]] = {}
        for row in tasks:
            by_verdict.setdefault(self.verdict(row), []).append(row["task"])
        if by_verdict.keys() == {"equal"}:
            yield "Every number is equal."
            return
        if not by_verdict.keys() <= {"equal", "not tested"}:
            level = f"p after Holm's correction for {len(tasks)} tasks" if len(tasks) > 1 else "p"
            yield (
                "; ".join(_CLAUSES[one].format(", ".join(by_verdict[one])) for one in _CLAUSES if one in by_verdict)
                + f" ({level}, level {1 - self.bootstrap.confidence:.2g})."
            )
        for row in self.rows:
            if row["task"] == AVERAGE and not math.isnan(row["low"]):
                meaning = "within chance" if self.verdict(row) in ("chance", "equal") else "beyond chance"
                ends = f"{_signed(row['low'])} to {_signed(row['high'])}"
                yield f"On the average of the seven tasks the gap is {_signed(row['diff'])} ({ends}), {meaning}."

    def _about_causes(self) -> str:
        causes = list(dict.fromkeys(one.what for one in self.differences if one.matters))
        if not causes:
            if all(row["diff"] == 0 for row in self.rows):
                return "Nothing that can change numbers differs between the two."
            return "Nothing that is recorded explains the gap: the model is no SentenceEncoder, or changed unseen."
        if len(causes) == 1:
            return f"The two differ in one thing that can change numbers: {causes[0]}."
        return (
            f"The two differ in {len(causes)} things that can change numbers ({', '.join(causes)}): the gap is due to "
            "all of them together."
        )


_CLAUSES = {
    "a higher": "a is higher beyond chance on {}",
    "b higher": "b is higher beyond chance on {}",
    "chance": "within chance on {}",
    "equal": "equal on {}",
    "not tested": "not tested on {}",
}


class _TwoSTS:
    """Rows of two STS results."""

    items = "pairs"

    def __init__(self, a: STSResult, b: STSResult, aggregation: str, coefficient: str, bootstrap: Bootstrap) -> None:
        self.a, self.b, self.aggregation, self.coefficient, self.bootstrap = a, b, aggregation, coefficient, bootstrap
        self.measure = f"{coefficient.capitalize()}, aggregation {aggregation},"
        self.notes: list[str] = []

    def rows(self) -> Iterator[dict[str, Any]]:
        of_seven = {}
        for task in (name for name in self.a if name in self.b):
            numbers = [getattr(result[task], self.coefficient) for result in (self.a, self.b)]
            row = _row(task, "", self.a[task].n, *(getattr(number, self.aggregation) for number in numbers))
            replicates = self._replicates(task)
            if replicates is not None:
                row |= _tested(replicates, self.bootstrap) | self._williams(task, row)
            if task in STANDARD_SEVEN:
                of_seven[task] = replicates
            yield row
        averages = [result.average(self.coefficient) for result in (self.a, self.b)]
        if None not in averages:
            row = _row(AVERAGE, "", 0, *(getattr(average, self.aggregation) for average in averages))
            if all(replicates is not None for replicates in of_seven.values()):
                row |= _tested(sum(of_seven.values()) / len(of_seven), self.bootstrap)
            yield row
        self.notes += self._about_aggregations()

    def _replicates(self, task: str) -> np.ndarray | None:
        """The difference over resamples of the pairs; None with a note where they are not the same pairs."""
        pairs = [result.pairs.get(result._name(task)) for result in (self.a, self.b)]
        for name, parts in zip("ab", pairs, strict=True):
            if parts is None:
                self.notes.append(f"{task} is not tested: {name} was saved without the cosines of its pairs.")
                return None
        a, b = pairs
        if a.keys() != b.keys() or any(not np.array_equal(a[name][1], b[name][1]) for name in a):
            self.notes.append(f"{task} is not tested: the gold scores differ, so these are not the same pairs.")
            return None
        of_each = task_replicates(task, pairs, self.coefficient, self.bootstrap)
        return np.subtract(*of_each[:, Aggregates._fields.index(self.aggregation)])

    def _williams(self, task: str, row: Mapping) -> dict[str, float]:
        if (self.aggregation != "all" and self.a[task].subsets) or row["n"] < 4:
            return {}
        correlate = {"spearman": spearman, "pearson": pearson}[self.coefficient]
        between = correlate(self.a.scores(task), self.b.scores(task))
        t, _, p = williams(row["a"], row["b"], between, row["n"])
        return {"williams_t": t, "williams_p": p}

    def _about_aggregations(self) -> Iterator[str]:
        """A note where the choice of the aggregation matters more than the choice between a and b."""
        spread, task = 0.0, None
        reversed_on = []
        for name in (name for name in self.a if name in self.b):
            numbers = [getattr(result[name], self.coefficient) for result in (self.a, self.b)]
            gaps = np.subtract(*numbers)
            if (gaps > 0).any() and (gaps < 0).any():
                reversed_on.append(name)
            width = max(numbers[0]) - min(numbers[0])
            if width > max(spread, np.abs(gaps).max()):
                spread, task = width, name
        if task is not None:
            of_a = getattr(self.a[task], self.coefficient)
            listed = ", ".join(f"{name} {percent(value)}" for name, value in of_a._asdict().items())
            yield f"The aggregation matters more than the gap: {task} of a is {listed}. Compare within one."
        if reversed_on:
            yield f"Which of the two is higher depends on the aggregation on {', '.join(reversed_on)}."


class _TwoProbes:
    """Rows of two probes."""

    items = "pairs"

    def __init__(
        self, a: ProbeResult, b: ProbeResult, aggregation: str, coefficient: str, bootstrap: Bootstrap
    ) -> None:
        self.a, self.b, self.aggregation, self.coefficient = a, b, aggregation, coefficient
        self.measure = f"{coefficient.capitalize()}, aggregation {aggregation},"
        self.notes = [_NO_COSINES]

    def rows(self) -> Iterator[dict[str, Any]]:
        others = {self._key(row): row for row in self.b.rows}
        for row in self.a.rows:
            other = others.get(self._key(row))
            if other is not None and row["aggregation"] == self.aggregation:
                layers = f"layer {row['layers']}" if isinstance(row["layers"], int) else row["layers"]
                pooling = f"{row['tokens']}, {layers}"
                yield _row(row["task"], pooling, row["pairs"], row[self.coefficient], other[self.coefficient])

    @staticmethod
    def _key(row: Mapping) -> tuple:
        return row["task"], row["tokens"], row["layers"], row["aggregation"]


class _TwoTransfers:
    """Rows of two results of transfer probes."""

    measure, items = "accuracy", "texts"

    def __init__(
        self, a: TransferResult, b: TransferResult, aggregation: str, coefficient: str, bootstrap: Bootstrap
    ) -> None:
        self.a, self.b, self.bootstrap = a, b, bootstrap
        self.notes: list[str] = []

    def rows(self) -> Iterator[dict[str, Any]]:
        for task in (name for name in self.a if name in self.b):
            row = _row(task, "", len(self.a[task].gold), self.a.accuracy(task), self.b.accuracy(task))
            if self.a[task].classes == self.b[task].classes and np.array_equal(self.a[task].gold, self.b[task].gold):
                right = np.stack([self.a[task].right, self.b[task].right])
                replicates = np.subtract(*mean_replicates(right, self.bootstrap, zlib.crc32(task.encode())))
                row |= _tested(replicates, self.bootstrap)
            else:
                self.notes.append(f"{task} is not tested: the labels differ, so these are not the same texts.")
            yield row


class _TwoRetrievals:
    """Rows of two retrieval results, one per measure."""

    measure, items = "mean over the queries", "queries"

    def __init__(
        self, a: RetrievalResult, b: RetrievalResult, aggregation: str, coefficient: str, bootstrap: Bootstrap
    ) -> None:
        self.a, self.b, self.bootstrap = a, b, bootstrap
        self.notes: list[str] = []
        self.paired = a.queries == b.queries
        if not self.paired:
            self.notes.append("Nothing is tested: the two were made on different queries.")

    def rows(self) -> Iterator[dict[str, Any]]:
        for name in (name for name in self.a if name in self.b):
            row = _row(name, "", len(self.a.queries), self.a[name], self.b[name])
            if self.paired:
                values = np.stack([self.a.per_query[name], self.b.per_query[name]])
                row |= _tested(np.subtract(*mean_replicates(values, self.bootstrap)), self.bootstrap)
            yield row


_PAIRS = {
    STSResult: _TwoSTS,
    ProbeResult: _TwoProbes,
    TransferResult: _TwoTransfers,
    RetrievalResult: _TwoRetrievals,
}
_SAVED = {result.FORMAT: result for result in _PAIRS}


def _result(name: str, value):
    """A result, read if `value` is a path."""
    if isinstance(value, (str, os.PathLike)):
        return saved_class(value, _SAVED).load(value)
    if type(value) not in _PAIRS:
        raise TypeError(
            f"{name} is {type(value).__name__}: expected what evaluation.sts, probe, transfer or retrieval returned, "
            "or the path of a file saved from it"
        )
    return value


def _row(task: str, pooling: str, n: int, a: float, b: float) -> dict[str, Any]:
    undefined = dict.fromkeys(("low", "high", "p", "p_holm", "williams_t", "williams_p"), math.nan)
    return {"task": task, "pooling": pooling, "n": n, "a": a, "b": b, "diff": a - b, **undefined}


def _tested(replicates: np.ndarray, bootstrap: Bootstrap) -> dict[str, float]:
    """Interval and p of a difference from its values over resamples."""
    low, high = percentile_interval(replicates, bootstrap.confidence)
    return {"low": low, "high": high, "p": bootstrap_p(replicates)}


def _correct(rows: list[dict[str, Any]]) -> None:
    """Holm's correction over all rows but the average, in place."""
    tasks = [row for row in rows if row["task"] != AVERAGE]
    for row, p in zip(tasks, holm([row["p"] for row in tasks]).tolist(), strict=True):
        row["p_holm"] = p


def _signed(value: float) -> str:
    return "nan" if math.isnan(value) else f"{round(100 * value, 2) + 0.0:+.2f}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else number(value, 3)
