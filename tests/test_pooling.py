"""The algebra of poolings: equal from states and from encode, refused where it does not fit, built again from parts.

Numbers are held against transformers' hidden states in tests/parity/test_poolings.py; here against NumPy in float64.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fabricate import bert_folder
from test_bits import environments

import sentpool
from sentpool import SentenceEncoder, _core, pooling
from sentpool.pooling import (
    AllButTheTop,
    Dense,
    LayerAttention,
    Layers,
    Normalize,
    Pooling,
    SbertWk,
    ScalarMix,
    Truncate,
    WeightedLayer,
    Whitening,
    from_config,
)

L, H = 5, 24
TEXTS = [
    "the cat sat on the mat",
    "a big dog runs",
    "unhappy",
    "",
    "the dog ! happy cat ? small mat .",
    "the cat sat on the mat",
]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def attention(hidden=H):
    return LayerAttention(*(normal(hidden, hidden, seed=s) for s in range(3)))


POOLINGS = {
    **{name: name for name in pooling.NAMES if name != "sbert_wk"},
    "concatenated": ("cls", "mean", "max"),
    "layers of cls": Layers([1, 3], tokens="cls"),
    "layers of two": Layers([0, 2, -1], tokens=("cls", "mean")),
    "layers by name": "layers=[1, -2]",
    "scalar mix": ScalarMix(normal(L + 1), gamma=1.7),
    "weighted layer": WeightedLayer([1.0, 0.5], layer_start=4, tokens=("mean", "last_token")),
    "attention": attention(),
    "oh2022": Pooling(attention(), head=(Dense(normal(H, 2 * H), normal(H), "tanh"),)),
    "head": Pooling("mean", head=(Dense(normal(7, H), None, "gelu"), Normalize(), Truncate(3))),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return SentenceEncoder(bert_folder(tmp_path_factory.mktemp("model"), num_hidden_layers=L))


@pytest.fixture(scope="module")
def states(model):
    return model.layer_states(TEXTS, tokens=pooling.TOKEN_POOLINGS)


@pytest.mark.bits
@pytest.mark.parametrize("name", POOLINGS)
def test_pooled_states_are_what_encode_gives(model, states, name):
    chosen = POOLINGS[name]
    expected = model.encode(TEXTS, pooling=chosen)
    for threads in (1, 2):
        np.testing.assert_array_equal(states.pool(chosen, threads=threads), expected)
    for i in range(len(TEXTS)):  # whatever the batch
        np.testing.assert_array_equal(model.encode(TEXTS[i], pooling=chosen, threads=1), expected[i])
    model_of_it = copy.copy(model)
    model_of_it.pooling = chosen
    assert model_of_it.get_sentence_embedding_dimension() == expected.shape[1]


def mean_of(states, layers, token="mean"):
    return states.array[:, layers, states.tokens.index(token)].astype(np.float64).mean(1)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("first_last", [1, L]),
        ("avg_first_last", [1, L]),
        ("embedding_last", [0, L]),
        ("top2", [L - 1, L]),
        ("avg_top2", [L - 1, L]),
        ("all_layers", list(range(L + 1))),
        ("layers=[0,2]", [0, 2]),
        ("avg", [L]),
    ],
)
def test_names_mean_these_layers(states, name, layers):
    np.testing.assert_allclose(states.pool(name), mean_of(states, layers), rtol=1e-5, atol=1e-6)


def test_cls_before_pooler_is_cls(states):
    np.testing.assert_array_equal(states.pool("cls_before_pooler"), states.array[:, L, states.tokens.index("cls")])


def test_scalar_mix_is_elmos(states):
    weights = normal(L + 1).astype(np.float64)
    softmax = np.exp(weights) / np.exp(weights).sum()
    means = states.array[:, :, states.tokens.index("mean")].astype(np.float64)
    expected = 1.7 * np.einsum("l,nlh->nh", softmax, means)
    np.testing.assert_allclose(states.pool(POOLINGS["scalar mix"]), expected, rtol=1e-5, atol=1e-6)


def leaky(x):
    return np.where(x >= 0, x, x * 11 / 48)


def attention_twin(cls, mean, query, key, value):
    """u (n, H) and the mean weights (n, layers) in float64, for layers first one by one."""
    Q, K, V = (leaky(x @ w.T.astype(np.float64)) for x, w in ((cls, query), (mean, key), (mean, value)))
    scores = np.einsum("njh,nih->nij", K, Q) / cls.shape[1]
    scores = np.exp(scores - scores.max(2, keepdims=True))
    a = scores / scores.sum(2, keepdims=True)
    return np.einsum("nij,njh->nih", a, V).mean(1), a.mean(1)


@pytest.mark.parametrize(
    ("layers", "hidden", "n"), [(1, 8, 1), (2, 24, 3), (7, 40, 33), (13, 64, 5), (25, 16, 40), (40, 8, 3)]
)
def test_layer_attention_is_the_papers(layers, hidden, n):
    cls, mean = normal(n, layers, hidden), normal(n, layers, hidden, seed=1)
    weights = [normal(hidden, hidden, seed=s) for s in (2, 3, 4)]
    expected = attention_twin(cls.astype(np.float64), mean.astype(np.float64), *weights)
    for threads in (1, 2, 5):
        found = _core.layer_attention(cls, mean, *weights, 11 / 48, threads)
        for ours, theirs in zip(found, expected, strict=True):
            assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.bits
def test_layer_attention_of_views_and_of_single_sentences_has_the_same_bits():
    states = normal(37, 9, 3, 32)
    weights = [normal(32, 32, seed=s) for s in (2, 3, 4)]
    expected = _core.layer_attention(states[:, :, 0].copy(), states[:, :, 2].copy(), *weights, 11 / 48)
    for threads in (1, 3):
        found = _core.layer_attention(states[:, :, 0], states[:, :, 2], *weights, 11 / 48, threads)
        np.testing.assert_array_equal(found[0], expected[0])
    one = _core.layer_attention(states[5:6, :, 0], states[5:6, :, 2], *weights, 11 / 48)
    np.testing.assert_array_equal(one[0], expected[0][5:6])
    np.testing.assert_array_equal(one[1], expected[1][5:6])


def digest(folder, threads=1) -> str:
    """Of every pooling of the sentences by a model of its own."""
    model = SentenceEncoder(folder)
    found = hashlib.sha256()
    for chosen in POOLINGS.values():
        found.update(model.encode(TEXTS, pooling=chosen, threads=threads).tobytes())
    return found.hexdigest()


@pytest.mark.every_way
@pytest.mark.bits
@pytest.mark.parametrize("way", [*environments(), "scalar"])
def test_every_way_to_compute_gives_the_same_bits(model, way):
    variables = environments().get(way, {"SENTPOOL_ISA": "scalar", "SENTPOOL_GEMM": "panel"})
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_pooling as t; print(t.digest(sys.argv[2], 2))"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(model.folder.path)]
    run = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == digest(model.folder.path)


def test_layer_weights(model, states):
    found = model.layer_weights(TEXTS, pooling=attention())
    assert found.shape == (len(TEXTS), L + 1)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(states.layer_weights(attention()), found)
    np.testing.assert_allclose(model.layer_weights(TEXTS, pooling="first_last"), [[0, 0.5, 0, 0, 0, 0.5]] * len(TEXTS))
    np.testing.assert_allclose(
        model.layer_weights("the", pooling=POOLINGS["weighted layer"]), [[0, 0, 0, 0, 2 / 3, 1 / 3]]
    )
    with pytest.raises(ValueError, match="sbert_wk weighs the layers of every token"):
        model.layer_weights(TEXTS, pooling="sbert_wk")


class Sharpened:
    """A pooling of a user's own."""

    tokens = ("mean", "cls")

    def forward(self, states):
        return (states[:, -1, 0] * 2 + states[:, 0, 1])[:, :10]


