"""Regressions against scikit-learn's, which SentEval uses."""

from __future__ import annotations

import numpy as np
import pytest

from sentpool.evaluation.logistic_regression import fit, predict

linear_model = pytest.importorskip("sklearn.linear_model")

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("count", [2, 4])
def test_weights_are_those_of_scikit_learn(count):
    rng = np.random.default_rng(0)
    classes = np.arange(300) % count
    x = rng.normal(size=(count, 16))[classes] + rng.normal(0, 1.5, (300, 16)) + 2
    masks = rng.random((3, 300)) < 0.8
    for weights, mask, strength in zip(
        fit(x, classes, masks, np.array([0.25, 1, 8.0])), masks, (0.25, 1, 8), strict=True
    ):
        model = linear_model.LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(x[mask], classes[mask])
        assert weights[:, :-1] == pytest.approx(model.coef_, abs=1e-3)
        assert np.array_equal(predict(x, weights), model.predict(x))
