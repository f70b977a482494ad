"""A role of T(x, k, y) computed by several devices, each with its parts of the arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from .._algorithms.base import OPERANDS, RESULT, UNFINISHED, Call, Finish, Map, Reduced, pad, through, zeros
from .._padding import padded_spec, padding
from .._plan import finish_result
from .._spec import ConvSpec
from .blocks import Blocks, Edge, blocks, exchanged
from .layout import Layout


def _masked(v: jax.Array, dim: int, rank: jax.Array, size: int) -> jax.Array:
    """A block with zeros in what lies beyond the whole array's `size`; what stands there belongs to nobody."""
    at = jax.lax.broadcasted_iota(jnp.int32, v.shape, dim) + rank * v.shape[dim]
    return jnp.where(at < size, v, jnp.zeros((), v.dtype))


def _sent(v: jax.Array, names: tuple[str, ...], pairs: Sequence[tuple[int, int]]) -> jax.Array:
    """`jax.lax.ppermute` among ranks as `jax.lax.axis_index(names)` counts them.

    It counts them in the order of the mesh, whatever the order of the names. The axes of a mesh that the compiler's
    division makes are numbered.
    """
    order = [name for name in jax.sharding.get_abstract_mesh().axis_names if name in names]
    order = order if len(order) == len(names) else sorted(names)
    sizes = {name: jax.lax.axis_size(name) for name in names}
    ranks = np.arange(math.prod(sizes.values())).reshape([sizes[name] for name in order])
    ranks = ranks.transpose([order.index(name) for name in names]).ravel()  # of each rank in the order of the names
    return jax.lax.ppermute(v, tuple(order), [(int(ranks[giver]), int(ranks[taker])) for giver, taker in pairs])


def fetched(v: jax.Array, dim: int, of: Blocks, names: tuple[str, ...], fill: Any = 0) -> jax.Array:
    """The window of each device, from their blocks: F of `blocks`; beyond the image is `fill`."""
    rank, low, high = jax.lax.axis_index(names), of.low, of.high
    if of.size < of.block * of.devices:
        v = _masked(v, dim, rank, of.size)
    block = v
    nothing = lambda rows: [zeros((*v.shape[:dim], rows, *v.shape[dim + 1 :]), v.dtype, v)] if rows else []
    parts, at = [], -low
    for piece in of.pieces:
        rows = jax.lax.slice_in_dim(v, piece.first, piece.last, axis=dim)
        if piece.hop % of.devices:
            pairs = [((r + piece.hop) % of.devices, r) for r in range(of.devices)]
            inside = [(giver, r) for giver, r in pairs if of.ring or giver == r + piece.hop]
            rows = _sent(rows, names, inside)
        parts += [*nothing(piece.hop * of.block + piece.first - at), rows]
        at = piece.hop * of.block + piece.last
    v = jnp.concatenate([*parts, *nothing(of.block + high - at)], axis=dim)
    if len(set(of.starts)) == 1:
        window = jax.lax.slice_in_dim(v, of.starts[0] + low, of.starts[0] + low + of.window, axis=dim)
    else:
        window = jax.lax.dynamic_slice_in_dim(v, of.start(rank) + low, of.window, axis=dim)
    if fill != 0:
        real = jnp.expand_dims(present(of, names), [i for i in range(v.ndim) if i != dim])
        window = jnp.where(real, window, jnp.full((), fill, window.dtype))
    for edge in of.edges:
        window += pad(_given(block, dim, edge, rank, names), dim, (edge.at, of.window - edge.at - edge.rows))
    return window


def _given(block: jax.Array, dim: int, edge: Edge, rank: jax.Array, names: tuple[str, ...]) -> jax.Array:
    """The rows of an edge on the device that they are for, zeros elsewhere."""
    first = edge.first if edge.step >= 0 else edge.first - edge.rows + 1
    rows = jax.lax.slice_in_dim(block, first, first + (edge.rows if edge.step else 1), axis=dim)
    if edge.giver == edge.rank:
        rows = jnp.where(rank == edge.rank, rows, jnp.zeros((), rows.dtype))
    else:
        rows = _sent(rows, names, [(edge.giver, edge.rank)])
    if edge.step < 0:
        return jax.lax.rev(rows, (dim,))
    shape = (*rows.shape[:dim], edge.rows, *rows.shape[dim + 1 :])
    return rows if edge.step else jnp.broadcast_to(rows, shape)


