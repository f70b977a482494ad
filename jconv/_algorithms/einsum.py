"""`einsum`: the manual variant, patches and one einsum.

Write patch[b, o, t, c] = x[b, (o s + t d - lo) / q, c], zero where that is no position of x. Then

    y[b, o, g, c]     = sum_{t, i} patch[b, o, t, g, i] kernel[t, i, g, c]
    k_bar[t, i, g, c] = sum_{b, o} patch[b, o, t, g, i] y_bar[b, o, g, c]
    patch_bar         = sum_c y_bar[b, o, g, c] kernel[t, i, g, c],   x_bar = patches^T(patch_bar)

where o and t stand for as many axes as the image has. The first is the definition; T = <y_bar, y> is linear in
each of patch, kernel and y_bar, so the other two are its partial derivatives. Patches are linear in x: x_bar is their
adjoint (col2im), each step of `patches` undone in reverse order by its own adjoint.

Patches of one axis come from one broadcast and two reshapes rather than one slice a tap: k copies of a
row of length n, written one after the other and read back with row length n + d, start d further on in each
copy, so that row t is x[t d:]. The number of operations then does not depend on the window, and neither does the time
to compile.

    Source of the patch-matrix method: Chellapilla, Puri and Simard, "High performance convolutional neural networks for
    document processing", 2006. Its memory is the product of output positions and window.
"""

from __future__ import annotations

import math

import jax
from jax import lax
from jax import numpy as jnp

from .._forecast.work import Copy, Launch, Product, Work
from .._spec import ConvSpec, span
from .base import Algorithm, Call, einsum, grouped, pad


def patches(x: jax.Array, spec: ConvSpec) -> jax.Array:
    """[batch, *spatial, in] to [batch, *output_spatial, *window, in]."""
    for i, axis in enumerate(spec.axes):
        at, (low, high, n) = 1 + i, axis.reach
        x = pad(x, at, (low, high, axis.q - 1))
        if axis.k == 1:  # one tap is the image itself
            x = jnp.expand_dims(lax.slice_in_dim(x, 0, n, axis.s, at), spec.rank + at)
            continue
        head, tail = x.shape[:at], x.shape[at + 1 :]
        x = lax.broadcast_in_dim(x, (*head, axis.k, n, *tail), tuple(j for j in range(x.ndim + 1) if j != at))
        x = pad(x.reshape(*head, axis.k * n, *tail), at, (0, axis.k * axis.d))
        x = x.reshape(*head, axis.k, n + axis.d, *tail)
        x = lax.slice_in_dim(x, 0, span(axis.o, axis.s), axis.s, at + 1)
        x = jnp.moveaxis(x, at, spec.rank + at)  # the taps go behind the spatial axes
    return x


def patches_transpose(p: jax.Array, spec: ConvSpec) -> jax.Array:
    """The adjoint of `patches`: every patch element is added to where it came from."""
    for i, axis in reversed(list(enumerate(spec.axes))):
        at, (low, high, n) = 1 + i, axis.reach
        if axis.k == 1:
            p = pad(jnp.squeeze(p, spec.rank + at), at, (0, 0, axis.s - 1))
        else:
            p = jnp.moveaxis(p, spec.rank + at, at)
            head, tail = p.shape[:at], p.shape[at + 2 :]
            p = pad(p, at + 1, (0, n + axis.d - span(axis.o, axis.s), axis.s - 1))
            p = lax.slice_in_dim(p.reshape(*head, axis.k * (n + axis.d), *tail), 0, axis.k * n, 1, at)
            p = jnp.sum(p.reshape(*head, axis.k, n, *tail), axis=at, dtype=p.dtype)
        p = _unpad(p, at, low, high, axis.q)
    return p


def _unpad(x, axis: int, low: int, high: int, step: int):
    """The adjoint of `pad`: what was added is dropped, what a negative pad cropped is zero."""
    x = pad(x, axis, (max(-low, 0), max(-high, 0)))
    return lax.slice_in_dim(x, max(low, 0), x.shape[axis] - max(high, 0), step, axis)


MAX_RANK = 8


def axis_letters(rank: int) -> tuple[str, str]:
    """Subscripts of the output positions and of the taps, for at most `MAX_RANK` spatial axes."""
    return "opqrstuv"[:rank], "klmnwxyz"[:rank]


def _letters(spec: ConvSpec) -> tuple[str, str, str]:
    """Subscripts of patch, kernel and y, with the channels split into g groups."""
    space, taps = axis_letters(spec.rank)
    return f"b{space}{taps}gi", f"{taps}igc", f"b{space}gc"


def _join(array: jax.Array) -> jax.Array:
    return array.reshape(*array.shape[:-2], array.shape[-2] * array.shape[-1])


def forward(x, kernel, call: Call):
    groups = call.spec.feature_group_count
    p, k, y = _letters(call.spec)
    return _join(einsum(f"{p},{k}->{y}", grouped(patches(x, call.spec), groups), grouped(kernel, groups), call))


def input_grad(g, kernel, call: Call):
    groups = call.spec.feature_group_count
    p, k, y = _letters(call.spec)
    p_bar = einsum(f"{y},{k}->{p}", grouped(g, groups), grouped(kernel, groups), call)
    return patches_transpose(_join(p_bar), call.spec)


def kernel_grad(x, g, call: Call):
    groups = call.spec.feature_group_count
    p, k, y = _letters(call.spec)
    return _join(einsum(f"{p},{y}->{k}", grouped(patches(x, call.spec), groups), grouped(g, groups), call))


def supports(call: Call) -> str | None:
    if call.spec.rank > MAX_RANK:
        return f"einsum has subscripts for {MAX_RANK} spatial axes, the kernel has {call.spec.rank}"
    return None


def work(call: Call) -> Work:
    spec = call.spec
    batch, groups = math.prod(spec.batch_shape), spec.feature_group_count
    size = math.prod((*spec.output_spatial, *spec.window, spec.in_features)) * batch
    item = (call.accumulator if call.role == "input_grad" else call.dtype).itemsize
    taps, inputs, outputs = math.prod(spec.window), spec.in_features // groups, spec.out_features // groups
    space = math.prod(spec.output_spatial) * batch
    if call.role == "kernel_grad":
        product = Product(taps * inputs, space, outputs, groups, "long einsum")
    elif call.role == "input_grad":
        product = Product(space, outputs, taps * inputs, groups, "einsum")
    else:
        product = Product(space, taps * inputs, outputs, groups, "einsum")
    if taps == 1:
        moved = item * (math.prod(spec.x_shape) + math.prod(spec.output_shape)) if groups > 1 else 0.0
        return Work((product, Copy(moved, kind="einsum"), Launch(2, "einsum")))
    copied = Copy(item * size, size / spec.in_features, "einsum transposed" if call.role == "input_grad" else "einsum")
    return Work((product, copied, Launch(8, "einsum")), workspace=size * item)


ALGORITHM = Algorithm("einsum", forward, input_grad, kernel_grad, supports, work)
