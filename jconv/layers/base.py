"""What a layer is, and what the layers share."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from .. import _spec, initializers

Shape = tuple[int, ...]
Tree = dict[str, Any]
Initializer = Callable[..., jax.Array]


class Geometry(NamedTuple):
    """What a table of layers says of one layer beside its shapes; counts are for one example."""

    window: tuple[int | Fraction, ...] = ()  # of its input, from the first to the last that one output sees
    strides: tuple[Fraction, ...] = ()
    connections: int = 0
    macs: int = 0
    taps: tuple[tuple[Fraction, ...], ...] = ()  # what of its input output 0 looks at; see `looks_at`


def looks_at(axes: Sequence[_spec.Axis], *, transposed: bool = False) -> dict[str, Any]:
    """Window, strides and taps of a `Geometry`, from the relation p q = o s + t d - lo of `_spec`.

    Output o looks at those o stride + tap that are positions of the input: whole, and no padding. In a transposed
    convolution o and p exchange places. The window is a fraction where taps fall between positions.
    """
    strides, taps = [], []
    for axis in axes:
        offsets = [t * axis.d - axis.lo for t in range(axis.k)]
        if transposed:  # p q = o s + offset for o
            strides.append(Fraction(axis.q, axis.s))
            taps.append(tuple(Fraction(-offset, axis.s) for offset in reversed(offsets)))
        else:
            strides.append(Fraction(axis.s, axis.q))
            taps.append(tuple(Fraction(offset, axis.q) for offset in offsets))
    window = tuple(t[-1] - t[0] + 1 for t in taps)
    return {"window": window, "strides": tuple(strides), "taps": tuple(taps)}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer: the pair init and apply, y, state' = apply(params, state, x).

    Args:
        init: ``init(key, input_shape) -> (params, state)``.
        apply: ``apply(params, state, x, *, train=False, key=None) -> (y, state)``.
        name: what its parameters are called in a `Sequential`; by default its kind and a number.
        kind: the kind of layer, for tables.
        geometry: for tables: ``geometry(input_shape) -> Geometry``.
        children: the layers that it is made of, with their names.
        chained: whether the children follow each other, or all see the input.

    Returns:
        A frozen record of the two functions.

    Raises:
        Nothing.

    >>> import jax
    >>> double = Layer(lambda key, shape: ({}, {}), lambda params, state, x, *, train=False, key=None: (2 * x, state))
    >>> double.apply({}, {}, jax.numpy.ones(2))[0]
    Array([2., 2.], dtype=float32)

    References:
        Pairs (init, apply) are the design of stax, Bradbury et al., JAX, 2018.
    """

    init: Callable[..., tuple[Tree, Tree]]
    apply: Callable[..., tuple[jax.Array, Tree]]
    name: str | None = None
    kind: str = "Layer"
    geometry: Callable[[Shape], Geometry] | None = None
    children: tuple[tuple[str, Layer], ...] = ()
    chained: bool = True

    def output_shape(self, input_shape: Sequence[int]) -> Shape:
        """The shape that `apply` gives for an input of that shape; a batch axis of -1 stays -1."""
        shape = _spec.sequence(input_shape, "input_shape", "integers, [batch, *spatial, channels]")
        if not shape:
            raise ValueError("input_shape: got (), accepted is [batch, *spatial, channels].")
        out = _trace_shape(self, (1, *shape[1:]) if shape[0] == -1 else shape)
        return (-1, *out[1:]) if shape[0] == -1 else out


@functools.lru_cache(maxsize=1024)
def _trace_shape(layer: Layer, input_shape: Shape) -> Shape:
    """The shape that a layer gives, by tracing it; kept, since nested layers ask for those in them again and again."""

    def run(key, x):
        params, state = layer.init(key, input_shape)
        return layer.apply(params, state, x)[0]

    return tuple(jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct(input_shape, jnp.float32)).shape)


def check_tree(tree: Any, argument: str, kind: str) -> None:
    """ValueError for params or state that are no dict."""
    if not hasattr(tree, "keys"):
        raise ValueError(f"{argument}: got {type(tree).__name__}, accepted by {kind} is a dict.")


def take(tree: Tree, name: str, kind: str, shape: Shape | None = None, argument: str = "params") -> jax.Array:
    """One array of a layer's params or state; ValueError where it is missing or has another shape."""
    check_tree(tree, argument, kind)
    if name not in tree:
        raise ValueError(f"{argument}: got {sorted(tree)}, accepted by {kind} is a dict with {name!r}.")
    if shape is not None and tuple(tree[name].shape) != tuple(shape):
        raise ValueError(
            f"{argument}: got {name!r} of shape {tuple(tree[name].shape)}, accepted by {kind} for this input is "
            f"{tuple(shape)}."
        )
    return tree[name]


def children_of(tree: Any, argument: str, kind: str, named: Sequence[tuple[str, Layer]]) -> Tree:
    """The params or state of the layers in a layer; ValueError for names that none of them has."""
    check_tree(tree, argument, kind)
    names = [name for name, _ in named]
    unexpected = sorted(set(tree) - set(names))
    if unexpected:
        raise ValueError(f"{argument}: got unexpected {unexpected}, accepted by this {kind} are {names}.")
    return tree


def draw(init: Initializer, key, shape, dtype, *, fan_shape=None, groups=1, transposed=False) -> jax.Array:
    """Draws a parameter; jconv's own initializers are told the kernel's fans, foreign ones see the shape."""
    if isinstance(init, initializers.VarianceScaling):
        return init(key, shape, dtype, feature_group_count=groups, transposed=transposed, fan_shape=fan_shape)
    return init(key, shape, dtype)


def cast(dtype: Any, *arrays: Any) -> tuple[Any, ...]:
    """The arrays that are given, in a dtype if one is."""
    arrays = tuple(a if a is None else jnp.asarray(a) for a in arrays)
    return arrays if dtype is None else tuple(a if a is None else a.astype(dtype) for a in arrays)


def stateless(fn: Callable[..., jax.Array], kind: str, name: str | None, geometry=None) -> Layer:
    """A layer without parameters or state."""

    def init(key, input_shape):
        return {}, {}

    def apply(params, state, x, *, train=False, key=None):
        return fn(x), state

    return Layer(init, apply, name, kind, geometry)


def named_layers(layers: Sequence[Layer], kind: str) -> tuple[tuple[str, Layer], ...]:
    counts: Counter[str] = Counter()
    names = []
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"layers[{i}]: got {layer!r}, accepted by {kind} are Layers.")
        names.append(layer.name or f"{layer.kind}_{counts[layer.kind]}")
        counts[layer.kind] += layer.name is None
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"name: got {twice[0]!r} twice in one {kind}, accepted are names that differ.")
    return tuple(zip(names, layers, strict=True))


def split(key, count: int):
    return [None] * count if key is None else jax.random.split(key, count)


def window_of(size: int | Sequence[int], input_shape: Shape, name: str) -> tuple[int, ...]:
    if len(_spec.sequence(input_shape, "input_shape", "integers, [batch, *spatial, channels]")) < 2:
        raise ValueError(f"input_shape: got {tuple(input_shape)}, accepted is [batch, *spatial, channels].")
    return _spec.per_axis(size, len(input_shape) - 2, name)


def positions(shape: Shape) -> int:
    return math.prod(shape[1:-1])
