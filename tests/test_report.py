"""The result object: access by name, tables, saving and loading."""

from __future__ import annotations

import builtins
import json
import math
import os

import numpy as np
import pytest
from html_tags import TagCounter

from sentpool.evaluation import STSResult
from sentpool.evaluation.report import STANDARD_SEVEN, Aggregates, SubsetScores, TaskScores


def make_result(tasks=STANDARD_SEVEN, **details):
    """A result with recognisable numbers: task k has k hundredths."""
    scores, pairs = {}, {}
    for k, task in enumerate(tasks):
        spearman = Aggregates(k / 100, 0.5 + k / 100, -k / 100)
        subsets = {"one": SubsetScores(2, 0.25, math.nan)} if task == "STS12" else {}
        scores[task] = TaskScores(3000 + k, spearman, Aggregates(0.9, 0.8, 0.7), subsets)
        name = "one" if subsets else ""
        pairs[task] = {name: (np.array([0.1, 0.2 + k]), np.array([5.0, 4.2]))}
    return STSResult(tasks=scores, pairs=pairs, **details)


def test_access_by_name():
    result = make_result()
    assert result["STS13"].spearman.all == 0.01
    assert result["sts13"] is result["STS13"]
    assert result.spearman("STS13", "mean") == 0.51
    assert result.pearson("STSB-test", "wmean") == 0.7
    assert list(result) == list(STANDARD_SEVEN)
    assert "STSB-test" in result
    assert "STSB-dev" not in result
    assert result["STS12"].subsets["one"].spearman == 0.25
    assert result.scores("STS13").tolist() == [0.1, 1.2]
    assert result.gold("STS12", "one").tolist() == [5.0, 4.2]


def test_unknown_names_say_what_there_is():
    result = make_result(("STS12", "STSB-test"), skipped={"STS13": "STS13 needs the folder STS13-en-test/"})
    with pytest.raises(KeyError, match="'STS14' is not among STS12, STSB-test"):
        result["STS14"]
    with pytest.raises(KeyError, match="'sts13' was skipped: STS13 needs the folder"):
        result["sts13"]
    with pytest.raises(ValueError, match="'median': choose from all, mean, wmean"):
        result.spearman("STS12", "median")
    with pytest.raises(KeyError, match="no subset 'two': choose from one"):
        result.scores("STS12", "two")
    with pytest.raises(KeyError, match="none, it is one list"):
        result.scores("STSB-test", "two")


def test_average_over_the_standard_seven():
    average = make_result().average()
    assert average == pytest.approx((0.03, 0.53, -0.03), abs=1e-15)
    assert make_result().average("pearson") == pytest.approx((0.9, 0.8, 0.7), abs=1e-15)
    assert make_result(STANDARD_SEVEN[:-1]).average() is None
    with pytest.raises(ValueError, match="choose 'spearman' or 'pearson'"):
        make_result().average("kendall")


def test_text_table():
    text = repr(
        make_result(
            model={"name": "tiny", "pooling": "cls", "max_seq_length": 64},
            encoding={"sentences": 4321, "truncated": 12},
        )
    )
    lines = text.splitlines()
    assert lines[0].startswith("STS of tiny: ")
    assert lines[1] == "pooling cls; at most 64 tokens; 12 of 4,321 sentences truncated"
    assert lines[3].split() == ["Spearman", "×100", "Pearson", "×100"]
    assert lines[4].split() == ["task", "pairs", "all", "mean", "wmean", "all", "mean", "wmean"]
    assert lines[6].split() == ["STS13", "3,001", "1.00", "51.00", "-1.00", "90.00", "80.00", "70.00"]
    assert len({len(line) for line in lines[3:12]}) == 1
    average = next(line for line in lines if line.startswith("average of 7 "))
    assert average.split() == ["average", "of", "7", "3.00", "53.00", "-3.00", "90.00", "80.00", "70.00"]
    for label in (
        "all: one correlation",
        "mean: mean of",
        "wmean: that mean",
        "SICKR-test (its 4,927-pair test split)",
    ):
        assert label in text
    assert next(line for line in lines if line.startswith("STS12 one")).split() == [
        "STS12",
        "one",
        "2",
        "25.00",
        "nan",
    ]
    assert max(map(len, lines)) <= 110


