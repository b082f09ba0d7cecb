"""Shards: the vectors of one call, broken off and taken up again, never mixed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest

import sentpool
from sentpool import cli, shards
from sentpool.shards import MANIFEST, encode_shards

EncodeInfo = namedtuple("EncodeInfo", "n_truncated n_tokens")


class Model:
    """A text becomes length and vowels. Counts the texts that it saw; may fail at one of them."""

    def __init__(self, fails_at=None, **facts):
        self.seen, self.fails_at, self.facts = [], fails_at, {"pooling": "mean", "model": "somewhere", **facts}

    def provenance(self):
        return {**self.facts, "kernels": {"isa": os.urandom(2).hex()}, "versions": {}}

    def encode_with_info(self, texts, show_progress_bar, **options):
        self.seen += texts
        if self.fails_at in texts:
            raise KeyboardInterrupt
        rows = [[len(text), sum(text.count(v) for v in "aeiou")] for text in texts]
        return np.array(rows, dtype=np.float32).reshape(-1, 2), EncodeInfo(sum(len(text) > 8 for text in texts), 0)


TEXTS = ["one", "two", "three", "", "five", "six and more", "seven", "last"]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return tmp_path / "in.txt"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


def manifest(folder):
    return json.loads((folder / MANIFEST).read_text())


def vectors(folder):
    return np.concatenate([np.load(path) for path in sorted(folder.glob("*.npy"))])


def test_shards_hold_the_lines_in_order(source, folder):
    summary = encode_shards(Model(), source, folder, 3)
    assert sorted(os.listdir(folder)) == [MANIFEST, "part-00000.npy", "part-00001.npy", "part-00002.npy"]
    assert [np.load(folder / f"part-0000{k}.npy").shape for k in range(3)] == [(3, 2), (3, 2), (2, 2)]
    assert vectors(folder)[:, 0].tolist() == [len(text) for text in TEXTS]
    assert vectors(folder).dtype == np.float32
    assert summary[:5] == (3, 8, 2, 1, 8)
    content = manifest(folder)
    assert (content["complete"], content["rows"], content["columns"]) == (True, 8, 2)
    assert [shard["rows"] for shard in content["shards"]] == [3, 3, 2]


def test_nothing_is_encoded_twice(source, folder):
    encode_shards(Model(), source, folder, 3)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    again = Model()
    assert encode_shards(again, source, folder, 3)[:5] == (3, 8, 2, 1, 0)
    assert again.seen == []
    assert {path: path.stat().st_mtime_ns for path in folder.glob("part-*")} == before


def test_what_was_broken_off_goes_on(source, folder, tmp_path):
    whole = tmp_path / "whole"
    encode_shards(Model(), source, whole, 3)
    with pytest.raises(KeyboardInterrupt):
        encode_shards(Model(fails_at="five"), source, folder, 3)
    assert sorted(os.listdir(folder)) == [MANIFEST, "part-00000.npy"]
    assert manifest(folder)["complete"] is False
    model = Model()
    assert encode_shards(model, source, folder, 3).encoded == 5
    assert model.seen == TEXTS[3:]
    for path in whole.glob("part-*"):
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_pieces_do_not_show(source, folder, monkeypatch):
    monkeypatch.setattr(shards, "_PIECE_LINES", 2)
    assert encode_shards(Model(), source, folder, 5).n_truncated == 1
    assert vectors(folder)[:, 0].tolist() == [len(text) for text in TEXTS]


@pytest.mark.parametrize("damage", ["removed", "cut short"])
def test_a_damaged_shard_is_made_again(source, folder, damage):
    encode_shards(Model(), source, folder, 3)
    path = folder / "part-00001.npy"
    content = path.read_bytes()
    path.unlink()
    if damage == "cut short":
        path.write_bytes(content[:-3])
    model = Model()
    encode_shards(model, source, folder, 3)
    assert model.seen == TEXTS[3:6]
    assert path.read_bytes() == content
    assert manifest(folder)["complete"] is True


def test_a_shard_without_its_entry_is_made_again(source, folder):
    """The process ended between the shard's rename and that of the manifest."""
    encode_shards(Model(), source, folder, 3)
    content = manifest(folder)
    content["shards"].pop()
    (folder / MANIFEST).write_text(json.dumps(content))
    model = Model()
    encode_shards(model, source, folder, 3)
    assert model.seen == TEXTS[6:]


