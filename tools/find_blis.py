"""Find the static BLIS that the build links: ``python tools/find_blis.py`` prints what it would take.

Looked at in this order, the first hit wins: ``$BLIS_DIR`` (alone, when set), pkg-config, the folders of
Debian's packages (serial before pthread before openmp), and the same folders under ``.blis/``, where
``tools/get_blis.sh`` unpacks Debian's package without root.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEADERS = ("blis.h", "blis/blis.h")
VARIANTS = ("serial", "pthread", "openmp")
NOT_FOUND = (
    "BLIS not found (blis.h and libblis.a); run: sudo apt-get install libblis-serial-dev"
    "  (without root: sh tools/get_blis.sh; own build: set BLIS_DIR to its prefix)"
)


class BlisNotFound(Exception):
    """No static BLIS where the build looks; the message is the one line to show."""


@dataclass(frozen=True)
class Blis:
    """A static BLIS: the folder that holds ``blis.h``, the archive, and where it was found."""

    include: Path
    archive: Path
    found_by: str

    @property
    def link_flags(self) -> list[str]:
        return ["-fopenmp"] if self.archive.parent.name == "blis-openmp" else []


def _pair(include: Path, lib: Path, found_by: str) -> Iterator[Blis]:
    for header in HEADERS:
        if (include / header).is_file() and (lib / "libblis.a").is_file():
            yield Blis((include / header).parent, lib / "libblis.a", found_by)


def _from_pkg_config() -> Iterator[Blis]:
    if shutil.which("pkg-config") is None:
        return
    folders = []
    for variable in ("includedir", "libdir"):
        command = ["pkg-config", f"--variable={variable}", "blis"]
        folders.append(subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip())
    if all(folders):
        yield from _pair(Path(folders[0]), Path(folders[1]), "pkg-config")


def _from_debian_folders(root: Path) -> Iterator[Blis]:
    # The machine's own triplet only: a cross compiler's libraries may lie beside it.
    triplet = f"{platform.machine()}-linux-gnu*"
    for variant in VARIANTS:
        for lib in sorted((root / "usr/lib").glob(f"{triplet}/blis-{variant}")):
            include = root / "usr/include" / lib.parent.name / lib.name
            yield from _pair(include, lib, f"Debian's blis-{variant}")


def find_blis(project: Path) -> Blis:
    """Return the first static BLIS; raise ``BlisNotFound`` with the command to type when there is none."""
    if prefix := os.environ.get("BLIS_DIR"):
        blis = next(_pair(Path(prefix, "include"), Path(prefix, "lib"), "BLIS_DIR"), None)
        if blis is None:
            raise BlisNotFound(
                f"BLIS_DIR={prefix} does not hold include/blis.h (or include/blis/blis.h) and lib/libblis.a;"
                " set it to the prefix of a static BLIS or unset it"
            )
        return blis
    for candidates in (
        _from_pkg_config(),
        _from_debian_folders(Path("/")),
        _from_debian_folders(project / ".blis"),
    ):
        if blis := next(candidates, None):
            return blis
    raise BlisNotFound(NOT_FOUND)


def main() -> int:
    try:
        blis = find_blis(Path(__file__).resolve().parent.parent)
    except BlisNotFound as error:
        print(f"sentpool: {error}", file=sys.stderr)
        return 1
    print(f"{blis.archive} ({blis.found_by})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
