"""The machine code fuses a multiplication with an addition only where the source says v_fma."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

_kernels = pytest.importorskip("sentpool._kernels", reason="build with SENTPOOL_KERNELS=1")

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump"),
]

# No v_fma in their sources, so nothing fused in their code; the others multiply and add as well as fuse.
WITHOUT_FMA = (
    "divide_rows",
    "dots",
    "squares",
    "screen",
    "embed_row",
    "pool_sum",
    "pool_max",
    "panel_pack",
    "transpose",
    "dropout",
    "dropout_columns",
    "add",
    "multiply",
    "rotate",
    "add_diagonals",
    "rrelu_slopes",
    "adamw",
)
# What a compiler makes of a * b - c and c - a * b when it contracts; v_fma never needs them.
CONTRACTED = re.compile(r"\bvfn?m(sub|addsub|subadd)|\bvfnmadd")


@pytest.fixture(scope="module")
def functions() -> dict[str, str]:
    """Machine code by function, for the functions of the core."""
    code = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", _kernels.__file__], capture_output=True, text=True, check=True
    ).stdout
    parts = re.split(r"^[0-9a-f]+ <([^>]+)>:\n", code, flags=re.M)[1:]
    return {name: body for name, body in zip(parts[::2], parts[1::2], strict=True) if name.startswith("sp_")}


def test_nothing_is_contracted(functions):
    assert len(functions) > 40
    guilty = [name for name, body in functions.items() if CONTRACTED.search(body)]
    assert not guilty


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_kernels_without_fma_have_none(functions, isa):
    for kernel in WITHOUT_FMA:
        assert "vfmadd" not in functions[f"sp_{kernel}_{isa}"], kernel
    assert "vfmadd" in functions[f"sp_activation_{isa}"]


@pytest.mark.parametrize(("isa", "register"), [("avx2", "ymm"), ("avx512", "zmm")])
def test_the_product_uses_the_whole_register(functions, isa, register):
    body = "".join(body for name, body in functions.items() if isa in name)
    assert len(re.findall(rf"vfmadd\w+ .*%{register}", body)) > 100


def test_generic_code_needs_no_extension(functions):
    for name, body in functions.items():
        if name.endswith("_generic"):
            assert not re.search(r"%[yz]mm|\bvfm", body), name
