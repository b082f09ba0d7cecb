"""Files of torch.save: what a state dict needs is read, and what is something else is refused with the remedy."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from fabricate import (
    FakeCore,
    bert_config,
    bert_folder,
    bert_tensors,
    from_bfloat16,
    sentence_transformers_folder,
    to_bfloat16,
    write_safetensors,
)
from fabricate_torch import (
    NO_GRADIENT,
    PROTOCOL,
    entries,
    find,
    number,
    numbers,
    parameter,
    sequence,
    state_dict,
    storage,
    tensor,
    text,
    write_archive,
    write_torch,
    write_torch_sharded,
)
from torch_refusals import FOUR, refusal, write_code

from sentpool import weights
from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError, SentpoolWarning
from sentpool.folder import open_folder
from sentpool.torch_file import read_torch_header


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "pytorch_model.bin"


# What is read.


def test_names_types_shapes_and_places(path):
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b.c": np.float32([1.5, -2]),
        "half": np.float32([[0.5]]),
        "position_ids": np.arange(5)[None],
        "num_batches_tracked": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
    }
    write_torch(path, tensors, dtypes={"half": "F16", "b.c": "BF16"})
    stored = read_torch_header(path)
    assert {name: (s.name, s.dtype, s.shape, s.path) for name, s in stored.items()} == {
        "a": ("a", "F32", (2, 3), path),
        "b.c": ("b.c", "BF16", (2,), path),
        "half": ("half", "F16", (1, 1), path),
        "position_ids": ("position_ids", "I64", (1, 5), path),
        "num_batches_tracked": ("num_batches_tracked", "I64", (), path),
        "empty": ("empty", "F32", (0, 3), path),
    }
    for name in ("a", "b.c", "half", "empty"):
        np.testing.assert_array_equal(stored[name].read(), tensors[name])
    whole = path.read_bytes()
    assert whole[stored["position_ids"].offset :].startswith(np.arange(5).tobytes())


def test_views_parameters_and_strides(path):
    numbers_of_eight = np.arange(8, dtype="<f4")
    stored = storage(numel=8)
    code = state_dict(
        {
            "whole": tensor(stored, (2, 4)),
            "tied": tensor(stored, (2, 4)),
            "last": tensor(stored, (3,), 5),
            "parameter": parameter(tensor(stored, (4, 2))),
            "one": tensor(stored, (1, 4, 1), 4, (77, 1, 99)),
            "none": tensor(stored, (2, 0, 5), 8, (9, 9, 9)),
        }
    )
    write_code(path, code, numbers_of_eight.tobytes())
    read = {name: tensor.read() for name, tensor in read_torch_header(path).items()}
    np.testing.assert_array_equal(read["whole"], numbers_of_eight.reshape(2, 4))
    np.testing.assert_array_equal(read["tied"], read["whole"])
    np.testing.assert_array_equal(read["last"], [5, 6, 7])
    np.testing.assert_array_equal(read["parameter"], numbers_of_eight.reshape(4, 2))
    np.testing.assert_array_equal(read["one"], [[[4], [5], [6], [7]]])
    assert read["none"].shape == (2, 0, 5)


@pytest.mark.parametrize(
    "code",
    [
        state_dict({"w": tensor()}, metadata=b""),
        state_dict({"w": tensor(storage(device="cuda:3"))}),
        PROTOCOL + b"}" + text("w") + tensor() + b"s.",
        PROTOCOL + b"}q\0(" + text("w") + tensor(rest=b"\x88}") + b"u.",
    ],
)
def test_other_ways_to_write_the_same(path, code):
    write_code(path, code)
    np.testing.assert_array_equal(read_torch_header(path)["w"].read(), [[0, 1], [2, 3]])


def test_the_memo(path):
    """As pickle writes it: what was made once is fetched again, with short and long places."""
    first = (
        find("torch._utils _rebuild_tensor_v2")
        + b"q\x01"
        + sequence(storage() + b"r\x00\x01\0\0", number(0), numbers((4,)), numbers((1,)), NO_GRADIENT)
    )
    second = b"h\x01" + sequence(b"j\x00\x01\0\0", number(2), numbers((2,)), numbers((1,)), NO_GRADIENT)
    write_code(path, state_dict({"a": first + b"R", "b": second + b"R"}))
    assert [tensor.read().tolist() for tensor in read_torch_header(path).values()] == [[0, 1, 2, 3], [2, 3]]


def test_archives_of_other_versions_of_torch(path):
    code = state_dict({"w": tensor()})
    write_archive(path, [("data.pkl", code), ("data/0", FOUR), ("version", b"3\n")], wide_end=False)
    assert read_torch_header(path)["w"].shape == (2, 2)
    newer = [(".format_version", b"1"), (".storage_alignment", b"64"), (".data/serialization_id", b"0123")]
    write_archive(path, [*entries(code, FOUR), *newer], folder="pytorch_model")
    assert read_torch_header(path)["w"].shape == (2, 2)
    # Sizes may be in the header before the data too, and checksums may be left out.
    sizes = {"flags": 0x800, "packed": 16, "size": 16}
    write_code(path, code, FOUR, local={2: sizes}, central={0: {"crc": 0}, 2: {"flags": 0x800}})
    assert read_torch_header(path)["w"].shape == (2, 2)


def test_more_than_four_gigabytes(path):
    """The file is sparse: it takes a few kilobytes of the disk."""
    values = {"a": tensor(storage(numel=1 << 30), (1 << 10, 1 << 20)), "b": tensor(storage(key="1"), (4,))}
    write_code(path, state_dict(values), 1 << 32, FOUR)
    stored = read_torch_header(path)
    assert stored["a"].shape == (1 << 10, 1 << 20)
    assert stored["b"].offset > 1 << 32
    np.testing.assert_array_equal(stored["b"].read(), [0, 1, 2, 3])
    wide = struct.pack("<2H2Q", 1, 16, 1 << 32, 1 << 32)
    for lie in (struct.pack("<2H2Q", 1, 16, (1 << 32) + 64, 0), struct.pack("<2H2Q", 1, 16, 5, 5), b""):
        write_code(path, state_dict(values), 1 << 32, FOUR, local={2: {"extra": lie, "size": 0xFFFFFFFF}})
        assert "contradicts" in refusal(path)
        write_code(path, state_dict(values), 1 << 32, FOUR, central={2: {"extra": lie}})
        refusal(path)
    write_code(path, state_dict(values), 1 << 32, FOUR, local={2: {"extra": wide}})
    assert len(read_torch_header(path)) == 2


# Model folders.


def as_torch(folder: Path, tensors: dict[str, np.ndarray], **options) -> Path:
    (folder / "model.safetensors").unlink()
    write_torch(folder / "pytorch_model.bin", tensors, **options)
    return folder


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


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_every_stored_type_becomes_float32(folder, tensors, dtype):
    rounded = {
        "F32": lambda array: array,
        "F16": lambda array: array.astype(np.float16).astype(np.float32),
        "BF16": lambda array: from_bfloat16(to_bfloat16(array)),
    }[dtype]
    as_torch(folder, tensors, dtype=dtype)
    assert_same(loaded(folder), {name: rounded(array) for name, array in tensors.items()})


def test_leftovers_and_strangers_are_told_as_for_safetensors(folder, tensors):
    as_torch(folder, tensors | {"embeddings.position_ids": np.arange(32)[None], "cls.count": np.array(3)})
    with pytest.warns(SentpoolWarning, match=r"2 tensors are not used .*cls\.count, embeddings\.position_ids"):
        weights.check(folder, EncoderConfig.read(folder))
    write_torch(folder / "pytorch_model.bin", tensors | {"more": np.array(3)})
    with pytest.raises(ModelFolderError, match=r"pytorch_model\.bin: 1 tensor is unknown .*'more'"):
        loaded(folder)
    name = "encoder.layer.1.output.dense.bias"
    write_torch(folder / "pytorch_model.bin", tensors | {name: np.float32(1)})
    with pytest.raises(ModelFolderError, match=rf"pytorch_model\.bin: tensor '{name}' has shape \(\); config\.json"):
        loaded(folder)
    write_torch(folder / "pytorch_model.bin", tensors, dtypes={name: "F64"})
    with pytest.raises(ModelFolderError, match=rf"pytorch_model\.bin: tensor '{name}' has dtype F64; allowed are F32"):
        loaded(folder)


@pytest.mark.parametrize("shards", [1, 3])
def test_sharded(folder, tensors, shards):
    (folder / "model.safetensors").unlink()
    write_torch_sharded(folder, tensors, shards)
    assert_same(loaded(folder), tensors)
    assert [path.suffix for path in weights.weight_files(folder)] == [".bin"] * shards
    (folder / "pytorch_model-00001-of-00001.bin").unlink(missing_ok=True)
    (folder / "pytorch_model-00002-of-00003.bin").unlink(missing_ok=True)
    with pytest.raises(ModelFolderError, match=r"pytorch_model-.*\.bin: no such file"):
        loaded(folder)


def test_an_index_of_one_format_names_no_file_of_the_other(folder, tensors):
    write_torch_sharded(folder, tensors)
    index = folder / "pytorch_model.bin.index.json"
    name = "pytorch_model-00001-of-00002.bin"
    index.write_text(index.read_text().replace(name, "model.safetensors"))
    assert weights.weight_files(folder) == [folder / "model.safetensors"]
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(ModelFolderError, match=r"is 'model\.safetensors'; expected the name of a \.bin file"):
        loaded(folder)


def test_safetensors_come_first(folder, tensors):
    zeros = {name: 0 * array for name, array in tensors.items()}
    write_torch(folder / "pytorch_model.bin", zeros)
    write_torch_sharded(folder, zeros)
    assert_same(loaded(folder), tensors)
    assert weights.weight_files(folder) == [folder / "model.safetensors"]
    (folder / "model.safetensors").unlink()
    assert weights.weight_files(folder) == [folder / "pytorch_model.bin"]


def test_the_same_vectors_bit_for_bit(tmp_path):
    SentenceEncoder = pytest.importorskip("sentpool").SentenceEncoder
    options = {"head": (7, "Normalize")}
    safe = sentence_transformers_folder(tmp_path / "safe", **options)
    pickled = sentence_transformers_folder(tmp_path / "pickled", **options)
    for source in (pickled, pickled / "2_Dense"):
        as_torch(source, {name: tensor.read() for name, tensor in weights.stored_tensors(source).items()})
    texts = ["the cat sat on the mat .", "a happy dog", ""]
    first, second = SentenceEncoder(safe), SentenceEncoder(pickled)
    assert first.encode(texts).tobytes() == second.encode(texts).tobytes()

    # Hashes are those of the files, as long as they are what was read.
    files = ("pytorch_model.bin", "2_Dense/pytorch_model.bin")
    expected = {name: hashlib.sha256((pickled / name).read_bytes()).hexdigest() for name in files}
    opened = open_folder(pickled)
    assert opened.weight_hashes() == expected
    with open(pickled / files[1], "ab") as file:
        file.write(b"\0")
    with pytest.warns(SentpoolWarning, match=r"changed since the model was opened: 2_Dense/pytorch_model\.bin"):
        assert opened.weight_hashes() == expected | {files[1]: None}


def test_a_file_cut_short_after_it_was_looked_at(folder, tensors):
    path = as_torch(folder, tensors) / "pytorch_model.bin"
    stored = read_torch_header(path)["encoder.layer.1.output.LayerNorm.bias"]
    path.write_bytes(path.read_bytes()[: stored.offset + 5])
    with pytest.raises(ModelFolderError, match=r"ends inside tensor 'encoder\.layer\.1\.output\.LayerNorm\.bias'"):
        stored.read()


# Files that are something else.


def test_other_formats_are_refused_with_the_remedy(path):
    legacy = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    path.write_bytes(legacy + bytes(600))
    assert "format of torch before 1.6" in refusal(path) and "torch.save({name: tensor.contiguous()" in refusal(path)
    path.write_bytes(b"sys_info".ljust(257, b"\0") + b"ustar".ljust(600, b"\0"))
    assert "tar archive" in refusal(path) and "torch.save({name: tensor.contiguous()" in refusal(path)
    for name in ("constants.pkl", "code/__torch__.py", "attributes.pkl"):
        write_archive(path, [*entries(state_dict({"w": tensor()}), FOUR), (name, b"")])
        assert "TorchScript" in refusal(path) and "torch.save the state_dict()" in refusal(path)
    write_safetensors(path, {"w": np.ones(3, np.float32)})
    assert "not a zip archive" in refusal(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "not a zip archive" in refusal(path)


def test_no_regular_file(path):
    assert "no such file" in refusal(path)
    path.mkdir()
    assert "a folder of that name" in refusal(path)
    path.rmdir()
    os.mkfifo(path)
    assert "not a regular file" in refusal(path)


def test_rows_that_do_not_lie_one_after_the_other(path):
    for shape, strides in (((2, 2), (1, 2)), ((2,), (2,)), ((2, 2), (0, 1)), ((2, 2), (1, 1)), ((4,), (0,))):
        write_code(path, state_dict({"fine": tensor(), "w.x": tensor(None, shape, 0, strides)}))
        assert f"tensor 'w.x' of shape {shape} has strides {strides}" in refusal(path)
        assert "torch.save({name: tensor.contiguous()" in refusal(path)
