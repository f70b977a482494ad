"""The kernels for NVIDIA's GPUs: interpreted, against the oracle and lax; and lowered for CUDA, which needs no GPU.

The transformations of `tests/test_transforms.py` run through them too."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

import jconv
from jconv._algorithms import REDUCTIONS, pallas
from jconv._algorithms._activations import ACTIVATIONS
from jconv._algorithms.base import ROLES, Call
from jconv._plan import Plan, Plans, finish_result, named_plan
from jconv._select import candidates, select
from jconv._spec import Axis
from tests.cases import CASES, INTERPRETED, NAMED, Case, draw, operands, run, truth
from tests.numerics import assert_close, dtype_of
from tests.test_oracle import terms


def interpreted(positions):
    plan = Plan(pallas.Kernels(positions=positions, interpret=True).algorithm("interpreted"))
    return Plans(plan, plan, plan)


FEW_PLACES = interpreted(3)
# What takes several programs along rows, channels, taps and sums, with rests everywhere; and one channel.
LARGE = [
    Case("1d-many", (2, 301, 70), (4, 1, 70), {"padding": "CAUSAL", "feature_group_count": 70}),
    Case("1d-37-taps", (1, 150, 33), (37, 1, 33), {"feature_group_count": 33}),
    Case("1d-one-channel", (1, 700, 1), (37, 1, 1)),
    Case("1d-one-channel-strided", (1, 700, 1), (37, 1, 1), {"strides": 3}),
    Case("1d-dilated-far", (2, 130, 40), (5, 1, 40), {"kernel_dilation": 16, "feature_group_count": 40}),
    Case("2d-7x7", (2, 9, 15, 130), (7, 7, 1, 130), {"feature_group_count": 130}),
    Case("2d-strided", (2, 15, 16, 48), (3, 3, 1, 96), {"strides": 2, "feature_group_count": 48}),
    Case("3d-depthwise", (1, 5, 6, 7, 33), (3, 3, 3, 1, 33), {"feature_group_count": 33}),
]  # fmt: skip
UNEVEN = Case("3d-uneven", (1, 4, 6, 6, 1), (3, 3, 3, 1, 1), {"strides": (1, 2, 1), "padding": "VALID"})
DEPTHWISE = [case for case in NAMED if case.name in ("2d-everything", "2d-depthwise-multiplier", "1d-causal-dilated")]


def call_of(case, role, dtype="float32", platform="cuda", out_dtype=None):
    return Call(case.spec, role, dtype_of(dtype), dtype_of(out_dtype or dtype), None, platform)


def check(case, role, dtype="float32", out_dtype=None, plans=FEW_PLACES):
    call = call_of(case, role, dtype, None, out_dtype)
    a, b = operands(case, role, dtype)
    options = {"preferred_element_type": out_dtype} if out_dtype else {}
    if plans.forward.refusal(call) is not None:
        with pytest.raises(ValueError, match="does not cover"):
            run(case, role, a, b, algorithm=plans)
        return
    got = np.asarray(jax.jit(lambda a, b: run(case, role, a, b, algorithm=plans, **options))(a, b))
    want, magnitude = truth(case, role, a, b), truth(case, role, np.abs(a), np.abs(b))
    assert_close(got, want, magnitude, terms(case, role), dtype, out_dtype)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case_meets_the_oracle(case, role):
    check(case, role)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_every_rest_meets_the_oracle(case, role):
    assert INTERPRETED.forward.refusal(call_of(case, role)) is None
    check(case, role, plans=INTERPRETED)


@pytest.mark.parametrize("programs", [1, 2, 5, 7])
@pytest.mark.parametrize("case", [LARGE[0], LARGE[5], LARGE[6]], ids=str)
def test_sums_over_many_turns(case, programs, monkeypatch):
    """Few programs take several turns each, some of them with rows that do not exist."""
    monkeypatch.setattr(pallas, "PROGRAMS", programs)
    check(case, "kernel_grad", plans=INTERPRETED)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["unfold", "swap"])
def test_reductions_before_it(name, role):
    case = Case("3d", (1, 5, 6, 4, 3), (3, 2, 3, 1, 3), {"feature_group_count": 3, "strides": (1, 2, 1)})
    plan = dataclasses.replace(INTERPRETED.forward, reductions=(REDUCTIONS[name],))
    check(case, role, plans=Plans(plan, plan, plan))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("dtype", "out_dtype"), [("bfloat16", None), ("float16", None), ("bfloat16", "float32")])
@pytest.mark.parametrize("case", [*DEPTHWISE, LARGE[3]], ids=str)
def test_every_dtype_meets_the_oracle(case, dtype, out_dtype, role):
    check(case, role, dtype, out_dtype)


@pytest.mark.parametrize("positions", [1, 2, 16])
def test_other_tiles_give_the_same(positions):
    for role in ROLES:
        check(LARGE[1], role, plans=interpreted(positions))


@pytest.mark.parametrize("result", ["o", "p"])
def test_first_taps_are_those_of_the_phases(result):
    """The closed form against `Axis.phases`, whose tests have the relation itself."""
    for k, s, lo, q, d in itertools.product((1, 5), (1, 2, 6), (-1, 4), (1, 3, 4), (1, 2, 6)):
        axis = Axis(7, k, s, lo, 3 + k * d, q, d)
        line, phases = pallas._line(axis, result), axis.phases(result)
        positions = np.arange(line.size, dtype=np.int32)
        first = line.first(jnp.asarray(positions))
        t0, start, whole = (None if v is None else np.broadcast_to(v, positions.shape) for v in first)
        for r in positions:
            m, phase = divmod(int(r), phases.step)
            want = [(t, p + m * phases.other) for t, p in phases.taps[phase]]
            taps = range(line.taps) if whole is None or whole[r] else ()
            got = [(int(t0[r]) + i * line.tap_step, int(start[r]) + i * line.apart) for i in taps]
            assert [pair for pair in got if pair[0] < k] == want


@pytest.mark.non_finite
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("case", [LARGE[1], LARGE[6], DEPTHWISE[0]], ids=str)
def test_what_is_masked_stays_out(case, role):
    """An infinity reaches the results whose definition has it: neither places beyond the last one, nor taps beyond."""
    a, b = operands(case, role)
    a[(0, *(n // 2 for n in a.shape[1:-1]), 0)] = np.inf
    a[(0, *(n - 1 for n in a.shape[1:-1]), 0)] = np.inf
    got = np.asarray(jax.jit(lambda a, b: run(case, role, a, b, algorithm=INTERPRETED))(a, b))
    with np.errstate(invalid="ignore"):  # of infinities of both signs
        want = truth(case, role, a, b)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))


@pytest.mark.non_finite
@pytest.mark.parametrize("role", ["forward", "input_grad"])
@pytest.mark.parametrize("case", [LARGE[6], DEPTHWISE[0], UNEVEN], ids=str)
def test_an_infinite_weight_reaches_no_position_that_does_not_meet_its_tap(case, role):
    """It reaches what it does in `shift`, the padding too, where zero times infinity is none; but no phase without it."""
    a, b = operands(case, role)
    b[(*(n // 2 for n in b.shape[:-2]), 0, 0)] = np.inf
    both = jax.jit(lambda a, b: [run(case, role, a, b, algorithm=name) for name in (INTERPRETED, "shift")])
    got, want = (np.isfinite(np.asarray(v)) for v in both(a, b))
    assert not want.all()
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bias_and_activation_are_applied_before_rounding(activation, dtype):
    case = DEPTHWISE[1]
    x, k = operands(case, "forward", dtype)
    bias = draw((case.kernel[-1],), dtype_of(dtype), seed=7)
    y = jax.jit(lambda *a: run(case, "forward", *a[:2], bias=a[2], activation=activation, algorithm=INTERPRETED))(
        x, k, bias
    )
    sums = truth(case, "forward", x, k) + np.asarray(bias, np.float64)
    with jax.enable_x64(True):
        want = np.asarray(finish_result(jnp.asarray(sums), jconv.plugins.UNFINISHED._replace(activation=activation)))
    unit = 2.0 ** (-22 if dtype == "float32" else -8)
    np.testing.assert_allclose(np.asarray(y, np.float64), want, rtol=unit, atol=1e-5)


# For CUDA ------------------------------------------------------------------------------------------------
def cuda(size):
    """A mesh of devices that are not here."""
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    return AbstractMesh((size,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)


def lowered(fn, *arrays, size=1):
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    with jax.sharding.use_abstract_mesh(cuda(size)):
        return jax.jit(fn).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("case", "dtype"), [
    *itertools.product([*NAMED, *LARGE], ["float32"]), *itertools.product([*DEPTHWISE, *LARGE], ["bfloat16", "float16"])
], ids=str)  # fmt: skip
def test_every_case_lowers_for_cuda(case, dtype, role):
    if why := named_plan("pallas").refusal(call_of(case, role, dtype)) or (case.spec.is_empty and "nothing is run"):
        pytest.skip(why)
    text = lowered(lambda a, b: run(case, role, a, b, algorithm="pallas"), *operands(case, role, dtype))
    assert "triton" in text
    assert "convolution" not in text.replace("jconv", "")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_lowers_for_cuda(activation, dtype):
    x, k = operands(DEPTHWISE[1], "forward", dtype)
    fn = lambda x, k, bias: run(DEPTHWISE[1], "forward", x, k, bias=bias, activation=activation, algorithm="pallas")
    assert "triton" in lowered(fn, x, k, draw((k.shape[-1],), dtype_of(dtype)))


def test_auto_lowers_depthwise_layers_for_cuda():
    """Mamba's, in all three roles, with its bias and activation; and an exported program is without."""
    case = Case("mamba", (8, 4096, 2048), (4, 1, 2048), {"padding": "CAUSAL", "feature_group_count": 2048})
    for role in ROLES:
        assert select(call_of(case, role)).name == "pallas"
        assert select(call_of(case, role)._replace(portable=True)).name != "pallas"
        assert {"pallas2", "pallas16"} <= {c.name for c in candidates(call_of(case, role))}  # for tune

    def loss(x, k, bias):
        return jnp.sum(jconv.conv(x, k, bias, activation="silu", **case.options) ** 2)

    x, k, bias = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (case.x, case.kernel, case.kernel[-1:]))
    assert lowered(jax.grad(loss, (0, 1, 2)), x, k, bias).count('"_pass_kernel"') == 2
    small = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 9, 4), (4, 1, 4))]
    conv = functools.partial(jconv.conv, feature_group_count=4)
    assert "triton" not in jax.export.export(jax.jit(conv), platforms=("cuda",))(*small).mlir_module()


