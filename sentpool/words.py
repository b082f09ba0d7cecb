"""The ids of texts from those of their words, for BERT tokenizers: a word that was seen is looked up.

A BERT tokenizer ends a word at white space, whatever stands around it, and no added token reaches across (`SpacedText`
of long_text.py says when that holds). So the ids of a text are those of what stands between its spaces, each tokenised
alone, or with other words around it. Words recur, and to look one up takes far less time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from tokenizers import Tokenizer

from sentpool.long_text import SpacedText

ID = np.dtype(np.int32)

# Beyond so many characters, some 20,000 words, all are forgotten.
_MOST_CHARACTERS = 1 << 17
# Longer ones, as in languages without spaces, hardly recur: their texts are tokenised whole.
_LONGEST_WORD = 64

# Fewer texts are tokenised whole, which takes less time than to look whether their words are new.
_FEWEST_TEXTS = 16

# New words are tokenised so many at a time, for every call costs as much as several words, with a token between them;
# and so many of such texts at a time, for what the library gives back is large.
_JOINED = 64
_AT_ONCE = 32
_BETWEEN = "|"


class Words:
    """Tokenises texts word by word; use `Words.of`, which knows where that is exact.

    Threads may share one.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        ids = backend.encode(_BETWEEN, add_special_tokens=False).ids
        self._between = ids[0] if len(ids) == 1 else -1  # no id
        self.forget()

    @classmethod
    def of(cls, backend: Tokenizer) -> Words | None:
        """A `Words` for this tokenizer, or None if the ids of a word may depend on what stands around it."""
        return None if SpacedText.of(backend) is None else cls(backend)

    def forget(self) -> None:
        """Start anew without any word."""
        self._known = {"": b""}  # nothing, between two spaces
        self._characters = 0

    def ids(self, texts: Sequence[str]) -> list[bytes]:
        """The ids (int32) of each text without special tokens."""
        if len(texts) < _FEWEST_TEXTS:
            return list(library_ids(self._backend, texts))
        known = self._known  # another thread may start anew meanwhile
        rows = [text.split(" ") for text in texts]
        new = dict.fromkeys(word for row in rows for word in row if word not in known)
        if not new:
            return [b"".join(map(known.__getitem__, row)) for row in rows]

        long = {word for word in new if len(word) > _LONGEST_WORD}
        whole = [i for i, row in enumerate(rows) if not long.isdisjoint(row)] if long else []
        ids = dict(zip(whole, library_ids(self._backend, [texts[i] for i in whole]), strict=True))
        self._learn(known, [word for word in new if word not in long])
        ids = [ids[i] if i in ids else b"".join(map(known.__getitem__, row)) for i, row in enumerate(rows)]
        if self._characters > _MOST_CHARACTERS:
            self.forget()
        return ids

    def _learn(self, known: dict[str, bytes], words: list[str]) -> None:
        for first in range(0, len(words), _JOINED * _AT_ONCE):
            part = words[first : first + _JOINED * _AT_ONCE]
            self._characters += sum(map(len, part))
            known.update(zip(part, self._new_ids(part), strict=True))

    def _new_ids(self, words: list[str]) -> Iterator[bytes]:
        parts = [words[first : first + _JOINED] for first in range(0, len(words), _JOINED)]
        joined = library_ids(self._backend, [f" {_BETWEEN} ".join(part) for part in parts])
        for part, ids in zip(parts, joined, strict=True):
            between = np.flatnonzero(np.frombuffer(ids, ID) == self._between) * ID.itemsize
            if len(between) == len(part) - 1:
                starts, ends = chain((0,), (between + ID.itemsize).tolist()), chain(between.tolist(), (len(ids),))
                yield from map(ids.__getitem__, map(slice, starts, ends))
            else:  # there is no such token, or it is one of theirs, too
                yield from library_ids(self._backend, part)


def library_ids(backend: Tokenizer, texts: Sequence[str]) -> Iterator[bytes]:
    """The ids (int32) of each text without special tokens, as the library finds them."""
    # encode_batch_fast leaves out offsets, which nobody asks for.
    encodings = backend.encode_batch_fast(texts, add_special_tokens=False) if texts else []
    return (np.array(encoding.ids, ID).tobytes() for encoding in encodings)
