"""What every plot needs: axes, matplotlib or the words that say it is missing, and a file to write to."""

from __future__ import annotations

import importlib
import io
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


def matplotlib_module(module: str):
    """A module of matplotlib; ImportError with the remedy where it is not installed."""
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'sentpool[plot]'") from error


def _kind(path) -> str:
    return os.path.splitext(os.fspath(path))[1].lstrip(".").lower()
