"""evaluation.geometry and evaluation.layers: numbers, streaming, what they show, save and refuse; the verb."""

from __future__ import annotations

import html.parser
import json
import math
import warnings

import numpy as np
import pytest
from fabricate import edit_json, sentence_transformers_folder
from scipy import linalg, stats
from scipy.spatial.distance import pdist

from sentpool import LayerStates, SentenceEncoder, SentpoolWarning, cli, evaluation, pooling
from sentpool.evaluation import GeometryResult, LayersResult, probed_poolings
from sentpool.evaluation.measures import MEASURES, SPACE
from sentpool.evaluation.similarity_data import read_tasks
from sentpool.pooling import AllButTheTop, Layers, Pooling, Whitening

L, H = 3, 24
WORDS = ["the", "cat", "dog", "sat", "on", "mat", "big", "small", "runs", "happy", "!", "b", "c", "unhappy"]

pytestmark = pytest.mark.filterwarnings("ignore:.*effective rank and IsoScore are bounded:sentpool.SentpoolWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pairs that share sentences; gold scores from 0 to 5, some of them exactly 4."""
    folder = tmp_path_factory.mktemp("data") / "mine"
    folder.mkdir()
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(70)]
    for name in ("one", "two"):
        pairs = [(rng.integers(0, 11) / 2, *rng.choice(sentences, 2)) for _ in range(40)]
        lines = "".join(f"{gold}\t{first}\t{second}\n" for gold, first, second in pairs)
        (folder / f"{name}.tsv").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


def make_model(path, **changes):
    folder = sentence_transformers_folder(path, head=("Normalize",), num_hidden_layers=L, hidden_size=H, **changes)
    return SentenceEncoder(folder)


@pytest.fixture(scope="module")
def texts(data):
    """The distinct sentences and, as their indices, the distinct pairs above 4."""
    task = read_tasks(data).tasks["mine"]
    sentences = list(dict.fromkeys(s for part in task.subsets for half in (part.first, part.second) for s in half))
    pairs = {
        (sentences.index(first), sentences.index(second))
        for part in task.subsets
        for first, second, gold in zip(part.first, part.second, part.gold, strict=True)
        if gold > 4
    }
    assert 0 < len(pairs) < 40
    return sentences, np.array(sorted(pairs))


@pytest.fixture(scope="module")
def result(model, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SentpoolWarning)  # [CLS] before the first layer is the same everywhere
        return evaluation.geometry(
            model, data, poolings={"two layers": "layers=[0,2]", "wk": "sbert_wk"}, after=["whitening", AllButTheTop(2)]
        )


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def expected_numbers(vectors, pairs):
    """The measures of vectors by SciPy."""
    x = np.asarray(vectors, dtype=np.float64)
    variances = np.linalg.eigvalsh(np.cov(x, rowvar=False))
    return {
        "mean_cosine": (1 - pdist(x, "cosine")).mean(),
        "mean_cosine_centred": (1 - pdist(x - x.mean(0), "cosine")).mean(),
        "uniformity": np.log(np.exp(-2 * pdist(unit(x)) ** 2).mean()),
        "alignment": (np.linalg.norm(unit(x[pairs[:, 0]]) - unit(x[pairs[:, 1]]), axis=1) ** 2).mean(),
        "effective_rank": np.exp(stats.entropy(linalg.svdvals(x))),
        "isoscore": (variances.sum() ** 2 / (variances**2).sum() - 1) / (x.shape[1] - 1),
    }


def assert_numbers(row, expected, **tolerance):
    found = {name: row[name] for name in SPACE}
    assert found == pytest.approx(expected, **(tolerance or {"rel": 1e-6, "abs": 1e-9}))


# ---- numbers ------------------------------------------------------------------------------------------------------


