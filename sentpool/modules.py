"""The modules of a sentence-transformers folder: where they are, what each but the Transformer says."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError, shown
from sentpool.fields import Fields, read_json
from sentpool.pooling import Dense, Normalize, WeightedLayer
from sentpool.weights import finite_arrays, stored_tensors

# Pooling modes in sentence-transformers' names, in the order in which it concatenates them, and in ours.
POOLING_MODES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last_token",
}
# Up to version 5.3 each mode had a field of its own.
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last_token",
}

MODULES_FILE = "modules.json"

# The kinds that have weights.
WITH_WEIGHTS = ("Transformer", "WeightedLayerPooling", "Dense")

# What stands in `modules.json` for a pooling that sentence-transformers' modules cannot express: none of them, so that
# sentence-transformers refuses the folder.
OWN_MODULE = "sentpool.pooling.Pooling"

ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}

_LARGEST_WIDTH = 1 << 20
# The size of a token's state, under its old and its new name.
_WIDTHS = ("word_embedding_dimension", "embedding_dimension")


def module_list(path: Path) -> list[tuple[str, Path]]:
    """The kind (the name of its class, or `OWN_MODULE`) and the folder of every module, in order."""
    modules = []
    for number, entry in enumerate(read_json(path, list)):
        if not isinstance(entry, dict):
            raise ModelFolderError(f"{path}: module {number} is {shown(entry)}; expected an object {{…}}")
        fields = Fields(path, entry, f"[{number}].")
        kind = fields.string("type")
        if kind != OWN_MODULE:
            kind = kind.rpartition(".")[2]
            if fields.values["type"] not in _class_paths(kind):
                known = "Transformer, WeightedLayerPooling, Pooling, Dense or Normalize"
                raise fields.error("type", f"sentence-transformers' {known}")
        fields.refuse_others(("idx", "name", "path", "type"))
        modules.append((kind, _module_path(fields, path.parent)))
    return modules


def _class_paths(kind: str) -> tuple[str, ...]:
    """Where a module's class is, or was in earlier versions; none for other kinds."""
    packages = {
        "Transformer": "base.modules.transformer",
        "WeightedLayerPooling": "sentence_transformer.modules.weighted_layer_pooling",
        "Pooling": "sentence_transformer.modules.pooling",
        "Dense": "base.modules.dense",
        "Normalize": "base.modules.normalize",
    }
    if kind not in packages:
        return ()
    places = (
        "models",
        f"models.{kind}",
        packages[kind],
        packages[kind].rpartition(".")[0],
        f"sentence_transformer.modules.{packages[kind].rpartition('.')[2]}",
        "sentence_transformer.modules",
    )
    return tuple(f"sentence_transformers.{place}.{kind}" for place in places)


def _module_path(fields: Fields, root: Path) -> Path:
    """The folder of a module: inside the model folder, also once links are followed.

    Files inside it may be links that lead outside: the hub's cache consists of such.
    """
    name = fields.string("path")
    as_windows = PureWindowsPath(name)
    inside = not as_windows.anchor and ".." not in as_windows.parts
    try:
        home, path = Path(os.path.realpath(root)), Path(os.path.realpath(root / name))
    except ValueError:  # a NUL or a lone surrogate, which no path has
        inside = False
    if not inside or not path.is_relative_to(home):
        raise fields.error("path", "a folder inside the model folder")
    return root / name


def read_pooling(fields: Fields, hidden_size: int) -> tuple[tuple[str, ...], bool]:
    """The modes, in our names, and whether prompts are pooled."""
    _check_width(fields, hidden_size)
    fields.refuse_others((*_WIDTHS, "pooling_mode", "include_prompt", *POOLING_FLAGS))
    include_prompt = fields.boolean("include_prompt", True)
    if not fields.has("pooling_mode"):
        modes = tuple(mode for flag, mode in POOLING_FLAGS.items() if fields.boolean(flag, False))
        return modes or ("mean",), include_prompt
    value = fields.values["pooling_mode"]
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n in POOLING_MODES for n in names):
        raise fields.error("pooling_mode", f"one or a list of {', '.join(POOLING_MODES)}")
    return tuple(POOLING_MODES[name] for name in names), include_prompt


def read_weighted_layers(folder: Path, config: EncoderConfig, tokens: tuple[str, ...]) -> WeightedLayer:
    """Read a WeightedLayerPooling module; `tokens` are the modes of the Pooling module behind it."""
    fields = Fields.read(folder / "config.json")
    _check_width(fields, config.hidden_size)
    fields.refuse_others((*_WIDTHS, "layer_start", "num_hidden_layers"))
    layers = config.num_hidden_layers
    # Both defaults are sentence-transformers'.
    fields.choice("num_hidden_layers", (layers,), 12)
    start = fields.integer("layer_start", 4, minimum=0, maximum=layers)
    stored = stored_tensors(folder)
    _require_shapes(folder, fields, stored, {"layer_weights": (layers + 1 - start,)})
    try:
        return WeightedLayer(finite_arrays(stored)["layer_weights"], start, tokens)
    except ModelFolderError:
        raise
    except ValueError as error:
        raise ModelFolderError(f"{folder}: {error}") from error


def read_dense(folder: Path, width: int) -> Dense:
    """Read a Dense module that takes embeddings of `width` numbers."""
    fields = Fields.read(folder / "config.json")
    _on_sentence_embeddings(fields)
    fields.refuse_others(
        (
            "in_features",
            "out_features",
            "bias",
            "activation_function",
            "module_input_name",
            "module_output_name",
            "use_residual",
        )
    )
    fields.choice("use_residual", (False,), False)
    if fields.integer("in_features", maximum=_LARGEST_WIDTH) != width:
        raise fields.error("in_features", f"{width}, what the module before it gives")
    out = fields.integer("out_features", maximum=_LARGEST_WIDTH)
    shapes = {"linear.weight": (out, width)}
    if fields.boolean("bias", True):
        shapes["linear.bias"] = (out,)
    activation = fields.choice("activation_function", ACTIVATIONS, "torch.nn.modules.activation.Tanh")
    stored = stored_tensors(folder)
    _require_shapes(folder, fields, stored, shapes)
    arrays = finite_arrays(stored)
    return Dense(arrays["linear.weight"], arrays.get("linear.bias"), ACTIVATIONS[activation])


def read_normalize(folder: Path) -> Normalize:
    """Read a Normalize module; its folder may be missing, for it has no parameters."""
    fields = Fields.read_if_there(folder / "config.json")
    _on_sentence_embeddings(fields)
    return Normalize()


def _check_width(fields: Fields, hidden_size: int) -> None:
    for name in _WIDTHS:
        fields.choice(name, (hidden_size,), hidden_size)


def _require_shapes(folder: Path, fields: Fields, stored: dict, shapes: dict[str, tuple[int, ...]]) -> None:
    held = {name: tensor.shape for name, tensor in stored.items()}
    if held != shapes:
        raise ModelFolderError(f"{folder}: the weights are {shown(held)}; {fields.path.name} asks for {shapes}")


def _on_sentence_embeddings(fields: Fields) -> None:
    for name in ("module_input_name", "module_output_name"):
        if fields.has(name):
            fields.choice(name, ("sentence_embedding",))
