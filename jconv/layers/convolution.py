"""Layers that convolve, and `Dense`, the convolution without spatial axes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import numpy as jnp

from .. import _conv, _stream, initializers
from .._algorithms._activations import OF_INTEGERS
from .._algorithms.base import promoted
from .._dtypes import as_array, canonical_precision, common_dtype
from .._plan import parsed
from .._spec import ConvSpec, Padding, integer, is_sequence, padding_mode_per_axis, padding_per_axis, per_axis
from .base import (
    Epilogue,
    Geometry,
    Initializer,
    Layer,
    Shape,
    alone,
    array_shape,
    check_dtypes,
    constructor,
    draw,
    looks_at,
    positions,
    sizes,
    take,
    window_of,
)
from .composition import Sequential
from .folding import scaled


def _check_kernel(kind: str, shape: Shape, channels: Shape, kernel_size: int | Sequence[int], x: jax.Array) -> None:
    """ValueError for an x with other axes, or another layer's kernel. Under `jax.vmap` the batch axis is missing."""
    rank = len(shape) - 2
    free = isinstance(kernel_size, Sequence)  # then any number of batch axes is clear
    if x.ndim < rank + 1 or (x.ndim > rank + 2 and not free):
        spatial = {0: "", 1: "length, ", 2: "height, width, ", 3: "depth, height, width, "}.get(rank, "*spatial, ")
        free_by = "" if free else f"; with kernel_size={(kernel_size,) * rank} any number of them is accepted"
        raise ValueError(
            f"x: got shape {x.shape} with {x.ndim} axes, accepted by this {kind}, whose kernel has a window of {rank}, "
            f"is [batch, {spatial}channels] with {rank + 2}, one for the batch. Reshape several batch axes into one, "
            f"or use jax.vmap{free_by}."
        )
    if (free and rank != len(kernel_size)) or shape != (*per_axis(kernel_size, rank, "kernel_size"), *channels):
        raise ValueError(
            f"params: got 'kernel' with window and channels {shape} for an input of shape {x.shape}, accepted by this "
            f"{kind} of kernel_size {kernel_size} are channels {channels}."
        )


def _check_options(kernel_size: Any, geometry: dict[str, Any], options: dict[str, Any], **dtypes: Any) -> None:
    """What can be checked before there is an input."""
    axes = lambda value: len(value) if is_sequence(value) and not isinstance(value, str) else 1
    sizes(kernel_size, "kernel_size")
    for name, value in geometry.items():
        if name == "padding":
            padding_per_axis(value, axes(value))
        else:
            sizes(value, name, minimum=0 if name == "output_padding" else 1)
    mode = options.get("padding_mode", "zeros")
    padding_mode_per_axis(mode, axes(mode))
    parsed(options.get("algorithm", "auto"))
    canonical_precision(options["precision"])
    check_dtypes(**dtypes)


def _operands(dtype: Any, x: Any, kernel: jax.Array, bias: jax.Array | None) -> tuple[Any, Any, Any]:
    """What is convolved, in `dtype`, or in the one that x and the parameters have together."""
    x, kernel = as_array(x, "x"), as_array(kernel, "kernel")
    if dtype is None:
        with jax.numpy_dtype_promotion("standard"):  # by the layer's own rule
            common = common_dtype(x=x, kernel=kernel)
        bias = bias.astype(common) if bias is not None and bias.dtype == kernel.dtype else bias
        return x.astype(common), kernel.astype(common), bias
    for name, array in (("x", x), ("kernel", kernel), ("bias", bias)):
        if array is not None and jnp.iscomplexobj(array) and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"dtype: got {jnp.dtype(dtype)}, accepted for a complex {name} is a complex one.")
    return x.astype(dtype), kernel.astype(dtype), None if bias is None else bias.astype(dtype)


