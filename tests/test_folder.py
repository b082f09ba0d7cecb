"""Model folders: what sentence-transformers writes is read as it reads it; all else is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fabricate import (
    bert_folder,
    edit_json,
    sentence_transformers_folder,
    write_json,
)
from folder_checks import MODES, edit_module, refused

from sentpool import weights
from sentpool.errors import ModelFolderError, SentpoolWarning
from sentpool.folder import ModelFolder, open_folder
from sentpool.pooling import Dense, Normalize


@pytest.fixture
def folder(tmp_path) -> Path:
    return sentence_transformers_folder(tmp_path / "model", head=(7, "Normalize"))


# What is read.


def test_a_plain_folder_is_pooled_by_mean(tmp_path):
    opened = open_folder(bert_folder(tmp_path))
    assert opened.path == opened.transformer_path == tmp_path
    assert opened.pooling.tokens == ("mean",)
    assert opened.pooling.include_prompt is True
    assert opened.pooling.head == ()
    assert (opened.prompts, opened.default_prompt_name, opened.truncate_dim) == ({}, None, None)
    assert opened.similarity_fn_name == "cosine"
    assert opened.tokenizer.max_seq_length == 32
    assert opened.config.hidden_size == 24


@pytest.mark.parametrize("old_classes", [True, False])
def test_a_sentence_transformers_folder(tmp_path, old_classes):
    opened = open_folder(
        sentence_transformers_folder(tmp_path, head=(7, "Normalize", 5), max_seq_length=9, old_classes=old_classes)
    )
    assert opened.tokenizer.max_seq_length == 9
    first, second, third = opened.pooling.head
    assert isinstance(first, Dense)
    assert first.weight.shape == (7, 24)
    assert first.bias.shape == (7,)
    assert first.weight.dtype == first.bias.dtype == np.float32
    assert first.activation == "tanh"
    assert second == Normalize()
    assert third.weight.shape == (5, 7)


def test_paths_may_be_given_as_strings_and_with_a_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    for path in (folder, str(folder), "~/model", str(folder) + "/", os.path.relpath(folder)):
        assert open_folder(path).config.hidden_size == 24


def test_the_encoder_may_have_a_folder_of_its_own(folder):
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
    ):
        (folder / name).rename(inner / name)
    edit_module(folder, 0, path="0_Transformer")
    opened = open_folder(folder)
    assert opened.transformer_path == inner
    assert opened.tokenizer.max_seq_length == 16


@pytest.mark.parametrize(
    "name", ["sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlnet_config.json"]
)
def test_old_names_of_the_settings(folder, name):
    (folder / "sentence_bert_config.json").unlink()
    write_json(folder / name, {"max_seq_length": 11})
    assert open_folder(folder).tokenizer.max_seq_length == 11


def test_settings_may_be_missing_or_null(folder):
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": None, "do_lower_case": False})
    assert open_folder(folder).tokenizer.max_seq_length == 32
    (folder / "sentence_bert_config.json").unlink()
    edit_json(folder / "tokenizer_config.json", model_max_length=13)
    assert open_folder(folder).tokenizer.max_seq_length == 13


def test_lower_casing_of_the_settings(folder):
    edit_json(folder / "tokenizer_config.json", do_lower_case=False)
    assert open_folder(folder).tokenizer.encode(["CAT"]).ids.tolist() == [2, 1, 3]
    write_json(folder / "sentence_bert_config.json", {"do_lower_case": True})
    assert open_folder(folder).tokenizer.encode(["CAT"]).ids.tolist() == [2, 7, 3]


def test_prompts_and_the_like(folder):
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "9.9.9"},
            "model_type": "SentenceTransformer",
            "prompts": {"query": "query: ", "document": None, "": ""},
            "default_prompt_name": "query",
            "similarity_fn_name": "dot",
            "truncate_dim": 7,
        },
    )
    opened = open_folder(folder)
    assert opened.prompts == {"query": "query: ", "document": "", "": ""}
    assert opened.default_prompt_name == "query"
    assert opened.similarity_fn_name == "dot"
    assert opened.truncate_dim == 7
    nothing = dict.fromkeys(("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim"))
    write_json(folder / "config_sentence_transformers.json", nothing)
    opened = open_folder(folder)
    assert (opened.prompts, opened.default_prompt_name, opened.truncate_dim) == ({}, None, None)
    assert opened.similarity_fn_name == "cosine"


def test_leftovers_give_one_warning_at_the_caller(tmp_path):
    path = sentence_transformers_folder(tmp_path, extra={"embeddings.position_ids": np.arange(32)[None]})
    with pytest.warns(SentpoolWarning) as caught:
        open_folder(path)
    assert [str(w.message) for w in caught] == [f"{path}: 1 tensor is not used by the encoder: embeddings.position_ids"]
    assert caught[0].filename == __file__


def test_minilm(minilm):
    opened = open_folder(minilm)
    assert opened.pooling.tokens == ("mean",)
    assert opened.pooling.head == (Normalize(),)
    assert opened.tokenizer.max_seq_length == 256
    assert opened.tokenizer.encode(["hello world"]).ids.tolist() == [101, 7592, 2088, 102]


def test_the_layout_of_the_hub_cache(folder, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abcd"
    blobs.mkdir()
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    assert open_folder(snapshot).pooling.head[0].weight.shape == (7, 24)
    (tmp_path / "link").symlink_to(snapshot)
    assert open_folder(tmp_path / "link").pooling.head[0].weight.shape == (7, 24)


# sentence-transformers as the oracle.


@pytest.mark.parity
def test_what_sentence_transformers_writes_today(tmp_path):
    st = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    dense_module = pytest.importorskip("sentence_transformers.base.modules.dense").Dense
    torch = pytest.importorskip("torch")
    source = bert_folder(tmp_path / "plain")
    for name, (_, theirs) in MODES.items():
        transformer = modules.Transformer(str(source), max_seq_length=10)
        pooling = modules.Pooling(24, pooling_mode=(theirs, "mean"), include_prompt=False)
        dense = dense_module(48, 7, bias=name != "max", activation_function=torch.nn.GELU())
        model = st.SentenceTransformer(
            modules=[transformer, pooling, dense, modules.Normalize()],
            prompts={"query": "the: "},
            similarity_fn_name="euclidean",
        )
        model.save(str(tmp_path / name))
        opened = open_folder(tmp_path / name)
        assert opened.pooling.tokens == (name, "mean")
        assert opened.pooling.include_prompt is False
        np.testing.assert_array_equal(opened.pooling.head[0].weight, dense.linear.weight.detach().numpy())
        assert (opened.pooling.head[0].bias is None) == (name == "max")
        assert opened.pooling.head[0].activation == "gelu"
        assert opened.pooling.head[1] == Normalize()
        assert opened.prompts["query"] == "the: "
        assert opened.similarity_fn_name == "euclidean"
        assert opened.tokenizer.max_seq_length == model.max_seq_length == 10
        texts = ["the cat sat", "", "a big dog runs on the mat with the cat"]
        expected = model.tokenizer(texts, truncation=True, max_length=10)["input_ids"]
        batch = opened.tokenizer.encode(texts)
        assert [batch.ids[a:b].tolist() for a, b in zip(batch.offsets, batch.offsets[1:], strict=False)] == expected


@pytest.mark.parity
def test_what_the_tests_write_opens_in_sentence_transformers(tmp_path):
    st = pytest.importorskip("sentence_transformers")
    for old_classes in (True, False):
        path = sentence_transformers_folder(tmp_path / str(old_classes), head=(7, "Normalize"), old_classes=old_classes)
        model = st.SentenceTransformer(str(path))
        assert model.encode(["the cat"]).shape == (1, 7)
        assert model.max_seq_length == open_folder(path).tokenizer.max_seq_length == 16


# What is refused.


def test_a_folder_that_is_no_model(tmp_path):
    refused(tmp_path, r"not a model folder: neither modules\.json nor config\.json")
    write_json(tmp_path / "config.json", {})
    refused(tmp_path, "'model_type' is missing")


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("sentence_bert_config.json", "max_seq_length", 0),
        ("sentence_bert_config.json", "max_seq_length", -1),
        ("sentence_bert_config.json", "max_seq_length", True),
        ("sentence_bert_config.json", "max_seq_length", "128"),
        ("sentence_bert_config.json", "max_seq_length", 1e3),
        ("sentence_bert_config.json", "do_lower_case", 1),
        ("sentence_bert_config.json", "do_lower_case", None),
        ("sentence_bert_config.json", "transformer_task", "fill-mask"),
        ("sentence_bert_config.json", "module_output_name", "sentence_embedding"),
        ("sentence_bert_config.json", "query_expansion", {"a": 1}),
        ("sentence_bert_config.json", "model_args", {"attn_implementation": "eager"}),
        ("sentence_bert_config.json", "processing_kwargs", {"text": {"max_length": 3}}),
        ("1_Pooling/config.json", "word_embedding_dimension", 25),
        ("1_Pooling/config.json", "word_embedding_dimension", True),
        ("1_Pooling/config.json", "embedding_dimension", "24"),
        ("1_Pooling/config.json", "pooling_mode_mean_tokens", 1),
        ("1_Pooling/config.json", "pooling_mode_cls_token", "true"),
        ("1_Pooling/config.json", "include_prompt", 0),
        ("1_Pooling/config.json", "pooling_mode", "median"),
        ("1_Pooling/config.json", "pooling_mode", []),
        ("1_Pooling/config.json", "pooling_mode", [["mean"]]),
        ("1_Pooling/config.json", "pooling_mode", {"mean": True}),
        ("1_Pooling/config.json", "layer_start", 4),
        ("2_Dense/config.json", "in_features", 25),
        ("2_Dense/config.json", "in_features", 24.0),
        ("2_Dense/config.json", "out_features", 0),
        ("2_Dense/config.json", "out_features", 2**40),
        ("2_Dense/config.json", "out_features", True),
        ("2_Dense/config.json", "bias", 1),
        ("2_Dense/config.json", "activation_function", "torch.nn.modules.activation.SELU"),
        ("2_Dense/config.json", "activation_function", "os.system"),
        ("2_Dense/config.json", "activation_function", None),
        ("2_Dense/config.json", "use_residual", True),
        ("2_Dense/config.json", "module_input_name", "token_embeddings"),
        ("2_Dense/config.json", "dropout", 0.5),
        ("3_Normalize/config.json", "module_output_name", "token_embeddings"),
        ("config_sentence_transformers.json", "model_type", "SparseEncoder"),
        ("config_sentence_transformers.json", "prompts", ["a"]),
        ("config_sentence_transformers.json", "prompts", "a"),
        ("config_sentence_transformers.json", "default_prompt_name", "nobody"),
        ("config_sentence_transformers.json", "default_prompt_name", 0),
        ("config_sentence_transformers.json", "similarity_fn_name", "hamming"),
        ("config_sentence_transformers.json", "similarity_fn_name", True),
        ("config_sentence_transformers.json", "truncate_dim", 8),
        ("config_sentence_transformers.json", "truncate_dim", 0),
        ("config_sentence_transformers.json", "truncate_dim", True),
        ("config_sentence_transformers.json", "truncate_dim", 2.0),
    ],
)
def test_a_field_is_refused_with_file_name_and_value(folder, file, name, value):
    path = folder / file
    content = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, content | {name: value})
    message = refused(folder, "expected")
    assert f"{path}: field '{name}' is {value!r}" in message


def test_modality_that_is_not_text(folder):
    settings = {"modality_config": {"text": {"method": "get_text_features", "method_output_name": None}}}
    write_json(folder / "sentence_bert_config.json", settings)
    refused(folder, r"'modality_config\.text\.method' is 'get_text_features'")


def test_a_prompt_that_is_no_text(folder):
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": 5}})
    refused(folder, r"field 'prompts\.query' is 5; expected a string")


def test_flipped_bytes_in_every_small_file(folder):
    rng = random.Random(11)
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix == ".json"]
    assert len(files) == 7
    for path in files:
        whole = path.read_bytes()
        for _ in range(60):
            flipped = bytearray(whole)
            for _ in range(rng.choice((1, 1, 3))):
                flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            with suppress(ModelFolderError):
                assert isinstance(open_folder(folder), ModelFolder)
        for length in {0, 1, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:length])
            with suppress(ModelFolderError):
                open_folder(folder)
        path.write_bytes(whole)


def test_the_weights_fit_the_core(folder):
    core = pytest.importorskip("sentpool._core")
    opened = open_folder(folder)
    model = core.Model(**opened.config.core_arguments())
    weights.load_into(model, opened.transformer_path, opened.config)
    model.finish()


# What was read, for a record of it.


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_hashes_of_every_weight_file(folder):
    names = ["model.safetensors", "2_Dense/model.safetensors"]
    assert open_folder(folder).weight_hashes() == {name: sha256(folder / name) for name in names}


def test_hashes_of_shards_and_of_a_transformer_in_a_folder_of_its_own(folder):
    for number in (0, 1):
        edit_module(folder, number, path=f"{number}_Part")
    (folder / "0_Part").mkdir()
    (folder / "1_Pooling").rename(folder / "1_Part")
    for path in [path for path in folder.iterdir() if path.is_file() and path.name != "modules.json"]:
        path.rename(folder / "0_Part" / path.name)
    names = ["0_Part/model.safetensors", "2_Dense/model.safetensors"]
    assert list(open_folder(folder).weight_hashes()) == names

    single = folder / "0_Part/model.safetensors"
    shard = single.with_name("model-00001-of-00001.safetensors")
    tensors = list(weights.stored_tensors(single.parent))
    single.rename(shard)
    write_json(single.with_name("model.safetensors.index.json"), {"weight_map": dict.fromkeys(tensors, shard.name)})
    names[0] = f"0_Part/{shard.name}"
    assert open_folder(folder).weight_hashes() == {name: sha256(folder / name) for name in names}


@pytest.mark.parametrize("name", ["model.safetensors", "2_Dense/model.safetensors"])
@pytest.mark.parametrize("change", ["gone", "longer", "other bytes"])
def test_a_file_that_changed_has_no_hash(folder, name, change):
    opened = open_folder(folder)
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if change != "gone":
        path.write_bytes(content + b"\0" if change == "longer" else content[::-1])
    with pytest.warns(SentpoolWarning, match=f"changed since the model was opened: {name};") as caught:
        hashes = opened.weight_hashes()
    assert len(caught) == 1
    assert [known for known, digest in hashes.items() if digest is None] == [name]
    assert len(hashes) == 2
