"""The modules of sentence-transformers: Pooling in both key styles, Dense, and where modules may be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fabricate import (
    edit_json,
    sentence_transformers_folder,
    write_json,
    write_safetensors,
)
from folder_checks import MODES, edit_module, refused

from sentpool.folder import open_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return sentence_transformers_folder(tmp_path / "model", head=(7, "Normalize"))


@pytest.mark.parametrize("name", MODES)
def test_pooling_in_both_key_styles(folder, name):
    old, new = MODES[name]
    path = folder / "1_Pooling" / "config.json"
    flags = {flag: flag == old for flag, _ in MODES.values()}
    write_json(path, {"word_embedding_dimension": 24, **flags})
    assert open_folder(folder).pooling.tokens == (name,)
    write_json(path, {"embedding_dimension": 24, "pooling_mode": new, "include_prompt": False})
    assert open_folder(folder).pooling.tokens == (name,)
    assert open_folder(folder).pooling.include_prompt is False


def test_poolings_are_concatenated_in_order(tmp_path):
    flags = {flag: True for flag, _ in MODES.values()}
    folder = sentence_transformers_folder(tmp_path, pooling={"word_embedding_dimension": 24, **flags}, head=(3,))
    opened = open_folder(folder)
    assert opened.pooling.tokens == ("cls", "max", "mean", "mean_sqrt_len", "weighted_mean", "last_token")
    assert opened.pooling.head[0].weight.shape == (3, 6 * 24)
    modes = ["mean", "cls", "max", "cls", "lasttoken", "mean"]
    write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": 24, "pooling_mode": modes})
    assert open_folder(folder).pooling.tokens == ("mean", "cls", "max", "cls", "last_token", "mean")
    # Nothing chosen is mean.
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 24})
    shutil.rmtree(folder / "2_Dense")
    write_json(folder / "modules.json", json.loads((folder / "modules.json").read_text())[:2])
    assert open_folder(folder).pooling.tokens == ("mean",)


@pytest.mark.parametrize("activation", ["Identity", "Tanh", "GELU", "ReLU", "Sigmoid"])
def test_activations_and_no_bias(folder, activation):
    where = "linear" if activation == "Identity" else "activation"
    path = folder / "2_Dense"
    edit_json(path / "config.json", bias=False, activation_function=f"torch.nn.modules.{where}.{activation}")
    weight = np.arange(7 * 24, dtype=np.float32).reshape(7, 24)
    write_safetensors(path / "model.safetensors", {"linear.weight": weight}, dtype="F16")
    dense = open_folder(folder).pooling.head[0]
    assert dense.activation == activation.lower()
    assert dense.bias is None
    np.testing.assert_array_equal(dense.weight, weight)


def test_the_activation_is_tanh_where_none_is_named(folder):
    path = folder / "2_Dense" / "config.json"
    write_json(path, {"in_features": 24, "out_features": 7})
    assert open_folder(folder).pooling.head[0].activation == "tanh"


@pytest.mark.parametrize(
    "kind",
    [
        "sentence_transformers.models.CNN",
        "sentence_transformers.models.LSTM",
        "sentpool.pooling.Dense",
        "transformers.models.Pooling",
        "sentence_transformers.Pooling",
        "Pooling",
        "os.system",
        "",
        3,
        None,
    ],
)
def test_unknown_modules(folder, kind):
    edit_module(folder, 1, type=kind)
    message = refused(folder, r"modules\.json: field '\[1\]\.type' is")
    assert repr(kind) in message


@pytest.mark.parametrize("order", [[], [0], [1, 0], [0, 2, 1], [0, 1, 1], [0, 0, 1], [0, 1, 2, 0]])
def test_modules_in_another_order(folder, order):
    modules = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", [modules[number] for number in order])
    refused(folder, r"modules\.json: lists .*; expected Transformer, Pooling, then any of Dense and Normalize")


@pytest.mark.parametrize("content", ["{}", "3", "[3]", "[[]]", "[", "", "[" * 100_000])
def test_a_modules_file_that_is_none(folder, content):
    (folder / "modules.json").write_text(content)
    refused(folder, r"modules\.json")


def test_a_module_with_arguments_of_its_own(folder):
    edit_module(folder, 0, kwargs=["task"])
    refused(folder, r"'\[0\]\.kwargs' is \['task'\]")


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../model",
        "1_Pooling/../..",
        "/etc",
        "C:\\x",
        "\\\\host\\share",
        "..\\x",
        "\0",
        "\ud800",
        None,
        5,
    ],
)
def test_module_paths_stay_inside(folder, path):
    edit_module(folder, 1, path=path)
    refused(folder, r"'\[1\]\.path' is")


def test_a_linked_module_folder_that_leads_outside(folder, tmp_path):
    (folder / "1_Pooling").rename(tmp_path / "outside")
    (folder / "1_Pooling").symlink_to(tmp_path / "outside")
    refused(folder, r"'\[1\]\.path' is '1_Pooling'; expected a folder inside")
    (folder / "1_Pooling").unlink()
    (folder / "1_Pooling").symlink_to("1_Pooling")
    refused(folder, r"1_Pooling")
    # A link that stays inside is no escape.
    (folder / "1_Pooling").unlink()
    (tmp_path / "outside").rename(folder / "other")
    (folder / "1_Pooling").symlink_to("other")
    open_folder(folder)


def test_a_dense_module_whose_weights_do_not_fit(folder):
    path = folder / "2_Dense" / "model.safetensors"
    weight, bias = np.zeros((7, 24), np.float32), np.zeros(7, np.float32)
    for tensors in (
        {"linear.weight": weight},
        {"linear.weight": weight.T, "linear.bias": bias},
        {"linear.weight": weight, "linear.bias": bias, "residual.weight": weight},
        {"weight": weight, "bias": bias},
        {},
    ):
        write_safetensors(path, tensors)
        refused(folder, r"2_Dense: the weights are .*; config\.json asks for .*linear\.weight")
    write_safetensors(path, {"linear.weight": weight, "linear.bias": bias}, dtype="F64")
    refused(folder, r"'linear\.weight' has dtype F64")
    bias[2] = np.nan
    write_safetensors(path, {"linear.weight": weight, "linear.bias": bias})
    refused(folder, r"'linear\.bias' contains NaN or Inf")
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, "not a whole safetensors file")
    path.rename(path.with_name("pytorch_model.bin"))
    refused(folder, r"pytorch_model\.bin: not a zip archive")


@pytest.mark.parametrize("name", ["1_Pooling", "2_Dense"])
def test_missing_module_folders(folder, name):
    shutil.rmtree(folder / name)
    refused(folder, f"{name}/config.json: no such file")
