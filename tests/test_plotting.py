"""Plots of spaces, similarities and pairs: what is drawn is what the results hold, and every axis says what it is."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from sentpool import evaluation, plotting
from sentpool.evaluation import GeometryResult
from sentpool.evaluation.layer_ranking import LayersResult
from sentpool.evaluation.measures import LAYER, MEASURES, SPACE

TEXTS = ["the cat sat", "a dog runs", "the mat is big", "small"]


@pytest.fixture
def pyplot(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "show", lambda *_: pytest.fail("a plot was shown"))
    yield pyplot
    pyplot.close("all")


def made_result(after=("", "whitening")):
    """Two token poolings of three layers, and the model's own."""
    rows, spectra = [], []
    places = [(token, layer) for token in ("cls", "mean") for layer in range(3)] + [("mean", "model")]
    for number, (tokens, layers) in enumerate(places):
        for step in after:
            measures = {
                name: (math.nan if number == 0 and name == "isoscore" else number + k / 10 + len(step))
                for k, name in enumerate(SPACE)
            }
            rows.append({"tokens": tokens, "layers": layers, "after": step, "dimension": 4} | measures)
            spectra.append(np.array([8.0, 4.0, 2.0, 1e-9]) / (number + 1))
    layer_rows = [{"layer": layer} | dict.fromkeys(LAYER, layer + 0.5) for layer in range(3)]
    return GeometryResult(
        rows, {"tokens": "mean", "layers": "model"}, layer_rows, spectra, model={"name": "tiny & <fine>"}
    )


def assert_labelled(ax):
    assert ax.get_xlabel() and ax.get_ylabel() and ax.get_title()


def lines(ax):
    return {line.get_label(): line.get_xydata() for line in ax.get_lines()}


def test_spectrum(pyplot):
    result = made_result()
    ax = plotting.spectrum(result, tokens="mean")
    assert_labelled(ax)
    assert ax.get_yscale() == "log"
    assert lines(ax).keys() == {"layer 0", "layer 1", "layer 2"}
    # The fourth value is rounding, and so not drawn.
    np.testing.assert_allclose(lines(ax)["layer 1"], [[1, 1], [2, 0.5], [3, 0.25]])
    given = pyplot.subplots()[1]
    assert plotting.spectrum(result, given, after="whitening") is given
    assert "after whitening" in given.get_title()
    with pytest.raises(ValueError, match="no spectrum for tokens='max'"):
        plotting.spectrum(result, tokens="max")
    result.spectra = []
    with pytest.raises(ValueError, match="saved without them"):
        plotting.spectrum(result)


def test_spectrum_of_given_vectors(pyplot):
    with pytest.warns(UserWarning, match="bounded by how few"):
        result = evaluation.geometry(np.diag([4.0, 2.0, 1.0]))
    np.testing.assert_allclose(lines(plotting.spectrum(result))["embeddings"], [[1, 1], [2, 0.5], [3, 0.25]])


def test_alignment_uniformity(pyplot):
    result = made_result()
    ax = plotting.alignment_uniformity(result)
    assert_labelled(ax)
    for tokens in ("cls", "mean"):
        expected = [[result.at(k, tokens)[m] for m in ("uniformity", "alignment")] for k in range(3)]
        np.testing.assert_allclose(lines(ax)[tokens], expected)
    np.testing.assert_allclose(lines(ax)["own pooling"], [[result.uniformity, result.alignment]])
    assert {text.get_text() for text in ax.texts} == {"0", "1", "2"}
    for row in result.rows:
        row["alignment"] = math.nan
    with pytest.raises(ValueError, match="nothing has an alignment here"):
        plotting.alignment_uniformity(result)


def test_alignment_uniformity_of_several_models(pyplot):
    one, other = made_result(), made_result()
    other.own = {"tokens": "cls", "layers": 1}
    ax = plotting.alignment_uniformity({"one": one, "other": other})
    np.testing.assert_allclose(lines(ax)["one"], [[one.uniformity, one.alignment]])
    np.testing.assert_allclose(lines(ax)["other"], [[other.uniformity, other.alignment]])


@pytest.mark.parametrize("measure", ["isoscore", "lidar"])
def test_measure_over_layers(pyplot, measure):
    result = made_result()
    ax = plotting.measure_over_layers(result, measure)
    assert_labelled(ax)
    assert ax.get_ylabel() == MEASURES[measure].label
    drawn = lines(ax)
    if measure == "lidar":
        np.testing.assert_allclose(next(iter(drawn.values())), [[0, 0.5], [1, 1.5], [2, 2.5]])
    else:
        assert drawn.keys() == {"cls", "mean"}
        np.testing.assert_allclose(drawn["cls"], np.array(result.over_layers(measure, "cls")).T)
    with pytest.raises(ValueError, match="measure is 'size'"):
        plotting.measure_over_layers(result, "size")


