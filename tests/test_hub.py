"""Names: a folder is opened without a look at the network, a hub name is fetched, all else does not exist."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest
from fabricate import bert_folder, sentence_transformers_folder, write_sharded
from fabricate_torch import write_torch, write_torch_sharded
from folder_checks import let_others_through, unprivileged
from safetensors.numpy import load_file

from sentpool import SentenceEncoder
from sentpool.errors import ModelFolderError
from sentpool.folder import open_folder
from sentpool.pooling import Pooling


@pytest.fixture
def folder(tmp_path) -> Path:
    return sentence_transformers_folder(tmp_path / "model", head=(7, "Normalize"))


@pytest.mark.parametrize(
    "name",
    [
        "/no/such/folder",
        "./model",
        "../model",
        "~/no-such-folder",
        "a/b/c",
        "",
        "..model",
        "a b/c",
        "org/",
        "x\0y",
        "\ud800",
        "a" * 5000,
    ],
)
def test_a_path_that_does_not_exist_is_not_looked_for_elsewhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match="no model folder") as caught:
        open_folder(name)
    assert repr(name)[:50] in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_path_object_is_never_a_hub_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace())
    with pytest.raises(FileNotFoundError, match="no model folder 'org/name'"):
        open_folder(Path("org/name"))


def test_a_file_is_no_folder(folder):
    with pytest.raises(NotADirectoryError, match="is a file; give the model's folder"):
        open_folder(folder / "config.json")


@pytest.mark.parametrize("value", [None, 5, b"model", ["model"]])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match=f"string or a path, not {type(value).__name__}"):
        open_folder(value)


def test_a_hub_name_without_the_library_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=r"no model folder 'org/name'; .*pip install 'sentpool\[hub\]'"):
        open_folder("org/name")


def test_a_hub_name_is_fetched(monkeypatch, folder, tmp_path):
    monkeypatch.chdir(tmp_path.parent)
    asked = []

    def snapshot_download(name, allow_patterns, ignore_patterns):
        asked.append(name)
        wanted = {
            file
            for file in (
                *(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
                *(
                    "pytorch_model.bin",
                    "onnx/config.json",
                    "model.onnx",
                    "tf_model.h5",
                    "model-00001-of-00002.safetensors",
                ),
                *(
                    "model.safetensors.index.json",
                    "vocab.txt",
                    "README.md",
                    "config_sentence_transformers.json",
                    "sentpool_int8.json",
                ),
            )
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns)
            and not any(fnmatch.fnmatch(file, pattern) for pattern in ignore_patterns)
        }
        assert wanted == {
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/model.safetensors",
            "config.json",
            "config_sentence_transformers.json",
            "model-00001-of-00002.safetensors",
            "model.safetensors",
            "model.safetensors.index.json",
            "modules.json",
            "sentence_bert_config.json",
            "sentpool_int8.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        }
        return str(folder)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    assert open_folder("org/some-model_v2.0").config.hidden_size == 24
    assert open_folder("some-model").config.hidden_size == 24
    assert asked == ["org/some-model_v2.0", "some-model"]


def hub_of(monkeypatch, folder: Path, snapshot: Path) -> list[dict]:
    """A hub that has the model `folder` and copies what is asked for to `snapshot`; returns what it was asked."""
    asked = []

    def snapshot_download(name, allow_patterns, ignore_patterns=(), revision=None):
        asked.append({"allow": allow_patterns, "revision": revision, "copied": set()})
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            file = path.relative_to(folder).as_posix()
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
                (snapshot / file).write_bytes(path.read_bytes())
                asked[-1]["copied"].add(file)
        return str(snapshot)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    return asked


def to_torch(path: Path, sharded: bool = False) -> None:
    """Put torch's format in place of a safetensors file."""
    tensors = load_file(path)
    path.unlink()
    if sharded:
        write_torch_sharded(path.parent, tensors)
    else:
        write_torch(path.with_name("pytorch_model.bin"), tensors)


@pytest.mark.parametrize("sharded", [False, True])
def test_weights_in_torchs_format_are_fetched_where_there_are_no_others(monkeypatch, tmp_path, sharded):
    monkeypatch.chdir(tmp_path)
    folder = bert_folder(tmp_path / "there")
    to_torch(folder / "model.safetensors", sharded)
    (folder / "pytorch_model_old.bin").write_bytes(b"")
    snapshot = tmp_path / "cache" / ("0123abcd" * 5)
    asked = hub_of(monkeypatch, folder, snapshot)
    assert open_folder("org/name").path == snapshot
    assert [fetch["revision"] for fetch in asked] == [None, snapshot.name]
    shards = {f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)} | {"pytorch_model.bin.index.json"}
    assert asked[1]["copied"] == (shards if sharded else {"pytorch_model.bin"})
    open_folder("org/name")  # what is there need not be asked for again
    assert len(asked) == 3


