"""The one table of encoder families that sentpool opens: to add a family is to add a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

# Tensors of training heads and buffers that checkpoints carry along and no encoder of this table uses.
LEFTOVERS = (
    "pooler.*",
    "cls.*",
    "lm_head.*",
    "mlp.*",
    "position_ids",
    "*.position_ids",
    "vocab_*",
    "discriminator_predictions.*",
    "head.*",
    "decoder.*",
)


@dataclass(frozen=True)
class Architecture:
    """One encoder family: what its `config.json` may say and how its tensors are called.

    Attributes
    ----------
    model_type
        The `model_type` of `config.json`.
    class_prefix
        How the class names under `architectures` begin, for old folders without `model_type`.
    defaults
        What an absent field of `config.json` means, as in transformers.
    demands
        Fields that, where present, must have this one value.
    activations
        `hidden_act` as written, and its name in the core.
    position_offset
        The position of the first token: the rows before it are never used.
    tensors
        Every tensor by its canonical name, with its shape in names of fields; `{layer}` counts the layers.
    prefixes
        What may stand before a canonical name.
    renames
        Old endings of tensor names, and the new ones.
    tokenizer
        The class of tokenizer (a row of `tokenizer_kinds.py`) that a folder has unless it says else.
    """

    model_type: str
    class_prefix: str
    defaults: Mapping[str, int | float | str]
    demands: Mapping[str, bool | str]
    activations: Mapping[str, str]
    tensors: Mapping[str, tuple[str, ...]]
    prefixes: tuple[str, ...]
    renames: Mapping[str, str] = field(
        default_factory=lambda: {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    )
    position_offset: int = 0
    tokenizer: str = "BertTokenizer"

    def canonical_name(self, stored: str) -> str:
        """The name of a stored tensor without prefix and in today's spelling."""
        prefix = max((p for p in self.prefixes if stored.startswith(p)), key=len, default="")
        name = stored[len(prefix) :]
        for old, new in self.renames.items():
            if name.endswith(old):
                return name[: -len(old)] + new
        return name

    def tensor_fields(self, layers: int) -> dict[str, tuple[str, ...]]:
        """Every canonical name of a model with so many layers, with its shape in names of fields."""
        return {
            name.format(layer=layer): shape
            for name, shape in self.tensors.items()
            for layer in (range(layers) if "{layer}" in name else (0,))
        }


def is_leftover(name: str) -> bool:
    """Whether a canonical name belongs to what checkpoints carry along without need."""
    return any(fnmatchcase(name, pattern) for pattern in LEFTOVERS)


def _linear(name: str, out: str, inputs: str) -> dict[str, tuple[str, ...]]:
    return {f"{name}.weight": (out, inputs), f"{name}.bias": (out,)}


def _layer_norm(name: str) -> dict[str, tuple[str, ...]]:
    return {f"{name}.weight": ("hidden_size",), f"{name}.bias": ("hidden_size",)}


_BERT_TENSORS = {
    "embeddings.word_embeddings.weight": ("vocab_size", "hidden_size"),
    "embeddings.position_embeddings.weight": ("max_position_embeddings", "hidden_size"),
    "embeddings.token_type_embeddings.weight": ("type_vocab_size", "hidden_size"),
    **_layer_norm("embeddings.LayerNorm"),
    **_linear("encoder.layer.{layer}.attention.self.query", "hidden_size", "hidden_size"),
    **_linear("encoder.layer.{layer}.attention.self.key", "hidden_size", "hidden_size"),
    **_linear("encoder.layer.{layer}.attention.self.value", "hidden_size", "hidden_size"),
    **_linear("encoder.layer.{layer}.attention.output.dense", "hidden_size", "hidden_size"),
    **_layer_norm("encoder.layer.{layer}.attention.output.LayerNorm"),
    **_linear("encoder.layer.{layer}.intermediate.dense", "intermediate_size", "hidden_size"),
    **_linear("encoder.layer.{layer}.output.dense", "hidden_size", "intermediate_size"),
    **_layer_norm("encoder.layer.{layer}.output.LayerNorm"),
}

BERT = Architecture(
    model_type="bert",
    class_prefix="Bert",
    defaults={
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    },
    demands={"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
    activations={"gelu": "gelu", "gelu_python": "gelu"},
    tensors=_BERT_TENSORS,
    prefixes=("bert.",),
)

ARCHITECTURES = {row.model_type: row for row in (BERT,)}
