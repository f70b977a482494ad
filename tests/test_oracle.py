"""Every algorithm, in every role, dtype and geometry, against the definition."""

import contextlib
import itertools
import math

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jconv
from jconv._algorithms import REDUCTIONS
from jconv._algorithms.base import ROLES, Call
from jconv._plan import refusal
from jconv._select import plans, resolve, select
from jconv.plugins import algorithms
from tests import oracle
from tests.cases import CASES, COMPOSED, FEW, GENERAL, NAMED, OWN, PLANS, PLATFORM, PLUGGED, draw, operands, run, truth
from tests.numerics import DTYPES, assert_close, dtype_of


def terms(case, role):
    """Products in the longest sum of a role."""
    spec = case.spec
    groups, window = spec.feature_group_count, int(np.prod(spec.window))
    positions = int(np.prod(spec.output_spatial)) * spec.batch_shape[0]
    return {
        "forward": window * spec.in_features // groups,
        "input_grad": window * spec.out_features // groups,
        "kernel_grad": positions,
    }[role]


def call_of(case, role, dtype="float32", precision=None):
    return Call(case.spec, role, dtype_of(dtype), dtype_of(dtype), precision, PLATFORM)


def check(case, role, dtype="float32", result_dtype=None, *, names, **options):
    """Every named plan, in one compiled function, against the oracle."""
    a, b = operands(case, role, dtype)
    fn = jax.jit(lambda a, b: {name: run(case, role, a, b, algorithm=name, **options) for name in names})
    want, magnitude = truth(case, role, a, b), truth(case, role, np.abs(a), np.abs(b))
    results = jax.tree.map(np.asarray, fn(a, b))
    norms = math.prod(float(np.linalg.norm(v.astype("complex128"))) for v in (a, b))
    for name, got in results.items():
        plan = select(call_of(case, role, dtype)).name if name == "auto" else name
        try:
            assert_close(got, want, magnitude, terms(case, role), dtype, result_dtype, plan, norms)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
    return results


def able(case, role, dtype="float32", names=PLANS):
    """The plans that cover the case; the others must say why and raise."""
    call = call_of(case, role, dtype)
    why = {name: refusal(name, call) for name in names}
    refused = [name for name in names if why[name] is not None]
    assert all(len(why[name]) > 20 for name in refused)

    def refuse(a, b):  # within one trace, of which no error has to find its way out
        for name in refused:
            with pytest.raises(ValueError, match="does not cover"):
                run(case, role, a, b, algorithm=name)

    if refused:
        jax.eval_shape(refuse, *operands(case, role, dtype))
    return [name for name in names if why[name] is None]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_geometry(case, role):
    names = able(case, role, names=PLANS if case in NAMED else (*OWN, *PLUGGED))
    assert set(GENERAL) <= set(names)
    check(case, role, names=[*names, "auto"])


def test_every_plan_is_met_by_some_geometry():
    for role in ROLES:
        met = {name for case in NAMED for name in PLANS if refusal(name, call_of(case, role)) is None}
        assert met == set(PLANS)
    assert {part for name in COMPOSED for part in name.split("+")} >= set(REDUCTIONS)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_every_dtype(case, dtype, role):
    wide = dtype in ("float64", "complex128")
    with jax.enable_x64(True) if wide else contextlib.nullcontext():
        names = able(case, role, dtype, (*OWN, *PLUGGED))
        assert set(GENERAL) <= set(names)
        results = check(case, role, dtype, names=names)
    short = {"int8": "int32", "uint8": "int32", "int16": "int32"}
    assert {got.dtype for got in results.values()} == {np.dtype(short.get(dtype, dtype_of(dtype)))}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("x", "kernel", "groups", "dtype"),
    [
        ((2, 40, 40, 32), (12, 12, 32, 32), 1, "bfloat16"),
        ((2, 40, 40, 32), (12, 12, 32, 32), 1, "float16"),
        ((1, 40, 40, 64), (3, 3, 64, 64), 1, "bfloat16"),
        ((1, 40, 40, 8), (11, 11, 1, 8), 8, "bfloat16"),
    ],
)
def test_long_sums_of_short_floats_are_accumulated_in_float32(x, kernel, groups, dtype, role):
    # hundreds of products a sum and more: in 16 bits the running sum would soon swallow whole terms
    case = FEW[2].__class__("long", x, kernel, {"padding": "VALID", "feature_group_count": groups})
    check(case, role, dtype, names=able(case, role, dtype, ("xla", "matmul", "shift", "winograd4", "fft", "group+xla")))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("case", "dtype"), [(FEW[2], "bfloat16"), (FEW[2], "float16"), (FEW[4], "bfloat16")], ids=str)
def test_preferred_element_type(case, dtype, role):
    # a result in float32 keeps what rounding to 16 bits would lose
    check(case, role, dtype, "float32", names=able(case, role, dtype), preferred_element_type=jnp.float32)


