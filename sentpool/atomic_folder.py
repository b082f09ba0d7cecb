"""Writing a folder so that its name holds either what it held or the whole new content, never a part of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sentpool.atomic_file import sync_folder


@contextmanager
def replacing_folder(path, *, overwrite: bool, may_replace: Callable[[Path], str | None]) -> Iterator[Path]:
    """Make a temporary folder beside `path` and, if the block succeeds, rename it to `path`.

    Parameters
    ----------
    path : str or Path
        A symbolic link is followed. Missing folders on the way are made.
    overwrite : bool
        Whether a folder that is there and not empty is replaced, as a whole.
    may_replace
        Says of such a folder why it must not be replaced, or None.

    Raises
    ------
    FileExistsError
        If the folder is there and not empty, and is not to be replaced.
    NotADirectoryError
        If `path` is something else than a folder.
    OSError
        If writing fails. The old folder is untouched then and the temporary one removed.
    """
    target = Path(os.path.realpath(path))
    check_folder(path, overwrite=overwrite, may_replace=may_replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(target.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(f"cannot write {os.fspath(path)!r}: no permission in {os.fspath(target.parent)!r}")
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        _sync_tree(temporary)
        if overwrite and target.exists():
            _swap(temporary, target)
        else:
            os.rename(temporary, target)  # an empty folder gives way, a file in it since does not
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)


def check_folder(path, *, overwrite: bool, may_replace: Callable[[Path], str | None]) -> None:
    """Raise what `replacing_folder` would raise before it writes anything."""
    target, name = Path(os.path.realpath(path)), repr(os.fspath(path))
    if os.path.lexists(target) and not target.is_dir():
        raise NotADirectoryError(f"cannot write {name}: it exists and is no folder")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(
            f"cannot write {name}: the folder exists and is not empty; name another one, or pass overwrite=True to "
            f"replace it as a whole"
        )
    reason = may_replace(target)
    if reason:
        raise FileExistsError(f"cannot write {name}: {reason}, so overwrite=True does not replace it")


def _swap(new: Path, target: Path) -> None:
    """Put `new` where `target` is. Between the two renames there is nothing of that name, and both are whole."""
    old = new.with_suffix(".old")
    try:
        os.rename(target, old)
        os.rename(new, target)
    except BaseException:
        if not target.exists():
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    """Bring every file to the disk before the folder gets its name."""
    for home, _, files in os.walk(folder):
        for file in files:
            descriptor = os.open(os.path.join(home, file), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(home))
