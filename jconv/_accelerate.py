"""`accelerate`: a function with every convolution in it replaced by jconv's.

The function is traced, and its jaxpr evaluated again, with jconv's primitive in the place of each
`conv_general_dilated`; what has jaxprs inside (jit, scan, while, cond, checkpoint, shard_map, custom derivatives) is
built anew around the replaced ones. So it is one mechanism for a forward pass, for a training step whose gradients are
already taken, and for the convolutions of `jconv.lax`, which are those of jax.lax, accelerated.

A convolution of lax becomes a role as follows. Its axes are put in jconv's order. A `batch_group_count` is a
`feature_group_count` of the image whose batch groups are channels. And a convolution is a kernel gradient read
differently: with x and y for image and result, and a contraction over channels i in the one, over a batch in the other,

    y[b, o, c]    = sum over t, i of   x[b, o s + t d - lo, i]   k[t, i, c]      forward
    kbar[i, t, c] = sum over o, b of   x[b, o s + t d - lo, i]   g[o, b, c]      kernel_grad

are the same sums with the names of b and i, of o and t, and of s and d exchanged. A kernel gradient as lax derives it
is a forward pass whose window is the whole of g. So where the window has more positions than the result it is computed
as the kernel gradient that it is.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from ._algorithms.base import Algorithms, Call, Role
from ._conv import apply_role
from ._dtypes import FLOATS, INTEGERS, holds
from ._layouts import Moved, apart, bind, joined, moved, passed_on, settled, transposed
from ._primitive import ClosedJaxpr, Jaxpr, Literal, flatten_batch, jaxpr_as_fun
from ._select import canonical, refusal
from ._spec import ConvSpec

CONVOLUTION = "conv_general_dilated"


@dataclasses.dataclass(frozen=True)
class Replacement:
    """What became of one convolution of jax.lax, y(lhs, rhs): what it is computed as, or why it was left.

    Args:
        path: the functions around it, outermost first, as in ``("jit step", "scan")``.
        lhs_shape: of its first operand, in elements and in lax's order.
        rhs_shape: of its second operand.
        dtype: of both.
        role: ``"forward"`` or ``"kernel_grad"``; None where it was left.
        spec: the geometry that it is computed as.
        why: the reason where it was left.

    Returns:
        A frozen record; `str` of it is a line to read.

    Raises:
        Nothing.

    >>> print(Replacement(("scan",), (1, 3, 8, 8), (4, 3, 3, 3), "float32", why="there is nothing to compute"))
    (1, 3, 8, 8) with (4, 3, 3, 3), float32: left, there is nothing to compute (in scan)

    References:
        `accelerate`.
    """

    path: tuple[str, ...]
    lhs_shape: tuple[int, ...]
    rhs_shape: tuple[int, ...]
    dtype: str
    role: Role | None = None
    spec: ConvSpec | None = None
    why: str = ""

    def __str__(self) -> str:
        where = " in ".join(reversed(self.path))
        what = f"{self.lhs_shape} with {self.rhs_shape}, {self.dtype}"
        inside = f" (in {where})" if where else ""
        return f"{what}: {f'left, {self.why}' if self.role is None else self.role}{inside}"


# One convolution -----------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class _View:
    """A convolution of lax as a role of jconv: how its operands become jconv's, and the result becomes its."""

    role: Role
    spec: ConvSpec
    lhs_axes: tuple[int, ...]
    rhs_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    batch_groups: int

    def compute(self, lhs, rhs, algorithm, precision, out_dtype):
        a, b = transposed(lhs, self.lhs_axes), transposed(rhs, self.rhs_axes)
        if self.role == "forward" and self.batch_groups > 1:
            a = _groups_to_channels(a, self.batch_groups)
        out = apply_role(self.role, a, b, self.spec, algorithm, precision, out_dtype)
        return moved(out, self.out_axes)


