"""Layers made of layers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import numpy as jnp

from .._names import nearest
from .base import (
    ArrayShape,
    Epilogue,
    Layer,
    alike,
    alone,
    array_shape,
    children_of,
    constructor,
    named_layers,
    split,
    stateless,
)
from .streaming import streamed


def _inits(named: Sequence[tuple[str, Layer]], key: Any, shape: ArrayShape, chained: bool) -> tuple[dict, dict]:
    """Parameters and state of layers that follow each other, or that all see the same input."""
    params, states = {}, {}
    for (child, layer), k in zip(named, split(key, len(named)), strict=True):
        p, s = layer.init(k, shape)
        params |= {child: p} if p else {}
        states |= {child: s} if s else {}
        shape = layer.output_shape(shape) if chained else shape
    return params, states


@constructor
def Sequential(*layers: Layer, name: str | None = None) -> Layer:
    """Layers one after the other: y = f_n(... f_2(f_1(x))).

    Args:
        *layers: the layers. Their parameters are nested under their names, ``Conv_0``, ``Conv_1``, ``Dense_0``, ...
        name: in another `Sequential`.

    Returns:
        A `Layer`.

    Raises:
        TypeError: for something that is no `Layer`.
        ValueError: for two layers of the same name.

    >>> import jax
    >>> from jconv.layers import Activation, Conv, Dense, Flatten
    >>> net = Sequential(Conv(4, 3), Activation("relu"), Flatten(), Dense(10))
    >>> params, state = net.init(jax.random.key(0), (-1, 8, 8, 1))
    >>> sorted(params), net.output_shape((-1, 8, 8, 1))
    (['Conv_0', 'Dense_0'], (-1, 10))

    References:
        ``serial`` of stax; ``Sequential`` of Keras and PyTorch.
    """
    named = named_layers(layers, "Sequential")
    applies: list[Callable | None] = [layer.apply for layer in layers]  # None where the layer before does it too
    known = [layer.epilogue or Epilogue(layer.apply) for layer in layers]
    for i, (before, after) in enumerate(itertools.pairwise(known)):
        if after.activation and before.takes_activation:
            applies[i : i + 2] = functools.partial(before.apply, activation=after.activation), None

    def init(key, input_shape):
        return _inits(named, key, array_shape(input_shape), chained=True)

    def apply(params, state, x, *, train=False, key=None, activation=None):
        fresh, last = {}, len(named) - 1
        params, state = (children_of(t, n, "Sequential", named) for t, n in ((params, "params"), (state, "state")))
        for i, ((child, _), run, k) in enumerate(zip(named, applies, split(key, len(named)), strict=True)):
            if run is not None:
                end = {"activation": activation} if activation and i == last else {}
                x, s = run(params.get(child, {}), state.get(child, {}), x, train=train, key=k, **end)
                fresh |= {child: s} if s else {}
        return x, fresh

    def scaled(layer, params, slope, offset):
        *before, (child, last) = layer.children
        new, own = last.epilogue.scaled(last, params.get(child, {}), slope, offset)
        again = Sequential(*(dataclasses.replace(layer, name=n) for n, layer in (*before, (child, new))))
        return dataclasses.replace(again, name=layer.name), params | {child: own}

    epilogue = Epilogue(
        apply,
        takes_activation=bool(known) and known[-1].takes_activation,
        streamed=lambda layer: Sequential(*map(streamed, layers)),
        remade=lambda layers: Sequential(*layers),
        scaled=scaled if known and known[-1].scaled else None,
    )
    return Layer(init, apply, name, "Sequential", children=named, epilogue=epilogue)


@constructor
def Parallel(
    *branches: Layer,
    combine: str | Callable[[Sequence[jax.Array]], jax.Array] = "concatenate",
    name: str | None = None,
) -> Layer:
    """Layers side by side on one input: y = combine(f_1(x), ..., f_n(x)).

    Args:
        *branches: the layers. Their parameters are nested under their names.
        combine: ``"concatenate"`` (channels), ``"sum"``, ``"product"``, or a function of the list of outputs.
        name: in a `Sequential`.

    Returns:
        A `Layer`.

    Raises:
        TypeError: for something that is no `Layer`, or no way to combine.
        ValueError: for an unknown `combine`, no branches, two of the same name, or, in apply, outputs that do
            not fit each other.

    >>> from jconv.layers import Conv
    >>> Parallel(Conv(4, 1), Conv(8, 3)).output_shape((1, 8, 8, 3))
    (1, 8, 8, 12)

    References:
        Szegedy et al., "Going deeper with convolutions", CVPR 2015 (Inception).
    """
    return _parallel("Parallel", branches, combine, name)


def _parallel(kind: str, branches: Sequence[Layer], combine: Any, name: str | None) -> Layer:
    combines: dict[str, Callable] = {
        "concatenate": lambda ys: jnp.concatenate(alike(ys), axis=-1),
        "sum": lambda ys: functools.reduce(operator.add, alike(ys)),
        "product": lambda ys: functools.reduce(operator.mul, alike(ys)),
    }
    if isinstance(combine, str) and combine not in combines:
        raise ValueError(f"combine: got {combine!r}, {nearest(combine, combines)}")
    if not isinstance(combine, str) and not callable(combine):
        raise TypeError(f"combine: got {combine!r}, accepted is a function, {nearest(combine, combines)}")
    if not branches:
        raise ValueError("branches: got none, accepted is at least one Layer.")
    join: Callable = combines[combine] if isinstance(combine, str) else combine
    named = named_layers(branches, kind)

    def init(key, input_shape):
        return _inits(named, key, array_shape(input_shape), chained=False)

    def apply(params, state, x, *, train=False, key=None):
        outputs, fresh = [], {}
        params, state = (children_of(t, n, kind, named) for t, n in ((params, "params"), (state, "state")))
        for (child, layer), k in zip(named, split(key, len(named)), strict=True):
            y, s = layer.apply(params.get(child, {}), state.get(child, {}), x, train=train, key=k)
            outputs.append(y)
            fresh |= {child: s} if s else {}
        same = 1 if combine == "concatenate" else 0
        if isinstance(combine, str) and len({y.shape[: y.ndim - same] for y in outputs}) > 1:
            raise ValueError(
                f"{kind}: got outputs of shapes {[y.shape for y in outputs]}, accepted by {combine!r} are shapes that "
                f"agree{' but for the channels' if same else ''}."
            )
        return join(outputs), fresh

    epilogue = Epilogue(
        apply,
        streamed=lambda layer: _parallel(kind, [streamed(branch) for branch in branches], combine, None),
        remade=lambda layers: Parallel(*layers, combine=combine),  # type: ignore[arg-type]
    )
    return Layer(init, apply, name, kind, children=named, chained=False, epilogue=epilogue)


@constructor
def Residual(*layers: Layer, shortcut: Layer | None = None, name: str | None = None) -> Layer:
    """Layers with a way around them: y = shortcut(x) + f_n(... f_1(x)).

    Args:
        *layers: the body.
        shortcut: the way around; by default the identity, for a body that keeps the shape.
        name: in a `Sequential`.

    Returns:
        A `Layer` with params ``{"body", "shortcut"}``.

    Raises:
        TypeError: for something that is no `Layer`.
        ValueError: in init and apply, where body and shortcut give different shapes.

    >>> from jconv.layers import Activation, Conv
    >>> Residual(Conv(8, 3), Activation("relu"), shortcut=Conv(8, 1)).output_shape((1, 8, 8, 3))
    (1, 8, 8, 8)

    References:
        He et al., "Deep residual learning for image recognition", CVPR 2016, arXiv:1512.03385.
    """
    body = dataclasses.replace(Sequential(*layers), name="body")
    around = stateless(lambda x: x, "identity", None, streamed=alone) if shortcut is None else shortcut
    named_layers((around,), "Residual")
    pair = _parallel("Residual", (body, dataclasses.replace(around, name="shortcut")), "sum", name)

    def init(key, input_shape):
        input_shape = array_shape(input_shape)
        shapes = [layer.output_shape(input_shape) for layer in (body, around)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"Residual: got a body that gives {shapes[0]} and a shortcut that gives {shapes[1]} for an input of "
                f"{tuple(input_shape)}, accepted are equal shapes; pass shortcut=Conv(...) with the body's strides."
            )
        return pair.init(key, input_shape)

    def remade(layers):
        inside, way = layers
        return Residual(*(layer for _, layer in inside.children), shortcut=None if shortcut is None else way)

    assert pair.epilogue is not None
    return dataclasses.replace(pair, init=init, epilogue=pair.epilogue._replace(remade=remade))
