"""The gradient of every trainable pooling: float64 twins against central differences, the core against the twins."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy_poolings as twin
import pytest
from fabricate import bert_folder
from numpy_gradients import central_differences
from test_bits import environments

from sentpool import LayerStates, SentenceEncoder, _core
from sentpool.pooling import (
    AllButTheTop,
    Dense,
    LayerAttention,
    Layers,
    Normalize,
    Pooling,
    ScalarMix,
    Truncate,
    WeightedLayer,
    Whitening,
    initial,
)

pytestmark = pytest.mark.training

DRAWS = (0x0123456789ABCDEF, 7, 2**32 - 60)
# Edges of vectors, panels and blocks of 256 first, then what a generator draws.
WIDTHS = (1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 64, 100, 257, 300)
LAYERS = (1, 2, 3, 7, 13)
SENTENCES = (1, 2, 3, 4, 5, 16, 17, 21, 33)


def shapes(*choices, count=50, seed=0):
    """`count` tuples of sizes, one out of each of `choices`."""
    rng = np.random.default_rng(seed)
    return [tuple(int(rng.choice(sizes)) for sizes in choices) for _ in range(count)]


def normal(*shape, seed=0):
    """Numbers that float32 holds, as float64."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32).astype(float)


def require_close(found, exact, tolerance=1e-4):
    """Each within `tolerance` of its twin's largest entry."""
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == np.float32 and ours.shape == theirs.shape
        assert np.abs(ours - theirs).max(initial=0) <= tolerance * max(np.abs(theirs).max(initial=0), 1e-30)


# ---- the twins against central differences -------------------------------------------------------------------------


def agree(f, backward, arrays, *fixed):
    dy = normal(*f(*arrays, *fixed).shape, seed=9)
    exact = central_differences(lambda *a: f(*a, *fixed), arrays, dy)
    for found, expected in zip(backward(dy, *arrays, *fixed), exact, strict=True):
        assert np.abs(found - expected).max() < 1e-6 * max(1, np.abs(expected).max())


def test_twins_of_mixes():
    states = normal(3, 4, 2, 5)
    agree(twin.scalar_mix, twin.scalar_mix_backward, [states, normal(4), np.array([1.3])])
    agree(twin.weighted_layer, twin.weighted_layer_backward, [states, 1 + normal(4) ** 2])


@pytest.mark.parametrize("name", ["identity", "tanh", "gelu", "relu", "sigmoid"])
def test_twin_of_dense(name):
    agree(twin.dense, twin.dense_backward, [normal(4, 5), normal(3, 5), normal(3)], name)


def test_twin_of_normalize():
    agree(twin.normalize, twin.normalize_backward, [normal(4, 5)])


@pytest.mark.parametrize("slopes", [twin.fixed_slopes, lambda shape: twin.drawn_slopes(shape, *DRAWS)])
def test_twin_of_layer_attention(slopes):
    arrays = [normal(2, 3, 2, 6), *(normal(6, 6, seed=s) for s in range(3))]
    agree(twin.layer_attention, twin.layer_attention_backward, arrays, slopes((2, 3, 6)))


# ---- the core against the twins ------------------------------------------------------------------------------------


def test_mixes():
    for n, k, P, H in shapes(SENTENCES, LAYERS, (1, 2, 3), WIDTHS):
        states, weights = normal(n, k, P, H), normal(k)
        dy, tokens = normal(n, P * H), ("cls", "mean", "last_token")[:P]
        for chosen, function, parameters in (
            (ScalarMix(weights, gamma=1.3, tokens=tokens), "scalar_mix", (weights, np.float32([1.3]).astype(float))),
            (WeightedLayer(weights**2 + 0.1, 0, tokens), "weighted_layer", ((weights**2 + 0.1),)),
        ):
            chosen = Pooling(chosen)
            embeddings, cache = chosen.forward_with_cache(states.astype(np.float32))
            require_close([embeddings], [getattr(twin, function)(states, *parameters)])
            d_states, d_parameters = chosen.backward(dy.astype(np.float32), cache)
            assert list(d_parameters) == list(chosen.trainable_parameters())
            exact = getattr(twin, f"{function}_backward")(dy, states, *parameters)
            # one layer alone has softmax 1 and quotient 1 whatever its weight: nothing but rounding is left
            if k > 1:
                require_close([d_states, *d_parameters.values()], exact)


