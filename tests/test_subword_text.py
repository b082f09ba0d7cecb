"""Long texts before BPE and Unigram: the ids of a piece are those of the whole, wherever it is cut."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
from fabricate import rows
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from multilingual import SENTENCES, STRANGE
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from sentpool import subword_text, tokenizer
from sentpool.subword_text import SubwordText
from sentpool.tokenizer import TextTokenizer

CORPUS = SENTENCES + STRANGE
SPECIALS = ["<s>", "</s>", "<unk>"]

# Units that normalizers, pre-tokenizers, added tokens and models treat in ways of their own.
UNITS = [
    *"aAbé中文가나ｶﾞΣςıİ😀👩'`,.<>[]▁0",
    *" \n\t\r\u3000\xa0\x85",
    *"\0\x01\x1c\u200d\u200b\ufeff\ufffd",
    *"\u0301\u0300\u0327\u302e\u1baa\u0345\u3099\u094d\u09be\u1161\u11a8\u0e33",
    *("e\u0301", "か\u3099", "👩\u200d👧", "🇩🇪", "❤\ufe0f", "नहीं", "\r\n", "ﬁ", "℃", "''", "``", "'ll", "it's", "  "),
    *("<s>", "<mask>", " <mask>", "<x", "x>", "[e1]", "ab", "covid", "the quick ", "中文东京", "Straße ", "  \0 "),
]
TEXTS = st.lists(st.tuples(st.sampled_from(UNITS), st.sampled_from([1, 1, 1, 2, 3, 9, 40])), max_size=25).map(
    lambda runs: "".join(unit * count for unit, count in runs)
)
GENTLE = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def with_added(backend: Tokenizer, *, spaces: bool = False) -> Tokenizer:
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True), AddedToken("[e1]", rstrip=True)])
    backend.add_tokens([AddedToken("covid", normalized=True), AddedToken("<x>", normalized=False)])
    if spaces:
        backend.add_tokens([AddedToken(" " * count, normalized=True) for count in (2, 4)])
    first, last = backend.token_to_id("<s>"), backend.token_to_id("</s>")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", first), ("</s>", last)]
    )
    return backend


def byte_level(normalizer=None, *, prefix=False, spaces=False) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*CORPUS, *("中文" * 5, "文中文", "a" * 30, " " * 30)] * 3, trainer)
    return with_added(backend, spaces=spaces)


def unigram(*steps, split=False) -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence(list(steps))
    metaspace = pre_tokenizers.Metaspace()
    backend.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace]) if split else metaspace
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=800, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False, max_piece_length=8
    )
    backend.train_from_iterator(SENTENCES * 3, trainer)
    return with_added(backend)


def charsmap() -> bytes:
    """SentencePiece's normalisation `nmt_nfkc` as its library compiles it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    import io

    from sentpool.sentencepiece_file import _model

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 5), model_writer=out, vocab_size=400, hard_vocab_limit=False, minloglevel=2
    )
    return _model(out.getvalue())[0].charsmap


def collapsing(by: str = " ") -> normalizers.Normalizer:
    return normalizers.Replace(Regex(" {2,}"), by)


MADE = {
    "roberta": byte_level,
    "roberta with a prefix space": lambda: byte_level(prefix=True),
    "modernbert": lambda: byte_level(normalizers.NFC(), spaces=True),
    "byte-level with NFKD": lambda: byte_level(normalizers.NFKD()),
    "plain unigram": lambda: unigram(),
    "lower-case unigram": lambda: unigram(normalizers.Lowercase()),
    "xlm-roberta": lambda: unigram(
        normalizers.Precompiled(charsmap()), normalizers.Strip(left=False, right=True), collapsing("▁")
    ),
    "published xlm-roberta": lambda: unigram(normalizers.Precompiled(charsmap()), split=True),
    "albert": lambda: unigram(
        normalizers.Replace("``", '"'),
        normalizers.Replace("''", '"'),
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        normalizers.Precompiled(charsmap()),
        collapsing(),
    ),
}


@pytest.fixture(scope="module", params=MADE)
def backend(request) -> Tokenizer:
    return MADE[request.param]()


def whole_ids(backend: Tokenizer, text: str) -> list[int]:
    return backend.encode(text, add_special_tokens=False).ids


@settings(GENTLE, max_examples=120)
@given(text=TEXTS, limit=st.integers(0, 12), size=st.sampled_from([1, 3, 8, 64]))
@example(text=f"[e1]{'`' * 40}[e1]", limit=2, size=1)  # unknown characters between those of added tokens
def test_first_ids_are_those_of_the_whole(backend, text, limit, size):
    whole = whole_ids(backend, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subword_text, "_FIRST_PIECE", size)
        ids = SubwordText.of(backend).first_ids(text, limit)
    assert ids[:limit] == whole[:limit]
    assert (len(ids) > limit) == (len(whole) > limit)


