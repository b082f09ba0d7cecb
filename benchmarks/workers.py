"""The processes in which the libraries run, seen from the benchmark."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from models import Model
from peers import Peer
from settings import HERE, ROOT, Settings
from texts import Workload

# A library's threads may spin for some milliseconds after their process wakes up.
_SETTLE_SECONDS = 0.05


class PeerFailed(Exception):
    """A library cannot do what was asked, and why."""


class Worker:
    """One peer's process. It is stopped (SIGSTOP) except while it answers: idle threads of one library, which may
    spin, take nothing from another."""

    def __init__(self, peer: Peer, settings: Settings, threads: int | None = None) -> None:
        self.peer, self.settings, self.threads = peer, settings, threads or settings.threads
        self.log = settings.cache / "logs" / f"{peer.name.replace(' ', '-')}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [_python(peer, settings), str(HERE / "worker.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(peer, self.threads),
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_exception) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def ask(self, request: str, **arguments) -> dict:
        """The answer to one request."""
        self.process.send_signal(signal.SIGCONT)
        time.sleep(_SETTLE_SECONDS)
        try:
            self.process.stdin.write(json.dumps({"request": request, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerFailed(f"its process ended; see {self.log}")
        self.process.send_signal(signal.SIGSTOP)
        answer = json.loads(line)
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer

    def open(self, model: Model) -> float:
        """Load a model; seconds."""
        return self.ask("open", **job(self.peer, model, self.settings, self.threads))["seconds"]

    def read(self, workload: Workload) -> None:
        self.ask("read", name=workload.name, file=str(text_file(workload, self.settings)))


def job(peer: Peer, model: Model, settings: Settings, threads: int) -> dict:
    """The arguments of `open` and `prepare`."""
    form = f"{peer.module}-int8" if peer.precision.startswith("int8") else peer.module
    exported = settings.cache / "exported" / model.key / form
    return {
        "module": peer.module,
        "folder": str(model.path),
        "exported": str(exported),
        "threads": threads,
        "precision": peer.precision,
    }


def prepare(peer: Peer, model: Model, settings: Settings) -> None:
    """Let the peer write its own form of the model, once per model and version of the library; in another process
    than the one that is measured."""
    arguments = job(peer, model, settings, settings.threads)
    folder = Path(arguments["exported"])
    done, version = folder / "version", versions(peer, settings).get(peer.packages[0], "")
    if done.exists() and done.read_text() == version:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with Worker(peer, settings) as worker:
        worker.ask("prepare", **arguments)
    done.write_text(version)


def text_file(workload: Workload, settings: Settings) -> Path:
    """The texts as a file that every worker reads."""
    path = settings.cache / "texts" / f"{workload.model.name} {workload.name}.json".replace(" ", "-")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(workload.texts))
    return path


def run_python(peer: Peer, settings: Settings, code: str) -> str:
    """What a program of the peer's interpreter prints."""
    command = [_python(peer, settings), "-c", code]
    if not Path(command[0]).exists():
        raise PeerFailed(f"no {command[0]}")
    environment = _environment(peer, settings.threads)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it prints nothing"])[-1]
        raise PeerFailed(reason)
    return done.stdout


def versions(peer: Peer, settings: Settings) -> dict[str, str]:
    """Versions of the peer's packages, and of torch where it runs the model."""
    names = (*peer.packages, "torch") if peer.module == "sentence_transformers" else peer.packages
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    return json.loads(run_python(peer, settings, code))


def _is_ours(peer: Peer) -> bool:
    return peer.module.startswith("sentpool")


def _python(peer: Peer, settings: Settings) -> str:
    return sys.executable if _is_ours(peer) else str(settings.python)


def _environment(peer: Peer, threads: int) -> dict[str, str]:
    count = str(threads)
    # Bytecode is kept, as it is for a package that pip installed: compiling it is no part of an import.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "RAYON_NUM_THREADS": count,
        "FTE_THREADS": count,
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
    }
    if _is_ours(peer):
        environment["PYTHONPATH"] = str(ROOT)
    return environment
