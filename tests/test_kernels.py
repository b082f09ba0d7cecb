"""Every kernel of every instruction set against its scalar twin, bit for bit, over edge sizes; and the twins themselves
against NumPy in float64."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

pytest.importorskip("sentpool._kernels", reason="build with SENTPOOL_KERNELS=1")
from kernel_table import ACTIVATIONS, AdamW, Guarded, Kernels, PanelA, PanelB, address, isas, same  # noqa: E402

pytestmark = pytest.mark.kernels

SCALAR = Kernels("scalar")
VECTOR = [Kernels(isa) for isa in isas()]
each_isa = pytest.mark.parametrize("kernels", VECTOR, ids=lambda k: k.isa)

ROWS = (1, 2, 5, 6, 7, 13, 14, 15, 28, 29, 223, 225)
COLUMNS = (1, 7, 8, 15, 16, 17, 31, 32, 33, 50, 64)
DEPTHS = (0, 1, 3, 255, 256, 257, 512, 600)
WIDTHS = (1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 100)


def numbers(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def fma(a, b, c):
    """float32 a * b + c rounded once: the product is exact in float64, and its sum is off in one case of 2^29."""
    return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float32)


def contract(x, weight, bias):
    """The product that csrc/kernels/panel.c promises, in NumPy: blocks of 256, a chain of fma in each."""
    total = np.zeros((len(x), len(weight)), np.float32)
    for start in range(0, x.shape[1], 256):
        chain = np.zeros_like(total)
        for p in range(start, min(start + 256, x.shape[1])):
            chain = fma(np.broadcast_to(x[:, p, None], chain.shape), weight[None, :, p], chain)
        total = chain if start == 0 else total + chain
    return total if bias is None else total + bias


# ---- the matrix product --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", DEPTHS)
def test_scalar_gemm_keeps_the_contract(k):
    rng = np.random.default_rng(k)
    for m, n in ((1, 1), (5, 17), (3, 33)):
        x, weight, bias = numbers(rng, m, k), numbers(rng, n, k), numbers(rng, n)
        assert same(SCALAR.linear(x, weight, bias), contract(x, weight, bias))
        assert same(SCALAR.linear(x, weight, None), contract(x, weight, None))


@each_isa
@pytest.mark.parametrize("k", DEPTHS)
def test_gemm_equals_its_twin(kernels, k):
    rng = np.random.default_rng(k + 1)
    for m in ROWS:
        for n in (kernels.nr // 2, *(COLUMNS if m in (1, 7, 29) else (33, 64))):
            wide = numbers(rng, m, k + 5)
            x, weight, bias = wide[:, :k], numbers(rng, n, k), numbers(rng, n)
            assert same(kernels.linear(x, weight, bias), SCALAR.linear(x, weight, bias)), (m, n)


@each_isa
def test_gemm_by_columns_equals_its_twin(kernels):
    """Attention's second product: A read by columns, B rows at any stride."""
    rng = np.random.default_rng(7)
    for m, n, k in ((1, 8, 1), (3, 32, 17), (15, 64, 300), (32, 24, 512), (16, 33, 40)):
        a, b = numbers(rng, k, m + 2), numbers(rng, k, n + 64)
        results = []
        for table in (kernels, SCALAR):
            c = np.full((m, n), np.nan, np.float32)
            table.gemm(
                address(c),
                n,
                PanelA(address(a), m + 2, 1),
                PanelB(address(b), table.nr, n + 64),
                None,
                m,
                n,
                k,
            )
            results.append(c)
        assert same(*results), (m, n, k)


@each_isa
def test_rows_and_columns_stand_alone(kernels):
    rng = np.random.default_rng(11)
    x, weight, bias = numbers(rng, 60, 300), numbers(rng, 70, 300), numbers(rng, 70)
    whole = kernels.linear(x, weight, bias)
    for m in (1, 2, 13, 14, 15, 37):
        assert same(kernels.linear(x[:m], weight, bias), whole[:m])
    for n in (1, 16, 33):
        assert same(kernels.linear(x, weight[:n], bias[:n].copy()), np.ascontiguousarray(whole[:, :n]))


