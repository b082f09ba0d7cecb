"""The panel product against BLIS, one core: every matrix of MiniLM and BERT-base, by instruction set and rows.

Needs the extension that holds the kernels by name: SENTPOOL_KERNELS=1 python setup.py build_ext --inplace
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time

import numpy as np
import report
import results
from peak import LANES, fma_peak, timing_library
from settings import HERE, ROOT, Settings, read_settings

# (out, in) of query-key-value, attention output, intermediate and output.
SHAPES = {
    "MiniLM": ((1152, 384), (384, 384), (1536, 384), (384, 1536)),
    "BERT-base": ((2304, 768), (768, 768), (3072, 768), (768, 3072)),
}
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# BLIS as sentpool configures it for a CPU of that instruction set.
BLIS_ARCH = {"avx512": "skx", "avx2": "haswell"}
# As the encoder keeps its rows apart (csrc/model/encoder.c), and where it begins buffers (csrc/base/arena.c).
_ROW_PADDING, _CACHE_LINE = 16, 64
# As short as the bursts of the peak, and as many, for the same reason.
_REPEATS, _SECONDS = 20, 0.006


def run(settings: Settings) -> dict:
    """Every instruction set that runs here, each in its own process: BLIS is configured once per process."""
    from sentpool import _core

    if importlib.util.find_spec("sentpool._kernels") is None:
        sys.exit("sentpool._kernels is not built; run: SENTPOOL_KERNELS=1 python setup.py build_ext --inplace")
    content = {}
    for isa in (isa for isa in _core.isas() if isa in LANES):
        command = [sys.executable, __file__, "--measure", isa, *(["--quick"] if settings.quick else [])]
        environment = os.environ | {"SENTPOOL_BLIS_ARCH": BLIS_ARCH[isa], "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        content[isa] = json.loads(done.stdout)
    return {"isas": content}


def measure(isa: str, quick: bool) -> list[dict]:
    """GFLOP/s of both engines per shape and number of rows, the peak of one core just before and after each."""
    sys.path.insert(0, str(ROOT / "tests"))
    from kernel_table import Kernels

    kernels, found = Kernels(isa), []
    before = fma_peak(isa, 1)
    for rows in ROWS[::4] if quick else ROWS:
        for model, shapes in SHAPES.items():
            for out, width in shapes:
                seconds = _compare(kernels, rows, out, width, quick)
                after = fma_peak(isa, 1)
                shape = {"model": model, "rows": rows, "out": out, "in": width}
                found.append({**shape, **seconds, "peaks": [before, after]})
                before = after
    return found


def _compare(kernels, rows: int, out: int, width: int, quick: bool) -> dict[str, float]:
    """Seconds of one product by panel kernel and by BLIS, taken in turn, the best of a few times each."""
    from sentpool import _kernels

    rng = np.random.default_rng(rows)
    weight = _aligned(rng.standard_normal((out, width), dtype=np.float32))
    bias = _aligned(rng.standard_normal(out, dtype=np.float32))
    x = _aligned(rng.standard_normal((rows, width + _ROW_PADDING), dtype=np.float32))[:, :width]
    c = _aligned(np.empty((rows, out + _ROW_PADDING), np.float32))[:, :out]
    panels = _aligned(kernels.pack_weight(weight))
    pointers = [_kernels.kernels(kernels.isa)["gemm"], *(array.ctypes.data for array in (c, x, panels, bias))]
    library, transposed = timing_library(), weight.T

    def panel(calls: int) -> float:
        return library.gemm_seconds(*pointers, rows, out, width, kernels.nr, _ROW_PADDING, calls)

    def blis(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            _kernels.gemm(x, transposed)
        return time.perf_counter() - start

    panel(1)
    if not np.array_equal(c, _kernels.gemm(x, transposed) + bias):
        raise SystemExit(f"{kernels.isa}: panel kernel and BLIS differ for {rows} x {out} x {width}")
    engines = {"panel": panel, "blis": blis}
    calls = {name: max(1, round((0.2 if quick else 1) * _SECONDS / engine(1))) for name, engine in engines.items()}
    best = dict.fromkeys(engines, float("inf"))
    for _ in range(2 if quick else _REPEATS):
        for name, engine in engines.items():
            best[name] = min(best[name], engine(calls[name]) / calls[name])
    return best


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy that starts with a cache line; NumPy's own start anywhere in one."""
    memory = np.empty(array.nbytes + _CACHE_LINE, np.uint8)
    first = -memory.ctypes.data % _CACHE_LINE
    copy = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def main() -> None:
    if "--measure" in sys.argv:
        isa = sys.argv[sys.argv.index("--measure") + 1]
        print(json.dumps(measure(isa, quick="--quick" in sys.argv)))
        return
    settings = read_settings(__doc__)
    content = run(settings)
    path = results.record(settings, "kernels", content)
    print(report.kernel_tables(content))
    print(f"\nsaved: {path}")


if __name__ == "__main__":
    main()
