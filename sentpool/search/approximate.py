"""Approximate search by the indices of other libraries, under the same names: usearch or faiss, where installed."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np

from sentpool import _core
from sentpool.checks import one_of, positive_integer
from sentpool.search.exact import METRICS, Found, check_widths, matrix, query_matrix, rescored, search
from sentpool.threads import resolve

ENGINES = ("usearch", "faiss")


class ApproximateIndex:
    """A graph or other structure of another library over vectors: quicker than comparing all, and may miss some.

    What the library finds is scored anew by `SentenceEncoder.similarity`'s rule, and ordered as `search` orders it, so
    that its results differ from exact ones by what they miss only. How much that is: `recall`.

    The two libraries do not get on in one process: faiss 1.15 crashes after usearch 2.26 was imported.

    Parameters
    ----------
    vectors : array-like, shape (n, d)
        Kept, for the scores. float32 is not copied.
    metric : {"cosine", "dot", "euclidean"}
    engine : {"usearch", "faiss"}
        Extras of that name.
    threads : int, optional
        For building.
    **options
        usearch: arguments of ``usearch.index.Index`` (``connectivity``, ``expansion_add``, ``expansion_search``,
        ``dtype`` …). faiss: ``description``, of ``faiss.index_factory``, by default ``"HNSW32"``.

    Attributes
    ----------
    native
        The library's index, for its own settings.

    Raises
    ------
    ImportError
        The library is not installed.
    TypeError, ValueError
        As `search`.

    Examples
    --------
    >>> index = ApproximateIndex(vectors, engine="usearch")               # doctest: +SKIP
    >>> ids, scores = index.search(queries, k=10)                        # doctest: +SKIP
    >>> index.recall(queries[:100], k=10)                                # doctest: +SKIP
    0.98
    """

    def __init__(self, vectors, metric: str = "cosine", *, engine: str = "usearch", threads=None, **options) -> None:
        one_of("metric", metric, METRICS)
        one_of("engine", engine, ENGINES)
        self.metric, self.engine = metric, engine
        vectors = matrix("vectors", vectors)
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if not np.isfinite(self.vectors).all():
            row = int(np.argmin(np.isfinite(self.vectors).all(axis=1)))
            raise ValueError(f"vectors[{row}] holds NaN or infinity")
        make = {"usearch": _usearch_index, "faiss": _faiss_index}[engine]
        self.native = make(self._prepared(self.vectors), metric, resolve(threads), options)

    def search(self, queries, k: int = 10, *, threads: int | None = None) -> Found:
        """The `k` rows that the library takes for the most similar to each query.

        Parameters, returns and errors as `sentpool.search.search`; where the library finds fewer than `k`, the id is -1
        and the score -inf.
        """
        k, threads = min(positive_integer("k", k), len(self.vectors)), resolve(threads)
        queries, single = query_matrix(queries)
        check_widths(queries, self.vectors.shape[1])
        look_up = {"usearch": _usearch_ids, "faiss": _faiss_ids}[self.engine]
        ids = look_up(self.native, self._prepared(queries), k, threads) if len(queries) else np.empty((0, k), np.int64)
        found = rescored(queries, ids, self.vectors.__getitem__, self.metric, k)
        return Found(found.ids[0], found.scores[0]) if single else found

    def recall(self, queries, k: int = 10, *, threads: int | None = None) -> float:
        """The share of the `k` truly most similar rows that `search` finds, over all queries."""
        queries = query_matrix(queries)[0]
        exact = search(queries, self.vectors, k, self.metric, threads=threads).ids
        found = self.search(queries, k, threads=threads).ids
        hits = [np.isin(truth, ids).mean() for truth, ids in zip(exact, found, strict=True)]
        return float(np.mean(hits)) if hits else 1.0

    def _prepared(self, vectors: np.ndarray) -> np.ndarray:
        return _core.normalize(vectors) if self.metric == "cosine" else vectors


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f"engine={package!r} needs the library: pip install 'sentpool[{package}]'") from error


def _usearch_index(vectors: np.ndarray, metric: str, threads: int, options: dict):
    names = {"cosine": "ip", "dot": "ip", "euclidean": "l2sq"}
    options = {"dtype": "f32"} | options
    index = _library("usearch.index").Index(ndim=vectors.shape[1], metric=names[metric], **options)
    if len(vectors):
        index.add(np.arange(len(vectors)), vectors, threads=threads)
    return index


def _usearch_ids(index, queries: np.ndarray, k: int, threads: int) -> np.ndarray:
    found = index.search(queries, k, threads=threads)
    keys = np.atleast_2d(found.keys)  # of one query, a vector
    counts = getattr(found, "counts", [keys.shape[1]])
    ids = np.full((len(queries), k), -1, np.int64)
    for row, count in enumerate(counts):
        ids[row, :count] = keys[row, :count]
    return ids


def _faiss_index(vectors: np.ndarray, metric: str, threads: int, options: dict):
    faiss = _library("faiss")
    description = options.pop("description", "HNSW32")
    if options:
        raise TypeError(f"{', '.join(options)}: of faiss only description is taken; set others on index.native")
    kind = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(vectors.shape[1], description, kind)
    with _faiss_threads(faiss, threads):
        if not index.is_trained:
            index.train(vectors)
        index.add(vectors)
    return index


def _faiss_ids(index, queries: np.ndarray, k: int, threads: int) -> np.ndarray:
    faiss = _library("faiss")
    with _faiss_threads(faiss, threads):
        return index.search(queries, k)[1].astype(np.int64)


class _faiss_threads:
    """faiss' number of threads is the process's: set for a while, then as before."""

    def __init__(self, faiss: ModuleType, threads: int) -> None:
        self.faiss, self.threads = faiss, threads

    def __enter__(self) -> None:
        self.before = self.faiss.omp_get_max_threads()
        self.faiss.omp_set_num_threads(self.threads)

    def __exit__(self, *_) -> None:
        self.faiss.omp_set_num_threads(self.before)
