"""What the probe returns: tables, files, plots, and the same from the shell."""

from __future__ import annotations

import json
import math
import os
import re
import sys

import numpy as np
import pytest
from html_tags import TagCounter
from probe_cases import attention, new_model, write_data

from sentpool import SentenceEncoder, cli, evaluation
from sentpool.evaluation import ProbeResult
from sentpool.evaluation.report import STANDARD_SEVEN


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "mine")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return new_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def result(model, data):
    return evaluation.probe(model, data, {"ours": attention()})


# ---- the result ---------------------------------------------------------------------------------------------------


def make_result(tasks=("STS12", "STS13"), **details):
    """Layers 0 to 2 of mean and cls and one average; layer k has k + 1 tenths, tasks and aggregations hundredths."""
    rows = []
    for tokens, layers in [*((t, k) for t in ("mean", "cls") for k in range(3)), ("mean", "first_last")]:
        for number, task in enumerate(tasks):
            for shift, aggregation in enumerate(("all", "mean", "wmean")):
                value = 0.1 * (1 + layers if isinstance(layers, int) else 8) + 0.01 * number + 0.001 * shift
                value = math.nan if (tokens, layers) == ("cls", 0) else value
                row = {"tokens": tokens, "layers": layers, "task": task, "pairs": 100, "aggregation": aggregation}
                rows.append(row | {"spearman": value, "pearson": -value})
    return ProbeResult(rows=rows, **details)


WEIGHTS = {"ours": {"STS12": {"sentences": 9, "mean": [0.2, 0.5, 0.3], "sd": [0.01, 0.02, 0.03]}}}


def test_best():
    best = make_result().best(3)
    assert [(one["tokens"], one["layers"]) for one in best] == [("mean", "first_last"), ("mean", 2), ("cls", 2)]
    assert best[0] == {
        "tokens": "mean", "layers": "first_last", "average": pytest.approx(0.805), "STS12": pytest.approx(0.8),
        "STS13": pytest.approx(0.81),
    }  # fmt: skip
    assert make_result().best(1, "wmean")[0]["STS12"] == pytest.approx(0.802)
    everything = make_result().best(None, coefficient="pearson")
    assert (everything[0]["tokens"], everything[0]["layers"]) == ("mean", 0)
    assert (everything[-1]["tokens"], everything[-1]["layers"]) == ("cls", 0)
    assert len(everything) == 7
    with pytest.raises(ValueError, match="n is 0"):
        make_result().best(0)
    with pytest.raises(ValueError, match="aggregation is 'median'; it must be 'all' or 'mean' or 'wmean'"):
        make_result().best(aggregation="median")
    with pytest.raises(ValueError, match="coefficient is 'kendall'"):
        make_result().best(coefficient="kendall")


def test_the_average_is_over_the_standard_seven_where_they_are():
    tasks = (*STANDARD_SEVEN[:6], "STSB-dev", STANDARD_SEVEN[6], "SICKR-all")
    result = make_result(tasks)
    assert result.averaged == STANDARD_SEVEN
    numbers = [tasks.index(task) for task in STANDARD_SEVEN]
    assert result.best(1)[0]["average"] == pytest.approx(0.8 + 0.01 * np.mean(numbers))
    assert "average over STS12–16, STSB-test, SICKR-test" in repr(result)
    assert make_result().averaged == ("STS12", "STS13")


def test_layer_scores():
    layers, tasks, scores = make_result().layer_scores("mean", "mean")
    assert (layers, tasks) == ((0, 1, 2), ("STS12", "STS13"))
    np.testing.assert_allclose(scores, [[0.101, 0.111], [0.201, 0.211], [0.301, 0.311]])
    with pytest.raises(ValueError, match="tokens is 'max'; this result has single layers of mean, cls"):
        make_result().layer_scores("max")


