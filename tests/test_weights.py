"""Weight files: every type and layout is read right; files cut short or lying give one kind of error."""

from __future__ import annotations

import hashlib
import json
import random
import re
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fabricate import (
    FakeCore,
    bert_config,
    bert_folder,
    bert_tensors,
    from_bfloat16,
    to_bfloat16,
    write_json,
    write_safetensors,
    write_sharded,
)

from sentpool import tensor_file, weights
from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError, SentpoolWarning

# What bert-base-uncased carries besides its encoder, by the names in its file.
BERT_BASE_LEFTOVERS = (
    "bert.pooler.dense.bias",
    "bert.pooler.dense.weight",
    "cls.predictions.bias",
    "cls.predictions.transform.LayerNorm.beta",
    "cls.predictions.transform.LayerNorm.gamma",
    "cls.predictions.transform.dense.bias",
    "cls.predictions.transform.dense.weight",
    "cls.seq_relationship.bias",
    "cls.seq_relationship.weight",
)


def loaded(folder: Path) -> dict[str, np.ndarray]:
    core = FakeCore()
    weights.load_into(core, folder, EncoderConfig.read(folder))
    return core.tensors()


def assert_same(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert ours.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    return bert_tensors(bert_config())


@pytest.fixture
def folder(tmp_path) -> Path:
    return bert_folder(tmp_path / "model")


def replace_weights(folder: Path, tensors: dict[str, np.ndarray], **options) -> Path:
    return write_safetensors(folder / "model.safetensors", tensors, **options)


# What is read.


def test_every_stored_type_becomes_float32(folder, tensors):
    assert_same(loaded(folder), tensors)
    replace_weights(folder, tensors, dtype="F16")
    assert_same(loaded(folder), {name: array.astype(np.float16).astype(np.float32) for name, array in tensors.items()})
    replace_weights(folder, tensors, dtype="BF16")
    assert_same(loaded(folder), {name: from_bfloat16(to_bfloat16(array)) for name, array in tensors.items()})


@pytest.mark.parity
def test_the_same_bits_as_torch(tmp_path, tensors):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    bert_folder(tmp_path)
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        stored = {name: torch.from_numpy(array).to(kind) for name, array in tensors.items()}
        save_file(stored, tmp_path / "model.safetensors")
        assert_same(loaded(tmp_path), {name: tensor.float().numpy() for name, tensor in stored.items()})


def test_types_may_differ_within_a_file(folder, tensors):
    replace_weights(folder, tensors, dtypes={"embeddings.word_embeddings.weight": "F16"})
    name = "embeddings.word_embeddings.weight"
    assert_same(loaded(folder), tensors | {name: tensors[name].astype(np.float16).astype(np.float32)})


def test_prefix_and_old_layer_norm_names(folder, tensors):
    def old(name: str) -> str:
        return "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    replace_weights(folder, {old(name): array for name, array in tensors.items()})
    assert_same(loaded(folder), tensors)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_sharded(folder, tensors, shards):
    (folder / "model.safetensors").unlink()
    write_sharded(folder, tensors, shards)
    assert_same(loaded(folder), tensors)
    assert len(weights.weight_files(folder)) == shards


def test_the_single_file_comes_before_an_index(folder, tensors):
    write_sharded(folder, {name: 0 * array for name, array in tensors.items()})
    assert weights.weight_files(folder) == [folder / "model.safetensors"]
    assert_same(loaded(folder), tensors)


def test_large_tensors_come_in_blocks_of_32_rows(folder, tensors, monkeypatch):
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", 1)
    core = FakeCore()
    weights.load_into(core, folder, EncoderConfig.read(folder))
    assert_same(core.tensors(), tensors)
    blocks = core.blocks["encoder.layer.0.intermediate.dense.weight"]
    assert [(first, block.shape) for first, block in blocks] == [(0, (32, 24)), (32, (8, 24))]
    assert core.blocks["encoder.layer.0.intermediate.dense.bias"][0][1].shape == (40,)


def test_sha256(folder):
    path = folder / "model.safetensors"
    assert weights.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


# Leftovers and strangers.


def test_bert_base_uncased_gives_one_warning_with_its_leftovers(folder, tensors):
    def stored(name: str) -> str:
        return "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    leftovers = {name: np.zeros(2, np.float32) for name in BERT_BASE_LEFTOVERS}
    replace_weights(folder, {stored(name): array for name, array in tensors.items()} | leftovers)
    with pytest.warns(SentpoolWarning) as caught:
        weights.check(folder, EncoderConfig.read(folder))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    assert message == f"{folder}: 9 tensors are not used by the encoder: " + ", ".join(BERT_BASE_LEFTOVERS)
    assert_same(loaded(folder), tensors)


def test_every_kind_of_leftover_is_listed(folder, tensors):
    names = (
        "cls.bias",
        "decoder.weight",
        "discriminator_predictions.dense.weight",
        "embeddings.position_ids",
        "head.weight",
        "lm_head.bias",
        "mlp.dense.weight",
        "pooler.dense.weight",
        "vocab_transform.weight",
    )
    # A type that no weight may have is nobody's business here.
    replace_weights(folder, tensors | {name: np.zeros((1, 32), np.int64) for name in names})
    with pytest.warns(SentpoolWarning, match="9 tensors are not used") as caught:
        weights.check(folder, EncoderConfig.read(folder))
    assert str(caught[0].message).endswith(", ".join(names))


def test_nothing_left_over_gives_no_warning(folder):
    weights.check(folder, EncoderConfig.read(folder))


@pytest.mark.parametrize("name", ["encoder.layer.2.output.dense.weight", "classifier.weight", "embeddings.extra", ""])
def test_an_unknown_tensor_is_refused_by_name(folder, tensors, name):
    replace_weights(folder, tensors | {name: np.zeros(2, np.float32)})
    with pytest.raises(
        ModelFolderError, match=r"1 tensor is unknown to model_type 'bert' with num_hidden_layers 2: '" + name
    ):
        loaded(folder)


def test_missing_tensors_are_refused_by_name(folder, tensors):
    for name in tensors:
        replace_weights(folder, {other: array for other, array in tensors.items() if other != name})
        with pytest.raises(ModelFolderError, match=f"1 tensor is missing .*'{name}'"):
            loaded(folder)
    replace_weights(folder, {})
    with pytest.raises(ModelFolderError, match=r"37 tensors are missing.* and 33 more"):
        loaded(folder)


def test_a_tensor_that_is_there_twice(folder, tensors):
    name = "embeddings.LayerNorm.weight"
    for other in ("bert.embeddings.LayerNorm.weight", "embeddings.LayerNorm.gamma"):
        replace_weights(folder, tensors | {other: tensors[name]})
        with pytest.raises(ModelFolderError, match=f"'{name}' and '{other}' are the same one"):
            loaded(folder)


@pytest.mark.parametrize(
    ("name", "shape", "meaning"),
    [
        ("embeddings.word_embeddings.weight", (36, 24), r"\(37, 24\) \(vocab_size 37, hidden_size 24\)"),
        (
            "embeddings.position_embeddings.weight",
            (32, 25),
            r"\(32, 24\) \(max_position_embeddings 32, hidden_size 24\)",
        ),
        (
            "encoder.layer.1.output.dense.weight",
            (40, 24),
            r"\(24, 40\) \(hidden_size 24, intermediate_size 40\)",
        ),
        ("encoder.layer.1.output.dense.bias", (24, 1), r"\(24,\) \(hidden_size 24\)"),
        ("encoder.layer.1.output.dense.bias", (), r"\(24,\) \(hidden_size 24\)"),
    ],
)
def test_a_wrong_shape_is_refused_with_both_shapes(folder, tensors, name, shape, meaning):
    replace_weights(folder, tensors | {name: np.zeros(shape, np.float32)})
    with pytest.raises(ModelFolderError) as caught:
        loaded(folder)
    assert re.search(rf"'{name}' has shape {re.escape(str(shape))}; config.json asks for {meaning}", str(caught.value))


@pytest.mark.parametrize("dtype", ["F64", "I64", "I32"])
def test_another_type_is_refused_with_name_and_type(folder, tensors, dtype):
    name = "encoder.layer.1.output.dense.weight"
    replace_weights(folder, tensors, dtypes={name: dtype})
    with pytest.raises(ModelFolderError, match=f"'{name}' has dtype {dtype}; allowed are F32, F16, BF16"):
        weights.check(folder, EncoderConfig.read(folder))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_the_core_says_about_values_names_the_file(folder, tensors, value):
    tensors["encoder.layer.1.output.dense.weight"][3, 4] = value
    replace_weights(folder, tensors)
    with pytest.raises(
        ModelFolderError, match=r"model\.safetensors: .*encoder\.layer\.1\.output\.dense\.weight.*NaN or Inf"
    ):
        loaded(folder)


def test_a_config_of_absurd_size_is_refused_before_anything_is_allocated(folder):
    for name, value in (
        ("vocab_size", 1 << 24),
        ("intermediate_size", 1 << 20),
        ("max_position_embeddings", 1 << 20),
    ):
        write_json(folder / "config.json", bert_config(**{name: value}))
        with pytest.raises(ModelFolderError, match=f"{name} {value}"):
            weights.check(folder, EncoderConfig.read(folder))


# Which files.


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match=r"no weights: neither model\.safetensors nor pytorch_model\.bin nor"):
        weights.weight_files(folder)


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "x.bin",
        "a\\b.safetensors",
        3,
        None,
        "\0.safetensors",
    ],
)
def test_a_shard_stays_in_the_folder(folder, tensors, file):
    (folder / "model.safetensors").unlink()
    write_sharded(folder, tensors)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["embeddings.LayerNorm.bias"] = file
    write_json(index, content)
    with pytest.raises(ModelFolderError, match=r"'weight_map\.embeddings\.LayerNorm\.bias' is"):
        loaded(folder)


