"""What the libraries that only run a network need around it: tokens, batches of like lengths, pooling."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BATCH_SIZES = (16, 2, 4, 8, 32, 64)


@dataclass
class Job:
    """What a peer is opened with, and the settings that it found best."""

    folder: Path  # the sentence-transformers folder
    exported: Path  # this library's own form of the model; `prepare` fills it
    threads: int
    precision: str
    settings: dict[str, Any] = field(default_factory=dict)


class BatchEncoder:
    """tokenizers → batches sorted by length → `run_batch` → rows in the order of the texts.

    `run_batch` is called from as many Python threads at once as the setting `streams` says; each library then gets
    threads // streams threads for one batch.
    """

    def __init__(self, job: Job) -> None:
        from tokenizers import Tokenizer

        self.job = job
        self.tokenizer = Tokenizer.from_file(str(job.folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_seq_length(job.folder))
        self.pools: dict[int, ThreadPoolExecutor] = {}

    def run_batch(self, ids: list[list[int]]) -> np.ndarray:
        """Embeddings (len(ids), d) of one batch, pooled and normalised."""
        raise NotImplementedError

    def configure(self, **settings) -> None:
        self.job.settings |= settings

    def encode(self, texts: list[str]) -> np.ndarray:
        ids = tokenise(self.tokenizer, texts)
        batches = list(by_length(ids, self.job.settings.get("batch", 32)))
        return gather(len(texts), batches, self.map_streams(self.run_batch, (rows for _, rows in batches)))

    def map_streams(self, function: Callable, items: Iterator) -> Iterator:
        streams = self.job.settings.get("streams", 1)
        if streams == 1:
            return map(function, items)
        if streams not in self.pools:
            self.pools[streams] = ThreadPoolExecutor(streams)
        return self.pools[streams].map(function, items)


def tokenise(tokenizer, texts: list[str]) -> list[list[int]]:
    encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
    return [encoding.ids for encoding in encode(texts)]


def by_length(ids: list[list[int]], batch_size: int) -> Iterator[tuple[np.ndarray, list[list[int]]]]:
    """Batches of texts of like length, the longest first, with their positions."""
    order = np.argsort([-len(row) for row in ids], kind="stable")
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        yield positions, [ids[i] for i in positions]


def gather(n: int, batches, rows) -> np.ndarray:
    """The batches' embeddings in the order of the texts."""
    out = None
    for (positions, _), embeddings in zip(batches, rows, strict=True):
        if out is None:
            out = np.empty((n, embeddings.shape[1]), np.float32)
        out[positions] = embeddings
    return out


def padded(ids: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """input_ids, attention_mask and token_type_ids (batch, longest) int64."""
    lengths = np.array([len(row) for row in ids])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    input_ids = np.zeros_like(mask)
    input_ids[mask.astype(bool)] = np.concatenate(ids)
    return input_ids, mask, np.zeros_like(mask)


def pool(hidden: np.ndarray, lengths: np.ndarray, pooling: str) -> np.ndarray:
    """The pooling of the folder, then length 1, for hidden states (batch, tokens, H) with padding behind."""
    if pooling == "cls":
        embeddings = hidden[:, 0]
    else:
        mask = (np.arange(hidden.shape[1]) < lengths[:, None]).astype(np.float32)
        embeddings = np.einsum("bth,bt->bh", hidden, mask, optimize=False) / lengths[:, None].astype(np.float32)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def pooling_of(folder: Path) -> str:
    """ "mean" or "cls", as 1_Pooling/config.json says."""
    config = json.loads((folder / "1_Pooling" / "config.json").read_text())
    return "cls" if config.get("pooling_mode_cls_token") else "mean"


def max_seq_length(folder: Path) -> int:
    return json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]


def streams_for(threads: int) -> tuple[int, ...]:
    """One batch on all threads, or a batch on each."""
    return (1, threads) if threads > 1 else (1,)
