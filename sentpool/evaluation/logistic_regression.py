"""Logistic regressions on one set of vectors, many at a time: L-BFGS in float64, one matrix product for all of them.

Cross-validation over a grid is hundreds of regressions that differ in which rows they see and how much they are
regularised. Each is a coroutine that asks for the objective at a point; the points of many are one matrix.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from sentpool.errors import warn

# Of one matrix product: enough columns to be worth one, few enough logits to stay small.
_COLUMNS, _LOGITS = 256, 1 << 22
_MEMORY = 10
_MOST_ITERATIONS = 1000
_TOLERANCE = 1e-6


def fit(vectors: np.ndarray, classes: np.ndarray, masks: np.ndarray, strengths: np.ndarray, bar=None) -> np.ndarray:
    """The logistic regressions of the rows that each mask lets through.

    Minimised is ½‖W‖² + C Σ loss, where the sum is over the rows and the biases are free, as scikit-learn's
    ``LogisticRegression`` does: with two classes one weight vector and the logistic loss, else one per class and the
    cross-entropy of the softmax.

    Parameters
    ----------
    vectors : ndarray, float64, shape (n, d)
    classes : ndarray, int64, shape (n,)
        0 … K − 1.
    masks : ndarray, bool, shape (problems, n)
        Rows that a problem sees; every class must be among them.
    strengths : ndarray, float64, shape (problems,)
        C, the inverse of the regularisation.
    bar : tqdm, optional
        Advanced by every problem solved.

    Returns
    -------
    ndarray, float64, shape (problems, K or 1, d + 1)
        Weights and, last, bias; a single row where there are two classes.

    Warns
    -----
    SentpoolWarning
        A problem did not converge within 1,000 iterations.
    """
    count = int(classes.max()) + 1
    targets = np.eye(count)[classes][:, 1:] if count == 2 else np.eye(count)[classes]
    # About their mean: the free bias makes up for it, and the problem is better conditioned.
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    variance = np.square(centred).mean(axis=0)
    step = max(1, min(_COLUMNS, _LOGITS // len(vectors)) // targets.shape[1])
    solved = [
        _Block(centred, variance, targets, masks[start : start + step], strengths[start : start + step], bar).solve()
        for start in range(0, len(masks), step)
    ]
    weights = np.concatenate(solved)
    weights[..., -1] -= weights[..., :-1] @ mean
    return weights


def predict(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The class of each vector, int64 (n,), by the weights (K or 1, d + 1) of one problem."""
    logits = vectors @ weights[:, :-1].T + weights[:, -1]
    return (logits[:, 0] > 0).astype(np.int64) if logits.shape[1] == 1 else logits.argmax(axis=1)


