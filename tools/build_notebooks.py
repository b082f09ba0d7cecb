"""Execute notebooks/*.py (jupytext's py:percent) and write what they show beside them, as .ipynb.

    python tools/build_notebooks.py [01 04 ...]

Needs jupytext, nbclient and ipykernel (`make notebooks` installs them). Outputs hold nothing of machine or time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"


def build(source: Path) -> None:
    notebook = jupytext.read(source)
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": FOLDER}}).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", {}
    nbformat.write(notebook, source.with_suffix(".ipynb"))


if __name__ == "__main__":
    # No progress bars, nor tqdm's warning that a notebook could have nicer ones.
    os.environ |= {"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore:IProgress not found", "PYTHONPATH": os.fspath(ROOT)}
    for source in sorted(FOLDER.glob("*.py")):
        if len(sys.argv) == 1 or source.name.startswith(tuple(sys.argv[1:])):
            print(source.relative_to(ROOT), flush=True)
            build(source)
