"""Files of torch.save: what a state dict needs is read, and nothing that a file says is ever run."""

from __future__ import annotations

import builtins
import hashlib
import importlib
import math
import os
import pickle
import random
import struct
import subprocess
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
    METADATA,
    NO_GRADIENT,
    ORDERED_DICT,
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

from sentpool import torch_pickle, weights
from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError, SentpoolWarning
from sentpool.folder import open_folder
from sentpool.torch_file import read_torch_header

FOUR = np.arange(4, dtype="<f4").tobytes()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "pytorch_model.bin"


@pytest.fixture
def run(monkeypatch) -> list[str]:
    """The names of functions that code in a file would call, as soon as one of them is called."""
    called: list[str] = []

    def canary(name: str):
        def call(*arguments, **options):
            called.append(name)
            raise AssertionError(f"{name} was called")

        return call

    for module, names in (
        (builtins, "eval exec compile"),
        (os, "system popen execv"),
        (subprocess, "Popen run"),
        (pickle, "loads load Unpickler"),
        (importlib, "import_module"),
    ):
        for name in names.split():
            monkeypatch.setattr(module, name, canary(f"{module.__name__}.{name}"))
    return called


def refusal(path: Path) -> str:
    """What is said of a file that must be refused; nothing is imported meanwhile."""
    original, imported = builtins.__import__, []

    def watching(name, *rest):
        imported.append(name)
        return original(name, *rest)

    message = None
    builtins.__import__ = watching
    try:
        read_torch_header(path)
    except ModelFolderError as error:
        message = str(error)
    finally:
        builtins.__import__ = original
    assert imported == []
    assert message is not None, "the file was read"
    assert message.startswith(f"{path}: ")
    assert len(message) - len(str(path)) < 500
    return message


def write_code(path: Path, code: bytes, *data: bytes | int, **lies) -> Path:
    return write_archive(path, entries(code, *(data or (FOUR,))), **lies)


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


# Hostile pickles.

# Each of these runs code, opens a file or makes an object when a pickle asks for it, or leads to one that does.
FOREIGN = """
    os system|posix system|nt system|os popen|os execv|os remove|subprocess Popen|subprocess run|subprocess call
    subprocess check_output|builtins eval|builtins exec|builtins compile|builtins getattr|builtins setattr
    builtins __import__|builtins open|builtins print|builtins globals|builtins map|builtins list|builtins object
    builtins bytearray|builtins dict|__builtin__ eval|__builtin__ getattr|__builtin__ apply|__main__ run
    sys exit|sys modules|sys setrecursionlimit|importlib import_module|importlib reload|runpy run_path
    runpy _run_code|copyreg _reconstructor|copyreg __newobj__|copyreg add_extension|copy_reg _reconstructor
    pickle loads|_pickle loads|pickle Unpickler|marshal loads|types FunctionType|types CodeType|functools partial
    functools reduce|operator attrgetter|operator methodcaller|operator itemgetter|webbrowser open|socket socket
    pty spawn|code InteractiveInterpreter|timeit timeit|cProfile run|pdb run|bdb Bdb|ctypes CDLL|shutil rmtree
    logging.config listen|pydoc pipepager|asyncio run|multiprocessing Process|_codecs encode|site main
    torch load|torch.load load|torch.jit load|torch.hub load|torch.storage _load_from_bytes|torch.serialization load
    torch._utils _rebuild_tensor|torch._utils _rebuild_tensor_v3|torch._utils _rebuild_qtensor
    torch._utils _rebuild_sparse_tensor|torch._utils _rebuild_parameter_with_state|torch._utils _import_dotted_name
    torch._utils _rebuild_device_tensor_from_numpy|torch._tensor _rebuild_from_type_v2|torch UntypedStorage
    torch.storage UntypedStorage|torch.storage TypedStorage|torch ComplexFloatStorage|torch QInt8Storage|torch Size
    torch device|torch float32|torch Tensor|torch FloatTensor|torch.nn.modules.linear Linear|torch._C _get_qengine
    torch._dynamo.guards GuardBuilder|torch.fx.graph_module reduce_graph_module|torch._inductor.codecache AsyncCompile
    numpy.core.multiarray _reconstruct|numpy._core.multiarray scalar|numpy ndarray|numpy load
    numpy.f2py.crackfortran eval|collections defaultdict|collections Counter|collections deque
    collections OrderedDict.fromkeys|collections.abc OrderedDict|transformers AutoModel
    sentpool.torch_pickle _Function|sentpool.errors ModelFolderError|torch FloatStorage.__init__|torch floatstorage
"""
FOREIGN = [name.strip() for name in FOREIGN.strip().replace("\n", "|").split("|")]
ALMOST = [
    "torch FloatStorage ",
    "torch  FloatStorage",
    " torch FloatStorage",
    "torch FloatStorage\0",
    "torch ",
    " ",
    "x",
]


