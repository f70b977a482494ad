"""The table of a network."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import numpy as np

from .base import Geometry, Layer, Shape


class Row(NamedTuple):
    """One line of a summary; counts are for one example."""

    name: str
    kind: str
    depth: int
    output_shape: Shape
    parameters: int
    connections: int
    macs: int
    receptive_field: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Summary:
    """The layers of a network as rows, and as a table when printed.

    Parameters are the elements of params, connections the links into a layer's outputs (biases included), macs its
    multiply-adds, and the receptive field r grows from layer to layer as r += (window - 1) * product of
    the strides before it.

    Args:
        rows: one `Row` a layer, in order; `depth` says how deep it is nested.
        parameters: of the whole network.
        connections: of the whole network.
        macs: of the whole network.

    Returns:
        A record whose `str` is the table.

    Raises:
        Nothing.

    >>> from jconv.layers import Conv
    >>> summary(Conv(6, 5, padding="VALID"), (-1, 32, 32, 1)).rows[0].connections
    122304

    References:
        ``Model.summary`` of Keras; LeCun et al., 1998, for connections; Araujo, Norris and Sim, "Computing receptive
        fields of convolutional neural networks", Distill, 2019.
    """

    rows: tuple[Row, ...]
    parameters: int
    connections: int
    macs: int

    def __str__(self) -> str:
        header = ("layer", "kind", "output", "parameters", "connections", "multiply-adds", "receptive field")
        by = lambda shape: "×".join("?" if n == -1 else str(n) for n in shape)
        body = [
            ("  " * r.depth + r.name, r.kind, by(r.output_shape[1:]), f"{r.parameters:,}", f"{r.connections:,}",
             f"{r.macs:,}", by(r.receptive_field))
            for r in self.rows
        ]  # fmt: skip
        total = ("total", "", "", f"{self.parameters:,}", f"{self.connections:,}", f"{self.macs:,}", "")
        lines = [header, *body, total]
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        left = (True, True, True, False, False, False, True)
        text = [
            "  ".join(
                c.ljust(w) if flush else c.rjust(w) for c, w, flush in zip(line, widths, left, strict=True)
            ).rstrip()
            for line in lines
        ]
        rule = "-" * max(map(len, text))
        return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])


def _count(layer: Layer, input_shape: Shape) -> int:
    concrete = tuple(1 if n == -1 else n for n in input_shape)
    params = jax.eval_shape(lambda key: layer.init(key, concrete)[0], jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _rows(name: str, layer: Layer, shape: Shape, depth: int, field, jump):
    """Rows of a layer and all in it, and what it leaves behind: shape, receptive field and jump per spatial axis."""
    out = layer.output_shape(shape)
    parameters = _count(layer, shape)
    if not layer.children:
        g = layer.geometry(shape) if layer.geometry else Geometry()
        if g.window:
            field = tuple(f + (k - 1) * j for f, k, j in zip(field, g.window, jump, strict=True))
            jump = tuple(j * s for j, s in zip(jump, g.strides, strict=True))
        keeps_space = len(out) == len(shape)
        field, jump = (field, jump) if keeps_space else ((), ())
        whole = tuple(math.floor(f) for f in field)
        row = Row(name, layer.kind, depth, out, parameters, g.connections, g.macs, whole)
        return [row], out, field, jump
    rows, ends, at, f, j = [], [], shape, field, jump
    for child_name, child in layer.children:
        start = (at, f, j) if layer.chained else (shape, field, jump)
        below, at, f, j = _rows(child_name, child, start[0], depth + 1, start[1], start[2])
        rows += below
        ends.append((f, j))
    if not layer.chained:  # an output sees what its widest branch sees, where all branches keep the spatial axes
        same = len({len(end[0]) for end in ends}) == 1
        f = tuple(max(fs) for fs in zip(*(end[0] for end in ends), strict=True)) if same else ()
        j = ends[0][1] if same else ()
    direct = [r for r in rows if r.depth == depth + 1]
    whole = tuple(math.floor(v) for v in f)
    own = Row(
        name, layer.kind, depth, out, parameters, sum(r.connections for r in direct), sum(r.macs for r in direct), whole
    )
    return [own, *rows], out, f, j


Places = tuple[np.ndarray, ...]  # positions along each spatial axis, in order


def seen(layer: Layer, input_shape: Shape, outputs: Places) -> Places:
    """Which positions of its input a layer looks at for those of its output, padding left out.

    They are found for each axis by itself, so of branches whose fields lie beside each other it is the box around both.
    A layer that drops the spatial axes looks everywhere. Statistics that a norm takes over positions do not count, as
    they do not in `summary`.
    """
    if layer.children and layer.chained:
        shapes = [input_shape]
        for _, child in layer.children:
            shapes.append(child.output_shape(shapes[-1]))
        for (_, child), shape in zip(reversed(layer.children), reversed(shapes[:-1]), strict=True):
            outputs = seen(child, shape, outputs)
        return outputs
    if layer.children:
        branches = [seen(child, input_shape, outputs) for _, child in layer.children]
        return tuple(functools.reduce(np.union1d, axis) for axis in zip(*branches, strict=True))
    out = layer.output_shape(input_shape)
    if len(out) != len(input_shape):
        return tuple(np.arange(n) for n in input_shape[1:-1])
    g = layer.geometry(input_shape) if layer.geometry else Geometry()
    if g.taps:
        axes = zip(outputs, g.taps, g.strides, input_shape[1:-1], strict=True)
        return tuple(_looks_at(at, taps, stride, n) for at, taps, stride, n in axes)
    if out[1:-1] != input_shape[1:-1]:
        raise ValueError(
            f"layer: got {layer.name or layer.kind}, which makes {out[1:-1]} of {tuple(input_shape[1:-1])} and does "
            "not say where it looks; accepted are layers whose geometry gives `taps`."
        )
    return outputs


def _looks_at(outputs: np.ndarray, taps: tuple[Fraction, ...], stride: Fraction, n: int) -> np.ndarray:
    """Those o stride + tap that are positions of an axis of n."""
    over = math.lcm(stride.denominator, *(tap.denominator for tap in taps))
    found = outputs[:, None] * int(stride * over) + np.array([int(tap * over) for tap in taps])
    found = np.unique(found[found % over == 0] // over)
    return found[(found >= 0) & (found < n)]


def summary(layer: Layer, input_shape: Sequence[int]) -> Summary:
    """The table of a network: for each layer output shape, parameters, connections, multiply-adds, receptive field.

    A convolution has ``positions * (window * in / groups + 1) * out`` connections, biases included.

    Args:
        layer: the network.
        input_shape: ``[batch, *spatial, channels]``; the batch may be -1. Counts are for one example.

    Returns:
        A `Summary`: prints as a table, and has its `rows` as data.

    Raises:
        ValueError: where a layer does not take the shape that reaches it.

    >>> from jconv.layers import Conv, MaxPool, Sequential
    >>> print(summary(Sequential(Conv(6, 5, padding="VALID"), MaxPool(2)), (-1, 32, 32, 1)))
    layer      kind     output   parameters  connections  multiply-adds  receptive field
    ------------------------------------------------------------------------------------
    Conv_0     Conv     28×28×6         156      122,304        117,600  5×5
    MaxPool_0  MaxPool  14×14×6           0        4,704              0  6×6
    ------------------------------------------------------------------------------------
    total                               156      127,008        117,600

    References:
        ``Model.summary`` of Keras.
    """
    shape = tuple(input_shape)
    if len(shape) < 2:
        raise ValueError(f"input_shape: got {shape}, accepted is [batch, *spatial, channels].")
    start = tuple(Fraction(1) for _ in shape[1:-1])
    rows, *_ = _rows(layer.name or layer.kind, layer, shape, 0, start, start)
    if layer.children and layer.kind == "Sequential":  # the network itself is the total line
        rows = [row._replace(depth=row.depth - 1) for row in rows[1:]]
    top = [row for row in rows if row.depth == 0]
    return Summary(
        tuple(rows), sum(r.parameters for r in top), sum(r.connections for r in top), sum(r.macs for r in top)
    )
