"""Long texts: the ids of a piece are those of the whole, whatever the characters and wherever the cut."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from fabricate import (
    SPECIAL_TOKENS,
    plain_backend,
    rows,
    tokenizer_folder,
    tokenizer_json,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sentpool import long_text, tokenizer
from sentpool.config import EncoderConfig
from sentpool.long_text import LongText, SpacedText
from sentpool.tokenizer import TextTokenizer


def read(path: Path, **options) -> TextTokenizer:
    return TextTokenizer.read(path, EncoderConfig.read(path), **options)


# Characters that the tokenizer keeps, drops, splits at or changes; that Unicode orders, composes or widens.
NASTY = [
    *"aAbcdé中文가[]!.#SEP",
    *" \n\t\u3000\u2028\xa0",
    *"\0\x01\x1c\x85\xad\u200d\u200b\ufeff\ufffd",
    *"\u0301\u0300\u0327\u034f\u0345\u05b0\u0e38\u302e\u1baa\u1b44\u0f39\u094d\U00016ff0\U0001d165",
    *"\u0130\u03a3\u03c2\u1fed\u1fef\u0344\u2260\u2adc\uf900\u0958\ufb1d\u1e9b\u0378\U0001f600\U0001f468\U000e0001",
    "[SEP]",
    "[MASK]",
    "[x]",
    "[.!.!]",
    "##",
    "cat ",
]

TEXTS = st.lists(st.tuples(st.sampled_from(NASTY), st.sampled_from([1, 1, 1, 2, 3, 9, 40])), max_size=25).map(
    lambda runs: "".join(unit * count for unit, count in runs)
)

NORMALIZERS = [
    {},
    {"lowercase": False},
    {"lowercase": False, "strip_accents": True},
    {"strip_accents": False},
    {"handle_chinese_chars": False},
    {"clean_text": False},
]

ADDED = [
    {"content": "[x]", "normalized": True},
    {"content": "[.!.!]"},
    {"content": "[!", "lstrip": True, "rstrip": True, "special": False},
]

GENTLE = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def spelling_vocabulary() -> list[str]:
    """A token for every character that comes out of the nasty ones, so that ids show each and their order."""
    characters = set()
    for flags in NORMALIZERS:
        normalizer = plain_backend(tokenizer_json(normalizer=flags)).normalizer
        characters |= {c for unit in NASTY for c in normalizer.normalize_str(unit)}
    return SPECIAL_TOKENS + [token for c in sorted(characters) for token in (c, f"##{c}")]


def backends() -> list[Tokenizer]:
    options = {"vocabulary": spelling_vocabulary(), "added": ADDED, "longest_word": 6}
    made = [tokenizer_json(normalizer=flags, **options) for flags in NORMALIZERS]
    lowered = tokenizer_json(normalizer={"lowercase": False}, **options)
    lowered["normalizer"] = {
        "type": "Sequence",
        "normalizers": [{"type": "Lowercase"}, lowered["normalizer"]],
    }
    return [plain_backend(content) for content in (*made, lowered)]


PAIRS = [(backend, LongText.of(backend)) for backend in backends()]

PIPELINES = pytest.mark.parametrize(("backend", "learner"), PAIRS, ids=range(len(PAIRS)))


def whole_ids(backend: Tokenizer, text: str) -> list[int]:
    return backend.encode(text, add_special_tokens=False).ids


@PIPELINES
@GENTLE
@given(text=TEXTS, limit=st.integers(0, 12), chunk=st.sampled_from([1, 2, 7, 64]))
def test_first_ids_are_those_of_the_whole(backend, learner, text, limit, chunk):
    whole = whole_ids(backend, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_text, "_FIRST_CHUNK", chunk)
        ids = learner.first_ids(text, limit)
    assert ids[:limit] == whole[:limit]
    assert (len(ids) > limit) == (len(whole) > limit)


@PIPELINES
@GENTLE
@given(text=TEXTS, tail=TEXTS)
def test_condensed_text_has_the_same_ids_before_any_continuation(backend, learner, text, tail):
    condensed = learner._condense(long_text._code_points(text)) if text else np.empty(0, np.uint32)
    same = condensed.astype("<u4").tobytes().decode("utf-32-le")
    assert whole_ids(backend, same + tail) == whole_ids(backend, text + tail)


@PIPELINES
@settings(GENTLE, max_examples=250)
@given(text=TEXTS, cut=st.integers(0, 200))
def test_words_before_the_margin_are_complete_at_any_cut(backend, learner, text, cut):
    condensed = learner._condense(long_text._code_points(text + "!"))
    ids, words = learner._encode(condensed[:cut])
    complete = long_text.before_last(words, learner._margin)
    assert ids[:complete] == whole_ids(backend, text)[:complete]


@PIPELINES
def test_condensed_words_are_short(backend, learner):
    for word in ("a" * 100, "a\0" * 100, "\0" * 100 + "a\u0301\u034f\u0301" * 100):
        condensed = learner._condense(long_text._code_points(word))
        assert len(condensed) <= 2 * backend.model.max_input_chars_per_word + 3


@PIPELINES
@GENTLE
@given(text=TEXTS)
def test_a_cut_at_any_space_changes_no_id(backend, learner, text):
    whole = whole_ids(backend, text)
    for cut in (index for index, character in enumerate(text) if character == " "):
        head = whole_ids(backend, text[:cut])
        assert whole[: len(head)] == head


@PIPELINES
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(TEXTS, max_size=4), length=st.integers(2, 20))
def test_encode_looks_at_no_more_than_it_needs(backend, learner, texts, length):
    ours = TextTokenizer(backend, 64, length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "_CHARACTERS_AT_LEAST", 2)
        patch.setattr(tokenizer, "_CHARACTERS_PER_TOKEN", 1)
        patch.setattr(long_text, "_FIRST_CHUNK", 3)
        batch = ours.encode(texts)
    encodings = [backend.encode(text).ids for text in texts]
    assert rows(batch) == [ids if len(ids) <= length else [*ids[: length - 1], 3] for ids in encodings]
    assert batch.truncated.tolist() == [len(ids) > length for ids in encodings]


@PIPELINES
def test_kinds_of_all_characters_of_the_basic_plane(backend, learner):
    """The tokenizer itself says of each character alone what `LongText` says of it anywhere."""
    codes = np.array([code for code in range(0x10000) if not 0xD800 <= code < 0xE000], np.uint32)
    learner._learn(codes)
    kinds = learner._kinds[codes]
    normalized = [backend.normalizer.normalize_str(chr(code)) for code in codes]
    pieces = [[word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)] for text in normalized]
    for code, kind, words in zip(codes.tolist(), kinds.tolist(), pieces, strict=True):
        # A word by itself or part of one is one word; all else leaves none.
        assert len(words) == (1 if kind in (long_text._PART, long_text._WORD) else 0), hex(code)


def test_canonical_order_is_seen():
    """The five kinds rest on this: the two marks change places, and a barrier between them prevents it."""
    first, second = long_text._SWAPPED
    marks = first[-1], second[0]
    assert unicodedata.combining(marks[0]) > unicodedata.combining(marks[1]) > 0
    backend, learner = PAIRS[0]
    assert learner._normalized(first + second) == f"a{marks[1]}{marks[0]}a"
    assert learner._kind("\u034f") == long_text._BARRIER
    assert learner._kind("\0") == learner._kind("\u0301") == long_text._REMOVED
    for gap in ("\0", "\0\u0301", "\0\u034f\0", "\u034f\u0301", "\u0301\u034f"):
        text = f"{first}{gap}{second}"
        condensed = learner._condense(long_text._code_points(text))
        assert len(condensed) == 5
        same = condensed.astype("<u4").tobytes().decode("utf-32-le")
        assert whole_ids(backend, same) == whole_ids(backend, text)


@pytest.mark.parametrize(
    "token",
    [
        {"content": "cat"},
        {"content": "[x", "special": False},
        {"content": "x]"},
        {"content": "[a b]"},
        {"content": "[a\0]"},
        {"content": "[x]", "single_word": True},
        {"content": "[" + "x" * 200 + "]"},
    ],
    ids=lambda token: token["content"][:8],
)
def test_added_tokens_that_a_cut_could_split_forbid_cutting(token):
    assert LongText.of(plain_backend(tokenizer_json(added=[token]))) is None


# Added tokens that may stand inside a word, or end in its middle.
WORDS = [
    *({"content": content, "normalized": True} for content in ("ab", "cat", "É", "a\0c", "[!")),
    {"content": "ed", "special": False},
    {"content": "b", "single_word": True},
    {"content": "d.", "single_word": True, "normalized": True},
    {"content": "e#", "lstrip": True, "rstrip": True, "normalized": True},
]


def worded_backends() -> list[Tokenizer]:
    options = {"vocabulary": spelling_vocabulary(), "longest_word": 6}
    rest = [{"content": "É", "normalized": False}]
    return [
        plain_backend(tokenizer_json(normalizer=flags, added=WORDS + (rest if number % 2 else []), **options))
        for number, flags in enumerate(NORMALIZERS)
    ]


WORDED = [(backend, SpacedText.of(backend)) for backend in worded_backends()]
SPACED_TEXTS = st.lists(
    st.tuples(
        st.sampled_from([*NASTY, *" \n\r\t", "ab", "cat", "É", "e\u0301", "ed", "d.", "e#"]),
        st.sampled_from([1, 1, 2, 9]),
    ),
    max_size=25,
).map(lambda runs: "".join(unit * count for unit, count in runs))


@pytest.mark.parametrize(("backend", "spaced"), WORDED, ids=range(len(WORDED)))
@settings(GENTLE, max_examples=150)
@given(text=SPACED_TEXTS, limit=st.integers(0, 12), chunk=st.sampled_from([1, 2, 7, 64]), length=st.integers(2, 20))
def test_added_words_allow_cuts_at_white_space(backend, spaced, text, limit, chunk, length):
    assert LongText.of(backend) is None
    whole = whole_ids(backend, text)
    for cut in (index for index, character in enumerate(text) if character in " \t\n\r"):
        head = spaced._ids(text[:cut])
        assert whole[: len(head)] == head
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_text, "_FIRST_CHUNK", chunk)
        patch.setattr(tokenizer, "_CHARACTERS_AT_LEAST", 2)
        patch.setattr(tokenizer, "_CHARACTERS_PER_TOKEN", 1)
        ids = spaced.first_ids(text, limit)
        batch = TextTokenizer(backend, 64, length).encode([text])
    assert ids[:limit] == whole[:limit]
    assert (len(ids) > limit) == (len(whole) > limit)
    expected = backend.encode(text).ids
    assert rows(batch) == [expected if len(expected) <= length else [*expected[: length - 1], 3]]


@pytest.mark.parametrize("content", ["a b", " ab", "a\tb", "ab\n", "中a"])
def test_added_tokens_with_white_space_forbid_every_cut(content):
    backend = plain_backend(tokenizer_json(added=[{"content": content, "normalized": True}]))
    assert LongText.of(backend) is SpacedText.of(backend) is None


@pytest.mark.alone
@pytest.mark.parametrize("unit", ["the cat sat on covid19 ", " ", "the\ncat\n"])
def test_a_long_text_with_an_added_word_is_quick(unit):
    backend = plain_backend(tokenizer_json(added=[{"content": "covid19", "special": False, "normalized": True}]))
    ours = TextTokenizer(backend, 32)
    start = time.perf_counter()
    batch = ours.encode([unit * (20_000_000 // len(unit))])
    assert time.perf_counter() - start < 2
    assert batch.truncated.tolist() == [unit != " "]


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
        {"model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0}}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}},
    ],
    ids=str,
)
def test_other_pipelines_are_not_cut(change):
    content = tokenizer_json() | change | {"added_tokens": [], "post_processor": None}
    assert LongText.of(plain_backend(content)) is SpacedText.of(plain_backend(content)) is None


def test_another_pipeline_still_tokenises_long_texts(tmp_path):
    content = tokenizer_json() | {"normalizer": {"type": "Lowercase"}}
    ours = read(tokenizer_folder(tmp_path, content))
    ours.max_seq_length = 6
    assert rows(ours.encode(["THE cat " * 1000])) == [[2, 5, 7, 5, 7, 3]]


FIFTY_MB = {
    "prose": "('the quick brown fox jumps over the lazy dog ' * 1_200_000)",
    "one word": "'a' * 50_000_000",
    "spaces": "' ' * 50_000_000",
    "NULs": "chr(0) * 50_000_000",
    "CJK": "'中文' * 8_400_000",
    "combining marks": "'\\u0301' * 25_000_000",
    "mixed marks": "'\\u0301\\u0327\\u302e\\u1baa\\u034f' * 4_000_000",
    "emoji": "'\\U0001f600' * 12_500_000",
    "brackets": "'[' * 50_000_000",
    "NULs among letters": "'a\\0' * 25_000_000",
    "NULs among spaces": "' \\0' * 25_000_000",
    "a surrogate at its end": "'a' * 50_000_000 + '\\ud800'",
}


@pytest.mark.alone
@pytest.mark.parametrize("what", FIFTY_MB)
def test_fifty_megabytes(minilm, what):
    code = f"""
        import resource, sys, time, warnings
        from pathlib import Path
        from sentpool.config import EncoderConfig
        from sentpool.tokenizer import TextTokenizer
        folder = Path(sys.argv[1])
        tokenizer = TextTokenizer.read(folder, EncoderConfig.read(folder))
        warnings.simplefilter("ignore")
        text = {FIFTY_MB[what]}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        batch = tokenizer.encode([text])
        print(time.perf_counter() - start)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        print(len(batch.ids))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(minilm)], capture_output=True, text=True, check=True
    )
    seconds, kilobytes, count = map(float, out.stdout.split())
    assert seconds < 5
    assert kilobytes < 300_000
    assert 2 <= count <= 512
