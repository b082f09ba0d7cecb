"""Archives of torch.save: headers that lie, entries that do not belong, damage."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from fabricate_torch import entries, state_dict, storage, tensor, write_archive, write_torch
from torch_refusals import FOUR, canaries, check_places, refusal, write_code

from sentpool.torch_file import read_torch_header


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "pytorch_model.bin"


@pytest.fixture
def run(monkeypatch) -> list[str]:
    return canaries(monkeypatch)


# Hostile archives.

GOOD = state_dict({"w": tensor()})
# The entries of these are data.pkl, byteorder, data/0 and version, in this order.
ARCHIVES = {
    "compressed": {"central": {2: {"method": 8}}, "local": {2: {"method": 8}}},
    "compressed, says the directory": {"central": {2: {"method": 8}}},
    "compressed, says the header": {"local": {2: {"method": 8}}},
    "a pickle compressed": {"central": {0: {"method": 12}}, "local": {0: {"method": 12}}},
    "a bomb": {"central": {2: {"size": 1 << 31}}},
    "packed, and smaller": {"central": {2: {"packed": 8}}},
    "encrypted": {"central": {2: {"flags": 0x809}}, "local": {2: {"flags": 0x809}}},
    "encrypted strongly": {"central": {2: {"flags": 0x848}}, "local": {2: {"flags": 0x848}}},
    "masked": {"central": {2: {"flags": 0x2808}}, "local": {2: {"flags": 0x2808}}},
    "other flags in the header": {"local": {2: {"flags": 0x800}}},
    "other size in the header": {"local": {2: {"size": 12}}},
    "other packed size in the header": {"local": {2: {"packed": 12}}},
    "no size in the header": {"local": {2: {"flags": 0x800}}, "central": {2: {"flags": 0x800}}},
    "saturated without more": {"local": {2: {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF}}},
    "other size in the wide field": {"local": {2: {"extra": struct.pack("<2H2Q", 1, 16, 99, 0)}}},
    "other name in the header": {"local": {2: {"name": b"archive/data/9"}}},
    "longer name in the header": {"local": {2: {"name": b"archive/data/00", "name_length": 15}}},
    "longer name, says the header": {"local": {2: {"name_length": 15}}},
    "longer extra fields, says the header": {"local": {3: {"extra_length": 0xFFFF}}},
    "no header": {"local": {2: {"signature": b"PK\1\2"}}},
    "no header at the start": {"local": {0: {"signature": b"PK\0\0"}}},
    "something before the archive": {"local": {0: {"before": b"MZ"}}},
    "larger than the file": {"central": {2: {"size": 1 << 30, "packed": 1 << 30}}},
    "larger by one": {"central": {2: {"size": 17, "packed": 17}}},
    "smaller by one": {"central": {2: {"size": 15, "packed": 15}}},
    "over the next": {"central": {2: {"size": 64, "packed": 64}}},
    "over the directory": {"central": {3: {"size": 64, "packed": 64}}},
    "wide, and huge": {
        "central": {
            2: {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF, "extra": struct.pack("<2H2Q", 1, 16, 1 << 63, 1 << 63)}
        }
    },
    "wide, and far": {"central": {2: {"offset": 0xFFFFFFFF, "extra": struct.pack("<2HQ", 1, 8, (1 << 64) - 1)}}},
    "wide, and beyond what can be sought": {
        "central": {2: {"offset": 0xFFFFFFFF, "extra": struct.pack("<2HQ", 1, 8, (1 << 62) - 1)}}
    },
    "far without a wide field": {"central": {2: {"offset": 0xFFFFFFFF}}},
    "wide field cut short": {"central": {2: {"offset": 0xFFFFFFFF, "extra": struct.pack("<2HI", 1, 8, 0)}}},
    "wide field behind another": {
        "central": {2: {"offset": 0xFFFFFFFF, "extra": struct.pack("<2H2HQ", 5, 0, 1, 8, 0x280)}}
    },
    "at the place of another": {"central": {2: {"offset": 0}}},
    "inside another": {"central": {2: {"offset": 64}}},
    "on another disk": {"central": {2: {"disk": 1}}},
    "no entry in the directory": {"central": {2: {"signature": b"PK\3\4"}}},
    "longer than the directory": {"central": {3: {"comment_length": 9}}},
    "name longer than the directory": {"central": {3: {"name_length": 0xFFFF}}},
    "name up one folder": {"central": {2: {"name": b"archive/../0__"}}, "local": {2: {"name": b"archive/../0__"}}},
    "name from the root": {"central": {2: {"name": b"/rchive/data/0"}}, "local": {2: {"name": b"/rchive/data/0"}}},
    "name in another folder": {"central": {2: {"name": b"arkhive/data/0"}}, "local": {2: {"name": b"arkhive/data/0"}}},
    "name with a backslash": {
        "central": {2: {"name": b"archive\\data\\0"}},
        "local": {2: {"name": b"archive\\data\\0"}},
    },
    "name with a zero": {"central": {2: {"name": b"archive/data/\0"}}, "local": {2: {"name": b"archive/data/\0"}}},
    "name that is no text": {
        "central": {2: {"name": b"archive/data/\xff"}},
        "local": {2: {"name": b"archive/data/\xff"}},
    },
    "name of the root": {"folder": ""},
    "folder up": {"folder": ".."},
    "a wrong checksum": {"central": {0: {"crc": 1}}},
    "a comment": {"end": {"comment": b"PK\5\6"}},
    "a comment that is not there": {"end": {"comment_length": 7}},
    "no end record": {"end": {"signature": b"PK\5\7"}},
    "two disks": {"end": {"disk": 1}},
    "a first disk": {"end": {"first_disk": 1}},
    "fewer entries": {"end": {"count": 3, "here": 3}},
    "fewer entries, one end record": {"end": {"count": 3, "here": 3}, "wide_end": False},
    "more entries, one end record": {"end": {"count": 5, "here": 5}, "wide_end": False},
    "no entries": {"end": {"count": 0, "here": 0}, "wide_end": False},
    "fewer entries here": {"end": {"here": 1}, "wide_end": False},
    "directory elsewhere": {"end": {"start": 0}, "wide_end": False},
    "directory shorter": {"end": {"size": 46}, "wide_end": False},
    "directory longer": {"end": {"size": 0xFFFFFFFF, "start": 0xFFFFFFFF}, "wide_end": False},
    "wide end: fewer entries": {"wide_end": {"count": 3, "here": 3}},
    "wide end: 2**64 - 1 entries": {
        "wide_end": {"count": (1 << 64) - 1, "here": (1 << 64) - 1},
        "end": {"count": 0xFFFF, "here": 0xFFFF},
    },
    "wide end: directory elsewhere": {"wide_end": {"start": 0}},
    "wide end: directory far": {"wide_end": {"start": (1 << 64) - 1}, "end": {"start": 0xFFFFFFFF}},
    "wide end: directory huge": {"wide_end": {"size": (1 << 64) - 1}, "end": {"size": 0xFFFFFFFF}},
    "wide end: no record": {"wide_end": {"signature": b"PK\6\5"}},
    "wide end: longer": {"wide_end": {"length": 45}},
    "wide end: another disk": {"wide_end": {"disk": 1}},
    "wide end: elsewhere": {"locator": {"place": 0}},
    "wide end: on another disk": {"locator": {"disk": 1}},
    "wide end: many disks": {"locator": {"disks": 2}},
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_lies(path, run, name):
    write_code(path, GOOD, FOUR, **ARCHIVES[name])
    refusal(path)
    assert run == []


@pytest.mark.parametrize(
    "listed",
    [
        [*entries(GOOD, FOUR), ("data/0", FOUR)],
        [*entries(GOOD, FOUR), ("data.pkl", GOOD)],
        [*entries(GOOD, FOUR), ("../data/1", FOUR)],
        [*entries(GOOD, FOUR), ("data/", b"")],
        [*entries(GOOD, FOUR), ("data/1/2", b"")],
        [*entries(GOOD, FOUR), ("data/x", b"")],
        [*entries(GOOD, FOUR), ("data/-1", b"")],
        [*entries(GOOD, FOUR), ("data/\N{ARABIC-INDIC DIGIT ONE}", b"")],
        [*entries(GOOD, FOUR), ("setup.py", b"")],
        [*entries(GOOD, FOUR), ("", b"")],
        [("data/0", FOUR)],
        [("data/0", FOUR), ("data.pkl", 17 << 20)],
        [("data.pkl", GOOD), ("data/0", FOUR), ("byteorder", b"big")],
        [("data.pkl", GOOD), ("data/0", FOUR), ("byteorder", b"")],
        [("data.pkl", GOOD), ("data/0", FOUR), ("byteorder", b"little".ljust(100_000))],
        [("data.pkl", GOOD), ("data/1", FOUR)],
        [("data.pkl", GOOD), ("data/0", FOUR[:-1])],
        [("data.pkl", GOOD), ("data/0", FOUR + b"\0")],
        [("data.pkl", GOOD), ("data/0", b"")],
        [],
    ],
)
def test_an_archive_with_other_entries(path, run, listed):
    write_archive(path, listed)
    refusal(path)
    assert run == []


def test_an_entry_inside_the_data_of_another(path):
    """Both have a header of their own that agrees with the directory; only their places tell."""
    header = struct.pack("<4s5H3I2H", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, 14, 2) + b"archive/data/1" + b"\0\0"
    values = {"a": tensor(storage(numel=16), (16,)), "b": tensor(storage(key="1"), (4,))}
    code = state_dict(values)
    outer = header.ljust(48, b"\0") + FOUR
    write_code(path, code, outer, FOUR)
    place = read_torch_header(path)["a"].offset
    write_code(path, code, outer, FOUR, central={3: {"offset": place}})
    assert "overlap" in refusal(path)


def test_many_headers_that_reach_over_each_other(path):
    """Reading every one of them to its end would take minutes."""
    many = [("data.pkl", GOOD), *((f"data/{key}", b"") for key in range(30_000))]
    write_archive(path, many, local={key: {"extra_length": 0xFFFF} for key in range(1, 30_001)})
    assert "overlaps" in refusal(path)


def test_an_archive_with_too_large_a_directory(path):
    extra = {key: {"extra": bytes(65535)} for key in range(70)}
    many = [("data.pkl", GOOD), ("data/0", FOUR), *((f"data/{key}", b"") for key in range(1, 69))]
    write_archive(path, many[:60], central=extra)
    assert len(read_torch_header(path)) == 1
    write_archive(path, many, central=extra)
    assert "directory is" in refusal(path)


# Damage.


def test_every_truncation_is_an_error(path, run):
    write_torch(path, {"a": np.ones((3, 2), np.float32), "b": np.arange(3)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)
    path.write_bytes(whole + b"\0")
    refusal(path)
    assert run == []


def test_flipped_bytes_anywhere(path, run):
    rng = random.Random(6)
    write_torch(path, {"a": np.ones((3, 2), np.float32), "b": np.arange(3)})
    whole = path.read_bytes()
    for _ in range(2000):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        check_places(path, len(whole))
    assert run == []
