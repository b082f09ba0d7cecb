"""Results as JSON: one file per machine and name, one section per benchmark."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import machine
from settings import HERE, Settings, read_settings


def path_of(settings: Settings) -> Path:
    """Where this run's results go: into the tree, unless they are nothing to keep."""
    if settings.quick and not settings.name:
        return settings.cache / "quick.json"
    return HERE / "results" / f"{settings.name or machine.slug()}.json"


def record(settings: Settings, section: str, content: dict) -> Path:
    """Put one benchmark's results into the file, beside the other sections of the same machine."""
    from sentpool import _core
    from sentpool.config_report import versions

    path = path_of(settings)
    here = machine.describe()
    results = json.loads(path.read_text()) if path.exists() else {}
    if results.get("machine") != here:
        results = {"machine": here}
    results[section] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "quick": settings.quick,
        "threads": settings.threads,
        "versions": versions(),
        "kernels": _core.config(),
        **content,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return path


def say(text: str) -> None:
    """How far a run is: beside its tables, not among them."""
    print(text, file=sys.stderr, flush=True)


def run_alone(description: str, section: str, run: Callable[[Settings], dict], table: Callable[[dict], str]) -> Path:
    """What a benchmark with one section does when it is started: measure, record, print its table. The file."""
    settings = read_settings(description)
    if warning := machine.idle_warning():
        print(warning)
    content = run(settings)
    path = record(settings, section, content)
    print(table(content))
    print(f"\nsaved: {path}")
    return path
