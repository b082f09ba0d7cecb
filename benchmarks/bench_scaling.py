"""sentpool alone: is time per sentence flat, does memory stay bounded, do threads and callers add up?"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from contextlib import ExitStack

import models
import report
import results
import texts
from peak import fma_peak
from peers import BY_NAME
from settings import Settings, read_settings
from workers import Worker

COUNTS = (1_000, 3_000, 10_000, 30_000, 100_000)
OWN = BY_NAME["sentpool"]


def run(settings: Settings) -> dict:
    """The section `scaling` of the results."""
    model = models.open_model("MiniLM-L6", settings.model)
    counts = [count // 100 for count in COUNTS] if settings.quick else COUNTS
    workloads = [copies(model, count, counts[0], settings) for count in counts]
    return {
        "model": model.name,
        "flatness": flatness(model, workloads, settings),
        "memory": memory(model, workloads[-1], settings),
        "thread_counts": threads(model, workloads[1], settings),
        "callers": callers(model, workloads[0], settings),
    }


def copies(model: models.Model, count: int, distinct: int, settings: Settings) -> texts.Workload:
    """`count` texts that differ as str: the same `distinct` sentences again and again, so that every number of texts
    has the same mixture of lengths."""
    sentences = (texts.read("sts", settings.data) or texts.sample_sentences(settings.data))[:distinct]
    many = (sentences * -(-count // len(sentences)))[:count]
    return texts.workload(f"{count}-sentences", model, many)


def flatness(model: models.Model, workloads: list[texts.Workload], settings: Settings) -> list[dict]:
    """Seconds per pass, all sizes in turn; small ones several times in a round, for their passes are short."""
    rounds = min(settings.rounds, 3)
    entries = [{"texts": len(w.texts), "gflop": w.flop / 1e9, "passes": []} for w in workloads]
    with Worker(OWN, settings) as worker:
        worker.open(model)
        for workload in workloads:
            worker.read(workload)
        worker.ask("encode", name=workloads[0].name)
        for _ in range(rounds):
            for workload, entry in zip(workloads, entries, strict=True):
                for _ in range(max(1, min(5, 10_000 // len(workload.texts)))):
                    entry["passes"].append(_pass(worker, workload, settings))
    return entries


def memory(model: models.Model, workload: texts.Workload, settings: Settings) -> dict:
    """Where a fresh process's memory goes: before the model, with it, and at the peak of one pass."""
    with Worker(OWN, settings) as worker:
        worker.read(workload)
        before = worker.ask("memory")["now"]
        worker.open(model)
        loaded = worker.ask("memory")
        worker.ask("encode", name=workload.name)
        peak = worker.ask("memory")["peak"]
    return {
        "texts": len(workload.texts),
        "interpreter_and_texts": before,
        "model_loaded": loaded["now"],
        "peak_loading": loaded["peak"],
        "peak": peak,
        "model_file": model.bytes,
        "result": len(workload.texts) * model.H * 4,
    }


def threads(model: models.Model, workload: texts.Workload, settings: Settings) -> list[dict]:
    """Passes, and one sentence at a time, with 1, 2, 4 … threads, in turn."""
    counts = list(_doubling(settings.threads))
    short = texts.Workload("first", model, workload.texts[:50], workload.lengths[:50])
    facts = {"texts": len(workload.texts), "gflop": workload.flop / 1e9}
    entries = [{"threads": n, **facts, "passes": [], "latency": []} for n in counts]
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(OWN, settings, n)) for n in counts]
        for worker in workers:
            worker.open(model)
            worker.read(workload)
            worker.read(short)
            worker.ask("encode", name=short.name)
        for _ in range(settings.rounds):
            for worker, entry in zip(workers, entries, strict=True):
                entry["passes"].append(_pass(worker, workload, settings))
                calls = worker.ask("latency", name=short.name, calls=20 if settings.quick else 200)["seconds"]
                entry["latency"].append(statistics.median(calls))
    return entries


def callers(model: models.Model, workload: texts.Workload, settings: Settings) -> list[dict]:
    """Python threads that call `encode` at once, each call on one thread."""
    entries = []
    with Worker(OWN, settings, threads=1) as worker:
        worker.open(model)
        worker.read(workload)
        for count in (*_doubling(settings.threads), 4 * settings.threads):
            seconds = [
                worker.ask("concurrent", name=workload.name, callers=count)["seconds"] for _ in range(settings.rounds)
            ]
            entries.append({"callers": count, "texts": count * len(workload.texts), "seconds": seconds})
    return entries


def _pass(worker: Worker, workload: texts.Workload, settings: Settings) -> dict:
    from sentpool import _core

    isa = _core.config()["isa"]
    before = fma_peak(isa, worker.threads)
    done = worker.ask("encode", name=workload.name)
    return {**done, "peaks": [before, fma_peak(isa, worker.threads)]}


def _doubling(most: int) -> Iterable[int]:
    """1, 2, 4 … and `most`."""
    count = 1
    while count < most:
        yield count
        count *= 2
    yield most


def main() -> None:
    settings = read_settings(__doc__)
    content = run(settings)
    path = results.record(settings, "scaling", content)
    print(report.scaling_tables(content))
    print(f"\nsaved: {path}")


if __name__ == "__main__":
    main()
