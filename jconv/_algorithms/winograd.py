"""`winograd2` and `winograd4`: windows of 3 by fewer products, two or four outputs at a time.

Toom and Cook multiply two polynomials of m and k coefficients by evaluating them at n = m + k - 1 points, multiplying
there, and interpolating: s = V_n^-1 [(V_k b) . (V_m a)], where row j of V_r holds the powers 0..r-1 of point j, and
that of the point at infinity the last power alone. Read as a trilinear form in s, a and b and solved for a instead:

    y = V_m^T [(V_k b) . (V_n^-T d)],     y[o] = sum_t d[o + t] b[t],   o < m,

m outputs of a filter of k taps by n products instead of m k (Winograd). With B^T = V_n^-T, G = V_k, A^T = V_m^T (rows
of B^T scaled to whole numbers, those of G by the inverse) and one such transform for each axis, T over tiles is

    T(x, k, y) = sum over tiles b and points j of  <B^T x>[j, b, i]  <G k>[j, i, c]  <A y>[j, b, c],

so forward is A^T of one matrix product a point, the kernel's gradient is G^T of another, and the input's gradient is
the forward pass of the exchanged geometry (`exchanged` in `base`). Tiles of 4 take 1/4 of the products of a 3x3 window,
tiles of 2 take 4/9; the error grows with the size of the points (docs/algorithms.md has it measured), so `precision`
HIGH and HIGHEST exclude both. A NaN or an Inf reaches every output of the tiles that it enters.

    Sources: Winograd, Arithmetic complexity of computations, 1980; Lavin and Gray, "Fast algorithms for convolutional
    neural networks", 2015, arXiv:1509.09308.
"""

from __future__ import annotations

import functools
import math
import operator
from fractions import Fraction

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from .._forecast.work import Copy, Launch, Loop, Product, Work
from .._spec import ConvSpec
from .base import (
    Algorithm,
    Call,
    block_bytes,
    divisor,
    einsum,
    exchanged,
    map_blocks,
    pad,
    sum_blocks,
)

POINTS = (0, 1, -1, 2, -2)
BLOCK = 20 << 20  # bytes of transformed tiles at a time on a CPU


