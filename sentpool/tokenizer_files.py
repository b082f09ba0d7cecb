"""The tokenizer of a model folder: `tokenizer.json`, or vocabulary files alone, checked against the encoder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError, panics_raise, shown
from sentpool.fields import Fields, is_there
from sentpool.tokenizer_kinds import KINDS, ROLES, TokenizerKind, tokenizer_kind
from sentpool.tokenizer_vocabularies import bert_normalizer

# The largest tokenizers in use (250,000 pieces and their scores) have 35 MB.
MAX_TOKENIZER_BYTES = 256 << 20

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read_settings(folder: Path) -> Fields:
    """The `tokenizer_config.json` of a folder.

    In folders older than its field `added_tokens_decoder`, `special_tokens_map.json` overrules it, as in transformers.
    """
    settings = Fields.read_if_there(folder / "tokenizer_config.json")
    special = Fields.read_if_there(folder / "special_tokens_map.json")
    if "added_tokens_decoder" not in settings.values:
        settings = Fields(settings.path, {**settings.values, **special.values})
    # transformers would keep the end of a long text instead of its beginning.
    settings.choice("truncation_side", ("right",), "right")
    return settings


def read_backend(folder: Path, config: EncoderConfig, settings: Fields, *, do_lower_case: bool) -> Tokenizer:
    """Read the tokenizer of a folder.

    What `tokenizer_config.json` says overrules `tokenizer.json`, as in transformers: `do_lower_case`, `strip_accents`
    and `tokenize_chinese_chars` the BERT normalizer, `add_prefix_space` the byte-level pre-tokenizer, added and special
    tokens those that are there. Truncation and padding in `tokenizer.json` are dropped. Where nothing is put around
    texts, the first and the last token of the tokenizer's class are.

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
    kind = tokenizer_kind(settings, config)
    names = _special_names(settings, kind)
    path = folder / "tokenizer.json"
    if is_there(path):
        backend = _from_tokenizer_json(path)
        _overrule(backend, settings, kind)
    else:
        files = _vocabulary_files(folder, kind)
        path = files[0]
        backend = kind.make(files, settings, names)
    _add_tokens(backend, settings, kind)
    backend.encode_special_tokens = settings.boolean("split_special_tokens", False)
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


def _overrule(backend: Tokenizer, settings: Fields, kind: TokenizerKind) -> None:
    if kind.is_wordpiece and isinstance(backend.normalizer, normalizers.BertNormalizer):
        backend.normalizer = bert_normalizer(settings, backend.normalizer)
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        # Silence means false, whatever the file says.
        pre_tokenizer = backend.pre_tokenizer
        pre_tokenizer.add_prefix_space = settings.boolean("add_prefix_space", False)
        backend.pre_tokenizer = pre_tokenizer


def _vocabulary_files(folder: Path, kind: TokenizerKind) -> list[Path]:
    """The files that make a tokenizer of this kind without a `tokenizer.json`."""
    if kind.make is None:
        known = ", ".join(name for name, other in KINDS.items() if other.make)
        raise ModelFolderError(
            f"{folder}: no tokenizer: tokenizer.json is not there, and only of {known}, not of {kind.name}, the "
            f"vocabulary alone is read"
        )
    files = [folder / name for name in kind.files]
    missing = [file.name for file in files if not is_there(file)]
    if missing:
        raise ModelFolderError(
            f"{folder}: no tokenizer: neither tokenizer.json nor {' and '.join(missing)} is there, which {kind.name} "
            f"is read from"
        )
    return files


def _special_tokens(
    settings: Fields, kind: TokenizerKind, listed: Mapping[str, AddedToken]
) -> dict[str, AddedToken | str]:
    """The special tokens by role, as a mere name where neither folder nor class says more."""
    tokens: dict[str, AddedToken | str] = {}
    for role in ROLES:
        if isinstance(settings.values.get(role), dict):
            token = _added_token(settings.object(role), special=True)
            tokens[role] = listed.get(token.content, token)
        elif settings.has(role):
            name = settings.string(role)
            tokens[role] = listed.get(name) or kind.special_token(role, name)
        elif role in kind.special_tokens:
            tokens[role] = kind.special_token(role, kind.special_tokens[role])
    return tokens


