"""What the parts of a pooling have in common: they print, compare, and say what is needed to build them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from sentpool.errors import shown


class Component:
    """A part of a pooling: settings that fit into JSON, and named arrays of numbers.

    Two components are equal if they are of one class with equal settings and equal arrays.

    Attributes
    ----------
    trainable : bool
        Whether training changes the arrays.
    """

    trainable: ClassVar[bool] = True

    def config(self) -> dict:
        """What, with `parameters`, builds the component again; ready for JSON."""
        return {"type": type(self).__name__}

    def parameters(self) -> dict[str, np.ndarray]:
        """The arrays by name, float32, read-only."""
        return {}

    def with_parameters(self, arrays: Mapping[str, np.ndarray]) -> Component:
        """The same with copies of these arrays in the place of its own of these names."""
        settings = {name: value for name, value in self.config().items() if name != "type"}
        return type(self)(**settings, **(self.parameters() | dict(arrays)))

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        mine, theirs = self.parameters(), other.parameters()
        return (
            self.config() == other.config()
            and mine.keys() == theirs.keys()
            and all(np.array_equal(array, theirs[name]) for name, array in mine.items())
        )

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        settings = [f"{name}={value!r}" for name, value in self.config().items() if name != "type"]
        arrays = [
            f"{name}={array.item():.6g}" if array.shape == (1,) else f"{name} {'×'.join(map(str, array.shape))}"
            for name, array in self.parameters().items()
        ]
        return f"{type(self).__name__}({', '.join(settings + arrays)})"


def parameter(name: str, value, ndim: int) -> np.ndarray:
    """`value` as a read-only float32 array of its own.

    Raises
    ------
    TypeError, ValueError
        If it is no array of finite real numbers with `ndim` dimensions, none of which is empty.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be an array of real numbers, not {type(value).__name__} {shown(value)}")
    if array.ndim != ndim or 0 in array.shape:
        dimensions = "one dimension" if ndim == 1 else f"{ndim} dimensions"
        raise ValueError(f"{name} has shape {array.shape}; it must have {dimensions}, none of them empty")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)  # a copy
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN, infinity or numbers beyond float32")
    array.setflags(write=False)
    return array


def checked_vectors(result, n: int, giver: object) -> np.ndarray:
    """What a function of the user's returned, as float32 (n, d).

    Raises
    ------
    ValueError
        If it is no array of real numbers with a row for each of `n` sentences.
    """
    array = np.asarray(result)
    if array.dtype.kind not in "biuf" or array.ndim != 2 or len(array) != n:
        raise ValueError(
            f"{shown(giver)} returned {array.dtype} of shape {array.shape} for {n} sentences; expected real numbers of "
            f"shape ({n}, d)"
        )
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def require_width(component: Component, expected: int, width: int) -> None:
    """Raise ValueError unless what comes in has as many numbers as the component was made for."""
    if width != expected:
        raise ValueError(f"{component!r} takes vectors of {expected} numbers; what comes before it gives {width}")
