"""Operations of the core on NumPy arrays, through ctypes: what has no other way in than a whole model."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_double, c_float, c_int, c_int64, c_uint32, c_uint64, c_void_p

import numpy as np
from kernel_table import address

_kernels = __import__("sentpool._kernels", fromlist=["op"])

POOLINGS = ("cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last_token")
NR = 32  # no panel is wider: this many floats may be read behind the last row
P, N = c_void_p, c_int64


class Team(ctypes.Structure):
    _fields_ = (("rank", c_int), ("size", c_int), ("progress", P), ("step", N), ("held", N))


class Matrix(ctypes.Structure):
    _fields_ = (
        *(("data", P), ("rows", N), ("cols", N), ("format", c_int)),
        *(("digits", c_int), ("scale", P), ("offset", P), ("smooth", P), ("factors", P), ("ranges", P)),
    )


FORMATS = ("float32", "bfloat16", "int8")


class LayerWeights(ctypes.Structure):
    _fields_ = (
        *((name, Matrix) for name in ("qkv", "attention_output", "intermediate", "gate", "output")),
        *((f"{name}_bias", P) for name in ("qkv", "attention_output", "intermediate", "gate", "output")),
        *(("attention_norm", P), ("attention_norm_bias", P), ("output_norm", P), ("output_norm_bias", P)),
    )


class Inner(ctypes.Structure):
    _fields_ = (("activated", P), ("raw", P), ("gate", P), ("ld", N))


class Groups(ctypes.Structure):
    _fields_ = (("n", N), ("cuts", P))


class Positions(ctypes.Structure):
    _fields_ = (("memory", P), ("rotary", P * 2), ("relative", P), ("ld_relative", N), ("window", P))


class Chunk(ctypes.Structure):
    _fields_ = (
        ("ids", P),
        ("offsets", P),
        ("n", N),
        ("first", N),
        ("token", N),
        ("positions", POINTER(Positions)),
        ("kept", P),
        ("scratch", P),
    )


class RelativeGradient(ctypes.Structure):
    _fields_ = (("sums", P), ("buckets", N))


class LayerKind(ctypes.Structure):
    _fields_ = (
        ("hidden", N),
        ("heads", N),
        ("intermediate", N),
        ("norm_eps", c_float),
        ("activation", c_int),
        ("norm", c_int),
        ("rotary", N),
        ("rotary_base", c_double),
        ("window", N),
    )


class Dropout(ctypes.Structure):
    _fields_ = (
        ("rate", c_double * 10),
        ("seed", c_uint64),
        ("step", c_uint32),
        ("first_row", N),
    )


class PoolRequest(ctypes.Structure):
    _fields_ = (("states", P), ("layers", P), ("n_layers", N), ("poolings", P), ("n_poolings", N), ("skip", N))


_TEAM = POINTER(Team)
_SIGNATURES = {
    "expand_forward": (None, POINTER(Inner), P, N, POINTER(LayerWeights), c_int, N, P, _TEAM),
    "linear_backward": (None, P, N, P, N, POINTER(Matrix), N, _TEAM),
    "linear_backward_weight": (None, POINTER(Matrix), P, P, N, P, N, POINTER(Groups), P, _TEAM),
    "linear_backward_scratch": (N,),
    "linear_transpose": (None, POINTER(Matrix), P, _TEAM),
    "layernorm_backward": (None, P, N, P, N, P, N, P, N, P, N, P, c_float, N, N, _TEAM),
    "layernorm_backward_weight": (None, P, P, P, N, P, N, POINTER(Groups), N, _TEAM),
    "dropout_forward": (None, P, N, POINTER(Dropout), c_int, N, POINTER(Chunk), N, _TEAM),
    "attention_backward": (
        *(None, P, N, POINTER(RelativeGradient), P, N, P, N),
        *(POINTER(Chunk), POINTER(LayerKind), POINTER(Dropout), N, P, _TEAM),
    ),
    "attention_backward_scratch": (N, N, N),
    "pool_tokens_backward": (None, P, N, POINTER(PoolRequest), POINTER(Chunk), N, P, N, N, _TEAM),
}


def call(name: str, *arguments):
    """Run sp_<name>; arrays stand for their addresses, and what takes a team gets one of one rank."""
    result, *types = _SIGNATURES[name]
    given = [address(x) if isinstance(x, np.ndarray) else x for x in arguments]
    if types and types[-1] is _TEAM:
        given.append(ctypes.byref(Team(size=1)))
    return ctypes.CFUNCTYPE(result, *types)(_kernels.op(name))(*given)


def rows(x: np.ndarray, extra: int = 5) -> np.ndarray:
    """A copy (n, m) of `x` whose rows are further apart and followed by readable floats, NaN where nothing counts."""
    n, m = x.shape
    ld = -(-m // NR) * NR + extra
    memory = np.full(n * ld + NR, np.nan, np.float32)
    view = memory[: n * ld].reshape(n, ld)[:, :m]
    view[...] = x
    return view


def ld(x: np.ndarray) -> int:
    """Floats from one row to the next."""
    return x.strides[0] // 4
