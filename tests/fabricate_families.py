"""Small folders of every encoder family, written without the package: names and shapes are spelled out once more. The
numbers are noise that is the same on every machine, for there are golden hashes of these models.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fabricate import VOCABULARY, tokenizer_json, write_json, write_safetensors
from noise import noise

_SHARED = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 72,
    "layer_norm_eps": 1e-5,
}

# A tiny `config.json` of each family; "nomic_bert" is as transformers 5 writes it, the other one as its hub folders.
CONFIGS = {
    "roberta": _SHARED | {"model_type": "roberta", "type_vocab_size": 1, "pad_token_id": 1, "hidden_act": "gelu"},
    "xlm-roberta": _SHARED | {"model_type": "xlm-roberta", "type_vocab_size": 1, "pad_token_id": 1},
    "camembert": _SHARED | {"model_type": "camembert", "type_vocab_size": 1, "pad_token_id": 1},
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": len(VOCABULARY),
        "dim": 24,
        "n_layers": 3,
        "n_heads": 2,
        "hidden_dim": 40,
        "max_position_embeddings": 72,
        "activation": "relu",
    },
    "mpnet": _SHARED | {"model_type": "mpnet", "relative_attention_num_buckets": 32},
    "electra": _SHARED | {"model_type": "electra", "embedding_size": 17, "type_vocab_size": 2, "hidden_act": "silu"},
    "albert": _SHARED
    | {"model_type": "albert", "embedding_size": 30, "num_hidden_groups": 2, "hidden_act": "gelu_new"},
    "modernbert": {
        "model_type": "modernbert",
        "vocab_size": len(VOCABULARY),
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "max_position_embeddings": 300,
        "norm_eps": 1e-5,
        "hidden_activation": "gelu",
        "local_attention": 10,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 1000.0,
        "local_rope_theta": 100.0,
    },
    "nomic_bert": _SHARED | {"model_type": "nomic_bert", "type_vocab_size": 2, "hidden_act": "silu"},
    "nomic_bert own code": {
        "model_type": "nomic_bert",
        "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
        "vocab_size": len(VOCABULARY),
        "n_embd": 24,
        "n_layer": 3,
        "n_head": 2,
        "n_inner": 256,
        "n_positions": 72,
        "type_vocab_size": 2,
        "layer_norm_epsilon": 1e-12,
        "activation_function": "swiglu",
        "rotary_emb_fraction": 0.5,
        "rotary_emb_base": 1000,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "prenorm": False,
    },
}


class _Tensors(dict):
    """Random float32 tensors, by name; each has noise of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = 1000 * seed

    def _noise(self, *shape: int, mean=0.0) -> np.ndarray:
        return np.float32(mean) + np.float32(0.4) * noise(self._seed + len(self), *shape)

    def table(self, name: str, rows: int, cols: int) -> None:
        self[f"{name}.weight"] = self._noise(rows, cols)

    def linear(self, name: str, out: int, inputs: int, bias=True) -> None:
        self[f"{name}.weight"] = self._noise(out, inputs)
        if bias:
            self[f"{name}.bias"] = self._noise(out)

    def norm(self, name: str, width: int, bias=True) -> None:
        self[f"{name}.weight"] = self._noise(width, mean=1.0)
        if bias:
            self[f"{name}.bias"] = self._noise(width)


def _like_bert(config: dict, tensors: _Tensors, layer: str, names: dict[str, str], layers: int) -> None:
    """Embeddings with tables for what the config has, and layers with biases everywhere."""
    hidden = config.get("hidden_size", config.get("dim"))
    inner = config.get("intermediate_size", config.get("hidden_dim"))
    width = config.get("embedding_size", hidden)
    tensors.table("embeddings.word_embeddings", config["vocab_size"], width)
    tensors.table("embeddings.position_embeddings", config["max_position_embeddings"], width)
    if config["model_type"] not in ("distilbert", "mpnet"):
        tensors.table("embeddings.token_type_embeddings", config.get("type_vocab_size", 2), width)
    tensors.norm("embeddings.LayerNorm", width)
    for number in range(layers):
        prefix = layer.format(number)
        for part in ("query", "key", "value", "attention output"):
            tensors.linear(f"{prefix}.{names[part]}", hidden, hidden)
        tensors.norm(f"{prefix}.{names['attention norm']}", hidden)
        tensors.linear(f"{prefix}.{names['intermediate']}", inner, hidden)
        tensors.linear(f"{prefix}.{names['output']}", hidden, inner)
        tensors.norm(f"{prefix}.{names['output norm']}", hidden)


def _names(*names: str) -> dict[str, str]:
    parts = ("query", "key", "value", "attention output", "attention norm", "intermediate", "output", "output norm")
    return dict(zip(parts, names, strict=True))


