"""Padding with other than zeros: a linear map P of the image before T(P x, k, y), and the geometry that it leaves."""

from __future__ import annotations

import jax
from jax import numpy as jnp

from ._algorithms.base import Map, zeros
from ._spec import ConvSpec


def source(mode: str, size: int, position: int) -> int:
    """Which element of `size` stands at a position outside of them."""
    if mode == "circular":
        return position % size
    if mode == "replicate":
        return min(max(position, 0), size - 1)
    back = position % (2 * size - 2)  # reflect: there and back again, both edges once
    return min(back, 2 * size - 2 - back)


def padded_spec(spec: ConvSpec, modes: tuple[str, ...]) -> ConvSpec:
    """The geometry that is left after `padding`; ValueError for what no mode can pad."""
    space, pads = list(spec.spatial), list(spec.padding)
    for i, mode in enumerate(modes):
        if mode == "zeros":
            continue
        widest = max(*pads[i], 0)
        if spec.input_dilation[i] != 1:
            raise ValueError(
                f"padding_mode: got {mode!r} with input_dilation {spec.input_dilation[i]} along spatial axis {i}; "
                "accepted beside an input dilation is 'zeros'."
            )
        if mode == "reflect" and widest > space[i] - 1:
            raise ValueError(
                f"padding: got {pads[i]} with padding_mode 'reflect' along spatial axis {i} of {space[i]} elements; "
                f"accepted are pads of at most {space[i] - 1}, since the edge element is not repeated."
            )
        if widest and space[i] == 0:
            raise ValueError(f"padding_mode: got {mode!r} along spatial axis {i}, which is empty; accepted is 'zeros'.")
        space[i], pads[i] = space[i] + sum(pads[i]), (0, 0)
    return spec.replace(x_shape=(*spec.batch_shape, *space, spec.in_features), padding=tuple(pads))


def padding(spec: ConvSpec, modes: tuple[str, ...]) -> Map:
    """P, for the axes whose mode is not zeros. A negative pad crops, after the positive ones are laid."""
    first = len(spec.batch_shape)

    def apply(x):
        for i, ((low, high), mode) in enumerate(zip(spec.padding, modes, strict=True)):
            if mode == "zeros":
                continue
            config = [(0, 0)] * x.ndim
            config[first + i] = (max(low, 0), max(high, 0))
            x = jnp.pad(x, config, mode={"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])
            x = jax.lax.slice_in_dim(x, max(-low, 0), x.shape[first + i] - max(-high, 0), axis=first + i)
        return x

    def transpose(x):
        shape = list(x.shape)
        for i, mode in enumerate(modes):
            shape[first + i] = shape[first + i] if mode == "zeros" else spec.spatial[i]
        return jax.linear_transpose(apply, zeros(tuple(shape), x.dtype, x))(x)[0]

    return Map(apply, transpose)
