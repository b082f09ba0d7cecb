"""Tokenizers from their vocabulary files alone, as transformers converts them: WordPiece, byte-level BPE, Unigram."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from sentpool.errors import ModelFolderError, shown
from sentpool.fields import Fields, read_json, why_no_file
from sentpool.sentencepiece_file import CONTROL, USER_DEFINED, Piece, SentencePieceModel, read_sentencepiece

_SPACE = "▁"
# What outweighs every piece that was trained: such a piece is never chosen.
_NEVER = -100.0


def wordpiece(files: list[Path], settings: Fields, names: Mapping[str, str]) -> Tokenizer:
    """BERT's tokenizer around the vocabulary of a `vocab.txt`: one token a line, ids from 0."""
    vocabulary = {token: id for id, token in enumerate(_lines(files[0]))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk_token"]))
    backend.normalizer = bert_normalizer(settings, normalizers.BertNormalizer())
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def bert_normalizer(settings: Fields, base: normalizers.BertNormalizer) -> normalizers.BertNormalizer:
    """`base`, overruled by what `tokenizer_config.json` says."""
    accents = settings.choice("strip_accents", (True, False, None), base.strip_accents)
    return normalizers.BertNormalizer(
        clean_text=base.clean_text,
        handle_chinese_chars=settings.boolean("tokenize_chinese_chars", base.handle_chinese_chars),
        strip_accents=accents,
        lowercase=settings.boolean("do_lower_case", base.lowercase),
    )


def byte_level_bpe(files: list[Path], settings: Fields, names: Mapping[str, str]) -> Tokenizer:
    """RoBERTa's tokenizer: `vocab.json` has ids by token, `merges.txt` a version and then one pair a line."""
    vocabulary_path, merges_path = files
    vocabulary = read_json(vocabulary_path)
    for token, id in vocabulary.items():
        if type(id) is not int or not 0 <= id < 1 << 31:
            raise ModelFolderError(f"{vocabulary_path}: the id of token {shown(token)} is {shown(id)}; expected an id")
    # The first line is the version; transformers drops what follows the last line end, too.
    lines = _text(merges_path).split("\n")[1:-1]
    merges = [tuple(line.split()) for line in lines]
    for number, pair in enumerate(merges, 2):
        if len(pair) != 2:
            raise ModelFolderError(f"{merges_path}: line {number} is {shown(lines[number - 2])}; expected two tokens")
    backend = Tokenizer(models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.boolean("add_prefix_space", False))
    backend.decoder = decoders.ByteLevel()
    return backend


def xlm_roberta(files: list[Path], settings: Fields, names: Mapping[str, str]) -> Tokenizer:
    """The tokenizer of XLM-R: pieces behind the four tokens of fairseq, a mask behind them."""
    model = read_sentencepiece(files[0])
    first = [Piece(text, 0.0, CONTROL) for text in ("<s>", "<pad>", "</s>", "<unk>")]
    return _unigram(model, [*first, *model.pieces[3:], Piece("<mask>", 0.0, CONTROL)], 3, _collapsed(model, _SPACE))


def camembert(files: list[Path], settings: Fields, names: Mapping[str, str]) -> Tokenizer:
    """The tokenizer of CamemBERT: as that of XLM-R, with the doublets that its training left."""
    model = read_sentencepiece(files[0])
    first = [Piece(text, 0.0, CONTROL) for text in ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>")]
    unused = Piece("<unk>NOTUSED", _NEVER, CONTROL)
    vocabulary = [*first, unused, *model.pieces[1:], Piece("<mask>", 0.0, CONTROL)]
    return _unigram(model, vocabulary, 3, _collapsed(model, _SPACE))


def albert(files: list[Path], settings: Fields, names: Mapping[str, str]) -> Tokenizer:
    """The tokenizer of ALBERT: accents and case go before the pieces' own normalisation, unless the settings say no."""
    model = read_sentencepiece(files[0])
    steps: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.boolean("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.boolean("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    vocabulary = [
        piece._replace(score=piece.score + _NEVER) if _is_number_with_comma(piece.text) else piece
        for piece in model.pieces
    ]
    return _unigram(model, vocabulary, model.unknown_id, steps)


def _is_number_with_comma(text: str) -> bool:
    """Whether a piece ends in a digit and a comma, which ALBERT splits."""
    return len(text) >= 2 and text[-1] == "," and text[-2].isdigit()


def _collapsed(model: SentencePieceModel, space: str) -> list[normalizers.Normalizer]:
    steps = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), space)]
    return [normalizers.Precompiled(model.charsmap), *steps] if model.charsmap else steps


def _unigram(
    model: SentencePieceModel, vocabulary: list[Piece], unknown_id: int, steps: list[normalizers.Normalizer]
) -> Tokenizer:
    backend = Tokenizer(models.Unigram([(piece.text, piece.score) for piece in vocabulary], unknown_id, False))
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    backend.add_tokens(
        [
            AddedToken(piece.text, normalized=False, special=piece.type == CONTROL)
            for piece in model.pieces
            if piece.type in (CONTROL, USER_DEFINED)
        ]
    )
    return backend


def _lines(path: Path) -> list[str]:
    # Not splitlines: a vocabulary may hold characters that it takes for line ends.
    return _text(path).removesuffix("\n").split("\n")


def _text(path: Path) -> str:
    if not os.path.isfile(path):
        raise ModelFolderError(f"{path}: {why_no_file(path)}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path}: not a vocabulary ({error})") from error
