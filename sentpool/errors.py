"""The exceptions and the warning of sentpool, and how a value is shown in a message."""

from __future__ import annotations

import reprlib
import sys
import warnings

_PACKAGE = __name__.partition(".")[0]

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 120
_short.maxlong = 40
_short.maxdict = _short.maxlist = _short.maxtuple = 6


class ModelFolderError(ValueError):
    """A model folder cannot be opened; the message names file, field, value and what is allowed."""


class SentpoolWarning(UserWarning):
    """The category of every warning that sentpool issues."""


def shown(value: object) -> str:
    """A value as it appears in a message: its repr, cut so that no message grows with its input."""
    return _short.repr(value)


def warn(message: str) -> None:
    """Issue a `SentpoolWarning` that points at the first caller outside this package."""
    level = 1
    frame = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        frame = frame.f_back
        level += 1
    warnings.warn(message, SentpoolWarning, stacklevel=level)


class panics_raise:
    """Turn a panic of a Rust library, which is no `Exception` and would pass every handler, into `error`."""

    def __init__(self, error: type[Exception], message: str) -> None:
        self.error, self.message = error, message

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, panic, traceback) -> None:
        if kind is not None and kind.__name__ == "PanicException":
            raise self.error(f"{self.message}: {panic}") from panic
