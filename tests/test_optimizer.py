"""AdamW, its kernel and its groups; schedules; stores of parameters; parameters that start from a seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy_dropout import philox

from sentpool import _core
from sentpool.fresh_parameters import fresh_normal
from sentpool.optimizer import AdamW, ParameterRules, learning_rate_at
from sentpool.parameter_store import ParameterStore

pytestmark = pytest.mark.training

NAMES = {
    "embeddings.word_embeddings.weight": (50, 8),
    "embeddings.LayerNorm.weight": (8,),
    "encoder.layer.0.attention.self.query.weight": (8, 8),
    "encoder.layer.0.attention.self.query.bias": (8,),
    "encoder.layer.1.output.dense.weight": (8, 40),
    "encoder.layer.1.output.LayerNorm.weight": (8,),
}


def store(seed=0, names=NAMES):
    rng = np.random.default_rng(seed)
    made = ParameterStore.of({name: rng.standard_normal(shape).astype(np.float32) for name, shape in names.items()})
    made.gradients[:] = rng.standard_normal(made.gradients.shape)
    return made


def adamw64(parameters, all_gradients, rates, *, betas, eps, decay, max_norm, decayed):
    """Steps of AdamW in float64 from its definition; `parameters` by name."""
    p = {name: value.astype(np.float64) for name, value in parameters.items()}
    m, v = ({name: np.zeros(value.shape) for name, value in p.items()} for _ in range(2))
    for t, (gradients, rate) in enumerate(zip(all_gradients, rates, strict=True), 1):
        norm = math.sqrt(sum((gradients[name].astype(np.float64) ** 2).sum() for name in p))
        for name in p:
            g = gradients[name].astype(np.float64) * min(1, max_norm / (norm + 1e-6))
            m[name] = betas[0] * m[name] + (1 - betas[0]) * g
            v[name] = betas[1] * v[name] + (1 - betas[1]) * g * g
            if name in decayed:
                p[name] *= 1 - rate * decay
            corrected = m[name] / (1 - betas[0] ** t), v[name] / (1 - betas[1] ** t)
            p[name] -= rate * corrected[0] / (np.sqrt(corrected[1]) + eps)
    return p


@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_ten_steps_are_those_of_the_definition(max_norm):
    made, rng = store(), np.random.default_rng(1)
    before = {name: value.copy() for name, value in made.parameters().items()}
    optimizer = AdamW({"encoder": (made, ParameterRules())}, weight_decay=0.1, max_grad_norm=max_norm)
    all_gradients, rates = [], [0.01 * (10 - t) / 10 for t in range(10)]
    for rate in rates:
        made.gradients[:] = rng.standard_normal(made.gradients.shape)
        all_gradients.append({name: made.gradient(name).copy() for name in made.slices})
        norm = optimizer.step(rate)
        assert norm == pytest.approx(np.linalg.norm(made.gradients.astype(np.float64)), rel=1e-12)
    decayed = [name for name in NAMES if name.endswith(("embeddings.weight", "query.weight", "dense.weight"))]
    assert len(decayed) == 3
    options = {"betas": (0.9, 0.999), "eps": 1e-8, "decay": 0.1, "max_norm": max_norm, "decayed": decayed}
    expected = adamw64(before, all_gradients, rates, **options)
    for name, value in made.parameters().items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=2e-6, err_msg=name)
    assert optimizer.step_count == 10


def test_bits_do_not_depend_on_threads():
    names = {"weight": (500, 500), "bias": (3,)}
    results = []
    for threads in (1, 2, 3):
        made = store(2, names)
        optimizer = AdamW({"all": (made, ParameterRules())}, threads=threads, weight_decay=0.1)
        norms = [optimizer.step(0.1) for _ in range(3)]
        results.append((norms, made.masters.tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    ("rules", "trained"),
    [
        (ParameterRules(), [0, 1, 2, 3, 4, 5]),
        (ParameterRules(freeze_embeddings=True), [2, 3, 4, 5]),
        (ParameterRules(freeze_layers=1), [4, 5]),
        (ParameterRules(freeze_layers=2), []),
        (ParameterRules(frozen=True), []),
    ],
    ids=repr,
)
def test_what_is_frozen_stays(rules, trained):
    made, head = store(), store(3, {"weight": (4, 8)})
    before = {name: value.copy() for name, value in made.parameters().items()}
    optimizer = AdamW({"encoder": (made, rules), "pooling": (head, ParameterRules())}, max_grad_norm=None)
    norm = optimizer.step(0.1)
    changed = [i for i, (name, value) in enumerate(before.items()) if not np.array_equal(value, made.parameter(name))]
    assert changed == trained
    gradients = [made.gradient(list(NAMES)[i]).ravel() for i in trained] + [head.gradients]
    assert norm == pytest.approx(np.linalg.norm(np.concatenate(gradients).astype(np.float64)), rel=1e-12)
    assert len(optimizer.moments()["encoder.first"]) == sum(math.prod(list(NAMES.values())[i]) for i in trained)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_step_where_the_norm_is_not_finite(value):
    made = store()
    optimizer = AdamW({"encoder": (made, ParameterRules())})
    optimizer.step(0.1)
    before = made.masters.copy(), {name: array.copy() for name, array in optimizer.moments().items()}
    made.gradient("encoder.layer.0.attention.self.query.bias")[3] = value
    assert not math.isfinite(optimizer.step(0.1))
    assert optimizer.step_count == 1
    np.testing.assert_array_equal(made.masters, before[0])
    for name, array in optimizer.moments().items():
        np.testing.assert_array_equal(array, before[1][name])


def test_what_is_frozen_may_have_any_gradient():
    made, head = store(), store(3, {"weight": (4, 8)})
    made.gradients[:] = np.nan
    optimizer = AdamW({"encoder": (made, ParameterRules(frozen=True)), "pooling": (head, ParameterRules())})
    assert math.isfinite(optimizer.step(0.1)) and np.isfinite(made.masters).all()


def test_restoring_goes_on_with_the_same_bits():
    def run(optimizer, made, steps):
        for t in steps:
            made.gradients[:] = np.random.default_rng(t).standard_normal(made.gradients.shape)
            optimizer.step(0.01)

    whole = store()
    run(AdamW({"encoder": (whole, ParameterRules())}), whole, range(6))
    first = store()
    optimizer = AdamW({"encoder": (first, ParameterRules())})
    run(optimizer, first, range(3))
    second = store()
    second.masters[:] = first.masters
    again = AdamW({"encoder": (second, ParameterRules())})
    again.step(1e-3)
    second.masters[:] = first.masters
    again.restore(optimizer.step_count, {name: array.copy() for name, array in optimizer.moments().items()})
    assert again.step_count == 3
    run(again, second, range(3, 6))
    np.testing.assert_array_equal(second.masters, whole.masters)


def test_moments_of_something_else_are_refused():
    optimizer = AdamW({"encoder": (store(), ParameterRules())})
    optimizer.step(0.1)
    other = AdamW({"encoder": (store(), ParameterRules(freeze_embeddings=True))})
    with pytest.raises(ValueError, match="moments have shapes"):
        optimizer.restore(7, other.moments())
    assert optimizer.step_count == 1 and optimizer.moments()["encoder.first"].any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"betas": (0.9, 1.0)}, ValueError, "betas"),
        ({"eps": 0}, ValueError, "eps is 0"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay is -0.1"),
        ({"weight_decay": math.nan}, ValueError, "weight_decay is nan"),
        ({"max_grad_norm": 0}, ValueError, "max_grad_norm is 0"),
        ({"threads": 0}, ValueError, "threads is 0"),
    ],
)
def test_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        AdamW({"encoder": (store(), ParameterRules())}, **arguments)


def test_rules_are_checked():
    with pytest.raises(ValueError, match="freeze_layers is 3; the model has 2 layers"):
        AdamW({"encoder": (store(), ParameterRules(freeze_layers=3))})
    with pytest.raises(ValueError, match="nothing is trained"):
        AdamW({"encoder": (store(), ParameterRules(frozen=True))})
    for arguments in ({"freeze_layers": -1}, {"frozen": 1}, {"freeze_embeddings": "no"}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            ParameterRules(**arguments)
    with pytest.raises(TypeError, match="freeze_layers"):
        ParameterRules(freeze_layers=1.5)


def test_layers_and_embeddings_of_other_families():
    """Names of DistilBERT and ModernBERT."""
    rules = ParameterRules(freeze_layers=1)
    assert not rules.trains("transformer.layer.0.attention.q_lin.weight") and not rules.trains("layers.0.mlp.Wi.weight")
    assert rules.trains("transformer.layer.10.attention.q_lin.weight") and rules.trains("layers.1.mlp.Wi.weight")
    assert not rules.trains("embeddings_project.weight")
    assert not rules.trains("embeddings.tok_embeddings.weight") and rules.trains("final_norm.weight")
    assert not any(
        map(rules.decays, ("layers.1.attn_norm.weight", "x.sa_layer_norm.weight", "a.LayerNorm.weight", "bias"))
    )
    assert rules.decays("transformer.layer.0.attention.q_lin.weight")


def test_the_core_refuses_arrays_that_do_not_fit():
    p, m = np.zeros(8, np.float32), np.zeros(4, np.float32)
    constants = (1.0,) * 8
    for blocks in ([[0, 5, 0, 1]], [[0, 9, 0, 1]], [[-1, 2, 0, 1]], [[0, 4, 1, 1]], [[4, 2, 0, 1]], [[0, 4, -1, 1]]):
        with pytest.raises(ValueError, match="blocks"):
            _core.adamw(p, m, m.copy(), p.copy(), np.array(blocks), constants)
    with pytest.raises(ValueError, match="equally long"):
        _core.adamw(p, m, p.copy(), p.copy(), np.array([[0, 4, 0, 1]]), constants)
    frozen = p.copy()
    frozen.flags.writeable = False
    for wrong in (p.astype(np.float64), p[::2], p.reshape(2, 4), frozen, [0.0] * 8):
        with pytest.raises(TypeError, match="masters must be a writable float32"):
            _core.adamw(wrong, m, m.copy(), p.copy(), np.array([[0, 4, 0, 1]]), constants)


def test_schedules():
    """transformers' get_linear_schedule_with_warmup, by hand."""
    linear = [learning_rate_at(t, learning_rate=8, total_steps=6, warmup_steps=2) for t in range(8)]
    assert linear == [0, 4, 8, 6, 4, 2, 0, 0]
    constant = [learning_rate_at(t, learning_rate=8, total_steps=6, schedule="constant") for t in range(3)]
    assert constant == [8, 8, 8]
    assert learning_rate_at(1, learning_rate=8, total_steps=6, warmup_steps=4, schedule="constant") == 2
    with pytest.raises(ValueError, match="schedule is 'cosine'"):
        learning_rate_at(0, learning_rate=8, total_steps=6, schedule="cosine")


