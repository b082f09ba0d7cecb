"""The build's own logic: where BLIS is looked for, and what is compiled anew."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
sys.path.insert(0, str(TOOLS))
build_core = pytest.importorskip("build_core")
find_blis = pytest.importorskip("find_blis")
sys.path.remove(str(TOOLS))

TRIPLET = f"{platform.machine()}-linux-gnu"


def put_blis(include: Path, lib: Path) -> None:
    include.mkdir(parents=True)
    lib.mkdir(parents=True)
    (include / "blis.h").write_text("typedef int dim_t;")
    (lib / "libblis.a").write_bytes(b"")


def put_debian(root: Path, variant: str) -> None:
    folder = f"{TRIPLET}/blis-{variant}"
    put_blis(root / "usr/include" / folder, root / "usr/lib" / folder)


@pytest.mark.parametrize("header", ["include", "include/blis"])
def test_blis_dir_is_a_prefix_with_either_place_of_the_header(tmp_path, monkeypatch, header):
    put_blis(tmp_path / header, tmp_path / "lib")
    monkeypatch.setenv("BLIS_DIR", str(tmp_path))
    blis = find_blis.find_blis(Path())
    assert (blis.include, blis.archive) == (tmp_path / header, tmp_path / "lib/libblis.a")
    assert not blis.link_flags


def test_blis_dir_without_blis_is_an_error_though_others_are_there(tmp_path, monkeypatch):
    put_debian(tmp_path / ".blis", "serial")
    monkeypatch.setenv("BLIS_DIR", str(tmp_path / "empty"))
    with pytest.raises(find_blis.BlisNotFound, match="BLIS_DIR=.*empty does not hold"):
        find_blis.find_blis(tmp_path)


def test_pkg_config_comes_before_the_folder_without_root(tmp_path, monkeypatch):
    put_blis(tmp_path / "own/include", tmp_path / "own/lib")
    put_debian(tmp_path / ".blis", "serial")
    folders = f"includedir={tmp_path}/own/include\nlibdir={tmp_path}/own/lib\n"
    (tmp_path / "blis.pc").write_text(f"Name: blis\nDescription: -\nVersion: 2\n{folders}")
    if find_blis.shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config")
    monkeypatch.delenv("BLIS_DIR", raising=False)
    monkeypatch.setenv("PKG_CONFIG_PATH", str(tmp_path))
    assert find_blis.find_blis(tmp_path).found_by == "pkg-config"


@pytest.mark.parametrize(
    ("variants", "found"),
    [(["openmp", "pthread", "serial"], "serial"), (["openmp", "pthread"], "pthread"), (["openmp"], "openmp")],
)
def test_serial_before_pthread_before_openmp(tmp_path, variants, found):
    for variant in variants:
        put_debian(tmp_path, variant)
    blis = next(find_blis._from_debian_folders(tmp_path))
    assert blis.archive.parent.name == f"blis-{found}"
    assert blis.link_flags == (["-fopenmp"] if found == "openmp" else [])


def test_nothing_found_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.delenv("BLIS_DIR", raising=False)
    monkeypatch.setattr(find_blis, "_from_pkg_config", lambda: iter(()))
    monkeypatch.setattr(find_blis, "_from_debian_folders", lambda root: iter(()))
    with pytest.raises(find_blis.BlisNotFound, match="run: sudo apt-get install libblis-serial-dev"):
        find_blis.find_blis(tmp_path)


def test_an_object_is_stale_when_anything_that_it_read_is_newer(tmp_path):
    """Names with spaces and continued lines, as compilers write them."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    source, header, target = folder / "op.c", folder / "op.h", folder / "op.o"
    listing = folder / "op.d"
    for seconds, path in enumerate((source, header, target), 1):
        path.write_text("")
        os.utime(path, (seconds, seconds))
    assert build_core.is_stale(target, listing)
    names = [str(path).replace(" ", "\\ ") for path in (source, header)]
    listing.write_text(f"object: {names[0]} \\\n {names[1]}\n")
    assert not build_core.is_stale(target, listing)
    os.utime(header, (9, 9))
    assert build_core.is_stale(target, listing)
    header.unlink()
    assert build_core.is_stale(target, listing)


def test_other_flags_are_other_objects():
    assert build_core.keyed(["cc", "-O1"], "op.o") != build_core.keyed(["cc", "-O3"], "op.o")


def test_a_failed_step_leaves_the_old_file(tmp_path):
    target = tmp_path / "module.so"
    target.write_text("old")

    def fail_halfway(fresh: Path) -> None:
        fresh.write_text("half")
        build_core.fail("no")

    with pytest.raises(SystemExit, match="sentpool: no"):
        build_core.replace_by(target, fail_halfway)
    assert [path.name for path in tmp_path.iterdir()] == ["module.so"]
    assert target.read_text() == "old"


@pytest.mark.parametrize("compiler", ["no-such-compiler", "no-such-compiler -m64"])
def test_a_compiler_that_does_not_exist_is_named_and_nothing_installed(tmp_path, compiler):
    """The `apt-get` that comes first on PATH only notes that it was called."""
    called = tmp_path / "called"
    (tmp_path / "apt-get").write_text(f"#!/bin/sh\ntouch '{called}'\nexit 1\n")
    (tmp_path / "apt-get").chmod(0o755)
    environment = {**os.environ, "CC": compiler, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", str(TOOLS / "prepare.sh"), sys.executable]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"sentpool: CC={compiler} is not a command\n"
    assert not called.exists()
