"""Dropout: Philox against its published answers, masks and the whole forward pass against NumPy, bits, and what a user
may ask for."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fabricate import bert_config, bert_folder, bert_tensors, write_safetensors
from golden_cases import EPS, MODELS, build, sentences, tensors
from numpy_dropout import EMBEDDING, bert, kept_states, of_bert, philox
from numpy_dropout import draws as draws_of
from test_bits import environments

from sentpool import SentenceEncoder, _core, encoding_run

pytestmark = pytest.mark.training

HERE = Path(__file__).resolve().parent

# ---- Philox ----------------------------------------------------------------------------------------------------------

# Of the Random123 library's kat_vectors: counter, key, words.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter, key, words):
    counter, (low, high), words = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    assert philox(counter, high << 32 | low).tolist() == words
    _kernels = pytest.importorskip("sentpool._kernels", reason="build with SENTPOOL_KERNELS=1")
    assert list(_kernels.philox(tuple(counter), high << 32 | low)) == words


# ---- the kernels -----------------------------------------------------------------------------------------------------

try:
    from kernel_table import Draws, Guarded, Kernels, address, isas, same
except ImportError:
    KERNELS = [pytest.param(None, marks=pytest.mark.skip("build with SENTPOOL_KERNELS=1"))]
else:
    KERNELS = [pytest.param(Kernels(isa), id=isa) for isa in ("scalar", *isas())]


def kernel_test(test):
    return pytest.mark.kernels(pytest.mark.parametrize("kernels", KERNELS)(test))


WIDTHS = (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100)
# An ordinary place; and every field at its limit, so that one which reached into another would show.
PLACES = [
    {"seed": 0x0123456789ABCDEF, "step": 5, "row": 77, "layer": 3, "site": 2},
    {"seed": 2**64 - 1, "step": 2**32 - 1, "row": 2**32 - 1, "layer": 2**11 - 1, "site": 2**4 - 1},
    {"seed": 0, "step": 0, "row": 0, "layer": 0, "site": 0},
]
RATES = (0.0, 0.1, 0.5, 0.999)


def draws(p: float, place: dict):
    return Draws(**place, threshold=int(p * 2**32), scale=1 / (1 - p))


def numbers(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def expected(x, kept, p):
    return np.where(kept, x * np.float32(1 / (1 - p)), np.float32(0))


@kernel_test
@pytest.mark.parametrize("place", PLACES)
def test_rows_are_dropped_as_numpy_does(kernels, place):
    for H, p in itertools.product(WIDTHS, RATES):
        for token in (0, 2**16 - 1, 2**21 - 3):
            x = numbers(3, H)
            wide = np.full((3, H + 2), np.nan, np.float32)
            wide[:, :H] = x
            kernels.dropout(address(wide), H + 2, draws(p, place), token, 3, H)
            assert same(wide[:, :H].copy(), expected(x, kept_states(p, place, token, 3, H), p)), (H, p, token)
            assert np.isnan(wide[:, H:]).all(), "wrote beyond the columns asked for"


@kernel_test
@pytest.mark.parametrize("place", PLACES)
def test_columns_are_dropped_as_numpy_does(kernels, place):
    nr = kernels.nr
    for keys, p in itertools.product((1, 2, 3, 4, 5, 8, 31, 130), RATES):
        for queries in {1, 3, nr // 2 - 1, nr // 2, nr // 2 + 1, nr}:
            blocks = -(-keys // 4)
            for query, block in ((0, 0), (2**16 - 2, 2**16 - 1), (2**21 - queries, 2**28 - blocks)):
                x = numbers(keys, nr)
                y = x.copy()
                kernels.dropout_columns(address(y), draws(p, place), query, queries, block, keys)
                words = draws_of(place, query + np.arange(queries)[:, None], block + np.arange(blocks)[None])
                words = words.reshape(queries, -1)[:, :keys].T
                found = y[:, :queries].copy()
                assert same(found, expected(x[:, :queries], words >= int(p * 2**32), p)), (keys, p, queries, query)


@kernel_test
def test_more_columns_than_16_bits_of_blocks(kernels):
    H, place = 4 * 2**16 + 70, PLACES[0]
    x = numbers(1, H)
    y = x.copy()
    kernels.dropout(address(y), H, draws(0.3, place), 0, 1, H)
    assert same(y, expected(x, kept_states(0.3, place, 0, 1, H), 0.3))


@kernel_test
def test_a_dropped_value_is_zero_whatever_it_was(kernels):
    place = PLACES[0]
    kept = kept_states(0.5, place, 0, 1, 64)
    for value in (np.nan, np.inf, -np.inf, -1.0):
        y = np.full((1, 64), value, np.float32)
        kernels.dropout(address(y), 64, draws(0.5, place), 0, 1, 64)
        assert same(y, np.where(kept, np.float32(2 * value), np.float32(0)))


@kernel_test
def test_dropout_stays_inside_guard_pages(kernels):
    place = draws(0.3, PLACES[0])
    for H in WIDTHS:
        y = Guarded(numbers(3, H))
        kernels.dropout(y.address, H, place, 0, 3, H)
        scores = Guarded(numbers(H, kernels.nr))
        for queries in (1, kernels.nr):
            kernels.dropout_columns(scores.address, place, 0, queries, 0, H)


@kernel_test
@pytest.mark.parametrize("place", PLACES)
def test_slopes_of_rrelu_are_drawn_as_numpy_does(kernels, place):
    lowest, width = np.float32(1 / 8), np.float32(5 / 24)
    for H, token in itertools.product(WIDTHS, (0, 2**16 - 1, 2**21 - 3)):
        x = numbers(3, H)
        x[0, 0], x[1, H // 2], x[2, H - 1] = 0, np.nan, -np.inf
        words = draws_of(place, token + np.arange(3)[:, None], np.arange(-(-H // 4))[None]).reshape(3, -1)[:, :H]
        part = (words >> np.uint64(8)).astype(np.float32) * np.float32(2**-24)
        given, slopes = Guarded(x), Guarded(np.zeros((3, H), np.float32))
        kernels.rrelu_slopes(slopes.address, given.address, draws(0, place), token, 3, H)
        assert same(slopes.array.copy(), np.where(x > 0, np.float32(1), part * width + lowest)), (H, token)


@kernel_test
def test_slopes_of_rrelu_reach_from_an_eighth_to_a_third(kernels):
    """Also where the draw is the largest one: the sum is rounded to no more than a third."""
    slopes, x = np.zeros((1000, 4000), np.float32), np.full((1000, 4000), -1, np.float32)
    kernels.rrelu_slopes(address(slopes), address(x), draws(0, PLACES[0]), 0, 1000, 4000)
    assert np.float32(1 / 8) <= slopes.min() < 0.1250002
    assert 0.3333331 < slopes.max() <= np.float32(1 / 3)
    assert np.float32(1 - 2**-24) * np.float32(5 / 24) + np.float32(1 / 8) <= np.float32(1 / 3)
    assert slopes.mean(dtype=float) == pytest.approx(11 / 48, abs=1e-4)


# ---- the masks -------------------------------------------------------------------------------------------------------


def within_chance(hits: int, trials: int, p: float) -> bool:
    return abs(hits - trials * p) < 5 * np.sqrt(trials * p * (1 - p))


def test_as_many_are_dropped_as_the_rate_says():
    place = PLACES[0]
    for p in (0.01, 0.1, 0.5, 0.9):
        dropped = ~kept_states(p, place, 0, 500, 400)
        assert within_chance(dropped.sum(), dropped.size, p)
        for word in range(4):
            part = dropped[:, word::4]
            assert within_chance(part.sum(), part.size, p)


def test_masks_of_two_places_are_independent():
    base = {"seed": 1, "step": 1, "row": 1, "layer": 1, "site": 1}
    others = [{**base, name: value} for name in base for value in (0, 2, 3)]
    masks = [kept_states(0.5, place, 0, 200, 400) for place in (base, *others, {**base, "seed": 1 + 2**32})]
    for a, b in itertools.combinations(masks, 2):
        assert within_chance((a == b).sum(), a.size, 0.5)
    mask = masks[0]
    assert within_chance((mask[1:] == mask[:-1]).sum(), mask[1:].size, 0.5)
    assert within_chance((mask[:, 1:] == mask[:, :-1]).sum(), mask[:, 1:].size, 0.5)


# ---- the whole forward pass ------------------------------------------------------------------------------------------

HIDDEN, ATTENTION, SEED, STEP, FIRST_ROW = 0.1, 0.2, 0xFEDCBA9876543210, 9, 1000
DROPOUT = (of_bert(HIDDEN, ATTENTION), SEED, STEP, FIRST_ROW)


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_are_those_of_numpy(name):
    weights, (ids, offsets) = tensors(name), sentences(name)
    found = build(name).hidden_states(ids, offsets, dropout=DROPOUT)
    sizes = {"layers": MODELS[name]["layers"], "heads": MODELS[name]["heads"], "eps": EPS}
    rates = {"hidden": HIDDEN, "attention": ATTENTION, "seed": SEED, "step": STEP}
    wanted = [
        bert(weights, ids[start:stop], **sizes, **rates, row=FIRST_ROW + i)
        for i, (start, stop) in enumerate(zip(offsets[:-1], offsets[1:], strict=True))
    ]
    for layer, (ours, theirs) in enumerate(zip(found, np.concatenate(wanted, axis=1), strict=True)):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max(), layer


def digest(model, ids, offsets, dropout=DROPOUT, **options) -> str:
    """SHA-256 over poolings of every layer, and over all hidden states."""
    layers = range(sum(name.endswith("query.weight") for name in model.tensors()) + 1)
    states = model.layer_states(ids, offsets, layers, ["cls", "mean"], dropout=dropout, **options)
    hidden = model.hidden_states(ids, offsets, threads=options.get("threads", 1), dropout=dropout)
    return hashlib.sha256(states.tobytes() + hidden.tobytes()).hexdigest()


@pytest.mark.bits
@pytest.mark.parametrize("name", ["odd", "deep_products"])
def test_batch_and_threads_change_nothing(name):
    model, (ids, offsets) = build(name), sentences(name)
    wanted = digest(model, ids, offsets)
    for threads, batch_size in itertools.product((1, 2, 3, 7), (1, 8, 512)):
        assert digest(model, ids, offsets, threads=threads, batch_size=batch_size) == wanted, (threads, batch_size)


@pytest.mark.bits
def test_a_sentence_alone_gives_the_bits_of_its_row():
    model, (ids, offsets) = build("odd"), sentences("odd")
    whole = model.hidden_states(ids, offsets, dropout=DROPOUT)
    for i, (start, stop) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        place = (*DROPOUT[:-1], FIRST_ROW + i)
        alone = model.hidden_states(ids[start:stop], [0, stop - start], dropout=place)
        assert alone.tobytes() == whole[:, start:stop].tobytes()


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from golden_cases import build, sentences
from test_dropout import digest
print(digest(build("odd"), *sentences("odd"), threads=2))
"""


