"""Checkpoints: a folder each, whole or not there, from which training goes on to the same bits.

``step-00000100/`` holds `arrays.safetensors` (parameters and moments in float32) and `manifest.json` (all else, and the
SHA-256 of the arrays). A checkpoint is written under another name, brought to the disk and renamed. The one before the
newest is kept, and is taken where the newest turns out to be damaged.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sentpool.atomic_folder import replacing_folder
from sentpool.errors import ModelFolderError, shown, warn
from sentpool.tensor_file import read_header
from sentpool.tensor_writer import write_safetensors
from sentpool.weights import sha256

_FORMAT = "sentpool.checkpoint.1"
_ARRAYS, _MANIFEST = "arrays.safetensors", "manifest.json"
_NAME = re.compile(r"step-(\d{8,})")
_TEMPORARY = re.compile(r"\.(step-\d{8,}|best|last)\.[0-9a-f]{8}\.(tmp|old)")
_KEPT = 2


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes
    ----------
    step : int
        How many steps have been taken.
    arrays : dict of str to ndarray, float32
    state : dict
        What fits into JSON.
    """

    step: int
    arrays: Mapping[str, np.ndarray]
    state: Mapping


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into the folder of checkpoints, then remove those before the last but one.

    Returns
    -------
    Path
        The new checkpoint.

    Raises
    ------
    OSError
        Writing fails; the checkpoints that were there still are.
    """
    target = folder / f"step-{checkpoint.step:08d}"
    with replacing_folder(target, overwrite=True, may_replace=lambda _: None) as new:
        write_safetensors(new / _ARRAYS, checkpoint.arrays)
        manifest = {
            "format": _FORMAT,
            "step": checkpoint.step,
            "sha256": {_ARRAYS: sha256(new / _ARRAYS)},
            "state": checkpoint.state,
        }
        (new / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for old in _found(folder)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def has_checkpoints(folder: Path) -> bool:
    """Whether there is a checkpoint, whole or not."""
    return bool(_found(folder))


def read_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there are none.

    Raises
    ------
    ValueError
        There are checkpoints, and none of them is whole.

    Warns
    -----
    SentpoolWarning
        A newer one is damaged.
    """
    found, problems = _found(folder), []
    for place in reversed(found):
        try:
            checkpoint = _read(place)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        if problems:
            warn(f"a damaged checkpoint was passed over ({'; '.join(problems)}); going on from {place}")
        return checkpoint
    if found:
        raise ValueError(f"no checkpoint is whole: {'; '.join(problems)}: remove {folder} to start afresh")
    return None


def remove_leftovers(folder: Path) -> None:
    """Remove what writing checkpoints, or a run's models, left behind when it was killed."""
    if folder.is_dir():
        for place in folder.iterdir():
            if _TEMPORARY.fullmatch(place.name):
                shutil.rmtree(place, ignore_errors=True)


def _found(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest last."""
    if not folder.is_dir():
        return []
    places = [place for place in folder.iterdir() if _NAME.fullmatch(place.name)]
    return sorted(places, key=lambda place: int(_NAME.fullmatch(place.name)[1]))


def _read(place: Path) -> Checkpoint:
    path = place / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT:
            raise ValueError(f"{path}: format is {shown(manifest['format'])}; this version reads {_FORMAT!r}")
        step, state, digest = manifest["step"], manifest["state"], manifest["sha256"][_ARRAYS]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: no manifest of a checkpoint: {error!r}") from error
    if sha256(place / _ARRAYS) != digest:
        raise ValueError(f"{place / _ARRAYS}: not the file that the manifest names by its SHA-256")
    try:
        arrays = {name: stored.read() for name, stored in read_header(place / _ARRAYS).items()}
    except ModelFolderError as error:
        raise ValueError(str(error)) from error
    return Checkpoint(step, arrays, state)
