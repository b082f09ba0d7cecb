"""What is trained on: texts, pairs, triplets or scored pairs, from Python or from a file."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from sentpool.errors import shown
from sentpool.training.data_files import SCORE_NAMES, file_items, is_number

_MOST_TEXTS = 3


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Items of one, two or three sentences each, two of them perhaps with a score.

    Attributes
    ----------
    columns : tuple of list of str
        Texts; or first and second sentences of pairs; or anchors, positives and hard negatives.
    scores : ndarray, float64, shape (n,), or None
        How similar the two sentences of each pair are.
    source : str
        Where they are from, for messages and logs.
    """

    columns: tuple[list[str], ...]
    scores: np.ndarray | None = field(default=None)
    source: str = "data"

    @classmethod
    def of(cls, data, name: str = "data") -> TrainingData:
        """The data that `Trainer.fit` was given.

        Parameters
        ----------
        data : TrainingData, path or iterable
            A path is read with `read`. Items of an iterable are all str; or all tuples or lists of one to three str, of
            two str and a number, or of a number and two str; or all mappings, as lines of a .jsonl file are.
        name : str
            What messages call it.

        Raises
        ------
        TypeError, ValueError
            An item is not like the first one, or is empty; it is named by its number.
        FileNotFoundError
        """
        if isinstance(data, TrainingData):
            return data
        if isinstance(data, str | os.PathLike):
            return cls.read(data)
        if isinstance(data, bytes | bytearray | Mapping | Set) or not isinstance(data, Iterable):
            raise TypeError(
                f"{name} must be a file, or a sequence of texts, pairs or triplets, not {type(data).__name__} "
                f"{shown(data)}"
            )
        if hasattr(data, "columns"):
            raise TypeError(
                f"{name} is a {type(data).__name__}; pass its rows: "
                f"list(zip({', '.join(f'frame[{column!r}]' for column in list(data.columns)[:_MOST_TEXTS])}))"
            )
        return cls._collected(((f"{name}[{i}]", item) for i, item in enumerate(data)), None, name)

    @classmethod
    def read(cls, path, columns: Sequence[str] | None = None) -> TrainingData:
        """Read a file; the ending of its name says how.

        Parameters
        ----------
        path : str or Path
            .txt: a text per line. .csv: a first line with names, then a line per item, such as SimCSE's
            ``sent0,sent1,hard_neg``. .tsv: sentences, or two of them with a score before or behind, between tabs,
            without quotes; a first line is one of names if it consists of usual ones. .jsonl: a text, a list or an
            object per line. Empty lines are skipped.
        columns : sequence of str, optional
            Which columns are read, in this order, where there are names; by default all. One called ``score``,
            ``label``, ``similarity`` or ``similarity_score`` beside two others holds scores.

        Raises
        ------
        FileNotFoundError
        ValueError
            The file is none of these kinds, or a line is not as it should be; file and line are named.
        """
        path = Path(path)
        if columns is not None:
            columns = _checked_columns(columns)
        return cls._collected(file_items(path), columns, os.fspath(path))

    @classmethod
    def _collected(cls, items: Iterator[tuple[str, object]], columns, source: str) -> TrainingData:
        reader, kept, scores = None, [], []
        for place, item in items:
            if reader is None:
                reader = _reader_of(place, item, columns)
                kept = [[] for _ in range(reader.width)]
            texts, score = reader.read(place, item)
            for column, text in zip(kept, texts, strict=True):
                column.append(_text(place, text))
            if reader.scored:
                scores.append(_score(place, score))
        if reader is None:
            raise ValueError(f"{source} is empty: there is nothing to train on")
        _require_no_numbers(source, kept)
        return cls(tuple(kept), np.array(scores, np.float64) if reader.scored else None, source)

    def __len__(self) -> int:
        return len(self.columns[0])

    def __repr__(self) -> str:
        kind = "scored pairs" if self.scores is not None else ("texts", "pairs", "triplets")[len(self.columns) - 1]
        return f"TrainingData({len(self)} {kind} of {self.source})"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all sentences and scores in their order."""
        digest = hashlib.sha256(f"{len(self.columns)} {len(self)}\n".encode())
        for column in self.columns:
            for text in column:
                encoded = text.encode("utf-8", "surrogatepass")
                digest.update(f"{len(encoded)}\n".encode() + encoded)
        if self.scores is not None:
            digest.update(self.scores.astype("<f8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class _OneText:
    """Items that are texts."""

    width: int = 1
    scored: bool = False

    def read(self, place, item):
        if not isinstance(item, str):
            raise TypeError(f"{place} is {type(item).__name__} {shown(item)}, and the first item is a text")
        return (item,), None


@dataclass(frozen=True)
class _Row:
    """Items that are sequences; `score_at` says where a score stands."""

    length: int
    score_at: int | None

    @property
    def width(self) -> int:
        return self.length - self.scored

    @property
    def scored(self) -> bool:
        return self.score_at is not None

    def read(self, place, item):
        if not isinstance(item, tuple | list) or len(item) != self.length:
            size = f" of {len(item)}" if isinstance(item, tuple | list) else f" {shown(item)}"
            raise ValueError(f"{place} is {type(item).__name__}{size}; the first item has {self.length} fields")
        texts = list(item)
        return texts, texts.pop(self.score_at) if self.scored else None


@dataclass(frozen=True)
class _Named:
    """Items that are mappings."""

    names: tuple[str, ...]
    score_name: str | None

    @property
    def width(self) -> int:
        return len(self.names)

    @property
    def scored(self) -> bool:
        return self.score_name is not None

    def read(self, place, item):
        if not isinstance(item, Mapping):
            raise TypeError(f"{place} is {type(item).__name__} {shown(item)}, and the first item has named fields")
        for name in (*self.names, *filter(None, (self.score_name,))):
            if name not in item:
                raise ValueError(f"{place} has no {name!r}; it has {', '.join(map(repr, item)) or 'no fields'}")
        return [item[name] for name in self.names], item[self.score_name] if self.scored else None


def _reader_of(place: str, item: object, columns: tuple[str, ...] | None):
    """How all items are read, which the first one decides."""
    if isinstance(item, Mapping):
        return _named(place, item, columns)
    if columns is not None:
        raise ValueError(f"columns is {shown(columns)}, and {place} has no names of columns: leave columns out")
    if isinstance(item, str):
        return _OneText()
    if isinstance(item, tuple | list):
        numbers = [i for i, value in enumerate(item) if _is_number(value)]
        score_at = numbers[0] if len(numbers) == 1 and len(item) == 3 and numbers[0] in (0, 2) else None
        if 1 <= len(item) <= _MOST_TEXTS and (score_at is not None or not numbers):
            return _Row(len(item), score_at)
    raise ValueError(
        f"{place} is {shown(item)}; expected a text, one to {_MOST_TEXTS} texts (pairs: anchor and positive; triplets: "
        f"also a hard negative), or two texts and a score"
    )


def _named(place: str, item: Mapping, columns: tuple[str, ...] | None) -> _Named:
    scores = [name for name in item if isinstance(name, str) and name.lower() in SCORE_NAMES]
    if columns is not None:
        scores = [name for name in columns if name in scores]
    names = tuple(name for name in columns or item if name not in scores)
    score = scores[0] if len(scores) == 1 and len(names) == 2 else None
    if not 1 <= len(names) <= _MOST_TEXTS or (scores and score is None):
        raise ValueError(
            f"{place} has the fields {', '.join(map(repr, columns or item))}; expected are one to {_MOST_TEXTS} of "
            f"sentences, or two and a score: choose with TrainingData.read(path, columns=(…))"
        )
    for name in names:
        if not isinstance(item.get(name, ""), str):
            raise ValueError(
                f"{place} has {shown(item[name])} in {name!r}, where a text belongs: choose with "
                f"TrainingData.read(path, columns=(…))"
            )
    return _Named(names, score)


def _checked_columns(columns: Sequence[str]) -> tuple[str, ...]:
    names = (columns,) if isinstance(columns, str) else tuple(columns)
    if not 1 <= len(names) <= _MOST_TEXTS or not all(isinstance(name, str) for name in names):
        raise ValueError(f"columns is {shown(columns)}; it must hold one to {_MOST_TEXTS} names")
    return names


def _require_no_numbers(source: str, columns: list[list[str]]) -> None:
    """Raise where ids, labels or scores would be taken for sentences; the first may be the name of their column."""
    for k, column in enumerate(columns, 1):
        if len(column) > 1 and all(map(is_number, column[1:])):
            raise ValueError(
                f"{source}: column {k} of {len(columns)} holds numbers ({', '.join(map(repr, column[1:4]))}, …) and no "
                f"texts: leave it out, or, where it says how alike two texts are, name it 'score' in the first line "
                f"(from Python, give numbers, not str)"
            )


def _text(place: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{place} holds {type(value).__name__} {shown(value)} where a text belongs")
    if not value.strip():
        raise ValueError(f"{place} has an empty text; leave the item out, or fill it in")
    return str.__str__(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _score(place: str, value: object) -> float:
    try:
        number = float(value) if _is_number(value) or isinstance(value, str) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{place} has the score {shown(value)}; a score is a finite number")
    return number
