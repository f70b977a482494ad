"""Every JAX transformation, in every role, for every algorithm: values by the oracle or lax, and what the jaxpr shows."""

import dataclasses
import functools
import itertools

import chex
import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jconv
from jconv import Algorithms
from jconv._algorithms import ALGORITHMS as FOUND
from jconv._algorithms.base import ROLES, Call
from jconv._forecast.work import Work
from jconv._plan import refusal
from jconv.plugins import algorithms
from tests.cases import GENERAL, INTERPRETED, NAMED, PLANS, PLUGGED, draw

CASES = [
    c for c in NAMED if c.name in ("rank0-groups", "1d-causal-dilated", "2d-everything", "2d-depthwise", "3d-same")
]
over_cases = pytest.mark.parametrize("case", CASES, ids=str)
ALGORITHMS = (*GENERAL, "auto")
WITH_KERNELS = [*GENERAL, pytest.param(INTERPRETED, id="pallas")]  # those for GPUs, interpreted
over_algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)


def lax_conv(case):
    spec = case.spec
    r = spec.rank
    numbers = lax.ConvDimensionNumbers(
        (0, r + 1, *range(1, r + 1)), (r + 1, r, *range(r)), (0, r + 1, *range(1, r + 1))
    )
    return lambda x, k: lax.conv_general_dilated(
        x, k, spec.strides, spec.padding, spec.input_dilation, spec.kernel_dilation, numbers, spec.feature_group_count
    )


def own_conv(case, algorithm):
    return functools.partial(jconv.conv, algorithm=algorithm, **case.options)


def operands(case):
    return tuple(jnp.asarray(draw(shape, seed=i)) for i, shape in enumerate((case.x, case.kernel)))


def assert_trees_close(got, want, tolerance=2e-5):
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    for a, b in zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (got, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(np.max(np.abs(b)))))


@over_cases
def test_first_order(case):
    """jvp, vjp, linearize and linear_transpose: bilinear, so each agrees with lax to rounding."""
    x, k = operands(case)
    dx, dk = (v[::-1] for v in (x, k))
    g = jnp.asarray(draw(case.spec.output_shape, seed=4))

    def everything(conv, x, k):
        y, tangent = jax.jvp(conv, (x, k), (dx, dk))
        _, pull = jax.vjp(conv, x, k)
        _, push = jax.linearize(conv, x, k)
        by_x = jax.linear_transpose(lambda x: conv(x, k), x)(g)
        by_k = jax.linear_transpose(lambda k: conv(x, k), k)(g)
        return y, tangent, pull(g), push(dx, dk), by_x, by_k

    convs = {name: own_conv(case, name) for name in ALGORITHMS} | {"lax": lax_conv(case)}
    found = jax.jit(lambda x, k: {name: everything(conv, x, k) for name, conv in convs.items()})(x, k)
    want = found.pop("lax")
    for got in found.values():
        assert_trees_close(got, want)


@pytest.mark.parametrize("case", CASES[1:4], ids=str)
def test_higher_order(case):
    """Hessians in three orders and a third derivative of a loss that is bilinear in nothing."""
    x, k = operands(case)
    direction = np.ones(x.shape, np.float32), np.ones(k.shape, np.float32)

    def along(conv, x, k):
        loss = lambda x, k: jnp.sum(jnp.tanh(conv(x, k)) ** 2)
        grad = jax.grad(loss, (0, 1))
        contract = lambda x, k: sum(jnp.vdot(a, b) for a, b in zip(grad(x, k), direction, strict=True))
        forward_over_reverse = jax.jvp(grad, (x, k), direction)[1]
        reverse_over_reverse = jax.grad(contract, (0, 1))(x, k)
        directional = lambda x, k: jax.jvp(loss, (x, k), direction)[1]
        reverse_over_forward = jax.grad(directional, (0, 1))(x, k)
        second = lambda x, k: jax.jvp(contract, (x, k), direction)[1]
        third = jax.grad(second, (0, 1))(x, k)
        return forward_over_reverse, reverse_over_reverse, reverse_over_forward, third

    convs = {name: own_conv(case, name) for name in GENERAL} | {"lax": lax_conv(case)}
    if case.name == "1d-causal-dilated":
        convs["pallas"] = own_conv(case, INTERPRETED)
    found = jax.jit(lambda x, k: {name: along(conv, x, k) for name, conv in convs.items()})(x, k)
    want = found.pop("lax")
    for got in found.values():
        assert_trees_close(got, want, 1e-4)
        assert_trees_close(got[0], got[1], 1e-4)
        assert_trees_close(got[0], got[2], 1e-4)


