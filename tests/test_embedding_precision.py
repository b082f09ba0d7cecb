"""Embeddings in 8 bits or one bit a number: the rule worked by hand, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from fabricate import sentence_transformers_folder

import sentpool
from sentpool import SentenceEncoder, SentpoolWarning, quantize_embeddings

RANGES = np.array([[0, -1, 2], [255, 126.5, 2]], np.float32)


def test_steps_worked_by_hand():
    """255 steps of 1, 255 steps of 1/2, and a dimension that does not vary, whose step is 1."""
    vectors = np.array([[0, -1, 2], [1.5, 62.6, 2.5], [254.9, 126.4, 3], [255, 126.5, 300], [999, -9, -9]], np.float32)
    expected = [[0, 0, 0], [1, 127, 0], [254, 254, 1], [255, 255, 255], [255, 0, 0]]
    found = quantize_embeddings(vectors, "uint8", RANGES)
    assert found.dtype == np.uint8 and found.tolist() == expected
    signed = quantize_embeddings(vectors, "int8", ranges=RANGES.tolist())
    assert signed.dtype == np.int8 and (signed.astype(int) + 128).tolist() == expected
    whole = np.array([[0, -255], [510, 0]])
    assert quantize_embeddings([[511.0, -1.5]], "uint8", whole).tolist() == [[255, 253]]


def test_ranges_are_those_of_the_calibration_or_the_batch():
    rng = np.random.default_rng(0)
    vectors, calibration = rng.normal(size=(200, 5)), rng.normal(size=(300, 5))
    for source, options in ((vectors, {}), (calibration, {"calibration_embeddings": calibration})):
        ranges = np.stack([source.min(axis=0), source.max(axis=0)])
        found = quantize_embeddings(vectors, "int8", **options)
        np.testing.assert_array_equal(found, quantize_embeddings(vectors, "int8", ranges))
        if source is vectors:
            assert found.min() == -128 and found.max() == 127
    with pytest.warns(SentpoolWarning, match="ranges of uint8 are taken from 99 embeddings"):
        quantize_embeddings(vectors[:99], "uint8")


def test_bits_worked_by_hand():
    vectors = np.array([[1, -1, 0, 2, -0.0, 3, 1e-30, -5, 1, 1]], np.float32)
    assert quantize_embeddings(vectors, "ubinary").tolist() == [[0b10010110, 0b11000000]]
    signed = quantize_embeddings(vectors, "binary")
    assert signed.dtype == np.int8 and signed.tolist() == [[0b10010110 - 128, 0b11000000 - 128]]


def test_float32_and_nothing():
    vectors = np.random.default_rng(1).normal(size=(3, 4))
    np.testing.assert_array_equal(quantize_embeddings(vectors, "float32"), vectors.astype(np.float32))
    with pytest.warns(SentpoolWarning):
        assert quantize_embeddings(np.zeros((0, 9), np.float32), "int8").shape == (0, 9)
    assert quantize_embeddings(np.zeros((0, 9), np.float32), "binary").shape == (0, 2)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (([[1.0]], "int4"), ValueError, "precision is 'int4'; it must be 'float32' or 'int8' or"),
        (([[1]], "int8"), TypeError, "embeddings must be floats, not int64"),
        (([1.0], "int8"), ValueError, r"embeddings has shape \(1,\); it must be \(n, d\)"),
        (([[1.0], [np.nan]], "binary"), ValueError, r"embeddings\[1\] holds NaN or infinity"),
        (([[1.0]], "int8", [[1.0]]), ValueError, r"ranges has shape \(1, 1\); it must be \(2, 1\)"),
        (([[1.0]], "int8", [["a"], ["b"]]), TypeError, "ranges must be numbers, not"),
        (([[1.0]], "int8", [[0.0], [np.nan]]), ValueError, r"ranges\[1\] holds NaN or infinity"),
        (([[1.0]], "int8", None, [[1.0, 2.0]]), ValueError, r"ranges has shape \(2, 2\); it must be \(2, 1\)"),
        (([[1.0]], "int8", None, [["a"]]), TypeError, "calibration_embeddings must be floats"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        quantize_embeddings(*arguments)


def test_encode_in_every_precision(tmp_path):
    model = SentenceEncoder(sentence_transformers_folder(tmp_path))
    texts = ["the cat sat", "a dog", "the the"]
    vectors = model.encode(texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SentpoolWarning)
        for precision in ("float32", "int8", "uint8", "binary", "ubinary"):
            found = model.encode(texts, precision=precision)
            expected = quantize_embeddings(vectors, precision)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(
                model.encode(texts[0], precision=precision), quantize_embeddings(vectors[:1], precision)[0]
            )
            assert len(model.encode(texts, precision=precision, convert_to_numpy=False)) == 3
    with pytest.raises(ValueError, match="truncate_dim, pooling and precision do not apply"):
        model.encode(texts, precision="int8", output_value="token_embeddings")
    assert sentpool.quantize_embeddings is quantize_embeddings
