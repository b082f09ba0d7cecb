"""Tokenizer files are read as transformers reads them, and refused where they do not fit the encoder."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from fabricate import (
    SPECIAL_TOKENS,
    VOCABULARY,
    bert_config,
    bert_folder,
    edit_json,
    rows,
    tokenizer_folder,
    tokenizer_json,
    write_json,
    write_vocabulary,
)
from folder_checks import SENTENCES, read

from sentpool.errors import ModelFolderError

ADDED_TOKEN = {"__type": "AddedToken", "content": "[CLS]"}

SETTINGS = [
    {},
    {"do_lower_case": True},
    {"do_lower_case": False},
    {"do_lower_case": True, "strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"do_lower_case": True, "tokenize_chinese_chars": False},
    {"do_lower_case": True, "strip_accents": None, "cls_token": "[SEP]", "sep_token": ADDED_TOKEN},
]


@pytest.mark.parity
@pytest.mark.parametrize("settings_", SETTINGS, ids=str)
@pytest.mark.parametrize("content", [None, tokenizer_json()], ids=["vocab.txt", "tokenizer.json"])
def test_folders_read_as_in_transformers(tmp_path, content, settings_):
    transformers = pytest.importorskip("transformers")
    if content is not None and "cls_token" in settings_:
        pytest.skip("tokenizer.json says itself what stands around a text")
    path = tokenizer_folder(tmp_path, content, settings=settings_ | {"tokenizer_class": "BertTokenizer"})
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    expected = theirs(SENTENCES)["input_ids"]
    assert rows(read(path).encode(SENTENCES)) == expected


@pytest.mark.parity
def test_lower_casing_is_that_of_sentence_transformers(tmp_path):
    models = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    for settings_ in ({"do_lower_case": False}, {"do_lower_case": True}):
        path = bert_folder(tmp_path / str(settings_))
        write_json(path / "tokenizer_config.json", settings_)
        theirs = models.Transformer(str(path), do_lower_case=True)
        expected = theirs.tokenizer(SENTENCES)["input_ids"]
        ours = read(path, do_lower_case=True)
        ours.max_seq_length = ours.max_positions
        assert rows(ours.encode(SENTENCES[:9])) == expected[:9]


def test_lower_casing_comes_before_all_else(tmp_path):
    path = tokenizer_folder(tmp_path, tokenizer_json(), settings={"do_lower_case": False})
    assert rows(read(path).encode(["THE CAT"])) == [[2, 1, 1, 3]]
    assert rows(read(path, do_lower_case=True).encode(["THE CAT"])) == [[2, 5, 7, 3]]


@pytest.mark.parametrize("settings_", SETTINGS[:6], ids=str)
def test_vocabulary_alone_equals_tokenizer_json(tmp_path, settings_):
    alone = read(tokenizer_folder(tmp_path / "a", None, settings=settings_))
    full = read(tokenizer_folder(tmp_path / "b", tokenizer_json(), settings=settings_))
    assert rows(alone.encode(SENTENCES)) == rows(full.encode(SENTENCES))


def test_a_vocabulary_keeps_its_lines(tmp_path):
    path = tokenizer_folder(tmp_path, None)
    # Neither an unusual line end inside a token nor a missing one at the end shifts ids.
    (path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "\u2028", "", "\x1c", "cat"]), encoding="utf-8")
    assert rows(read(path).encode(["cat"])) == [[2, 8, 3]]
    (path / "vocab.txt").write_bytes("\r\n".join([*SPECIAL_TOKENS, "cat", ""]).encode())
    assert rows(read(path).encode(["cat"])) == [[2, 5, 3]]


def test_names_of_special_tokens(tmp_path):
    path = tokenizer_folder(tmp_path, None, settings={"sep_token": "</s>", "cls_token": "nobody"})
    write_json(path / "special_tokens_map.json", {"cls_token": {"content": "<s>"}})
    write_vocabulary(path, ["<s>", "</s>", "[UNK]", "cat"])
    assert rows(read(path).encode(["cat dog </s>"])) == [[0, 3, 2, 1, 1]]
    # Newer folders say all in one file.
    edit_json(path / "tokenizer_config.json", added_tokens_decoder={}, cls_token="</s>")
    assert rows(read(path).encode(["cat"])) == [[1, 3, 1]]


def test_without_a_template_the_usual_one_is_put(tmp_path):
    content = tokenizer_json() | {"post_processor": None}
    assert rows(read(tokenizer_folder(tmp_path, content)).encode(["cat"])) == [[2, 7, 3]]


def test_no_tokenizer(tmp_path):
    write_json(tmp_path / "config.json", bert_config())
    with pytest.raises(ModelFolderError, match=r"neither tokenizer\.json nor vocab\.txt"):
        read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"version": "1.0"}', b'{"model": {"type": "WordPiece"}}'],
)
def test_a_tokenizer_json_that_is_none(tmp_path, content):
    path = tokenizer_folder(tmp_path, tokenizer_json())
    (path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json: not a tokenizer"):
        read(path)


def test_an_id_beyond_the_vocabulary(tmp_path):
    path = tokenizer_folder(tmp_path, tokenizer_json(), config={"vocab_size": len(VOCABULARY) - 1})
    with pytest.raises(
        ModelFolderError,
        match=rf"'##é' has id {len(VOCABULARY) - 1}, but vocab_size .* is {len(VOCABULARY) - 1}",
    ):
        read(path)
    path = tokenizer_folder(
        tmp_path / "added",
        tokenizer_json(added=[{"content": "[NEW]"}]),
        config={"vocab_size": len(VOCABULARY)},
    )
    with pytest.raises(ModelFolderError, match=r"'\[NEW\]' has id"):
        read(path)


def test_special_tokens_must_be_in_the_vocabulary(tmp_path):
    path = tokenizer_folder(tmp_path, None)
    write_vocabulary(path, ["[PAD]", "[CLS]", "[SEP]", "cat"])
    with pytest.raises(ModelFolderError, match=r"the unknown token '\[UNK\]' is not in the vocabulary"):
        read(path)
    write_vocabulary(path, ["[PAD]", "[UNK]", "[CLS]", "cat"])
    with pytest.raises(ModelFolderError, match=r"special token '\[SEP\]' is not in the vocabulary"):
        read(path)
    content = tokenizer_json(["[UNK]", "[SEP]", "cat"]) | {"post_processor": None}
    with pytest.raises(ModelFolderError, match=r"special token '\[CLS\]' is not in the vocabulary"):
        read(tokenizer_folder(tmp_path / "json", content))


def test_what_a_vocabulary_cannot_say_is_refused(tmp_path):
    path = tokenizer_folder(tmp_path, None)
    write_json(path / "added_tokens.json", {"[NEW]": 99})
    with pytest.raises(ModelFolderError, match=r"added_tokens\.json: adds token '\[NEW\]' with id 99, .* has id 37"):
        read(path)
    (path / "added_tokens.json").unlink()
    (path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelFolderError, match=r"vocab\.txt: not a vocabulary"):
        read(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("do_lower_case", "yes"),
        ("strip_accents", 1),
        ("tokenize_chinese_chars", None),
        ("truncation_side", "left"),
        ("cls_token", 5),
        ("sep_token", {"text": "[SEP]"}),
    ],
)
def test_settings_are_checked(tmp_path, name, value):
    path = tokenizer_folder(tmp_path, None, settings={name: value})
    with pytest.raises(ModelFolderError, match=r"tokenizer_config\.json: field '" + name):
        read(path)


def test_a_template_with_other_token_types_is_refused(tmp_path):
    content = tokenizer_json()
    content["post_processor"]["single"][1]["Sequence"]["type_id"] = 1
    with pytest.raises(ModelFolderError, match=r"of types \[0, 1, 0\]"):
        read(tokenizer_folder(tmp_path, content))


def test_parts_that_do_not_fit_together(tmp_path):
    model = {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"cat": 0}}
    content = tokenizer_json() | {"model": model, "added_tokens": [], "post_processor": None}
    with pytest.raises(ModelFolderError, match=str(tmp_path)):
        read(tokenizer_folder(tmp_path, content))
    path = tokenizer_folder(tmp_path / "names", None, settings={"cls_token": "a:b:c", "sep_token": "$A"})
    write_vocabulary(path, ["a:b:c", "$A", "[UNK]"])
    with pytest.raises(ModelFolderError, match=str(path)):
        read(path)


def test_flipped_bytes_give_a_tokenizer_or_the_error(tmp_path):
    rng = random.Random(7)
    path = tokenizer_folder(tmp_path, tokenizer_json())
    whole = (path / "tokenizer.json").read_bytes()
    opened = 0
    for _ in range(600):
        flipped = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        (path / "tokenizer.json").write_bytes(flipped)
        with suppress(ModelFolderError):
            assert len(read(path).encode(SENTENCES).offsets) == len(SENTENCES) + 1
            opened += 1
    assert 0 < opened < 600


def test_edited_settings_overrule_the_file(minilm, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((minilm / name).read_bytes())
    edit_json(tmp_path / "tokenizer_config.json", do_lower_case=False)
    upper, lower = rows(read(tmp_path).encode(["HELLO", "hello"]))
    assert upper == [101, 100, 102]
    assert lower == [101, 7592, 102]
