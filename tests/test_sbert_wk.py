"""SBERT-WK against a twin in float64 with NumPy's QR, against hand-worked values, and the promise of equal bits."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fabricate import bert_config, bert_folder, bert_tensors, sentence_transformers_folder, write_safetensors
from golden_cases import load
from noise import noise
from test_bits import environments

from sentpool import SentenceEncoder, _core
from sentpool.pooling import Normalize, Pooling, SbertWk

HERE = Path(__file__).resolve().parent

# ---- the twin: Wang & Kuo 2020 as their published code computes it, in float64 ---------------------------------------


def unit_columns(matrix):
    norms = np.linalg.norm(matrix, axis=0)
    return matrix / np.where(norms == 0, 1, norms)


def alignment_and_novelty(path, k, window):
    """Of layer k on a token's path (n, H); NaN where a layer has no window."""
    below = path[k - window : k] if k >= window else path[:0]
    rows = np.vstack([below, path[k + 1 : k + 1 + window], path[k : k + 1]])
    R = np.linalg.qr(rows.T, mode="r")
    r, m = R[:, -1], len(rows)
    novelty = abs(r[-1]) / np.linalg.norm(r)
    if m == 1:
        return np.nan, novelty
    cosine = unit_columns(R[:-1, :-1]).mean(axis=1) @ r[:-1] / np.linalg.norm(r[:-1])
    return 1 / (cosine * m * 2), novelty


def token_vector(path, window):
    measures = [alignment_and_novelty(path, k, window) for k in range(len(path))]
    alignment, novelty = np.array(measures).T
    if np.isnan(alignment).any():
        alignment = np.ones(len(path))
    alpha = alignment / alignment.sum() + novelty / novelty.sum()
    return alpha / alpha.sum() @ path


def token_weight(path):
    unit = path / np.linalg.norm(path, axis=1, keepdims=True)
    cosines = [unit[k] @ unit[k + 1] for k in range(len(path) - 1)]
    return np.var(cosines) if cosines else 0


def sbert_wk(states, layer_start, window):
    """From all layers (L + 1, T, H) of one sentence."""
    kept = np.asarray(states, np.float64)[layer_start:]
    paths = kept.swapaxes(0, 1)[: max(1, kept.shape[1] - 1)]
    weights = np.array([token_weight(path) for path in paths])
    if not weights.any():
        weights[:] = 1
    return weights / weights.sum() @ np.stack([token_vector(path, window) for path in paths])


def default_layer_start(layers):
    return min(4, layers - 1)


# ---- small models ---------------------------------------------------------------------------------------------------

SIZES = {
    # name: layers, hidden, heads, intermediate
    "one layer": (1, 24, 3, 40),
    "three layers": (3, 40, 5, 77),
    "five layers": (5, 66, 3, 30),
    "twelve layers": (12, 48, 4, 100),
}
LENGTHS = [1, 2, 3, 5, 17, 4, 60, 9, 33, 2, 8, 64]


def core_model(layers, hidden, heads, intermediate):
    model = _core.Model(
        vocab_size=90,
        max_positions=64,
        type_vocab_size=2,
        hidden=hidden,
        layers=layers,
        heads=heads,
        intermediate=intermediate,
    )
    tensors = {}
    for seed, (name, shape) in enumerate(model.tensors().items()):
        value = noise(seed, *shape)
        tensors[name] = value / 4 + 1 if name.endswith("LayerNorm.weight") else value * np.float32(2 / shape[-1] ** 0.5)
    return load(model, {name: value.astype(np.float32) for name, value in tensors.items()})


@pytest.fixture(scope="module")
def models():
    return {name: core_model(*sizes) for name, sizes in SIZES.items()}


def packed(lengths=LENGTHS):
    offsets = np.cumsum([0, *lengths])
    return ((noise(77, int(offsets[-1])) + 1) * 45).astype(np.int32), offsets


def assert_close(found, expected, tolerance):
    """Row by row, relative to the row's largest value."""
    assert found.dtype == np.float32 and found.shape == expected.shape
    error = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
    assert error.max() <= tolerance, error


CASES = [
    (name, start, window)
    for name, (layers, *_) in SIZES.items()
    for start in sorted({0, default_layer_start(layers), max(0, layers - 2), layers})
    for window in (1, 2, 3, 20)
]


@pytest.mark.parametrize(("name", "layer_start", "window"), CASES)
def test_vectors_are_those_of_the_formulas(models, name, layer_start, window):
    """On our own hidden states, which test_states.py holds against transformers."""
    model, (ids, offsets) = models[name], packed()
    hidden = model.hidden_states(ids, offsets)
    expected = [sbert_wk(states, layer_start, window) for states in np.split(hidden, offsets[1:-1], axis=1)]
    assert_close(model.sbert_wk(ids, offsets, layer_start, window), np.stack(expected), 1e-6)


