"""From texts to packed token ids: thin over `tokenizers`, which works in threads of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from sentpool.config import EncoderConfig
from sentpool.digests import sha256
from sentpool.errors import ModelFolderError, panics_raise, shown, warn
from sentpool.long_text import LongText, SpacedText
from sentpool.subword_text import SubwordText
from sentpool.tokenizer_files import read_backend, read_settings
from sentpool.words import ID, Words, library_ids

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

# How many characters of a text are looked at first, per token that the encoder takes: prose has five to a
# token.
_CHARACTERS_PER_TOKEN = 8
_CHARACTERS_AT_LEAST = 256

# How many texts are tokenised at a time: what the library gives back is a hundred times as large as the ids in it.
_AT_ONCE = 1024


class TokenBatch(NamedTuple):
    """The tokens of n texts, one behind the other and without padding.

    Attributes
    ----------
    ids : ndarray, int32, shape (N,)
        Text i owns ids[offsets[i]:offsets[i + 1]], special tokens included.
    offsets : ndarray, int64, shape (n + 1,)
    truncated : ndarray, bool, shape (n,)
        Whether a text has more tokens than were kept.
    """

    ids: np.ndarray
    offsets: np.ndarray
    truncated: np.ndarray


class TextTokenizer:
    """Tokenises texts as the model was trained to see them, up to `max_seq_length` tokens.

    Any number of threads may use one tokenizer at a time.

    Attributes
    ----------
    backend : tokenizers.Tokenizer
        What finds ids; it is not to be changed, for what it found is remembered. It neither truncates nor pads: this
        class does.
    max_positions : int
        The most tokens, special tokens included, that the encoder has positions for.
    """

    def __init__(self, backend: Tokenizer, max_positions: int, max_seq_length: int | None = None) -> None:
        self.backend = backend
        self.max_positions = max_positions
        self._prefix, self._suffix = _special_ids(backend)
        self._around = tuple(np.array(ids, ID).tobytes() for ids in self.special_ids)
        self._long_text = LongText.of(backend) or SpacedText.of(backend) or SubwordText.of(backend)
        self._words = Words.of(backend)
        self.max_seq_length = max_positions if max_seq_length is None else max_seq_length

    @classmethod
    def read(
        cls,
        folder: Path,
        config: EncoderConfig,
        *,
        max_seq_length: int | None = None,
        do_lower_case: bool = False,
    ) -> TextTokenizer:
        """Read the tokenizer of a model folder.

        Parameters
        ----------
        max_seq_length
            As in sentence-transformers: if None, `model_max_length` of `tokenizer_config.json` holds. Neither
            can exceed the encoder's positions: larger numbers, which old folders have, mean all of them.
        do_lower_case
            Lowercase every text first, whatever the tokenizer does itself.

        Raises
        ------
        ModelFolderError
            If a file is missing, broken, or does not fit the encoder.
        """
        settings = read_settings(folder)
        if max_seq_length is None and settings.has("model_max_length"):
            # "No limit" is written as 10**30.
            max_seq_length = int(settings.number("model_max_length", minimum=1, below=1e300))
        limit = config.max_tokens if max_seq_length is None else min(max_seq_length, config.max_tokens)
        with panics_raise(ModelFolderError, f"{folder}: the tokenizer failed"):
            try:
                backend = read_backend(folder, config, settings, do_lower_case=do_lower_case)
                return cls(backend, config.max_tokens, limit)
            except (ModelFolderError, MemoryError):
                raise
            # The library raises bare `Exception` for parts that do not fit together.
            except Exception as error:
                raise ModelFolderError(f"{folder}: {error}") from error

    @property
    def special_ids(self) -> tuple[list[int], list[int]]:
        """The ids that are put before and behind every text."""
        return self._prefix, self._suffix

    @property
    def max_seq_length(self) -> int:
        """The most tokens kept of a text, special tokens included; settable."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"max_seq_length must be an integer, not {type(value).__name__} {shown(value)}")
        least = len(self._prefix) + len(self._suffix)
        if not least <= value <= self.max_positions:
            raise ValueError(
                f"max_seq_length is {value}; allowed are {least} (the special tokens alone) to "
                f"{self.max_positions} (the encoder's positions)"
            )
        self._max_seq_length = int(value)

    def sha256(self) -> str:
        """Of what the backend is made of: vocabulary, merges, normalisation. The maximum length is no part of it."""
        return sha256(self.backend.to_str().encode("utf-8", "surrogatepass")).hexdigest()

    def encode(self, texts: list[str]) -> TokenBatch:
        """Tokenise texts.

        A lone surrogate, which is no character, is read as U+FFFD, with one warning. Of a long text, only as
        much is tokenised as decides about the ids that are kept.

        Parameters
        ----------
        texts
            A list of str, of any length each.

        Returns
        -------
        TokenBatch
        """
        # Read once: another thread may set max_seq_length meanwhile.
        limit = self.max_seq_length - len(self._prefix) - len(self._suffix)
        with panics_raise(ValueError, "the tokenizer failed"):
            try:
                rows = self._rows(texts, limit)
            # What the library says to a str that has no UTF-8, and what Python says.
            except (TypeError, UnicodeEncodeError):
                cleaned = [_LONE_SURROGATE.sub("\ufffd", text) for text in texts]
                if cleaned == texts:
                    raise
                warn("lone surrogates, which are no characters, were read as U+FFFD")
                rows = self._rows(cleaned, limit)
        return self._packed(rows, limit)

    def count(self, prefix: str) -> int:
        """How many tokens a prompt has, with the opening special tokens and without the closing ones."""
        return len(self.encode([prefix]).ids) - len(self._suffix)

    def forget_words(self) -> None:
        """Look no word up that was seen before now: for measurements, which would gain by it."""
        if self._words is not None:
            self._words.forget()

    def _rows(self, texts: list[str], limit: int) -> list[bytes]:
        """The ids (int32) of each text without special tokens: all, or the first ones but more than `limit`."""
        heads = [self._head(text, limit) for text in texts]
        rows: list[bytes] = []
        for first in range(0, len(heads), _AT_ONCE):
            part = heads[first : first + _AT_ONCE]
            rows += library_ids(self.backend, part) if self._words is None else self._words.ids(part)
        for index, (text, head) in enumerate(zip(texts, heads, strict=True)):
            if len(head) < len(text) and len(rows[index]) <= limit * ID.itemsize:
                rows[index] = np.array(self._long_text.first_ids(text, limit), ID).tobytes()
        return rows

    def _head(self, text: str, limit: int) -> str:
        """A beginning of the text, so that more of the text would change none of its ids."""
        size = _CHARACTERS_AT_LEAST + _CHARACTERS_PER_TOKEN * limit
        if len(text) <= size or self._long_text is None:
            return text
        return self._long_text.head(text, size)

    def _packed(self, rows: list[bytes], limit: int) -> TokenBatch:
        prefix, suffix = self._around
        most = limit * ID.itemsize
        packed = [prefix + row[:most] + suffix for row in rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, packed), np.int64, len(rows)) // ID.itemsize, out=offsets[1:])
        truncated = np.fromiter((len(row) > most for row in rows), bool, len(rows))
        return TokenBatch(np.frombuffer(bytearray().join(packed), ID), offsets, truncated)


def _special_ids(backend: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that are put before and behind every text."""
    encoding: Encoding = backend.encode("a")
    mask = encoding.special_tokens_mask
    if 0 not in mask or any(encoding.type_ids):
        raise ValueError(
            f"the tokenizer turns 'a' into tokens {encoding.tokens} of types {encoding.type_ids}; "
            f"expected are special tokens around at least one other, all of type 0"
        )
    first = mask.index(0)
    last = len(mask) - mask[::-1].index(0)
    return encoding.ids[:first], encoding.ids[last:]
