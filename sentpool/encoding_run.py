"""One pass over a list of texts: tokenise, run the core, gather, in blocks that keep memory bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sentpool.checks import one_of
from sentpool.dropout import Dropout, Sites
from sentpool.errors import warn
from sentpool.progress import progress_bar
from sentpool.tokenizer import TokenBatch

# A block is tokenised, then encoded: enough to keep threads busy, little enough for Ctrl-C and the bar. Encoders faster
# than a BERT-base take larger ones, up to four times, as long as the states stay within so many bytes: threads idle at
# the end of every block.
_BLOCK_SENTENCES, _BLOCK_CHARACTERS = 512, 1 << 17
_BASE_WORK, _MOST_BLOCKS, _BLOCK_STATE_BYTES = 12 * 768**2, 4, 1 << 24
# Hidden states of so many bytes are computed at a time: 1,680 tokens of a BERT-base, 6,240 of a MiniLM-L6.
_STATE_BYTES = 1 << 26


class EncodeInfo(NamedTuple):
    """What `encode` did besides the vectors: texts cut at `max_seq_length`, tokens computed."""

    n_truncated: int
    n_tokens: int


class EncodingRun:
    """One pass over a list of texts, block by block.

    Equal texts are computed once, for their bits are equal anyway; not so with dropout, where text i has the masks of
    row i. With `one_by_one`, results are taken text by text and cannot be shared over all: then equal texts are
    computed once where one block holds them, and `unique` is all texts.
    """

    def __init__(
        self,
        core,
        tokenizer,
        texts,
        *,
        n_layers,
        hidden_size,
        prompt,
        batch_size,
        threads,
        on_truncate="ignore",
        show_progress_bar,
        one_by_one=False,
        dropout: Dropout | None = None,
    ):
        one_of("on_truncate", on_truncate, ("ignore", "warn", "raise"))
        self.core, self.tokenizer = core, tokenizer
        self.n_layers, self.hidden_size = n_layers, hidden_size
        self.prompt, self.batch_size, self.threads = prompt, batch_size, threads
        self.on_truncate, self.show_progress_bar = on_truncate, show_progress_bar
        self.dropout = dropout
        first_seen = texts if one_by_one or dropout else dict.fromkeys(texts)
        self.texts, self.unique, self.positions = texts, texts, None
        if len(first_seen) < len(texts):
            self.unique = list(first_seen)
            first_seen = {text: position for position, text in enumerate(self.unique)}
            self.positions = np.array([first_seen[text] for text in texts], dtype=np.int64)
        self._lengths = np.zeros(len(self.unique), dtype=np.int64)
        self._truncated = np.zeros(len(self.unique), dtype=bool)

    def pooled(self, layers, tokens, shape, finish, *, skip_prompt=False, out=None) -> np.ndarray:
        """`finish` applied to states (b, layers, tokens, H), up to 512 texts at a time, gathered as (n, *shape) float32
        in `out`."""
        options = self._options(skip_prompt)
        return self._gathered(
            shape,
            lambda start, batch: self.core.layer_states(
                batch.ids, batch.offsets, layers, tokens, dropout=self._dropout(start), **options
            ),
            finish,
            len(layers) * len(tokens),
            out,
        )

    def sbert_wk(self, layer_start: int, window: int, shape, finish, *, skip_prompt=False) -> np.ndarray:
        """`finish` applied to SBERT-WK vectors (b, H) over layers `layer_start` … L, `window` of them on each side of a
        layer, of up to 512 texts at a time; gathered as (n, *shape) float32.

        C. Wang, C.-C. J. Kuo, "SBERT-WK: A Sentence Embedding Method by Dissecting BERT-based Word Models", IEEE/ACM
        TASLP 28 (2020). As in the published code, a text's last token is left out, and a layer with fewer than `window`
        kept layers below it is compared with those above it alone. csrc/model/sbert_wk.c has the formulas, and what
        holds where they are undefined.

        Raises
        ------
        ValueError
            If `layer_start` is not in 0 … L or `window` is below 1, or if a vector is not finite.
        """
        options = self._options(skip_prompt)
        return self._gathered(
            shape,
            lambda _, batch: self.core.sbert_wk(batch.ids, batch.offsets, layer_start, window, **options),
            finish,
            1,
        )

    def _options(self, skip_prompt: bool) -> dict[str, int]:
        skip = self.tokenizer.count(self.prompt) if skip_prompt and self.prompt else 0
        return {"batch_size": self.batch_size, "skip": skip, "threads": self.threads}

    def _gathered(self, shape, computed, finish, states: int, out: np.ndarray | None = None) -> np.ndarray:
        """`finish` of `computed(start, batch)` of every block, a part of the block at a time, as one array (n, *shape)
        float32; a text's vector is made of so many `states` (H)."""
        out = np.empty((len(self.texts), *shape), dtype=np.float32) if out is None else out
        givers = None if self.positions is None else np.argsort(self.positions, kind="stable")
        for start, stop, batch in self._blocks(blocks=self._blocks_at_once(states)):
            block = computed(start, batch)
            for first in range(start, stop, _BLOCK_SENTENCES):
                part = block[first - start : first - start + _BLOCK_SENTENCES]
                rows = finish(part)
                if len(rows) != len(part):
                    raise ValueError(f"the pooling gave {len(rows)} vectors for {len(part)} texts")
                self._check_finite(rows, first)
                self._put(out, givers, first, rows)
            del block, part, rows  # before the next block is computed
        return out

    def _put(self, out: np.ndarray, givers: np.ndarray | None, start: int, rows: np.ndarray) -> None:
        """Vectors of the computed texts from `start` on, wherever the user gave these texts."""
        stop = start + len(rows)
        if givers is None:
            out[start:stop] = rows
            return
        first, end = np.searchsorted(self.positions, (start, stop), sorter=givers)
        texts = givers[first:end]
        out[texts] = rows[self.positions[texts] - start]

    def _blocks_at_once(self, states: int) -> int:
        """How many blocks may be one: more of a small encoder, as long as `states` (H) a text leave room."""
        by_work = _BASE_WORK // (self.n_layers * self.hidden_size**2)
        by_memory = _BLOCK_STATE_BYTES // (4 * max(1, states) * self.hidden_size * _BLOCK_SENTENCES)
        return max(1, min(_MOST_BLOCKS, by_work, by_memory))

    def blocks_of_states(self, layers, tokens, most: int | None = None) -> Iterator[tuple[int, int, np.ndarray]]:
        """The states (b, layers, tokens, H) of the texts [start, stop) of `unique` as they are computed, up to `most`
        texts at a time."""
        options = self._options(skip_prompt=False)
        for start, stop, batch in self._blocks(most_texts=most):
            # Bound to no name here: whoever asked can drop a block before the next one is computed.
            yield (
                start,
                stop,
                self.core.layer_states(
                    batch.ids, batch.offsets, layers, tokens, dropout=self._dropout(start), **options
                ),
            )

    def hidden_states(self, first_layer: int = 0) -> list[np.ndarray]:
        """One array (L + 1 - first_layer, T, H) per text."""
        states = list(self.each_hidden_states(first_layer))
        return states if self.positions is None else [states[i].copy() for i in self.positions]

    def each_hidden_states(self, first_layer: int = 0) -> Iterator[np.ndarray]:
        """The arrays of `hidden_states` for `unique`, one by one; held here is one block at a time."""
        layers = self.n_layers + 1 - first_layer
        for start, stop, batch in self._blocks(most_tokens=max(1, _STATE_BYTES // (4 * layers * self.hidden_size))):
            rows = range(stop - start)
            if self.dropout is None:
                batch, rows = _without_repeats(self.unique[start:stop], batch)
            block = self.core.hidden_states(
                batch.ids,
                batch.offsets,
                first_layer=first_layer,
                threads=self.threads,
                dropout=self._dropout(start),
            )
            for index, row in enumerate(rows, start):
                states = block[:, batch.offsets[row] : batch.offsets[row + 1]]
                self._check_finite(states[None], index)
                yield states.copy()
            del block, states  # before the next block is computed

    def lengths(self) -> np.ndarray:
        """Tokens per text (n,)."""
        return self._lengths if self.positions is None else self._lengths[self.positions]

    def info(self) -> EncodeInfo:
        truncated = self._truncated if self.positions is None else self._truncated[self.positions]
        return EncodeInfo(int(truncated.sum()), int(self._lengths.sum()))

    def _dropout(self, row: int) -> tuple[Sites, int, int, int] | None:
        """The core's argument for a block that starts with text `row`."""
        return None if self.dropout is None else (*self.dropout, 0, row)

    def _index(self, position: int) -> int:
        """Where a computed text stands first in what the user gave."""
        return position if self.positions is None else self.texts.index(self.unique[position])

    def _blocks(
        self, most_tokens: int | None = None, most_texts: int | None = None, blocks: int = 1
    ) -> Iterator[tuple[int, int, TokenBatch]]:
        """Tokenised blocks of `unique`, so many `blocks` at a time, of at most so many tokens or one text, with a
        progress bar."""
        bar = self._bar(blocks, one_block_moves_it=most_tokens is not None)
        start = 0
        try:
            while start < len(self.unique):
                stop = self._block_end(start, blocks, most_texts)
                texts = self.unique[start:stop]
                batch = self.tokenizer.encode([self.prompt + text for text in texts] if self.prompt else texts)
                self._note(start, stop, batch)
                for first, end, part in _parts(batch, most_tokens):
                    yield start + first, start + end, part
                    if bar is not None:
                        bar.update(end - first)
                start = stop
        finally:
            if bar is not None:
                bar.close()
        if self.on_truncate == "warn" and self._truncated.any():
            warn(
                f"{self.info().n_truncated} of {len(self.texts)} texts have more than "
                f"{self.tokenizer.max_seq_length} tokens and were truncated"
            )

    def _block_end(self, start: int, blocks: int, most_texts: int | None = None) -> int:
        most_texts = blocks * (_BLOCK_SENTENCES if most_texts is None else most_texts)
        most_characters = blocks * _BLOCK_CHARACTERS
        characters, stop = 0, start
        while stop < len(self.unique) and stop - start < most_texts and characters < most_characters:
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
            f"the vector of sentences[{index}] is not finite: its numbers overflow float32; check the "
            f"model's weights and the pooling"
        )

    def _bar(self, blocks: int, one_block_moves_it: bool):
        is_worth_it = one_block_moves_it or self._block_end(0, blocks) < len(self.unique)
        if self.show_progress_bar is None and not is_worth_it:
            return None
        return progress_bar(len(self.unique), "Encoding", "sentences", self.show_progress_bar)


def _parts(batch: TokenBatch, most_tokens: int | None) -> Iterator[tuple[int, int, TokenBatch]]:
    """Consecutive parts of at most so many tokens, or one text: its first text, the one after its last, its tokens."""
    ids, offsets, truncated = batch
    if most_tokens is None or offsets[-1] <= most_tokens:
        yield 0, len(truncated), batch
        return
    first = 0
    while first < len(truncated):
        end = max(first + 1, int(np.searchsorted(offsets, offsets[first] + most_tokens, side="right")) - 1)
        part = ids[offsets[first] : offsets[end]]
        yield first, end, TokenBatch(part, offsets[first : end + 1] - offsets[first], truncated[first:end])
        first = end


def _without_repeats(texts: list[str], batch: TokenBatch) -> tuple[TokenBatch, list[int]]:
    """A batch that holds equal texts once, and where in it each text is."""
    seen: dict[str, int] = {}
    rows = [seen.setdefault(text, len(seen)) for text in texts]
    if len(seen) == len(texts):
        return batch, rows
    kept = [rows.index(row) for row in range(len(seen))]
    tokens = [batch.ids[batch.offsets[i] : batch.offsets[i + 1]] for i in kept]
    offsets = np.cumsum([0, *map(len, tokens)])
    return TokenBatch(np.concatenate(tokens), offsets, batch.truncated[kept]), rows
