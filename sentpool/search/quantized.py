"""Search over quantised embeddings: a quarter or a thirty-second of the memory, rescored by what is known better."""

from __future__ import annotations

import numpy as np

from sentpool import _core
from sentpool.checks import one_of, positive_integer
from sentpool.embedding_precision import quantize_embeddings, steps_of
from sentpool.errors import shown
from sentpool.search.exact import METRICS, Found, check_widths, matrix, query_matrix, rescored, search
from sentpool.threads import resolve

PRECISIONS = ("int8", "uint8", "binary", "ubinary")


def search_quantized(
    queries,
    codes,
    k: int = 10,
    precision: str = "int8",
    *,
    ranges=None,
    vectors=None,
    metric: str = "dot",
    rescore_multiplier: int = 4,
    threads: int | None = None,
) -> Found:
    """The `k` rows of quantised embeddings most similar to queries in float32.

    int8 and uint8: the score is the dot product of the query, unquantised, with the middles of the steps that the codes
    stand for, so that the query loses nothing. binary and ubinary: the `k` × `rescore_multiplier` rows that differ
    from the query in the fewest bits are scored by the dot product with bits taken for 1 and -1, over the root of
    their number. With `vectors`, the embeddings that were quantised, `k` × `rescore_multiplier` candidates are scored
    by these, as `search` does.

    Parameters
    ----------
    queries : array-like, shape (n, d) or (d,)
    codes : ndarray, shape (m, d), or (m, ceil(d / 8)) of bits
        What `sentpool.quantize_embeddings` or ``encode(precision=)`` gave, in memory or mapped.
    k : int, default 10
    precision : {"int8", "uint8", "binary", "ubinary"}
    ranges : array-like, shape (2, d)
        Those by which int8 and uint8 were quantised.
    vectors : array-like, shape (m, d), optional
        Only the candidates' rows are read: a memory map will do.
    metric : {"cosine", "dot", "euclidean"}
        Of the scores by `vectors`.
    rescore_multiplier : int, default 4
    threads : int, optional

    Returns
    -------
    Found
        As of `search`, best first.

    Raises
    ------
    TypeError, ValueError
        Codes that are not of that precision, missing ranges, and as `search`.

    Examples
    --------
    >>> codes = quantize_embeddings(vectors, "int8", ranges)                             # doctest: +SKIP
    >>> ids, scores = search_quantized(queries, codes, 10, "int8", ranges=ranges)        # doctest: +SKIP
    """
    k, rescore_multiplier = positive_integer("k", k), positive_integer("rescore_multiplier", rescore_multiplier)
    one_of("precision", precision, PRECISIONS)
    one_of("metric", metric, METRICS)
    queries, single = query_matrix(queries)
    codes = _codes("codes", codes, np.int8 if precision in ("int8", "binary") else np.uint8)
    wanted = k if vectors is None and precision.endswith("int8") else min(k * rescore_multiplier, len(codes) or 1)
    if precision.endswith("int8"):
        found = _by_steps(queries, codes, wanted, precision, ranges, threads)
    else:
        found = _by_bits(queries, codes, wanted, precision, threads)
    if vectors is not None:
        vectors = matrix("vectors", vectors)
        if len(vectors) != len(codes):
            raise ValueError(f"there are {len(vectors)} vectors and {len(codes)} codes; each code needs its vector")
        check_widths(queries, vectors.shape[1])
        found = rescored(queries, found.ids, lambda ids: vectors[ids].astype(np.float32), metric, k)
    elif not precision.endswith("int8"):
        width = queries.shape[1]
        found = rescored(queries, found.ids, lambda ids: _signs(codes[ids], width), "dot", k)
    return Found(found.ids[0], found.scores[0]) if single else found


def search_bits(queries, codes, k: int = 10, *, threads: int | None = None) -> Found:
    """The `k` rows of packed bits that differ from each query in the fewest bits.

    Parameters
    ----------
    queries : ndarray, int8 or uint8, shape (n, b) or (b,)
        Of the precision of `codes`, "binary" (int8) or "ubinary" (uint8).
    codes : ndarray, int8 or uint8, shape (m, b)
        An array or memory map.
    k : int, default 10
    threads : int, optional

    Returns
    -------
    Found
        Scores are Hamming distances, negated; equal ones by row.

    Raises
    ------
    TypeError, ValueError
        Names the argument, its value and what is allowed.
    """
    k = positive_integer("k", k)
    codes = _codes("codes", codes)
    queries = np.asarray(queries)
    single = queries.ndim == 1
    queries = _codes("queries", queries[None] if single else queries, codes.dtype)
    check_widths(queries, codes.shape[1])
    k = min(k, len(codes))
    if not k or not len(queries):
        found = Found(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32))
    else:
        bits = np.ascontiguousarray(queries).view(np.uint8)
        found = Found(*_core.search_bits(bits, codes.view(np.uint8), k, resolve(threads)))
    return Found(found.ids[0], found.scores[0]) if single else found


def _by_steps(queries: np.ndarray, codes: np.ndarray, k: int, precision: str, ranges, threads) -> Found:
    """Scores q · (least + step (code + 1/2)) = (q step) · code + a number of the query alone."""
    check_widths(queries, codes.shape[1])
    if ranges is None:
        raise ValueError(f"precision is {precision!r}, which needs ranges: those that quantize_embeddings was given")
    least, steps = (part.astype(np.float64) for part in steps_of(ranges, codes.shape[1]))
    middle = least + steps * (128.5 if precision == "int8" else 0.5)
    scaled = (queries * steps).astype(np.float32)
    found = search(scaled, codes, k, "dot", threads=threads)
    shift = queries.astype(np.float64) @ middle
    return Found(found.ids, (found.scores + shift[:, None]).astype(np.float32))


def _by_bits(queries: np.ndarray, codes: np.ndarray, k: int, precision: str, threads) -> Found:
    finite = np.isfinite(queries).all(axis=1)
    if not finite.all():
        raise ValueError(f"queries[{int(np.argmin(finite))}] holds NaN or infinity")
    bits = quantize_embeddings(queries, precision)
    if bits.shape[1] != codes.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} numbers, {bits.shape[1]} bytes of bits; codes have {codes.shape[1]} bytes"
        )
    return search_bits(bits, codes, k, threads=threads)


def _signs(codes: np.ndarray, width: int) -> np.ndarray:
    """Packed bits as 1 and -1 over the root of their number, so that rows have length 1."""
    packed = codes if codes.dtype == np.uint8 else codes.view(np.uint8) ^ 0x80
    bits = np.unpackbits(packed, axis=1)[:, :width]
    return ((2 * bits.astype(np.float32)) - 1) / np.float32(np.sqrt(width))


def _codes(name: str, codes, dtype=None) -> np.ndarray:
    array = codes if isinstance(codes, np.ndarray) else np.asarray(codes)
    allowed = (np.int8, np.uint8) if dtype is None else (dtype,)
    if array.dtype not in allowed:
        names = " or ".join(np.dtype(one).name for one in allowed)
        raise TypeError(f"{name} must be {names}, not {array.dtype}: {shown(codes)}")
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"{name} has shape {array.shape}; it must be (n, d), one vector per row")
    return array if array.strides[1] == 1 else np.ascontiguousarray(array)
