"""Arrays that lie in another order than the program means, and the operations that pass that on.

A convolution of a channels-first program runs channels-last, between two transposes. Where what follows works element
by element, reduces over axes, or adds and drops axes of one element, the second transpose can wait, and meets the first
one of the next convolution: whole networks then run channels-last, their norms and activations too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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
REDUCTIONS = frozenset(["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"])


class Moved(NamedTuple):
    """An array whose axis j, as the program means it, is axis ``axes[j]`` of what is kept."""

    array: Any
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape[i] for i in self.axes)

    @property
    def ndim(self) -> int:
        return len(self.axes)


def moved(array: Any, axes: Sequence[int]) -> Any:
    """The array with these axes, whose transpose waits if it is one."""
    return array if list(axes) == sorted(axes) else Moved(array, tuple(axes))


def settled(value: Any) -> Any:
    """As the program means it."""
    return value.array.transpose(value.axes) if isinstance(value, Moved) else value


def transposed(value: Any, axes: Sequence[int]) -> jax.Array:
    """``transpose(value, axes)``, by one transpose at most."""
    if isinstance(value, Moved):
        value, axes = value.array, [value.axes[i] for i in axes]
    return jnp.asarray(value) if list(axes) == sorted(axes) else jnp.transpose(value, axes)


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


def passed_on(eqn: Any, args: Sequence[Any], bind: Any) -> list[Any] | None:
    """The results of an equation some of whose operands are `Moved`; None where it needs them as they are meant."""
    name, first = eqn.primitive.name, next(arg for arg in args if isinstance(arg, Moved))
    shape = eqn.outvars[0].aval.shape
    if any(eqn.params.get(given) is not None for given in ("sharding", "out_sharding")):
        return None
    # Operands of as many axes, some of one element, are accepted by some versions.
    if name in ELEMENTWISE and all(np.ndim(arg) in (0, len(shape)) for arg in args):
        back = np.argsort(first.axes).tolist()
        same = [arg if np.ndim(arg) == 0 else transposed(arg, back) for arg in args]
        return [Moved(result, first.axes) for result in bind(eqn, same)]
    if name in REDUCTIONS and len(args) == 1:
        gone = eqn.params["axes"]
        axes = tuple(sorted(first.axes[i] for i in gone))
        (result,) = bind(eqn.replace(params={**eqn.params, "axes": axes}), [first.array])
        left = [axis for i, axis in enumerate(first.axes) if i not in gone]
        return [moved(result, [sorted(left).index(axis) for axis in left])]
    if name == "transpose":
        return [moved(first.array, [first.axes[i] for i in eqn.params["permutation"]])]
    if name in ("reshape", "squeeze", "broadcast_in_dim") and len(args) == 1:
        result = _ones_aside(first, shape)
        return None if result is None else [result]
    return None
