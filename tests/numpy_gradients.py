"""Operations of the encoder and their gradients in NumPy and float64, written down from the formulas. The gradients are
held against the operations themselves, by central differences."""

from __future__ import annotations

import math

import numpy as np

_erf = np.vectorize(math.erf, otypes=[float])
_SQRT_2_PI = math.sqrt(2 / math.pi)


def central_differences(f, arrays, weights, step=1e-5):
    """Gradients of sum(weights * f(*arrays)) by each of the arrays."""
    gradients = []
    for array in arrays:
        gradient = np.empty_like(array)
        for place in np.ndindex(array.shape):
            value = array[place]
            array[place] = value + step
            above = (weights * f(*arrays)).sum()
            array[place] = value - step
            gradient[place] = ((weights * f(*arrays)).sum() - above) / (-2 * step)
            array[place] = value
        gradients.append(gradient)
    return gradients


def linear(x, weight, bias):
    return x @ weight.T + bias


def linear_backward(dy, x, weight, _bias):
    return dy @ weight, dy.T @ x, dy.sum(0)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def activation(name, x):
    return {
        "identity": lambda: x,
        "gelu": lambda: x / 2 * (1 + _erf(x / math.sqrt(2))),
        "gelu_tanh": lambda: x / 2 * (1 + np.tanh(_SQRT_2_PI * (x + 0.044715 * x**3))),
        "relu": lambda: np.maximum(x, 0),
        "silu": lambda: x * _sigmoid(x),
        "tanh": lambda: np.tanh(x),
        "sigmoid": lambda: _sigmoid(x),
    }[name]()


def activation_slope(name, x):
    t, s = np.tanh(_SQRT_2_PI * (x + 0.044715 * x**3)), _sigmoid(x)
    return {
        "identity": lambda: np.ones_like(x),
        "gelu": lambda: (1 + _erf(x / math.sqrt(2))) / 2 + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
        "gelu_tanh": lambda: (1 + t) / 2 + x / 2 * (1 - t**2) * _SQRT_2_PI * (1 + 3 * 0.044715 * x**2),
        "relu": lambda: (x > 0).astype(float),
        "silu": lambda: s * (1 + x * (1 - s)),
        "tanh": lambda: 1 - np.tanh(x) ** 2,
        "sigmoid": lambda: s * (1 - s),
    }[name]()


def layernorm(z, gamma, beta, eps):
    centred = z - z.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + eps) * gamma + beta


def layernorm_backward(dy, z, gamma, _beta, eps):
    """Gradients by z, gamma and beta."""
    centred = z - z.mean(1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(1, keepdims=True) + eps)
    normed, g = centred / deviation, dy * gamma
    dz = (g - g.mean(1, keepdims=True) - normed * (g * normed).mean(1, keepdims=True)) / deviation
    return dz, (dy * normed).sum(0), dy.sum(0)


def _softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attention(q, k, v, kept, bias):
    """One head: q, k, v (T, d); bias (T, T) is added to scores, kept (T, T) is 0 for weights that are dropped."""
    return (_softmax(q @ k.T / math.sqrt(q.shape[1]) + bias) * kept) @ v


def attention_backward(dcontext, q, k, v, kept, bias):
    scale = 1 / math.sqrt(q.shape[1])
    weights = _softmax(q @ k.T * scale + bias)
    dweights = dcontext @ v.T * kept
    dscores = weights * (dweights - (weights * dweights).sum(1, keepdims=True)) * scale
    return dscores @ k, dscores.T @ q, (weights * kept).T @ dcontext


def pool(name, h):
    T = len(h)
    weights = np.arange(1, T + 1)[:, None]
    return {
        "cls": lambda: h[0],
        "last_token": lambda: h[-1],
        "mean": lambda: h.mean(0),
        "mean_sqrt_len": lambda: h.sum(0) / math.sqrt(T),
        "weighted_mean": lambda: (weights * h).sum(0) / weights.sum(),
        "max": lambda: h.max(0),
    }[name]()


def pool_backward(name, dy, h):
    T = len(h)
    weights = np.arange(1, T + 1)[:, None]
    rows = np.arange(T)[:, None]
    share = {
        "cls": lambda: rows == 0,
        "last_token": lambda: rows == T - 1,
        "mean": lambda: np.full((T, 1), 1 / T),
        "mean_sqrt_len": lambda: np.full((T, 1), 1 / math.sqrt(T)),
        "weighted_mean": lambda: weights / weights.sum(),
        "max": lambda: rows == h.argmax(0),
    }[name]()
    return share * dy
