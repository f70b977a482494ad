"""A role of T(x, k, y) computed by several devices, each with its parts of the arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jax import numpy as jnp

from .._algorithms.base import OPERANDS, RESULT, UNFINISHED, Call, Finish, Map, Reduced, pad, through
from .._padding import padded_spec, padding
from .._plan import finish_result
from .._spec import ConvSpec
from .blocks import Blocks, Edge, blocks, exchanged
from .layout import Layout


def _masked(v: jax.Array, dim: int, rank: jax.Array, size: int) -> jax.Array:
    """A block with zeros in what lies beyond the whole array's `size`; what stands there is nobody's."""
    at = jax.lax.broadcasted_iota(jnp.int32, v.shape, dim) + rank * v.shape[dim]
    return jnp.where(at < size, v, jnp.zeros((), v.dtype))


def fetched(v: jax.Array, dim: int, of: Blocks, names: tuple[str, ...]) -> jax.Array:
    """The window of each device, from their blocks: F of `blocks`."""
    rank, low, high = jax.lax.axis_index(names), of.low, of.high
    if of.size < of.block * of.devices:
        v = _masked(v, dim, rank, of.size)
    block = v
    nothing = lambda rows: [jnp.zeros((*v.shape[:dim], rows, *v.shape[dim + 1 :]), v.dtype)] if rows else []
    parts, at = [], -low
    for piece in of.pieces:
        rows = jax.lax.slice_in_dim(v, piece.first, piece.last, axis=dim)
        if piece.hop % of.devices:
            pairs = [((r + piece.hop) % of.devices, r) for r in range(of.devices)]
            inside = [(giver, r) for giver, r in pairs if of.ring or giver == r + piece.hop]
            rows = jax.lax.ppermute(rows, names, inside)
        parts += [*nothing(piece.hop * of.block + piece.first - at), rows]
        at = piece.hop * of.block + piece.last
    v = jnp.concatenate([*parts, *nothing(of.block + high - at)], axis=dim)
    if len(set(of.starts)) == 1:
        window = jax.lax.slice_in_dim(v, of.starts[0] + low, of.starts[0] + low + of.window, axis=dim)
    else:
        window = jax.lax.dynamic_slice_in_dim(v, of.start(rank) + low, of.window, axis=dim)
    for edge in of.edges:
        window += pad(_given(block, dim, edge, rank, names), dim, (edge.at, of.window - edge.at - edge.count))
    return window


def _given(block: jax.Array, dim: int, edge: Edge, rank: jax.Array, names: tuple[str, ...]) -> jax.Array:
    """The rows of an edge on the device that they are for, zeros elsewhere."""
    first = edge.first if edge.step >= 0 else edge.first - edge.count + 1
    rows = jax.lax.slice_in_dim(block, first, first + (edge.count if edge.step else 1), axis=dim)
    if edge.giver == edge.rank:
        rows = jnp.where(rank == edge.rank, rows, jnp.zeros((), rows.dtype))
    else:
        rows = jax.lax.ppermute(rows, names, [(edge.giver, edge.rank)])
    if edge.step < 0:
        return jax.lax.rev(rows, (dim,))
    shape = (*rows.shape[:dim], edge.count, *rows.shape[dim + 1 :])
    return rows if edge.step else jnp.broadcast_to(rows, shape)


def _fetching(dim: int, of: Blocks, names: tuple[str, ...]) -> Map:
    apply = lambda v: fetched(v, dim, of, names)

    def transpose(v):
        block = jax.ShapeDtypeStruct((*v.shape[:dim], of.block, *v.shape[dim + 1 :]), v.dtype)
        return jax.linear_transpose(apply, block)(v)[0]

    return Map(apply, transpose)


def _owning(dim: int, of: Blocks, names: tuple[str, ...]) -> Map:
    """Each device's own outputs, among those that it computes."""

    def apply(v):
        rank = jax.lax.axis_index(names)
        if of.outputs < of.own * of.devices:
            v = _masked(v, dim, rank, of.outputs)
        if of.extent == of.own:
            return v
        out = jnp.zeros((*v.shape[:dim], of.extent, *v.shape[dim + 1 :]), v.dtype)
        return jax.lax.dynamic_update_slice_in_dim(out, v, of.shift(rank), axis=dim)

    def transpose(v):
        if of.extent == of.own:
            return v
        return jax.lax.dynamic_slice_in_dim(v, of.shift(jax.lax.axis_index(names)), of.own, axis=dim)

    return Map(apply, transpose)