def test_averages():
    for n, k, P, H in shapes(SENTENCES, LAYERS, (1, 2), WIDTHS, seed=1):
        states, dy = normal(n, k, P, H), normal(n, P * H)
        chosen = Pooling(Layers("all", ("cls", "mean")[:P]))
        d_states, d_parameters = chosen.backward(*with_cache(chosen, dy, states))
        assert d_parameters == {}
        require_close([d_states], [twin.mix_backward(dy, states, np.full(k, 1 / k))[0]])


def with_cache(chosen, dy, states, training=None):
    return dy.astype(np.float32), chosen.forward_with_cache(states.astype(np.float32), training=training)[1]


@pytest.mark.parametrize("name", ["identity", "tanh", "gelu", "relu", "sigmoid"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_dense(name, with_bias):
    for n, out, width in shapes((*SENTENCES, 256, 257), WIDTHS, WIDTHS, count=25, seed=2):
        x, dy, weight = normal(n, width), normal(n, out, seed=9), normal(out, width) / np.sqrt(width)
        bias = normal(out) * with_bias
        module = Dense(weight, bias if with_bias else None, name)
        weight, bias = module.weight.astype(float), bias.astype(np.float32).astype(float)
        y, cache = module.forward_with_cache(x.astype(np.float32))
        np.testing.assert_array_equal(y, module(x.astype(np.float32)))
        d_x, gradients = module.backward(dy.astype(np.float32), cache)
        assert list(gradients) == list(module.parameters())
        exact = twin.dense_backward(dy, x, weight, bias, name)
        require_close([d_x, *gradients.values()], exact[: 2 + with_bias])


def test_normalize():
    for n, d in shapes(SENTENCES, WIDTHS, seed=3):
        x, dy = normal(n, d), normal(n, d, seed=9)
        y, cache = Normalize().forward_with_cache(x.astype(np.float32))
        found, none = Normalize().backward(dy.astype(np.float32), cache)
        assert none == {}
        require_close([y], [twin.normalize(x)])
        # of a single number nothing is left but rounding
        if d > 1:
            require_close([found], twin.normalize_backward(dy, x))


def test_a_zero_vector_is_divided_by_a_constant():
    """As in PyTorch's `normalize`, whose floor of the norm has gradient 0."""
    found, _ = Normalize().backward(np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32))
    np.testing.assert_allclose(found, 1e12, rtol=1e-6)


@pytest.mark.parametrize("make", [lambda X: Truncate(3), Whitening(4).fit, AllButTheTop(2).fit])
def test_steps_without_trained_parameters(make):
    module = make(normal(60, 7))
    x, dy = normal(5, 7, seed=2), normal(5, module.dimension(7), seed=3)
    found, gradients = module.backward(*with_cache_of(module, dy, x))
    assert gradients == {}
    # linear, so differences are exact but for rounding
    exact = central_differences(lambda x: module(x.astype(np.float32)).astype(float), [x], dy, step=0.5)
    require_close([found], exact, 1e-5)
    assert Pooling("mean", head=(module,)).trainable_parameters() == {}


def with_cache_of(module, dy, x):
    return dy.astype(np.float32), module.forward_with_cache(x.astype(np.float32))[1]


def attention_case(n, layers, hidden):
    return normal(n, layers, 2, hidden), [normal(hidden, hidden, seed=s) / np.sqrt(hidden) for s in (1, 2, 3)]


@pytest.mark.parametrize("training", [None, DRAWS])
def test_layer_attention(training):
    for n, layers, hidden in shapes(SENTENCES, LAYERS, WIDTHS, seed=4):
        if n * layers**2 * hidden > 500_000:  # too long for the twin
            n = 3
        states, weights = attention_case(n, layers, hidden)
        dy = normal(n, 2 * hidden, seed=5)
        chosen = Pooling(LayerAttention(*weights))
        weights = [matrix.astype(float) for matrix in chosen.parameters().values()]
        shape = (n, layers, hidden)
        slopes = twin.drawn_slopes(shape, *training) if training else twin.fixed_slopes(shape)
        embeddings, cache = chosen.forward_with_cache(states.astype(np.float32), training=training, threads=2)
        require_close([embeddings], [twin.layer_attention(states, *weights, slopes)], 1e-5)
        if training is None:
            np.testing.assert_array_equal(embeddings, chosen.forward(states.astype(np.float32)))
        d_states, d_parameters = chosen.backward(dy.astype(np.float32), cache, threads=2)
        assert list(d_parameters) == ["layers.query", "layers.key", "layers.value"]
        exact = twin.layer_attention_backward(dy, states, *weights, slopes)
        if layers == 1:  # one layer has weight 1, whatever query and key
            exact = (exact[0], 0 * exact[1], 0 * exact[2], exact[3])
        require_close([d_states, *d_parameters.values()], exact)


# ---- RReLU's slopes ------------------------------------------------------------------------------------------------


def test_drawn_slopes_are_uniform_between_an_eighth_and_a_third():
    slopes = twin.drawn_slopes((3, 13, 200), *DRAWS)
    for values in slopes.values():
        assert values.min() >= 1 / 8 and values.max() < 1 / 3
        assert values.mean() == pytest.approx(11 / 48, abs=4 * (5 / 24) / np.sqrt(12 * values.size))
        quarters = np.histogram(values, np.linspace(1 / 8, 1 / 3, 5))[0] / values.size
        assert np.abs(quarters - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / values.size)
    keys, values = slopes["key"], slopes["value"]
    assert abs(np.corrcoef(keys.ravel(), values.ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(keys[:, 0].ravel(), keys[:, 1].ravel())[0, 1]) < 0.05  # afresh for every source


def test_draws_follow_seed_step_and_row():
    """The same seed, step and row give the same embedding in any batch; another of either gives another one."""
    states, weights = attention_case(6, 4, 20)
    states, chosen = states.astype(np.float32), Pooling(LayerAttention(*weights))

    def embeddings(rows, *draws):
        return chosen.forward_with_cache(states[rows], training=draws)[0]

    whole = embeddings(slice(None), 5, 1, 10)
    np.testing.assert_array_equal(embeddings(slice(2, 4), 5, 1, 12), whole[2:4])
    for other in ((6, 1, 10), (5, 2, 10), (5, 1, 11)):
        assert (embeddings(slice(None), *other) != whole)[:, 20:].any(axis=1).all()


# ---- bits ----------------------------------------------------------------------------------------------------------


def all_gradients(threads: int, sentences: slice = slice(None)) -> list[np.ndarray]:
    """Of a pooling of every kind: embeddings, gradients of states, and of parameters."""
    n, layers, hidden = 23, 5, 40
    states, weights = attention_case(n, layers, hidden)
    states = states.astype(np.float32)
    head = (Dense(normal(30, 80) / 9, normal(30), "tanh"), Dense(normal(30, 30) / 5, None, "gelu"), Normalize())
    found = []
    for part in (
        LayerAttention(*weights),
        ScalarMix(normal(layers), 1.3, ("cls", "mean")),
        WeightedLayer(normal(layers) ** 2, 0, ("cls", "mean")),
    ):
        chosen = Pooling(part, head=head)
        training = (11, 3, 100 + (sentences.start or 0))
        embeddings, cache = chosen.forward_with_cache(states[sentences], training=training, threads=threads)
        dy = normal(n, 30, seed=8).astype(np.float32)[sentences]
        d_states, d_parameters = chosen.backward(dy, cache, threads)
        found += [embeddings, d_states, *d_parameters.values()]
    return found


def digest(threads: int) -> str:
    found = hashlib.sha256()
    for array in all_gradients(threads):
        found.update(array.tobytes())
    return found.hexdigest()


@pytest.mark.every_way
@pytest.mark.bits
@pytest.mark.parametrize("way", [*environments(), "scalar"])
def test_every_way_to_compute_gives_the_same_bits(way):
    variables = environments().get(way, {"SENTPOOL_ISA": "scalar", "SENTPOOL_GEMM": "panel"})
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_pooling_gradients as t; print(t.digest(2))"
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    run = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == digest(1)


@pytest.mark.bits
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_nothing(threads):
    for one, many in zip(all_gradients(1), all_gradients(threads), strict=True):
        np.testing.assert_array_equal(many, one)


@pytest.mark.bits
def test_rows_stand_alone():
    whole = all_gradients(1)
    for rows in (slice(0, 9), slice(9, 23), slice(4, 5)):
        for part, all_rows in zip(all_gradients(2, rows), whole, strict=True):
            if all_rows.shape[0] == 23:  # embeddings and states
                np.testing.assert_array_equal(part, all_rows[rows])


@pytest.mark.bits
def test_views_are_as_good_as_copies():
    states, weights = attention_case(9, 5, 24)
    wide = normal(9, 6, 3, 24, seed=4).astype(np.float32)
    wide[:, 1:, ::2] = states
    for part in (
        LayerAttention(*weights),
        ScalarMix(normal(5), tokens=("cls", "mean")),
        Layers("all", ("cls", "mean")),
    ):
        chosen, dy = Pooling(part), normal(9, 48).astype(np.float32)
        results = []
        for given in (wide[:, 1:, ::2], states.astype(np.float32)):
            embeddings, cache = chosen.forward_with_cache(given, training=DRAWS)
            d_states, d_parameters = chosen.backward(dy, cache)
            results.append([embeddings, d_states, *d_parameters.values()])
        for view, copy in zip(*results, strict=True):
            np.testing.assert_array_equal(view, copy)


def test_every_allocation_may_fail():
    expected = all_gradients(2)
    failures = 0
    for n in range(1, 400):
        _core.fail_allocation(n)
        try:
            found = all_gradients(2)
        except MemoryError:
            failures += 1
        else:
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)
        finally:
            _core.fail_allocation(0)
    assert failures > 10
    np.testing.assert_array_equal(all_gradients(2)[0], expected[0])


# ---- poolings as a whole -------------------------------------------------------------------------------------------


def oh2022(hidden=12):
    weights = [normal(hidden, hidden, seed=s) / np.sqrt(hidden) for s in (1, 2, 3)]
    return Pooling(LayerAttention(*weights), head=(Dense(normal(hidden, 2 * hidden) / 5, normal(hidden), "tanh"),))


def test_gradients_go_through_the_whole_pooling():
    """By central differences of the composition of float64 twins."""
    chosen = oh2022().then(Normalize(), Truncate(7))
    parameters = {name: array.astype(float) for name, array in chosen.parameters().items()}
    states, slopes = normal(4, 3, 2, 12), twin.fixed_slopes((4, 3, 12))

    def embeddings(states, query, key, value, weight, bias):
        u = twin.layer_attention(states, query, key, value, slopes)
        return twin.normalize(twin.dense(u, weight, bias, "tanh"))[:, :7]

    dy = normal(4, 7)
    exact = central_differences(embeddings, [states, *parameters.values()], dy)
    d_states, d_parameters = chosen.backward(*with_cache(chosen, dy, states))
    assert list(d_parameters) == list(parameters)
    require_close([d_states, *d_parameters.values()], exact)


def test_a_part_for_training_alone_acts_in_training_alone():
    mlp = Dense(normal(12, 12), normal(12), train_only=True)
    chosen, states = Pooling("cls", head=(mlp, Normalize())), normal(3, 1, 1, 12).astype(np.float32)
    np.testing.assert_array_equal(chosen.forward(states), _core.normalize(states[:, 0, 0]))
    trained, _ = chosen.forward_with_cache(states)
    always = Pooling("cls", head=(Dense(mlp.weight, mlp.bias), Normalize()))
    np.testing.assert_array_equal(trained, always.forward(states))
    assert chosen.at_inference() == Pooling("cls", head=(Normalize(),))
    assert chosen.dimension(12, 3) == 12
    assert mlp == mlp.with_parameters({}) != always.head[0]
    assert str(mlp) == "dense 12→12 tanh in training"


def test_with_parameters():
    chosen = Pooling(ScalarMix([1, 2, 3], gamma=2), head=(Dense(normal(3, 5), None), Whitening(2).fit(normal(9, 3))))
    assert list(chosen.trainable_parameters()) == ["layers.weights", "layers.gamma", "head.0.weight"]
    changed = chosen.with_parameters({"layers.gamma": np.array([5.0]), "head.0.weight": np.ones((3, 5))})
    assert changed.layers == ScalarMix([1, 2, 3], gamma=5)
    assert changed.head == (Dense(np.ones((3, 5)), None), chosen.head[1])
    assert chosen.layers.gamma == 2
    assert chosen.with_parameters(chosen.parameters()) == chosen
    with pytest.raises(ValueError, match=r"'layers.gamma' of shape \(2,\); the pooling has \(1,\)"):
        chosen.with_parameters({"layers.gamma": np.ones(2)})
    with pytest.raises(ValueError, match="'layers.delta' of shape .* has no such parameter"):
        chosen.with_parameters({"layers.delta": np.ones(2)})


def test_a_layer_of_weight_zero_is_left_out_and_stays_so():
    chosen = Pooling(WeightedLayer([1, 0, 2], 1))
    assert chosen.needed_layers(3) == (1, 3)
    states, dy = normal(4, 2, 1, 6), normal(4, 6)
    _, gradients = chosen.backward(*with_cache(chosen, dy, states))
    expected = twin.weighted_layer_backward(dy, states, np.array([1.0, 2.0]))[1]
    np.testing.assert_allclose(gradients["layers.weights"], [expected[0], 0, expected[1]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("chosen", "states", "training", "error", "message"),
    [
        ("sbert_wk", normal(2, 3, 0, 4), None, ValueError, "sbert_wk has no gradient"),
        (Pooling("mean", head=(lambda x: x,)), normal(2, 1, 1, 4), None, TypeError, "has no backward"),
        (
            oh2022(),
            normal(2, 3, 1, 12),
            None,
            ValueError,
            r"states has shape .*takes \(n, layers, 2, H\), for cls, mean",
        ),
        (Pooling("mean"), normal(2, 3, 12), None, ValueError, r"states has shape \(2, 3, 12\)"),
        (oh2022(), normal(2, 3, 2, 12), (1, 2), TypeError, r"training must be None or \(seed, step, first_row\)"),
        (oh2022(), normal(2, 3, 2, 12), (-1, 2, 3), ValueError, r"training\[0\] is -1"),
        (oh2022(), normal(2, 3, 2, 12), (1, 2**32, 3), ValueError, "step and the row of every sentence"),
        (oh2022(), normal(2, 3, 2, 12), (1, 2, 2**32 - 1), ValueError, "step and the row of every sentence"),
        (oh2022(), normal(2, 3, 2, 11), None, ValueError, "takes vectors of 12 numbers"),
    ],
)
def test_what_cannot_be_trained_is_refused(chosen, states, training, error, message):
    with pytest.raises(error, match=message):
        Pooling.from_name(chosen).forward_with_cache(states.astype(np.float32), training=training)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: _core.dense_backward(x, x, normal(3, 4), None, "tanh"), r"d_embeddings has shape \(2, 4\)"),
        (lambda x: _core.normalize_backward(x, normal(2, 3)), "must have the same shape"),
        (lambda x: _core.mix_layers_backward(x, normal(2, 3, 1, 4), normal(2), 1.0), "weights has 2 values for 3"),
        (lambda x: _core.mix_layers_backward(x, normal(2, 3, 2, 4), normal(3), 1.0), r"must have \(2, 8\)"),
        (
            lambda x: _core.layer_attention_backward(
                x, normal(3, 2, 3, 4), normal(2, 2, 4), normal(2, 2, 4), *[normal(4, 4)] * 3, 0.2, None
            ),
            r"projections \(3, n, layers, H\)",
        ),
    ],
)
def test_the_core_refuses_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(2, 4).astype(np.float32))


