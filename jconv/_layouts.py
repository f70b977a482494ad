"""Arrays that lie in another order than the program means, and the operations that pass that on.

A convolution of a channels-first program runs channels-last, between two transposes. Where what follows works element
by element, reduces over axes or windows, pads, cuts, joins, or adds and drops axes of one element, the second transpose
can wait, and meets the first one of the next convolution: a network of convolutions, norms, activations and pools then
runs channels-last as a whole.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

ELEMENTWISE = frozenset((
    "abs", "add", "add_any", "and", "atan2", "cbrt", "ceil", "clamp", "conj", "convert_element_type", "copy",
    "copy_p", "cos", "cosh", "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt",
    "imag", "integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg",
    "nextafter", "not", "or", "pow", "real", "reduce_precision", "rem", "round", "rsqrt", "select_n", "sign", "sin",
    "sinh", "sqrt", "square", "sub", "tan", "tanh", "xor",
))  # fmt: skip
WINDOWS = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
ENTRIES = {  # parameters with an entry for each axis
    "pad": ("padding_config",),
    "slice": ("start_indices", "limit_indices", "strides"),
    "reduce_window": WINDOWS,
    "reduce_window_max": WINDOWS,
    "reduce_window_min": WINDOWS,
    "reduce_window_sum": WINDOWS,
    "select_and_gather_add": WINDOWS,
    "select_and_scatter_add": WINDOWS[:3],
}
REDUCTIONS = frozenset(["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"])


class Moved:
    """An array whose axis j, as the program means it, is axis ``axes[j]`` of what is kept."""

    def __init__(self, array: Any, axes: Sequence[int]) -> None:
        self.array, self.axes = array, tuple(axes)

    @functools.cached_property
    def settled(self) -> Any:
        return self.array.transpose(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape[i] for i in self.axes)

    @property
    def ndim(self) -> int:
        return len(self.axes)


def moved(array: Any, axes: Sequence[int]) -> Any:
    """The array with these axes, whose transpose waits if it is one."""
    return array if list(axes) == sorted(axes) else Moved(array, axes)


def settled(value: Any) -> Any:
    """As the program means it."""
    return value.settled if isinstance(value, Moved) else value


def transposed(value: Any, axes: Sequence[int]) -> jax.Array:
    """``transpose(value, axes)``, by one transpose at most."""
    if isinstance(value, Moved):
        value, axes = value.array, [value.axes[i] for i in axes]
    return jnp.asarray(value) if list(axes) == sorted(axes) else jnp.transpose(value, axes)


def apart(values: Sequence[Any]) -> tuple[list[Any], list[tuple[int, ...] | None]]:
    """Values as the arrays that are kept, and the axes of those that are `Moved`."""
    arrays = [value.array if isinstance(value, Moved) else value for value in values]
    return arrays, [value.axes if isinstance(value, Moved) else None for value in values]


def joined(arrays: Sequence[Any], axes: Sequence[tuple[int, ...] | None]) -> list[Any]:
    """Values of what `apart` gave."""
    return [a if how is None else Moved(a, how) for a, how in zip(arrays, axes, strict=True)]


def bind(eqn: Any, args: list[Any]) -> list[Any]:
    """An equation as it stands."""
    out = eqn.primitive.bind(*args, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def _ones_aside(value: Moved, shape: Sequence[int]) -> Any:
    """`value` reshaped where only axes of one element come or go; None where it is another reshape."""
    long = [i for i, n in enumerate(value.shape) if n != 1]
    if not all(isinstance(n, int) for n in (*value.shape, *shape)):
        return None  # a symbolic size may be one
    if [value.shape[i] for i in long] != [n for n in shape if n != 1] or 0 in shape:
        return None
    order = sorted(value.axes[i] for i in long)  # as they lie, without the others
    ones = len(shape) - len(long)
    array = value.array.reshape(*(value.array.shape[i] for i in order), *(1,) * ones)
    place, one = iter(order.index(value.axes[i]) for i in long), iter(range(len(order), len(shape)))
    return moved(array, [next(one) if n == 1 else next(place) for n in shape])


def passed_on(eqn: Any, args: Sequence[Any], bind: Callable[[Any, list[Any]], list[Any]]) -> list[Any] | None:
    """The results of an equation some of whose operands are `Moved`; None where it needs them as they are meant.

    `bind(eqn, args)` computes an equation whose parameters and operands are as they are kept."""
    name, first = eqn.primitive.name, next(arg for arg in args if isinstance(arg, Moved))
    if len(eqn.outvars) != 1 or any(eqn.params.get(p) is not None for p in ("sharding", "out_sharding")):
        return None
    shape = getattr(eqn.outvars[0].aval, "shape", ())
    back = np.argsort(first.axes).tolist()
    turned: dict[str, Any] | None = None  # the parameters for operands that all lie as the first one
    # Operands of as many axes, some of one element, are accepted by some versions.
    if name in ELEMENTWISE and all(np.ndim(arg) in (0, len(shape)) for arg in args):
        turned = {}
    elif name in ENTRIES and all(np.ndim(arg) in (0, first.ndim) for arg in args):
        given = {p: eqn.params[p] for p in ENTRIES[name] if eqn.params[p] is not None}
        turned = {p: tuple(entries[i] for i in back) for p, entries in given.items()}
    elif name == "concatenate":
        turned = {"dimension": first.axes[eqn.params["dimension"]]}
    if turned is not None:
        alike = [arg if np.ndim(arg) == 0 else transposed(arg, back) for arg in args]
        return [Moved(result, first.axes) for result in bind(eqn.replace(params=eqn.params | turned), alike)]
    if name in REDUCTIONS and len(args) == 1:
        gone = eqn.params["axes"]
        axes = tuple(sorted(first.axes[i] for i in gone))
        (result,) = bind(eqn.replace(params={**eqn.params, "axes": axes}), [first.array])
        left = [axis for i, axis in enumerate(first.axes) if i not in gone]
        return [moved(result, [sorted(left).index(axis) for axis in left])]
    if name == "transpose":
        return [moved(first.array, [first.axes[i] for i in eqn.params["permutation"]])]
    other_order = name == "reshape" and eqn.params.get("dimensions") is not None
    if name in ("reshape", "squeeze", "broadcast_in_dim") and len(args) == 1 and not other_order:
        result = _ones_aside(first, shape)
        return None if result is None else [result]
    return None
