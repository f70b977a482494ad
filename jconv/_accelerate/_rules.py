"""Evaluating a jaxpr with the convolutions and pools in it replaced.

What becomes of a primitive stands in `RULES`: a convolution becomes a role of jconv, and what has jaxprs inside (jit,
scan, while, cond, checkpoint, shard_map, custom derivatives) is built anew around the replaced ones. A pool becomes
windows of jconv. What has no rule stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.core import ShapedArray

from .._conv import explicit_axes
from .._jaxprs import equations, inner, opened
from .._layouts import Moved, apart, bind, joined, passed_on, settled, transposed
from .._plan import Plans
from .._primitive import ClosedJaxpr, Literal, conv_p
from ._pools import NAMES, pooled
from ._role import Replacement, View, plan

CONVOLUTION = "conv_general_dilated"


def to_replace(jaxpr: Any) -> bool:
    """Whether there is something to replace, at any depth."""
    return any(eqn.primitive.name == CONVOLUTION or eqn.primitive.name in NAMES for eqn in equations(jaxpr))


def bound(eqn: Any, args: list[Any]) -> list[Any]:
    """A pool by jconv, and any other equation as it stands."""
    found = pooled(eqn, args) if eqn.primitive.name in NAMES else None
    return bind(eqn, args) if found is None else found


def is_plain(eqn: Any) -> bool:
    """Whether a jitted function leaves open how its arguments and results are sharded."""
    shardings = (*eqn.params["in_shardings"], *eqn.params["out_shardings"])
    return all("Unspecified" in type(sharding).__name__ for sharding in shardings)


class Replacer:
    """Evaluates jaxprs with the convolutions in them replaced, and keeps an account of them."""

    def __init__(self, plans: Plans) -> None:
        self.plans = plans
        self.found: list[Replacement] = []
        self.path: tuple[str, ...] = ()

    def run(self, jaxpr: Any, args: Sequence[Any]) -> list[Any]:
        """What a jaxpr computes, closed or without constants."""
        return list(map(settled, self.values(jaxpr, args)))

    def values(self, jaxpr: Any, args: Sequence[Any]) -> list[Any]:
        """The same, where arrays may be `Moved`."""
        values: dict[Any, Any] = {}
        read = lambda v: v.val if isinstance(v, Literal) else values[v]
        consts, jaxpr = getattr(jaxpr, "consts", ()), opened(jaxpr)
        values |= zip(jaxpr.constvars, consts, strict=True)
        values |= zip(jaxpr.invars, args, strict=True)
        for eqn in jaxpr.eqns:
            with eqn.ctx.manager:
                out = self.equation(eqn, [read(v) for v in eqn.invars])
            values |= zip(eqn.outvars, out, strict=True)
        return [read(v) for v in jaxpr.outvars]

    def equation(self, eqn: Any, args: list[Any]) -> Sequence[Any]:
        """The results of one equation."""
        name = eqn.primitive.name
        is_replaced = name == CONVOLUTION or any(map(to_replace, inner(eqn)))
        if not is_replaced and any(isinstance(arg, Moved) for arg in args):
            results = PASS_ON.get(name, _passed_on)(self, eqn, args)
            if results is not None:
                return results
        if is_replaced and name in RULES:
            title = eqn.params.get("name")
            outer, self.path = self.path, (*self.path, f"{name} {title}" if title else name)
            try:
                return RULES[name](self, eqn, args if name == CONVOLUTION else list(map(settled, args)))
            finally:
                self.path = outer
        if is_replaced:
            self.leave(eqn)
        return bound(eqn, list(map(settled, args)))

    def note(self, eqn: Any, path: tuple[str, ...], view: View | str) -> None:
        """Keeps account of one convolution: as what it is computed, or why it is left."""
        lhs, rhs = (v.aval for v in eqn.invars)
        facts = {"why": view} if isinstance(view, str) else {"role": view.role, "spec": view.spec}
        self.found.append(Replacement(path, lhs.shape, rhs.shape, lhs.dtype.name, **facts))  # type: ignore

    def leave(self, eqn: Any) -> None:
        """Notes every convolution inside an equation whose parts cannot be rebuilt."""
        for jaxpr in inner(eqn):
            for each in equations(jaxpr):
                if each.primitive.name == CONVOLUTION:
                    self.note(each, self.path, f"inside {eqn.primitive.name}, which is not opened")

    def closed(self, jaxpr: Any) -> Any:
        """A closed jaxpr with its convolutions replaced, over the same inputs."""
        if not to_replace(jaxpr):
            return jaxpr
        return jax.make_jaxpr(lambda *args: self.run(jaxpr, args))(*(_shape(v.aval) for v in opened(jaxpr).invars))

    def again(self, fn: Callable[..., Any], *args: Any) -> Any:
        """`fn`, traced and evaluated with its convolutions replaced."""
        leaves, tree = jax.tree.flatten(args)
        is_input = lambda leaf: jnp.result_type(leaf) != jax.dtypes.float0  # which the tangents of integers are
        inputs = list(filter(is_input, leaves))
        flat = lambda *inputs: fn(*tree.unflatten(_filled(leaves, is_input, inputs)))
        closed, shape = jax.make_jaxpr(flat, return_shape=True)(*inputs)
        return jax.tree.structure(shape).unflatten(self.run(closed, inputs))


def _filled(leaves: Iterable[Any], is_input: Callable[[Any], bool], inputs: Iterable[Any]) -> list[Any]:
    """The leaves with the inputs in their places."""
    found = iter(inputs)
    return [next(found) if is_input(leaf) else leaf for leaf in leaves]


def _shape(aval: Any) -> Any:
    """What `jax.make_jaxpr` is given for an input of a jaxpr."""
    if not isinstance(aval, ShapedArray):  # a reference, which stands for itself
        return aval
    varying = getattr(getattr(aval, "mat", None), "varying", None)
    extra = {"vma": varying} if varying else {}
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type, **extra)


# Rules: what becomes of an equation that is, or has inside, a convolution ---------------------------------
Rule = Callable[[Replacer, Any, list[Any]], Sequence[Any]]


def _convolution(replacer, eqn, args):
    out, params = eqn.outvars[0].aval, eqn.params
    view = plan(eqn.invars[0].aval, eqn.invars[1].aval, out, params, replacer.plans)
    replacer.note(eqn, replacer.path[:-1], view)
    if isinstance(view, str):
        return bind(eqn, list(map(settled, args)))
    compute = lambda lhs, rhs: view.compute(lhs, rhs, replacer.plans, params["precision"], out.dtype)
    explicit = explicit_axes(out.sharding.mesh)
    with jax.named_scope("jconv.accelerate"):
        if not explicit:
            return [compute(*args)]
        # Inside, the compiler shards the operations; outside, the result is sharded as lax has it.
        whole = lambda *args: settled(compute(*args))
        return [jax.sharding.auto_axes(whole, axes=explicit, out_sharding=out.sharding)(*map(settled, args))]


def _rebuilt(replacer, eqn, args):
    """Any equation that takes closed jaxprs as parameters: jit, scan, while, cond."""
    changed = {}
    for name, value in eqn.params.items():
        if isinstance(value, ClosedJaxpr):
            changed[name] = replacer.closed(value)
        elif isinstance(value, tuple) and any(isinstance(each, ClosedJaxpr) for each in value):
            changed[name] = tuple(map(replacer.closed, value))
    return bind(eqn.replace(params={**eqn.params, **changed}), args)


def _checkpoint(replacer, eqn, args):
    policy, prevent_cse = eqn.params["policy"], eqn.params["prevent_cse"]

    def as_for_lax(primitive, *avals, **params):  # a policy that saves lax's convolutions saves these
        return policy(jax.lax.conv_general_dilated_p if primitive is conv_p else primitive, *avals, **params)

    run = jax.checkpoint(lambda *args: replacer.run(eqn.params["jaxpr"], args), prevent_cse=prevent_cse,
                         policy=policy and as_for_lax)  # fmt: skip
    return run(*args)


def _shard_map(replacer, eqn, args):
    p = eqn.params
    axes = p["newly_manual_axes"] if "newly_manual_axes" in p else p["manual_axes"]
    options = {"mesh": p["mesh"], "in_specs": p["in_specs"], "out_specs": list(p["out_specs"])}
    body = lambda *args: replacer.run(p["jaxpr"], args)
    return jax.shard_map(body, **options, check_vma=p["check_vma"], axis_names=set(axes))(*args)


def _derivative(eqn):
    """The rule that a `jax.custom_jvp` brings with it."""
    return lambda primals, tangents: jax.jvp(lambda *args: list(bind(eqn, list(args))), primals, tangents)


def _custom_jvp(replacer, eqn, args):
    @jax.custom_jvp
    def primal(*args):
        return replacer.run(eqn.params["call_jaxpr"], args)

    @primal.defjvp
    def _(primals, tangents):
        return replacer.again(_derivative(eqn), primals, tangents)

    return primal(*args)


def _custom_vjp(replacer, eqn, args):
    @jax.custom_vjp
    def primal(*args):
        return replacer.run(eqn.params["call_jaxpr"], args)

    def forward(*args):
        return replacer.again(lambda *args: jax.vjp(lambda *a: list(bind(eqn, list(a))), *args), *args)

    def backward(pullback, cotangents):
        return replacer.again(lambda pullback, ct: pullback(ct), pullback, cotangents)

    primal.defvjp(forward, backward)
    return primal(*args)


RULES: dict[str, Rule] = {
    CONVOLUTION: _convolution,
    "jit": _rebuilt,
    "scan": _rebuilt,
    "while": _rebuilt,
    "cond": _rebuilt,
    "remat2": _checkpoint,
    "shard_map": _shard_map,
    "custom_jvp_call": _custom_jvp,
    "custom_vjp_call": _custom_vjp,
}


# And where there is nothing to replace, but an operand is `Moved`: None where that has to be settled ------
def _passed_on(replacer, eqn, args):
    return passed_on(eqn, args, bound)


def _jit_of_moved(replacer, eqn, args):
    if not is_plain(eqn) or any(eqn.params["donated_invars"]):
        return None
    arrays, given = apart(args)
    made: list[Any] = []

    def call(*arrays):
        results, made[:] = apart(replacer.values(eqn.params["jaxpr"], joined(arrays, given)))
        return results

    call.__name__ = eqn.params["name"]
    return joined(jax.jit(call)(*arrays), made)


def _custom_jvp_of_moved(replacer, eqn, args):
    """A function with a derivative of its own, such as an activation."""
    if not all(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in eqn.invars):
        return None
    first = next(arg for arg in args if isinstance(arg, Moved))
    arrays, given = apart(args)
    made = [first.axes if v.aval.shape == first.shape else None for v in eqn.outvars]
    kept = lambda values: [
        settled(v) if axes is None else transposed(v, np.argsort(axes).tolist())
        for v, axes in zip(values, made, strict=True)
    ]

    @jax.custom_jvp
    def primal(*arrays):
        return kept(replacer.values(eqn.params["call_jaxpr"], joined(arrays, given)))

    @primal.defjvp
    def _(primals, tangents):
        shapes = tuple(_shape(v.aval) for v in eqn.invars)
        inputs = joined([*primals, *tangents], given * 2)
        results = replacer.values(jax.make_jaxpr(_derivative(eqn))(shapes, shapes), inputs)
        return kept(results[: len(made)]), kept(results[len(made) :])

    return joined(primal(*arrays), made)


PASS_ON: dict[str, Callable[[Replacer, Any, list[Any]], list[Any] | None]] = {
    "jit": _jit_of_moved,
    "custom_jvp_call": _custom_jvp_of_moved,
}
