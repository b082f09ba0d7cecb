"""The documentation: its examples give what they show, its pages build without a warning."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sentpool

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "sentpool").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_examples_give_what_they_show(page, minilm):
    text = page.read_text(encoding="utf-8").replace('"all-MiniLM-L6-v2/"', repr(str(minilm)))
    examples = "\n".join(re.findall(r"```python\n(>>>.*?)```", text, flags=re.S))
    test = doctest.DocTestParser().get_doctest(examples, {}, page.name, str(page), 0)
    failures, _ = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(test)
    assert failures == 0


@pytest.fixture(scope="module")
def names(minilm):
    """What examples in docstrings take for granted."""
    model = sentpool.SentenceEncoder(minilm)
    return {"sentpool": sentpool, "evaluation": sentpool.evaluation, "model": model, "np": np}


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module, names, minilm):
    module = importlib.import_module(module)
    found = doctest.DocTestFinder().find(module, extraglobs=names)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for test in found:
        for example in test.examples:
            example.source = example.source.replace('"all-MiniLM-L6-v2/"', repr(str(minilm)))
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_every_page_is_reached():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES} - {"index"} == set(
        re.findall(r"^([\w/]+)$", index, flags=re.M)
    )


@pytest.mark.slow
def test_pages_build_without_a_warning(tmp_path):
    for module in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for page in PAGES:
        assert (tmp_path / page.relative_to(DOCS).with_suffix(".html")).exists()
