"""What a library costs besides time per sentence: import, load, memory, disk."""

from __future__ import annotations

import json
import statistics

from models import Model
from peers import Peer
from settings import ROOT, Settings
from texts import Workload
from workers import Worker, run_python

_IMPORT = "import time; start = time.perf_counter(); {imports}; print(time.perf_counter() - start)"
# One more is not counted: it brings the files into the page cache and leaves the bytecode that pip leaves.
_PROCESSES, _QUICK_PROCESSES = 5, 1

# Files of the packages and of all that they require, extras aside, as pip recorded them.
_INSTALLED = """
import importlib.metadata as metadata, json, re
seen, todo = {{}}, list({packages!r})
while todo:
    name = re.sub("[-_.]+", "-", todo.pop()).lower()
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue
    if name not in seen:
        files = (file.locate() for file in found.files or () if not str(file).endswith(".pyc"))
        seen[name] = sum(file.stat().st_size for file in files if file.is_file())
        needs = (need for need in found.requires or () if "extra ==" not in need)
        todo += [re.match("[A-Za-z0-9._-]+", need).group() for need in needs]
print(json.dumps(seen))
"""


def measure(peers: list[Peer], model: Model, workload: Workload, chosen: dict, settings: Settings) -> dict[str, dict]:
    """Each peer for which settings were chosen, in fresh processes, one pass over the workload in the last of them."""
    return {
        peer.name: _measure(peer, model, workload, chosen[peer.name], settings) for peer in peers if peer.name in chosen
    }


def _measure(peer: Peer, model: Model, workload: Workload, chosen: dict, settings: Settings) -> dict:
    processes = 1 + (_QUICK_PROCESSES if settings.quick else _PROCESSES)
    program = _IMPORT.format(imports=peer.imports)
    imports = [float(run_python(peer, settings, program)) for _ in range(processes)]
    loads = [_load_seconds(peer, model, settings) for _ in range(processes)]
    sizes = json.loads(run_python(peer, settings, _INSTALLED.format(packages=peer.packages)))
    if peer.module == "sentpool":
        sizes["sentpool"] = _own_size()
    with Worker(peer, settings) as worker:
        worker.read(workload)
        worker.open(model)
        worker.ask("configure", **chosen)
        first = worker.ask("encode", name=workload.name)["seconds"]
        return {
            "imports": imports[1:],
            "import_seconds": statistics.median(imports[1:]),
            "loads": loads[1:],
            "load_seconds": statistics.median(loads[1:]),
            "first_pass_seconds": first,
            "peak_rss": worker.ask("memory")["peak"],
            "installed_bytes": sizes,
        }


def _load_seconds(peer: Peer, model: Model, settings: Settings) -> float:
    with Worker(peer, settings) as worker:
        return worker.open(model)


def _own_size() -> int:
    """Bytes of the package in this tree, as a wheel would hold them: without what only the tests use."""
    files = (ROOT / "sentpool").rglob("*")
    return sum(
        file.stat().st_size
        for file in files
        if file.is_file() and file.suffix != ".pyc" and not file.name.startswith("_kernels.")
    )
