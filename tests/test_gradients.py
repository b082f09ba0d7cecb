"""The gradient of every operation: float64 twins against central differences, the core against the twins."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

pytest.importorskip("sentpool._kernels", reason="build with SENTPOOL_KERNELS=1")
import numpy_dropout  # noqa: E402
import numpy_gradients as twin  # noqa: E402
from kernel_table import DIFFERENTIABLE  # noqa: E402
from op_table import (  # noqa: E402
    POOLINGS,
    Chunk,
    Dropout,
    Groups,
    LayerKind,
    Matrix,
    PoolRequest,
    Positions,
    RelativeGradient,
    call,
    ld,
    rows,
)
from test_gradient_kernels import SCALAR, activation_backward  # noqa: E402

pytestmark = pytest.mark.training

# Edges of vectors, panels, tiles and blocks of 256 first, then what a generator draws.
WIDTHS = (1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 83, 84, 85, 300)
LENGTHS = (1, 2, 3, 13, 14, 15, 16, 17, 31, 32, 33, 255, 256, 257, 300, 520)


def shapes(*choices, count=50, seed=0):
    """`count` tuples of sizes, one out of each of `choices`."""
    rng = np.random.default_rng(seed)
    return [tuple(int(rng.choice(sizes)) for sizes in choices) for _ in range(count)]


def close(found, exact, tolerance=1e-4):
    """Within `tolerance` of the largest entry."""
    error, largest = np.abs(found - exact).max(), np.abs(exact).max()
    return error <= tolerance * max(largest, 1e-30)


def random(rng, *shape):
    return rng.standard_normal(shape)


def float32(*arrays):
    return [array.astype(np.float32) for array in arrays]


def group_cuts(lengths):
    """Cuts of the rows of consecutive sequences: up to 256 rows of whole sequences; a longer one is cut every 256."""
    cuts, row = [0], 0
    for T in lengths:
        if row > cuts[-1] and row + T - cuts[-1] > 256:
            cuts.append(row)
        if T > 256:
            cuts += range(row + 256, row + T, 256)
            cuts.append(row + T)
        row += T
    return np.array(cuts if cuts[-1] == row else [*cuts, row])


def groups_of(cuts):
    return Groups(len(cuts) - 1, cuts.ctypes.data)


def backward_weight(dweight, dbias, dy, x, cuts):
    scratch = np.full(call("linear_backward_scratch"), np.nan, np.float32)
    call("linear_backward_weight", dweight, dbias, dy, ld(dy), x, ld(x), groups_of(cuts), scratch)


# ---- the twins against central differences -------------------------------------------------------------------------


def agree(f, backward, arrays, *fixed):
    """Check gradients by `arrays` against central differences, within 1e-6 of the largest entry."""
    dy = random(np.random.default_rng(9), *f(*arrays, *fixed).shape)
    for found, exact in zip(
        backward(dy, *arrays, *fixed), twin.central_differences(lambda *a: f(*a, *fixed), arrays, dy), strict=True
    ):
        assert np.abs(found - exact).max() < 1e-6 * max(1, np.abs(exact).max())


def test_twin_of_linear():
    rng = np.random.default_rng(0)
    agree(twin.linear, twin.linear_backward, [random(rng, 5, 4), random(rng, 3, 4), random(rng, 3)])


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_twin_of_activation(name):
    x = np.linspace(-4, 4, 40)
    agree(lambda x: twin.activation(name, x), lambda dy, x: [dy * twin.activation_slope(name, x)], [x])


def test_twin_of_layernorm():
    rng = np.random.default_rng(1)
    agree(twin.layernorm, twin.layernorm_backward, [random(rng, 4, 7), random(rng, 7), random(rng, 7)], 1e-5)


@pytest.mark.parametrize("p", [0, 0.3])
def test_twin_of_attention(p):
    rng = np.random.default_rng(2)
    kept = (rng.random((6, 6)) >= p) / (1 - p)
    agree(twin.attention, twin.attention_backward, [random(rng, 6, 3) for _ in range(3)], kept, random(rng, 6, 6))


@pytest.mark.parametrize("name", POOLINGS)
def test_twin_of_pooling(name):
    h = random(np.random.default_rng(3), 5, 4)
    agree(lambda h: twin.pool(name, h), lambda dy, h: [twin.pool_backward(name, dy, h)], [h])


# ---- the core against the twins ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_activation_backward(name):
    rng = np.random.default_rng(0)
    for T, F in shapes((1, 2, 5), WIDTHS):
        dy, x = float32(random(rng, T, F), random(rng, T, F) * 3)
        dx, y = activation_backward(SCALAR, name, dy, x)
        assert close(dx, dy * twin.activation_slope(name, x.astype(float))), (T, F)
        assert close(y, twin.activation(name, x.astype(float))), (T, F)


def test_linear_backward():
    rng = np.random.default_rng(1)
    for T, out, width in shapes(LENGTHS, WIDTHS, WIDTHS):
        dy, x, weight = float32(random(rng, T, out), random(rng, T, width), random(rng, out, width))
        before = float32(random(rng, out, width), random(rng, out))
        dweight, dbias = before[0].copy(), before[1].copy()
        given, inputs, dx = rows(dy), rows(x), rows(np.zeros_like(x))
        panels = np.full((width + 32) * out, np.nan, np.float32)
        transposed = Matrix(panels.ctypes.data, width, out)
        call("linear_transpose", transposed, weight)
        call("linear_backward", dx, ld(dx), given, ld(given), transposed, T)
        cuts = group_cuts([T])
        gradient = Matrix(dweight.ctypes.data, out, width)
        backward_weight(gradient, dbias, given, inputs, cuts)
        exact = twin.linear_backward(*(a.astype(float) for a in (dy, x, weight)), None)
        assert close(dx, exact[0]), (T, out, width)
        assert close(dweight, before[0] + exact[1]) and close(dbias, before[1] + exact[2]), (T, out, width)


def test_layernorm_backward():
    rng = np.random.default_rng(2)
    for T, H in shapes(LENGTHS, WIDTHS[1:]):
        dy, a, b, gamma = float32(random(rng, T, H), random(rng, T, H) + 1, random(rng, T, H), random(rng, H))
        arrays = [rows(x) for x in (dy, dy, dy, a, b)]
        dz, normed, given, left, right = arrays
        dgamma, dbeta = np.zeros(H, np.float32), np.zeros(H, np.float32)
        pairs = [part for x in arrays for part in (x, ld(x))]
        call("layernorm_backward", *pairs, gamma, 1e-5, T, H)
        cuts = group_cuts([T])
        call("layernorm_backward_weight", dgamma, dbeta, given, ld(given), normed, ld(normed), groups_of(cuts), H)
        z = a.astype(float) + b
        exact = twin.layernorm_backward(dy.astype(float), z, gamma.astype(float), None, 1e-5)
        # of two values a deviation can be as small as it likes, and what is left after its subtraction is rounding
        assert close(dz, exact[0], 1e-4 if H > 2 else 1e-2), (T, H)
        assert close(dgamma, exact[1]) and close(dbeta, exact[2]), (T, H)


def attention_backward(dcontext, qkv, lengths, heads, p, window=0):
    """dqkv by the core, of sentences that are rows 11, 12, … of step 3 in layer 2."""
    H, (inputs, given, found) = dcontext.shape[1], map(rows, (qkv, dcontext, np.zeros_like(qkv)))
    offsets = np.cumsum([0, *lengths])
    line = np.full(2 * (window + 32) + 32, -np.inf, np.float32)
    line[32 : 32 + 2 * window + 1] = 0
    positions = Positions(window=line.ctypes.data + 4 * (window + 32))
    chunk = Chunk(offsets=offsets.ctypes.data, n=len(lengths), first=4, positions=ctypes.pointer(positions))
    kind = LayerKind(hidden=H, heads=heads, window=window)
    dropout = Dropout((0, p), seed=11, step=3, first_row=7)
    scratch = np.full(call("attention_backward_scratch", max(lengths), H // heads), np.nan, np.float32)
    arrays = [part for array in (given, inputs) for part in (array, ld(array))]
    call("attention_backward", found, ld(found), RelativeGradient(), *arrays, chunk, kind, dropout, 2, scratch)
    return found


def attention_backward_twin(dcontext, qkv, lengths, heads, p, window=0):
    H, offsets = dcontext.shape[1], np.cumsum([0, *lengths])
    exact, d = np.empty(qkv.shape), H // heads
    for i, T in enumerate(lengths):
        place = {"seed": 11, "step": 3, "row": 11 + i, "layer": 2, "site": numpy_dropout.ATTENTION}
        kept = numpy_dropout.kept_probabilities(p, place, heads, T) / (1 - p)
        distance = np.abs(np.subtract.outer(np.arange(T), np.arange(T)))
        bias = np.where(distance <= window, 0, -np.inf) if window else np.zeros((T, T))
        part = slice(offsets[i], offsets[i + 1])
        for head in range(heads):
            columns = [slice((j * heads + head) * d, (j * heads + head + 1) * d) for j in range(3)]
            q, k, v = (qkv[part, c].astype(float) for c in columns)
            context = dcontext[part, columns[0]].astype(float)
            for c, gradient in zip(columns, twin.attention_backward(context, q, k, v, kept[head], bias), strict=True):
                exact[part, c] = gradient
    return exact


@pytest.mark.parametrize(("p", "window"), [(0, 0), (0.2, 0), (0.2, 6), (0, 40)])
def test_attention_backward(p, window):
    rng = np.random.default_rng(3)
    for T, other, heads, d in shapes(LENGTHS, (1, 5, 40), (1, 2, 3), (1, 8, 20, 32, 33, 64)):
        lengths, H = (other, T), heads * d
        qkv, dcontext = float32(random(rng, other + T, 3 * H), random(rng, other + T, H))
        found = attention_backward(dcontext, qkv, lengths, heads, p, window)
        exact = attention_backward_twin(dcontext, qkv, lengths, heads, p, window)
        assert all(close(*parts) for parts in zip(np.split(found, 3, 1), np.split(exact, 3, 1), strict=True)), (T, d)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_backward(name):
    rng = np.random.default_rng(4)
    for T, other, H in shapes(LENGTHS, (1, 5), WIDTHS):
        h, before, dstates = float32(random(rng, T + other, H), random(rng, T + other, H), random(rng, 2, 3, H))
        offsets, layers = np.array([0, T, T + other]), np.array([1, 5, 1])
        poolings = np.array([POOLINGS.index(name)], np.int32)
        request = PoolRequest(dstates.ctypes.data, layers.ctypes.data, 3, poolings.ctypes.data, 1, 0)
        dh, states = rows(before), rows(h)
        chunk = Chunk(offsets=offsets.ctypes.data, n=2)
        call("pool_tokens_backward", dh, ld(dh), request, chunk, 1, states, ld(states), H)
        for i in range(2):
            part = slice(offsets[i], offsets[i + 1])
            exact = twin.pool_backward(name, dstates[i, 0].astype(float) + dstates[i, 2], h[part].astype(float))
            assert close(dh[part], before[part] + exact), (T, H)


def test_dropout_takes_the_same_call_backward():
    """What was kept is multiplied by the same number, what was dropped gets no gradient."""
    y = np.ones((9, 40), np.float32)
    dropout, offsets = Dropout((0, 0, 0.4), seed=5, step=1, first_row=0), np.array([0, 9])
    call("dropout_forward", y, 40, dropout, 2, 3, Chunk(offsets=offsets.ctypes.data, n=1), 40)
    place = {"seed": 5, "step": 1, "row": 0, "layer": 3, "site": 2}
    exact = numpy_dropout.kept_states(0.4, place, 0, 9, 40) / 0.6
    assert close(y, exact, 1e-6) and 0.2 < (y == 0).mean() < 0.6


def fma(a, b, c):
    return np.float32(float(a) * float(b) + float(c)) if math.isfinite(c) else c


def test_groups_are_chains_of_their_own():
    """dW: a chain of fused multiply-adds from 0 inside a group, groups added in order with one rounding each."""
    rng = np.random.default_rng(6)
    lengths = [100, 90, 80, 300, 3, 5]
    dy, x = float32(random(rng, sum(lengths), 3), random(rng, sum(lengths), 2))
    given, inputs = rows(dy), rows(x)
    dweight, dbias = np.zeros((3, 2), np.float32), np.zeros(3, np.float32)
    cuts = group_cuts(lengths)
    assert cuts.tolist() == [0, 190, 270, 526, 570, 578]
    gradient = Matrix(dweight.ctypes.data, 3, 2)
    backward_weight(gradient, dbias, given, inputs, cuts)
    for o in range(3):
        for i in range(2):
            total = np.float32(0)
            for start, end in zip(cuts[:-1], cuts[1:], strict=True):
                chain = np.float32(0)
                for t in range(start, end):
                    chain = fma(dy[t, o], x[t, i], chain)
                total = total + chain
            assert dweight[o, i] == total
