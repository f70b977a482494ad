"""Causal convolution of what comes piece by piece: of a whole, only the last few positions are remembered.

Along the streamed axis output o of a causal convolution reads positions o s + t d - (k - 1) d for taps t < k, so none
later than o s, and of those before a piece that begins at position c only the last (k - 1) d. These are the state:
zeros at first, as the pad of the whole is. With c positions seen, the outputs of a piece of n are those with
c <= o s < c + n; the first of them reads at c + skip, where skip = -c mod s. So beside the past only c mod s matters.
It is static, because it tells how many outputs there are: pieces whose length is a multiple of the stride leave it 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from ._conv import conv
from ._dtypes import as_array
from ._names import named
from ._spec import Padding, integer, padding_per_axis, per_axis, sequence


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StreamState:
    """What a stream remembers of the positions that it has seen.

    Args:
        past: the last (k - 1) d of them, ``[*batch, *spatial, in]``; zeros where there were fewer.
        phase: how many there were, modulo the stride. It is static: part of the tree's structure, not of its leaves.

    Returns:
        A pytree of one array.

    Raises:
        Nothing.

    >>> import jax.numpy as jnp
    >>> stream(jnp.ones((4, 1, 2))).init((8, 1, 1)).past.shape
    (8, 3, 1)

    References:
        The queues of Le Paine et al., "Fast WaveNet generation algorithm", 2016, arXiv:1611.09482.
    """

    past: jax.Array
    phase: int = dataclasses.field(default=0, metadata={"static": True})


class Stream(NamedTuple):
    """A causal convolution, piece by piece.

    `init(input_shape, dtype=None)` gives the state before the first piece, for pieces of that shape, whatever length
    their last spatial axis has. `step(state, x)` gives the state after the piece x, and the outputs that it completes.
    """

    init: Callable[..., StreamState]
    step: Callable[[StreamState, Any], tuple[StreamState, jax.Array]]


@named
def stream(
    kernel: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "CAUSAL",
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    activation: str | None = None,
    precision: Any = None,
    preferred_element_type: Any = None,
    algorithm: Any = "auto",
) -> Stream:
    """A causal convolution that takes its input piece by piece, along the last spatial axis.

    With x = [x_1, x_2, ...] cut anywhere along that axis,

        [y_1, y_2, ...] = conv(x, kernel, bias, padding="CAUSAL"),    state_i, y_i = step(state_{i-1}, x_i).

    Under `jax.shard_map` a state to scan with must vary as the pieces do, by ``jax.lax.pcast(..., to="varying")``.
    A step costs what its own piece does, and a copy of (k - 1) d positions, however many came before. It may be jitted,
    scanned over (``jax.lax.scan(stream.step, state, pieces)``) and differentiated, with respect to the kernel and the
    state too.

    Args:
        kernel: as for `jconv.conv`, with one spatial axis or more.
        bias: ``[out]``, or None.
        strides: step between windows, in elements. A piece completes one output for each multiple of the stride among
            its positions. So pieces of one length give different numbers of outputs where that length is no multiple
            of the stride: each is a program of its own under `jax.jit`, and such pieces cannot be scanned over.
        padding: as for `jconv.conv`, where that of the last axis is ``"CAUSAL"``.
        kernel_dilation: distance between taps, in elements.
        feature_group_count: number of groups.
        activation: as for `jconv.conv`.
        precision: as for `jconv.conv`.
        preferred_element_type: as for `jconv.conv`.
        algorithm: as for `jconv.conv`.

    Returns:
        A `Stream`: the functions ``init(input_shape, dtype=None) -> state`` and ``step(state, x) -> (state, y)``.

    Raises:
        ValueError: for a kernel without a spatial axis, or another padding; in `step`, for pieces that do not fit.
        TypeError: in `step`, for pieces of another dtype than the state's.

    >>> import jax.numpy as jnp
    >>> total = stream(jnp.ones((3, 1, 1)))  # of the last three
    >>> state = total.init((1, 1))
    >>> state, y = total.step(state, jnp.array([[1.0], [2.0]]))
    >>> state, z = total.step(state, jnp.array([[3.0], [4.0], [5.0]]))
    >>> y[:, 0].tolist(), z[:, 0].tolist()
    ([1.0, 3.0], [6.0, 9.0, 12.0])

    References:
        Le Paine et al., "Fast WaveNet generation algorithm", 2016, arXiv:1611.09482.
    """
    kernel = as_array(kernel, "kernel")
    rank = kernel.ndim - 2
    if rank < 1:
        raise ValueError(f"kernel: got shape {kernel.shape}, accepted are one spatial axis or more to stream along.")
    if padding_per_axis(padding, rank)[-1] != "CAUSAL":
        raise ValueError(f"padding: got {padding!r}, accepted is 'CAUSAL', or entries of which the last one is that.")
    options = {
        "strides": strides,
        "padding": padding,
        "kernel_dilation": kernel_dilation,
        "feature_group_count": feature_group_count,
        "activation": activation,
        "precision": precision,
        "preferred_element_type": preferred_element_type,
        "algorithm": algorithm,
    }
    past = positions_before(kernel.shape[:-2], kernel_dilation)

    def init(input_shape: Sequence[int], dtype: Any = None) -> StreamState:
        return empty(input_shape, rank, past, kernel.dtype if dtype is None else dtype)

    def step(state: StreamState, x: jax.typing.ArrayLike) -> tuple[StreamState, jax.Array]:
        return advance(state, x, kernel, bias, options)

    return Stream(init, step)


def positions_before(window: Sequence[int], kernel_dilation: int | Sequence[int]) -> int:
    """How many positions before a piece its outputs read."""
    return (window[-1] - 1) * per_axis(kernel_dilation, len(window), "kernel_dilation")[-1]


def empty(input_shape: Sequence[int], rank: int, past: int, dtype: Any) -> StreamState:
    """The state before the first piece."""
    shape = sequence(input_shape, "input_shape", "integers, [*batch, *spatial, in]")
    if len(shape) < rank + 1:
        raise ValueError(f"input_shape: got {shape}, accepted is [*batch, *spatial, in] with {rank} spatial axes.")
    head, channels = [integer(n, "input_shape", minimum=0) for n in shape[:-2]], integer(shape[-1], "input_shape")
    return StreamState(jnp.zeros((*head, past, channels), dtype))


def advance(
    state: StreamState, x: Any, kernel: jax.Array, bias: Any, options: dict[str, Any]
) -> tuple[StreamState, jax.Array]:
    """The state after a piece, and the outputs that it completes."""
    x, past = as_array(x, "x"), state.past
    if x.ndim != past.ndim or (*x.shape[:-2], x.shape[-1]) != (*past.shape[:-2], past.shape[-1]):
        shape = ", ".join(map(str, (*past.shape[:-2], "n", past.shape[-1])))
        raise ValueError(
            f"x: got shape {x.shape}, accepted by this stream is ({shape}), with any number n of positions."
        )
    if x.dtype != past.dtype:
        raise TypeError(f"x: got dtype {x.dtype}, accepted by this stream is its state's, {past.dtype}.")
    rank = kernel.ndim - 2
    *others, _ = padding_per_axis(options["padding"], rank)
    stride = per_axis(options["strides"], rank, "strides")[-1]
    whole = jnp.concatenate([past, x], axis=-2)
    n, skip = x.shape[-2], -state.phase % stride
    done = n > skip  # whether an output is completed; else some are computed, and cut off
    every: dict[str, Any] = options | {"padding": (*others, (-skip, 0) if done else (0, 1))}
    y = conv(whole, kernel, bias, **every)
    y = y if done else jax.lax.slice_in_dim(y, 0, 0, axis=y.ndim - 2)
    kept = jax.lax.slice_in_dim(whole, n, n + past.shape[-2], axis=whole.ndim - 2)
    return StreamState(kept, (state.phase + n) % stride), y
