"""Networks that take their input piece by piece, with the parameters of those that take it whole."""

from __future__ import annotations

import dataclasses

from .base import Layer, constructor


@constructor
def Streaming(layer: Layer) -> Layer:
    """A causal network that takes its input piece by piece: [f(x_1), f(x_2), ...] = layer([x_1, x_2, ...]).

    Pieces are cut along the last spatial axis, and may have any length. The parameters are those of `layer`, so what
    was trained whole generates step by step; the state has what each convolution must remember of the past
    (`jconv.stream`), beside what the layers have themselves. Both sides are equal up to rounding, since a piece may be
    computed by another algorithm than the whole. What draws or takes means over positions does so over a piece:
    `BatchNorm` in training, `Dropout`. A function in `Activation` is taken at its word that it looks at each position
    alone. The past is in the dtype that input and `param_dtype` have together: cast it with the parameters.

    Args:
        layer: a `Conv` or `DepthwiseConv` with padding ``"CAUSAL"``, or made of such and of layers that look at each
            position alone: `Dense`, `Activation`, `LayerNorm`, `LayerScale`, `BatchNorm` and `Dropout`; in
            `Sequential`, `Residual` and `Parallel`.

    Returns:
        A `Layer` whose `init` takes the shape of a piece, with a number for its batch.

    Raises:
        ValueError: for a layer that looks at later positions, or at all of them.
        TypeError: for something that is no `Layer`.

    >>> import jax
    >>> from jconv.layers import Conv, Residual
    >>> net = Residual(Conv(4, 3, padding="CAUSAL", kernel_dilation=2))
    >>> piecewise = Streaming(net)
    >>> params, state = piecewise.init(jax.random.key(0), (1, 1, 4))
    >>> x = jax.random.normal(jax.random.key(1), (1, 2, 4))
    >>> first, state = piecewise.apply(params, state, x[:, :1])
    >>> second, state = piecewise.apply(params, state, x[:, 1:])
    >>> whole, _ = net.apply(params, {}, x)
    >>> bool(abs(jax.numpy.concatenate([first, second], 1) - whole).max() < 1e-6)
    True

    References:
        Le Paine et al., "Fast WaveNet generation algorithm", 2016, arXiv:1611.09482.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"layer: got {layer!r}, accepted is a Layer.")
    return streamed(layer)


def streamed(layer: Layer) -> Layer:
    """The form of a layer that takes pieces."""
    if layer.epilogue is None or layer.epilogue.streamed is None:
        raise ValueError(
            f"layer: got {layer.kind}, which looks at more than one position; accepted by Streaming are Conv and "
            "DepthwiseConv with padding='CAUSAL', and what looks at each position alone. A layer of your own says how "
            "it takes pieces in its epilogue: Epilogue(apply, streamed=...)."
        )
    return dataclasses.replace(layer.epilogue.streamed(layer), name=layer.name)
