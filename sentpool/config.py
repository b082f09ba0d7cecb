"""The `config.json` of an encoder: every field checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sentpool.architectures import ARCHITECTURES, Architecture, StoredTensorShape
from sentpool.dropout import Sites
from sentpool.errors import ModelFolderError
from sentpool.fields import Fields

# Beyond every published encoder, and small enough that no product of two of them overflows anything.
_LARGEST = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 16,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 12,
    "intermediate_size": 1 << 20,
    "max_position_embeddings": 1 << 20,
    "type_vocab_size": 1 << 10,
    "embedding_size": 1 << 16,
}


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder, in the field names that `config.json` has in BERT.

    `structure` holds the arguments of the core in which it differs from BERT.
    """

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str
    embedding_size: int
    dropout: Sites
    structure: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> EncoderConfig:
        """Read and check the `config.json` of a folder.

        Raises
        ------
        ModelFolderError
            If a field has the wrong type, sign or size, if fields disagree, or if the file asks for something
            that the encoder does not do. The message names file, field, value and what is allowed.
        """
        fields = Fields.read(folder / "config.json")
        architecture = _architecture(fields)
        values = _Values(fields, architecture)
        sizes = {name: values.size(name) for name in _LARGEST if name != "embedding_size"}
        hidden = sizes["hidden_size"]
        sizes["embedding_size"] = values.size("embedding_size") if "embedding_size" in architecture.defaults else hidden
        rates = [values.rate(field) if field else 0.0 for field in architecture.dropout]
        epsilon = values.number("layer_norm_eps")
        if epsilon == 0.0:
            raise values.error("layer_norm_eps", "a number above 0")
        activation = values.choice("hidden_act", architecture.activations)
        if hidden % sizes["num_attention_heads"]:
            raise values.error("num_attention_heads", f"a divisor of {values.name('hidden_size')}, which is {hidden}")
        structure = architecture.structure(fields, sizes)
        offset = structure.get("position_offset", 0)
        if sizes["max_position_embeddings"] <= offset:
            raise values.error("max_position_embeddings", f"more than {offset}")
        _refuse_what_is_not_done(fields, architecture)
        return cls(
            architecture=architecture,
            hidden_act=activation,
            layer_norm_eps=epsilon,
            structure=structure,
            dropout=Sites(*rates),
            **sizes,
        )

    @property
    def max_tokens(self) -> int:
        """The longest text in tokens, special tokens included, for which there are positions."""
        return self.max_position_embeddings - self.structure.get("position_offset", 0)

    @property
    def relative_attention_num_buckets(self) -> int:
        """Rows of the bias by relative position that all layers share."""
        return self.structure.get("relative_buckets", 0)

    def tensors(self) -> dict[str, StoredTensorShape]:
        """Every tensor of this encoder, by canonical name."""
        parts = {**self.structure, "token_types": self.type_vocab_size > 0}
        return self.architecture.tensors(self.num_hidden_layers, parts)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of this encoder, by canonical name."""
        return {name: tuple(map(self._size, tensor.shape)) for name, tensor in self.tensors().items()}

    def core_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor by the name that the core has for it."""
        return {
            name: (rows // len(tensor.core), *cols)
            for tensor, (rows, *cols) in zip(self.tensors().values(), self.tensor_shapes().values(), strict=True)
            for name in tensor.core
        }

    def as_stored(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The core's tensors, by its names, as this family stores them, by canonical name."""
        return {name: np.concatenate([arrays[part] for part in tensor.core]) for name, tensor in self.tensors().items()}

    def _size(self, text: str) -> int:
        factor, _, name = text.rpartition(" x ")
        return int(factor or 1) * getattr(self, name)

    def core_arguments(self) -> dict[str, Any]:
        """The keyword arguments of the core's `Model`."""
        return {
            "vocab_size": self.vocab_size,
            "max_positions": self.max_position_embeddings,
            "type_vocab_size": self.type_vocab_size,
            "hidden": self.hidden_size,
            "layers": self.num_hidden_layers,
            "heads": self.num_attention_heads,
            "intermediate": self.intermediate_size,
            "layer_norm_eps": self.layer_norm_eps,
            "activation": self.architecture.activations[self.hidden_act],
            **self.structure,
        }


class _Values:
    """The fields of `EncoderConfig` in the words of one family's `config.json`."""

    def __init__(self, fields: Fields, architecture: Architecture) -> None:
        self._fields, self._architecture = fields, architecture

    def name(self, name: str) -> str:
        return self._architecture.field_name(name) or name

    def error(self, name: str, expected: str) -> ModelFolderError:
        return self._fields.error(self.name(name), expected)

    def size(self, name: str) -> int:
        return self._read(name, lambda *field: self._fields.integer(*field, maximum=_LARGEST[name]))

    def number(self, name: str) -> float:
        return self._read(name, lambda *field: self._fields.number(*field, minimum=0.0, below=1.0))

    def rate(self, field: str) -> float:
        return self._fields.number(field, self._architecture.dropout_default, minimum=0.0, below=1.0)

    def choice(self, name: str, allowed: Collection[str]) -> str:
        return self._read(name, lambda field, default: self._fields.choice(field, allowed, default))

    def _read(self, name: str, read: Callable[[str, Any], Any]) -> Any:
        field, default = self._architecture.field_name(name), self._architecture.defaults[name]
        return default if field is None else read(field, default)


def _architecture(fields: Fields) -> Architecture:
    """The row of the table that `model_type` names or, in folders older than that field, the class names."""
    rows = [row for row in ARCHITECTURES if row.marker is None or fields.has(row.marker)]
    names = list(dict.fromkeys(row.model_type for row in rows))
    if fields.has("model_type"):
        model_type = fields.choice("model_type", names)
        return next(row for row in rows if row.model_type == model_type)
    classes = fields.values.get("architectures")
    if isinstance(classes, list) and classes:
        for row in rows:
            if all(isinstance(name, str) and name.startswith(row.class_prefix) for name in classes):
                return row
    raise fields.error("model_type", " or ".join(f'"{name}"' for name in names))


def _refuse_what_is_not_done(fields: Fields, architecture: Architecture) -> None:
    for name, value in architecture.demands.items():
        fields.choice(name, (value,), value)
    if fields.values.get("quantization_config"):
        raise fields.error("quantization_config", "none: only float32, float16 and bfloat16 weights are read")
    if fields.values.get("pruned_heads"):
        raise fields.error("pruned_heads", "none: every layer has num_attention_heads heads")
    own_code = fields.object("auto_map") if fields.has("auto_map") else None
    if own_code is not None and not architecture.replaces_own_code and own_code.has("AutoModel"):
        raise own_code.error("AutoModel", "none: the encoder must not need code of its own")
