"""Exact search over a million vectors: sentpool, faiss' IndexFlatIP and NumPy in turn, and the memory it takes.

Needs faiss beside sentpool: pip install faiss-cpu. Without it, NumPy alone is compared.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import machine
import results
from settings import HERE, ROOT, Settings, read_settings

DIMENSION, K = 384, 10
# Vectors, queries.
SIZES, QUICK_SIZES = (1_000_000, 1_000), (100_000, 100)
# Rows of a block of scores in NumPy: the quickest of 4,096, 16,384 and 65,536 with 1,000 queries.
_NUMPY_ROWS = 16_384


def run(settings: Settings) -> dict:
    """Every library in one process of its own, whose BLAS libraries read their threads from the environment."""
    threads = str(settings.threads)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, threads) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--measure", threads, str(settings.rounds), str(int(settings.quick))]
    done = subprocess.run(command, cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure(threads: int, rounds: int, quick: bool) -> dict:
    """Seconds of each library, round by round, its peak above the vectors for ours, and how far the ids agree."""
    import numpy as np
    from bench_probe import peak
    from peak import fma_peak

    from sentpool import _core
    from sentpool.search import search

    n, n_queries = QUICK_SIZES if quick else SIZES
    vectors, queries = _unit_vectors(n, 0), _unit_vectors(n_queries, 1)

    def ours():
        return search(queries, vectors, K, "dot", threads=threads).ids

    grown = peak(ours)  # by a fork, so before other libraries have threads
    works: dict[str, Callable] = {"sentpool": ours, "numpy": lambda: _by_numpy(queries, vectors)}
    if importlib.util.find_spec("faiss") is not None:
        works["faiss"] = _by_faiss(queries, vectors, threads)
    found = {name: work() for name, work in works.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    peaks = [fma_peak(_core.config()["isa"], threads)]
    for _ in range(rounds):
        for name, work in works.items():
            time.sleep(0.2)  # threads of the one before that spin are asleep then
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
        peaks.append(fma_peak(_core.config()["isa"], threads))
    return {
        "vectors": n,
        "queries": n_queries,
        "dimension": DIMENSION,
        "k": K,
        "seconds": seconds,
        "peak_above_vectors": grown,
        "fma_peak": max(peaks),
        "ids_equal_to_ours": {name: float(np.mean(ids == found["sentpool"])) for name, ids in found.items()},
        "libraries": {name: importlib.import_module(name).__version__ for name in works if name != "sentpool"},
    }


def _unit_vectors(n: int, seed: int):
    import numpy as np

    rng = np.random.default_rng(seed)
    vectors = np.empty((n, DIMENSION), np.float32)
    for block in np.array_split(vectors, max(1, n // 50_000)):
        rng.standard_normal(dtype=np.float32, out=block)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def _by_numpy(queries, vectors):
    """Blocks of products, the best of each by argpartition, merged at the end."""
    import numpy as np

    ids, scores = [], []
    for start in range(0, len(vectors), _NUMPY_ROWS):
        products = queries @ vectors[start : start + _NUMPY_ROWS].T
        kept = np.argpartition(products, max(0, products.shape[1] - K), axis=1)[:, -K:]
        ids.append(kept + start)
        scores.append(np.take_along_axis(products, kept, axis=1))
    all_ids, all_scores = np.concatenate(ids, axis=1), np.concatenate(scores, axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(all_ids, order, axis=1)


def _by_faiss(queries, vectors, threads: int) -> Callable:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(vectors)
    return lambda: index.search(queries, K)[1]


def table(content: dict) -> str:
    """Medians and extremes, GFLOP/s, then the ratios within rounds."""
    work = 2e-9 * content["vectors"] * content["queries"] * content["dimension"]
    lines = [
        f"{content['vectors']:,} vectors of {content['dimension']}, {content['queries']:,} queries, top {content['k']}",
        "",
        f"{'':10}{'median s':>10}{'fastest':>10}{'slowest':>10}{'GFLOP/s':>10}{'of the peak':>13}{'ids as ours':>13}",
    ]
    for name, seconds in content["seconds"].items():
        median = statistics.median(seconds)
        lines.append(
            f"{name:10}{median:10.3f}{min(seconds):10.3f}{max(seconds):10.3f}{work / median:10.1f}"
            f"{work / median / content['fma_peak']:>13.1%}{content['ids_equal_to_ours'][name]:>13.2%}"
        )
    lines += ["", f"peak of ours above the vectors: {content['peak_above_vectors'] / 1e6:.0f} MB"]
    ours = content["seconds"]["sentpool"]
    for name, seconds in content["seconds"].items():
        if name != "sentpool":
            ratios = [theirs / mine for theirs, mine in zip(seconds, ours, strict=True)]
            lines.append(
                f"sentpool's speed / {name}'s, median of {len(ratios)} rounds: {statistics.median(ratios):.2f}"
            )
    return "\n".join(lines)


def main() -> None:
    if "--measure" in sys.argv:
        threads, rounds, quick = map(int, sys.argv[2:])
        print(json.dumps(measure(threads, rounds, bool(quick))))
        return
    settings = read_settings(__doc__)
    if warning := machine.idle_warning():
        print(warning)
    content = run(settings)
    path = results.record(settings, "search", content)
    print(table(content))
    print(f"\nsaved: {path}")


if __name__ == "__main__":
    main()
