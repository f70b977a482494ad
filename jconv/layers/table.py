"""The table of a network."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import numpy as np

from .base import ArrayShape, Geometry, Layer, Shape, Tree, array_shape


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
    multiply-adds, and the receptive field is how many positions of the input, from the first to the last, one output
    sees at most, were the input without end: r += (window - 1) * product of the strides before, from layer to layer,
    where outputs do not differ in what they see, as they do behind a transposed convolution.

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


class Field(NamedTuple):
    """What the outputs of some layers see of the input along one axis, were it without end.

    Output r + m period, 0 <= r < period, sees the input from first + m shift to last + m shift, with (first, last) of
    ``boxes[r]``, or nothing where that is None. Layers by layer this stays exact, since the first position that an
    output sees is the first that any of the positions sees which it looks at.
    """

    period: int = 1
    shift: int = 1
    boxes: tuple[tuple[int, int] | None, ...] = ((0, 0),)

    @property
    def size(self) -> int:
        return max((last - first + 1 for first, last in filter(None, self.boxes)), default=0)

    def box(self, position: int) -> tuple[int, int] | None:
        times, phase = divmod(position, self.period)
        found = self.boxes[phase]
        return found and (found[0] + times * self.shift, found[1] + times * self.shift)

    def behind(self, stride: Fraction, taps: Sequence[Fraction]) -> Field:
        """That of a layer more, whose output o looks at those o stride + tap that are positions of the outputs here."""
        a, b = stride.numerator, stride.denominator
        period = self.period * b // math.gcd(self.period * b, a)  # as many steps of a / b are whole periods here
        places = [[o * stride + tap for tap in taps] for o in range(period)]
        boxes = [_hull(self.box(int(p)) for p in at if p.denominator == 1) for at in places]
        return Field(period, int(period * stride) // self.period * self.shift, tuple(boxes))

    def beside(self, other: Field) -> Field:
        """What outputs see that are made of those here and of those of another branch."""
        if self.shift * other.period != other.shift * self.period:  # they drift apart
            return max(self, other, key=lambda field: field.size)
        period = math.lcm(self.period, other.period)
        boxes = (_hull([self.box(o), other.box(o)]) for o in range(period))
        return Field(period, period * self.shift // self.period, tuple(boxes))


def _hull(boxes: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
    """From the first to the last of what is in any of the boxes."""
    there = [box for box in boxes if box]
    return (min(first for first, _ in there), max(last for _, last in there)) if there else None


def _parameters(layer: Layer, input_shape: Shape) -> Tree:
    """The shapes of a layer's parameters."""
    shape = array_shape(input_shape)
    concrete = ArrayShape([1 if n == -1 else n for n in shape], shape.dtype)
    return jax.eval_shape(lambda key: layer.init(key, concrete)[0], jax.random.key(0))


def _inside(layer: Layer, params: Tree) -> list[Tree] | None:
    """The parameters of a layer's children, out of its own; None where it does not nest them under their names."""
    names = [name for name, _ in layer.children]
    nested = isinstance(params, dict) and set(params) <= set(names)
    return [params.get(name, {}) for name in names] if nested else None


def _looked_at(g: Geometry) -> list[tuple[Fraction, Sequence[Fraction]]]:
    """Stride and taps of each axis; a geometry that gives no taps has those of its window in a row."""
    taps = g.taps or [[Fraction(t) for t in range(math.ceil(k))] for k in g.window]
    return [(Fraction(s), t) for s, t in zip(g.strides, taps, strict=True)]


def _rows(name: str, layer: Layer, shape: Shape, depth: int, fields: tuple[Field, ...], params: Tree):
    """Rows of a layer and all in it, and what it leaves behind: its shape, and what it sees along each spatial axis."""
    out = layer.output_shape(shape)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    if not layer.children:
        g = layer.geometry(shape) if layer.geometry else Geometry()
        if g.strides and fields:
            fields = tuple(field.behind(*axis) for field, axis in zip(fields, _looked_at(g), strict=True))
        fields = fields if len(out) == len(shape) else ()  # behind a layer that drops or makes axes there is none
        sizes = tuple(field.size for field in fields)
        return [Row(name, layer.kind, depth, out, parameters, g.connections, g.macs, sizes)], out, fields
    rows, ends, at, end = [], [], shape, fields
    inside = _inside(layer, params)
    for i, (child_name, child) in enumerate(layer.children):
        start = (at, end) if layer.chained else (shape, fields)
        held = inside[i] if inside is not None else _parameters(child, start[0])
        below, at, end = _rows(child_name, child, start[0], depth + 1, start[1], held)
        rows += below
        ends.append(end)
    if not layer.chained:  # an output sees what any branch sees, where all branches keep the spatial axes
        same = len({len(end) for end in ends}) == 1
        end = tuple(functools.reduce(Field.beside, axis) for axis in zip(*ends, strict=True)) if same else ()
    direct = [r for r in rows if r.depth == depth + 1]
    counts = sum(r.connections for r in direct), sum(r.macs for r in direct)
    own = Row(name, layer.kind, depth, out, parameters, *counts, tuple(field.size for field in end))
    return [own, *rows], out, end


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


def _looks_at(outputs: np.ndarray, taps: tuple[Fraction, ...], stride: int | Fraction, n: int) -> np.ndarray:
    """Those o stride + tap that are positions of an axis of n."""
    over = math.lcm(stride.denominator, *(tap.denominator for tap in taps))
    found = outputs[:, None] * int(stride * over) + np.array([int(tap * over) for tap in taps])
    found = np.unique(found[found % over == 0] // over)
    return found[(found >= 0) & (found < n)]


def summary(layer: Layer, input_shape: Sequence[int] | jax.ShapeDtypeStruct) -> Summary:
    """The table of a network: for each layer output shape, parameters, connections, multiply-adds, receptive field.

    A convolution has ``positions * (window * in / groups + 1) * out`` connections, biases included.

    Args:
        layer: the network.
        input_shape: ``[batch, *spatial, channels]``; the batch may be -1 or None. Counts are for one example.

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
    shape = array_shape(input_shape)
    if len(shape) < 2:
        raise ValueError(f"input_shape: got {shape}, accepted is [batch, *spatial, channels].")
    fields = tuple(Field() for _ in shape[1:-1])
    rows, *_ = _rows(layer.name or layer.kind, layer, shape, 0, fields, _parameters(layer, shape))
    if layer.children and layer.kind == "Sequential":  # the network itself is the total line
        rows = [row._replace(depth=row.depth - 1) for row in rows[1:]]
    top = [row for row in rows if row.depth == 0]
    return Summary(
        tuple(rows), sum(r.parameters for r in top), sum(r.connections for r in top), sum(r.macs for r in top)
    )