@pytest.mark.every_way
@pytest.mark.bits
@pytest.mark.parametrize("way", [*environments(), "scalar"])
def test_every_way_to_compute_gives_one_hash(way):
    variables = {**environments(), "scalar": {"SENTPOOL_ISA": "scalar", "SENTPOOL_GEMM": "panel"}}[way]
    command = [sys.executable, "-c", CHILD, str(HERE)]
    run = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [digest(build("odd"), *sentences("odd"))]


@pytest.mark.bits
def test_nothing_dropped_is_inference():
    model, (ids, offsets) = build("odd"), sentences("odd")
    wanted = digest(model, ids, offsets, None)
    for rate in (0.0, 1e-300):
        assert digest(model, ids, offsets, ((rate,) * 5, 1, 2, 3)) == wanted
    for place in range(5):
        rates = tuple(0.1 * (place == other) for other in range(5))
        assert digest(model, ids, offsets, (rates, 1, 2, 3)) != wanted


def test_the_embedding_output_is_dropped_where_the_mask_says():
    model, (ids, offsets) = build("thin"), sentences("thin")
    plain = model.hidden_states(ids, offsets)[0]
    found = model.hidden_states(ids, offsets, dropout=((0.25, 0, 0, 0, 0), 3, 4, 5))[0]
    for row, (start, stop) in enumerate(zip(offsets[:-1], offsets[1:], strict=True), 5):
        place = {"seed": 3, "step": 4, "row": row, "layer": 0, "site": EMBEDDING}
        kept = kept_states(0.25, place, 0, stop - start, plain.shape[1])
        np.testing.assert_array_equal(found[start:stop], expected(plain[start:stop], kept, 0.25))


