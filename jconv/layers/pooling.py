"""Pools, shapes and activations: layers without parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax

from .. import _pool
from .._algorithms._activations import ACTIVATIONS
from .._names import nearest
from .._spec import ConvSpec, Padding
from .base import Geometry, Layer, alone, constructor, looks_at, sizes, stateless, window_of


def _pool_layer(kind, function, window_shape, strides, padding, ceil_mode, name, **options) -> Layer:
    sizes(window_shape, "window_shape")
    sizes(strides, "strides")

    def fn(x):
        window = window_of(window_shape, x.shape, "window_shape")
        return function(x, window, strides=strides, padding=padding, ceil_mode=ceil_mode, **options)

    def geometry(input_shape):
        window = window_of(window_shape, input_shape, "window_shape")
        each = _pool.windows(input_shape, window, strides, padding, ceil_mode)
        spec = ConvSpec((*input_shape[1:-1], 1), (*window, 1, 1), strides=each.strides, padding=each.reach)
        outputs = math.prod(layer.output_shape(input_shape)[1:])
        return Geometry(connections=outputs * math.prod(window), **looks_at(spec.axes))

    layer = stateless(fn, kind, name, geometry)
    return layer


@constructor
def MaxPool(
    window_shape: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    name: str | None = None,
) -> Layer:
    """The largest element of each window: y[b, o, c] = max_t x[b, o s + t, c].

    Args:
        window_shape: the window; one integer, or one for each spatial axis.
        strides: step between windows; by default the window.
        padding: as for `jconv.max_pool`.
        ceil_mode: as for `jconv.max_pool`.
        name: in a `Sequential`.

    Returns:
        A `Layer` without parameters; its input has one batch axis.

    Raises:
        ValueError: in apply, for sizes that do not fit.

    >>> MaxPool(2).output_shape((-1, 28, 28, 6))
    (-1, 14, 14, 6)

    References:
        `jconv.max_pool`.
    """
    return _pool_layer("MaxPool", _pool.max_pool, window_shape, strides, padding, ceil_mode, name)


@constructor
def AvgPool(
    window_shape: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    name: str | None = None,
) -> Layer:
    """The mean of each window: y[b, o, c] = (1 / count) sum_t x[b, o s + t, c].

    Args:
        window_shape: the window; one integer, or one for each spatial axis.
        strides: step between windows; by default the window.
        padding: as for `jconv.avg_pool`.
        ceil_mode: as for `jconv.avg_pool`.
        count_include_pad: as for `jconv.avg_pool`.
        name: in a `Sequential`.

    Returns:
        A `Layer` without parameters; its input has one batch axis.

    Raises:
        ValueError: in apply, for sizes that do not fit.

    >>> AvgPool(2).output_shape((-1, 28, 28, 6))
    (-1, 14, 14, 6)

    References:
        `jconv.avg_pool`.
    """
    return _pool_layer(
        "AvgPool", _pool.avg_pool, window_shape, strides, padding, ceil_mode, name, count_include_pad=count_include_pad
    )


@constructor
def GlobalAvgPool(*, name: str | None = None) -> Layer:
    """The mean of each channel over all positions: y[b, c] = mean_o x[b, o, c].

    Args:
        name: in a `Sequential`.

    Returns:
        A `Layer` without parameters; its input has one batch axis.

    Raises:
        Nothing.

    >>> GlobalAvgPool().output_shape((-1, 7, 7, 40))
    (-1, 40)

    References:
        `jconv.global_avg_pool`.
    """
    return stateless(_pool.global_avg_pool, "GlobalAvgPool", name)


@constructor
def GlobalMaxPool(*, name: str | None = None) -> Layer:
    """The largest element of each channel over all positions: y[b, c] = max_o x[b, o, c].

    Args:
        name: in a `Sequential`.

    Returns:
        A `Layer` without parameters; its input has one batch axis.

    Raises:
        Nothing.

    >>> GlobalMaxPool().output_shape((-1, 296, 111))
    (-1, 111)

    References:
        `jconv.global_max_pool`.
    """
    return stateless(_pool.global_max_pool, "GlobalMaxPool", name)


@constructor
def Flatten(*, name: str | None = None) -> Layer:
    """All axes but the first in one: y[b, (h W + w) C + c] = x[b, h, w, c].

    Args:
        name: in a `Sequential`.

    Returns:
        A `Layer` without parameters.

    Raises:
        Nothing.

    >>> Flatten().output_shape((-1, 7, 7, 40))
    (-1, 1960)

    References:
        The order is that of NHWC images in Keras and Flax; PyTorch's NCHW flattens channels first.
    """
    return stateless(lambda x: x.reshape(x.shape[0], math.prod(x.shape[1:])), "Flatten", name)


_ACTIVATIONS: dict[str, Callable] = {
    name: getattr(jax.nn, name)
    for name in ("relu", "relu6", "sigmoid", "tanh", "softmax", "log_softmax", "gelu", "silu", "elu", "softplus",
                 "leaky_relu", "hard_swish", "identity")
}  # fmt: skip


@constructor
def Activation(function: Callable[[jax.Array], jax.Array] | str, *, name: str | None = None) -> Layer:
    """Applies a function to each element (softmax: to each row): y = f(x).

    Args:
        function: the function, or the name of one in `jax.nn`.
        name: in a `Sequential`.

    Returns:
        A `Layer` without parameters.

    Raises:
        ValueError: for an unknown name.
        TypeError: for something that is neither a name nor a function.

    >>> Activation("relu").apply({}, {}, jax.numpy.array([-1.0, 2.0]))[0]
    Array([0., 2.], dtype=float32)

    References:
        `jax.nn`.
    """
    if isinstance(function, str):
        if function not in _ACTIVATIONS:
            raise ValueError(f"function: got {function!r}, {nearest(function, _ACTIVATIONS)}")
        function = _ACTIVATIONS[function]
    if not callable(function):
        raise TypeError(f"function: got {function!r}, accepted is a function, {nearest(function, _ACTIVATIONS)}")
    kind = getattr(function, "__name__", "Activation")
    own = next((name for name in ACTIVATIONS if function is getattr(jax.nn, name)), None)
    return stateless(function, kind, name, activation=own, streamed=alone)