def test_text_tables():
    facts = {"sentences": 4321, "truncated": 12, "encoded_again_for": ["sbert_wk"]}
    result = make_result(
        model={"name": "tiny", "pooling": "mean, normalize"}, encoding=facts, skipped={"STS14": "no STS14 here"}
    )
    lines = repr(result).splitlines()
    assert lines[0].startswith("Probe of tiny: Spearman ×100")
    assert lines[1:4] == [
        "the model's own pooling: mean, normalize",
        "4,321 distinct sentences, 12 truncated",
        "encoded once more for: sbert_wk",
    ]
    first = lines.index("the best of 7 poolings by their average over all tasks")
    assert lines[first + 1].split() == ["layers", "tokens", "average", "STS12", "STS13"]
    assert lines[first + 2].split() == ["first_last", "mean", "80.50", "80.00", "81.00"]
    assert lines[first + 8].split() == ["0", "cls", "nan", "nan", "nan"]
    assert len({len(line) for line in lines[first + 1 : first + 9]}) == 1
    second = lines.index("layers of mean; 0 is the embedding output")
    assert [line.split() for line in lines[second + 1 : second + 5]] == [
        ["layer", "average", "STS12", "STS13"],
        ["0", "10.50", "10.00", "11.00"],
        ["1", "20.50", "20.00", "21.00"],
        ["2", "30.50", "30.00", "31.00"],
    ]
    assert lines[-1] == "not scored: no STS14 here"
    assert max(map(len, lines)) <= 110


def test_html_tables_are_whole_and_escaped():
    result = make_result(model={"name": "<b>tiny</b>"}, skipped={"STS14": "no <i>"})
    tags = TagCounter()
    tags.feed(result._repr_html_())
    assert tags.open == []
    assert "b" not in tags.seen
    assert all(part in "".join(tags.text) for part in ("<b>tiny</b>", "80.50", "no <i>"))


def test_a_long_name_is_cut_in_the_table():
    result = make_result()
    for row in result.rows:
        row["layers"] = "x" * 60 if row["layers"] == "first_last" else row["layers"]
    assert f"{'x' * 39}…" in repr(result)
    assert "x" * 40 not in repr(result)


def test_rows_fill_a_data_frame(result):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(result.rows)
    assert list(frame.columns) == ["tokens", "layers", "task", "pairs", "aggregation", "spearman", "pearson"]
    layers, _, scores = result.layer_scores("mean")
    picked = frame[(frame.tokens == "mean") & frame.layers.isin(layers) & (frame.aggregation == "all")]
    assert picked.spearman.tolist() == scores[:, 0].tolist()