def test_text_table_without_average_or_subsets():
    text = repr(make_result(("STSB-test",), skipped={"STS12": "no STS12 here"}))
    assert "average" not in text
    assert "subset " not in text
    assert text.endswith("not scored: no STS12 here")
    assert repr(make_result(()))


def test_html_table_is_whole_and_escaped():
    evil = "<script>alert(1)</script>&"
    source = make_result(model={"name": evil}, skipped={"x": evil})._repr_html_()
    page = TagCounter()
    page.feed(source)
    assert page.open == []
    assert page.seen == {
        "div",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "small",
        "details",
        "summary",
    }
    assert "".join(page.text).count(evil) == 2
    assert "Spearman ×100" in page.text
    assert "wmean" in page.text


def test_save_and_load(tmp_path):
    result = make_result(
        model={"name": "tiny", "weights": {"model.safetensors": "ab" * 32}, "max_seq_length": np.int64(256)},
        encoding={"sentences": 4, "truncated": 0},
        data={"folder": "data/sts", "pairs": {"STS12": 3000}, "sha256": {}},
        seconds={"encode": 1.5},
        skipped={"STSB-dev": "missing"},
    )
    path = tmp_path / "result.json"
    result.save(path, scores=False)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["model"]["weights"] == {"model.safetensors": "ab" * 32}
    assert content["aggregation"].keys() == {"all", "mean", "wmean"}
    assert content["average of seven"]["tasks"] == list(STANDARD_SEVEN)
    assert content["tasks"]["STS12"]["subsets"]["one"]["pearson"] is None
    assert content["versions"].keys() == {"python", "sentpool", "numpy", "tokenizers", "safetensors"}
    assert "pairs" not in content
    again = STSResult.load(path)
    assert repr(again) == repr(result)
    assert again.seconds == result.seconds
    assert again.versions == result.versions
    assert math.isnan(again["STS12"].subsets["one"].pearson)
    with pytest.raises(ValueError, match=r"saved without them; save\(path, scores=True\)"):
        again.scores("STS12")
    result.save(path)
    again = STSResult.load(path)
    for task in result:
        assert again.scores(task).tobytes() == result.scores(task).tobytes()
        assert again.gold(task).tobytes() == result.gold(task).tobytes()
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        make_result().save(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_where_nothing_can_be_saved(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        make_result().save(tmp_path / "nowhere" / "result.json")
    with pytest.raises(OSError, match="not a regular file"):
        make_result().save(tmp_path)
    link = tmp_path / "link.json"
    (tmp_path / "target.json").write_text("old")
    link.symlink_to(tmp_path / "target.json")
    make_result().save(link)
    assert link.is_symlink()
    assert STSResult.load(tmp_path / "target.json")["STS12"].n == 3000


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "is no result saved"),
        ("[]", "is no result saved"),
        ('{"a": 1}', "'format' is missing"),
        ('{"format": "sentpool STS result 99"}', "format is 'sentpool STS result 99'"),
        ('{"format": "sentpool STS result 1", "tasks": {"STS12": {}}}', "'pairs' is missing"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        STSResult.load(tmp_path / "x.json")


def test_to_frame():
    pytest.importorskip("pandas")
    frame = make_result().to_frame()
    assert list(frame.index) == list(STANDARD_SEVEN)
    assert frame.loc["STS13", "spearman_mean"] == 0.51
    assert list(frame.columns[:4]) == ["pairs", "spearman_all", "spearman_mean", "spearman_wmean"]
    subsets = make_result().to_frame(subsets=True)
    assert subsets.loc[("STS12", "one"), "spearman"] == 0.25
    assert make_result(("STSB-test",)).to_frame(subsets=True).empty


def test_to_frame_without_pandas(monkeypatch):
    real_import = builtins.__import__

    def no_pandas(name, *rest, **more):
        if name == "pandas":
            raise ImportError(name)
        return real_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_pandas)
    with pytest.raises(ImportError, match="pip install pandas"):
        make_result().to_frame()