@pytest.mark.parametrize(
    "model, options, message",
    [
        (Model(pooling="cls"), {}, "pooling was mean and is cls"),
        (Model(weights_sha256={"a": "b"}), {}, "weights_sha256 differs"),
        (Model(), {"rows": 4}, "rows of a shard was 3 and is 4"),
        (Model(), {"normalize_embeddings": True}, "normalize_embeddings was None and is True"),
        (Model(), {"form": "npz"}, "file format was npy and is npz"),
    ],
)
def test_shards_are_never_mixed(source, folder, model, options, message):
    encode_shards(Model(), source, folder, 3)
    with pytest.raises(ValueError, match=rf"were made otherwise: {message}\. Name another folder"):
        encode_shards(model, source, folder, **{"rows": 3, **options})
    assert model.seen == []
    encode_shards(model, source, folder, **{"rows": 3, **options}, overwrite=True)
    assert {path.suffix for path in folder.glob("part-*")} == {f".{options.get('form', 'npy')}"}


def test_what_changes_no_vector_may_change(source, folder):
    encode_shards(Model(), source, folder, 3, threads=2, batch_size=32)
    moved = Model(model="elsewhere")
    encode_shards(moved, source, folder, 3, threads=1, batch_size=8)
    assert moved.seen == []


def test_another_input_is_refused(source, folder):
    encode_shards(Model(), source, folder, 3)
    source.write_text("\n".join([*TEXTS[:4], "FIVE", *TEXTS[5:]]))
    with pytest.raises(ValueError, match=r"part-00001\.npy' was made from other texts"):
        encode_shards(Model(), source, folder, 3)
    source.write_text("\n".join(TEXTS[:6]))
    with pytest.raises(ValueError, match="holds 3 shards and the input gives 2: it was longer before"):
        encode_shards(Model(), source, folder, 3)


def test_folders_of_others_are_refused(source, folder):
    folder.mkdir()
    (folder / "part-00000.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds shards without manifest\.json"):
        encode_shards(Model(), source, folder, 3)
    for content in ("{", "[]", '{"format": "other"}', "{}"):
        (folder / MANIFEST).write_text(content)
        with pytest.raises(ValueError, match="is no manifest of shards"):
            encode_shards(Model(), source, folder, 3)


def test_no_text_at_all(source, folder):
    source.write_text("")
    assert encode_shards(Model(), source, folder, 3)[:4] == (1, 0, 2, 0)
    assert np.load(folder / "part-00000.npy").shape == (0, 2)


# ---- JSON lines ----------------------------------------------------------------------------------------------------


@pytest.fixture
def jsonl(tmp_path):
    records = [{"_id": k if k % 2 else f"d{k}", "text": text, "title": "t"} for k, text in enumerate(TEXTS)]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n", encoding="utf-8")
    return path


IDS = ["d0", "1", "d2", "3", "d4", "5", "d6", "7"]


def test_npz_keeps_ids(jsonl, folder):
    encode_shards(Model(), jsonl, folder, 5, form="npz", field="text", id_field="_id")
    parts = [np.load(path) for path in sorted(folder.glob("*.npz"))]
    assert np.concatenate([part["ids"] for part in parts]).tolist() == IDS
    assert np.concatenate([part["vectors"] for part in parts])[:, 0].tolist() == [len(text) for text in TEXTS]


