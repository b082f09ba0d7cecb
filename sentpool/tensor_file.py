"""One safetensors file: what is in it, and its tensors as float32, a few megabytes at a time.

The `safetensors` library judges the header (it checks that offsets, shapes and the file's length agree). The
data are read with plain reads and never mapped: a file that is cut short while it is read gives an error, not
a SIGBUS.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import safe_open

from sentpool.errors import ModelFolderError, panics_raise, shown
from sentpool.fields import why_no_file

# A header has about 100 bytes per tensor; the library itself would take 100 MB of nested JSON.
MAX_HEADER_BYTES = 8 << 20
BLOCK_BYTES = 4 << 20
# The core packs rows in panels of this many.
ROW_MULTIPLE = 32

_STORED_TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: file, name and type as written there, shape, and the offset of its first byte."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def check_dtype(self) -> np.dtype:
        """The NumPy type of what is stored (bfloat16 as its bits); raises for all but F32, F16 and BF16."""
        if self.dtype not in _STORED_TYPES:
            raise ModelFolderError(
                f"{self.path}: tensor {self.name!r} has dtype {self.dtype}; allowed are {', '.join(_STORED_TYPES)}"
            )
        return _STORED_TYPES[self.dtype]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, rows) from the first row to the last.

        Yields
        ------
        int
            A multiple of 32.
        ndarray, float32, C-contiguous
            (rows, columns) of a matrix, about 4 MB; a vector comes whole, as (length,). It may be a view of a
            buffer that the next block overwrites.

        Raises
        ------
        ModelFolderError
            If the type is none of F32, F16 and BF16, or if the file ends before the tensor does.
        """
        rows = self.shape[0]
        columns = math.prod(self.shape[1:])
        step = rows
        if len(self.shape) > 1:
            fitting = BLOCK_BYTES // max(4 * columns, 1)
            step = max(ROW_MULTIPLE, fitting - fitting % ROW_MULTIPLE)
        buffer = np.empty(min(step, rows) * columns, self.check_dtype())
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset)
            for first in range(0, rows, step):
                shape = (min(step, rows - first), *self.shape[1:])
                block = buffer[: math.prod(shape)]
                self._fill(file, memoryview(block).cast("B"))
                yield first, _as_float32(block).reshape(shape)

    @property
    def n_bytes(self) -> int:
        """How many bytes it has as it is stored."""
        return math.prod(self.shape) * self.check_dtype().itemsize

    def copy_to(self, out: BinaryIO) -> None:
        """Append its bytes, as they are stored, to an open file; raises ModelFolderError if its own ends before it."""
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset)
            for start in range(0, self.n_bytes, BLOCK_BYTES):
                block = bytearray(min(BLOCK_BYTES, self.n_bytes - start))
                self._fill(file, memoryview(block))
                out.write(block)

    def first_bytes(self, count: int) -> bytes:
        """Its first bytes as they are stored, fewer if it has fewer; raises as `copy_to`."""
        block = bytearray(min(count, self.n_bytes))
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset)
            self._fill(file, memoryview(block))
        return bytes(block)

    def read(self) -> np.ndarray:
        """The whole tensor as a new float32 array."""
        array = np.empty(self.shape, np.float32)
        for first, block in self.blocks():
            array[first : first + len(block)] = block
        return array

    def _fill(self, file, view: memoryview) -> None:
        while view:
            count = file.readinto(view)
            if not count:
                raise ModelFolderError(f"{self.path}: the file ends inside tensor {self.name!r}; it was cut short")
            view = view[count:]


def _as_float32(stored: np.ndarray) -> np.ndarray:
    if stored.dtype.kind == "u":  # bfloat16 is the upper half of a float32
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float32, copy=False)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """List the tensors of a safetensors file by the names written there.

    Raises
    ------
    ModelFolderError
        If the file is missing, cut short, or lies about what it holds.
    """
    # Opening a pipe or a device could block for ever, so only regular files are opened.
    if not os.path.isfile(path):
        raise ModelFolderError(f"{path}: {why_no_file(path)}")
    try:
        header, start = _header_bytes(path)
        with (
            panics_raise(ModelFolderError, f"{path}: not a whole safetensors file"),
            safe_open(str(path), "np") as file,
        ):
            names = set(file.keys())
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        tensors = {
            name: StoredTensor(path, name, entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0])
            for name, entry in entries.items()
        }
    except (ModelFolderError, MemoryError):
        raise
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read ({error})") from error
    # The library's own error type derives from Exception alone.
    except Exception as error:
        raise ModelFolderError(f"{path}: not a whole safetensors file ({error})") from error
    if names != set(tensors):
        raise ModelFolderError(f"{path}: the header changed while it was read")
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """What the header of a safetensors file, judged by `read_header` before, says besides its tensors."""
    header, _ = _header_bytes(path)
    return json.loads(header).get("__metadata__", {})


def _header_bytes(path: Path) -> tuple[bytes, int]:
    """The JSON header and the offset at which the data begin."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ModelFolderError(
                f"{path}: not a safetensors file: its header would be {shown(length)} bytes long, "
                f"allowed are {MAX_HEADER_BYTES}"
            )
        return file.read(length), 8 + length
