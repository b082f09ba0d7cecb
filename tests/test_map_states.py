"""map_states: every sentence's hidden states, one at a time, in order, and never many of them in memory."""

from __future__ import annotations

import tracemalloc
import weakref

import numpy as np
import pytest
from fabricate import bert_folder

from sentpool import SentenceEncoder, encoding_run

TEXTS = ["the cat sat on the mat.", "a big dog runs!", "", "happy", "the cat sat on the mat."]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> SentenceEncoder:
    return SentenceEncoder(bert_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(params=[1, 5000, 1 << 26], ids=["text by text", "small blocks", "one block"])
def block(request, monkeypatch):
    monkeypatch.setattr(encoding_run, "_STATE_BYTES", request.param)


def many(count):
    return [f"{'the cat ' * (i % 13)}sat {'a b c d'[i % 7]}" for i in range(count)]


def assert_equal_lists(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_sentence_in_order(model, block):
    texts = TEXTS + many(40)
    expected = [model.hidden_states(text) for text in texts]
    found = model.map_states(texts, lambda states: states)
    assert [one.shape for one in found] == [(3, one.shape[1], 24) for one in expected]
    assert all(one.dtype == np.float32 and one.flags.c_contiguous and one.flags.writeable for one in found)
    assert_equal_lists(found, expected)
    assert_equal_lists(model.hidden_states(texts), expected)
    assert_equal_lists(model.encode(texts, output_value="token_embeddings"), [states[-1] for states in expected])


def test_bits_do_not_depend_on_threads(model, block):
    expected = model.hidden_states(TEXTS)
    for threads in (1, 2, 3):
        assert_equal_lists(model.map_states(TEXTS, np.copy, threads=threads), expected)


def test_equal_sentences_are_called_for_each_with_an_array_of_its_own(model, block):
    calls = []

    def spoil(states):
        calls.append(states.copy())
        states[:] = np.nan

    assert model.map_states(TEXTS + TEXTS, spoil) == [None] * 10
    assert_equal_lists(calls, model.hidden_states(TEXTS + TEXTS))


def test_equal_sentences_of_a_block_are_computed_once(model):
    computed = []

    class Counting:
        def hidden_states(self, ids, offsets, **options):
            computed.append(len(offsets) - 1)
            return model._core.hidden_states(ids, offsets, **options)

    options = {"prompt": "", "batch_size": 32, "threads": 1, "show_progress_bar": False, "one_by_one": True}
    options |= {"n_layers": model.n_layers, "hidden_size": model.hidden_size}
    run = encoding_run.EncodingRun(Counting(), model.tokenizer, TEXTS * 20, **options)
    assert len(list(run.each_hidden_states())) == 100
    assert sum(computed) == 4


def test_a_string_counts_as_a_list_of_one_and_nothing_gives_nothing(model):
    assert_equal_lists(model.map_states("happy", np.copy), [model.hidden_states("happy")])
    assert model.map_states([], np.copy) == []


def test_prompts(model):
    found = model.map_states(TEXTS, np.copy, prompt="the big ")
    assert_equal_lists(found, model.hidden_states(["the big " + text for text in TEXTS]))
    with pytest.raises(ValueError, match="prompt_name is 'nope'"):
        model.map_states(TEXTS, np.copy, prompt_name="nope")


@pytest.mark.parametrize("error", [KeyError("mine"), StopIteration(), KeyboardInterrupt(), GeneratorExit()])
def test_what_fn_raises_comes_out_unchanged(model, error):
    def fail(states):
        raise error

    with pytest.raises(type(error)) as raised:
        model.map_states(TEXTS, fail)
    assert raised.value is error
    assert len(model.map_states(TEXTS, np.shape)) == 5


@pytest.mark.parametrize("fn", [None, 3, "mean", [np.mean]])
def test_fn_must_be_callable(model, fn):
    with pytest.raises(TypeError, match=r"fn must be callable with an array \(L \+ 1, T, H\), not "):
        model.map_states(TEXTS, fn)


def test_sentences_are_checked(model):
    with pytest.raises(TypeError, match=r"sentences\[1\] is int 3, not str"):
        model.map_states(["ok", 3], np.copy)


def test_fn_may_use_the_model(model):
    found = model.map_states(TEXTS, lambda states: model.encode("happy"))
    np.testing.assert_array_equal(found, [model.encode("happy")] * 5)


def test_no_array_outlives_its_call(model, block):
    alive = []
    most = 0

    def watch(states):
        nonlocal most
        alive.append(weakref.ref(states))
        most = max(most, sum(ref() is not None for ref in alive))

    model.map_states(many(100), watch)
    assert len(alive) == 100 and most <= 2


@pytest.mark.parametrize("count", [600, 1500])
def test_memory_is_that_of_one_block(model, monkeypatch, count):
    """Of 3 layers x 24 numbers x up to 32 tokens a text; all of them would be 5 MB and more."""
    texts = [f"{i} " + "the cat sat on the mat " * 5 for i in range(count)]
    bytes_of_all = sum(model.map_states(texts, lambda states: states.nbytes))
    monkeypatch.setattr(encoding_run, "_STATE_BYTES", 200_000)
    model.map_states(texts[:3], np.shape)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        model.map_states(texts, np.shape)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert bytes_of_all > 5e6
    # the block, a text's own copy, the token ids of 512 texts
    assert peak < 2_000_000


def test_a_progress_bar_when_asked_for(model, capsys):
    model.map_states(TEXTS, np.shape, show_progress_bar=True)
    assert "Encoding" in capsys.readouterr().err
    model.map_states(TEXTS, np.shape)
    assert capsys.readouterr() == ("", "")