def _groups_to_channels(x, groups: int):
    """[groups * batch, *spatial, channels] to [batch, *spatial, groups * channels]."""
    x = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
    x = jnp.moveaxis(x, 0, -2)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def _view(lhs_shape, rhs_shape, out_shape, params: dict[str, Any]) -> _View:
    """How jconv computes it; ValueError for a geometry that `ConvSpec` does not take."""
    numbers = params["dimension_numbers"]
    (batch, channel, *space), (out, into, *window) = numbers.lhs_spec, numbers.rhs_spec
    positions = [out_shape[i] for i in numbers.out_spec[2:]]
    taps = [rhs_shape[i] for i in window]
    groups, batch_groups = params["feature_group_count"], params["batch_group_count"]
    s, d = params["window_strides"], params["rhs_dilation"]
    q, pads = params["lhs_dilation"], params["padding"]
    rank = len(space)
    if groups == 1 and math.prod(taps) > math.prod(positions):
        lhs_axes, rhs_axes = (channel, *space, batch), (into, *window, out)
        x = tuple(lhs_shape[i] for i in lhs_axes)
        # What the windows reach over, and no more: the pad at the end makes it so.
        spans = [(o - 1) * s[i] + (taps[i] - 1) * d[i] + 1 for i, o in enumerate(positions)]
        sizes = [(n - 1) * q[i] + 1 for i, n in enumerate(x[1:-1])]
        padding = [(pads[i][0], spans[i] - sizes[i] - pads[i][0]) for i in range(rank)]
        kernel = (*positions, x[-1] // batch_groups, rhs_shape[out])
        spec = ConvSpec(x, kernel, d, padding, q, s, batch_groups)
        made = {numbers.out_spec[0]: rank, numbers.out_spec[1]: rank + 1}
        made |= {axis: i for i, axis in enumerate(numbers.out_spec[2:])}
        role: Role = "kernel_grad"
    else:
        lhs_axes, rhs_axes = (batch, *space, channel), (*window, into, out)
        n, *sizes, c = (lhs_shape[i] for i in lhs_axes)
        x = (n // batch_groups, *sizes, c * batch_groups)
        kernel = tuple(rhs_shape[i] for i in rhs_axes)
        spec = ConvSpec(x, kernel, s, pads, q, d, groups * batch_groups)
        made = {numbers.out_spec[0]: 0, numbers.out_spec[1]: rank + 1}
        made |= {axis: i + 1 for i, axis in enumerate(numbers.out_spec[2:])}
        role = "forward"
    return _View(role, spec, lhs_axes, rhs_axes, tuple(made[i] for i in range(rank + 2)), batch_groups)


def _plan(lhs, rhs, out, params: dict[str, Any], algorithm: Algorithms) -> _View | str:
    """How jconv computes it, or why it does not."""
    dtype, out_dtype = np.dtype(lhs.dtype), np.dtype(out.dtype)
    if dtype.name not in (*FLOATS, *INTEGERS) or rhs.dtype != dtype:
        return f"its operands are {lhs.dtype} and {rhs.dtype}"
    if not holds(out_dtype, dtype):
        return f"its result is {out_dtype} for operands of {dtype}"
    if 0 in (*lhs.shape, *rhs.shape, *out.shape):
        return "there is nothing to compute"
    try:
        view = _view(lhs.shape, rhs.shape, out.shape, params)
    except ValueError as error:
        return str(error)
    call = Call(flatten_batch(view.spec), view.role, dtype, out_dtype, params["precision"])
    return refusal(algorithm.role(view.role), call) or view


# Jaxprs --------------------------------------------------------------------------------------------------
def _inner(eqn: Any) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation."""
    for value in eqn.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, (ClosedJaxpr, Jaxpr)):
                yield part


def _open(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _has_convolution(jaxpr: Any) -> bool:
    return any(
        eqn.primitive.name == CONVOLUTION or any(map(_has_convolution, _inner(eqn))) for eqn in _open(jaxpr).eqns
    )


class _Replacer:
    """Evaluates jaxprs with the convolutions in them replaced, and keeps an account of them."""

    def __init__(self, algorithm: Algorithms) -> None:
        self.algorithm = algorithm
        self.found: list[Replacement] = []
        self.path: tuple[str, ...] = ()

    def run(self, jaxpr: Any, args: Sequence[Any]) -> list[Any]:
        """What a jaxpr computes, closed or without constants."""
        return list(map(settled, self.values(jaxpr, args)))

    def values(self, jaxpr: Any, args: Sequence[Any]) -> list[Any]:
        """The same, where arrays may be `Moved`."""
        values: dict[Any, Any] = {}
        read = lambda v: v.val if isinstance(v, Literal) else values[v]
        consts, jaxpr = getattr(jaxpr, "consts", ()), _open(jaxpr)
        values |= zip(jaxpr.constvars, consts, strict=True)
        values |= zip(jaxpr.invars, args, strict=True)
        for eqn in jaxpr.eqns:
            with eqn.ctx.manager:
                out = self.equation(eqn, [read(v) for v in eqn.invars])
            values |= zip(eqn.outvars, out, strict=True)
        return [read(v) for v in jaxpr.outvars]

    def equation(self, eqn: Any, args: list[Any]) -> Sequence[Any]:
        name = eqn.primitive.name
        if name == CONVOLUTION:
            return [self.convolution(eqn, *args)]
        opened = any(map(_has_convolution, _inner(eqn)))
        if not opened and any(isinstance(arg, Moved) for arg in args):
            pass_on = {"jit": self.inner, "custom_jvp_call": self.function}.get(name)
            results = pass_on(eqn, args) if pass_on else passed_on(eqn, args)
            if results is not None:
                return results
        args = list(map(settled, args))
        if opened:
            rebuild = getattr(self, f"_{name}", None)
            if rebuild is not None:
                title = eqn.params.get("name")
                outer, self.path = self.path, (*self.path, f"{name} {title}" if title else name)
                try:
                    return rebuild(eqn, args)
                finally:
                    self.path = outer
            self.leave(eqn)
        return bind(eqn, args)

    def convolution(self, eqn: Any, lhs: Any, rhs: Any) -> Any:
        out, params = eqn.outvars[0].aval, eqn.params
        view = _plan(eqn.invars[0].aval, eqn.invars[1].aval, out, params, self.algorithm)
        self.note(eqn, view)
        if isinstance(view, str):
            return bind(eqn, [settled(lhs), settled(rhs)])[0]
        with jax.named_scope("jconv.accelerate"):
            return view.compute(lhs, rhs, self.algorithm, params["precision"], out.dtype)

    def note(self, eqn: Any, view: _View | str) -> None:
        lhs, rhs = (v.aval for v in eqn.invars)
        facts = {"why": view} if isinstance(view, str) else {"role": view.role, "spec": view.spec}
        self.found.append(Replacement(self.path, lhs.shape, rhs.shape, lhs.dtype.name, **facts))  # type: ignore

    def leave(self, eqn: Any) -> None:
        """Notes every convolution inside an equation whose parts cannot be rebuilt."""
        for inner in _inner(eqn):
            for e in _open(inner).eqns:
                if e.primitive.name == CONVOLUTION:
                    self.note(e, f"inside {eqn.primitive.name}, which is not opened")
                else:
                    self.leave(e)

    # Equations with jaxprs inside ------------------------------------------------------------------------
    def closed(self, jaxpr: Any) -> Any:
        """A closed jaxpr with its convolutions replaced, over the same inputs."""
        if not _has_convolution(jaxpr):
            return jaxpr
        return jax.make_jaxpr(lambda *args: self.run(jaxpr, args))(*(_shape(v.aval) for v in _open(jaxpr).invars))

    def _with(self, eqn: Any, args: list[Any], **changed: Any) -> Sequence[Any]:
        return bind(eqn.replace(params={**eqn.params, **changed}), args)

    def _jit(self, eqn, args):
        return self._with(eqn, args, jaxpr=self.closed(eqn.params["jaxpr"]))

    _scan = _jit

    def _while(self, eqn, args):
        changed = {name: self.closed(eqn.params[name]) for name in ("cond_jaxpr", "body_jaxpr")}
        return self._with(eqn, args, **changed)

    def _cond(self, eqn, args):
        return self._with(eqn, args, branches=tuple(self.closed(branch) for branch in eqn.params["branches"]))

    def _remat2(self, eqn, args):
        options = {name: eqn.params[name] for name in ("prevent_cse", "policy")}
        return jax.checkpoint(lambda *args: self.run(eqn.params["jaxpr"], args), **options)(*args)

    def _shard_map(self, eqn, args):
        p = eqn.params
        axes = p["newly_manual_axes"] if "newly_manual_axes" in p else p["manual_axes"]
        options = {"mesh": p["mesh"], "in_specs": p["in_specs"], "out_specs": list(p["out_specs"])}
        body = lambda *args: self.run(p["jaxpr"], args)
        return jax.shard_map(body, **options, check_vma=p["check_vma"], axis_names=set(axes))(*args)

    def _custom_jvp_call(self, eqn, args):
        call = eqn.params["call_jaxpr"]

        @jax.custom_jvp
        def primal(*args):
            return self.run(call, args)

        @primal.defjvp
        def _(primals, tangents):
            return self.again(lambda p, t: jax.jvp(lambda *args: list(bind(eqn, list(args))), p, t), primals, tangents)

        return primal(*args)

    def inner(self, eqn: Any, args: list[Any]) -> list[Any] | None:
        """A jitted function of arrays that are `Moved`."""
        if not _is_plain(eqn) or any(eqn.params["donated_invars"]):
            return None
        arrays, given = apart(args)
        made: list[Any] = []

        def call(*arrays):
            results, made[:] = apart(self.values(eqn.params["jaxpr"], joined(arrays, given)))
            return results

        call.__name__ = eqn.params["name"]
        return joined(jax.jit(call)(*arrays), made)

    def function(self, eqn: Any, args: list[Any]) -> list[Any] | None:
        """A function with a derivative of its own, such as an activation, of arrays that are `Moved`."""
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
            return kept(self.values(eqn.params["call_jaxpr"], joined(arrays, given)))

        @primal.defjvp
        def _(primals, tangents):
            rule = lambda p, t: jax.jvp(lambda *args: list(bind(eqn, list(args))), p, t)
            shapes = tuple(_shape(v.aval) for v in eqn.invars)
            inputs = joined([*primals, *tangents], given * 2)
            results = self.values(jax.make_jaxpr(rule)(shapes, shapes), inputs)
            return kept(results[: len(made)]), kept(results[len(made) :])

        return joined(primal(*arrays), made)

    def _custom_vjp_call(self, eqn, args):
        call = eqn.params["call_jaxpr"]

        @jax.custom_vjp
        def primal(*args):
            return self.run(call, args)

        def forward(*args):
            return self.again(lambda *args: jax.vjp(lambda *a: list(bind(eqn, list(a))), *args), *args)

        def backward(pullback, cotangents):
            return self.again(lambda pullback, ct: pullback(ct), pullback, cotangents)

        primal.defvjp(forward, backward)
        return primal(*args)

    def again(self, fn: Callable[..., Any], *args: Any) -> Any:
        """`fn`, traced and evaluated with its convolutions replaced."""
        leaves, tree = jax.tree.flatten(args)
        is_input = lambda leaf: jnp.result_type(leaf) != jax.dtypes.float0  # which the tangents of integers are
        inputs = list(filter(is_input, leaves))
        flat = lambda *inputs: fn(*tree.unflatten(_filled(leaves, is_input, inputs)))
        closed, shape = jax.make_jaxpr(flat, return_shape=True)(*inputs)
        return jax.tree.structure(shape).unflatten(self.run(closed, inputs))


def _filled(leaves: list[Any], is_input: Callable[[Any], bool], inputs: Iterable[Any]) -> list[Any]:
    """The leaves with the inputs in their places."""
    found = iter(inputs)
    return [next(found) if is_input(leaf) else leaf for leaf in leaves]


def _shape(aval: Any) -> jax.ShapeDtypeStruct:
    varying = getattr(getattr(aval, "mat", None), "varying", None)
    extra = {"vma": varying} if varying else {}
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type, **extra)


# Public --------------------------------------------------------------------------------------------------
SCALARS = (bool, int, float, complex)
CONTEXT = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable",
           "jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")  # fmt: skip


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic))


def _is_input(leaf: Any) -> bool:
    return _is_array(leaf) or isinstance(leaf, SCALARS)


class _Traced(NamedTuple):
    """A function for certain arguments, replaced: what takes the inputs, and what becomes of its convolutions."""

    run: Callable[..., Any]
    tree: Any
    found: tuple[Replacement, ...]
    inside: Callable[..., Any] | None  # what is jitted, where it is one call that neither places nor donates anything


class Accelerated:
    """What `accelerate` returns: the function, and what became of its convolutions."""

    def __init__(self, fn: Callable[..., Any], algorithm: str | Algorithms) -> None:
        functools.update_wrapper(self, fn)
        self._fn, self._algorithm = fn, canonical(algorithm)
        # A jitted function is traced once for each kind of arguments, and so is it here; any other is run each time.
        self._jitted = hasattr(fn, "lower")
        self._kept: dict[Any, _Traced] = {}
        self._quick: Callable[..., Any] | None = None  # for arguments that are all arrays, where none is donated

    def _trace(self, args: Any, kwargs: Any) -> tuple[_Traced, list[Any]]:
        leaves, tree = jax.tree.flatten((args, kwargs))
        if not self._jitted:
            return self._traced(leaves, tree, _is_array)
        try:
            return self._traced(leaves, tree, _is_input)
        except (TypeError, ValueError, OverflowError):  # a number that the function wants as it is: a static argument
            if not any(isinstance(leaf, (*SCALARS, np.generic)) for leaf in leaves):
                raise
        return self._traced(leaves, tree, lambda leaf: _is_array(leaf) and not isinstance(leaf, np.generic))

    def _traced(self, leaves: list[Any], tree: Any, is_input: Callable[[Any], bool]) -> tuple[_Traced, list[Any]]:
        inputs = list(filter(is_input, leaves))
        key = None
        if self._jitted:
            rest = tuple((type(leaf), leaf) for leaf in leaves if not is_input(leaf))
            key = (tree, rest, tuple(map(is_input, leaves)), *map(jax.typeof, inputs), *_context())
            if key in self._kept:
                return self._kept[key], inputs

        def flat(*inputs: Any) -> Any:
            args, kwargs = tree.unflatten(_filled(leaves, is_input, inputs))
            return self._fn(*args, **kwargs)

        closed, shape = jax.make_jaxpr(flat, return_shape=True)(*inputs)
        replacer = _Replacer(self._algorithm)
        if _has_convolution(closed):
            closed = jax.make_jaxpr(lambda *inputs, old=closed: replacer.run(old, inputs))(*inputs)
        run, inside = _runner(closed)
        traced = _Traced(run, jax.tree.structure(shape), tuple(replacer.found), inside)
        if key is not None:
            self._kept[key] = traced
        return traced, inputs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arrays = self._jitted and all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((args, kwargs)))
        if arrays and self._quick is not None:
            return self._quick(*args, **kwargs)
        traced, inputs = self._trace(args, kwargs)
        if arrays and traced.inside:  # from now on jit itself keeps what was traced for which arguments

            def evaluated(*args: Any, **kwargs: Any) -> Any:
                traced, inputs = self._trace(args, kwargs)
                return traced.tree.unflatten((traced.inside or traced.run)(*inputs))

            self._quick = jax.jit(functools.wraps(self._fn)(evaluated))
        return traced.tree.unflatten(traced.run(*inputs))

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method, it is given the instance first, as a jitted function is."""
        return self if instance is None else types.MethodType(self, instance)

    def replaced(self, *args: Any, **kwargs: Any) -> tuple[Replacement, ...]:
        """What becomes of each convolution for these arguments (arrays, or their `jax.ShapeDtypeStruct`)."""
        fill = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
        args, kwargs = jax.tree.map(fill, (args, kwargs))
        return self._trace(args, kwargs)[0].found


def _is_plain(eqn: Any) -> bool:
    """Whether a jitted function leaves open how its arguments and results are sharded."""
    shardings = (*eqn.params["in_shardings"], *eqn.params["out_shardings"])
    return all("Unspecified" in type(sharding).__name__ for sharding in shardings)


def _context() -> tuple[Any, ...]:
    """What tracing depends on beside the arguments."""
    return jax.sharding.get_abstract_mesh(), *(getattr(jax.config, name) for name in CONTEXT)


def _runner(closed: Any) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    """A function that computes the jaxpr, and, where that is one jitted call that donates nothing, what is jitted."""
    jaxpr = closed.jaxpr
    if len(jaxpr.eqns) == 1 and jaxpr.eqns[0].primitive.name == "jit" and not closed.consts:
        (eqn,) = jaxpr.eqns
        if _is_plain(eqn) and [*eqn.invars] == [*jaxpr.invars] and [*eqn.outvars] == [*jaxpr.outvars]:
            donated = tuple(i for i, donate in enumerate(eqn.params["donated_invars"]) if donate)
            inside = jaxpr_as_fun(eqn.params["jaxpr"])
            return jax.jit(inside, donate_argnums=donated), None if donated else inside
    return jaxpr_as_fun(closed), None


def replace(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` of arrays alone, with its convolutions replaced."""
    return lambda *args: _Replacer(canonical("auto")).again(fn, *args)


def accelerate(fn: Callable[..., Any], *, algorithm: str | Algorithms = "auto") -> Accelerated:
    """A function with every convolution of jax.lax in it replaced by jconv's: y = fn(x), sooner.

    It works on any function that JAX can trace, however its convolutions came there (Flax, Haiku, Equinox, Keras, lax
    itself), and on a whole training step: convolutions that are gradients are computed as the gradients that they are.
    The result can be jitted, differentiated and vmapped as before. Convolutions inside jit, scan, while, cond,
    checkpoint, shard_map and custom derivatives are replaced too.

    Args:
        fn: takes and returns pytrees of arrays. Arguments that are no arrays (Python numbers, strings, functions) stay
            what they are. A jitted function keeps its static and donated arguments, and is traced once for each kind of
            arguments; any other is traced with every call, so jit it, or what calls it.
        algorithm: as for `jconv.conv`.

    Returns:
        A function of the same arguments. Its method ``replaced(*args)`` tells what becomes of each convolution: the
        role and geometry that it is computed as, or why it is left to XLA.

    Raises:
        ValueError: for an unknown algorithm; and what `fn` raises.

    >>> import jax, jax.numpy as jnp
    >>> net = lambda x, k: jax.nn.relu(jax.lax.conv_general_dilated(x, k, (1, 1), "SAME"))
    >>> x, k = jnp.ones((1, 3, 8, 8)), jnp.ones((4, 3, 3, 3))
    >>> fast = accelerate(net)
    >>> bool(jnp.allclose(jax.jit(fast)(x, k), net(x, k)))
    True
    >>> print(*fast.replaced(x, k))
    (1, 3, 8, 8) with (4, 3, 3, 3), float32: forward

    References:
        How a convolution of lax becomes a role of jconv: the top of ``jconv/_accelerate.py``.
    """
    if not callable(fn):
        raise TypeError(f"fn: got {fn!r}, accepted is a function.")
    return Accelerated(fn, algorithm)
