"""Files as `torch.save` writes them, put together by hand: pickles instruction by instruction, zip archives record by
record, so that each number in them can be made to lie.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from fabricate import encoded, write_json

STORAGES = {
    "F64": "DoubleStorage",
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "I64": "LongStorage",
    "I32": "IntStorage",
}
PROTOCOL = b"\x80\x02"
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
# What follows the strides: no gradient, no hooks.
NO_GRADIENT = b"\x89" + ORDERED_DICT
METADATA = b"}" + b"X\x09\0\0\0_metadata" + ORDERED_DICT + b"X\0\0\0\0" + b"}X\x07\0\0\0versionK\1ss" + b"sb"

# Fields of the records, in order; the lies of `write_archive` name them.
_LOCAL = "signature needed flags method time date crc packed size name_length extra_length".split()
_CENTRAL = (
    "signature made needed flags method time date crc packed size name_length extra_length comment_length disk "
    "internal external offset"
).split()
_WIDE_END = "signature length made needed disk first_disk here count size start".split()
_LOCATOR = "signature disk place disks".split()
_END = "signature disk first_disk here count size start comment_length".split()
_SATURATED = 0xFFFFFFFF


# Pickles.


def text(value: str | bytes) -> bytes:
    """BINUNICODE."""
    value = value if isinstance(value, bytes) else value.encode()
    return b"X" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    """BININT1, BININT2, BININT or LONG1, as pickle chooses."""
    if 0 <= value < 1 << 8:
        return struct.pack("<cB", b"K", value)
    if 0 <= value < 1 << 16:
        return struct.pack("<cH", b"M", value)
    if -(1 << 31) <= value < 1 << 31:
        return struct.pack("<ci", b"J", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def sequence(*items: bytes) -> bytes:
    """MARK … TUPLE."""
    return b"(" + b"".join(items) + b"t"


def numbers(values) -> bytes:
    """A tuple of integers."""
    return sequence(*map(number, values))


def find(name: str) -> bytes:
    """GLOBAL, from "module name"."""
    return b"c" + name.replace(" ", "\n", 1).encode() + b"\n"


def storage(kind="FloatStorage", key="0", numel=4, device="cpu", word="storage") -> bytes:
    """A storage by its persistent id."""
    return sequence(text(word), find(f"torch {kind}"), text(key), text(device), number(numel)) + b"Q"


def row_strides(shape) -> list[int]:
    """Strides of rows one after the other."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return strides


def tensor(stored: bytes | None = None, shape=(2, 2), offset=0, strides=None, rest=NO_GRADIENT) -> bytes:
    """A tensor by `_rebuild_tensor_v2`; `stored` is a storage, by default the first one with four numbers."""
    arguments = (
        storage() if stored is None else stored,
        number(offset),
        numbers(shape),
        numbers(row_strides(shape) if strides is None else strides),
        rest,
    )
    return find("torch._utils _rebuild_tensor_v2") + sequence(*arguments) + b"R"


def parameter(data: bytes) -> bytes:
    """A parameter around a tensor."""
    return find("torch._utils _rebuild_parameter") + data + b"\x88" + ORDERED_DICT + b"\x87R"


def state_dict(tensors: dict[str, bytes], *, metadata=METADATA) -> bytes:
    """The whole pickle of a state dict whose values are the results of instructions."""
    items = b"".join(text(name) + value for name, value in tensors.items())
    return PROTOCOL + ORDERED_DICT + b"(" + items + b"u" + metadata + b"."


# Archives.


def _record(layout: str, names: list[str], fields: dict, lies: dict) -> bytes:
    values = fields | {name: value for name, value in lies.items() if name in names}
    return struct.pack(layout, *(values[name] for name in names))


def _wide_extra(*values: int) -> bytes:
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""


