"""Trainable poolings and their gradients in NumPy and float64, written down from the formulas. The gradients are held
against the poolings themselves, by central differences."""

from __future__ import annotations

import numpy as np
from numpy_dropout import draws
from numpy_gradients import activation, activation_slope

SITES = {"key": 4, "query": 5, "value": 6}


def mix(states, weights):
    """The weighted sum of layers: states (n, k, P, H) → (n, P * H)."""
    return np.einsum("l,nlph->nph", weights, states).reshape(len(states), -1)


def mix_backward(dy, states, weights):
    dy = dy.reshape(len(states), *states.shape[2:])
    return np.einsum("l,nph->nlph", weights, dy), np.einsum("nph,nlph->l", dy, states)


def _softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def scalar_mix(states, weights, gamma):
    return mix(states, gamma[0] * _softmax(weights))


def scalar_mix_backward(dy, states, weights, gamma):
    """Gradients by states, weights and gamma."""
    s = _softmax(weights)
    d_states, d_mixed = mix_backward(dy, states, gamma[0] * s)
    return d_states, gamma[0] * s * (d_mixed - s @ d_mixed), np.array([s @ d_mixed])


def weighted_layer(states, weights):
    return mix(states, weights / weights.sum())


def weighted_layer_backward(dy, states, weights):
    d_states, d_mixed = mix_backward(dy, states, weights / weights.sum())
    return d_states, (d_mixed - weights @ d_mixed / weights.sum()) / weights.sum()


def dense(x, weight, bias, name):
    return activation(name, x @ weight.T + bias)


def dense_backward(dy, x, weight, bias, name):
    dz = dy * activation_slope(name, x @ weight.T + bias)
    return dz @ weight, dz.T @ x, dz.sum(0)


def normalize(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def normalize_backward(dy, x):
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    y = x / norm
    return [(dy - y * (y * dy).sum(1, keepdims=True)) / norm]


# ---- the attention over layers ---------------------------------------------------------------------------------------


def drawn_slopes(shape, seed, step, first_row):
    """Slopes of negative values for states (n, layers, H): of keys and values (n, sources, layers, H), of queries
    (n, layers, H); by name."""
    n, layers, H = shape
    blocks, token = np.arange(-(-H // 4)), np.arange(layers)[:, None]

    def uniform(part, sentence, source):
        place = {"seed": seed, "step": step, "row": first_row + sentence, "layer": source, "site": SITES[part]}
        words = draws(place, token, blocks[None]).reshape(layers, -1)[:, :H]
        return 1 / 8 + (1 / 3 - 1 / 8) * (words >> np.uint64(8)).astype(float) / 2**24

    whole = {
        part: np.array([[uniform(part, i, source) for source in range(layers)] for i in range(n)]) for part in SITES
    }
    own = np.arange(layers)
    return whole | {"query": whole["query"][:, own, own]}


def fixed_slopes(shape, slope=11 / 48):
    n, layers, H = shape
    return {part: np.full((n, layers, H) if part == "query" else (n, layers, layers, H), slope) for part in SITES}


def _attend(states, query, key, value, slopes):
    cls, mean = states[:, :, 0], states[:, :, 1]
    z = {"query": cls @ query.T, "key": mean @ key.T, "value": mean @ value.T}
    s = {part: np.where((x if part == "query" else x[:, None]) > 0, 1, slopes[part]) for part, x in z.items()}
    Q, K, V = z["query"] * s["query"], z["key"][:, None] * s["key"], z["value"][:, None] * s["value"]
    scores = np.einsum("nijh,nih->nij", K, Q) / states.shape[1]
    e = np.exp(scores - scores.max(2, keepdims=True))
    return Q, K, V, s, e / e.sum(2, keepdims=True)


def layer_attention(states, query, key, value, slopes):
    """[s_L ; u] (n, 2H) of states (n, layers, 2, H)."""
    _, _, V, _, a = _attend(states, query, key, value, slopes)
    return np.concatenate([states[:, -1, 0], np.einsum("nij,nijh->nih", a, V).mean(1)], axis=1)


def layer_attention_backward(dy, states, query, key, value, slopes):
    """Gradients by states, query, key and value."""
    layers, H = states.shape[1], states.shape[3]
    Q, K, V, s, a = _attend(states, query, key, value, slopes)
    g = dy[:, H:] / layers
    da = np.einsum("nh,nijh->nij", g, V)
    dscores = a * (da - (a * da).sum(2, keepdims=True)) / layers
    dz = {
        "query": np.einsum("nij,nijh->nih", dscores, K) * s["query"],
        "key": np.einsum("nij,nih,nijh->njh", dscores, Q, s["key"]),
        "value": np.einsum("nij,nh,nijh->njh", a, g, s["value"]),
    }
    d_states = np.stack([dz["query"] @ query, dz["key"] @ key + dz["value"] @ value], axis=2)
    d_states[:, -1, 0] += dy[:, :H]
    inputs = {"query": states[:, :, 0], "key": states[:, :, 1], "value": states[:, :, 1]}
    return d_states, *(np.einsum("njo,njh->oh", dz[part], inputs[part]) for part in ("query", "key", "value"))
