"""Two results side by side: gaps, intervals and tests against SciPy; causes in words; how it is refused."""

from __future__ import annotations

import json
import math
import re
import zlib

import numpy as np
import pytest

from sentpool import cli, evaluation
from sentpool.evaluation import Comparison, ProbeResult, STSResult
from sentpool.evaluation.report import STANDARD_SEVEN, Aggregates, SubsetScores, TaskScores
from sentpool.evaluation.resampling import draws
from sentpool.evaluation.significance import Bootstrap, holm, williams
from sentpool.evaluation.tables import AVERAGE

stats = pytest.importorskip("scipy.stats")
CORRELATIONS = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}


def sts_result(cosines, golds, **facts) -> STSResult:
    """A result of given cosines and gold scores, by task and subset; its numbers by SciPy."""
    tasks, pairs = {}, {}
    for task, parts in golds.items():
        pairs[task] = {
            name: (np.array(cosines[task][name], float), np.array(gold, float)) for name, gold in parts.items()
        }
        sizes = [len(gold) for gold in parts.values()]
        numbers = {}
        for coefficient, function in CORRELATIONS.items():
            each = [float(function(*part)[0]) for part in pairs[task].values()]
            together = float(function(*(np.concatenate(side) for side in zip(*pairs[task].values(), strict=True)))[0])
            numbers[coefficient] = Aggregates(together, float(np.mean(each)), float(np.average(each, weights=sizes)))
            numbers[f"{coefficient} of each"] = each
        subsets = {
            name: SubsetScores(size, numbers["spearman of each"][k], numbers["pearson of each"][k])
            for k, (name, size) in enumerate(zip(parts, sizes, strict=True))
            if name
        }
        tasks[task] = TaskScores(sum(sizes), numbers["spearman"], numbers["pearson"], subsets)
    return STSResult(tasks, pairs, **facts)


def noisy(golds, noise, seed):
    """Cosines of a model that is the worse, the more noise there is."""
    rng = np.random.default_rng(seed)
    return {
        task: {name: np.tanh(np.array(gold) / 5 + rng.normal(0, noise, len(gold))) for name, gold in parts.items()}
        for task, parts in golds.items()
    }


@pytest.fixture
def golds():
    rng = np.random.default_rng(0)
    return {
        "STS12": {name: rng.integers(0, 6, n).astype(float) for name, n in (("one", 90), ("two", 60))},
        "STSB-test": {"": rng.uniform(0, 5, 120)},
    }


@pytest.fixture
def pair(golds):
    return sts_result(noisy(golds, 0.2, 1), golds), sts_result(noisy(golds, 0.8, 2), golds)


def row_of(comparison, task):
    (row,) = (row for row in comparison.rows if row["task"] == task)
    return row


@pytest.mark.parametrize("coefficient", ["spearman", "pearson"])
@pytest.mark.parametrize("aggregation", ["all", "mean", "wmean"])
def test_intervals_are_those_of_resampled_pairs(pair, coefficient, aggregation):
    """Each resample drawn by hand, both models' numbers by SciPy from the same pairs, percentiles by NumPy."""
    a, b = pair
    found = evaluation.compare(
        a, b, coefficient=coefficient, aggregation=aggregation, resamples=200, seed=3, confidence=0.9
    )
    row = row_of(found, "STS12")
    assert row["diff"] == getattr(a, coefficient)("STS12", aggregation) - getattr(b, coefficient)("STS12", aggregation)
    counts = list(draws([90, 60], Bootstrap(200, 3, 0.9), zlib.crc32(b"STS12")))
    differences = []
    for k in range(200):
        drawn = [np.repeat(np.arange(n), block[k]) for n, block in zip((90, 60), counts[0], strict=True)]
        numbers = []
        for result in (a, b):
            parts = [
                (cosine[items], gold[items])
                for (cosine, gold), items in zip(result.pairs["STS12"].values(), drawn, strict=True)
            ]
            if aggregation == "all":
                parts = [tuple(np.concatenate(side) for side in zip(*parts, strict=True))]
            each = [CORRELATIONS[coefficient](*part)[0] for part in parts]
            numbers.append(np.average(each, weights=[90, 60] if aggregation == "wmean" else None))
        differences.append(numbers[0] - numbers[1])
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(differences, [0.05, 0.95])), abs=1e-12)
    smaller = min(np.sum(np.array(differences) <= 0), np.sum(np.array(differences) >= 0))
    assert row["p"] == pytest.approx(min(1, 2 * (smaller + 1) / 201))


