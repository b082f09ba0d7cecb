"""The zip archive that `torch.save` writes: where the bytes of each entry lie, every header checked.

Entries are stored, never compressed, so that their numbers can be read from the file itself. A reader of zip files
takes what the directory at the end says; another may go by the header before each entry. Here both must say the same
and entries must not overlap, so that no two readers see different files in one archive.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from typing import BinaryIO, NamedTuple

from sentpool.errors import shown

# A state dict takes about 100 bytes of pickle and 80 bytes of directory per tensor.
MAX_PICKLE_BYTES = 16 << 20
MAX_DIRECTORY_BYTES = 4 << 20

REMEDY = (
    "write it anew once, where torch is installed: torch.save({name: tensor.contiguous() for name, tensor in "
    "torch.load(file, weights_only=True).items()}, file)"
)

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
# Stands for a number that a 64-bit record holds.
_SATURATED = 0xFFFFFFFF
_SATURATED_END = (0xFFFF, 0xFFFF, _SATURATED, _SATURATED)
# Flags: sizes come after the data (so they are 0 before them), names are UTF-8. All others, encryption among them,
# change what the bytes mean.
_SIZES_FOLLOW, _UTF8 = 1 << 3, 1 << 11
_ENTRY_NAME = re.compile(
    r"data\.pkl|data/[0-9]+|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id"
)
_TORCHSCRIPT_NAME = re.compile(r"constants\.pkl|attributes\.pkl|code/.*", re.DOTALL)


class Refused(Exception):
    """Why a file of torch is not read; the caller adds which file."""


class Entry(NamedTuple):
    """Where an entry's bytes are, and their CRC-32 (0 where torch was told to leave it out)."""

    start: int
    size: int
    crc: int


def zip_entries(file: BinaryIO) -> dict[str, Entry]:
    """The entries by their names inside the archive's one folder, after a check of every header.

    Raises `Refused` for all that torch.save would not have written.
    """
    directory, count, directory_start = _central_directory(file)
    entries: dict[str, Entry] = {}
    # torch writes both the entries and the directory in one order, so each begins behind the end of the one before.
    at, end, first_folder = 0, 0, None
    for _ in range(count):
        if len(directory) - at < _CENTRAL.size:
            raise Refused("the zip archive's directory ends too early")
        fields = _CENTRAL.unpack_from(directory, at)
        signature, _, _, flags, method, _, _, crc, packed, size, *lengths, disk, _, _, header = fields
        name_end = at + _CENTRAL.size + lengths[0]
        name, extra = directory[at + _CENTRAL.size : name_end], directory[name_end : name_end + lengths[1]]
        at += _CENTRAL.size + sum(lengths)
        if signature != b"PK\1\2" or at > len(directory) or disk:
            raise Refused("the zip archive's directory is damaged")
        folder, inner = _split_name(name)
        wide = iter(_zip64(extra))
        size, packed, header = (next(wide, value) if value == _SATURATED else value for value in (size, packed, header))
        if method or packed != size or flags & ~(_SIZES_FOLLOW | _UTF8):
            raise Refused(f"entry {shown(name)} is compressed or encrypted, which torch.save does not do")
        if header < end:
            raise Refused(f"entry {shown(name)} overlaps the one before it")
        start = _data_start(file, name, flags, size, header)
        end = start + size
        first_folder = first_folder or folder
        if inner in entries or folder != first_folder:
            raise Refused(f"entry {shown(name)} is there twice or in another folder than those before it")
        entries[inner] = Entry(start, size, crc)
    if at != len(directory) or end > directory_start:
        raise Refused("the zip archive's directory has more than its entries, or they reach into it")
    return entries


def _central_directory(file: BinaryIO) -> tuple[bytes, int, int]:
    """The central directory, the number of its entries, and its offset; it ends where the end records begin."""
    length = os.fstat(file.fileno()).st_size
    _check_format(_read(file, 0, min(length, 512)))
    end = length - _END.size
    if end < 0:
        raise Refused("not a whole zip archive; it was cut short")
    signature, *disks, here, count, size, start, comment = _END.unpack(_read(file, end, _END.size))
    if signature != b"PK\5\6" or comment:
        raise Refused("not a whole zip archive; it does not end as torch.save ends it")
    if end >= _END64.size + _LOCATOR.size and _read(file, end - _LOCATOR.size, 4) == b"PK\6\7":
        end -= _END64.size + _LOCATOR.size
        narrow = here, count, size, start
        here, count, size, start = wide = _wide_end(file, end)
        if any(n not in (w, limit) for n, w, limit in zip(narrow, wide, _SATURATED_END, strict=True)):
            raise Refused("the zip archive's two end records do not agree")
    if any(disks) or here != count or start + size != end:
        raise Refused("the zip archive's end record is damaged")
    if size > MAX_DIRECTORY_BYTES:
        raise Refused(f"the zip archive's directory is {size} bytes long, allowed are {MAX_DIRECTORY_BYTES}")
    return _read(file, start, size), count, start