@functools.cache
def transforms(m: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T [n, n], G [n, k] and A^T [m, n], in float64."""
    n = m + k - 1
    points = [Fraction(p) for p in POINTS[: n - 1]]

    def powers(r):
        return [[p**j for j in range(r)] for p in points] + [[Fraction(int(j == r - 1)) for j in range(r)]]

    # Rows of V_n^-T: the coefficients of the Lagrange polynomials of the finite points, and of the one that vanishes
    # at all of them; the value at infinity is taken out of the former.
    vanishing = _product([[-p, Fraction(1)] for p in points])
    rows = []
    for p in points:
        others = [q for q in points if q != p]
        scale = math.prod((p - q for q in others), start=Fraction(1))
        rows.append([c / scale for c in _product([[-q, Fraction(1)] for q in others])] + [Fraction(0)])
    rows.append(vanishing)
    g = powers(k)
    for j, row in enumerate(rows):
        f = math.lcm(*(c.denominator for c in row))
        rows[j] = [c * f for c in row]
        g[j] = [c / f for c in g[j]]

    def as_array(rows):
        return np.array([[float(c) for c in row] for row in rows])

    return as_array(rows), as_array(g), as_array(powers(m)).T


def _product(factors: list[list[Fraction]]) -> list[Fraction]:
    out = [Fraction(1)]
    for factor in factors:
        new = [Fraction(0)] * (len(out) + len(factor) - 1)
        for i, a in enumerate(out):
            for j, b in enumerate(factor):
                new[i + j] += a * b
        out = new
    return out


def _combine(matrix: np.ndarray, parts: list[jax.Array]) -> list[jax.Array]:
    """The rows of ``matrix @ parts``, written as additions where an entry is 1 or -1."""
    out = []
    for row in matrix:
        total = None
        for c, part in zip(row, parts, strict=True):
            if c == 0:
                continue
            if total is None:
                total = part if c == 1 else part * np.asarray(c, part.dtype)
            elif abs(c) == 1:
                total = total + part if c > 0 else total - part
            else:
                total = total + part * np.asarray(c, part.dtype)
        assert total is not None
        out.append(total)
    return out


def _axes(spec: ConvSpec) -> list[int]:
    """Spatial axes with a window to transform."""
    return [i for i, k in enumerate(spec.window) if k > 1]


def _points(
    a: jax.Array, axes: list[int], matrix: np.ndarray, step: int, counts: list[int], brief: bool = False
) -> jax.Array:
    """`matrix` applied to the tiles of each axis: [b, *spatial, c] to [points, b * tiles, c].

    Tile j of an axis starts at j * step and has as many elements as `matrix` has columns. The last axis goes first, so
    that the points of the first are the outermost; what lies before and after an axis is taken as one axis each, which
    takes XLA less time to compile. `brief` takes it a quarter less still, and 5 % longer to run: along the first axis
    the points are one sum with factors, instead of a sum of its own for each.
    """
    n, shape = matrix.shape[1], list(a.shape)
    for axis, count in reversed(list(zip(axes, counts, strict=True))):
        a = a.reshape(-1, shape[1 + axis], math.prod(shape[2 + axis :]))
        parts = [lax.slice_in_dim(a, i, i + step * (count - 1) + 1, step, axis=1) for i in range(n)]
        if brief and axis == axes[0]:
            factors = jnp.asarray(matrix[..., None, None, None], a.dtype)
            a = functools.reduce(operator.add, (factors[:, i] * part[None] for i, part in enumerate(parts)))
        else:
            a = jnp.stack(_combine(matrix, parts))
        shape[1 + axis] = count
    return a.reshape(len(matrix) ** len(axes), -1, shape[-1])


def _geometry(spec: ConvSpec, m: int):
    axes = _axes(spec)
    return axes, [-(-spec.axes[i].o // m) for i in axes]


def _tiles_of_image(x, spec: ConvSpec, m: int, bt: np.ndarray, brief: bool = False):
    axes, counts = _geometry(spec, m)
    ends = []
    for i, axis in enumerate(spec.axes):
        length = m * counts[axes.index(i)] + bt.shape[0] - m if i in axes else axis.o
        ends.append((axis.lo, length - axis.lo - axis.n))
    return _points(pad(x, 1, *ends), axes, bt, m, counts, brief)


def _each_axis(matrix: np.ndarray, axes: list[int], a: jax.Array) -> jax.Array:
    """`matrix` along each axis of what was tiled: [points, ...] to [points', ...].

    One product with the Kronecker product of the axes' matrices, in full precision.
    """
    matrix = functools.reduce(np.kron, [matrix] * len(axes))
    out = jnp.matmul(matrix.astype(a.dtype), a.reshape(matrix.shape[1], -1), precision="highest")
    return out.reshape(-1, *a.shape[1:])


def _kernel_points(kernel, spec: ConvSpec, g: np.ndarray):
    """G along each axis: [*window, i, c] to [points, i, c]."""
    return _each_axis(g, _axes(spec), kernel.reshape(-1, *kernel.shape[-2:]))


def _untiled(a: jax.Array, axes: list[int], m: int, spatial: list[int]) -> jax.Array:
    """Tiles of m along each axis, put together: [points, b * tiles, c] to [b, *spatial, c]."""
    order, counts = [len(axes)], []
    for i, size in enumerate(spatial):
        order.append(len(axes) + 1 + i)
        if i in axes:
            order.append(axes.index(i))
        counts.append(size // m if i in axes else size)
    images = a.shape[1] // math.prod(counts)
    a = a.reshape(*[m] * len(axes), images, *counts, a.shape[-1])
    return a.transpose(*order, a.ndim - 1).reshape(images, *spatial, a.shape[-1])


def _blocked(call: Call, m: int) -> int:
    """Images at a time, 0 for all of a symbolic batch."""
    batch = call.spec.batch_shape[0]
    return divisor(batch, max(1, block_bytes(call, BLOCK) / _tile_bytes(call, m))) if isinstance(batch, int) else 0


def _tile_bytes(call: Call, m: int) -> int:
    """Transformed tiles of one image and one output together."""
    spec = call.spec
    axes, counts = _geometry(spec, m)
    tiles = math.prod(counts) * math.prod(a.o for i, a in enumerate(spec.axes) if i not in axes)
    return tiles * (m + 2) ** len(axes) * (spec.in_features + spec.out_features) * call.accumulator.itemsize


def forward(x, kernel, call: Call, m: int):
    _, g, _ = transforms(m, 3)
    points = _kernel_points(kernel.astype(call.accumulator), call.spec, g)
    return _pass(x, points, "jbi,jic->jbc", call, m)


def input_grad(g, kernel, call: Call, m: int):
    """The forward pass of the exchanged geometry: taps in reverse, which reverses G's columns, and channels swapped."""
    _, matrix, _ = transforms(m, 3)
    points = _kernel_points(kernel.astype(call.accumulator), call.spec, matrix[:, ::-1])
    return _pass(g, points, "jbc,jic->jbi", call._replace(spec=exchanged(call.spec).spec), m)


def _pass(x, points, subscripts: str, call: Call, m: int):
    """The forward pass of `call.spec` for a kernel that is transformed already."""
    spec = call.spec
    bt, _, at = transforms(m, 3)
    axes, counts = _geometry(spec, m)
    space = [m * counts[axes.index(i)] if i in axes else axis.o for i, axis in enumerate(spec.axes)]

    def block(x):
        v = _tiles_of_image(x.astype(call.accumulator), spec, m, bt)
        out = _each_axis(at, axes, einsum(subscripts, v, points, call))
        return _untiled(out, axes, m, space)[(slice(None), *(slice(0, axis.o) for axis in spec.axes))]

    return map_blocks(block, x, _blocked(call, m))


def kernel_grad(x, g, call: Call, m: int):
    spec = call.spec
    bt, gm, at = transforms(m, 3)
    axes, counts = _geometry(spec, m)
    dtype = call.accumulator

    def block(x, y):
        x, y = x.astype(dtype), y.astype(dtype)
        v = _tiles_of_image(x, spec, m, bt, brief=True)  # two images are transformed here
        tiles = dict(zip(axes, counts, strict=True))
        ends = [(0, m * tiles[i] - axis.o if i in tiles else 0) for i, axis in enumerate(spec.axes)]
        u = _points(pad(y, 1, *ends), axes, at.T, m, counts, brief=True)
        if v.shape[-1] >= u.shape[-1]:  # the operand of fewer channels first
            return jnp.swapaxes(einsum("jbc,jbi->jci", u, v, call), 1, 2)
        return einsum("jbi,jbc->jic", v, u, call)

    shape = (len(bt) ** len(axes), spec.in_features, spec.out_features)
    out = sum_blocks(block, x, g, _blocked(call, m), jax.ShapeDtypeStruct(shape, dtype))
    return _each_axis(gm.T, axes, out).reshape(spec.kernel_shape)


def supports(call: Call) -> str | None:
    spec = call.spec
    if not jnp.issubdtype(call.dtype, jnp.floating):
        return f"winograd divides by whole numbers, so it takes real floats, not {call.dtype}"
    if spec.feature_group_count > 1:
        return "winograd sums over the channels of one group"
    if not _axes(spec) or any(axis.k not in (1, 3) for axis in spec.axes):
        return f"winograd takes windows of 3 (or 1), here {spec.window}"
    if len(_axes(spec)) > 2:
        return "winograd transforms up to 2 axes; along more, what is placed in tiles outgrows what products are saved"
    if any(axis.s > 1 or axis.q > 1 or axis.d > 1 for axis in spec.axes):
        return "winograd takes stride 1 and no dilation"
    return None


def work(call: Call, m: int) -> Work:
    spec = call.spec
    if supports(call):
        return Work()
    axes, counts = _geometry(spec, m)
    batch = math.prod(spec.batch_shape)
    n, item = (m + 2) ** len(axes), call.accumulator.itemsize
    tiles = math.prod(counts) * math.prod(a.o for i, a in enumerate(spec.axes) if i not in axes)
    images = max(1, _blocked(call, m))
    blocks = -(-batch // images)
    rows = tiles * images
    if call.role == "kernel_grad":
        product = Product(spec.in_features, rows, spec.out_features, blocks * n, "long batched")
    else:
        depth, columns = (spec.in_features, spec.out_features)[:: -1 if call.role == "input_grad" else 1]
        product = Product(rows, depth, columns, blocks * n, "batched")
    transformed = tiles * n * batch * (spec.in_features + spec.out_features)
    kernel = n * spec.in_features * spec.out_features
    return Work(
        (
            product,
            Loop((m + 2) / 2 * transformed, spec.in_features, "winograd"),
            Copy(item * transformed, kind="winograd"),
            Copy(item * kernel, kind="winograd kernel"),
            Launch(blocks, "winograd"),
        ),
        workspace=int(1.1 * images * _tile_bytes(call, m) + item * kernel * (1.5 if call.role == "kernel_grad" else 1)),
    )


def _algorithm(m: int) -> Algorithm:
    return Algorithm(
        f"winograd{m}",
        functools.partial(forward, m=m),
        functools.partial(input_grad, m=m),
        functools.partial(kernel_grad, m=m),
        supports,
        functools.partial(work, m=m),
        exact=False,
        local=False,
        description=f"windows of 3 by fewer products, {m} outputs along each axis at a time (Winograd's F({m}, 3)).",
    )


ALGORITHMS = (_algorithm(2), _algorithm(4))
