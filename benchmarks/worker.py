"""One library in a process of its own: JSON requests on standard input, one JSON answer each on standard output.

Run by workers.py. Nothing but the standard library is imported before the library itself is asked for.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

_PR_SET_PDEATHSIG = 1


class Worker:
    """The requests, by name; what each returns goes back as JSON."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.encoder = None

    def prepare(self, module: str, **job) -> dict:
        """Write the library's own form of a model."""
        importlib.import_module(f"peers.{module}").Encoder.prepare(_job(job))
        return {}

    def open(self, module: str, **job) -> dict:
        """Load the model; seconds without the import, and what a process holds before and after."""
        encoder_class = importlib.import_module(f"peers.{module}").Encoder
        start = time.perf_counter()
        self.encoder = encoder_class(_job(job))
        return {"seconds": time.perf_counter() - start}

    def read(self, name: str, file: str) -> dict:
        self.texts[name] = json.loads(Path(file).read_text())
        return {}

    def choices(self, purpose: str) -> dict:
        return {"choices": self.encoder.choices(purpose)}

    def configure(self, **settings) -> dict:
        self.encoder.configure(**settings)
        return {}

    def encode(self, name: str, save: str = "") -> dict:
        """One pass; wall seconds, and CPU seconds of all threads of this process."""
        cpu, start = time.process_time(), time.perf_counter()
        embeddings = self.encoder.encode(self.texts[name])
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        if save:
            import numpy as np

            np.save(save, np.asarray(embeddings, np.float32))
        return {"seconds": seconds, "cpu": cpu}

    def train(self, name: str, **what) -> dict:
        """Some steps of training; wall seconds, CPU seconds of all threads, losses."""
        cpu, start = time.process_time(), time.perf_counter()
        losses = self.encoder.train(self.texts[name], **what)
        return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "losses": losses}

    def latency(self, name: str, calls: int) -> dict:
        """Seconds of each of `calls` calls with one text, the texts in turn."""
        texts = self.texts[name]
        seconds, cpu = [], time.process_time()
        for call in range(calls):
            text = [texts[call % len(texts)]]
            start = time.perf_counter()
            self.encoder.encode(text)
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds, "cpu": time.process_time() - cpu}

    def concurrent(self, name: str, callers: int) -> dict:
        """Seconds until `callers` Python threads have each encoded all the texts, started together."""
        texts = self.texts[name]
        threads = [threading.Thread(target=self.encoder.encode, args=(texts,)) for _ in range(callers)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"seconds": time.perf_counter() - start}

    def memory(self) -> dict:
        """Resident memory now and at its peak, in bytes."""
        lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
        kilobytes = {words[0]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "VmHWM:")}
        return {"now": kilobytes["VmRSS:"] * 1024, "peak": kilobytes["VmHWM:"] * 1024}


def _job(fields: dict):
    from peers.base import Job

    return Job(Path(fields["folder"]), Path(fields["exported"]), fields["threads"], fields["precision"])


def main() -> None:
    # A stopped process would outlive a benchmark that was killed: let it be killed too.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Libraries print; what they print goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("request"))(**request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