@pytest.mark.parametrize("skip", [1, 3, 8, 100])
def test_skipped_tokens_do_not_count(models, skip):
    model, (ids, offsets) = models["five layers"], packed()
    found = model.sbert_wk(ids, offsets, 1, 2, skip=skip)
    hidden = np.split(model.hidden_states(ids, offsets), offsets[1:-1], axis=1)
    for vector, states in zip(found, hidden, strict=True):
        if states.shape[1] > skip:
            assert_close(vector[None], sbert_wk(states[:, skip:], 1, 2)[None], 1e-6)
        else:
            assert not vector.any()


# ---- against transformers -------------------------------------------------------------------------------------------


def states_of_transformers(model, ids):
    import torch

    with torch.no_grad():
        return torch.stack(model(torch.tensor([ids]), output_hidden_states=True).hidden_states)[:, 0].numpy()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("layer_start", "window"), [(4, 2), (0, 2), (2, 1), (3, 3)])
def test_minilm_is_that_of_transformers(minilm, layer_start, window):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModel.from_pretrained(minilm).double().eval()
    ours = SentenceEncoder(minilm)
    texts = [
        "A dog runs.",
        "",
        "one",
        "Nobody waits in München’s café while 12 red dogs run over it, lazily.",
        "a b " * 60,
    ]
    batch = ours.tokenizer.encode(texts)
    expected = [
        sbert_wk(states_of_transformers(theirs, ids.tolist()), layer_start, window)
        for ids in np.split(batch.ids, batch.offsets[1:-1])
    ]
    assert_close(ours._core.sbert_wk(batch.ids, batch.offsets, layer_start, window), np.stack(expected), 1e-5)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("layers", "hidden", "window"), [(1, 24, 2), (3, 40, 1), (4, 64, 2), (5, 36, 2), (12, 60, 2)])
def test_random_berts_are_those_of_transformers(layers, hidden, window):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(layers)
    config = transformers.BertConfig(
        vocab_size=90,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=3 * hidden,
        max_position_embeddings=64,
        # with 0.2, layers can be nearly orthogonal, and torch's own states in float32 give vectors 3e-4 apart
        initializer_range=0.1,
    )
    theirs = transformers.BertModel(config).eval()
    ours = _core.Model(
        vocab_size=90,
        max_positions=64,
        type_vocab_size=2,
        hidden=hidden,
        layers=layers,
        heads=4,
        intermediate=3 * hidden,
    )
    weights = theirs.state_dict()
    load(ours, {name: weights[name].numpy() for name in ours.tensors()})
    theirs.double()
    ids, offsets = packed()
    start = default_layer_start(layers)
    expected = [
        sbert_wk(states_of_transformers(theirs, one.tolist()), start, window) for one in np.split(ids, offsets[1:-1])
    ]
    assert_close(ours.sbert_wk(ids, offsets, start, window), np.stack(expected), 1e-5)


# ---- equal bits -----------------------------------------------------------------------------------------------------


def digest(**options) -> str:
    found = hashlib.sha256()
    for sizes in SIZES.values():
        found.update(core_model(*sizes).sbert_wk(*packed(), default_layer_start(sizes[0]), 2, **options).tobytes())
    return found.hexdigest()


@pytest.mark.bits
def test_threads_and_batches_change_nothing(models):
    # few tokens, which ranks share; enough for each rank to take chunks of its own
    for model, (ids, offsets) in ((models["twelve layers"], packed()), (models["three layers"], packed(LENGTHS * 12))):
        expected = model.sbert_wk(ids, offsets, 2, 2).tobytes()
        for threads in (1, 2, 3, 7):
            for batch_size in (1, 3, 32, 512):
                found = model.sbert_wk(ids, offsets, 2, 2, threads=threads, batch_size=batch_size)
                assert found.tobytes() == expected, (threads, batch_size)


@pytest.mark.bits
def test_each_sentence_alone_gives_the_bits_of_the_batch(models):
    model, (ids, offsets) = models["twelve layers"], packed()
    whole = model.sbert_wk(ids, offsets, 4, 2)
    for vector, tokens in zip(whole, np.split(ids, offsets[1:-1]), strict=True):
        assert model.sbert_wk(tokens, [0, len(tokens)], 4, 2, threads=2).tobytes() == vector.tobytes()


