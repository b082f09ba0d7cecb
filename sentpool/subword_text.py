"""The first tokens of a long text for byte-level BPE and Unigram tokenizers, without tokenising all of it.

As in `long_text.py`, a short piece must give the ids of the whole. Three facts make it so:

- Between two *plain* characters no normalizer composes, reorders or looks across: each side is normalised alone. What
  is plain is decided by Unicode's properties, narrowly; no added token and no replaced text may lie across the cut.
- Before a space a word ends, so a cut there changes no token to its left.
- A word may be as long as the text (languages without spaces). Say that its tokens have at most m symbols. Then one of
  any m consecutive places in it is the end of a token, and up to there the tokens are those of the word cut at that
  place, both in BPE, where no merge crossed it, and in Unigram, where the best way to a place does not depend on what
  follows. So what the m words that are cut at the last m places of a piece have in common at their beginning is sure.

Text that has no such place for long (megabytes of combining marks before a normalizer that orders them) is tokenised
whole.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from functools import cached_property

from tokenizers import Tokenizer, models, pre_tokenizers

from sentpool.long_text import before_last

# White space as Unicode has it, which is how regular expressions and tokens that swallow it understand it there.
_WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_WHITE_RUN = re.compile(f"[{_WHITE}]+")
# White space and control characters in a long row; a normalizer may make spaces of them, or nothing.
_GAP = re.compile(f"[{_WHITE}\x00-\x1f\x7f-\x9f]")
_GAP_RUN = re.compile(f"{_GAP.pattern}{{32,}}")

_PLAIN = frozenset({"Lu", "Ll", "Lo", "Nd", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "So"})
# Jamo, regional indicators, and letters that Unicode joins to what follows: alone in their kind, not plain beside each
# other. From U+1F200 on, symbols; above those, ideographs.
_NEVER_PLAIN = re.compile(
    "[\u0d4e\u1100-\u11ff\u302a-\u302f\ua960-\ua97f\ud7b0-\ud7ff\uff00-\uffef\U0001f1e6-\U0001f1ff]"
)
_SYMBOLS = range(0x1F200, 0x20000)

# Normalizers that take characters one by one, or look no further than combining characters reach.
_COMPOSING = frozenset({"NFC", "NFD", "NFKC", "NFKD"})
_LOCAL = frozenset({"Lowercase", "StripAccents", "Precompiled", "Strip"})
_TWO_SPACES = {"Regex": " {2,}"}

_FIRST_PIECE = 1 << 12
# Beyond that a piece is not looked through for the sure part of its last word.
_LARGEST_PIECE = 1 << 19
# So many words before a cut may be others in the whole text: "'l" are two, "'ll" is one.
_UNSURE_WORDS = 3
# How far back a cut is looked for.
_REACH = 1 << 12
# So many combining characters in a row are looked up one by one by SentencePiece's normalisation, never as one.
_LONG_CLUSTER = 6


class SubwordText:
    """Tokenises the beginnings of long texts; use `SubwordText.of`, which knows where that is exact."""

    def __init__(self, backend: Tokenizer, steps: list[dict], *, collapses: bool) -> None:
        self._backend = backend
        self._has_normalizer = bool(steps)
        self._keeps_clusters = self._has_normalizer and not any(step["type"] in _COMPOSING for step in steps)
        self._is_byte_level = isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel)
        added = backend.get_added_tokens_decoder().values()
        contents = [token.content for token in added]
        contents += [self._normalized(content) for content in contents]
        self._collapses = collapses and not any(_GAP.search(content) for content in contents)
        self._lone = {content for content in contents if len(content) == 1}
        contents += [step["pattern"].get("String", "") for step in steps if step["type"] == "Replace"]
        self._joined = {pair for text in contents for pair in zip(text, text[1:], strict=False)}
        self._swallows_space = tuple(token.content for token in added if token.lstrip)
        self._kinds: dict[str, str | None] = {}

    @classmethod
    def of(cls, backend: Tokenizer) -> SubwordText | None:
        """A `SubwordText` for this tokenizer, or None if a piece could get other ids than in the whole text."""
        steps = _steps(backend.normalizer)
        added = backend.get_added_tokens_decoder().values()
        if steps is None or any(token.single_word or not token.content for token in added):
            return None
        model, state = backend.model, _state(backend.pre_tokenizer)
        if isinstance(model, models.BPE):
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            is_known = (
                state.get("type") == "ByteLevel"
                and state["use_regex"]
                and not (model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix)
                and all(step["type"] in _COMPOSING for step in steps)
                and all(model.token_to_id(symbol) is not None for symbol in alphabet)
            )
            return cls(backend, steps, collapses=False) if is_known else None
        parts = state.get("pretokenizers", [state])
        kinds = [part.get("type") for part in parts]
        is_known = (
            isinstance(model, models.Unigram)
            and kinds in (["Metaspace"], ["WhitespaceSplit", "Metaspace"])
            and parts[-1]["split"]
        )
        collapses = len(kinds) == 2 or (bool(steps) and steps[-1].get("pattern") == _TWO_SPACES)
        return cls(backend, steps, collapses=collapses) if is_known else None

    def head(self, text: str, size: int) -> str:
        """A beginning of at most `size` characters whose ids are the first of the whole text; perhaps none."""
        end = text.rfind(" ", 0, size)
        while end > 0 and not (self._is_plain(text[end - 1]) and self._is_seam(text[end - 1], " ")):
            end = text.rfind(" ", 0, end)
        return text[: max(end, 0)]

    def first_ids(self, text: str, limit: int) -> list[int]:
        """As `LongText.first_ids`."""
        if self._collapses:
            text = _GAP_RUN.sub(self._condensed, text)
        if not self._is_byte_level:
            text = self._unknown_run.sub(self._one_unknown, text)
        size = _FIRST_PIECE
        while size < len(text):
            ids = self._ids(self.head(text, size))
            if len(ids) > limit:
                return ids
            if size <= _LARGEST_PIECE:
                ids = self._sure_ids(text[: self._cut(text, size)])
                if len(ids) > limit:
                    return ids
            size *= 4
        return self._ids(text)

    def _ids(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def _normalized(self, text: str) -> str:
        return self._backend.normalizer.normalize_str(text) if self._has_normalizer else text

    def _is_seam(self, left: str, right: str) -> bool:
        """Whether no added token and no replaced text holds these two characters, as they are or normalised."""
        if (left, right) in self._joined:
            return False
        # A space alone may be stripped.
        left, right = self._normalized(left), self._normalized(right) or right
        return left != "" and (left[-1], right[0]) not in self._joined

    def _is_plain(self, character: str) -> bool:
        if not self._has_normalizer:
            return not _WHITE_RUN.match(character)
        if unicodedata.category(character) == "Cc":  # no text element but their own
            return not _WHITE_RUN.match(character) and self._normalized(character) == character
        return _is_plain(character)

    def _cut(self, text: str, size: int) -> int:
        """Where the text may be cut, inside of a word too: the last such place up to `size`, or 0."""
        for place in range(size, max(size - _REACH, 0), -1):
            left, right = text[place - 1], text[place]
            may_part = (
                (self._is_plain(left) and self._is_plain(right))
                or (self._is_byte_level and _WHITE_RUN.match(left) and self._is_inside_space(text, place))
                or (self._keeps_clusters and _is_cluster(text[max(place - _LONG_CLUSTER, 0) : place + 1]))
            )
            if may_part and self._is_seam(left, right):
                return place
        return 0

    def _is_inside_space(self, text: str, place: int) -> bool:
        """Whether white space goes on for at least two characters, to the end or to what does not swallow it."""
        run = _WHITE_RUN.match(text, place)
        if run is None or len(run.group()) < 2:
            return False
        return not text.startswith(self._swallows_space, run.end()) if self._swallows_space else True

    def _sure_ids(self, piece: str) -> list[int]:
        """The first ids of a piece that was cut anywhere, as far as they are those of the whole text."""
        encoding = self._backend.encode(piece, add_special_tokens=False)
        words = encoding.word_ids
        if not words or self._byte_fallback:
            return []
        start = words.index(words[-1])
        word = "".join(encoding.tokens[start:])
        longest = self._longest
        if len(word) < 2 * longest:
            return encoding.ids[: before_last(words, _UNSURE_WORDS)]
        # Only the model: it gets what the pre-tokenizer made of the piece.
        bare = Tokenizer(self._backend.model)
        cuts = [word[:end] for end in range(len(word) - longest + 1, len(word) + 1)]
        rows = [cut.ids for cut in bare.encode_batch_fast(cuts, add_special_tokens=False)]
        if rows[-1] != encoding.ids[start:]:  # an added token
            return encoding.ids[: before_last(words, _UNSURE_WORDS)]
        return encoding.ids[:start] + os.path.commonprefix(rows)

    @cached_property
    def _longest(self) -> int:
        """How many symbols the longest token has."""
        return max(map(len, self._backend.get_vocab(with_added_tokens=False)))

    @cached_property
    def _byte_fallback(self) -> bool:
        """Whether an unknown character becomes bytes, which are not what stands in the text."""
        return not self._is_byte_level and not self._backend.model.__getstate__().endswith(b'"byte_fallback":false}')

    def _condensed(self, match: re.Match) -> str:
        """What a long row of white space and control characters may be replaced by."""
        run = match.group()
        kinds = {character: self._kind(character) for character in set(run)}
        white = "".join(filter(_WHITE_RUN.match, kinds))
        if None in kinds.values() or any(kinds[character] != " " for character in white):
            return run
        # Tokens that swallow white space do so up to the first other character from either side.
        others = run.strip(white)
        if len(others) < 2:
            return run if others else _ends(run)
        before, _, after = run.partition(others)
        space = next((character for character in others if kinds[character] == " "), "")
        return _ends(before) + others[0] + space + others[-1] + _ends(after)

    @cached_property
    def _unknown_run(self) -> re.Pattern:
        """A long row of characters that are in no piece of a Unigram model."""
        known = set("".join(self._backend.get_vocab(with_added_tokens=False)))
        return re.compile(f"[^{_WHITE}{re.escape(''.join(sorted(known)))}]{{32,}}")

    def _one_unknown(self, match: re.Match) -> str:
        """A row of unknown characters is one unknown token, if the normalizer leaves each as it is."""
        run = match.group()
        characters = set(run)
        joined = any(left in characters and right in characters for left, right in self._joined)
        if self._byte_fallback or joined or self._lone & characters:
            return run
        stay = all(self._is_plain(character) and self._normalized(character) == character for character in characters)
        # The first and the last may belong to added tokens, which end and begin there.
        return run[:2] + run[-1] if stay else run

    def _kind(self, character: str) -> str | None:
        """A space or nothing, if the normalizer makes that of a character, else None."""
        if character not in self._kinds:
            self._kinds[character] = {"aa": "", "a a": " "}.get(self._normalized(f"a{character}a"))
        return self._kinds[character]


def _ends(space: str) -> str:
    return space if len(space) <= 2 else space[0] + space[-1]


def _is_plain(character: str) -> bool:
    if unicodedata.category(character) not in _PLAIN or _NEVER_PLAIN.match(character):
        return False
    if (
        ord(character) > 0xFFFF
        and ord(character) not in _SYMBOLS
        and not unicodedata.name(character, "").startswith("CJK")
    ):
        return False
    # What decomposes must decompose to plain characters and marks behind them.
    first = unicodedata.normalize("NFKD", character)[0]
    return first == character or (
        first != " " and unicodedata.category(first) in _PLAIN and not _NEVER_PLAIN.match(first)
    )


def _is_cluster(text: str) -> bool:
    return len(text) > _LONG_CLUSTER and all(unicodedata.category(character) == "Mn" for character in text)


def _state(part) -> dict:
    return {} if part is None else json.loads(part.__getstate__())


def _flat(step: dict) -> list[dict]:
    if step.get("type") == "Sequence":
        return [inner for outer in step["normalizers"] for inner in _flat(outer)]
    return [step] if step else []


def _steps(normalizer) -> list[dict] | None:
    """The steps of a normalizer, if each is one that looks no further than it is assumed here."""
    steps = _flat(_state(normalizer))
    for step in steps:
        kind, pattern = step["type"], step.get("pattern", {})
        is_replaced = kind == "Replace" and ("String" in pattern or pattern == _TWO_SPACES)
        if not (kind in _COMPOSING or kind in _LOCAL or is_replaced):
            return None
    return steps
