"""README's examples give what they show, and run."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture(scope="module")
def examples():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)


def test_the_session_gives_what_it_shows(examples, minilm):
    (example,) = (text for text in examples if text.startswith(">>>"))
    example = example.replace('"all-MiniLM-L6-v2/"', repr(str(minilm)))
    test = doctest.DocTestParser().get_doctest(example, {}, "README", str(README), 0)
    assert len(test.examples) >= 4
    failures, _ = doctest.DocTestRunner(verbose=False).run(test)
    assert failures == 0


def test_the_poolings_run(examples, minilm):
    from sentpool import SentenceEncoder

    (example,) = (text for text in examples if "from sentpool import pooling" in text)
    rng = np.random.default_rng(0)
    names = {
        "model": SentenceEncoder(minilm),
        "sentences": ["A cat sits on the mat.", "A kitten rests on a rug.", "Stocks fell on Monday.", "It rains."],
        "weights": rng.normal(size=7),
        "weight": rng.normal(size=(384, 768)),
        "bias": rng.normal(size=384),
        **{name: rng.normal(size=(384, 384)) for name in ("query", "key", "value")},
    }
    exec(example, names)  # noqa: S102
    assert names["model"].encode(names["sentences"], pooling=names["whitened"]).shape == (4, 2)


def test_the_probe_runs(examples, minilm, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    from sentpool import Pooling, SentenceEncoder, evaluation, pooling

    (example,) = (text for text in examples if "evaluation.probe" in text)
    example = example.replace('"data/sts"', repr(str(evaluation.sample_folder())))
    rng = np.random.default_rng(0)
    weights = (rng.normal(0, 0.05, (384, 384)) for _ in range(3))
    names = {"model": SentenceEncoder(minilm), "oh2022": Pooling(pooling.LayerAttention(*weights))}
    monkeypatch.chdir(tmp_path)
    exec(example, names)  # noqa: S102
    assert {path.name for path in tmp_path.iterdir()} == {"layers.png", "attention.png", "probe.json"}


def test_the_search_runs(examples, minilm, tmp_path, monkeypatch):
    from sentpool import SentenceEncoder

    (example,) = (text for text in examples if "SearchIndex" in text)
    model = SentenceEncoder(minilm)
    sentences = ["Stocks fell on Monday.", "A cat sits on the sofa.", "It rains."]
    vectors = model.encode(sentences)
    names = {"model": model, "sentences": sentences, "queries": vectors[:2], "corpus": vectors}
    monkeypatch.chdir(tmp_path)
    exec(example, names)  # noqa: S102
    assert names["ids"][:, 0].tolist() == [0, 1]
    assert names["index"].search("a pet on furniture", k=3).ids[0] == 1


def test_the_training_runs(examples, minilm, data_dir, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    import sentpool

    (example,) = (text for text in examples if "sentpool.Trainer" in text)
    lines = (data_dir / "nli" / "snli_dev_triplets.csv").read_text(encoding="utf-8").splitlines(keepends=True)[:5]
    (tmp_path / "nli.csv").write_text("".join(lines), encoding="utf-8")
    for name, path in {"data/nli.csv": "nli.csv", "data/sts": sentpool.evaluation.sample_folder()}.items():
        example = example.replace(repr(name).replace("'", '"'), repr(str(path)))
    triplets = [("a cat", "a kitten", "a stone"), ("it rains", "rain falls", "it is dry")]
    monkeypatch.chdir(tmp_path)
    with pytest.warns(sentpool.SentpoolWarning, match="was published with the pooling"):
        exec(example, {"sentpool": sentpool, "model": sentpool.SentenceEncoder(minilm), "triplets": triplets})  # noqa: S102
    assert (tmp_path / "scores.png").exists() and (tmp_path / "run" / "last").is_dir()
