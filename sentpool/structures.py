"""What encoder families do differently from BERT, as arguments of the core, read from their `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sentpool.fields import Fields

# Which parts an encoder has unless its structure says else: BERT's.
PARTS = {
    "position_table": True,
    "token_types": True,
    "projection": False,
    "relative_buckets": 0,
    "norm_bias": True,
    "attention_bias": True,
    "feed_forward_bias": True,
    "gated": False,
    "pre_norm": False,
    "first_norm": True,
}

_LARGEST_BASE = 1e12


def absolute(fields: Fields, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Positions from a table, from its first row on: BERT."""
    return {}


def after_padding(fields: Fields, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Positions counted from the row after the padding token's id on: RoBERTa."""
    padding = fields.integer("pad_token_id", 1, minimum=0, maximum=sizes["vocab_size"] - 1)
    return {"position_offset": padding + 1, "padding_id": padding}


def mpnet(fields: Fields, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Positions as in RoBERTa, with 1 as padding whatever the file says, and a bias by relative position."""
    # transformers computes with 32 whatever the file says
    buckets = fields.choice("relative_attention_num_buckets", (32,), 32)
    return {"position_offset": 2, "padding_id": 1, "relative_buckets": buckets}


def electra(fields: Fields, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Embeddings of their own width, projected where it is not the hidden size."""
    return {"embedding": sizes["embedding_size"], "projection": sizes["embedding_size"] != sizes["hidden_size"]}


def albert(fields: Fields, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Embeddings that are always projected, and layers that share weights."""
    groups = fields.integer("num_hidden_groups", 1, maximum=sizes["num_hidden_layers"])
    return {"embedding": sizes["embedding_size"], "projection": True, "groups": groups}


def modernbert(fields: Fields, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Rotary positions, local and global attention in turn, layer norm first, a gated feed-forward."""
    window = fields.integer("local_attention", 128, minimum=2, maximum=1 << 24) // 2
    rotary = fields.object("rope_parameters")
    return {
        "rotary": _even_head(fields, sizes),
        "rotary_base": _base(fields, rotary.object("full_attention"), "global_rope_theta", 160000.0),
        "local_rotary_base": _local_base(fields, rotary.object("sliding_attention")),
        "local_window": window,
        "local_layers": _local_layers(fields, sizes["num_hidden_layers"]),
        "position_table": False,
        "pre_norm": True,
        "first_norm": False,
        "gated": True,
        "norm_bias": fields.boolean("norm_bias", False),
        "attention_bias": fields.boolean("attention_bias", False),
        "feed_forward_bias": fields.boolean("mlp_bias", False),
    }


def nomic_bert(fields: Fields, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Rotary positions and a gated feed-forward without biases, in the words of transformers."""
    head = sizes["hidden_size"] // sizes["num_attention_heads"]
    fields.choice("head_dim", (head, None), None)
    return {
        "rotary": _even_head(fields, sizes),
        "rotary_base": _base(fields, fields.object("rope_parameters"), "rope_theta", 1000.0),
        "position_table": False,
        "gated": True,
        "attention_bias": False,
        "feed_forward_bias": False,
    }


def nomic_bert_own_code(fields: Fields, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The same in the words of the folders with code of their own."""
    head = sizes["hidden_size"] // sizes["num_attention_heads"]
    fraction = fields.number("rotary_emb_fraction", 0.0, minimum=0.0, below=1.0 + 1e-9)
    rotary = int(head * fraction)
    if rotary == 0 or rotary % 2:
        raise fields.error("rotary_emb_fraction", f"a part of the {head} values of a head that is even and not 0")
    bias = fields.boolean("mlp_fc1_bias", True)
    fields.choice("mlp_fc2_bias", (bias,), True)
    return {
        "rotary": rotary,
        "rotary_base": fields.number("rotary_emb_base", 10000.0, minimum=1.0, below=_LARGEST_BASE),
        "position_table": False,
        "gated": True,
        "attention_bias": fields.boolean("qkv_proj_bias", True),
        "feed_forward_bias": bias,
    }


def _even_head(fields: Fields, sizes: Mapping[str, int]) -> int:
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if hidden // heads % 2:
        raise fields.error("num_attention_heads", f"heads of an even size, of which hidden_size has {hidden}")
    return hidden // heads


def _base(fields: Fields, rotary: Fields, old_name: str, default: float) -> float:
    """The base of rotary positions: in an object of its own in newer files, a field in older ones."""
    rotary.choice("rope_type", ("default",), "default")
    fields.choice("rope_scaling", (None,), None)
    if rotary.has("rope_theta"):
        return rotary.number("rope_theta", minimum=1.0, below=_LARGEST_BASE)
    return fields.number(old_name, default, minimum=1.0, below=_LARGEST_BASE)


def _local_base(fields: Fields, rotary: Fields) -> float:
    if not rotary.has("rope_theta") and "local_rope_theta" in fields.values and not fields.has("local_rope_theta"):
        return _base(fields, rotary, "global_rope_theta", 160000.0)
    return _base(fields, rotary, "local_rope_theta", 10000.0)


def _local_layers(fields: Fields, layers: int) -> tuple[int, ...]:
    kinds = fields.values.get("layer_types")
    if kinds is None:
        every = fields.integer("global_attn_every_n_layers", 3, maximum=1 << 20)
        return tuple(layer for layer in range(layers) if layer % every)
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in known for kind in kinds):
        raise fields.error("layer_types", f"{layers} of {' and '.join(known)}")
    return tuple(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention")
