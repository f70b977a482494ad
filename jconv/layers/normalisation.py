"""Layers that normalise, scale, or leave out at random."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp

from .._algorithms.base import promoted
from .._spec import integer
from .base import (
    Epilogue,
    Layer,
    Shape,
    alike,
    alone,
    array_shape,
    channelwise,
    check_dtypes,
    constructor,
    epsilon_of,
    number,
    rate_of,
    result_and_wide,
    take,
)


def _affine_init(use_scale: bool, use_bias: bool, param_dtype):
    check_dtypes(param_dtype=param_dtype)

    def init(key, input_shape):
        shape = array_shape(input_shape)[-1:]
        params = {"scale": jnp.ones(shape, param_dtype)} if use_scale else {}
        return params | ({"bias": jnp.zeros(shape, param_dtype)} if use_bias else {})

    return init


def _affine_params(params, kind: str, channels: int, use_scale: bool, use_bias: bool) -> dict[str, jax.Array]:
    names = [name for name, used in (("scale", use_scale), ("bias", use_bias)) if used]
    return {name: take(params, name, kind, (channels,)) for name in names}


def _affine(y, own: dict[str, jax.Array]):
    """y * scale + bias, with those of the two that there are."""
    y = y * channelwise(own["scale"], y) if "scale" in own else y
    return y + channelwise(own["bias"], y) if "bias" in own else y


def _moved(running, batch, momentum, name: str):
    """Running statistics after a batch, in the dtype that they have."""
    if jnp.iscomplexobj(batch) and not jnp.iscomplexobj(running):
        raise TypeError(
            f"state: got {name!r} of {running.dtype} for a batch of complex numbers, accepted are complex ones: "
            "BatchNorm(param_dtype=jax.numpy.complex64) has them."
        )
    wide = promoted(running.dtype, batch.dtype)
    return (momentum * running.astype(wide) + (1 - momentum) * batch.astype(wide)).astype(running.dtype)


def _squared(v):
    """|v|²"""
    return jnp.square(v.real) + jnp.square(v.imag) if jnp.iscomplexobj(v) else jnp.square(v)


def _moments(x, average: Callable, spread: Callable):
    """Mean, centre and variance of x, of which `average` takes the average and to which `spread` gives its shape again.

    For any constant c the variance is average((x - c)²) - (average(x) - c)², and (x - mean) slope is (x - c) slope +
    (c - mean) slope. With the centre c at the mean nothing cancels, and as both hold for every x their derivatives of
    all orders are right. What differentiation sees is then small but for x - c, and the gradients need two sums over x,
    of g and of g (x - c), where the plain formulas have four.
    """
    mean = average(x)
    centre = jax.lax.stop_gradient(mean)
    return mean, centre, average(_squared(x - spread(centre))) - _squared(mean - centre)


@constructor
def BatchNorm(
    *,
    momentum: float = 0.99,
    epsilon: float = 1e-5,
    use_scale: bool = True,
    use_bias: bool = True,
    axis_name: Any = None,
    param_dtype: Any = jnp.float32,
    name: str | None = None,
) -> Layer:
    """Batch normalisation of each channel: y = (x - mean) / sqrt(var + epsilon) * scale + bias.

    In training mean and (biased) variance are those of the batch, over all axes but the last, and the running ones are
    updated, ``running = momentum * running + (1 - momentum) * batch``; in inference the running ones are used.

    Args:
        momentum: share of the running statistics that is kept at each step, 0 to 1; PyTorch's is 1 less this one.
        epsilon: added to the variance.
        use_scale: whether there is a scale.
        use_bias: whether there is a bias.
        axis_name: mapped axes (of `jax.shard_map` or `jax.vmap`) that the batch is spread over.
        param_dtype: of the parameters; the state is float32 at least, since steps of it would vanish in 16 bits.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer` with params ``{"scale", "bias"}`` and state ``{"mean", "var"}``.

    Raises:
        ValueError: for a momentum or epsilon out of range; in apply, for parameters or state that do not fit.
        TypeError: in training, for complex numbers where the state is real.

    >>> import jax
    >>> layer = BatchNorm(momentum=0.5)
    >>> params, state = layer.init(jax.random.key(0), (2, 1))
    >>> y, state = layer.apply(params, state, jax.numpy.array([[1.0], [3.0]]), train=True)
    >>> y[:, 0].round(2), state["mean"]
    (Array([-1.,  1.], dtype=float32), Array([1.], dtype=float32))

    References:
        Ioffe and Szegedy, 2015, arXiv:1502.03167. Names and defaults as in ``flax.linen.BatchNorm``.
    """
    affine = _affine_init(use_scale, use_bias, param_dtype)
    momentum = number(momentum, "momentum", low=0, high=math.nextafter(1, 2), accepted="0 <= momentum <= 1")
    epsilon = epsilon_of(epsilon)
    dtype = promoted(param_dtype, jnp.float32)

    def init(key, input_shape):
        params, shape = affine(key, input_shape), array_shape(input_shape)[-1:]
        return params, {"mean": jnp.zeros(shape, dtype), "var": jnp.ones(shape, jnp.finfo(dtype).dtype)}

    def apply(params, state, x, *, train=False, key=None):
        x = jnp.asarray(x)
        running = {n: take(state, n, "BatchNorm", x.shape[-1:], "state") for n in ("mean", "var")}
        if train and 0 in x.shape:
            raise ValueError(f"x: got shape {x.shape}, accepted by BatchNorm in training is a batch with elements.")
        own = _affine_params(params, "BatchNorm", x.shape[-1], use_scale, use_bias)
        dtype, wide = result_and_wide(x, [*own.values()], [*running.values()])
        x = x.astype(wide)
        if train:
            axes = tuple(range(x.ndim - 1))
            everywhere = lambda v: v if axis_name is None else jax.lax.pmean(v, axis_name)
            mean, centre, var = _moments(x, lambda v: everywhere(jnp.mean(v, axes)), lambda v: channelwise(v, x))
            state = {n: _moved(running[n], batch, momentum, n) for n, batch in (("mean", mean), ("var", var))}
        else:
            mean, var = running["mean"].astype(wide), running["var"].astype(jnp.finfo(wide).dtype)
            centre = jax.lax.stop_gradient(mean)
        slope = jax.lax.rsqrt(var + epsilon).astype(wide)
        slope = slope * own["scale"].astype(wide) if use_scale else slope
        offset = (centre - mean) * slope
        offset = offset + own["bias"].astype(wide) if use_bias else offset
        y = (x - channelwise(centre, x)) * channelwise(slope, x) + channelwise(offset, x)
        return y.astype(dtype), state

    def as_affine(params, state):
        mean, var = (take(state, n, "BatchNorm", argument="state") for n in ("mean", "var"))
        own = _affine_params(params, "BatchNorm", mean.shape[0], use_scale, use_bias)
        mean, var, *own = alike(
            [mean, var, *(own.get(n, jnp.full_like(mean, x)) for n, x in (("scale", 1), ("bias", 0)))]
        )
        slope = jax.lax.rsqrt(var + epsilon) * own[0]
        return slope, own[1] - mean * slope

    return Layer(init, apply, name, "BatchNorm", epilogue=Epilogue(apply, streamed=alone, affine=as_affine))


@constructor
def GroupNorm(
    num_groups: int = 32,
    *,
    epsilon: float = 1e-6,
    use_scale: bool = True,
    use_bias: bool = True,
    param_dtype: Any = jnp.float32,
    name: str | None = None,
) -> Layer:
    """Normalises each example over space and groups of channels: y = (x - mean) / sqrt(var + epsilon) * scale + bias.

    Args:
        num_groups: number of groups that the channels fall into; 1 is layer norm over space too, the number of
            channels is instance norm.
        epsilon: added to the variance.
        use_scale: whether there is a scale.
        use_bias: whether there is a bias.
        param_dtype: of the parameters.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer` with params ``{"scale", "bias"}``; its input has one batch axis.

    Raises:
        ValueError: in init and apply, for groups that do not divide the channels.

    >>> import jax
    >>> layer = GroupNorm(2)
    >>> y, _ = layer.apply(*layer.init(jax.random.key(0), (1, 1, 4)), jax.numpy.array([[[1.0, 3.0, 5.0, 7.0]]]))
    >>> y[0, 0].round(2)
    Array([-1.,  1., -1.,  1.], dtype=float32)

    References:
        Wu and He, 2018, arXiv:1803.08494. Names and defaults as in ``flax.linen.GroupNorm``.
    """
    affine = _affine_init(use_scale, use_bias, param_dtype)
    num_groups, epsilon = integer(num_groups, "num_groups", minimum=1), epsilon_of(epsilon)

    def check(channels):
        if channels % num_groups:
            raise ValueError(f"num_groups: got {num_groups}, accepted is a divisor of the {channels} channels.")

    def init(key, input_shape):
        check(array_shape(input_shape)[-1])
        return affine(key, input_shape), {}

    def apply(params, state, x, *, train=False, key=None):
        x = jnp.asarray(x)
        check(x.shape[-1])
        own = _affine_params(params, "GroupNorm", x.shape[-1], use_scale, use_bias)
        dtype, wide = result_and_wide(x, [*own.values()])
        space, channels = tuple(range(1, x.ndim - 1)), x.shape[-1]

        def average(v):  # of each channel first: a sum that leaves the last axis is a sum of vectors
            v = jnp.mean(v, space)
            return jnp.mean(v.reshape(*v.shape[:-1], num_groups, channels // num_groups), -1)

        def spread(v):
            v = jnp.broadcast_to(v[..., None], (*v.shape, channels // num_groups))
            return jnp.expand_dims(v.reshape(*v.shape[:-2], channels), space)

        x = x.astype(wide)
        mean, centre, var = _moments(x, average, spread)
        slope = jax.lax.rsqrt(var + epsilon).astype(wide)
        y = (x - spread(centre)) * spread(slope) + spread((centre - mean) * slope)
        return _affine(y, own).astype(dtype), state

    return Layer(init, apply, name, "GroupNorm")


@constructor
def LayerNorm(
    *,
    epsilon: float = 1e-6,
    use_scale: bool = True,
    use_bias: bool = True,
    param_dtype: Any = jnp.float32,
    name: str | None = None,
) -> Layer:
    """Normalises each position over its channels: y = (x - mean) / sqrt(var + epsilon) * scale + bias.

    Args:
        epsilon: added to the variance.
        use_scale: whether there is a scale.
        use_bias: whether there is a bias.
        param_dtype: of the parameters.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer` with params ``{"scale", "bias"}``.

    Raises:
        ValueError: in apply, for parameters that do not fit.

    >>> import jax
    >>> layer = LayerNorm()
    >>> layer.apply(*layer.init(jax.random.key(0), (1, 2)), jax.numpy.array([[1.0, 3.0]]))[0].round(2)
    Array([[-1.,  1.]], dtype=float32)

    References:
        Ba, Kiros and Hinton, 2016, arXiv:1607.06450. Names and defaults as in ``flax.linen.LayerNorm``.
    """
    affine, epsilon = _affine_init(use_scale, use_bias, param_dtype), epsilon_of(epsilon)

    def init(key, input_shape):
        return affine(key, input_shape), {}

    def apply(params, state, x, *, train=False, key=None):
        x = jnp.asarray(x)
        own = _affine_params(params, "LayerNorm", x.shape[-1], use_scale, use_bias)
        dtype, wide = result_and_wide(x, [*own.values()])
        x = x.astype(wide)
        mean, var = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
        return _affine((x - mean) * jax.lax.rsqrt(var + epsilon).astype(wide), own).astype(dtype), state

    return Layer(init, apply, name, "LayerNorm", epilogue=Epilogue(apply, streamed=alone))


@constructor
def LayerScale(init_value: float, *, param_dtype: Any = jnp.float32, name: str | None = None) -> Layer:
    """Scales each channel: y = x * scale.

    At the end of the body of a `Residual`, with a small first value, it makes the block begin near the identity.

    Args:
        init_value: what each scale is at first.
        param_dtype: of the parameter.
        name: of its parameter in a `Sequential`.

    Returns:
        A `Layer` with params ``{"scale": [channels]}``.

    Raises:
        ValueError: in apply, for a scale that does not fit.

    >>> import jax
    >>> layer = LayerScale(0.5)
    >>> layer.apply(*layer.init(jax.random.key(0), (1, 2)), jax.numpy.array([[1.0, 3.0]]))[0]
    Array([[0.5, 1.5]], dtype=float32)

    References:
        Touvron, Cord, Sablayrolles, Synnaeve and Jégou, "Going deeper with image transformers", ICCV 2021,
        arXiv:2103.17239.
    """
    affine = _affine_init(True, False, param_dtype)

    def init(key, input_shape):
        return {n: jnp.full_like(ones, init_value) for n, ones in affine(key, input_shape).items()}, {}

    def apply(params, state, x, *, train=False, key=None):
        x = jnp.asarray(x)
        own = _affine_params(params, "LayerScale", x.shape[-1], True, False)
        dtype, wide = result_and_wide(x, [*own.values()])
        return _affine(x.astype(wide), own).astype(dtype), state

    return Layer(init, apply, name, "LayerScale", epilogue=Epilogue(apply, streamed=alone))


def _dropout(kind: str, rate: float, name: str | None, mask_shape: Callable[[Shape], Shape]) -> Layer:
    """In training zeros with probability `rate`, one draw for each element of a mask that is broadcast to x."""
    rate = rate_of(rate)

    def apply(params, state, x, *, train=False, key=None):
        x = jnp.asarray(x)
        x = x.astype(result_and_wide(x)[0])
        if not train or rate == 0:
            return x, state
        if key is None:
            raise ValueError(f"key: got None, accepted by {kind} with train=True is a key of jax.random.key.")
        keep = jax.random.bernoulli(key, 1 - rate, mask_shape(x.shape))
        return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype)), state

    return Layer(lambda key, input_shape: ({}, {}), apply, name, kind, epilogue=Epilogue(apply, streamed=alone))


@constructor
def Dropout(rate: float, *, name: str | None = None) -> Layer:
    """In training sets each element to zero with probability `rate`: y = x m / (1 - rate), m ~ Bernoulli(1 - rate).

    In inference it is the identity.

    Args:
        rate: probability, at least 0 and less than 1.
        name: in a `Sequential`.

    Returns:
        A `Layer` without parameters; its apply needs `key` where ``train=True``.

    Raises:
        ValueError: for a rate out of range, and in apply for training without a key.

    >>> import jax
    >>> layer = Dropout(0.5)
    >>> y, _ = layer.apply({}, {}, jax.numpy.ones(1000), train=True, key=jax.random.key(0))
    >>> sorted({float(v) for v in y})
    [0.0, 2.0]

    References:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014.
    """
    return _dropout("Dropout", rate, name, lambda shape: shape)


@constructor
def StochasticDepth(rate: float, *, name: str | None = None) -> Layer:
    """In training sets whole examples to zero with probability `rate`: y_b = x_b m_b / (1 - rate), m_b of 0 or 1.

    At the end of the body of a `Residual` it leaves out the block for these examples. In inference it is the identity.

    Args:
        rate: probability, at least 0 and less than 1.
        name: in a `Sequential`.

    Returns:
        A `Layer` without parameters; its input has one batch axis, its apply needs `key` where ``train=True``.

    Raises:
        ValueError: for a rate out of range, and in apply for training without a key.

    >>> import jax
    >>> layer = StochasticDepth(0.5)
    >>> y, _ = layer.apply({}, {}, jax.numpy.ones((100, 3)), train=True, key=jax.random.key(0))
    >>> sorted({tuple(map(float, row)) for row in y})
    [(0.0, 0.0, 0.0), (2.0, 2.0, 2.0)]

    References:
        Huang, Sun, Liu, Sedra and Weinberger, "Deep networks with stochastic depth", ECCV 2016, arXiv:1603.09382.
    """
    return _dropout("StochasticDepth", rate, name, lambda shape: (*shape[:1], *(1,) * len(shape[1:])))