def test_hessian():
    case = CASES[1]
    x, k = operands(case)
    loss = lambda conv: lambda k: jnp.sum(jnp.sin(conv(x, k)))
    losses = [loss(own_conv(case, name)) for name in ALGORITHMS]
    every = [jax.hessian(loss(lax_conv(case)))] + [
        f for own in losses for f in (jax.hessian(own), jax.jacrev(jax.jacrev(own)))
    ]
    want, *found = jax.jit(lambda k: [f(k) for f in every])(k)
    for got in found:
        assert_trees_close(got, want, 1e-4)


@pytest.mark.parametrize("algorithm", WITH_KERNELS)
@pytest.mark.parametrize("role", ROLES)
def test_vmap(role, algorithm):
    """Any axis of either or both operands, in every role, is the same as a loop."""
    case = CASES[2]  # strides, both dilations, pads of both signs, groups
    spec = case.spec
    shapes = {"forward": (case.x, case.kernel), "input_grad": (spec.output_shape, case.kernel),
              "kernel_grad": (case.x, spec.output_shape)}[role]  # fmt: skip
    fn = {
        "forward": functools.partial(jconv.conv, algorithm=algorithm, **case.options),
        "input_grad": lambda g, k: jconv.conv_input_grad(g, k, case.x, algorithm=algorithm, **case.options),
        "kernel_grad": lambda x, g: jconv.conv_kernel_grad(x, g, case.kernel[:-2], algorithm=algorithm, **case.options),
    }[role]
    size, every, one = 3, {}, jax.jit(fn)
    both = itertools.product((None, 0, 1, -1), repeat=2)
    for axes in both if algorithm in GENERAL else ((None, None), (0, None), (None, -1), (1, 0)):
        every[axes] = []
        for i, (shape, axis) in enumerate(zip(shapes, axes, strict=True)):
            array = draw((size, *shape) if axis is not None else shape, seed=i)
            every[axes].append(array if axis is None else np.moveaxis(array, 0, axis))
    del every[None, None]
    found = jax.jit(lambda all_args: [jax.vmap(fn, axes)(*args) for axes, args in zip(every, all_args, strict=True)])
    pick = lambda array, axis, i: array if axis is None else np.take(array, i, axis)
    for (axes, args), got in zip(every.items(), found(list(every.values())), strict=True):
        want = np.stack([one(*(pick(a, axis, i) for a, axis in zip(args, axes, strict=True))) for i in range(size)])
        assert_trees_close(got, want)


@pytest.mark.parametrize("algorithm", GENERAL)
def test_nested_vmap_and_per_example_gradients(algorithm):
    x, k = draw((3, 4, 6, 2)), draw((5, 3, 2, 3), seed=1)
    conv = jax.jit(functools.partial(jconv.conv, algorithm=algorithm))
    slope = jax.grad(lambda k, xi: jnp.sum(jnp.tanh(conv(xi, k))))

    @jax.jit
    def batched(x, k):
        values = jax.vmap(jax.vmap(conv, (0, None)), (None, 0))(x, k)
        slopes = jax.vmap(jax.vmap(slope, (None, 0)), (0, None))(k, x)
        return values, slopes, jax.jvp(jax.vmap(slope, (None, 0)), (k[0], x), (k[1], x))[1]

    @jax.jit
    def one(xi, ki, direction):
        return conv(xi, ki), slope(ki, xi), jax.jvp(slope, (ki, xi), (direction, xi))[1]

    values, slopes, tangents = batched(x, k)
    want = [[one(xi, ki, k[1]) for xi in x] for ki in k]
    assert_trees_close(values, np.stack([[w[0] for w in row] for row in want]))
    assert_trees_close(slopes, np.stack([[w[1] for w in row] for row in want]))
    assert_trees_close(tangents, np.stack([w[2] for w in want[0]]))


