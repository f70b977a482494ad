"""`fold`: tiles of neighbouring positions become channels, of the image and of the output.

Take the outputs of one axis in tiles of m, o = v + m J, and the image in tiles of P = m s, p + lo = u + P I. The
relation p = o s + t d - lo then reads

    P (I - J) + u - v s = t d,

which depends on I and J by their difference a = I - J alone: a convolution over tiles, stride 1, without padding, whose
window has A = ceil(((m - 1) s + (k - 1) d + 1) / P) taps and whose kernel is

    k'[a, (u, i), (v, c)] = k[t, i, c]  where  t d = a P + u - v s,  else 0.

With m = 1 the s phases of a strided convolution are gathered into channels, and no position is skipped. With m > 1 the
kernel is a banded Toeplitz matrix: a few channels, or one long filter, become a matrix product that fills the machine,
for A P / k times the multiply-adds. The rows of that matrix are one row shifted by s each: a row of length A P + s,
written m times one after the other and read back with length A P, is exactly that, so placing the kernel and summing
its gradient along the diagonals are a broadcast, a sum and reshapes.

    Sources: phases, Vaidyanathan, Multirate systems and filter banks, 1993, chapter 4; the block form of a filter,
    Burrus, "Block realization of digital filters", 1972.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from .._forecast.work import Copy, Launch, Work
from .._spec import Axis, ConvSpec, span
from .base import Call, Map, Reduced, Reduction, pad


class Tile(NamedTuple):
    """The tiles of one axis: m outputs, P positions, J tiles of outputs, a window of A tiles."""

    m: int
    size: int
    number: int
    window: int


def _tile(axis: Axis, m: int) -> Tile:
    size = m * axis.s
    reach = (m - 1) * axis.s + span(axis.k, axis.d)
    return Tile(m, size, -(-axis.o // m), -(-reach // size))


SIDE = 16.0  # elements: what packing, and a short side, cost on each side of a matrix product


def _filling(rows: float, depth: float, columns: float) -> float:
    """Multiply-adds of ``[rows, depth] @ [depth, columns]``, and what its short sides waste."""
    return (rows + SIDE) * (depth + SIDE) * (columns + SIDE)


def _long_filling(rows: float, depth: float, columns: float) -> float:
    """The same for a long sum: both operands are read across their rows, and the wider should fill several vectors."""
    return (min(rows, columns) + SIDE / 4) * (depth + SIDE) * (max(rows, columns) + 3 * SIDE)


@functools.lru_cache(maxsize=1024)  # asked for by `supports`, `reduce` and `work` of one plan after the other
def _tiles(call: Call) -> tuple[Tile, ...]:
    """Phases along every axis, and along the last the tile that makes the product cheapest."""
    spec = call.spec
    tiles = [_tile(axis, 1) for axis in spec.axes]
    batch = spec.batch_shape[0] if isinstance(spec.batch_shape[0], int) else 1  # symbolic: as for one example

    def price(last: Tile) -> float:
        chosen = [*tiles[:-1], last]
        rows = batch * math.prod(t.number for t in chosen)
        depth = spec.in_features * math.prod(t.window * t.size for t in chosen)
        columns = spec.out_features * math.prod(t.m for t in chosen)
        if call.role == "input_grad":
            depth, columns = columns * math.prod(t.window for t in chosen), depth // math.prod(t.window for t in chosen)
        elif call.role == "kernel_grad":
            return _long_filling(depth, rows, columns)
        return _filling(rows, depth, columns)

    last = spec.axes[-1]
    options = [_tile(last, m) for m in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if m <= last.o]
    return (*tiles[:-1], min(options, key=price))


def _fold(a: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """[b, (I, u).., c] to [b, I.., (u.., c)].

    Along the last axis u lies next to c already. Taken as one axis, what moves is long runs, which XLA copies up to ten
    times faster.
    """
    rank, (*spatial, channels) = len(sizes), a.shape[1:]
    parts = [e for n, size in zip(spatial, sizes, strict=True) for e in (n // size, size)]
    a = a.reshape(a.shape[0], *parts[:-1], parts[-1] * channels)
    a = a.transpose(0, *range(1, 2 * rank, 2), *range(2, 2 * rank - 1, 2), 2 * rank)
    return a.reshape(*a.shape[: rank + 1], -1)


def _unfold(a: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """The inverse of `_fold`."""
    rank, spatial = len(sizes), a.shape[1:-1]
    a = a.reshape(*a.shape[:-1], *sizes[:-1], -1)
    a = a.transpose(0, *(j for i in range(rank - 1) for j in (1 + i, 1 + rank + i)), rank, 2 * rank)
    return a.reshape(a.shape[0], *(n * size for n, size in zip(spatial, sizes, strict=True)), -1)


def _place(kernel: jax.Array, spec: ConvSpec, tiles: tuple[Tile, ...]) -> jax.Array:
    """[*window, i, c] to [*A, (u.., i), (v.., c)]."""
    rank = spec.rank
    for i, (axis, tile) in enumerate(zip(spec.axes, tiles, strict=True)):
        length = tile.window * tile.size
        k = jnp.moveaxis(kernel, i, -1)
        k = pad(k, k.ndim - 1, (0, length + axis.s - span(axis.k, axis.d), axis.d - 1))
        head = k.shape[:-1]
        k = jnp.broadcast_to(k[..., None, :], (*head, tile.m, length + axis.s)).reshape(*head, -1)
        k = k[..., : tile.m * length].reshape(*head, tile.m * length)
        kernel = jnp.moveaxis(k, -1, i)  # (v, a, u)
    kernel = kernel.reshape(*(e for t in tiles for e in (t.m, t.window, t.size)), *spec.kernel_shape[-2:])
    order = [*range(1, 3 * rank, 3), *range(2, 3 * rank, 3), 3 * rank, *range(0, 3 * rank, 3), 3 * rank + 1]
    return kernel.transpose(order).reshape(_kernel_shape(spec, tiles))


def _diagonals(kernel: jax.Array, spec: ConvSpec, tiles: tuple[Tile, ...]) -> jax.Array:
    """The transpose of `_place`."""
    rank = spec.rank
    kernel = kernel.reshape(
        *(t.window for t in tiles), *(t.size for t in tiles), spec.in_features, *(t.m for t in tiles), spec.out_features
    )
    order = [j for i in range(rank) for j in (2 * rank + 1 + i, i, rank + i)]
    kernel = kernel.transpose(*order, 2 * rank, 3 * rank + 1)
    kernel = kernel.reshape(*(t.m * t.window * t.size for t in tiles), *spec.kernel_shape[-2:])
    for i, (axis, tile) in enumerate(zip(spec.axes, tiles, strict=True)):
        length = tile.window * tile.size
        k = jnp.moveaxis(kernel, i, -1)
        k = pad(k, k.ndim - 1, (0, tile.m * axis.s))
        k = jnp.sum(k.reshape(*k.shape[:-1], tile.m, length + axis.s), axis=-2, dtype=k.dtype)
        k = lax.slice_in_dim(k, 0, span(axis.k, axis.d), axis.d, axis=k.ndim - 1)
        kernel = jnp.moveaxis(k, -1, i)
    return kernel


def _kernel_shape(spec: ConvSpec, tiles: tuple[Tile, ...]) -> tuple[int, ...]:
    sizes, outputs = (math.prod(t.size for t in tiles), math.prod(t.m for t in tiles))
    return (*(t.window for t in tiles), sizes * spec.in_features, outputs * spec.out_features)


def reduce(call: Call) -> Reduced:
    spec, tiles = call.spec, _tiles(call)
    sizes, outputs = tuple(t.size for t in tiles), tuple(t.m for t in tiles)
    lengths = tuple(t.size * (t.number + t.window - 1) for t in tiles)
    other = ConvSpec(
        (*spec.batch_shape, *(t.number + t.window - 1 for t in tiles), math.prod(sizes) * spec.in_features),
        _kernel_shape(spec, tiles),
        padding="VALID",
    )

    def image(x):
        ends = [(a.lo, length - a.lo - a.n) for a, length in zip(spec.axes, lengths, strict=True)]
        return _fold(pad(x, 1, *ends), sizes)

    def image_transposed(x):
        ends = [(-a.lo, a.lo + a.n - length) for a, length in zip(spec.axes, lengths, strict=True)]
        return pad(_unfold(x, sizes), 1, *ends)

    def output(y):
        ends = [(0, t.m * t.number - a.o) for a, t in zip(spec.axes, tiles, strict=True)]
        return _fold(pad(y, 1, *ends), outputs)

    def output_transposed(y):
        y = _unfold(y, outputs)
        return y[(slice(None), *(slice(0, axis.o) for axis in spec.axes))]

    return Reduced(
        other,
        x=Map(image, image_transposed),
        k=Map(lambda k: _place(k, spec, tiles), lambda k: _diagonals(k, spec, tiles)),
        y=Map(output, output_transposed),
    )


def supports(call: Call) -> str | None:
    spec = call.spec
    if spec.feature_group_count > 1:
        return f"fold gathers positions into the channels of one group, here are {spec.feature_group_count}"
    if any(q > 1 for q in spec.input_dilation):
        return "fold takes no input dilation; swap first"
    if spec.rank == 0 or all(t.m == t.size == 1 for t in _tiles(call)):
        return "fold has nothing to gather: stride 1, and channels enough"
    return None


def work(call: Call) -> Work:
    spec, tiles = call.spec, _tiles(call)
    batch = math.prod(spec.batch_shape)
    image = batch * spec.in_features * math.prod(t.size * (t.number + t.window - 1) for t in tiles)
    output = batch * spec.out_features * math.prod(t.m * t.number for t in tiles)
    kernel = math.prod(_kernel_shape(spec, tiles))
    item = call.accumulator.itemsize
    mixed = any(t.size > 1 for t in tiles[:-1])
    runs = image / (spec.in_features * tiles[-1].size) if mixed else 0.0
    moved, kept = image, image + kernel
    if any(t.m > 1 for t in tiles[:-1]) or any(t.m * t.number != a.o for t, a in zip(tiles, spec.axes, strict=True)):
        moved += output
        kept += output
    return Work(
        (
            Copy(item * moved, runs, "fold"),
            Copy(item * kernel, kind="fold kernel"),
            Launch(1, "fold"),
        ),
        workspace=int(item * kept),
    )


REDUCTION = Reduction("fold", reduce, supports, work)
