"""The C kernels of one instruction set, callable on NumPy arrays or bare addresses through ctypes."""

from __future__ import annotations

import ctypes
import mmap
from ctypes import c_float, c_int, c_int64, c_uint32, c_uint64, c_void_p

import numpy as np

from sentpool import _core

_kernels = __import__("sentpool._kernels", fromlist=["kernels"])

P, N = c_void_p, c_int64
ACTIVATIONS = ("identity", "gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid", "gelu_low")
DIFFERENTIABLE = ACTIVATIONS[:-1]


class PanelA(ctypes.Structure):
    _fields_ = (("data", P), ("ld", N), ("by_column", c_int))


class Draws(ctypes.Structure):
    _fields_ = (
        ("seed", c_uint64),
        *((name, c_uint32) for name in ("step", "row", "layer", "site", "threshold")),
        ("scale", c_float),
    )


class AdamW(ctypes.Structure):
    _fields_ = tuple(
        (name, c_float)
        for name in ("clip", "first_rate", "second_decay", "second_rate", "second_root", "step", "decay", "eps")
    )


class PanelB(ctypes.Structure):
    _fields_ = (("data", P), ("panel_stride", N), ("row_stride", N))


_SIGNATURES = {
    "gemm": (None, P, N, PanelA, PanelB, P, N, N, N),
    "gemm_add": (None, P, N, PanelA, PanelB, P, N, N, N),
    "transpose": (None, P, N, P, N, N, N),
    "pack": (None, P, N, P, N, N, N),
    "pack_rows": (None, P, P, N, N, N, N),
    "activation": (None, P, N, P, N, c_int, N, N),
    "softmax_columns": (None, P, P, c_float, N, N),
    "activation_backward": (None, P, N, P, N, P, N, P, N, c_int, N, N),
    "softmax_columns_backward": (None, P, N, P, P, P, c_float, N),
    "layernorm_backward": (None, P, N, P, N, P, N, P, N, P, N, P, c_float, N, N),
    "pool_sum_backward": (None, P, N, P, c_float, N, N),
    "pool_weighted_backward": (None, P, N, P, N, N, N),
    "pool_max_backward": (None, P, N, P, P, N, N, N),
    "columns_add": (None, P, P, N, P, N, N, N),
    "divide_rows": (None, P, N, P, N, N),
    "add_layernorm": (None, P, N, P, N, P, N, P, P, c_float, N, N),
    "embed_row": (None, P, P, P, P, N),
    "pool_sum": (None, P, P, N, c_float, N, N),
    "pool_weighted": (None, P, P, N, N, N, N),
    "pool_max": (None, P, P, N, N, N),
    "sum_of_squares": (c_float, P, N),
    "squares": (None, P, P, N, N, N),
    "dots": (None, P, P, P, N, N, N),
    "hamming": (None, P, P, P, N, N, N),
    "screen": (N, P, P, P, P, P, N),
    "dropout": (None, P, N, ctypes.POINTER(Draws), N, N, N),
    "gated_activation": (None, P, N, P, N, P, N, c_int, N, N),
    "add": (None, P, N, P, N, P, N, N, N),
    "multiply": (None, P, N, P, N, P, N, N, N),
    "rotate": (None, P, P, P, N, N, N),
    "add_diagonals": (None, P, P, N),
    "rrelu_slopes": (None, P, P, ctypes.POINTER(Draws), N, N, N),
    "dropout_columns": (None, P, ctypes.POINTER(Draws), N, N, N, N),
    "softmax_row": (c_float, P, P, N),
    "adamw": (None, P, P, P, P, ctypes.POINTER(AdamW), N),
}


def isas() -> list[str]:
    """Instruction sets to hold against the scalar twin: those that run here."""
    return [isa for isa in _core.isas() if isa != "scalar"]


def address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


class Kernels:
    """`Kernels("avx2").gemm(...)` and so on; arguments are those of csrc/kernels/kernels.h, arrays as addresses."""

    def __init__(self, isa: str) -> None:
        addresses = _kernels.kernels(isa)
        self.isa, self.nr = isa, addresses["nr"]
        for name, (result, *arguments) in _SIGNATURES.items():
            setattr(self, name, ctypes.CFUNCTYPE(result, *arguments)(addresses[name]))

    def pack_weight(self, weight: np.ndarray) -> np.ndarray:
        """A weight (out, in) in panels (ceil(out / nr), in, nr), zeros where a panel is not filled."""
        out, width = weight.shape
        panels = np.zeros((-(-out // self.nr), width, self.nr), np.float32)
        for index, panel in enumerate(panels):
            rows = np.ascontiguousarray(weight[index * self.nr : (index + 1) * self.nr])
            self.pack(address(panel), 0, address(rows), width, len(rows), width)
        return panels

    def linear(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        """x (m, k), rows any stride apart, times weight (n, k) transposed, plus bias."""
        (m, k), n = x.shape, len(weight)
        panels = self.pack_weight(weight)
        c = np.full((m, n + 3), np.nan, np.float32)
        b = PanelB(address(panels), k * self.nr, self.nr)
        self.gemm(address(c), n + 3, PanelA(address(x), x.strides[0] // 4, 0), b, address(bias), m, n, k)
        assert np.isnan(c[:, n:]).all(), "wrote beyond the columns asked for"
        return c[:, :n]


class Guarded:
    """A copy of an array between two unreadable pages, up against the second or, `in_front`, the first: one float too
    far is a crash."""

    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.mprotect.argtypes = (c_void_p, ctypes.c_size_t, c_int)

    def __init__(self, array: np.ndarray, in_front: bool = False) -> None:
        page = mmap.PAGESIZE
        size = array.nbytes
        whole = -(-size // page) * page
        self._map = mmap.mmap(-1, page + whole + page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for guard in (start, start + page + whole):
            if self._libc.mprotect(guard, page, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.address = start + page + (0 if in_front else whole - size)
        self.array = np.frombuffer((ctypes.c_char * size).from_address(self.address), array.dtype).reshape(array.shape)
        self.array[...] = array


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bit for bit, any NaN as good as another."""
    return a.shape == b.shape and bool(
        (np.isnan(a) == np.isnan(b)).all() and (a[~np.isnan(a)].view(np.int32) == b[~np.isnan(b)].view(np.int32)).all()
    )


__all__ = [
    "ACTIVATIONS",
    "DIFFERENTIABLE",
    "AdamW",
    "Draws",
    "Guarded",
    "Kernels",
    "PanelA",
    "PanelB",
    "address",
    "isas",
    "same",
]
