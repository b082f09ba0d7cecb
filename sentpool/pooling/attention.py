"""Poolings that weigh the layers of every sentence anew."""

from __future__ import annotations

import numpy as np

from sentpool import _core
from sentpool.checks import one_of, positive_integer
from sentpool.pooling.component import parameter, require_width
from sentpool.pooling.layers import LayerPooling, layer_number

# The mean of the range (1/8, 1/3) from which training draws RReLU's slopes.
_RRELU_SLOPE = 11 / 48
# Of one call of the core, which Ctrl-C cannot interrupt.
_SENTENCES = 64


class LayerAttention(LayerPooling):
    """Attention over layers (Oh et al. 2022, "Don't Judge a Language Model by Its Last Layer").

    For layers i, j = 0 … L, with s_i the [CLS] state and t_j the mean of the tokens:
    K = φ(t Wₖᵀ), V = φ(t Wᵥᵀ), Q = φ(s W_qᵀ), φ = RReLU with its inference slope 11/48;
    a_ij = softmax_j(K_j · Q_i / (L + 1)); u = mean_i Σ_j a_ij V_j. The result is [s_L ; u], which the published model
    follows with a dense layer and tanh: `Pooling(LayerAttention(…), head=(Dense(…),))`. In training RReLU's slopes are
    drawn from [1/8, 1/3], one for every value, of K and V anew for every i.

    Parameters
    ----------
    query, key, value : array_like, shape (H, H)
        W_q, Wₖ, Wᵥ; rows are outputs.
    preset : "oh2022"
        Sources, targets, slope and scale as above.
    """

    def __init__(self, query, key, value, *, preset: str = "oh2022") -> None:
        one_of("preset", preset, ("oh2022",))
        self.preset, self.tokens = preset, ("cls", "mean")
        self.query, self.key, self.value = (
            parameter(name, matrix, 2) for name, matrix in (("query", query), ("key", key), ("value", value))
        )
        for name, matrix in self.parameters().items():
            if matrix.shape != (len(self.query), len(self.query)):
                raise ValueError(f"{name} has shape {matrix.shape}; query, key and value are square and of one size")

    def config(self):
        return {"type": "LayerAttention", "preset": self.preset}

    def parameters(self):
        return {"query": self.query, "key": self.key, "value": self.value}

    def dimension(self, hidden_size):
        require_width(self, len(self.query), hidden_size)
        return 2 * hidden_size

    def combine(self, views, index, threads=1):
        u, _ = self._attend(views, index, threads)
        return np.concatenate([views[0][:, index[-1]], u], axis=1)

    def layer_weights(self, views, index, threads=1):
        """ā (n, L + 1): the mean over sources i of a_ij, so that u = Σ_j ā_j V_j."""
        return self._attend(views, index, threads)[1]

    def forward_with_cache(self, states, training, threads):
        require_width(self, len(self.query), states.shape[3])
        u, projections = _core.layer_attention_forward(*self._operands(states), training, threads)
        return np.concatenate([states[:, -1, 0], u], axis=1), (states, projections, training)

    def backward(self, d_embeddings, cache, threads):
        states, projections, training = cache
        hidden = states.shape[3]
        d_states, *d_weights = _core.layer_attention_backward(
            d_embeddings[:, hidden:], projections, *self._operands(states), training, threads
        )
        d_states[:, -1, 0] += d_embeddings[:, :hidden]
        return d_states, dict(zip(self.parameters(), d_weights, strict=True))

    def _operands(self, states: np.ndarray) -> tuple:
        return states[:, :, 0], states[:, :, 1], self.query, self.key, self.value, _RRELU_SLOPE

    def _attend(self, views, index, threads):
        require_width(self, len(self.query), views[0].shape[2])
        if list(index) != list(range(views[0].shape[1])):
            views = [view[:, index] for view in views]
        weights = self.query, self.key, self.value, _RRELU_SLOPE, threads
        parts = [
            _core.layer_attention(*(view[start : start + _SENTENCES] for view in views), *weights)
            for start in range(0, max(len(views[0]), 1), _SENTENCES)
        ]
        return tuple(map(np.concatenate, zip(*parts, strict=True)))


class SbertWk(LayerPooling):
    """SBERT-WK (Wang & Kuo 2020): layers weighted per token by alignment and novelty, tokens by their variance.

    It works on every token of every layer, so `encode` computes it from the encoder itself; layer states do not
    suffice.

    Parameters
    ----------
    layer_start : int, optional
        The first layer that counts; by default 4, in an encoder of fewer than 5 layers min(4, L - 1).
    window : int, default 2
        Layers before and after that a layer is compared with.
    """

    tokens = ()

    def __init__(self, layer_start: int | None = None, window: int = 2) -> None:
        self.layer_start = None if layer_start is None else layer_number("layer_start", layer_start)
        self.window = positive_integer("window", window)

    def config(self):
        return {"type": "SbertWk", "layer_start": self.layer_start, "window": self.window}

    def first_layer(self, n_layers: int) -> int:
        """The first layer that counts in an encoder with layers 0 … `n_layers`."""
        start = self.layer_start
        if start is None:
            start = 4 if n_layers >= 5 else max(0, min(4, n_layers - 1))
        if start > n_layers:
            raise ValueError(f"layer_start is {start}; this encoder has layers 0 to {n_layers}")
        return start

    def needed_layers(self, n_layers):
        return tuple(range(self.first_layer(n_layers), n_layers + 1))

    def dimension(self, hidden_size):
        return hidden_size

    def combine(self, views, index, threads=1):
        raise ValueError("sbert_wk needs the states of all tokens, not only of pooled ones: use encode(pooling=…)")

    def forward_with_cache(self, states, training, threads):
        raise ValueError("sbert_wk has no gradient: train another pooling")

    def layer_weights(self, views, index, threads=1):
        raise ValueError("sbert_wk weighs the layers of every token, not of a sentence: it has no layer weights")
