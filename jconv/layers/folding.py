"""Networks for inference, in which the convolution before a batch normalisation does what that would."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import numpy as jnp

from .base import Layer, Tree, alike, channelwise, remade


def fold_batch_norm(layer: Layer, params: Tree, state: Tree) -> tuple[Layer, Tree, Tree]:
    """A network that gives in inference what `layer` gives, without the norms that follow a convolution.

    In inference batch normalisation is y = x slope + offset, with slope = scale / sqrt(var + epsilon) and offset =
    bias - mean slope, and a convolution before it is linear in its kernel:

        (conv(x, kernel) + bias) slope + offset = conv(x, kernel slope) + (bias slope + offset).

    A `BatchNorm` that follows `Conv`, `DepthwiseConv`, `SeparableConv`, `ConvLocal`, `ConvTranspose` or `Dense` in a
    `Sequential` goes into it, in networks inside networks too; one that follows something else stays. An activation
    behind it can then be computed with the convolution.

    Args:
        layer: a network.
        params: its parameters.
        state: its state, with the running statistics.

    Returns:
        A network, its parameters and its state, whose names are those of `layer`.

    Raises:
        TypeError: for something that is no `Layer`.

    >>> import jax
    >>> from jconv.layers import BatchNorm, Conv, Sequential
    >>> net = Sequential(Conv(4, 3, use_bias=False), BatchNorm())
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> folded, few, rest = fold_batch_norm(net, params, state)
    >>> x = jax.numpy.ones((1, 8, 8, 3))
    >>> bool(jax.numpy.allclose(folded.apply(few, rest, x)[0], net.apply(params, state, x)[0], atol=1e-5))
    True
    >>> sorted(few), sorted(few["Conv_0"]), rest
    (['Conv_0'], ['bias', 'kernel'], {})

    References:
        Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
        CVPR 2018, arXiv:1712.05877, section 3.2.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"layer: got {layer!r}, accepted is a Layer.")
    if layer.epilogue is None or layer.epilogue.remade is None:
        return layer, params, state
    found: list[tuple[str, Layer, Tree, Tree]] = []
    for name, child in layer.children:
        of_child = fold_batch_norm(child, params.get(name, {}), state.get(name, {}))
        before = found[-1][1] if found and layer.chained else None
        affine = of_child[0].epilogue and of_child[0].epilogue.affine
        if affine and before and before.epilogue and before.epilogue.scaled:
            at, _, own, rest = found[-1]
            found[-1] = (at, *before.epilogue.scaled(before, own, *affine(*of_child[1:])), rest)
        else:
            found.append((name, *of_child))
    made = layer.epilogue.remade([dataclasses.replace(child, name=name) for name, child, _, _ in found])
    own = {name: tree for name, _, tree, _ in found if tree}
    rest = {name: tree for name, _, _, tree in found if tree}
    return dataclasses.replace(made, name=layer.name), own, rest


def scaled(layer: Layer, params: Tree, slope: jax.Array, offset: jax.Array, *, kernel_slope: Any = None):
    """A convolution with its parameters, whose result is multiplied by `slope` and to which `offset` is added.

    `kernel_slope` is the slope as the kernel's last axes have it, if that is another.
    """
    dtype = params["kernel"].dtype
    kernel, slope, offset = alike([params["kernel"], slope, offset])
    times = slope if kernel_slope is None else kernel_slope.astype(slope.dtype)
    if "bias" in params:
        bias = params["bias"].astype(slope.dtype)
        offset = offset + bias * channelwise(slope, bias)
    kernel = kernel * jnp.expand_dims(times, tuple(range(kernel.ndim - times.ndim)))
    return remade(layer, use_bias=True), {"kernel": kernel.astype(dtype), "bias": offset.astype(dtype)}
