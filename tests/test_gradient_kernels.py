"""The kernels of the backward pass against their scalar twins, bit for bit, over edge sizes and up to guard pages.
What the twins compute is held against float64 in test_gradients.py."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sentpool._kernels", reason="build with SENTPOOL_KERNELS=1")
from kernel_table import ACTIVATIONS, DIFFERENTIABLE, Guarded, Kernels, PanelA, PanelB, address, same  # noqa: E402
from test_kernels import COLUMNS, DEPTHS, SCALAR, WIDTHS, contract, each_isa, numbers, special_values  # noqa: E402

pytestmark = pytest.mark.kernels


def guarded(rng, *shape):
    return Guarded(numbers(rng, *shape))


def gemm_add(kernels: Kernels, c, a, b, bias, by_column):
    """c + a @ b (+ bias) by panels of b; a is given as stored."""
    panels = kernels.pack_weight(np.ascontiguousarray(b.T))
    out, x, packed = Guarded(c), Guarded(a), Guarded(panels)
    left, right = PanelA(x.address, a.shape[1], by_column), PanelB(packed.address, len(b) * kernels.nr, kernels.nr)
    kernels.gemm_add(out.address, c.shape[1], left, right, address(bias), *c.shape, len(b))
    return out.array.copy()


@each_isa
@pytest.mark.parametrize("k", DEPTHS[1:])
def test_gemm_add(kernels, k):
    rng = np.random.default_rng(k)
    for m in (1, 5, 14, 15, 29):
        for n in (*COLUMNS, kernels.nr // 2):
            c, a, b = numbers(rng, m, n), numbers(rng, m, k), numbers(rng, k, n)
            for bias in (None, numbers(rng, n)):
                expected = gemm_add(SCALAR, c, a, b, bias, 0)
                assert same(gemm_add(kernels, c, a, b, bias, 0), expected), (m, n)
                assert same(gemm_add(kernels, c, np.ascontiguousarray(a.T), b, bias, 1), expected), (m, n)


@pytest.mark.parametrize("k", DEPTHS[1:])
def test_scalar_gemm_add_keeps_the_contract(k):
    """Every block of 256 is added with one rounding, the bias with another."""
    rng = np.random.default_rng(k)
    c, a, b = numbers(rng, 3, 17), numbers(rng, 3, k), numbers(rng, k, 17)
    expected = c
    for start in range(0, k, 256):
        block = slice(start, start + 256)
        expected = expected + contract(a[:, block], np.ascontiguousarray(b[block].T), None)
    assert same(gemm_add(SCALAR, c, a, b, None, 0), expected)
    bias = numbers(rng, 17)
    assert same(gemm_add(SCALAR, c, a, b, bias, 0), expected + bias)


def activation_backward(kernels, name, dy, x):
    dx, y = Guarded(np.zeros_like(x)), Guarded(np.zeros_like(x))
    dy, x = Guarded(dy), Guarded(x)
    rows, cols = x.array.shape
    pairs = [value for array in (dx, y, dy, x) for value in (array.address, cols)]
    kernels.activation_backward(*pairs, ACTIVATIONS.index(name), rows, cols)
    return dx.array.copy(), y.array.copy()


@each_isa
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_activation_backward(kernels, name):
    rng = np.random.default_rng(0)
    x = special_values()[None]
    cases = [(numbers(rng, *x.shape), x), *((numbers(rng, 3, width), numbers(rng, 3, width)) for width in WIDTHS)]
    for dy, x in cases:
        dx, y = activation_backward(kernels, name, dy, x)
        expected_dx, expected_y = activation_backward(SCALAR, name, dy, x)
        assert same(dx, expected_dx) and same(y, expected_y), x.shape
        forward, inputs, width = Guarded(np.zeros_like(x)), Guarded(x), x.shape[1]
        kernels.activation(forward.address, width, inputs.address, width, ACTIVATIONS.index(name), *x.shape)
        assert same(y, forward.array.copy()), "not the bits of the forward pass"


def layernorm_backward(kernels, dy, a, b, gamma, in_place):
    rows, H = a.shape
    dz, normed = (Guarded(np.zeros_like(a)) for _ in range(2))
    dy, a, b, gamma = Guarded(dy), Guarded(a), b if b is None else Guarded(b), Guarded(gamma)
    out = dy if in_place else dz
    kernels.layernorm_backward(
        out.address, H, normed.address, H, dy.address, H, a.address, H, b and b.address, H, gamma.address, 1e-5, rows, H
    )
    return out.array.copy(), normed.array.copy()


@each_isa
@pytest.mark.parametrize("H", WIDTHS)
@pytest.mark.parametrize("in_place", [False, True])
def test_layernorm_backward(kernels, H, in_place):
    rng = np.random.default_rng(H)
    dy, a, b, gamma = numbers(rng, 5, H), numbers(rng, 5, H), numbers(rng, 5, H), numbers(rng, H)
    for other in (b, None):
        found, expected = (layernorm_backward(table, dy, a, other, gamma, in_place) for table in (kernels, SCALAR))
        assert same(found[0], expected[0]) and same(found[1], expected[1])
    a[1, H // 2] = np.nan
    dz, _ = layernorm_backward(kernels, dy, a, b, gamma, in_place)
    assert np.isnan(dz[1]).all() and np.isfinite(np.delete(dz, 1, 0)).all()


def softmax_backward(kernels, scores, dweights, scale):
    """Weights and dscores (T, n), computed nr columns at a time."""
    T, n = scores.shape
    found = np.empty((2, T, n), np.float32)
    for first in range(0, n, kernels.nr):
        part = slice(first, first + kernels.nr)
        blocks = [Guarded(np.ascontiguousarray(x[:, part])) for x in (scores, dweights, scores)]
        weights, gradient, dscores = blocks
        sums = Guarded(np.zeros(kernels.nr, np.float32))
        kernels.softmax_columns(weights.address, sums.address, scale, T, kernels.nr)
        kernels.softmax_columns_backward(
            dscores.address, kernels.nr, weights.address, sums.address, gradient.address, scale, T
        )
        found[0][:, part], found[1][:, part] = weights.array, dscores.array
    return found


@each_isa
@pytest.mark.parametrize("T", [1, 2, 3, 31, 300])
def test_softmax_backward(kernels, T):
    rng = np.random.default_rng(T)
    scores, dweights = numbers(rng, T, 64) * 5, numbers(rng, T, 64)
    assert same(softmax_backward(kernels, scores, dweights, 0.25), softmax_backward(SCALAR, scores, dweights, 0.25))


def pooled_backward(kernels, dh, dy, h):
    T, H = h.shape
    found = []
    gradient, states = Guarded(dy), Guarded(h)
    for pooling, *arguments in (("sum", 3.5), ("weighted", 2), ("max", states.address, H)):
        out = Guarded(dh)
        getattr(kernels, f"pool_{pooling}_backward")(out.address, H, gradient.address, *arguments, T, H)
        found.append(out.array.copy())
    return np.array(found)


@each_isa
@pytest.mark.parametrize("H", WIDTHS)
def test_pooling_backward(kernels, H):
    rng = np.random.default_rng(H)
    for T in (1, 2, 17):
        dh, dy, h = numbers(rng, T, H), numbers(rng, H), numbers(rng, T, H)
        h[T // 2] = h[0]  # the first of equals
        assert same(pooled_backward(kernels, dh, dy, h), pooled_backward(SCALAR, dh, dy, h))
        h[T - 1, 0] = np.nan
        found = pooled_backward(kernels, dh, dy, h)
        assert same(found, pooled_backward(SCALAR, dh, dy, h))
        assert found[2][T - 1, 0] == dh[T - 1, 0] + dy[0], "the largest is NaN, as the forward pass has it"


@each_isa
def test_transpose(kernels):
    rng = np.random.default_rng(0)
    for n in WIDTHS:
        for m in (1, 3, 4, 5, 8, 17):
            x, y, twin = guarded(rng, n, m), guarded(rng, m, n), np.empty((m, n), np.float32)
            kernels.transpose(y.address, n, x.address, m, n, m)
            SCALAR.transpose(twin.ctypes.data, n, x.address, m, n, m)
            assert same(y.array.copy(), x.array.T.copy()) and same(twin, x.array.T.copy())


@each_isa
@pytest.mark.parametrize("cols", [*WIDTHS, 63, 64, 65, 131])
def test_sums_of_columns(kernels, cols):
    rng = np.random.default_rng(cols)
    for T in (1, 2, 17, 256):
        x, z, y = guarded(rng, T, cols), guarded(rng, T, cols), numbers(rng, cols)
        results = []
        for table in (kernels, SCALAR):
            plain, products = Guarded(y), Guarded(y)
            table.columns_add(plain.address, x.address, cols, None, 0, T, cols)
            table.columns_add(products.address, x.address, cols, z.address, cols, T, cols)
            results.append((plain.array.copy(), products.array.copy()))
        assert same(results[0][0], results[1][0]) and same(results[0][1], results[1][1])
