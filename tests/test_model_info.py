"""What is said of a folder is what it holds, also where it does not open."""

from __future__ import annotations

import json

import pytest
from fabricate import (
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
from fabricate_families import CONFIGS, family_folder, family_tensors

from sentpool import SentenceEncoder, cli
from sentpool.model_info import inspect_model

# 37 + 32 + 2 rows and a norm; two layers of four squares, two norms and the feed-forward; 24 wide, 40 inside.
PARAMETERS = (37 + 32 + 2) * 24 + 48 + 2 * (4 * (24 * 24 + 24) + 2 * 48 + 2 * 24 * 40 + 24 + 40)


def only_fact(info, name: str) -> str:
    """The one line of that name."""
    (line,) = [line for line in str(info).split("\n") if line.startswith(f"{name}  ")]
    return line.removeprefix(name).strip()


def test_a_plain_folder(tmp_path):
    info = inspect_model(
        bert_folder(
            tmp_path / "m", extra={"pooler.dense.weight": bert_tensors(bert_config())["embeddings.LayerNorm.bias"]}
        )
    )
    assert info.problems == []
    facts = info.facts
    assert facts["path"] == str(tmp_path / "m")
    assert facts["format"] == "Hugging Face"
    assert facts["encoder"] == {
        "model_type": "bert",
        "num_hidden_layers": 2,
        "hidden_size": 24,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "hidden_act": "gelu",
        "vocab_size": 37,
        "max_tokens": 32,
    }
    assert facts["weights"]["parameters"] == PARAMETERS
    assert facts["weights"]["parameters_by_dtype"] == {"F32": PARAMETERS}
    assert facts["weights"]["tensors"] == 5 + 2 * 16
    assert facts["weights"]["unused_tensors"] == ["pooler.dense.weight"]
    assert facts["weights"]["bytes"] == (tmp_path / "m" / "model.safetensors").stat().st_size
    assert facts["tokenizer"] == {
        "class": "BertTokenizer",
        "algorithm": "WordPiece",
        "files": ["tokenizer.json"],
        "tokens": 37,
        "opening": ["[CLS]"],
        "closing": ["[SEP]"],
        "lower_case": True,
    }
    assert facts["modules"] is None
    assert facts["files"] == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert (facts["pooling"], facts["head"], facts["dimension"]) == ("mean", [], 24)
    assert only_fact(info, "maximum length") == "32 tokens (the encoder has positions for 32)"
    assert only_fact(info, "tokenizer").endswith("from tokenizer.json: 37 tokens, [CLS] … [SEP], lower case")


def test_types_and_shards(tmp_path):
    tensors = bert_tensors(bert_config())
    folder = bert_folder(tmp_path, vocabulary_only=True)
    write_safetensors(folder / "model.safetensors", tensors, "F16", {"embeddings.word_embeddings.weight": "BF16"})
    info = inspect_model(folder)
    assert info.facts["weights"]["parameters_by_dtype"] == {"BF16": 37 * 24, "F16": PARAMETERS - 37 * 24}
    assert info.facts["tokenizer"]["files"] == ["vocab.txt"]
    (folder / "model.safetensors").unlink()
    write_sharded(folder, tensors)
    info = inspect_model(folder)
    assert only_fact(info, "parameters").startswith(f"{PARAMETERS:,} as F32 in 2 files (0.0 MB)")


def test_a_folder_of_modules(tmp_path):
    folder = sentence_transformers_folder(tmp_path, head=(5, "Normalize"), prompts={"query": "q: ", "doc": ""})
    edit_json(folder / "config_sentence_transformers.json", default_prompt_name="query", truncate_dim=4)
    info = inspect_model(folder)
    assert info.facts["format"] == "sentence-transformers"
    assert only_fact(info, "modules") == "Transformer, Pooling, Dense, Normalize"
    assert only_fact(info, "head") == "dense 24→5 tanh, then normalize, then first 4 of 5 numbers"
    assert only_fact(info, "embedding") == "4 numbers, compared by cosine"
    assert only_fact(info, "prompts") == "query 'q: ' (default), doc ''"
    assert only_fact(info, "maximum length") == "16 tokens (the encoder has positions for 32)"
    assert "2_Dense/model.safetensors" in info.facts["files"]


def test_what_training_code_left(tmp_path):
    info = inspect_model(bert_folder(tmp_path, extra=simcse_tensors()))
    assert info.problems == []
    assert "mlp_only_train" in only_fact(info, "notice")
    assert info.facts["weights"]["unused_tensors"] == []


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family(tmp_path, family):
    info = inspect_model(family_folder(tmp_path, family))
    assert info.problems == []
    config = CONFIGS[family]
    assert info.facts["encoder"]["model_type"] == config["model_type"]
    assert info.facts["weights"]["parameters"] == sum(tensor.size for tensor in family_tensors(config).values())
    assert info.facts["dimension"] == 24
    # The rows up to that of the padding token are no positions of a text.
    offset = 2 if family in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    assert info.facts["encoder"]["max_tokens"] == positions - offset


# ---- folders that do not open --------------------------------------------------------------------------------------


def test_an_encoder_of_another_kind(tmp_path):
    """What its files say is said all the same."""
    write_json(tmp_path / "config.json", {"model_type": "t5", "num_hidden_layers": 3, "vocab_size": 7})
    write_safetensors(tmp_path / "model.safetensors", {"a.b": bert_tensors(bert_config())["embeddings.LayerNorm.bias"]})
    info = inspect_model(tmp_path)
    (problem,) = info.problems
    assert "field 'model_type' is 't5'" in problem
    assert info.facts["encoder"] == {"model_type": "t5", "num_hidden_layers": 3, "vocab_size": 7}
    assert info.facts["weights"]["parameters"] == 24
    assert info.facts["tokenizer"] is None
    assert only_fact(info, "architecture") == "t5: 3 layers"
    assert only_fact(info, "does not open") == problem
    assert "pooling" not in info.facts


def test_every_problem_is_named_once(tmp_path):
    folder = sentence_transformers_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "tokenizer.json").write_bytes(b"{}")
    edit_json(folder / "1_Pooling" / "config.json", word_embedding_dimension=25)
    info = inspect_model(folder)
    assert len(info.problems) == len(set(info.problems)) == 2
    assert "model.safetensors" in info.problems[0]
    assert "tokenizer.json" in info.problems[1]
    assert info.facts["encoder"]["hidden_size"] == 24
    assert info.facts["weights"] is None
    assert info.facts["modules"] == ["Transformer", "Pooling"]
    bert_folder(folder)
    info = inspect_model(folder)
    (problem,) = info.problems
    assert "field 'word_embedding_dimension' is 25" in problem
    assert info.facts["tokenizer"]["tokens"] == 37
    assert only_fact(info, "and 1" if len(info.problems) > 1 else "does not open") == problem


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("config.json", b"", "config.json: not valid JSON"),
        ("config.json", b"[]", "expected an object"),
        ("modules.json", b"[]", "lists no modules"),
        ("modules.json", b'[{"type": "x.CNN"}]', "field '[0].type' is 'x.CNN'"),
        ("model.safetensors", b"abc", "model.safetensors: "),
        ("tokenizer_config.json", b'{"tokenizer_class": 1}', "field 'tokenizer_class' is 1"),
    ],
)
def test_broken_files(tmp_path, name, content, match):
    folder = sentence_transformers_folder(tmp_path)
    (folder / name).write_bytes(content)
    info = inspect_model(folder)
    assert match in info.problems[0]
    assert json.loads(info.to_json())["problems"] == info.problems