def _images(size: int, names: tuple[str, ...]) -> Map:
    return Map(lambda v: _masked(v, 0, jax.lax.axis_index(names), size), lambda v: v)


def _composed(maps: Sequence[Map]) -> Map:
    def apply(v):
        for each in maps:
            v = each.apply(v)
        return v

    def transpose(v):
        for each in reversed(maps):
            v = each.transpose(v)
        return v

    return Map(apply, transpose)


def reduced(call: Call, modes: tuple[str, ...], over: Layout) -> tuple[Reduced, frozenset[str]]:
    """A call as the sum over devices of T'(A x, B k, C y), and which of x and y are fetched from others.

    Along each axis that is divided, one of x and y is fetched, the one whose rows are fewer bytes; where both are the
    same that which is an operand; an axis that is padded by other than zeros has x fetched.
    """
    spec, operands = call.spec, OPERANDS[call.role]
    groups, batch = over.parts("g"), spec.x_shape[0]
    whole = tuple(mode if over.parts(f"s{j}") == 1 else "zeros" for j, mode in enumerate(modes))
    local = list(padded_spec(spec, whole).axes)
    maps: dict[str, list[Map]] = {"x": [padding(spec, whole)] if set(whole) - {"zeros"} else [], "y": []}
    from_others = set()
    for j, axis in enumerate(spec.axes):
        names, parts = over.names(f"s{j}"), over.parts(f"s{j}")
        if parts == 1:
            continue
        choices, mode = [], modes[j] if modes else "zeros"
        for letter, other in ("xy", "yx") if mode == "zeros" else ("xy",):
            of = blocks(axis, parts, mode) if letter == "x" else blocks(exchanged(axis), parts)
            shape = spec.x_shape if letter == "x" else spec.output_shape
            row = shape[-1] * _product(n for i, n in enumerate(shape[1:-1]) if i != j)
            choices.append((of.moved * row, letter not in operands, letter, other, of))
        _, _, letter, other, of = min(choices, key=lambda choice: choice[:2])
        maps[letter].append(_fetching(1 + j, of, names))
        maps[other].append(_owning(1 + j, of, names))
        local[j] = of.local if letter == "x" else exchanged(of.local)
        if of.moved:
            from_others.add(letter)
    if call.role == "kernel_grad" and batch % over.parts("b"):
        for each in maps.values():
            each.append(_images(batch, over.names("b")))
    (*window, per_group, out), ours = spec.kernel_shape, spec.feature_group_count // groups
    inside = ConvSpec(
        (-(-batch // over.parts("b")), *(a.n for a in local), spec.in_features // groups // over.parts("i")),
        (*window, per_group // over.parts("i"), out // groups // over.parts("c")),
        strides=spec.strides,
        padding=tuple((a.lo, a.hi) for a in local),
        input_dilation=spec.input_dilation,
        kernel_dilation=spec.kernel_dilation,
        feature_group_count=ours,
    )
    return Reduced(inside, x=_composed(maps["x"]), y=_composed(maps["y"])), frozenset(from_others)


def _product(values) -> int:
    out = 1
    for value in values:
        out *= value
    return out


def run(
    a: jax.Array, b: jax.Array, call: Call, modes: tuple[str, ...], finish: Finish, over: Layout, compute: Callable
) -> jax.Array:
    """One role, finished, on each device; `compute(a, b, call, finish)` computes the call that a device is left with.

    `call` is of the image before it is padded by `modes`.

    What is summed over devices is summed in the accumulator, and finished after that.
    """
    form, from_others = reduced(call, modes, over)
    names = over.summed(call.role, call.spec.rank)
    inside, left = finish, UNFINISHED
    local = call._replace(spec=form.spec)
    if names or RESULT[call.role] in from_others:
        inside, left, local = UNFINISHED, finish, local._replace(out_dtype=call.accumulator)

    def inner(a, b):
        out = compute(a, b, local, inside)
        return jax.lax.psum(out, names) if names else out

    return finish_result(through(form, a, b, call, inner).astype(call.out_dtype), left)