def test_every_pooling_equals_scipy_on_encoded_vectors(model, texts, result):
    sentences, pairs = texts
    given = {("mean", "two layers"): Layers([0, 2]), ("every token", "wk"): "sbert_wk", ("mean", "model"): None}
    singles = {(token, layer): Layers([layer], token) for token in ("cls", "mean") for layer in range(L + 1)}
    rows = {(row["tokens"], row["layers"]): row for row in result.rows if not row["after"]}
    assert rows.keys() == given.keys() | singles.keys()
    for place, chosen in (given | singles).items():
        if place == ("cls", 0):
            continue
        vectors = model.encode(sentences, pooling=chosen)
        assert_numbers(rows[place], expected_numbers(vectors, pairs))
        assert rows[place]["dimension"] == vectors.shape[1]
        np.testing.assert_allclose(result.spectrum(*reversed(place)), linalg.svdvals(vectors.astype(float)), rtol=1e-6)


def test_equal_vectors(result):
    row = result.at(0, "cls")
    assert row["alignment"] == row["uniformity"] == pytest.approx(0, abs=1e-12)
    assert (row["mean_cosine"], row["effective_rank"]) == pytest.approx((1, 1), abs=1e-5)
    assert math.isnan(row["isoscore"]) and math.isnan(row["mean_cosine_centred"])
    assert all(math.isnan(result.at(0, "cls", "whitening")[name]) for name in SPACE)


def test_named_fields_are_those_of_the_models_own_pooling(model, texts, result):
    expected = expected_numbers(model.encode(texts[0]), texts[1])
    for name in SPACE:
        assert getattr(result, name) == pytest.approx(expected[name], rel=1e-6), name


@pytest.mark.parametrize("step", ["whitening", "all but the top 2"])
def test_after_a_step(model, texts, result, step):
    sentences, pairs = texts
    x = model.encode(sentences, pooling=Layers([2])).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    values, vectors = values[::-1], vectors[:, ::-1]
    centred = x - x.mean(0)
    if step == "whitening":
        rank = int((values > values[0] * H * np.finfo(np.float32).eps).sum())
        changed = centred @ vectors[:, :rank] / np.sqrt(values[:rank])
    else:
        changed = centred - centred @ vectors[:, :2] @ vectors[:, :2].T
    row = result.at(2, "mean", step)
    assert row["dimension"] == changed.shape[1]
    assert_numbers(row, expected_numbers(changed, pairs), rel=1e-3, abs=1e-3)
    if step == "whitening":
        assert row["isoscore"] == pytest.approx(1, abs=1e-4)


def test_token_states_of_every_layer(model, texts, result):
    sentences, _ = texts
    states = [unit(h.astype(np.float64)) for h in model.hidden_states(sentences)]
    views = [[unit(h.astype(np.float64)) for h in model.hidden_states(sentences, dropout_seed=s)] for s in (0, 1)]
    for layer, row in enumerate(result.layer_rows):
        entropies, angles = [], []
        for h in states:
            shares = np.maximum(np.linalg.eigvalsh(h[layer] @ h[layer].T), 0)
            entropies.append((stats.entropy(shares), math.log(min(h[layer].shape))))
            steps = unit(np.diff(h[layer], axis=0))
            angles.append(np.arccos((steps[1:] * steps[:-1]).sum(1)).mean())
        means = np.array([h[layer].mean(0) for h in states])
        first, second = (np.array([h[layer].mean(0) for h in view]) for view in views)
        spread = stats.entropy(linalg.svdvals(means) ** 2)
        assert row["layer"] == layer
        assert row["prompt_entropy"] == pytest.approx(np.mean([e for e, _ in entropies]), rel=1e-6)
        assert row["prompt_entropy_scaled"] == pytest.approx(np.mean([e / most for e, most in entropies]), rel=1e-6)
        assert row["curvature"] == pytest.approx(np.mean(angles), rel=1e-6)
        assert row["dataset_entropy"] == pytest.approx(spread, rel=1e-5)
        assert row["dataset_entropy_scaled"] == pytest.approx(spread / math.log(min(means.shape)), rel=1e-5)
        every = unit(np.concatenate([first, second]))
        logits = every @ every.T / 0.1
        np.fill_diagonal(logits, -np.inf)
        partners = np.roll(np.arange(len(every)), len(first))
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(every)), partners]
        assert row["infonce"] == pytest.approx(losses.mean(), rel=1e-5)
        centre = (first + second) / 2
        within = ((first - centre).T @ (first - centre) + (second - centre).T @ (second - centre)) / len(every)
        within += 1e-4 * np.eye(H)
        shares = linalg.eigh(np.cov(centre.T, bias=True), within, eigvals_only=True)
        assert row["lidar"] == pytest.approx(stats.entropy(np.maximum(shares, 0)), rel=1e-4)