def test_williams_gets_the_three_correlations(pair):
    a, b = pair
    found = evaluation.compare(a, b, coefficient="pearson", resamples=100)
    for task, n in (("STS12", 150), ("STSB-test", 120)):
        r = np.corrcoef([a.gold(task), a.scores(task), b.scores(task)])
        t, _, p = williams(r[0, 1], r[0, 2], r[1, 2], n)
        assert row_of(found, task)["williams_t"] == pytest.approx(t, rel=1e-9)
        assert row_of(found, task)["williams_p"] == pytest.approx(p, rel=1e-6)
    of_means = evaluation.compare(a, b, aggregation="mean", resamples=100)
    assert math.isnan(row_of(of_means, "STS12")["williams_p"])
    assert not math.isnan(row_of(of_means, "STSB-test")["williams_p"])


def test_b_minus_a_is_the_mirror(pair):
    a, b = pair
    there, back = evaluation.compare(a, b, resamples=200), evaluation.compare(b, a, resamples=200)
    for one, other in zip(there.rows, back.rows, strict=True):
        assert one["diff"] == -other["diff"]
        assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))
        assert one["p"] == other["p"]
    assert {there.verdict(row) for row in there.rows} == {"a higher"}
    assert {back.verdict(row) for row in back.rows} == {"b higher"}
    assert "a is higher beyond chance on STS12, STSB-test" in there.words[0]


def test_holm_is_over_the_tasks_without_their_average():
    rng = np.random.default_rng(5)
    golds = {task: {"": rng.uniform(0, 5, 60)} for task in STANDARD_SEVEN}
    a, b = sts_result(noisy(golds, 0.5, 1), golds), sts_result(noisy(golds, 0.6, 2), golds)
    found = evaluation.compare(a, b, resamples=300)
    tasks, (average,) = found.rows[:-1], found.rows[-1:]
    assert [row["p_holm"] for row in tasks] == pytest.approx(holm([row["p"] for row in tasks]))
    assert average["task"] == AVERAGE
    assert average["diff"] == pytest.approx(np.mean([row["diff"] for row in tasks]))
    # Independent tasks: the variance of the average's gap is the sum of theirs over 49.
    widths = [row["high"] - row["low"] for row in tasks]
    assert average["high"] - average["low"] == pytest.approx(math.sqrt(np.sum(np.square(widths))) / 7, rel=0.25)
    assert math.isnan(average["p_holm"])
    assert found.verdict(average) in ("a higher", "chance")
    assert any(words.startswith("On the average of the seven tasks") for words in found.words)


def test_level_of_the_bootstrap_under_the_null():
    """Two equally good models: p is at most 0.05 in about 5 % of 300 comparisons."""
    rng = np.random.default_rng(6)
    rejected = 0
    for _ in range(300):
        gold = {"STSB-test": {"": rng.normal(size=80)}}
        cosines = [{"STSB-test": {"": gold["STSB-test"][""] + rng.normal(size=80)}} for _ in range(2)]
        found = evaluation.compare(*(sts_result(one, gold) for one in cosines), resamples=400)
        rejected += found.rows[0]["p"] <= 0.05
    assert rejected / 300 == pytest.approx(0.05, abs=0.04)


def test_equal_results_are_equal(pair):
    found = evaluation.compare(pair[0], pair[0], resamples=100)
    assert {found.verdict(row) for row in found.rows} == {"equal"}
    assert {row["p"] for row in found.rows} == {1.0}
    assert "Every number is equal." in found.words
    assert "Nothing that can change numbers differs between the two." in found.words
    assert found.differences == []


