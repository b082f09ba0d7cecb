"""The head of a masked language model: a model folder's own where it has one, else a fresh one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError
from sentpool.fresh_parameters import fresh_normal
from sentpool.weights import finite_arrays, stored_tensors


@dataclass(frozen=True)
class _Names:
    """What checkpoints call the parts of a head.

    Of the names of the decoder's bias, the first that is there counts; `activation` is None where the encoder's own is
    applied. Biases named in `optional` may be missing, and are zero then.
    """

    dense: str
    norm: str
    bias: tuple[str, ...]
    activation: str | None = None
    optional: tuple[str, ...] = ()

    def parts(self, stored) -> dict[str, str]:
        bias = next((name for name in self.bias if name in stored), self.bias[0])
        return {
            "dense.weight": f"{self.dense}.weight",
            "dense.bias": f"{self.dense}.bias",
            "norm.weight": f"{self.norm}.weight",
            "norm.bias": f"{self.norm}.bias",
            "bias": bias,
        }


_KNOWN = (
    _Names(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ),
    _Names("lm_head.dense", "lm_head.layer_norm", ("lm_head.bias", "lm_head.decoder.bias"), "gelu"),
    _Names("vocab_transform", "vocab_layer_norm", ("vocab_projector.bias",)),
    _Names("predictions.dense", "predictions.LayerNorm", ("predictions.bias", "predictions.decoder.bias")),
    _Names("generator_predictions.dense", "generator_predictions.LayerNorm", ("generator_lm_head.bias",), "gelu"),
    _Names("head.dense", "head.norm", ("decoder.bias",), "gelu", optional=("dense.bias", "norm.bias", "bias")),
)


@dataclass(frozen=True)
class MLMHead:
    """``logits = LayerNorm(f(x W^T + b)) words^T + bias``, the decoder being the encoder's word table.

    Attributes
    ----------
    parameters
        `dense.weight` (E, H), `dense.bias` (E,), `norm.weight` (E,), `norm.bias` (E,) and `bias` (V,), float32, for a
        word table (V, E).
    activation
        f, by its name in the core.
    eps
        Of the layer norm.
    is_fresh
        Whether the folder had none.
    """

    parameters: Mapping[str, np.ndarray]
    activation: str
    eps: float
    is_fresh: bool


def read_head(folder: Path, config: EncoderConfig, seed: int) -> MLMHead:
    """The head of a folder, or a fresh one: N(0, 0.02) weights, zero biases.

    Parameters
    ----------
    folder
        That of the encoder.
    seed
        Of the fresh weights.

    Raises
    ------
    ModelFolderError
        If the folder's head is not whole, does not fit the encoder, or holds NaN or Inf.
    """
    vocabulary, width = config.vocab_size, config.embedding_size
    shapes = {
        "dense.weight": (width, config.hidden_size),
        "dense.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "bias": (vocabulary,),
    }
    stored = {config.architecture.canonical_name(name): tensor for name, tensor in stored_tensors(folder).items()}
    encoders = config.core_arguments()["activation"]
    for names in _KNOWN:
        if f"{names.dense}.weight" in stored:
            parts = names.parts(stored)
            for part in names.optional:
                if parts[part] not in stored:
                    del parts[part]
            for part, name in parts.items():
                if name not in stored:
                    raise ModelFolderError(f"{folder}: tensor {name!r} is missing, which belongs to an MLM head")
                if stored[name].shape != shapes[part]:
                    raise ModelFolderError(
                        f"{stored[name].path}: tensor {name!r} has shape {stored[name].shape}; an MLM head of this "
                        f"encoder has {shapes[part]}"
                    )
            arrays = finite_arrays({part: stored[name] for part, name in parts.items()})
            arrays |= {part: np.zeros(shapes[part], np.float32) for part in shapes if part not in parts}
            return MLMHead(arrays, names.activation or encoders, config.layer_norm_eps, is_fresh=False)
    fresh = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    fresh["norm.weight"][...] = 1
    fresh["dense.weight"] = fresh_normal("mlm.dense.weight", shapes["dense.weight"], seed)
    return MLMHead(fresh, encoders, config.layer_norm_eps, is_fresh=True)


__all__ = ["MLMHead", "read_head"]
