"""Texts and their vectors, searched by meaning; saved as a folder whose vectors are mapped, not read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sentpool.atomic_folder import check_folder, replacing_folder
from sentpool.checks import one_of, positive_integer, sentence_list
from sentpool.encoder import SentenceEncoder
from sentpool.errors import shown, warn
from sentpool.evaluation.embedding import describe_model, embed, refuse_codes
from sentpool.search.exact import (
    METRICS,
    Found,
    check_widths,
    matrix,
    pieces_of,
    query_matrix,
    search_pieces,
)
from sentpool.threads import resolve

FORMAT = "sentpool search index 1"
_MANIFEST, _VECTORS, _TEXTS = "index.json", "vectors.npy", "texts.jsonl"
# What tells two models apart whose vectors must not be compared.
_IDENTITY = ("weights_sha256", "pooling", "truncate_dim")


class SearchIndex:
    """Vectors, the texts they stand for if there are any, and the model that turns further texts into vectors.

    Parameters
    ----------
    vectors : array-like, shape (n, d)
        float32 is kept as it is, a memory map too; other types are converted.
    texts : iterable of str, optional
        One per vector.
    model : SentenceEncoder, object with ``encode``, or callable, optional
        Encodes queries and further texts.
    metric : {"cosine", "dot", "euclidean"}

    Attributes
    ----------
    texts : list of str or None
    model, metric
        As given; `model` may be set later.

    Examples
    --------
    >>> index = SearchIndex.build(["A cat sleeps.", "Stocks fell."], model)
    >>> ids, scores = index.search("financial news", k=1)
    >>> index.texts[ids[0]]
    'Stocks fell.'
    >>> index.save("news.index")                                                # doctest: +SKIP
    >>> SearchIndex.load("news.index", model)                                   # doctest: +SKIP
    """

    def __init__(self, vectors, texts: Iterable[str] | None = None, *, model=None, metric: str = "cosine") -> None:
        one_of("metric", metric, METRICS)
        self.metric, self.model = metric, model
        self._parts = [_kept(vectors)]
        self.texts = None if texts is None else _texts(texts, len(self._parts[0]))
        self._made_by: dict[str, Any] | None = None

    @classmethod
    def build(cls, texts: Iterable[str], model, *, metric: str | None = None, **encode_options) -> SearchIndex:
        """Encode texts and index them.

        Parameters
        ----------
        texts : iterable of str
        model : SentenceEncoder, object with ``encode``, or callable
            A callable takes a list of n strings and returns an array (n, d).
        metric : {"cosine", "dot", "euclidean"}, optional
            By default the one that the model's folder names, else "cosine".
        **encode_options
            Passed to ``model.encode``: ``batch_size``, ``prompt_name``, ``show_progress_bar`` …

        Raises
        ------
        TypeError, ValueError
            As `sentpool.search.search` and the model's ``encode`` do.
        """
        if metric is None:
            metric = getattr(getattr(model, "folder", None), "similarity_fn_name", "cosine")
        one_of("metric", metric, METRICS)
        texts = sentence_list(texts)[0]
        index = cls(_embedded(model, texts, encode_options), texts, model=model, metric=metric)
        index._made_by = describe_model(model)
        return index

    def add(self, texts: Iterable[str] | None = None, vectors=None, **encode_options) -> None:
        """Append texts, vectors, or texts with their vectors; rows that are there keep their numbers.

        Parameters
        ----------
        texts : iterable of str, optional
            Needed if the index has texts. Without `vectors`, the model encodes them.
        vectors : array-like, shape (m, d), optional
        **encode_options
            Passed to ``model.encode``.

        Raises
        ------
        TypeError, ValueError
            What does not fit to what is there; the index is as before then.
        """
        if texts is None and vectors is None:
            raise TypeError("add() needs texts, vectors, or both")
        if (texts is None) != (self.texts is None):
            has = "has no texts: pass vectors alone" if self.texts is None else "has texts: pass them too"
            raise ValueError(f"this index {has}")
        if texts is not None:
            texts = sentence_list(texts)[0]
        if vectors is None:
            vectors = _embedded(self._required_model("texts"), texts, encode_options)
        vectors = _kept(vectors)
        if vectors.shape[1] != self.dimension:
            raise ValueError(f"vectors have {vectors.shape[1]} numbers each, the index has {self.dimension}")
        if texts is not None:
            self.texts += _texts(texts, len(vectors))
        self._parts.append(vectors)

    def search(self, queries, k: int = 10, *, threads: int | None = None, **encode_options) -> Found:
        """The `k` entries most similar to each query, exactly; see `sentpool.search.search` for scores, order and bits.

        Parameters
        ----------
        queries : str, iterable of str, or array-like of shape (n, d) or (d,)
            Texts are encoded by the model.
        k : int, default 10
        threads : int, optional
            Of the search, and of a SentenceEncoder.
        **encode_options
            Passed to ``model.encode`` for texts, such as ``prompt_name="query"``.

        Returns
        -------
        Found
            ``ids`` and ``scores``, (n, min(k, len(index))); one axis less for a single query.

        Raises
        ------
        TypeError, ValueError
            As `sentpool.search.search`; texts without a model.
        """
        k = positive_integer("k", k)
        queries, single = self._query_vectors(queries, threads, encode_options)
        check_widths(queries, self.dimension)
        best = search_pieces(
            queries, (piece for part in self._parts for piece in pieces_of(part)), k, self.metric, resolve(threads)
        )
        return Found(best.ids[0], best.scores[0]) if single else best

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a folder: vectors as ``vectors.npy``, texts as ``texts.jsonl``, what they are as ``index.json``.

        Parameters
        ----------
        path : str or Path
            A new or an empty folder. It gets its name when it is whole.
        overwrite : bool, default False
            Replace an index that is there.

        Raises
        ------
        FileExistsError
            The folder is there and not empty, and `overwrite` is False or it holds no index.
        OSError
            Writing fails; nothing is left behind.
        """
        check_saving(path, overwrite=overwrite)
        manifest = {
            "format": FORMAT,
            "metric": self.metric,
            "vectors": len(self),
            "dimension": self.dimension,
            "texts": self.texts is not None,
            "model": self._made_by,
        }
        with replacing_folder(path, overwrite=overwrite, may_replace=_why_not_replaced) as new:
            shape = {"descr": "<f4", "fortran_order": False, "shape": (len(self), self.dimension)}
            with open(new / _VECTORS, "wb") as file:
                np.lib.format.write_array_header_1_0(file, shape)
                for part in self._parts:
                    for start in range(0, len(part), 1 << 14):
                        file.write(np.ascontiguousarray(part[start : start + (1 << 14)], "<f4").data)
            if self.texts is not None:
                with open(new / _TEXTS, "w", encoding="utf-8", newline="\n") as file:
                    file.writelines(f"{json.dumps(text)}\n" for text in self.texts)
            (new / _MANIFEST).write_text(json.dumps(manifest, indent=2, default=str) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], model=None) -> SearchIndex:
        """Open what `save` wrote; vectors are mapped from the file, read-only.

        Parameters
        ----------
        path : str or Path
        model : optional
            As in the constructor.

        Raises
        ------
        FileNotFoundError
            There is no such folder, or a file of it is missing.
        ValueError
            The folder is no saved index, is broken, or of a later format.

        Warns
        -----
        SentpoolWarning
            `model` is not the one that the vectors come from.
        """
        folder = Path(path)
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise ValueError(f"format is {manifest['format']!r}, this version reads {FORMAT!r}")
            vectors = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
            if vectors.shape != (manifest["vectors"], manifest["dimension"]) or vectors.dtype != np.float32:
                raise ValueError(f"{_VECTORS} holds {vectors.shape} {vectors.dtype}, not what {_MANIFEST} says")
            texts = _read_texts(folder / _TEXTS) if manifest["texts"] else None
            index = cls(vectors, texts, model=model, metric=manifest["metric"])
            index._made_by = manifest["model"]
        except (ValueError, KeyError, TypeError, EOFError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{os.fspath(path)!r} is no index saved by SearchIndex.save: {what}") from error
        if model is not None:
            index._warn_of_another_model()
        return index

    @property
    def vectors(self) -> np.ndarray:
        """All vectors, float32 (n, d): as they lie if there was no `add`, else a copy."""
        return self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return self._parts[0].shape[1]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __repr__(self) -> str:
        texts = "no texts" if self.texts is None else "with texts"
        return f"SearchIndex({len(self):,} vectors of {self.dimension}, {texts}, metric={self.metric!r})"

    def _query_vectors(self, queries, threads: int | None, encode_options: dict) -> tuple[np.ndarray, bool]:
        listed = (
            queries if isinstance(queries, (str, np.ndarray)) or not isinstance(queries, Iterable) else list(queries)
        )
        if isinstance(listed, list) and not listed:
            return np.empty((0, self.dimension), np.float32), False
        first = listed if isinstance(listed, str) else next(iter(listed), None) if isinstance(listed, list) else None
        if isinstance(first, str) or (isinstance(listed, np.ndarray) and listed.dtype.kind in "UO"):
            texts, single = sentence_list(listed)
            if isinstance(self.model, SentenceEncoder):
                encode_options = {"threads": threads} | encode_options
            return _embedded(self._required_model("queries"), texts, encode_options), single
        if encode_options:
            raise TypeError(f"{', '.join(encode_options)}: vectors need no encoding, only texts take such options")
        return query_matrix(listed)

    def _required_model(self, what: str):
        if self.model is None:
            raise ValueError(f"{what} are texts, and this index has no model to encode them: set index.model")
        return self.model

    def _warn_of_another_model(self) -> None:
        given, known = describe_model(self.model), self._made_by or {}
        differing = [name for name in _IDENTITY if name in known and given.get(name) != known[name]]
        if differing:
            warn(
                f"the vectors of this index come from another model than the one given ({', '.join(differing)} "
                "differ): its queries cannot be compared with them"
            )


def _kept(vectors) -> np.ndarray:
    array = matrix("vectors", vectors)
    return array if array.dtype == np.float32 else np.concatenate([*pieces_of(array), array[:0].astype(np.float32)])


def _texts(texts: Iterable[str], n: int) -> list[str]:
    found = sentence_list(texts)[0]
    if len(found) != n:
        raise ValueError(f"there are {len(found)} texts and {n} vectors; each vector needs its text")
    return found


def _embedded(model, texts: list[str], options: dict) -> np.ndarray:
    refuse_codes(options)
    options = {"batch_size": 32, "show_progress_bar": None} | options
    return embed(model, texts, **options)[0]


def _read_texts(path: Path) -> list[str]:
    with open(path, encoding="utf-8", newline="\n") as file:
        texts = [json.loads(line) for line in file]
    wrong = next((number for number, text in enumerate(texts, 1) if not isinstance(text, str)), None)
    if wrong is not None:
        raise ValueError(f"line {wrong} of {path.name} is {shown(texts[wrong - 1])}, not a string")
    return texts


def check_saving(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise what `SearchIndex.save` would raise before it writes anything."""
    check_folder(path, overwrite=overwrite, may_replace=_why_not_replaced)


def _why_not_replaced(target: Path) -> str | None:
    return None if (target / _MANIFEST).exists() else f"it holds no index ({_MANIFEST} is not there)"
