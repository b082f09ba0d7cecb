"""The pickle of a state dict, interpreted without running what it says.

A pickle is a program, which may ask for any function to be called. Here the few instructions that put a state dict
together are interpreted, and a name is looked up in one table of what a state dict needs, never imported.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sentpool.errors import shown
from sentpool.torch_archive import Entry, Refused

# A state dict takes about 30 instructions per tensor.
MAX_INSTRUCTIONS = 1 << 20
MAX_DIMENSIONS = 8
# Sizes, strides and offsets stay below.
SIZE_LIMIT = 1 << 48


def unpickled(code: bytes, entries: Mapping[str, Entry]) -> Any:
    """What the pickle of a state dict makes: normally a dict of `Tensor` by name.

    Parameters
    ----------
    code
        The pickle.
    entries
        Those of the archive; each storage must be one of them, of the right size.

    Raises
    ------
    Refused
        If it has an instruction, name or argument that no state dict needs.
    """
    return _Interpreter(code, entries).run()


class StorageType(NamedTuple):
    """A storage class of torch: the type's name in safetensors, and the bytes of one number."""

    dtype: str
    itemsize: int


class Storage(NamedTuple):
    """One entry `data/<key>`: the numbers that tensors share."""

    type: StorageType
    numel: int
    start: int


