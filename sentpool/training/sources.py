"""Where a step's embeddings come from, and their gradients go: texts through the encoder, or stored layer states.

Rows are flattened role by role: item i in role r is row r · n + i of n items, and this number chooses its dropout.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from sentpool.dropout import Dropout
from sentpool.encoding_run import EncodingRun
from sentpool.layer_states import LayerStates
from sentpool.tokenizer import TokenBatch
from sentpool.training.trained_pooling import TrainedPooling

# Of stored states, where no tokens are left to count: the rows whose gradients are one sum.
_STORED_ROWS = 64


class Chunk(NamedTuple):
    """Rows [first, stop) that go through the encoder together, and where groups begin among them."""

    first: int
    stop: int
    groups: list[int]

    def tokens(self, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
        """Ids and offsets of its rows."""
        offsets = batch.offsets[self.first : self.stop + 1]
        return batch.ids[offsets[0] : offsets[-1]], offsets - offsets[0]


def chunks_of(groups: Sequence[int], rows: int | None) -> list[Chunk]:
    """Chunks of consecutive whole groups, each of at least `rows` rows but the last; one chunk where that is None.

    Parameters
    ----------
    groups : sequence of int
        Where groups begin, and the end of the last one.
    """
    chunks: list[Chunk] = []
    begin = 0
    for k in range(1, len(groups)):
        if k == len(groups) - 1 or (rows is not None and groups[k] - groups[begin] >= rows):
            first = int(groups[begin])
            chunks.append(Chunk(first, int(groups[k]), [int(g) - first for g in groups[begin : k + 1]]))
            begin = k
    return chunks


class EncodedTexts:
    """Texts through the encoder in C, with its gradients.

    Where there is more than one chunk, the encoder runs twice: once for the embeddings, and once more, chunk by chunk
    and with the same dropout, for the gradients (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under
    Memory Limited Setup"). Both ways give the same bits, for a group of rows is summed by itself in both.
    """

    def __init__(self, model, training, head: TrainedPooling, *, max_length, chunk_size, threads, seed):
        self.training, self.head = training, head
        self.chunk_size, self.threads, self.seed = chunk_size, threads, seed
        self.tokenizer = copy.copy(model.tokenizer)
        self.tokenizer.max_seq_length = max_length
        self._layers = head.pooling.needed_layers(model.n_layers)

    def forward(self, texts: Sequence[str], step: int) -> np.ndarray:
        """Embeddings (rows, d) of a step's texts."""
        self.step = step
        self.batch = self.tokenizer.encode(list(texts))
        self.chunks = chunks_of(self.training.groups(self.batch.offsets), self.chunk_size)
        self._kept = None
        parts = []
        for chunk in self.chunks:
            pooled = list(self._pooled(chunk, keep=len(self.chunks) == 1))
            parts += [embeddings for embeddings, _ in pooled]
            if len(self.chunks) == 1:
                self._kept = [cache for _, cache in pooled]
        return np.concatenate(parts)

    def backward(self, d_embeddings: np.ndarray) -> None:
        """Add to all gradients what follows from those of the embeddings (rows, d)."""
        for chunk in self.chunks:
            caches = self._kept or [cache for _, cache in self._pooled(chunk, keep=True)]
            self._kept = None
            parts = []
            for (first, stop), cache in zip(pairwise(chunk.groups), caches, strict=True):
                rows = d_embeddings[chunk.first + first : chunk.first + stop]
                d_states, d_parameters = self.head.pooling.backward(rows, cache, self.threads)
                self.head.store.add_gradients(d_parameters)
                parts.append(d_states)
            self.training.backward(np.concatenate(parts), threads=self.threads)

    def _pooled(self, chunk: Chunk, keep: bool) -> Iterator[tuple[np.ndarray, object]]:
        """Embeddings of each group, and what their gradients need."""
        pooling = self.head.pooling
        ids, offsets = chunk.tokens(self.batch)
        states = self.training.forward(
            ids,
            offsets,
            self._layers,
            pooling.tokens,
            step=self.step,
            first_row=chunk.first,
            keep=keep,
            threads=self.threads,
        )
        for first, stop in pairwise(chunk.groups):
            draws = (self.seed, self.step, chunk.first + first)
            yield pooling.forward_with_cache(states[first:stop], training=draws, threads=self.threads)


class MaskedTexts:
    """The auxiliary masked language model: the tokens of the step's texts once more, some of them masked.

    Its rows come behind those of the embeddings, so no dropout mask is shared. The encoder runs chunk by chunk.
    """

    def __init__(self, encoded: EncodedTexts, language_model) -> None:
        self.encoded, self.language_model = encoded, language_model

    def backward(self) -> float:
        """Add to all gradients what follows from the loss on the texts of `EncodedTexts.forward`; the loss."""
        batch, training, threads = self.encoded.batch, self.encoded.training, self.encoded.threads
        n, step = len(batch.offsets) - 1, self.encoded.step
        masked = self.language_model.choose(batch.ids, batch.offsets, step=step, first_row=n)
        self.language_model.start(len(masked.positions))
        words, d_words = self._word_embeddings(training)
        for chunk in self.encoded.chunks:
            begin, end = batch.offsets[chunk.first], batch.offsets[chunk.stop]
            chosen = slice(*np.searchsorted(masked.positions, (begin, end)))
            positions = masked.positions[chosen] - begin
            _, offsets = chunk.tokens(batch)
            states, rows = training.forward(
                masked.ids[begin:end],
                offsets,
                (0,),
                ("cls",),
                step=step,
                first_row=n + chunk.first,
                positions=positions,
                keep=True,
                threads=threads,
            )
            cuts = self.language_model.cuts(positions, offsets, chunk.groups)
            d_rows = self.language_model.backward(rows, masked.labels[chosen], cuts, words)
            training.backward(np.zeros_like(states), d_rows, threads=threads)
        return self.language_model.finish(d_words)

    @staticmethod
    def _word_embeddings(training) -> tuple[np.ndarray, np.ndarray]:
        """The table and its gradient, as views."""
        start, stop, shape = training.slices["embeddings.word_embeddings.weight"]
        return training.masters[start:stop].reshape(shape), training.gradients[start:stop].reshape(shape)


def computed_states(
    model,
    texts: Sequence[str],
    *,
    max_length: int,
    threads: int,
    dropout: Dropout | None = None,
    show_progress_bar=None,
) -> LayerStates:
    """Layer states of texts as `EncodedTexts` sees them: so many tokens of each, and no prompt."""
    tokenizer, tokens, layers = copy.copy(model.tokenizer), model.pooling.tokens, tuple(range(model.n_layers + 1))
    tokenizer.max_seq_length = max_length
    run = EncodingRun(
        model._core,
        tokenizer,
        list(texts),
        n_layers=model.n_layers,
        hidden_size=model.hidden_size,
        prompt="",
        batch_size=_STORED_ROWS,
        threads=threads,
        on_truncate="ignore",
        show_progress_bar=show_progress_bar,
        dropout=dropout,
    )
    shape = (len(layers), len(tokens), model.hidden_size)
    return LayerStates(run.pooled(layers, tokens, shape, lambda states: states), tokens, layers, run.lengths(), None)


class StoredStates:
    """Layer states that were computed once, so that only the pooling learns: head-only training.

    Parameters
    ----------
    states : sequence of LayerStates
        One for each column of the data.
    """

    def __init__(self, states: Sequence[LayerStates], head: TrainedPooling, *, threads, seed):
        self.head, self.threads, self.seed = head, threads, seed
        self._columns = [column.taken_by(head.pooling) for column in states]

    def forward(self, rows: Sequence[tuple[int, int]], step: int) -> np.ndarray:
        """Embeddings (rows, d) of pairs (column, sentence)."""
        states = np.stack([self._columns[column][sentence] for column, sentence in rows])
        self._starts = [*range(0, len(rows), _STORED_ROWS), len(rows)]
        pooled = [
            self.head.pooling.forward_with_cache(
                states[first:stop], training=(self.seed, step, first), threads=self.threads
            )
            for first, stop in pairwise(self._starts)
        ]
        self._caches = [cache for _, cache in pooled]
        return np.concatenate([embeddings for embeddings, _ in pooled])

    def backward(self, d_embeddings: np.ndarray) -> None:
        """Add to the pooling's gradients what follows from those of the embeddings (rows, d)."""
        for (first, stop), cache in zip(pairwise(self._starts), self._caches, strict=True):
            _, d_parameters = self.head.pooling.backward(d_embeddings[first:stop], cache, self.threads)
            self.head.store.add_gradients(d_parameters)
        self._caches = []