def test_an_empty_folder(tmp_path):
    info = inspect_model(tmp_path)
    assert "not a model folder: neither modules.json nor config.json is there" in info.problems[0]
    assert info.facts["encoder"] is info.facts["weights"] is info.facts["modules"] is None


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        inspect_model(tmp_path / "nowhere")


def test_what_quantizing_left(tmp_path):
    model = SentenceEncoder(bert_folder(tmp_path / "model"))
    assert inspect_model(tmp_path / "model").facts["int8"] is None
    for mode in ("fast", "balanced"):
        small = model.quantize(["the cat sat on the mat", "a big dog"], int8=mode)
        small.save_pretrained(tmp_path / mode)
        info = inspect_model(tmp_path / mode)
        assert info.facts["int8"] == {
            "mode": mode,
            "calibrated_on": "given sentences",
            "quality": str(small.precision.quality),
        }
        assert f"calibrated on given sentences; {mode}: cosine to float32" in str(info)
    for version in (1, 3):
        edit_json(tmp_path / "fast" / "sentpool_int8.json", format=version)
        info = inspect_model(tmp_path / "fast")
        assert not info.problems  # it opens in float32
        assert "quantize the model anew" in str(info)


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_exit_status_says_whether_it_opens(tmp_path, capsys):
    folder = bert_folder(tmp_path)
    assert cli.main(["info", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "isa:" in out
    assert cli.main(["info", "--json", str(folder)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {"opens": True, "problems": [], **inspect_model(folder).facts}

    edit_json(folder / "config.json", model_type="deberta-v2")
    for options in ([], ["--json"]):
        assert cli.main(["info", *options, str(folder)]) == 1
        out, err = capsys.readouterr()
        assert err.startswith("sentpool: error: ")
        assert err.count("\n") == 1
        assert "deberta-v2" in out
        assert "isa:" not in out
    assert json.loads(out)["opens"] is False
