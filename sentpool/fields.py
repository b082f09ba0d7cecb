"""The JSON files of a model folder, read field by field: a value is used only after its type is checked."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sentpool.errors import ModelFolderError, shown

# The largest files of this kind, shard indices of big models, stay below 1 MB.
MAX_JSON_BYTES = 16 << 20

_REQUIRED = object()
# A message lists so many of the allowed values; all but the names of prompts are fewer.
_LISTED = 12


def is_there(path: Path) -> bool:
    """Whether a path exists; one that cannot exist, for its length or its characters, does not."""
    return os.path.exists(path)


def why_no_file(path: Path) -> str:
    """What to say of a path at which there is no regular file to read."""
    try:
        os.stat(path)
    except PermissionError:
        return "no permission to look at it"
    except (OSError, ValueError):
        return "no such file"
    return "no such file, but a folder of that name" if os.path.isdir(path) else "not a regular file"


def read_json(path: Path, kind: type = dict) -> Any:
    """Parse a JSON file whose top level must be of type `kind`.

    Raises
    ------
    ModelFolderError
        If the file is missing, no regular file, too large, not UTF-8, not JSON, or of another kind.
    """
    # Opening a pipe or a device could block for ever, so only regular files are opened.
    if not os.path.isfile(path):
        raise ModelFolderError(f"{path}: {why_no_file(path)}")
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelFolderError(f"{path}: larger than {MAX_JSON_BYTES >> 20} MiB, which no such file needs")
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read ({error.strerror or error})") from error
    except RecursionError as error:
        raise ModelFolderError(f"{path}: nested too deeply") from error
    except ModelFolderError:
        raise
    except ValueError as error:
        raise ModelFolderError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, kind):
        expected = {dict: "an object {…}", list: "a list […]"}[kind]
        raise ModelFolderError(f"{path}: holds {shown(value)}; expected {expected}")
    return value


class Fields:
    """One JSON object of a model folder.

    Every getter checks the value and raises `ModelFolderError` with file, field, value and what is allowed.
    A default stands in for an absent field; without one the field is required.
    """

    def __init__(self, path: Path, values: dict[str, Any], inside: str = "") -> None:
        self.path = path
        self.values = values
        self._inside = inside

    @classmethod
    def read(cls, path: Path) -> Fields:
        """Read a file whose top level is an object."""
        return cls(path, read_json(path))

    @classmethod
    def read_if_there(cls, path: Path) -> Fields:
        """Like `read`, but a missing file reads as an empty object."""
        return cls.read(path) if is_there(path) else cls(path, {})

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def error(self, name: str, expected: str) -> ModelFolderError:
        """The exception for a field whose value is not what it must be."""
        field = f"{self._inside}{name}"
        if name not in self.values:
            return ModelFolderError(f"{self.path}: field {field!r} is missing; expected {expected}")
        return ModelFolderError(f"{self.path}: field {field!r} is {shown(self.values[name])}; expected {expected}")

    def integer(self, name: str, default: Any = _REQUIRED, *, minimum: int = 1, maximum: int) -> int:
        """An int in minimum … maximum; a bool is no int."""
        value = self._get(name, default)
        if type(value) is not int or not minimum <= value <= maximum:
            raise self.error(name, f"an integer from {minimum} to {maximum}")
        return value

    def optional_integer(self, name: str, *, maximum: int) -> int | None:
        """Like `integer` from 1, but an absent field or null is None."""
        return self.integer(name, maximum=maximum) if self.has(name) else None

    def number(self, name: str, default: Any = _REQUIRED, *, minimum: float, below: float) -> float:
        """A finite int or float in minimum ≤ x < below."""
        value = self._get(name, default)
        # NaN fails the comparison, infinity does where `below` is finite, as it always is.
        if type(value) not in (int, float) or not minimum <= value < below:
            raise self.error(name, f"a finite number x with {minimum:g} <= x < {below:g}")
        return float(value)

    def boolean(self, name: str, default: Any = _REQUIRED) -> bool:
        """True or false."""
        value = self._get(name, default)
        if type(value) is not bool:
            raise self.error(name, "true or false")
        return value

    def string(self, name: str, default: Any = _REQUIRED) -> str:
        """A string."""
        value = self._get(name, default)
        if type(value) is not str:
            raise self.error(name, "a string")
        return value

    def choice(self, name: str, allowed: Collection[Any], default: Any = _REQUIRED) -> Any:
        """One of the allowed values, of the same type (so 0 is not false)."""
        value = self._get(name, default)
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise self.error(name, " or ".join(json.dumps(one) for one in list(allowed)[:_LISTED]))
        return value

    def object(self, name: str) -> Fields:
        """A nested object; an absent one or null reads as empty."""
        value = self.values[name] if self.has(name) else {}
        if type(value) is not dict:
            raise self.error(name, "an object {…}")
        return Fields(self.path, value, f"{self._inside}{name}.")

    def refuse_others(self, known: Collection[str]) -> None:
        """Raise for a field that is not known and says something (null and empty values say nothing)."""
        for name, value in self.values.items():
            if name not in known and value not in (None, "", {}, []):
                raise self.error(name, f"no such field; known are {', '.join(sorted(known))}")

    def _get(self, name: str, default: Any) -> Any:
        if name in self.values:
            return self.values[name]
        if default is _REQUIRED:
            return None
        return default
