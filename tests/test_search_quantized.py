"""Search over int8 codes and packed bits against brute force in integers, and what rescoring gives back."""

from __future__ import annotations

import numpy as np
import pytest

from sentpool import _core, quantize_embeddings
from sentpool.search import search, search_bits, search_quantized


def best(scores, k):
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)


def assert_found(found, expected):
    np.testing.assert_array_equal(found.scores, expected[1])
    np.testing.assert_array_equal(found.ids, expected[0])


@pytest.mark.parametrize("case", range(40))
def test_int8_corpora_equal_integers(case):
    """Codes are read in place; products of integers are exact."""
    rng = np.random.default_rng(case)
    n, d, m, k = int(rng.integers(1, 900)), int(rng.integers(1, 70)), int(rng.integers(1, 40)), int(rng.integers(1, 30))
    dtype = (np.int8, np.uint8)[case % 2]
    limits = np.iinfo(dtype)
    wide = rng.integers(limits.min, limits.max + 1, (2 * n, d + 3)).astype(dtype)
    corpus = wide[::2, 1 : d + 1]
    queries = rng.integers(limits.min, limits.max + 1, (m, d)).astype(dtype)
    scores = queries.astype(np.int64) @ corpus.astype(np.int64).T
    assert_found(search(queries, corpus, k, "dot", threads=1 + case % 3), best(scores.astype(np.float32), k))
    assert_found(search(queries, np.asfortranarray(corpus), k, "dot"), best(scores.astype(np.float32), k))


@pytest.mark.parametrize("case", range(40))
def test_bits_equal_counting(case, tmp_path):
    rng = np.random.default_rng(case)
    n, b, m, k = int(rng.integers(1, 900)), int(rng.integers(1, 20)), int(rng.integers(1, 40)), int(rng.integers(1, 30))
    corpus, queries = rng.integers(0, 256, (n, b), np.uint8), rng.integers(0, 256, (m, b), np.uint8)
    distances = np.unpackbits(queries[:, None] ^ corpus[None], axis=2).sum(axis=2)
    expected = best(-distances.astype(np.float32), k)
    np.save(tmp_path / "codes.npy", corpus)
    for codes in (corpus, np.load(tmp_path / "codes.npy", mmap_mode="r"), np.repeat(corpus, 2, axis=1)[:, ::2]):
        assert_found(search_bits(queries, codes, k, threads=1 + case % 3), expected)
    signed = search_bits(queries.view(np.int8), corpus.view(np.int8), k)
    assert_found(signed, expected)
    one = search_bits(queries[0], corpus, k)
    assert_found(one, (expected[0][0], expected[1][0]))


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, 64))
    found = (centres[rng.integers(0, 60, 4000)] + 0.7 * rng.normal(size=(4000, 64))).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def recall(found, truth):
    return np.mean([np.isin(a, b).mean() for a, b in zip(truth.ids, found.ids, strict=True)])


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_scores_are_those_of_the_steps_middles(vectors, precision):
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    codes, queries = quantize_embeddings(vectors, precision, ranges), vectors[:50]
    steps = ((ranges[1] - ranges[0]) / np.float32(255)).astype(np.float64)  # those that the codes were made by
    middles = ranges[0] + steps * (codes.astype(np.float64) + (128.5 if precision == "int8" else 0.5))
    assert np.abs(middles - vectors).max() <= 0.51 * steps.max()
    found = search_quantized(queries, codes, 20, precision, ranges=ranges)
    scores = queries.astype(np.float64) @ middles.T
    np.testing.assert_allclose(found.scores, best(scores, 20)[1], atol=1e-6)
    truth = search(queries, vectors, 20, "dot")
    assert recall(found, truth) > 0.97
    rescored = search_quantized(queries, codes, 20, precision, ranges=ranges, vectors=vectors)
    assert recall(rescored, truth) == 1
    assert_found(rescored, (truth.ids, truth.scores))


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_are_rescored(vectors, precision):
    queries, truth = vectors[:50], search(vectors[:50], vectors, 10)
    codes = quantize_embeddings(vectors, precision)
    signs = np.where(vectors > 0, 1, -1) / np.sqrt(64)
    everything = search_quantized(queries, codes, 10, precision, rescore_multiplier=400)
    np.testing.assert_allclose(everything.scores, best(queries @ signs.T, 10)[1], atol=1e-6)
    few = search_quantized(queries, codes, 10, precision, rescore_multiplier=1)
    plain = search_bits(quantize_embeddings(queries, precision), codes, 10)
    assert (np.sort(few.ids) == np.sort(plain.ids)).all()
    by_vectors = search_quantized(queries, codes, 10, precision, vectors=vectors, metric="cosine")
    assert recall(plain, truth) < recall(by_vectors, truth)
    kept = np.isin(by_vectors.ids, truth.ids)
    assert kept.mean() > 0.5
    np.testing.assert_array_equal(
        by_vectors.scores, _core.similarity(queries, vectors)[np.arange(50)[:, None], by_vectors.ids]
    )
    assert search_quantized(queries[0], codes, 3, precision).ids.shape == (3,)
    assert search_quantized(queries[0], codes, 3, precision, rescore_multiplier=2**31 - 1).ids.shape == (3,)