def test_a_pooling_of_ones_own_is_used_everywhere(model, states):
    own = Sharpened()
    expected = own.forward(states.array[:, :, [1, 0]])
    np.testing.assert_array_equal(model.encode(TEXTS, pooling=own), expected)
    np.testing.assert_array_equal(states.pool(own), expected)
    np.testing.assert_array_equal(
        model.encode(TEXTS, pooling=Pooling(own, head=(Normalize(),))), _core.normalize(expected)
    )
    other = copy.copy(model)
    other.pooling = own
    assert other.get_sentence_embedding_dimension() == 10
    with pytest.raises(TypeError, match="no part of sentpool"):
        other.pooling.config()


def test_a_broken_pooling_of_ones_own_is_named(model):
    class Wrong(Sharpened):
        def forward(self, states):
            return states[:, -1]

    with pytest.raises(ValueError, match=r"Wrong.* returned float32 of shape \(1, 2, 24\) for 1 sentences"):
        model.encode(TEXTS, pooling=Wrong())
    with pytest.raises(TypeError, match="pooling must be a name, .* or an object with `tokens`"):
        model.encode(TEXTS, pooling=3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:1], r"returned float32 of shape \(1, 24\) for"),
        (lambda x: x[:, 0], r"returned float32 of shape \(\d,\) for"),
        (lambda x: x + 1j, "returned complex64"),
        (lambda x: x.astype(np.float64) * 1e300, "is not finite"),
        (lambda x: x[:, : len(x)], "gave (shape|vectors of)"),
    ],
)
def test_what_a_function_of_ones_own_returns_is_checked(model, states, function, message):
    for use in (lambda pooling: model.encode(TEXTS, pooling=pooling), states.pool):
        with pytest.raises(ValueError, match=message):
            use(Pooling("mean", head=(function,)))


