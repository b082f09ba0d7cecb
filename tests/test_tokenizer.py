"""Texts become the ids that `tokenizers` and transformers give them, however long and strange they are."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from fabricate import (
    VOCABULARY,
    bert_folder,
    plain_backend,
    rows,
    tokenizer_folder,
    tokenizer_json,
    write_json,
)
from folder_checks import SENTENCES, in_threads, read
from tokenizers import Tokenizer

from sentpool import tokenizer, words
from sentpool.errors import ModelFolderError, SentpoolWarning
from sentpool.tokenizer import TextTokenizer


@pytest.fixture
def tiny(tmp_path) -> TextTokenizer:
    return read(tokenizer_folder(tmp_path, tokenizer_json()))


# Ids.


def test_packed_ids_by_hand(tiny):
    ids = {token: id for id, token in enumerate(VOCABULARY)}
    batch = tiny.encode(["The cat!", "", "unhappy zzz"])
    expected = [
        ["[CLS]", "the", "cat", "!", "[SEP]"],
        ["[CLS]", "[SEP]"],
        ["[CLS]", "un", "##happy", "[UNK]", "[SEP]"],
    ]
    assert rows(batch) == [[ids[token] for token in row] for row in expected]
    assert batch.ids.dtype == np.int32
    assert batch.offsets.dtype == np.int64
    assert batch.offsets.tolist() == [0, 5, 7, 12]
    assert batch.truncated.tolist() == [False, False, False]


def test_no_texts(tiny):
    batch = tiny.encode([])
    assert batch.ids.shape == (0,)
    assert batch.offsets.tolist() == [0]
    assert batch.truncated.shape == (0,)


def test_truncation_and_padding_of_the_file_are_dropped(tiny):
    text = "the cat " * 20
    assert len(tiny.encode([text]).ids) == 42
    tiny.max_seq_length = 5
    batch = tiny.encode([text, "the cat sat", "the cat sat on"])
    assert rows(batch)[0] == [2, 5, 7, 5, 3]
    assert batch.truncated.tolist() == [True, False, True]


@pytest.mark.parametrize("length", [2, 3, 4, 17])
def test_truncation_is_that_of_tokenizers(tiny, length):
    backend = plain_backend(tokenizer_json())
    backend.enable_truncation(length)
    tiny.max_seq_length = length
    assert rows(tiny.encode(SENTENCES)) == [encoding.ids for encoding in backend.encode_batch(SENTENCES)]


def test_count_is_a_prompt_without_its_closing_token(tiny):
    assert tiny.count("the cat: ") == 4
    assert tiny.count("") == 1


@pytest.mark.parity
def test_limits_are_those_of_sentence_transformers(tmp_path):
    models = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    for length, model_max in ((None, None), (None, 7), (9, 7), (9, None), (None, 10**30), (None, 1000)):
        path = bert_folder(tmp_path / f"{length}-{model_max}")
        write_json(path / "tokenizer_config.json", {} if model_max is None else {"model_max_length": model_max})
        theirs = models.Transformer(str(path), max_seq_length=length)
        assert read(path, max_seq_length=length).max_seq_length == theirs.max_seq_length


# Limits.


@pytest.mark.parametrize(
    ("length", "model_max", "expected"),
    [
        (None, None, 128),
        (None, 7, 7),
        (9, 7, 9),
        (9, None, 9),
        (500, None, 128),
        (None, 10**30, 128),
        (None, 1e30, 128),
    ],
)
def test_max_seq_length(tmp_path, length, model_max, expected):
    path = tokenizer_folder(tmp_path, tokenizer_json(), settings={"model_max_length": model_max})
    assert read(path, max_seq_length=length).max_seq_length == expected


def test_max_seq_length_is_settable_within_the_positions(tiny):
    tiny.max_seq_length = np.int64(128)
    assert tiny.max_seq_length == 128
    for value in (129, 1, 0, -5):
        with pytest.raises(ValueError, match=rf"max_seq_length is {value}; allowed are 2 .* to 128"):
            tiny.max_seq_length = value
    for value in (True, 5.0, "5", None):
        with pytest.raises(TypeError, match="max_seq_length must be an integer"):
            tiny.max_seq_length = value
    assert tiny.max_seq_length == 128


@pytest.mark.parametrize("value", [0, -1, True, "512", [1], 0.5])
def test_model_max_length_is_checked(tmp_path, value):
    path = tokenizer_folder(tmp_path, tokenizer_json(), settings={"model_max_length": value})
    with pytest.raises(ModelFolderError, match=r"tokenizer_config\.json: field 'model_max_length' is"):
        read(path)


def test_a_limit_below_the_special_tokens_is_refused(tmp_path):
    path = tokenizer_folder(tmp_path, tokenizer_json())
    with pytest.raises(ModelFolderError, match="max_seq_length is 1; allowed are 2"):
        read(path, max_seq_length=1)


# Strange texts.


def test_lone_surrogates_become_u_fffd_with_one_warning(tiny):
    texts = ["the \ud800 cat", "\udfff", "dog"]
    with pytest.warns(SentpoolWarning, match=r"lone surrogates, which .* U\+FFFD") as caught:
        batch = tiny.encode(texts)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert rows(batch) == rows(tiny.encode(["the \ufffd cat", "\ufffd", "dog"]))
    with pytest.warns(SentpoolWarning):
        batch = tiny.encode(["a" * 10_000 + "\ud800"])
    assert rows(batch) == [[2, 1, 3]]
    # Where it does not matter it is not looked for.
    assert tiny.encode(["the cat " * 5000 + "\ud800"]).truncated.tolist() == [True]


def test_a_failing_tokenizer_does_not_end_the_process(tiny, monkeypatch):
    class PanicException(BaseException):
        """As the Rust bindings name theirs."""

    def panic(backend, texts):
        raise PanicException("index out of bounds")

    for module in (tokenizer, words):
        monkeypatch.setattr(module, "library_ids", panic)
    for looked_up in (tiny._words, None):
        tiny._words = looked_up
        with pytest.raises(ValueError, match="the tokenizer failed: index out of bounds"):
            tiny.encode(["a"])


def test_an_error_of_another_kind_is_passed_on(tiny):
    with pytest.raises(TypeError):
        tiny.encode([5])


def test_threads_share_a_tokenizer(tiny):
    texts = SENTENCES * 20 + ["the cat " * 3000, "\0" * 50_000, "中文" * 5000]
    expected = rows(tiny.encode(texts))
    assert all(in_threads(8, lambda: all(rows(tiny.encode(texts)) == expected for _ in range(5))))


# The real tokenizer.


@pytest.fixture(scope="module")
def minilm_tokenizer(minilm) -> TextTokenizer:
    return read(minilm, max_seq_length=256)


def test_minilm_on_real_sentences(minilm_tokenizer, minilm, data_dir):
    path = data_dir / "sts" / "STSBenchmark" / "sts-test.csv"
    with open(path, encoding="utf-8") as file:
        table = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    sentences = [text for row in table for text in row[5:7]]
    assert len(sentences) == 2758
    backend = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    batch = minilm_tokenizer.encode(sentences)
    assert rows(batch) == [encoding.ids for encoding in backend.encode_batch(sentences)]
    long = " ".join(sentences)
    ids = backend.encode(long).ids
    for length in (2, 3, 64, 511):
        minilm_tokenizer.max_seq_length = length
        for text in (long, long.replace(" ", "\n"), long.replace(" ", "、")):
            ids = backend.encode(text).ids
            assert rows(minilm_tokenizer.encode([text])) == [[*ids[: length - 1], 102]]
    minilm_tokenizer.max_seq_length = 256