class _Block:
    """Problems that are solved side by side."""

    def __init__(self, vectors, variance, targets, masks, strengths, bar) -> None:
        self.vectors, self.targets, self.bar = vectors, targets, bar
        self.rows = masks.sum(axis=1)
        self.shares = masks / self.rows[:, None]  # of each row in the mean loss
        self.penalty = 1 / (strengths * self.rows)
        # Variables scaled by about the root of the Hessian's diagonal; the bias has the variance of a constant 1.
        diagonal = np.concatenate([variance, [1.0]]) / 4
        self.scale = np.sqrt(diagonal + self.penalty[:, None])[:, None, :]

    def solve(self) -> np.ndarray:
        shape = (len(self.rows), self.targets.shape[1], self.vectors.shape[1] + 1)
        found = np.zeros(shape)
        solvers = {k: _minimum(np.zeros(shape[1] * shape[2])) for k in range(shape[0])}
        asked = {k: next(solver) for k, solver in solvers.items()}
        unfinished = 0
        while asked:
            problems = list(asked)
            points = np.stack([asked[k] for k in problems]).reshape(-1, *shape[1:])
            values, gradients = self._objective(points, problems)
            for k, value, gradient in zip(problems, values, gradients, strict=True):
                try:
                    asked[k] = solvers[k].send((value, gradient.ravel()))
                except StopIteration as stop:
                    point, converged = stop.value
                    found[k] = point.reshape(shape[1:]) / self.scale[k]
                    unfinished += not converged
                    del asked[k]
                    if self.bar is not None:
                        self.bar.update(1)
        if unfinished:
            warn(
                f"{unfinished} of {len(self.rows)} logistic regressions did not converge in {_MOST_ITERATIONS} "
                "iterations: their accuracy may be a little low; scaling the vectors (normalize_embeddings=True) helps"
            )
        return found

    def _objective(self, points: np.ndarray, problems: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """The mean loss plus penalty, and its gradient, of each problem at its point."""
        scale, penalty, shares = self.scale[problems], self.penalty[problems], self.shares[problems]
        weights = points / scale
        logits = self.vectors @ weights[..., :-1].reshape(-1, weights.shape[2] - 1).T
        logits = logits.reshape(len(logits), *weights.shape[:2]) + weights[..., -1]
        targets = self.targets[:, None, :]
        if weights.shape[1] == 1:
            with np.errstate(over="ignore"):
                probabilities = 1 / (1 + np.exp(-logits))
            losses = (np.logaddexp(0, logits) - targets * logits)[..., 0]
        else:
            logits -= logits.max(axis=2, keepdims=True)
            probabilities = np.exp(logits)
            sums = probabilities.sum(axis=2, keepdims=True)
            losses = np.log(sums[..., 0]) - (targets * logits).sum(axis=2)
            probabilities /= sums
        free = weights[..., :-1]
        values = np.einsum("np,pn->p", losses, shares) + penalty / 2 * np.square(free).sum(axis=(1, 2))
        residuals = (probabilities - targets) * shares.T[..., None]
        gradients = np.empty_like(weights)
        flat = residuals.reshape(len(residuals), -1)
        gradients[..., :-1] = (flat.T @ self.vectors).reshape(free.shape) + penalty[:, None, None] * free
        gradients[..., -1] = residuals.sum(axis=0)
        return values, gradients / scale


def _minimum(x: np.ndarray) -> Generator[np.ndarray, tuple[float, np.ndarray], tuple[np.ndarray, bool]]:
    """L-BFGS (Nocedal 1980) of a smooth convex function: yields points, is sent (value, gradient) there.

    The line search is the bisection of Lewis & Overton (2013) for the weak Wolfe conditions. Returns the last point,
    and whether the gradient became small there.
    """
    value, gradient = yield x
    steps: list[tuple[np.ndarray, np.ndarray, float]] = []
    for _ in range(_MOST_ITERATIONS):
        if np.abs(gradient).max() <= _TOLERANCE:
            return x, True
        direction = -_inverse_hessian_times(steps, gradient)
        slope = direction @ gradient
        low, high, t = 0.0, np.inf, 1.0
        for _ in range(60):
            candidate = x + t * direction
            new_value, new_gradient = yield candidate
            if not new_value <= value + 1e-4 * t * slope:
                high = t
            elif new_gradient @ direction < 0.9 * slope:
                low = t
            else:
                break
            t = 2 * low if high == np.inf else (low + high) / 2
        if not new_value < value:  # rounding: there is nothing lower to be found
            return x, bool(np.abs(gradient).max() <= 1e3 * _TOLERANCE)
        change, bend = candidate - x, new_gradient - gradient
        if change @ bend > 0:
            steps = [*steps[1 - _MEMORY :], (change, bend, 1 / (change @ bend))]
        x, value, gradient = candidate, new_value, new_gradient
    return x, False


def _inverse_hessian_times(steps: list[tuple[np.ndarray, np.ndarray, float]], gradient: np.ndarray) -> np.ndarray:
    """The two loops over the steps that are remembered, each (change of x, of the gradient, 1 / their product)."""
    product, shares = gradient.copy(), []
    for change, bend, inverse in reversed(steps):
        share = inverse * (change @ product)
        product -= share * bend
        shares.append(share)
    if steps:
        change, bend, _ = steps[-1]
        product *= (change @ bend) / (bend @ bend)
    for (change, bend, inverse), share in zip(steps, reversed(shares), strict=True):
        product += (share - inverse * (bend @ product)) * change
    return product
