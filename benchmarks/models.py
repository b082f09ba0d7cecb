"""The models that are run: real MiniLM weights, and random weights in other shapes, written here."""

from __future__ import annotations

import functools
import json
import shutil
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")


@dataclass(frozen=True)
class Model:
    """A model folder and its sizes: L layers, H hidden, F feed-forward."""

    name: str
    path: Path
    L: int
    H: int
    F: int

    @functools.cached_property
    def tokenizer(self):
        """sentpool's tokenizer of the folder."""
        from sentpool.errors import SentpoolWarning
        from sentpool.folder import open_folder

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SentpoolWarning)  # tensors that no encoder uses
            return open_folder(self.path).tokenizer

    @property
    def bytes(self) -> int:
        """Size of the weight file."""
        return (self.path / "model.safetensors").stat().st_size

    @property
    def key(self) -> str:
        """A folder name for what is exported from these weights."""
        file = (self.path / "model.safetensors").resolve()
        identity = f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}"
        return f"{self.name.replace(' ', '-')}-{zlib.crc32(identity.encode()):08x}"

    def flop(self, lengths: np.ndarray) -> float:
        """Useful operations for texts of these lengths: products only, two per multiply-add, no padding."""
        linear = 2 * self.L * (4 * self.H**2 + 2 * self.H * self.F)
        attention = 4 * self.L * self.H
        lengths = lengths.astype(np.float64)
        return float(linear * lengths.sum() + attention * (lengths**2).sum())


def open_model(name: str, path: Path) -> Model:
    """A folder as it is."""
    config = json.loads((path / "config.json").read_text())
    return Model(name, path, config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"])


def bert_base_shape(cache: Path, tokenizer_from: Path) -> Model:
    """Random weights in the shape of BERT-base."""
    path = _random_model(cache / "bert-base-shape", tokenizer_from, layers=12, hidden=768, pooling="mean")
    return open_model("BERT-base shape", path)


def small_12_shape(cache: Path, tokenizer_from: Path) -> Model:
    """Random weights in the shape of bge-small-en-v1.5, which is all that fasttextembed runs; exact in float16."""
    path = _random_model(cache / "small-12-shape", tokenizer_from, layers=12, hidden=384, pooling="cls", half=True)
    return open_model("small 12-layer shape", path)


def _random_model(folder: Path, tokenizer_from: Path, *, layers, hidden, pooling, half=False) -> Path:
    """A sentence-transformers folder with seeded random weights; config.json, written last, says that it is whole."""
    if (folder / "config.json").exists():
        return folder
    from safetensors.numpy import save_file

    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "2_Normalize").mkdir()
    for name in _TOKENIZER_FILES:
        if (tokenizer_from / name).exists():
            shutil.copy(tokenizer_from / name, folder)
    config = json.loads((tokenizer_from / "config.json").read_text())
    config |= {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": 4 * hidden}
    config |= {"num_attention_heads": 12}
    save_file(_random_tensors(config, half), folder / "model.safetensors", {"format": "pt"})

    classes = {"0": ("", "Transformer"), "1": ("1_Pooling", "Pooling"), "2": ("2_Normalize", "Normalize")}
    modules = [
        {"idx": int(name), "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for name, (path, kind) in classes.items()
    ]
    modes = {f"pooling_mode_{mode}": mode.startswith(pooling) for mode in ("cls_token", "mean_tokens", "max_tokens")}
    _write(folder / "modules.json", modules)
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden, **modes})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False})
    _write(folder / "config.json", config)
    return folder


def _random_tensors(config: dict, half: bool) -> dict[str, np.ndarray]:
    """BERT's tensors under their names in transformers, drawn as BERT draws them."""
    rng = np.random.default_rng(7)
    H, F = config["hidden_size"], config["intermediate_size"]

    def normal(*shape: int) -> np.ndarray:
        values = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        return values.astype(np.float16).astype(np.float32) if half else values

    def dense(name: str, out: int, width: int) -> dict[str, np.ndarray]:
        return {f"{name}.weight": normal(out, width), f"{name}.bias": normal(out)}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": 1 + normal(H), f"{name}.bias": normal(H)}

    tables = {"word": config["vocab_size"], "position": config["max_position_embeddings"], "token_type": 2}
    tensors = {f"embeddings.{name}_embeddings.weight": normal(rows, H) for name, rows in tables.items()}
    tensors |= norm("embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            tensors |= dense(f"{layer}.attention.self.{part}", H, H)
        tensors |= dense(f"{layer}.attention.output.dense", H, H) | norm(f"{layer}.attention.output.LayerNorm")
        tensors |= dense(f"{layer}.intermediate.dense", F, H)
        tensors |= dense(f"{layer}.output.dense", H, F) | norm(f"{layer}.output.LayerNorm")
    return tensors


def _write(path: Path, content) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