def test_blocks_equal_the_whole(monkeypatch, model, data, result):
    monkeypatch.setattr(probed_poolings, "_MOST_SENTENCES", 5)
    monkeypatch.setattr(probed_poolings, "_FEWEST_SENTENCES", 1)
    again = evaluation.geometry(model, data, batch_size=3, token_measures=False, threads=1)
    for row in again.rows:
        whole = result.at(row["layers"], row["tokens"])
        assert json.dumps(row) == json.dumps({name: whole[name] for name in row})


@pytest.mark.parametrize("include", [True, False])
def test_prompts_are_taken_as_encode_takes_them(tmp_path, texts, include):
    modes = {"word_embedding_dimension": H, "pooling_mode_mean_tokens": True, "include_prompt": include}
    made = make_model(tmp_path, pooling=modes, prompts={"q": "the big "})
    edit_json(tmp_path / "config_sentence_transformers.json", default_prompt_name="q", truncate_dim=9)
    model = SentenceEncoder(made.folder.path)
    found = evaluation.geometry(model, texts[0], positives=texts[1], tokens="mean", token_measures=False)
    assert_numbers(found.at("model"), expected_numbers(model.encode(texts[0]), texts[1]))
    assert_numbers(found.at(1), expected_numbers(model.encode(texts[0], pooling=Layers([1])), texts[1]))
    assert found.encoding["encoded_again_for"] == ([] if include else ["model"])


# ---- data and models ----------------------------------------------------------------------------------------------


def test_the_protocol_is_named(texts, result):
    sentences, pairs = texts
    assert result.protocol == {
        "data": "mine",
        "sentences": len(sentences),
        "positives": len(pairs),
        "positive_above": 4.0,
        "views": 2,
    }
    assert f"{len(sentences)} sentences of mine; alignment over {len(pairs)} pairs with a gold score above 4" in repr(
        result
    )
    assert result.data["sha256"].keys() == {"mine/one.tsv", "mine/two.tsv"}


def test_other_threshold(model, data):
    found = evaluation.geometry(model, data, positive_above=1, token_measures=False)
    gold = np.concatenate([part.gold for part in read_tasks(data).tasks["mine"].subsets])
    assert found.protocol["positives"] <= (gold > 1).sum()
    assert found.protocol["positives"] > result_pairs(model, data)
    with pytest.warns(SentpoolWarning, match="no pair of mine has a gold score above 5: alignment is undefined"):
        found = evaluation.geometry(model, data, positive_above=5, token_measures=False)
    assert math.isnan(found.alignment) and not math.isnan(found.uniformity)


def result_pairs(model, data):
    return evaluation.geometry(model, data, token_measures=False).protocol["positives"]


def test_default_task_is_the_development_set_of_the_sts_benchmark(tmp_path, model):
    place = tmp_path / "STSBenchmark"
    place.mkdir()
    for name, words in (("sts-dev", ("cat", "dog", "mat")), ("sts-test", ("big", "small", "happy"))):
        lines = "".join(f"a\tb\tc\t{k}\t4.5\tthe {words[k]}\t{words[k]} !\n" for k in range(3))
        (place / f"{name}.csv").write_text(lines)
    with pytest.warns(SentpoolWarning, match="STSB-dev has 3 scored pairs where SentEval has 1500"):
        found = evaluation.geometry(model, tmp_path, token_measures=False)
    assert (found.protocol["data"], found.protocol["sentences"]) == ("STSB-dev", 6)
    (place / "sts-dev.csv").unlink()
    with pytest.warns(SentpoolWarning, match="STSB-test"):
        found = evaluation.geometry(model, tmp_path, token_measures=False)
    assert found.protocol["data"] == "STSB-test"


