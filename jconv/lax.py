"""The convolutions and pools of `jax.lax`, computed by jconv: the same signatures, defaults, dtypes and errors.

A program that takes its convolutions from jax.lax takes them from here instead, and layer libraries take
`conv_general_dilated` as an argument (Flax: ``nnx.Conv(..., conv_general_dilated=...)``). Each of them is the function
of jax.lax, traced, with the convolution in it replaced as by `jconv.accelerate`: so arguments, results and errors are
lax's own.

>>> import jax.numpy as jnp
>>> conv_general_dilated(jnp.ones((1, 2, 5, 5)), jnp.ones((3, 2, 3, 3)), (2, 2), "SAME").shape
(1, 3, 3, 3)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from ._accelerate import replace


def _drop_in(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`fn(lhs, rhs, ...)` or `fn(operand, ...)` of jax.lax with what it computes replaced; those are its arrays."""
    signature = inspect.signature(fn)
    arrays = [name for name in ("lhs", "rhs", "operand") if name in signature.parameters]

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> jax.Array:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return fn(*args, **kwargs)  # whose own TypeError says what is missing

        start = given.get("init_value")
        if isinstance(start, jax.Array) and not isinstance(start, Tracer):  # else lax cannot see inside what it is
            given["init_value"] = np.asarray(start)

        def plain(*operands: Any) -> jax.Array:
            return fn(**{**given, **dict(zip(arrays, operands, strict=True))})

        return replace(plain)(*(given[name] for name in arrays))

    call.__module__ = __name__  # where pickle finds it
    return call


conv = _drop_in(jax.lax.conv)
"""`jax.lax.conv`: a window with strides over a channels-first image."""
conv_with_general_padding = _drop_in(jax.lax.conv_with_general_padding)
"""`jax.lax.conv_with_general_padding`: the same with pads and both dilations."""
conv_general_dilated = _drop_in(jax.lax.conv_general_dilated)
"""`jax.lax.conv_general_dilated`: any layout, groups, pads and dilations."""
conv_general_dilated_local = _drop_in(jax.lax.conv_general_dilated_local)
"""`jax.lax.conv_general_dilated_local`: a kernel of its own at each position."""
conv_general_dilated_patches = _drop_in(jax.lax.conv_general_dilated_patches)
"""`jax.lax.conv_general_dilated_patches`: the window of each output, as its channels."""
conv_transpose = _drop_in(jax.lax.conv_transpose)
"""`jax.lax.conv_transpose`: the transposed convolution with lax's pads."""
reduce_window = _drop_in(jax.lax.reduce_window)
"""`jax.lax.reduce_window`: the largest, the smallest or the sum of each window; any other operation is lax's."""