def test_frame_and_tables(pair):
    pytest.importorskip("pandas")
    found = evaluation.compare(*pair, resamples=100)
    frame = found.to_frame()
    assert list(frame.index) == ["STS12", "STSB-test"]
    assert frame.loc["STS12", ["diff", "low", "high"]].tolist() == [found.rows[0][k] for k in ("diff", "low", "high")]
    assert frame.loc["STS12", "verdict"] == "a higher"
    line = next(line for line in repr(found).splitlines() if line.startswith("STS12"))
    assert line.split()[1:5] == [
        "150", f"{100 * pair[0].spearman('STS12'):.2f}", f"{100 * pair[1].spearman('STS12'):.2f}",
        f"{100 * found.rows[0]['diff']:+.2f}",
    ]  # fmt: skip
    assert found._repr_html_().count("<tr>") == 3


def test_saved_and_loaded(pair, tmp_path):
    found = evaluation.compare(*pair, aggregation="mean", resamples=100)
    found.save(tmp_path / "c.json")
    again = Comparison.load(tmp_path / "c.json")
    assert repr(again) == repr(found)
    assert json.loads((tmp_path / "c.json").read_text())["words"] == found.words


FACTS = {
    "model": {
        "name": "one",
        "weights_sha256": {"model.safetensors": "ab"},
        "pooling": "mean, normalize",
        "max_seq_length": 256,
        "kernels": {"isa": "avx2"},
    },
    "encoding": {"sentences": 300, "truncated": 0, "threads": 2},
    "data": {"pairs": {"STS12": 150, "STSB-test": 120}, "files": {"STS12": ["x.tsv"]}, "sha256": {"x.tsv": "cd"}},
    "versions": {"sentpool": "1", "tokenizers": "0.20", "numpy": "2.1"},
}


def changed(**changes):
    """FACTS with some values of its parts replaced; a value of None removes one."""
    facts = {part: dict(values) for part, values in FACTS.items()}
    for part, values in changes.items():
        facts[part] = {name: value for name, value in {**facts[part], **values}.items() if value is not None}
    return facts


def causes(golds, **changes):
    cosines = noisy(golds, 0.3, 1)
    return evaluation.compare(
        sts_result(cosines, golds, **FACTS), sts_result(cosines, golds, **changed(**changes)), resamples=100
    )


@pytest.mark.parametrize(
    "changes, what, words",
    [
        ({"model": {"weights_sha256": {"model.safetensors": "ef"}}}, "weights", r"other files .*model\.safetensors"),
        ({"model": {"weights_sha256": None, "name": "x.f"}}, "model", "one and x.f; the weights of at least one"),
        ({"model": {"pooling": "cls"}}, "pooling", "pooling: mean, normalize and cls"),
        ({"encoding": {"pooling": "cls"}}, "pooling", "mean, normalize and cls"),
        ({"model": {"max_seq_length": 128}}, "max_seq_length", "256 and 128; longer texts are cut"),
        ({"encoding": {"truncated": 17}}, "truncated", "0 and 17 of 300 texts"),
        ({"encoding": {"prompt": "query: "}}, "prompt", "not recorded and query: ; the encoders saw other texts"),
        ({"encoding": {"precision": "bfloat16"}}, "precision", "not recorded and bfloat16"),
        ({"model": {"tokenizer_sha256": "12"}}, "tokenizer_sha256", "may become other tokens"),
        ({"versions": {"tokenizers": "0.22"}}, "tokenizers", "0.20 and 0.22"),
        ({"versions": {"sentpool": "2"}}, "sentpool", "1 and 2; the CHANGELOG names"),
        ({"data": {"sha256": {"x.tsv": "00"}}}, "data of STS12", "other files by their SHA-256"),
    ],
)
def test_one_cause_is_named(golds, changes, what, words):
    found = causes(golds, **changes)
    (one,) = found.differences
    assert (one.what, one.matters) == (what, True)
    assert re.search(words, one.words)
    assert f"The two differ in one thing that can change numbers: {what}." in found.words
    assert f"- {one.words}" in repr(found)


