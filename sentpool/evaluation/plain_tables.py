"""A head and rows of cells as text, and as HTML without a style sheet."""

from __future__ import annotations

import math
from html import escape

LONGEST_NAME = 40


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
