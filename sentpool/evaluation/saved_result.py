"""Reading a result that was saved as JSON: what is wrong with the file is said in one way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