# ---- poolings of one's own -----------------------------------------------------------------------------------------


class Scaled:
    """cls of the first layer plus factor * mean of the last."""

    tokens = ("cls", "mean")

    def __init__(self):
        self.factor = np.full(1, 2, np.float32)

    def parameters(self):
        return {"factor": self.factor}

    def forward(self, states):
        return states[:, 0, 0] + self.factor * states[:, -1, 1], states[:, -1, 1]

    def backward(self, d_embeddings, last):
        d_states = np.zeros((len(last), 3, 2, last.shape[1]), np.float32)
        d_states[:, 0, 0], d_states[:, -1, 1] = d_embeddings, self.factor * d_embeddings
        return d_states, {"factor": np.array([(d_embeddings * last).sum()])}


def test_a_pooling_of_ones_own_is_trained():
    own = Scaled()
    chosen = Pooling(own, head=(Normalize(),))
    states, dy = normal(4, 3, 2, 6), normal(4, 6)
    np.testing.assert_array_equal(
        chosen.forward(states.astype(np.float32)), chosen.forward_with_cache(states.astype(np.float32))[0]
    )
    d_states, d_parameters = chosen.backward(*with_cache(chosen, dy, states))
    exact = central_differences(
        lambda s, factor: twin.normalize(s[:, 0, 0] + factor * s[:, -1, 1]), [states, np.array([2.0])], dy
    )
    require_close([d_states, d_parameters["layers.factor"]], exact)
    assert chosen.trainable_parameters()["layers.factor"] is own.factor
    assert chosen.with_parameters({"layers.factor": np.float32([3])}) == chosen
    assert own.factor == 3


