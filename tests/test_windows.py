"""Pools, and the windows that they are made of: against the definition in NumPy, and against lax."""

import functools
import random

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

import jconv
from jconv._jaxprs import equations
from jconv._spec import Axis
from jconv._windows import _run, best, composed, picked, scattered, total
from tests import oracle
from tests.cases import draw
from tests.numerics import dtype_of

BETTER = {
    "max": lambda a, b: a > b or (a != a and b == b),
    "min": lambda a, b: a < b or (a != a and b == b),
}
REALS = ("float32", "float64", "bfloat16", "float16", "int8", "int32", "uint8", "bool")


def geometry(seed: int):
    """A shape and windows over some of its axes, and the same for lax."""
    rng = random.Random(seed)
    shape, options = [], {"window": [], "strides": [], "padding": [], "base_dilation": [], "window_dilation": []}
    for plain in rng.choice([(1, 0, 0, 1), (1, 1, 0), (0, 1), (1, 0, 1, 0)]):
        k = 1 if plain else rng.choice([1, 2, 3, 4, 5, 9, 12])
        d, q = (1, 1) if plain else (rng.choice([1, 1, 2, 3]), rng.choice([1, 1, 1, 2]))
        low, high = (0, 0) if plain else (rng.randint(-1, k - 1), rng.randint(-1, k - 1))
        least = max(2, (k - 1) * d + 1 - low - high)
        shape.append(rng.randint(1, 3) if plain else rng.randint(least, least + 6))
        for name, value in zip(options, (k, 1 if plain else rng.randint(1, 4), (low, high), q, d), strict=True):
            options[name].append(value)
    return tuple(shape), options


def axes_of(shape, options):
    each = zip(shape, *options.values(), strict=True)
    return {i: Axis(n, k, s, *pads, q, d) for i, (n, k, s, pads, q, d) in enumerate(each)}


def few_values(shape, dtype, seed):
    """With many that are equal."""
    values = np.random.default_rng(seed).integers(-2, 3, shape)
    return jnp.asarray(
        np.abs(values) if dtype == "uint8" else values > 0 if dtype == "bool" else values, dtype_of(dtype)
    )


def expected(x, options, monoid, g):
    """The best elements, and where they are: what is picked from x at ones and what of g is scattered."""
    index = oracle.windows(np.asarray(x, np.float64), **options, best=BETTER[monoid])
    scattered = np.zeros(x.size)
    np.add.at(scattered, index[index >= 0], np.asarray(g, np.float64)[index >= 0])
    return index, scattered.reshape(x.shape)


@pytest.mark.parametrize("monoid", BETTER)
@pytest.mark.parametrize("seed", range(12))
def test_the_best_of_each_window_and_its_place(seed, monoid):
    shape, options = geometry(seed)
    axes = axes_of(shape, options)
    dtype = REALS[seed % len(REALS)]
    with jax.enable_x64(dtype == "float64"):
        check(few_values(shape, dtype, seed), options, axes, monoid, seed)


def check(x, options, axes, monoid, seed):
    shape = x.shape
    y = jax.jit(functools.partial(best, axes=axes, monoid=monoid))(x)
    g = jnp.asarray(np.random.default_rng(seed).integers(-3, 4, y.shape), jnp.float32)
    index, want = expected(x, options, monoid, g)
    there = index >= 0
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(y)[there], np.asarray(x).ravel()[index[there]])
    np.testing.assert_array_equal(jax.jit(functools.partial(scattered, axes=axes, monoid=monoid))(x, g), want)
    dx = jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)
    moving = jax.jit(functools.partial(picked, axes=axes, monoid=monoid))(x, dx)
    np.testing.assert_array_equal(moving, np.where(there, np.asarray(dx).ravel()[index], 0))


@pytest.mark.parametrize("seed", range(12))
def test_the_sum_of_each_window_and_its_transpose(seed):
    shape, options = geometry(seed)
    axes = axes_of(shape, options)
    x = np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)
    by_lax = lambda x: lax.reduce_window(x, np.float32(0), lax.add, *options.values())
    y, pull = jax.vjp(jax.jit(functools.partial(total, axes=axes)), x)
    np.testing.assert_array_equal(y, by_lax(x))
    g = np.random.default_rng(seed).integers(-9, 10, y.shape).astype(np.float32)
    (x_bar,) = pull(g)
    assert np.vdot(g, y) == np.vdot(x_bar, x)


