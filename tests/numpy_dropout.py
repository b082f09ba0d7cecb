"""Dropout once more, in NumPy and without a line of the package: Philox4x32-10, the masks that csrc/kernels/philox.h
promises, and a BERT in float64 that uses them."""

from __future__ import annotations

import functools
import math

import numpy as np

EMBEDDING, ATTENTION, ATTENTION_OUTPUT, FEED_FORWARD, INNER = 0, 1, 2, 3, 9
_WORD = np.uint64(2**32 - 1)
_HALF = np.uint64(32)


def of_bert(hidden: float, attention: float) -> tuple[float, ...]:
    """The core's rates where Devlin et al. (2019) drop: nothing inside the feed-forward."""
    return hidden, attention, hidden, 0.0, hidden


def philox(counter, seed: int) -> np.ndarray:
    """Philox4x32-10 of Salmon et al. (2011): four words in, arrays that broadcast; words (..., 4) out."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    keys = [seed % 2**32, seed >> 32]
    for _ in range(10):
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c2 = second >> _HALF ^ c1 ^ np.uint64(keys[0]), first >> _HALF ^ c3 ^ np.uint64(keys[1])
        c1, c3 = second & _WORD, first & _WORD
        keys = [(keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32]
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), -1)


def draws(place: dict, token, block) -> np.ndarray:
    """The four words of every pair of a token and a block; `place` has seed, step, row, layer and site."""
    token, block = np.asarray(token, np.int64), np.asarray(block, np.int64)
    word1 = place["site"] + (block // 2**16) * 2**4 + place["layer"] * 2**16 + (token // 2**16) * 2**27
    return philox((place["step"], word1, place["row"], token % 2**16 * 2**16 + block % 2**16), place["seed"])


def kept_states(p: float, place: dict, first_token: int, T: int, H: int) -> np.ndarray:
    """Which of T tokens' H values stay, (T, H) bool."""
    return _kept_states(p, tuple(place.items()), first_token, T, H)


def kept_probabilities(p: float, place: dict, heads: int, T: int) -> np.ndarray:
    """Which attention probabilities of a sentence stay, (heads, T queries, T keys) bool."""
    return _kept_probabilities(p, tuple(place.items()), heads, T)


# Central differences ask for the same masks hundreds of times.
@functools.lru_cache(256)
def _kept_states(p, place, first_token, T, H):
    token = first_token + np.arange(T)[:, None]
    words = draws(dict(place), token, np.arange(-(-H // 4))[None])
    return words.reshape(T, -1)[:, :H] >= math.floor(p * 2**32)


@functools.lru_cache(256)
def _kept_probabilities(p, place, heads, T):
    blocks = -(-T // 4)
    block = np.arange(heads)[:, None, None] * blocks + np.arange(blocks)
    words = draws(dict(place), np.arange(T)[None, :, None], block)
    return words.reshape(heads, T, -1)[:, :, :T] >= math.floor(p * 2**32)


_erf = np.vectorize(math.erf, otypes=[float])


def _layer_norm(x, weights, name, eps):
    x = x - x.mean(1, keepdims=True)
    return x / np.sqrt((x**2).mean(1, keepdims=True) + eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def bert(tensors, ids, *, layers, heads, eps, hidden, attention, seed, step, row) -> np.ndarray:
    """States (L + 1, T, H) of one sentence in float64, with dropout where Devlin et al. (2019) have it.

    `hidden` and `attention` are the probabilities of dropping; `row` is the sentence's in the batch.
    """
    weights = {name: array.astype(np.float64) for name, array in tensors.items()}
    T, H = len(ids), len(weights["embeddings.LayerNorm.weight"])
    d = H // heads

    def drop(x, site, layer):
        place = {"seed": seed, "step": step, "row": row, "layer": layer, "site": site}
        if site == ATTENTION:
            return x * kept_probabilities(attention, place, heads, T) / (1 - attention)
        return x * kept_states(hidden, place, 0, T, H) / (1 - hidden)

    def split(x):
        return x.reshape(T, heads, d).transpose(1, 0, 2)

    table = "embeddings.{}_embeddings.weight"
    x = weights[table.format("word")][ids] + weights[table.format("token_type")][0]
    x = _layer_norm(x + weights[table.format("position")][:T], weights, "embeddings.LayerNorm", eps)
    states = [drop(x, EMBEDDING, 0)]
    for number in range(layers):
        x, name, layer = states[-1], f"encoder.layer.{number}", number + 1
        q, k, v = (split(_linear(x, weights, f"{name}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(d))
        weighted = drop(scores / scores.sum(2, keepdims=True), ATTENTION, layer) @ v
        y = _linear(weighted.transpose(1, 0, 2).reshape(T, H), weights, f"{name}.attention.output.dense")
        x = _layer_norm(drop(y, ATTENTION_OUTPUT, layer) + x, weights, f"{name}.attention.output.LayerNorm", eps)
        y = _linear(x, weights, f"{name}.intermediate.dense")
        y = _linear(y / 2 * (1 + _erf(y / math.sqrt(2))), weights, f"{name}.output.dense")
        states.append(_layer_norm(drop(y, FEED_FORWARD, layer) + x, weights, f"{name}.output.LayerNorm", eps))
    return np.stack(states)