def test_vmap_over_nothing():
    x, k = jnp.ones((0, 2, 5, 1)), jnp.ones((0, 3, 1, 2))
    assert jax.vmap(jconv.conv)(x, k).shape == (0, 2, 5, 2)


def test_scan_remat_and_control_flow():
    x, k = draw((2, 6, 3)), draw((3, 3, 3), seed=1)

    def stack(conv, wrap, x, k):
        step = wrap(lambda x, _: (jnp.tanh(conv(x, k)), jnp.sum(x)))
        y, sums = lax.scan(step, x, length=3)
        return jnp.sum(lax.cond(sums[0] > 0, lambda: conv(y, k), lambda: conv(y, -k))) + lax.fori_loop(
            0, 2, lambda i, s: s + jnp.sum(conv(y, k)) * i, 0.0
        )

    lax_one = lambda x, k: lax.conv_general_dilated(x, k, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    stacks = [functools.partial(stack, lax_one, lambda f: f)]
    for algorithm, wrap in itertools.product((*ALGORITHMS, INTERPRETED), (lambda f: f, jax.checkpoint)):
        stacks.append(functools.partial(stack, functools.partial(jconv.conv, algorithm=algorithm), wrap))
    want, *found = jax.jit(lambda x, k: [jax.value_and_grad(fn, (0, 1))(x, k) for fn in stacks])(x, k)
    for got in found:
        assert_trees_close(got, want)


def losses(algorithm):
    conv = functools.partial(jconv.conv, algorithm=algorithm)
    return lambda k, x: jnp.sum(jnp.tanh(conv(x, k)))


@pytest.mark.two_devices
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
@over_algorithms
def test_shard_map_with_the_check_on(algorithm, wrap):
    """The gradient of a kernel that every device holds is the sum over devices, not one device's share."""
    x, k = jnp.asarray(draw((4, 6, 5, 2))), jnp.asarray(draw((3, 3, 2, 3), seed=1))
    loss = losses(algorithm)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("d")), out_specs=(P(), (P(), P("d"))), check_vma=True)
    def spread(k, x):
        return jax.value_and_grad(lambda k, x: lax.psum(loss(k, x), "d"), (0, 1))(k, x)

    assert_trees_close(wrap(spread)(k, x), jax.jit(jax.value_and_grad(loss, (0, 1)))(k, x))


@pytest.mark.two_devices
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_compiled_code_is_given_what_a_device_has(wrap, monkeypatch):
    """The compiler cannot divide it, and would gather the batch on each device."""
    xla, runs = algorithms()["xla"], set()

    def own(x, kernel, call):
        runs.add(call.spec.x_shape[0])
        return xla.forward(x, kernel, call)

    fast = dataclasses.replace(xla, name="compiled", forward=own, portable=False, work=lambda call: Work())
    monkeypatch.setitem(FOUND, "compiled", fast)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    x, k = jnp.asarray(draw((4, 9, 8, 2))), jnp.asarray(draw((3, 3, 2, 3), seed=1))
    want = wrap(lambda x, k: jconv.conv(x, k))(x, k)
    assert runs == {4}
    runs.clear()
    on_two = jax.device_put(x, NamedSharding(mesh, P("d"))), jax.device_put(k, NamedSharding(mesh, P()))
    got = wrap(lambda x, k: 1 * jconv.conv(x, k))(*on_two)
    assert runs == {2}
    assert_trees_close(got, want)
    runs.clear()
    by_name = wrap(lambda x, k: jconv.conv(x, k, algorithm="compiled"))(*on_two)
    assert 2 in runs
    assert_trees_close(by_name, want)
    runs.clear()
    local = jax.shard_map(jconv.conv, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))
    assert_trees_close(wrap(local)(*on_two), want)
    assert runs == {2}


