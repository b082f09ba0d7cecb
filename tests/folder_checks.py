"""What the tests of folders, modules and tokenizers share."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from fabricate import write_json

from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError
from sentpool.folder import open_folder
from sentpool.tokenizer import TextTokenizer

# Our names of the poolings: the flag of old folders, the mode of new ones.
MODES = {
    "cls": ("pooling_mode_cls_token", "cls"),
    "max": ("pooling_mode_max_tokens", "max"),
    "mean": ("pooling_mode_mean_tokens", "mean"),
    "mean_sqrt_len": ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
    "weighted_mean": ("pooling_mode_weightedmean_tokens", "weightedmean"),
    "last_token": ("pooling_mode_lasttoken", "lasttoken"),
}

# Short texts with everything that a BERT tokenizer treats in its own way.
SENTENCES = [
    "The cat sat on the mat.",
    "A BIG dog runs!",
    "unhappy running",
    "",
    "   ",
    "中文 and é",
    "[CLS] the [SEP] cat[MASK]",
    "ÉÉ e\u0301 \u0130",
    "\0\x01\ufffd",
    "a" * 101,
    "the\u2028cat\x85sat\xa0on",
]


def refused(folder: Path, match: str) -> str:
    """The message with which a folder is refused, within five seconds."""
    start = time.perf_counter()
    with pytest.raises(ModelFolderError, match=match) as caught:
        open_folder(folder)
    assert time.perf_counter() - start < 5
    return str(caught.value)


def edit_module(folder: Path, number: int, **changes) -> None:
    """Change an entry of `modules.json`."""
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[number] |= changes
    write_json(path, modules)


@contextmanager
def unprivileged():
    """Root may look into everything; here it may not."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def let_others_through(path: Path) -> None:
    """To whatever is in a folder of pytest's, and in those around it."""
    for folder in (path, *(parent for parent in path.parents if "pytest" in str(parent))):
        folder.chmod(folder.stat().st_mode | 0o011)


def read(path: Path, **options) -> TextTokenizer:
    return TextTokenizer.read(path, EncoderConfig.read(path), **options)


def in_threads(number: int, work: Callable[[], object]) -> list:
    """What `work` returns in so many threads at once; what it raises there is raised here."""
    with ThreadPoolExecutor(number) as pool:
        return [future.result() for future in [pool.submit(work) for _ in range(number)]]