@pytest.mark.two_devices
def test_shard_map():
    """With its check on, over two devices, lowered for CUDA; and interpreted, which works without it alone."""
    case = Case("2d", (4, 6, 5, 4), (3, 3, 1, 4), {"feature_group_count": 4})
    x, k = (jnp.asarray(v) for v in operands(case, "forward"))
    spread = functools.partial(jax.shard_map, in_specs=(P("x"), P()), out_specs=(P(), P("x"), P()))

    def grads(x, k):
        loss = lambda x, k: jnp.sum(jnp.sin(run(case, "forward", x, k, algorithm="pallas")))
        return lax.psum(loss(x, k), "x"), *jax.grad(loss, (0, 1))(x, k)

    assert lowered(spread(grads, mesh=cuda(2)), x, k, size=2).count("_grad_kernel") > 0

    def roles(x, k, algorithm):
        part = Case("part", x.shape, k.shape, case.options)
        y = run(part, "forward", x, k, algorithm=algorithm)
        k_bar = run(part, "kernel_grad", x, y, algorithm=algorithm)
        return lax.psum(k_bar, "x"), run(part, "input_grad", y, k, algorithm=algorithm), lax.psum(jnp.sum(y), "x")

    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    got, want = (
        jax.jit(spread(functools.partial(roles, algorithm=name), mesh=mesh, check_vma=False))(x, k)
        for name in (INTERPRETED, "xla")
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, want)


