"""The choice of algorithm: pure, explained, bounded in memory."""

import jax
import pytest
from jax import numpy as jnp

import jconv
from jconv._algorithms.base import ROLES, Call
from jconv._forecast import model
from jconv._plan import named_plan
from jconv._select import MAX_WORKSPACE_RATIO, candidates, forecaster, operand_bytes, plans, resolve, select
from tests.cases import CASES


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
@pytest.mark.parametrize("role", ROLES)
def test_auto_takes_what_covers_the_call_within_its_bound(role, platform):
    for case in CASES:
        for dtype in (jnp.float32, jnp.bfloat16, jnp.int8):
            call = Call(case.spec, role, jnp.dtype(dtype), jnp.dtype(dtype), None, platform)
            plan, reason = select(call)
            assert len(reason) > 10
            assert plan.refusal(call) is None
            if case.spec.rank and case.spec.batch_shape[0]:
                found = next(c for c in plans(call) if c.plan == plan)
                assert found.workspace <= MAX_WORKSPACE_RATIO * operand_bytes(call)
            if model(platform) is None and case.spec.rank and named_plan("xla").refusal(call) is None:
                assert plan.name == "xla"


def call_of(x, kernel, role, dtype="float32", **options):
    """Made of XLA's operations alone, whatever plug-ins are installed."""
    spec = jconv.ConvSpec(x, kernel, **options)
    return Call(spec, role, jnp.dtype(dtype), jnp.dtype(dtype), None, "cpu", portable=True)


@pytest.mark.parametrize("role", ROLES)
def test_direct_takes_the_cheapest_of_what_computes_the_sum_itself(role):
    for case in CASES:
        call = Call(case.spec, role, jnp.dtype("float32"), jnp.dtype("float32"), None, "cpu")
        name = resolve("direct", call).name
        if case.spec.rank and not case.spec.is_empty:
            found = next(c for c in plans(call) if c.name == name)
            assert found.plan.local
            assert found.plan.exact
            able = [c for c in candidates(call) if c.plan.local and c.plan.exact]
            assert found.seconds * found.margin == min(c.seconds * c.margin for c in able)
    call = call_of((4, 30_000, 1), (301, 1, 1), role)
    spreading = {"fold", "group", "fft", "winograd2", "winograd4"}
    assert spreading.isdisjoint(resolve("direct", call).name.split("+"))
    assert role == "kernel_grad" or not spreading.isdisjoint(select(call).name.split("+"))


def test_plans_out_of_proportion_are_not_taken():
    call = call_of((2, 64, 64, 16), (11, 11, 2, 16), "kernel_grad", feature_group_count=8)
    bound = MAX_WORKSPACE_RATIO * operand_bytes(call)
    assert any(plan.workspace > bound for plan in plans(call))
    assert all(plan.workspace <= bound for plan in candidates(call))


@pytest.mark.parametrize("role", ROLES)
def test_the_choice_is_the_cheapest_forecast_by_the_margin(role):
    for case in CASES:
        if case.spec.rank == 0 or case.spec.batch_shape[0] == 0:
            continue
        call = Call(case.spec, role, jnp.dtype("float32"), jnp.dtype("float32"), None, "cpu")
        by_name = {plan.name: plan for plan in candidates(call)}
        chosen = by_name[select(call).name]
        assert all(chosen.seconds * chosen.margin <= plan.seconds * plan.margin for plan in by_name.values())
        assert by_name["xla"].margin == 1 < min(p.margin for p in by_name.values() if p.name != "xla")
        assert chosen.name == "xla" or chosen.seconds * forecaster(call.platform).margin <= by_name["xla"].seconds


def test_the_forecast_finds_what_is_far_better():
    """Layers of no benchmark, and what makes each of them slow in a library that treats all alike."""
    depthwise = {"feature_group_count": 80}
    assert "shift" in select(call_of((4, 40, 40, 80), (3, 3, 1, 80), "forward", **depthwise)).name
    assert "shift" in select(call_of((4, 40, 40, 80), (3, 3, 1, 80), "kernel_grad", **depthwise)).name
    assert "unfold" in select(call_of((2, 12, 40, 40, 24), (3, 3, 3, 24, 24), "forward")).name
    assert "fold" in select(call_of((4, 30000, 1), (301, 1, 1), "forward")).name
    assert select(call_of((8, 40, 40, 48), (1, 1, 48, 192), "kernel_grad")).name != "xla"
    assert select(call_of((8, 40, 40, 64), (3, 3, 4, 64), "kernel_grad", feature_group_count=16)).name != "xla"
    assert select(call_of((4, 32, 32, 128), (3, 3, 128, 128), "forward", kernel_dilation=4)).name == "xla"


def test_a_name_is_respected_and_said():
    shapes = (1, 8, 8, 3), (3, 3, 3, 4)
    assert jconv.select_algorithm(*shapes, algorithm="einsum") == ("einsum", "asked for by name")
    mixed = jconv.Algorithms(input_grad="einsum")
    assert jconv.select_algorithm(*shapes, algorithm=mixed, role="input_grad").name == "einsum"
    assert jconv.select_algorithm(*shapes, platform="gpu") == jconv.select_algorithm(*shapes, platform="cuda")


@pytest.mark.parametrize("role", ROLES)
def test_what_is_said_is_what_runs(role):
    x, k, g = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 1, 4)), jnp.ones((2, 8, 8, 4))
    said = jconv.select_algorithm(x.shape, k.shape, feature_group_count=4, role=role)
    fn, args = {
        "forward": (lambda x, k: jconv.conv(x, k, feature_group_count=4), (x, k)),
        "input_grad": (lambda g, k: jconv.conv_input_grad(g, k, x.shape, feature_group_count=4), (g, k)),
        "kernel_grad": (lambda x, g: jconv.conv_kernel_grad(x, g, (3, 3), feature_group_count=4), (x, g)),
    }[role]
    assert f"jconv.{role}.{said.name}" in jax.jit(fn).lower(*args).as_text(debug_info=True)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *((name, "forward") for name in ("xla", "einsum", "matmul", "winograd2", "winograd4", "fft", "unfold+xla")),
        *((name, "kernel_grad") for name in ("einsum", "matmul", "winograd4", "unfold+matmul")),
        ("fold+xla", "input_grad"),
    ],
)
def test_the_workspace_that_is_declared_is_what_xla_allocates(name, role):
    """Within a factor of 4: layouts and results in progress come on top of the patches."""
    x, k = jax.ShapeDtypeStruct((4, 32, 32, 16), jnp.float32), jax.ShapeDtypeStruct((3, 3, 16, 16), jnp.float32)
    g = jax.ShapeDtypeStruct((4, 32, 32, 16), jnp.float32)
    fn, args = {
        "forward": (lambda x, k: jconv.conv(x, k, algorithm=name), (x, k)),
        "input_grad": (lambda g, k: jconv.conv_input_grad(g, k, x.shape, algorithm=name), (g, k)),
        "kernel_grad": (lambda x, g: jconv.conv_kernel_grad(x, g, (3, 3), algorithm=name), (x, g)),
    }[role]
    call = call_of(x.shape, k.shape, role)
    declared = next(plan for plan in plans(call) if plan.name == name).workspace
    used = jax.jit(fn).lower(*args).compile().memory_analysis().temp_size_in_bytes
    assert used <= 4 * declared + operand_bytes(call)
