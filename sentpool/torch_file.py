"""One file of `torch.save`: where its tensors lie, found without torch and without running what the file says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sentpool.errors import ModelFolderError, shown
from sentpool.fields import why_no_file
from sentpool.tensor_file import StoredTensor
from sentpool.torch_archive import REMEDY, Refused, check_byteorder, read_pickle, zip_entries
from sentpool.torch_pickle import Tensor, unpickled


def read_torch_header(path: Path) -> dict[str, StoredTensor]:
    """List the tensors of a state dict that `torch.save` wrote, by their names there.

    Raises
    ------
    ModelFolderError
        If the file is missing, cut short, lies about what it holds, or holds anything but contiguous tensors of the
        usual types; also for the formats before torch 1.6 and for TorchScript.
    """
    # Opening a pipe or a device could block for ever, so only regular files are opened.
    if not os.path.isfile(path):
        raise ModelFolderError(f"{path}: {why_no_file(path)}")
    try:
        with open(path, "rb") as file:
            entries = zip_entries(file)
            check_byteorder(file, entries)
            state = unpickled(read_pickle(file, entries), entries)
        if type(state) is not dict:
            raise Refused(f"its pickle is of type {_kind(state)}; expected a state dict, tensors by their names")
        return {name: _stored_tensor(path, name, value) for name, value in state.items()}
    except Refused as error:
        raise ModelFolderError(f"{path}: {error}") from error
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read ({error})") from error


def _stored_tensor(path: Path, name: str, tensor: Any) -> StoredTensor:
    if type(tensor) is not Tensor:
        raise Refused(f"{shown(name)} is of type {_kind(tensor)}; a state dict holds tensors and nothing else")
    if not _is_contiguous(tensor):
        raise Refused(
            f"tensor {shown(name)} of shape {shown(tensor.shape)} has strides {shown(tensor.strides)}: its rows do not "
            f"lie one after the other; {REMEDY}"
        )
    kind = tensor.storage.type
    return StoredTensor(path, name, kind.dtype, tensor.shape, tensor.storage.start + tensor.offset * kind.itemsize)


def _is_contiguous(tensor: Tensor) -> bool:
    if 0 in tensor.shape:
        return True
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        # The stride of a dimension without a second row is never used.
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _kind(value: object) -> str:
    return type(value).__name__.strip("_")
