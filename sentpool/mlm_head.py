"""The head of a masked language model: a model folder's own where it has one, else a fresh one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError, warn
from sentpool.fields import Fields
from sentpool.fresh_parameters import fresh_normal
from sentpool.tensor_file import StoredTensor
from sentpool.weights import finite_arrays, stored_tensors

_WORDS = ("embeddings.word_embeddings.weight",)


@dataclass(frozen=True)
class _Names:
    """What the checkpoints of some families call the parts of a head.

    Of the names of the decoder's bias, the first that is there counts; `activation` is None where the encoder's own is
    applied. Biases in `optional` may be missing, and are zero then; there stands the field of `config.json` that says
    it, and its default.
    """

    families: tuple[str, ...]
    dense: str
    norm: str
    decoder: str
    bias: tuple[str, ...]
    activation: str | None = None
    optional: Mapping[str, tuple[str, bool]] = field(default_factory=dict)

    def parts(self, stored=()) -> dict[str, str]:
        """The name of each part, as far as stored tensors decide about it."""
        return {
            "dense.weight": f"{self.dense}.weight",
            "dense.bias": f"{self.dense}.bias",
            "norm.weight": f"{self.norm}.weight",
            "norm.bias": f"{self.norm}.bias",
            "bias": next((name for name in self.bias if name in stored), self.bias[0]),
            "decoder.weight": self.decoder,
        }

    def head(self, config: EncoderConfig, parameters, absent, *, is_fresh: bool) -> MLMHead:
        activation = self.activation or config.core_arguments()["activation"]
        return MLMHead(parameters, self.parts(), absent, activation, config.layer_norm_eps, is_fresh)


_KNOWN = (
    _Names(
        ("bert", "nomic_bert"),
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder.weight",
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ),
    _Names(
        ("roberta", "xlm-roberta", "camembert", "mpnet"),
        "lm_head.dense",
        "lm_head.layer_norm",
        "lm_head.decoder.weight",
        ("lm_head.bias", "lm_head.decoder.bias"),
        "gelu",
    ),
    _Names(("distilbert",), "vocab_transform", "vocab_layer_norm", "vocab_projector.weight", ("vocab_projector.bias",)),
    _Names(
        ("albert",),
        "predictions.dense",
        "predictions.LayerNorm",
        "predictions.decoder.weight",
        ("predictions.bias", "predictions.decoder.bias"),
    ),
    _Names(
        ("electra",),
        "generator_predictions.dense",
        "generator_predictions.LayerNorm",
        "generator_lm_head.weight",
        ("generator_lm_head.bias",),
        "gelu",
    ),
    _Names(
        ("modernbert",),
        "head.dense",
        "head.norm",
        "decoder.weight",
        ("decoder.bias",),
        "gelu",
        optional={
            "dense.bias": ("classifier_bias", False),
            "norm.bias": ("norm_bias", False),
            "bias": ("decoder_bias", True),
        },
    ),
)


@dataclass(frozen=True)
class MLMHead:
    """``logits = LayerNorm(f(x W^T + b)) decoder^T + bias``, the decoder being the encoder's word table unless it is
    untied.

    Attributes
    ----------
    parameters
        `dense.weight` (E, H), `dense.bias` (E,), `norm.weight` (E,), `norm.bias` (E,) and `bias` (V,), float32, for a
        word table (V, E); `decoder.weight` (V, E) of a decoder that is not that table.
    names
        What transformers calls them.
    absent
        Those that heads of this folder have not: they are zero and stay so.
    activation
        f, by its name in the core.
    eps
        Of the layer norm.
    is_fresh
        Whether the folder had none.
    """

    parameters: Mapping[str, np.ndarray]
    names: Mapping[str, str]
    absent: frozenset[str]
    activation: str
    eps: float
    is_fresh: bool

    @property
    def is_tied(self) -> bool:
        """Whether the word table decodes."""
        return "decoder.weight" not in self.parameters

    def tensors(self) -> dict[str, np.ndarray]:
        """The parameters by the names of transformers, as a checkpoint holds them."""
        tensors = {self.names[part]: array for part, array in self.parameters.items() if part not in self.absent}
        if not self.is_tied and self.names["bias"] in ("lm_head.bias", "predictions.bias"):
            # transformers 5 reads the bias of RoBERTa's and ALBERT's untied decoders by this name, 4 by either.
            tensors[self.names["decoder.weight"].replace("weight", "bias")] = self.parameters["bias"]
        return tensors


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

    Warns
    -----
    SentpoolWarning
        The folder has a decoder of its own, of which `config.json` says that it is the word table.
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
    found = next((kind for kind in _KNOWN if f"{kind.dense}.weight" in stored), None)
    if found is None:
        return _fresh(folder, config, shapes, seed)
    names = found.parts(stored)
    if _is_untied(folder, config, names["decoder.weight"], stored):
        shapes["decoder.weight"] = (vocabulary, width)
    absent = frozenset(part for part in found.optional if names[part] not in stored)
    arrays = _arrays(folder, {part: names[part] for part in shapes if part not in absent}, shapes, stored)
    arrays |= {part: np.zeros(shapes[part], np.float32) for part in absent}
    return found.head(config, arrays, absent, is_fresh=False)


def _fresh(folder: Path, config: EncoderConfig, shapes: Mapping[str, tuple[int, ...]], seed: int) -> MLMHead:
    family = config.architecture.model_type
    kind = next(kind for kind in _KNOWN if family in kind.families)
    fields = Fields.read(folder / "config.json")
    absent = frozenset(part for part, said in kind.optional.items() if not fields.boolean(*said))
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    arrays["norm.weight"][...] = 1
    arrays["dense.weight"] = fresh_normal("mlm.dense.weight", shapes["dense.weight"], seed)
    return kind.head(config, arrays, absent, is_fresh=True)


def _arrays(folder: Path, names: Mapping[str, str], shapes, stored: Mapping[str, StoredTensor]) -> dict:
    for part, name in names.items():
        if name not in stored:
            raise ModelFolderError(f"{folder}: tensor {name!r} is missing, which belongs to an MLM head")
        if stored[name].shape != shapes[part]:
            raise ModelFolderError(
                f"{stored[name].path}: tensor {name!r} has shape {stored[name].shape}; an MLM head of this encoder has "
                f"{shapes[part]}"
            )
    return finite_arrays({part: stored[name] for part, name in names.items()})


def _is_untied(folder: Path, config: EncoderConfig, decoder: str, stored: Mapping[str, StoredTensor]) -> bool:
    """Whether the decoder is a tensor of its own, which `config.json` decides as in transformers."""
    if not Fields.read(folder / "config.json").boolean("tie_word_embeddings", True):
        return True
    words = next(name for name, tensor in config.tensors().items() if tensor.core == _WORDS)
    if decoder in stored and not _equal(stored[decoder], stored[words]):
        warn(
            f"{folder}: {decoder} differs from the word embeddings and is not used, for config.json ties them: with "
            f'"tie_word_embeddings": false there, it is the decoder, and is trained'
        )
    return False


def _equal(one: StoredTensor, other: StoredTensor) -> bool:
    return one.shape == other.shape and all(
        np.array_equal(a, b) for (_, a), (_, b) in zip(one.blocks(), other.blocks(), strict=True)
    )


__all__ = ["MLMHead", "read_head"]
