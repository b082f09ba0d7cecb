"""The memory that a step of training takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fabricate import bert_folder

HERE = Path(__file__).parent

PEAK = r"""
import re, sys
sys.path.insert(0, sys.argv[1])
from training_runs import sentences, trained
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024
shared = {"data": sentences(400), "dropout": 0.1, "max_steps": 1, "threads": 2}
trained(sys.argv[2], batch_size=8, **shared)
before = peak()
trained(sys.argv[2], batch_size=400, chunk_size=int(sys.argv[3]), **shared)
print(peak() - before)
"""


def test_chunks_bound_the_memory_of_a_batch(tmp_path):
    """A batch fifty times as large, in chunks as large as the small one: next to nothing is added."""
    folder = bert_folder(tmp_path / "model", hidden_size=192, intermediate_size=768, num_attention_heads=6)
    chunked, whole = (
        float(subprocess.check_output([sys.executable, "-c", PEAK, str(HERE), str(folder), str(rows)]))
        for rows in (16, 10**6)
    )
    assert whole > 80 and chunked < 0.3 * whole, (chunked, whole)
