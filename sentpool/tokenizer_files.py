"""The tokenizer of a model folder: `tokenizer.json`, or `vocab.txt` alone, checked against the encoder."""

from __future__ import annotations

import os
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError, panics_raise, shown
from sentpool.fields import Fields, is_there

# What a tokenizer is read from.
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")

# The largest tokenizers in use (250,000 pieces and their scores) have 35 MB.
MAX_TOKENIZER_BYTES = 256 << 20


def read_settings(folder: Path) -> Fields:
    """The `tokenizer_config.json` of a folder; where it is silent, `special_tokens_map.json` speaks."""
    settings = Fields.read_if_there(folder / "tokenizer_config.json")
    special = Fields.read_if_there(folder / "special_tokens_map.json")
    settings = Fields(settings.path, {**special.values, **settings.values})
    # transformers would keep the end of a long text instead of its beginning.
    settings.choice("truncation_side", ("right",), "right")
    return settings


def read_backend(folder: Path, config: EncoderConfig, settings: Fields, *, do_lower_case: bool) -> Tokenizer:
    """Read the tokenizer of a folder.

    `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` of `tokenizer_config.json`, where they are
    there, overrule the BERT normalizer of `tokenizer.json`, as in transformers. Truncation and padding in
    `tokenizer.json` are dropped, and [CLS] … [SEP] is put around texts if nothing else is.

    Parameters
    ----------
    do_lower_case
        Lowercase every text before all else: `do_lower_case` of `sentence_bert_config.json`.

    Raises
    ------
    ModelFolderError
        If there is no tokenizer, if a file is broken, if the vocabulary lacks a token that is needed, or if
        an id lies beyond `config.vocab_size`.
    """
    path = folder / "tokenizer.json"
    names = _special_names(settings, config)
    if is_there(path):
        backend = _from_tokenizer_json(path)
        if isinstance(backend.normalizer, normalizers.BertNormalizer):
            backend.normalizer = _bert_normalizer(settings, backend.normalizer)
    else:
        path = folder / "vocab.txt"
        backend = _from_vocabulary(path, names, settings)
    backend.no_truncation()
    backend.no_padding()
    if do_lower_case:
        steps = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
    _check_ids(path, backend, config)
    _check_unknown_token(path, backend)
    if not backend.num_special_tokens_to_add(False):
        backend.post_processor = _template(path, backend, names)
    return backend


def _from_tokenizer_json(path: Path) -> Tokenizer:
    if not os.path.isfile(path) or path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise ModelFolderError(f"{path}: not a regular file of at most {MAX_TOKENIZER_BYTES >> 20} MiB")
    if not os.access(path, os.R_OK):
        raise ModelFolderError(f"{path}: no permission to read it")
    try:
        with panics_raise(ModelFolderError, f"{path}: not a tokenizer"):
            return Tokenizer.from_file(str(path))
    except ModelFolderError:
        raise
    # The library raises bare `Exception` for whatever is wrong.
    except Exception as error:
        raise ModelFolderError(f"{path}: not a tokenizer ({error})") from error


def _from_vocabulary(path: Path, names: dict[str, str], settings: Fields) -> Tokenizer:
    """BERT's WordPiece tokenizer around the vocabulary of a `vocab.txt`: one token a line, ids from 0."""
    if is_there(path) and not os.path.isfile(path):
        raise ModelFolderError(f"{path}: not a regular file")
    if not is_there(path):
        raise ModelFolderError(f"{path.parent}: no tokenizer: neither tokenizer.json nor vocab.txt is there")
    added = Fields.read_if_there(path.with_name("added_tokens.json"))
    if added.values:
        raise ModelFolderError(
            f"{added.path}: adds {shown(sorted(added.values))} to vocab.txt, which needs a tokenizer.json: "
            f"save the tokenizer once with transformers' AutoTokenizer"
        )
    try:
        # Not splitlines: a vocabulary may hold characters that it takes for line ends.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path}: not a vocabulary ({error})") from error
    vocabulary = {token: id for id, token in enumerate(lines)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk_token"]))
    backend.normalizer = _bert_normalizer(settings, normalizers.BertNormalizer())
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in names.values() if name in vocabulary])
    return backend


def _bert_normalizer(settings: Fields, base: normalizers.BertNormalizer) -> normalizers.BertNormalizer:
    """`base`, overruled by what `tokenizer_config.json` says."""
    accents = settings.choice("strip_accents", (True, False, None), base.strip_accents)
    return normalizers.BertNormalizer(
        clean_text=base.clean_text,
        handle_chinese_chars=settings.boolean("tokenize_chinese_chars", base.handle_chinese_chars),
        strip_accents=accents,
        lowercase=settings.boolean("do_lower_case", base.lowercase),
    )


def _special_names(settings: Fields, config: EncoderConfig) -> dict[str, str]:
    """How the special tokens are written: a string, or an object whose `content` it is."""
    names = {}
    for role, usual in config.architecture.special_tokens.items():
        if isinstance(settings.values.get(role), dict):
            names[role] = settings.object(role).string("content")
        else:
            names[role] = settings.string(role, usual) if settings.has(role) else usual
    return names


def _check_ids(path: Path, backend: Tokenizer, config: EncoderConfig) -> None:
    vocabulary = backend.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise ModelFolderError(f"{path}: the vocabulary is empty")
    token = max(vocabulary, key=vocabulary.__getitem__)
    if vocabulary[token] >= config.vocab_size:
        raise ModelFolderError(
            f"{path}: token {shown(token)} has id {vocabulary[token]}, but vocab_size in config.json is "
            f"{config.vocab_size}; ids must be below that"
        )


def _check_unknown_token(path: Path, backend: Tokenizer) -> None:
    """These models have nothing to put for a word that they do not know, and fail at the first one."""
    if not isinstance(backend.model, models.WordPiece | models.WordLevel):
        return
    unknown = backend.model.unk_token
    if backend.token_to_id(unknown) is None:
        raise ModelFolderError(f"{path}: the unknown token {shown(unknown)} is not in the vocabulary; it must be")


def _template(path: Path, backend: Tokenizer, names: dict[str, str]) -> processors.TemplateProcessing:
    first, last = names["cls_token"], names["sep_token"]
    for name in (first, last):
        if backend.token_to_id(name) is None:
            raise ModelFolderError(
                f"{path}: special token {shown(name)} is not in the vocabulary; texts need {first} … {last}"
            )
    return processors.TemplateProcessing(
        single=[first, "$A", last],
        pair=[first, "$A", last, "$B:1", f"{last}:1"],
        special_tokens=[(name, backend.token_to_id(name)) for name in dict.fromkeys((first, last))],
    )