def test_without_data_the_sample(model):
    found = evaluation.geometry(model, tokens="mean", token_measures=False)
    assert (found.protocol["data"], found.protocol["sentences"]) == ("sample", 400)
    assert found.protocol["positives"] > 20


def test_given_vectors(texts, model):
    sentences, pairs = texts
    vectors = model.encode(sentences)
    for given in (vectors, vectors.astype(np.float64), vectors.tolist()):
        found = evaluation.geometry(given, positives=pairs)
        assert_numbers(found.at("embeddings"), expected_numbers(vectors, pairs))
        assert found.isoscore == found.at("embeddings")["isoscore"]
    found = evaluation.geometry(vectors)
    assert math.isnan(found.alignment)
    assert repr(found).startswith(f"Geometry of embeddings\n{len(sentences)} vectors\n")


def test_layer_states(tmp_path, texts, model, result):
    sentences, pairs = texts
    path = tmp_path / "states.safetensors"
    states = model.layer_states(sentences, tokens=("mean", "max"), out=path)
    found = evaluation.geometry(
        LayerStates.load(path, mmap=True), positives=pairs, layers=[1, -1], poolings={"two layers": "layers=[0,2]"}
    )
    assert [(row["tokens"], row["layers"]) for row in found.rows] == [
        ("mean", 1), ("mean", 3), ("max", 1), ("max", 3), ("mean", "two layers"),
    ]  # fmt: skip
    for place in ((1, "mean"), (3, "mean"), ("two layers", "mean")):
        assert_numbers(found.at(*place), {name: result.at(*place)[name] for name in SPACE})
    assert found.uniformity == found.at(3, "mean")["uniformity"]
    assert_numbers(found.at(1, "max"), expected_numbers(states.array[:, 1, 1], pairs))
    with pytest.raises(ValueError, match="tokens holds 'cls'; these states hold mean, max"):
        evaluation.geometry(states, tokens="cls")


def test_other_models(data, model):
    own = evaluation.geometry(model, data, token_measures=False)
    for other in (model.encode, type("Other", (), {"encode": lambda self, texts: model.encode(texts)})()):
        found = evaluation.geometry(other, data)
        assert_numbers(found.at("model"), {name: getattr(own, name) for name in SPACE})
        assert found.layer_rows == []


