"""What a layer is, and what the layers share."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, ParamSpec

import jax
import numpy as np
from jax import numpy as jnp
from jax.core import Tracer

from .. import _spec, initializers
from .._algorithms.base import promoted
from .._dtypes import FLOATS, check_dtype
from .._names import named

P = ParamSpec("P")
Shape = tuple[int, ...]
Tree = dict[str, Any]
Initializer = Callable[..., jax.Array]


class Geometry(NamedTuple):
    """What a table of layers says of one layer beside its shapes; counts are for one example."""

    window: tuple[int | Fraction, ...] = ()  # of its input, from the first to the last that one output sees
    strides: tuple[int | Fraction, ...] = ()
    connections: int = 0
    macs: int = 0
    taps: tuple[tuple[Fraction, ...], ...] = ()  # what of its input output 0 looks at; by default `window` in a row


class Epilogue(NamedTuple):
    """What is known of a layer's apply, for `Sequential`, `Streaming` and `fold_batch_norm`.

    A `Sequential` may let one layer do what the one behind it would, and `Streaming` makes the form that takes pieces
    where `streamed` says how. It is true of that function alone. A layer whose apply is replaced has none, unless it is
    given one: what a wrapper does to the result is for it to say.
    """

    apply: Callable[..., Any]  # the function that this is about
    # It is this one of `jconv.conv`'s activations, no more.
    activation: str | None = None
    # It has an argument `activation`, and applies it last.
    takes_activation: bool = False
    # Of the layer: its form for pieces; `alone` where it is itself.
    streamed: Callable[[Layer], Layer] | None = None
    # Of other children: the layer made of those.
    remade: Callable[[Sequence[Layer]], Layer] | None = None
    # Of params and state: slope and offset, where in inference it is y = x slope + offset.
    affine: Callable[[Tree, Tree], tuple[Any, Any]] | None = None
    # Of layer, params, slope and offset: the layer and params that give y slope + offset.
    scaled: Callable[..., tuple[Layer, Tree]] | None = None


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


class ArrayShape(tuple[int, ...]):
    """A shape that also tells the dtype of its array; else a tuple like any other."""

    dtype: Any

    def __new__(cls, sizes: Sequence[int] = (), dtype: Any = jnp.float32):
        self = super().__new__(cls, sizes)
        self.dtype = dtype
        return self


def array_shape(given: Any, argument: str = "input_shape") -> ArrayShape:
    """The shape of an input, with its dtype where that is told, else float32; a batch of None is -1."""
    accepted = "[batch, *spatial, channels], where the batch alone may be None or -1"
    told = given.shape if isinstance(given, jax.ShapeDtypeStruct) else given
    entries = _spec.sequence(told, argument, f"integers, {accepted}, or a jax.ShapeDtypeStruct")
    batch, rest = (entries[:1], entries[1:]) if len(entries) > 1 else ((), entries)
    if not rest or any(n is None or _spec.is_sequence(n) or not n >= 0 for n in rest):
        raise ValueError(f"{argument}: got {entries}, accepted is {accepted}.")
    rest = tuple(_spec.integer(n, argument) for n in rest)
    return ArrayShape((*(-1 if n is None else n for n in batch), *rest), getattr(given, "dtype", jnp.float32))


class Made(NamedTuple):
    """How a layer was made: by which function, of which arguments, and what its fields were then."""

    function: Callable[..., Layer]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    fields: dict[str, Any]


class _Found(NamedTuple):
    """A function of JAX, which by itself may not be picklable, by its name."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer: the pair init and apply, y, state' = apply(params, state, x).

    A layer is pickled as the call that made it and what was replaced since, so functions of one's own in it must be
    those of a module, as always in pickle. Nothing in it changes, so a copy of a layer is the layer.

    Args:
        init: ``init(key, input_shape) -> (params, state)``.
        apply: ``apply(params, state, x, *, train=False, key=None) -> (y, state)``.
        name: what its parameters are called in a `Sequential`; by default its kind and a number.
        kind: the kind of layer, for tables.
        geometry: for tables: ``geometry(input_shape) -> Geometry``.
        children: the layers that it is made of, with their names.
        chained: whether the children follow each other, or all see the input.
        epilogue: what `Sequential` and others may know of `apply`; None where it is about another function.
        made: how a function of this package made it.

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
    epilogue: Epilogue | None = None
    made: Made | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.epilogue is not None and self.epilogue.apply is not self.apply:
            object.__setattr__(self, "epilogue", None)

    def output_shape(self, input_shape: Sequence[int] | jax.ShapeDtypeStruct) -> ArrayShape:
        """The shape that `apply` gives for an input of that shape; a batch axis of -1 or None is -1.

        The input is taken to be float32, unless a ``jax.ShapeDtypeStruct`` tells its dtype. What is returned tells that
        of the output, its ``dtype``, to the `output_shape` of the next layer.
        """
        shape = array_shape(input_shape)
        concrete = (1, *shape[1:]) if shape[0] == -1 else tuple(shape)
        modes = (jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion)  # type: ignore[attr-defined]
        try:
            out = _trace(self, concrete, shape.dtype, modes)
        except TypeError as error:
            told = "a jax.ShapeDtypeStruct as input_shape tells another dtype"
            error.add_note(f"{self.name or self.kind} was traced with an input of {jnp.dtype(shape.dtype)}; {told}.")
            raise
        return ArrayShape((-1, *out.shape[1:]) if shape[0] == -1 else out.shape, out.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = _fields(self)
        if self.made is None:
            return type(self), tuple(fields.values())
        function, args, kwargs, first = self.made
        changes = {name: value for name, value in fields.items() if value is not first[name]}
        by_name = lambda entries: {name: _findable(value) for name, value in entries.items()}
        return _remake, (function, tuple(map(_findable, args)), by_name(kwargs), by_name(changes))

    def __copy__(self) -> Layer:
        return self

    def __deepcopy__(self, memo: Any) -> Layer:
        return self


def _fields(layer: Layer) -> dict[str, Any]:
    return {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer) if f.name != "made"}