def test_save_and_load(result, tmp_path):
    result.save(tmp_path / "probe.json")
    content = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    assert content["model"]["weights_sha256"]
    assert content["data"]["sha256"].keys() == {f"mine/{name}.tsv" for name in ("one", "two", "three")}
    assert content["seconds"].keys() == {"read", "encode", "score"}
    assert content["encoding"]["sentences"] == result.encoding["sentences"]
    assert {"all", "mean", "wmean"} == content["aggregation"].keys()
    again = ProbeResult.load(tmp_path / "probe.json")
    assert json.dumps(again.rows) == json.dumps(result.rows)
    assert again.layer_weights == result.layer_weights
    assert repr(again) == repr(result)
    assert result.to_dict()["rows"] is result.rows
    for text in ("{}", "[]", "nonsense", '{"format": "sentpool probe result 99"}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match=r"other\.json' is no result saved by ProbeResult\.save"):
            ProbeResult.load(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError):
        ProbeResult.load(tmp_path / "none.json")


# ---- plots --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_heat_map(pyplot):
    result = make_result(model={"name": "tiny"})
    ax = result.heat_map("cls")
    assert [text.get_text() for text in ax.texts] == ["–", "–", "20.0", "21.0", "30.0", "31.0"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["STS12", "STS13"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1", "2"]
    assert "tiny, cls" in ax.get_title()
    _, mine = pyplot.subplots()
    assert result.heat_map(ax=mine, aggregation="wmean") is mine
    assert mine.texts[0].get_text() == "10.2"
    assert "(wmean)" in mine.get_title()
    np.testing.assert_allclose(mine.images[0].get_array(), 100 * result.layer_scores("mean", "wmean")[2])
    with pytest.raises(ValueError, match="tokens is 'max'"):
        result.heat_map("max")


def test_heat_map_of_nothing_but_undefined(pyplot):
    result = make_result()
    result.rows = [row for row in result.rows if (row["tokens"], row["layers"]) == ("cls", 0)]
    assert [text.get_text() for text in result.heat_map("cls").texts] == ["–", "–"]
    result.heat_map("cls").figure.canvas.draw()


def test_layer_weights_plot(pyplot):
    result = make_result(layer_weights=WEIGHTS | {"other": WEIGHTS["ours"]})
    ax = result.plot_layer_weights(pooling="ours")
    (container,) = ax.containers
    np.testing.assert_allclose(container[0].get_ydata().astype(float), [0.2, 0.5, 0.3])
    (segments,) = (lines.get_segments() for lines in container[2])
    spreads = [segment[:, 1].astype(float) for segment in segments]
    np.testing.assert_allclose(spreads, [[0.19, 0.21], [0.48, 0.52], [0.27, 0.33]])
    assert ax.get_legend().get_texts()[0].get_text() == "STS12"
    _, mine = pyplot.subplots()
    assert make_result(layer_weights=WEIGHTS).plot_layer_weights(mine) is mine
    with pytest.raises(ValueError, match="pooling is None; this result has layer weights of ours, other: name one"):
        result.plot_layer_weights()
    with pytest.raises(ValueError, match="pooling is 'cls'"):
        result.plot_layer_weights(pooling="cls")
    with pytest.raises(ValueError, match=r"probe a model that has LayerAttention, or pass poolings=LayerAttention"):
        make_result().plot_layer_weights()


def test_nothing_is_shown(pyplot, monkeypatch):
    monkeypatch.setattr(pyplot, "show", lambda *_, **__: pytest.fail("shown"))
    result = make_result(layer_weights=WEIGHTS)
    result.heat_map()
    result.plot_layer_weights()


def test_plots_without_matplotlib_say_what_to_install(monkeypatch):
    for name in ("matplotlib", "matplotlib.pyplot", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    result = make_result(layer_weights=WEIGHTS)
    for plot in (result.heat_map, result.plot_layer_weights):
        with pytest.raises(ImportError, match=r"plots need matplotlib: pip install 'sentpool\[plot\]'"):
            plot()


# ---- the command line ---------------------------------------------------------------------------------------------


def command(capsys, *arguments):
    status = cli.main(["probe", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_command_line(capsys, model, data, tmp_path):
    status, out, err = command(
        capsys, model.folder.path, data, "--pooling", "layers=[0,1]", "--pooling", "avg", "--threads", 1,
        "--json", tmp_path / "x.json",
    )  # fmt: skip
    assert (status, err) == (0, "")
    expected = evaluation.probe(model, data, ["layers=[0,1]", "avg"])
    saved = ProbeResult.load(tmp_path / "x.json")
    assert json.dumps(saved.rows) == json.dumps(expected.rows)
    assert saved.seconds.keys() == {"load", "read", "encode", "score"}
    assert out.startswith(repr(expected))
    assert f"saved {tmp_path / 'x.json'}" in out


def test_command_line_without_data(capsys, model):
    status, out, _ = command(capsys, model.folder.path)
    assert status == 0
    assert out.startswith("No DATA given: scoring the bundled sample")
    assert "layers of mean" in out


def test_command_line_draws(capsys, model, data, tmp_path, pyplot):
    attending = SentenceEncoder(model.folder.path, pooling=attention())
    status, out, _ = command(capsys, model.folder.path, data, "--plot", tmp_path / "x.png")
    assert status == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    from sentpool import plotting

    figure = plotting.probe_figure(evaluation.probe(attending, data, tokens="max"))
    assert [ax.get_title().split(": ")[-1] for ax in figure.axes] == ["Spearman ×100 (all)", "weights of the layers"]
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "STS99"], "unknown task 'STS99'"),
        (["--pooling", "median"], "poolings: pooling is 'median'"),
        (["--json", "nowhere/x.json"], "there is no folder"),
        (["--plot", "nowhere/x.png"], "there is no folder"),
        (["--plot", "x.docx"], r"the plot's file is 'x.docx'; its name must end in .*\.png"),
    ],
)
def test_command_line_errors_are_one_line(capsys, model, data, tmp_path, monkeypatch, arguments, message):
    if "x.docx" in arguments:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    status, out, err = command(capsys, model.folder.path, data, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("sentpool: error: ")
    assert err.count("\n") == 1
    assert re.search(message, err)
    assert os.listdir(tmp_path) == []


def test_command_line_without_matplotlib(capsys, model, data, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, err = command(capsys, model.folder.path, data, "--plot", tmp_path / "x.png")
    assert (status, out) == (1, "")
    assert err == "sentpool: error: plots need matplotlib: pip install 'sentpool[plot]'\n"
