"""The first tokens of a long text, without tokenising all of it.

A tokenizer takes a microsecond and a hundred bytes per character, and an encoder looks at a few hundred
tokens. `LongText` finds the same ids by tokenising a short piece. It relies on the three properties of a BERT
tokenizer that its constructor checks:

- A *word* is what the pre-tokenizer leaves whole. Its tokens depend on its own characters alone, and where it
  ends depends on the next few characters alone. So a piece that is cut anywhere gives the same words as the
  whole text, except near the cut.
- A character is one of five kinds, whatever stands around it. It is part of a word, a word by itself
  (punctuation, CJK), a space, or removed. Among removed ones, a *barrier* (a nonspacing mark of combining
  class 0) keeps other marks from changing places across it; the rest leave no trace.
- A word longer than a limit (100 characters) is the unknown token, whatever else is in it.

Therefore a run of spaces and removed characters counts as one character, and the end of an overlong word may
be dropped. Text that is *condensed* so has short words only: as much as one needs of it is short, however
long the text (fifty megabytes of NULs, of combining marks, or without one space) that it came from.

`SpacedText` is for tokenizers with added tokens that may stand inside a word, which breaks the first property. It
cuts at white space alone, which no such token contains: what stands before the cut cannot see what is behind it.
Tokenizers of other kinds are the matter of `subword_text.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

# The kinds, such that the strongest of a run of the last three is their maximum.
_UNKNOWN, _PART, _WORD, _REMOVED, _BARRIER, _SPACE = range(6)
_CODE_POINTS = 0x110000

# Two marks that are never removed and that canonical order swaps: a barrier between them keeps the order.
_SWAPPED = ("a\u302e", "\u1baaa")

# White space for Unicode, for BERT and for `re` alike; no mark or letter reaches across it.
_GAPS = " \t\n\r"
_GAP = re.compile(f"[{_GAPS}]+")

_FIRST_CHUNK = 1 << 12
_LARGEST_CHUNK = 1 << 20
# An overlong word may cost this many characters; no tokenizer comes near.
_LONGEST_WORD = 1000


class LongText:
    """Tokenises the beginnings of long texts; use `LongText.of`, which knows where that is exact."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._longest_word = backend.model.max_input_chars_per_word
        # In condensed text a word has at most 2n + 3 characters, n being that limit, and an added token at
        # most n. So all words but the last 3n + 4 end where a cut behind them cannot reach.
        self._margin = 3 * self._longest_word + 4
        self._kinds = np.zeros(_CODE_POINTS, np.uint8)
        # What a run of spaces and removed characters is replaced by, by its strongest kind.
        self._stand_ins = np.zeros(_SPACE + 1, np.uint32)
        self._swapped = self._normalized("".join(_SWAPPED))
        self._learn(np.arange(128, dtype=np.uint32))

    @classmethod
    def of(cls, backend: Tokenizer) -> LongText | None:
        """A `LongText` for this tokenizer, or None if a piece could get other ids than in the whole text."""
        if not _is_bert(backend):
            return None
        long_text = cls(backend)
        is_local = all(map(long_text._is_local, backend.get_added_tokens_decoder().values()))
        return long_text if is_local else None

    def head(self, text: str, size: int) -> str:
        """A beginning of at most `size` characters whose ids are the first of the whole text; perhaps none."""
        return _before_space(text, size)

    def first_ids(self, text: str, limit: int) -> list[int]:
        """The ids of a text without special tokens: all of them, or the first ones but more than `limit`.

        Raises
        ------
        UnicodeEncodeError
            If the part of the text that is looked at holds a lone surrogate.
        """
        size = 2 * (limit + self._margin)
        for condensed, is_whole in self._condensed(text):
            while size < len(condensed):
                ids, words = self._encode(condensed[:size])
                complete = before_last(words, self._margin)
                if complete > limit:
                    return ids[:complete]
                size *= 4
            if is_whole:
                return self._encode(condensed)[0]
        return []

    def _condensed(self, text: str) -> Iterator[tuple[np.ndarray, bool]]:
        """Ever longer beginnings of a text as condensed code points, and whether they are the whole text."""
        condensed = np.empty(0, np.uint32)
        start, size = 0, _FIRST_CHUNK
        while start < len(text):
            chunk = _code_points(text[start : start + size])
            start += size
            size = min(2 * size, _LARGEST_CHUNK)
            condensed = self._condense(np.concatenate([condensed, chunk]))
            yield condensed, start >= len(text)

    def _condense(self, codes: np.ndarray) -> np.ndarray:
        """Code points that give the same tokens, also before any continuation."""
        kinds = self._kinds[codes]
        if not kinds.all():
            self._learn(np.unique(codes[kinds == _UNKNOWN]))
            kinds = self._kinds[codes]

        # Runs of spaces and removed characters become one character.
        is_gap = kinds >= _REMOVED
        starts_run = is_gap.copy()
        starts_run[1:] &= ~is_gap[:-1]
        if starts_run.any():
            ranks = np.where(is_gap, kinds, 0)
            strongest = np.maximum.reduceat(ranks, np.flatnonzero(starts_run))
            keep = starts_run | ~is_gap
            codes = codes.copy()
            codes[starts_run] = self._stand_ins[strongest]
            kinds = kinds.copy()
            kinds[starts_run] = strongest
            codes, kinds = codes[keep], kinds[keep]

        # What follows the first longest_word + 1 parts of a word is dropped up to the word's end.
        is_part = kinds == _PART
        ends_word = (kinds == _WORD) | (kinds == _SPACE)
        parts = np.cumsum(is_part)
        parts -= np.maximum.accumulate(np.where(ends_word, parts, 0))
        overlong = parts > self._longest_word + 1
        return codes[~overlong] if overlong.any() else codes

    def _encode(self, codes: np.ndarray) -> tuple[list[int], list[int]]:
        """The ids of some text, and for each the number of the word that it belongs to."""
        text = codes.astype("<u4").tobytes().decode("utf-32-le")
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.word_ids

    def _learn(self, codes: np.ndarray) -> None:
        for code in codes.tolist():
            kind = self._kind(chr(code))
            # Any of a kind will do.
            self._stand_ins[kind] = code
            self._kinds[code] = kind

    def _kind(self, character: str) -> int:
        around = self._normalized(f"a{character}a")
        words = [word for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(around)]
        if words == ["aa"]:
            swapped = self._normalized(character.join(_SWAPPED)) == self._swapped
            return _REMOVED if swapped else _BARRIER
        if words == ["a", "a"]:
            return _SPACE
        if len(words) == 1 and len(words[0]) > 2:
            return _PART
        return _WORD

    def _normalized(self, text: str) -> str:
        return self._backend.normalizer.normalize_str(text)

    def _is_local(self, token) -> bool:
        """Whether an added token is found again in condensed text, wherever in a text it stands."""
        codes = _code_points(token.content)
        self._learn(codes)
        kinds = self._kinds[codes].tolist()
        return (
            not token.single_word
            and 0 < len(kinds) <= self._longest_word
            and kinds[0] == kinds[-1] == _WORD
            and max(kinds) <= _WORD
        )