def test_model_without_dropout(tmp_path, data):
    model = make_model(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    with pytest.warns(SentpoolWarning, match="config.json has no dropout"):
        found = evaluation.geometry(model, data, tokens="mean")
    assert all(math.isnan(row["infonce"]) and not math.isnan(row["curvature"]) for row in found.layer_rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(evaluation.geometry(model, data, tokens="mean", views=0).layer_rows[0]["lidar"])


# ---- layers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranking(model, data):
    return evaluation.layers(model, data, tokens=["mean", "cls"])


def test_layers_joins_probe_and_geometry(model, data, result, ranking):
    scores = evaluation.probe(model, data, tokens=["mean", "cls"])
    for token in ("mean", "cls"):
        layers, _, of_tasks = scores.layer_scores(token)
        assert ranking.over_layers("score", token)[0] == list(layers)
        np.testing.assert_array_equal(ranking.over_layers("score", token)[1], of_tasks[:, 0])
        for measure in MEASURES:
            found = ranking.over_layers(measure, token)[1]
            np.testing.assert_array_equal(found, [result.at(layer, token)[measure] for layer in layers])


def test_findings(ranking):
    frame = ranking.to_frame()
    for finding in ranking.findings:
        rows = frame[frame["tokens"] == finding["tokens"]].dropna(subset=[finding["measure"], "score"])
        values, scores = rows[finding["measure"]].to_numpy(), rows["score"].to_numpy()
        assert finding["layers"] == len(rows)
        assert finding["rank_correlation"] == pytest.approx(stats.spearmanr(values, scores).statistic)
        assert finding["best_score"] == scores.max()
        assert finding["best_layer"] == rows["layer"].to_numpy()[scores.argmax()]
        if finding["better"] is None:
            assert finding["layer"] is None and math.isnan(finding["score"])
        else:
            chosen = values.argmax() if finding["better"] == "higher" else values.argmin()
            assert (finding["layer"], finding["score"]) == (rows["layer"].to_numpy()[chosen], scores[chosen])
    assert {one["measure"] for one in ranking.findings if one["tokens"] == "mean"} == set(MEASURES)
    assert ranking.finding("lidar", "cls")["tokens"] == "cls"
    with pytest.raises(KeyError, match="no finding about 'size'"):
        ranking.finding("size")


def test_layers_without_token_measures(model, data):
    found = evaluation.layers(model, data, token_measures=False)
    assert {one["measure"] for one in found.findings} == set(SPACE)
    assert "prompt entropy" not in repr(found)


# ---- shown and saved ----------------------------------------------------------------------------------------------


def test_tables(result, ranking):
    assert f"{result.isoscore:.3f}" in repr(result)
    assert "after whitening, fitted to these vectors" in repr(result)
    assert repr(result).count("\nlayer") == 4  # three tables of poolings, one of layers
    assert "the best layer of mean is" in repr(ranking)
    for one in (result, ranking):
        page = one._repr_html_()
        assert page.count("<table>") == page.count("</table>") > 1
        html.parser.HTMLParser().feed(page)
        for line in repr(one).splitlines():
            assert len(line) < 140, line


@pytest.mark.parametrize("spectra", [False, True])
def test_geometry_is_saved_and_loaded(tmp_path, result, spectra):
    result.save(tmp_path / "x.json", spectra=spectra)
    again = GeometryResult.load(tmp_path / "x.json")
    assert repr(again) == repr(result) and json.dumps(again.rows) == json.dumps(result.rows)
    assert json.dumps(again.layer_rows) == json.dumps(result.layer_rows)
    assert again.model["weights_sha256"] == result.model["weights_sha256"]
    if spectra:
        np.testing.assert_array_equal(again.spectrum(2, "mean"), result.spectrum(2, "mean"))
    else:
        with pytest.raises(ValueError, match="saved without them"):
            again.spectrum(2, "mean")
    with pytest.raises(ValueError, match="is no result saved by LayersResult.save: format is"):
        LayersResult.load(tmp_path / "x.json")


def test_layers_are_saved_and_loaded(tmp_path, ranking):
    ranking.save(tmp_path / "x.json")
    again = LayersResult.load(tmp_path / "x.json")
    assert repr(again) == repr(ranking)
    assert json.dumps([again.rows, again.findings]) == json.dumps([ranking.rows, ranking.findings])


@pytest.mark.parametrize("kind", [GeometryResult, LayersResult])
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 3}'])
def test_other_files_are_refused(tmp_path, kind, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=f"x.json' is no result saved by {kind.__name__}.save"):
        kind.load(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError):
        kind.load(tmp_path / "y.json")


def test_frame(result):
    frame = result.to_frame()
    assert len(frame) == len(result.rows)
    at = frame[(frame["layers"] == 2) & (frame["tokens"] == "mean") & (frame["after"] == "")].iloc[0]
    assert at["uniformity"] == result.at(2, "mean")["uniformity"]
    assert at["lidar"] == result.layer_rows[2]["lidar"]
    assert np.isnan(frame[frame["layers"] == "wk"]["lidar"]).all()


def test_places_that_are_not_there(result):
    with pytest.raises(KeyError, match="say which tokens, of cls, mean"):
        result.at(2)
    with pytest.raises(KeyError, match="no row has layers=9"):
        result.at(9, "mean")
    with pytest.raises(ValueError, match="measure is 'size'; it must be one of mean_cosine"):
        result.over_layers("size")
    with pytest.raises(ValueError, match="no uniformity of single layers for tokens='max'"):
        result.over_layers("uniformity", "max")


# ---- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        (["the cat"], {}, ValueError, "vectors to measure: 1; a geometry needs at least two"),
        ([], {}, ValueError, "vectors to measure: 0"),
        (["the cat", "a dog"], {"positives": [[0, 2]]}, ValueError, "row numbers from 0 to 2; they must be 0 … 1"),
        (["the cat", "a dog"], {"positives": [0, 1]}, ValueError, r"positives must be integers of shape \(m, 2\)"),
        (["the cat", "a dog"], {"tasks": "STS12"}, TypeError, "tasks name parts of a folder"),
        (["the cat", "a dog"], {"after": "pca"}, ValueError, "after holds 'pca'; a step is 'whitening' or"),
        (["the cat", "a dog"], {"after": Whitening()}, ValueError, "2 vectors vary in at most 1 dimensions, so 24 "),
        (["the cat", "a dog"], {"after": [Whitening(2)]}, ValueError, r"Whitening\(k\) with k < 2"),
        (["the cat", "a dog"], {"views": 1}, ValueError, "views is 1; it must be at least 2, or 0"),
        (["the cat", "a dog"], {"views": "2"}, TypeError, "views must be a positive integer"),
        (["the cat", "a dog"], {"layers": 7}, ValueError, "layers: "),
        (["the cat", "a dog"], {"tokens": "mode"}, ValueError, "mode"),
        (["the cat", "a dog"], {"poolings": "layer_attention"}, ValueError, "poolings: .*no trained parameters"),
        (["the cat", 3], {}, TypeError, r"sentences\[1\] is int 3"),
    ],
)
def test_bad_arguments(model, arguments, options, error, message):
    with pytest.raises(error, match=message):
        evaluation.geometry(model, arguments, **options)


