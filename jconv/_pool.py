"""Pools: one number for each window of each channel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from ._algorithms.base import accumulator
from ._dtypes import FLOATS, INTEGERS, as_array, check_dtype
from ._names import named
from ._spec import Padding, padding_per_axis, per_axis, resolve_padding, sequence

REALS = tuple(name for name in (*FLOATS, *INTEGERS) if not name.startswith("complex"))


def _windows(x, window_shape, strides, padding):
    """Window, strides and pads for all axes of x, and checks that every window meets the image."""
    entries = sequence(window_shape, "window_shape")
    window = per_axis(entries, len(entries), "window_shape")
    rank = len(window)
    if x.ndim < rank + 1:
        raise ValueError(
            f"x: got shape {x.shape}, accepted is [*batch, *spatial, channels] with {rank} spatial axes, as many as "
            f"window_shape {window} has."
        )
    steps = window if strides is None else per_axis(strides, rank, "strides")
    entries, first = padding_per_axis(padding, rank), x.ndim - rank - 1
    pads = []
    for i in range(rank):
        size = x.shape[first + i]
        low, high = resolve_padding(entries[i], size, window[i], steps[i])
        if not 0 <= min(low, high) <= max(low, high) < window[i]:
            raise ValueError(
                f"padding: got {(low, high)} along spatial axis {i}; accepted for a window of {window[i]} are pads of "
                f"0 to {window[i] - 1}, since a window of padding alone has no value."
            )
        if size + low + high < window[i]:
            raise ValueError(
                f"window_shape: got {window[i]} along spatial axis {i}, where x of shape {x.shape} has {size} elements "
                f"and padding {(low, high)}; accepted is at most {size + low + high}."
            )
        pads.append((low, high))
    ones = (1,) * first
    return (*ones, *window, 1), (*ones, *steps, 1), (*[(0, 0)] * first, *pads, (0, 0))


@named
def max_pool(
    x: jax.typing.ArrayLike,
    window_shape: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> jax.Array:
    """The largest element of each window: y[b, o, c] = max_t x[b, o s + t - lo, c].

    Args:
        x: ``[*batch, *spatial, channels]``.
        window_shape: the window, one size for each spatial axis, in elements.
        strides: step between windows; by default the window, so that windows do not overlap.
        padding: as for `jconv.conv`; what is added never wins.

    Returns:
        ``[*batch, *output_spatial, channels]``. The gradient goes to the first largest element of a window.

    Raises:
        ValueError: for sizes that do not fit; the message names the argument.
        TypeError: for complex numbers, which have no order.

    >>> import jax.numpy as jnp
    >>> max_pool(jnp.array([1.0, 3.0, 2.0, 5.0]).reshape(4, 1), (2,))[:, 0]
    Array([3., 5.], dtype=float32)

    References:
        Ranzato et al., "Unsupervised learning of invariant feature hierarchies", CVPR 2007. Arguments as in
        ``flax.linen.max_pool``, but for the default of `strides`, which is that of Keras and PyTorch.
    """
    x = as_array(x, "x")
    check_dtype(x.dtype, "x", REALS)
    dims, steps, pads = _windows(x, window_shape, strides, padding)
    lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return lax.reduce_window(x, np.asarray(lowest, x.dtype), lax.max, dims, steps, pads)


@named
def avg_pool(
    x: jax.typing.ArrayLike,
    window_shape: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    """The mean of each window: y[b, o, c] = (1 / count) sum_t x[b, o s + t - lo, c].

    Args:
        x: ``[*batch, *spatial, channels]``; 16-bit floats are summed in float32.
        window_shape: the window, one size for each spatial axis, in elements.
        strides: step between windows; by default the window, so that windows do not overlap.
        padding: as for `jconv.conv`; what is added is zeros.
        count_include_pad: whether padding counts; if not, the divisor is the number of elements of x in the window.

    Returns:
        ``[*batch, *output_spatial, channels]``.

    Raises:
        ValueError: for sizes that do not fit; the message names the argument.
        TypeError: for integers, whose mean is none.

    >>> import jax.numpy as jnp
    >>> avg_pool(jnp.array([1.0, 3.0, 2.0, 5.0]).reshape(4, 1), (2,))[:, 0]
    Array([2. , 3.5], dtype=float32)

    References:
        LeCun et al., "Gradient-based learning applied to document recognition", 1998 (there followed by a weight and
        a bias). Arguments as in ``flax.linen.avg_pool``, but for the default of `strides`.
    """
    x = as_array(x, "x")
    check_dtype(x.dtype, "x", FLOATS)
    dims, steps, pads = _windows(x, window_shape, strides, padding)
    wide = x.astype(accumulator(x.dtype))
    total = lax.reduce_window(wide, np.zeros((), wide.dtype), lax.add, dims, steps, pads)
    if count_include_pad:
        return (total / np.asarray(math.prod(dims), wide.dtype)).astype(x.dtype)
    ones = jnp.ones((1,) * (x.ndim - len(window_shape) - 1) + x.shape[-len(window_shape) - 1 : -1] + (1,), wide.dtype)
    count = lax.reduce_window(ones, np.zeros((), wide.dtype), lax.add, dims, steps, pads)
    return (total / count).astype(x.dtype)


@named
def global_avg_pool(x: jax.typing.ArrayLike, *, rank: int | None = None) -> jax.Array:
    """The mean of each channel over all positions: y[b, c] = mean_o x[b, o, c].

    Args:
        x: ``[*batch, *spatial, channels]``; 16-bit floats are summed in float32.
        rank: number of spatial axes; by default all but the first and the last.

    Returns:
        ``[*batch, channels]``.

    Raises:
        ValueError: for a rank that x does not have.
        TypeError: for integers, whose mean is none.

    >>> import jax.numpy as jnp
    >>> global_avg_pool(jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[3., 4.]], dtype=float32)

    References:
        Lin, Chen and Yan, "Network in network", 2014, arXiv:1312.4400.
    """
    x = as_array(x, "x")
    check_dtype(x.dtype, "x", FLOATS)
    return jnp.mean(x, axis=_all_positions(x, rank), dtype=accumulator(x.dtype)).astype(x.dtype)


@named
def global_max_pool(x: jax.typing.ArrayLike, *, rank: int | None = None) -> jax.Array:
    """The largest element of each channel over all positions: y[b, c] = max_o x[b, o, c].

    Args:
        x: ``[*batch, *spatial, channels]``.
        rank: number of spatial axes; by default all but the first and the last.

    Returns:
        ``[*batch, channels]``. The gradient is shared equally between equal largest elements.

    Raises:
        ValueError: for a rank that x does not have, or an x without positions.
        TypeError: for complex numbers, which have no order.

    >>> import jax.numpy as jnp
    >>> global_max_pool(jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[6., 7.]], dtype=float32)

    References:
        Oquab et al., "Is object localization for free?", CVPR 2015; Kim, "Convolutional neural networks for
        sentence classification", 2014, arXiv:1408.5882 (max over time).
    """
    x = as_array(x, "x")
    check_dtype(x.dtype, "x", REALS)
    axes = _all_positions(x, rank)
    if not all(x.shape[axis] for axis in axes):
        raise ValueError(f"x: got shape {x.shape}, accepted is at least one position, since none has no maximum.")
    return jnp.max(x, axis=axes)


def _all_positions(x, rank: int | None) -> tuple[int, ...]:
    rank = x.ndim - 2 if rank is None else rank
    if not 0 <= rank <= x.ndim - 1:
        raise ValueError(f"rank: got {rank} for x of shape {x.shape}, accepted is 0 to {x.ndim - 1}.")
    return tuple(range(x.ndim - 1 - rank, x.ndim - 1))
