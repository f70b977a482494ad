"""What windows of lax are as those of jconv: `reduce_window_max`, `_min`, `_sum`, and the derivatives of the former."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.core import Tracer

from .._algorithms.base import accumulator
from .._conv import automatic, explicit_axes
from .._dtypes import FLOATS, INTEGERS
from .._spec import Axis
from .._windows import Monoid, best, never, picked, scattered, total

TYPES = frozenset(("bool", *FLOATS, *INTEGERS)) - {"complex64", "complex128"}


def _axes(shape: tuple[int, ...], params: dict[str, Any]) -> dict[int, Axis]:
    """The windows along each axis."""
    ones = (1,) * len(shape)
    window, strides, padding = (params[name] for name in ("window_dimensions", "window_strides", "padding"))
    holes, dilation = (params.get(name) or ones for name in ("base_dilation", "window_dilation"))
    each = zip(shape, window, strides, padding, holes, dilation, strict=True)
    return {dim: Axis(n, k, s, low, high, q, d) for dim, (n, k, s, (low, high), q, d) in enumerate(each)}


def _wide(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`fn` of operands of one dtype, of which floats of 16 bits are added in float32."""

    def run(*operands: jax.Array) -> jax.Array:
        dtype = operands[0].dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            return fn(*operands)
        return fn(*(v.astype(accumulator(dtype)) for v in operands)).astype(dtype)

    return run


def _monoid(params: dict[str, Any]) -> Monoid | None:
    return {"ge": "max", "le": "min"}.get(params["select_prim"].name)  # type: ignore


def _best(monoid: Monoid):
    return lambda axes, params: lambda x: best(x, axes, monoid)


def _derivative(fn: Callable[..., jax.Array]):
    def of(axes, params):
        monoid = _monoid(params)
        return monoid and _wide(lambda moving, x: fn(x, moving, axes, monoid))

    return of


def _monoid_of(jaxpr: Any, start: Any) -> Monoid | None:
    """Of any operation and first value, if they are those of a monoid."""
    if len(jaxpr.eqns) != 1 or isinstance(start, Tracer):
        return None
    (eqn,) = jaxpr.eqns
    monoid: Any = {"add": "add", "max": "max", "min": "min"}.get(eqn.primitive.name)
    alike = eqn.invars == jaxpr.invars and eqn.outvars == jaxpr.outvars
    return monoid if monoid and alike and np.asarray(start) == never(eqn.outvars[0].aval.dtype, monoid) else None


POOLS: dict[str, Callable[[dict[int, Axis], dict[str, Any]], Callable[..., jax.Array] | None]] = {
    "reduce_window_max": _best("max"),
    "reduce_window_min": _best("min"),
    "reduce_window_sum": lambda axes, params: _wide(lambda x: total(x, axes)),
    "select_and_gather_add": _derivative(picked),
    "select_and_scatter_add": _derivative(scattered),
}


NAMES = frozenset(("reduce_window", *POOLS))


def pooled(eqn: Any, args: list[Any]) -> list[Any] | None:
    """The result of one of them; None where it is left to lax."""
    name, out = eqn.primitive.name, eqn.outvars[0].aval
    if {jnp.dtype(v.aval.dtype).name for v in eqn.invars} - TYPES or len(eqn.outvars) > 1:
        return None
    if name == "reduce_window":
        *args, start = args
        monoid = _monoid_of(eqn.params["jaxpr"], start)
        name = f"reduce_window_{'sum' if monoid == 'add' else monoid}"
    shape = np.shape(args[-1])
    if name not in POOLS or not all(isinstance(n, int) and n > 0 for n in (*shape, *out.shape)):
        return None
    run = POOLS[name](_axes(shape, eqn.params), eqn.params)
    if run is None:
        return None
    args, mesh = list(map(jnp.asarray, args)), out.sharding.mesh
    with jax.named_scope("jconv.accelerate"):
        return [automatic(run, mesh, out.sharding)(*args) if explicit_axes(mesh) else run(*args)]