def made_ranking():
    rows = [
        {"tokens": tokens, "layer": layer, "score": layer / 10} | dict.fromkeys(MEASURES, layer + 1.0)
        for tokens in ("mean", "max")
        for layer in range(3)
    ]
    return LayersResult(rows, [], ["mine"])


def test_scores_over_layers(pyplot):
    ax = plotting.measure_over_layers(made_ranking(), "score")
    np.testing.assert_allclose(lines(ax)["max"], [[0, 0], [1, 10], [2, 20]])
    assert ax.get_ylabel() == "Spearman ×100"


@pytest.mark.parametrize("result, panels", [(made_result(), 12), (made_ranking(), 11)])
def test_geometry_figure(pyplot, tmp_path, result, panels):
    figure = plotting.geometry_figure(result)
    figure.draw_without_rendering()
    drawn = [ax for ax in figure.axes if ax.axison]
    assert len(drawn) == panels
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in drawn)
    plotting.save(figure, tmp_path / "x.svg")
    assert b"</svg>" in (tmp_path / "x.svg").read_bytes()
    assert not pyplot.get_fignums()


def test_similarity_matrix(pyplot):
    values = np.array([[1, 0.5, 0, -0.25], [0.5, 1, 0, 0], [0, 0, 1, 0], [-0.25, 0, 0, 1]])
    ax = plotting.similarity_matrix(values, TEXTS)
    assert [label.get_text() for label in ax.get_xticklabels()] == TEXTS
    assert [label.get_text() for label in ax.get_yticklabels()] == TEXTS
    assert [text.get_text() for text in ax.texts][:4] == ["1.00", "0.50", "0.00", "-0.25"]
    assert ax.images[0].get_clim() == (-0.25, 1)
    given = pyplot.subplots()[1]
    assert plotting.similarity_matrix(values[:2], TEXTS[:2], ["x " * 50, "b", "c", "d"], given) is given
    assert len(given.get_xticklabels()[0].get_text()) <= 28
    ax = plotting.similarity_matrix(np.eye(100))
    assert (ax.get_xlabel(), ax.get_ylabel(), len(ax.texts)) == ("sentence", "sentence", 0)


@pytest.mark.parametrize(
    "values, rows, columns, message",
    [
        (np.ones(3), None, None, r"similarities has shape \(3,\)"),
        (np.ones((0, 2)), None, None, r"similarities has shape \(0, 2\)"),
        (np.eye(2), ["a"], None, "rows has 1 labels; the matrix needs 2"),
        (np.eye(2), None, "ab", "columns has one str; the matrix needs 2"),
    ],
)
def test_similarity_matrix_refuses(values, rows, columns, message):
    with pytest.raises(ValueError, match=message):
        plotting.similarity_matrix(values, rows, columns)


@pytest.fixture
def sts(tmp_path):
    (tmp_path / "t").mkdir()
    for name, golds in (("a", range(6)), ("b", [2] * 8)):
        lines = "".join(f"{gold}\tthe {k}\tcat {k} {name}\n" for k, gold in enumerate(golds))
        (tmp_path / "t" / f"{name}.tsv").write_text(lines)
    rng = np.random.default_rng(0)
    return evaluation.sts(lambda texts: rng.normal(size=(len(texts), 3)), tmp_path / "t")


@pytest.mark.filterwarnings("ignore:.*correlation is undefined")
def test_sts_scatter(pyplot, sts):
    ax = plotting.sts_scatter(sts)
    assert_labelled(ax)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), np.stack([sts.gold("t"), sts.scores("t")], axis=1))
    assert f"{100 * sts.spearman('t'):.2f}" in ax.get_title()
    # Only around 2 are there five pairs.
    np.testing.assert_allclose(ax.get_lines()[0].get_xydata(), [[2, sts.scores("t")[sts.gold("t") == 2].mean()]])
    assert "14 pairs" in [text.get_text() for text in ax.get_legend().get_texts()]
    ax = plotting.sts_scatter(sts, "t", subset="a")
    assert len(ax.collections[0].get_offsets()) == 6 and "t a" in ax.get_title()
    with pytest.raises(KeyError):
        plotting.sts_scatter(sts, "STS12")


def test_without_matplotlib(monkeypatch):
    for name in ("matplotlib", "matplotlib.pyplot", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    plots = (plotting.spectrum, plotting.alignment_uniformity, plotting.measure_over_layers, plotting.geometry_figure)
    for plot in plots:
        with pytest.raises(ImportError, match=r"plots need matplotlib: pip install 'sentpool\[plot\]'"):
            plot(made_result())
    with pytest.raises(ImportError, match="plots need matplotlib"):
        plotting.similarity_matrix(np.eye(2))