def present(of: Blocks, names: tuple[str, ...]) -> jax.Array:
    """Which rows of a device's window there are, and not beyond the image."""
    rank = jax.lax.axis_index(names)
    at = jnp.arange(of.window, dtype=jnp.int32) + of.start(rank) + rank * of.block
    return (at >= 0) & (at < of.size)


def fetching(dim: int, of: Blocks, names: tuple[str, ...]) -> Map:
    """F and its transpose, which sends back and adds."""
    apply = lambda v: fetched(v, dim, of, names)

    def transpose(v):
        block = jax.ShapeDtypeStruct((*v.shape[:dim], of.block, *v.shape[dim + 1 :]), v.dtype)
        return jax.linear_transpose(apply, block)(v)[0]

    return Map(apply, transpose)


def owning(dim: int, of: Blocks, names: tuple[str, ...]) -> Map:
    """M: each device's own outputs, among those that it computes."""

    def apply(v):
        rank = jax.lax.axis_index(names)
        if of.outputs < of.own * of.devices:
            v = _masked(v, dim, rank, of.outputs)
        if of.extent == of.own:
            return v
        out = zeros((*v.shape[:dim], of.extent, *v.shape[dim + 1 :]), v.dtype, v)
        return jax.lax.dynamic_update_slice_in_dim(out, v, of.shift(rank), axis=dim)

    def transpose(v):
        if of.extent == of.own:
            return v
        return jax.lax.dynamic_slice_in_dim(v, of.shift(jax.lax.axis_index(names)), of.own, axis=dim)

    return Map(apply, transpose)


def _images(size: int, names: tuple[str, ...]) -> Map:
    return Map(lambda v: _masked(v, 0, jax.lax.axis_index(names), size), lambda v: v)


def composed(maps: Sequence[Map]) -> Map:
    """One map after the other."""

    def apply(v):
        for each in maps:
            v = each.apply(v)
        return v

    def transpose(v):
        for each in reversed(maps):
            v = each.transpose(v)
        return v

    return Map(apply, transpose)


class Move(NamedTuple):
    """Rows of an argument along a spatial axis that a device fetches from others, or that it sends and they add."""

    argument: str
    axis: int
    rows: int
    elements: int
    added: bool


