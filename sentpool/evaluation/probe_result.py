"""The result of a probe: rows to compute with, tables and plots to look at, a file to reproduce it from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sentpool.checks import one_of, positive_integer
from sentpool.config_report import versions
from sentpool.evaluation.plain_tables import cut
from sentpool.evaluation.report import AGGREGATION, STANDARD_SEVEN, Aggregates
from sentpool.evaluation.saved_result import SavedResult, restored_nan
from sentpool.evaluation.tables import percent


@dataclass(repr=False, eq=False)
class ProbeResult(SavedResult):
    """What `evaluation.probe` returns.

    Attributes
    ----------
    rows : list of dict
        One per pooling, task and aggregation; ``pandas.DataFrame(result.rows)`` is tidy. Keys:

        - ``tokens``: the token pooling, several joined by "+".
        - ``layers``: a single layer, 0 being the embedding output; or the name of an average of layers; "model" for the
          model's own pooling; or the name of a pooling that was passed.
        - ``task``, ``pairs``, ``aggregation`` ("all", "mean" or "wmean").
        - ``spearman``, ``pearson``: in [-1, 1], nan where undefined; the tables show them ×100.
    layer_weights : dict of str to dict
        By name of a `LayerAttention` pooling and task: "mean" and "sd" (over the task's distinct "sentences") of the
        attention ā that each layer 0 … L gets.
    skipped, model, encoding, data, seconds, versions : dict
        As in `STSResult`; ``encoding["encoded_again_for"]`` names poolings that needed a further pass.
    """

    FORMAT = "sentpool probe result 1"

    rows: list[dict[str, Any]]
    layer_weights: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that were scored."""
        return tuple(dict.fromkeys(row["task"] for row in self.rows))

    @property
    def averaged(self) -> tuple[str, ...]:
        """The tasks over which `best` averages: STS12–16, STSB-test and SICKR-test if all are there, else all tasks."""
        return STANDARD_SEVEN if set(STANDARD_SEVEN) <= set(self.tasks) else self.tasks

    def best(self, n: int | None = 10, aggregation: str = "all", coefficient: str = "spearman") -> list[dict[str, Any]]:
        """The poolings with the highest average over the tasks `averaged`, best first.

        Parameters
        ----------
        n : int, optional
            How many; None: all.
        aggregation : {"all", "mean", "wmean"}
        coefficient : {"spearman", "pearson"}

        Returns
        -------
        list of dict
            ``tokens``, ``layers``, ``average`` and each task's coefficient. Where one is undefined, so is the average,
            and the pooling comes last.
        """
        if n is not None:
            n = positive_integer("n", n)
        poolings = []
        for (tokens, layers), by_task in self._by_pooling(aggregation, coefficient).items():
            average = math.fsum(by_task[task] for task in self.averaged) / len(self.averaged)
            poolings.append({"tokens": tokens, "layers": layers, "average": average, **by_task})
        poolings.sort(
            key=lambda pooling: -math.inf if math.isnan(pooling["average"]) else pooling["average"], reverse=True
        )
        return poolings[:n]

    def layer_scores(
        self, tokens: str = "mean", aggregation: str = "all", coefficient: str = "spearman"
    ) -> tuple[tuple[int, ...], tuple[str, ...], np.ndarray]:
        """The single layers of one token pooling.

        Returns
        -------
        layers : tuple of int
        tasks : tuple of str
        scores : ndarray, float64, shape (layers, tasks)

        Raises
        ------
        ValueError
            This result has no single layers of `tokens`.
        """
        by_pooling = self._by_pooling(aggregation, coefficient)
        layers = tuple(layer for token, layer in by_pooling if token == tokens and isinstance(layer, int))
        if not layers:
            there = ", ".join(self._single_tokens())
            raise ValueError(f"tokens is {tokens!r}; this result has single layers of {there or 'nothing'}")
        scores = [[by_pooling[tokens, layer][task] for task in self.tasks] for layer in layers]
        return layers, self.tasks, np.array(scores)

    def heat_map(self, tokens: str = "mean", ax=None, *, aggregation: str = "all"):
        """Plot layer × task, Spearman ×100; see `sentpool.plotting.layer_heat_map`."""
        from sentpool import plotting

        return plotting.layer_heat_map(self, tokens, ax, aggregation=aggregation)

    def plot_layer_weights(self, ax=None, *, pooling: str | None = None):
        """Plot the mean attention that each layer gets, by task; see `sentpool.plotting.layer_weights`."""
        from sentpool import plotting

        return plotting.layer_weights(self, ax, pooling=pooling)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON but for nan."""
        measure = "correlation of cosine similarity with gold scores, in [-1, 1]"
        return {"format": self.FORMAT, "measure": measure, "aggregation": AGGREGATION, **self._fields()}

    @classmethod
    def _restored(cls, parts):
        coefficients = ("spearman", "pearson")
        parts["rows"] = [row | {name: restored_nan(row[name]) for name in coefficients} for row in parts["rows"]]
        return parts

    def _notes(self) -> list[str]:
        return [f"not scored: {why}" for why in self.skipped.values()]

    def _head(self) -> list[str]:
        lines = [
            f"Probe of {self.model.get('name', 'a model')}: Spearman ×100 of cosine similarity with gold scores, "
            "aggregation all"
        ]
        facts = [f"the model's own pooling: {self.model['pooling']}"] if "pooling" in self.model else []
        if "sentences" in self.encoding:
            facts.append(f"{self.encoding['sentences']:,} distinct sentences, {self.encoding['truncated']:,} truncated")
        again = self.encoding.get("encoded_again_for")
        return lines + facts + ([f"encoded once more for: {', '.join(again)}"] if again else [])

    def _tables(self) -> Iterable[tuple[str, list[str], list[list[str]]]]:
        """Title, head and rows of the two tables: the best poolings, the layers of one token pooling."""
        best = self.best()
        count = len({(row["tokens"], row["layers"]) for row in self.rows})
        over = "STS12–16, STSB-test, SICKR-test" if self.averaged == STANDARD_SEVEN else "all tasks"
        yield (
            f"the best of {count} poolings by their average over {over}",
            ["layers", "tokens", "average", *self.tasks],
            [
                [cut(str(one["layers"])), one["tokens"], *map(percent, [one["average"], *_of_tasks(one, self.tasks)])]
                for one in best
            ],
        )
        tokens = next(iter(sorted(self._single_tokens(), key=lambda name: name != "mean")), None)
        if tokens is not None:
            layers, tasks, scores = self.layer_scores(tokens)
            columns = [tasks.index(task) for task in self.averaged]
            yield (
                f"layers of {tokens}; 0 is the embedding output",
                ["layer", "", "average", *tasks],
                [
                    [str(layer), "", *map(percent, [math.fsum(row[columns]) / len(columns), *row])]
                    for layer, row in zip(layers, scores, strict=True)
                ],
            )

    def _single_tokens(self) -> list[str]:
        """The token poolings of which there are single layers."""
        return list(dict.fromkeys(row["tokens"] for row in self.rows if isinstance(row["layers"], int)))

    def _by_pooling(self, aggregation: str, coefficient: str) -> dict[tuple[str, int | str], dict[str, float]]:
        """Each pooling's coefficients by task."""
        one_of("aggregation", aggregation, Aggregates._fields)
        one_of("coefficient", coefficient, ("spearman", "pearson"))
        found: dict[tuple[str, int | str], dict[str, float]] = {}
        for row in self.rows:
            if row["aggregation"] == aggregation:
                found.setdefault((row["tokens"], row["layers"]), {})[row["task"]] = row[coefficient]
        return found


def _of_tasks(pooling: dict, tasks: Iterable[str]) -> list[float]:
    return [pooling[task] for task in tasks]
