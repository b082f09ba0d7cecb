"""The `config.json` of an encoder: every field checked before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentpool.architectures import ARCHITECTURES, Architecture
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
}


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder, in the field names of `config.json`."""

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
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float

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
        sizes = {
            name: fields.integer(name, architecture.defaults[name], maximum=largest)
            for name, largest in _LARGEST.items()
        }
        rates = {
            name: fields.number(name, architecture.defaults[name], minimum=0.0, below=1.0)
            for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")
        }
        epsilon = fields.number("layer_norm_eps", architecture.defaults["layer_norm_eps"], minimum=0.0, below=1.0)
        if epsilon == 0.0:
            raise fields.error("layer_norm_eps", "a number above 0")
        activation = fields.choice("hidden_act", architecture.activations, architecture.defaults["hidden_act"])

        heads, hidden = sizes["num_attention_heads"], sizes["hidden_size"]
        if hidden % heads:
            raise fields.error("num_attention_heads", f"a divisor of hidden_size, which is {hidden}")
        if sizes["max_position_embeddings"] <= architecture.position_offset:
            raise fields.error("max_position_embeddings", f"more than {architecture.position_offset}")
        _refuse_what_is_not_done(fields, architecture)
        return cls(architecture=architecture, hidden_act=activation, layer_norm_eps=epsilon, **sizes, **rates)

    @property
    def max_tokens(self) -> int:
        """The longest text in tokens, special tokens included, for which there are positions."""
        return self.max_position_embeddings - self.architecture.position_offset

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of this encoder, by canonical name."""
        return {
            name: tuple(getattr(self, size) for size in fields)
            for name, fields in self.architecture.tensor_fields(self.num_hidden_layers).items()
        }

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
            "position_offset": self.architecture.position_offset,
        }


def _architecture(fields: Fields) -> Architecture:
    """The row of the table that `model_type` names or, in folders older than that field, the class names."""
    if fields.has("model_type"):
        return ARCHITECTURES[fields.choice("model_type", ARCHITECTURES)]
    classes = fields.values.get("architectures")
    if isinstance(classes, list) and classes:
        for row in ARCHITECTURES.values():
            if all(isinstance(name, str) and name.startswith(row.class_prefix) for name in classes):
                return row
    raise fields.error("model_type", " or ".join(f'"{name}"' for name in ARCHITECTURES))


def _refuse_what_is_not_done(fields: Fields, architecture: Architecture) -> None:
    for name, value in architecture.demands.items():
        fields.choice(name, (value,), value)
    if fields.values.get("quantization_config"):
        raise fields.error("quantization_config", "none: only float32, float16 and bfloat16 weights are read")
    if fields.values.get("pruned_heads"):
        raise fields.error("pruned_heads", "none: every layer has num_attention_heads heads")
    own_code = fields.object("auto_map") if fields.has("auto_map") else None
    if own_code is not None and own_code.has("AutoModel"):
        raise own_code.error("AutoModel", "none: the encoder must not need code of its own")
