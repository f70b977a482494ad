"""One primitive for the three roles of the trilinear form. The only importer of jax.extend and jax.interpreters.

The form, for an image x, a kernel k and a cotangent y, is

    T(x, k, y) = sum over b, o, t, g, i, c of  x[b, p(o, t), g, i]  k[t, i, g, c]  y[b, o, g, c]

with p(o, t) = (o s + t d - lo) / q where that is a position of x. It is linear in each argument. A role is named by
which argument it is the derivative for: `forward` = dT/dy maps (x, k) to a y, `input_grad` = dT/dx maps (y, k) to an
x, and `kernel_grad` = dT/dk maps (x, y) to a k. Each role is bilinear in its two operands. Its transpose with
respect to one operand, applied to a cotangent of its result, is the derivative of T for that operand, taken at the
cotangent and the other operand: again a role. So jvp re-binds the same role, transposition exchanges roles, the
set is closed under differentiation of any order, and no algorithm is ever differentiated through.

Batching needs one more observation. Each index of T other than space belongs to two of the arguments, and `g` to all
three: b to x and y, i to x and k, c to k and y. A vmapped axis of one operand alone is carried to the result, so it
can be folded into the index that this operand shares with the result; an axis of both operands folds into g.

What follows a forward pass element by element, a bias and an activation, is part of a second primitive, so that an
algorithm can do it before it writes its result. Its derivative is made of the first one: with y = act(u) and
u = forward(x, k) + bias,

    dy = act'(u) * (forward(dx, k) + forward(x, dk) + dbias),

where act'(u) is known from y for some activations (relu, tanh); for the others u is computed in the place of y.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.extend.core import ClosedJaxpr as ClosedJaxpr
from jax.extend.core import Jaxpr as Jaxpr
from jax.extend.core import Literal as Literal
from jax.extend.core import Primitive as Primitive
from jax.interpreters import ad as ad
from jax.interpreters import batching as batching
from jax.interpreters import mlir as mlir

from ._algorithms._activations import ACTIVATIONS, activated
from ._algorithms.base import OPERANDS, RESULT, Call, Finish, Reduced, Role, promoted, through, zeros
from ._cache import platform_of, this_device
from ._dtypes import broadcast_bias, keeps_64_bits
from ._padding import padding
from ._partition import shards, spmd
from ._plan import Plan, Request, finish_result
from ._select import measure_missing, resolve, table
from ._spec import ConvSpec

ROLE_OF: dict[str, Role] = {result: role for role, result in RESULT.items()}
SHARED = {frozenset("xy"): "b", frozenset("xk"): "i", frozenset("ky"): "c"}  # the index that two arguments share

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

conv_p = Primitive("jconv")
finished_p = Primitive("jconv_finished")  # of (x, k) or (x, k, bias), and with the request's activation
lowered_p = Primitive("jconv_lowered")  # what both are outside of `jax.jit`: nothing but their lowering


def shape_of(argument: str, spec: ConvSpec) -> tuple[int, ...]:
    """The shape of one argument of T."""
    return {"x": spec.x_shape, "k": spec.kernel_shape, "y": spec.output_shape}[argument]


def bind(a, b, bias=None, *, request: Request) -> jax.Array:
    """Binds the primitive: operands in one dtype, varying over the same manual axes, a plan that covers it."""
    if a.dtype != b.dtype:
        dtype = promoted(a.dtype, b.dtype)
        a, b = a.astype(dtype), b.astype(dtype)
    operands = [a, b] if bias is None else [a, b, bias]
    operands = alike(*operands)
    if isinstance(request.plan, Plan):
        request.plan.check(request.call(a.dtype))
    primitive = conv_p if bias is None and request.activation is None else finished_p
    return primitive.bind(*operands, request=request)


def alike(*operands) -> list[Any]:
    """The operands, each marked as varying over all manual axes of `shard_map` that one of them varies over.

    The transpose of that mark is the sum over those axes. Without it the gradient of a replicated kernel
    would silently be that of one device's share.
    """
    axes = frozenset().union(*(jax.typeof(v).mat.varying for v in operands))
    missing = [tuple(axis for axis in axes if axis not in jax.typeof(v).mat.varying) for v in operands]
    return [jax.lax.pcast(v, m, to="varying") if m else v for v, m in zip(operands, missing, strict=True)]


# Shapes and execution ------------------------------------------------------------------------------------
@lowered_p.def_abstract_eval
@finished_p.def_abstract_eval
@conv_p.def_abstract_eval
def _abstract_eval(a, b, *bias, request: Request):
    spec, role = request.spec, request.role
    expected = tuple(shape_of(argument, spec) for argument in OPERANDS[role])
    if (a.shape, b.shape) != expected:
        raise TypeError(f"jconv {role}: operands of shapes {a.shape} and {b.shape} for {spec}")
    if len({v.mat.varying for v in (a, b, *bias)}) > 1:
        axes = " and ".join(str(v.mat.varying) for v in (a, b, *bias))
        raise TypeError(f"jconv {role}: operands vary over {axes}; bind through conv")
    shape = shape_of(RESULT[role], spec)
    sharding = a.sharding.update(spec=jax.sharding.PartitionSpec(*(None,) * len(shape)))
    return a.update(shape=shape, dtype=request.out_dtype, weak_type=False, sharding=sharding)


@finished_p.def_impl
@conv_p.def_impl
def _impl(a, b, *bias, request: Request):
    """Compiles and runs the call, anew where another plan is chosen by now."""
    call = request.call(a.dtype)
    platforms = frozenset(map(platform_of, devices_of(a, b, *bias)))
    if request.plan == "tuned":
        measure_missing(call._replace(platform=platform_of(this_device())))
        able = _choices(request.plan, call, platforms)  # what is tuned may change at any time
    else:
        able = _remembered(request.plan, call, platforms, table())
    return _compiled(a, b, *bias, able=able, request=request)


def devices_of(*operands) -> set[Any]:
    """The devices that operands are on."""
    return set().union(*(v.devices() for v in operands if isinstance(v, jax.Array))) or {this_device()}


def _choices(asked: Plan | str, call: Call, platforms: frozenset[str]) -> tuple[tuple[str, Plan], ...]:
    """The plan that is taken on each platform that the operands are on."""
    return tuple((platform, resolve(asked, call._replace(platform=platform)).plan) for platform in sorted(platforms))


@functools.lru_cache(maxsize=4096)
def _remembered(
    asked: Plan | str, call: Call, platforms: frozenset[str], known: tuple[Any, ...]
) -> tuple[tuple[str, Plan], ...]:
    """The same, remembered for one table."""
    del known
    return _choices(asked, call, platforms)


@functools.partial(jax.jit, static_argnames=("able", "request"))
def _compiled(*operands, able, request):
    del able  # what it is compiled for
    return lowered_p.bind(*operands, request=request)


@lowered_p.def_impl
def _eager(*operands, request: Request):
    """Where `jax.disable_jit` has each operation of a plan run by itself."""
    return _run(platform_of(next(iter(devices_of(*operands)))), *operands, request=request)


def _run(platform: str | None, a, b, bias=None, *, request: Request, portable=False, whole=False):
    """Computes a call by the plan of its platform.

    With `whole` the compiler divides the program among devices, but knows no way to divide the call. It would gather
    the operands of compiled code on each device, so "auto", "direct" and "tuned" then choose among portable plans.
    """
    call = request.call(a.dtype, platform, portable)
    if request.plan == "tuned":
        measure_missing(call)
    own = whole and not isinstance(request.plan, Plan)
    plan = resolve(request.plan, call._replace(portable=True) if own else call).plan
    if not request.modes:
        return _by(plan, a, b, call, request.finish(bias))
    pads = Reduced(call.spec, x=padding(request.spec, request.modes))
    inside = request.finish(bias)
    if RESULT[call.role] == "x":
        call = call._replace(out_dtype=call.accumulator)  # where what was copied is added up
    return through(pads, a, b, call, lambda a, b: _by(plan, a, b, call, inside)).astype(request.out_dtype)


def _by(plan: Plan, a, b, call: Call, finish: Finish):
    """Computes a call by a plan."""
    with jax.named_scope(f"jconv.{call.role}.{plan.name}"), keeps_64_bits(call.dtype, call.out_dtype):
        if call.spec.is_empty:
            return finish_result(zeros(shape_of(RESULT[call.role], call.spec), call.out_dtype, a, b), finish)
        return plan.run(a, b, call, finish)


def _part(platform: str | None, *operands, request: Request):
    """Computes what a device has of a call, by the plan of its part, or as "auto" where the one asked for cannot."""
    a, b, *bias, over = operands

    def compute(a, b, call, finish):
        asked = request.plan
        if isinstance(asked, Plan) and asked.refusal(call):
            asked = "auto"
        return _by(resolve(asked, call).plan, a, b, call, finish)

    call = request.call(a.dtype, platform)._replace(spec=request.spec)
    with keeps_64_bits(call.dtype, call.out_dtype):  # the compiler asks from a thread without the program's context
        return shards.run(a, b, call, request.modes, request.finish(*bias), over, compute)


def is_spread(context: Any) -> bool:
    """Whether the compiler divides a program among devices; under `shard_map` over all axes the program does itself."""
    if hasattr(context, "manual_axes"):
        return any(size > 1 and name not in context.manual_axes for name, size in context.mesh.shape.items())
    return (getattr(context, "num_devices", None) or 1) > 1


def divisible(ctx) -> tuple[int, Any]:
    """How many devices the compiler divides a program among that can be told how, 1 for none, and a context to tell it.

    That way asks for the devices, of which it uses the number.
    """
    module = ctx.module_context
    context = module.axis_context
    if module.lowering_parameters.for_export or not is_spread(context) or not spmd.able(context):
        return 1, ctx
    given = dataclasses.replace(context, device_assignment=(this_device(),) * context.num_devices)
    return context.num_devices, ctx.replace(module_context=module.replace(axis_context=given))


def _lower(platform: str | None, ctx, *operands, request: Request):
    """The lowering of a call; where the compiler divides a program among devices, it divides the call as it is told."""
    module = ctx.module_context
    portable, spread = module.lowering_parameters.for_export, is_spread(module.axis_context)
    run = functools.partial(_run, platform, request=request, portable=portable, whole=spread)
    devices, told = divisible(ctx)
    if devices > 1 and not request.spec.is_empty:
        a, _, *bias = ctx.avals_in
        part = functools.partial(_part, platform, request=request)
        call = request.call(a.dtype, platform)._replace(spec=request.spec)
        run, ctx = spmd.divided(run, part, call, devices, bool(bias)), told
    return mlir.lower_fun(run, multiple_results=False)(ctx, *operands)


for _platform in (None, *PLATFORMS):  # None: what any other platform gets
    for _each in (conv_p, finished_p, lowered_p):
        mlir.register_lowering(_each, functools.partial(_lower, _platform), platform=_platform)


# Differentiation -----------------------------------------------------------------------------------------
def _transpose(operand: int, ct, a, b, *, request: Request):
    """The transpose with respect to operand 0 or 1: the role that yields this operand, at ct and the other one."""
    role = request.role
    wanted, other = (a, b) if operand == 0 else (b, a)
    kinds = {OPERANDS[role][1 - operand]: other, RESULT[role]: ct}
    new_role = ROLE_OF[OPERANDS[role][operand]]
    first, second = (kinds[kind] for kind in OPERANDS[new_role])
    return bind(first, second, request=request._replace(role=new_role, out_dtype=np.dtype(wanted.aval.dtype)))


ad.defbilinear(conv_p, functools.partial(_transpose, 0), functools.partial(_transpose, 1))


def _finished_jvp(primals, tangents, *, request: Request):
    (x, k, *_), (dx, dk, *dbias) = primals, tangents
    plain = request._replace(activation=None)
    act = ACTIVATIONS.get(request.activation or "")
    # What the derivative is known from: the result, or the sum before it, which is then kept in its place.
    known = bind(*primals, request=plain if act and act.of_sum else request)
    y = activated(known, request.activation) if act and act.of_sum else known
    pairs = [pair for pair in ((dx, k), (x, dk)) if not any(isinstance(v, ad.Zero) for v in pair)]
    terms = [bind(*pair, request=plain) for pair in pairs]
    terms += [broadcast_bias(d, y) for d in dbias if not isinstance(d, ad.Zero)]
    du = functools.reduce(operator.add, terms)
    return y, act.derivative(known, du) if act else du


def _in_steps(x, k, bias=None, *, request: Request):
    """What the finished primitive computes, by the other one."""
    return finish_result(bind(x, k, request=request._replace(activation=None)), Finish(bias, request.activation))


def _finished_transpose(ct, *operands, request: Request):
    """Of what is linear: a bias and one of x and k, without an activation."""
    linear = [i for i, v in enumerate(operands) if ad.is_undefined_primal(v)]

    def apply(*values):
        given = dict(zip(linear, values, strict=True))
        return _in_steps(*(given.get(i, v) for i, v in enumerate(operands)), request=request)

    found = iter(jax.linear_transpose(apply, *(operands[i].aval for i in linear))(ct))
    return [next(found) if i in linear else None for i in range(len(operands))]


ad.primitive_jvps[finished_p] = _finished_jvp
ad.primitive_transposes[finished_p] = _finished_transpose


# Batching ------------------------------------------------------------------------------------------------
def _indices(argument: str, spec: ConvSpec) -> tuple[list[str], list[int]]:
    """The indices of an argument with its channels split into groups, and their sizes."""
    r, groups = spec.rank, spec.feature_group_count
    *head, channels = shape_of(argument, spec)
    names = {"x": ["b", *["s"] * r, "g", "i"], "k": [*["t"] * r, "i", "g", "c"], "y": ["b", *["s"] * r, "g", "c"]}
    return names[argument], [*head, groups, channels // groups]


def _fold(array, axis: int, argument: str, index: str, spec: ConvSpec):
    """Folds the batched `axis` into `index`, in front of it."""
    names, sizes = _indices(argument, spec)
    size, at = array.shape[axis], names.index(index)
    array = jnp.moveaxis(array, axis, 0).reshape(size, *sizes)
    array = jnp.moveaxis(array, 0, at)
    sizes = [n * size if i == at else n for i, n in enumerate(sizes)]
    return array.reshape(*sizes[:-2], sizes[-2] * sizes[-1])


def _unfold(array, size: int, argument: str, index: str, spec: ConvSpec):
    """Takes the axis that `_fold` put there out of a result, to the front. `spec` is that before folding."""
    names, sizes = _indices(argument, spec)
    at = names.index(index)
    array = jnp.moveaxis(array.reshape(*sizes[:at], size, *sizes[at:]), at, 0)
    return array.reshape(size, *shape_of(argument, spec))


def _folded_spec(spec: ConvSpec, size: int, index: str) -> ConvSpec:
    (batch, *space, channels), (*window, per_group, out) = spec.x_shape, spec.kernel_shape
    match index:
        case "b":
            return spec.replace(x_shape=(batch * size, *space, channels))
        case "i":
            return spec.replace(x_shape=(batch, *space, channels * size), kernel_shape=(*window, per_group * size, out))
        case "c":
            return spec.replace(kernel_shape=(*window, per_group, out * size))
    return spec.replace(
        x_shape=(batch, *space, channels * size),
        kernel_shape=(*window, per_group, out * size),
        feature_group_count=spec.feature_group_count * size,
    )


def _batch(args, dims, *, request: Request):
    spec, role = request.spec, request.role
    if len(args) > 2 and any(dim is not None for dim in dims[1:]):
        return jax.vmap(functools.partial(_in_steps, request=request), dims)(*args), 0
    args, bias, dims = args[:2], args[2:], dims[:2]
    operands, result = OPERANDS[role], RESULT[role]
    batched = [i for i in (0, 1) if dims[i] is not None]
    size = args[batched[0]].shape[dims[batched[0]]]
    if size == 0:  # a kernel axis cannot be folded to nothing, and there is nothing to compute
        return zeros((0, *shape_of(result, spec)), request.out_dtype, *args), 0
    index = "g" if len(batched) == 2 else SHARED[frozenset((operands[batched[0]], result))]
    if index != "b" and not isinstance(size, int):
        raise ValueError(
            f"jax.vmap: got an axis of the symbolic size {size} that becomes channels of {role}; accepted is a number, "
            "or a symbolic size of x or g alone that stays a batch."
        )
    args = [_fold(arg, dims[i], operands[i], index, spec) if i in batched else arg for i, arg in enumerate(args)]
    out = bind(*args, *bias, request=request._replace(spec=_folded_spec(spec, size, index)))
    return _unfold(out, size, result, index, spec), 0


batching.primitive_batchers[conv_p] = batching.primitive_batchers[finished_p] = _batch


# Reading -------------------------------------------------------------------------------------------------
def flatten_batch(spec: ConvSpec) -> ConvSpec:
    """The same geometry with all batch axes in one, as the primitive takes it."""
    return spec.replace(x_shape=(math.prod(spec.batch_shape), *spec.spatial, spec.in_features))