def test_without_a_pair_the_cache_is_the_states():
    class Last:
        tokens = ("mean",)

        def forward(self, states):
            return states[:, -1, 0]

        def backward(self, d_embeddings, cache):
            d_states = np.zeros_like(cache)
            d_states[:, -1, 0] = d_embeddings
            return d_states, {}

    states, dy = normal(4, 3, 1, 6), normal(4, 6)
    for chosen in (Pooling(Last()), Pooling(Layers([0, 1, 2]))):
        d_states, _ = chosen.backward(*with_cache(chosen, dy, states))
        assert d_states.shape == states.shape
    np.testing.assert_array_equal(Pooling(Last()).backward(*with_cache(Pooling(Last()), dy, states))[0][:, 2, 0], dy)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"backward": None}, TypeError, r"Scaled.* has no backward\(d_embeddings, cache\)"),
        ({"backward": lambda self, d, last: (d, {"factor": d[0, :1]})}, ValueError, r"gradients of shapes \(4, 6\)"),
        ({"backward": lambda self, d, last: (np.zeros((4, 3, 2, 6)), {})}, ValueError, "{}; expected .*'factor'"),
        (
            {"backward": lambda self, d, last: np.zeros((4, 3, 2, 6))},
            TypeError,
            "backward returned ndarray; expected the gradient",
        ),
        (
            {"backward": lambda self, d, last: (np.zeros((4, 3, 2, 6)), None)},
            TypeError,
            "returned ndarray, NoneType; expected",
        ),
        ({"parameters": lambda self: {"factor": [1.0]}}, TypeError, "'factor', which must be a writable float32 array"),
        ({"forward": lambda self, states: (states, None)}, ValueError, "returned float32 of shape"),
    ],
)
def test_a_broken_pooling_of_ones_own_is_named(changes, error, message):
    chosen = Pooling(type("Scaled", (Scaled,), changes)())
    states, dy = normal(4, 3, 2, 6), normal(4, 6)
    with pytest.raises(error, match=message):
        chosen.backward(*with_cache(chosen, dy, states))