def _findable(value: Any) -> Any:
    """A public function of JAX as its name, anything else as it is."""
    for module in (jax.nn, jnp, jax.lax):
        name = getattr(value, "__name__", None)
        if callable(value) and name and getattr(module, name, None) is value:
            return _Found(module.__name__, name)
    return value


def _remake(function: Callable[..., Layer], args: Sequence[Any], kwargs: Tree, changes: Tree) -> Layer:
    """The layer that a pickle of one stands for."""
    found = lambda v: getattr(importlib.import_module(v.module), v.name) if isinstance(v, _Found) else v
    layer = function(*map(found, args), **{name: found(value) for name, value in kwargs.items()})
    return dataclasses.replace(layer, **{name: found(value) for name, value in changes.items()}) if changes else layer


def remade(layer: Layer, **changes: Any) -> Layer:
    """The layer, made with other arguments by keyword."""
    assert layer.made is not None  # which public functions see to
    function, args, kwargs, first = layer.made
    since = {name: v for name, v in _fields(layer).items() if v is not first[name]}
    return _remake(function, args, kwargs | changes, since)


def constructor(function: Callable[P, Layer]) -> Callable[P, Layer]:
    """A public function that makes layers: they know how they were made, and its errors know other libraries' names."""
    checked = named(function)

    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> Layer:
        layer = checked(*args, **kwargs)
        return dataclasses.replace(layer, made=Made(make, args, dict(kwargs), _fields(layer)))

    return make


@functools.lru_cache(maxsize=1024)
def _trace(layer: Layer, input_shape: Shape, dtype: Any, modes: tuple[Any, ...]) -> jax.ShapeDtypeStruct:
    """What a layer gives, by tracing it; kept, since nested layers ask for those in them again and again.

    `modes` are those of JAX that it depends on.
    """

    def run(key, x):
        params, state = layer.init(key, ArrayShape(input_shape, dtype))
        return layer.apply(params, state, x)[0]

    return jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct(input_shape, dtype))