@pytest.mark.every_way
@pytest.mark.bits
@pytest.mark.parametrize("way", [*environments(), "scalar"])
def test_every_way_to_compute_gives_the_same_bits(way):
    variables = environments().get(way, {"SENTPOOL_ISA": "scalar", "SENTPOOL_GEMM": "panel"})
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_sbert_wk; print(test_sbert_wk.digest(threads=2))"
    run = subprocess.run(
        [sys.executable, "-c", code, str(HERE)], env=os.environ | variables, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == digest()


# ---- cases worked out by hand ---------------------------------------------------------------------------------------


def constant_model(states):
    """A model whose state at layer l is states[l], whatever the token: layer norms with weight 0 and that bias."""
    states = np.asarray(states, np.float32)
    layers, hidden = states.shape
    model = _core.Model(
        vocab_size=9,
        max_positions=9,
        type_vocab_size=1,
        hidden=hidden,
        layers=layers - 1,
        heads=1,
        intermediate=3,
        layer_norm_eps=1e-5,
    )
    tensors = {name: np.zeros(shape, np.float32) for name, shape in model.tensors().items()}
    tensors["embeddings.LayerNorm.bias"] = states[0]
    for layer in range(1, layers):
        tensors[f"encoder.layer.{layer - 1}.output.LayerNorm.bias"] = states[layer]
    return load(model, tensors)


def of_constant(states, window, tokens=4):
    return constant_model(states).sbert_wk(np.arange(tokens), [0, tokens], 0, window)[0]


S = 2**-0.5


@pytest.mark.parametrize(
    ("states", "window", "alpha"),
    [
        # two layers that see each other: equal alignment, equal novelty
        ([[1, 0, 0], [3, 4, 0]], 1, [1 / 2, 1 / 2]),
        # window 2: layer 1 has none. No alignment: 1/2 each. Novelty sin = 0.8 of layer 0, 1 of layer 1.
        ([[1, 0, 0], [3, 4, 0]], 2, [(1 / 2 + 0.8 / 1.8) / 2, (1 / 2 + 1 / 1.8) / 2]),
        # Layer 0 beside e0 and e0 + e1: c = (1 + S) / 2 of 3 rows; layer 1, with layer 2 alone, and layer 2: c = 1.
        # Novelty 0, S, S.
        (
            [[1, 0, 0], [1, 0, 0], [1, 1, 0]],
            2,
            np.array([1 / (3 + 3 * S), 1 / 4, 1 / 6]) / (1 / (3 + 3 * S) + 1 / 4 + 1 / 6) / 2 + np.array([0, 1, 1]) / 4,
        ),
        # opposite layers: c = -1, all alike
        ([[1, 0], [-1, 0]], 1, [1 / 2, 1 / 2]),
        # orthogonal layers: no alignment, novelty 1
        (np.eye(5), 2, [1 / 5] * 5),
        # multiples of each other: c = 1, no novelty; 3, 3, 5, 4, 3 rows, for nothing is taken from below layer 1
        (
            np.outer([1, 2, 3, 4, 5], [1, 2, 3]),
            2,
            (np.array([1 / 3, 1 / 3, 1 / 5, 1 / 4, 1 / 3]) / (2 / 3 + 1 / 5 + 1 / 4 + 1 / 3) + 1 / 5) / 2,
        ),
        # one layer at the origin: no alignment for any, no novelty for it; the others are new
        ([[0, 0, 0], [1, 0, 0], [0, 1, 0]], 1, [1 / 6, 1 / 6 + 1 / 4, 1 / 6 + 1 / 4]),
    ],
)
def test_alpha_worked_out_by_hand(states, window, alpha):
    expected = np.asarray(alpha) @ np.asarray(states, float)
    np.testing.assert_allclose(of_constant(states, window), expected, rtol=1e-6, atol=1e-7)


def test_the_last_layer_alone_has_all_the_weight():
    found = constant_model([[9, 9], [3, 4]]).sbert_wk([1, 2, 3], [0, 3], 1, 2)
    np.testing.assert_array_equal(found, [[3, 4]])


@pytest.mark.parametrize("window", [1, 2, 7])
def test_equal_layers_give_that_state(window):
    state = noise(3, 37)
    np.testing.assert_allclose(of_constant([state] * 6, window), state, rtol=1e-7)


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_zero_states_give_zeros(tokens):
    assert not of_constant(np.zeros((6, 7)), 2, tokens).any()


def test_more_layers_than_dimensions():
    """Two or more states of the window span everything: nothing is new, and all of f_k is aligned."""
    states = np.abs(np.random.default_rng(0).normal(size=(9, 2))).astype(np.float32).astype(np.float64)
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    alignment = []
    for k in range(9):
        window = [j for j in range(k - 2, k + 3) if 0 <= j < 9 and j != k and (j > k or k >= 2)]
        alignment.append(1 / (2 * (len(window) + 1) * (unit[window] @ unit[k]).mean()))
    expected = (np.array(alignment) / sum(alignment) + 1 / 9) / 2 @ states
    np.testing.assert_allclose(of_constant(states, 2), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-38, 1e-18, 1e18, 1e38])
