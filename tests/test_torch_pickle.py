"""Pickles of torch.save: only the instructions of a state dict are understood, and nothing is ever run."""

from __future__ import annotations

import pickle
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from fabricate_torch import (
    METADATA,
    NO_GRADIENT,
    ORDERED_DICT,
    PROTOCOL,
    find,
    number,
    numbers,
    parameter,
    sequence,
    state_dict,
    storage,
    tensor,
    text,
    write_torch,
)
from torch_refusals import FOUR, canaries, check_places, refusal, write_code

from sentpool import torch_pickle


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "pytorch_model.bin"


@pytest.fixture
def run(monkeypatch) -> list[str]:
    return canaries(monkeypatch)


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


# Damage.


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
