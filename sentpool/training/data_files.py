"""Files of training data, item by item, each with the place by which a message names it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

# Columns that hold numbers, not sentences.
SCORE_NAMES = ("score", "label", "similarity", "similarity_score")
# A first line of a .tsv file that has only such fields is one of names.
_USUAL_NAMES = {
    *SCORE_NAMES,
    *("text", "sentence", "sentence1", "sentence2", "sent0", "sent1", "sent2", "hard_neg", "text1", "text2"),
    *("anchor", "positive", "negative", "query", "premise", "hypothesis"),
}


def file_items(path: Path) -> Iterator[tuple[str, object]]:
    """Yield (place, item): str, list of fields, or dict of named fields.

    Raises
    ------
    FileNotFoundError
    ValueError
        The file is of no known kind, no UTF-8, or a line is not as its kind has it.
    """
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"the data {str(path)!r} {problem}")
    read = _KINDS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path}: files of sentences end in {', '.join(_KINDS)}")
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            yield from read(path, file)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: no UTF-8 ({error.reason}): convert it, or get it anew") from error


def _lines(path: Path, file: TextIO) -> Iterator[tuple[str, str]]:
    """Lines that are not blank. Only newlines end one: a sentence may hold U+2028."""
    for number, line in enumerate(file, 1):
        if line.strip():
            yield f"{path}:{number}", line.rstrip("\r\n")


def _csv(path: Path, file: TextIO) -> Iterator[tuple[str, dict]]:
    rows = csv.reader(file, strict=True)
    names: list[str] | None = None
    try:
        for row in rows:
            place = f"{path}:{rows.line_num}"
            if not any(row):
                continue
            if names is None:
                names = _names(place, row)
            elif len(row) != len(names):
                raise ValueError(
                    f"{place}: {len(row)} fields, and the first line names {len(names)} ({', '.join(names)}); a field "
                    f"with a comma is put in double quotes"
                )
            else:
                yield place, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}:{rows.line_num}: {error}") from error


def _names(place: str, row: list[str]) -> list[str]:
    names = [name.strip() for name in row]
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"{place}: the first line must name the columns, each differently; it is {row!r}")
    return names


def _tsv(path: Path, file: TextIO) -> Iterator[tuple[str, list | dict]]:
    names: list[str] | None = None
    score_first: bool | None = None
    for place, line in _lines(path, file):
        fields = line.split("\t")
        if score_first is None and names is None:
            if all(field.strip().lower() in _USUAL_NAMES for field in fields):
                names = _names(place, fields)
                continue
            score_first = len(fields) == 3 and _is_number(fields[0])
        if names is not None:
            if len(fields) != len(names):
                raise ValueError(f"{place}: {len(fields)} fields between tabs; the first line names {len(names)}")
            yield place, dict(zip(names, fields, strict=True))
        elif score_first:
            if not _is_number(fields[0]):
                raise ValueError(f"{place}: the first field is {fields[0]!r}; in the lines above it is a score")
            yield place, [float(fields[0]), *fields[1:]]
        else:
            yield place, fields


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _jsonl(path: Path, file: TextIO) -> Iterator[tuple[str, object]]:
    for place, line in _lines(path, file):
        try:
            yield place, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: no JSON: {error}") from error


_KINDS: dict[str, Callable[[Path, TextIO], Iterator[tuple[str, object]]]] = {
    ".txt": _lines,
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
}