def test_parquet_keeps_ids(jsonl, folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    encode_shards(Model(), jsonl, folder, 5, form="parquet", field="text", id_field="_id")
    parts = [parquet.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    assert [label for part in parts for label in part["id"].to_pylist()] == IDS
    assert [vector[0] for part in parts for vector in part["vector"].to_pylist()] == [len(text) for text in TEXTS]


def test_parquet_without_pyarrow(jsonl, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        encode_shards(Model(), jsonl, folder, 5, form="parquet", field="text")


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", r"in\.jsonl:2: the line is no JSON"),
        ("[1]", r"in\.jsonl:2: the line has no field 'text'; it holds no object at all"),
        ('{"body": "x", "_id": 1}', "has no field 'text'; it holds 'body', '_id'"),
        ('{"text": 3, "_id": 1}', "the field 'text' is 3, not a string"),
        ('{"text": "x", "_id": 1.5}', "the field '_id' is 1.5, not a string or an integer"),
    ],
)
def test_lines_that_are_refused(tmp_path, folder, line, message):
    (tmp_path / "in.jsonl").write_text('{"text": "a", "_id": "b"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        encode_shards(Model(), tmp_path / "in.jsonl", folder, 1, form="npz", field="text", id_field="_id")
    assert (folder / "part-00000.npz").exists()


def test_arguments_that_are_refused(source, folder):
    with pytest.raises(ValueError, match="form is 'csv'"):
        encode_shards(Model(), source, folder, 3, form="csv")
    with pytest.raises(ValueError, match="rows is 0"):
        encode_shards(Model(), source, folder, 0)
    with pytest.raises(ValueError, match="a .npy file holds no ids"):
        encode_shards(Model(), source, folder, 3, field="text", id_field="id")
    with pytest.raises(FileNotFoundError):
        encode_shards(Model(), "nowhere.txt", folder, 3)


# ---- the command line ----------------------------------------------------------------------------------------------


def command(*arguments):
    return cli.main(["encode", *map(str, arguments)])


def test_the_command_line_goes_on(minilm, source, folder, capsys):
    arguments = (minilm, source, "--output", folder, "--shards", 3)
    assert command(*arguments) == 0
    assert "8 × 384 float32 in 3 shards, 0 texts truncated\n" in capsys.readouterr().out
    assert vectors(folder).tobytes() == sentpool.SentenceEncoder(minilm).encode(TEXTS).tobytes()
    (folder / "part-00002.npy").unlink()
    assert command(*arguments, "--threads", 1) == 0
    assert "6 rows of them were there already" in capsys.readouterr().out
    assert command(*arguments, "--pooling", "cls") == 1
    assert "pooling was mean, normalize and is cls" in capsys.readouterr().err
    assert command(*arguments, "--pooling", "cls", "--overwrite") == 0


def test_a_killed_process_leaves_whole_shards(minilm, folder, tmp_path):
    """Killed while the second shard is waited for; the same command then finishes, with the bits of one run."""
    line = [sys.executable, "-m", "sentpool", "encode", str(minilm), "-", "--output", str(folder), "--shards", "4"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        process.stdin.write("".join(f"{text}\n" for text in TEXTS[:5]).encode())
        process.stdin.flush()
        while not (folder / MANIFEST).exists():
            assert process.poll() is None
        process.kill()
    assert sorted(os.listdir(folder)) == [MANIFEST, "part-00000.npy"]
    done = subprocess.run(line, input="\n".join(TEXTS).encode(), capture_output=True, check=True)
    assert b"4 rows of them were there already" in done.stdout
    assert vectors(folder).tobytes() == sentpool.SentenceEncoder(minilm).encode(TEXTS).tobytes()


def test_one_file_of_json_lines(minilm, jsonl, tmp_path, capsys):
    assert command(minilm, jsonl, "--field", "text", "--output", tmp_path / "x.npy") == 0
    assert np.load(tmp_path / "x.npy").tobytes() == sentpool.SentenceEncoder(minilm).encode(TEXTS).tobytes()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--format", "npz"], "--format is about shards"),
        (["--overwrite"], "--overwrite is about shards"),
        (["--id-field", "id"], "--id-field needs --field"),
        (["--id-field", "id", "--field", "text"], "--id-field is about shards"),
        (["--shards", "3"], "it is no folder"),
    ],
)
def test_options_that_do_not_fit(tmp_path, capsys, arguments, message):
    (tmp_path / "x").write_text("")
    assert command("m", "-", "--output", tmp_path / "x", *arguments) == 1
    assert message in capsys.readouterr().err
