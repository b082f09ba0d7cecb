"""The one table of encoder families that sentpool opens: to add a family is to add a row.

The core calls every tensor as BERT does (csrc/model/tensors.def). A row says what the family calls it, what its
`config.json` calls the sizes, and what it does differently: the arguments of the core that differ from BERT's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from sentpool import structures
from sentpool.dropout import Sites
from sentpool.fields import Fields

# Tensors of training heads and buffers that checkpoints carry along and no encoder of this table uses.
LEFTOVERS = (
    "pooler.*",
    "cls.*",
    "lm_head.*",
    "mlp.*",
    "position_ids",
    "*.position_ids",
    "*.inv_freq",
    "vocab_*",
    "discriminator_predictions.*",
    "generator_predictions.*",
    "generator_lm_head.*",
    "predictions.*",
    "sop_classifier.*",
    "head.*",
    "decoder.*",
)

_BERT_DROPOUT = Sites(
    embedding="hidden_dropout_prob",
    attention="attention_probs_dropout_prob",
    attention_output="hidden_dropout_prob",
    inner=None,
    feed_forward="hidden_dropout_prob",
)


class StoredTensorShape(NamedTuple):
    """A tensor as a family stores it.

    Attributes
    ----------
    shape
        In names of sizes, for a stacked one with a factor in front: `("3 x hidden_size", "hidden_size")`.
    core
        The core's names of what is stacked in it by rows, all equally high; usually one.
    """

    shape: tuple[str, ...]
    core: tuple[str, ...]


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
        What an absent field of `config.json` means, as in transformers; by the names of `EncoderConfig`.
    fields
        What `config.json` calls a field where it is not the name of `EncoderConfig`; None where it has no such field
        and the default always holds.
    demands
        Fields that, where present, must have this one value.
    activations
        The activation as written, and its name in the core.
    modules
        What the family calls a module of the core where it is not BERT's name; `{layer}` counts the layers. Modules of
        one name are stacked in one tensor.
    structure
        The arguments of the core in which an encoder differs from BERT, from its fields and sizes.
    prefixes
        What may stand before a canonical name.
    renames
        Old endings of tensor names, and the new ones.
    marker
        A field that tells this row from another one of the same `model_type`.
    replaces_own_code
        Whether folders name code of their own, which this row makes unnecessary.
    dropout
        What `config.json` calls the probability of dropping at each place; None where the family drops nothing.
    dropout_default
        What an absent one of these fields means.
    unused_dropout
        Fields that look like one and that the family's code does not apply.
    tokenizer
        The class of tokenizer (a row of `tokenizer_kinds.py`) that a folder has unless it says else.
    """

    model_type: str
    class_prefix: str
    defaults: Mapping[str, int | float | str | None]
    prefixes: tuple[str, ...]
    fields: Mapping[str, str | None] = field(default_factory=dict)
    demands: Mapping[str, Any] = field(default_factory=dict)
    activations: Mapping[str, str] = field(default_factory=lambda: ACTIVATIONS)
    modules: Mapping[str, str] = field(default_factory=dict)
    structure: Callable[[Fields, Mapping[str, int]], dict[str, Any]] = structures.absolute
    renames: Mapping[str, str] = field(
        default_factory=lambda: {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    )
    marker: str | None = None
    replaces_own_code: bool = False
    dropout: Sites = _BERT_DROPOUT
    dropout_default: float = 0.1
    unused_dropout: tuple[str, ...] = ()
    tokenizer: str = "BertTokenizer"

    def canonical_name(self, stored: str) -> str:
        """The name of a stored tensor without prefix and in today's spelling."""
        prefix = max((p for p in self.prefixes if stored.startswith(p)), key=len, default="")
        name = stored[len(prefix) :]
        for old, new in self.renames.items():
            if name.endswith(old):
                return name[: -len(old)] + new
        return name

    def field_name(self, name: str) -> str | None:
        """What `config.json` calls a field of `EncoderConfig`."""
        if name == "embedding_size" and name not in self.defaults:
            name = "hidden_size"
        return self.fields.get(name, name)

    def in_its_words(self, shape: tuple[str, ...]) -> tuple[str, ...]:
        """A shape in names of sizes, in those of `config.json`."""
        parts = [size.rpartition(" x ") for size in shape]
        return tuple(f"{factor}{times}{self.field_name(name)}" for factor, times, name in parts)

    def tensors(self, layers: int, structure: Mapping[str, Any]) -> dict[str, StoredTensorShape]:
        """Every tensor of an encoder of so many layers and such a structure, by canonical name."""
        found: dict[str, StoredTensorShape] = {}
        for module in MODULES:
            groups = structure.get("groups", layers) if "{layer}" in module.name else 1
            for layer in range(groups):
                for core, shape in module.tensors(structure, layer):
                    name = core.replace(module.name, self.modules.get(module.name, module.name), 1)
                    part = StoredTensorShape(shape, (core.format(layer=layer),))
                    name = name.format(layer=layer)
                    found[name] = _stacked(found[name], part) if name in found else part
        return found


def _stacked(above: StoredTensorShape, below: StoredTensorShape) -> StoredTensorShape:
    core = above.core + below.core
    return StoredTensorShape((f"{len(core)} x {below.shape[0]}", *below.shape[1:]), core)


def is_leftover(name: str) -> bool:
    """Whether a canonical name belongs to what checkpoints carry along without need."""
    return any(fnmatchcase(name, pattern) for pattern in LEFTOVERS)


class _Module(NamedTuple):
    """A module of the core, by BERT's name; `where` and `bias` name the part of the structure that it belongs to."""

    name: str
    shape: tuple[str, ...]
    where: str = ""
    bias: str | None = None

    def tensors(self, structure: Mapping[str, Any], layer: int):
        """Name and shape of its tensors, none where the encoder has not got it."""
        has = {"": True, **structures.PARTS, **structure}
        if not has[self.where] and not (self.where == "first_norm" and layer > 0):
            return
        yield f"{self.name}.weight", self.shape
        if self.bias is not None and has[self.bias]:
            yield f"{self.name}.bias", self.shape[:1]


_LAYER = "encoder.layer.{layer}"
_QUERY, _KEY, _VALUE = (f"{_LAYER}.attention.self.{part}" for part in ("query", "key", "value"))
_ATTENTION_OUTPUT = f"{_LAYER}.attention.output.dense"
_ATTENTION_NORM = f"{_LAYER}.attention.output.LayerNorm"
_INTERMEDIATE, _GATE, _OUTPUT = (f"{_LAYER}.{part}.dense" for part in ("intermediate", "gate", "output"))
_OUTPUT_NORM = f"{_LAYER}.output.LayerNorm"
_WORDS, _TYPES = "embeddings.word_embeddings", "embeddings.token_type_embeddings"
_EMBEDDING_NORM, _PROJECTION = "embeddings.LayerNorm", "embeddings_project"

MODULES = (
    _Module(_WORDS, ("vocab_size", "embedding_size")),
    _Module(
        "embeddings.position_embeddings",
        ("max_position_embeddings", "embedding_size"),
        "position_table",
    ),
    _Module(_TYPES, ("type_vocab_size", "embedding_size"), "token_types"),
    _Module(_EMBEDDING_NORM, ("embedding_size",), bias="norm_bias"),
    _Module(_PROJECTION, ("hidden_size", "embedding_size"), "projection", "projection"),
    _Module(
        "encoder.relative_attention_bias",
        ("relative_attention_num_buckets", "num_attention_heads"),
        "relative_buckets",
    ),
    *(_Module(part, ("hidden_size", "hidden_size"), bias="attention_bias") for part in (_QUERY, _KEY, _VALUE)),
    _Module(_ATTENTION_OUTPUT, ("hidden_size", "hidden_size"), bias="attention_bias"),
    _Module(_ATTENTION_NORM, ("hidden_size",), "first_norm", "norm_bias"),
    _Module(_INTERMEDIATE, ("intermediate_size", "hidden_size"), bias="feed_forward_bias"),
    _Module(_GATE, ("intermediate_size", "hidden_size"), "gated", "feed_forward_bias"),
    _Module(_OUTPUT, ("hidden_size", "intermediate_size"), bias="feed_forward_bias"),
    _Module(_OUTPUT_NORM, ("hidden_size",), bias="norm_bias"),
    _Module("final_norm", ("hidden_size",), "pre_norm", "norm_bias"),
)

# transformers' names of the activations that the core has; the tanh form of GELU has many.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

_ENCODER_ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
_BERT_DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}
_NO_TYPES: dict[str, str | None] = {"type_vocab_size": None}