def _wide_end(file: BinaryIO, end: int) -> tuple[int, int, int, int]:
    """The 64-bit end record at `end`: entries on this disk and in all, size and offset of the directory."""
    data = _read(file, end, _END64.size + _LOCATOR.size)
    signature, length, _, _, *disks, here, count, size, start = _END64.unpack_from(data)
    _, disk, place, disk_count = _LOCATOR.unpack_from(data, _END64.size)
    # The length does not count itself and what is before it.
    if (signature, length, place) != (b"PK\6\6", _END64.size - 12, end) or any(disks) or disk or disk_count > 1:
        raise Refused("the zip archive's 64-bit end record is damaged")
    return here, count, size, start


def _check_format(head: bytes) -> None:
    """Raise for what is not a zip archive; say what it is where torch wrote it."""
    if head.startswith(b"PK\3\4"):
        return
    if head.startswith(b"\x80"):
        raise Refused(f"a pickle in the format of torch before 1.6, which is not read; {REMEDY}")
    if head[257:262] == b"ustar":
        raise Refused(f"a tar archive, the first format of torch, which is not read; {REMEDY}")
    raise Refused("not a zip archive, which torch.save writes")


def _data_start(file: BinaryIO, name: bytes, flags: int, size: int, header: int) -> int:
    """Where an entry's data begin; raises if the header before them contradicts the directory."""
    local = _LOCAL.unpack(_read(file, header, _LOCAL.size))
    signature, _, local_flags, method, _, _, _, *sizes, name_length, extra_length = local
    start = header + _LOCAL.size + name_length + extra_length
    if (signature, local_flags, method) != (b"PK\3\4", flags, 0) or name_length != len(name):
        raise Refused(f"entry {shown(name)} has a header that contradicts the zip archive's directory")
    rest = _read(file, header + _LOCAL.size, name_length + extra_length)
    wide = _zip64(rest[name_length:])[:2]
    # torch writes no sizes here, except that of an entry above 4 GB, and where an entry lies above 4 GB (alone).
    claimed = [value for value in sizes if value != _SATURATED or len(wide) < 2]
    if len(wide) == 2:
        claimed += wide
    allowed = (size, 0) if flags & _SIZES_FOLLOW else (size,)
    if rest[:name_length] != name or any(value not in allowed for value in claimed):
        raise Refused(f"entry {shown(name)} has a header that contradicts the zip archive's directory")
    return start


def _zip64(extra: bytes) -> tuple[int, ...]:
    """The 64-bit numbers in the extra fields of a header, among which torch writes them first."""
    if len(extra) < 4:
        return ()
    kind, length = struct.unpack_from("<2H", extra)
    return struct.unpack_from(f"<{length // 8}Q", extra, 4) if kind == 1 and 4 + length <= len(extra) else ()


def _split_name(name: bytes) -> tuple[str, str]:
    """The folder and the name in it of an entry that torch.save writes."""
    folder, _, inner = name.decode("utf-8", "replace").partition("/")
    if _TORCHSCRIPT_NAME.fullmatch(inner):
        raise Refused("a TorchScript archive, which holds a program; torch.save the state_dict() of its module")
    if folder in ("", ".", "..") or not _ENTRY_NAME.fullmatch(inner):
        raise Refused(f"entry {shown(name)} is none that torch.save writes for a state dict")
    return folder, inner


def check_byteorder(file: BinaryIO, entries: dict[str, Entry]) -> None:
    """Raise for numbers that are not little-endian; torch before 2.1 wrote no word about it, and only such."""
    entry = entries.get("byteorder")
    if entry and _read(file, entry.start, min(entry.size, 16)) != b"little":
        raise Refused("its numbers are not stored little-endian")


def read_pickle(file: BinaryIO, entries: dict[str, Entry]) -> bytes:
    """The bytes of data.pkl, compared with their checksum."""
    entry = entries.get("data.pkl")
    if entry is None:
        raise Refused("the zip archive has no data.pkl")
    if entry.size > MAX_PICKLE_BYTES:
        raise Refused(f"data.pkl is {entry.size} bytes long, allowed are {MAX_PICKLE_BYTES}")
    code = _read(file, entry.start, entry.size)
    if entry.crc not in (0, zlib.crc32(code)):
        raise Refused("data.pkl is damaged: its checksum is wrong")
    return code


def _read(file: BinaryIO, offset: int, count: int) -> bytes:
    # A seek beyond what the system can address is an error of another kind.
    if offset < 1 << 62:
        file.seek(offset)
        data = file.read(count)
        if len(data) == count:
            return data
    raise Refused("the zip archive is not whole: it points past its end")
