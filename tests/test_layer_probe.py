"""The probe: every row against the STS evaluation with that pooling, and what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from fabricate import bert_folder, edit_json, sentence_transformers_folder
from probe_cases import (
    AVERAGES,
    GIVEN,
    WORDS,
    H,
    L,
    Sharpened,
    assert_rows_are_those_of_sts,
    attention,
    every_average,
    every_single_layer,
    new_model,
    write_data,
)

from sentpool import SentenceEncoder, SentpoolWarning, evaluation
from sentpool.evaluation import probed_poolings
from sentpool.evaluation.similarity_data import read_tasks
from sentpool.pooling import LayerAttention, Normalize, Pooling, ScalarMix


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "mine")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return new_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def result(model, data):
    return evaluation.probe(model, data, {"ours": attention()})


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(probed_poolings, "_MOST_SENTENCES", 5)
    monkeypatch.setattr(probed_poolings, "_FEWEST_SENTENCES", 1)


# ---- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.bits
@pytest.mark.parametrize("folder", ["plain", "truncated", "with a prompt", "without its prompt"])
def test_every_row_equals_sts(folder, tmp_path, data, small_blocks):
    path = tmp_path / "model"
    if folder == "plain":
        bert_folder(path, num_hidden_layers=L, hidden_size=H)
    else:
        modes = {"word_embedding_dimension": H, "pooling_mode_mean_tokens": True}
        modes |= {"include_prompt": False} if folder == "without its prompt" else {}
        sentence_transformers_folder(
            path, pooling=modes, head=("Normalize",), num_hidden_layers=L, hidden_size=H, prompts={"q": "the big "}
        )
    if folder == "truncated":
        edit_json(path / "config_sentence_transformers.json", truncate_dim=17)
    elif "prompt" in folder:
        edit_json(path / "config_sentence_transformers.json", default_prompt_name="q")
    model = SentenceEncoder(path)
    result = evaluation.probe(model, data, {name: given for (_, name), given in GIVEN.items()}, batch_size=3)
    own = {("mean", "model"): None}
    expected = every_single_layer() | every_average() | own | GIVEN
    assert not assert_rows_are_those_of_sts(model, data, result, expected)
    assert result.encoding["encoded_again_for"] == (["model"] if folder == "without its prompt" else [])


def test_single_layers_against_numpy_and_scipy(model, data, result):
    stats = pytest.importorskip("scipy.stats")
    task = read_tasks(data).tasks["mine"]
    for tokens in ("mean", "max"):
        vectors = [
            {
                half: model.layer_states(getattr(part, half), tokens).array[:, :, 0].astype(np.float64)
                for half in ("first", "second")
            }
            for part in task.subsets
        ]
        layers, tasks, found = result.layer_scores(tokens, "mean")
        assert (layers, tasks) == (tuple(range(L + 1)), ("mine",))
        for layer in layers:
            parts = []
            for part, both in zip(task.subsets, vectors, strict=True):
                a, b = both["first"][:, layer], both["second"][:, layer]
                cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
                # Pairs of one sentence have a cosine of exactly 1; here it is 1 but for rounding.
                parts.append(stats.spearmanr(cosines.round(12), part.gold).statistic)
            assert found[layer, 0] == pytest.approx(np.mean(parts), abs=1e-9)


def test_the_embedding_output_of_cls_is_the_same_for_all(result):
    assert np.isnan(result.layer_scores("cls")[2][0, 0])
    assert math.isnan(result.best(None)[-1]["average"])


@pytest.mark.bits
def test_threads_and_batches_leave_the_bits_alone(model, data, result, monkeypatch):
    for threads, batch_size, most in ((1, 1, 64), (2, 7, 3), (3, 512, 1)):
        monkeypatch.setattr(probed_poolings, "_MOST_SENTENCES", most)
        monkeypatch.setattr(probed_poolings, "_FEWEST_SENTENCES", 1)
        again = evaluation.probe(model, data, {"ours": attention()}, threads=threads, batch_size=batch_size)
        assert json.dumps(again.rows) == json.dumps(result.rows)
        assert again.layer_weights == result.layer_weights


def test_a_choice_of_layers_and_tokens(model, data):
    result = evaluation.probe(model, data, "layers=[0, 2]", [1, -1, 3], tokens=("max", "cls", "max"))
    assert {(row["tokens"], row["layers"]) for row in result.rows} == {
        *((token, layer) for token in ("max", "cls") for layer in (1, 3)),
        *((token, name) for token in ("max", "cls") for name in AVERAGES),
        ("mean", "model"),
        ("mean", "layers=[0, 2]"),
    }
    expected = every_single_layer(("max", "cls"), (1, 3)) | every_average(("max", "cls")) | {("mean", "model"): None}
    assert_rows_are_those_of_sts(model, data, result, expected | {("mean", "layers=[0, 2]"): "layers=[0, 2]"})
    one = evaluation.probe(model, data, layers=2, tokens="mean")
    assert {row["layers"] for row in one.rows if isinstance(row["layers"], int)} == {2}


def test_names_of_poolings(model, data):
    given = [
        attention(),
        attention(5),
        "first_last",
        Sharpened(),
        Pooling(Sharpened(), head=(Normalize(),)),
        attention(),
    ]
    result = evaluation.probe(model, data, given, layers=0, tokens="mean")
    names = dict.fromkeys(row["layers"] for row in result.rows)
    assert list(names)[6:] == [str(attention()), f"{attention()} (2)", "Sharpened", "Sharpened, normalize"]
    assert set(result.layer_weights) == {str(attention()), f"{attention()} (2)"}


def test_the_own_pooling_of_a_folder_that_was_replaced(model, data):
    other = SentenceEncoder(model.folder.path, pooling=attention())
    result = evaluation.probe(other, data, layers=0, tokens="mean")
    assert_rows_are_those_of_sts(model, data, result, {("cls+mean", "model"): attention()})
    assert list(result.layer_weights) == ["model"]


def test_what_needs_every_token_is_computed_by_a_pass_of_its_own(model, data, small_blocks):
    result = evaluation.probe(model, data, ["sbert_wk", "top2"], tokens="mean")
    assert_rows_are_those_of_sts(model, data, result, {("every token", "sbert_wk"): "sbert_wk"})
    assert result.encoding["encoded_again_for"] == ["sbert_wk"]
    assert "encoded once more for: sbert_wk" in repr(result)


def test_layer_weights_are_the_models(model, data, result, small_blocks):
    again = evaluation.probe(model, data, {"ours": attention()})
    assert again.layer_weights == result.layer_weights
    (by_task,) = result.layer_weights.values()
    sentences = list(read_tasks(data).distinct_sentences())
    weights = model.layer_weights(sentences, pooling=attention()).astype(np.float64)
    assert by_task["mine"]["sentences"] == len(sentences)
    np.testing.assert_allclose(by_task["mine"]["mean"], weights.mean(0), rtol=1e-12)
    np.testing.assert_allclose(by_task["mine"]["sd"], weights.std(0), rtol=1e-9)


def test_layer_weights_without_the_prompt(tmp_path, data, small_blocks):
    path = sentence_transformers_folder(
        tmp_path / "model", num_hidden_layers=L, hidden_size=H, prompts={"q": "the big "}
    )
    edit_json(path / "config_sentence_transformers.json", default_prompt_name="q")
    model = SentenceEncoder(path)
    sentences = list(read_tasks(data).distinct_sentences())
    found = {}
    for include_prompt in (True, False):
        chosen = Pooling(attention().layers, include_prompt=include_prompt)
        result = evaluation.probe(model, data, {"ours": chosen}, tokens="mean", layers=0)
        assert result.encoding["encoded_again_for"] == ([] if include_prompt else ["ours"])
        found[include_prompt] = result.layer_weights["ours"]["mine"]["mean"]
        expected = model.layer_weights(sentences, pooling=chosen).astype(np.float64).mean(0)
        np.testing.assert_allclose(found[include_prompt], expected, rtol=1e-12)
    assert found[True] != found[False]


def test_the_bundled_sample_is_the_default(minilm):
    model = SentenceEncoder(minilm)
    result = evaluation.probe(model, tokens="mean", layers=6)
    assert result.tasks == ("sample",)
    assert result.model["name"] == "model"
    folder = evaluation.sample_folder()
    expected = every_single_layer(("mean",), (6,)) | every_average(("mean",)) | {("mean", "model"): None}
    assert not assert_rows_are_those_of_sts(model, folder, result, expected)


@pytest.mark.slow
def test_minilm_on_stsb(minilm, data_dir):
    model = SentenceEncoder(minilm)
    result = evaluation.probe(model, data_dir / "sts", tasks="STSB-test")
    chosen = every_single_layer(("mean",), (3,)) | every_single_layer(("weighted_mean",), (5,))
    chosen |= {("mean", "model"): None}
    chosen[("cls", "all_layers")] = every_average()["cls", "all_layers"]
    assert_rows_are_those_of_sts(model, data_dir / "sts", result, chosen, "STSB-test")
    assert len(result.rows) == 3 * (6 * 7 + 6 * 4 + 1)


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tokens": "median"}, ValueError, "tokens is 'median'; it must be one of cls, mean"),
        ({"tokens": ()}, TypeError, "tokens must be a name or a sequence of names"),
        ({"layers": 9}, ValueError, "layers: indices holds layer 9; this encoder has layers 0"),
        ({"layers": [0.5]}, TypeError, "layers: indices holds 0.5"),
        ({"layers": True}, TypeError, "layers: indices holds True"),
        ({"poolings": "median"}, ValueError, "poolings: pooling is 'median'; it must be one of"),
        ({"poolings": ["scalar_mix"]}, ValueError, "poolings: .*no trained parameters"),
        ({"poolings": ScalarMix([1, 2])}, ValueError, "poolings: .*has 2 weights; this encoder needs 4"),
        ({"poolings": 7}, TypeError, "poolings: pooling must be a name, a sequence of names, a Pooling"),
        ({"poolings": {3: "mean"}}, TypeError, "poolings has the key 3"),
        ({"tasks": "STS99"}, ValueError, "unknown task 'STS99'"),
        ({"folder": "nowhere"}, FileNotFoundError, "'nowhere' does not exist"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"threads": -1}, ValueError, "threads is -1"),
    ],
)
def test_bad_arguments_are_named(model, data, arguments, error, message):
    with pytest.raises(error, match=message):
        evaluation.probe(model, **({"folder": data} | arguments))


def test_only_our_encoder_shows_its_layers(data):
    for other in (lambda sentences: np.ones((len(sentences), 3)), "all-MiniLM-L6-v2"):
        with pytest.raises(TypeError, match=r"expected a SentenceEncoder, .*evaluation\.sts takes any model"):
            evaluation.probe(other, data)


def test_layer_weights_belong_to_their_pooling_whatever_it_is_called(model, data):
    rng = np.random.default_rng(0)
    attention = LayerAttention(*rng.normal(size=(3, model.hidden_size, model.hidden_size)))
    alone = evaluation.probe(model, data, {"ours": attention}, tokens="mean").layer_weights["ours"]
    for name in ("first_last", "model"):
        weights = evaluation.probe(model, data, {name: attention}, tokens="mean").layer_weights
        assert list(weights.values()) == [alone]


def test_vectors_that_do_not_do_are_named(model, data):
    class Broken(Sharpened):
        def forward(self, states):
            return np.where(states[:, -1, 0] > states[:, -1, 0].min(), np.inf, 1.0)

    with pytest.raises(ValueError, match="the vector by pooling Broken of '.*': NaN or infinity"):
        evaluation.probe(model, data, Broken())

    half = Pooling("mean", head=(lambda vectors: vectors[: (len(vectors) + 1) // 2],))
    with pytest.raises(ValueError, match=r"returned float32 of shape \(\d+, 24\) for \d+ sentences"):
        evaluation.probe(model, data, {"half": half})


def test_files_that_deviate_are_warned_about(model, tmp_path):
    place = tmp_path / "STSBenchmark"
    place.mkdir()
    line = "genre\tfile\tyear\t1\t{}\tthe {} cat\tthe dog\n"
    (place / "sts-test.csv").write_text("".join(line.format(k, word) for k, word in enumerate(WORDS)), encoding="utf-8")
    with pytest.warns(SentpoolWarning, match="STSB-test has 14 scored pairs") as caught:
        result = evaluation.probe(model, tmp_path, tokens="mean")
    assert {warning.filename for warning in caught} == {__file__}
    assert "STS12" in result.skipped
    assert "not scored: STS12" in repr(result)