def test_a_store_of_arrays():
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.float32([7])}
    made = ParameterStore.of(arrays)
    assert made.masters.tolist() == [0, 1, 2, 3, 4, 5, 7] and not made.gradients.any()
    made.parameter("a")[1, 2] = 9
    assert made.masters[5] == 9 and arrays["a"][1, 2] == 5
    made.add_gradients({"b": np.float32([2])})
    made.add_gradients({"b": np.float32([3]), "a": np.ones((2, 3), np.float32)})
    assert made.gradients.tolist() == [1] * 6 + [5] and made.gradient("a").shape == (2, 3)
    made.clear_gradients()
    assert not made.gradients.any()
    with pytest.raises(ValueError, match="masters has shape"):
        ParameterStore(np.zeros(3, np.float32), np.zeros(4, np.float32), {})
    with pytest.raises(ValueError, match=r"slices\['a'\]"):
        ParameterStore(np.zeros(3, np.float32), np.zeros(3, np.float32), {"a": (0, 4, (4,))})


def test_fresh_parameters_are_quantiles_of_philox():
    special = pytest.importorskip("scipy.special")
    import zlib

    values = fresh_normal("some.weight", (70000, 4), seed=5)
    block = np.arange(70000)
    words = philox((zlib.crc32(b"some.weight"), 8 + (block // 2**16) * 16, 0, block % 2**16), 5)
    expected = 0.02 * special.ndtri((words + 0.5) / 2**32)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-12)
    assert abs(values.std() / 0.02 - 1) < 0.01 and abs(values.mean()) < 2e-4


def test_fresh_parameters_by_name_and_seed():
    a = fresh_normal("a", (5, 3), 0)
    assert np.array_equal(a, fresh_normal("a", (5, 3), 0)) and np.array_equal(a.ravel()[:7], fresh_normal("a", (7,), 0))
    assert not np.array_equal(a, fresh_normal("b", (5, 3), 0)) and not np.array_equal(a, fresh_normal("a", (5, 3), 1))
    np.testing.assert_allclose(fresh_normal("a", (5, 3), 0, 1.0), a / 0.02, rtol=1e-6)
    with pytest.raises(ValueError, match="seed is -1"):
        fresh_normal("a", (1,), -1)


def test_exp_and_log_of_float64():
    kernels = pytest.importorskip("sentpool._kernels", reason="build with SENTPOOL_KERNELS=1")
    rng = np.random.default_rng(0)
    for x in [*rng.uniform(-700, 700, 3000), *rng.uniform(-1, 1, 3000), 0.0, -0.0, 1.0, -708.0, 709.7]:
        assert kernels.math64(x)[0] == pytest.approx(math.exp(x), rel=4e-16)
    for x in [*np.exp(rng.uniform(-700, 700, 3000)), *rng.uniform(0.5, 2, 3000), 1.0, 5e-324, 1e308]:
        assert kernels.math64(x)[1] == pytest.approx(math.log(x), rel=4e-16, abs=0)
    assert kernels.math64(-800)[0] == 0 and kernels.math64(800)[0] == math.inf
    assert kernels.math64(-745)[0] == pytest.approx(math.exp(-745), rel=1)
    assert kernels.math64(0)[1] == -math.inf and math.isnan(kernels.math64(-1)[1])
    assert kernels.math64(math.inf) == (math.inf, math.inf) and kernels.math64(-math.inf)[0] == 0
    assert all(map(math.isnan, kernels.math64(math.nan)))


def test_every_allocation_of_the_norm_may_fail():
    made = store()
    optimizer = AdamW({"encoder": (made, ParameterRules())}, threads=1)
    before = made.masters.copy()
    _core.fail_allocation(1)
    try:
        with pytest.raises(MemoryError):
            optimizer.step(0.1)
    finally:
        _core.fail_allocation(0)
    assert optimizer.step_count == 0
    np.testing.assert_array_equal(made.masters, before)