class Tensor(NamedTuple):
    """A view of a storage, known to lie inside it; offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Function:
    """What stands for a function that a state dict calls: it takes the arguments and checks them all."""

    call: Callable[[tuple], Any]


def _ordered_dict(arguments: tuple) -> dict:
    if arguments:
        raise Refused("its pickle makes an OrderedDict from arguments")
    return {}


def _rebuild_tensor(arguments: tuple) -> Tensor:
    if not (len(arguments) == 6 and type(arguments[0]) is Storage and _is_size(arguments[1])):
        raise Refused("its pickle makes a tensor from wrong arguments")
    storage, offset, shape, strides, *rest = arguments
    if not (_is_shape(shape) and _is_shape(strides) and len(shape) == len(strides) and _is_flag_and_no_hooks(*rest)):
        raise Refused("its pickle makes a tensor from wrong arguments")
    end = offset
    if math.prod(shape):
        end += 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if end > storage.numel:
        raise Refused(f"a tensor of shape {shown(shape)} reaches past its storage of {storage.numel} numbers")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(arguments: tuple) -> Tensor:
    if not (len(arguments) == 3 and type(arguments[0]) is Tensor and _is_flag_and_no_hooks(*arguments[1:])):
        raise Refused("its pickle makes a parameter from wrong arguments")
    return arguments[0]


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < SIZE_LIMIT


def _is_shape(value: object) -> bool:
    return type(value) is tuple and len(value) <= MAX_DIMENSIONS and all(map(_is_size, value))


def _is_flag_and_no_hooks(requires_grad: object, hooks: object) -> bool:
    return type(requires_grad) is bool and type(hooks) is dict and not hooks


_GLOBALS: dict[str, _Function | StorageType] = {
    "collections OrderedDict": _Function(_ordered_dict),
    "torch._utils _rebuild_tensor_v2": _Function(_rebuild_tensor),
    "torch._utils _rebuild_parameter": _Function(_rebuild_parameter),
    "torch DoubleStorage": StorageType("F64", 8),
    "torch FloatStorage": StorageType("F32", 4),
    "torch HalfStorage": StorageType("F16", 2),
    "torch BFloat16Storage": StorageType("BF16", 2),
    "torch LongStorage": StorageType("I64", 8),
    "torch IntStorage": StorageType("I32", 4),
    "torch ShortStorage": StorageType("I16", 2),
    "torch CharStorage": StorageType("I8", 1),
    "torch ByteStorage": StorageType("U8", 1),
    "torch BoolStorage": StorageType("BOOL", 1),
}
# Longer names need not be shown whole.
_LONGEST_NAME = 256


class _Interpreter:
    """Runs the instructions of a state dict's pickle; every other instruction is an error.

    What they can make is None, truth values, numbers, strings, tuples, lists, dicts with strings as keys, and the
    entries of `_GLOBALS`, which only `_Function.call` and the storage of a tensor take.
    """

    def __init__(self, code: bytes, entries: Mapping[str, Entry]) -> None:
        self._code, self._at = code, 0
        self._entries = entries
        self._storages: dict[str, Storage] = {}
        self._memo: dict[int, Any] = {}
        self._stack: list[Any] = []
        # The stacks below each mark: what is below a mark cannot be popped.
        self._outer: list[list[Any]] = []

    def run(self) -> Any:
        """What the pickle makes."""
        if self._take(2) != b"\x80\x02":
            raise Refused("its pickle is not of protocol 2, which torch.save writes")
        for _ in range(MAX_INSTRUCTIONS):
            code = self._take(1)
            if code == b".":
                return self._result()
            if code not in _INSTRUCTIONS:
                raise Refused(f"its pickle has instruction {code!r} at byte {self._at - 1}, which no state dict needs")
            _INSTRUCTIONS[code](self)
        raise Refused(f"its pickle has more than {MAX_INSTRUCTIONS} instructions")

    def _result(self) -> Any:
        if len(self._stack) != 1 or self._outer or self._at != len(self._code):
            raise Refused("its pickle stops with something left over")
        return self._stack.pop()

    def _take(self, count: int) -> bytes:
        taken = self._code[self._at : self._at + count]
        if len(taken) < count:
            raise Refused("its pickle ends too early")
        self._at += count
        return taken

    def _unsigned(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little")

    def pop(self) -> Any:
        if not self._stack:
            raise Refused("its pickle takes from an empty stack")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise Refused(f"its pickle changes something that is no {kind.__name__}")
        return self._stack[-1]

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def mark(self) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[Any]:
        """All values above the last mark."""
        if not self._outer:
            raise Refused("its pickle goes back to a mark that is not there")
        values, self._stack = self._stack, self._outer.pop()
        return values

    def integer(self, width: int) -> None:
        self.push(int.from_bytes(self._take(width), "little", signed=width == 4))

    def long(self) -> None:
        width = self._unsigned(1)
        if width > 8:
            raise Refused(f"its pickle has an integer of {width} bytes")
        self.push(int.from_bytes(self._take(width), "little", signed=True))

    def floating(self) -> None:
        self.push(struct.unpack(">d", self._take(8))[0])

    def string(self) -> None:
        try:
            self.push(self._take(self._unsigned(4)).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise Refused("its pickle has a string that is not UTF-8") from error

    def make_tuple(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def append(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self._top(dict)
        keys = values[::2]
        # Only strings are hashed: a tuple may be nested too deeply for that.
        if len(values) % 2 or not all(type(key) is str for key in keys):
            raise Refused("its pickle has a dict whose keys are not strings")
        target.update(zip(keys, values[1::2], strict=True))

    def set_item(self) -> None:
        value = self.pop()
        self.set_items([self.pop(), value])

    def put(self, width: int) -> None:
        index = self._unsigned(width)
        if index >= MAX_INSTRUCTIONS or not self._stack:
            raise Refused(f"its pickle keeps nothing, or at the impossible place {index}")
        self._memo[index] = self._stack[-1]

    def get(self, width: int) -> None:
        index = self._unsigned(width)
        if index not in self._memo:
            raise Refused(f"its pickle fetches from place {index}, where nothing was put")
        self.push(self._memo[index])

    def find(self) -> None:
        """Look a global up by the names of its module and itself, a line each."""
        lines = self._code[self._at : self._at + _LONGEST_NAME].split(b"\n", 2)
        if len(lines) < 3:
            raise Refused("its pickle has a name without an end")
        self._at += len(lines[0]) + len(lines[1]) + 2
        name = b" ".join(lines[:2]).decode("utf-8", "replace")
        if name not in _GLOBALS:
            raise Refused(f"its pickle asks for {shown(name)}; only plain tensors are read, nothing is ever run")
        self.push(_GLOBALS[name])

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not _Function or type(arguments) is not tuple:
            raise Refused("its pickle calls what is no function of a state dict")
        self.push(function.call(arguments))

    def build(self) -> None:
        """An attribute of a dict: torch keeps version numbers of modules there, which say nothing of tensors."""
        state = self.pop()
        self._top(dict)
        if type(state) is not dict or list(state) != ["_metadata"]:
            raise Refused("its pickle sets attributes other than a state dict's _metadata")

    def storage(self) -> None:
        """A storage, from ("storage", type, key, device, numel)."""
        pid = self.pop()
        if type(pid) is not tuple or [type(part) for part in pid] != [str, StorageType, str, str, int]:
            raise Refused("its pickle names a storage in another way than torch.save")
        word, kind, key, _, numel = pid
        entry = self._entries.get(f"data/{key}")
        if word != "storage" or entry is None or numel < 0 or numel * kind.itemsize != entry.size:
            raise Refused(f"storage {shown(key)} is not there or does not hold {shown(numel)} numbers {kind.dtype}")
        storage = Storage(kind, numel, entry.start)
        if self._storages.setdefault(key, storage) != storage:
            raise Refused(f"storage {shown(key)} has two types")
        self.push(storage)


# What torch.save writes for a state dict, besides PROTO at the start and STOP at the end.
_INSTRUCTIONS: dict[bytes, Callable[[_Interpreter], None]] = {
    b"N": lambda it: it.push(None),  # NONE
    b"\x88": lambda it: it.push(True),  # NEWTRUE
    b"\x89": lambda it: it.push(False),  # NEWFALSE
    b"K": lambda it: it.integer(1),  # BININT1
    b"M": lambda it: it.integer(2),  # BININT2
    b"J": lambda it: it.integer(4),  # BININT
    b"\x8a": _Interpreter.long,  # LONG1
    b"G": _Interpreter.floating,  # BINFLOAT
    b"X": _Interpreter.string,  # BINUNICODE
    b"(": _Interpreter.mark,  # MARK
    b")": lambda it: it.push(()),  # EMPTY_TUPLE
    b"\x85": lambda it: it.make_tuple(1),  # TUPLE1
    b"\x86": lambda it: it.make_tuple(2),  # TUPLE2
    b"\x87": lambda it: it.make_tuple(3),  # TUPLE3
    b"t": lambda it: it.push(tuple(it.pop_mark())),  # TUPLE
    b"]": lambda it: it.push([]),  # EMPTY_LIST
    b"a": lambda it: it.append([it.pop()]),  # APPEND
    b"e": lambda it: it.append(it.pop_mark()),  # APPENDS
    b"}": lambda it: it.push({}),  # EMPTY_DICT
    b"s": _Interpreter.set_item,  # SETITEM
    b"u": lambda it: it.set_items(it.pop_mark()),  # SETITEMS
    b"q": lambda it: it.put(1),  # BINPUT
    b"r": lambda it: it.put(4),  # LONG_BINPUT
    b"h": lambda it: it.get(1),  # BINGET
    b"j": lambda it: it.get(4),  # LONG_BINGET
    b"c": _Interpreter.find,  # GLOBAL
    b"R": _Interpreter.call,  # REDUCE
    b"b": _Interpreter.build,  # BUILD
    b"Q": _Interpreter.storage,  # BINPERSID
}
