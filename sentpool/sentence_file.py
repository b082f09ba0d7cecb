"""Encoding the lines of a text file into a .npy file, piece by piece: memory does not grow with either."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sentpool.atomic_file import replacing
from sentpool.text_lines import Line, lines_bar, opened, read_lines

# A piece ends at either; enough lines to keep many threads busy, few enough for the bar to move.
PIECE_LINES, PIECE_BYTES = 4096, 4 << 20
_HEADER_BYTES = 128


class Summary(NamedTuple):
    """What was written: rows × columns, how many texts were truncated, seconds of encoding."""

    rows: int
    columns: int
    n_truncated: int
    seconds: float


def encode_lines(model, source, target, field: str | None = None, **encode_options) -> Summary:
    """Encode each line of a UTF-8 text file; row k of the .npy file is line k, which may be empty.

    Parameters
    ----------
    model : SentenceEncoder
    source : str or Path
        Text file; ``"-"`` is standard input.
    target : str or Path
        Replaced in one step when everything is encoded; untouched if anything fails.
    field : str, optional
        Lines are JSON objects, and this field holds the text.
    **encode_options
        Passed to ``model.encode_with_info``.

    Raises
    ------
    OSError
        A file cannot be read or written.
    ValueError
        A line is not UTF-8, or no JSON object with that field (named by its number).
    """
    rows = n_truncated = 0
    seconds = 0.0
    with (
        opened(source) as file,
        replacing(target) as out,
        lines_bar(file) as bar,
    ):
        out.write(bytes(_HEADER_BYTES))
        for sentences in _pieces(read_lines(file, os.fspath(source), field)):
            began = time.perf_counter()
            vectors, info = model.encode_with_info(sentences, show_progress_bar=False, **encode_options)
            seconds += time.perf_counter() - began
            out.write(np.ascontiguousarray(vectors, dtype="<f4").data)
            rows += len(sentences)
            n_truncated += info.n_truncated
            columns = vectors.shape[1]
            if bar is not None:
                bar.update(len(sentences))
        out.seek(0)
        out.write(_header(rows, columns))
    return Summary(rows, columns, n_truncated, seconds)


def _pieces(lines: Iterator[Line]) -> Iterator[list[str]]:
    """Lists of texts; an empty file gives one empty list, to learn the array's width from."""
    sentences: list[str] = []
    size, empty = 0, True
    for line in lines:
        sentences.append(line.text)
        size, empty = size + line.size, False
        if len(sentences) == PIECE_LINES or size >= PIECE_BYTES:
            yield sentences
            sentences, size = [], 0
    if sentences or empty:
        yield sentences


def _header(rows: int, columns: int) -> bytes:
    """The .npy header (format 1.0) in a fixed number of bytes, so that it can be written last."""
    prefix = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}"
    return prefix + text.encode().ljust(_HEADER_BYTES - 11) + b"\n"