def reduced(call: Call, modes: tuple[str, ...], over: Layout, adding: bool = True) -> tuple[Reduced, list[Move]]:
    """A call as the sum over devices of T'(A x, B k, C y), and what moves between them for A and C.

    Along each axis that is divided, one of x and y is fetched, the one of which fewer bytes move; where both are the
    same that which is an operand. Without `adding` it is an operand, so that nothing of the result is sent and added;
    an axis that is padded by other than zeros has x fetched.
    """
    spec, operands, parts = call.spec, OPERANDS[call.role], [over.parts(f"s{j}") for j in range(call.spec.rank)]
    whole = tuple("zeros" if parts[j] > 1 else mode for j, mode in enumerate(modes))
    local = list(padded_spec(spec, whole).axes)
    held = {"x": list(block("x", spec, over)), "y": list(block("y", spec, over))}  # while it is fetched axis by axis
    maps: dict[str, list[Map]] = {"x": [], "y": []}
    if set(whole) - {"zeros"}:
        maps["x"].append(padding(spec, whole))
        held["x"][1:-1] = [n if parts[j] > 1 else local[j].n for j, n in enumerate(held["x"][1:-1])]
    moves = []
    for j, axis in enumerate(spec.axes):
        if parts[j] == 1:
            continue
        mode, names, choices = modes[j] if modes else "zeros", over.names(f"s{j}"), []
        for letter, other in ("xy", "yx") if mode == "zeros" else ("xy",):
            of = blocks(axis, parts[j], mode) if letter == "x" else blocks(exchanged(axis), parts[j])
            elements = of.moved * math.prod(n for i, n in enumerate(held[letter]) if i != 1 + j)
            added = letter not in operands
            if adding or not added:
                width = call.accumulator.itemsize if added else call.dtype.itemsize
                choices.append((elements * width, added, elements, letter, other, of))
        if not choices:
            raise ValueError(
                f"padding_mode: got {mode!r} along spatial axis {j}, which is divided over {names}; accepted in "
                "a transposed convolution is 'zeros' there."
            )
        _, added, elements, letter, other, of = min(choices, key=lambda choice: choice[:2])
        maps[letter].append(fetching(1 + j, of, names))
        maps[other].append(owning(1 + j, of, names))
        local[j] = of.local if letter == "x" else exchanged(of.local)
        held[letter][1 + j], held[other][1 + j] = of.window, of.extent
        if elements:
            moves.append(Move(letter, j, of.moved, elements, added))
    batch = spec.x_shape[0]
    if call.role == "kernel_grad" and batch % over.parts("b"):
        for each in maps.values():
            each.append(_images(batch, over.names("b")))
    inside = ConvSpec(
        tuple(held["x"]),
        block("k", spec, over),
        strides=spec.strides,
        padding=tuple((axis.lo, axis.hi) for axis in local),
        input_dilation=spec.input_dilation,
        kernel_dilation=spec.kernel_dilation,
        feature_group_count=spec.feature_group_count // over.parts("g"),
    )
    return Reduced(inside, x=composed(maps["x"]), y=composed(maps["y"])), moves


def block(argument: str, spec: ConvSpec, over: Layout) -> tuple[int, ...]:
    """The shape of what a device has of an argument; blocks of uneven sizes are as large as the largest."""
    shape = {"x": spec.x_shape, "k": spec.kernel_shape, "y": spec.output_shape}[argument]
    entries = over.entries(argument, spec.rank)
    return tuple(-(-n // math.prod(over.mesh[e] for e in names)) for n, names in zip(shape, entries, strict=True))


def within(
    a: jax.Array, b: jax.Array, call: Call, modes: tuple[str, ...], over: Layout, compute: Callable
) -> jax.Array:
    """The same inside `jax.shard_map`, for roles that give x or y: made of operations that JAX differentiates.

    `compute(a, b, spec)` computes the geometry that a device is left with. Results beyond the whole one are zeros.
    """
    form, _ = reduced(call, modes, over, adding=False)
    out = through(form, a, b, call, lambda a, b: compute(a, b, form.spec))
    return cut(out, call.spec.output_spatial if RESULT[call.role] == "y" else call.spec.spatial, over)


def cut(v: jax.Array, sizes: Sequence[int], over: Layout) -> jax.Array:
    """Zeros in what lies beyond the sizes of a whole image's spatial axes."""
    first = v.ndim - len(sizes) - 1
    for j, size in enumerate(sizes):
        if size % over.parts(f"s{j}"):
            v = _masked(v, first + j, jax.lax.axis_index(over.names(f"s{j}")), size)
    return v


def run(
    a: jax.Array, b: jax.Array, call: Call, modes: tuple[str, ...], finish: Finish, over: Layout, compute: Callable
) -> jax.Array:
    """One role, finished, on each device; `compute(a, b, call, finish)` computes the call that a device is left with.

    `call` is of the image before it is padded by `modes`.

    What is summed over devices is summed in the accumulator, and finished after that.
    """
    form, moves = reduced(call, modes, over)
    names = over.summed(call.role, call.spec.rank)
    inside, left = finish, UNFINISHED
    local = call._replace(spec=form.spec)
    if names or any(move.added for move in moves):
        inside, left, local = UNFINISHED, finish, local._replace(out_dtype=call.accumulator)

    def inner(a, b):
        out = compute(a, b, local, inside)
        return jax.lax.psum(out, names) if names else out

    return finish_result(through(form, a, b, call, inner).astype(call.out_dtype), left)