def test_sbert_wk_takes_a_function_of_ones_own(model):
    doubled = Pooling(SbertWk(), head=(lambda x: 2 * x,))
    np.testing.assert_array_equal(model.encode(TEXTS, pooling=doubled), 2 * model.encode(TEXTS, pooling="sbert_wk"))


def test_poolings_of_ones_own_compare_by_identity():
    class WithArrays(Sharpened):
        def __eq__(self, other):
            return np.zeros(2) == 0

    own = WithArrays()
    assert Pooling(own) == Pooling(own) != Pooling(WithArrays())


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("layer_attention", "there are no trained parameters for it here"),
        ("scalar_mix", "there are no trained parameters for it here"),
        ("cls_mlp", "there are no trained parameters for it here"),
        ("cls_mlp_train_only", "there are no trained parameters for it here"),
        ("median", "pooling is 'median'; it must be one of cls, mean"),
        ("layers=[9]", "indices holds layer 9; this encoder has layers 0"),
        (ScalarMix(normal(3)), "has 3 weights; this encoder needs 6"),
        (WeightedLayer(normal(3), layer_start=4), "has 3 weights; this encoder needs 2"),
        (attention(8), "takes vectors of 8 numbers; what comes before it gives 24"),
        (
            Pooling("mean", head=(Dense(normal(3, 5), None),)),
            "takes vectors of 5 numbers; what comes before",
        ),
        (Pooling("mean", head=(Truncate(25),)), "k is 25; what is truncated has only 24 numbers"),
        (Pooling("mean", head=(Whitening(3),)), r"has not been fitted: call fit\(X\)"),
        (SbertWk(layer_start=9), "layer_start is 9; this encoder has layers 0 to 5"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(model, chosen, message):
    with pytest.raises(ValueError, match=message):
        model.encode(TEXTS, pooling=chosen)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Layers([]), TypeError, "indices must be a sequence of layers or 'all'"),
        (lambda: Layers([1.5]), TypeError, "layers are integers"),
        (lambda: Layers([True]), TypeError, "layers are integers"),
        (lambda: Layers("first"), TypeError, "or 'all'"),
        (lambda: Layers([1], tokens="median"), ValueError, "tokens is 'median'"),
        (lambda: ScalarMix([]), ValueError, r"weights has shape \(0,\)"),
        (lambda: ScalarMix([1, np.nan]), ValueError, "NaN"),
        (lambda: ScalarMix([1], gamma="much"), TypeError, "gamma must be an array of real numbers"),
        (lambda: ScalarMix([1], gamma=1e400), ValueError, "gamma holds NaN, infinity"),
        (lambda: ScalarMix([1], gamma=[1, 2]), ValueError, "gamma has 2 numbers; it is one"),
        (lambda: Dense([[1]], train_only=1), ValueError, "train_only is 1; it must be True or False"),
        (lambda: WeightedLayer([1, -1]), ValueError, "add up to 0"),
        (lambda: WeightedLayer([1], tokens="max"), ValueError, "maximum is not the mix"),
        (lambda: WeightedLayer([1], layer_start=-1), ValueError, "layer_start is -1"),
        (lambda: LayerAttention(normal(3, 4), normal(3, 4), normal(3, 4)), ValueError, "are square"),
        (lambda: LayerAttention(*[normal(3, 3)] * 3, preset="oh2023"), ValueError, "preset is 'oh2023'"),
        (lambda: SbertWk(window=0), ValueError, "window"),
        (lambda: Dense(normal(3, 4), normal(4)), ValueError, "bias has 4 numbers; weight gives 3"),
        (lambda: Dense(normal(3, 4), None, "swish"), ValueError, "activation is 'swish'"),
        (lambda: Dense("abc", None), TypeError, "weight must be an array of real numbers"),
        (lambda: Truncate(0), ValueError, "k is 0"),
        (lambda: Whitening(mean=normal(3)), ValueError, "belong together"),
        (lambda: Pooling("mean", head=(3,)), TypeError, "head holds 3"),
        (lambda: Pooling(7), TypeError, "pooling must be a name"),
    ],
)
def test_bad_parts_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", POOLINGS)
def test_a_pooling_is_built_again_from_its_configuration(name):
    chosen = Pooling.from_name(POOLINGS[name])
    again = from_config(json.loads(json.dumps(chosen.config())), chosen.parameters())
    assert again == chosen
    assert hash(again) == hash(chosen)
    assert repr(again) == repr(chosen)
    assert pickle.loads(pickle.dumps(chosen)) == chosen
    assert copy.deepcopy(chosen) == chosen