# ---- stored states -------------------------------------------------------------------------------------------------


def test_stored_states_are_taken_as_views(tmp_path):
    array = normal(20, 4, 3, 6).astype(np.float32)
    LayerStates(array, ("cls", "mean", "max"), (0, 1, 2, 3), np.full(20, 5)).save(tmp_path / "states")
    states = LayerStates.load(tmp_path / "states", mmap=True)
    for chosen, layers, tokens, is_view in (
        (oh2022(6), slice(None), [0, 1], True),
        (Pooling(Layers([1, -1], ("cls", "max"))), [1, 3], [0, 2], True),
        (Pooling(Layers([-1, 1], "max")), [3, 1], [2], False),
        (Pooling("mean"), [3], [1], True),
    ):
        taken = states.taken_by(chosen)
        np.testing.assert_array_equal(taken, array[:, layers][:, :, tokens])
        assert np.shares_memory(taken, states.array) == is_view
        np.testing.assert_array_equal(chosen.forward_with_cache(taken)[0], states.pool(chosen))
    with pytest.raises(ValueError, match="needs the token pooling 'last_token'"):
        states.taken_by(Pooling("last_token"))


def test_a_trained_pooling_is_saved_and_opened(tmp_path):
    """A step of training, then a folder: the same bits come out of `encode`."""
    folder = bert_folder(tmp_path / "source", hidden_size=24, num_hidden_layers=3, num_attention_heads=2)
    model, texts = SentenceEncoder(folder), ["the cat sat on the mat", "a big dog runs", "unhappy"]
    states = model.layer_states(texts)
    for number, chosen in enumerate(
        (
            oh2022(24),
            Pooling(ScalarMix(np.zeros(4)), head=(Normalize(),)),
            Pooling(WeightedLayer(np.ones(3), 1)),
            Pooling("cls", head=(Dense(normal(24, 24), normal(24), train_only=True),)),
        )
    ):
        dy = np.ones_like(chosen.forward_with_cache(states.taken_by(chosen))[0])
        _, gradients = chosen.backward(dy, chosen.forward_with_cache(states.taken_by(chosen))[1])
        parameters = chosen.trainable_parameters()
        trained = chosen.with_parameters({name: parameters[name] - 0.1 * gradients[name] for name in parameters})
        assert trained != chosen
        model.pooling = trained
        model.save_pretrained(tmp_path / str(number))
        again = SentenceEncoder(tmp_path / str(number))
        assert again.pooling == trained.at_inference()
        np.testing.assert_array_equal(again.encode(texts), model.encode(texts))
        np.testing.assert_array_equal(again.encode(texts), states.pool(trained))


