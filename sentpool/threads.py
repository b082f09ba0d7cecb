"""How many threads a call uses: what it says, else `set_num_threads`, else SENTPOOL_NUM_THREADS, else the cores."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path

from sentpool.checks import positive_integer
from sentpool.errors import shown

_CPU_TOPOLOGY = "/sys/devices/system/cpu/cpu{cpu}/topology/{what}"
_chosen: int | None = None


def set_num_threads(threads: int | None) -> None:
    """Set how many threads calls use that do not say so themselves.

    Parameters
    ----------
    threads
        A positive integer; None goes back to the default: SENTPOOL_NUM_THREADS where the environment has it, else
        the number of physical cores that CPU affinity and the cgroup's quota leave to this process.

    Raises
    ------
    TypeError, ValueError
        If `threads` is no positive integer.
    """
    global _chosen
    _chosen = None if threads is None else positive_integer("threads", threads)


def get_num_threads() -> int:
    """How many threads a call uses that does not say so itself."""
    return _chosen or _from_environment() or physical_cores()


def resolve(threads: int | None) -> int:
    """The number of threads for one call."""
    return get_num_threads() if threads is None else positive_integer("threads", threads)


def _from_environment() -> int | None:
    text = os.environ.get("SENTPOOL_NUM_THREADS", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= 1):
        raise ValueError(f"SENTPOOL_NUM_THREADS is {shown(text)}; it must be a positive integer, or unset")
    return int(text)


@functools.cache
def physical_cores() -> int:
    """Physical cores that CPU affinity and the cgroup's quota leave to this process, at least 1."""
    cpus = os.sched_getaffinity(0)
    cores = {tuple(_topology(cpu, what) for what in ("physical_package_id", "core_id")) for cpu in cpus}
    unknown = any(None in core for core in cores)
    return max(1, min(len(cpus) if unknown else len(cores), _cgroup_quota()))


def _topology(cpu: int, what: str) -> str | None:
    return _read(_CPU_TOPOLOGY.format(cpu=cpu, what=what))


def _cgroup_quota() -> int:
    """Whole CPUs, rounded up, that the process's cgroup and those above it grant; a large number without a limit."""
    quotas = [1 << 20]
    for folder in _cgroups():
        fields = (_read(f"{folder}/cpu.max") or "").split()
        if not fields:  # version 1
            fields = [_read(f"{folder}/cpu.cfs_{what}_us") or "" for what in ("quota", "period")]
        if all(field.isdigit() for field in fields) and int(fields[1]):
            quotas.append(math.ceil(int(fields[0]) / int(fields[1])))
    return min(quotas)


def _cgroups() -> Iterator[Path]:
    """Folders that may limit this process's CPU time, from its own to the root: of a container its own may be
    missing, and the root is the container's."""
    for line in (_read("/proc/self/cgroup") or "0::/").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers or "cpu" in controllers.split(","):
            root, parts = Path("/sys/fs/cgroup", "cpu" if controllers else ""), Path(path).parts[1:]
            yield from (root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