@pytest.mark.parametrize("role", ROLES)
def test_precision_keeps_inexact_algorithms_out(role):
    case = FEW[2].__class__("vgg", (4, 56, 56, 128), (3, 3, 128, 256), {})
    assert "winograd" in resolve("auto", call_of(case, role)).name
    for precision in ("high", "highest"):
        value = jax.lax.Precision(precision)
        assert all(found.plan.exact for found in plans(call_of(case, role)) if found.name == "matmul")
        assert resolve("auto", call_of(case, role, precision=(value, value))).plan.exact


@pytest.mark.parametrize(("precision", "dtype"), [("highest", "f32"), ("default", "f16")])
def test_full_precision_on_gpu_leaves_no_sum_in_16_bits(precision, dtype):
    """The libraries of GPUs may add up parts of a product of float16 in float16."""
    x, k = (jax.ShapeDtypeStruct(shape, jnp.float16) for shape in ((2, 9, 16), (3, 16, 8)))
    conv = jax.jit(lambda x, k: jconv.conv(x, k, algorithm="einsum", precision=precision))
    (product,) = (line for line in jax.export.export(conv, platforms=("cuda",))(x, k).mlir_module().splitlines()
                  if "stablehlo.dot_general" in line)  # fmt: skip
    operands = product.rpartition(" : ")[2].partition("->")[0]
    assert operands.count(f"x{dtype}>") == 2


@pytest.mark.parametrize("algorithm", GENERAL)
def test_gradients_of_a_wider_result_are_computed_in_its_dtype_and_returned_in_the_operands(algorithm):
    case = FEW[2]
    x, k = (jnp.asarray(a) for a in operands(case, "forward", "bfloat16"))
    f = lambda x, k: jconv.conv(x, k, algorithm=algorithm, preferred_element_type=jnp.float32, **case.options)
    y, vjp = jax.vjp(f, x, k)
    g = draw(y.shape, seed=3)  # float32, more digits than bfloat16 has
    x_bar, k_bar = vjp(jnp.asarray(g))
    for got, want, size, count in (
        (x_bar, oracle.input_grad(g, k, case.x, **case.geometry),
         oracle.input_grad(abs(g), abs(k), case.x, **case.geometry), terms(case, "input_grad")),
        (k_bar, oracle.kernel_grad(x, g, case.kernel[:-2], **case.geometry),
         oracle.kernel_grad(abs(x), abs(g), case.kernel[:-2], **case.geometry), terms(case, "kernel_grad")),
    ):  # fmt: skip
        assert_close(got, want, size, count, "bfloat16")


@pytest.mark.parametrize("case", FEW + CASES[-2:], ids=str)
def test_adjointness(case):
    """<g, conv(x, k)> = <input_grad(g, k), x> = <kernel_grad(x, g), k>, in integers, so exactly."""
    spec = case.spec
    x, k, g = (draw(s, "int32", i) % 7 for i, s in enumerate((spec.x_shape, spec.kernel_shape, spec.output_shape)))
    able_in = {role: able(case, role, "int32") for role in ROLES}
    names = [name for name in PLANS if all(name in able_in[role] for role in ROLES)]

    @jax.jit
    def roles(x, k, g):
        return {
            n: (run(case, "forward", x, k, algorithm=n), run(case, "input_grad", g, k, algorithm=n),
                run(case, "kernel_grad", x, g, algorithm=n)) for n in names
        }  # fmt: skip

    for y, x_bar, k_bar in jax.tree.map(np.asarray, roles(x, k, g)).values():
        assert np.sum(g * y) == np.sum(x_bar * x) == np.sum(k_bar * k)


LOCAL = [name for name in PLANS if "+" not in name and algorithms()[name].local] + ["unfold+xla", "swap+shift"]


