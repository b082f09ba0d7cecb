"""`config.json`: what each field may be, what an absent one means, and what is refused."""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress

import pytest
from fabricate import bert_config, bert_tensors, write_json

from sentpool.architectures import BERT
from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)


def read(folder, **changes) -> EncoderConfig:
    write_json(folder / "config.json", bert_config(**changes))
    return EncoderConfig.read(folder)


def read_text(folder, text: str) -> EncoderConfig:
    (folder / "config.json").write_text(text, encoding="utf-8")
    return EncoderConfig.read(folder)


def test_every_field_reaches_the_core(tmp_path):
    config = read(tmp_path, vocab_size=50, type_vocab_size=3, layer_norm_eps=1e-5)
    assert config.core_arguments() == {
        "vocab_size": 50,
        "max_positions": 32,
        "type_vocab_size": 3,
        "hidden": 24,
        "layers": 2,
        "heads": 3,
        "intermediate": 40,
        "layer_norm_eps": 1e-5,
        "activation": "gelu",
    }
    assert config.max_tokens == 32


def test_shapes_are_those_of_transformers_names(tmp_path):
    config = read(tmp_path)
    assert config.tensor_shapes() == {name: array.shape for name, array in bert_tensors(bert_config()).items()}


@pytest.mark.parity
def test_defaults_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertConfig()
    ours = read_text(tmp_path, '{"model_type": "bert"}')
    for name in (*SIZES, "layer_norm_eps", "hidden_act"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert set(BERT.defaults) == {*SIZES, "layer_norm_eps", "hidden_act"}
    hidden, attention = theirs.hidden_dropout_prob, theirs.attention_probs_dropout_prob
    assert ours.dropout == (hidden, attention, hidden, 0, hidden)


@pytest.mark.parametrize("value", [True, False, 0, -1, 24.0, "24", [24], {}, 2**31, 2**63, 10**300])
@pytest.mark.parametrize("name", SIZES)
def test_a_size_is_a_positive_integer_of_sane_size(tmp_path, name, value):
    with pytest.raises(ModelFolderError) as caught:
        read(tmp_path, **{name: value})
    message = str(caught.value)
    assert str(tmp_path / "config.json") in message
    assert f"'{name}'" in message
    assert "an integer from 1 to" in message
    assert len(message) < 400


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "1e999", "true", '"1e-12"', "0", "0.0", "-1e-12", "1", "null"]
)
def test_layer_norm_eps_is_a_small_positive_number(tmp_path, text):
    config = json.dumps(bert_config(layer_norm_eps=None))
    with pytest.raises(ModelFolderError, match=r"'layer_norm_eps' is .*; expected"):
        read_text(tmp_path, config[:-1] + f', "layer_norm_eps": {text}}}')


@pytest.mark.parametrize("value", [1.0, -0.1, True, "0.1"])
@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_a_rate_is_below_one(tmp_path, name, value):
    with pytest.raises(ModelFolderError, match=f"'{name}'"):
        read(tmp_path, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "quick_gelu"),
        ("hidden_act", "tanh"),
        ("hidden_act", 1),
        ("hidden_act", ["gelu"]),
        ("position_embedding_type", "relative_key"),
        ("position_embedding_type", "alibi"),
        ("is_decoder", True),
        ("is_decoder", 0),
        ("add_cross_attention", True),
        ("model_type", "t5"),
        ("model_type", 3),
        ("quantization_config", {"bits": 4}),
        ("pruned_heads", {"0": [1]}),
        ("auto_map", {"AutoModel": "modeling.Own"}),
        ("auto_map", 5),
        ("num_attention_heads", 5),
    ],
)
def test_what_is_not_understood_is_refused_by_name_and_value(tmp_path, name, value):
    with pytest.raises(ModelFolderError) as caught:
        read(tmp_path, **{name: value})
    shown = value["AutoModel"] if isinstance(value, dict) and "AutoModel" in value else value
    assert name in str(caught.value)
    assert repr(shown) in str(caught.value)
    assert "expected" in str(caught.value)


def test_heads_must_divide_the_width(tmp_path):
    with pytest.raises(
        ModelFolderError, match="'num_attention_heads' is 5; expected a divisor of hidden_size, which is 24"
    ):
        read(tmp_path, num_attention_heads=5)


def test_allowed_values_are_read(tmp_path):
    read(
        tmp_path,
        position_embedding_type="absolute",
        is_decoder=False,
        add_cross_attention=False,
        pruned_heads={},
    )
    assert read(tmp_path, hidden_act="gelu_python").core_arguments()["activation"] == "gelu"
    read(tmp_path, auto_map={"AutoModelForSequenceClassification": "own.Head"})


def test_old_folders_have_class_names_for_a_model_type(tmp_path):
    assert read(tmp_path, model_type=None, architectures=["BertForMaskedLM"]).hidden_size == 24
    for classes in (None, [], ["T5Model"], [3], "BertModel"):
        with pytest.raises(ModelFolderError, match="'model_type' is missing; expected \"bert\""):
            read(tmp_path, model_type=None, architectures=classes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", r"holds \[\]; expected an object"),
        (b'"bert"', "expected an object"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"vocab_size": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b" " * (17 << 20), "larger than 16 MiB"),
    ],
)
def test_a_file_that_is_no_json_object(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelFolderError, match=message):
        EncoderConfig.read(tmp_path)


def test_a_pipe_or_a_folder_in_its_place_is_not_opened(tmp_path):
    with pytest.raises(ModelFolderError, match="no such file"):
        EncoderConfig.read(tmp_path)
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ModelFolderError, match="not a regular file"):
        EncoderConfig.read(tmp_path)


def test_a_byte_order_mark_is_read_over(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(bert_config()), encoding="utf-8-sig")
    assert EncoderConfig.read(tmp_path).hidden_size == 24


def test_flipped_bytes_give_a_config_or_the_error(tmp_path):
    rng = random.Random(3)
    whole = json.dumps(bert_config()).encode()
    for _ in range(1000):
        flipped = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 5))):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        (tmp_path / "config.json").write_bytes(flipped)
        with suppress(ModelFolderError):
            assert isinstance(EncoderConfig.read(tmp_path), EncoderConfig)
