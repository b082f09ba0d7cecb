"""Encoding the lines of a text file into a .npy file, piece by piece: memory does not grow with either."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import BinaryIO, NamedTuple

import numpy as np

from sentpool.atomic_file import replacing

# A piece ends at either; enough lines to keep many threads busy, few enough for the bar to move.
PIECE_LINES, PIECE_BYTES = 4096, 4 << 20
_HEADER_BYTES = 128


class Summary(NamedTuple):
    """What was written: rows × columns, how many texts were truncated, seconds of encoding."""

    rows: int
    columns: int
    n_truncated: int
    seconds: float


def encode_lines(model, source, target, **encode_options) -> Summary:
    """Encode each line of a UTF-8 text file; row k of the .npy file is line k, which may be empty.

    Parameters
    ----------
    model : SentenceEncoder
    source : str or Path
        Text file; ``"-"`` is standard input.
    target : str or Path
        Replaced in one step when everything is encoded; untouched if anything fails.
    **encode_options
        Passed to ``model.encode_with_info``.

    Raises
    ------
    OSError
        A file cannot be read or written.
    ValueError
        A line is not UTF-8 (named by its number).
    """
    rows = n_truncated = 0
    seconds = 0.0
    with (
        _opened(source) as lines,
        replacing(target) as out,
        _bar(lines) as bar,
    ):
        out.write(bytes(_HEADER_BYTES))
        for sentences in _pieces(lines, os.fspath(source)):
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


def _pieces(lines: BinaryIO, name: str) -> Iterator[list[str]]:
    """Lists of decoded lines; an empty file gives one empty list, to learn the array's width from."""
    sentences: list[str] = []
    size = number = 0
    for number, line in enumerate(lines, 1):
        try:
            sentence = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}:{number}: byte {error.start + 1} of the line is not UTF-8; convert the file to UTF-8"
            ) from None
        sentences.append(sentence.rstrip("\r\n"))
        size += len(line)
        if len(sentences) == PIECE_LINES or size >= PIECE_BYTES:
            yield sentences
            sentences, size = [], 0
    if sentences or not number:
        yield sentences


@contextmanager
def _opened(source) -> Iterator[BinaryIO]:
    if os.fspath(source) == "-":
        yield sys.stdin.buffer
    else:
        with open(source, "rb") as file:
            yield file


def _bar(lines: BinaryIO):
    """A progress bar where somebody can see it, else nothing."""
    if not sys.stderr.isatty():
        return nullcontext()
    from tqdm.auto import tqdm

    return tqdm(total=_count_lines(lines), unit=" sentences", leave=False)


def _count_lines(lines: BinaryIO) -> int | None:
    """Lines of a regular file; a pipe cannot be read twice."""
    if lines is sys.stdin.buffer:
        return None
    count, block = 0, b"\n"
    while more := lines.read(1 << 20):
        block = more
        count += block.count(b"\n")
    lines.seek(0)
    return count + (not block.endswith(b"\n"))


def _header(rows: int, columns: int) -> bytes:
    """The .npy header (format 1.0) in a fixed number of bytes, so that it can be written last."""
    prefix = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}"
    return prefix + text.encode().ljust(_HEADER_BYTES - 11) + b"\n"
