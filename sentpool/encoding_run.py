"""One pass over a list of texts: tokenise, run the core, gather, in blocks that keep memory bounded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sentpool.checks import one_of
from sentpool.errors import warn

# A block is tokenised, then encoded: enough to keep threads busy, little enough for Ctrl-C and the bar.
_BLOCK_SENTENCES, _BLOCK_CHARACTERS = 512, 1 << 17
_BAR_AFTER_SECONDS = 2.0


class EncodeInfo(NamedTuple):
    """What `encode` did besides the vectors: texts cut at `max_seq_length`, tokens computed."""

    n_truncated: int
    n_tokens: int


class Dropout(NamedTuple):
    """Dropout of a run: the probabilities at hidden states and at attention's, and the seed of the masks."""

    hidden: float
    attention: float
    seed: int


class EncodingRun:
    """One pass over a list of texts, block by block.

    Equal texts are computed once, for their bits are equal anyway; not so with dropout, where text i has the masks of
    row i.
    """

    def __init__(
        self,
        core,
        tokenizer,
        texts,
        *,
        prompt,
        batch_size,
        threads,
        on_truncate="ignore",
        show_progress_bar,
        dropout: Dropout | None = None,
    ):
        one_of("on_truncate", on_truncate, ("ignore", "warn", "raise"))
        self.core, self.tokenizer = core, tokenizer
        self.prompt, self.batch_size, self.threads = prompt, batch_size, threads
        self.on_truncate, self.show_progress_bar = on_truncate, show_progress_bar
        self.dropout = dropout
        first_seen = dict.fromkeys(texts) if dropout is None else texts
        self.texts, self.unique, self.positions = texts, list(first_seen), None
        if len(self.unique) < len(texts):
            first_seen = {text: position for position, text in enumerate(self.unique)}
            self.positions = np.array([first_seen[text] for text in texts], dtype=np.int64)
        self._lengths = np.zeros(len(self.unique), dtype=np.int64)
        self._truncated = np.zeros(len(self.unique), dtype=bool)

    def pooled(self, layers, tokens, shape, finish, *, skip_prompt=False) -> np.ndarray:
        """`finish` applied to each block's states (b, layers, tokens, H), gathered as (n, *shape) float32."""
        skip = self.tokenizer.count(self.prompt) if skip_prompt and self.prompt else 0
        out = np.empty((len(self.unique), *shape), dtype=np.float32)
        for start, stop, batch in self._blocks():
            states = self.core.layer_states(
                batch.ids,
                batch.offsets,
                layers,
                tokens,
                batch_size=self.batch_size,
                skip=skip,
                threads=self.threads,
                dropout=self._dropout(start),
            )
            rows = finish(states)
            self._check_finite(rows, start)
            out[start:stop] = rows
        return out if self.positions is None else out[self.positions]

    def hidden_states(self, first_layer: int = 0) -> list[np.ndarray]:
        """One array (L + 1 - first_layer, T, H) per text."""
        states: list[np.ndarray] = []
        for start, _, batch in self._blocks():
            block = self.core.hidden_states(
                batch.ids,
                batch.offsets,
                first_layer=first_layer,
                threads=self.threads,
                dropout=self._dropout(start),
            )
            parts = np.split(block, batch.offsets[1:-1], axis=1)
            for index, part in enumerate(parts):
                self._check_finite(part[None], start + index)
                states.append(np.ascontiguousarray(part))
        return states if self.positions is None else [states[i].copy() for i in self.positions]

    def lengths(self) -> np.ndarray:
        """Tokens per text (n,)."""
        return self._lengths if self.positions is None else self._lengths[self.positions]

    def info(self) -> EncodeInfo:
        truncated = self._truncated if self.positions is None else self._truncated[self.positions]
        return EncodeInfo(int(truncated.sum()), int(self._lengths.sum()))

    def _dropout(self, row: int) -> tuple[float, float, int, int, int] | None:
        """The core's argument for a block that starts with text `row`."""
        return None if self.dropout is None else (*self.dropout, 0, row)

    def _index(self, position: int) -> int:
        """Where a computed text stands first in what the user gave."""
        return position if self.positions is None else self.texts.index(self.unique[position])

    def _blocks(self) -> Iterator[tuple[int, int, object]]:
        """Tokenised blocks of the distinct texts, with a progress bar."""
        bar = self._bar()
        start = 0
        try:
            while start < len(self.unique):
                stop = self._block_end(start)
                texts = self.unique[start:stop]
                batch = self.tokenizer.encode([self.prompt + text for text in texts] if self.prompt else texts)
                self._note(start, stop, batch)
                yield start, stop, batch
                if bar is not None:
                    bar.update(stop - start)
                start = stop
        finally:
            if bar is not None:
                bar.close()
        if self.on_truncate == "warn" and self._truncated.any():
            warn(
                f"{self.info().n_truncated} of {len(self.texts)} texts have more than "
                f"{self.tokenizer.max_seq_length} tokens and were truncated"
            )

    def _block_end(self, start: int) -> int:
        characters, stop = 0, start
        while stop < len(self.unique) and stop - start < _BLOCK_SENTENCES and characters < _BLOCK_CHARACTERS:
            characters += len(self.unique[stop])
            stop += 1
        return stop

    def _note(self, start: int, stop: int, batch) -> None:
        self._lengths[start:stop] = batch.offsets[1:] - batch.offsets[:-1]
        self._truncated[start:stop] = batch.truncated
        if self.on_truncate == "raise" and batch.truncated.any():
            index = self._index(start + int(np.argmax(batch.truncated)))
            raise ValueError(
                f"sentences[{index}] has more than max_seq_length = {self.tokenizer.max_seq_length} tokens; "
                f"shorten it, or pass on_truncate='warn' or 'ignore'"
            )

    def _check_finite(self, rows: np.ndarray, start: int) -> None:
        if np.isfinite(rows).all():
            return
        bad = ~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
        index = self._index(start + int(np.argmax(bad)))
        raise ValueError(
            f"the vector of sentences[{index}] is not finite: the model's numbers overflow float32; check its weights"
        )

    def _bar(self):
        show = self.show_progress_bar
        if sys.stderr is None or show is False:
            return None
        # A single block moves no bar before it is done.
        if show is None and (self._block_end(0) == len(self.unique) or not _somebody_looks()):
            return None
        from tqdm.auto import tqdm

        delay = _BAR_AFTER_SECONDS if show is None else 0
        return tqdm(total=len(self.unique), desc="Encoding", unit=" sentences", delay=delay)


def _somebody_looks() -> bool:
    return "ipykernel" in sys.modules or getattr(sys.stderr, "isatty", bool)()
