"""Small random BERTs and sentences of token ids, of noise that is the same on every machine."""

from __future__ import annotations

import numpy as np
from noise import noise, noisy_ids

from sentpool import _core

# Odd sizes on purpose: heads of 8, 20 and 22, rows that fill no vector, products deeper than one block of 256,
# sentences with more than 256 keys. Only MiniLM's shape is common.
MODELS = {
    "odd": {"vocab_size": 101, "max_positions": 67, "hidden": 40, "layers": 3, "heads": 5, "intermediate": 77},
    "thin": {"vocab_size": 50, "max_positions": 40, "hidden": 66, "layers": 2, "heads": 3, "intermediate": 30},
    "deep_products": {
        "vocab_size": 97,
        "max_positions": 310,
        "hidden": 300,
        "layers": 2,
        "heads": 15,
        "intermediate": 520,
    },
    "minilm_shape": {
        "vocab_size": 200,
        "max_positions": 64,
        "hidden": 384,
        "layers": 2,
        "heads": 12,
        "intermediate": 1536,
    },
}
LENGTHS = {
    "odd": [1, 2, 3, 5, 8, 13, 14, 15, 16, 17, 31, 32, 33, 64, 67, 4],
    "thin": [3, 1, 40, 22, 9, 2],
    "deep_products": [260, 1, 17, 310, 3],
    "minilm_shape": [11, 9, 33, 5, 64, 1],
}
EPS = 1e-12


def tensors(name: str) -> dict[str, np.ndarray]:
    """The weights of a model, by Hugging Face's names."""
    model = _core.Model(**MODELS[name], type_vocab_size=2, layer_norm_eps=EPS)
    arrays = {}
    for seed, (tensor, shape) in enumerate(model.tensors().items()):
        value = noise(seed, *shape)
        if "LayerNorm.weight" in tensor:
            value = value * np.float32(0.25) + 1
        elif len(shape) == 2 and "embeddings" not in tensor:
            value = value * np.float32(2.0 / np.sqrt(shape[1]))
        arrays[tensor] = value.astype(np.float32)
    return arrays


def load(model, arrays: dict[str, np.ndarray]):
    """Fill a core model and finish it."""
    for tensor, array in arrays.items():
        model.load(tensor, 0, array)
    model.finish()
    return model


def build(name: str):
    return load(_core.Model(**MODELS[name], type_vocab_size=2, layer_norm_eps=EPS), tensors(name))


def sentences(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (N,) int32 and offsets (n + 1,) int64."""
    offsets = np.cumsum([0, *LENGTHS[name]])
    return noisy_ids(MODELS[name]["vocab_size"], int(offsets[-1])), offsets