def _make_conv(
    kind: str,
    features: Callable[[int], int],
    groups_of: Callable[[int], int],
    kernel_size: int | Sequence[int],
    *,
    use_bias: bool,
    kernel_init: Initializer,
    bias_init: Initializer,
    dtype: Any,
    param_dtype: Any,
    name: str | None,
    geometry_options: dict[str, Any],
    options: dict[str, Any],
    local: bool = False,
    pieces: bool = False,
) -> Layer:
    """`Conv`, `DepthwiseConv` and `ConvLocal`: they differ in features and groups, known from the channels, alone.

    With `pieces` it is the form of the first two that takes its input piece by piece.
    """
    again = functools.partial(
        _make_conv, kind, features, groups_of, kernel_size, use_bias=use_bias, kernel_init=kernel_init,
        bias_init=bias_init, dtype=dtype, param_dtype=param_dtype, name=name, options=options,
        pieces=True,
    )  # fmt: skip
    _check_options(kernel_size, geometry_options, options, dtype=dtype, param_dtype=param_dtype)

    def spec_of(input_shape: Shape) -> ConvSpec:
        channels = input_shape[-1]
        window, groups = window_of(kernel_size, input_shape, "kernel_size"), groups_of(channels)
        if channels % groups:
            raise ValueError(
                f"feature_group_count: got {groups} for an input of shape {input_shape}, accepted is a divisor of its "
                f"{channels} channels."
            )
        kernel_shape = (*window, channels // groups, features(channels))
        return ConvSpec(input_shape, kernel_shape, feature_group_count=groups, **geometry_options)

    def init(key, input_shape):
        input_shape = array_shape(input_shape)
        spec = spec_of(input_shape)
        shape = (*spec.output_spatial, *spec.kernel_shape) if local else spec.kernel_shape
        k1, k2 = jax.random.split(key)
        fan = {"fan_shape": spec.kernel_shape, "groups": spec.feature_group_count}
        params = {"kernel": draw(kernel_init, k1, shape, param_dtype, **fan)}
        if use_bias:
            bias_shape = (*(spec.output_spatial if local else ()), spec.out_features)
            params["bias"] = draw(bias_init, k2, bias_shape, param_dtype, **fan)
        return params, {"stream": no_past(input_shape, spec)} if pieces else {}

    def no_past(input_shape, spec):
        if spec.rank < 1 or input_shape[0] < 0:
            raise ValueError(
                f"input_shape: got {tuple(input_shape)}, accepted by {kind} in Streaming is [batch, *spatial, "
                "channels] with a spatial axis and a number for the batch, of which each example has a past of its own."
            )
        before = _stream.positions_before(spec.window, spec.kernel_dilation)
        return _stream.empty(input_shape, spec.rank, before, dtype or promoted(input_shape.dtype, param_dtype))

    def apply(params, state, x, *, train=False, key=None, activation=None):
        kernel = take(params, "kernel", kind)
        bias = take(params, "bias", kind) if use_bias else None
        x, kernel, bias = _operands(dtype, x, kernel, bias)
        groups, rank = groups_of(x.shape[-1]), (kernel.ndim - 2) // 2 if local else kernel.ndim - 2
        own = kernel.shape[rank:] if local else kernel.shape
        _check_kernel(kind, own, (x.shape[-1] // groups, features(x.shape[-1])), kernel_size, x)
        if pieces:
            past: Any = take(state, "stream", kind, argument="state")
            every = geometry_options | {"feature_group_count": groups, "activation": activation} | options
            after, y = _stream.advance(past, x, kernel, bias, every)
            return y, {"stream": after}
        # What `jax.nn` makes a float of integers is a step of its own.
        own = activation if activation in OF_INTEGERS or not jnp.issubdtype(x.dtype, jnp.integer) else None
        function = _conv.conv_local if local else functools.partial(_conv.conv, activation=own)
        y = function(x, kernel, bias, feature_group_count=groups, **geometry_options, **options)
        return y if own == activation else getattr(jax.nn, str(activation))(y), state

    def streamed(layer):
        entries: Callable[[Any], tuple[Any, ...]] = lambda value: (
            tuple(value) if is_sequence(value) and not isinstance(value, str) else (value,)
        )
        padding: Any = geometry_options["padding"]
        window: tuple[Any, ...] = entries(kernel_size)
        if not window:
            return layer
        every = padding_per_axis(padding, len(window)) if is_sequence(kernel_size) else entries(padding)
        before = (window[-1] - 1) * entries(geometry_options["kernel_dilation"])[-1]
        causal = ["CAUSAL", (before, 0), *(["SAME", "SAME_LOWER", "VALID", 0] if before == 0 else [])]
        last = every[-1] if isinstance(every[-1], str | int) else tuple(every[-1])
        wrong = {name: value for name, value, only in (
            ("padding_mode", options["padding_mode"], "zeros"),
            ("input_dilation", geometry_options.get("input_dilation", 1), 1),
        ) if set(entries(value)) != {only}}  # fmt: skip
        wrong |= {} if last in causal else {"padding": padding}
        if wrong:
            given = ", ".join(f"{name}={value!r}" for name, value in wrong.items())
            raise ValueError(
                f"layer: got {kind} with {given}, accepted by Streaming is padding='CAUSAL', padding_mode='zeros' and "
                "input_dilation=1: no output may wait for later positions."
            )
        padding = (*every[:-1], "CAUSAL") if len(every) > 1 else "CAUSAL"
        return again(geometry_options=geometry_options | {"padding": padding})

    def geometry(input_shape):
        spec = spec_of(input_shape)
        biases = 0 if use_bias else math.prod(spec.output_spatial) * spec.out_features
        return Geometry(connections=spec.num_connections - biases, macs=spec.macs, **looks_at(spec.axes))

    def scaled_locally(layer, params, slope, offset):
        kernel = params["kernel"]
        places = kernel.shape[: (kernel.ndim - 2) // 2]
        return scaled(layer, params, slope, jnp.broadcast_to(offset, (*places, *offset.shape)))

    epilogue = Epilogue(
        apply,
        takes_activation=not local,
        streamed=None if local else streamed,
        scaled=None if pieces else scaled_locally if local else scaled,
    )
    return Layer(init, apply, name, kind, geometry, epilogue=epilogue)


@constructor
def Conv(
    features: int,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    padding_mode: str | Sequence[str] = "zeros",
    input_dilation: int | Sequence[int] = 1,
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    precision: Any = None,
    algorithm: Any = "auto",
    out_sharding: Any = None,
    name: str | None = None,
) -> Layer:
    """Convolution layer: y = conv(x, kernel) + bias.

    Args:
        features: output channels.
        kernel_size: the window; one integer, or one for each spatial axis.
        strides: as for `jconv.conv`.
        padding: as for `jconv.conv`.
        padding_mode: as for `jconv.conv`.
        input_dilation: as for `jconv.conv`.
        kernel_dilation: as for `jconv.conv`.
        feature_group_count: as for `jconv.conv`.
        use_bias: whether there is a bias.
        kernel_init: initializer of the kernel.
        bias_init: initializer of the bias; one of `jconv.initializers` takes its scale from the kernel's fans.
        dtype: to compute in; by default that of the operands.
        param_dtype: of the parameters.
        precision: as for `jconv.conv`.
        algorithm: as for `jconv.conv`.
        out_sharding: as for `jconv.conv`.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer` with params ``{"kernel": [*window, in // groups, features], "bias": [features]}``.

    Raises:
        ValueError: in init and apply, for shapes that do not fit.

    >>> import jax
    >>> params, state = Conv(12, 3, padding="VALID").init(jax.random.key(0), (-1, 25, 25, 1))
    >>> params["kernel"].shape, params["bias"].shape
    ((3, 3, 1, 12), (12,))

    References:
        Arguments as in ``flax.linen.Conv``; LeCun et al., 1989, for the layer.
    """
    features = integer(features, "features", minimum=1)
    feature_group_count = integer(feature_group_count, "feature_group_count", minimum=1)
    return _make_conv(
        "Conv",
        lambda channels: features,
        lambda channels: feature_group_count,
        kernel_size,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        dtype=dtype,
        param_dtype=param_dtype,
        name=name,
        geometry_options={
            "strides": strides,
            "padding": padding,
            "input_dilation": input_dilation,
            "kernel_dilation": kernel_dilation,
        },
        options={
            "padding_mode": padding_mode,
            "precision": precision,
            "algorithm": algorithm,
            "out_sharding": out_sharding,
        },
    )


@constructor
def DepthwiseConv(
    kernel_size: int | Sequence[int],
    *,
    channel_multiplier: int = 1,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    padding_mode: str | Sequence[str] = "zeros",
    kernel_dilation: int | Sequence[int] = 1,
    use_bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    precision: Any = None,
    algorithm: Any = "auto",
    out_sharding: Any = None,
    name: str | None = None,
) -> Layer:
    """Depthwise convolution: each channel has its own kernels, y[., g m + j] = conv(x[., g], kernel[., g m + j]).

    Args:
        kernel_size: the window; one integer, or one for each spatial axis.
        channel_multiplier: m, the output channels of each input channel.
        strides: as for `jconv.conv`.
        padding: as for `jconv.conv`.
        padding_mode: as for `jconv.conv`.
        kernel_dilation: as for `jconv.conv`.
        use_bias: whether there is a bias.
        kernel_init: initializer of the kernel.
        bias_init: initializer of the bias.
        dtype: to compute in; by default that of the operands.
        param_dtype: of the parameters.
        precision: as for `jconv.conv`.
        algorithm: as for `jconv.conv`.
        out_sharding: as for `jconv.conv`.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer` with params ``{"kernel": [*window, 1, in * m], "bias": [in * m]}``.

    Raises:
        ValueError: in init and apply, for shapes that do not fit.

    >>> import jax
    >>> DepthwiseConv(3, channel_multiplier=2).init(jax.random.key(0), (1, 8, 8, 5))[0]["kernel"].shape
    (3, 3, 1, 10)

    References:
        Sifre, "Rigid-motion scattering for image classification", 2014; Howard et al., MobileNets, 2017,
        arXiv:1704.04861.
    """
    channel_multiplier = integer(channel_multiplier, "channel_multiplier", minimum=1)
    return _make_conv(
        "DepthwiseConv",
        lambda channels: channels * channel_multiplier,
        lambda channels: channels,
        kernel_size,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        dtype=dtype,
        param_dtype=param_dtype,
        name=name,
        geometry_options={"strides": strides, "padding": padding, "kernel_dilation": kernel_dilation},
        options={
            "padding_mode": padding_mode,
            "precision": precision,
            "algorithm": algorithm,
            "out_sharding": out_sharding,
        },
    )


@constructor
def SeparableConv(
    features: int,
    kernel_size: int | Sequence[int],
    *,
    channel_multiplier: int = 1,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    padding_mode: str | Sequence[str] = "zeros",
    kernel_dilation: int | Sequence[int] = 1,
    use_bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    precision: Any = None,
    algorithm: Any = "auto",
    out_sharding: Any = None,
    name: str | None = None,
) -> Layer:
    """Depthwise, then pointwise: y = conv(conv(x, depthwise), pointwise) + bias.

    Args:
        features: output channels.
        kernel_size: the window; one integer, or one for each spatial axis.
        channel_multiplier: channels of the depthwise part for each input channel.
        strides: as for `jconv.conv`.
        padding: as for `jconv.conv`.
        padding_mode: as for `jconv.conv`.
        kernel_dilation: as for `jconv.conv`.
        use_bias: whether there is a bias (on the pointwise part).
        kernel_init: initializer of both kernels.
        bias_init: initializer of the bias.
        dtype: to compute in; by default that of the operands.
        param_dtype: of the parameters.
        precision: as for `jconv.conv`.
        algorithm: as for `jconv.conv`.
        out_sharding: as for `jconv.conv`.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer` with params ``{"depthwise": {"kernel"}, "pointwise": {"kernel", "bias"}}``.

    Raises:
        ValueError: in init and apply, for shapes that do not fit.

    >>> import jax
    >>> params, _ = SeparableConv(16, 3).init(jax.random.key(0), (1, 8, 8, 5))
    >>> params["depthwise"]["kernel"].shape, params["pointwise"]["kernel"].shape
    ((3, 3, 1, 5), (1, 1, 5, 16))

    References:
        Chollet, "Xception", CVPR 2017, arXiv:1610.02357.
    """
    common = {"kernel_init": kernel_init, "bias_init": bias_init, "dtype": dtype, "param_dtype": param_dtype}
    common |= {"precision": precision, "algorithm": algorithm}
    depthwise = DepthwiseConv(
        kernel_size,
        channel_multiplier=channel_multiplier,
        strides=strides,
        padding=padding,
        padding_mode=padding_mode,
        kernel_dilation=kernel_dilation,
        use_bias=False,
        name="depthwise",
        **common,
    )
    pointwise = Conv(features, 1, use_bias=use_bias, name="pointwise", out_sharding=out_sharding, **common)
    return dataclasses.replace(Sequential(depthwise, pointwise), name=name, kind="SeparableConv")


@constructor
def ConvLocal(
    features: int,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    input_dilation: int | Sequence[int] = 1,
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    precision: Any = None,
    name: str | None = None,
) -> Layer:
    """Convolution without weight sharing: y = conv_local(x, kernel) + bias, a kernel for each output position.

    Args:
        features: output channels.
        kernel_size: the window; one integer, or one for each spatial axis.
        strides: as for `jconv.conv_local`.
        padding: as for `jconv.conv_local`.
        input_dilation: as for `jconv.conv_local`.
        kernel_dilation: as for `jconv.conv_local`.
        feature_group_count: as for `jconv.conv_local`.
        use_bias: whether there is a bias, one for each output position and channel.
        kernel_init: initializer of the kernel; fans are those of one position.
        bias_init: initializer of the bias.
        dtype: to compute in; by default that of the operands.
        param_dtype: of the parameters.
        precision: as for `jconv.conv_local`.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer` with params ``{"kernel": [*output_spatial, *window, in // groups, features], "bias":
        [*output_spatial, features]}``.

    Raises:
        ValueError: in init and apply, for shapes that do not fit.

    >>> import jax
    >>> params, _ = ConvLocal(6, 5, padding="VALID").init(jax.random.key(0), (1, 32, 32, 1))
    >>> sum(p.size for p in params.values())
    122304

    References:
        ``LocallyConnected2D`` of Keras 2; LeCun et al., 1998, section II.
    """
    features = integer(features, "features", minimum=1)
    feature_group_count = integer(feature_group_count, "feature_group_count", minimum=1)
    return _make_conv(
        "ConvLocal",
        lambda channels: features,
        lambda channels: feature_group_count,
        kernel_size,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        dtype=dtype,
        param_dtype=param_dtype,
        name=name,
        geometry_options={
            "strides": strides,
            "padding": padding,
            "input_dilation": input_dilation,
            "kernel_dilation": kernel_dilation,
        },
        options={"precision": precision},
        local=True,
    )


@constructor
def ConvTranspose(
    features: int,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    padding_mode: str | Sequence[str] = "zeros",
    output_padding: int | Sequence[int] | None = None,
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    precision: Any = None,
    algorithm: Any = "auto",
    out_sharding: Any = None,
    name: str | None = None,
) -> Layer:
    """Transposed convolution layer: y = conv_transpose(x, kernel) + bias.

    Args:
        features: output channels.
        kernel_size: the window; one integer, or one for each spatial axis.
        strides: as for `jconv.conv_transpose`.
        padding: as for `jconv.conv_transpose`.
        padding_mode: as for `jconv.conv_transpose`.
        output_padding: as for `jconv.conv_transpose`.
        kernel_dilation: as for `jconv.conv_transpose`.
        feature_group_count: as for `jconv.conv_transpose`.
        use_bias: whether there is a bias.
        kernel_init: initializer of the kernel.
        bias_init: initializer of the bias.
        dtype: to compute in; by default that of the operands.
        param_dtype: of the parameters.
        precision: as for `jconv.conv_transpose`.
        algorithm: as for `jconv.conv_transpose`.
        out_sharding: as for `jconv.conv_transpose`.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer` with params ``{"kernel": [*window, features // groups, in], "bias": [features]}``.

    Raises:
        ValueError: in init and apply, for shapes that do not fit.

    >>> import jax
    >>> layer = ConvTranspose(3, 4, strides=2)
    >>> layer.init(jax.random.key(0), (1, 7, 7, 16))[0]["kernel"].shape, layer.output_shape((1, 7, 7, 16))
    ((4, 4, 3, 16), (1, 14, 14, 3))

    References:
        Zeiler et al., "Deconvolutional networks", CVPR 2010. The kernel is that of Keras ``Conv2DTranspose``.
    """
    kind = "ConvTranspose"
    features = integer(features, "features", minimum=1)
    feature_group_count = integer(feature_group_count, "feature_group_count", minimum=1)
    geometry_options = {"strides": strides, "padding": padding, "kernel_dilation": kernel_dilation}
    options = {
        "padding_mode": padding_mode,
        "precision": precision,
        "algorithm": algorithm,
        "out_sharding": out_sharding,
    }
    checked = {**geometry_options, "output_padding": output_padding}
    _check_options(kernel_size, checked, options, dtype=dtype, param_dtype=param_dtype)
    if features % feature_group_count:
        raise ValueError(
            f"feature_group_count: got {feature_group_count}, accepted is a divisor of the {features} features."
        )

    def init(key, input_shape):
        input_shape = array_shape(input_shape)
        window = window_of(kernel_size, input_shape, "kernel_size")
        shape = (*window, features // feature_group_count, input_shape[-1])
        k1, k2 = jax.random.split(key)
        fan = {"fan_shape": shape, "groups": feature_group_count, "transposed": True}
        params = {"kernel": draw(kernel_init, k1, shape, param_dtype, **fan)}
        if use_bias:
            params["bias"] = draw(bias_init, k2, (features,), param_dtype, **fan)
        return params, {}

    def apply(params, state, x, *, train=False, key=None):
        kernel = take(params, "kernel", kind)
        bias = take(params, "bias", kind, (features,)) if use_bias else None
        x, kernel, bias = _operands(dtype, x, kernel, bias)
        _check_kernel(kind, kernel.shape, (features // feature_group_count, x.shape[-1]), kernel_size, x)
        y = _conv.conv_transpose(
            x,
            kernel,
            bias,
            output_padding=output_padding,
            feature_group_count=feature_group_count,
            **geometry_options,
            **options,
        )
        return y, state

    def geometry(input_shape):
        window, out = window_of(kernel_size, input_shape, "kernel_size"), layer.output_shape(input_shape)
        # of the convolution that is transposed: its image is the output here
        spec = ConvSpec(
            out[1:],
            (*window, features // feature_group_count, input_shape[-1]),
            feature_group_count=feature_group_count,
            **geometry_options,
        )
        biases = math.prod(out[1:]) if use_bias else 0
        macs = positions(input_shape) * spec.num_weights  # each element meets the whole window
        return Geometry(connections=macs + biases, macs=macs, **looks_at(spec.axes, transposed=True))

    def scaled_transposed(layer, params, slope, offset):
        # kernel[..., f, i] belongs to output f of the group of input i
        own = slope.reshape(feature_group_count, -1)
        own = jnp.repeat(own.T, params["kernel"].shape[-1] // feature_group_count, axis=1)
        return scaled(layer, params, slope, offset, kernel_slope=own)

    layer = Layer(init, apply, name, kind, geometry, epilogue=Epilogue(apply, scaled=scaled_transposed))
    return layer


@constructor
def Dense(
    features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    precision: Any = None,
    name: str | None = None,
) -> Layer:
    """Fully connected layer: y = x @ kernel + bias, over the last axis.

    Args:
        features: outputs.
        use_bias: whether there is a bias.
        kernel_init: initializer of the kernel.
        bias_init: initializer of the bias.
        dtype: to compute in; by default that of the operands.
        param_dtype: of the parameters.
        precision: as for `jax.lax.dot_general`.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer` with params ``{"kernel": [in, features], "bias": [features]}``.

    Raises:
        ValueError: in apply, for a kernel that does not fit.

    >>> import jax
    >>> Dense(10).init(jax.random.key(0), (1, 84))[0]["kernel"].shape
    (84, 10)

    References:
        Rosenblatt, "The perceptron", 1958. Arguments as in ``flax.linen.Dense``.
    """
    pointwise = Conv(
        features,
        (),
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        dtype=dtype,
        param_dtype=param_dtype,
        precision=precision,
    )

    def init(key, input_shape):
        return pointwise.init(key, (1, array_shape(input_shape)[-1]))

    def geometry(input_shape):
        count, one = positions(input_shape), pointwise.geometry((1, input_shape[-1]))  # type: ignore
        return Geometry(connections=count * one.connections, macs=count * one.macs)

    epilogue = Epilogue(pointwise.apply, takes_activation=True, streamed=alone, scaled=scaled)
    return Layer(init, pointwise.apply, name, "Dense", geometry, epilogue=epilogue)
