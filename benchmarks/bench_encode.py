"""sentpool against other CPU runtimes, end to end: texts in, embeddings out. README.md says how to read it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import footprint
import models
import numpy as np
import report
import results
import texts
from machine import busy_seconds
from peak import fma_peak
from peers import PEERS, Peer
from settings import Settings, read_settings
from workers import PeerFailed, Worker, prepare, run_python, versions

LATENCY_TOKENS = 11
TUNING_PASSES = 4
LATENCY_CALLS = {"MiniLM-L6": 200, "BERT-base shape": 40}


def run(settings: Settings) -> dict:
    """Every model, workload and peer; the section `encode` of the results."""
    from sentpool import _core

    isa = _core.config()["isa"]
    peers, missing = available(settings)
    content = {
        "missing": missing,
        "peers": {p.name: {"precision": p.precision, "versions": versions(p, settings)} for p in peers},
        "throughput": [],
        "latency": [],
    }
    for model, workloads in plan(settings, peers):
        with ExitStack() as stack:
            workers = open_workers(stack, [p for p in peers if _runs(p, model)], model, settings)
            for workload in workloads:
                results.say(f"{model.name}, {workload.name}: {len(workload.texts)} texts, {workload.tokens} tokens")
                content["throughput"].append(throughput(workers, workload, settings, isa))
            sentences = short_sentences(model, settings)
            if model.name in LATENCY_CALLS and sentences:
                content["latency"].append(latency(workers, sentences, settings, isa))
    minilm, workloads = next(plan(settings, peers))
    best = {name: result["settings"] for name, result in content["throughput"][0]["peers"].items()}
    content["footprint"] = footprint.measure(peers, minilm, workloads[0], best, settings)
    return content


def plan(settings: Settings, peers: list[Peer]) -> Iterator[tuple[models.Model, list[texts.Workload]]]:
    """Models and the texts that each is given: enough of them for a pass to take seconds."""
    minilm = models.open_model("MiniLM-L6", settings.model)
    yield minilm, _workloads(minilm, {"sts": 2758, "wiki": 1500, "cranfield": 160}, settings)
    base = models.bert_base_shape(settings.cache, settings.model)
    yield base, _workloads(base, {"sts": 512}, settings)
    if any(peer.only for peer in peers):
        small = models.small_12_shape(settings.cache, settings.model)
        yield small, _workloads(small, {"sts": 1024}, settings)


def available(settings: Settings) -> tuple[list[Peer], dict[str, str]]:
    """The peers that can be imported, and why the others cannot."""
    found, missing = [], {}
    for peer in PEERS:
        if settings.peers and peer.name not in (*settings.peers, "sentpool"):
            continue
        try:
            run_python(peer, settings, peer.imports)
            found.append(peer)
        except PeerFailed as error:
            missing[peer.name] = str(error)
            results.say(f"not here: {peer.name} ({error})")
    return found, missing


def open_workers(stack: ExitStack, peers: list[Peer], model: models.Model, settings: Settings) -> list[Worker]:
    """A process per peer with the model loaded, sentpool's first; without those that cannot load it."""
    workers = []
    for peer in peers:
        results.say(f"{model.name}: loading {peer.name}")
        try:
            prepare(peer, model, settings)
            worker = stack.enter_context(Worker(peer, settings))
            worker.open(model)
            workers.append(worker)
        except PeerFailed as error:
            results.say(f"  left out: {error}")
    return workers


def throughput(workers: list[Worker], workload: texts.Workload, settings: Settings, isa: str) -> dict:
    """Check, choose settings, then passes in turn: A B C A B C …, the FMA peak between them."""
    sample = _sample(workload)

    def pass_seconds(worker: Worker) -> float:
        return worker.ask("encode", name=sample.name)["seconds"]

    for worker in workers:
        worker.read(sample)
    measured, left_out = agreeing(workers, workload, settings, "throughput", pass_seconds)
    for result in measured.values():
        result["passes"] = []
    for number in range(settings.rounds):
        results.say(f"  round {number + 1} of {settings.rounds}")
        before = fma_peak(isa, settings.threads)
        for worker, result in measured.items():
            done = watched(worker, "encode", name=workload.name)
            after = fma_peak(isa, settings.threads)
            result["passes"].append({**done, "peaks": [before, after]})
            before = after
    return {
        "model": workload.model.name,
        "workload": workload.name,
        "texts": len(workload.texts),
        "tokens": workload.tokens,
        "gflop": workload.flop / 1e9,
        "left_out": left_out,
        "peers": {worker.peer.name: result for worker, result in measured.items()},
    }


