"""A SentenceEncoder becomes a model folder, which opens again to the same bits."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sentpool import weights
from sentpool._version import __version__
from sentpool.atomic_folder import check_folder, replacing_folder
from sentpool.errors import shown
from sentpool.fields import is_there, read_json
from sentpool.folder import ModelFolder
from sentpool.module_files import TRANSFORMER, ModuleFiles, modules_of, needs_all_layers
from sentpool.modules import MODULES_FILE
from sentpool.pooling import Pooling, from_config
from sentpool.tensor_file import StoredTensor
from sentpool.tensor_writer import size_in_bytes, write_safetensors
from sentpool.tokenizer_kinds import FILES
from sentpool.trained_weights import trained_tensors

# What is left over on a disk: small files, and what file systems keep for themselves.
_SPARE_BYTES = 1 << 20


def save_model(model, path, *, overwrite: bool) -> None:
    """Write a model folder; see `SentenceEncoder.save_pretrained`."""
    check_folder(path, overwrite=overwrite, may_replace=why_not_replaced)
    folder: ModelFolder = model.folder
    modules = modules_of(_saveable(model), folder.config)
    settings = _model_settings(model)
    folder.require_unchanged()
    tensors: Mapping[str, StoredTensor | np.ndarray]
    if model._trained is None:
        tensors, _ = weights.match(folder.transformer_path, folder.config, folder.head_tensors)
    else:
        tensors = folder.config.as_stored(trained_tensors(model._core))
        if model._mlm_head is not None:
            prefix = folder.config.architecture.prefixes[0]  # as transformers wants it beside a head
            tensors = {f"{prefix}{name}": array for name, array in tensors.items()} | model._mlm_head.tensors()
    tokenizer_files = [file for file in (folder.transformer_path / name for name in FILES) if is_there(file)]
    try:
        with replacing_folder(path, overwrite=overwrite, may_replace=why_not_replaced) as new:
            _require_space(new, tensors, modules, tokenizer_files)
            _write_modules(new, modules)
            _write_json(new / "config_sentence_transformers.json", settings)
            _write_json(new / "sentence_bert_config.json", _transformer_settings(model))
            for file in tokenizer_files:
                shutil.copyfile(file, new / file.name)
            if model._trained is None:  # other weights want other scales
                model.precision.save(new, tensors, folder)
            _write_json(new / "config.json", _encoder_config(model, needs_all_layers(modules)))
            # Last: before, there is a folder that does not open, not one that opens as another model.
            write_safetensors(new / "model.safetensors", tensors)
            folder.require_unchanged()
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a write, which knows no name
            raise OSError(error.errno, f"cannot save the model: {os.strerror(error.errno)}", str(path)) from error
        raise


def why_not_replaced(target: Path) -> str | None:
    if is_there(target / MODULES_FILE) or is_there(target / "config.json"):
        return None
    return f"it holds no model (neither {MODULES_FILE} nor config.json is there)"


def _saveable(model) -> Pooling:
    """The model's pooling, if the same can be built again from what is saved."""
    pooling: Pooling = model.pooling
    # Raises ValueError for what is not fitted or does not fit.
    pooling.needed_layers(model.n_layers)
    pooling.dimension(model.hidden_size, model.n_layers)
    remedy = (
        "set model.pooling to one made of sentpool's own parts before saving, and pass yours as "
        "SentenceEncoder(folder, pooling=…)"
    )
    try:
        config = pooling.config()
    except TypeError as error:
        raise TypeError(f"{error}: {remedy}") from None
    # Classes derived from sentpool's would come back as something else, or not at all.
    try:
        same = type(pooling) is Pooling and from_config(config, pooling.parameters()) == pooling
    except ValueError:
        same = False
    if not same:
        raise TypeError(f"{pooling!r} has parts of other classes than sentpool's, which cannot be saved: {remedy}")
    return pooling


def _require_space(
    new: Path, tensors: Mapping[str, StoredTensor | np.ndarray], modules: list[ModuleFiles], files: list[Path]
) -> None:
    arrays = [array for module in modules for file in module.arrays.values() for array in file.values()]
    needed = sum(map(size_in_bytes, [*tensors.values(), *arrays])) + _SPARE_BYTES
    needed += sum(file.stat().st_size for file in files)
    free = shutil.disk_usage(new).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"cannot save the model: {needed / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free",
            str(new.parent),
        )


def _write_modules(new: Path, modules: list[ModuleFiles]) -> None:
    entries = []
    for number, module in enumerate([TRANSFORMER, *modules]):
        place = f"{number}_{module.name}" if number else ""
        entries.append({"idx": number, "name": str(number), "path": place, "type": module.type})
    _write_json(new / MODULES_FILE, entries)
    for entry, module in zip(entries[1:], modules, strict=True):
        home = new / entry["path"]
        home.mkdir()
        for name, content in module.files.items():
            _write_json(home / name, content)
        for name, arrays in module.arrays.items():
            write_safetensors(home / name, arrays)


def _model_settings(model) -> dict[str, Any]:
    folder: ModelFolder = model.folder
    prompts = dict(folder.prompts)
    for name, text in prompts.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"prompts holds {shown(name)}: {shown(text)}; names and prompts are str")
    kept = model.get_sentence_embedding_dimension()
    whole = model.pooling.dimension(model.hidden_size, model.n_layers)
    return {
        "model_type": "SentenceTransformer",
        "__version__": {"sentpool": __version__},
        "prompts": prompts,
        "default_prompt_name": folder.default_prompt_name if folder.default_prompt_name in prompts else None,
        "similarity_fn_name": folder.similarity_fn_name,
        "truncate_dim": kept if kept < whole else None,
    }


def _transformer_settings(model) -> dict[str, Any]:
    return {
        "max_seq_length": model.max_seq_length,
        "do_lower_case": model.folder.do_lower_case,
    }


def _encoder_config(model, all_layers: bool) -> dict[str, Any]:
    """The `config.json` of the source, of an encoder with the head that was trained beside it, if any."""
    folder: ModelFolder = model.folder
    config = read_json(folder.transformer_path / "config.json")
    if model._trained is not None:
        for name in {"dtype", "torch_dtype"} & config.keys():
            config[name] = "float32"
    architecture = folder.config.architecture
    for name in ("mlp_only_train", "auto_map", "output_hidden_states"):
        if name != "auto_map" or not architecture.replaces_own_code:  # others need the code
            config.pop(name, None)
    head = model._mlm_head
    if head is not None:
        config["tie_word_embeddings"] = head.is_tied
    kind = "Model" if head is None else "ForMaskedLM"
    config |= {"model_type": architecture.model_type, "architectures": [f"{architecture.class_prefix}{kind}"]}
    return config | ({"output_hidden_states": True} if all_layers else {})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
