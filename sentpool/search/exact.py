"""Exact search: the k most similar rows of a corpus, over arrays and memory maps of any size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sentpool import _core
from sentpool.checks import one_of, positive_integer
from sentpool.errors import shown
from sentpool.threads import resolve

METRICS = ("cosine", "dot", "euclidean")
# Of float32: how much of a corpus of another type is converted at a time.
_PIECE_BYTES = 64 << 20
# Float32 numbers of candidates that are gathered for rescoring at a time.
_GATHERED = 1 << 22


class Found(NamedTuple):
    """What a search found, best first: rows of the corpus (int64) and their scores (float32), (n, k) or (k,)."""

    ids: np.ndarray
    scores: np.ndarray


def search(queries, corpus, k: int = 10, metric: str = "cosine", *, threads: int | None = None) -> Found:
    """The `k` rows of `corpus` most similar to each query, by comparing all of them.

    Scores are those of `SentenceEncoder.similarity`: computed in float64 in one fixed order, rounded to float32, the
    cosine with a zero vector 0, Euclidean distances negated, so that more is better. Equal scores are ordered by row.
    Neither ids nor scores depend on the number of threads, on the other queries or on the CPU, bit for bit.

    Parameters
    ----------
    queries : array-like, shape (n, d) or (d,)
        Read as float32.
    corpus : array-like, shape (m, d)
        An array or memory map with any strides. float32, int8 and uint8 are read in place and may be larger than
        memory; other types are converted to float32 piece by piece.
    k : int, default 10
        At most as many rows are found as there are.
    metric : {"cosine", "dot", "euclidean"}
    threads : int, optional
        See `sentpool.set_num_threads` for the default.

    Returns
    -------
    Found
        ``ids``, int64, and ``scores``, float32, both (n, min(k, m)); (min(k, m),) for a single query.

    Raises
    ------
    TypeError
        Something that holds no real numbers, or a `k` or `threads` that is no integer.
    ValueError
        Shapes that do not fit, an unknown metric, `k` below 1, a vector with NaN or infinity, or so long that products
        leave the range of float32 (its row is named).

    Notes
    -----
    Memory beyond the vectors: the result, and per thread less than 40 MB for hits and one tile of scores.

    Examples
    --------
    >>> ids, scores = search([[1, 0]], [[0, 1], [2, 2], [3, 0]], k=2)
    >>> ids.tolist(), scores.round(3).tolist()
    ([[2, 1]], [[1.0, 0.7070000171661377]])
    """
    k, threads = positive_integer("k", k), resolve(threads)
    one_of("metric", metric, METRICS)
    queries, single = query_matrix(queries)
    corpus = matrix("corpus", corpus)
    check_widths(queries, corpus.shape[1])
    found = search_pieces(queries, pieces_of(corpus), k, metric, threads)
    return Found(found.ids[0], found.scores[0]) if single else found


def search_pieces(queries: np.ndarray, pieces: Iterable[np.ndarray], k: int, metric: str, threads: int) -> Found:
    """The same over arrays that make up the corpus one after the other.

    Parameters
    ----------
    queries : ndarray, shape (n, d)
    pieces : iterable of ndarray, float32, int8 or uint8, shape (m_i, d)
        Each is read in place, and held no longer than it is searched.
    k, metric, threads
        As in `search`, checked.
    """
    best = Found(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
    first = 0
    for piece in pieces:
        if len(piece):
            found = Found(*_core.search(queries, piece, min(k, len(piece)), metric, threads, first))
            best = found if first == 0 else merged(best, found, k)
            first += len(piece)
    return best


def merged(a: Found, b: Found, k: int) -> Found:
    """The `k` best of two; every id of `b` is above every id of `a`."""
    ids, scores = (np.concatenate(parts, axis=1) for parts in zip(a, b, strict=True))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Found(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1))


def rescored(queries: np.ndarray, ids: np.ndarray, rows_of, metric: str, k: int) -> Found:
    """Candidates scored by `SentenceEncoder.similarity`'s rule, and the best `k` of them.

    Parameters
    ----------
    queries : ndarray, float32, shape (n, d)
    ids : ndarray, int64, shape (n, candidates)
        -1 stands for none; it gets the score -inf.
    rows_of
        Gives the vectors of ids, float32 (m, d).
    metric, k
        As in `search`.
    """
    scores = np.full(ids.shape, -np.inf, np.float32)
    step = max(1, _GATHERED // max(1, ids.shape[1] * queries.shape[1]))
    for start in range(0, len(ids), step):
        rows, columns = np.nonzero(ids[start : start + step] >= 0)
        rows += start
        scores[rows, columns] = _core.similarity_pairwise(queries[rows], rows_of(ids[rows, columns]), metric)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return Found(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1))


def pieces_of(corpus: np.ndarray) -> Iterable[np.ndarray]:
    """A matrix as arrays that the core reads in place: itself where it can, else float32 copies of some rows each."""
    strides_fit = not any(stride % 4 for stride in corpus.strides)
    if corpus.dtype == np.float32 and corpus.flags.aligned and strides_fit:
        return (corpus,)
    if corpus.dtype in (np.int8, np.uint8) and corpus.strides[1] == 1:
        return (corpus,)
    rows = max(1, _PIECE_BYTES // (4 * max(1, corpus.shape[1])))
    return (_as_float32(corpus[start : start + rows]) for start in range(0, len(corpus), rows))


def _as_float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinity then, which the search refuses with its row
        return np.require(array, np.float32, ["C", "A"])


def query_matrix(queries) -> tuple[np.ndarray, bool]:
    """Queries as a float32 matrix, and whether there was a single one."""
    array = np.asarray(queries)
    single = array.ndim == 1 and array.size > 0
    return _as_float32(matrix("queries", array[None] if single else array)), single


def matrix(name: str, vectors) -> np.ndarray:
    """A matrix of real numbers, not copied if it is an array.

    Raises
    ------
    TypeError, ValueError
        Names the argument.
    """
    array = vectors if isinstance(vectors, np.ndarray) else np.asarray(vectors)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, not {array.dtype}: {shown(vectors)}")
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"{name} has shape {array.shape}; it must be (n, d), one vector per row")
    return array


def check_widths(queries: np.ndarray, width: int) -> None:
    """Raise ValueError unless the queries have the corpus' width."""
    if queries.shape[1] != width:
        raise ValueError(f"queries have {queries.shape[1]} numbers each, the corpus has {width}; they must be equal")
