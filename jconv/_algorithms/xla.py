"""`xla`: every role as one `lax.conv_general_dilated`.

The gradients are convolutions themselves; `jconv._spec` derives their geometry (`ConvSpec.input_grad_spec` and
`Axis.kernel_grad_padding`).
"""

from __future__ import annotations

import math

from jax import lax
from jax import numpy as jnp
from jax.lib import __version__ as jaxlib_version  # type: ignore

from .base import Algorithm, Call, Work, exchanged, matmul_work

# Lax's own, held on to: a program may put jconv.lax's in the place of `jax.lax.conv_general_dilated`.
conv_general_dilated = lax.conv_general_dilated


def _conv(lhs, rhs, call: Call, layout, *, padding, lhs_dilation, **options):
    # On accelerators a 16-bit convolution sums in float32 inside; asking for a float32 result as well would only
    # take it off the library's 16-bit kernels. XLA on CPU sums in the result's dtype, so there it is asked for.
    inside = call.platform in ("cuda", "rocm", "tpu") and call.dtype == call.out_dtype and not call.is_integer
    if call.platform == "cpu":
        lhs, padding, lhs_dilation = _padded_beforehand(lhs, layout[0][2:], padding, lhs_dilation)
    return conv_general_dilated(
        lhs,
        rhs,
        precision=call.precision,
        preferred_element_type=None if inside else call.accumulator,
        dimension_numbers=lax.ConvDimensionNumbers(*layout),
        padding=padding,
        lhs_dilation=lhs_dilation,
        **options,
    )


def _padded_beforehand(lhs, axes, padding, dilation):
    """Carries out the pads of axes that are cropped on one side and padded on the other.

    XLA on CPU gives wrong numbers for some of these in jaxlib 0.10.0 to 0.10.2 (lax shows it: length 9, window 4, pads
    -3 and 2), and right ones in 0.12. Where both pads have one sign all versions are right.
    """
    config, padding, dilation = [(0, 0, 0)] * lhs.ndim, list(padding), list(dilation)
    for i, axis in enumerate(axes):
        low, high = padding[i]
        if low * high < 0:
            config[axis] = (low, high, dilation[i] - 1)
            padding[i], dilation[i] = (0, 0), 1
    if any(map(any, config)):
        lhs = lax.pad(lhs, jnp.zeros((), lhs.dtype), config)
    return lhs, tuple(padding), tuple(dilation)


def _unpadded_is_slow(spec, call: Call) -> bool:
    """Whether XLA would write out all patches: 2-D, stride 1 and no pads, on CPU in jaxlib 0.10.2 alone.

    With one more position, cut off again, it takes a third of the time (8x58x58x64, window 3: 47 and 14 ms; jaxlib
    0.10.1 and 0.11.0: 8 and 9 ms without and with it).
    """
    plain = all(a.s == a.q == a.d == 1 and a.lo == a.hi == 0 for a in spec.axes)
    return (
        jaxlib_version == "0.10.2"
        and call.platform == "cpu"
        and spec.rank == 2
        and spec.feature_group_count == 1
        and spec.in_features >= 32  # with fewer the cut costs more
        and plain
    )


def _last(rank):
    """[batch, *spatial, channels], written as lax wants it: batch axis, channel axis, spatial axes."""
    return (0, rank + 1, *range(1, rank + 1))


def _forward_spec(x, kernel, spec, call: Call):
    r = spec.rank
    one_more = _unpadded_is_slow(spec, call)
    y = _conv(
        x,
        kernel,
        call,
        (_last(r), (r + 1, r, *range(r)), _last(r)),
        window_strides=spec.strides,
        padding=((0, 0), (0, 1)) if one_more else spec.padding,
        lhs_dilation=spec.input_dilation,
        rhs_dilation=spec.kernel_dilation,
        feature_group_count=spec.feature_group_count,
    )
    return y[:, :, : spec.axes[1].o] if one_more else y


def forward(x, kernel, call: Call):
    return _forward_spec(x, kernel, call.spec, call)


def input_grad(g, kernel, call: Call):
    """The forward pass of the exchanged geometry."""
    reduced = exchanged(call.spec)
    return _forward_spec(g, reduced.k.apply(kernel), reduced.spec, call)


def kernel_grad(x, g, call: Call):
    """x convolved with g, the sum over the batch taking the place of the sum over channels."""
    spec = call.spec
    r = spec.rank
    swapped = (r + 1, 0, *range(1, r + 1))
    return _conv(
        x,
        g,
        call,
        (swapped, swapped, (r, r + 1, *range(r))),
        window_strides=spec.kernel_dilation,
        padding=tuple(axis.kernel_grad_padding for axis in spec.axes),
        lhs_dilation=spec.input_dilation,
        rhs_dilation=spec.strides,
        batch_group_count=spec.feature_group_count,
    )