@pytest.mark.two_devices
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_explicit_mesh(mode):
    x, k, b = jnp.asarray(draw((4, 6, 5, 2))), jnp.asarray(draw((3, 3, 2, 3), seed=1)), jnp.ones(3)
    loss = lambda k, x, b: jnp.sum(jnp.tanh(jconv.conv(x, k, b, padding_mode=mode)))
    want = jax.jit(jax.grad(loss, (0, 1, 2)))(k, x, b)
    with jax.set_mesh(jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))):
        xs, ks, bs = jax.device_put(x, P("d")), jax.device_put(k, P()), jax.device_put(b, P())
        y = jax.jit(lambda x, k: jconv.conv(x, k, padding_mode=mode))(xs, ks)
        assert jax.typeof(y).sharding.spec[0] == "d"
        got = jax.jit(jax.grad(loss, (0, 1, 2)))(ks, xs, bs)
        assert jax.typeof(got[1]).sharding.spec[0] == "d"
    assert_trees_close(jax.device_get(got), jax.device_get(want))


def roles_in(jaxpr):
    """(role, algorithm) of every convolution in a jaxpr, those of inner ones too."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "jconv":
            request = eqn.params["request"]
            found.append((request.role, request.plan if isinstance(request.plan, str) else request.plan.name))
        for value in eqn.params.values():
            if hasattr(value, "jaxpr"):
                found += roles_in(value.jaxpr)
    return found


def test_the_jaxpr_shows_roles_and_algorithms():
    x, k = jnp.ones((2, 6, 5, 2)), jnp.ones((3, 3, 2, 3))
    mixed = Algorithms(forward="xla", input_grad="einsum", kernel_grad="xla")
    grad = jax.grad(lambda x, k: jnp.sum(jconv.conv(x, k, algorithm=mixed) ** 2), (0, 1))
    jaxpr = jax.make_jaxpr(grad)(x, k)
    assert sorted(roles_in(jaxpr.jaxpr)) == [("forward", "xla"), ("input_grad", "einsum"), ("kernel_grad", "xla")]
    assert "role='kernel_grad'" in str(jaxpr)
    assert "input_grad='einsum'" in str(jaxpr)
    # only these: nothing of an algorithm's own operations is differentiated
    assert not {"conv_general_dilated", "dot_general", "pad"} & {eqn.primitive.name for eqn in jaxpr.jaxpr.eqns}
    transposed = jax.make_jaxpr(lambda x, k: jconv.conv_transpose(x, k, algorithm=mixed))(jnp.ones((1, 4, 4, 3)), k)
    assert roles_in(transposed.jaxpr) == [("input_grad", "einsum")]


def test_each_role_of_one_call_runs_its_own_algorithm():
    x, k = jnp.ones((2, 6, 5, 2)), jnp.ones((3, 3, 2, 3))
    for chosen in itertools.product(GENERAL, repeat=3):
        algorithm = Algorithms(*chosen)
        fn = jax.value_and_grad(lambda x, k, a=algorithm: jnp.sum(jconv.conv(x, k, algorithm=a) ** 2), (0, 1))
        text = jax.jit(fn).lower(x, k).as_text(debug_info=True)
        for role, name in zip(ROLES, chosen, strict=True):
            assert f"jconv.{role}.{name}" in text
            other = next(n for n in GENERAL if n != name)
            assert f"jconv.{role}.{other}" not in text


@pytest.mark.default_precision
def test_export_lowers_each_platform_its_own_way():
    x, g = jnp.ones((8, 24, 24, 64)), jnp.ones((8, 24, 24, 64))
    fn = jax.jit(lambda x, g: jconv.conv_kernel_grad(x, g, (3, 3), feature_group_count=2))
    for platform in ("cpu", "cuda", "tpu"):
        text = jax.export.export(fn, platforms=(platform,))(x, g).mlir_module()
        # with groups this role is a batched matrix product on CPU, and the library's own convolution elsewhere
        assert ("stablehlo.dot_general" in text) == (platform == "cpu")
        assert ("stablehlo.convolution" in text) == (platform != "cpu")
    everywhere = jax.export.export(fn, platforms=("cpu", "cuda", "tpu"))(x, g)
    text = everywhere.mlir_module()
    assert "stablehlo.convolution" in text
    assert "stablehlo.dot_general" in text
    loaded = jax.export.deserialize(everywhere.serialize())
    assert_trees_close(loaded.call(x, g), fn(x, g))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int8"])
def test_every_plan_lowers_on_every_platform(dtype, platform):
    x, k = jnp.ones((2, 6, 5, 4), dtype), jnp.ones((3, 3, 2, 4), dtype)
    dense = jnp.ones((3, 3, 4, 4), dtype)

    def roles(x, k, name, **options):
        spec = jconv.ConvSpec(x.shape, k.shape, **options)
        call = lambda role: Call(spec, role, x.dtype, jnp.dtype("float32"), None, platform, portable=True)
        options["algorithm"] = name
        g = jnp.ones(spec.output_shape, dtype)
        runs = {
            "forward": lambda: jconv.conv(x, k, **options),
            "input_grad": lambda: jconv.conv_input_grad(g, k, x.shape, **options),
            "kernel_grad": lambda: jconv.conv_kernel_grad(x, g, (3, 3), **options),
        }
        return {f"{role}.{name}": run() for role, run in runs.items() if refusal(name, call(role)) is None}

    def all_plans(x, k, dense):
        found = {}
        for name in PLANS:
            found |= roles(x, k, name, feature_group_count=2, strides=2) | roles(x, dense, name)
            found |= roles(x, dense, name, input_dilation=2) | roles(x, dense, name, strides=2)
        return found

    exported = jax.export.export(jax.jit(all_plans), platforms=(platform,))(x, k, dense)
    names = set(jax.tree.unflatten(exported.out_tree, exported.out_avals))
    refused = {"winograd2", "winograd4", "fft"} if dtype == "int8" else set()
    if (dtype, platform) == ("int8", "cuda"):  # the device's library convolves no integers
        refused |= {name for name in PLANS if name.endswith("xla")}
    assert {name.split(".", 1)[1] for name in names} == set(PLANS) - refused - set(PLUGGED)


@pytest.mark.parametrize(
    "algorithm",
    [
        "auto",
        *sorted(set(PLANS) - {"winograd2", "fold+matmul", "unfold+fold+einsum", "swap+shift", "group+xla", *PLUGGED}),
    ],
)
def test_export_with_a_symbolic_batch(algorithm):
    (batch,) = jax.export.symbolic_shape("b")
    groups = 2 if "group" in algorithm or "split" in algorithm else 1
    options = {"feature_group_count": groups, "algorithm": algorithm}
    options |= {"input_dilation": 2} if "swap" in algorithm else {"strides": 2} if "fold" in algorithm else {}
    k = jnp.asarray(draw((3, 3, 4 // groups, 4)))
    g_shape = jconv.ConvSpec(
        (1, 6, 5, 4), k.shape, **{n: v for n, v in options.items() if n != "algorithm"}
    ).output_shape
    calls = [
        (lambda x: jconv.conv(x, k, **options), (6, 5, 4)),
        (lambda g: jconv.conv_input_grad(g, k, (*g.shape[:1], 6, 5, 4), **options), g_shape[1:]),
    ]
    if "split" not in algorithm:
        calls.append(
            (lambda g: jconv.conv_kernel_grad(jnp.ones((*g.shape[:1], 6, 5, 4)), g, (3, 3), **options), g_shape[1:])
        )
    together = lambda arrays: [fn(a) for (fn, _), a in zip(calls, arrays, strict=True)]
    symbolic = [jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for _, shape in calls]
    exported = jax.export.export(jax.jit(together))(symbolic)
    of_sizes = [[draw((size, *shape), seed=1) for _, shape in calls] for size in (1, 3)]
    both = jax.jit(lambda of_sizes: [(exported.call(arrays), together(arrays)) for arrays in of_sizes])
    for got, want in both(of_sizes):
        assert_trees_close(got, want, 1e-4)


@pytest.mark.two_devices
@pytest.mark.parametrize(
    "name", ["matmul", "winograd4", "shift", "fft", "fold+matmul", "unfold+matmul", "group+matmul"]
)
def test_plans_with_loops_under_shard_map(name, monkeypatch):
    """Loops begin with zeros, which must vary over the devices as what is added to them does."""
    monkeypatch.setattr("jconv._algorithms.matmul.BLOCK", 1)
    monkeypatch.setattr("jconv._algorithms.winograd.BLOCK", 1)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    groups = 4 if name in ("shift", "group+matmul") else 1
    window = (5, 5) if name == "shift" else (3, 3)
    options = {"feature_group_count": groups, "algorithm": name, "padding": "VALID"}
    x, k = jnp.asarray(draw((4, 9, 8, 4))), jnp.asarray(draw((*window, 4 // groups, 4), seed=1))

    def loss(k, x):
        return jnp.sum(jnp.tanh(jconv.conv(x, k, **options)))

    spec = jax.sharding.PartitionSpec
    sharded = jax.shard_map(
        lambda k, x: jax.lax.psum(loss(k, x), "d"), mesh=mesh, in_specs=(spec(), spec("d")), out_specs=spec()
    )
    got = jax.jit(jax.value_and_grad(sharded, (0, 1)))(k, x)
    options["algorithm"] = "xla"
    assert_trees_close(got, jax.jit(jax.value_and_grad(loss, (0, 1)))(k, x), 1e-4)


def test_nothing_is_fused_into_many_terms():
    """The sums of `shift` stay in a loop of their own where terms are many, in front of a sum over all of them."""
    x, k = jnp.ones((2, 12, 12, 32)), jnp.ones((3, 3, 8, 32))
    fn = lambda x, k: jnp.mean(jconv.conv(jax.nn.relu(x), k, feature_group_count=4, algorithm="shift"), (0, 1, 2))
    compiled = jax.jit(fn).lower(x, k).compile()
    assert "while(" in compiled.as_text()
    assert_trees_close(compiled(x, k), jnp.mean(jconv.conv(x, k, feature_group_count=4, algorithm="xla"), (0, 1, 2)))


def test_short_floats_are_accumulated_in_float32_in_the_lowered_roles():
    x, k = jnp.ones((2, 6, 5, 4), jnp.bfloat16), jnp.ones((3, 3, 4, 4), jnp.bfloat16)
    for algorithm, operation in (("xla", "stablehlo.convolution"), ("einsum", "stablehlo.dot_general")):
        fn = jax.value_and_grad(lambda x, k, a=algorithm: jnp.sum(jconv.conv(x, k, algorithm=a)), (0, 1))
        lines = [line for line in jax.jit(fn).lower(x, k).as_text().splitlines() if operation in line]
        assert len(lines) == 3
        assert all(line.rsplit("->", 1)[1].count("xf32>") == 1 for line in lines)


def test_a_jitted_function_is_traced_once():
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(jconv.conv, n=1))
    x, k = jnp.ones((2, 6, 2)), jnp.ones((3, 2, 3))
    traced(x, k)
    traced(x + 1, k)


def test_two_ways_of_writing_one_convolution_are_one_specification():
    a = jconv.ConvSpec((1, 8, 8, 2), (3, 3, 2, 4), strides=[2, 2], padding="same")
    b = jconv.ConvSpec([1, 8, 8, 2], [3, 3, 2, 4], strides=np.int64(2), padding=((0, 1), (0, 1)))
    assert a == b
    assert hash(a) == hash(b)


def test_without_jit():
    """Eager evaluation of every primitive, and its search for the operation that made a NaN."""
    x, k = jnp.asarray(draw((2, 6, 2))), jnp.asarray(draw((3, 2, 3), seed=1))
    loss = lambda x, k: jnp.sum(jconv.conv(x, k) ** 2)
    want = jax.jit(jax.grad(loss, (0, 1)))(x, k)
    with jax.disable_jit():
        assert_trees_close(jax.grad(loss, (0, 1))(x, k), want)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        jconv.conv(jnp.full((5, 1), jnp.inf), jnp.array([1.0, 0.0, -1.0]).reshape(3, 1, 1))


@pytest.mark.parametrize("algorithm", GENERAL)
def test_the_precision_of_a_context_around_a_traced_call_holds(algorithm):
    x, k = jnp.ones((2, 6, 2)), jnp.ones((3, 2, 3))

    def body(x, k):
        with jax.default_matmul_precision("highest"):
            y, vjp = jax.vjp(functools.partial(jconv.conv, algorithm=algorithm), x, k)
        return y, vjp(y)

    text = jax.jit(body).lower(x, k).as_text()
    operations = [line for line in text.splitlines() if "stablehlo.convolution" in line or "dot_general" in line]
    assert len(operations) == 3
    assert all("HIGHEST" in line and "DEFAULT" not in line for line in operations)


def test_64_bit_values_outside_the_context_that_made_them():
    with jax.enable_x64(True):
        x, k = jnp.asarray(draw((2, 6, 2), "float64")), jnp.asarray(draw((3, 2, 3), "float64", 1))
        y, vjp = jax.vjp(jax.jit(jconv.conv), x, k)
        traced = jax.jit(jconv.conv).trace(x, k)
    assert jconv.conv(x, k).dtype == jnp.float64
    assert [bar.dtype for bar in vjp(y)] == [jnp.float64] * 2
    np.testing.assert_array_equal(traced.lower().compile()(x, k), y)


def test_export_of_gradients_with_a_symbolic_batch():
    (batch,) = jax.export.symbolic_shape("b")
    k = jnp.asarray(draw((31, 2, 4)))
    grad = jax.jit(jax.grad(lambda k, x: jnp.sum(jconv.conv(x, k, feature_group_count=2) ** 2)))
    exported = jax.export.export(grad)(k, jax.ShapeDtypeStruct((batch, 40, 4), jnp.float32))
    x = draw((3, 40, 4), seed=1)
    assert_trees_close(exported.call(k, x), grad(k, x), 1e-4)
    per_example = jax.jit(jax.vmap(jax.grad(lambda k, x: jnp.sum(jconv.conv(x, k) ** 2)), (None, 0)))
    with pytest.raises(ValueError, match="jax.vmap: got an axis of the symbolic size b that becomes channels"):
        jax.export.export(per_example)(jnp.ones((3, 2, 3)), jax.ShapeDtypeStruct((batch, 6, 2), jnp.float32))


@pytest.mark.two_devices
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_the_gradient_of_padding_modes_on_two_devices(kind):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(kind,))
    g, k = jnp.asarray(draw((2, 6, 3))), jnp.asarray(draw((3, 2, 3), seed=1))
    fn = lambda g, k: jconv.conv_input_grad(g, k, (g.shape[0], 6, 2), padding_mode="circular")
    want = fn(g, k)
    if kind == AxisType.Auto:
        got = jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"), check_vma=True))(g, k)
    else:
        with jax.set_mesh(mesh):
            got = jax.jit(fn)(jax.device_put(g, P("d")), jax.device_put(k, P()))
    assert_trees_close(jax.device_get(got), jax.device_get(want))


@pytest.mark.two_devices
def test_an_explicit_mesh_that_only_the_kernel_lies_on():
    x, k = jnp.asarray(draw((2, 6, 2))), jnp.asarray(draw((3, 2, 4), seed=1))
    want = jconv.conv(x, k)
    with jax.set_mesh(jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))):
        got = jax.jit(jconv.conv)(jax.device_put(x, P()), jax.device_put(k, P(None, None, "d")))
    assert_trees_close(jax.device_get(got), jax.device_get(want))


@pytest.mark.parametrize("strides", [1, 2])
def test_kernel_gradients_of_shift_with_64_bits(strides):
    with jax.enable_x64(True):
        for dtype in ("float32", "float64"):
            x, k = draw((2, 9, 8, 3), dtype), draw((3, 3, 1, 3), dtype, 1)
            options = {"strides": strides, "feature_group_count": 3}
            g = draw(jax.eval_shape(functools.partial(jconv.conv, **options), x, k).shape, dtype, 2)
            of = lambda name, x, g, o=options: jconv.conv_kernel_grad(x, g, (3, 3), algorithm=name, **o)
            got, want = jax.jit(lambda x, g, of=of: (of("shift", x, g), of("einsum", x, g)))(x, g)
            assert got.dtype == dtype
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
