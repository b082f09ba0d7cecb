"""Tables of any result, a head and rows of cells: as text, as HTML without a style sheet, and by pandas."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

LONGEST_NAME = 40

Table = tuple[str, list[str], list[list[str]]]  # title, head, rows


def page_as_text(lines: Iterable[str], tables: Iterable[Table], notes: Iterable[str] = ()) -> str:
    """Lines, then tables under their titles, then notes."""
    page = list(lines)
    for title, head, rows in tables:
        page += ["", title, *as_text(head, rows)]
    notes = list(notes)
    return "\n".join([*page, *[""] * bool(notes), *notes])


def page_as_html(lines: Iterable[str], tables: Iterable[Table], notes: Iterable[str] = ()) -> str:
    """The same, all text escaped."""
    parts = [f"<p>{escape(line)}</p>" for line in lines]
    parts += [f"<p>{escape(title)}</p>{as_html(head, rows)}" for title, head, rows in tables]
    parts += [f"<p><small>{escape(note)}</small></p>" for note in notes]
    return f"<div>{''.join(parts)}</div>"


def as_text(head: list[str], rows: list[list[str]]) -> list[str]:
    """Two columns to the left, the others to the right; a column that is empty takes no room."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            if width
        ).rstrip()
        for line in [head, *rows]
    ]


def as_html(head: list[str], rows: list[list[str]]) -> str:
    """A table, all text escaped."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def cut(name: str) -> str:
    """A name as a table shows it, at most `LONGEST_NAME` characters."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def number(value: float, digits: int) -> str:
    """A number with so many decimals; "–" where it is undefined, and no "-0.000"."""
    if math.isnan(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}"


def pandas_module():
    """pandas; ImportError with the remedy where it is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_frame() needs pandas: pip install pandas") from error
    return pandas
