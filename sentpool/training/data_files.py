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
        except UnicodeDecodeError:
            raise ValueError(f"{_no_utf8(path)}; convert the file to UTF-8, or get it anew") from None


def _no_utf8(path: Path) -> str:
    """Where a file is no UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"{path}:{number}: byte {error.start + 1} of the line is not UTF-8"
    return f"{path} is not UTF-8"


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
    other = next((mark for mark in (";", "\t") if len(names) == 1 and mark in row[0]), None)
    if other is not None:
        raise ValueError(
            f"{place}: fields of a .csv file stand between commas, and the first line has {other!r} instead: {row[0]!r}"
        )
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"{place}: the first line must name the columns, each differently; it is {row!r}")
    return names


def _tsv(path: Path, file: TextIO) -> Iterator[tuple[str, list | dict]]:
    names: list[str] | None = None
    score_at: int | None = None
    is_first = True
    for place, line in _lines(path, file):
        fields = line.split("\t")
        if is_first:
            is_first = False
            if all(field.strip().lower() in _USUAL_NAMES for field in fields):
                names = _names(place, fields)
                continue
            if len(fields) == 3:
                score_at = next((i for i in (0, 2) if is_number(fields[i])), None)
        if names is not None:
            if len(fields) != len(names):
                raise ValueError(f"{place}: {len(fields)} fields between tabs; the first line names {len(names)}")
            yield place, dict(zip(names, fields, strict=True))
        elif score_at is not None and len(fields) == 3:
            if not is_number(fields[score_at]):
                field = "last" if score_at else "first"
                raise ValueError(
                    f"{place}: the {field} field is {fields[score_at]!r}; in the lines above it is a score"
                )
            yield place, [float(field) if i == score_at else field for i, field in enumerate(fields)]
        else:
            yield place, fields


def is_number(text: str) -> bool:
    """Whether a text is a number, as one of a score is."""
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