def test_weights_of_modules_in_torchs_format(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = sentence_transformers_folder(tmp_path / "there", head=(7, "Normalize"), weighted=[1, 2])
    asked = hub_of(monkeypatch, folder, tmp_path / "cache")
    expected = open_folder(folder).pooling
    open_folder("org/name")
    assert len(asked) == 1
    to_torch(folder / "2_Dense/model.safetensors")
    to_torch(folder / "0_Weighted/model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"not wanted: there is model.safetensors")
    asked = hub_of(monkeypatch, folder, tmp_path / "cache2")
    assert open_folder("org/name").pooling == expected
    assert asked[1]["copied"] == {"2_Dense/pytorch_model.bin", "0_Weighted/pytorch_model.bin"}
    assert asked[1]["revision"] is None


def test_a_fetch_that_leaves_the_model_broken_is_told_by_the_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = bert_folder(tmp_path / "there")
    (folder / "model.safetensors").rename(folder / "flax_model.msgpack")
    hub_of(monkeypatch, folder, tmp_path / "cache")
    with pytest.raises(ModelFolderError, match="no weights: neither"):
        open_folder("org/name")
    (folder / "modules.json").write_text("{")
    hub_of(monkeypatch, folder, tmp_path / "cache")
    with pytest.raises(ModelFolderError, match=r"modules\.json: not valid JSON"):
        open_folder("org/name")


def test_shards_of_safetensors_are_enough(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = bert_folder(tmp_path / "there")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_sharded(folder, tensors)
    write_torch(folder / "pytorch_model.bin", tensors)
    asked = hub_of(monkeypatch, folder, tmp_path / "cache")
    open_folder("org/name")
    assert len(asked) == 1


def test_a_pooling_of_ours_is_fetched(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    SentenceEncoder(bert_folder(tmp_path / "plain"), pooling="sbert_wk").save_pretrained(tmp_path / "there")
    asked = hub_of(monkeypatch, tmp_path / "there", tmp_path / "cache")
    assert open_folder("org/name").pooling == Pooling.from_name("sbert_wk")
    assert len(asked) == 1


def test_what_the_hub_says_is_passed_on(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def snapshot_download(name, **_):
        raise RuntimeError("401 Client Error")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(FileNotFoundError, match="no model folder 'org/name', and .* 401 Client Error"):
        open_folder("org/name")


def test_opening_a_folder_imports_nothing_heavy_and_opens_no_socket(folder):
    code = """
        import socket, sys
        def refuse(*_, **__): raise AssertionError("a socket")
        socket.socket.__init__ = refuse
        from sentpool import folder
        folder.open_folder(sys.argv[1])
        heavy = {"torch", "scipy", "matplotlib", "pandas", "huggingface_hub", "tqdm", "transformers"}
        print(sorted(heavy & set(sys.modules)))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(folder)], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_a_relative_folder_stays_the_same_folder(folder, tmp_path, monkeypatch):
    """Copies and pickles open the path again, perhaps from elsewhere: it must not turn into a hub name."""
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    opened = [open_folder(name) for name in ("model", Path("model"), "./model/", "link")]
    monkeypatch.chdir("/")
    assert [model.path for model in opened] == [folder] * 3 + [tmp_path / "link"]
    assert open_folder(opened[0].path).config == opened[0].config


@pytest.mark.parametrize("closed", ["the folder", "the one around it"])
def test_a_folder_without_permission_is_not_missing(tmp_path, monkeypatch, closed):
    home = tmp_path / "home"
    inner = home / "model"
    inner.mkdir(parents=True)
    monkeypatch.chdir(tmp_path if closed == "the folder" else home)
    (inner if closed == "the folder" else home).chmod(0)
    let_others_through(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace())
    try:
        with unprivileged(), pytest.raises(PermissionError, match=f"no permission to look into .*{inner.name}"):
            open_folder("home/model" if closed == "the folder" else str(inner))
    finally:
        home.chmod(0o700)
        inner.chmod(0o700)


def test_a_pipe_is_no_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotADirectoryError, match="is no regular file; give the model's folder"):
        open_folder(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "vocab.txt", "2_Dense/model.safetensors"])
def test_a_pipe_in_place_of_a_file_is_named_and_not_opened(folder, name):
    if name == "vocab.txt":
        (folder / "tokenizer.json").unlink()
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ModelFolderError, match=f"{name}: not a regular file"):
        open_folder(folder)