def test_not_a_number_and_infinities():
    """Not-a-number is in the value, as in lax, and has the gradient; minus infinity has it as any other number."""
    nan, inf = np.nan, np.inf
    x = jnp.array([1, nan, 3, -inf, -inf, -inf, 2, nan, nan, inf, inf, 0]).reshape(12, 1)
    pool = lambda x: jconv.max_pool(x, (3,), padding=[(1, 2)])
    by_lax = lambda x: lax.reduce_window(x, -inf, lax.max, (3, 1), (3, 1), ((1, 2), (0, 0)))
    np.testing.assert_array_equal(
        pool(x), by_lax(x)
    )  # of (1, nan), (3, -inf, -inf), (-inf, 2, nan), (nan, inf, inf), (0)
    (x_bar,) = jax.vjp(pool, x)[1](jnp.arange(1.0, 6).reshape(5, 1))
    np.testing.assert_array_equal(x_bar[:, 0], [0, 1, 2, 0, 0, 0, 0, 3, 4, 0, 0, 5])
    (x_bar,) = jax.vjp(pool, jnp.full((12, 1), -inf))[1](jnp.arange(1.0, 6).reshape(5, 1))
    np.testing.assert_array_equal(x_bar[:, 0], [1, 0, 2, 0, 0, 3, 0, 0, 4, 0, 0, 5])


@pytest.mark.parametrize(("k", "s", "d"), [(67, 1, 1), (67, 67, 1), (71, 2, 3)])
def test_long_windows_that_have_no_factor(k, s, d):
    """Sums and their transposes, which XLA would compile for seconds if they were written tap by tap."""
    axes = {1: Axis(220, k, s, 5, 3, 1, d)}
    x = np.random.default_rng(0).integers(-9, 10, (2, 220, 3)).astype(np.float32)
    by_lax = lambda x: lax.reduce_window(
        x, np.float32(0), lax.add, (1, k, 1), (1, s, 1), ((0, 0), (5, 3), (0, 0)), None, (1, d, 1)
    )
    y, pull = jax.vjp(functools.partial(total, axes=axes), x)
    np.testing.assert_array_equal(y, by_lax(x))
    g = np.random.default_rng(1).integers(-9, 10, y.shape).astype(np.float32)
    np.testing.assert_array_equal(pull(g)[0], jax.vjp(by_lax, x)[1](g)[0])
    best_by_lax = lambda x: lax.reduce_window(
        x, -np.inf, lax.max, (1, k, 1), (1, s, 1), ((0, 0), (5, 3), (0, 0)), None, (1, d, 1)
    )
    np.testing.assert_array_equal(jax.jit(functools.partial(best, axes=axes))(x), best_by_lax(x))


