"""Files of torch.save that must be refused: what is said of them, and that nothing in them is run."""

from __future__ import annotations

import builtins
import importlib
import math
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
from fabricate_torch import entries, write_archive

from sentpool.errors import ModelFolderError
from sentpool.torch_file import read_torch_header

FOUR = np.arange(4, dtype="<f4").tobytes()


def canaries(monkeypatch) -> list[str]:
    """The names of functions that code in a file would call, as soon as one of them is called."""
    called: list[str] = []

    def canary(name: str):
        def call(*arguments, **options):
            called.append(name)
            raise AssertionError(f"{name} was called")

        return call

    for module, names in (
        (builtins, "eval exec compile"),
        (os, "system popen execv"),
        (subprocess, "Popen run"),
        (pickle, "loads load Unpickler"),
        (importlib, "import_module"),
    ):
        for name in names.split():
            monkeypatch.setattr(module, name, canary(f"{module.__name__}.{name}"))
    return called


def refusal(path: Path) -> str:
    """What is said of a file that must be refused; nothing is imported meanwhile."""
    original, imported = builtins.__import__, []

    def watching(name, *rest):
        imported.append(name)
        return original(name, *rest)

    message = None
    builtins.__import__ = watching
    try:
        read_torch_header(path)
    except ModelFolderError as error:
        message = str(error)
    finally:
        builtins.__import__ = original
    assert imported == []
    assert message is not None, "the file was read"
    assert message.startswith(f"{path}: ")
    assert len(message) - len(str(path)) < 500
    return message


def write_code(path: Path, code: bytes, *data: bytes | int, **lies) -> Path:
    return write_archive(path, entries(code, *(data or (FOUR,))), **lies)


def check_places(path: Path, size: int) -> None:
    """Read a file that is perhaps damaged: an error, or tensors that lie inside it."""
    try:
        stored = read_torch_header(path)
    except ModelFolderError:
        return
    for one in stored.values():
        width = {"F32": 4, "I64": 8, "F64": 8, "I32": 4}.get(one.dtype, 1)
        assert all(type(number) is int and number >= 0 for number in one.shape)
        assert 0 < one.offset <= one.offset + width * math.prod(one.shape) <= size
