"""Folders with trained poolings: sentence-transformers' WeightedLayerPooling, SimCSE's MLP, attention over layers.

The encoder's part is held against transformers in tests/parity; here the poolings are, in float64, from its states.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from fabricate import (
    attention_tensors,
    bert_config,
    bert_folder,
    bert_tensors,
    edit_json,
    sentence_transformers_folder,
    simcse_tensors,
    write_json,
    write_safetensors,
    write_sharded,
)
from fabricate_torch import write_torch
from folder_checks import MODES, edit_module, refused

from sentpool import SentenceEncoder
from sentpool.errors import ModelFolderError, SentpoolWarning
from sentpool.folder import open_folder
from sentpool.model_info import inspect_model
from sentpool.pooling import Dense, LayerAttention, Layers, Pooling, WeightedLayer

TEXTS = ["the cat sat on the mat", "a big dog", "", "unhappy running ! the dog"]
H, L = 24, 2
WEIGHTS = [0.5, -0.25, 1.5]


def states_of(model) -> list[np.ndarray]:
    """(L + 1, T, H) of each text in float64."""
    return [states.astype(np.float64) for states in model.hidden_states(TEXTS)]


def assert_close(ours: np.ndarray, expected) -> None:
    np.testing.assert_allclose(ours, np.array(expected), rtol=1e-5, atol=2e-6)


# WeightedLayerPooling.


def weighted_folder(path: Path, **options) -> Path:
    return sentence_transformers_folder(path, **{"weighted": WEIGHTS, **options})


@pytest.mark.parametrize(
    "place",
    [
        "models",
        "models.WeightedLayerPooling",
        "sentence_transformer.modules",
        "sentence_transformer.modules.weighted_layer_pooling",
    ],
)
def test_weighted_layers_of_every_class_path(tmp_path, place):
    folder = weighted_folder(tmp_path)
    edit_module(folder, 1, type=f"sentence_transformers.{place}.WeightedLayerPooling")
    assert open_folder(folder).pooling == Pooling(WeightedLayer(WEIGHTS, 0, "mean"))


def test_weighted_layers_in_the_old_and_the_new_names(tmp_path):
    folder = weighted_folder(tmp_path, weighted=[1, 2], head=(5, "Normalize"))
    opened = open_folder(folder)
    assert opened.pooling.layers == WeightedLayer([1, 2], 1, "mean")
    assert [type(module).__name__ for module in opened.pooling.head] == ["Dense", "Normalize"]
    path = folder / "0_Weighted/config.json"
    write_json(path, {"embedding_dimension": H, "layer_start": 1, "num_hidden_layers": L})
    assert open_folder(folder).pooling == opened.pooling
    assert list(opened.weight_hashes()) == [
        "model.safetensors",
        "0_Weighted/model.safetensors",
        "2_Dense/model.safetensors",
    ]


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "max"])
def test_weighted_layers_are_averaged_with_their_weights(tmp_path, mode):
    folder = weighted_folder(tmp_path, pooling={"word_embedding_dimension": H, MODES[mode][0]: True})
    model = SentenceEncoder(folder)

    def pooled(tokens):  # sentence-transformers mixes the layers of every token first
        place = np.arange(1, len(tokens) + 1)[:, None]
        return {
            "cls": lambda: tokens[0],
            "mean": lambda: tokens.mean(0),
            "mean_sqrt_len": lambda: tokens.sum(0) / np.sqrt(len(tokens)),
            "weighted_mean": lambda: (tokens * place).sum(0) / place.sum(),
            "last_token": lambda: tokens[-1],
        }[mode]()

    expected = [pooled(np.tensordot(WEIGHTS, states, 1) / sum(WEIGHTS)) for states in states_of(model)]
    assert_close(model.encode(TEXTS), expected)
    assert_close(model.layer_weights(TEXTS), np.tile(np.array(WEIGHTS) / sum(WEIGHTS), (len(TEXTS), 1)))


def test_weighted_layers_by_name(tmp_path):
    folder = weighted_folder(tmp_path)
    model = SentenceEncoder(folder)
    np.testing.assert_array_equal(model.encode(TEXTS, pooling="weighted_layer"), model.encode(TEXTS))
    assert SentenceEncoder(folder, pooling="weighted_layer").pooling == model.pooling


def test_weights_of_weighted_layers_in_any_format(tmp_path):
    folder = weighted_folder(tmp_path)
    path = folder / "0_Weighted/model.safetensors"
    weights = {"layer_weights": np.float32([0.5, -0.25, 1.5])}
    write_safetensors(path, weights, dtype="F16")
    assert open_folder(folder).pooling.layers == WeightedLayer(WEIGHTS, 0, "mean")
    path.unlink()
    write_torch(path.with_name("pytorch_model.bin"), weights)
    assert open_folder(folder).pooling.layers == WeightedLayer(WEIGHTS, 0, "mean")


@pytest.mark.bits
def test_weights_of_0_and_1_give_the_bits_of_plain_averages(tmp_path):
    model = SentenceEncoder(weighted_folder(tmp_path, weighted=[1, 0, 1], num_hidden_layers=5))
    np.testing.assert_array_equal(model.encode(TEXTS), model.encode(TEXTS, pooling=Layers([3, -1])))
    np.testing.assert_array_equal(model.layer_weights(TEXTS)[0], np.float32([0, 0, 0, 0.5, 0, 0.5]))


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("0_Weighted/config.json", "word_embedding_dimension", 25),
        ("0_Weighted/config.json", "embedding_dimension", "24"),
        ("0_Weighted/config.json", "layer_start", -1),
        ("0_Weighted/config.json", "layer_start", 3),
        ("0_Weighted/config.json", "layer_start", True),
        ("0_Weighted/config.json", "layer_start", None),
        ("0_Weighted/config.json", "num_hidden_layers", 12),
        ("0_Weighted/config.json", "num_hidden_layers", 2.0),
        ("0_Weighted/config.json", "softmax", True),
        ("config.json", "output_hidden_states", False),
        ("config.json", "output_hidden_states", None),
        ("config.json", "output_hidden_states", 1),
    ],
)
def test_a_field_of_weighted_layers_is_refused(tmp_path, file, name, value):
    folder = weighted_folder(tmp_path)
    edit_json(folder / file, **{name: value})
    assert f"{folder / file}: field '{name}' is {value!r}; expected" in refused(folder, "expected")


def test_fields_of_weighted_layers_that_are_missing(tmp_path):
    folder = weighted_folder(tmp_path)
    write_json(folder / "0_Weighted/config.json", {"layer_start": 0})
    refused(folder, "'num_hidden_layers' is missing; expected 2")  # it would be 12
    write_json(folder / "0_Weighted/config.json", {"num_hidden_layers": L})
    refused(folder, "'layer_start' is missing; expected an integer from 0 to 2")  # it would be 4
    write_json(folder / "config.json", bert_config())
    refused(folder, r"'output_hidden_states' is missing; expected true, .* leaves that module out unseen")
    shutil.rmtree(folder / "0_Weighted")
    edit_json(folder / "config.json", output_hidden_states=True)
    refused(folder, r"0_Weighted/config\.json: no such file")


def test_weights_of_weighted_layers_that_do_not_fit(tmp_path):
    folder = weighted_folder(tmp_path)
    path = folder / "0_Weighted/model.safetensors"
    for weights, message in (
        ({"layer_weights": np.ones(4, np.float32)}, r"'layer_weights': \(4,\)}; config\.json asks for .*\(3,\)"),
        ({"layer_weights": np.ones((3, 1), np.float32)}, r"asks for .*\(3,\)"),
        ({"weights": np.ones(3, np.float32)}, "the weights are"),
        ({"layer_weights": np.float32([1, np.nan, 1])}, "'layer_weights' contains NaN or Inf"),
        ({"layer_weights": np.float32([1, -2, 1])}, "0_Weighted: weights add up to 0"),
    ):
        write_safetensors(path, weights)
        refused(folder, message)
    write_safetensors(path, {"layer_weights": np.ones(3)}, dtype="F64")
    refused(folder, "'layer_weights' has dtype F64")
    path.unlink()
    refused(folder, "0_Weighted: no weights")


def test_the_maximum_of_weighted_layers_is_refused_with_the_reason(tmp_path):
    pooling = {"word_embedding_dimension": H, "pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}
    folder = weighted_folder(tmp_path, pooling=pooling)
    refused(folder, "0_Weighted: .*'max'.* maximum is not the mix of maxima")


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 2, 1], [0, 1], [0, 1, 1, 2], [0, 1, 2, 1], [1, 2]])
def test_weighted_layers_stand_before_the_pooling(tmp_path, order):
    folder = weighted_folder(tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", [modules[number] for number in order])
    refused(folder, r"modules\.json: lists .*; expected .*WeightedLayerPooling may precede Pooling")


# SimCSE.


def simcse_folder(path: Path, mlp_only_train=None, **options) -> Path:
    options = {"extra": simcse_tensors(), "architectures": ["BertForCL"], **options}
    return bert_folder(path, mlp_only_train=mlp_only_train, **options)


def with_mlp(states) -> np.ndarray:
    tensors = simcse_tensors()
    return np.tanh(states[-1, 0] @ tensors["mlp.dense.weight"].T.astype(np.float64) + tensors["mlp.dense.bias"])


def test_simcse_that_does_not_say_whether_its_mlp_was_for_training_only(tmp_path):
    folder = simcse_folder(tmp_path)
    with pytest.warns(SentpoolWarning) as caught:
        model = SentenceEncoder(folder)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    assert message.startswith(f"{folder}: the MLP of SimCSE")
    assert "mlp_only_train in config.json, which is not there: pooling='cls' leaves it out" in message
    assert_close(model.encode(TEXTS), [with_mlp(states) for states in states_of(model)])
    np.testing.assert_array_equal(model.encode(TEXTS, pooling="cls_mlp"), model.encode(TEXTS))
    assert_close(model.encode(TEXTS, pooling="cls"), [states[-1, 0] for states in states_of(model)])


@pytest.mark.parametrize("name", ["cls", "cls_mlp", "cls_before_pooler", "mean"])
@pytest.mark.parametrize("mlp_only_train", [None, True, False])
def test_who_chooses_a_pooling_of_simcse_is_not_warned(tmp_path, name, mlp_only_train):
    model = SentenceEncoder(simcse_folder(tmp_path, mlp_only_train), pooling=name)
    assert model.pooling.layers == Layers([-1], "mean" if name == "mean" else "cls")
    assert len(model.pooling.head) == (name == "cls_mlp")


def test_simcse_whose_mlp_is_applied_or_for_training_only(tmp_path):
    applied = SentenceEncoder(simcse_folder(tmp_path / "sup", False))
    assert_close(applied.encode(TEXTS), [with_mlp(states) for states in states_of(applied)])
    with pytest.warns(SentpoolWarning, match="mlp_only_train: pooling='cls_mlp' applies it") as caught:
        left_out = SentenceEncoder(simcse_folder(tmp_path / "unsup", True))
    assert len(caught) == 1
    assert left_out.pooling == Pooling("cls")
    np.testing.assert_array_equal(left_out.encode(TEXTS), applied.encode(TEXTS, pooling="cls"))
    np.testing.assert_array_equal(left_out.encode(TEXTS, pooling="cls_mlp"), applied.encode(TEXTS))
    left_out.pooling = "cls_mlp"
    assert left_out.pooling == applied.pooling


@pytest.mark.parametrize("value", [1, "true", [True]])
def test_mlp_only_train_is_true_or_false(tmp_path, value):
    refused(simcse_folder(tmp_path, value), "'mlp_only_train' is .*; expected true or false")


@pytest.mark.parametrize("write", ["safetensors", "sharded", "torch", "F16"])
def test_simcse_in_every_format_with_prefix_and_leftovers(tmp_path, write):
    leftovers = ("lm_head.bias", "lm_head.transform.dense.weight", "bert.pooler.dense.weight", "cls.predictions.bias")
    tensors = {f"bert.{name}": array for name, array in bert_tensors(bert_config()).items()}
    tensors |= simcse_tensors() | {name: np.zeros(2, np.float32) for name in leftovers}
    folder = simcse_folder(tmp_path, False)
    path = folder / "model.safetensors"
    if write == "F16":
        write_safetensors(path, tensors, dtype="F16")
    elif write == "safetensors":
        write_safetensors(path, tensors)
    else:
        path.unlink()
        if write == "sharded":
            write_sharded(folder, tensors, 3)
        else:
            write_torch(folder / "pytorch_model.bin", tensors)
    with pytest.warns(SentpoolWarning) as caught:
        model = SentenceEncoder(folder)
    names = ", ".join(sorted(leftovers))
    assert [str(w.message) for w in caught] == [f"{folder}: 4 tensors are not used by the encoder: {names}"]
    weight = simcse_tensors()["mlp.dense.weight"]
    weight = weight.astype(np.float16).astype(np.float32) if write == "F16" else weight
    np.testing.assert_array_equal(model.pooling.head[0].weight, weight)


@pytest.mark.parametrize(
    "mlp",
    [
        {"mlp.dense.weight": (H, H)},
        {"mlp.dense.weight": (H, 2 * H), "mlp.dense.bias": (H,)},
        {"mlp.dense.weight": (H, H), "mlp.dense.bias": (H, 1)},
        {"mlp.net.0.weight": (H, H)},
    ],
)
def test_an_mlp_that_is_not_simcses_is_left_over_aloud(tmp_path, mlp):
    folder = bert_folder(tmp_path, extra={name: np.ones(shape, np.float32) for name, shape in mlp.items()})
    with pytest.warns(SentpoolWarning, match=f"not used by the encoder: {', '.join(sorted(mlp))}"):
        opened = open_folder(folder)
    assert opened.pooling == Pooling("mean")
    with (
        pytest.warns(SentpoolWarning, match="not used"),
        pytest.raises(ValueError, match="there are no trained parameters"),
    ):
        SentenceEncoder(folder, pooling="cls_mlp")


def test_an_mlp_in_the_encoder_of_a_sentence_transformers_folder_is_left_over(tmp_path):
    folder = sentence_transformers_folder(tmp_path, extra=simcse_tensors())
    with pytest.warns(SentpoolWarning, match="2 tensors are not used by the encoder: mlp.dense.bias"):
        assert open_folder(folder).pooling == Pooling("mean")


@pytest.mark.parametrize("name", simcse_tensors())
def test_an_mlp_that_is_not_finite(tmp_path, name):
    tensors = simcse_tensors()
    tensors[name][3] = np.inf
    refused(simcse_folder(tmp_path, extra=tensors), rf"model\.safetensors: tensor '{name}' contains NaN or Inf")


def test_the_folder_says_what_it_holds(tmp_path):
    text = str(inspect_model(simcse_folder(tmp_path / "simcse")))
    assert "pooling         cls\n" in text
    assert "dense 24→24 tanh" in text
    assert "unused tensors  none" in text
    assert "notice " in text
    text = str(inspect_model(attention_folder(tmp_path / "attention")))
    assert "LayerAttention" in text
    assert "notice" not in text


def test_a_copy_keeps_the_pooling_and_does_not_warn(tmp_path):
    model = SentenceEncoder(simcse_folder(tmp_path), pooling="cls_mlp")
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.encode(TEXTS), model.encode(TEXTS))


# The attention over layers.


def attention_folder(path: Path, **options) -> Path:
    tensors = {f"bert.{name}": array for name, array in bert_tensors(bert_config()).items()}
    options = {"extra": attention_tensors(), "architectures": ["BertForCL"], "tensors": tensors, **options}
    return bert_folder(path, **options)


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, x, x * 11 / 48)


def oh2022(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The embedding (H,) and the weights (L + 1,) of one sentence, source by source."""
    tensors = {name: array.astype(np.float64) for name, array in attention_tensors().items()}
    sources, targets = states[:, 0], states.mean(1)
    keys = leaky(targets @ tensors["attn.key.0.weight"].T)
    values = leaky(targets @ tensors["attn.value.0.weight"].T)
    outputs, attentions = [], []
    for source in sources:
        scores = keys @ leaky(tensors["attn.query.0.weight"] @ source) / len(states)
        attention = np.exp(scores - scores.max())
        attention /= attention.sum()
        attentions.append(attention)
        outputs.append(attention @ values)
    both = np.concatenate([sources[-1], np.mean(outputs, axis=0)])
    return np.tanh(tensors["mlp.dense.weight"] @ both + tensors["mlp.dense.bias"]), np.mean(attentions, axis=0)


