"""Parameters that no file holds: where they start, by a seed, with the same bits on every machine."""

from __future__ import annotations

import math
import zlib

import numpy as np

from sentpool import _core, checks

BERT_DEVIATION = 0.02


def fresh_normal(name: str, shape: tuple[int, ...], seed: int, deviation: float = BERT_DEVIATION) -> np.ndarray:
    """A tensor of N(0, deviation**2), as BERT's weights start (Devlin et al. 2019: 0.02).

    Parameters
    ----------
    name
        The tensor's; tensors of other names are independent.
    shape
        Its shape, at most 2**30 - 1 values.
    seed
        From 0 to 2**64 - 1.

    Returns
    -------
    numpy.ndarray
        float32. The numbers are quantiles of draws of Philox4x32-10.

    Raises
    ------
    TypeError, ValueError
        If `seed` is no such integer, or there are too many values.
    """
    seed = checks.seed("seed", seed)
    return _core.fresh_normal(math.prod(shape), deviation, seed, zlib.crc32(name.encode())).reshape(shape)


__all__ = ["BERT_DEVIATION", "fresh_normal"]