@pytest.mark.parametrize("name", FOREIGN + ALMOST)
def test_a_foreign_name(path, run, name):
    for code in (
        PROTOCOL + find(name) + sequence(text("true")) + b"R.",
        PROTOCOL + find(name) + b")R.",
        state_dict({"w": find(name)}),
        state_dict({"w": tensor(rest=b"\x89" + find(name) + b")R")}),
        state_dict({"w": tensor()}, metadata=b"}" + text("_metadata") + find(name) + sequence(text("id")) + b"Rsb"),
    ):
        write_code(path, code)
        message = refusal(path)
        assert "asks for" in message or "name without an end" in message
    assert run == []


def test_the_canaries_sing(run):
    """What `run` watches is what a pickle runs: Python's own reader does it."""
    code = PROTOCOL + find("os system") + sequence(text("true")) + b"R."
    with pytest.raises(AssertionError, match=r"os\.system was called"):
        pickle._loads(code)
    assert run == ["os.system"]


SYSTEM = b"cos\nsystem\n"
COMMAND = text("true")
INSTRUCTIONS = {
    "STACK_GLOBAL": text("os") + text("system") + b"\x93" + COMMAND + b"\x85R",
    "STACK_GLOBAL, short": b"\x8c\x02os\x8c\x06system\x93" + COMMAND + b"\x85R",
    "STACK_GLOBAL of what is allowed": text("collections") + text("OrderedDict") + b"\x93)R",
    "INST": b"(" + COMMAND + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + COMMAND + b"o",
    "OBJ of what is allowed": b"(ccollections\nOrderedDict\no",
    "NEWOBJ": b"ccollections\nOrderedDict\n)\x81",
    "NEWOBJ_EX": b"ccollections\nOrderedDict\n)}\x92",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"Pos.system\n",
    "GET as text": b"g0\n",
    "PUT as text": b"Np0\n",
    "INT as text": b"I1\n",
    "INT as text, true": b"I01\n",
    "LONG as text": b"L1L\n",
    "LONG as text, huge": b"L" + b"9" * 100_000 + b"L\n",
    "FLOAT as text": b"F1e999\n",
    "STRING as text": b"S'os'\n",
    "UNICODE as text": b"Vos\n",
    "BINSTRING": b"T\x02\0\0\0os",
    "SHORT_BINSTRING": b"U\x02os",
    "SHORT_BINUNICODE": b"\x8c\x02os",
    "BINUNICODE8": b"\x8d\x02\0\0\0\0\0\0\0os",
    "BINUNICODE8, huge": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fos",
    "BINBYTES": b"B\x02\0\0\0os",
    "BINBYTES8, huge": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    "SHORT_BINBYTES": b"C\x02os",
    "BYTEARRAY8, huge": b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"N\x98",
    "FRAME": b"\x95\x01\0\0\0\0\0\0\0N",
    "MEMOIZE": b"N\x94",
    "EMPTY_SET": b"\x8f",
    "ADDITEMS": b"\x8f(N\x90",
    "FROZENSET": b"(N\x91",
    "POP": b"NN0",
    "POP_MARK": b"N(N1",
    "DUP": b"N2",
    "DICT": b"(d",
    "LIST": b"(l",
    "LONG4": b"\x8b\x04\0\0\0\x01\0\0\0",
    "LONG4, huge": b"\x8b\xff\xff\xff\x7f",
    "PROTO again": b"\x80\x02N",
    "a second pickle": b"N." + PROTOCOL + SYSTEM + COMMAND + b"\x85R",
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_a_foreign_instruction(path, run, name):
    for before in (b"", ORDERED_DICT + b"(" + text("w")):
        write_code(path, PROTOCOL + before + INSTRUCTIONS[name] + b".")
        refusal(path)
    assert run == []


def test_only_the_instructions_of_a_state_dict(path, run):
    allowed = set(b"NKMJGX()t]ae}suqrhjcRbQ.") | set(b"\x88\x89\x8a\x85\x86\x87")
    for code in set(range(256)) - allowed:
        write_code(path, PROTOCOL + b"}(" + bytes([code]) + b"os\nsystem\n" * 3 + b".")
        assert f"instruction {bytes([code])!r} at byte 4" in refusal(path)
    assert run == []


NUMBERS = {"storage": storage(), "offset": number(0), "shape": numbers((2, 2)), "strides": numbers((2, 1))}
REBUILD = find("torch._utils _rebuild_tensor_v2")
DEEP = b")" + b"\x85" * 100_000


def rebuilt(rest=NO_GRADIENT, **changes: bytes) -> bytes:
    return REBUILD + sequence(*(NUMBERS | changes).values(), rest) + b"R"


VALUES = {
    # Tensors from wrong arguments.
    "offset before": rebuilt(offset=number(-1)),
    "offset past": rebuilt(offset=number(1)),
    "offset huge": rebuilt(offset=number((1 << 63) - 1)),
    "offset true": rebuilt(offset=b"\x88"),
    "offset float": rebuilt(offset=b"G" + struct.pack(">d", 0.0)),
    "offset NaN": rebuilt(offset=b"G" + struct.pack(">d", float("nan"))),
    "offset string": rebuilt(offset=text("0")),
    "offset none": rebuilt(offset=b"N"),
    "shape too large": rebuilt(shape=numbers((2, 3)), strides=numbers((3, 1))),
    "shape negative": rebuilt(shape=numbers((-2, -2))),
    "shape huge": rebuilt(shape=numbers((1 << 47, 1 << 47)), strides=numbers((0, 0))),
    "shape that overflows": rebuilt(shape=numbers((1 << 32, 1 << 32)), strides=numbers((1 << 32, 1))),
    "shape beyond the limit": rebuilt(shape=numbers((1 << 48, 0)), strides=numbers((1, 1))),
    "shape list": rebuilt(shape=b"](K\x02K\x02e"),
    "shape number": rebuilt(shape=number(4)),
    "shape of booleans": rebuilt(shape=sequence(b"\x88", b"\x88")),
    "shape of strings": rebuilt(shape=sequence(text("2"), text("2"))),
    "shape nested": rebuilt(shape=DEEP),
    "nine dimensions": rebuilt(shape=numbers([1] * 9), strides=numbers([1] * 9)),
    "a million dimensions": rebuilt(shape=b"(" + b"K\x01" * 300_000 + b"t", strides=b"(" + b"K\x01" * 300_000 + b"t"),
    "strides negative": rebuilt(strides=numbers((2, -1))),
    "strides huge": rebuilt(strides=numbers((1 << 62, 1))),
    "strides too few": rebuilt(strides=numbers((1,))),
    "strides too many": rebuilt(strides=numbers((2, 1, 1))),
    "strides past the end": rebuilt(strides=numbers((3, 1))),
    "strides of booleans": rebuilt(strides=sequence(number(2), b"\x88")),
    "strides none": rebuilt(strides=b"N"),
    "empty, but past the end": rebuilt(offset=number(5), shape=numbers((0,)), strides=numbers((1,))),
    "storage none": rebuilt(storage=b"N"),
    "storage number": rebuilt(storage=number(0)),
    "storage class": rebuilt(storage=find("torch FloatStorage")),
    "storage by its id": rebuilt(storage=storage()[:-1]),
    "storage a tensor": rebuilt(storage=rebuilt()),
    "gradient a number": rebuilt(b"K\x00" + ORDERED_DICT),
    "gradient none": rebuilt(b"N" + ORDERED_DICT),
    "hooks none": rebuilt(b"\x89N"),
    "hooks a list": rebuilt(b"\x89]"),
    "hooks that are there": rebuilt(b"\x89}" + text("a") + b"Ns"),
    "hooks a function": rebuilt(b"\x89" + REBUILD),
    "too few arguments": REBUILD + sequence(storage(), number(0)) + b"R",
    "no arguments": REBUILD + b")R",
    "metadata": rebuilt(NO_GRADIENT + b"}"),
    "arguments a list": REBUILD + b"](" + storage() + b"eR",
    "arguments none": REBUILD + b"NR",
    "arguments a storage": REBUILD + storage() + b"R",
    "arguments a tensor": REBUILD + rebuilt() + b"R",
    # Parameters.
    "parameter of a storage": parameter(storage()),
    "parameter of none": parameter(b"N"),
    "parameter of a dict": parameter(b"}"),
    "parameter without arguments": find("torch._utils _rebuild_parameter") + b")R",
    "parameter, gradient a number": find("torch._utils _rebuild_parameter") + rebuilt() + b"K\1}\x87R",
    "parameter, hooks a list": find("torch._utils _rebuild_parameter") + rebuilt() + b"\x88]\x87R",
    "parameter with state": find("torch._utils _rebuild_parameter") + b"(" + rebuilt() + b"\x88}}tR",
    # Calls of what is no function.
    "call a storage class": find("torch FloatStorage") + b")R",
    "call a string": text("os.system") + b")R",
    "call none": b"N)R",
    "call a dict": b"})R",
    "call a tensor": rebuilt() + b")R",
    "call a tuple": b"))R",
    "an OrderedDict of pairs": b"ccollections\nOrderedDict\n](" + text("a") + b"N\x86e\x85R",
    # Storages by wrong ids.
    "no storage": storage(key="1"),
    "no number as key": storage(key="../data/0"),
    "a folder as key": storage(key=""),
    "key with a plus": storage(key="+0"),
    "another word": storage(word="module"),
    "fewer numbers": storage(numel=3),
    "more numbers": storage(numel=5),
    "numbers negative": storage(numel=-4),
    "numbers huge": storage(numel=1 << 62),
    "wrong type": storage("DoubleStorage"),
    "half the type": storage("HalfStorage"),
    "numbers true": sequence(text("storage"), find("torch ByteStorage"), text("0"), text("cpu"), b"\x88") + b"Q",
    "key a number": sequence(text("storage"), find("torch FloatStorage"), number(0), text("cpu"), number(4)) + b"Q",
    "device a number": sequence(text("storage"), find("torch FloatStorage"), text("0"), number(0), number(4)) + b"Q",
    "type a function": sequence(text("storage"), REBUILD, text("0"), text("cpu"), number(4)) + b"Q",
    "type a string": sequence(text("storage"), text("FloatStorage"), text("0"), text("cpu"), number(4)) + b"Q",
    "id too short": sequence(text("storage"), find("torch FloatStorage"), text("0"), text("cpu")) + b"Q",
    "id too long": storage()[:-2] + b"NtQ",
    "id a string": text("storage") + b"Q",
    "id a list": b"]Q",
    "id none": b"NQ",
    "id a storage": storage() + b"Q",
    "id nested": DEEP + b"Q",
    "one storage, two types": storage() + storage("IntStorage") + b"\x86",
    # What is no tensor.
    "a string": text("x"),
    "a number": number(1 << 62),
    "a float": b"G" + struct.pack(">d", float("inf")),
    "none": b"N",
    "true": b"\x88",
    "a list": b"]",
    "a dict": b"}",
    "a dict of tensors": b"}" + text("w") + rebuilt() + b"s",
    "a tuple": rebuilt() + b"\x85",
    "a storage": storage(),
    "a class": find("torch FloatStorage"),
    "a function": REBUILD,
    # Stack, marks and memo.
    "fetched from nowhere": b"h\x00",
    "fetched from nowhere, far": b"j\xff\xff\xff\xff",
    "kept at a huge place": b"Nr\xff\xff\xff\xff",
    "a tuple from below the mark": b"(\x86",
    "append below the mark": b"](Na",
    "append to none": b"NNa",
    "append to a tuple": b")Na",
    "appends to a dict": b"}(Ne",
    "appends without a list": b"(Ne",
    "an item of a list": b"]" + text("a") + b"Ns",
    "items of a tuple": b")(" + text("a") + b"Nu",
    "items that are odd": b"}(" + text("a") + b"u",
    "an item without a key": b"(Ns",
    "item by a number": b"}K\1Ns",
    "item by none": b"}NNs",
    "item by a list": b"}]Ns",
    "item by a dict": b"}}Ns",
    "item by nested": b"}" + DEEP + b"Ns",
    "item by a storage": b"}" + storage() + b"Ns",
    "a class with attributes": find("torch FloatStorage") + b"}" + text("_metadata") + b"}sb",
    "a tensor with attributes": rebuilt() + b"}" + text("_metadata") + b"}sb",
    "a function with attributes": REBUILD + b"}" + text("call") + b"}sb",
    "a list that holds itself": b"]q\0h\0a",
    "a dict that holds itself": b"}q\0" + text("a") + b"h\0s",
    "a tuple that holds itself": b"]q\0h\0\x85ah\0\x85",
    "hooks that hold themselves": rebuilt(b"\x89}q\0" + text("a") + b"h\0s"),
    "lists nested": b"]" * 100_000 + b"a" * 99_999,
    "dicts nested": (b"}" + text("a")) * 50_000 + b"}" + b"s" * 50_000,
    "tuples nested": DEEP,
    "marks nested": b"(" * 100_000 + b"t" * 100_000,
    # Bytes that do not fit.
    "a string longer than the pickle": b"X\xff\xff\xff\xffabc",
    "a string that is no text": text(b"\xff\xfe"),
    "half a character": text(b"\xed\xa0\x80"),
    "an integer of nine bytes": b"\x8a\x09" + bytes(9),
    "an integer of 255 bytes": b"\x8a\xff" + b"\x7f" * 255,
    "a name without an end": b"c" + b"a" * 10_000,
    "a name of one line": b"cos\n",
    "a name that is no text": b"c\xff\xfe\n\xff\n",
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_is_no_tensor_or_no_good_one(path, run, name):
    write_code(path, state_dict({"fine": tensor(), "w": VALUES[name]}))
    refusal(path)
    assert run == []


PROGRAMS = {
    "nothing": b"",
    "half a protocol": b"\x80",
    "only a protocol": PROTOCOL,
    "no value": PROTOCOL + b".",
    "no end": PROTOCOL + b"}",
    "protocol 0": b"(dp0\n.",
    "protocol 1": b"}.",
    "protocol 3": b"\x80\x03}.",
    "protocol 4": b"\x80\x04}.",
    "protocol 255": b"\x80\xff}.",
    "a list of tensors": PROTOCOL + b"]" + tensor() + b"a.",
    "a tensor": PROTOCOL + tensor() + b".",
    "none": PROTOCOL + b"N.",
    "a string": PROTOCOL + text("x" * 100_000) + b".",
    "a function": PROTOCOL + REBUILD + b".",
    "two values": PROTOCOL + b"}}.",
    "an open mark": PROTOCOL + b"}(.",
    "a value below an open mark": PROTOCOL + b"(}.",
    "more behind the end": PROTOCOL + b"}.}.",
    "a mark that is not there": PROTOCOL + b"}t.",
    "items without a mark": PROTOCOL + b"}u.",
    "an empty stack kept": PROTOCOL + b"q\0}.",
    "an empty stack called": PROTOCOL + b"R.",
    "an empty stack with attributes": PROTOCOL + b"b.",
    "an empty stack as id": PROTOCOL + b"Q.",
    "a checkpoint": state_dict({"epoch": number(3), "state_dict": b"}" + text("w") + tensor() + b"s"}),
    "a state dict inside": state_dict({"state_dict": b"}" + text("w") + tensor() + b"s"}),
    "attributes: a method": state_dict({"w": tensor()}, metadata=b"}" + text("__setstate__") + REBUILD + b"sb"),
    "attributes: __dict__": state_dict({"w": tensor()}, metadata=b"}" + text("__dict__") + b"}sb"),
    "attributes: __class__": state_dict({"w": tensor()}, metadata=b"}" + text("__class__") + REBUILD + b"sb"),
    "attributes: slots": state_dict({"w": tensor()}, metadata=b"N}" + text("_metadata") + b"}s\x86b"),
    "attributes: more": state_dict({"w": tensor()}, metadata=METADATA[:-1] + text("keys") + b"Nsb"),
    "attributes: none": state_dict({"w": tensor()}, metadata=b"Nb"),
    "attributes: none of them": state_dict({"w": tensor()}, metadata=b"}b"),
    "too many instructions": PROTOCOL + b"}" + b"q\0" * (torch_pickle.MAX_INSTRUCTIONS + 1) + b".",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_makes_no_state_dict(path, run, name):
    write_code(path, PROGRAMS[name])
    refusal(path)
    assert run == []


def test_what_a_message_says(path):
    for code, message in (
        (state_dict({"w": number(3)}), "'w' is of type int; a state dict holds tensors and nothing else"),
        (PROTOCOL + b"].", "its pickle is of type list; expected a state dict"),
        (state_dict({"w": find("os system")}), "its pickle asks for 'os system'; only plain tensors are read"),
        (state_dict({"w": tensor(storage(key="7"))}), "storage '7' is not there"),
        (state_dict({"w": tensor(None, (3, 2))}), "a tensor of shape (3, 2) reaches past its storage of 4 numbers"),
    ):
        write_code(path, code)
        assert message in refusal(path)


# Hostile archives.

GOOD = state_dict({"w": tensor()})
# The entries of these are data.pkl, byteorder, data/0 and version, in this order.
ARCHIVES = {
    "compressed": {"central": {2: {"method": 8}}, "local": {2: {"method": 8}}},
    "compressed, says the directory": {"central": {2: {"method": 8}}},
    "compressed, says the header": {"local": {2: {"method": 8}}},
    "a pickle compressed": {"central": {0: {"method": 12}}, "local": {0: {"method": 12}}},
    "a bomb": {"central": {2: {"size": 1 << 31}}},
    "packed, and smaller": {"central": {2: {"packed": 8}}},
    "encrypted": {"central": {2: {"flags": 0x809}}, "local": {2: {"flags": 0x809}}},
    "encrypted strongly": {"central": {2: {"flags": 0x848}}, "local": {2: {"flags": 0x848}}},
    "masked": {"central": {2: {"flags": 0x2808}}, "local": {2: {"flags": 0x2808}}},
    "other flags in the header": {"local": {2: {"flags": 0x800}}},
    "other size in the header": {"local": {2: {"size": 12}}},
    "other packed size in the header": {"local": {2: {"packed": 12}}},
    "no size in the header": {"local": {2: {"flags": 0x800}}, "central": {2: {"flags": 0x800}}},
    "saturated without more": {"local": {2: {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF}}},
    "other size in the wide field": {"local": {2: {"extra": struct.pack("<2H2Q", 1, 16, 99, 0)}}},
    "other name in the header": {"local": {2: {"name": b"archive/data/9"}}},
    "longer name in the header": {"local": {2: {"name": b"archive/data/00", "name_length": 15}}},
    "longer name, says the header": {"local": {2: {"name_length": 15}}},
    "longer extra fields, says the header": {"local": {3: {"extra_length": 0xFFFF}}},
    "no header": {"local": {2: {"signature": b"PK\1\2"}}},
    "no header at the start": {"local": {0: {"signature": b"PK\0\0"}}},
    "something before the archive": {"local": {0: {"before": b"MZ"}}},
    "larger than the file": {"central": {2: {"size": 1 << 30, "packed": 1 << 30}}},
    "larger by one": {"central": {2: {"size": 17, "packed": 17}}},
    "smaller by one": {"central": {2: {"size": 15, "packed": 15}}},
    "over the next": {"central": {2: {"size": 64, "packed": 64}}},
    "over the directory": {"central": {3: {"size": 64, "packed": 64}}},
    "wide, and huge": {
        "central": {
            2: {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF, "extra": struct.pack("<2H2Q", 1, 16, 1 << 63, 1 << 63)}
        }
    },
    "wide, and far": {"central": {2: {"offset": 0xFFFFFFFF, "extra": struct.pack("<2HQ", 1, 8, (1 << 64) - 1)}}},
    "wide, and beyond what can be sought": {
        "central": {2: {"offset": 0xFFFFFFFF, "extra": struct.pack("<2HQ", 1, 8, (1 << 62) - 1)}}
    },
    "far without a wide field": {"central": {2: {"offset": 0xFFFFFFFF}}},
    "wide field cut short": {"central": {2: {"offset": 0xFFFFFFFF, "extra": struct.pack("<2HI", 1, 8, 0)}}},
    "wide field behind another": {
        "central": {2: {"offset": 0xFFFFFFFF, "extra": struct.pack("<2H2HQ", 5, 0, 1, 8, 0x280)}}
    },
    "at the place of another": {"central": {2: {"offset": 0}}},
    "inside another": {"central": {2: {"offset": 64}}},
    "on another disk": {"central": {2: {"disk": 1}}},
    "no entry in the directory": {"central": {2: {"signature": b"PK\3\4"}}},
    "longer than the directory": {"central": {3: {"comment_length": 9}}},
    "name longer than the directory": {"central": {3: {"name_length": 0xFFFF}}},
    "name up one folder": {"central": {2: {"name": b"archive/../0__"}}, "local": {2: {"name": b"archive/../0__"}}},
    "name from the root": {"central": {2: {"name": b"/rchive/data/0"}}, "local": {2: {"name": b"/rchive/data/0"}}},
    "name in another folder": {"central": {2: {"name": b"arkhive/data/0"}}, "local": {2: {"name": b"arkhive/data/0"}}},
    "name with a backslash": {
        "central": {2: {"name": b"archive\\data\\0"}},
        "local": {2: {"name": b"archive\\data\\0"}},
    },
    "name with a zero": {"central": {2: {"name": b"archive/data/\0"}}, "local": {2: {"name": b"archive/data/\0"}}},
    "name that is no text": {
        "central": {2: {"name": b"archive/data/\xff"}},
        "local": {2: {"name": b"archive/data/\xff"}},
    },
    "name of the root": {"folder": ""},
    "folder up": {"folder": ".."},
    "a wrong checksum": {"central": {0: {"crc": 1}}},
    "a comment": {"end": {"comment": b"PK\5\6"}},
    "a comment that is not there": {"end": {"comment_length": 7}},
    "no end record": {"end": {"signature": b"PK\5\7"}},
    "two disks": {"end": {"disk": 1}},
    "a first disk": {"end": {"first_disk": 1}},
    "fewer entries": {"end": {"count": 3, "here": 3}},
    "fewer entries, one end record": {"end": {"count": 3, "here": 3}, "wide_end": False},
    "more entries, one end record": {"end": {"count": 5, "here": 5}, "wide_end": False},
    "no entries": {"end": {"count": 0, "here": 0}, "wide_end": False},
    "fewer entries here": {"end": {"here": 1}, "wide_end": False},
    "directory elsewhere": {"end": {"start": 0}, "wide_end": False},
    "directory shorter": {"end": {"size": 46}, "wide_end": False},
    "directory longer": {"end": {"size": 0xFFFFFFFF, "start": 0xFFFFFFFF}, "wide_end": False},
    "wide end: fewer entries": {"wide_end": {"count": 3, "here": 3}},
    "wide end: 2**64 - 1 entries": {
        "wide_end": {"count": (1 << 64) - 1, "here": (1 << 64) - 1},
        "end": {"count": 0xFFFF, "here": 0xFFFF},
    },
    "wide end: directory elsewhere": {"wide_end": {"start": 0}},
    "wide end: directory far": {"wide_end": {"start": (1 << 64) - 1}, "end": {"start": 0xFFFFFFFF}},
    "wide end: directory huge": {"wide_end": {"size": (1 << 64) - 1}, "end": {"size": 0xFFFFFFFF}},
    "wide end: no record": {"wide_end": {"signature": b"PK\6\5"}},
    "wide end: longer": {"wide_end": {"length": 45}},
    "wide end: another disk": {"wide_end": {"disk": 1}},
    "wide end: elsewhere": {"locator": {"place": 0}},
    "wide end: on another disk": {"locator": {"disk": 1}},
    "wide end: many disks": {"locator": {"disks": 2}},
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_lies(path, run, name):
    write_code(path, GOOD, FOUR, **ARCHIVES[name])
    refusal(path)
    assert run == []


@pytest.mark.parametrize(
    "listed",
    [
        [*entries(GOOD, FOUR), ("data/0", FOUR)],
        [*entries(GOOD, FOUR), ("data.pkl", GOOD)],
        [*entries(GOOD, FOUR), ("../data/1", FOUR)],
        [*entries(GOOD, FOUR), ("data/", b"")],
        [*entries(GOOD, FOUR), ("data/1/2", b"")],
        [*entries(GOOD, FOUR), ("data/x", b"")],
        [*entries(GOOD, FOUR), ("data/-1", b"")],
        [*entries(GOOD, FOUR), ("data/\N{ARABIC-INDIC DIGIT ONE}", b"")],
        [*entries(GOOD, FOUR), ("setup.py", b"")],
        [*entries(GOOD, FOUR), ("", b"")],
        [("data/0", FOUR)],
        [("data/0", FOUR), ("data.pkl", 17 << 20)],
        [("data.pkl", GOOD), ("data/0", FOUR), ("byteorder", b"big")],
        [("data.pkl", GOOD), ("data/0", FOUR), ("byteorder", b"")],
        [("data.pkl", GOOD), ("data/0", FOUR), ("byteorder", b"little".ljust(100_000))],
        [("data.pkl", GOOD), ("data/1", FOUR)],
        [("data.pkl", GOOD), ("data/0", FOUR[:-1])],
        [("data.pkl", GOOD), ("data/0", FOUR + b"\0")],
        [("data.pkl", GOOD), ("data/0", b"")],
        [],
    ],
)
def test_an_archive_with_other_entries(path, run, listed):
    write_archive(path, listed)
    refusal(path)
    assert run == []


def test_an_entry_inside_the_data_of_another(path):
    """Both have a header of their own that agrees with the directory; only their places tell."""
    header = struct.pack("<4s5H3I2H", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, 14, 2) + b"archive/data/1" + b"\0\0"
    values = {"a": tensor(storage(numel=16), (16,)), "b": tensor(storage(key="1"), (4,))}
    code = state_dict(values)
    outer = header.ljust(48, b"\0") + FOUR
    write_code(path, code, outer, FOUR)
    place = read_torch_header(path)["a"].offset
    write_code(path, code, outer, FOUR, central={3: {"offset": place}})
    assert "overlap" in refusal(path)


def test_many_headers_that_reach_over_each_other(path):
    """Reading every one of them to its end would take minutes."""
    many = [("data.pkl", GOOD), *((f"data/{key}", b"") for key in range(30_000))]
    write_archive(path, many, local={key: {"extra_length": 0xFFFF} for key in range(1, 30_001)})
    assert "overlaps" in refusal(path)


def test_an_archive_with_too_large_a_directory(path):
    extra = {key: {"extra": bytes(65535)} for key in range(70)}
    many = [("data.pkl", GOOD), ("data/0", FOUR), *((f"data/{key}", b"") for key in range(1, 69))]
    write_archive(path, many[:60], central=extra)
    assert len(read_torch_header(path)) == 1
    write_archive(path, many, central=extra)
    assert "directory is" in refusal(path)


# Damage.


def check_places(path: Path, size: int) -> None:
    """Read a file that is perhaps damaged: an error, or tensors that lie inside it."""
    try:
        stored = read_torch_header(path)
    except ModelFolderError:
        return
    for one in stored.values():
        width = {"F32": 4, "I64": 8, "F64": 8, "I32": 4}.get(one.dtype, 1)
        assert all(type(number) is int and number >= 0 for number in one.shape)
        assert 0 < one.offset <= one.offset + width * math.prod(one.shape) <= size


def test_every_truncation_is_an_error(path, run):
    write_torch(path, {"a": np.ones((3, 2), np.float32), "b": np.arange(3)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)
    path.write_bytes(whole + b"\0")
    refusal(path)
    assert run == []


def test_every_truncation_of_the_pickle_is_an_error(path, run):
    code = state_dict({"a": tensor(), "b": parameter(tensor())})
    for length in range(len(code)):
        write_code(path, code[:length])
        refusal(path)
    assert run == []


def test_every_flipped_bit_of_the_pickle_is_seen(path, run):
    write_torch(path, {"a": np.ones((3, 2), np.float32)})
    whole = path.read_bytes()
    start = whole.index(PROTOCOL)
    for place in range(start, whole.index(b"PK\7\x08")):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert "checksum" in refusal(path)
    assert run == []


def test_flipped_bytes_anywhere(path, run):
    rng = random.Random(6)
    write_torch(path, {"a": np.ones((3, 2), np.float32), "b": np.arange(3)})
    whole = path.read_bytes()
    for _ in range(2000):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        check_places(path, len(whole))
    assert run == []


def test_changed_pickles_with_the_right_checksum(path, run):
    """Bytes changed, dropped, doubled and swapped: what is still read lies inside the file."""
    rng = random.Random(7)
    code = state_dict({"a": tensor(), "b": parameter(tensor(None, (4,))), "c": tensor(storage(key="1"), (2,), 2)})
    fragments = [*VALUES.values(), *INSTRUCTIONS.values()]
    fragments = [fragment for fragment in fragments if len(fragment) < 300]
    for _ in range(3000):
        changed = bytearray(code)
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(2, len(changed))
            other = rng.choice(fragments)
            kind = rng.randrange(5)
            if kind == 0:
                changed[place] ^= 1 << rng.randrange(8)
            elif kind == 1:
                changed[place] = rng.choice(b"NKMJGX()t]ae}suqrhjcRbQ.\x85\x86\x87\x88\x89\x8a\0\1\2\xff")
            elif kind == 2:
                del changed[place : place + rng.randrange(1, 9)]
            elif kind == 3:
                changed[place:place] = changed[rng.randrange(2, len(changed)) :][: rng.randrange(1, 60)]
            else:
                changed[place:place] = other
        write_code(path, bytes(changed), FOUR, FOUR)
        check_places(path, path.stat().st_size)
    assert run == []