def test_attention_over_layers_is_what_the_folder_was_trained_for(tmp_path):
    model = SentenceEncoder(attention_folder(tmp_path))
    tensors = attention_tensors()
    parts = {part: tensors[f"attn.{part}.0.weight"] for part in ("query", "key", "value")}
    head = Dense(tensors["mlp.dense.weight"], tensors["mlp.dense.bias"], "tanh")
    assert model.pooling == Pooling(LayerAttention(**parts), head=(head,))
    embeddings, weights = zip(*map(oh2022, states_of(model)), strict=True)
    assert_close(model.encode(TEXTS), embeddings)
    assert_close(model.layer_weights(TEXTS), weights)
    np.testing.assert_array_equal(model.encode(TEXTS, pooling="layer_attention"), model.encode(TEXTS))
    assert_close(model.encode(TEXTS, pooling="cls"), [states[-1, 0] for states in states_of(model)])
    with pytest.raises(ValueError, match="'cls_mlp', and there are no trained parameters"):
        model.encode(TEXTS, pooling="cls_mlp")


def test_attention_over_layers_from_torchs_file(tmp_path):
    folder = attention_folder(tmp_path)
    expected = SentenceEncoder(folder).encode(TEXTS)
    (folder / "model.safetensors").unlink()
    tensors = {f"bert.{name}": array for name, array in bert_tensors(bert_config()).items()}
    write_torch(folder / "pytorch_model.bin", tensors | attention_tensors())
    np.testing.assert_array_equal(SentenceEncoder(folder).encode(TEXTS), expected)


@pytest.mark.parametrize("name", attention_tensors())
def test_an_attention_over_layers_that_is_not_whole(tmp_path, name):
    tensors = attention_tensors()
    array = tensors.pop(name)
    refused(attention_folder(tmp_path, extra=tensors), f"tensor '{name}' is missing, which belongs to an attention")
    with pytest.raises(ModelFolderError, match=rf"'{name}' has shape \(23.*hidden_size 24 has \(24,"):
        open_folder(attention_folder(tmp_path, extra=tensors | {name: array[:-1]}))
    array = array.copy()
    array[2] = np.nan
    refused(attention_folder(tmp_path, extra=tensors | {name: array}), f"'{name}' contains NaN or Inf")


def test_more_attention_than_there_should_be(tmp_path):
    tensors = attention_tensors() | {"attn.key.0.bias": np.ones(H, np.float32)}
    refused(attention_folder(tmp_path, extra=tensors), "1 tensor is unknown .*'attn.key.0.bias'")