def test_layer_conventions_are_told_apart(golds):
    first = sts_result(noisy(golds, 0.3, 1), golds, **changed(encoding={"pooling": "first_last"}))
    other = sts_result(noisy(golds, 0.3, 2), golds, **changed(encoding={"pooling": "embedding_last"}))
    (one,) = evaluation.compare(first, other, resamples=100).differences
    assert "SimCSE averages layers 1 and L" in one.words


def test_what_cannot_change_our_bits_is_said_last(golds):
    found = causes(
        golds, encoding={"threads": 1}, model={"kernels": {"isa": "avx512"}, "pooling": "cls"}, versions={"numpy": "1"}
    )
    assert [(one.what, one.matters) for one in found.differences] == [
        ("pooling", True), ("numpy", False), ("kernels", False), ("threads", False),
    ]  # fmt: skip
    # Another library's bits may depend on all of it.
    facts = [changed(model={"kernels": None}), changed(model={"kernels": None}, encoding={"threads": 1})]
    results = [sts_result(noisy(golds, 0.3, 1), golds, **one) for one in facts]
    (one,) = evaluation.compare(*results, resamples=100).differences
    assert (one.what, one.matters) == ("threads", True)


def test_kernels_may_change_bits_of_bfloat16(golds):
    units = [{"precision": {"dtype": "bfloat16", "unit": unit}} for unit in ("amx", "float32")]
    facts = [
        changed(model=units[0]),
        changed(model={**units[1], "kernels": {"isa": "avx512"}}, encoding={"threads": 1}),
    ]
    results = [sts_result(noisy(golds, 0.3, 1), golds, **one) for one in facts]
    found = evaluation.compare(*results, resamples=100).differences
    words = {one.what: one.words for one in found if one.matters}
    assert words.keys() == {"precision", "kernels"} and found[-1].what == "threads"
    assert "unit amx" in words["precision"] and "one CPU model" in words["kernels"]


def test_sick_splits_are_told_apart(golds):
    splits = [
        changed(data={"pairs": {"STS12": 150, name: n}}) for name, n in (("SICKR-test", 4927), ("SICKR-all", 9927))
    ]
    results = [sts_result(noisy(golds, 0.3, 1), golds, **facts) for facts in splits]
    found = evaluation.compare(*results, resamples=100)
    assert "SICK-R: 4,927 pairs (SICKR-test) and 9,927 pairs (SICKR-all)" in found.differences[0].words
    assert [one.words for one in found.differences[1:]] == [
        "tasks: only a has SICKR-test", "tasks: only b has SICKR-all",
    ]  # fmt: skip


def test_an_unexplained_gap_is_called_so(golds):
    results = [sts_result(noisy(golds, 0.3, seed), golds, **FACTS) for seed in (1, 2)]
    words = evaluation.compare(*results, resamples=100).words
    assert any(one.startswith("Nothing that is recorded explains the gap") for one in words)


def test_aggregations_that_matter_more_than_the_gap_are_named():
    gold = {"STS13": {"low": np.arange(30.0), "high": np.arange(30.0)}}
    # Within each subset nearly perfect; together the offset between them spoils the order.
    a = {"STS13": {"low": np.arange(30) / 100, "high": 0.5 + np.arange(30) / 100}}
    b = {"STS13": {"low": a["STS13"]["low"], "high": a["STS13"]["high"][[1, 0, *range(2, 30)]]}}
    found = evaluation.compare(sts_result(a, gold), sts_result(b, gold), resamples=100)
    assert any("The aggregation matters more than the gap: STS13 of a is all" in one for one in found.words)


def test_other_pairs_are_not_tested(golds):
    others = {task: {name: gold[::-1] for name, gold in parts.items()} for task, parts in golds.items()}
    found = evaluation.compare(sts_result(noisy(golds, 0.3, 1), golds), sts_result(noisy(others, 0.3, 1), others))
    assert {found.verdict(row) for row in found.rows} == {"not tested"}
    assert "STS12 is not tested: the gold scores differ, so these are not the same pairs." in found.words
    assert "interval" not in repr(found)