# Arguments -----------------------------------------------------------------------------------------------
def number(value: Any, name: str, *, low: float = -math.inf, high: float = math.inf, accepted: str) -> Any:
    """`value` as a float, where it is a real number in [low, high), else ValueError. One that is traced passes."""
    if isinstance(value, Tracer):
        return value
    if isinstance(value, bool) or not hasattr(value, "__float__") or np.iscomplexobj(value) or np.ndim(value):
        raise ValueError(f"{name}: got {value!r}, accepted is {accepted}.")
    if not low <= float(value) < high:
        raise ValueError(f"{name}: got {value}, accepted is {accepted}.")
    return float(value)


def rate_of(value: Any, name: str = "rate") -> Any:
    """A probability that is less than one."""
    return number(value, name, low=0, high=1, accepted=f"0 <= {name} < 1")


def epsilon_of(value: Any) -> Any:
    """What is added to a variance."""
    return number(value, "epsilon", low=0, accepted="a finite number of at least 0")


def sizes(value: int | Sequence[int] | None, name: str, *, minimum: int = 1) -> None:
    """ValueError for what is neither an integer nor one for each spatial axis, before there is an input."""
    if value is not None:
        _spec.per_axis(value, len(value) if _spec.is_sequence(value) else 1, name, minimum=minimum)  # type: ignore


def check_dtypes(*, param_dtype: Any, dtype: Any = None) -> None:
    """TypeError for dtypes that parameters cannot have, or cannot be computed in."""
    for name, value in (("dtype", dtype), ("param_dtype", param_dtype)):
        if value is None and name == "dtype":
            continue
        try:
            known = jnp.dtype(value)
        except TypeError:
            raise TypeError(f"{name}: got {value!r}, accepted are {', '.join(FLOATS)}.") from None
        check_dtype(known, name, FLOATS)


# Dtypes --------------------------------------------------------------------------------------------------
def result_and_wide(x: jax.Array, params: Sequence[Any] = (), state: Sequence[Any] = ()) -> tuple[np.dtype, np.dtype]:
    """What a layer that normalises, scales or drops gives for x, and what it computes in.

    The result has the dtype of x. Integers and booleans count as numbers of the parameters' dtype, and without any as
    float32; real numbers become complex where parameters are. It is computed in that of x, parameters and state
    together, and at least in float32.
    """
    dtypes = [array.dtype for array in params]
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else promoted(*dtypes or [jnp.float32])
    if any(jnp.issubdtype(other, jnp.complexfloating) for other in dtypes):
        dtype = promoted(dtype, jnp.complex64)
    return np.dtype(dtype), promoted(jnp.float32, dtype, *dtypes, *(array.dtype for array in state))


def channelwise(v: Any, like: jax.Array) -> jax.Array:
    """A vector over the channels, in the dtype and with the axes of an array that it meets."""
    return jnp.expand_dims(jnp.asarray(v).astype(like.dtype), tuple(range(like.ndim - 1)))


def alike(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """The arrays in the dtype that holds them all."""
    dtype = promoted(*(array.dtype for array in arrays))
    return [array.astype(dtype) for array in arrays]


def alone(layer: Layer) -> Layer:
    """A layer that looks at each position alone takes pieces as it is."""
    return layer


# Parts of layers -----------------------------------------------------------------------------------------
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


def stateless(
    fn: Callable[..., jax.Array], kind: str, name: str | None, geometry=None, activation=None, streamed=None
) -> Layer:
    """A layer without parameters or state; `activation`: of `jconv.conv`, where it is that alone."""

    def init(key, input_shape):
        return {}, {}

    def apply(params, state, x, *, train=False, key=None):
        return fn(x), state

    return Layer(init, apply, name, kind, geometry, epilogue=Epilogue(apply, activation, streamed=streamed))


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
    if len(input_shape) < 2:
        raise ValueError(f"input_shape: got {tuple(input_shape)}, accepted is [batch, *spatial, channels].")
    return _spec.per_axis(size, len(input_shape) - 2, name)


def positions(shape: Shape) -> int:
    return math.prod(shape[1:-1])
