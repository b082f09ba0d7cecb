"""A pooling from its configuration and arrays, as `Pooling.config` and `Pooling.parameters` give them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sentpool.errors import shown
from sentpool.pooling.attention import LayerAttention, SbertWk
from sentpool.pooling.component import Component
from sentpool.pooling.composition import Pooling
from sentpool.pooling.head import Dense, Normalize, Truncate
from sentpool.pooling.layers import Layers, ScalarMix, WeightedLayer
from sentpool.pooling.postprocessing import AllButTheTop, Whitening

_LAYERS = {kind.__name__: kind for kind in (Layers, ScalarMix, WeightedLayer, LayerAttention, SbertWk)}
_HEAD = {kind.__name__: kind for kind in (Dense, Normalize, Truncate, Whitening, AllButTheTop)}


def from_config(config: Mapping, parameters: Mapping[str, np.ndarray]) -> Pooling:
    """The pooling that `config` describes, with its arrays.

    Raises
    ------
    ValueError
        If the two do not describe a pooling; the part is named.
    """
    try:
        parts = {"layers": (_LAYERS, config["layers"])}
        parts |= {f"head.{i}": (_HEAD, entry) for i, entry in enumerate(config["head"])}
        built = {place: _component(place, *part, parameters) for place, part in parts.items()}
        include_prompt = config["include_prompt"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this configuration describes no pooling ({error!r}): {shown(config)}") from error
    unused = [name for name in parameters if name.rpartition(".")[0] not in built]
    if unused or not isinstance(include_prompt, bool):
        raise ValueError(f"this configuration describes no pooling with {shown(unused or include_prompt)}")
    layers = built.pop("layers")
    return Pooling(layers, built.values(), include_prompt)


def _component(place: str, kinds: Mapping[str, type], config: Mapping, parameters: Mapping) -> Component:
    kind = kinds.get(config["type"])
    if kind is None:
        raise ValueError(f"{place} is {shown(config['type'])}; it must be one of {', '.join(kinds)}")
    settings = {name: value for name, value in config.items() if name != "type"}
    arrays = {
        name.removeprefix(f"{place}."): array for name, array in parameters.items() if name.rpartition(".")[0] == place
    }
    try:
        return kind(**settings, **arrays)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error
