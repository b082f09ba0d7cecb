"""save_pretrained: what is written opens to the same bits; nothing else ever opens, and nothing is lost on the way.

sentence-transformers opens what it can in tests/parity/test_saved.py.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fabricate import (
    attention_tensors,
    bert_config,
    bert_folder,
    bert_tensors,
    edit_json,
    encoded,
    sentence_transformers_folder,
    simcse_tensors,
    write_json,
    write_safetensors,
    write_sharded,
)
from fabricate_torch import write_torch
from folder_checks import let_others_through, unprivileged
from safetensors import safe_open

from sentpool import SentenceEncoder, atomic_folder, pooling, saving
from sentpool.errors import ModelFolderError
from sentpool.folder import open_folder
from sentpool.pooling import (
    AllButTheTop,
    Dense,
    LayerAttention,
    Layers,
    Normalize,
    Pooling,
    SbertWk,
    ScalarMix,
    Truncate,
    WeightedLayer,
    Whitening,
)

TEXTS = ["the cat sat on the mat", "a big dog", "", "unhappy running ! the dog", "the cat sat on the mat"]
L, H = 5, 24


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


ATTENTION = LayerAttention(*(normal(H, H, seed=s) for s in range(3)))
VECTORS = normal(50, H, seed=9)

# Poolings for which sentence-transformers has modules, and others.
THEIRS = {
    **{name: name for name in (*pooling.TOKEN_POOLINGS, "first_last", "embedding_last", "top2", "all_layers")},
    "in their order": ("cls", "max", "mean"),
    "in another order": ("mean", "cls", "mean"),
    "an early layer": "layers=[2]",
    "a list of layers": Layers([0, 2, 5], tokens=("cls", "weighted_mean")),
    "last and first": Layers([-1, 1]),
    "weighted layers": WeightedLayer([1.5, -0.25, 0.5], layer_start=3, tokens=("mean", "last_token")),
    "a head": Pooling("mean", head=(Dense(normal(7, H), None, "gelu"), Normalize(), Dense(normal(5, 7), normal(5)))),
    "SimCSE": Pooling("cls", head=(Dense(normal(H, H), normal(H), "tanh"),)),
    "without the prompt": Pooling("mean", include_prompt=False),
    **{
        activation: Pooling("mean", head=(Dense(normal(7, H), normal(7), activation),))
        for activation in ("identity", "relu", "sigmoid")
    },
}
OURS = {
    "the maximum of two layers": Layers([1, -1], tokens="max"),
    "the maximum of an early layer": Layers([2], tokens=("max", "mean")),
    "three layers downwards": Layers([5, 3, 1]),
    "a layer twice": Layers([1, 1, -1]),
    "scalar mix": Pooling(ScalarMix(normal(L + 1), gamma=1.7, tokens="cls"), include_prompt=False),
    "attention": ATTENTION,
    "oh2022": Pooling(ATTENTION, head=(Dense(normal(H, 2 * H), normal(H), "tanh"),)),
    "sbert_wk": Pooling(SbertWk(layer_start=1), head=(Normalize(),)),
    "truncated": Pooling("mean", head=(Truncate(5), Normalize())),
    "whitening": Pooling("mean", head=(Whitening(5).fit(VECTORS),)),
    "all but the top": Pooling("mean", head=(Normalize(), AllButTheTop(2).fit(VECTORS))),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("source"), num_hidden_layers=L)


@pytest.fixture(scope="module")
def model(source) -> SentenceEncoder:
    return SentenceEncoder(source)


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "saved"


def types(folder: Path) -> list[str]:
    return [module["type"].rpartition(".")[2] for module in json.loads((folder / "modules.json").read_text())]


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_bits(ours: SentenceEncoder, theirs: SentenceEncoder, **options) -> None:
    found, expected = (model.encode(TEXTS, **options).view(np.uint32) for model in (ours, theirs))
    np.testing.assert_array_equal(found, expected)


# What is written.


@pytest.mark.bits
@pytest.mark.parametrize("name", [*THEIRS, *OURS])
def test_every_pooling_opens_to_the_same_bits(source, target, name):
    model = SentenceEncoder(source, pooling=(THEIRS | OURS)[name])
    model.save_pretrained(target)
    again = SentenceEncoder(target)
    assert_same_bits(again, model)
    assert_same_bits(again, model, prompt="the big ")
    assert again.get_sentence_embedding_dimension() == model.get_sentence_embedding_dimension()
    assert ("sentpool.pooling.Pooling" in (target / "modules.json").read_text()) == (name in OURS)
    if name in OURS:
        assert types(target) == ["Transformer", "Pooling"]
        assert again.pooling == model.pooling
        assert sorted(path.name for path in (target / "1_Pooling").iterdir()) == [
            "sentpool_pooling.json",
            "sentpool_pooling.safetensors",
        ]
    # What is saved again is the same, file by file.
    again.save_pretrained(target.with_name("again"))
    assert content(target.with_name("again")) == content(target)


def test_the_modules_of_sentence_transformers(source, target):
    SentenceEncoder(source, pooling=Pooling(Layers([1, -1]), head=(Normalize(),))).save_pretrained(target)
    assert types(target) == ["Transformer", "WeightedLayerPooling", "Pooling", "Normalize"]
    assert json.loads((target / "1_WeightedLayerPooling/config.json").read_text()) == {
        "word_embedding_dimension": H,
        "layer_start": 1,
        "num_hidden_layers": L,
    }
    assert json.loads((target / "config.json").read_text())["output_hidden_states"] is True
    opened = open_folder(target)
    assert opened.pooling == Pooling(WeightedLayer([1, 0, 0, 0, 1], 1), head=(Normalize(),))
    # The flag goes once nothing needs it.
    SentenceEncoder(target, pooling="mean").save_pretrained(target.with_name("mean"))
    assert "output_hidden_states" not in json.loads((target.with_name("mean") / "config.json").read_text())
    assert content(target.with_name("mean")).keys() == {
        *("modules.json", "config.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json", "1_Pooling/config.json"),
    }


def sources(name: str, folder: Path) -> tuple[Path, dict[str, np.ndarray], dict[str, str]]:
    """A folder, its encoder's tensors, and the types of those that are not float32."""
    tensors = bert_tensors(bert_config())
    mixed = dict.fromkeys(list(tensors)[::2], "F16") | dict.fromkeys(list(tensors)[::5], "BF16")
    mixed["embeddings.LayerNorm.bias"] = "F16"  # of odd size, so that what follows could lie crooked
    old = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in tensors.items()
    }
    kinds: dict[str, str] = {}
    if name == "old names":
        bert_folder(folder, tensors=old)
    elif name == "vocabulary":
        bert_folder(folder, vocabulary_only=True)
    elif name == "SimCSE":
        bert_folder(folder, tensors=old, extra=simcse_tensors(), architectures=["BertForCL"], mlp_only_train=False)
    elif name == "attention":
        bert_folder(folder, tensors=old, extra=attention_tensors(), architectures=["BertForCL"])
    elif name == "sentence-transformers":
        sentence_transformers_folder(folder, weighted=[1, 2], head=(7, "Normalize"), max_seq_length=9)
    elif name == "without model_type":
        bert_folder(folder, model_type=None)
    else:
        bert_folder(folder)
    path = folder / "model.safetensors"
    if name in ("F16", "BF16"):
        kinds = dict.fromkeys(tensors, name)
        write_safetensors(path, tensors, dtype=name)
    elif name == "mixed":
        kinds = mixed
        write_safetensors(path, tensors, dtypes=mixed)
    elif name == "shards":
        path.unlink()
        write_sharded(folder, tensors, 3)
    elif name == "torch":
        path.unlink()
        kinds = mixed
        write_torch(folder / "pytorch_model.bin", tensors, dtypes=mixed)
    return folder, tensors, kinds


