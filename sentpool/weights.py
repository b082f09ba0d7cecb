"""The weights of an encoder: the files that hold them, whether they fit it, and their way to the core."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from sentpool.architectures import is_leftover
from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError, shown, warn
from sentpool.fields import Fields, is_there
from sentpool.tensor_file import StoredTensor, read_header

SINGLE_FILE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

_LISTED = 4


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: the single one, else those that the index names.

    Raises
    ------
    ModelFolderError
        If there are none; where only pickled weights are, the message says how to convert them.
    """
    if is_there(folder / SINGLE_FILE):
        return [folder / SINGLE_FILE]
    if is_there(folder / SHARD_INDEX):
        names = sorted({file for _, file in _weight_map(folder / SHARD_INDEX)})
        return [folder / name for name in names]
    for name in PICKLED:
        if is_there(folder / name):
            raise ModelFolderError(
                f"{folder / name}: pickled weights can run code when opened and are not read; "
                f"convert them once, where transformers is installed: "
                f"AutoModel.from_pretrained(folder).save_pretrained(folder)"
            )
    raise ModelFolderError(f"{folder}: no weights: neither {SINGLE_FILE} nor {SHARD_INDEX} is there")


def stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file, which differ once its content does; None if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the folder's weight files, by the name written there.

    Raises
    ------
    ModelFolderError
        If a file is no whole safetensors file, if two hold the same name, or if the index promises a tensor
        that its file does not hold.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        for name, tensor in read_header(path).items():
            if name in tensors:
                raise ModelFolderError(f"{path}: tensor {shown(name)} is in {tensors[name].path.name} too")
            tensors[name] = tensor
    index = folder / SHARD_INDEX
    if is_there(index) and not is_there(folder / SINGLE_FILE):
        for name, file in _weight_map(index):
            if name not in tensors or tensors[name].path.name != file:
                raise ModelFolderError(f"{index}: tensor {shown(name)} is not in {file}")
    return tensors


def match(folder: Path, config: EncoderConfig) -> tuple[dict[str, StoredTensor], list[str]]:
    """Find every tensor of an encoder among the stored ones.

    Returns
    -------
    dict
        The stored tensors by canonical name, complete, each of the shape that `config` asks for.
    list of str
        The names, as stored, of known leftovers that the encoder does not use.

    Raises
    ------
    ModelFolderError
        If a tensor is missing, has another shape or type, is there twice, or is not known at all.
    """
    shapes = config.tensor_shapes()
    found: dict[str, StoredTensor] = {}
    leftovers, unknown = [], []
    for stored in stored_tensors(folder).values():
        name = config.architecture.canonical_name(stored.name)
        if name in shapes:
            if name in found:
                raise ModelFolderError(
                    f"{stored.path}: tensors {found[name].name!r} and {stored.name!r} are the same one, {name!r}"
                )
            found[name] = stored
        else:
            (leftovers if is_leftover(name) else unknown).append(stored.name)

    where = folder / SINGLE_FILE if is_there(folder / SINGLE_FILE) else folder / SHARD_INDEX
    missing = [name for name in shapes if name not in found]
    if missing:
        raise ModelFolderError(
            f"{where}: {_counted(missing)} missing for model_type {config.architecture.model_type!r} with "
            f"num_hidden_layers {config.num_hidden_layers}: {_listed(missing)}"
        )
    if unknown:
        raise ModelFolderError(
            f"{where}: {_counted(unknown)} unknown to model_type {config.architecture.model_type!r} with "
            f"num_hidden_layers {config.num_hidden_layers}: {_listed(unknown)}"
        )
    fields = config.architecture.tensor_fields(config.num_hidden_layers)
    for name, stored in found.items():
        stored.check_dtype()
        _check_shape(stored, shapes[name], fields[name])
    return found, sorted(leftovers)


def check(folder: Path, config: EncoderConfig) -> None:
    """Check headers only: raise what `match` raises, and list leftovers in one warning."""
    _, leftovers = match(folder, config)
    if leftovers:
        warn(f"{folder}: {_counted(leftovers)} not used by the encoder: {', '.join(leftovers)}")


def load_into(core, folder: Path, config: EncoderConfig) -> None:
    """Load every tensor into the core, a block of about 4 MB at a time and in the order of the files.

    Parameters
    ----------
    core
        A `sentpool._core.Model` made with `config.core_arguments()`; `core.finish()` is left to the caller.

    Raises
    ------
    ModelFolderError
        As `match`; also for a type other than F32, F16 and BF16, a file that ends too early, NaN or Inf.
    """
    tensors, _ = match(folder, config)
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].path, item[1].offset)):
        for first_row, rows in stored.blocks():
            try:
                core.load(name, first_row, rows)
            except ValueError as error:
                raise ModelFolderError(f"{stored.path}: {error}") from error


def _weight_map(index: Path) -> Iterable[tuple[str, str]]:
    """The pairs (tensor, file) of a shard index; a file is a plain name inside the same folder."""
    weight_map = Fields.read(index).object("weight_map")
    if not weight_map.values:
        raise ModelFolderError(f"{index}: field 'weight_map' is missing or empty; expected tensors and their files")
    for name in weight_map.values:
        file = weight_map.string(name)
        if not file.endswith(".safetensors") or "/" in file or "\\" in file or "\0" in file:
            raise weight_map.error(name, "the name of a .safetensors file in the same folder")
        yield name, file


def _check_shape(stored: StoredTensor, shape: tuple[int, ...], fields: tuple[str, ...]) -> None:
    if stored.shape != shape:
        meaning = ", ".join(f"{field} {size}" for field, size in zip(fields, shape, strict=True))
        raise ModelFolderError(
            f"{stored.path}: tensor {stored.name!r} has shape {shown(stored.shape)}; "
            f"config.json asks for {shape} ({meaning})"
        )


def _counted(names: list[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(shown(name) for name in names[:_LISTED]) + more
