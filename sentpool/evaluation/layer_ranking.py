"""Would a measure without labels have found the best layer?"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sentpool.config_report import versions
from sentpool.evaluation.correlation import spearman
from sentpool.evaluation.geometry_result import GeometryResult, measured_cells
from sentpool.evaluation.layer_geometry import geometry
from sentpool.evaluation.layer_probe import probe
from sentpool.evaluation.measures import LAYER, MEASURES, SPACE
from sentpool.evaluation.plain_tables import number, pandas_module
from sentpool.evaluation.probe_result import ProbeResult
from sentpool.evaluation.saved_result import SavedResult, restored_nan
from sentpool.evaluation.tables import percent

_NUMBERS = ("rank_correlation", "score", "best_score")


def layers(
    model,
    folder=None,
    *,
    tasks=None,
    tokens="mean",
    geometry_tasks=None,
    token_measures: bool = True,
    views: int = 2,
    batch_size: int = 32,
    threads: int | None = None,
    show_progress_bar: bool | None = None,
) -> LayersResult:
    """Every layer's STS score beside the measures of `geometry`, and how each measure ranks the layers.

    Which measure would have found the best layer without a gold score? For each, the result holds Spearman's rank
    correlation with the score over the layers 0 … L, and the layer where the measure is best as its authors see it.
    A model has few layers, so a single correlation says little; many models say more.

    Parameters
    ----------
    model : SentenceEncoder
    folder : str or Path, optional
        As in `sts`; by default the bundled sample, which is no benchmark.
    tasks : str or sequence of str, optional
        The tasks that score the layers, as in `sts`.
    tokens : str or sequence of str, default "mean"
        Token poolings; layers are ranked for each.
    geometry_tasks : str or sequence of str, optional
        The tasks whose sentences and positive pairs are measured; by default as in `geometry`. Alignment uses their
        gold scores, the other measures none.
    token_measures, views, batch_size, threads, show_progress_bar
        As in `geometry`.

    Returns
    -------
    LayersResult

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As `probe` and `geometry`.

    Examples
    --------
    >>> result = evaluation.layers(model, "data/sts", tokens=["cls", "mean"])       # doctest: +SKIP
    >>> result.finding("dataset_entropy")["rank_correlation"]                       # doctest: +SKIP
    """
    began = time.perf_counter()
    options = {"batch_size": batch_size, "threads": threads, "show_progress_bar": show_progress_bar}
    scores = probe(model, folder, tasks=tasks, tokens=tokens, **options)
    space = geometry(
        model, folder, tasks=geometry_tasks, tokens=tokens, token_measures=token_measures, views=views, **options
    )
    rows = [row for token in space.single_tokens() for row in _rows(scores, space, token)]
    return LayersResult(
        rows=rows,
        findings=[finding for token in space.single_tokens() for finding in _findings(rows, token)],
        scored=list(scores.averaged),
        protocol=space.protocol,
        model=space.model,
        encoding=space.encoding,
        data={"scores": scores.data, "geometry": space.data},
        seconds={"all": time.perf_counter() - began},
    )


@dataclass(repr=False, eq=False)
class LayersResult(SavedResult):
    """What `evaluation.layers` returns.

    Attributes
    ----------
    rows : list of dict
        One per token pooling and layer: ``tokens``, ``layer``, ``score`` (Spearman in [-1, 1], aggregation all, the
        average over `scored`) and the measures of `GeometryResult`.
    findings : list of dict
        One per token pooling and measure that differs between layers:

        - ``tokens``, ``measure``.
        - ``better``: "higher" or "lower", what the measure's authors take to be better; None where they take no side.
        - ``rank_correlation``: Spearman's, of measure and score over the ``layers`` (how many) where both are defined.
        - ``layer``, ``score``: where the measure is best, and the score there; None and nan where `better` is None.
        - ``best_layer``, ``best_score``: the layer with the highest score.
    scored : list of str
        The tasks over which the score is the average.
    protocol : dict
        As in `GeometryResult`: what was measured.
    model, encoding, data, seconds, versions : dict
        As in `STSResult`.
    """

    FORMAT = "sentpool layers result 1"

    rows: list[dict[str, Any]]
    findings: list[dict[str, Any]]
    scored: list[str]
    protocol: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)

    def finding(self, measure: str, tokens: str | None = None) -> dict[str, Any]:
        """The finding about a measure; `tokens` by default the first.

        Raises
        ------
        KeyError
            There is none.
        """
        tokens = self.tokens[0] if tokens is None else tokens
        for one in self.findings:
            if (one["tokens"], one["measure"]) == (tokens, measure):
                return one
        there = ", ".join(one["measure"] for one in self.findings if one["tokens"] == tokens)
        raise KeyError(f"no finding about {measure!r} with tokens={tokens!r}; there are {there or 'none'}")

    @property
    def tokens(self) -> list[str]:
        """The token poolings."""
        return list(dict.fromkeys(row["tokens"] for row in self.rows))

    def over_layers(self, measure: str, tokens: str | None = None) -> tuple[list[int], np.ndarray]:
        """A measure's values, or the "score", over the layers.

        Returns
        -------
        layers : list of int
        values : ndarray, float64

        Raises
        ------
        ValueError
            An unknown measure or token pooling.
        """
        tokens = self.tokens[0] if tokens is None else tokens
        rows = [row for row in self.rows if row["tokens"] == tokens]
        if not rows or measure not in ("score", *MEASURES):
            raise ValueError(
                f"no {measure!r} with tokens={tokens!r}: tokens are {', '.join(self.tokens)}, measures are score, "
                f"{', '.join(MEASURES)}"
            )
        return [row["layer"] for row in rows], np.array([row[measure] for row in rows])

    def to_frame(self):
        """`rows` as a pandas DataFrame; ``pandas.DataFrame(result.findings)`` is the other table.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        return pandas_module().DataFrame(self.rows)

    @classmethod
    def _restored(cls, parts):
        for rows, names in (("rows", ("score", *MEASURES)), ("findings", _NUMBERS)):
            parts[rows] = [row | {name: restored_nan(row[name]) for name in names} for row in parts[rows]]
        return parts

    def _head(self) -> Iterator[str]:
        yield f"Layers of {self.model.get('name', 'a model')}: which measure finds the best one?"
        protocol = self.protocol
        yield (
            f"score: Spearman ×100 on {', '.join(self.scored)}; measures: {protocol['sentences']:,} sentences of "
            f"{protocol['data']}"
        )

    def _tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        for tokens in self.tokens:
            rows = [row for row in self.rows if row["tokens"] == tokens]
            titles = f"{tokens} of each layer; 0 is the embedding output", "token states of each layer"
            for title, measures in zip(titles, (SPACE, LAYER), strict=True):
                if measures is LAYER and all(math.isnan(row[name]) for row in rows for name in LAYER):
                    continue
                yield (
                    title,
                    ["layer", "", "score", *(measure.heading for measure in measures.values())],
                    [[str(row["layer"]), "", percent(row["score"]), *measured_cells(row, measures)] for row in rows],
                )
            findings = [one for one in self.findings if one["tokens"] == tokens]
            if findings:
                best = findings[0]
                yield (
                    f"the best layer of {tokens} is {best['best_layer']} ({percent(best['best_score'])}); rank "
                    "correlation with the score over layers, and the layer that each measure would choose",
                    ["measure", "better", "correlation", "layer", "score there", "lost"],
                    [_finding_cells(one) for one in findings],
                )


