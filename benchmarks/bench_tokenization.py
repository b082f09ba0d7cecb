"""Tokenization's share of encoding in int8: words that were never seen, words that are known, the library alone."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable

import bench_encode
import numpy as np
import report
import results
from settings import Settings


def run(settings: Settings) -> dict:
    """The section `tokenization` of the results: bench_encode's texts, all ways in turn, round by round."""
    from sentpool import SentenceEncoder

    warnings.simplefilter("ignore")
    model = SentenceEncoder(settings.model, dtype="int8", int8="fast")
    _, workloads = next(bench_encode.plan(settings, []))
    entries = []
    for workload in workloads:
        works = ways(model, workload.texts, settings.threads)
        passes = {name: [] for name in works}
        for number in range(settings.rounds + 1):
            for name, work in works.items():
                model.tokenizer.forget_words()
                seconds = work()
                if number:  # the first is to warm up
                    passes[name].append(seconds)
        entries.append({"texts": len(workload.texts), "source": workload.name, "passes": passes})
    return {"model": settings.model.name, "entries": entries}


def ways(model, given: list[str], threads: int) -> dict[str, Callable[[], float]]:
    """By name, what is done with the texts when no word is known, in seconds."""
    tokenizer, library = model.tokenizer, model.tokenizer.backend

    def known() -> float:
        tokenizer.encode(given)
        return seconds_of(lambda: tokenizer.encode(given))

    def alone() -> list[np.ndarray]:
        return [np.array(encoding.ids, np.int32) for encoding in library.encode_batch(given)]

    return {
        "new words": lambda: seconds_of(lambda: tokenizer.encode(given)),
        "known words": known,
        "library alone": lambda: seconds_of(alone),
        "encode, int8": lambda: seconds_of(lambda: model.encode(given, threads=threads)),
    }


def seconds_of(work: Callable) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def table(content: dict) -> str:
    """Medians in milliseconds, and what they are of int8's whole time."""
    rows = [("", "texts", "ms", "of encode")]
    for entry in content["entries"]:
        medians = {name: statistics.median(seconds) for name, seconds in entry["passes"].items()}
        for name, seconds in medians.items():
            share = f"{seconds / medians['encode, int8']:.1%}"
            rows.append((f"{entry['source']}, {name}", f"{entry['texts']:,}", f"{seconds * 1e3:.1f}", share))
    return report.table(rows)


if __name__ == "__main__":
    results.run_alone(__doc__, "tokenization", run, table)
