"""Writing a file so that its name holds either the old content or the whole new one, never half of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` and, if the block succeeds, rename it to `path`.

    Parameters
    ----------
    path : str or Path
        A symbolic link is followed, so that the link stays and its target is replaced.

    Raises
    ------
    FileNotFoundError
        The folder that shall hold the file does not exist.
    OSError
        `path` is something else than a regular file (a folder, a device, a pipe), or writing fails. The old
        file is untouched then and the temporary one removed.
    """
    target = Path(os.path.realpath(path))
    check_replaceable(path)
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.chmod(temporary, target.stat().st_mode & 0o7777)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(target.parent)


def check_replaceable(path) -> None:
    """Raise what `replacing` would raise at once, so that a long run need not end in that error."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {os.fspath(path)!r}: there is no folder {os.fspath(target.parent)!r}")
    if target.exists() and not target.is_file():
        raise OSError(f"cannot write {os.fspath(path)!r}: it exists and is not a regular file")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"cannot write {os.fspath(path)!r}: no permission in {os.fspath(target.parent)!r}")


def sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut; file systems that cannot do it are left alone."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
