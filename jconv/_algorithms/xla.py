"""`xla`: every role as one `lax.conv_general_dilated`.

The gradients are convolutions themselves; `jconv._spec` derives their geometry (`ConvSpec.input_grad_spec` and
`Axis.kernel_grad_padding`).
"""

from __future__ import annotations

from jax import lax
from jax import numpy as jnp
from jax.lib import __version__ as jaxlib_version  # type: ignore

from .._forecast.work import Convolution, Work
from .base import Algorithm, Call, exchanged

# Lax's own, held on to: a program may put jconv.lax's in the place of `jax.lax.conv_general_dilated`.
conv_general_dilated = lax.conv_general_dilated


MAX_GPU_RANK = 3


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
    """On GPU what the device's library does not know is left to others: XLA aborts the process over some of it."""
    if call.platform in ("cuda", "rocm"):
        if call.spec.rank > MAX_GPU_RANK:
            return f"the libraries of GPUs convolve along at most {MAX_GPU_RANK} axes, the kernel has {call.spec.rank}"
        if call.is_integer:
            return f"the libraries of GPUs convolve floats, not {call.dtype}"
    return None


def work(call: Call) -> Work:
    kind = "integer" if call.is_integer else "plain" if call.out_dtype == call.dtype else "wide"
    return Work((Convolution(call.spec, call.role, kind=kind),))


ALGORITHM = Algorithm("xla", forward, input_grad, kernel_grad, supports, work)
