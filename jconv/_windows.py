"""The largest element of each window, as a primitive, so that it can be divided among devices.

y[b, o, c] = max over t of x[b, o s + t - lo, c] has three roles, as a convolution has: `value` is y; `pick` its
derivative, which takes from a dx what lies where the maximum is (the first of equal ones); `scatter` the transpose of
that, which puts a g there. `pick` and `scatter` are linear in their second operand and constant, almost everywhere, in
x: each is the other one's transpose, and no more is needed for derivatives of any order.

Over devices, with F and M of `_partition.blocks` and rows of minus infinity around x,

    value(F x),    M^T pick(F x, F dx),    F^T scatter(F x, M g).

XLA's own way to divide `scatter` gives wrong gradients where windows overlap and blocks are uneven.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from ._algorithms.base import zeros
from ._partition import layout, shards, spmd
from ._partition.blocks import blocks
from ._primitive import Primitive, ad, alike, batching, divisible, mlir
from ._spec import ConvSpec

Part = Literal["value", "pick", "scatter"]
TRANSPOSED: dict[str, Part] = {"pick": "scatter", "scatter": "pick"}

max_p = Primitive("jconv_max_pool")  # of x, or x and dx, or x and g


class Geometry(NamedTuple):
    """Windows over [batch, *spatial, channels]; all pads are of what never wins."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    def spec(self, x_shape: tuple[int, ...]) -> ConvSpec:
        """The convolution of each channel that has the same windows."""
        channels = x_shape[-1]
        kernel = (*self.window, 1, channels)
        return ConvSpec(x_shape, kernel, self.strides, self.padding, feature_group_count=channels)

    def largest(self, x: jax.Array) -> jax.Array:
        strides, pads = (1, *self.strides, 1), ((0, 0), *self.padding, (0, 0))
        init = np.asarray(lowest(x.dtype), x.dtype)
        return jax.lax.reduce_window(x, init, jax.lax.max, (1, *self.window, 1), strides, pads)


def lowest(dtype: Any) -> Any:
    """What never wins."""
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def max_of_windows(x: jax.Array, geometry: Geometry) -> jax.Array:
    """The largest element of each window of [*batch, *spatial, channels], which has elements."""
    rank = len(geometry.window)
    batch, rest = x.shape[: x.ndim - rank - 1], x.shape[x.ndim - rank - 1 :]
    y = max_p.bind(x.reshape(math.prod(batch), *rest), geometry=geometry, role="value")
    return y.reshape(*batch, *y.shape[1:])


@max_p.def_abstract_eval
def _abstract_eval(x, *other, geometry: Geometry, role: Part):
    shape = x.shape if role == "scatter" else geometry.spec(x.shape).output_shape
    return x.update(shape=shape, dtype=(other or [x])[0].dtype, weak_type=False)


def _run(x, *other, geometry: Geometry, role: Part):
    """In one piece, by lax's own derivatives."""
    if role == "value":
        return geometry.largest(x)
    if role == "pick":
        return jax.jvp(geometry.largest, (x,), other)[1]
    return jax.vjp(geometry.largest, x)[1](*other)[0]


max_p.def_impl(functools.partial(jax.jit, static_argnames=("geometry", "role"))(_run))


def _lower(ctx, *operands, geometry: Geometry, role: Part):
    run = functools.partial(_run, geometry=geometry, role=role)
    devices, told = divisible(ctx)
    if devices > 1:
        run, ctx = _divided(run, ctx.avals_in[0], geometry, role, devices), told
    return mlir.lower_fun(run, multiple_results=False)(ctx, *operands)


mlir.register_lowering(max_p, _lower)


def _divided(whole, x: Any, geometry: Geometry, role: Part, devices: int):
    spec, rank = geometry.spec(x.shape), len(geometry.window)
    kinds = {"value": "xy", "pick": "xxy", "scatter": "xyx"}[role]
    names = " ".join(("b", *(f"s{j}" for j in range(rank)), "g"))
    rule = f"{', '.join(names for _ in kinds[1:])} -> {names}"
    space = tuple(f"s{j}" for j in range(rank))

    def choose(mesh, given):
        over = layout.layout(spec, mesh, given, {"x": x.dtype.itemsize, "y": x.dtype.itemsize})

        def compute(v, *other):
            own = list(geometry.padding)
            fetch, add, owning = v, [], []
            for j, axis in enumerate(spec.axes):
                axes, parts = over.names(f"s{j}"), over.parts(f"s{j}")
                if parts > 1:
                    of = blocks(axis, parts)
                    fetch = shards.fetched(fetch, 1 + j, of, axes, lowest(v.dtype))
                    add.append(shards.fetching(1 + j, of, axes))
                    owning.append(shards.owning(1 + j, of, axes))
                    own[j] = (0, 0)
            rows, mine = shards.composed(add), shards.composed(owning)
            local = functools.partial(_run, geometry=geometry._replace(padding=tuple(own)), role=role)
            if role == "value":
                return mine.transpose(local(fetch))
            if role == "pick":
                return mine.transpose(local(fetch, rows.apply(*other)))
            return rows.transpose(local(fetch, mine.apply(*other)))

        return lambda kind: over.entries(kind, rank), compute

    return spmd.partitioned(whole, (rule, {"permutation_factors": space}), devices, kinds, choose)


def _jvp(primals, tangents, *, geometry: Geometry, role: Part):
    x, moving = primals[0], tangents[-1]
    y = max_p.bind(*primals, geometry=geometry, role=role)
    if isinstance(moving, ad.Zero):  # it is x that moves, on which the others do not depend
        return y, zeros(y.shape, y.dtype, y)
    return y, max_p.bind(*alike(x, moving), geometry=geometry, role="pick" if role == "value" else role)


def _transpose(ct, x, other, *, geometry: Geometry, role: Part):
    return None, max_p.bind(*alike(x, ct), geometry=geometry, role=TRANSPOSED[role])


def _batch(args, dims, *, geometry: Geometry, role: Part):
    size = next(v.shape[d] for v, d in zip(args, dims, strict=True) if d is not None)
    first = lambda v, d: jnp.broadcast_to(v, (size, *v.shape)) if d is None else jnp.moveaxis(v, d, 0)
    args = [first(v, d) for v, d in zip(args, dims, strict=True)]
    if size == 0:
        y = jax.eval_shape(functools.partial(_run, geometry=geometry, role=role), *(v[0] for v in args))
        return zeros((0, *y.shape), y.dtype, *args), 0
    args = [v.reshape(size * v.shape[1], *v.shape[2:]) for v in args]
    y = max_p.bind(*alike(*args), geometry=geometry, role=role)
    return y.reshape(size, y.shape[0] // size, *y.shape[1:]), 0


ad.primitive_jvps[max_p] = _jvp
ad.primitive_transposes[max_p] = _transpose
batching.primitive_batchers[max_p] = _batch
