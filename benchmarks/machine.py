"""Which machine this is, and whether somebody else was using it."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

_TELLING_FLAGS = re.compile(r"fma|avx2|avx512\w*|avx_vnni\w*|amx\w*|f16c|hypervisor")


def describe() -> dict:
    """CPU, cores, memory and system, for the head of a result."""
    cpu = _fields("/proc/cpuinfo")
    memory = _fields("/proc/meminfo").get("MemTotal", "0").split()[0]
    return {
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "family": cpu.get("cpu family", ""),
        "model": cpu.get("model", ""),
        "flags": sorted(flag for flag in cpu.get("flags", "").split() if _TELLING_FLAGS.fullmatch(flag)),
        "logical_cpus": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "memory_gb": round(int(memory) / 2**20, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def slug() -> str:
    """The CPU's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", describe()["cpu"].lower()).strip("-")


def busy_seconds() -> float:
    """CPU seconds that all processes of this machine have used so far."""
    user, nice, system, _idle, _wait, irq, soft, steal = _first_line("/proc/stat").split()[1:9]
    return sum(map(int, (user, nice, system, irq, soft, steal))) / os.sysconf("SC_CLK_TCK")


def idle_warning(seconds: float = 1.0) -> str | None:
    """What to say if the machine is busy before the benchmark has begun."""
    before = busy_seconds()
    time.sleep(seconds)
    share = (busy_seconds() - before) / seconds / (os.cpu_count() or 1)
    if share < 0.05:
        return None
    return f"other processes use {share:.0%} of this machine: expect numbers that do not repeat"


def _fields(path: str) -> dict[str, str]:
    """`name : value` lines, the first of each name."""
    fields: dict[str, str] = {}
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _first_line(path: str) -> str:
    return Path(path).read_text().partition("\n")[0]


def _caches() -> dict[str, str]:
    """Size of each cache of the first CPU, where the system tells."""
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        caches[f"L{level} {kind.lower()}"] = size
    return caches
