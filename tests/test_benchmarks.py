"""What the benchmarks measure is what their README says; the measuring itself takes minutes and a quiet machine."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="benchmarks/ is not here: installed without it")


def test_import_and_load_are_medians_of_fresh_processes(monkeypatch, minilm, tmp_path):
    """One import and one load are not counted; sources are not compiled again by each process."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "bytecode"))
    import footprint
    import texts
    from models import open_model
    from peers import BY_NAME
    from settings import read_settings

    settings = read_settings("", ["--quick", "--model", str(minilm), "--cache", str(tmp_path), "--threads", "1"])
    model = open_model("MiniLM-L6", minilm)
    workload = texts.workload("two", model, ["The cat sat.", "A dog ran."])
    processes = []

    class Counted(footprint.Worker):
        def open(self, model):
            processes.append(self.process.pid)
            return super().open(model)

    monkeypatch.setattr(footprint, "Worker", Counted)
    monkeypatch.setattr(footprint, "_QUICK_PROCESSES", 3)
    found = footprint.measure([BY_NAME["sentpool"]], model, workload, {"sentpool": {}}, settings)["sentpool"]
    assert len(found["imports"]) == len(found["loads"]) == 3
    assert found["import_seconds"] == statistics.median(found["imports"])
    assert found["load_seconds"] == statistics.median(found["loads"])
    assert len(set(processes)) == len(processes) == 1 + 3 + 1  # not counted, counted, and the one whose memory is read
    assert list((tmp_path / "bytecode").rglob("encoder.*.pyc"))
    assert found["peak_rss"] > model.bytes