@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        {"layers": {"type": "Layers"}, "head": [], "include_prompt": True},
        {"layers": {"type": "Dense"}, "head": [], "include_prompt": True},
        {"layers": {"type": "Layers", "indices": "all"}, "head": 3, "include_prompt": True},
        {"layers": {"type": "Layers", "indices": "all"}, "head": [], "include_prompt": 1},
        {"layers": {"type": "Layers", "indices": "all", "colour": "red"}, "head": [], "include_prompt": True},
    ],
)
def test_a_configuration_of_no_pooling_is_refused(config):
    with pytest.raises(ValueError):
        from_config(config, {})


def test_parts_compare_by_what_they_hold():
    assert Layers([1, -1]) == Layers((1, -1), tokens=["mean"])
    assert Layers([1, -1]) != Layers([1, -1], tokens="cls")
    assert ScalarMix([1, 2]) != ScalarMix([1, 3])
    assert Dense(normal(2, 3), None) != Dense(normal(2, 3), None, "relu")
    assert Pooling("mean") == Pooling.from_name("avg") != Pooling("mean", include_prompt=False)
    with pytest.raises(ValueError, match="read-only"):
        ScalarMix([1, 2]).weights[0] = 0


def test_names_are_shown(model):
    assert str(Pooling.from_name("first_last")) == "first_last"
    assert str(Pooling(("cls", "mean"), head=(Normalize(), Truncate(3)))) == "cls+mean, normalize, truncate 3"
    assert str(Pooling(Layers([0, 2]))) == "Layers(indices=[0, 2], tokens=['mean'])"
    assert "24×24" in repr(attention())
    assert repr(ScalarMix([1, 2], gamma=1.5)) == "ScalarMix(tokens=['mean'], weights 2, gamma=1.5)"