@settings(GENTLE, max_examples=20)
@given(text=TEXTS)
def test_every_cut_leaves_first_ids(backend, text):
    subwords = SubwordText.of(backend)
    whole = whole_ids(backend, text)
    for size in range(len(text)):
        head = whole_ids(backend, subwords.head(text, size))
        assert whole[: len(head)] == head
        sure = subwords._sure_ids(text[: subwords._cut(text, size)])
        assert whole[: len(sure)] == sure


@GENTLE
@given(texts=st.lists(TEXTS, max_size=4), length=st.integers(2, 20))
def test_encode_looks_at_no_more_than_it_needs(backend, texts, length):
    ours = TextTokenizer(backend, 64, length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "_CHARACTERS_AT_LEAST", 2)
        patch.setattr(tokenizer, "_CHARACTERS_PER_TOKEN", 1)
        patch.setattr(subword_text, "_FIRST_PIECE", 3)
        batch = ours.encode(texts)
    encodings = [backend.encode(text).ids for text in texts]
    assert rows(batch) == [ids if len(ids) <= length else [*ids[: length - 1], ids[-1]] for ids in encodings]
    assert batch.truncated.tolist() == [len(ids) > length for ids in encodings]


@pytest.mark.parametrize("unit", ["the quick brown fox ", "中文", "😀", "[", "नहीं", "\U0001f9ff", "'ll"])
@pytest.mark.parametrize("backend", ["roberta", "modernbert", "xlm-roberta", "albert"], indirect=True)
def test_long_words_need_a_piece_only(backend, unit):
    """Nothing is tokenised whole: neither prose nor a text without spaces."""
    subwords = SubwordText.of(backend)
    text = unit * (100_000 // len(unit))
    whole = whole_ids(backend, text)
    looked_at = []

    class Watching:
        def __getattr__(self, name):
            return getattr(backend, name)

        def encode(self, text, **options):
            looked_at.append(len(text))
            return backend.encode(text, **options)

    subwords._backend = Watching()
    ids = subwords.first_ids(text, 200)
    assert ids[:200] == whole[:200]
    assert max(looked_at) <= 70_000


@pytest.mark.parametrize(
    "change",
    [
        lambda backend: setattr(backend, "normalizer", normalizers.Replace(Regex("a+"), "b")),
        lambda backend: setattr(backend, "normalizer", normalizers.Prepend("x")),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.ByteLevel(use_regex=False)),
        lambda backend: setattr(backend, "model", models.BPE({"a": 0}, [])),
        lambda backend: backend.add_tokens([AddedToken("it", single_word=True)]),
    ],
)
def test_other_pipelines_are_not_cut(change):
    backend = byte_level()
    change(backend)
    assert SubwordText.of(backend) is None


def test_unknown_characters_that_become_bytes_are_not_cut_in_a_word():
    backend = unigram()
    vocabulary = [
        ("<s>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -1.0),
        ("a", -1.0),
        ("<0xC3>", -2.0),
        ("<0xA9>", -2.0),
    ]
    backend.model = models.Unigram(vocabulary, 2, True)
    text = "é" * 20_000
    whole = whole_ids(backend, text)
    assert SubwordText.of(backend).first_ids(text, 9)[:9] == whole[:9]


FIFTY_MB = {
    "prose": "('the quick brown fox jumps over the lazy dog ' * 1_200_000)",
    "one word": "'a' * 50_000_000",
    "spaces": "' ' * 50_000_000",
    "NULs": "chr(0) * 50_000_000",
    "CJK": "'中文' * 8_400_000",
    "emoji": "'\\U0001f600' * 12_500_000",
    "brackets": "'[' * 50_000_000",
    "NULs among letters": "'a\\0' * 25_000_000",
    "NULs among spaces": "' \\0' * 25_000_000",
    "a surrogate at its end": "'a' * 50_000_000 + '\\ud800'",
}


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta"])
def test_fifty_megabytes(tmp_path, name):
    MADE[name]().save(str(tmp_path / "tokenizer.json"))
    code = """
        import json, resource, sys, time, warnings
        from tokenizers import Tokenizer
        from sentpool.tokenizer import TextTokenizer
        tokenizer = TextTokenizer(Tokenizer.from_file(sys.argv[1]), 512)
        warnings.simplefilter("ignore")
        for what, code in json.loads(sys.argv[2]).items():
            text = eval(code)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start = time.process_time()
            count = len(tokenizer.encode([text]).ids)
            seconds = time.process_time() - start
            kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            if seconds > 5 or kilobytes > 300_000 or not 2 <= count <= 512:
                print(what, seconds, kilobytes, count)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "tokenizer.json"), json.dumps(FIFTY_MB)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
