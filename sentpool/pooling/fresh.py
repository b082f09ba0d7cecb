"""Poolings whose parameters are to be trained: where these start."""

from __future__ import annotations

import numpy as np

from sentpool import checks
from sentpool.fresh_parameters import fresh_normal
from sentpool.pooling.attention import LayerAttention
from sentpool.pooling.composition import Pooling
from sentpool.pooling.head import Dense
from sentpool.pooling.layers import ScalarMix, WeightedLayer


def initial(name, n_layers: int, hidden_size: int, seed: int) -> Pooling:
    """A pooling as it is before training.

    Parameters
    ----------
    name : str, sequence of str, or Pooling
        With fresh parameters:

        - `layer_attention`: `LayerAttention`, then a dense layer with tanh, weights N(0, 0.02²), bias 0, as
          Oh et al. (2022) start;
        - `cls_mlp`: a dense layer with tanh on [CLS], the same numbers, as in supervised SimCSE; `cls_mlp_train_only`,
          as in unsupervised SimCSE, has it in training alone;
        - `scalar_mix`: `ScalarMix` of means with weights 0 and γ = 1, the average of all layers, as in ELMo;
        - `weighted_layer`: `WeightedLayer` of means with weights 1 from layer 4 on (in shallower encoders the last
          layer), as in sentence-transformers.

        Everything else is what `Pooling.from_name` makes of it.
    n_layers, hidden_size : int
        Of the encoder.
    seed : int
        Of the normal numbers, from 0 to 2**64 - 1.

    Raises
    ------
    TypeError, ValueError
        If `name` is none, or `seed` no such integer.
    """
    seed = checks.seed("seed", seed)

    def normal(tensor: str, inputs: int = hidden_size) -> np.ndarray:
        return fresh_normal(tensor, (hidden_size, inputs), seed)

    def mlp(inputs: int, train_only: bool = False) -> Dense:
        return Dense(normal("mlp.dense.weight", inputs), np.zeros(hidden_size), "tanh", train_only=train_only)

    if name == "layer_attention":
        attention = LayerAttention(*(normal(f"attn.{part}.0.weight") for part in ("query", "key", "value")))
        return Pooling(attention, head=(mlp(2 * hidden_size),))
    if name in ("cls_mlp", "cls_mlp_train_only"):
        return Pooling("cls", head=(mlp(hidden_size, train_only=name == "cls_mlp_train_only"),))
    if name == "scalar_mix":
        return Pooling(ScalarMix(np.zeros(n_layers + 1)))
    if name == "weighted_layer":
        start = min(4, n_layers)
        return Pooling(WeightedLayer(np.ones(n_layers + 1 - start), start))
    return Pooling.from_name(name)