# What it leaves to others --------------------------------------------------------------------------------
class Device:
    platform, device_kind, compute_capability = "gpu", "Tesla V100", "7.0"


@pytest.mark.parametrize(("change", "why"), [
    ({"platform": "rocm"}, "run on NVIDIA's GPUs, not on rocm"),
    ({"platform": "tpu"}, "run on NVIDIA's GPUs, not on tpu"),
    ({"dtype": np.dtype("float64"), "out_dtype": np.dtype("float64")}, "takes float32, bfloat16, float16, not float64"),
    ({"spec": jconv.ConvSpec((1, 3, 3, 3, 3, 1), (1, 1, 1, 1, 1, 1))}, "one to 3 spatial axes, here are 4"),
    ({"spec": jconv.ConvSpec((1, 9, 9, 17), (3, 3, 17, 4))}, "at most 16 channels of a group, here are 17"),
    ({"spec": jconv.ConvSpec((2**21, 1024, 1), (3, 1, 1))}, "at most 2147483647 elements, one here has 2147483648"),
])  # fmt: skip
def test_refusals_say_why(change, why):
    call = call_of(Case("1d", (1, 9, 1), (3, 1, 1)), "forward")._replace(**change)
    assert why in named_plan("pallas").refusal(call)


def test_old_devices_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: [Device()])
    pallas._unknown_to_triton.cache_clear()
    try:
        why = named_plan("pallas").refusal(call_of(DEPTHWISE[1], "forward"))
    finally:
        pallas._unknown_to_triton.cache_clear()
    assert why == "Triton compiles for compute capability 8.0 and above, Tesla V100 has 7.0"


def test_elsewhere_it_is_refused_when_the_program_is_lowered():
    with pytest.raises(ValueError, match=r"'pallas' does not cover forward .* run on NVIDIA's GPUs, not on cpu"):
        jconv.conv(jnp.ones((1, 9, 1)), jnp.ones((3, 1, 1)), algorithm="pallas")