def test_bad_vectors(data, model):
    zero = np.ones((4, 3))
    zero[2] = 0
    with pytest.raises(ValueError, match=r"embeddings: x\[2\] is a vector of zeros"):
        evaluation.geometry(zero)
    zero[2, 1] = math.nan
    with pytest.raises(ValueError, match=r"embeddings: x\[2\] holds NaN or infinity"):
        evaluation.geometry(zero)
    with pytest.raises(TypeError, match="sentences are the second argument"):
        evaluation.geometry(["the cat", "a dog"])
    with pytest.raises(TypeError, match="model is given vectors: leave them out"):
        evaluation.geometry(zero, data)
    with pytest.raises(TypeError, match="layers: only a SentenceEncoder or LayerStates"):
        evaluation.geometry(zero, layers=[1])
    with pytest.raises(TypeError, match="in a folder the gold scores decide"):
        evaluation.geometry(model, data, positives=[[0, 1]])
    with pytest.raises(TypeError, match="positive_above must be a number"):
        evaluation.geometry(model, data, positive_above="4")
    with pytest.raises(TypeError, match="expected a SentenceEncoder"):
        evaluation.geometry(None, data)
    with pytest.raises(FileNotFoundError):
        evaluation.geometry(model, data / "nowhere")


@pytest.mark.filterwarnings("error")
def test_few_sentences_are_said_to_be_few(model):
    with pytest.warns(SentpoolWarning, match="3 vectors of 24 numbers: effective rank and IsoScore are bounded"):
        evaluation.geometry(model, ["the cat", "a dog", "the mat runs"], tokens="mean", token_measures=False)


# ---- the command line ---------------------------------------------------------------------------------------------