class TestPostprocessing:
    X = normal(400, 12, seed=5) @ normal(12, 12, seed=6) + 3

    def test_whitening_is_bert_whitenings(self):
        X = self.X.astype(np.float64)
        mean = X.mean(0)
        U, S, _ = np.linalg.svd(np.cov(X.T))
        expected = (X - mean) @ (U @ np.diag(1 / np.sqrt(S)))[:, :5]
        found = Whitening(5).fit(self.X)(self.X)
        signs = np.sign((found * expected).sum(0))  # of eigenvectors, which are free
        np.testing.assert_allclose(found * signs, expected, atol=2e-4)
        np.testing.assert_allclose(np.cov(found.T), np.eye(5), atol=1e-3)

    def test_all_but_the_top_is_mu_and_viswanaths(self):
        X = self.X.astype(np.float64) - self.X.mean(0, dtype=np.float64)
        _, _, Vt = np.linalg.svd(X, full_matrices=False)
        expected = X - X @ Vt[:2].T @ Vt[:2]
        np.testing.assert_allclose(AllButTheTop(2).fit(self.X)(self.X), expected, atol=1e-4)

    def test_they_compose_after_a_pooling(self, model, states):
        rng = np.random.default_rng(0)
        words = ["cat", "dog", "mat", "happy", "small", "big", "sat"]
        texts = [" ".join(rng.choice(words, 6)) for _ in range(60)]
        X = model.encode(texts, pooling="first_last")
        whitened = Pooling.from_name("first_last").then(Whitening(4).fit(X), Normalize())
        assert model.encode(TEXTS, pooling=whitened).shape == (len(TEXTS), 4)
        np.testing.assert_array_equal(states.pool(whitened), model.encode(TEXTS, pooling=whitened))
        again = from_config(whitened.config(), whitened.parameters())
        np.testing.assert_array_equal(states.pool(again), states.pool(whitened))

    def test_what_cannot_be_fitted_is_refused(self):
        flat = np.outer(np.arange(9.0), np.ones(4))
        with pytest.raises(ValueError, match="k is 4; X varies in 1 of its 4 dimensions: pass k <= 1"):
            Whitening(4).fit(flat)
        with pytest.raises(ValueError, match=r"X must be an array \(n, d\)"):
            Whitening(2).fit(normal(1, 4))
        with pytest.raises(ValueError, match="NaN"):
            Whitening(2).fit(np.full((3, 4), np.nan))
        with pytest.raises(ValueError, match="d is 4; vectors of 4 numbers"):
            AllButTheTop(4).fit(normal(9, 4))


