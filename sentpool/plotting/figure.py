"""What every plot needs: axes, matplotlib or the words that say it is missing, and a file to write to."""

from __future__ import annotations

import importlib
import io
import math
import os
from typing import TYPE_CHECKING

from sentpool.atomic_file import replacing
from sentpool.errors import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def check_format(path) -> None:
    """Raise unless matplotlib is installed and can write a file of this name's kind, before the long part.

    Raises
    ------
    ImportError, ValueError
    """
    kinds = matplotlib_module("figure").Figure().canvas.get_supported_filetypes()
    if _kind(path) not in kinds:
        raise ValueError(
            f"the plot's file is {shown(os.fspath(path))}; its name must end in .{', .'.join(sorted(kinds))}"
        )


def save(figure: Figure, path) -> None:
    """Write a figure in the format that the file's name says, replacing the file in one step."""
    picture = io.BytesIO()
    figure.savefig(picture, format=_kind(path), dpi=150)
    with replacing(path) as file:
        file.write(picture.getbuffer())


def axes_or_new(ax: Axes | None) -> Axes:
    """`ax`, by default the axes of a new figure."""
    return matplotlib_module("pyplot").subplots(layout="constrained")[1] if ax is None else ax


def write_in_cells(image, values, digits: int, **look) -> None:
    """Each value in its cell of an image, in black or white, whichever can be read there; "–" for NaN."""
    for row, of_row in enumerate(values):
        for column, value in enumerate(of_row):
            defined = not math.isnan(value)
            red, green, blue, _ = image.cmap(image.norm(value)) if defined else (1.0,) * 4
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = f"{value:.{digits}f}" if defined else "–"
            image.axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black", **look)


def model_name(result, otherwise: str = "a model") -> str:
    """What a title calls the model of a result."""
    return result.model.get("name", otherwise)


def matplotlib_module(module: str):
    """A module of matplotlib; ImportError with the remedy where it is not installed."""
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'sentpool[plot]'") from error


def _kind(path) -> str:
    return os.path.splitext(os.fspath(path))[1].lstrip(".").lower()
