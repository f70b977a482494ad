"""The choice of algorithm: pure, explained, bounded in memory."""

import jax
import pytest
from jax import numpy as jnp

import jconv
from jconv._algorithms import ALGORITHMS
from jconv._algorithms.base import ROLES, Call
from jconv._select import MAX_WORKSPACE_RATIO, operand_bytes, select
from tests.cases import CASES


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
@pytest.mark.parametrize("role", ROLES)
def test_auto_takes_what_covers_the_call_within_its_bound(role, platform):
    for case in CASES:
        for dtype in (jnp.float32, jnp.bfloat16, jnp.int8):
            call = Call(case.spec, role, jnp.dtype(dtype), jnp.dtype(dtype), None, platform)
            name, reason = select(call)
            assert len(reason) > 10
            assert ALGORITHMS[name].supports(call) is None
            assert ALGORITHMS[name].workspace(call) <= MAX_WORKSPACE_RATIO * operand_bytes(call) or case.spec.rank == 0
            if platform != "cpu" and case.spec.rank:
                assert name == "xla"


def test_patches_out_of_proportion_are_not_taken():
    options = {"feature_group_count": 8, "role": "kernel_grad", "platform": "cpu"}
    small = jconv.select_algorithm((8, 64, 64, 16), (3, 3, 2, 16), **options)
    large = jconv.select_algorithm((8, 64, 64, 16), (31, 31, 2, 16), **options)
    assert (small.name, large.name) == ("einsum", "xla")
    assert "exceed 32 times the operands" in large.reason


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


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_workspace_that_is_declared_is_what_xla_allocates(algorithm):
    """Within a factor of 4: layouts and results in progress come on top of the patches."""
    x, k = jax.ShapeDtypeStruct((4, 32, 32, 16), jnp.float32), jax.ShapeDtypeStruct((5, 5, 16, 16), jnp.float32)
    spec = jconv.ConvSpec(x.shape, k.shape)
    call = Call(spec, "forward", jnp.dtype("float32"), jnp.dtype("float32"), None, "cpu")
    compiled = jax.jit(lambda x, k: jconv.conv(x, k, algorithm=algorithm)).lower(x, k).compile()
    used = compiled.memory_analysis().temp_size_in_bytes
    assert used <= 4 * ALGORITHMS[algorithm].workspace(call) + operand_bytes(call)
