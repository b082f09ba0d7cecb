"""Texts tokenised word by word have the ids of the whole, whatever is remembered or forgotten, by any threads."""

from __future__ import annotations

import numpy as np
import pytest
from fabricate import SPECIAL_TOKENS, plain_backend, rows, tokenizer_json
from folder_checks import in_threads
from hypothesis import given
from hypothesis import strategies as st
from test_long_text import GENTLE, NASTY, SPACED_TEXTS, backends, spelling_vocabulary, whole_ids, worded_backends

from sentpool import words
from sentpool.tokenizer import TextTokenizer
from sentpool.words import Words

TEXTS = st.lists(
    SPACED_TEXTS | st.lists(st.sampled_from([*NASTY, *"   |", "cat", "ab"]), max_size=12).map("".join), max_size=6
)
ADDED = [{"content": "||"}, {"content": "a|", "special": False}, {"content": "cat|ab", "normalized": True}]
BARRED = [
    plain_backend(tokenizer_json(vocabulary=[*spelling_vocabulary(), "|"], added=added)) for added in ([], ADDED)
]  # with a token between words
PAIRS = [(backend, Words.of(backend)) for backend in (*backends(), *worded_backends(), *BARRED)]


@pytest.fixture(autouse=True)
def few_texts_are_enough():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "_FEWEST_TEXTS", 0)
        yield


def ids_of(learner: Words, texts: list[str]) -> list[list[int]]:
    return [np.frombuffer(row, np.int32).tolist() for row in learner.ids(texts)]


def test_a_few_texts_are_tokenised_whole_and_their_words_not_kept(monkeypatch):
    monkeypatch.setattr(words, "_FEWEST_TEXTS", 3)
    backend = BARRED[0]
    learner = Words.of(backend)
    assert ids_of(learner, ["cat ab", "ab"]) == [whole_ids(backend, text) for text in ("cat ab", "ab")]
    assert list(learner._known) == [""]


@pytest.mark.parametrize(("backend", "learner"), PAIRS, ids=range(len(PAIRS)))
@GENTLE
@given(texts=TEXTS)
def test_ids_are_those_of_the_whole(backend, learner, texts):
    expected = [whole_ids(backend, text) for text in texts]
    assert ids_of(learner, texts) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "_JOINED", 3)
        patch.setattr(words, "_AT_ONCE", 2)
        patch.setattr(words, "_LONGEST_WORD", 4)
        assert ids_of(Words.of(backend), texts) == expected


@pytest.mark.parametrize("most", [0, 3, 20])
def test_forgetting_changes_no_id(most, monkeypatch):
    backend = backends()[0]
    learner = Words.of(backend)
    monkeypatch.setattr(words, "_MOST_CHARACTERS", most)
    texts = ["cat ab", "ab  cat ", "a b c d", "", " "]
    for part in (texts, texts[:2], texts[2:], texts):
        assert ids_of(learner, part) == [whole_ids(backend, text) for text in part]
        assert learner._characters == sum(map(len, learner._known)) <= most
    learner.forget()
    assert list(learner._known) == [""]


def test_a_word_is_tokenised_once(monkeypatch):
    seen = []

    def watched(backend, texts, real=words.library_ids):
        seen.extend(texts)
        return real(backend, texts)

    monkeypatch.setattr(words, "library_ids", watched)
    tokenizer = TextTokenizer(backends()[0], 64)
    first = rows(tokenizer.encode(["ab cat ab", "cat ab\n"]))
    assert seen == ["ab | cat | ab\n"]
    assert rows(tokenizer.encode(["ab cat ab", "cat ab\n"])) == first
    assert len(seen) == 1
    tokenizer.forget_words()
    tokenizer.encode(["cat"])
    assert seen[1:] == ["cat"]


@pytest.mark.parametrize("vocabulary", [["cat", "ab", "|"], ["cat", "ab"]], ids=["known", "unknown"])
def test_a_word_may_hold_what_stands_between_words(vocabulary):
    backend = plain_backend(tokenizer_json(vocabulary=SPECIAL_TOKENS + vocabulary))
    for text in ("ab cat", "ab | cat", "ab|cat ab", "| ab ||", "dog ab | cat", "dog cat", "|"):
        assert ids_of(Words.of(backend), [text]) == [whole_ids(backend, text)]


def test_texts_with_long_words_are_tokenised_whole_and_not_kept():
    backend = BARRED[0]
    learner = Words.of(backend)
    texts = ["cat ab", "中文" * 100, "a" * 65 + " cat", "a" * 64]
    assert ids_of(learner, texts) == [whole_ids(backend, text) for text in texts]
    assert set(learner._known) == {"", "cat", "ab", "a" * 64}


def test_a_failure_leaves_nothing_behind():
    learner = Words.of(backends()[0])
    with pytest.raises((TypeError, UnicodeEncodeError)):
        learner.ids(["ab", "\ud800"])
    assert list(learner._known) == [""]


def test_threads_share_words_that_are_forgotten_meanwhile(monkeypatch):
    monkeypatch.setattr(words, "_MOST_CHARACTERS", 10)
    backend = backends()[0]
    learner = Words.of(backend)
    texts = [f"a{'b' * i} cat {'c' * i}a" for i in range(5)]
    expected = [whole_ids(backend, text) for text in texts]
    assert all(in_threads(4, lambda: all(ids_of(learner, texts) == expected for _ in range(300))))


@pytest.mark.parametrize("content", ["a b", " ab", "a\tb", "中a"])
def test_added_tokens_with_white_space_need_the_whole_text(content):
    assert Words.of(plain_backend(tokenizer_json(added=[{"content": content, "normalized": True}]))) is None
