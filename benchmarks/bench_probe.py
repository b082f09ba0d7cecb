"""What a probe of every layer and pooling costs beside a plain STS run over the same tasks, in time and memory."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable

import results
from settings import Settings


def run(settings: Settings) -> dict:
    """The section `probe` of the results: both in turn, round by round."""
    from sentpool import SentenceEncoder, evaluation
    from sentpool.evaluation.report import STANDARD_SEVEN

    warnings.simplefilter("ignore")
    model = SentenceEncoder(settings.model)
    folder, tasks = settings.data / "sts", list(STANDARD_SEVEN)
    if not folder.is_dir():
        folder, tasks = evaluation.sample_folder(), None
    elif settings.quick:
        tasks = ["STSB-test"]
    works = {
        "sts": lambda: evaluation.sts(model, folder, tasks, threads=settings.threads, show_progress_bar=False),
        "probe": lambda: evaluation.probe(
            model, folder, tasks=tasks, threads=settings.threads, show_progress_bar=False
        ),
    }
    found = {name: {"seconds": [], "cpu_seconds": [], "peak_above_model": peak(work)} for name, work in works.items()}
    for _ in range(settings.rounds):
        for name, work in works.items():
            began, cpu = time.perf_counter(), time.process_time()
            result = work()
            found[name]["seconds"].append(time.perf_counter() - began)
            found[name]["cpu_seconds"].append(time.process_time() - cpu)
            found[name]["parts"] = result.seconds
    poolings = {(row["tokens"], row["layers"]) for row in result.rows}
    return {
        "model": str(settings.model.name),
        "tasks": list(result.tasks),
        "sentences": result.encoding["sentences"],
        "poolings": len(poolings),
        **found,
    }


def peak(work: Callable) -> int:
    """Bytes by which a process that has the model grows while it works; measured in a fork, whose peak begins anew."""

    def resident_at_peak(task: Callable) -> int:
        child = os.fork()
        if child == 0:
            task()
            os._exit(0)
        _, status, usage = os.wait4(child, 0)
        if status:
            raise RuntimeError(f"the measured process ended with status {status}")
        return usage.ru_maxrss * 1024

    return resident_at_peak(work) - resident_at_peak(lambda: None)


def table(content: dict) -> str:
    """Medians and extremes, then the ratio."""
    lines = [
        f"{content['sentences']:,} distinct sentences of {', '.join(content['tasks'])}; "
        f"{content['poolings']} poolings in the probe",
        "",
        f"{'':6}{'median s':>10}{'fastest':>10}{'slowest':>10}{'peak above the model':>24}",
    ]
    for name in ("sts", "probe"):
        seconds = content[name]["seconds"]
        numbers = statistics.median(seconds), min(seconds), max(seconds)
        peak_mb = f"{content[name]['peak_above_model'] / 1e6:.0f} MB"
        lines.append(f"{name:6}" + "".join(f"{number:10.2f}" for number in numbers) + f"{peak_mb:>24}")
    lines.append("")
    for what in ("seconds", "cpu_seconds"):
        ratios = [b / a for a, b in zip(content["sts"][what], content["probe"][what], strict=True)]
        lines.append(f"probe / sts, {what}, median of {len(ratios)} rounds: {statistics.median(ratios):.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    results.run_alone(__doc__, "probe", run, table)