def _special_names(settings: Fields, kind: TokenizerKind) -> dict[str, str]:
    """How the special tokens are written, by role."""
    return {role: _content(token) for role, token in _special_tokens(settings, kind, {}).items()}


def _content(token: AddedToken | str) -> str:
    return token if isinstance(token, str) else token.content


def _added_token(fields: Fields, **flags: bool) -> AddedToken:
    flags = {name: fields.boolean(name) for name in _FLAGS if name in fields.values} | flags
    return AddedToken(fields.string("content"), **flags)


def _add_tokens(backend: Tokenizer, settings: Fields, kind: TokenizerKind) -> None:
    """Add the tokens that the folder lists and, with their flags, the special ones.

    Raises
    ------
    ModelFolderError
        If a listed token has another id in this tokenizer than in the list.
    """
    special = set(_special_names(settings, kind).values())
    in_file = {} if _lists_all(settings) else backend.get_added_tokens_decoder()
    path, tokens = _listed_tokens(settings, special)
    listed = {token.content: token for token in (*tokens.values(), *in_file.values())}
    for id, token in sorted(tokens.items()):
        if id not in in_file and repr(backend.get_added_tokens_decoder().get(id)) != repr(token):
            backend.add_tokens([token])
        found = backend.token_to_id(token.content)
        if found != id:
            raise ModelFolderError(
                f"{path}: adds token {shown(token.content)} with id {id}, but in the tokenizer it has id {found}: "
                f"save the tokenizer once with transformers' AutoTokenizer"
            )
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token in _special_tokens(settings, kind, listed).values():
        # What the vocabulary lacks would get an id of which the encoder knows nothing.
        if backend.token_to_id(_content(token)) is not None and token not in added:
            backend.add_special_tokens([token])


def _lists_all(settings: Fields) -> bool:
    """Whether `tokenizer_config.json` lists every added token, as newer ones do."""
    return "added_tokens_decoder" in settings.values


def _listed_tokens(settings: Fields, special: set[str]) -> tuple[Path, dict[int, AddedToken]]:
    """The tokens of `added_tokens_decoder` or, in older folders, of `added_tokens.json`, by id."""
    if _lists_all(settings):
        listed = settings.object("added_tokens_decoder")
        return settings.path, {_id(listed, key): _added_token(listed.object(key)) for key in listed.values}
    listed = Fields.read_if_there(settings.path.with_name("added_tokens.json"))
    return listed.path, {
        listed.integer(name, minimum=0, maximum=1 << 31): AddedToken(
            name, normalized=name not in special, special=name in special
        )
        for name in listed.values
    }


def _id(fields: Fields, key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) <= 10):
        raise fields.error(key, "a field that is named by an id")
    return int(key)


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


def _template(path: Path, backend: Tokenizer, names: Mapping[str, str]) -> processors.TemplateProcessing:
    for role in ("cls_token", "sep_token"):
        if role not in names:
            raise ModelFolderError(
                f"{path}: nothing is put around texts, and tokenizer_config.json names no {role} that could be"
            )
        if backend.token_to_id(names[role]) is None:
            raise ModelFolderError(
                f"{path}: special token {shown(names[role])} is not in the vocabulary; texts need "
                f"{names['cls_token']} … {names.get('sep_token', '')}"
            )
    first, last = names["cls_token"], names["sep_token"]
    return processors.TemplateProcessing(
        single=[first, "$A", last],
        pair=[first, "$A", last, "$B:1", f"{last}:1"],
        special_tokens=[(name, backend.token_to_id(name)) for name in dict.fromkeys((first, last))],
    )