RATES = (0.1,) * 5


@pytest.mark.parametrize(
    ("dropout", "error", "message"),
    [
        (0.1, TypeError, "dropout must be None or a tuple, not 0.1"),
        ((RATES, 0), TypeError, "dropout must be .rates, seed, step, first_row."),
        ((0.1, 0, 0, 0), TypeError, "the rates of dropout must be a tuple, not 0.1"),
        (((0.1, 0.1), 0, 0, 0), TypeError, "the rates of dropout must be five probabilities"),
        (
            ((0.1, 0, 0, 0, 1.0), 0, 0, 0),
            ValueError,
            "the rates of dropout are .0.1, .*; they must be from 0 to below 1",
        ),
        (((0.1, -0.1, 0, 0, 0), 0, 0, 0), ValueError, "they must be from 0"),
        (((0, 0, 0, float("nan"), 0), 0, 0, 0), ValueError, "they must be from 0"),
        ((("a", 0.1, 0, 0, 0), 0, 0, 0), TypeError, "five probabilities|must be real number"),
        ((RATES, -1, 0, 0), ValueError, "its seed must be an integer from 0 to"),
        ((RATES, 2**64, 0, 0), ValueError, "its seed must be an integer from 0 to"),
        ((RATES, 0.5, 0, 0), ValueError, "its seed must be an integer from 0 to"),
        ((RATES, 0, 2**32, 0), ValueError, "step of dropout is 4294967296; it must be from 0 to 4294967295"),
        ((RATES, 0, 0, -1), ValueError, "first_row of dropout is -1; it must be from 0 to 4294967294"),
        ((RATES, 0, 0, 2**32 - 1), ValueError, "first_row of dropout is 4294967295"),
    ],
)
def test_the_core_refuses_what_it_cannot_drop(dropout, error, message):
    model, arguments = build("odd"), ([0, 1, 2], [0, 1, 3])
    with pytest.raises(error, match=message):
        model.hidden_states(*arguments, dropout=dropout)
    with pytest.raises(error, match=message):
        model.layer_states(*arguments, [0], ["mean"], dropout=dropout)
    rows_at_the_end = (RATES, 2**64 - 1, 2**32 - 1, 2**32 - 2)
    assert np.isfinite(model.hidden_states(*arguments, dropout=rows_at_the_end)).all()


