"""A SentencePiece model file, read without the library of that name: the few fields that make its tokenizer.

The format is protocol buffers (`sentencepiece_model.proto`): a message is a row of fields, each a key (number and wire
type) and a value. Fields that are not named here are skipped, as the format demands.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sentpool.errors import ModelFolderError
from sentpool.fields import why_no_file

# The largest in use, 250,000 pieces, has 5 MB.
MAX_BYTES = 64 << 20

# Wire types.
_VARINT, _EIGHT_BYTES, _DELIMITED, _FOUR_BYTES = 0, 1, 2, 5
# Field numbers of ModelProto, and inside of what those hold.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_MODEL_TYPE, _UNKNOWN_ID = 3, 40
_CHARSMAP = 2

UNIGRAM = 1
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4


class Piece(NamedTuple):
    """One piece of the vocabulary: its text, its log probability, its type."""

    text: str
    score: float
    type: int


class SentencePieceModel(NamedTuple):
    """What a tokenizer needs of a model file.

    Attributes
    ----------
    pieces
        The vocabulary, by id.
    unknown_id
        The id of the piece for what is in no other.
    charsmap
        The compiled normalisation of characters; empty where there is none.
    """

    pieces: list[Piece]
    unknown_id: int
    charsmap: bytes


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a Unigram model.

    Raises
    ------
    ModelFolderError
        If the file is missing, too large or no such model, or was trained with another algorithm than Unigram.
    """
    if not os.path.isfile(path):
        raise ModelFolderError(f"{path}: {why_no_file(path)}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelFolderError(f"{path}: larger than {MAX_BYTES >> 20} MiB, which no such file needs")
        data = path.read_bytes()
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        model, kind = _model(data)
    except (ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise ModelFolderError(f"{path}: not a SentencePiece model ({error})") from error
    if kind != UNIGRAM:
        raise ModelFolderError(
            f"{path}: its algorithm is {_MODEL_TYPES.get(kind, kind)}; expected unigram, or a tokenizer.json beside "
            f"it: save the tokenizer once with transformers' AutoTokenizer"
        )
    if not 0 <= model.unknown_id < len(model.pieces):
        raise ModelFolderError(
            f"{path}: the unknown piece has id {model.unknown_id}, but there are {len(model.pieces)} pieces"
        )
    return model


def _model(data: bytes) -> tuple[SentencePieceModel, int]:
    pieces: list[Piece] = []
    unknown_id, kind, charsmap = 0, UNIGRAM, b""
    for number, value in _fields(data):
        if number == _PIECES:
            pieces.append(_piece(_bytes(value)))
        elif number == _TRAINER:
            trainer = dict(_fields(_bytes(value)))
            unknown_id, kind = trainer.get(_UNKNOWN_ID, 0), trainer.get(_MODEL_TYPE, UNIGRAM)
        elif number == _NORMALIZER:
            charsmap = _bytes(dict(_fields(_bytes(value))).get(_CHARSMAP, b""))
    if not isinstance(unknown_id, int) or not isinstance(kind, int):
        raise ValueError("a field of the trainer is no number")
    return SentencePieceModel(pieces, unknown_id, charsmap), kind


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    score, kind = fields.get(_PIECE_SCORE, bytes(4)), fields.get(_PIECE_TYPE, NORMAL)
    if not isinstance(kind, int):
        raise ValueError("the type of a piece is no number")
    return Piece(_bytes(fields.get(_PIECE_TEXT, b"")).decode("utf-8"), struct.unpack("<f", _bytes(score))[0], kind)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where text or a message belongs")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: number and value, an int or the bytes of anything else."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == _DELIMITED:
            length, position = _varint(data, position)
        elif wire in (_FOUR_BYTES, _EIGHT_BYTES):
            length = 4 if wire == _FOUR_BYTES else 8
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + length > len(data):
            raise ValueError(f"a field of {length} bytes at byte {position} of {len(data)}")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, least first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"an endless number at byte {position}")