_BERT_NAMES = _names(
    *(f"attention.self.{part}" for part in ("query", "key", "value")),
    *("attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
)


def family_tensors(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors that a folder with this `config.json` holds, random."""
    tensors, family = _Tensors(seed), config["model_type"]
    if family == "modernbert":
        _modernbert(config, tensors)
    elif family == "nomic_bert":
        _nomic_bert(config, tensors)
    elif family == "distilbert":
        names = [*(f"attention.{part}_lin" for part in "qkv"), "attention.out_lin", "sa_layer_norm"]
        names = _names(*names, "ffn.lin1", "ffn.lin2", "output_layer_norm")
        _like_bert(config, tensors, "transformer.layer.{}", names, config["n_layers"])
    elif family == "mpnet":
        names = [*(f"attention.attn.{part}" for part in "qkvo"), "attention.LayerNorm"]
        names = _names(*names, "intermediate.dense", "output.dense", "output.LayerNorm")
        _like_bert(config, tensors, "encoder.layer.{}", names, config["num_hidden_layers"])
        tensors.table("encoder.relative_attention_bias", 32, config["num_attention_heads"])
    elif family == "albert":
        names = [*(f"attention.{part}" for part in ("query", "key", "value", "dense", "LayerNorm"))]
        names = _names(*names, "ffn", "ffn_output", "full_layer_layer_norm")
        layer = "encoder.albert_layer_groups.{}.albert_layers.0"
        _like_bert(config, tensors, layer, names, config["num_hidden_groups"])
        tensors.linear("encoder.embedding_hidden_mapping_in", config["hidden_size"], config["embedding_size"])
    else:
        _like_bert(config, tensors, "encoder.layer.{}", _BERT_NAMES, config["num_hidden_layers"])
        if family == "electra" and config["embedding_size"] != config["hidden_size"]:
            tensors.linear("embeddings_project", config["hidden_size"], config["embedding_size"])
    return dict(tensors)


def _modernbert(config: dict, tensors: _Tensors) -> None:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    norm = config.get("norm_bias", False)
    tensors.table("embeddings.tok_embeddings", config["vocab_size"], hidden)
    tensors.norm("embeddings.norm", hidden, norm)
    for number in range(config["num_hidden_layers"]):
        layer = f"layers.{number}"
        if number:
            tensors.norm(f"{layer}.attn_norm", hidden, norm)
        tensors.linear(f"{layer}.attn.Wqkv", 3 * hidden, hidden, config.get("attention_bias", False))
        tensors.linear(f"{layer}.attn.Wo", hidden, hidden, config.get("attention_bias", False))
        tensors.norm(f"{layer}.mlp_norm", hidden, norm)
        tensors.linear(f"{layer}.mlp.Wi", 2 * inner, hidden, config.get("mlp_bias", False))
        tensors.linear(f"{layer}.mlp.Wo", hidden, inner, config.get("mlp_bias", False))
    tensors.norm("final_norm", hidden, norm)


def _nomic_bert(config: dict, tensors: _Tensors) -> None:
    hidden = config.get("hidden_size", config.get("n_embd"))
    inner = config.get("intermediate_size", config.get("n_inner"))
    tensors.table("embeddings.word_embeddings", config["vocab_size"], hidden)
    tensors.table("embeddings.token_type_embeddings", config["type_vocab_size"], hidden)
    tensors.norm("emb_ln", hidden)
    for number in range(config.get("num_hidden_layers", config.get("n_layer"))):
        layer = f"encoder.layers.{number}"
        tensors.linear(f"{layer}.attn.Wqkv", 3 * hidden, hidden, config.get("qkv_proj_bias", False))
        tensors.linear(f"{layer}.attn.out_proj", hidden, hidden, config.get("qkv_proj_bias", False))
        tensors.norm(f"{layer}.norm1", hidden)
        for part, out, inputs in (("fc11", inner, hidden), ("fc12", inner, hidden), ("fc2", hidden, inner)):
            tensors.linear(f"{layer}.mlp.{part}", out, inputs, config.get("mlp_fc1_bias", False))
        tensors.norm(f"{layer}.norm2", hidden)


def family_folder(folder: Path, family: str, *, seed=0, prefix="", extra=None, **changes) -> Path:
    """Write a folder of a family, with the WordPiece tokenizer of the other tests.

    Parameters
    ----------
    prefix
        Before the name of every tensor.
    extra
        Further tensors, by name.
    changes
        Of the fields of `config.json`; None leaves one out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {name: value for name, value in (CONFIGS[family] | changes).items() if value is not None}
    write_json(folder / "config.json", config)
    tensors = {f"{prefix}{name}": array for name, array in family_tensors(config, seed).items()}
    write_safetensors(folder / "model.safetensors", tensors | (extra or {}))
    write_json(folder / "tokenizer.json", tokenizer_json())
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    return folder