def test_bits_that_do_not_fill_their_byte():
    vectors = np.array([[1, -1, 1], [-1, -1, 1], [-1, 1, -1]], np.float32)
    ids, scores = search_quantized(vectors[0], quantize_embeddings(vectors, "ubinary"), 3, "ubinary")
    assert ids.tolist() == [0, 1, 2]
    np.testing.assert_allclose(scores, [3 / np.sqrt(3), 1 / np.sqrt(3), -3 / np.sqrt(3)], rtol=1e-6)


CODES = np.zeros((4, 2), np.int8)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: search_quantized([[1.0, 2]], CODES), ValueError, "precision is 'int8', which needs ranges"),
        (lambda: search_quantized([[1.0, 2]], CODES, ranges=[[0, 1]]), ValueError, r"ranges has shape \(1, 2\)"),
        (lambda: search_quantized([[1.0]], CODES, ranges=[[0, 1]] * 2), ValueError, "queries have 1 numbers each"),
        (
            lambda: search_quantized([[1.0, 2]], CODES, ranges=[[0, np.inf]] * 2),
            ValueError,
            r"ranges\[0\] holds NaN or",
        ),
        (lambda: search_quantized([[1.0, 2]], CODES, ranges="0, 1"), TypeError, "ranges must be numbers"),
        (lambda: search_quantized([[1.0, 2]], CODES, precision="uint8"), TypeError, "codes must be uint8, not int8"),
        (lambda: search_quantized([[1.0] * 8], CODES, precision="binary"), ValueError, "1 bytes of bits; codes have 2"),
        (lambda: search_quantized([[1.0]], CODES, precision="float32"), ValueError, "precision is 'float32'"),
        (lambda: search_quantized([[np.nan] * 16], CODES, precision="binary"), ValueError, r"queries\[0\] holds NaN"),
        (lambda: search_quantized([[1.0]], CODES, rescore_multiplier=0), ValueError, "rescore_multiplier is 0"),
        (
            lambda: search_quantized([[1.0] * 16], CODES, precision="binary", vectors=np.zeros((3, 16), np.float32)),
            ValueError,
            "there are 3 vectors and 4 codes",
        ),
        (lambda: search_bits(CODES.view(np.uint8), CODES), TypeError, "queries must be int8, not uint8"),
        (lambda: search_bits(CODES, np.zeros((2, 3), np.int8)), ValueError, "queries have 2 numbers each"),
        (lambda: search_bits(CODES, np.zeros((2, 2))), TypeError, "codes must be int8 or uint8, not float64"),
        (lambda: search(np.full((1, 2), 1e37), CODES + 9, 1, "dot"), ValueError, r"corpus\[0\] is so long"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_nothing_to_search():
    assert search_bits(CODES, CODES[:0]).ids.shape == (4, 0)
    assert search_quantized(np.ones((2, 2)), CODES[:0], ranges=[[0, 0], [1, 1]]).ids.shape == (2, 0)
    assert search_bits(CODES[:0], CODES, 3).scores.shape == (0, 3)
    for precision in ("binary", "int8"):
        none = np.empty((0, 2 if precision == "int8" else 16), np.float32)
        assert search_quantized(none, CODES, 3, precision, ranges=[[0, 0], [1, 1]]).ids.shape == (0, 3)