class TestLayerStates:
    def test_slices(self, states):
        part = states[1:3]
        assert len(part) == 2
        np.testing.assert_array_equal(part.pool("mean"), states.pool("mean")[1:3])
        np.testing.assert_array_equal(states[states.lengths > 4].lengths, states.lengths[states.lengths > 4])
        with pytest.raises(IndexError, match=r"a single one is states\[i : i \+ 1\]"):
            states[0]

    @pytest.mark.parametrize("mmap", [True, False, None])
    def test_save_and_load(self, states, tmp_path, mmap):
        states.save(tmp_path / "states.safetensors")
        again = type(states).load(tmp_path / "states.safetensors", mmap=mmap)
        assert isinstance(again.array, np.memmap) == bool(mmap)
        for name in ("array", "lengths"):
            np.testing.assert_array_equal(getattr(again, name), getattr(states, name))
        assert (again.tokens, again.layers) == (states.tokens, states.layers)
        np.testing.assert_array_equal(again.pool("first_last"), states.pool("first_last"))

    def test_safetensors_reads_the_file(self, states, tmp_path):
        from safetensors.numpy import load_file

        states.save(tmp_path / "states.safetensors")
        tensors = load_file(tmp_path / "states.safetensors")
        np.testing.assert_array_equal(tensors["array"], states.array)

    @pytest.mark.parametrize("texts", [TEXTS, []])
    def test_written_straight_to_a_file(self, model, tmp_path, texts):
        expected = model.layer_states(texts)
        file = tmp_path / "states.safetensors"
        found = model.layer_states(texts, out=file)
        np.testing.assert_array_equal(found.array, expected.array)
        np.testing.assert_array_equal(found.lengths, expected.lengths)
        assert [path.name for path in tmp_path.iterdir()] == [file.name]
        if texts:
            assert isinstance(found.array, np.memmap)

    def test_a_failed_run_leaves_no_file(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr(type(model.tokenizer), "encode", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.layer_states(TEXTS, out=tmp_path / "states.safetensors")
        assert not list(tmp_path.iterdir())

    def test_a_full_disk_is_an_error(self, model, tmp_path):
        """Not a SIGBUS while a mapped file is filled."""
        code = """
import resource, sys
from sentpool import SentenceEncoder
model = SentenceEncoder(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    model.layer_states(["the cat"] * 1000, out=sys.argv[2])
except OSError as error:
    print(error)
"""
        command = [sys.executable, "-c", code, str(model.folder.path), str(tmp_path / "states.safetensors")]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert "no room for 1160" in run.stdout and "states.safetensors" in run.stdout
        assert not list(tmp_path.iterdir())

    def test_a_prompt_is_taken_as_the_pooling_says(self, model, tmp_path):
        without = Pooling("mean", include_prompt=False)
        for include_prompt, chosen, other in ((True, "mean", without), (False, without, "mean")):
            states = model.layer_states(TEXTS, prompt="a big ", include_prompt=include_prompt)
            states.save(tmp_path / "states")
            for these in (states, type(states).load(tmp_path / "states")):
                expected = model.encode(TEXTS, prompt="a big ", pooling=chosen)
                np.testing.assert_array_equal(these.pool(chosen), expected)
                with pytest.raises(ValueError, match=r"layer_states\(…, include_prompt="):
                    these.pool(other)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b'[0, 1, 2, 3, 4, 5]"', b'[0, 1, 2, 3, 4]"   '),
            (b'[\\"cls\\", \\"mean\\"]', b'[\\"cls\\", \\"mode\\"]'),
            (b'"prompt_pooled": "null"', b'"prompt_pooled": "7"   '),
            (b'"I64"', b'"F64"'),
        ],
    )
    def test_a_damaged_header_is_an_error(self, model, tmp_path, old, new):
        file = tmp_path / "states"
        model.layer_states(TEXTS).save(file)
        content = file.read_bytes()
        assert old in content and len(old) == len(new)
        file.write_bytes(content.replace(old, new))
        with pytest.raises(ValueError, match="not a file of layer states"):
            sentpool.LayerStates.load(file)

    def test_what_is_missing_is_named(self, model, tmp_path):
        states = model.layer_states(TEXTS, tokens="mean")
        with pytest.raises(ValueError, match="needs the token pooling 'cls'; these states hold mean"):
            states.pool("cls")
        with pytest.raises(ValueError, match="sbert_wk needs the states of all tokens"):
            states.pool("sbert_wk")
        with pytest.raises(FileNotFoundError):
            type(states).load(tmp_path / "none")
        (tmp_path / "other").write_bytes(b"\2\0\0\0\0\0\0\0{}")
        with pytest.raises(ValueError, match="not a file of layer states"):
            type(states).load(tmp_path / "other")
