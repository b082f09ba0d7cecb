"""Folders of labelled text: a label and a text a line, one list to be cut into folds or split into train and test."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sentpool.errors import shown

EXPECTED_LAYOUT = (
    "expected NAME.tsv, or NAME/train.tsv and NAME/test.tsv (and dev.tsv), for each task; a line is a label, a tab and "
    "a text"
)


class LabelledTask(NamedTuple):
    """Texts and classes of one task.

    Attributes
    ----------
    name : str
    classes : list of str
        The labels, sorted.
    parts : dict of str to (list of str, ndarray)
        Texts and the indices of their labels: ``{"": …}`` of one list, or "train", "test" and perhaps "dev".
    files : dict of str to str
        The SHA-256 of each file.
    """

    name: str
    classes: list[str]
    parts: dict[str, tuple[list[str], np.ndarray]]
    files: dict[str, str]

    @property
    def scored(self) -> tuple[list[str], np.ndarray]:
        """What predictions are scored on: all of one list, or "test"."""
        return self.parts["test" if "test" in self.parts else ""]


def read_labelled(folder, tasks=None) -> list[LabelledTask]:
    """Read the tasks of a folder; parameters and errors as in `sentpool.evaluation.transfer`."""
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"folder is {shown(folder)}: expected a str or Path")
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"folder {os.fspath(folder)!r} {problem}: {EXPECTED_LAYOUT}")
    found = _tasks_in(folder)
    if not found:
        raise FileNotFoundError(f"no task in {os.fspath(folder)!r}: {EXPECTED_LAYOUT}")
    return [_read(name, found[name]) for name in _chosen(tasks, list(found))]


def _tasks_in(folder: Path) -> dict[str, dict[str, Path]]:
    """The files of each task by the names of its parts."""
    if _is_split(folder):
        return {folder.resolve().name: _split(folder)}
    lists = {path.stem: {"": path} for path in sorted(folder.glob("*.tsv"))}
    splits = {place.name: _split(place) for place in sorted(folder.iterdir()) if _is_split(place)}
    twice = lists.keys() & splits.keys()
    if twice:
        raise ValueError(f"{os.fspath(folder)!r} holds {min(twice)} both as a .tsv file and as a folder: rename one")
    return lists | splits


def _is_split(place: Path) -> bool:
    return (place / "train.tsv").is_file() and (place / "test.tsv").is_file()


def _split(place: Path) -> dict[str, Path]:
    return {part: place / f"{part}.tsv" for part in ("train", "dev", "test") if (place / f"{part}.tsv").is_file()}


def _chosen(tasks, there: list[str]) -> list[str]:
    if tasks is None:
        return there
    if not isinstance(tasks, (str, Iterable)):
        raise TypeError(f"tasks is {shown(tasks)}: expected a name, a sequence of names, or None")
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    for name in names:
        if name not in there:
            raise ValueError(f"tasks holds {shown(name)}: the folder has {', '.join(there)}")
    if not names:
        raise ValueError("tasks is empty: name at least one, or pass None for all that the folder holds")
    return list(dict.fromkeys(names))


def _read(name: str, paths: dict[str, Path]) -> LabelledTask:
    files: dict[str, str] = {}
    lines = {part: _lines(path, files) for part, path in paths.items()}
    trained = lines["train"] if "train" in lines else lines[""]
    classes = sorted({label for label, _ in trained})
    if len(classes) < 2:
        raise ValueError(f"{name}: every text has the label {shown(classes[0])}; a classifier needs two classes")
    index = {label: k for k, label in enumerate(classes)}
    for part, rows in lines.items():
        for label, _ in rows:
            if label not in index:
                raise ValueError(f"{name}: {paths[part].name} has the label {shown(label)}, which train.tsv has not")
    parts = {
        part: ([text for _, text in rows], np.array([index[label] for label, _ in rows], dtype=np.int64))
        for part, rows in lines.items()
    }
    return LabelledTask(name, classes, parts, files)


def _lines(path: Path, files: dict[str, str]) -> list[tuple[str, str]]:
    content = path.read_bytes()
    files[f"{path.parent.name}/{path.name}"] = hashlib.sha256(content).hexdigest()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{number}: not UTF-8 ({error.reason}); convert the file to UTF-8") from None
    rows = []
    # Lines as a file object gives them: splitlines() would also cut at U+2028 and the like inside a text.
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if not line.strip():
            continue
        label, tab, sentence = line.rstrip("\n").partition("\t")
        if not tab or not label.strip() or not sentence.strip():
            raise ValueError(f"{path}:{number}: a line is a label, a tab and a text")
        rows.append((label.strip(), sentence.strip()))
    if not rows:
        raise ValueError(f"{path} holds no labelled text")
    return rows


def describe(folder, tasks: list[LabelledTask]) -> dict[str, Any]:
    """Folder, texts and files per task and the SHA-256 of every file, as a result records them."""
    return {
        "folder": os.fspath(folder),
        "texts": {task.name: {part or "all": len(texts) for part, (texts, _) in task.parts.items()} for task in tasks},
        "files": {task.name: list(task.files) for task in tasks},
        "sha256": {file: digest for task in tasks for file, digest in task.files.items()},
    }
