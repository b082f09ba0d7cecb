"""What results have in common: a page to look at, and a file, of which it is said in one way what is wrong with it."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sentpool.atomic_file import replacing
from sentpool.evaluation.plain_tables import Table, page_as_html, page_as_text

# As json.dumps writes one, a number a line; a string holds no line break.
_LIST_OF_NUMBERS = re.compile(r"\[\n\s+(?:(?:-?\d[-+.\de]*|null),?\s+)+\]")


class SavedResult:
    """A result as a page of tables, in a terminal or a notebook, and as a file.

    What derives from it is a dataclass that says `FORMAT`, `_head` and `_tables`; where a field is no JSON, or may hold
    nan, also `to_dict` and `_restored`.
    """

    FORMAT: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON but for nan."""
        return {"format": self.FORMAT, **self._fields()}

    def save(self, path) -> None:
        """Write `to_dict` as JSON, replacing the file in one step; nan is written as null.

        Raises
        ------
        OSError
            The file cannot be written; what was there before is untouched.
        """
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path):
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            The file is not a saved result of this kind, or of a later format.
        """
        with reading(path, cls.FORMAT, cls) as content:
            return cls(**cls._restored({part.name: content[part.name] for part in fields(cls)}))

    def __repr__(self) -> str:
        return page_as_text(self._head(), self._tables(), self._notes())

    def _repr_html_(self) -> str:
        return page_as_html(self._head(), self._tables(), self._notes())

    def _fields(self) -> dict[str, Any]:
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @classmethod
    def _restored(cls, parts: dict[str, Any]) -> dict[str, Any]:
        """The fields, from what a file says of each."""
        return parts

    def _head(self) -> Iterable[str]:
        """The lines above the tables."""
        raise NotImplementedError

    def _tables(self) -> Iterable[Table]:
        raise NotImplementedError

    def _notes(self) -> Iterable[str]:
        """The lines below them."""
        return ()


@contextmanager
def reading(path, form: str, result: type) -> Iterator[dict[str, Any]]:
    """Yield the content of a file that ``result.save`` wrote, for the block to make a result of it.

    Parameters
    ----------
    path : str or Path
    form : str
        What ``content["format"]`` must be.
    result : type

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file, or what the block finds in it, is no saved result, or of a later format.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["format"] != form:
            raise ValueError(f"format is {content['format']!r}, this version reads {form!r}")
        yield content
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{os.fspath(path)!r} is no result saved by {result.__name__}.save: {what}") from error


def saved_class(path, classes: Mapping[str, type]) -> type:
    """Which of several kinds of result a file holds.

    Parameters
    ----------
    path : str or Path
    classes : mapping of str to type
        By what ``content["format"]`` is.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It holds none of them.
    """
    try:
        form = json.loads(Path(path).read_text(encoding="utf-8"))["format"]
        return classes[form]
    except (ValueError, KeyError, TypeError) as error:
        known = ", ".join(map(repr, classes))
        raise ValueError(f"{os.fspath(path)!r} is no saved result that can be read here: expected {known}") from error


def write_json(path, content) -> None:
    """Write a result as JSON, replacing the file in one step; JSON knows no NaN: it is written as null."""
    text = json.dumps(_without_nan(content), indent=2, ensure_ascii=False, allow_nan=False, default=str)
    text = _LIST_OF_NUMBERS.sub(
        lambda numbers: re.sub(r"\s+", " ", numbers[0]).replace("[ ", "[").replace(" ]", "]"), text
    )
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace") + b"\n")


def _without_nan(content):
    if isinstance(content, dict):
        return {str(key): _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    if isinstance(content, np.generic):
        content = content.item()
    return None if isinstance(content, float) and not math.isfinite(content) else content


def restored_nan(value: float | None) -> float:
    """What `write_json` wrote for a number."""
    return math.nan if value is None else float(value)