@each_isa
def test_gemm_passes_nan_and_infinity_on(kernels):
    rng = np.random.default_rng(5)
    x, weight = numbers(rng, 9, 40), numbers(rng, 35, 40)
    x[2, 3], x[4, 7], weight[11, 9], weight[20, 0] = np.nan, np.inf, np.nan, -np.inf
    y = kernels.linear(x, weight, None)
    assert np.isnan(y[2]).all() and np.isnan(y[:, 11]).all()
    assert same(y, SCALAR.linear(x, weight, None))
    assert np.isfinite(np.delete(np.delete(y, [2, 4], 0), [11, 20], 1)).all()


@each_isa
def test_subnormals_survive(kernels):
    x = np.full((3, 1), 1e-30, np.float32)
    weight = np.full((5, 1), 1e-10, np.float32)
    assert (kernels.linear(x, weight, None) == np.float32(1e-40)).all()


GEMM_BY_BLIS = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
from test_kernels import contract, numbers, same
from sentpool import _kernels
rng = np.random.default_rng(3)
for m in (1, 2, 13, 33):
    for n in (1, 7, 16, 33, 48):
        for k in (1, 3, 32, 256, 257, 513, 700):
            x, w = numbers(rng, m, k), numbers(rng, n, k)
            expected = contract(x, w, None)
            layouts = (x, np.asfortranarray(x), numbers(rng, m, 2 * k)[:, ::2], x[::-1, ::-1])
            assert same(_kernels.gemm(x, w.T), expected), (m, n, k)
            assert same(_kernels.gemm(np.asfortranarray(x), np.ascontiguousarray(w.T)), expected), (m, n, k)
            assert same(_kernels.gemm(x[::-1], w[::-1].T), expected[::-1, ::-1].copy()), (m, n, k)
            assert same(_kernels.gemm(np.repeat(x, 2, 1)[:, ::2], w.T), expected), (m, n, k)