def test_long_windows_are_made_of_short_ones():
    """Which elements each output sees, in their order, and that no short window sees none."""
    rng, made = random.Random(0), 0
    for _ in range(3000):
        k = rng.randint(2, 130)
        s = rng.choice([1, 2, 3, 8, k, max(1, k // 2), rng.randint(1, 20)])
        d = rng.choice([1, 1, 2, 3])
        axis = Axis(rng.randint(1, 150), k, s, rng.randint(-2, k - 1), rng.randint(-2, k - 1), 1, d)
        for monoid in ("max", "add") if axis.o else ():
            stages, seen = composed(axis, monoid), [[p] for p in range(axis.n)]
            made += len(stages) > 1
            for stage in stages:
                assert stage.n == len(seen)
                starts = [o * stage.s - stage.lo for o in range(stage.o)]
                taps = [[p for p in range(p, p + stage.k * stage.d, stage.d) if 0 <= p < stage.n] for p in starts]
                seen = [[p for tap in each for p in seen[tap]] for each in taps]
                assert all(seen) or stage is stages[-1] or monoid == "add"
            starts = [o * s - axis.lo for o in range(axis.o)]
            want = [[p for p in range(p, p + k * d, d) if 0 <= p < axis.n] for p in starts]
            assert (seen if monoid == "add" else [sorted(set(each)) for each in seen]) == want
    assert made > 1000


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_transforms(kind):
    """The same as of lax's operations, whose transforms are lax's."""
    x = jnp.asarray(draw((2, 5, 4, 3)))
    dims = (1, 3, 2, 1), (1, 2, 1, 1), ((0, 0), (1, 1), (0, 0), (0, 0))
    if kind == "max":
        fn = lambda x: jconv.max_pool(x, (3, 2), strides=(2, 1), padding=(1, 0))
        ref = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, *dims)
    else:
        fn = lambda x: jconv.avg_pool(x, (3, 2), strides=(2, 1), padding=(1, 0), count_include_pad=False)
        ref = lambda x: lax.reduce_window(x, 0.0, lax.add, *dims) / lax.reduce_window(x * 0 + 1, 0.0, lax.add, *dims)
    many = jnp.asarray(draw((3, 2, 5, 4, 3), seed=1))
    loss = lambda f: lambda x: jnp.sum(jnp.sin(f(x)) * f(x))
    turns = lambda f: lambda x: lax.scan(lambda c, x: (c + f(x).sum(), f(x)), 0.0, x)
    for transformed in (
        lambda f: jax.jit(f)(x),
        lambda f: jax.jvp(f, (x,), (many[0],)),
        lambda f: jax.grad(loss(f))(x),
        lambda f: jax.grad(loss(jax.checkpoint(f)))(x),
        lambda f: jax.jvp(jax.grad(loss(f)), (x,), (many[0],)),
        lambda f: jax.grad(lambda x: jnp.sum(jax.grad(loss(f))(x) ** 2))(x),
        lambda f: jax.vmap(jax.grad(loss(f)))(many),
        lambda f: jax.vmap(f, in_axes=1, out_axes=2)(many),
        lambda f: jax.grad(lambda x: turns(f)(x)[0])(many),
        lambda f: jax.linearize(f, x)[1](many[0]),
    ):
        got, want = transformed(fn), transformed(ref)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_are_added_in_float32(dtype):
    """1,000 ones are 1,000, of which a sum in bfloat16 reaches 256."""
    ones = jnp.ones((2000, 1), dtype)
    by_lax = lambda x: lax.reduce_window(x, jnp.zeros((), x.dtype), lax.add, (1000, 1), (1, 1), "VALID")
    assert jnp.unique(jconv.avg_pool(ones, (1000,), strides=1)).tolist() == [1]
    assert jnp.unique(jconv.accelerate(by_lax)(ones)).tolist() == [1000]
    x = jnp.zeros((2000, 1), dtype).at[1000].set(1)
    (x_bar,) = jax.vjp(lambda x: jconv.max_pool(x, (1000,), strides=1), x)[1](jnp.ones((1001, 1), dtype))
    assert x_bar.dtype == dtype
    assert x_bar[1000, 0] == 1000  # the number of windows that have it


# Other programs ------------------------------------------------------------------------------------------
def primitives(fn, *args):
    return {eqn.primitive.name for eqn in equations(jax.make_jaxpr(fn)(*args))}


LAX = {
    "reduce_window",
    "reduce_window_max",
    "reduce_window_min",
    "reduce_window_sum",
    "select_and_scatter_add",
    "select_and_gather_add",
}


@pytest.mark.parametrize("op", ["max", "min", "add"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_accelerate_replaces_windows(op, layout):
    """In the program of another library, with its derivatives, forward and backward, after a convolution and alone."""
    combine, start = {"max": (lax.max, -jnp.inf), "min": (lax.min, jnp.inf), "add": (lax.add, 0.0)}[op]
    by_axis = lambda h, w, other=1: tuple({"H": h, "W": w}.get(letter, other) for letter in layout)
    dims = by_axis(3, 2), by_axis(2, 1), by_axis((1, 1), (0, 1), (0, 0))
    pool = lambda x: lax.reduce_window(x, start, combine, *dims)
    whole = lambda *shape, seed=0: jnp.asarray(np.random.default_rng(seed).integers(-2, 3, shape), jnp.float32)
    x, kernel = whole(2, 6, 6, 6), whole(*((3, 3, 6, 6) if layout == "NHWC" else (6, 6, 3, 3)), seed=1)
    numbers = (layout, "HWIO" if layout == "NHWC" else "OIHW", layout)
    conv = lambda x: lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
    loss = lambda f: lambda x: jnp.sum(f(x) * f(x))
    for f in (pool, lambda x: pool(jax.nn.relu(conv(x))), lambda x: conv(jax.jit(pool)(x))):
        for fn in (f, jax.grad(loss(f)), lambda x, f=f: jax.jvp(f, (x,), (x * x,))):
            assert primitives(fn, x) & LAX
            assert not primitives(jconv.accelerate(fn), x) & LAX
            jax.tree.map(np.testing.assert_array_equal, jconv.accelerate(fn)(x), fn(x))


def test_what_is_left_to_lax():
    """Windows of complex numbers, other operations than these, and sizes that are unknown."""
    x = jnp.asarray(draw((4, 4)))
    dims = (2, 2), (1, 1), "VALID"
    products = lambda x: lax.reduce_window(x, 1.0, lax.mul, *dims)
    np.testing.assert_array_equal(jconv.accelerate(products)(x), products(x))
    sums = lambda x: lax.reduce_window(x, jnp.zeros((), x.dtype), lax.add, *dims)
    z = jax.lax.complex(x, x)
    np.testing.assert_array_equal(jconv.accelerate(sums)(z), sums(z))
    (shape,) = jax.export.symbolic_args_specs((x,), "n, 4")
    made = jax.export.export(jax.jit(jconv.accelerate(sums)))(shape)
    np.testing.assert_array_equal(made.call(x), sums(x))


def test_reduce_window_of_jconv_lax():
    x = jnp.asarray(draw((2, 6, 6, 3)))
    args = (jnp.float32(-jnp.inf), lax.max, (1, 3, 2, 1), (1, 2, 2, 1), "SAME")  # an array, as lax takes it too
    np.testing.assert_array_equal(jconv.lax.reduce_window(x, *args), lax.reduce_window(x, *args))
    for start, op in ((-jnp.inf, lax.max), (jnp.inf, lax.min), (0.0, lax.add), (1.0, lax.mul)):
        args = (start, op, (1, 3, 2, 1), (1, 2, 2, 1), "SAME")
        run = lambda x, args=args: jconv.lax.reduce_window(x, *args, window_dilation=(1, 2, 1, 1))
        want = lax.reduce_window(x, *args, window_dilation=(1, 2, 1, 1))
        np.testing.assert_allclose(run(x), want, atol=1e-6)
        assert bool(primitives(run, x) & LAX) is (op is lax.mul)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("seed", [1, 6])
def test_other_platforms(platform, seed):
    """What they are given computes the same, run here."""
    shape, options = geometry(seed)
    x = jnp.asarray(np.random.default_rng(seed).integers(-3, 4, shape), jnp.float32)
    dim, axis = max(axes_of(shape, options).items(), key=lambda item: item[1].k)

    def each(platform):
        options = {"dim": dim, "axis": axis}
        roles = ("best", "max"), ("best", "min"), ("sum", "add")
        return [_run(platform, x, role=role, monoid=monoid, **options) for role, monoid in roles]

    jax.tree.map(np.testing.assert_array_equal, jax.jit(each, static_argnums=0)(platform), each("cpu"))


def test_lowering_for_other_platforms():
    pool = jax.grad(lambda x: jconv.max_pool(x, (3, 3), strides=2, padding=1).sum())
    made = jax.export.export(jax.jit(pool), platforms=("cpu", "cuda", "tpu"))(
        jax.ShapeDtypeStruct((2, 9, 9, 3), "float32")
    )
    assert "select_and_scatter" not in made.mlir_module()
    x = jnp.asarray(draw((2, 9, 9, 3)))
    np.testing.assert_array_equal(made.call(x), pool(x))