def test_a_sentence_with_more_tokens_than_draws_is_refused():
    T = 2**21 + 1
    sizes = {"vocab_size": 1, "type_vocab_size": 1, "hidden": 1, "layers": 1, "heads": 1, "intermediate": 1}
    model = _core.Model(max_positions=T, **sizes)
    for name, shape in model.tensors().items():
        model.load(name, 0, np.ones(shape, np.float32))
    model.finish()
    ids = np.zeros(T + 1, np.int32)
    with pytest.raises(ValueError, match="offsets: with dropout sentence 1 may have 2097152 tokens"):
        model.layer_states(ids, [0, 1, T + 1], [0], ["cls"], dropout=DROPOUT)
    assert model.layer_states(ids[1:], [0, T - 1, T], [0], ["cls"], dropout=DROPOUT).shape == (2, 1, 1, 1)


# ---- SentenceEncoder -------------------------------------------------------------------------------------------------

TEXTS = ["the cat sat on the mat.", "a big dog runs!", "", "happy", "the cat sat on the mat.", "happy", "the"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> SentenceEncoder:
    return SentenceEncoder(bert_folder(tmp_path_factory.mktemp("model")))


def test_a_seed_decides_the_masks(model):
    first = model.layer_states(TEXTS, dropout_seed=7)
    again = model.layer_states(iter(TEXTS), dropout_seed=np.uint64(7))
    np.testing.assert_array_equal(first.array, again.array)
    np.testing.assert_array_equal(first.lengths, model.layer_states(TEXTS).lengths)
    for other in (None, 0, 8, 2**64 - 1):
        assert not np.isclose(first.array, model.layer_states(TEXTS, dropout_seed=other).array).all(axis=-1).any()


def test_equal_sentences_have_masks_of_their_own(model):
    states = model.layer_states(["happy"] * 4, dropout_seed=1).array
    for a, b in itertools.combinations(states, 2):
        assert not np.isclose(a, b).all(axis=-1).any()
    hidden = model.hidden_states(["happy"] * 4, dropout_seed=1)
    assert len({h.tobytes() for h in hidden}) == 4


def test_layer_states_and_hidden_states_have_the_same_masks(model):
    states = model.layer_states(TEXTS, dropout_seed=7).array
    hidden = model.hidden_states(TEXTS, dropout_seed=7)
    for pooled, h in zip(states, hidden, strict=True):
        np.testing.assert_array_equal(pooled[:, 0], h[:, 0])
        np.testing.assert_allclose(pooled[:, 1], h.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.hidden_states(TEXTS[0], dropout_seed=7), hidden[0])


@pytest.mark.bits
def test_batches_threads_and_blocks_change_nothing(model, monkeypatch):
    wanted = model.layer_states(TEXTS, dropout_seed=7).array
    hidden = [h.tobytes() for h in model.hidden_states(TEXTS, dropout_seed=7)]
    for sentences_of_a_block in (512, 1, 2, 3):
        monkeypatch.setattr(encoding_run, "_BLOCK_SENTENCES", sentences_of_a_block)
        for threads, batch_size in itertools.product((1, 2, 3), (1, 2, 32)):
            found = model.layer_states(TEXTS, dropout_seed=7, threads=threads, batch_size=batch_size).array
            assert found.tobytes() == wanted.tobytes(), (sentences_of_a_block, threads, batch_size)
        assert [h.tobytes() for h in model.hidden_states(TEXTS, dropout_seed=7, threads=2)] == hidden


def test_rates_are_those_of_the_folder(tmp_path):
    changes = [("hidden_dropout_prob", 0.3), ("attention_probs_dropout_prob", 0.4)]
    rates = dict(changes)
    encoder = SentenceEncoder(bert_folder(tmp_path / "both", **rates))
    batch = encoder.tokenizer.encode(TEXTS)
    direct = encoder._core.hidden_states(batch.ids, batch.offsets, dropout=(of_bert(0.3, 0.4), 5, 0, 0))
    np.testing.assert_array_equal(np.concatenate(encoder.hidden_states(TEXTS, dropout_seed=5), axis=1), direct)
    none = SentenceEncoder(bert_folder(tmp_path / "none", **dict.fromkeys(rates, 0.0)))
    np.testing.assert_array_equal(none.layer_states(TEXTS, dropout_seed=5).array, none.layer_states(TEXTS).array)
    for name, rate in changes:
        one = SentenceEncoder(bert_folder(tmp_path / name, **{**dict.fromkeys(rates, 0.0), name: rate}))
        assert (one.layer_states(TEXTS, dropout_seed=5).array != none.layer_states(TEXTS).array).any()


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, r"dropout_seed is -1; it must be an integer from 0 to 2\*\*64 - 1"),
        (2**64, ValueError, "dropout_seed is 18446744073709551616; it must be"),
        (1.0, TypeError, "dropout_seed must be an integer .*, not float 1.0"),
        (True, TypeError, "dropout_seed must be an integer .*, not bool True"),
        ("7", TypeError, "dropout_seed must be an integer .*, not str '7'"),
    ],
)
def test_a_seed_is_an_integer_of_64_bits(model, seed, error, message):
    for run in (model.layer_states, model.hidden_states):
        with pytest.raises(error, match=message):
            run(TEXTS, dropout_seed=seed)