def _finding_cells(one: dict[str, Any]) -> list[str]:
    cells = [one["measure"], one["better"] or "–", number(one["rank_correlation"], 2)]
    if one["layer"] is None:
        return [*cells, "–", "–", "–"]
    return [*cells, str(one["layer"]), percent(one["score"]), percent(one["best_score"] - one["score"])]


def _rows(scores: ProbeResult, space: GeometryResult, tokens: str) -> list[dict[str, Any]]:
    numbers, tasks, of_tasks = scores.layer_scores(tokens)
    averages = of_tasks[:, [tasks.index(task) for task in scores.averaged]].mean(axis=1)
    rows = []
    for layer, score in zip(numbers, averages.tolist(), strict=True):
        measured = space.at(layer, tokens)
        row = {"tokens": tokens, "layer": layer, "score": score}
        rows.append(row | {name: measured.get(name, math.nan) for name in (*SPACE, *LAYER)})
    return rows


def _findings(rows: list[dict[str, Any]], tokens: str) -> list[dict[str, Any]]:
    """The measures, the strongest correlation first."""
    scored = [row for row in rows if row["tokens"] == tokens and not math.isnan(row["score"])]
    if not scored:
        return []
    best = max(scored, key=lambda row: row["score"])
    found = []
    for name, measure in MEASURES.items():
        there = [row for row in scored if not math.isnan(row[name])]
        correlation = spearman([row[name] for row in there], [row["score"] for row in there])
        if math.isnan(correlation):
            continue
        chosen = None
        if measure.better is not None:
            chosen = (max if measure.better == "higher" else min)(there, key=lambda row, name=name: row[name])
        found.append(
            {
                "tokens": tokens,
                "measure": name,
                "better": measure.better,
                "layers": len(there),
                "rank_correlation": correlation,
                "layer": None if chosen is None else chosen["layer"],
                "score": math.nan if chosen is None else chosen["score"],
                "best_layer": best["layer"],
                "best_score": best["score"],
            }
        )
    return sorted(found, key=lambda one: -abs(one["rank_correlation"]))
