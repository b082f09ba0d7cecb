"""Texts from a file, line by line: plain text, or JSON lines of which one field is the text."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import BinaryIO, NamedTuple

from sentpool.errors import shown


class Line(NamedTuple):
    """A text and, of JSON lines, what names it; `size` is that of the line in bytes."""

    text: str
    id: str | None
    size: int


@contextmanager
def opened(source) -> Iterator[BinaryIO]:
    """The file at a path in bytes; ``"-"`` is standard input."""
    if os.fspath(source) == "-":
        yield sys.stdin.buffer
    else:
        with open(source, "rb") as file:
            yield file


def read_lines(file: BinaryIO, name: str, field: str | None = None, id_field: str | None = None) -> Iterator[Line]:
    """The texts of a UTF-8 file, one a line, which may be empty.

    Parameters
    ----------
    file : binary file
    name : str
        What errors call it.
    field, id_field : str, optional
        Lines are JSON objects, and these their fields that hold the text and its id, a string or an integer. Blank
        lines are passed over.

    Raises
    ------
    ValueError
        A line is not UTF-8, no JSON object, or without the field (named by its number).
    """
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}:{number}: byte {error.start + 1} of the line is not UTF-8; convert the file to UTF-8"
            ) from None
        if field is None:
            yield Line(text, None, len(line))
            continue
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{name}:{number}: the line is no JSON: {error}") from None
        known = _field(record, field, (str,), f"{name}:{number}")
        label = None if id_field is None else str(_field(record, id_field, (str, int), f"{name}:{number}"))
        yield Line(known, label, len(line))


def _field(record, name: str, kinds: tuple[type, ...], place: str):
    if not isinstance(record, dict) or name not in record:
        there = ", ".join(map(repr, record)) if isinstance(record, dict) else "no object at all"
        raise ValueError(f"{place}: the line has no field {name!r}; it holds {there or 'nothing'}")
    value = record[name]
    if not isinstance(value, kinds) or isinstance(value, bool):
        expected = " or ".join({str: "a string", int: "an integer"}[kind] for kind in kinds)
        raise ValueError(f"{place}: the field {name!r} is {shown(value)}, not {expected}")
    return value


def lines_bar(file: BinaryIO):
    """A progress bar over the lines where somebody can see it, else nothing; a context."""
    if sys.stderr is None or not sys.stderr.isatty():
        return nullcontext()
    from tqdm.auto import tqdm

    return tqdm(total=_count(file), unit=" sentences", leave=False)


def _count(file: BinaryIO) -> int | None:
    """Lines of a regular file; a pipe cannot be read twice."""
    if file is sys.stdin.buffer:
        return None
    count, block = 0, b"\n"
    while more := file.read(1 << 20):
        block = more
        count += block.count(b"\n")
    file.seek(0)
    return count + (not block.endswith(b"\n"))
