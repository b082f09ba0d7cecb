"""A safetensors file from arrays in memory and from tensors of other files, which are copied as they are stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sentpool.tensor_file import StoredTensor


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray | StoredTensor]) -> None:
    """Write a new file.

    Parameters
    ----------
    tensors
        By name: float32 arrays, and stored tensors, whose bytes are copied block by block.

    Raises
    ------
    FileExistsError
        If there is a file of that name.
    ModelFolderError
        If a file that holds a stored tensor ends too early.
    OSError
        If writing fails.
    """
    # Wide numbers first keep every tensor aligned, as the format's own writer does it.
    names = sorted(tensors, key=lambda name: -_item_size(tensors[name]))
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + size_in_bytes(tensors[name])
        stored = isinstance(tensors[name], StoredTensor)
        header[name] = {
            "dtype": tensors[name].dtype if stored else "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            if isinstance(tensors[name], StoredTensor):
                tensors[name].copy_to(file)
            else:
                file.write(np.ascontiguousarray(tensors[name], "<f4").data)


def size_in_bytes(tensor: np.ndarray | StoredTensor) -> int:
    """How many bytes a tensor takes in the file."""
    return tensor.n_bytes if isinstance(tensor, StoredTensor) else 4 * tensor.size


def _item_size(tensor: np.ndarray | StoredTensor) -> int:
    return tensor.check_dtype().itemsize if isinstance(tensor, StoredTensor) else 4
