"""What `evaluation.retrieval` returns: measures by name, per query, as a table, as a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sentpool.config_report import versions
from sentpool.evaluation.plain_tables import number, pandas_module
from sentpool.evaluation.saved_result import SavedResult, restored_nan
from sentpool.evaluation.significance import Bootstrap, Interval

_DIGITS = 4


@dataclass(repr=False, eq=False)
class RetrievalResult(SavedResult, Mapping):
    """A mapping from measure, in ir-measures' names, to its mean over the queries.

    Attributes
    ----------
    per_query : dict of str to ndarray
        Each measure's value of each query, float64, in the order of `queries`.
    queries : list of str
        Their ids.
    intervals : dict of str to Interval
        Of the means; empty where none were made.
    bootstrap : Bootstrap or None
        How they were made: resamples of queries, seed, confidence.
    protocol : dict
        ``metric``, ``top`` (documents that are ranked for a query), ``ignore_identical_ids``.
    model, encoding, data, seconds, versions : dict
        As in `STSResult`.

    Examples
    --------
    >>> result["nDCG@10"], result.interval("nDCG@10")          # doctest: +SKIP
    >>> result.per_query["AP"][result.queries.index("17")]     # doctest: +SKIP
    >>> result.to_frame()                                      # doctest: +SKIP
    """

    FORMAT = "sentpool retrieval result 1"

    per_query: dict[str, np.ndarray]
    queries: list[str]
    intervals: dict[str, Interval] = field(default_factory=dict)
    bootstrap: Bootstrap | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)

    def __getitem__(self, measure: str) -> float:
        return float(self._of(self.per_query, measure).mean())

    def __iter__(self) -> Iterator[str]:
        return iter(self.per_query)

    def __len__(self) -> int:
        return len(self.per_query)

    @property
    def tasks(self) -> list[str]:
        """What `evaluation.compare` compares: the measures."""
        return list(self.per_query)

    def interval(self, measure: str) -> Interval:
        """The confidence interval of a mean: queries drawn with replacement, percentile bootstrap.

        Raises
        ------
        KeyError
            No such measure here.
        ValueError
            A result without intervals.
        """
        if not self.intervals:
            raise ValueError("this result has no intervals: it was made with resamples=0")
        return self._of(self.intervals, measure)

    def to_frame(self, per_query: bool = False):
        """As a pandas DataFrame.

        Parameters
        ----------
        per_query : bool
            False: one row per measure, columns ``value``, and ``low`` and ``high`` if there are intervals. True: one
            row per query, a column per measure.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        pandas = pandas_module()
        if per_query:
            return pandas.DataFrame(self.per_query, index=pandas.Index(self.queries, name="query"))
        ends = {name: interval._asdict() for name, interval in self.intervals.items()}
        rows = [{"value": value, **ends.get(name, {})} for name, value in self.items()]
        return pandas.DataFrame(rows, index=pandas.Index(list(self), name="measure"))

    def to_dict(self) -> dict[str, Any]:
        """Everything, every query's values too, ready for JSON but for nan."""
        content = self._fields()
        content["per_query"] = {name: values.tolist() for name, values in self.per_query.items()}
        content["bootstrap"] = None if self.bootstrap is None else self.bootstrap._asdict()
        content["intervals"] = {name: interval._asdict() for name, interval in self.intervals.items()}
        return {"format": self.FORMAT, "measures": dict(self), **content}

    @classmethod
    def _restored(cls, parts):
        parts["per_query"] = {
            name: np.array([restored_nan(value) for value in values], dtype=np.float64)
            for name, values in parts["per_query"].items()
        }
        parts["bootstrap"] = Bootstrap(**parts["bootstrap"]) if parts["bootstrap"] else None
        parts["intervals"] = {
            name: Interval(*(restored_nan(ends[end]) for end in Interval._fields))
            for name, ends in parts["intervals"].items()
        }
        return parts

    def _of(self, values: dict[str, Any], measure: str):
        if measure not in values:
            raise KeyError(f"measure {measure!r} is not among {', '.join(self.per_query)}")
        return values[measure]

    def _head(self) -> Iterator[str]:
        yield f"Retrieval by {self.model.get('name', 'a model')} on {self.data['name']}, {self.data['split']} split"
        parts = [f"{self.data['queries']:,} queries, {self.data['documents']:,} documents"]
        parts.append(f"{self.protocol['metric']}, the first {self.protocol['top']:,} ranked")
        if "pooling" in self.model:
            parts.append(f"pooling {self.model['pooling']}")
        if self.encoding.get("truncated") is not None:
            parts.append(f"{self.encoding['truncated']:,} of {self.encoding['sentences']:,} texts truncated")
        yield "; ".join(parts)

    def _tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        title, head = "mean over the queries", ["measure", "", "value"]
        if self.bootstrap is not None:
            percent = f"{100 * self.bootstrap.confidence:g} %"
            title += f"; {percent} intervals (bootstrap over queries, {self.bootstrap.resamples:,} resamples)"
            head += Interval._fields
        rows = [[name, "", *map(_shown, (value, *self.intervals.get(name, ())))] for name, value in self.items()]
        yield title, head, rows


def _shown(value: float) -> str:
    return number(value, _DIGITS)
