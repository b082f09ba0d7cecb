"""A step of unsupervised SimCSE beside the same step in torch: 64 sentences twice, at most 32 tokens, AdamW."""

from __future__ import annotations

import statistics
from contextlib import ExitStack

import peak
import results
from models import Model, bert_base_shape, open_model
from peers import TRAINERS
from settings import Settings
from texts import Workload, wiki_sentences, workload
from workers import PeerFailed, Worker, versions

BATCH, LENGTH = 64, 32
# Products: forward, gradients of inputs, gradients of weights.
FORWARDS = 3
WARM = 2


def run(settings: Settings) -> dict:
    """The section `training` of the results."""
    minilm = open_model("MiniLM-L6", settings.model)
    steps = {minilm: 1 if settings.quick else 4}
    steps[bert_base_shape(settings.cache, settings.model)] = 1
    return {
        "batch": BATCH,
        "max_length": LENGTH,
        "models": {model.name: _model(model, count, settings) for model, count in steps.items()},
    }


def _model(model: Model, steps: int, settings: Settings) -> dict:
    texts = wiki_sentences(settings.data)[: BATCH * (WARM + steps * settings.rounds)]
    work = workload("wiki", model, texts)
    peers = [peer for peer in TRAINERS if peer.name == "sentpool" or not settings.peers or peer.name in settings.peers]
    found = {}
    with ExitStack() as stack:
        workers = {}
        for peer in peers:
            results.say(f"{model.name}: {peer.name} warms up")
            try:
                worker = stack.enter_context(Worker(peer, settings))
                worker.open(model)
                worker.read(work)
                worker.ask("train", **_what(work, WARM))
            except PeerFailed as failure:
                found[peer.name] = {"failed": str(failure)}
                continue
            workers[peer.name] = worker
            found[peer.name] = {"seconds": [], "cpu": [], "losses": []}
        probes = []
        for number in range(settings.rounds):
            results.say(f"  round {number + 1} of {settings.rounds}")
            probes.append(peak.fma_peak(_isa(), settings.threads))
            for name, worker in workers.items():
                answer = worker.ask("train", **_what(work, steps))
                found[name]["seconds"].append(answer["seconds"] / steps)
                found[name]["cpu"].append(answer["cpu"] / steps)
                found[name]["losses"] += answer["losses"]
        for peer in peers:
            if peer.name in workers:
                found[peer.name]["peak_bytes"] = workers[peer.name].ask("memory")["peak"]
                if peer.name != "sentpool":
                    found[peer.name]["versions"] = versions(peer, settings)
    return {"tokens": _tokens(work), "flop": FORWARDS * _flop(work), "peak_gflops": probes, "peers": found}


def _what(work: Workload, steps: int) -> dict:
    return {"name": work.name, "batch_size": BATCH, "max_length": LENGTH, "steps": steps}


def _tokens(work: Workload) -> int:
    """Tokens of a step: the mean of the run's, each sentence twice."""
    return round(2 * BATCH * float(work.lengths.clip(max=LENGTH).mean()))


def _flop(work: Workload) -> float:
    """Useful operations of a step's forward pass."""
    return 2 * BATCH * work.model.flop(work.lengths.clip(max=LENGTH)) / len(work.lengths)


def _isa() -> str:
    from sentpool import _core

    return _core.config()["isa"]


def table(content: dict) -> str:
    """Seconds of a step, memory, and the ratio of each round to sentpool."""
    lines = []
    for name, model in content["models"].items():
        ours = model["peers"]["sentpool"]
        lines += [
            f"{name}: {content['batch']} sentences twice, {model['tokens']:,} tokens a step",
            f"{'':12}{'s a step':>10}{'fastest':>10}{'slowest':>10}{'GFLOP/s':>10}{'peak RSS':>10}{'to sentpool':>14}",
        ]
        for peer, found in model["peers"].items():
            if "failed" in found:
                lines.append(f"{peer:12}{found['failed']}")
                continue
            seconds = found["seconds"]
            middle = statistics.median(seconds)
            ratio = statistics.median(b / a for a, b in zip(ours["seconds"], seconds, strict=True))
            lines.append(
                f"{peer:12}{middle:10.3f}{min(seconds):10.3f}{max(seconds):10.3f}{model['flop'] / middle / 1e9:10.1f}"
                f"{found['peak_bytes'] / 1e6:7.0f} MB{ratio:13.2f}×"
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    results.run_alone(__doc__, "training", run, table)
