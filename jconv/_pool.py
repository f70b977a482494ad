"""Pools: one number for each window of each channel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from ._algorithms.base import accumulator
from ._conv import automatic, explicit_axes
from ._dtypes import FLOATS, INTEGERS, as_array, check_dtype
from ._names import named
from ._partition.layout import named_entries
from ._spec import Axis, Padding, padding_per_axis, per_axis, resolve_padding, sequence
from ._windows import Monoid, best, never, total

REALS = tuple(name for name in (*FLOATS, *INTEGERS) if not name.startswith("complex"))


class Windows(NamedTuple):
    """Window, strides and pads of the spatial axes; `over` is how far the last window hangs over the high pad."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    over: tuple[int, ...]

    @property
    def reach(self) -> tuple[tuple[int, int], ...]:
        """The pads, with what the last window hangs over."""
        return tuple((low, high + over) for (low, high), over in zip(self.padding, self.over, strict=True))

    def axes(self, x: jax.Array, padding: Sequence[tuple[int, int]]) -> dict[int, Axis]:
        """The windows along each axis of [*batch, *spatial, channels]."""
        first = x.ndim - len(self.window) - 1
        each = enumerate(zip(self.window, self.strides, padding, strict=True), first)
        return {dim: Axis(x.shape[dim], k, s, low, high, 1, 1) for dim, (k, s, (low, high)) in each}

    def over_each(self, x: jax.Array, monoid: Monoid, padding: Sequence[tuple[int, int]]) -> jax.Array:
        """The best element or the sum of every window."""
        if all(isinstance(n, int) and n > 0 for n in x.shape):
            axes = self.axes(x, padding)
            return total(x, axes) if monoid == "add" else best(x, axes, monoid)
        return self.by_lax(x, monoid, padding)  # nothing, or of symbolic size

    def by_lax(self, x: jax.Array, monoid: Monoid, padding: Sequence[tuple[int, int]]) -> jax.Array:
        """The same by lax alone."""
        ones, op = (1,) * (x.ndim - len(self.window) - 1), {"add": lax.add, "max": lax.max, "min": lax.min}[monoid]
        windows = (*ones, *self.window, 1), (*ones, *self.strides, 1), (*((0, 0) for _ in ones), *padding, (0, 0))
        return lax.reduce_window(x, never(x.dtype, monoid), op, *windows)

    def sharded(self, run: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        """`run(x)`, where the axes of a mesh are explicit sharded as x is."""
        mesh = jax.typeof(x).sharding.mesh
        if not explicit_axes(mesh):
            return run(x)
        sizes = {dim: axis.o for dim, axis in self.axes(x, self.reach).items()}
        for dim, names in enumerate(named_entries(jax.typeof(x).sharding.spec, x.ndim)):
            size = sizes.get(dim, x.shape[dim])
            if size % math.prod(mesh.shape[name] for name in names):
                raise ValueError(
                    f"x: got {jax.typeof(x)}, of which {size} windows do not divide over {names}; accepted is an x "
                    "that is not sharded there (jax.sharding.reshard)."
                )
        return automatic(run, mesh, jax.typeof(x).sharding)(x)


def windows(
    shape: tuple[int, ...], window_shape: Any, strides: Any, padding: Padding, ceil_mode: bool = False
) -> Windows:
    """The windows of an x of this shape, each of which meets the image, if there is one."""
    entries = sequence(window_shape, "window_shape")
    window = per_axis(entries, len(entries), "window_shape")
    rank = len(window)
    if len(shape) < rank + 1:
        raise ValueError(
            f"x: got shape {shape}, accepted is [*batch, *spatial, channels] with {rank} spatial axes, as many as "
            f"window_shape {window} has."
        )
    steps = window if strides is None else per_axis(strides, rank, "strides")
    if not isinstance(ceil_mode, bool):
        raise ValueError(f"ceil_mode: got {ceil_mode!r}, accepted is True or False.")
    entries, first = padding_per_axis(padding, rank), len(shape) - rank - 1
    pads, over = [], []
    for i in range(rank):
        size = shape[first + i]
        low, high = resolve_padding(entries[i], size, window[i], steps[i])
        if not 0 <= min(low, high) <= max(low, high) < window[i]:
            raise ValueError(
                f"padding: got {(low, high)} along spatial axis {i}; accepted for a window of {window[i]} are pads of "
                f"0 to {window[i] - 1}, since a window of padding alone has no value."
            )
        beyond = 0
        if ceil_mode and size:
            last = -(-(size + low + high - window[i]) // steps[i]) * steps[i]  # where the last window would start
            last -= steps[i] * (last >= size + low)
            beyond = max(0, last + window[i] - size - low - high)
        if size and size + low + high + beyond < window[i]:
            raise ValueError(
                f"window_shape: got {window[i]} along spatial axis {i}, where x of shape {shape} has {size} elements "
                f"and padding {(low, high)}; accepted is at most {size + low + high}."
            )
        pads.append((low, high))
        over.append(beyond)
    return Windows(window, steps, tuple(pads), tuple(over))


@named
def max_pool(
    x: jax.typing.ArrayLike,
    window_shape: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
) -> jax.Array:
    """The largest element of each window: y[b, o, c] = max_t x[b, o s + t - lo, c].

    Args:
        x: ``[*batch, *spatial, channels]``.
        window_shape: the window, one size for each spatial axis, in elements.
        strides: step between windows; by default the window, so that windows do not overlap.
        padding: as for `jconv.conv`; what is added never wins.
        ceil_mode: whether a last window may hang over the end; it starts inside the image or the low pad, and takes
            what is there.

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
    each = windows(x.shape, window_shape, strides, padding, ceil_mode)
    wide = x.dtype if jnp.issubdtype(x.dtype, jnp.integer) else accumulator(x.dtype)  # of the sums in its gradient
    return each.sharded(lambda x: each.over_each(x.astype(wide), "max", each.reach).astype(x.dtype), x)


@named
def avg_pool(
    x: jax.typing.ArrayLike,
    window_shape: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    """The mean of each window: y[b, o, c] = (1 / count) sum_t x[b, o s + t - lo, c].

    Args:
        x: ``[*batch, *spatial, channels]``; 16-bit floats are summed in float32.
        window_shape: the window, one size for each spatial axis, in elements.
        strides: step between windows; by default the window, so that windows do not overlap.
        padding: as for `jconv.conv`; what is added is zeros.
        ceil_mode: whether a last window may hang over the end; it starts inside the image or the low pad, and takes
            what is there.
        count_include_pad: whether padding counts; if not, the divisor is the number of elements of x in the window.
            What lies beyond the padding, where a window hangs over, never counts.

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
    each = windows(x.shape, window_shape, strides, padding, ceil_mode)
    wide, rank = accumulator(x.dtype), len(each.window)
    totals = each.sharded(lambda x: each.over_each(x.astype(wide), "add", each.reach), x)
    if count_include_pad and not any(each.over):
        return (totals / np.asarray(math.prod(each.window), wide)).astype(x.dtype)
    space, pads = x.shape[-rank - 1 : -1], each.reach
    if count_include_pad:
        space = [n + low + high for n, (low, high) in zip(space, each.padding, strict=True)]
        pads = [(0, beyond) for beyond in each.over]
    ones = jnp.ones((*(1,) * (x.ndim - rank - 1), *space, 1), wide)
    return (totals / each.over_each(ones, "add", pads)).astype(x.dtype)


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
