"""The names of poolings: ours, and SimCSE's as aliases."""

from __future__ import annotations

import re

from sentpool.errors import shown
from sentpool.pooling.attention import SbertWk
from sentpool.pooling.layers import TOKEN_POOLINGS, LayerPooling, Layers

# Layers of which the means are averaged. SimCSE's "first" is layer 1; early code and papers took the embedding output.
_LAYERS = {"first_last": [1, -1], "embedding_last": [0, -1], "top2": [-2, -1], "all_layers": "all"}
_ALIASES = {"avg": "mean", "avg_first_last": "first_last", "avg_top2": "top2", "cls_before_pooler": "cls"}
_WITH_PARAMETERS = ("cls_mlp", "cls_mlp_train_only", "scalar_mix", "weighted_layer", "layer_attention")
_LAYER_LIST = re.compile(r"layers=\[\s*(-?\d{1,4}(?:\s*,\s*-?\d{1,4})*)\s*\]")

NAMES = (*TOKEN_POOLINGS, *_LAYERS, "sbert_wk")
"""The poolings without parameters, which every encoder has."""


def layer_pooling(name: str, argument: str = "pooling") -> LayerPooling:
    """The pooling of a name without parameters.

    Raises
    ------
    ValueError
        If there is none, or its parameters have to be trained.
    """
    known = _ALIASES.get(name, name)
    if known in TOKEN_POOLINGS:
        return Layers([-1], known)
    if known in _LAYERS:
        return Layers(_LAYERS[known])
    if known == "sbert_wk":
        return SbertWk()
    listed = _LAYER_LIST.fullmatch(name)
    if listed:
        return Layers([int(layer) for layer in listed[1].split(",")])
    if name in _WITH_PARAMETERS:
        raise ValueError(
            f"{argument} is {name!r}, and there are no trained parameters for it here: open a model folder that holds "
            f"them, or pass the pooling as an object, such as model.pooling"
        )
    names = ", ".join((*NAMES, *_ALIASES, *_WITH_PARAMETERS))
    raise ValueError(f"{argument} is {shown(name)}; it must be one of {names}, or 'layers=[…]'")


def short_name(pooling: LayerPooling) -> str:
    """How a pooling is called in a table: by name where it has one."""
    if isinstance(pooling, Layers):
        if pooling.indices == (-1,):
            return "+".join(pooling.tokens)
        if pooling.tokens == ("mean",):
            for name, indices in _LAYERS.items():
                if pooling == Layers(indices):
                    return name
    return repr(pooling)


def is_called(pooling, name: str) -> bool:
    """Whether `pooling`, which a folder holds, is what the name of a pooling with parameters asks for."""
    kind = type(pooling.layers).__name__
    if name in ("cls_mlp", "cls_mlp_train_only"):
        dense = [module for module in pooling.head if type(module).__name__ == "Dense"]
        if pooling.layers != Layers([-1], "cls") or len(dense) != 1 or dense[0].activation != "tanh":
            return False
        return dense[0].train_only == (name == "cls_mlp_train_only")
    return name in _WITH_PARAMETERS and kind == "".join(part.capitalize() for part in name.split("_"))
