"""Tables of an STS result, for a terminal and for a notebook. Every column says which aggregation it is."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentpool.evaluation.report import STSResult

AVERAGE = "average of 7"
_COLUMNS = ("all", "mean", "wmean")
_LEGEND = (
    "all: one correlation over a task's concatenated subsets; mean: mean of its subsets; wmean: that mean",
    "weighted by pairs. A task that is one list has one number.",
)
_AVERAGE_LEGEND = "average of 7: STS12–16, STSB-test, SICKR-test (its 4,927-pair test split), per column."


def as_text(result: STSResult) -> str:
    """The result as lines of text, at most 100 columns wide where names allow it."""
    width = max([len(AVERAGE), *map(len, result)])
    lines = [_title(result), *_how(result), ""]
    lines.append(f"{'':{width}} {'':>7}{'Spearman ×100':>24}{'Pearson ×100':>24}")
    lines.append(f"{'task':{width}} {'pairs':>7}" + 2 * "".join(f"{name:>8}" for name in _COLUMNS))
    for (task, pairs), numbers in _rows(result):
        lines.append(f"{task:{width}} {pairs:>7}" + "".join(f"{percent(number):>8}" for number in numbers))
    lines += ["", *_LEGEND]
    if result.average() is not None:
        lines.append(_AVERAGE_LEGEND)
    intervals = _interval_rows(result)
    if intervals:
        lines += ["", _interval_title(result), f"{'':{width}}{'Spearman ×100':>42}{'Pearson ×100':>42}"]
        lines.append(f"{'task':{width}}" + 2 * "".join(f"{name:>14}" for name in _COLUMNS))
        lines += [f"{task:{width}}" + "".join(f"{cell:>14}" for cell in cells) for (task,), cells in intervals]
    subsets = _subset_rows(result)
    if subsets:
        names = max(len(f"{task} {name}") for (task, name, _), _ in subsets)
        lines += ["", f"{'subset':{names}} {'pairs':>7}{'Spearman ×100':>15}{'Pearson ×100':>15}"]
        for (task, name, n), numbers in subsets:
            label = f"{task} {name}"
            lines.append(f"{label:{names}} {n:>7}" + "".join(f"{percent(number):>15}" for number in numbers))
    lines += [""] * bool(result.skipped) + [f"not scored: {why}" for why in result.skipped.values()]
    return "\n".join(lines)


def as_html(result: STSResult) -> str:
    """The result as two small tables, the one of subsets folded; no style sheet, all text escaped."""
    head = (
        "<tr><th rowspan=2>task</th><th rowspan=2>pairs</th><th colspan=3>Spearman ×100</th>"
        "<th colspan=3>Pearson ×100</th></tr><tr>" + 2 * "".join(f"<th>{name}</th>" for name in _COLUMNS) + "</tr>"
    )
    parts = [f"<p>{escape(line)}</p>" for line in (_title(result), *_how(result))]
    parts.append(_html_table(head, _rows(result)))
    notes = [*_LEGEND, _AVERAGE_LEGEND] if result.average() is not None else _LEGEND
    parts.append(f"<p><small>{escape(' '.join(notes))}</small></p>")
    intervals = _interval_rows(result)
    if intervals:
        head = (
            "<tr><th rowspan=2>task</th><th colspan=3>Spearman ×100</th><th colspan=3>Pearson ×100</th></tr>"
            "<tr>" + 2 * "".join(f"<th>{name}</th>" for name in _COLUMNS) + "</tr>"
        )
        parts.append(f"<p><small>{escape(_interval_title(result))}</small></p>{_html_table(head, intervals)}")
    subsets = _subset_rows(result)
    if subsets:
        names = ("task", "subset", "pairs", "Spearman ×100", "Pearson ×100")
        head = f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
        parts.append(f"<details><summary>subsets</summary>{_html_table(head, subsets)}</details>")
    parts += [f"<p><small>{escape(f'not scored: {why}')}</small></p>" for why in result.skipped.values()]
    return f"<div>{''.join(parts)}</div>"


def _html_table(head: str, rows) -> str:
    """A table of (labels, cells) under a ready head; a cell is a coefficient or a text."""
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(label)}</td>' for label in labels)}"
        f"{''.join(f'<td>{cell if isinstance(cell, str) else percent(cell)}</td>' for cell in cells)}</tr>"
        for labels, cells in rows
    )
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _title(result: STSResult) -> str:
    return f"STS of {result.model.get('name', 'a model')}: correlation of cosine similarity with gold scores"


def _how(result: STSResult) -> list[str]:
    """A line on how the sentences were encoded, if the model tells."""
    facts = {**result.model, **result.encoding}
    parts = [f"pooling {facts['pooling']}"] if "pooling" in facts else []
    if "max_seq_length" in facts:
        parts.append(f"at most {facts['max_seq_length']} tokens")
    if facts.get("truncated") is not None:
        parts.append(f"{facts['truncated']:,} of {facts['sentences']:,} sentences truncated")
    return ["; ".join(parts)] if parts else []


def _rows(result: STSResult) -> list[tuple[tuple[str, str], tuple[float, ...]]]:
    """(task, pairs) and its six coefficients."""
    rows = [((task, f"{scores.n:,}"), (*scores.spearman, *scores.pearson)) for task, scores in result.items()]
    spearman, pearson = result.average("spearman"), result.average("pearson")
    if spearman is not None and pearson is not None:
        rows.append(((AVERAGE, ""), (*spearman, *pearson)))
    return rows


def _interval_title(result: STSResult) -> str:
    return f"{100 * result.bootstrap.confidence:g} % intervals (bootstrap, {result.bootstrap.resamples:,} resamples)"


def _interval_rows(result: STSResult) -> list[tuple[tuple[str], list[str]]]:
    """(task,) and its six intervals as text."""
    return [
        (
            (task,),
            [interval_text(of_task[coefficient][name]) for coefficient in ("spearman", "pearson") for name in _COLUMNS],
        )
        for task, of_task in result.intervals.items()
    ]


def _subset_rows(result: STSResult) -> list[tuple[tuple[str, str, str], tuple[float, float]]]:
    """(task, subset, pairs) and its two coefficients."""
    return [
        ((task, name, f"{part.n:,}"), (part.spearman, part.pearson))
        for task, scores in result.items()
        for name, part in scores.subsets.items()
    ]


def interval_text(interval) -> str:
    """The ends of an interval ×100."""
    return f"{percent(interval[0])}–{percent(interval[1])}"


def percent(coefficient: float) -> str:
    """A coefficient ×100, as every table shows it."""
    return "nan" if math.isnan(coefficient) else f"{100 * coefficient:.2f}"
