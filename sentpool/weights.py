"""The weights of an encoder: the files that hold them, whether they fit it, and their way to the core."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sentpool import digests
from sentpool.architectures import is_leftover
from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError, shown, warn
from sentpool.fields import Fields, is_there
from sentpool.tensor_file import StoredTensor, read_header
from sentpool.torch_file import read_torch_header


class _Format(NamedTuple):
    """A kind of weight files: the name of a single one, and what lists the tensors of one."""

    single_file: str
    read_header: Callable[[Path], dict[str, StoredTensor]]

    @property
    def shard_index(self) -> str:
        return f"{self.single_file}.index.json"

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.single_file)[1]


# The first that a folder has counts: the same weights are often there in both.
_FORMATS = (_Format("model.safetensors", read_header), _Format("pytorch_model.bin", read_torch_header))

_LISTED = 4
_FINGERPRINT_BYTES = 4096  # of each tensor
_WORDS = "embeddings.word_embeddings.weight"


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, safetensors before torch's: the single one, else those that the index names.

    Raises
    ------
    ModelFolderError
        If there are none.
    """
    return _files(*_source(folder))


def stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file, which differ once its content does; None if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    digest = digests.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(tensors: Mapping[str, StoredTensor]) -> str:
    """SHA-256 of how each tensor begins: it tells models apart without reading their weights."""
    digest = digests.sha256()
    for name, stored in sorted(tensors.items()):
        digest.update(f"{name} {stored.dtype} {stored.shape}\n".encode())
        digest.update(stored.first_bytes(_FINGERPRINT_BYTES))
    return digest.hexdigest()


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the folder's weight files, by the name written there.

    Raises
    ------
    ModelFolderError
        If a file is no whole file of its format, if two hold the same name, or if the index promises a tensor that
        its file does not hold.
    """
    kind, source = _source(folder)
    tensors: dict[str, StoredTensor] = {}
    for path in _files(kind, source):
        for name, tensor in kind.read_header(path).items():
            if name in tensors:
                raise ModelFolderError(f"{path}: tensor {shown(name)} is in {tensors[name].path.name} too")
            tensors[name] = tensor
    if source.name == kind.shard_index:
        for name, file in _weight_map(kind, source):
            if name not in tensors or tensors[name].path.name != file:
                raise ModelFolderError(f"{source}: tensor {shown(name)} is not in {file}")
    return tensors


def finite_arrays(stored: Mapping[str, StoredTensor]) -> dict[str, np.ndarray]:
    """Tensors as float32 arrays, by the same names.

    Raises
    ------
    ModelFolderError
        For a type other than F32, F16 and BF16, a file that ends too early, NaN or Inf, and a tensor without dimensions
        or without numbers.
    """
    arrays = {}
    for name, tensor in stored.items():
        if 0 in (len(tensor.shape), *tensor.shape):
            raise ModelFolderError(f"{tensor.path}: tensor {tensor.name!r} has shape {tensor.shape}; expected numbers")
        arrays[name] = tensor.read()
        if not np.isfinite(arrays[name]).all():
            raise ModelFolderError(f"{tensor.path}: tensor {tensor.name!r} contains NaN or Inf")
    return arrays


def match(folder: Path, config: EncoderConfig, used: Collection[str] = ()) -> tuple[dict[str, StoredTensor], list[str]]:
    """Find every tensor of an encoder among the stored ones.

    Parameters
    ----------
    used
        The names, as stored, of tensors that something else than the encoder takes.

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
        if stored.name in used:
            continue
        if name in shapes:
            if name in found:
                raise ModelFolderError(
                    f"{stored.path}: tensors {found[name].name!r} and {stored.name!r} are the same one, {name!r}"
                )
            found[name] = stored
        else:
            (leftovers if is_leftover(name) else unknown).append(stored.name)

    _, where = _source(folder)
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
    tensors = config.tensors()
    for name, stored in found.items():
        stored.check_dtype()
        _check_shape(stored, shapes[name], config.architecture.in_its_words(tensors[name].shape))
    return found, sorted(leftovers)


def check(folder: Path, config: EncoderConfig, used: Collection[str] = ()) -> None:
    """Check headers only: raise what `match` raises, and list leftovers in one warning."""
    _, leftovers = match(folder, config, used)
    if leftovers:
        warn(f"{folder}: {_counted(leftovers)} not used by the encoder: {', '.join(leftovers)}")


def load_into(
    core, folder: Path, config: EncoderConfig, used: Collection[str] = (), words: np.ndarray | None = None
) -> None:
    """Load every tensor into the core, a block of about 4 MB at a time and in the order of the files.

    Parameters
    ----------
    core
        A `sentpool._core.Model` made with `config.core_arguments()`; `core.finish()` is left to the caller.
    used
        As for `match`.
    words
        Which rows of the table of words the core has, ascending; by default all.

    Raises
    ------
    ModelFolderError
        As `match`; also for a type other than F32, F16 and BF16, a file that ends too early, NaN or Inf.
    """
    tensors, _ = match(folder, config, used)
    core_names = {name: tensor.core for name, tensor in config.tensors().items()}
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].path, item[1].offset)):
        for first_row, rows in stored.blocks():
            if words is not None and core_names[name] == (_WORDS,):
                first_row, rows = _rows_among(words, first_row, rows)
            try:
                _load_rows(core, core_names[name], stored.shape[0] // len(core_names[name]), first_row, rows)
            except ValueError as error:
                raise ModelFolderError(f"{stored.path}: {error}") from error


def _rows_among(wanted: np.ndarray, first_row: int, rows: np.ndarray) -> tuple[int, np.ndarray]:
    """Those of consecutive rows that are wanted, and which of the wanted ones the first of them is."""
    first, end = np.searchsorted(wanted, (first_row, first_row + len(rows)))
    return int(first), rows[wanted[first:end] - first_row]


def _load_rows(core, names: tuple[str, ...], height: int, first_row: int, rows: np.ndarray) -> None:
    """Load rows of a tensor in which the core's tensors of these names are stacked, each so high."""
    while len(rows):
        part, row = divmod(first_row, height)
        count = min(height - row, len(rows))
        core.load(names[part], row, rows[:count])
        first_row, rows = first_row + count, rows[count:]


def _source(folder: Path) -> tuple[_Format, Path]:
    """The format of a folder's weights, and the file to begin with: the single one, else the index."""
    for kind in _FORMATS:
        for name in (kind.single_file, kind.shard_index):
            if is_there(folder / name):
                return kind, folder / name
    singles = " nor ".join(kind.single_file for kind in _FORMATS)
    raise ModelFolderError(f"{folder}: no weights: neither {singles} nor an index of either (….index.json) is there")


def _files(kind: _Format, source: Path) -> list[Path]:
    if source.name == kind.single_file:
        return [source]
    return [source.parent / name for name in sorted({file for _, file in _weight_map(kind, source)})]


def _weight_map(kind: _Format, index: Path) -> Iterable[tuple[str, str]]:
    """The pairs (tensor, file) of a shard index; a file is a plain name inside the same folder."""
    weight_map = Fields.read(index).object("weight_map")
    if not weight_map.values:
        raise ModelFolderError(f"{index}: field 'weight_map' is missing or empty; expected tensors and their files")
    for name in weight_map.values:
        file = weight_map.string(name)
        if not file.endswith(kind.suffix) or "/" in file or "\\" in file or "\0" in file:
            raise weight_map.error(name, f"the name of a {kind.suffix} file in the same folder")
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