BERT = Architecture("bert", "Bert", _BERT_DEFAULTS, ("bert.",), demands=_ENCODER_ONLY)


def _roberta(model_type: str, class_prefix: str, tokenizer: str, vocab_size: int) -> Architecture:
    return Architecture(
        model_type,
        class_prefix,
        _BERT_DEFAULTS | {"vocab_size": vocab_size},
        ("roberta.",),
        demands=_ENCODER_ONLY,
        structure=structures.after_padding,
        tokenizer=tokenizer,
    )


ROBERTA = _roberta("roberta", "Roberta", "RobertaTokenizer", 50265)
XLM_ROBERTA = _roberta("xlm-roberta", "XLMRoberta", "XLMRobertaTokenizer", 30522)
CAMEMBERT = _roberta("camembert", "Camembert", "CamembertTokenizer", 30522)

DISTILBERT = Architecture(
    "distilbert",
    "DistilBert",
    _BERT_DEFAULTS | {"num_hidden_layers": 6, "type_vocab_size": 0},
    ("distilbert.",),
    fields={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "layer_norm_eps": None,
        **_NO_TYPES,
    },
    modules={
        _QUERY: "transformer.layer.{layer}.attention.q_lin",
        _KEY: "transformer.layer.{layer}.attention.k_lin",
        _VALUE: "transformer.layer.{layer}.attention.v_lin",
        _ATTENTION_OUTPUT: "transformer.layer.{layer}.attention.out_lin",
        _ATTENTION_NORM: "transformer.layer.{layer}.sa_layer_norm",
        _INTERMEDIATE: "transformer.layer.{layer}.ffn.lin1",
        _OUTPUT: "transformer.layer.{layer}.ffn.lin2",
        _OUTPUT_NORM: "transformer.layer.{layer}.output_layer_norm",
    },
    dropout=Sites("dropout", "attention_dropout", attention_output=None, inner=None, feed_forward="dropout"),
    tokenizer="DistilBertTokenizer",
)