class SpacedText:
    """Tokenises the beginnings of long texts up to white space; use `SpacedText.of`, which knows where that is exact.

    A text without any white space is tokenised whole.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend

    @classmethod
    def of(cls, backend: Tokenizer) -> SpacedText | None:
        """A `SpacedText` for this tokenizer, or None if a token could reach across white space."""
        if not _is_bert(backend):
            return None
        # A token is looked for as it is written or as the normalizer writes it, which puts spaces around CJK.
        contents = [token.content for token in backend.get_added_tokens_decoder().values()]
        written = contents + [backend.normalizer.normalize_str(content) for content in contents]
        return cls(backend) if all(text and not _GAP.search(text) for text in written) else None

    def head(self, text: str, size: int) -> str:
        """As `LongText.head`."""
        return _before_space(text, size)

    def first_ids(self, text: str, limit: int) -> list[int]:
        """As `LongText.first_ids`."""
        size = _FIRST_CHUNK
        while size < len(text):
            end = max(text.rfind(gap, 0, size) for gap in _GAPS)
            if end > 0:
                ids = self._ids(text[:end])
                if len(ids) > limit:
                    return ids
            size *= 4
        return self._ids(text)

    def _ids(self, text: str) -> list[int]:
        # White space has no tokens, so much of it is as good as little.
        return self._backend.encode(_GAP.sub(" ", text), add_special_tokens=False).ids


def _before_space(text: str, size: int) -> str:
    return text[: max(text.rfind(" ", 0, size), 0)]


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint32, copy=False)


def before_last(words: list[int], count: int) -> int:
    """How many tokens stand before those of the last `count` words."""
    position = len(words)
    while position and count:
        position -= 1
        if position == 0 or words[position - 1] != words[position]:
            count -= 1
    return position


def _is_bert(backend: Tokenizer) -> bool:
    """Whether normalizer, pre-tokenizer and model are those whose properties this module uses."""
    if not (
        isinstance(backend.model, models.WordPiece)
        and 0 < backend.model.max_input_chars_per_word <= _LONGEST_WORD
        and isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(backend.normalizer, normalizers.BertNormalizer | normalizers.Sequence)
    ):
        return False
    state = json.loads(backend.normalizer.__getstate__())
    steps = [step["type"] for step in state.get("normalizers", [state])]
    return steps in (["BertNormalizer"], ["Lowercase", "BertNormalizer"])
