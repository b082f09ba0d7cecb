"""The number of threads that calls use by default: physical cores, as far as affinity and cgroups leave them."""

from __future__ import annotations

import os

import pytest

from sentpool import threads

V2, V1 = "/sys/fs/cgroup/{}", "/sys/fs/cgroup/cpu/{}"


def cores(monkeypatch, files: dict[str, str], cpus=range(8)) -> int:
    """What is found where the system has these files, and two CPUs on each core."""
    topology = {
        threads._CPU_TOPOLOGY.format(cpu=cpu, what=what): value
        for cpu in range(8)
        for what, value in (("physical_package_id", "0"), ("core_id", str(cpu // 2)))
    }
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(cpus))
    monkeypatch.setattr(threads, "_read", lambda path: (topology | files).get(str(path)))
    return threads.physical_cores.__wrapped__()


def v1(quota: int, group: str = "") -> dict[str, str]:
    return {V1.format(f"{group}cpu.cfs_{what}_us"): str(n) for what, n in (("quota", quota), ("period", 100000))}


@pytest.mark.parametrize(("cpus", "expected"), [(range(8), 4), ((0, 1), 1), ((1, 2, 5), 3), ((7,), 1)])
def test_two_cpus_of_one_core_count_once(monkeypatch, cpus, expected):
    assert cores(monkeypatch, {}, cpus) == expected


def test_cpus_count_where_cores_are_not_known(monkeypatch):
    unknown = {threads._CPU_TOPOLOGY.format(cpu=cpu, what="core_id"): None for cpu in range(8)}
    assert cores(monkeypatch, unknown) == 8


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {V2.format("cpu.max"): "200000 100000"}, 2),
        ("0::/", {V2.format("cpu.max"): "150000 100000"}, 2),
        ("0::/", {V2.format("cpu.max"): "1000 100000"}, 1),
        ("0::/", {V2.format("cpu.max"): "max 100000"}, 4),
        ("0::/a.slice/b.scope", {V2.format("a.slice/b.scope/cpu.max"): "300000 100000"}, 3),
        ("0::/a.slice/b.scope", {V2.format(f"{group}cpu.max"): "100000 100000" for group in ("a.slice/",)}, 1),
        ("0::/docker/0123", {V2.format("cpu.max"): "200000 100000"}, 2),
        ("4:memory:/x\n2:cpu,cpuacct:/a", v1(300000) | v1(100000, "a/"), 1),
        ("4:memory:/x\n2:cpu:/a", v1(100000, "x/"), 4),
        ("1:cpu:/docker/0123\n0::/", v1(200000), 2),
        ("1:cpu:/", v1(-1), 4),
        ("nonsense", {}, 4),
        (None, {V2.format("cpu.max"): "100000 100000"}, 1),
    ],
)
def test_a_quota_of_the_own_cgroup_or_of_one_above_it(monkeypatch, own, files, expected):
    assert cores(monkeypatch, {"/proc/self/cgroup": own} | files) == expected
