"""Embeddings in 8 bits or one bit a number, in the ranges and the packing of sentence-transformers."""

from __future__ import annotations

import numpy as np

from sentpool.checks import one_of
from sentpool.errors import shown, warn

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
# As sentence-transformers has it: ranges of fewer vectors are no good estimate.
_FEW = 100


def quantize_embeddings(embeddings, precision: str, ranges=None, calibration_embeddings=None) -> np.ndarray:
    """Embeddings in a lower precision, bit for bit as `sentence_transformers.quantize_embeddings` gives them.

    int8 and uint8: each dimension's range is cut into 255 steps, from which a number's place is counted; int8 is 128
    less. binary and ubinary: one bit a number, set where it is above 0, eight to a byte, the first one highest, the
    last byte filled up with zeros; binary is 128 less.

    Parameters
    ----------
    embeddings : array-like of floats, shape (n, d)
    precision : {"float32", "int8", "uint8", "binary", "ubinary"}
    ranges : array-like, shape (2, d), optional
        The least and the greatest value of each dimension, for int8 and uint8; numbers beyond are cut. Vectors that
        shall be compared need the same ranges.
    calibration_embeddings : array-like, shape (m, d), optional
        Where ranges are taken from if none are given; by default `embeddings` themselves.

    Returns
    -------
    ndarray
        float32, int8 or uint8, (n, d); of bits int8 or uint8, (n, ceil(d / 8)).

    Raises
    ------
    TypeError
        Embeddings are no floats: of integers nothing is left to be quantised.
    ValueError
        An unknown precision, shapes that do not fit, NaN or infinity.

    Warns
    -----
    SentpoolWarning
        Ranges are taken from fewer than 100 embeddings.

    Examples
    --------
    >>> quantize_embeddings([[0.1, -0.2, 0.3], [-0.1, 0.2, 0.5]], "ubinary").tolist()
    [[160], [96]]
    """
    one_of("precision", precision, PRECISIONS)
    embeddings = _finite_rows("embeddings", embeddings)
    if precision == "float32":
        return embeddings.astype(np.float32)
    if precision.endswith("binary"):
        bits = np.packbits(embeddings > 0, axis=1)
        return bits if precision == "ubinary" else (bits ^ 0x80).view(np.int8)
    if ranges is None:
        ranges = _ranges_of(embeddings, calibration_embeddings, precision)
    least, steps = steps_of(ranges, embeddings.shape[1])
    places = np.clip(np.floor((embeddings - least) / steps), 0, 255)
    return places.astype(np.uint8) if precision == "uint8" else (places - 128).astype(np.int8)


def steps_of(ranges, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each dimension's 255 steps begin and how long they are, float32 as in sentence-transformers from version 6
    on; raises for ranges that are none."""
    ranges = _finite_rows("ranges", ranges, "fiu")
    if ranges.shape != (2, width):
        raise ValueError(f"ranges has shape {ranges.shape}; it must be (2, {width}): least, greatest")
    least, greatest = ranges.astype(np.float32)
    steps = (greatest - least) / 255
    return least, np.where(steps == 0, 1, steps)


def _ranges_of(embeddings: np.ndarray, calibration_embeddings, precision: str) -> np.ndarray:
    source = embeddings
    if calibration_embeddings is not None:
        source = _finite_rows("calibration_embeddings", calibration_embeddings)
    elif len(embeddings) < _FEW:
        warn(
            f"the ranges of {precision} are taken from {len(embeddings)} embeddings, which is little to go by: pass "
            "ranges or calibration_embeddings to quantize_embeddings"
        )
    if not len(source):
        return np.zeros((2, embeddings.shape[1]), embeddings.dtype)
    return np.vstack((source.min(axis=0), source.max(axis=0)))


def _finite_rows(name: str, values, kinds: str = "f") -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in kinds:
        raise TypeError(f"{name} must be {'floats' if kinds == 'f' else 'numbers'}, not {array.dtype}: {shown(values)}")
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"{name} has shape {array.shape}; it must be (n, d), one vector per row")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name}[{int(np.argmin(finite))}] holds NaN or infinity")
    return array
