"""The one table of tokenizer classes: what each takes for granted, how it is made without tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from sentpool import tokenizer_vocabularies as vocabularies
from sentpool.config import EncoderConfig
from sentpool.fields import Fields

# How transformers names the roles of special tokens, in the order in which it adds them.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class TokenizerKind:
    """A tokenizer class of transformers.

    Attributes
    ----------
    name
        The class, without the ending "Fast".
    special_tokens
        How special tokens are written unless the folder says else, by role.
    files
        The vocabulary files that `make` needs.
    make
        Makes a tokenizer from those files (in that order), the settings of the folder and the names of its special
        tokens, by role. None for a class that `tokenizer.json` alone describes.
    mask_takes_space
        Whether the mask token swallows the space before it.
    """

    name: str
    special_tokens: Mapping[str, str]
    files: tuple[str, ...] = ()
    make: Callable[[list[Path], Fields, Mapping[str, str]], Tokenizer] | None = None
    mask_takes_space: bool = False

    @property
    def is_wordpiece(self) -> bool:
        """Whether the folder's settings overrule the normalizer of `tokenizer.json`."""
        return self.make is vocabularies.wordpiece

    def special_token(self, role: str, content: str) -> AddedToken | str:
        """The token of a role of which the folder says no more than its name; a mere name has no flags."""
        if role == "mask_token" and self.mask_takes_space:
            return AddedToken(content, lstrip=True, special=True)
        return content


_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
_ALBERT_TOKENS = {
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": "<unk>",
    "sep_token": "[SEP]",
    "pad_token": "<pad>",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}

_FAIRSEQ = ("sentencepiece.bpe.model",)

KINDS = {
    kind.name: kind
    for kind in (
        *(
            TokenizerKind(name, _BERT_TOKENS, ("vocab.txt",), vocabularies.wordpiece)
            for name in ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
        ),
        TokenizerKind(
            "MPNetTokenizer",
            _ROBERTA_TOKENS | {"unk_token": "[UNK]"},
            ("vocab.txt",),
            vocabularies.wordpiece,
            mask_takes_space=True,
        ),
        TokenizerKind(
            "RobertaTokenizer",
            _ROBERTA_TOKENS,
            ("vocab.json", "merges.txt"),
            vocabularies.byte_level_bpe,
            mask_takes_space=True,
        ),
        TokenizerKind(
            "XLMRobertaTokenizer", _ROBERTA_TOKENS, _FAIRSEQ, vocabularies.xlm_roberta, mask_takes_space=True
        ),
        TokenizerKind("CamembertTokenizer", _ROBERTA_TOKENS, _FAIRSEQ, vocabularies.camembert, mask_takes_space=True),
        TokenizerKind("AlbertTokenizer", _ALBERT_TOKENS, ("spiece.model",), vocabularies.albert, mask_takes_space=True),
        TokenizerKind("PreTrainedTokenizer", {}),
    )
}

# Every file that a tokenizer is read from.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    *dict.fromkeys(name for kind in KINDS.values() for name in kind.files),
)


def tokenizer_kind(settings: Fields, config: EncoderConfig) -> TokenizerKind:
    """The row for the `tokenizer_class` of `tokenizer_config.json`; without one, for the encoder's family.

    A class that is not in the table is fully described by its `tokenizer.json`, or not known at all.
    """
    if not settings.has("tokenizer_class"):
        return KINDS[config.architecture.tokenizer]
    name = settings.string("tokenizer_class").removesuffix("Fast")
    return KINDS.get(name, TokenizerKind(name, {}))
