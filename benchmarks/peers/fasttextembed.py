"""fasttextembed, which runs one shape: 12 layers, hidden size 384, 12 heads, cls pooling.

Its package downloads its model; here a file in its format is written from our weights, so that it computes the same
function as everybody else. Weight matrices are float16 in that format.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import numpy as np
from fasttextembed import TextEmbedding
from safetensors.numpy import load_file

from peers.base import Job

_HEADER, _ENTRY, _ALIGN = struct.Struct("<QQ11I"), struct.Struct("<QQ64s6i"), 64
_MAGIC, _VERSION, _FLOAT32, _FLOAT16 = 0x31455446, 2, 0, 1


class Encoder:
    """`TextEmbedding.embed`; it takes threads and nothing else."""

    def __init__(self, job: Job) -> None:
        self.model = TextEmbedding(str(job.exported / "model.fte"), str(job.exported / "vocab.tsv"))
        self.threads = job.threads

    @staticmethod
    def prepare(job: Job) -> None:
        vocabulary = json.loads((job.folder / "tokenizer.json").read_text())["model"]["vocab"]
        lines = (f"{token}\t{index}\n" for token, index in sorted(vocabulary.items(), key=lambda item: item[1]))
        (job.exported / "vocab.tsv").write_text("".join(lines), encoding="utf-8")
        config = json.loads((job.folder / "config.json").read_text())
        tensors = dict(_renamed(load_file(job.folder / "model.safetensors"), config["num_hidden_layers"]))
        (job.exported / "model.fte").write_bytes(_file(tensors, config))

    def choices(self, _purpose: str) -> dict[str, tuple]:
        return {}

    def configure(self) -> None:
        """Nothing to choose."""

    def encode(self, texts: list[str]) -> np.ndarray:
        if len(texts) == 1:
            return np.array([self.model.embed_one(texts[0])], np.float32)
        return np.array(self.model.embed(texts, self.threads), np.float32)


def _renamed(tensors: dict[str, np.ndarray], layers: int) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors under the names of the format: matrices (in, out); query, key and value side by side."""
    for name, tensor in tensors.items():
        if "attention.self" not in name and not name.endswith("dense.weight"):
            yield name, tensor
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        parts = [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
        yield f"Attention_{i}_qkv_weight", np.concatenate([tensors[f"{part}.weight"].T for part in parts], axis=1)
        yield f"Attention_{i}_qkv_bias", np.concatenate([tensors[f"{part}.bias"] for part in parts])
        # The other matrices are known by the numbers that they had in the graph which the format was made for.
        for number, part in enumerate(("attention.output", "intermediate", "output")):
            yield f"onnx::MatMul_{1536 + 13 * i + number}", tensors[f"{layer}.{part}.dense.weight"].T


def _file(tensors: dict[str, np.ndarray], config: dict) -> bytes:
    """Header, table of tensors, then their data, each at a multiple of 64 bytes."""
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    sizes += ("max_position_embeddings", "type_vocab_size")
    table_at = _aligned(_HEADER.size)
    blob_at = _aligned(table_at + _ENTRY.size * len(tensors))
    header = _HEADER.pack(table_at, blob_at, _MAGIC, _VERSION, *(config[size] for size in sizes), len(tensors), 0)
    table, blob = b"", bytearray()
    for name, tensor in sorted(tensors.items()):
        kind, dtype = (_FLOAT16, "<f2") if tensor.ndim == 2 else (_FLOAT32, "<f4")
        data = np.ascontiguousarray(tensor, dtype).tobytes()
        shape = (*tensor.shape, 0, 0, 0, 0)[:4]
        table += _ENTRY.pack(blob_at + len(blob), len(data), name.encode(), tensor.ndim, *shape, kind)
        blob += data + bytes(_aligned(len(data)) - len(data))
    return header.ljust(table_at, b"\0") + table.ljust(blob_at - table_at, b"\0") + blob


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
