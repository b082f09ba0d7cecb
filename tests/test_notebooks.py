"""The notebooks: their sources run in a clean process and print what the executed ones show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")

notebooks = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def cells_of(source: Path) -> list[tuple[str, str]]:
    """(kind, text) of each cell in jupytext's percent format."""
    cells = []
    for part in re.split(r"^# %%", source.read_text(encoding="utf-8"), flags=re.M)[1:]:
        head, _, body = part.partition("\n")
        if head.strip() == "[markdown]":
            cells.append(("markdown", re.sub(r"^# ?", "", body, flags=re.M).strip()))
        else:
            cells.append(("code", body.strip()))
    return cells


def executed(source: Path) -> list[dict]:
    return json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]


@notebooks
def test_the_notebook_is_its_source_executed(source):
    cells = executed(source)
    assert [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in cells] == cells_of(source)
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["execution_count"] is not None
            kinds = [(output["output_type"], output.get("name")) for output in cell["outputs"]]
            assert ("error", None) not in kinds and ("stream", "stderr") not in kinds
    assert re.search(r"/(home|tmp|root|work|usr)/", json.dumps(cells)) is None


@pytest.mark.slow
@pytest.mark.timeout(900)
@notebooks
def test_the_source_prints_what_the_notebook_shows(source, minilm, tmp_path):
    for module in ("matplotlib", "pandas", "ir_measures"):
        pytest.importorskip(module)
    shown = [
        "".join(output["text"])
        for cell in executed(source)
        for output in cell.get("outputs", ())
        if output["output_type"] == "stream"
    ]
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, source], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Some numbers come from NumPy's linear algebra, whose last digit is another one on another machine.
    assert NUMBER.sub("#", done.stdout) == NUMBER.sub("#", "".join(shown))
    numbers = [list(map(float, NUMBER.findall(text))) for text in (done.stdout, "".join(shown))]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.011)
