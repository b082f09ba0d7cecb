"""Every encoder family in NumPy and float64, after their papers and transformers' source, without the package."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy_dropout import (
    ATTENTION,
    ATTENTION_OUTPUT,
    EMBEDDING,
    FEED_FORWARD,
    INNER,
    kept_probabilities,
    kept_states,
)


def _gelu(x):
    erf = np.array([math.erf(z) for z in (x / math.sqrt(2)).ravel().tolist()])
    return 0.5 * x * (1 + erf.reshape(x.shape))


def _gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _silu(x):
    return x / (1 + np.exp(-x))


ACTIVATIONS = {
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": _silu,
    "swiglu": _silu,
    "geglu": _gelu,
}


class Encoder:
    """The states of one sentence at every layer: `Encoder(config, tensors).states(ids)` is (L + 1, T, H).

    With `draws`, which has seed, step and row, values are dropped as in training.
    """

    def __init__(self, config: dict, tensors: dict[str, np.ndarray], draws: dict | None = None) -> None:
        self.config, self.draws = config, draws
        self.tensors = {name: array.astype(np.float64) for name, array in tensors.items()}
        self.family = config["model_type"]
        self.heads = self._field("num_attention_heads", "n_heads", "n_head")
        self.layers = self._field("num_hidden_layers", "n_layers", "n_layer")
        default = {"distilbert": 1e-12, "modernbert": 1e-5}.get(self.family)
        self.eps = self._field("layer_norm_eps", "norm_eps", "layer_norm_epsilon", default=default)
        act = self._field("hidden_act", "activation", "hidden_activation", "activation_function", default="gelu")
        self.activation = ACTIVATIONS[act]

    def states(self, ids) -> np.ndarray:
        x = self._embed(np.asarray(ids))
        states = [x]
        for number in range(self.layers):
            x = self._layer(x, number)
            states.append(x)
        if self.family == "modernbert":
            states[-1] = self._norm("final_norm", x)
        return np.array(states)

    # ---- parts -------------------------------------------------------------------------------------------------

    def _field(self, *names, default=None):
        return next((self.config[name] for name in names if name in self.config), default)

    def _drop(self, x, site, layer, field):
        """x with dropout of the probability that a field says, if any."""
        p = self.config.get(field, 0.0)
        if self.draws is None or p == 0:
            return x
        kept = kept_probabilities if site == ATTENTION else kept_states
        sizes = (self.heads, x.shape[1]) if site == ATTENTION else (0, *x.shape)
        return x * kept(p, {**self.draws, "layer": layer, "site": site}, *sizes) / (1 - p)

    def _linear(self, name, x):
        return x @ self.tensors[f"{name}.weight"].T + self.tensors.get(f"{name}.bias", 0.0)

    def _norm(self, name, x):
        z = x - x.mean(-1, keepdims=True)
        z = z / np.sqrt((z**2).mean(-1, keepdims=True) + self.eps)
        return z * self.tensors[f"{name}.weight"] + self.tensors.get(f"{name}.bias", 0.0)

    def _embed(self, ids):
        if self.family == "modernbert":
            x = self._norm("embeddings.norm", self.tensors["embeddings.tok_embeddings.weight"][ids])
            return self._drop(x, EMBEDDING, 0, "embedding_dropout")
        x = self.tensors["embeddings.word_embeddings.weight"][ids]
        if "embeddings.token_type_embeddings.weight" in self.tensors:
            x = x + self.tensors["embeddings.token_type_embeddings.weight"][0]
        if self.family == "nomic_bert":
            return self._drop(self._norm("emb_ln", x), EMBEDDING, 0, self._hidden_field())
        x = self._norm(
            "embeddings.LayerNorm", x + self.tensors["embeddings.position_embeddings.weight"][self._rows(ids)]
        )
        x = self._drop(x, EMBEDDING, 0, self._hidden_field())
        for name in ("embeddings_project", "encoder.embedding_hidden_mapping_in"):
            if f"{name}.weight" in self.tensors:
                x = self._linear(name, x)
        return x

    def _hidden_field(self):
        """What the family calls the probability of dropping states."""
        if self.family == "distilbert":
            return "dropout"
        return "resid_pdrop" if "n_embd" in self.config else "hidden_dropout_prob"

    def _rows(self, ids):
        """Rows of the position table: after fairseq's manner where the family comes from there."""
        if self.family not in ("roberta", "xlm-roberta", "camembert", "mpnet"):
            return np.arange(len(ids))
        padding = 1 if self.family == "mpnet" else self.config["pad_token_id"]
        counted = ids != padding
        return np.where(counted, np.cumsum(counted), 0) + padding

    def _layer(self, x, number):
        if self.family == "modernbert":
            layer = f"layers.{number}"
            y = x if number == 0 else self._norm(f"{layer}.attn_norm", x)
            every = self.config["global_attn_every_n_layers"]
            is_local = number % every != 0
            base = self.config["local_rope_theta" if is_local else "global_rope_theta"]
            window = self.config["local_attention"] // 2 if is_local else None
            qkv = np.split(self._linear(f"{layer}.attn.Wqkv", y), 3, axis=1)
            y = self._linear(f"{layer}.attn.Wo", self._attention(*qkv, number, base=base, window=window))
            x = x + self._drop(y, ATTENTION_OUTPUT, number + 1, "attention_dropout")
            inner, gate = np.split(self._linear(f"{layer}.mlp.Wi", self._norm(f"{layer}.mlp_norm", x)), 2, axis=1)
            inner = self._drop(self.activation(inner) * gate, INNER, number + 1, "mlp_dropout")
            return x + self._linear(f"{layer}.mlp.Wo", inner)
        hidden = self._hidden_field()
        if self.family == "nomic_bert":
            layer = f"encoder.layers.{number}"
            base = self._field("rotary_emb_base", default=1000.0)
            qkv = np.split(self._linear(f"{layer}.attn.Wqkv", x), 3, axis=1)
            y = self._linear(f"{layer}.attn.out_proj", self._attention(*qkv, number, base=base))
            x = self._norm(f"{layer}.norm1", x + self._drop(y, ATTENTION_OUTPUT, number + 1, hidden))
            inner = self._linear(f"{layer}.mlp.fc11", x) * self.activation(self._linear(f"{layer}.mlp.fc12", x))
            y = self._drop(self._linear(f"{layer}.mlp.fc2", inner), FEED_FORWARD, number + 1, hidden)
            return self._norm(f"{layer}.norm2", x + y)
        layer, names = self._names(number)
        q, k, v, out, norm1, intermediate, output, norm2 = (f"{layer}.{name}" for name in names)
        y = self._linear(out, self._attention(*(self._linear(name, x) for name in (q, k, v)), number))
        if self.family != "distilbert":  # whose attention ends without dropout
            y = self._drop(y, ATTENTION_OUTPUT, number + 1, hidden)
        x = self._norm(norm1, x + y)
        y = self._linear(output, self.activation(self._linear(intermediate, x)))
        if self.family != "albert":  # whose feed-forward does
            y = self._drop(y, FEED_FORWARD, number + 1, hidden)
        return self._norm(norm2, x + y)

    def _names(self, number):
        if self.family == "distilbert":
            names = "attention.q_lin attention.k_lin attention.v_lin attention.out_lin sa_layer_norm"
            return f"transformer.layer.{number}", f"{names} ffn.lin1 ffn.lin2 output_layer_norm".split()
        if self.family == "albert":
            group = int(number / (self.layers / self.config["num_hidden_groups"]))
            names = "attention.query attention.key attention.value attention.dense attention.LayerNorm"
            names = f"{names} ffn ffn_output full_layer_layer_norm".split()
            return f"encoder.albert_layer_groups.{group}.albert_layers.0", names
        tail = "intermediate.dense output.dense output.LayerNorm"
        if self.family == "mpnet":
            names = "attention.attn.q attention.attn.k attention.attn.v attention.attn.o attention.LayerNorm"
        else:
            names = "attention.self.query attention.self.key attention.self.value"
            names += " attention.output.dense attention.output.LayerNorm"
        return f"encoder.layer.{number}", f"{names} {tail}".split()

    # ---- attention ---------------------------------------------------------------------------------------------

    def _attention(self, q, k, v, number, base=None, window=None):
        T, H = q.shape
        d = H // self.heads
        distance = np.arange(T)[:, None] - np.arange(T)
        weights = np.empty((self.heads, T, T))
        for head in range(self.heads):
            part = slice(head * d, (head + 1) * d)
            turned = [x[:, part] if base is None else self._turn(x[:, part], base) for x in (q, k)]
            scores = turned[0] @ turned[1].T / math.sqrt(d)
            if self.family == "mpnet":
                table = self.tensors["encoder.relative_attention_bias.weight"][:, head]
                scores = scores + table[_buckets(T)]
            if window is not None:
                scores = np.where(np.abs(distance) <= window, scores, -np.inf)
            scores = np.exp(scores - scores.max(1, keepdims=True))
            weights[head] = scores / scores.sum(1, keepdims=True)
        field = "attn_pdrop" if "n_embd" in self.config else "attention_probs_dropout_prob"
        field = "attention_dropout" if self.family in ("distilbert", "modernbert") else field
        weights = self._drop(weights, ATTENTION, number + 1, field)
        return np.concatenate([weights[head] @ v[:, head * d : (head + 1) * d] for head in range(self.heads)], axis=1)

    def _turn(self, x, base):
        """Pairs (i, i + r/2) of the first r values as complex numbers, turned by the position."""
        r = int(x.shape[1] * self._field("rotary_emb_fraction", default=1.0))
        angles = np.arange(len(x))[:, None] * base ** (-np.arange(0, r, 2) / r)
        turned = (x[:, : r // 2] + 1j * x[:, r // 2 : r]) * np.exp(1j * angles)
        return np.concatenate([turned.real, turned.imag, x[:, r:]], axis=1)


@functools.lru_cache(32)
def _buckets(T: int) -> np.ndarray:
    """Of every query and key of a sentence."""
    return np.vectorize(_bucket)(np.arange(T)[:, None] - np.arange(T))


def _bucket(distance: int) -> int:
    """Of query - key, as T5 has it with 32 buckets up to distance 128."""
    first, n = (16, -distance) if distance < 0 else (0, distance)
    if n < 8:
        return first + n
    # the powers of two are exact in the logarithm to base 2
    return first + min(8 + math.floor(math.log2(n / 8) / math.log2(16) * 8), 15)
