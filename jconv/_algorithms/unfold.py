"""`unfold`: the taps of the first spatial axis become channels of a convolution with one axis less.

Write x'[(b, o0), p.., (g, t0, i)] = x[b, o0 s + t0 d - lo, p.., (g, i)]: one copy of the image for each tap of the
first axis, every output position of that axis an image of its own. Then

    y[b, o0, o.., c] = sum_{t.., (t0, i)} x'[(b, o0), p(o.., t..), g, (t0, i)] k[(t0), t.., i, g, c]

is a convolution over the remaining axes. The transpose of the copies adds each to where it came from. A 3-D convolution
becomes a 2-D one, which libraries run far better.

    Source: it is the patch-matrix method (see `einsum`) along one axis.
"""

from __future__ import annotations

import functools
import math
import operator

from jax import lax
from jax import numpy as jnp

from .._forecast.work import Copy, Launch, Work
from .._spec import ConvSpec, span
from .base import Call, Map, Reduced, Reduction, pad


def _copies(x, spec: ConvSpec):
    axis, groups = spec.axes[0], spec.feature_group_count
    low, high, _ = axis.reach
    x = pad(x, 1, (low, high))
    x = x.reshape(*x.shape[:-1], groups, -1)
    parts = [lax.slice_in_dim(x, t * axis.d, t * axis.d + span(axis.o, axis.s), axis.s, axis=1) for t in range(axis.k)]
    x = jnp.concatenate(parts, -1)
    return x.reshape(x.shape[0] * axis.o, *x.shape[2:-2], -1)


def _added(x, spec: ConvSpec):
    axis, groups = spec.axes[0], spec.feature_group_count
    x = x.reshape(-1, axis.o, *x.shape[1:-1], groups, axis.k, spec.in_features // groups)
    low, high, length = axis.reach
    parts = []
    for t in range(axis.k):
        part = x[..., t, :].reshape(*x.shape[:-3], -1)
        start = t * axis.d
        parts.append(pad(part, 1, (start, length - start - span(axis.o, axis.s), axis.s - 1)))
    return pad(functools.reduce(operator.add, parts), 1, (-low, -high))


def _joined(kernel, spec: ConvSpec):
    return jnp.moveaxis(kernel, 0, -3).reshape(*spec.window[1:], -1, spec.out_features)


def _separated(kernel, spec: ConvSpec):
    kernel = kernel.reshape(*spec.window[1:], spec.window[0], *spec.kernel_shape[-2:])
    return jnp.moveaxis(kernel, -3, 0)


def reduce(call: Call) -> Reduced:
    spec = call.spec
    first, rest = spec.axes[0], spec.axes[1:]
    batch, groups = spec.batch_shape[0], spec.feature_group_count
    other = ConvSpec(
        (batch * first.o, *spec.spatial[1:], spec.in_features * first.k),
        (*spec.window[1:], spec.kernel_shape[-2] * first.k, spec.out_features),
        strides=[a.s for a in rest],
        padding=[(a.lo, a.hi) for a in rest],
        input_dilation=[a.q for a in rest],
        kernel_dilation=[a.d for a in rest],
        feature_group_count=groups,
    )
    return Reduced(
        other,
        x=Map(lambda x: _copies(x, spec), lambda x: _added(x, spec)),
        k=Map(lambda k: _joined(k, spec), lambda k: _separated(k, spec)),
        y=Map(
            lambda y: y.reshape(-1, *y.shape[2:]),
            lambda y: y.reshape(-1, first.o, *y.shape[1:]),
        ),
        in_rows=True,
    )


def supports(call: Call) -> str | None:
    if call.spec.rank == 0:
        return "unfold takes a spatial axis away, the kernel has none"
    if call.spec.axes[0].q > 1:
        return "unfold takes no input dilation along the first axis; swap first"
    return None


def work(call: Call) -> Work:
    spec = call.spec
    axis = spec.axes[0]
    copies = math.prod(spec.batch_shape) * axis.o * math.prod(spec.spatial[1:]) * axis.k * spec.in_features
    item = (call.accumulator if call.role == "input_grad" else call.dtype).itemsize
    if axis.k == axis.s == 1 and axis.lo == axis.hi == 0:
        return Work()  # positions become images, which is how they lie in memory
    kept = copies + (0 if call.role == "input_grad" else math.prod(spec.x_shape))
    if call.role == "forward":
        kept += math.prod(spec.output_shape)
    kind = "unfold transposed" if call.role == "input_grad" else "unfold"
    runs = copies / spec.in_features * spec.feature_group_count
    return Work((Copy(copies * item, runs, kind), Launch(1, kind)), workspace=kept * item)


REDUCTION = Reduction("unfold", reduce, supports, work, local=True)
