"""The largest, the smallest or the sum of each window along one axis, as a primitive of four roles.

A window over several axes is one along each of them, one after the other: the largest element of k × l is the largest
of k among the largest of l each, and a sum likewise. So there is one primitive, along one axis of an array, with the
relation p q = o s + t d - lo between an output o, a tap t and an element p that `Axis` has:

    best    y[o] = max over t of x[p(o, t)], or the smallest
    first   t[o], the first tap at which that is; not-a-number is larger than all, and smaller
    sum     y[o] = sum over t of x[p(o, t)], or x[p(o, t[o])] alone, where taps are given
    spread  x[p] = sum over o, t of g[o] at p = p(o, t), or at p = p(o, t[o]) alone: the transpose of `sum`

The derivative of `best` is `sum` at its first taps, which do not move; `sum` and `spread` are linear and each other's
transpose. That is all that derivatives of any order need. Along several axes the last one comes first, and of equal
elements then wins the first in the order of memory: the row that wins is the first with the largest element, and within
it the first element with that. A tap that lies in the padding never wins, even against minus infinity.

`spread` gathers. With P = p q + lo = Q s + r, 0 <= r < s, and t d = r + m s, the outputs that reach P are o = Q - m, so

    x[Q, r] = sum over m of g[Q - m] [t[Q - m] d = r + m s]

is ceil(((k - 1) d + 1) / s) comparisons of whole arrays with numbers along a new axis r, and [Q, r] is [P] as it lies.

Over devices, with F and M of `_partition.blocks` and what never wins around x, the roles are

    M^T best(F x),    M^T first(F x),    M^T sum(M t, F x),    F^T spread(M t, M g).

XLA's own way to divide gradients of windows gives wrong ones where windows overlap and blocks are uneven.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax import numpy as jnp

from ._algorithms.base import accumulator, zeros
from ._cache import platform_of
from ._partition import layout, shards, spmd
from ._partition.blocks import blocks, exchanged
from ._primitive import PLATFORMS, Primitive, ad, alike, batching, devices_of, divisible, is_spread, mlir
from ._spec import Axis, ConvSpec, span

Role = Literal["best", "first", "sum", "spread"]
Monoid = Literal["max", "min", "add"]
TRANSPOSED: dict[str, Role] = {"sum": "spread", "spread": "sum"}
TAPS = 8  # the longest window that is not made of shorter ones, where it can be
LONG = 64  # from here on XLA takes seconds to compile a window tap by tap

window_p = Primitive("jconv_window")  # of x; or of x or g, after the taps if there are any
lowered_p = Primitive("jconv_window_lowered")  # what it is outside of `jax.jit`: nothing but its lowering


# Over any number of axes ----------------------------------------------------------------------------------
def best(x: jax.Array, axes: Mapping[int, Axis], monoid: Monoid = "max") -> jax.Array:
    """The largest element of each window, or the smallest."""
    for dim, axis in _stages(axes, monoid):
        x = _bind(x, role="best", monoid=monoid, dim=dim, axis=axis)
    return x


def total(x: jax.Array, axes: Mapping[int, Axis]) -> jax.Array:
    """The sum of each window, in the dtype of x."""
    for dim, axis in _stages(axes, "add"):
        x = _bind(x, role="sum", monoid="add", dim=dim, axis=axis)
    return x


def picked(x: jax.Array, dx: jax.Array, axes: Mapping[int, Axis], monoid: Monoid = "max") -> jax.Array:
    """What lies in dx where the largest element of each window of x is."""
    for taps, dim, axis in _first_taps(x, axes, monoid):
        dx = _bind(taps, dx, role="sum", monoid="add", dim=dim, axis=axis)
    return dx


def scattered(x: jax.Array, g: jax.Array, axes: Mapping[int, Axis], monoid: Monoid = "max") -> jax.Array:
    """The transpose of `picked`: g where the largest elements are, added up."""
    for taps, dim, axis in reversed(_first_taps(x, axes, monoid)):
        g = _bind(taps, g, role="spread", monoid="add", dim=dim, axis=axis)
    return g


def _stages(axes: Mapping[int, Axis], monoid: Monoid) -> list[tuple[int, Axis]]:
    """The short windows that they are made of, those of the last axis first."""
    moving = [dim for dim in sorted(axes, reverse=True) if axes[dim] != Axis(axes[dim].n, 1, 1, 0, 0, 1, 1)]
    return [(dim, axis) for dim in moving for axis in composed(axes[dim], monoid)]


def _first_taps(x: jax.Array, axes: Mapping[int, Axis], monoid: Monoid) -> list[tuple[jax.Array, int, Axis]]:
    """Where the best elements are, by the taps of each of those."""
    found = []
    for dim, axis in _stages(axes, monoid):
        options = {"monoid": monoid, "dim": dim, "axis": axis}
        found.append((_bind(x, role="first", **options), dim, axis))
        x = _bind(x, role="best", **options)
    return found


def composed(axis: Axis, monoid: Monoid) -> list[Axis]:
    """Short windows one after the other that have the best element of a long one, and its first tap; or its sum.

    A window of a b is one of a at each position, or at each a-th one where the steps allow it, and then one of b of
    those, a apart. Where k has no such factor the best is that of two overlapping windows: of equal ones the former
    wins, whose tap is the first. No short window lies outside of the image.
    """
    n, k, s, lo, hi, q, d = axis
    if k <= TAPS or q > 1 or n < d:
        return [axis]
    a = max(a for a in range(1, TAPS + 1) if math.gcd(k, s) % a == 0) if d == 1 else 1
    if a > 1:
        inner = Axis(n, a, a, lo % a, -(n + lo) % a, 1, 1)
        outer = Axis(inner.o, k // a, s // a, lo // a, 0, 1, 1)
        return [inner, *composed(_to(outer, axis.o), monoid)]
    if k <= LONG and k * axis.o <= TAPS * n:  # hardly more is read than there is
        return [axis]
    a = max(a for a in range(1, TAPS + 1) if k % a == 0) if monoid == "add" else -(-k // 2)
    if a == 1:
        return [axis]
    inner = Axis(n, a, 1, min(lo, (a - 1) * d), min(hi, (a - 1) * d), 1, d)
    taps, step = (k // a, a) if monoid == "add" else (2, k - a)
    return [*composed(inner, monoid), _to(Axis(inner.o, taps, s, lo - inner.lo, 0, 1, step * d), axis.o)]


def _to(axis: Axis, outputs: int) -> Axis:
    """The axis with the high pad that gives it so many outputs."""
    length = span(outputs, axis.s) + span(axis.k, axis.d) - 1
    return axis._replace(hi=length - axis.lo - span(axis.n, axis.q))


def _bind(*operands: jax.Array, **options: Any) -> jax.Array:
    return window_p.bind(*alike(*operands), **options)


# Computing ------------------------------------------------------------------------------------------------
def never(dtype: Any, monoid: Monoid) -> Any:
    """What does not count: zero, or what is never the best."""
    dtype = jnp.dtype(dtype)
    if monoid == "add":
        return np.zeros((), dtype)
    if dtype.kind == "b":
        return np.asarray(monoid == "min")
    if jnp.issubdtype(dtype, jnp.floating):
        return np.asarray(-np.inf if monoid == "max" else np.inf, dtype)
    return np.asarray(jnp.iinfo(dtype).min if monoid == "max" else jnp.iinfo(dtype).max, dtype)


# Every `step`-th element along an axis, so many from `start` on, of an array with q - 1 holes between any two of its
# own; `fill` where there is none.
Rows = Callable[[jax.Array, int, int, int, int, Any, int], jax.Array]


def _sliced(v: jax.Array, dim: int, start: int, count: int, step: int, fill: Any, q: int = 1) -> jax.Array:
    if q > 1:
        v = jax.lax.pad(v, jnp.asarray(fill, v.dtype), [(0, 0, (q - 1) * (i == dim)) for i in range(v.ndim)])
    n = v.shape[dim]
    first = min(count, max(0, -(start // step)))
    last = max(first, min(count, -((start - n) // step)))
    if first == last:
        first = last = 0
        v = jax.lax.slice_in_dim(v, 0, 0, axis=dim)
    else:
        at = start + first * step
        v = jax.lax.slice_in_dim(v, at, at + (last - first - 1) * step + 1, step, dim)
    if last - first == count:
        return v
    pads = [(0, 0, 0)] * v.ndim
    pads[dim] = (first, count - last, 0)
    return jax.lax.pad(v, jnp.asarray(fill, v.dtype), pads)


def _indexed(v: jax.Array, dim: int, start: int, count: int, step: int, fill: Any, q: int = 1) -> jax.Array:
    """Where XLA divides a program that is not told how: it divides slices with few elements wrongly."""
    at, rest = np.divmod(start + np.arange(count) * step, q)
    there = (rest == 0) & (at >= 0) & (at < v.shape[dim])
    taken = jnp.take(v, np.clip(at, 0, v.shape[dim] - 1), axis=dim)
    there = there.reshape([count if i == dim else 1 for i in range(v.ndim)])
    return jnp.where(there, taken, jnp.asarray(fill, v.dtype))


def _joined(dim: int, ends: list[int], rows: Rows, compute: Callable[[int, int], jax.Array]) -> jax.Array:
    """`compute(first, last)` of the parts of an axis, joined: what hangs over an end is computed apart.

    Where it is not, XLA asks for each element whether it lies in the padding, one by one.
    """
    ends = sorted({max(ends[0], min(end, ends[-1])) for end in (ends if rows is _sliced else (ends[0], ends[-1]))})
    parts = [compute(*pair) for pair in itertools.pairwise(ends)]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, dim)


def _over(
    axis: Axis, dim: int, rows: Rows, compute: Callable[[Callable[..., list[jax.Array]], int, int], jax.Array]
) -> jax.Array:
    """What `compute(taps, first, last)` makes of outputs; `taps(v, fill, dim)` are v[p(o, t)] for each t."""
    n, k, s, lo, _, q, d = axis
    inside = [-(-lo // s), (lo + span(n, q) - span(k, d)) // s + 1]  # between them windows have no padding

    def part(first: int, last: int) -> jax.Array:
        def taps(v: jax.Array, fill: Any, dim: int = dim) -> list[jax.Array]:
            return [rows(v, dim, first * s + t * d - lo, last - first, s, fill, q) for t in range(k)]

        return compute(taps, first, last)

    return _joined(dim, [0, *(inside if inside[0] < inside[1] else []), axis.o], rows, part)


def _best(x: jax.Array, dim: int, axis: Axis, rows: Rows, monoid: Monoid) -> jax.Array:
    better = jax.lax.max if monoid == "max" else jax.lax.min
    return _over(axis, dim, rows, lambda taps, *_: functools.reduce(better, taps(x, never(x.dtype, monoid))))


def _first(x: jax.Array, dim: int, axis: Axis, rows: Rows, monoid: Monoid, real: jax.Array | None) -> jax.Array:
    """`real` tells along the axis where there is an image, if that is not everywhere."""
    code, worse = code_dtype(axis), jax.lax.le if monoid == "max" else jax.lax.ge
    inside = jnp.ones(axis.n, bool) if real is None else real

    def part(taps, first, last):
        start = jnp.zeros(last - first, code)
        for t, begun in reversed(list(enumerate(taps(inside, False, 0)))):
            start = jnp.where(begun, code.type(t), start)
        best, *rest = taps(x, never(x.dtype, monoid))
        found = jnp.broadcast_to(jnp.expand_dims(start, [i for i in range(x.ndim) if i != dim]), best.shape)
        for t, here in enumerate(rest, 1):
            won = ~worse(here, best)
            if jnp.issubdtype(x.dtype, jnp.floating):
                won &= best == best  # once it is not a number, it stays
            best, found = jnp.where(won, here, best), jnp.where(won, code.type(t), found)
        return found

    return _over(axis, dim, rows, part)


def code_dtype(axis: Axis) -> np.dtype:
    """The dtype of taps."""
    return np.dtype(np.int8 if axis.k < 128 else np.int32)


def _sum(x: jax.Array, dim: int, axis: Axis, rows: Rows, chosen: jax.Array | None) -> jax.Array:
    def part(taps, first, last):
        terms = taps(x, 0)
        if chosen is not None:
            of = jax.lax.slice_in_dim(chosen, first, last, axis=dim)
            terms = [jnp.where(of == t, term, jnp.zeros((), x.dtype)) for t, term in enumerate(terms)]
        return functools.reduce(jax.lax.add, terms)

    return _over(axis, dim, rows, part)


def turns(axis: Axis) -> int:
    """How many windows, at most, have an element."""
    return (axis.k - 1) * axis.d // axis.s + 1


def _spread(g: jax.Array, dim: int, axis: Axis, rows: Rows, chosen: jax.Array | None) -> jax.Array:
    n, k, s, lo, _, q, d = axis
    begin, end = lo // s, -(-(lo + span(n, q)) // s)  # of the Q that hold an element
    count = turns(axis)
    here = np.arange(count * s).reshape(count, s)  # r + m s
    tap = np.where((here % d == 0) & (here // d < k), here // d, -2)
    zero = jnp.zeros((), g.dtype)

    def part(first: int, last: int) -> jax.Array:
        at = lambda v, m, fill: jnp.expand_dims(rows(v, dim, first - m, last - first, 1, fill, 1), dim + 1)
        terms = []
        for m in range(count):
            if (tap[m] >= 0).any() and first - m < axis.o and last - m > 0:
                of = tap[m].reshape([s if i == dim + 1 else 1 for i in range(g.ndim + 1)])
                there = of >= 0 if chosen is None else at(chosen, m, -1) == of.astype(chosen.dtype)
                terms.append(jnp.where(there, at(g, m, 0), zero))
        if not terms:
            return zeros((*g.shape[:dim], last - first, s, *g.shape[dim + 1 :]), g.dtype, g)
        return functools.reduce(jax.lax.add, terms)

    whole = _joined(dim, [begin, *([count - 1, axis.o] if count <= axis.o else []), end], rows, part)
    whole = whole.reshape(*g.shape[:dim], (end - begin) * s, *g.shape[dim + 1 :])
    return rows(whole, dim, lo - begin * s, n, q, 0, 1)


def _by_lax(x: jax.Array, dim: int, axis: Axis, monoid: Monoid) -> jax.Array:
    along = lambda value, other: [value if i == dim else other for i in range(x.ndim)]
    op = {"max": jax.lax.max, "min": jax.lax.min, "add": jax.lax.add}[monoid]
    fill = never(x.dtype, monoid)
    low, high = max(axis.lo, 0), max(axis.hi, 0)
    if axis.q > 1 or min(axis.lo, axis.hi) < 0:
        x = jax.lax.pad(x, jnp.asarray(fill), along((axis.lo - low, axis.hi - high, axis.q - 1), (0, 0, 0)))
    windows = {"window_strides": along(axis.s, 1), "window_dilation": along(axis.d, 1)}
    return jax.lax.reduce_window(x, fill, op, along(axis.k, 1), padding=along((low, high), (0, 0)), **windows)


def _run(
    platform: str | None, *operands, role: Role, monoid: Monoid, dim: int, axis: Axis, real=None, rows: Rows = _sliced
):
    if platform == "cpu" and span(axis.k, axis.d) > axis.s:
        # XLA would compute what makes an operand anew for each window that has it; on GPUs that is the quicker way.
        operands = jax.lax.optimization_barrier(operands)
    *taps, x = operands
    by_lax = platform == "tpu" or axis.k > LONG  # TPUs have instructions for windows, and steps along an axis are slow
    if role == "best":
        return _by_lax(x, dim, axis, monoid) if by_lax else _best(x, dim, axis, rows, monoid)
    if role == "first":
        return _first(x, dim, axis, rows, monoid, real)
    wide = x.astype(accumulator(x.dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x
    if role == "sum" and not taps and by_lax:
        return _by_lax(wide, dim, axis, "add").astype(x.dtype)
    if role == "spread" and not taps and turns(axis) > LONG:
        return _by_lax(wide, dim, exchanged(axis), "add").astype(x.dtype)
    compute = _sum if role == "sum" else _spread
    return compute(wide, dim, axis, rows, taps[0] if taps else None).astype(x.dtype)


# The primitive --------------------------------------------------------------------------------------------
@lowered_p.def_abstract_eval
@window_p.def_abstract_eval
def _abstract_eval(*operands, role: Role, monoid: Monoid, dim: int, axis: Axis):
    x = operands[-1]
    shape = list(x.shape)
    shape[dim] = axis.n if role == "spread" else axis.o
    return x.update(shape=tuple(shape), dtype=code_dtype(axis) if role == "first" else x.dtype, weak_type=False)


@window_p.def_impl
@functools.partial(jax.jit, static_argnames=("role", "monoid", "dim", "axis"))
def _compiled(*operands, **options):
    return lowered_p.bind(*operands, **options)


@lowered_p.def_impl
def _eager(*operands, **options):
    """Where `jax.disable_jit` has each operation run by itself."""
    devices = devices_of(*operands)
    rows = _sliced if len(devices) == 1 else _indexed
    return _run(platform_of(next(iter(devices))), *operands, rows=rows, **options)


def _lower(platform: str | None, ctx, *operands, **options):
    devices, told = divisible(ctx)
    alone = not is_spread(ctx.module_context.axis_context)
    run = functools.partial(_run, platform, rows=_sliced if alone or devices > 1 else _indexed, **options)
    if devices > 1:
        run, ctx = _divided(run, platform, ctx.avals_in, devices, **options), told
    return mlir.lower_fun(run, multiple_results=False)(ctx, *operands)


for _platform in (None, *PLATFORMS):  # None: what any other platform gets
    for _each_p in (window_p, lowered_p):
        mlir.register_lowering(_each_p, functools.partial(_lower, _platform), platform=_platform)


def _divided(
    whole, platform: str | None, avals: Any, devices: int, *, role: Role, monoid: Monoid, dim: int, axis: Axis
):
    v = avals[-1]
    along = lambda value, other: (*(other,) * dim, value, *(other,) * (v.ndim - dim - 1))
    spec = ConvSpec(  # of which every axis of the array is one of space
        (1, *v.shape[:dim], axis.n, *v.shape[dim + 1 :], 1),
        (*along(axis.k, 1), 1, 1),
        strides=along(axis.s, 1),
        padding=along((axis.lo, axis.hi), (0, 0)),
        input_dilation=along(axis.q, 1),
        kernel_dilation=along(axis.d, 1),
    )
    kinds = ("y" if len(avals) > 1 else "") + ("yx" if role == "spread" else "xy")
    space = tuple(f"s{j}" for j in range(v.ndim))
    rule = f"{', '.join([' '.join(space)] * len(avals))} -> {' '.join(space)}"

    def choose(mesh, given):
        given = {kind: ((), *entries, ()) for kind, entries in given.items()}
        over = layout.layout(spec, mesh, given, {"x": v.dtype.itemsize, "y": v.dtype.itemsize})
        names, parts = over.names(f"s{dim}"), over.parts(f"s{dim}")

        def compute(*operands):
            run = functools.partial(_run, platform, role=role, monoid=monoid, dim=dim)
            if parts == 1:
                return run(*operands, axis=axis)
            of = blocks(axis, parts)
            rows, mine = shards.fetching(dim, of, names), shards.owning(dim, of, names)
            *taps, last = operands
            taps = [mine.apply(v) for v in taps]
            if role == "spread":
                return rows.transpose(run(*taps, mine.apply(last), axis=of.local))
            fetched = shards.fetched(last, dim, of, names, never(last.dtype, monoid))
            real = shards.present(of, names) if role == "first" else None
            return mine.transpose(run(*taps, fetched, axis=of.local, real=real))

        return lambda kind: over.entries(kind, v.ndim)[1:-1], compute

    return spmd.partitioned(whole, (rule, {"permutation_factors": space}), devices, kinds, choose)


def _jvp(primals, tangents, **options):
    y = window_p.bind(*primals, **options)
    if options["role"] == "first" or isinstance(tangents[-1], ad.Zero):
        return y, ad.Zero(jax.typeof(y).to_tangent_aval())
    if options["role"] == "best":
        taps = window_p.bind(*primals, **{**options, "role": "first"})
        return y, _bind(taps, tangents[-1], **{**options, "role": "sum", "monoid": "add"})
    return y, _bind(*primals[:-1], tangents[-1], **options)


def _transpose(ct, *operands, **options):
    *taps, _ = operands
    return *(None for _ in taps), _bind(*taps, ct, **{**options, "role": TRANSPOSED[options["role"]]})


def _batch(args, dims, **options):
    size = next(v.shape[d] for v, d in zip(args, dims, strict=True) if d is not None)
    first = lambda v, d: jnp.broadcast_to(v, (size, *v.shape)) if d is None else jnp.moveaxis(v, d, 0)
    args = [first(v, d) for v, d in zip(args, dims, strict=True)]
    return _bind(*args, **{**options, "dim": options["dim"] + 1}), 0


ad.primitive_jvps[window_p] = _jvp
ad.primitive_transposes[window_p] = _transpose
batching.primitive_batchers[window_p] = _batch
