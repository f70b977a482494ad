"""What is computed in which dtype, and with which precision."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from ._algorithms.base import accumulator, promoted

FLOATS = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
KINDS = (jnp.integer, jnp.floating, jnp.complexfloating)


def digits(dtype: Any) -> int:
    """Binary digits that every integer up to that length keeps in ``dtype``."""
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).bits - int(jnp.issubdtype(dtype, jnp.signedinteger))
    return jnp.finfo(dtype).nmant + 1


def holds(wide: Any, dtype: Any) -> bool:
    """Whether ``wide`` is of the same kind as ``dtype`` and holds all of its values."""
    same_kind = any(jnp.issubdtype(dtype, kind) and jnp.issubdtype(wide, kind) for kind in KINDS)
    return same_kind and (wide == dtype or promoted(dtype, wide) == wide)


def keeps_64_bits(*dtypes: Any) -> contextlib.AbstractContextManager:
    """What 64-bit dtypes need to stay so outside the context that made them, as they do for lax."""
    wide = any(np.dtype(dtype).name in ("float64", "complex128", "int64", "uint64") for dtype in dtypes)
    return jax.enable_x64(True) if wide else contextlib.nullcontext()


def as_array(value: Any, name: str) -> jax.Array:
    """`value` as an array; TypeError in the name of an argument where it is none."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        if isinstance(value, jax.Array):
            raise
        hint = " Options are given by name, as in padding='SAME'." if isinstance(value, str) else ""
        raise TypeError(f"{name}: got {value!r}, accepted is an array of numbers.{hint}") from error


def check_dtype(dtype: Any, name: str, accepted: Sequence[str] = (*FLOATS, *INTEGERS)) -> None:
    """TypeError in the name of an argument, for a dtype that is not accepted."""
    if np.dtype(dtype).name not in accepted:
        raise TypeError(f"{name}: got dtype {np.dtype(dtype)}, accepted are {', '.join(accepted)}.")


def mixed(*dtypes: Any) -> np.dtype:
    """What dtypes that the user mixed promote to; TypePromotionError where the mode of the program refuses that."""
    return np.dtype(functools.reduce(jnp.promote_types, dtypes))


def common_dtype(**operands: jax.Array) -> np.dtype:
    """The dtype that the operands are computed in; TypeError where one is no number or would be rounded."""
    for name, array in operands.items():
        check_dtype(array.dtype, name)
    dtype = promoted(*(array.dtype for array in operands.values()))
    for name, array in operands.items():
        if digits(array.dtype) > digits(dtype):
            raise TypeError(
                f"{name}: got dtype {array.dtype} beside {', '.join(f'{n} {a.dtype}' for n, a in operands.items())}; "
                f"computing in {dtype} would round {name} silently. Cast one of them yourself."
            )
    return mixed(*(array.dtype for array in operands.values()))


def result_dtype(dtype: np.dtype, preferred_element_type: Any) -> np.dtype:
    """The dtype of the result: as asked, else that of the operands, and int32 for short integers."""
    if preferred_element_type is None:
        return accumulator(dtype) if jnp.issubdtype(dtype, jnp.integer) else dtype
    preferred = jax.dtypes.canonicalize_dtype(preferred_element_type)
    if not holds(preferred, dtype):
        raise TypeError(
            f"preferred_element_type: got {preferred} for operands of {dtype}; accepted is a dtype of the same kind "
            "that holds all of its values."
        )
    return np.dtype(preferred)


def check_bias(bias: jax.Array, dtype: np.dtype, *others: Any) -> None:
    """TypeError for a bias that a result of this dtype does not hold.

    A bias of neither the result's dtype nor one of `others`, the operands', is mixed with them.
    """
    check_dtype(bias.dtype, "bias")
    holds = promoted(bias.dtype, dtype) == dtype
    if not holds or digits(bias.dtype) > digits(dtype):
        raise TypeError(
            f"bias: got dtype {bias.dtype} for a result of {dtype}, which would round it silently. Cast it, or set "
            "preferred_element_type."
        )
    if others and bias.dtype not in (dtype, *others):
        mixed(bias.dtype, dtype)


def broadcast_bias(bias: jax.Array, y: jax.Array) -> jax.Array:
    """`bias` over the shape of y. It is broadcast in the accumulator's dtype, so that its gradient is summed there."""
    check_bias(bias, y.dtype)
    return jnp.broadcast_to(bias.astype(accumulator(y.dtype)), y.shape).astype(y.dtype)


def canonical_precision(precision: Any) -> Any:
    """`precision` as `jax.lax.Precision`, a pair of them, or None; by default what `default_matmul_precision` says.

    It is settled when the call is traced. The algorithms are traced later, when that context may be over.
    """
    if precision is None:
        default = jax.config.jax_default_matmul_precision  # type: ignore
        try:
            return None if default is None else lax.Precision(default)
        except ValueError:  # a preset for matrix products alone
            return None
    if isinstance(precision, Sequence) and not isinstance(precision, str) and len(precision) == 2:
        return tuple(lax.Precision.DEFAULT if p is None else canonical_precision(p) for p in precision)
    try:
        return lax.Precision(precision)
    except (ValueError, TypeError):
        raise ValueError(
            f"precision: got {precision!r}, accepted are None, 'default', 'high', 'highest', a jax.lax.Precision, or a "
            "pair of these for the two operands."
        ) from None