def write_archive(
    path: Path, entries, *, folder="archive", central=None, local=None, end=None, wide_end=None, locator=None
) -> Path:
    """Write a zip archive as torch does: stored entries at multiples of 64 bytes, sizes behind the data.

    Parameters
    ----------
    entries
        Pairs of a name inside the folder and its bytes; a number stands for so many zeros, with a checksum of 0.
    central, local
        Lies, by the number of the entry: the fields of its record that differ; "name" and "extra" are bytes, and
        "before" comes in front of a local header.
    end, wide_end, locator
        Lies in the records at the end. "comment" of `end` is bytes; `wide_end` False leaves both 64-bit records out.
    """
    directory = b""
    with open(path, "wb") as file:
        for index, (inner, data) in enumerate(entries):
            lies = (local or {}).get(index, {})
            file.write(lies.get("before", b""))
            name = f"{folder}/{inner}".encode()
            size = data if isinstance(data, int) else len(data)
            crc = 0 if isinstance(data, int) else zlib.crc32(data)
            offset = file.tell()
            wide_sizes = [size, size] if size >= _SATURATED else []
            wide_offset = [offset] if offset >= _SATURATED else []
            # torch does not know the second size yet when it writes this.
            extra = _wide_extra(*(wide_sizes and [size, 0]), *wide_offset)
            padding = -(offset + 30 + len(name) + len(extra) + 4) % 64
            extra = lies.get("extra", extra + struct.pack("<2sH", b"FB", padding) + b"Z" * padding)
            fields = {
                "signature": b"PK\3\4",
                **dict.fromkeys(("made", "needed", "method", "time", "date", "crc", "packed", "size"), 0),
                **dict.fromkeys(("comment_length", "disk", "internal", "external"), 0),
                "flags": 0x808,
                "name_length": len(name),
                "extra_length": len(extra),
            }
            file.write(_record("<4s5H3I2H", _LOCAL, fields, lies) + lies.get("name", name) + extra)
            if isinstance(data, int):
                file.seek(data, 1)
            else:
                file.write(data)
            file.write(struct.pack("<4sI2Q" if wide_sizes else "<4s3I", b"PK\7\x08", crc, size, size))
            lies = (central or {}).get(index, {})
            extra = lies.get("extra", _wide_extra(*wide_sizes, *wide_offset))
            stored = min(size, _SATURATED)
            fields |= {"signature": b"PK\1\2", "crc": crc, "packed": stored, "size": stored}
            fields |= {"extra_length": len(extra), "offset": min(offset, _SATURATED)}
            directory += _record("<4s6H3I5H2I", _CENTRAL, fields, lies) + lies.get("name", name) + extra
        start = file.tell()
        file.write(directory)
        fields = {
            "signature": b"PK\6\6",
            "length": 44,
            **dict.fromkeys(("made", "needed", "disk", "first_disk", "comment_length"), 0),
            **{"here": len(entries), "count": len(entries), "size": len(directory), "start": start},
            **{"place": file.tell(), "disks": 1},
        }
        if wide_end is not False:
            file.write(_record("<4sQ2H2I4Q", _WIDE_END, fields, wide_end or {}))
            file.write(_record("<4sIQI", _LOCATOR, fields | {"signature": b"PK\6\7"}, locator or {}))
        comment = (end or {}).get("comment", b"")
        fields |= {"signature": b"PK\5\6", "start": min(start, _SATURATED), "comment_length": len(comment)}
        file.write(_record("<4s4H2IH", _END, fields, end or {}) + comment)
    return path


def entries(code: bytes, *data: bytes | int) -> list[tuple[str, bytes | int]]:
    """The entries of a file, in the order of torch."""
    numbered = [(f"data/{key}", content) for key, content in enumerate(data)]
    return [("data.pkl", code), ("byteorder", b"little"), *numbered, ("version", b"3\n")]


def write_torch(path: Path, tensors: dict[str, np.ndarray], dtype="F32", dtypes=None, **lies) -> Path:
    """Write a state dict; types as in `fabricate.write_safetensors`."""
    values, data = {}, []
    for name, array in tensors.items():
        kind = (dtypes or {}).get(name, "I64" if array.dtype.kind in "iu" else dtype)
        stored = storage(STORAGES[kind], str(len(data)), array.size)
        values[name] = tensor(stored, array.shape)
        data.append(encoded(array, kind))
    return write_archive(path, entries(state_dict(values), *data), **lies)


def write_torch_sharded(folder: Path, tensors: dict[str, np.ndarray], shards: int = 2) -> None:
    """Write the tensors to several files and their index."""
    weight_map = {}
    for index in range(shards):
        part = dict(list(tensors.items())[index::shards])
        file = f"pytorch_model-{index + 1:05}-of-{shards:05}.bin"
        write_torch(folder / file, part)
        weight_map |= dict.fromkeys(part, file)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})