def test_files_are_read(pair, tmp_path):
    pair[0].save(tmp_path / "a.json")
    pair[1].save(tmp_path / "b.json", scores=False)
    found = evaluation.compare(tmp_path / "a.json", pair[1], resamples=100)
    assert found.rows == evaluation.compare(*pair, resamples=100).rows
    found = evaluation.compare(pair[0], str(tmp_path / "b.json"), resamples=100)
    assert "STS12 is not tested: b was saved without the cosines of its pairs." in found.words


def probe_result(scores, **facts):
    rows = [
        {"tokens": "mean", "layers": layer, "task": "STS12", "pairs": 9, "aggregation": aggregation, "spearman": score,
         "pearson": score / 2}
        for layer, score in scores.items() for aggregation in Aggregates._fields
    ]  # fmt: skip
    return ProbeResult(rows, **facts)


def test_probes_are_compared_row_by_row():
    a, b = probe_result({0: 0.5, 1: 0.7, "top2": 0.6}), probe_result({0: 0.25, 1: 0.75, 2: 0.9})
    found = evaluation.compare(a, b, coefficient="pearson")
    assert [(row["pooling"], row["diff"]) for row in found.rows] == [
        ("mean, layer 0", 0.125), ("mean, layer 1", pytest.approx(-0.025)),
    ]  # fmt: skip
    assert any("a probe keeps no cosines" in words for words in found.words)
    assert {found.verdict(row) for row in found.rows} == {"not tested"}
    pytest.importorskip("pandas")
    assert found.to_frame().loc[("mean, layer 0", "STS12"), "diff"] == 0.125
    many = [probe_result({k: k / 100 * scale for k in range(30)}) for scale in (1, 2)]
    text = repr(evaluation.compare(*many))
    assert "the 20 largest gaps of 30 rows" in text
    assert "layer 29" in text and "layer 9 " not in text


def test_what_is_refused(pair, tmp_path):
    a, b = pair
    with pytest.raises(TypeError, match="a is dict: expected what evaluation.sts"):
        evaluation.compare({}, b)
    with pytest.raises(TypeError, match="a is STSResult and b is ProbeResult"):
        evaluation.compare(a, probe_result({0: 0.5}))
    with pytest.raises(ValueError, match="no task in common: a has STS12, STSB-test; b has STS13"):
        gold = {"STS13": {"": np.arange(9.0)}}
        evaluation.compare(a, sts_result(gold, gold))
    with pytest.raises(ValueError, match="aggregation is 'median'"):
        evaluation.compare(a, b, aggregation="median")
    with pytest.raises(ValueError, match="coefficient is 'kendall'"):
        evaluation.compare(a, b, coefficient="kendall")
    with pytest.raises(ValueError, match="resamples is 10"):
        evaluation.compare(a, b, resamples=10)
    with pytest.raises(FileNotFoundError):
        evaluation.compare(a, tmp_path / "nowhere.json")
    (tmp_path / "x.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="no saved result that can be read here: expected 'sentpool STS result 1'"):
        evaluation.compare(a, tmp_path / "x.json")


def test_the_command_line(minilm, tmp_path, capsys):
    for name, pooling in (("a", "mean"), ("b", "cls")):
        assert cli.main(["sts", str(minilm), "--pooling", pooling, "--output", str(tmp_path / f"{name}.json")]) == 0
    capsys.readouterr()
    arguments = [str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json", str(tmp_path / "c.json")]
    assert cli.main(["compare", *arguments]) == 0
    out = capsys.readouterr().out
    assert "The two differ in one thing that can change numbers: pooling." in out
    assert "- pooling: mean and cls" in out
    assert Comparison.load(tmp_path / "c.json").rows[0]["task"] == "sample"
    assert cli.main(["compare", str(tmp_path / "a.json"), str(tmp_path / "none.json")]) == 1
    assert capsys.readouterr().err.startswith("sentpool: error: ")
