"""What work costs on a CPU: the counts that its time is a sum of, each with a price (prices.json).

A matrix product of [m, k] and [k, n] multiplies m k n times, and reads, packs and writes m k, k n and m n elements, the
last columns in vectors that are not full; so its time is linear in these five with prices that do not depend on its
shape. In the same way a copy is bytes and runs, with what lies beyond the cache apart; a loop is multiply-adds, in
vectors that may not be full.

XLA's own convolution goes several ways, each with its prices: the library's patch products for one group along one, two
or three axes, loops of its own for groups, depthwise, and for what the library does not know; its kernel gradients are
convolutions whose window is the whole output.

    Source of the form: Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008, section 4.
"""

from __future__ import annotations

import math

import numpy as np
from jax import numpy as jnp

from .work import Convolution, Copy, Counts, Launch, Loop, Product, Transform

LANES = 16  # elements of 32 bits in two vectors of 256 bits
CACHE = 1 << 20  # bytes that a core keeps near
LIBRARY = frozenset(map(jnp.dtype, ("float32", "float16", "bfloat16")))  # that XLA has matrix products for


def _filled(n: float) -> float:
    """`n` elements, in vectors that are full."""
    return -(-n // LANES) * LANES


def _product(step: Product, dtype: np.dtype) -> Counts:
    times, kind = step.times, f"{step.kind} product"
    m, k, n = (max(1.0, side) for side in (step.rows, step.depth, step.columns))
    yield f"{kind}: multiply-adds", times * m * k * n
    if n == 1:  # a matrix times a vector
        yield f"{kind}: multiply-adds of one column", times * m * k
    else:
        yield f"{kind}: idle lanes", times * m * k * (_filled(n) - n)
    yield f"{kind}: left operand", times * m * k
    yield f"{kind}: right operand", times * k * n
    yield f"{kind}: result", times * m * n
    yield f"{kind}: products", times


def _loop(step: Loop, dtype: np.dtype) -> Counts:
    lanes = max(1.0, step.lanes)
    yield f"{step.kind} loop: multiply-adds", step.macs
    yield f"{step.kind} loop: idle lanes", step.macs * (_filled(lanes) - lanes) / lanes
    yield f"{step.kind} loop: turns", step.macs / lanes


def _copy(step: Copy, dtype: np.dtype) -> Counts:
    yield f"{step.kind} copy: bytes", step.times * step.bytes
    yield f"{step.kind} copy: bytes beyond the cache", step.times * max(0.0, step.bytes - CACHE)
    yield f"{step.kind} copy: runs", step.times * step.runs


def _transform(step: Transform, dtype: np.dtype) -> Counts:
    yield f"{step.kind} transform: elements", step.elements
    yield f"{step.kind} transform: butterflies", step.elements * math.log2(max(2.0, step.length))


def _launch(step: Launch, dtype: np.dtype) -> Counts:
    yield f"{step.kind} launches", step.number


def _convolution(step: Convolution, dtype: np.dtype) -> Counts:
    return _kernel_grad(step, dtype) if step.role == "kernel_grad" else _pass(step, dtype)


def _way(kind: str, rank: int | None, dtype: np.dtype) -> str:
    """What XLA computes a convolution by: the library, for which it widens 16 bits, or loops, alike in every rank."""
    if dtype not in LIBRARY or (rank or 0) > 3:
        return f"xla loops {kind}"
    return f"xla {kind}" if rank is None else f"xla {kind} {rank}-d"


def _apart(shape: tuple[int, ...], dtype: np.dtype) -> tuple[float, float]:
    """How far it is from cheap to read an operand across its rows: in lines of 64 bytes, and those beyond the cache."""
    line = min(1.0, (shape[-1] - 1) * dtype.itemsize / 64)
    return line, line * min(1.0, math.prod(shape) * dtype.itemsize / CACHE)


def _pass(step: Convolution, dtype: np.dtype) -> Counts:
    """The forward pass, or the input's gradient, which is one over the exchanged geometry."""
    spec, back = step.spec, step.role == "input_grad"
    groups, taps, rank = spec.feature_group_count, math.prod(spec.window), spec.rank
    batch = math.prod(spec.batch_shape)
    inputs, outputs = spec.in_features // groups, spec.out_features // groups
    sizes, holes, strides = spec.output_spatial, math.prod(spec.input_dilation), math.prod(spec.strides)
    pads = spec.padding
    if back:
        inputs, outputs, sizes, holes, strides = outputs, inputs, spec.spatial, strides, holes
        pads = tuple(((a.k - 1) * a.d - a.lo, (a.k - 1) * a.d - a.hi) for a in spec.axes)
    space = math.prod(sizes) * batch
    macs = float(space * taps * inputs * outputs * groups)
    kind = "dense" if groups == 1 else "depthwise" if inputs == 1 else "grouped"
    way = _way(kind, rank, dtype)
    times = step.times
    if groups > 1:
        yield f"{_way(kind, None, dtype)}: multiply-adds", times * macs / holes
    yield f"{way}: multiply-adds", times * macs / holes
    yield f"{way}: multiply-adds with zeros", times * macs * (1 - 1 / holes)
    yield f"{way}: results", times * space * outputs * groups
    yield f"{way}: calls", times
    apart, far = _apart(spec.kernel_shape, dtype)
    yield f"{way}: multiply-adds in lines apart", times * macs / holes * apart
    yield f"{way}: multiply-adds far apart", times * macs / holes * far
    if strides > 1:
        yield f"{way}: strided multiply-adds", times * macs / holes
    if groups > 1:
        yield f"{way}: patches", times * space * taps * inputs * groups
        yield f"{way}: groups", times * batch * groups
        if kind == "depthwise":  # loops over the channels of all groups, most of which are zeros
            yield f"{way}: multiply-adds of other groups", times * macs * (groups - 1) / holes
        return
    if way.startswith("xla loops"):
        yield f"{way}: sums", times * space * taps * outputs / holes
    inside = math.prod(max(0, n - max(0, low) - max(0, high)) / n for n, (low, high) in zip(sizes, pads, strict=True))
    patches = space * taps * inputs / holes
    if outputs == 1:
        yield f"{way}: multiply-adds of one column", times * patches
    else:
        yield f"{way}: idle lanes", times * patches * (_filled(outputs) - outputs)
    yield f"{way}: patches", times * patches
    yield f"{way}: runs of patches", times * space * taps / holes
    if strides > 1:
        yield f"{way}: strided runs", times * space * taps
    if holes > 1:
        yield f"{way}: runs in holes", times * space * taps
    yield f"{way}: patches in the padding", times * patches * (1 - inside)
    yield f"{way}: kernel", times * taps * inputs * outputs
    if rank == 2 and inputs < 32 and strides == holes == 1 and not any(map(any, pads)):
        yield f"{way}: patches without padding", times * patches  # all written out, in jaxlib 0.10.2
    if taps == 1:
        yield f"{way}: multiply-adds of one tap", times * macs / holes
    if 1 < outputs < 8 and taps * inputs > 64:
        yield f"{way}: multiply-adds for few channels", times * macs
    if rank == 1 and spec.kernel_dilation[0] > 1 and taps > 1:
        yield f"{way}: results of far taps", times * space * taps * outputs
        yield f"{way}: multiply-adds of far taps", times * macs


def _kernel_grad(step: Convolution, dtype: np.dtype) -> Counts:
    spec, times = step.spec, step.times
    groups, taps, rank = spec.feature_group_count, math.prod(spec.window), spec.rank
    batch = math.prod(spec.batch_shape)
    inputs, outputs = spec.in_features // groups, spec.out_features // groups
    space = math.prod(spec.output_spatial) * batch
    strides, holes = math.prod(spec.strides), math.prod(spec.input_dilation)
    macs = float(spec.macs * batch)
    elements = math.prod(spec.x_shape) + math.prod(spec.output_shape)
    kind = "dense" if groups == 1 else "depthwise" if inputs * outputs == 1 else "grouped"
    way = f"{_way(kind, rank, dtype)} kernel gradient"
    if groups > 1:
        shared = f"{_way(kind, None, dtype)} kernel gradient"
        yield f"{shared}: multiply-adds", times * macs
        yield (
            f"{shared}: multiply-adds of other groups",
            times * macs * strides * (groups - 1 if kind == "grouped" else 0),
        )
    yield f"{way}: multiply-adds", times * macs
    yield f"{way}: multiply-adds with zeros", times * macs * (strides - 1)
    yield f"{way}: elements", times * elements
    yield f"{way}: calls", times
    apart, far = _apart(spec.output_shape, dtype)
    yield f"{way}: multiply-adds in lines apart", times * macs * strides * apart
    yield f"{way}: multiply-adds far apart", times * macs * strides * far
    if holes > 1:
        yield f"{way}: multiply-adds in holes", times * macs
    if groups > 1:
        return
    patches = taps * inputs * space
    if outputs == 1:
        yield f"{way}: multiply-adds of one column", times * patches
    else:
        yield f"{way}: idle lanes", times * patches * (_filled(outputs) - outputs)
    yield f"{way}: patches", times * patches
    yield f"{way}: runs of patches", times * patches / max(1, batch)
    yield f"{way}: weights", times * taps * inputs * outputs
    beyond = min(1.0, max(0.0, math.prod(spec.x_shape) * dtype.itemsize / (2 * CACHE) - 0.75))
    yield f"{way}: patches from beyond the cache", times * patches * beyond
    if strides > 1:
        yield f"{way}: strided patches", times * patches


COUNTS = {
    Product: _product,
    Loop: _loop,
    Copy: _copy,
    Transform: _transform,
    Convolution: _convolution,
    Launch: _launch,
}


def rate_of(count: str) -> str:
    """The rate that a price goes with."""
    kind, _, what = count.partition(": ")
    if "launches" in count or what in ("calls", "products", "groups"):
        return "launch"
    if "multiply-adds" in what or what in ("idle lanes", "butterflies"):
        return "matrix" if kind.endswith(" product") or kind.startswith("xla dense") else "vector"
    return "bytes"
