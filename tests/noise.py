"""Made-up numbers, the same on every machine and with every NumPy: golden files are made of them."""

from __future__ import annotations

import numpy as np


def noise(seed: int, *shape: int) -> np.ndarray:
    """float32 in [-1, 1), multiples of 2^-23: a multiplicative hash of the index."""
    size = int(np.prod(shape))
    index = np.arange(size, dtype=np.uint64) + np.uint64(seed * 1_000_003)
    for factor in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9):
        index = (index ^ (index >> np.uint64(29))) * np.uint64(factor)
    return (((index >> np.uint64(40)).astype(np.float32) - 2**23) * np.float32(2.0**-23)).reshape(shape)


def noisy_ids(vocab_size: int, count: int) -> np.ndarray:
    """Token ids, int32."""
    return ((noise(999, count) + 1) * (vocab_size / 2)).astype(np.int32)
