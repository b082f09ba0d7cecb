"""The most that the cores can compute: fused multiply-adds in registers. `python benchmarks/peak.py` prints it."""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import subprocess
import zlib

from settings import HERE, default_cache

LANES = {"avx2": 8, "avx512": 16}
# A burst is short enough to fit between two interruptions, and there are enough of them that one does.
BURSTS, BURST_SECONDS = 20, 0.006


@functools.cache
def timing_library() -> ctypes.CDLL:
    """timing.c, compiled with $CC (else cc) once per source and compiler."""
    source = HERE / "timing.c"
    command = [*shlex.split(os.environ.get("CC", "cc")), "-O2", "-shared", "-fPIC", "-pthread", "-D_GNU_SOURCE"]
    command += [f"-I{HERE.parent / 'csrc'}", str(source)]
    key = zlib.crc32(shlex.join(command).encode() + source.read_bytes())
    library = default_cache() / f"timing-{key:08x}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        fresh = library.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-o", str(fresh)], check=True)
        fresh.replace(library)
    loaded = ctypes.CDLL(str(library))
    loaded.fma_peak.restype = loaded.gemm_seconds.restype = ctypes.c_double
    loaded.fma_peak.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_double, ctypes.c_void_p)
    loaded.gemm_seconds.argtypes = (*[ctypes.c_void_p] * 5, *[ctypes.c_int64] * 6)
    return loaded


def fma_peak(isa: str, threads: int) -> float | None:
    """GFLOP/s of float32 in the best of some bursts on `threads` cores at once; None where `isa` has no such loop."""
    if isa not in LANES:
        return None
    times = (ctypes.c_double * (2 * threads * BURSTS))()
    peak = timing_library().fma_peak(LANES[isa], threads, BURSTS, BURST_SECONDS, times)
    return peak / 1e9 if peak > 0 else None


def main() -> None:
    from sentpool import _core, get_num_threads

    for isa in (isa for isa in _core.isas() if isa in LANES):
        for threads in sorted({1, get_num_threads()}):
            peaks = sorted(fma_peak(isa, threads) for _ in range(10))
            print(f"{isa}, threads {threads}: best {peaks[-1]:.0f} GFLOP/s, median of ten probes {peaks[5]:.0f}")


if __name__ == "__main__":
    main()