# ---- where training starts -----------------------------------------------------------------------------------------


def test_fresh_poolings_fit_and_start_as_published():
    n_layers, hidden = 6, 24
    shapes_of = {
        "layer_attention": {f"layers.{part}": (24, 24) for part in ("query", "key", "value")}
        | {"head.0.weight": (24, 48), "head.0.bias": (24,)},
        "cls_mlp": {"head.0.weight": (24, 24), "head.0.bias": (24,)},
        "cls_mlp_train_only": {"head.0.weight": (24, 24), "head.0.bias": (24,)},
        "scalar_mix": {"layers.weights": (7,), "layers.gamma": (1,)},
        "weighted_layer": {"layers.weights": (3,)},
        "first_last": {},
    }
    for name, shapes in shapes_of.items():
        chosen = initial(name, n_layers, hidden, seed=3)
        assert {name: array.shape for name, array in chosen.trainable_parameters().items()} == shapes
        assert chosen.dimension(hidden, n_layers) == hidden
        assert initial(name, n_layers, hidden, seed=3) == chosen
        normals = [array for array in chosen.parameters().values() if array.ndim == 2]
        for array in normals:
            assert array.std() == pytest.approx(0.02, rel=0.15) and abs(array.mean()) < 0.003
        assert (initial(name, n_layers, hidden, seed=4) == chosen) == (not normals)
        assert len({array.tobytes() for array in normals}) == len(normals)
    states = normal(2, 7, 1, 24).astype(np.float32)
    average = Pooling(Layers("all")).forward(states)
    np.testing.assert_allclose(
        initial("scalar_mix", n_layers, hidden, 0).forward(states), average, rtol=1e-5, atol=1e-6
    )
    assert initial("weighted_layer", 2, hidden, 0).layers == WeightedLayer([1], 2)
    assert initial("cls_mlp_train_only", n_layers, hidden, 0).at_inference() == Pooling("cls")
    assert initial(chosen, n_layers, hidden, 0) is chosen
    with pytest.raises(ValueError, match="pooling is 'median'"):
        initial("median", n_layers, hidden, 0)
    with pytest.raises(ValueError, match="seed is -1"):
        initial("mean", n_layers, hidden, -1)