def test_an_index_that_lies(folder, tensors):
    (folder / "model.safetensors").unlink()
    write_sharded(folder, tensors)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first, second = sorted(set(content["weight_map"].values()))
    changed = json.loads(index.read_text())
    changed["weight_map"]["cls.bias"] = first
    write_json(index, changed)
    with pytest.raises(ModelFolderError, match=f"tensor 'cls.bias' is not in {first}"):
        loaded(folder)
    write_json(index, content)
    write_safetensors(folder / second, dict(list(tensors.items())[:3]))
    with pytest.raises(ModelFolderError, match="is in .* too"):
        loaded(folder)
    (folder / second).unlink()
    with pytest.raises(ModelFolderError, match=f"{second}: no such file"):
        loaded(folder)
    for value in ({}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": None}):
        write_json(index, value)
        with pytest.raises(ModelFolderError, match="weight_map"):
            loaded(folder)


def test_flipped_bytes_give_weights_or_the_error(folder, tensors):
    rng = random.Random(5)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for number in range(600):
        flipped = bytearray(whole)
        # Most of what can go wrong is in the header, the least part of the file.
        flipped[rng.randrange(header if number % 4 else len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with suppress(ModelFolderError):
            loaded(folder)


def test_a_folder_in_place_of_a_file(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(ModelFolderError, match="no such file"):
        loaded(folder)


# The real core and the real model.


def test_the_core_has_the_tensors_of_the_table(folder):
    core = pytest.importorskip("sentpool._core")
    config = EncoderConfig.read(folder)
    model = core.Model(**config.core_arguments())
    assert dict(model.tensors()) == config.tensor_shapes()
    weights.load_into(model, folder, config)
    model.finish()


def test_the_core_refuses_what_is_not_finite(folder, tensors):
    core = pytest.importorskip("sentpool._core")
    tensors["encoder.layer.0.attention.self.key.weight"][7, 3] = np.nan
    replace_weights(folder, tensors)
    config = EncoderConfig.read(folder)
    with pytest.raises(ModelFolderError, match=r"model\.safetensors: .*attention\.self\.key\.weight"):
        weights.load_into(core.Model(**config.core_arguments()), folder, config)


def test_minilm(minilm):
    safe_open = pytest.importorskip("safetensors").safe_open
    with pytest.warns(SentpoolWarning) as caught:
        weights.check(minilm, EncoderConfig.read(minilm))
    assert [str(w.message) for w in caught] == [
        f"{minilm}: 3 tensors are not used by the encoder: "
        "embeddings.position_ids, pooler.dense.bias, pooler.dense.weight"
    ]
    with safe_open(minilm / "model.safetensors", "np") as file:
        expected = {
            name: file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118 (no mapping)
            if name != "embeddings.position_ids" and not name.startswith("pooler.")
        }
    assert_same(loaded(minilm), expected)
