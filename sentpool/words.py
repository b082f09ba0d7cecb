"""The ids of texts from those of their words, for BERT tokenizers: every word is tokenised once.

A BERT tokenizer ends a word at white space, whatever stands around it, and no added token reaches across (`SpacedText`
of long_text.py says when that holds). So the ids of a text are those of what stands between its spaces, each tokenised
alone, or with other words around it. Words recur, and to look one up costs a tenth of tokenising it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
from tokenizers import Tokenizer

from sentpool.long_text import SpacedText

# Characters of the words that are remembered: some 18,000 words, in 2 to 3 MB.
_MOST_CHARACTERS = 1 << 17

# New words are tokenised so many at a time, for every call costs as much as several words, with a token between them.
_JOINED = 128
_BETWEEN = "|"


class Words:
    """Tokenises texts word by word; use `Words.of`, which knows where that is exact.

    Any number of threads may use one at a time.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._between = backend.encode(_BETWEEN, add_special_tokens=False).ids
        self.forget()

    @classmethod
    def of(cls, backend: Tokenizer) -> Words | None:
        """A `Words` for this tokenizer, or None if the ids of a word may depend on what stands around it."""
        return None if SpacedText.of(backend) is None else cls(backend)

    def forget(self) -> None:
        """Start anew without any word."""
        self._known = {"": b""}  # what stands between two spaces
        self._characters = 0

    def ids(self, texts: list[str]) -> list[bytes]:
        """The ids (int32) of each text without special tokens."""
        if self._characters > _MOST_CHARACTERS:
            self.forget()
        known = self._known  # another thread may start anew meanwhile
        rows = [text.split(" ") for text in texts]
        new = list(dict.fromkeys(word for row in rows for word in row if word not in known))
        known.update(zip(new, self._new_ids(new), strict=True))
        self._characters += sum(map(len, new))
        return [b"".join(map(known.__getitem__, row)) for row in rows]

    def _new_ids(self, words: list[str]) -> Iterator[bytes]:
        parts = [words[first : first + _JOINED] for first in range(0, len(words), _JOINED)]
        joined = library_ids(self._backend, [f" {_BETWEEN} ".join(part) for part in parts])
        for part, ids in zip(parts, joined, strict=True):
            ends = np.flatnonzero(np.frombuffer(ids, np.int32) == self._between[0])
            if len(self._between) == 1 and len(ends) == len(part) - 1:
                starts = chain((0,), (4 * ends + 4).tolist())
                yield from map(ids.__getitem__, map(slice, starts, chain((4 * ends).tolist(), (len(ids),))))
            else:  # the token between them is one of theirs, too
                yield from library_ids(self._backend, part)


def library_ids(backend: Tokenizer, texts: list[str]) -> Iterator[bytes]:
    """The ids (int32) of each text without special tokens, as the library finds them."""
    # encode_batch_fast leaves out offsets, which nobody asks for.
    encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    return (np.array(encoding.ids, np.int32).tobytes() for encoding in encodings)
