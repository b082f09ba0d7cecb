"""Checks of arguments: every message names the argument, its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set

import numpy as np

from sentpool.errors import shown

_BEYOND = 2**31
_INTEGERS = (int, np.integer)
_NUMBERS = (*_INTEGERS, float, np.floating)


def _check_type(name: str, value: object, types: tuple[type, ...], expected: str) -> None:
    """Raise TypeError unless `value` is of one of the types; a bool is no number."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, types):
        raise TypeError(f"{name} must be {expected}, not {type(value).__name__} {shown(value)}")


def _integer(name: str, value: object, least: int, beyond: int, expected: str, bound: str = "") -> int:
    _check_type(name, value, _INTEGERS, expected)
    if not least <= value < beyond:
        raise ValueError(f"{name} is {shown(value)}; it must be {expected}{bound}")
    return int(value)


def positive_integer(name: str, value: object) -> int:
    """`value` as an int.

    Raises
    ------
    TypeError
        If it is no integer (a bool is none).
    ValueError
        If it is below 1 or above 2**31 - 1.
    """
    return _integer(name, value, 1, _BEYOND, "a positive integer", " below 2**31")


def positive_number(name: str, value: object) -> float:
    """`value` as a float.

    Raises
    ------
    TypeError
        If it is no real number (a bool is none).
    ValueError
        If it is not above 0, or infinite.
    """
    _check_type(name, value, _NUMBERS, "a number above 0")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {shown(value)}; it must be a number above 0")
    return float(value)


def count(name: str, value: object) -> int:
    """`value` as an int from 0.

    Raises
    ------
    TypeError
        If it is no integer (a bool is none).
    ValueError
        If it is below 0 or above 2**31 - 1.
    """
    return _integer(name, value, 0, _BEYOND, "an integer from 0", " to below 2**31")


def number_from_zero(name: str, value: object) -> float:
    """`value` as a float.

    Raises
    ------
    TypeError
        If it is no real number (a bool is none).
    ValueError
        If it is below 0, or infinite.
    """
    _check_type(name, value, _NUMBERS, "a number from 0")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {shown(value)}; it must be a number from 0, not infinite")
    return float(value)


def seed(name: str, value: object) -> int:
    """`value` as an int of 64 bits.

    Raises
    ------
    TypeError
        If it is no integer (a bool is none).
    ValueError
        If it is below 0 or above 2**64 - 1.
    """
    return _integer(name, value, 0, 2**64, "an integer from 0 to 2**64 - 1")


def one_of(name: str, value: object, allowed: tuple) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    for choice in allowed:
        if value is choice or (type(value) is type(choice) and value == choice):
            return
    raise ValueError(f"{name} is {shown(value)}; it must be {' or '.join(map(repr, allowed))}")


def matrix(name: str, vectors) -> np.ndarray:
    """One vector or several as rows, in float32 unless they are no real numbers, which the core refuses by name.

    Raises
    ------
    ValueError
        If there are more than two dimensions, or finite numbers beyond float32.
    """
    array = np.asarray(vectors)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} must be a vector or a matrix, not an array of {array.ndim} dimensions")
    if array.dtype.kind != "f" or array.dtype == np.float32:
        return np.atleast_2d(array)
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if np.isinf(narrow).any() and np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers beyond the range of float32; scale it first")
    return np.atleast_2d(narrow)


def sentence_list(sentences: object) -> tuple[list[str], bool]:
    """The sentences as a list, and whether a single string was given.

    Parameters
    ----------
    sentences
        A str, or any iterable of str: list, tuple, generator, NumPy array, pandas Series.

    Raises
    ------
    TypeError
        If an item is no str (its index is named), or `sentences` holds no items.
    """
    if isinstance(sentences, np.ndarray) and sentences.ndim == 0:
        sentences = sentences.item()
    if isinstance(sentences, str):
        return [str.__str__(sentences)], True
    if isinstance(sentences, (bytes, bytearray, Mapping, Set)) or not isinstance(sentences, Iterable):
        raise TypeError(
            f"sentences must be a str or a sequence of str, not {type(sentences).__name__} {shown(sentences)}"
        )
    if getattr(sentences, "ndim", 1) != 1:
        hint = "; pass one column: frame['text']" if hasattr(sentences, "columns") else ""
        raise TypeError(
            f"sentences must be one-dimensional, not {type(sentences).__name__} of shape {sentences.shape}{hint}"
        )
    texts = list(sentences)
    for index, text in enumerate(texts):
        if type(text) is not str:
            if not isinstance(text, str):
                raise TypeError(_not_a_string(index, text))
            # what a subclass makes of ==, hash or + must not decide which text is encoded
            texts[index] = str.__str__(text)
    return texts, False


def _not_a_string(index: int, text: object) -> str:
    missing = text is None or (isinstance(text, float) and text != text) or type(text).__name__ in ("NAType", "NaTType")
    hint = "drop missing values first, or replace them: series.fillna('')" if missing else "pass str"
    if isinstance(text, (bytes, bytearray)):
        hint = "decode it: text.decode('utf-8')"
    elif isinstance(text, (list, tuple)):
        hint = "pass one flat list of str"
    return f"sentences[{index}] is {type(text).__name__} {shown(text)}, not str; {hint}"