@pytest.mark.non_finite
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("case", [FEW[1], FEW[2], FEW[3]], ids=str)
def test_non_finite_elements_reach_what_the_definition_says(case, bad):
    x, k = operands(case, "forward")
    g = draw(case.spec.output_shape, seed=5)
    x[(0, *(n // 2 for n in x.shape[1:-1]), 0)] = bad
    g[(0, *(n // 2 for n in g.shape[1:-1]), 0)] = bad
    given = {"forward": (x, k), "input_grad": (g, k), "kernel_grad": (x, draw(g.shape, seed=5))}
    names = {role: able(case, role, names=tuple(LOCAL)) for role in given}

    @jax.jit
    def roles(given):
        return {role: [run(case, role, a, b, algorithm=n) for n in names[role]] for role, (a, b) in given.items()}

    for role, results in roles(given).items():
        want = truth(case, role, *given[role])
        finite = np.isfinite(want)
        for name, got in zip(names[role], map(np.asarray, results), strict=True):
            np.testing.assert_array_equal(np.isfinite(got), finite, err_msg=f"{role} {name}")
            np.testing.assert_allclose(got[finite], want[finite], rtol=1e-4, atol=1e-4, err_msg=f"{role} {name}")


@pytest.mark.non_finite
def test_plans_that_spread_non_finite_elements_say_so():
    """Each of them does so for some case, so the flag is no empty warning; the others do for none (above)."""
    case = FEW[2].__class__("wide", (1, 8, 8, 4), (3, 3, 2, 4), {"feature_group_count": 2, "padding": "VALID"})
    dense = FEW[2].__class__("dense", (1, 9, 9, 1), (3, 3, 1, 1))
    for name, at in (("group+xla", case), ("fold+xla", dense), ("winograd4", dense), ("fft", dense)):
        found = next(plan for plan in plans(call_of(at, "forward")) if plan.name == name)
        assert not found.plan.local
        x, k = operands(at, "forward")
        x[0, 5, 5, 0] = np.inf
        spread = ~np.isfinite(run(at, "forward", x, k, algorithm=name)) & np.isfinite(truth(at, "forward", x, k))
        assert spread.any(), name


MODES = ("zeros", "reflect", "replicate", "circular")


@pytest.mark.parametrize("modes", [*MODES, ("reflect", "zeros"), ("circular", "replicate"), ("zeros", "circular")])
@pytest.mark.parametrize("padding", ["SAME", "FULL", "CAUSAL", ((2, 1), (0, 3)), ((-1, 2), (3, -2)), "VALID"])
def test_padding_modes_in_all_roles(padding, modes):
    options = {"padding": padding, "strides": (1, 2), "kernel_dilation": (2, 1)}
    x, k = draw((1, 5, 6, 2)), draw((2, 3, 2, 3), seed=1)
    spec = jconv.ConvSpec(x.shape, k.shape, **options)
    modes_2d = (modes, modes) if isinstance(modes, str) else modes
    padded = oracle.pad(x.astype(float), spec.padding, modes_2d)
    left = tuple((0, 0) if m != "zeros" else p for p, m in zip(spec.padding, modes_2d, strict=True))
    geometry = {"strides": (1, 2), "padding": left, "input_dilation": (1, 1), "kernel_dilation": (2, 1)}
    want = oracle.forward(padded, k, **geometry)
    kwargs = options | {"padding_mode": modes}
    g = draw(want.shape, seed=2)

    @jax.jit
    def all_roles(x, k, g):
        y, vjp = jax.vjp(lambda x, k: jconv.conv(x, k, **kwargs), x, k)
        return (
            y,
            vjp(g),
            (jconv.conv_input_grad(g, k, x.shape, **kwargs), jconv.conv_kernel_grad(x, g, (2, 3), **kwargs)),
        )

    y, by_vjp, by_name = all_roles(x, k, g)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    # the gradient of x by adjointness with every unit vector: pad is linear, so its columns are pads of units
    padded_bar = oracle.input_grad(g, k, padded.shape, **geometry)
    want_bar = np.zeros(x.shape)
    for at in itertools.product(*map(range, x.shape)):
        unit = np.zeros(x.shape)
        unit[at] = 1
        want_bar[at] = np.sum(oracle.pad(unit, spec.padding, modes_2d) * padded_bar)
    for x_bar, k_bar in (by_vjp, by_name):
        np.testing.assert_allclose(x_bar, want_bar, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(k_bar, oracle.kernel_grad(padded, g, (2, 3), **geometry), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("rank", [1, 3])
def test_padding_modes_in_other_ranks(rank, mode):
    x, k = draw((1, *(5, 4, 6)[:rank], 2)), draw((*(3, 3, 2)[:rank], 2, 3), seed=1)
    spec = jconv.ConvSpec(x.shape, k.shape)
    ones, none = (1,) * rank, ((0, 0),) * rank
    want = oracle.forward(
        oracle.pad(x, spec.padding, (mode,) * rank), k, strides=ones, padding=none, input_dilation=ones,
        kernel_dilation=ones,
    )  # fmt: skip
    np.testing.assert_allclose(jconv.conv(x, k, padding_mode=mode), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 1, 2), (0,), (2, 0)])
def test_any_number_of_batch_axes(batch):
    x, k = draw((*batch, 6, 5, 2)), draw((3, 2, 2, 4), seed=1)
    g = draw((*batch, 6, 5, 4), seed=2)

    @jax.jit
    def all_roles(x, k, g):
        y, vjp = jax.vjp(jconv.conv, x, k)
        by_name = jconv.conv_input_grad(g, k, x.shape), jconv.conv_kernel_grad(x, g, (3, 2))
        return y, jconv.conv(x.reshape(-1, 6, 5, 2), k), vjp(g), by_name

    y, flat, (x_bar, k_bar), (x_named, k_named) = jax.tree.map(np.asarray, all_roles(x, k, g))
    assert y.shape == g.shape
    np.testing.assert_array_equal(y, flat.reshape(y.shape))
    assert x_bar.shape == x.shape
    np.testing.assert_allclose(k_named, k_bar, rtol=1e-6)
    np.testing.assert_allclose(x_named, x_bar, rtol=1e-6)


def test_bias_and_its_gradient():
    x, k, b = draw((2, 5, 5, 2)), draw((3, 3, 2, 4), seed=1), draw((4,), seed=2)
    y, vjp = jax.vjp(lambda b: jconv.conv(x, k, b), jnp.asarray(b))
    np.testing.assert_allclose(y, np.asarray(jconv.conv(x, k)) + b, rtol=1e-6)
    g = draw(y.shape, seed=3)
    np.testing.assert_allclose(vjp(jnp.asarray(g))[0], jconv.conv_bias_grad(g), rtol=1e-5)
    np.testing.assert_allclose(jconv.conv_bias_grad(g), g.astype(float).sum((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bias_gradient_of_short_floats_is_summed_in_float32(dtype):
    g = jnp.full((1, 64, 64, 1), 1 + 2.0**-7, dtype)  # summed in bfloat16 this sticks at 256
    _, vjp = jax.vjp(lambda b: jconv.conv(jnp.zeros((1, 64, 64, 1), dtype), jnp.zeros((1, 1, 1, 1), dtype), b),
                     jnp.zeros((1,), dtype))  # fmt: skip
    want = 4096 * float(g[0, 0, 0, 0])
    for got in (vjp(g)[0], jconv.conv_bias_grad(g)):
        assert got.dtype == dtype
        assert abs(float(got[0]) - want) <= want * 2.0**-8


@pytest.mark.standard_modes  # the strict one refuses what is mixed
def test_mixed_dtypes_promote_where_nothing_is_lost():
    x, k = draw((1, 5, 2), "uint8"), draw((3, 2, 3))
    y = jconv.conv(x, k)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, jconv.conv(x.astype("float32"), k), rtol=1e-6)
    assert jconv.conv(jnp.ones((5, 1), jnp.bfloat16), jnp.ones((3, 1, 1))).dtype == jnp.float32
    z, vjp = jax.vjp(lambda x, k: jconv.conv(x, k), jnp.ones((5, 1)), jnp.ones((3, 1, 1), jnp.complex64))
    x_bar, k_bar = vjp(jnp.ones_like(z))
    assert (x_bar.dtype, k_bar.dtype) == (jnp.float32, jnp.complex64)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_copied_padding_are_summed_in_float32(dtype):
    k, g = jnp.ones((1, 1, 1), dtype), jnp.ones((1, 605, 1), dtype) * (1 + 2.0**-7)
    x_bar = jconv.conv_input_grad(g, k, (1, 5, 1), padding=300, padding_mode="replicate")
    want = 301 * (1 + 2.0**-7)  # the edge stands for itself and 300 copies
    assert abs(float(x_bar[0, 0, 0]) - want) <= want * 2.0**-8
    x, local = jnp.ones((1, 512, 1), dtype), jnp.ones((2, 511, 1, 1), dtype)
    y, vjp = jax.vjp(lambda x: jconv.conv_local(x, local, padding="VALID"), x)
    assert float(y[0, 0, 0]) == 511 if dtype == "float16" else abs(float(y[0, 0, 0]) - 511) <= 1
    assert float(vjp(jnp.ones_like(y))[0][0, 1, 0]) == 2


def test_integers_do_not_wrap_around_in_sums():
    g = np.full((100, 1), 100, np.int8)
    assert jconv.conv_bias_grad(g) == 10_000
    assert jconv.conv_bias_grad(g).dtype == np.int32


def test_empty_batches_everywhere():
    assert jconv.conv_local(jnp.ones((0, 5, 1)), jnp.ones((3, 3, 1, 2)), padding="VALID").shape == (0, 3, 2)
    assert jconv.conv_transpose(jnp.ones((0, 5, 1)), jnp.ones((3, 2, 1)), strides=2).shape == (0, 10, 2)
    layer = jconv.layers.GroupNorm(2)
    assert layer.apply(*layer.init(jax.random.key(0), (1, 5, 4)), jnp.ones((0, 5, 4)))[0].shape == (0, 5, 4)


def test_window_arguments_may_be_arrays():
    x, k = jnp.ones((1, 8, 8, 2)), jnp.ones((3, 3, 2, 2))
    assert jconv.conv(x, k, strides=np.array(2), padding=np.array(1)).shape == (1, 4, 4, 2)
    assert jconv.conv(x, k, strides=np.array([2, 1])).shape == (1, 4, 8, 2)
