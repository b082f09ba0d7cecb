"""Tokenizers from vocabulary files alone, against ids worked out by hand; their files, broken in every way."""

from __future__ import annotations

import random
import struct
from contextlib import suppress

import pytest
from fabricate import rows, tokenizer_folder, tokenizer_json, write_json
from folder_checks import SENTENCES, read

from sentpool.errors import ModelFolderError
from sentpool.sentencepiece_file import read_sentencepiece
from sentpool.tokenizer_kinds import KINDS


def varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def message(*fields: tuple[int, int | float | str | bytes]) -> bytes:
    """A protocol-buffers message of fields (number, value), as the format's documentation describes it."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        elif isinstance(value, float):
            out += varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            raw = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(raw)) + raw
    return out


def spm(pieces: list[tuple], *, model_type=1, unknown_id=0) -> bytes:
    """A SentencePiece model of pieces (text, score[, type])."""
    made = [(1, message((1, text), (2, score), *((3, kind) for kind in rest))) for text, score, *rest in pieces]
    trainer = message((3, model_type), (4, 600), (40, unknown_id), (99, 1.5))
    return message(*made, (2, trainer), (3, message((1, "identity"))))


FIRST = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
PIECES = [
    ("▁the", -1.0),
    ("▁c", -3.0),
    ("at", -2.0),
    ("▁", -4.0),
    ("c", -6.0),
    ("a", -6.5),
    ("t", -6.5),
    ("x", -0.1, 4),
]


def folder(path, tokenizer_class, **settings):
    write_json(
        tokenizer_folder(path, None).joinpath("tokenizer_config.json"), {"tokenizer_class": tokenizer_class, **settings}
    )
    (path / "vocab.txt").unlink()
    return path


def ids(path, *texts):
    return rows(read(path).encode(list(texts)))


def test_xlm_roberta(tmp_path):
    path = folder(tmp_path, "XLMRobertaTokenizer")
    (path / "sentencepiece.bpe.model").write_bytes(spm(FIRST + PIECES))
    # <s>, <pad>, </s>, <unk>, then the pieces from the fourth, then <mask>: "the" is 4, <mask> is 12.
    assert ids(path, "the cat", "the  cat ", "dog", "cat <mask>", "cxat") == [
        [0, 4, 5, 6, 2],
        # Two spaces become one sign of a space, one before and one behind the pre-tokenizer's.
        [0, 4, 5, 6, 2],
        [0, 7, 3, 2],
        [0, 5, 6, 12, 2],
        # A user-defined symbol is cut out first, and every part begins with a space.
        [0, 5, 11, 7, 6, 2],
    ]


def test_camembert(tmp_path):
    path = folder(tmp_path, "CamembertTokenizerFast")
    (path / "sentencepiece.bpe.model").write_bytes(spm(FIRST + PIECES))
    # Five tokens, then the pieces from the second, <s> and </s>.
    assert ids(path, "the cat", "dog<mask>") == [[5, 7, 8, 9, 6], [5, 10, 3, 15, 6]]


def test_albert(tmp_path):
    path = folder(tmp_path, "AlbertTokenizer")
    first = [("<pad>", 0.0, 3), ("<unk>", 0.0, 2), ("[CLS]", 0.0, 3), ("[SEP]", 0.0, 3), ("[MASK]", 0.0, 3)]
    (path / "spiece.model").write_bytes(spm([*first, *PIECES, ("3,", -0.1), ("3", -9.0), (",", -9.0)], unknown_id=1))
    assert ids(path, "THE Cát", "3,", "cat [MASK]") == [[2, 5, 6, 7, 3], [2, 8, 14, 15, 3], [2, 6, 7, 4, 3]]
    write_json(path / "tokenizer_config.json", {"tokenizer_class": "AlbertTokenizer", "do_lower_case": False})
    assert ids(path, "THE") == [[2, 8, 1, 3]]


def byte_level(path, **settings):
    path = folder(path, "RobertaTokenizer", **settings)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "t", "h", "e", "Ġ", "c", "th", "the", "Ġt", "Ġth", "Ġthe", "<mask>", "a"]
    write_json(path / "vocab.json", {token: id for id, token in enumerate(tokens)})
    (path / "merges.txt").write_text("#version: 0.2\nt h\nth e\nĠ t\nĠ the\n", encoding="utf-8")
    return path


def test_byte_level_bpe(tmp_path):
    # "t h" is merged first, so " th" does not begin with "Ġt".
    assert ids(byte_level(tmp_path / "a"), "the", " the the", " th", "c<mask>", "c <mask>e") == [
        [0, 10, 2],
        [0, 13, 13, 2],
        [0, 7, 9, 2],
        [0, 8, 14, 2],
        [0, 8, 14, 6, 2],
    ]
    assert ids(byte_level(tmp_path / "b", add_prefix_space=True), "the", "") == [[0, 13, 2], [0, 2]]


def test_no_vocabulary(tmp_path):
    for name, kind in KINDS.items():
        if kind.make is None:
            continue
        path = folder(tmp_path / name, name)
        with pytest.raises(ModelFolderError, match=rf"neither tokenizer\.json nor {' and '.join(kind.files)} is there"):
            read(path)
    (byte_level(tmp_path / "merges") / "merges.txt").unlink()
    with pytest.raises(ModelFolderError, match=r"nor merges\.txt is there, which RobertaTokenizer"):
        read(tmp_path / "merges")


def test_a_class_of_its_own_needs_a_tokenizer_json(tmp_path):
    path = tokenizer_folder(tmp_path, None, settings={"tokenizer_class": "BertJapaneseTokenizer"})
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json is not there, and only of .* not of BertJapanese"):
        read(path)
    write_json(path / "tokenizer.json", tokenizer_json())
    assert ids(path, "the cat") == [[2, 5, 7, 3]]
    # Nobody says what goes around its texts then.
    write_json(path / "tokenizer.json", tokenizer_json() | {"post_processor": None})
    with pytest.raises(ModelFolderError, match="nothing is put around texts, .* names no cls_token"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("vocab.json", b"[]", "expected an object"),
        ("vocab.json", b'{"a": -1}', "the id of token 'a' is -1"),
        ("vocab.json", b'{"a": true}', "the id of token 'a' is True"),
        ("merges.txt", b"#version\nt h\nth\n", r"line 3 is 'th'; expected two tokens"),
        ("merges.txt", b"#version\nt zz\n", r"zz"),
        ("merges.txt", b"\xff", "not a vocabulary"),
    ],
)
def test_broken_merges(tmp_path, name, content, match):
    path = byte_level(tmp_path)
    (path / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=match):
        read(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "the unknown piece has id 0, but there are 0 pieces"),
        (b"\x0a", "not a SentencePiece model"),
        (b"\x0a\xff\xff\xff\x7f", "a field of .* bytes at byte"),
        (b"\x80" * 20, "endless number"),
        (b"\x0b", "wire type 3"),
        (message((1, 5)), "a number where text or a message belongs"),
        (message((1, message((1, b"\xff")))), "not a SentencePiece model"),
        (message((1, message((2, "ab")))), "not a SentencePiece model"),
        (message((2, message((3, "ab")))), "no number"),
        (spm(FIRST, model_type=2), "its algorithm is bpe; expected unigram"),
        (spm(FIRST, model_type=9), "its algorithm is 9"),
        (spm(FIRST, unknown_id=3), "the unknown piece has id 3, but there are 3 pieces"),
    ],
)
def test_broken_sentencepiece_files(tmp_path, content, match):
    path = folder(tmp_path, "XLMRobertaTokenizer")
    (path / "sentencepiece.bpe.model").write_bytes(content)
    with pytest.raises(ModelFolderError, match=rf"sentencepiece\.bpe\.model: .*{match}"):
        read(path)


def test_flipped_bytes_of_a_sentencepiece_file(tmp_path):
    rng = random.Random(3)
    path = folder(tmp_path, "XLMRobertaTokenizer")
    whole = spm(FIRST + PIECES)
    opened = 0
    for _ in range(1500):
        flipped = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        (path / "sentencepiece.bpe.model").write_bytes(flipped[: rng.choice((len(whole), rng.randrange(len(whole))))])
        with suppress(ModelFolderError):
            assert len(read(path).encode(SENTENCES).offsets) == len(SENTENCES) + 1
            opened += 1
    assert 0 < opened < 1500


def test_the_fields_of_a_sentencepiece_file(tmp_path):
    (tmp_path / "m").write_bytes(spm(FIRST + PIECES) + message((3, message((2, b"\0\1"), (4, 1)))))
    model = read_sentencepiece(tmp_path / "m")
    assert [piece.text for piece in model.pieces[:4]] == ["<unk>", "<s>", "</s>", "▁the"]
    assert [piece.type for piece in model.pieces] == [2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 4]
    assert model.pieces[5].score == -2.0
    assert model.unknown_id == 0
    assert model.charsmap == b"\0\1"


@pytest.mark.parametrize(
    "settings",
    [
        {"added_tokens_decoder": {"x": {"content": "a"}}},
        {"added_tokens_decoder": {"63": {"content": 5}}},
        {"added_tokens_decoder": {"63": {"content": "a", "lstrip": "no"}}},
        {"added_tokens_decoder": {"63": {"content": "new"}}},
        {"added_tokens_decoder": {"²": {"content": "a"}}},
        {"added_tokens_decoder": []},
        {"tokenizer_class": 5},
        {"split_special_tokens": "no"},
    ],
)
def test_settings_are_checked(tmp_path, settings):
    path = tokenizer_folder(tmp_path, tokenizer_json(), settings=settings)
    with pytest.raises(ModelFolderError, match=r"tokenizer_config\.json: (field|adds token 'new' with id 63, but)"):
        read(path)
