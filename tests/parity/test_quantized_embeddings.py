"""Quantised embeddings against those of sentence-transformers, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

sentence_transformers = pytest.importorskip("sentence_transformers")
reference = pytest.importorskip("sentence_transformers.util.quantization")

from sentpool import SentenceEncoder, quantize_embeddings  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


def assert_equal(a, b):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


# Version 6 rounds ranges to float32 first; before, ranges of float64 were used as they are.
DTYPES = [np.float32] + [np.float64] * (int(sentence_transformers.__version__.split(".")[0]) >= 6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 7, 8, 384])
def test_every_way_to_ranges(precision, dtype, width):
    rng = np.random.default_rng(width)
    vectors, calibration = (rng.normal(size=(n, width)).astype(dtype) for n in (300, 500))
    vectors[:, 0] = vectors[0, 0]  # a dimension that does not vary
    vectors[5] = 0
    ranges = np.vstack((calibration.min(axis=0), calibration.max(axis=0)))
    ways = [{}, {"ranges": ranges}, {"calibration_embeddings": calibration}, {"ranges": ranges.astype(DTYPES[-1])}]
    for options in ways:
        expected = reference.quantize_embeddings(vectors, precision, **options)
        assert_equal(quantize_embeddings(vectors, precision, **options), expected)
    few = reference.quantize_embeddings(vectors[:3], precision)
    assert_equal(quantize_embeddings(vectors[:3], precision), few)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_encode(minilm, precision):
    from sentence_transformers import SentenceTransformer

    sentences = [
        f"Sentence number {i} speaks of {word}." for i, word in enumerate("cats rain stocks eggs".split() * 30)
    ]
    model = SentenceEncoder(minilm)
    found = model.encode(sentences, precision=precision)
    assert_equal(found, reference.quantize_embeddings(model.encode(sentences), precision))
    # Vectors are equal to a few units in the last place, so nearly all quantised numbers are equal.
    theirs = SentenceTransformer(str(minilm), device="cpu").encode(sentences, precision=precision)
    assert found.shape == theirs.shape and found.dtype == theirs.dtype
    assert (np.isclose(found, theirs, atol=1e-5) if precision == "float32" else found == theirs).mean() > 0.999