"""


@pytest.mark.parametrize("arch", ["haswell", "skx"])
def test_blis_keeps_the_contract(arch):
    if {"haswell": "avx2", "skx": "avx512"}[arch] not in isas():
        pytest.skip(f"this CPU cannot run BLIS's {arch}")
    command = [sys.executable, "-c", GEMM_BY_BLIS, os.path.dirname(__file__)]
    run = subprocess.run(command, env=os.environ | {"SENTPOOL_BLIS_ARCH": arch}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# ---- kernels in which every element stands alone -------------------------------------------------------------------


def special_values():
    edges = [
        0.0,
        -0.0,
        1e-45,
        -1e-45,
        1e-38,
        1e-20,
        0.5,
        3.92,
        3.93,
        9.0,
        9.1,
        87.0,
        88.7,
        88.73,
        89.0,
        104.0,
        1e4,
        3e38,
    ]
    both = np.array([*edges, *(-x for x in edges), np.inf, -np.inf, np.nan], np.float32)
    return np.concatenate(
        [both, np.linspace(-110, 110, 4001, dtype=np.float32), np.linspace(-5, 5, 4001, dtype=np.float32)]
    )


def activate(kernels, name, x):
    y = np.full_like(x, np.nan)
    kernels.activation(address(y), x.shape[1], address(x), x.shape[1], ACTIVATIONS.index(name), *x.shape)
    return y


@each_isa
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_equals_its_twin(kernels, name):
    x = special_values()[None]
    assert same(activate(kernels, name, x), activate(SCALAR, name, x))
    rng = np.random.default_rng(0)
    for width in WIDTHS:
        x = numbers(rng, 3, width)
        assert same(activate(kernels, name, x), activate(SCALAR, name, x)), width


def erf(x):
    return np.array([math.erf(v) for v in x])


REFERENCES = {
    "identity": lambda x: x,
    "gelu": lambda x: x / 2 * (1 + erf(x / math.sqrt(2))),
    "gelu_low": lambda x: x / 2 * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_scalar_activation_is_accurate(name):
    x = np.linspace(-20, 20, 40001, dtype=np.float32)
    exact = REFERENCES[name](x.astype(np.float64))
    error = np.abs(activate(SCALAR, name, x[None])[0] - exact)
    if name == "gelu_low":
        assert (error <= 1.6e-5 * np.minimum(np.abs(x), 1)).all()
        return
    # for the GELUs and SiLU relative to x: their second factor cancels for negative x, in any float32 arithmetic
    assert (error <= (3e-7 * np.abs(x) if name.endswith(("lu", "lu_tanh")) else 4e-7 * np.abs(exact))).all()


def test_limits_of_activations():
    ends = np.array([[-np.inf, np.inf, np.nan]], np.float32)
    for name, low, high in (("tanh", -1, 1), ("sigmoid", 0, 1), ("relu", 0, np.inf)):
        y = activate(SCALAR, name, ends)[0]
        assert y[0] == low and y[1] == high and np.isnan(y[2]), name
    y = activate(SCALAR, "gelu_low", ends)[0]
    assert abs(y[0]) < 1.6e-5 and y[1] == np.inf and np.isnan(y[2])


@each_isa
@pytest.mark.parametrize("H", WIDTHS)
def test_embed_and_divide_equal_their_twins(kernels, H):
    rng = np.random.default_rng(H)
    word, kind, position = numbers(rng, H), numbers(rng, H), numbers(rng, H)
    divisor = numbers(rng, 4)
    results = []
    for table in (kernels, SCALAR):
        y, rows = np.full(H, np.nan, np.float32), np.tile(word, (4, 1))
        table.embed_row(address(y), address(word), address(kind), address(position), H)
        table.divide_rows(address(rows), H, address(divisor), 4, H)
        assert same(y, word + kind + position)
        assert same(rows, (np.tile(word, (4, 1)) / divisor[:, None]).astype(np.float32))
        results.append(rows)
    assert same(*results)


@each_isa
@pytest.mark.parametrize("H", WIDTHS)
def test_what_an_encoder_has_not_is_not_added(kernels, H):
    rng = np.random.default_rng(H)
    word, kind, position = numbers(rng, H), numbers(rng, H), numbers(rng, H)
    for types, positions in ((None, None), (kind, None), (None, position)):
        y = np.full(H, np.nan, np.float32)
        kernels.embed_row(address(y), address(word), address(types), address(positions), H)
        assert same(y, word + sum(part for part in (types, positions) if part is not None))
    a, gamma = numbers(rng, 3, H), numbers(rng, H)
    y = layernorm(kernels, a, None, gamma, None)
    assert same(y, layernorm(SCALAR, a, None, gamma, None))
    assert np.array_equal(y, layernorm(SCALAR, a, None, gamma, np.zeros(H, np.float32)))


@each_isa
@pytest.mark.parametrize("k", [1, 3, 15, 16, 17, 32, 40, 64])
def test_rows_become_columns_and_zeros(kernels, k):
    half, nr = kernels.nr // 2, kernels.nr
    for count in (1, 2, half - 1, half, half + 1, nr - 1, nr):
        source = numbers(np.random.default_rng(count), count, k + 3)
        for columns in {nr, half if count <= half else nr}:
            panel, rows = Guarded(np.full((k, nr), np.nan, np.float32)), Guarded(source)
            kernels.pack_rows(panel.address, rows.address, k + 3, count, columns, k)
            expected = np.zeros((k, columns), np.float32)
            expected[:, :count] = source[:, :k].T
            assert same(panel.array[:, :columns], expected), (count, columns)


def gated(kernels, name, x, gate):
    y, (rows, cols) = np.full_like(x, np.nan), x.shape
    strides = (address(x), cols, address(gate), cols, ACTIVATIONS.index(name), rows, cols)
    kernels.gated_activation(address(y), cols, *strides)
    return y


@each_isa
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_gated_activation_is_the_activation_times_the_gate(kernels, name):
    rng = np.random.default_rng(1)
    for width in WIDTHS:
        x, gate = numbers(rng, 3, width) * 3, numbers(rng, 3, width)
        y = gated(kernels, name, x, gate)
        assert same(y, gated(SCALAR, name, x, gate))
        assert same(y, activate(SCALAR, name, x) * gate)


def rotated(kernels, x, cosine, sine, d):
    y = x.copy()
    kernels.rotate(address(y), address(cosine), address(sine), x.size // d, d, len(sine))
    return y


@each_isa
@pytest.mark.parametrize("half", WIDTHS)
def test_rotations_and_sums_equal_their_twins(kernels, half):
    rng = np.random.default_rng(half)
    for d in (2 * half, 2 * half + 3):  # a head may have values that do not turn
        x, angles = numbers(rng, 4, d), rng.uniform(0, 6, half)
        cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        y = rotated(kernels, x, cosine, sine, d)
        assert same(y, rotated(SCALAR, x, cosine, sine, d))
        turned = (x[:, :half] + 1j * x[:, half : 2 * half]) * np.exp(1j * angles)
        np.testing.assert_allclose(y[:, :half] + 1j * y[:, half : 2 * half], turned, atol=1e-6)
        assert same(y[:, 2 * half :].copy(), x[:, 2 * half :].copy())
        a, b, total = numbers(rng, 4, d), numbers(rng, 4, d), np.full((4, d), np.nan, np.float32)
        kernels.add(address(total), d, address(a), d, address(b), d, 4, d)
        assert same(total, a + b)
        kernels.multiply(address(total), d, address(a), d, address(b), d, 4, d)
        assert same(total, a * b)


@each_isa
@pytest.mark.parametrize("keys", [1, 2, 31, 100])
def test_what_is_added_along_diagonals(kernels, keys):
    rng = np.random.default_rng(keys)
    line, scores = Guarded(numbers(rng, keys - 1 + kernels.nr)), Guarded(numbers(rng, keys, kernels.nr))
    before = scores.array.copy()
    kernels.add_diagonals(scores.address, line.address + 4 * (keys - 1), keys)
    key, query = np.indices(before.shape)
    assert same(scores.array.copy(), before + line.array[keys - 1 + query - key])


# ---- kernels that sum ----------------------------------------------------------------------------------------------


def layernorm(kernels, a, b, gamma, beta, eps=1e-5):
    y = np.full(a.shape, np.nan, np.float32)
    rows, H = a.shape
    kernels.add_layernorm(address(y), H, address(a), H, address(b), H, address(gamma), address(beta), eps, rows, H)
    return y


@each_isa
@pytest.mark.parametrize("H", WIDTHS)
def test_layernorm_equals_its_twin(kernels, H):
    rng = np.random.default_rng(H)
    a, b, gamma, beta = numbers(rng, 5, H), numbers(rng, 5, H), numbers(rng, H), numbers(rng, H)
    assert same(layernorm(kernels, a, b, gamma, beta), layernorm(SCALAR, a, b, gamma, beta))
    assert same(layernorm(kernels, a, None, gamma, beta), layernorm(SCALAR, a, None, gamma, beta))
    a[1, H // 2], a[2, 0] = np.nan, np.inf
    y = layernorm(kernels, a, b, gamma, beta)
    assert same(y, layernorm(SCALAR, a, b, gamma, beta))
    assert np.isnan(y[1:3]).all() and np.isfinite(y[[0, 3, 4]]).all()


def test_scalar_layernorm_is_accurate():
    rng = np.random.default_rng(1)
    a, b, gamma, beta = numbers(rng, 20, 384) + 3, numbers(rng, 20, 384), numbers(rng, 384), numbers(rng, 384)
    z = a.astype(np.float64) + b
    exact = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5) * gamma + beta
    np.testing.assert_allclose(layernorm(SCALAR, a, b, gamma, beta), exact, atol=2e-6, rtol=2e-6)


def softmax(kernels, scores, scale):
    """softmax down the columns of scores (T, n) by the kernel, which works on nr columns at a time."""
    T, n = scores.shape
    out = np.empty((T, n), np.float32)
    for first in range(0, n, kernels.nr):
        block = np.full((T, kernels.nr), np.nan, np.float32)
        part = scores[:, first : first + kernels.nr]
        block[:, : part.shape[1]] = part
        sums = np.full(kernels.nr, np.nan, np.float32)
        kernels.softmax_columns(address(block), address(sums), scale, T, part.shape[1])
        out[:, first : first + kernels.nr] = (block / sums)[:, : part.shape[1]]
    return out


@each_isa
def test_softmax_of_some_columns_equals_its_twin(kernels):
    scores = numbers(np.random.default_rng(3), 17, kernels.nr) * 30
    for columns in (1, kernels.nr // 2, kernels.nr // 2 + 1):
        part = np.ascontiguousarray(scores[:, :columns])
        assert same(softmax(kernels, part, 0.25), softmax(SCALAR, part, 0.25)), columns


@each_isa
@pytest.mark.parametrize("T", [1, 2, 3, 31, 256, 512])
def test_softmax_equals_its_twin(kernels, T):
    rng = np.random.default_rng(T)
    scores = numbers(rng, T, 64) * 30
    assert same(softmax(kernels, scores, 0.25), softmax(SCALAR, scores, 0.25))
    scores[T // 2, 5], scores[0, 9] = np.nan, np.inf
    y = softmax(kernels, scores, 0.25)
    assert same(y, softmax(SCALAR, scores, 0.25))
    assert np.isnan(y[:, 5]).all() and np.isnan(y[:, 9]).any() and np.isfinite(np.delete(y, [5, 9], 1)).all()


@each_isa
def test_exponentials_down_to_nothing_equal_their_twin(kernels):
    """Below exp(-87.3) they are denormal numbers, below exp(-104) zero."""
    scores = -np.linspace(0, 110, 64 * 500, dtype=np.float32).reshape(500, 64)
    scores[0] = 0
    y = softmax(kernels, scores, 1.0)
    assert same(y, softmax(SCALAR, scores, 1.0))
    assert (y == 0).any() and ((y > 0) & (y < np.finfo(np.float32).tiny)).any()


def test_scalar_softmax_is_accurate():
    scores = numbers(np.random.default_rng(2), 300, 16) * 20
    exact = np.exp(scores.astype(np.float64) * 0.125)
    np.testing.assert_allclose(softmax(SCALAR, scores, 0.125), exact / exact.sum(0), rtol=3e-5, atol=1e-9)


def pooled(kernels, h, cols):
    T, ld = h.shape
    out = np.full((3, cols), np.nan, np.float32)
    kernels.pool_sum(address(out[0]), address(h), ld, math.sqrt(T), T, cols)
    kernels.pool_weighted(address(out[1]), address(h), ld, 3, T, cols)
    kernels.pool_max(address(out[2]), address(h), ld, T, cols)
    return out


@each_isa
@pytest.mark.parametrize("H", WIDTHS)
def test_pooling_equals_its_twin(kernels, H):
    rng = np.random.default_rng(H)
    for T in (1, 2, 17):
        h = numbers(rng, T, H + 3)
        assert same(pooled(kernels, h, H), pooled(SCALAR, h, H))
        h[T - 1, 0] = np.nan
        y = pooled(kernels, h, H)
        assert same(y, pooled(SCALAR, h, H)) and np.isnan(y[:, 0]).all() and np.isfinite(y[:, 1:]).all()


def test_scalar_pooling_is_accurate():
    h = numbers(np.random.default_rng(3), 40, 33)
    weights = np.arange(3, 43)[:, None]
    exact = [h.sum(0, np.float64) / math.sqrt(40), (weights * h.astype(np.float64)).sum(0) / weights.sum(), h.max(0)]
    np.testing.assert_allclose(pooled(SCALAR, h, 33), np.array(exact), rtol=1e-5, atol=1e-6)


@each_isa
@pytest.mark.parametrize("H", WIDTHS)
def test_sum_of_squares_equals_its_twin(kernels, H):
    x = numbers(np.random.default_rng(H), H)
    value = kernels.sum_of_squares(address(x), H)
    assert value == SCALAR.sum_of_squares(address(x), H)
    assert value == pytest.approx(float((x.astype(np.float64) ** 2).sum()), rel=1e-6)


@each_isa
@pytest.mark.parametrize("H", WIDTHS)
def test_dots_equal_their_twin(kernels, H):
    rng = np.random.default_rng(H)
    x = numbers(rng, H)
    for rows in (1, 2, 3, 4, 5, 9):
        y = numbers(rng, rows, H + 2)
        results = []
        for table in (kernels, SCALAR):
            out = np.full(rows, np.nan)
            table.dots(address(out), address(x), address(y), H + 2, rows, H)
            results.append(out)
            for row in range(rows):  # the squares of a row are its products with itself
                table.dots(address(out_row := np.full(1, np.nan)), address(y[row]), address(y[row]), 0, 1, H)
                table.squares(address(own := np.full(rows, np.nan)), address(y), H + 2, rows, H)
                assert own[row] == out_row[0]
        np.testing.assert_array_equal(*results)
        np.testing.assert_allclose(results[0], y[:, :H].astype(float) @ x.astype(float), rtol=1e-12, atol=1e-13)


def softmax_row(kernels, x):
    guarded, largest = Guarded(x), Guarded(np.zeros(1, np.float32))
    total = kernels.softmax_row(guarded.address, largest.address, len(x))
    return np.array([total, largest.array[0], *guarded.array], np.float32)


@each_isa
@pytest.mark.parametrize("n", [*WIDTHS, 1000])
def test_softmax_of_a_row_equals_its_twin(kernels, n):
    rng = np.random.default_rng(n)
    x = numbers(rng, n) * 10
    assert same(softmax_row(kernels, x), softmax_row(SCALAR, x))
    exact = np.exp(x.astype(np.float64) - x.max())
    np.testing.assert_allclose(softmax_row(SCALAR, x), [exact.sum(), x.max(), *exact], rtol=2e-6, atol=1e-12)
    for value in (np.nan, np.inf):
        x[n // 2] = value
        assert same(softmax_row(kernels, x), softmax_row(SCALAR, x))
        assert np.isnan(softmax_row(kernels, x)[0])


CONSTANTS = AdamW(0.3, 0.1, 0.999, 0.001, 0.0316, 0.02, 0.99, 1e-8)


def adamw(kernels, arrays):
    """A step on copies of parameters, moments and gradients, guarded."""
    guarded = [Guarded(array) for array in arrays]
    kernels.adamw(*(array.address for array in guarded), CONSTANTS, len(arrays[0]))
    return [array.array.copy() for array in guarded]


@each_isa
@pytest.mark.parametrize("n", WIDTHS)
def test_adamw_equals_its_twin(kernels, n):
    rng = np.random.default_rng(n)
    arrays = [numbers(rng, n), numbers(rng, n), numbers(rng, n) ** 2, numbers(rng, n)]
    arrays[1][0] = arrays[2][0] = arrays[3][0] = 0  # what no token has touched yet
    for vector, twin in zip(adamw(kernels, arrays), adamw(SCALAR, arrays), strict=True):
        assert same(vector, twin)
    arrays[3][n // 2] = np.nan
    for vector, twin in zip(adamw(kernels, arrays), adamw(SCALAR, arrays), strict=True):
        assert same(vector, twin)


@each_isa
@pytest.mark.parametrize("width", [1, 7, 8, 9, 16, 48, 100])
def test_hamming_equals_its_twin(kernels, width):
    rng = np.random.default_rng(width)
    x, y = Guarded(rng.integers(0, 256, width, np.uint8)), Guarded(rng.integers(0, 256, (5, width), np.uint8))
    expected = np.unpackbits(x.array ^ y.array, axis=1).sum(axis=1)
    for table in (kernels, SCALAR):
        table.hamming(address(out := np.full(5, -1, np.int32)), x.address, y.address, width, 5, width)
        np.testing.assert_array_equal(out, expected)


def screened(kernels, scores, limit, slack, rows):
    """(row, column) of what the kernel lets through, over panels of its own width."""
    found = set()
    for first in range(0, scores.shape[1], kernels.nr):
        part = [np.ascontiguousarray(x[..., first : first + kernels.nr]) for x in (scores, limit, slack)]
        hits = np.full(part[0].size, -1, np.int32)
        count = kernels.screen(address(hits), *map(address, part), address(rows), len(scores))
        assert (np.diff(hits[:count]) > 0).all() and (hits[count:] == -1).all()
        found |= {(hit // kernels.nr, first + hit % kernels.nr) for hit in hits[:count].tolist()}
    return found


@each_isa
@pytest.mark.parametrize("n", [1, 2, 7, 32])
def test_screening_equals_its_twin(kernels, n):
    rng = np.random.default_rng(n)
    for spread in (1, 0.1, 1e-6):
        limit, slack, rows = numbers(rng, 64) * 0.1, abs(numbers(rng, 64)), numbers(rng, n, 3)
        limit[3], limit[40] = 1e30, -1e30
        bounds = limit * rows[:, :1] + (rows[:, 1:2] - slack * rows[:, 2:])
        scores = bounds + numbers(rng, n, 64) * np.float32(spread)
        equal = rng.random((n, 64)) < 0.3
        scores[equal] = bounds[equal]
        found = screened(kernels, scores, limit, slack, rows)
        assert found == screened(SCALAR, scores, limit, slack, rows)
        assert found == set(zip(*np.nonzero(scores > bounds), strict=True))


# ---- no kernel reads or writes beyond its operands -----------------------------------------------------------------


each_side = pytest.mark.parametrize("in_front", [False, True], ids=["behind", "in front"])


@each_isa
@each_side
def test_gemm_stays_inside_guard_pages(kernels, in_front):
    guarded = partial(Guarded, in_front=in_front)
    rng = np.random.default_rng(4)
    for m in (1, 5, 14, 15):
        for n in (1, 15, 16, 31, 32, 33, 48, kernels.nr // 2):
            for k in (1, 3, 32, 257):
                x, weight, bias = numbers(rng, m, k), numbers(rng, n, k), numbers(rng, n)
                panels = kernels.pack_weight(weight)
                gx, gp, gb, gc = guarded(x), guarded(panels), guarded(bias), guarded(np.zeros((m, n), np.float32))
                b = PanelB(gp.address, k * kernels.nr, kernels.nr)
                kernels.gemm(gc.address, n, PanelA(gx.address, k, 0), b, gb.address, m, n, k)
                assert same(gc.array.copy(), SCALAR.linear(x, weight, bias))


@each_isa
@each_side
@pytest.mark.parametrize("H", WIDTHS)
def test_row_kernels_stay_inside_guard_pages(kernels, H, in_front):
    guarded = partial(Guarded, in_front=in_front)
    rng = np.random.default_rng(H)
    for rows in (4, 3):  # four at a time, or each alone
        a, b, gamma, beta = (guarded(numbers(rng, *shape)) for shape in ((rows, H), (rows, H), (H,), (H,)))
        y = guarded(np.zeros((rows, H), np.float32))
        norm = (gamma.address, beta.address, 1e-5, rows, H)
        kernels.add_layernorm(y.address, H, a.address, H, b.address, H, *norm)
    kernels.embed_row(y.address + 8 * H, a.address + 8 * H, b.address + 8 * H, gamma.address, H)
    kernels.divide_rows(y.address, H, a.address, 3, H)
    kernels.add(y.address, H, a.address, H, b.address, H, 3, H)
    kernels.multiply(y.address, H, a.address, H, b.address, H, 3, H)
    turning = guarded(numbers(rng, 3, 2 * H))
    kernels.rotate(turning.address, gamma.address, beta.address, 3, 2 * H, H)
    for activation in range(len(ACTIVATIONS)):
        kernels.activation(y.address, H, a.address, H, activation, 3, H)
        kernels.gated_activation(y.address, H, a.address, H, b.address, H, activation, 3, H)
    kernels.sum_of_squares(gamma.address, H)
    for out in (gamma, beta):
        kernels.pool_sum(out.address, a.address, H, 3.0, 3, H)
        kernels.pool_weighted(out.address, a.address, H, 1, 3, H)
        kernels.pool_max(out.address, a.address, H, 3, H)
    for rows in (1, kernels.nr - 1):
        source, panel = guarded(numbers(rng, rows, H)), guarded(np.zeros((H, kernels.nr), np.float32))
        kernels.pack(panel.address, kernels.nr - rows, source.address, H, rows, H)
        for columns in {kernels.nr, kernels.nr // 2 if rows <= kernels.nr // 2 else kernels.nr}:
            kernels.pack_rows(panel.address, source.address, H, rows, columns, H)
    products, y = guarded(np.zeros(5)), guarded(numbers(rng, 5, H))
    kernels.dots(products.address, gamma.address, y.address, H, 5, H)
    kernels.squares(products.address, y.address, H, 5, H)
    scores, sums = guarded(numbers(rng, H, kernels.nr)), guarded(np.zeros(kernels.nr, np.float32))
    for columns in (1, kernels.nr // 2, kernels.nr // 2 + 1, kernels.nr):
        kernels.softmax_columns(scores.address, sums.address, 0.5, H, columns)
    hits, rows = guarded(np.zeros(H * kernels.nr, np.int32)), guarded(np.full((H, 3), [1, 0, 1], np.float32))
    limit = guarded(np.full(kernels.nr, -np.inf, np.float32))
    assert kernels.screen(hits.address, scores.address, limit.address, sums.address, rows.address, H) == H * kernels.nr
