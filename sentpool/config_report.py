"""What this installation computes with: for `show_config()` and for saved results."""

from __future__ import annotations

import platform

from sentpool import _core
from sentpool._version import __version__
from sentpool.threads import get_num_threads


def versions() -> dict[str, str]:
    """The versions that a result may depend on, by package."""
    import numpy
    import safetensors
    import tokenizers

    return {
        "sentpool": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "tokenizers": tokenizers.__version__,
        "safetensors": safetensors.__version__,
    }


def show_config() -> None:
    """Print which kernels and engines run here, and why, with versions and threads."""
    core = _core.config()
    found = ", ".join(name for name in _core.isas() if name != "scalar")
    units = _core.low_precision_units()
    blis = "not used: no sub-configuration of it fits this CPU"
    if core["blis_arch"] != "none":
        blis = f"{core['blis_version']}, sub-configuration {core['blis_arch']}, blocks of k cut at 256"
    lines = {
        "sentpool": __version__,
        "isa": f"{core['isa']} (this CPU and system offer {found}; SENTPOOL_ISA chooses)",
        "gemm": f"{core['gemm']} (SENTPOOL_GEMM chooses panel or blis for the encoder; the bits are equal)",
        "units": f"of low precision: {units['bfloat16']} for bfloat16, {units['int8']} for int8",
        "blis": blis,
        "threads": f"{get_num_threads()} (CPUs allowed: {core['cpus']})",
    }
    for name, text in lines.items():
        print(f"{name + ':':10}{text}")
