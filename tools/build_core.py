"""How the extensions are built: parallel, incremental, every kernel source once per instruction set.

Objects lie in ``build/objects/<hash of the command>/``: builds with other flags, compilers or BLIS libraries
live side by side and never mix, and both extensions share what they have in common. An object is rebuilt when
any file that its compilation read has changed.
"""

from __future__ import annotations

import filecmp
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from find_blis import Blis, BlisNotFound, find_blis
from setuptools import Extension
from setuptools.command.build_ext import build_ext


@dataclass(frozen=True)
class Recipe:
    """Flags of every file, and those that each source of ``per_instruction_set`` is compiled with in turn."""

    compile_flags: Sequence[str]
    link_flags: Sequence[str]
    instruction_sets: Mapping[str, Sequence[str]]
    per_instruction_set: Collection[str]
    never_installed: Collection[str]


def fail(message: str) -> None:
    raise SystemExit(f"sentpool: {message}")


def keyed(command: Sequence[str], name: str) -> Path:
    return Path("build", "objects", f"{zlib.crc32(shlex.join(command).encode()):08x}", name)


def is_newer(file: Path, target: Path) -> bool:
    return not file.exists() or file.stat().st_mtime_ns > target.stat().st_mtime_ns


def is_stale(target: Path, listing: Path) -> bool:
    """Whether ``target`` is missing or older than a file named in its make-style dependency listing."""
    if not (target.exists() and listing.exists()):
        return True
    names = listing.read_text().replace("\\\n", " ").partition(": ")[2].strip()
    return any(is_newer(Path(name.replace("\\ ", " ")), target) for name in re.split(r"(?<!\\)\s+", names))


def replace_by(target: Path, make: Callable[[Path], object]) -> None:
    """Let ``make`` write beside ``target``, then rename: no torso is left, a loaded module stays whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        make(fresh)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def run(command: Sequence[str], complaint: str) -> None:
    if subprocess.run(command, check=False).returncode != 0:
        fail(complaint)


@dataclass(frozen=True)
class Toolchain:
    """The compiler, and the headers of others. The core does not see Python, and one file alone sees BLIS."""

    compiler: Sequence[str]
    python_headers: Sequence[str]
    blis: Blis

    def flags_for(self, source: str) -> list[str]:
        if source == "csrc/gemm.c":
            return [f"-isystem{self.blis.include}"]
        if source.startswith("csrc/python/"):
            return [f"-isystem{folder}" for folder in self.python_headers]
        return []


def find_toolchain() -> Toolchain:
    """Find what the build needs, or fail with the line to type."""
    import numpy

    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        fail(f"no C compiler ({compiler[0]}); run: sudo apt-get install gcc libc6-dev  (or set CC)")
    python_headers = sysconfig.get_path("include")
    if not Path(python_headers, "Python.h").exists():
        package = "python{}.{}-dev".format(*sys.version_info)
        fail(f"no Python headers in {python_headers}; run: sudo apt-get install {package}")
    try:
        blis = find_blis(Path())
    except BlisNotFound as error:
        fail(str(error))
    if blis.link_flags:
        print("sentpool: warning: this is an OpenMP BLIS, which hangs after fork; better: libblis-serial-dev")
    return Toolchain(compiler, [numpy.get_include(), python_headers], blis)


def compile_unit(command: Sequence[str], source: str) -> Path:
    target = keyed(command, source).with_suffix(".o")
    listing = target.with_suffix(".d")
    if is_stale(target, listing):
        print(f"compiling {source}", *[flag for flag in command if flag.startswith("-DSP_ISA")], flush=True)
        options = ["-MD", "-MF", str(listing), "-MT", "object", "-c", source]
        complaint = f"{source} does not compile (the compiler's words are above)"
        replace_by(target, lambda fresh: run([*command, *options, "-o", str(fresh)], complaint))
    return target


def build_command(recipe: Recipe) -> type[build_ext]:
    """Return the ``build_ext`` command that follows ``recipe``."""

    class BuildCore(build_ext):
        def run(self) -> None:
            tools = find_toolchain()
            link_command = [*tools.compiler, *recipe.link_flags, *tools.blis.link_flags]
            for extension in self.extensions:
                if self.inplace or extension.name not in recipe.never_installed:
                    objects = self.compile_all(extension, tools)
                    self.link(extension, link_command, [*objects, tools.blis.archive])

        def compile_all(self, extension: Extension, tools: Toolchain) -> list[Path]:
            user_flags = shlex.split(os.environ.get("CFLAGS", ""))
            units = []
            for source in extension.sources:
                command = [*tools.compiler, *user_flags, *recipe.compile_flags, *tools.flags_for(source)]
                for_each = recipe.instruction_sets.values() if source in recipe.per_instruction_set else [[]]
                units += [([*command, *flags], source) for flags in for_each]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return list(pool.map(lambda unit: compile_unit(*unit), units))

        def link(self, extension: Extension, command: list[str], inputs: list[Path]) -> None:
            command = [*command, *map(str, inputs), "-lm"]
            linked = keyed(command, f"{extension.name}.so")
            if not linked.exists() or any(is_newer(file, linked) for file in inputs):
                print(f"linking {extension.name}", flush=True)
                complaint = f"{extension.name} does not link (the linker's words are above)"
                replace_by(linked, lambda fresh: run([*command, "-o", str(fresh)], complaint))
            target = Path(self.get_ext_fullpath(extension.name))
            if not (target.exists() and filecmp.cmp(linked, target, shallow=False)):
                replace_by(target, lambda fresh: shutil.copy2(linked, fresh))

    return BuildCore