@pytest.mark.bits
@pytest.mark.parametrize(
    "name",
    [
        *("F32", "F16", "BF16", "mixed", "shards", "torch", "old names", "vocabulary"),
        *("SimCSE", "attention", "sentence-transformers", "without model_type"),
    ],
)
def test_the_weights_are_copied_byte_for_byte_under_plain_names(tmp_path, target, name):
    folder, tensors, kinds = sources(name, tmp_path / "source")
    model = SentenceEncoder(folder)
    model.save_pretrained(target)
    with safe_open(target / "model.safetensors", "np") as file:
        assert set(file.keys()) == set(tensors)
        assert file.metadata() == {"format": "pt"}
    raw = (target / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    assert start % 8 == 0
    for tensor, entry in json.loads(raw[8:start]).items():
        if tensor != "__metadata__":
            kind = kinds.get(tensor, "F32")
            begin, end = entry["data_offsets"]
            assert (entry["dtype"], entry["shape"]) == (kind, list(tensors[tensor].shape))
            assert raw[start + begin : start + end] == encoded(tensors[tensor], kind)
            assert begin % (4 if kind == "F32" else 2) == 0
    config = json.loads((target / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("bert", ["BertModel"])
    assert "mlp_only_train" not in config
    again = SentenceEncoder(target)
    assert_same_bits(again, model)
    assert again.max_seq_length == model.max_seq_length
    ours, theirs = again.tokenizer.encode(TEXTS), model.tokenizer.encode(TEXTS)
    np.testing.assert_array_equal(ours.ids, theirs.ids)


def test_a_transformer_in_a_folder_of_its_own(tmp_path, target):
    folder = sentence_transformers_folder(tmp_path / "source", head=("Normalize",))
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file() and path.name != "modules.json"]:
        path.rename(inner / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = inner.name
    write_json(folder / "modules.json", modules)
    model = SentenceEncoder(folder)
    model.save_pretrained(target)
    assert (target / "model.safetensors").exists()
    assert_same_bits(SentenceEncoder(target), model)


def test_settings_are_saved_as_they_are_now(tmp_path, target):
    folder = sentence_transformers_folder(tmp_path / "source", head=(7,))
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": True})
    edit_json(folder / "tokenizer_config.json", do_lower_case=False)
    settings = {
        "prompts": {"query": "the big ", "empty": ""},
        "default_prompt_name": "query",
        "similarity_fn_name": "dot",
        "truncate_dim": 5,
    }
    write_json(folder / "config_sentence_transformers.json", settings)
    model = SentenceEncoder(folder)
    model.max_seq_length = 7
    model.prompts["new"] = "ä \ud800"
    model.save_pretrained(target)
    again = SentenceEncoder(target)
    assert again.max_seq_length == 7
    assert again.prompts == {"query": "the big ", "empty": "", "new": "ä \ud800"}
    assert (again.folder.default_prompt_name, again.folder.similarity_fn_name) == ("query", "dot")
    assert (again.folder.truncate_dim, again.get_sentence_embedding_dimension()) == (5, 5)
    assert_same_bits(again, model)
    np.testing.assert_array_equal(again.encode(["THE CAT"]), again.encode(["the cat"]))
    # What no longer holds is left out: a narrower pooling, a prompt that is gone.
    model.pooling = Pooling("mean", head=(Truncate(3),))
    del model.prompts["query"]
    model.save_pretrained(target, overwrite=True)
    opened = open_folder(target)
    assert (opened.truncate_dim, opened.default_prompt_name) == (None, None)
    model.prompts["number"] = 5
    with pytest.raises(TypeError, match="prompts holds 'number': 5; names and prompts are str"):
        model.save_pretrained(target, overwrite=True)
    assert "number" not in open_folder(target).prompts


def test_minilm(minilm, target):
    model = SentenceEncoder(minilm)
    model.save_pretrained(target)
    again = SentenceEncoder(target)
    texts = ["A cat sits on the mat.", "Stocks fell on Monday.", ""]
    np.testing.assert_array_equal(again.encode(texts), model.encode(texts))
    assert again.max_seq_length == 256
    assert again.pooling == model.pooling


# What is not written.


class Mine:
    tokens = ("cls",)

    def forward(self, states):
        return states[:, -1, 0]


class MyDense(Dense):
    pass


class MyLayers(Layers):
    pass


class MyPooling(Pooling):
    pass


@pytest.mark.parametrize(
    "mine",
    [
        Mine(),
        Pooling("mean", head=(lambda x: x,)),
        Pooling("mean", head=(MyDense(normal(3, H), None),)),
        Pooling(MyLayers([1, 2])),
        MyPooling("mean"),
    ],
)
def test_a_pooling_of_ones_own_is_refused_before_anything_is_written(source, target, mine):
    model = SentenceEncoder(source, pooling=mine)
    with pytest.raises(TypeError, match=r"set model\.pooling to one made of sentpool's own parts before saving"):
        model.save_pretrained(target)
    assert list(target.parent.iterdir()) == []


def test_a_pooling_that_does_not_fit_is_refused_before_anything_is_written(source, target):
    model = SentenceEncoder(source)
    model._pooling = Pooling("mean", head=(Whitening(3),))
    with pytest.raises(ValueError, match="has not been fitted"):
        model.save_pretrained(target)
    assert list(target.parent.iterdir()) == []


def change(folder: Path, what: str) -> None:
    path = folder / "model.safetensors"
    if what == "weights":
        write_safetensors(path, bert_tensors(bert_config(), seed=7))
        os.utime(path, ns=(1, 1))
    elif what == "tokenizer":
        with open(folder / "tokenizer.json", "a") as file:
            file.write("\n")
    elif what == "config":
        edit_json(folder / "config.json", layer_norm_eps=0.25)
    elif what == "a new file":
        write_json(folder / "special_tokens_map.json", {})
    elif what == "other weights":
        shutil.copy(folder / "kept.safetensors", path)
    elif what == "the weights are gone":
        (folder / "pytorch_model.bin").unlink()
    else:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "what", ["weights", "tokenizer", "config", "a new file", "other weights", "the weights are gone", "all is gone"]
)
def test_a_source_that_changed_is_refused(tmp_path, target, what):
    folder = bert_folder(tmp_path / "source")
    if what in ("other weights", "the weights are gone"):
        (folder / "model.safetensors").rename(folder / "kept.safetensors")
        write_torch(folder / "pytorch_model.bin", bert_tensors(bert_config()))
    model = SentenceEncoder(folder)
    change(folder, what)
    with pytest.raises(ModelFolderError, match=f"{folder}: changed since the model was opened: .*: open it again"):
        model.save_pretrained(target)
    assert not target.exists()


def test_a_source_that_changes_while_it_is_copied(tmp_path, target, monkeypatch):
    folder = bert_folder(tmp_path / "source")
    model = SentenceEncoder(folder)
    write = saving.write_safetensors

    def slowly(path, tensors):
        write(path, tensors)
        change(folder, "weights")

    monkeypatch.setattr(saving, "write_safetensors", slowly)
    with pytest.raises(ModelFolderError, match=r"changed since the model was opened: model\.safetensors"):
        model.save_pretrained(target)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_that_is_there_is_replaced_only_if_that_is_said(model, target):
    target.mkdir()
    model.save_pretrained(target)  # an empty one is as good as none
    (target / "notes.txt").write_text("mine")
    before = content(target)
    with pytest.raises(FileExistsError, match=r"not empty; name another one, or pass overwrite=True"):
        model.save_pretrained(target)
    assert content(target) == before
    model.save_pretrained(str(target), overwrite=True)
    del before["notes.txt"]
    assert content(target) == before
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_what_is_no_model_is_never_replaced(model, target):
    target.mkdir()
    (target / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="it holds no model .* does not replace it|pass overwrite=True"):
            model.save_pretrained(target, overwrite=overwrite)
        with pytest.raises(NotADirectoryError, match="exists and is no folder"):
            model.save_pretrained(target / "thesis.tex", overwrite=overwrite)
    assert content(target.parent) == {"saved/thesis.tex": b"mine"}
    for path in (None, 5, b"saved"):
        with pytest.raises(TypeError):
            model.save_pretrained(path)


def test_links_are_followed_and_folders_made(model, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a/b/c")
    model.save_pretrained(tmp_path / "link")
    model.save_pretrained(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert_same_bits(SentenceEncoder(tmp_path / "a/b/c"), model)
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["c"]


def test_a_model_may_replace_its_own_folder(tmp_path):
    folder = bert_folder(tmp_path / "model")
    model = SentenceEncoder(folder, pooling="top2")
    expected = model.encode(TEXTS)
    model.save_pretrained(folder, overwrite=True)
    np.testing.assert_array_equal(SentenceEncoder(folder).encode(TEXTS), expected)
    np.testing.assert_array_equal(model.encode(TEXTS), expected)


def test_a_folder_without_permission(source, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(0o555)
    for path in (source, tmp_path):
        let_others_through(path)
    model = SentenceEncoder(source)
    with unprivileged(), pytest.raises(PermissionError, match="no permission in .*closed"):
        model.save_pretrained(closed / "model")


def test_too_little_space_is_said_before_anything_is_written(model, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=7_000))
    with pytest.raises(OSError, match=r"cannot save the model: 1\.\d MB are needed, 0\.0 MB are free") as caught:
        model.save_pretrained(target)
    assert caught.value.errno == errno.ENOSPC
    assert list(target.parent.iterdir()) == []


def failing(at: int, error: BaseException):
    """Something that fails at its call number `at`, and then no more."""
    calls = [0]

    def check():
        calls[0] += 1
        if calls[0] == at:
            raise error

    return check


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_save_that_is_interrupted_leaves_what_was_there(source, target, monkeypatch, error, overwrite):
    chosen = Pooling(ScalarMix(normal(L + 1)))
    if overwrite:
        SentenceEncoder(source, pooling="cls").save_pretrained(target)
    before = content(target.parent)
    model = SentenceEncoder(source, pooling=chosen)
    written = 0
    for at in range(1, 100):
        check = failing(at, error)
        with monkeypatch.context() as patch:
            for module, name in ((saving, "_write_json"), (saving, "write_safetensors"), (shutil, "copyfile")):
                patch.setattr(module, name, after(check, getattr(module, name)))
            for name in ("fsync", "rename"):
                patch.setattr(os, name, after(check, getattr(os, name)))
            try:
                model.save_pretrained(target, overwrite=overwrite)
            except type(error) as caught:
                if content(target.parent) != before:
                    break  # on the way to the disk, when the folder has its name already
                if isinstance(error, OSError):
                    assert "No space left on device" in str(caught)
                assert sorted(path.name for path in target.parent.iterdir()) == [target.name] * overwrite
                written += 1
                continue
        break
    assert written > 15
    assert_same_bits(SentenceEncoder(target), model)


def after(check, function):
    def checked(*arguments, **options):
        check()
        return function(*arguments, **options)

    return checked


@pytest.mark.parametrize("name", ["mean", "scalar mix", "weighted layers", "a head"])
def test_what_is_half_written_opens_at_no_time(source, target, monkeypatch, name):
    """As after a power cut: whatever has been written so far is no model."""
    seen = []

    def check():
        for folder in target.parent.glob(".saved.*.tmp"):
            seen.append(sorted(content(folder)))
            with pytest.raises(ModelFolderError):
                open_folder(folder)

    for module, function in ((saving, "_write_json"), (saving, "write_safetensors"), (shutil, "copyfile")):
        monkeypatch.setattr(module, function, after(check, getattr(module, function)))
    SentenceEncoder(source, pooling=(THEIRS | OURS)[name]).save_pretrained(target)
    assert len(seen) > 6
    raw = (target / "model.safetensors").read_bytes()
    for length in (0, 7, 100, len(raw) // 2, len(raw) - 1):
        (target / "model.safetensors").write_bytes(raw[:length])
        with pytest.raises(ModelFolderError, match="not a whole safetensors file"):
            open_folder(target)


def test_a_failed_exchange_puts_the_old_folder_back(model, target, monkeypatch):
    model.save_pretrained(target)
    before = content(target)
    rename = os.rename

    def failing_rename(old, new):
        if str(old).endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error", str(old))
        rename(old, new)

    monkeypatch.setattr(atomic_folder.os, "rename", failing_rename)
    with pytest.raises(OSError, match="Input/output error"):
        model.save_pretrained(target, overwrite=True)
    assert content(target) == before
    assert [path.name for path in target.parent.iterdir()] == [target.name]


# Our own format, broken.


@pytest.fixture
def own(source, target) -> Path:
    head = (Dense(normal(7, H), normal(7), "tanh"), Whitening(3).fit(normal(50, 7)))
    SentenceEncoder(source, pooling=Pooling(ScalarMix(normal(L + 1)), head=head)).save_pretrained(target)
    return target


def layers_with(**changes):
    return {"layers": {"type": "ScalarMix", "tokens": ["mean"], **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": None}, "describes no pooling"),
        ({"layers": {}}, "describes no pooling"),
        ({"layers": {"type": "Nonsense"}}, "layers is 'Nonsense'; it must be one of Layers"),
        ({"layers": {"type": ["Layers"]}}, "describes no pooling"),
        ({"layers": {"type": "Dense"}}, "layers is 'Dense'; it must be one of Layers"),
        (layers_with(gamma=1), "layers: .*multiple values for keyword argument 'gamma'"),
        (layers_with(tokens=["median"]), "layers: tokens is 'median'"),
        (layers_with(tokens=[]), "layers: tokens must be a name or a sequence"),
        (layers_with(extra=1), "layers: .*unexpected keyword argument 'extra'"),
        (layers_with(weights=[1]), "describes no pooling|weights"),
        ({"layers": {"type": "Layers", "indices": [9], "tokens": ["mean"]}}, "describes no pooling|layers"),
        ({"head": None}, "describes no pooling"),
        ({"head": "tanh"}, "describes no pooling"),
        ({"head": []}, "describes no pooling with .*head.0"),
        ({"head": [{"type": "Layers"}]}, r"head\.0 is 'Layers'; it must be one of Dense"),
        ({"head": [{"type": "Dense", "activation": "selu"}, {"type": "Whitening", "k": 3}]}, "activation is 'selu'"),
        ({"head": [{"type": "Dense", "activation": "tanh"}, {"type": "Whitening", "k": 0}]}, r"head\.1: k is 0"),
        ({"head": [{"type": "Dense", "activation": "tanh"}, {"type": "AllButTheTop"}]}, r"head\.1: .*'d'"),
        ({"include_prompt": 1}, "describes no pooling with 1"),
        ({"include_prompt": None}, "describes no pooling with None"),
        ({"version": 2}, "field 'version' is 2; expected no such field"),
    ],
)
def test_a_configuration_that_describes_no_pooling(own, changes, message):
    path = edit_json(own / "1_Pooling/sentpool_pooling.json", **changes)
    with pytest.raises(ModelFolderError, match=message) as caught:
        open_folder(own)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "null", "[" * 10_000, "\xff"])
def test_a_configuration_that_is_no_json(own, text):
    path = own / "1_Pooling/sentpool_pooling.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelFolderError, match=r"sentpool_pooling\.json"):
        open_folder(own)
    path.unlink()
    with pytest.raises(ModelFolderError, match=r"sentpool_pooling\.json: no such file"):
        open_folder(own)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers.weights": None}, "describes no pooling|layers: "),
        ({"head.0.weight": None}, "head.0: "),
        ({"head.1.mean": None}, "head.1: mean and matrix belong together"),
        ({"layers.weights": normal(L)}, f"has {L} weights; this encoder needs {L + 1}"),
        ({"layers.weights": normal(L + 1, 1)}, "layers: weights has shape"),
        ({"layers.weights": np.float32(3)}, "tensor 'layers.weights' has shape"),
        ({"layers.weights": np.empty((0, 5), np.float32)}, "tensor 'layers.weights' has shape"),
        ({"layers.weights": np.full(L + 1, np.nan, np.float32)}, "'layers.weights' contains NaN or Inf"),
        ({"head.0.weight": normal(7, H + 1)}, f"takes vectors of {H + 1} numbers"),
        ({"head.0.bias": normal(8)}, "head.0: bias has 8 numbers; weight gives 7"),
        ({"head.1.matrix": normal(3, 8)}, "head.1: matrix has rows of 8 numbers"),
        ({"head.2.weight": normal(3, 8)}, "describes no pooling with .*head.2.weight"),
        ({"gamma": normal(3)}, "describes no pooling with .*gamma"),
        ({"layers.gamma": normal(2)}, "layers: gamma has 2 numbers; it is one"),
        ({"layers.gamma": normal(1, 1)}, "layers: gamma has shape"),
        ({"layers.gamma": np.full(1, np.nan, np.float32)}, "'layers.gamma' contains NaN or Inf"),
        ({"layers.delta": normal(1)}, "layers: .*unexpected keyword argument 'delta'"),
    ],
)
def test_arrays_that_do_not_fit(own, changes, message):
    path = own / "1_Pooling/sentpool_pooling.safetensors"
    with safe_open(path, "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    write_safetensors(path, arrays)
    with pytest.raises(ModelFolderError, match=message) as caught:
        open_folder(own)
    assert "sentpool_pooling" in str(caught.value)
    write_safetensors(path, arrays, dtype="F64")
    with pytest.raises(ModelFolderError, match="has dtype F64|has shape"):
        open_folder(own)
    path.unlink()
    with pytest.raises(ModelFolderError, match=r"sentpool_pooling\.safetensors: no such file"):
        open_folder(own)


def test_sbert_wk(source, target):
    chosen = Pooling(SbertWk(layer_start=2), head=(Normalize(),))
    SentenceEncoder(source, pooling=chosen).save_pretrained(target)
    assert open_folder(target).pooling == chosen
    path = target / "1_Pooling/sentpool_pooling.json"
    edit_json(path, layers={"type": "SbertWk", "layer_start": 6, "window": 2})
    with pytest.raises(ModelFolderError, match="layer_start is 6; this encoder has layers 0 to 5"):
        open_folder(target)


def test_flipped_bytes_in_our_own_files(own):
    rng = random.Random(3)
    for path in (own / "1_Pooling").iterdir():
        whole = path.read_bytes()
        for _ in range(300):
            flipped = bytearray(whole)
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            with suppress(ModelFolderError):
                open_folder(own)
        path.write_bytes(whole)


def test_our_own_module_beside_others(own):
    modules = json.loads((own / "modules.json").read_text())
    normalize = {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
    for entries in ([*modules, normalize], [modules[1]], [modules[1], modules[0]]):
        write_json(own / "modules.json", entries)
        with pytest.raises(ModelFolderError, match=r"modules\.json: lists .*sentpool\.pooling\.Pooling.*; expected"):
            open_folder(own)
