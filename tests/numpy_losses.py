"""The losses once more, in NumPy and float64, with gradients of their own; central differences to check them."""

from __future__ import annotations

import numpy as np


def _units(z):
    norms = np.linalg.norm(z, axis=-1, keepdims=True)
    return z / norms, norms


def _back(du, u, norms):
    return (du - (du * u).sum(-1, keepdims=True) * u) / norms


def _cross_entropy(logits, targets):
    """Mean cross-entropy of rows, and its gradient."""
    rows = np.arange(len(logits))
    largest = logits.max(1, keepdims=True)
    sums = np.exp(logits - largest).sum(1, keepdims=True)
    loss = (np.log(sums) + largest)[:, 0] - logits[rows, targets]
    gradient = np.exp(logits - largest) / sums
    gradient[rows, targets] -= 1
    return loss.mean(), gradient / len(logits)


def infonce(z, temperature=0.05, alpha=1.0, symmetric=False):
    """Loss and gradient for z (roles, n, d)."""
    u, norms = _units(np.asarray(z, np.float64))
    roles, n, d = u.shape
    candidates = u[1:].reshape(-1, d)
    logits = u[0] @ candidates.T / temperature
    if roles == 3:
        logits[np.arange(n), n + np.arange(n)] += np.log(alpha)
    loss, gradient = _cross_entropy(logits, np.arange(n))
    if symmetric:
        other, other_gradient = _cross_entropy((u[1] @ u[0].T) / temperature, np.arange(n))
        loss, gradient = (loss + other) / 2, gradient / 2
        gradient[:, :n] += other_gradient.T / 2
    gradient = gradient / temperature
    du = np.concatenate([(gradient @ candidates)[None], (gradient.T @ u[0]).reshape(roles - 1, n, d)])
    return loss, _back(du, u, norms)


def cosent(z, scores, scale=20.0):
    """Loss and gradient for z (2, n, d)."""
    u, norms = _units(np.asarray(z, np.float64))
    cosines = scale * (u[0] * u[1]).sum(1)
    ordered = np.asarray(scores)[:, None] < np.asarray(scores)[None, :]
    terms = np.where(ordered, np.exp(np.where(ordered, cosines[:, None] - cosines[None, :], 0)), 0)
    total = 1 + terms.sum()
    gradient = (terms.sum(1) - terms.sum(0)) / total * scale
    return np.log(total), _back(gradient[None, :, None] * u[::-1], u, norms)


def central_differences(function, x, step=1e-6):
    """The gradient of a function of an array, value by value."""
    gradient = np.empty_like(x)
    for place in np.ndindex(x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[place] += sign * step
            ends.append(function(moved))
        gradient[place] = (ends[0] - ends[1]) / (2 * step)
    return gradient