def command(capsys, *arguments):
    status = cli.main(["geometry", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_command_line(capsys, model, data, tmp_path, result):
    status, out, err = command(
        capsys, model.folder.path, data, "--after", "whitening", "--tokens", "mean,max", "--pooling", "layers=[0,2]",
        "--json", tmp_path / "x.json", "--threads", 1,
    )  # fmt: skip
    assert (status, err) == (0, "")
    saved = GeometryResult.load(tmp_path / "x.json")
    assert out.startswith(repr(saved))
    assert "sentences encoded in" in out and out.endswith(f"saved {tmp_path / 'x.json'}\n")
    for layer in range(L + 1):
        assert json.dumps(saved.at(layer, "mean", "whitening")) == json.dumps(result.at(layer, "mean", "whitening"))


def test_command_line_ranks(capsys, model, data, tmp_path, ranking):
    pytest.importorskip("matplotlib")
    status, out, err = command(
        capsys, model.folder.path, data, "--rank", "--json", tmp_path / "x.json", "--plot", tmp_path / "x.png"
    )
    assert (status, err) == (0, "")
    saved = LayersResult.load(tmp_path / "x.json")
    assert out.startswith(repr(saved)) and "the best layer of cls is" in out
    assert sorted(map(str, saved.findings)) == sorted(map(str, ranking.findings))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("options", [["--vectors-only"], []])
def test_command_line_without_data(capsys, model, options):
    status, out, err = command(capsys, model.folder.path, *options)
    assert (status, err) == (0, "")
    assert out.startswith("No DATA given: measuring the bundled sample, which is no benchmark.\n\nGeometry of")
    assert ("prompt entropy" in out) != bool(options)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--rank", "--after", "whitening"], "--rank compares single layers as they are"),
        (["--tokens", "mode"], "mode"),
        (["--plot", "x.txt2"], "its name must end in"),
        (["--json", "nowhere/x.json"], "nowhere"),
    ],
)
def test_command_line_refuses(capsys, model, data, options, message):
    status, out, err = command(capsys, model.folder.path, data, *options)
    assert (status, out) == (1, "")
    assert err.startswith("sentpool: error: ") and message in err and err.count("\n") == 1


# ---- real weights -------------------------------------------------------------------------------------------------


def test_sts_benchmark(minilm, data_dir):
    """SimCSE's protocol on the development set, with everything recomputed by SciPy for the model's own pooling."""
    model = SentenceEncoder(minilm)
    found = evaluation.geometry(model, data_dir / "sts", layers=[6], tokens="mean", token_measures=False)
    task = read_tasks(data_dir / "sts", "STSB-dev").tasks["STSB-dev"].subsets[0]
    sentences = list(dict.fromkeys(task.first + task.second))
    vectors = model.encode(sentences).astype(np.float64)
    close = [k for k, gold in enumerate(task.gold) if gold > 4]
    pairs = {(sentences.index(task.first[k]), sentences.index(task.second[k])) for k in close}
    assert found.protocol | {"views": 0} == {
        "data": "STSB-dev", "sentences": len(sentences), "positives": len(pairs), "positive_above": 4.0, "views": 0,
    }  # fmt: skip
    assert_numbers(found.at("model"), expected_numbers(vectors, np.array(sorted(pairs))))


def test_pooling_of_the_users_own(model, texts):
    class Doubled:
        tokens = ("max",)

        def forward(self, states):
            return 2 * states[:, 1, 0, :5]

    found = evaluation.geometry(
        model, texts[0], positives=texts[1], poolings=Doubled(), tokens="mean", token_measures=False
    )
    vectors = model.encode(texts[0], pooling=Pooling(Layers([1], "max"), head=(pooling.Truncate(5),)))
    assert_numbers(found.at("Doubled"), expected_numbers(vectors, texts[1]))


def test_poolings_of_one_name_over_given_states_are_all_measured():
    class Half:
        tokens = ("mean",)

        def __init__(self, layer):
            self.layer = layer

        def forward(self, states):
            return states[:, self.layer, 0, :3]

    array = np.random.default_rng(3).normal(size=(9, 2, 1, 6)).astype(np.float32)
    states = LayerStates(array, ("mean",), (0, 1), np.full(9, 4), None)
    result = evaluation.geometry(states, poolings=[Half(0), Half(1)], layers=[0])
    for name, layer in (("Half", 0), ("Half (2)", 1)):
        assert result.at(name)["uniformity"] == pytest.approx(evaluation.uniformity(array[:, layer, 0, :3]), rel=1e-12)
