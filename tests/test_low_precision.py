"""Products against weights in bfloat16 and int8: every kernel against its scalar twin, and the twins against NumPy."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_void_p

import numpy as np
import pytest

pytest.importorskip("sentpool._kernels", reason="build with SENTPOOL_KERNELS=1")
from kernel_table import ACTIVATIONS, Guarded, Kernels, address, same  # noqa: E402
from op_table import FORMATS, Inner, LayerWeights, Matrix, call, ld, rows  # noqa: E402

from sentpool import _core  # noqa: E402

_kernels = __import__("sentpool._kernels", fromlist=["low_kernels"])

pytestmark = pytest.mark.kernels

P, N = c_void_p, c_int64
STEP = 64  # SP_LOW_STEP
LARGEST = {1: 255, 2: 32767}  # number of so many digits


class Int8Panels(ctypes.Structure):
    _fields_ = (("panels", P), ("scale", P), ("offset", P))


class LowKernels:
    """The kernels for low precision of one instruction set, or of a unit of the CPU."""

    _SIGNATURES = {
        "pack_bf16": (P, N, P, N, N, N),
        "round_bf16": (P, N, P, N, N, N),
        "widen": (P, P, N),
        "gemm_bf16": (P, N, P, N, P, P, N, N, N),
        "pack_int8": (P, N, P, N, N, N),
        "quantize": (P, N, P, P, N, P, c_int, N, N),
        "gemm_int8": (P, N, P, N, P, Int8Panels, P, c_int, N, N, N),
    }

    def __init__(self, name: str) -> None:
        addresses = _kernels.low_kernels(name)
        self.name, self.rounds = name, addresses["rounds"]
        self.runs_bf16, self.runs_int8 = addresses["runs_bf16"], addresses["runs_int8"]
        self.value_bytes = addresses["value_bytes"]  # of a value in one digit and in two
        self.nr = Kernels({"unit": "avx512", "amx": "avx512", "avx_vnni": "avx2"}.get(name, name)).nr
        for kernel, arguments in self._SIGNATURES.items():
            if addresses[kernel]:
                setattr(self, kernel, ctypes.CFUNCTYPE(None, *arguments)(addresses[kernel]))

    def _panels(self, weight, pack, dtype):
        n, k = weight.shape
        panels = np.zeros((-(-n // self.nr), filled(k) * self.nr), dtype)
        for index, panel in enumerate(panels):
            rows = np.ascontiguousarray(weight[index * self.nr : (index + 1) * self.nr])
            pack(address(panel), 0, address(rows), k, len(rows), k)
        return panels

    def bf16(self, x, weight, bias):
        (m, k), n = x.shape, len(weight)
        panels = self._panels(weight, self.pack_bf16, np.uint16)
        a, lda = Guarded(x), k
        if self.rounds:
            rounded = Guarded(np.full((m, filled(k)), 0xFFFF, np.uint16))
            self.round_bf16(rounded.address, filled(k), a.address, k, m, k)
            a, lda = rounded, filled(k)
        c = Guarded(np.full((m, n), np.nan, np.float32))
        self.gemm_bf16(c.address, n, a.address, lda, address(panels), address(bias), m, n, k)
        return c.array.copy()

    def digits(self, x, smooth, digits):
        """Digits (m, bytes) and ranges (m, 2): low, step."""
        m, k = x.shape
        stride = self.value_bytes[digits - 1] * filled(k)
        q = Guarded(np.full((m, stride), 77, np.uint8))
        ranges = np.zeros((m, 2), np.float32)
        a, factors = Guarded(x), None if smooth is None else Guarded(smooth)
        self.quantize(q.address, stride, address(ranges), a.address, k, factors and factors.address, digits, m, k)
        return q, ranges

    def int8(self, x, weight, scale, bias, smooth, digits):
        (m, k), n = x.shape, len(weight)
        panels = self._panels(weight, self.pack_int8, np.int8)
        q, ranges = self.digits(x, smooth, digits)
        offset = (scale * weight.sum(1, dtype=np.float64)).astype(np.float32)
        c = Guarded(np.full((m, n), np.nan, np.float32))
        columns = Int8Panels(address(panels), address(scale), address(offset))
        stride = q.array.shape[1]
        self.gemm_int8(c.address, n, q.address, stride, address(ranges), columns, address(bias), digits, m, n, k)
        return c.array.copy()


def filled(k: int) -> int:
    return -(-k // STEP) * STEP


SCALAR = LowKernels("scalar")
ALL = [LowKernels(name) for name in ("generic", "avx2", "avx_vnni", "avx512", "unit", "amx")]
each_bf16, each_int8 = (
    pytest.mark.parametrize("kernels", [k for k in ALL if getattr(k, f"runs_{part}")], ids=lambda k: k.name)
    for part in ("bf16", "int8")
)
SIZES = [(1, 1, 1), (2, 33, 7), (5, 31, 64), (13, 32, 65), (16, 1, 128), (17, 40, 200), (31, 64, 300), (33, 17, 3)]
SIZES += [(48, 96, 130), (129, 8, 70), (260, 35, 20), (3, 50, 1030), (15, 64, 512), (7, 33, 577)]
SIZES += [(130, 48, 520), (130, 40, 520), (40, 20, 520)]  # several pieces and blocks, half a panel


def case(m, n, k):
    rng = np.random.default_rng(m * 1000 + n * 10 + k)
    x = rng.standard_normal((m, k)).astype(np.float32)
    x[:, ::5] *= 6
    return rng, x, rng.standard_normal(n).astype(np.float32)


def bf16_values(x):
    """float32 values rounded to bfloat16, to nearest even, by NumPy."""
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


# ---- int8: the same bits from everything ---------------------------------------------------------------------------


@each_int8
@pytest.mark.parametrize("digits", [1, 2])
@pytest.mark.parametrize(("m", "n", "k"), SIZES)
def test_int8_equals_its_twin(kernels, m, n, k, digits):
    rng, x, bias = case(m, n, k)
    weight = rng.integers(-127, 128, (n, k)).astype(np.int8)
    scale, smooth = (rng.random(size).astype(np.float32) + 0.1 for size in (n, k))
    for b, s in ((bias, smooth), (None, None)):
        expected = SCALAR.int8(x, weight, scale, b, s, digits)
        assert np.isfinite(expected).all()
        assert same(kernels.int8(x, weight, scale, b, s, digits), expected)


@pytest.mark.parametrize("digits", [1, 2])
def test_int8_is_the_product_of_rounded_activations(digits):
    rng, x, bias = case(9, 20, 300)
    weight = rng.integers(-127, 128, (20, 300)).astype(np.int8)
    scale, smooth = (rng.random(size).astype(np.float32) + 0.1 for size in (20, 300))
    smoothed = x.astype(np.float64) * smooth
    low, high = smoothed.min(1, keepdims=True), smoothed.max(1, keepdims=True)
    step = (high - low) / LARGEST[digits]
    rounded = low + step * np.rint((smoothed - low) / step)
    expected = rounded @ (weight.T * scale.astype(np.float64)) + bias
    y = SCALAR.int8(x, weight, scale, bias, smooth, digits)
    # One activation on the edge between two digits may fall to the other side: no more than that.
    assert np.abs(y - expected).max() <= 1.01 * step.max() * 127 * scale.max() + 1e-4 * np.abs(expected).max()
    assert np.median(np.abs(y - expected)) <= 2e-6 * np.abs(expected).max()
    exact = smoothed @ (weight.T * scale.astype(np.float64)) + bias
    # 2 % with 255 steps to a range, and with more in proportion
    assert np.abs(y - exact).max() / np.abs(exact).max() < 0.02 * LARGEST[1] / LARGEST[digits]


@each_int8
def test_digits_keep_within_half_a_step(kernels):
    _, x, _ = case(7, 1, 129)
    for digits in (1, 2):
        q, ranges = kernels.digits(x, None, digits)
        if kernels.value_bytes[0] == 2:  # an int16, in one digit as in two
            numbers = q.array.view(np.int16).astype(np.int64)
        else:
            parts = q.array.reshape(len(x), digits, -1).astype(np.int64)
            numbers = parts[:, 0] if digits == 1 else 256 * parts[:, 0] + parts[:, 1]
        assert (numbers[:, 129:] == 0).all()
        assert numbers[:, :129].min() == 0 and numbers.max() == LARGEST[digits]
        back = ranges[:, :1] + ranges[:, 1:].astype(np.float64) * numbers[:, :129]
        assert (np.abs(back - x) <= 0.501 * ranges[:, 1:] + 1e-6).all()


@each_int8
def test_int8_of_equal_values_is_exact(kernels):
    """A row without a range has no digits; its product is that of the sums of weights."""
    weight = np.arange(-60, 60, dtype=np.int8).reshape(3, 40)
    scale = np.array([0.5, 1, 2], np.float32)
    for value in (0.0, -0.0, 3.25, -7.5):
        y = kernels.int8(np.full((2, 40), value, np.float32), weight, scale, None, None, 1)
        assert (y == value * scale * weight.sum(1)).all()


@each_int8
@pytest.mark.parametrize("first", [0.0, -0.0])
def test_int8_of_zeros_of_both_signs_equals_its_twin(kernels, first):
    """Which of the two is the least of a row depends on the order of comparisons."""
    x = np.full((3, 40), -first, np.float32)
    x[0, 0] = x[1, 39] = x[2, 17] = first
    weight, scale = np.full((3, 40), -5, np.int8), np.ones(3, np.float32)
    for digits in (1, 2):
        y = kernels.int8(x, weight, scale, None, None, digits)
        assert same(y, SCALAR.int8(x, weight, scale, None, None, digits))


@each_int8
@pytest.mark.parametrize("digits", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_int8_of_a_row_that_is_not_finite_is_nan(kernels, bad, digits):
    rng, x, bias = case(5, 40, 70)
    weight = rng.integers(-127, 128, (40, 70)).astype(np.int8)
    scale = np.ones(40, np.float32)
    clean = kernels.int8(x, weight, scale, bias, None, digits)
    for place in (0, 33, 69):
        spoiled = x.copy()
        spoiled[2, place] = bad
        y = kernels.int8(spoiled, weight, scale, bias, None, digits)
        assert np.isnan(y[2]).all()
        assert same(np.delete(y, 2, 0), np.delete(clean, 2, 0))


@each_int8
@pytest.mark.parametrize("digits", [1, 2])
def test_int8_at_the_largest_sums(kernels, digits):
    """The most that a sum of 32 bits holds: SP_INT8_DEPTH products of 255 (two digits: 512 of 32767) and 127."""
    k = 65536
    x = np.full((2, k), 1, np.float32)
    x[:, 0] = 0
    weight = np.full((3, k), 127, np.int8)
    weight[1] = -127
    scale = np.ones(3, np.float32)
    y = kernels.int8(x, weight, scale, None, None, digits)
    assert same(y, SCALAR.int8(x, weight, scale, None, None, digits))
    np.testing.assert_allclose(y, x @ weight.T.astype(np.float64), rtol=1e-6)


# ---- what stays float32 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("following", FORMATS)
@pytest.mark.parametrize("gated", [False, True])
def test_gelu_is_the_cheaper_one_where_the_next_layer_rounds(following, gated):
    """In int8, and in bfloat16 where the CPU has a unit for it."""
    config = _core.config()
    if config["gemm"] != "panel":
        pytest.skip("weights are in panels")
    kernels, rng = Kernels(config["isa"]), np.random.default_rng(5)
    m, width, inner = 7, 40, 70
    x, weight, gate = (rng.standard_normal((n, width)).astype(np.float32) for n in (m, inner, inner))
    packed, packed_gate = kernels.pack_weight(weight), kernels.pack_weight(gate)
    raw, factors, y = (rows(np.zeros((m, inner), np.float32)) for _ in range(3))
    weights = LayerWeights(
        intermediate=Matrix(address(packed), inner, width), output=Matrix(None, width, inner, FORMATS.index(following))
    )
    if gated:
        weights.gate = Matrix(address(packed_gate), inner, width)
    block = Inner(address(y), address(raw), address(factors), ld(y))
    call("expand_forward", block, x, width, weights, ACTIVATIONS.index("gelu"), m, None)

    def activated(name):
        result = np.zeros((m, inner), np.float32)
        kernels.activation(address(result), inner, address(raw), ld(raw), ACTIVATIONS.index(name), m, inner)
        return result * factors if gated else result

    assert not same(activated("gelu"), activated("gelu_low"))
    rounds = following == "int8" or (following == "bfloat16" and _core.low_precision_units()["bfloat16"] != "none")
    assert same(np.ascontiguousarray(y), activated("gelu_low" if rounds else "gelu"))


# ---- bfloat16 --------------------------------------------------------------------------------------------------------


@each_bf16
@pytest.mark.parametrize(("m", "n", "k"), SIZES)
def test_bf16_equals_its_twin_or_is_near(kernels, m, n, k):
    rng, x, bias = case(m, n, k)
    weight = rng.standard_normal((n, k)).astype(np.float32)
    for b in (bias, None):
        y = kernels.bf16(x, weight, b)
        if not kernels.rounds:
            assert same(y, SCALAR.bf16(x, weight, b))
        a = bf16_values(x) if kernels.rounds else x
        expected = a.astype(np.float64) @ bf16_values(weight).T.astype(np.float64) + (0 if b is None else b)
        size = np.abs(a).astype(np.float64) @ np.abs(bf16_values(weight)).T + 1
        assert (np.abs(y - expected) <= 1e-6 * size).all()


@each_bf16
def test_bf16_rounds_to_nearest_even(kernels):
    values = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-9, 3e38, 65280.5], np.float32)
    weight = np.ascontiguousarray(values[:, None])
    y = kernels.bf16(np.ones((1, 1), np.float32), weight, None)
    assert same(y[0], bf16_values(values))


@each_bf16
def test_widening_is_exact(kernels):
    for n in (1, 3, 4, 7, 8, 15, 16, 33, 100):
        halves = np.random.default_rng(n).integers(0, 1 << 16, n).astype(np.uint16)
        x, y = Guarded(halves), Guarded(np.zeros(n, np.float32))
        kernels.widen(y.address, x.address, n)
        assert same(y.array.copy(), (halves.astype(np.uint32) << 16).view(np.float32))


@each_bf16
def test_bf16_rows_stand_alone(kernels):
    rng, x, bias = case(70, 50, 200)
    weight = rng.standard_normal((50, 200)).astype(np.float32)
    whole = kernels.bf16(x, weight, bias)
    for first, m in ((0, 1), (3, 2), (5, 15), (40, 17), (10, 33), (0, 69)):
        rows = np.ascontiguousarray(x[first : first + m])
        assert same(kernels.bf16(rows, weight, bias), whole[first : first + m])


@each_int8
def test_int8_rows_stand_alone(kernels):
    rng, x, bias = case(70, 50, 200)
    weight, scale = rng.integers(-127, 128, (50, 200)).astype(np.int8), np.ones(50, np.float32)
    whole = kernels.int8(x, weight, scale, bias, None, 2)
    for first, m in ((0, 1), (3, 2), (5, 15), (40, 17), (10, 33), (0, 69)):
        rows = np.ascontiguousarray(x[first : first + m])
        assert same(kernels.int8(rows, weight, scale, bias, None, 2), whole[first : first + m])


@each_bf16
def test_bf16_passes_nan_and_infinity_on(kernels):
    rng, x, _ = case(4, 40, 70)
    weight = rng.standard_normal((40, 70)).astype(np.float32)
    x[1, 3], x[2, 64], weight[7, 5] = np.nan, np.inf, -np.inf
    y = kernels.bf16(x, weight, None)
    assert np.isnan(y[1]).all() and not np.isfinite(y[2]).any() and not np.isfinite(y[:, 7]).any()
    assert np.isfinite(np.delete(np.delete(y, [1, 2], 0), 7, 1)).all()
