"""JAX's modes: no mode changes a result, and none makes a call fail that works without it."""

import contextlib
import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jconv
from tests.cases import draw
from tests.numerics import dtype_of

DTYPES = ("bfloat16", "complex64", "int8")


def calls(dtype):
    """Every public function of arrays, with operands of one dtype."""
    make = lambda *shape, seed=0: jnp.asarray(draw(shape, dtype_of(dtype), seed))
    x, kernel, bias = make(2, 6, 5, 4), make(3, 3, 2, 4, seed=1), make(4, seed=2)
    groups = {"feature_group_count": 2}
    found = {
        "conv": (lambda x, k, b: jconv.conv(x, k, b, strides=2, **groups), x, kernel, bias),
        "circular": (lambda x, k: jconv.conv(x, k, padding_mode="circular", **groups), x, kernel),
        "transpose": (lambda x, k, b: jconv.conv_transpose(x, k, b, strides=2, **groups), x, kernel, bias[:4]),
        "local": (jconv.conv_local, x, make(6, 5, 2, 2, 4, 4), make(6, 5, 4)),
        "input_grad": (lambda g, k: jconv.conv_input_grad(g, k, x.shape, **groups), x, kernel),
        "kernel_grad": (lambda x, g: jconv.conv_kernel_grad(x, g, (3, 3), **groups), x, x),
        "bias_grad": (jconv.conv_bias_grad, x),
        "convolve": (jconv.convolve, x[0, :, :, 0], kernel[..., 0, 0]),
        "direct": (lambda a, b: jconv.correlate(a, b, "same", "direct"), x[0, :, :, 0], kernel[..., 0, 0]),
    }
    if dtype != "complex64":
        found["relu"] = (lambda x, k, b: jconv.conv(x, k, b, activation="relu", **groups), x, kernel, bias)
        found["max_pool"] = (lambda x: jconv.max_pool(x, (2, 2), padding="SAME"), x)
        found["global_max_pool"] = (jconv.global_max_pool, x)
    if dtype != "int8":
        found["avg_pool"] = (lambda x: jconv.avg_pool(x, (2, 2), padding="SAME"), x)
        found["avg_of_what_is_there"] = (
            lambda x: jconv.avg_pool(x, (2, 2), padding="SAME", count_include_pad=False),
            x,
        )
        found["global_avg_pool"] = (jconv.global_avg_pool, x)
        found["fft"] = (lambda a, b: jconv.convolve(a, b, method="fft"), x[0, :, :, 0], kernel[..., 0, 0])
    return found  # fmt: skip


def program(functions):
    """Value, tangent, second derivatives and the batched value of each function, in one program."""

    def all_of_it(fn, operands):
        stacked = [jnp.stack([v, v]) for v in operands]
        results = [fn(*operands), jax.vmap(fn)(*stacked)]
        if jnp.issubdtype(operands[0].dtype, jnp.inexact):
            loss = lambda *operands: jnp.sum(jnp.real(fn(*operands)) ** 2).astype(jnp.float32)
            gradient = jax.grad(loss, tuple(range(len(operands))))
            results += jax.jvp(fn, operands, operands)
            results += jax.tree.leaves(jax.jvp(gradient, operands, operands))
        return results

    return jax.jit(lambda every: {name: all_of_it(fn, every[name]) for name, fn in functions.items()})


@pytest.mark.standard_modes  # which are what is compared with
@pytest.mark.parametrize("dtype", DTYPES)
def test_strict_modes_change_no_program(dtype):
    functions = {name: fn for name, (fn, *_) in calls(dtype).items()}
    operands = {name: tuple(operands) for name, (_, *operands) in calls(dtype).items()}
    want = program(functions).lower(operands).as_text()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        got = program(functions).lower(operands).as_text()
    assert got.splitlines() == want.splitlines()


def test_what_the_user_mixes_is_refused_in_the_strict_mode():
    x, kernel, short = jnp.ones((5, 1)), jnp.ones((3, 1, 1)), jnp.ones(1, jnp.bfloat16)
    for call in (
        lambda: jconv.conv(x.astype(jnp.bfloat16), kernel),
        lambda: jconv.conv(x, kernel, short),
        lambda: jconv.conv_transpose(x, kernel, short),
        lambda: jconv.conv_local(x, jnp.ones((5, 3, 1, 1)), jnp.ones((5, 1), jnp.bfloat16)),
        lambda: jconv.convolve(short, x[:, 0]),
    ):
        with pytest.raises(jax.dtypes.TypePromotionError, match="jax_numpy_dtype_promotion=strict"):
            call()
    # nothing is mixed here: the bias has the operands' dtype, and the result that which was asked for
    b16 = jnp.bfloat16
    y = jconv.conv(x.astype(b16), kernel.astype(b16), short, preferred_element_type=jnp.float32)
    np.testing.assert_array_equal(y, jconv.conv(x, kernel, jnp.ones(1)))


@functools.cache
def without_a_mode():
    """Value and gradient of the functions that the modes for debugging are tried with."""
    both = lambda fn: lambda *v: (fn(*v), jax.grad(lambda *v: fn(*v).sum())(*v))
    return {name: jax.jit(both(fn))(*operands) for name, (fn, *operands) in calls("float32").items()
            if name in ("relu", "direct")}  # fmt: skip


@pytest.mark.parametrize(
    "mode",
    [
        {"jax_disable_jit": True},
        {"jax_enable_checks": True, "jax_debug_nans": True, "jax_debug_infs": True},
        {"jax_check_tracer_leaks": True},
        {"jax_enable_x64": True},
    ],
    ids=lambda mode: next(iter(mode)),
)
def test_modes_for_debugging(mode):
    every, wanted = calls("float32"), without_a_mode()
    with contextlib.ExitStack() as stack:
        for name in ("relu", "direct"):
            fn, *operands = every[name]
            for flag, value in mode.items():
                stack.callback(jax.config.update, flag, getattr(jax.config, flag))
                jax.config.update(flag, value)
            got = fn(*operands), jax.grad(lambda *v, fn=fn: fn(*v).sum())(*operands)
            for a, b in zip(wanted[name], got, strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype), name
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4, err_msg=name)
            stack.close()