def latency(workers: list[Worker], sentences: texts.Workload, settings: Settings, isa: str) -> dict:
    """Median seconds of single calls, in rounds as `throughput`'s passes."""
    calls = 20 if settings.quick else LATENCY_CALLS[sentences.model.name]
    results.say(f"{sentences.model.name}: one sentence of {LATENCY_TOKENS} tokens at a time")

    def single_calls(worker: Worker) -> dict:
        done = watched(worker, "latency", name=sentences.name, calls=calls)
        return {**done, "seconds": sum(done["seconds"]), "median": statistics.median(done["seconds"])}

    measured, left_out = agreeing(workers, sentences, settings, "latency", lambda w: single_calls(w)["median"])
    for result in measured.values():
        result["rounds"] = []
    peaks = []
    for _ in range(settings.rounds):
        peaks.append(fma_peak(isa, settings.threads))
        for worker, result in measured.items():
            result["rounds"].append(single_calls(worker))
    return {
        "model": sentences.model.name,
        "tokens": LATENCY_TOKENS,
        "calls": calls,
        "peaks": peaks,
        "left_out": left_out,
        "peers": {worker.peer.name: result for worker, result in measured.items()},
    }


def watched(worker: Worker, request: str, **arguments) -> dict:
    """The answer to a request, and the CPU seconds that other processes took meanwhile."""
    busy = busy_seconds()
    done = worker.ask(request, **arguments)
    return {**done, "others_cpu": max(0.0, busy_seconds() - busy - done["cpu"])}


def agreeing(
    workers: list[Worker],
    workload: texts.Workload,
    settings: Settings,
    purpose: str,
    seconds: Callable[[Worker], float],
) -> tuple[dict[Worker, dict], dict[str, str]]:
    """The workers that compute what the first one, sentpool's, computes, each with its best settings and warm; and why
    the others do not take part."""
    agreed, left_out, reference = {}, {}, None
    for worker in workers:
        try:
            worker.read(workload)
            chosen = tune(worker, purpose, seconds, settings.quick)
            embeddings = _embeddings(worker, workload, settings)
            reference = embeddings if reference is None else reference
            difference = float(np.abs(embeddings - reference).max())
            if not difference <= worker.peer.tolerance:
                raise PeerFailed(f"computes something else: its embeddings differ by {difference:.1e}")
        except PeerFailed as error:
            left_out[worker.peer.name] = str(error)
            results.say(f"  {worker.peer.name}, left out: {error}")
            continue
        results.say(f"  {worker.peer.name}: {report.settings_text(chosen)}; differs from sentpool by {difference:.1e}")
        lowest = float((embeddings * reference).sum(1).min())
        agreed[worker] = {"settings": chosen, "difference": difference, "lowest_cosine": lowest}
    return agreed, left_out


def tune(worker: Worker, purpose: str, seconds: Callable[[Worker], float], quick: bool) -> dict:
    """The peer's best settings: one axis after the other, the fastest of a few passes, the first to warm up."""
    axes = worker.ask("choices", purpose=purpose)["choices"]
    if quick:
        axes = {axis: values[:2] for axis, values in axes.items()}
    chosen = {axis: values[0] for axis, values in axes.items()}
    for axis, values in axes.items():
        times = {}
        for value in values if len(values) > 1 else ():
            worker.ask("configure", **chosen | {axis: value})
            times[value] = min(seconds(worker) for _ in range(TUNING_PASSES))
        chosen[axis] = min(times, key=times.get) if times else chosen[axis]
    worker.ask("configure", **chosen)
    return chosen


def short_sentences(model: models.Model, settings: Settings) -> texts.Workload | None:
    """Different sentences of LATENCY_TOKENS tokens."""
    sentences = texts.read("sts", settings.data) or texts.sample_sentences(settings.data)
    candidates = texts.workload("short", model, list(dict.fromkeys(sentences)))
    chosen = [
        text for text, length in zip(candidates.texts, candidates.lengths, strict=True) if length == LATENCY_TOKENS
    ]
    return texts.workload("short", model, chosen[:100]) if chosen else None


def _workloads(model: models.Model, counts: dict[str, int], settings: Settings) -> list[texts.Workload]:
    found = {source: texts.read(source, settings.data) for source in counts}
    if not any(found.values()):
        results.say(f"no texts in {settings.data}: the sentences bundled with sentpool take their place")
        found, counts = {"sample": texts.sample_sentences(settings.data)}, {"sample": 400}
    part = 40 if settings.quick else 1
    return [texts.workload(source, model, lines[: counts[source] // part]) for source, lines in found.items() if lines]


def _sample(workload: texts.Workload) -> texts.Workload:
    """An eighth of the texts, spread evenly, and not fewer than 64: enough to compare settings by."""
    step = max(1, min(8, len(workload.texts) // 64))
    return texts.Workload(f"{workload.name}-sample", workload.model, workload.texts[::step], workload.lengths[::step])


def _embeddings(worker: Worker, workload: texts.Workload, settings: Settings) -> np.ndarray:
    file = settings.cache / "embeddings.npy"
    worker.ask("encode", name=workload.name, save=str(file))
    return np.load(file)


def _runs(peer: Peer, model: models.Model) -> bool:
    """fasttextembed's shape is run by it, by sentpool and by ONNX Runtime for scale; all others by everybody else."""
    if model.name.startswith("small"):
        return peer.only == model.name or peer.name in ("sentpool", "onnxruntime")
    return not peer.only


def main() -> None:
    settings = read_settings(__doc__)
    content = run(settings)
    path = results.record(settings, "encode", content)
    print(report.encode_tables(content))
    print(f"\nsaved: {path}")


if __name__ == "__main__":
    main()
