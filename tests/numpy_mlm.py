"""Masked language modelling once more, in NumPy and float64: the head, its loss, gradients by their own formulas."""

from __future__ import annotations

import math

import numpy as np

_erf = np.vectorize(math.erf, otypes=[float])


def _gelu(y):
    return y / 2 * (1 + _erf(y / math.sqrt(2)))


def _gelu_slope(y):
    return (1 + _erf(y / math.sqrt(2))) / 2 + y * np.exp(-y * y / 2) / math.sqrt(2 * math.pi)


def mlm(x, labels, p, eps=1e-5):
    """The mean cross-entropy of rows, its gradient by x, and those by parameters.

    `p` has dense (E, H), dense_bias, norm, norm_bias (E,), words (V, E) and bias (V,).
    """
    y = x @ p["dense"].T + p["dense_bias"]
    a = _gelu(y)
    centred = a - a.mean(1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(1, keepdims=True) + eps)
    normed = centred / deviation
    t = normed * p["norm"] + p["norm_bias"]
    logits = t @ p["words"].T + p["bias"]
    rows = np.arange(len(x))
    largest = logits.max(1, keepdims=True)
    sums = np.exp(logits - largest).sum(1, keepdims=True)
    losses = (np.log(sums) + largest)[:, 0] - logits[rows, labels]
    d_logits = np.exp(logits - largest) / sums
    d_logits[rows, labels] -= 1
    d_logits /= len(x)
    d_t = d_logits @ p["words"]
    d_normed = d_t * p["norm"]
    projected = (d_normed * normed).mean(1, keepdims=True) * normed
    d_a = (d_normed - d_normed.mean(1, keepdims=True) - projected) / deviation
    d_y = d_a * _gelu_slope(y)
    gradients = {
        "dense": d_y.T @ x,
        "dense_bias": d_y.sum(0),
        "norm": (d_t * normed).sum(0),
        "norm_bias": d_t.sum(0),
        "words": d_logits.T @ t,
        "bias": d_logits.sum(0),
    }
    return losses.mean(), d_y @ p["dense"], gradients
