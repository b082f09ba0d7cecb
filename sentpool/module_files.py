"""A pooling as modules of a folder: those of sentence-transformers where they suffice, else one of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sentpool.config import EncoderConfig
from sentpool.modules import ACTIVATIONS, OWN_MODULE, POOLING_FLAGS, POOLING_MODES
from sentpool.pooling import Dense, Layers, Normalize, Pooling, WeightedLayer
from sentpool.pooling.layers import LayerPooling
from sentpool.pooling_file import ARRAYS_FILE, CONFIG_FILE


@dataclass(frozen=True)
class ModuleFiles:
    """One module as it is written.

    Attributes
    ----------
    type
        The path of its class, as in `modules.json`.
    files
        The JSON files of its folder, by name.
    arrays
        Its parameters by name, by the name of their safetensors file.
    """

    type: str
    files: Mapping[str, dict] = field(default_factory=dict)
    arrays: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of its class's path."""
        return self.type.rpartition(".")[2]


TRANSFORMER = ModuleFiles("sentence_transformers.models.Transformer")


def modules_of(pooling: Pooling, config: EncoderConfig) -> list[ModuleFiles]:
    """The modules behind the Transformer that give the same bits as `pooling` once they are read again.

    Where sentence-transformers has such modules, its oldest names and fields are used, which every version of it reads.
    """
    pooling = pooling.at_inference()
    layers = _as_module(pooling.layers, config.num_hidden_layers)
    if layers is None or not all(type(module) in (Dense, Normalize) for module in pooling.head):
        return [ModuleFiles(OWN_MODULE, {CONFIG_FILE: pooling.config()}, {ARRAYS_FILE: pooling.parameters()})]
    modules = []
    if isinstance(layers, WeightedLayer):
        modules.append(_weighted_layers(layers, config))
    modules.append(_pooling(layers.tokens, pooling.include_prompt, config.hidden_size))
    modules += [_dense(module) if isinstance(module, Dense) else _normalize() for module in pooling.head]
    return modules


def needs_all_layers(modules: list[ModuleFiles]) -> bool:
    """Whether sentence-transformers must take more than the last layer from the encoder."""
    return any(module.name == "WeightedLayerPooling" for module in modules)


def _as_module(layers: LayerPooling, n_layers: int) -> LayerPooling | None:
    """The last layer alone, or a WeightedLayer, with the bits of `layers`; None where neither has them."""
    if type(layers) is WeightedLayer:
        return layers
    if type(layers) is not Layers:
        return None
    needed = layers.needed_layers(n_layers)
    if needed == (n_layers,):
        return layers
    # A WeightedLayer adds in ascending order, each layer once; only of two the order does not matter. The maximum over
    # tokens of an average of layers is not the average of maxima.
    ordered = list(needed) == sorted(set(needed)) or len(set(needed)) == len(needed) == 2
    if "max" in layers.tokens or not ordered:
        return None
    first = min(needed)
    weights = np.zeros(n_layers + 1 - first, np.float32)
    weights[np.array(needed) - first] = 1
    return WeightedLayer(weights, first, layers.tokens)


def _weighted_layers(layers: WeightedLayer, config: EncoderConfig) -> ModuleFiles:
    fields = {
        "word_embedding_dimension": config.hidden_size,
        "layer_start": layers.layer_start,
        "num_hidden_layers": config.num_hidden_layers,
    }
    return _module("WeightedLayerPooling", fields, {"layer_weights": layers.weights})


def _pooling(tokens: tuple[str, ...], include_prompt: bool, hidden_size: int) -> ModuleFiles:
    flags = {flag: mode in tokens for flag, mode in POOLING_FLAGS.items()}
    if tokens == tuple(mode for mode in POOLING_FLAGS.values() if mode in tokens):
        return _module("Pooling", {"word_embedding_dimension": hidden_size, **flags, "include_prompt": include_prompt})
    # Flags have one order. Versions that know nothing else refuse the list.
    names = {ours: theirs for theirs, ours in POOLING_MODES.items()}
    modes = [names[mode] for mode in tokens]
    return _module(
        "Pooling", {"embedding_dimension": hidden_size, "pooling_mode": modes, "include_prompt": include_prompt}
    )


def _dense(dense: Dense) -> ModuleFiles:
    paths = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    fields = {
        "in_features": dense.weight.shape[1],
        "out_features": dense.weight.shape[0],
        "bias": dense.bias is not None,
        "activation_function": paths[dense.activation],
    }
    return _module("Dense", fields, {f"linear.{name}": array for name, array in dense.parameters().items()})


def _normalize() -> ModuleFiles:
    return ModuleFiles("sentence_transformers.models.Normalize")


def _module(name: str, fields: dict, arrays: Mapping[str, np.ndarray] | None = None) -> ModuleFiles:
    return ModuleFiles(
        f"sentence_transformers.models.{name}",
        {"config.json": fields},
        {"model.safetensors": arrays} if arrays else {},
    )
