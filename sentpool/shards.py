"""Encoding the lines of a file into a folder of shards, which can be broken off and taken up again.

A shard gets its name when it is whole. manifest.json says what made the shards and from which texts, so that vectors
of two models, or of two inputs, never end up in one folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sentpool.atomic_file import replacing
from sentpool.checks import one_of, positive_integer
from sentpool.config_report import versions
from sentpool.text_lines import Line, lines_bar, opened, read_lines

FORMATS = ("npy", "npz", "parquet")
MANIFEST = "manifest.json"
_FORM = "sentpool shards 1"
# Encoded at once: enough to keep many threads busy, few enough for the bar to move.
_PIECE_LINES = 4096
# Of a model's provenance, what changes no vector.
_NOT_COMPARED = ("model", "versions", "kernels")


class Summary(NamedTuple):
    """What the folder holds, and what of it was made now: `encoded` rows in `seconds`."""

    shards: int
    rows: int
    columns: int
    n_truncated: int
    encoded: int
    seconds: float


def encode_shards(
    model,
    source,
    folder,
    rows: int,
    *,
    form: str = "npy",
    field: str | None = None,
    id_field: str | None = None,
    overwrite: bool = False,
    **encode_options,
) -> Summary:
    """Encode the lines of a file into ``part-00000.npy``, ``part-00001.npy`` … of `rows` rows each.

    What a former run has finished is not encoded again; its texts are read and compared by their SHA-256.

    Parameters
    ----------
    model : SentenceEncoder
    source : str or Path
        UTF-8 text; ``"-"`` is standard input.
    folder : str or Path
        Made if it is not there.
    rows : int
        Texts of a shard; as many vectors are held in memory.
    form : {"npy", "npz", "parquet"}
        float32 arrays (rows, d); ``vectors`` and ``ids`` in one file; columns ``vector`` and ``id``, which needs
        pyarrow.
    field, id_field : str, optional
        Lines are JSON objects, and these their fields that hold text and id. Ids are kept as strings, by npz and
        parquet.
    overwrite : bool
        Remove the shards that are there and begin anew.
    **encode_options
        Passed to ``model.encode_with_info``.

    Returns
    -------
    Summary

    Raises
    ------
    ValueError
        An argument is out of range; a line is not UTF-8 or has no such field; the folder holds shards of another model,
        other options or another input.
    OSError
        A file cannot be read or written. Shards that are finished stay.
    ImportError
        pyarrow is not installed.
    """
    rows = positive_integer("rows", rows)
    one_of("form", form, FORMATS)
    if id_field is not None and form == "npy":
        raise ValueError("a .npy file holds no ids: choose npz or parquet, or leave out the field of the ids")
    write = _WRITERS[form]()
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    manifest = _Manifest(folder, _made_by(model, encode_options, rows, form, field, id_field), overwrite)
    encoded, seconds, number = 0, 0.0, -1
    with opened(source) as file, lines_bar(file) as bar:
        lines = read_lines(file, os.fspath(source), field, id_field)
        for number, shard in enumerate(_shards(lines, rows)):
            if not manifest.has(number, shard):
                began = time.perf_counter()
                vectors, truncated = _encoded(model, shard, bar, encode_options)
                seconds += time.perf_counter() - began
                encoded += len(shard)
                path = folder / f"part-{number:05d}.{form}"
                with replacing(path) as out:
                    write(out, vectors, [line.id for line in shard] if id_field is not None else None)
                manifest.add(number, path, shard, vectors.shape[1], truncated)
            elif bar is not None:
                bar.update(len(shard))
    manifest.finish(number + 1)
    return manifest.summary(encoded, seconds)


def _shards(lines: Iterator[Line], rows: int) -> Iterator[list[Line]]:
    """Lists of so many lines; no line at all gives one empty list, to learn the width from."""
    shard = list(islice(lines, rows))
    yield shard
    while shard := list(islice(lines, rows)):
        yield shard


def _encoded(model, shard: list[Line], bar, options: dict[str, Any]) -> tuple[np.ndarray, int]:
    parts, truncated = [], 0
    for start in range(0, max(1, len(shard)), _PIECE_LINES):
        texts = [line.text for line in shard[start : start + _PIECE_LINES]]
        vectors, info = model.encode_with_info(texts, show_progress_bar=False, **options)
        parts.append(vectors)
        truncated += info.n_truncated
        if bar is not None:
            bar.update(len(texts))
    return np.ascontiguousarray(np.concatenate(parts), dtype=np.float32), truncated


def _made_by(model, options: dict[str, Any], rows: int, form: str, field, id_field) -> dict[str, Any]:
    """What all shards of a folder must have in common, ready for JSON."""
    facts = {name: value for name, value in model.provenance().items() if name not in _NOT_COMPARED}
    # Neither changes a bit.
    facts |= {name: value for name, value in options.items() if name not in ("batch_size", "threads") and value}
    facts |= {"rows of a shard": rows, "file format": form, "field": field, "id field": id_field}
    return json.loads(json.dumps(facts, default=str))


class _Manifest:
    """What the folder holds; written anew with every shard that is finished."""

    def __init__(self, folder: Path, made_by: dict[str, Any], overwrite: bool) -> None:
        self.folder, self.path = folder, folder / MANIFEST
        self.made_by = made_by
        self.columns, self.shards = 0, []
        if overwrite:
            self._clear()
        elif self.path.exists():
            self._read()
        elif next(folder.glob("part-*"), None) is not None:
            raise ValueError(f"{os.fspath(folder)!r} holds shards without {MANIFEST}: name another folder")

    def _clear(self) -> None:
        # First the manifest: shards without one are refused, never mistaken for finished ones.
        self.path.unlink(missing_ok=True)
        for form in FORMATS:
            for path in self.folder.glob(f"part-*.{form}"):
                path.unlink()

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["format"] != _FORM:
                raise ValueError(f"format is {content['format']!r}, this version writes {_FORM!r}")
            known, self.columns, self.shards = content["made by"], content["columns"], content["shards"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{os.fspath(self.path)!r} is no manifest of shards ({error}): name another folder"
            ) from None
        changed = [
            f"{name} differs" if "sha256" in name else f"{name} was {known.get(name)} and is {self.made_by.get(name)}"
            for name in dict.fromkeys([*known, *self.made_by])
            if known.get(name) != self.made_by.get(name)
        ]
        if changed:
            raise ValueError(
                f"{os.fspath(self.folder)!r} holds shards that were made otherwise: {'; '.join(changed)}. Name another "
                "folder, or overwrite it"
            )

    def has(self, number: int, shard: list[Line]) -> bool:
        """Whether a shard is finished.

        Raises
        ------
        ValueError
            It was made from other texts.
        """
        if number >= len(self.shards):
            return False
        known = self.shards[number]
        if known["sha256 of texts"] != _digest(shard):
            raise ValueError(
                f"{os.fspath(self.folder / known['file'])!r} was made from other texts than the input has there: name "
                "another folder, or overwrite it"
            )
        path = self.folder / known["file"]
        return path.is_file() and path.stat().st_size == known["bytes"]

    def add(self, number: int, path: Path, shard: list[Line], columns: int, truncated: int) -> None:
        self.columns = columns
        entry = {
            "file": path.name,
            "rows": len(shard),
            "truncated": truncated,
            "bytes": path.stat().st_size,
            "sha256 of texts": _digest(shard),
        }
        self.shards[number : number + 1] = [entry]
        self._write(complete=False)

    def finish(self, shards: int) -> None:
        if shards < len(self.shards):
            raise ValueError(
                f"{os.fspath(self.folder)!r} holds {len(self.shards)} shards and the input gives {shards}: it was "
                "longer before; name another folder, or overwrite it"
            )
        self._write(complete=True)

    def _write(self, complete: bool) -> None:
        content = {
            "format": _FORM,
            "complete": complete,
            "rows": sum(shard["rows"] for shard in self.shards),
            "columns": self.columns,
            "made by": self.made_by,
            "versions": versions(),
            "shards": self.shards,
        }
        with replacing(self.path) as file:
            file.write(json.dumps(content, indent=2).encode() + b"\n")

    def summary(self, encoded: int, seconds: float) -> Summary:
        rows, truncated = (sum(shard[name] for shard in self.shards) for name in ("rows", "truncated"))
        return Summary(len(self.shards), rows, self.columns, truncated, encoded, seconds)


def _digest(shard: list[Line]) -> str:
    """Of texts and ids; as JSON, so that no two lists of them look alike."""
    digest = hashlib.sha256()
    for line in shard:
        digest.update(json.dumps([line.text, line.id]).encode() + b"\n")
    return digest.hexdigest()


def _npy():
    return lambda file, vectors, ids: np.save(file, vectors, allow_pickle=False)


def _npz():
    def write(file, vectors: np.ndarray, ids: list[str] | None) -> None:
        np.savez(file, vectors=vectors, **({} if ids is None else {"ids": np.array(ids, dtype=np.str_)}))

    return write


def _parquet():
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("parquet needs pyarrow: pip install pyarrow") from error

    def write(file, vectors: np.ndarray, ids: list[str] | None) -> None:
        flat = pyarrow.array(vectors.reshape(-1))
        columns = {} if ids is None else {"id": pyarrow.array(ids, pyarrow.string())}
        columns["vector"] = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        parquet.write_table(pyarrow.table(columns), file)

    return write


_WRITERS = {"npy": _npy, "npz": _npz, "parquet": _parquet}
