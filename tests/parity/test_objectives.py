"""Losses and the optimiser against PyTorch: SimCSE's loss as its code has it, CoSENT, AdamW, clipping, schedule."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from sentpool.objectives import CoSENT, InfoNCE  # noqa: E402
from sentpool.optimizer import AdamW, ParameterRules, learning_rate_at  # noqa: E402
from sentpool.parameter_store import ParameterStore  # noqa: E402

pytestmark = pytest.mark.parity


def simcse_loss(z, temperature, hard_negative_weight):
    """princeton-nlp/SimCSE, simcse/models.py, cl_forward."""
    similarity = torch.nn.CosineSimilarity(dim=-1)
    cosines = similarity(z[0].unsqueeze(1), z[1].unsqueeze(0)) / temperature
    if len(z) == 3:
        negatives = similarity(z[0].unsqueeze(1), z[2].unsqueeze(0)) / temperature
        cosines = torch.cat([cosines, negatives], 1)
        width = negatives.size(-1)
        weights = torch.tensor(
            [
                [0.0] * (cosines.size(-1) - width) + [0.0] * i + [hard_negative_weight] + [0.0] * (width - i - 1)
                for i in range(width)
            ],
            dtype=z.dtype,
        )
        cosines = cosines + weights
    return torch.nn.functional.cross_entropy(cosines, torch.arange(cosines.size(0)))


def assert_agrees(objective, z, loss_of, scores=None):
    x = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    expected = loss_of(x)
    expected.backward()
    loss, gradient = objective(z, scores)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    reference = x.grad.numpy()
    np.testing.assert_allclose(gradient, reference, rtol=0, atol=2e-6 * np.abs(reference).max())


@pytest.mark.parametrize("roles", [2, 3])
@pytest.mark.parametrize("weight", [0.0, 1.0, -0.7])
def test_infonce_is_the_loss_of_simcse(roles, weight):
    z = np.random.default_rng(roles).standard_normal((roles, 64, 96)).astype(np.float32)
    objective = InfoNCE(0.05, hard_negative_weight=weight)
    assert_agrees(objective, z, lambda x: simcse_loss(x, 0.05, weight))


def test_cosent_is_that_of_its_formula():
    rng = np.random.default_rng(3)
    z, scores = rng.standard_normal((2, 40, 96)).astype(np.float32), rng.integers(0, 6, 40) / 5

    def loss_of(x):
        cosines = torch.nn.functional.cosine_similarity(x[0], x[1]) * 20
        labels = torch.tensor(scores)
        # sentence_transformers/losses/CoSENTLoss.py
        differences = cosines[:, None] - cosines[None, :]
        order = (labels[:, None] < labels[None, :]).double()
        differences = differences - (1 - order) * 1e12
        return torch.logsumexp(torch.cat([torch.zeros(1), differences.view(-1)]), dim=0)

    assert_agrees(CoSENT(20), z, loss_of, scores)


@pytest.mark.parametrize("max_norm", [0.7, 1e6])
def test_adamw_with_clipping_and_schedule_is_torchs(max_norm):
    rng = np.random.default_rng(4)
    shapes = {"a.weight": (40, 30), "a.bias": (40,), "LayerNorm.weight": (30,)}
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    store = ParameterStore.of(values)
    parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in values.items()}
    groups = [
        {"params": [parameters["a.weight"]], "weight_decay": 0.1},
        {"params": [parameters["a.bias"], parameters["LayerNorm.weight"]], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=3e-3)
    schedule = transformers.get_linear_schedule_with_warmup(reference, 3, 10)
    optimizer = AdamW({"all": (store, ParameterRules())}, weight_decay=0.1, max_grad_norm=max_norm)
    for t in range(10):
        for name, parameter in parameters.items():
            gradient = rng.standard_normal(shapes[name]).astype(np.float32)
            store.gradient(name)[...] = gradient
            parameter.grad = torch.tensor(gradient)
        expected = torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm).item()
        rate = learning_rate_at(t, learning_rate=3e-3, total_steps=10, warmup_steps=3)
        assert rate == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        assert optimizer.step(rate) == pytest.approx(expected, rel=1e-6)
        reference.step()
        schedule.step()
    for name, parameter in parameters.items():
        moved = np.abs(parameter.detach().numpy() - values[name]).max()
        assert moved > 1e-3
        np.testing.assert_allclose(store.parameter(name), parameter.detach().numpy(), rtol=1e-6, atol=1e-7)