def test_an_overflow_is_reported_for_the_sentence_that_has_it(tmp_path):
    """Equal texts are not equal under dropout: the message names the one that overflowed, not the first of its kind."""
    folder = bert_folder(tmp_path, hidden_dropout_prob=0.5)
    weights = bert_tensors(bert_config())
    # One column of the embedding output is the largest float32: what is kept of it is doubled, and overflows.
    weights["embeddings.LayerNorm.weight"][:] = 0
    weights["embeddings.LayerNorm.bias"][:] = 0
    weights["embeddings.LayerNorm.bias"][0] = np.finfo(np.float32).max
    write_safetensors(folder / "model.safetensors", weights)

    def overflows(seed: int, row: int) -> bool:
        place = {"seed": seed, "step": 0, "row": row, "layer": 0, "site": EMBEDDING}
        return kept_states(0.5, place, 0, 2, 24)[:, 0].any()

    seed = next(seed for seed in range(1000) if [overflows(seed, row) for row in range(3)] == [False, False, True])
    encoder = SentenceEncoder(folder)
    for run in (encoder.layer_states, encoder.hidden_states):
        with pytest.raises(ValueError, match=r"the vector of sentences\[2\] is not finite"):
            run(["", "", ""], dropout_seed=seed)
        run(["", ""], dropout_seed=seed)
