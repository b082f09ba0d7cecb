"""The similarities of sentences as a picture."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from sentpool.plotting.colours import GRADIENT
from sentpool.plotting.figure import axes_or_new, write_in_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CELLS_WITH_NUMBERS, _MOST_LABELS, _LABEL_WIDTH = 15, 60, 28


def similarity_matrix(similarities, rows=None, columns=None, ax: Axes | None = None) -> Axes:
    """Similarities (n, m), as `SentenceEncoder.similarity` gives them, as coloured cells.

    Parameters
    ----------
    similarities : array_like, shape (n, m)
    rows, columns : sequence of str, optional
        The n and m sentences; long ones are cut. If the matrix is square, `columns` is by default `rows`. By default
        numbers.
    ax : matplotlib Axes, optional
        By default those of a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        No matrix, or not as many labels as rows or columns.

    Examples
    --------
    >>> vectors = model.encode(sentences)                                                    # doctest: +SKIP
    >>> plotting.similarity_matrix(model.similarity(vectors, vectors), sentences)            # doctest: +SKIP
    """
    values = np.asarray(similarities, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"similarities has shape {values.shape}; it must be (n, m)")
    n, m = values.shape
    columns = rows if columns is None and n == m else columns
    row_labels, column_labels = _labels("rows", rows, n), _labels("columns", columns, m)
    ax = axes_or_new(ax)
    image = ax.imshow(values, cmap=GRADIENT, vmin=min(0.0, np.nanmin(values)), vmax=max(1.0, np.nanmax(values)))
    if max(n, m) <= _MOST_CELLS_WITH_NUMBERS:
        write_in_cells(image, values, digits=2, fontsize="small")
    if max(n, m) <= _MOST_LABELS:
        ax.set_xticks(range(m), column_labels, rotation=40, ha="right", rotation_mode="anchor", fontsize="small")
        ax.set_yticks(range(n), row_labels, fontsize="small")
    if rows is None:
        ax.set(ylabel="sentence")
    if columns is None:
        ax.set(xlabel="sentence")
    ax.figure.colorbar(image, ax=ax, label="similarity", shrink=0.8)
    return ax


def _labels(argument: str, texts, n: int) -> list[str]:
    if texts is None:
        return [str(number) for number in range(n)]
    if isinstance(texts, str) or len(texts) != n:
        given = "one str" if isinstance(texts, str) else f"{len(texts)} labels"
        raise ValueError(f"{argument} has {given}; the matrix needs {n}")
    return [textwrap.shorten(str(text), _LABEL_WIDTH, placeholder="…") or "…" for text in texts]
