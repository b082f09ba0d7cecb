"""README's example gives what it shows."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_example_runs(minilm):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    example = example.replace('"all-MiniLM-L6-v2/"', repr(str(minilm)))
    test = doctest.DocTestParser().get_doctest(example, {}, "README", str(README), 0)
    assert len(test.examples) >= 4
    failures, _ = doctest.DocTestRunner(verbose=False).run(test)
    assert failures == 0