MPNET = Architecture(
    "mpnet",
    "MPNet",
    _BERT_DEFAULTS | {"vocab_size": 30527, "type_vocab_size": 0},
    ("mpnet.",),
    fields=_NO_TYPES,
    demands=_ENCODER_ONLY,
    modules={
        _QUERY: f"{_LAYER}.attention.attn.q",
        _KEY: f"{_LAYER}.attention.attn.k",
        _VALUE: f"{_LAYER}.attention.attn.v",
        _ATTENTION_OUTPUT: f"{_LAYER}.attention.attn.o",
        _ATTENTION_NORM: f"{_LAYER}.attention.LayerNorm",
    },
    structure=structures.mpnet,
    tokenizer="MPNetTokenizer",
)

ELECTRA = Architecture(
    "electra",
    "Electra",
    _BERT_DEFAULTS | {"embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    ("electra.",),
    demands=_ENCODER_ONLY,
    structure=structures.electra,
    tokenizer="ElectraTokenizer",
)

_ALBERT_LAYER = "encoder.albert_layer_groups.{layer}.albert_layers.0"
ALBERT = Architecture(
    "albert",
    "Albert",
    _BERT_DEFAULTS
    | {
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "hidden_act": "gelu_new",
    },
    ("albert.",),
    demands=_ENCODER_ONLY | {"inner_group_num": 1},
    modules={
        _PROJECTION: "encoder.embedding_hidden_mapping_in",
        _QUERY: f"{_ALBERT_LAYER}.attention.query",
        _KEY: f"{_ALBERT_LAYER}.attention.key",
        _VALUE: f"{_ALBERT_LAYER}.attention.value",
        _ATTENTION_OUTPUT: f"{_ALBERT_LAYER}.attention.dense",
        _ATTENTION_NORM: f"{_ALBERT_LAYER}.attention.LayerNorm",
        _INTERMEDIATE: f"{_ALBERT_LAYER}.ffn",
        _OUTPUT: f"{_ALBERT_LAYER}.ffn_output",
        _OUTPUT_NORM: f"{_ALBERT_LAYER}.full_layer_layer_norm",
    },
    structure=structures.albert,
    dropout=_BERT_DROPOUT._replace(feed_forward=None),
    dropout_default=0.0,
    tokenizer="AlbertTokenizer",
)

MODERNBERT = Architecture(
    "modernbert",
    "ModernBert",
    {
        "vocab_size": 50368,
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "max_position_embeddings": 8192,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
    },
    ("model.",),
    fields={
        "layer_norm_eps": "norm_eps",
        "hidden_act": "hidden_activation",
        **_NO_TYPES,
    },
    modules={
        _WORDS: "embeddings.tok_embeddings",
        _EMBEDDING_NORM: "embeddings.norm",
        **dict.fromkeys((_QUERY, _KEY, _VALUE), "layers.{layer}.attn.Wqkv"),
        _ATTENTION_OUTPUT: "layers.{layer}.attn.Wo",
        _ATTENTION_NORM: "layers.{layer}.attn_norm",
        **dict.fromkeys((_INTERMEDIATE, _GATE), "layers.{layer}.mlp.Wi"),
        _OUTPUT: "layers.{layer}.mlp.Wo",
        _OUTPUT_NORM: "layers.{layer}.mlp_norm",
    },
    structure=structures.modernbert,
    dropout=Sites("embedding_dropout", "attention_dropout", "attention_dropout", "mlp_dropout", feed_forward=None),
    dropout_default=0.0,
    tokenizer="PreTrainedTokenizer",
)

_NOMIC_LAYER = "encoder.layers.{layer}"
_NOMIC_MODULES = {
    _EMBEDDING_NORM: "emb_ln",
    **dict.fromkeys((_QUERY, _KEY, _VALUE), f"{_NOMIC_LAYER}.attn.Wqkv"),
    _ATTENTION_OUTPUT: f"{_NOMIC_LAYER}.attn.out_proj",
    _ATTENTION_NORM: f"{_NOMIC_LAYER}.norm1",
    _INTERMEDIATE: f"{_NOMIC_LAYER}.mlp.fc12",
    _GATE: f"{_NOMIC_LAYER}.mlp.fc11",
    _OUTPUT: f"{_NOMIC_LAYER}.mlp.fc2",
    _OUTPUT_NORM: f"{_NOMIC_LAYER}.norm2",
}
_NOMIC_DEFAULTS = _BERT_DEFAULTS | {
    "vocab_size": 30528,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
}
# As transformers 5 describes it.
NOMIC_BERT = Architecture(
    "nomic_bert",
    "NomicBert",
    _NOMIC_DEFAULTS,
    ("nomic_bert.", "bert."),
    modules=_NOMIC_MODULES,
    structure=structures.nomic_bert,
    dropout_default=0.0,
)
# As the folders with code of their own do.
NOMIC_BERT_OWN_CODE = Architecture(
    "nomic_bert",
    "NomicBert",
    _NOMIC_DEFAULTS | {"layer_norm_eps": 1e-5},
    ("bert.",),
    fields={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
        "layer_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
    },
    demands={
        "prenorm": False,
        "causal": False,
        "parallel_block": False,
        "use_rms_norm": False,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "num_experts": 0,
    },
    activations={"swiglu": "silu", "geglu": "gelu"},
    modules=_NOMIC_MODULES,
    structure=structures.nomic_bert_own_code,
    dropout=Sites("resid_pdrop", "attn_pdrop", "resid_pdrop", inner=None, feed_forward="resid_pdrop"),
    dropout_default=0.0,
    unused_dropout=("embd_pdrop",),
    marker="n_embd",
    replaces_own_code=True,
)

ARCHITECTURES = (
    BERT,
    ROBERTA,
    XLM_ROBERTA,
    CAMEMBERT,
    DISTILBERT,
    MPNET,
    ELECTRA,
    ALBERT,
    MODERNBERT,
    NOMIC_BERT_OWN_CODE,
    NOMIC_BERT,
)