def test_any_size_of_states(size):
    """Every measure is a ratio: the vector grows with the states."""
    rng = np.random.default_rng(1)
    states = (rng.normal(size=(6, 40)) * size / 8).astype(np.float32)
    expected = token_vector(states.astype(np.float64), 2)
    np.testing.assert_allclose(of_constant(states, 2), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5, 1e-7, 1e-12])
def test_nearly_equal_layers_are_finite_and_close_to_them(distance):
    rng = np.random.default_rng(2)
    state = rng.normal(size=40)
    states = state + distance * rng.normal(size=(8, 40))
    np.testing.assert_allclose(of_constant(states, 2), state, atol=3 * distance + 1e-6)


# ---- what may be passed in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_start": -1}, "layer_start is -1; it must be from 0 to 3"),
        ({"layer_start": 4}, "layer_start is 4; it must be from 0 to 3"),
        ({"window": 0}, "window is 0; it must be from 1"),
        ({"skip": -1}, "skip is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"ids": [0, 90]}, r"ids\[1\] is 90"),
        ({"offsets": [0, 1]}, "offsets must start with 0 and end"),
        ({"layer_start": 1.5}, "float"),
    ],
)
def test_the_core_refuses_what_it_cannot_run(models, change, message):
    arguments = {"ids": [0, 1], "offsets": [0, 2], "layer_start": 3, "window": 2}
    with pytest.raises((ValueError, TypeError), match=message):
        models["three layers"].sbert_wk(**arguments | change)
    assert np.isfinite(models["three layers"].sbert_wk(**arguments)).all()


def test_nothing_in_gives_nothing_out(models):
    assert models["three layers"].sbert_wk([], [0], 1, 2).shape == (0, 40)


def test_every_allocation_may_fail(models):
    model, (ids, offsets) = models["five layers"], packed()
    expected = model.sbert_wk(ids, offsets, 1, 2)
    for n in range(1, 1000):
        _core.fail_allocation(n)
        try:
            found = model.sbert_wk(ids, offsets, 1, 2, threads=2)
            break
        except MemoryError:
            continue
        finally:
            _core.fail_allocation(0)
    assert n > 3
    np.testing.assert_array_equal(found, expected)


def test_memory_does_not_grow_with_sentences():
    """All kept states of these sentences would be 200 MB."""
    code = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from test_sbert_wk import LENGTHS, core_model, packed
model = core_model(12, 48, 4, 20)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
model.sbert_wk(*packed(), 0, 2, threads=2)
ids, offsets = packed(LENGTHS * 400)
before = peak()
model.sbert_wk(ids, offsets, 0, 2, threads=2)
print(len(ids) * 13 * 48 * 4 / 1e6, peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", code, str(HERE)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    megabytes, grown = map(float, run.stdout.split())
    assert megabytes > 200 and grown < 40


# ---- texts ----------------------------------------------------------------------------------------------------------

TEXTS = ["the cat sat on the mat.", "a big dog runs!", "", "happy", "the cat sat on the mat."]


def test_of_texts(tmp_path):
    model = SentenceEncoder(bert_folder(tmp_path, num_hidden_layers=6))
    found = model.encode(TEXTS, pooling="sbert_wk")
    assert_close(found, np.stack([sbert_wk(states, 4, 2) for states in model.hidden_states(TEXTS)]), 1e-6)
    assert model.encode([], pooling="sbert_wk").shape == (0, 24)
    head = Pooling(SbertWk(2, window=1), head=(Normalize(),))
    expected = np.stack([sbert_wk(states, 2, 1) for states in model.hidden_states(TEXTS)])
    assert_close(model.encode(TEXTS, pooling=head), expected / np.linalg.norm(expected, axis=1, keepdims=True), 1e-6)
    with pytest.raises(ValueError, match="layer_start is 7"):
        model.encode(TEXTS, pooling=SbertWk(7))


def test_a_prompt_can_be_left_out(tmp_path):
    model = SentenceEncoder(sentence_transformers_folder(tmp_path))
    hidden = model.hidden_states(TEXTS, prompt="the big ")
    for skip_prompt, skip in ((False, 0), (True, 3)):  # [CLS] the big
        chosen = Pooling(SbertWk(1, window=1), include_prompt=not skip_prompt)
        found = model.encode(TEXTS, prompt="the big ", pooling=chosen)
        assert_close(found, np.stack([sbert_wk(states[:, skip:], 1, 1) for states in hidden]), 1e-6)


def test_a_vector_that_is_not_finite_is_an_error(tmp_path):
    folder = bert_folder(tmp_path)
    tensors = bert_tensors(bert_config())
    for name in tensors:
        if name.endswith("output.LayerNorm.weight"):
            tensors[name] = np.full_like(tensors[name], 3e38)
    write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(ValueError, match=r"the vector of sentences\[0\] is not finite"):
        SentenceEncoder(folder).encode(TEXTS, pooling=SbertWk(0))