def supports(call: Call) -> str | None:
    return None


def work(call: Call) -> Work:
    """XLA on CPU: the library's patch products where it has them, and scalar loops for the rest."""
    spec = call.spec
    batch, groups = math.prod(spec.batch_shape), spec.feature_group_count
    inputs, outputs, taps = spec.in_features // groups, spec.out_features // groups, math.prod(spec.window)
    space = math.prod(spec.output_spatial) * batch
    macs = spec.macs * batch
    if call.role == "kernel_grad":
        # A convolution whose window is the whole output. Inserted zeros are multiplied too.
        rows, depth, columns = taps * inputs, space, outputs
        macs *= math.prod(spec.strides)
        if groups > 1:
            return Work(scalar=SCALAR_STEP * macs * (groups if inputs * outputs > 1 else 1), launches=2)
        # Both operands are transposed, then patches are gathered in runs of the batch: so much a run and an element,
        # more where the image does not fit into the cache of a core, and a product of many rows visits it everywhere.
        elements = math.prod(spec.x_shape) + math.prod(spec.output_shape)
        if spec.rank == 1:
            gathered = 0.5 * rows * depth + 2 * elements
        else:
            item = call.dtype.itemsize
            outside = min(1.0, max(0.0, math.prod(spec.x_shape) * item / CORE_CACHE - 0.75)) * min(1.0, rows / 400)
            moved = 1.0 if elements * item < CORE_CACHE else 3.2
            step = 0.7 + min(1.0, batch / 64) + 2.0 * outside + (4.0 if math.prod(spec.strides) > 1 else 0.0)
            gathered = rows * depth * (5.0 / max(1, batch) + step) + moved * elements
        products = matmul_work(rows, depth, 3 * columns) / 3 * (1 if spec.rank <= 2 else 10)
        return Work(products=products, scalar=gathered, launches=2, workspace=elements * call.dtype.itemsize)
    if call.role == "input_grad":
        inputs, outputs, space = outputs, inputs, math.prod(spec.spatial) * batch
        macs = space * taps * inputs * spec.in_features
        steps = math.prod(spec.strides)
    else:
        steps = math.prod(spec.input_dilation)
    results = space * groups * outputs
    if inputs == 1 and groups > 1:
        return Work(scalar=SCALAR_STEP * macs + 20.0 * results, launches=2)
    if groups > 1:
        # One group at a time, and in some versions in loops of its own instead of the library's.
        return Work(scalar=(0.4 * macs + 2.0 * space * taps * groups) / steps, launches=2 + 0.3 * batch * groups)
    if call.is_integer and (spec.rank != 2 or call.dtype.itemsize > 1):
        return Work(scalar=macs / steps, launches=2)  # the library has 8 bits and two axes
    # Along one axis, and with more than one tap, its product is nearest to what the machine can do; without any axis it
    # is a loop in some versions (`matmul` is the one for that).
    factor = (50.0, 0.8, 1.5 if taps == 1 else 1.1)[spec.rank] if spec.rank <= 2 else 8.0
    if spec.rank == 1 and 1 < outputs < 8 and taps * inputs > 64:
        factor *= 8.0  # the library then divides the sum between threads, not the results
    if spec.rank == 1 and spec.kernel_dilation[0] > 1 and taps > 1:
        factor *= 1 + 20 / inputs  # its patches are gathered in runs of the channels
    columns = 3 * outputs if outputs > 1 or spec.rank != 1 else 16
    products = factor * matmul_work(space, taps * inputs, columns) * outputs / columns
    if spec.rank == 2 or outputs == 1:
        products /= max(1, steps) ** 0.75  # its patches leave most inserted zeros out
    # Patches that reach into the padding are gathered element by element.
    pads = (
        [((a.k - 1) * a.d - a.lo, (a.k - 1) * a.d - a.hi) for a in spec.axes]
        if call.role == "input_grad"
        else (spec.padding)
    )
    sizes = spec.spatial if call.role == "input_grad" else spec.output_spatial
    inside = math.prod(max(0, n - max(0, low) - max(0, high)) / n for n, (low, high) in zip(sizes, pads, strict=True))
    gathered = space * taps * (2.0 + 0.3 * inputs * (1 - inside))
    # The kernel is packed anew for each block of results.
    packed = 30 * math.prod(spec.kernel_shape) * call.dtype.itemsize
    return Work(products=products, scalar=gathered / steps, bytes=packed / steps, launches=2)


CORE_CACHE = 2 << 20  # bytes
SCALAR_STEP = 3.0  # of a multiply-add in a loop that recomputes its indices

ALGORITHM = Algorithm("xla", forward, input_grad, kernel_grad, supports, work)
