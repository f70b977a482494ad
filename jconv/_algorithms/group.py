"""`group`: several small groups become one larger group whose kernel is block-diagonal.

With r groups in one, k'[t, (a, i), (h, b, c)] = k[t, i, (h, b, c)] where a = b, else 0: group a's inputs meet only
group a's outputs, so y, and with it T, is unchanged. The products grow r-fold, but a matrix product with few columns
leaves most of a vector unit idle, and XLA runs one loop a group. The kernel's gradient is the diagonal of the other
kernel's.

    Source: a direct sum of matrices is a block-diagonal matrix; grouped convolution is from Krizhevsky, Sutskever and
    Hinton, "ImageNet classification with deep convolutional neural networks", 2012.
"""

from __future__ import annotations

import math

import jax
from jax import numpy as jnp

from .._forecast.work import Copy, Launch, Work
from .._spec import ConvSpec
from .base import Call, Map, Reduced, Reduction, divisor, to_rank

CHANNELS = 64  # of a group, after joining


def _joined(spec: ConvSpec) -> int:
    """Groups in one."""
    groups = spec.feature_group_count
    widest = max(spec.in_features, spec.out_features) // groups
    return divisor(groups, max(1, CHANNELS // widest))


def _place(kernel: jax.Array, spec: ConvSpec, r: int):
    kernel = kernel.reshape(
        *spec.window, 1, spec.kernel_shape[-2], -1, r, spec.out_features // spec.feature_group_count
    )
    same = to_rank(jnp.eye(r, dtype=bool)[:, None, None, :, None], kernel.ndim)
    kernel = jnp.where(same, kernel, jnp.zeros((), kernel.dtype))
    return kernel.reshape(*spec.window, r * spec.kernel_shape[-2], spec.out_features)


def _diagonal(kernel: jax.Array, spec: ConvSpec, r: int):
    kernel = kernel.reshape(
        *spec.window, r, spec.kernel_shape[-2], -1, r, spec.out_features // spec.feature_group_count
    )
    same = to_rank(jnp.eye(r, dtype=bool)[:, None, None, :, None], kernel.ndim)
    kernel = jnp.sum(jnp.where(same, kernel, jnp.zeros((), kernel.dtype)), axis=spec.rank, dtype=kernel.dtype)
    return kernel.reshape(spec.kernel_shape)


def reduce(call: Call) -> Reduced:
    spec = call.spec
    r = _joined(spec)
    other = spec.replace(
        kernel_shape=(*spec.window, r * spec.kernel_shape[-2], spec.out_features),
        feature_group_count=spec.feature_group_count // r,
    )
    return Reduced(other, k=Map(lambda k: _place(k, spec, r), lambda k: _diagonal(k, spec, r)), in_rows=True)


def supports(call: Call) -> str | None:
    if _joined(call.spec) == 1:
        return f"group joins small groups up to {CHANNELS} channels, here is nothing to join"
    return None


def work(call: Call) -> Work:
    kernel = math.prod(call.spec.kernel_shape) * _joined(call.spec) * call.accumulator.itemsize
    return Work((Copy(kernel, kind="group"), Launch(1, "group")), workspace=kernel)


REDUCTION = Reduction("group", reduce, supports, work)
