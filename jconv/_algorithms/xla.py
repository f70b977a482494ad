"""`xla`: every role as one `lax.conv_general_dilated`.

The gradients are convolutions themselves; `jconv._spec` derives their geometry (`ConvSpec.input_grad_spec` and
`Axis.kernel_grad_padding`).
"""

from __future__ import annotations

from jax import lax
from jax import numpy as jnp

from .base import Algorithm, Call


def _conv(lhs, rhs, call: Call, layout, *, padding, lhs_dilation, **options):
    # On accelerators a 16-bit convolution sums in float32 inside; asking for a float32 result as well would only
    # take it off the library's 16-bit kernels. XLA on CPU sums in the result's dtype, so there it is asked for.
    inside = call.platform in ("cuda", "rocm", "tpu") and call.dtype == call.out_dtype and not call.is_integer
    if call.platform == "cpu":
        lhs, padding, lhs_dilation = _padded_beforehand(lhs, layout[0][2:], padding, lhs_dilation)
    return lax.conv_general_dilated(
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


def _last(rank):
    """[batch, *spatial, channels], written as lax wants it: batch axis, channel axis, spatial axes."""
    return (0, rank + 1, *range(1, rank + 1))


def _forward_spec(x, kernel, spec, call: Call):
    r = spec.rank
    return _conv(
        x,
        kernel,
        call,
        (_last(r), (r + 1, r, *range(r)), _last(r)),
        window_strides=spec.strides,
        padding=spec.padding,
        lhs_dilation=spec.input_dilation,
        rhs_dilation=spec.kernel_dilation,
        feature_group_count=spec.feature_group_count,
    )


def forward(x, kernel, call: Call):
    return _forward_spec(x, kernel, call.spec, call)


def input_grad(g, kernel, call: Call):
    """The adjoint convolution: window reversed, the channels of each group exchanged."""
    spec = call.spec
    groups, r = spec.feature_group_count, spec.rank
    kernel = lax.rev(kernel, tuple(range(r)))
    kernel = kernel.reshape(*spec.window, -1, groups, spec.out_features // groups)  # [*window, i, g, o]
    kernel = lax.transpose(kernel, (*range(r), r + 2, r + 1, r)).reshape(spec.input_grad_spec.kernel_shape)
    return _forward_spec(g, kernel, spec.input_grad_spec, call)


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


def workspace(call: Call) -> int:
    return 0  # what the library behind XLA takes is its own; jconv allocates nothing


ALGORITHM = Algorithm("xla", forward, input_grad, kernel_grad, supports, workspace)
