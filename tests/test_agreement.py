"""Agreement with lax over all of its arguments that `conv` covers, and with PyTorch where it is installed."""

import functools
import itertools
import random

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

import jconv
from tests.cases import GENERAL, PLANS, draw

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")


def lax_arguments(seed):
    """A random call of lax.conv_general_dilated on channels-last arrays, and the same of jconv.conv."""
    rng = random.Random(1000 + seed)
    while True:
        rank, groups = rng.choice((0, 1, 1, 2, 2, 2, 3)), rng.choice((1, 1, 2, 4))
        x_shape = (rng.randint(1, 3), *(rng.randint(1, 9) for _ in range(rank)), groups * rng.randint(1, 3))
        k_shape = (*(rng.randint(1, 4) for _ in range(rank)), x_shape[-1] // groups, groups * rng.randint(1, 3))
        several = lambda high: tuple(rng.randint(1, high) for _ in range(rank))
        input_dilation = several(rng.choice((1, 3)))
        pairs = tuple((rng.randint(-2, 4), rng.randint(-2, 4)) for _ in range(rank))
        named = rng.choice(("SAME", "VALID", "SAME_LOWER")) if rank and set(input_dilation) == {1} else pairs
        padding, strides, dilation = rng.choice((pairs, named)), several(3), several(3)
        dtype = rng.choice(("float32", "float32", "bfloat16", "float16", "complex64", "int32", "int8"))
        preferred = {"bfloat16": rng.choice((None, "float32")), "int8": "int32"}.get(dtype)
        options = {"feature_group_count": groups, "preferred_element_type": preferred}
        options["precision"] = rng.choice((None, "highest", lax.Precision.HIGH, (lax.Precision.DEFAULT,) * 2))
        try:
            jconv.ConvSpec(x_shape, k_shape, strides, padding, input_dilation, dilation, groups)
        except ValueError:
            continue
        r = rank
        image = (0, r + 1, *range(1, r + 1))
        numbers = lax.ConvDimensionNumbers(image, (r + 1, r, *range(r)), image)
        reference = functools.partial(
            lax.conv_general_dilated,
            window_strides=strides,
            padding=padding,
            lhs_dilation=input_dilation,
            rhs_dilation=dilation,
            dimension_numbers=numbers,
            **options,
        )
        own = functools.partial(
            jconv.conv,
            strides=strides,
            padding=padding,
            input_dilation=input_dilation,
            kernel_dilation=dilation,
            **options,
        )
        return x_shape, k_shape, dtype, reference, own


def compiled(fn, *operands):
    """fn(*operands) as one program: to compile each of several takes far longer than to run them."""
    return jax.tree.map(np.asarray, jax.jit(fn)(*operands))


def with_gradients(fns, g, *operands):
    """Of each of the named functions, its result and its gradients for the cotangent g."""

    def run(g, *operands):
        results = {}
        for name, fn in fns.items():
            y, vjp = jax.vjp(fn, *operands)
            results[name] = y, vjp(g)
        return results

    return compiled(run, g, *operands)


def wide(a):
    return np.asarray(a).astype(np.complex128)


# Image, kernel, pads and options with an axis of no elements: positions, channels, a batch, in every rank.
EMPTY = [
    ((1, 0, 1), (3, 1, 1), ((2, 2),), {}),
    ((1, 0, 1), (3, 1, 1), "SAME", {}),
    ((1, 0, 1), (3, 1, 1), ((2, 2),), {"lhs_dilation": (2,)}),
    ((1, 5, 0), (3, 0, 2), "SAME", {}),
    ((1, 5, 2), (3, 2, 0), "VALID", {}),
    ((0, 5, 2), (3, 2, 2), "SAME", {}),
    ((2, 0, 4, 2), (3, 3, 1, 4), ((2, 2), (1, 1)), {"feature_group_count": 2, "window_strides": (2, 2)}),
    ((2, 0, 0, 2), (3, 3, 2, 4), ((2, 3), (1, 4)), {"rhs_dilation": (2, 1)}),
    ((1, 0, 3, 2, 1), (3, 1, 1, 1, 2), ((2, 2), (0, 0), (1, 1)), {}),
    ((2, 0), (0, 3), (), {}),
    ((2, 3), (3, 0), (), {}),
]


@pytest.mark.parametrize(("x_shape", "k_shape", "padding", "options"), EMPTY, ids=str)
def test_lax_with_empty_axes(x_shape, k_shape, padding, options):
    """Values, gradients, second derivatives and batches, by "auto" as numbers and by every plan as shapes."""
    rank = len(k_shape) - 2
    image = (0, rank + 1, *range(1, rank + 1))
    numbers = lax.ConvDimensionNumbers(image, (rank + 1, rank, *range(rank)), image)
    plain = {"window_strides": (1,) * rank}
    reference = functools.partial(
        lax.conv_general_dilated, padding=padding, dimension_numbers=numbers, **plain | options
    )
    called = {"window_strides": "strides", "lhs_dilation": "input_dilation", "rhs_dilation": "kernel_dilation"}
    own = functools.partial(jconv.conv, padding=padding or "SAME", **{called.get(n, n): v for n, v in options.items()})
    x, k = (np.ones(shape, "float32") for shape in (x_shape, k_shape))

    def everything(fn, x, k, once=lambda fn: fn):
        loss = lambda x, k: jnp.sum(fn(x, k) ** 2)
        gradient = once(jax.grad(loss, (0, 1)))
        two = lambda a: jnp.stack([a, a])
        return (
            fn(x, k), gradient(x, k), jax.jvp(gradient, (x, k), (x, k)), jax.vmap(gradient)(two(x), two(k)),
            jax.vmap(fn, (0, None))(two(x), k), jax.vmap(fn, (None, 0))(x, two(k)),
            jax.vmap(fn)(two(x)[:0], two(k)[:0]), jax.vmap(fn, (None, 0))(x, two(k)[:0]),
        )  # fmt: skip

    by_plan = {plan: functools.partial(own, algorithm=plan) for plan in ("tuned", "direct", *PLANS)}
    want, got, values = compiled(
        lambda x, k: (everything(reference, x, k), everything(own, x, k), {p: f(x, k) for p, f in by_plan.items()}),
        x, k,
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, got, want)
    # whose functions are traced once each, not in each of the eight results
    shapes = jax.eval_shape(lambda x, k: {p: everything(jax.jit(f), x, k, jax.jit) for p, f in by_plan.items()}, x, k)
    for plan, value in values.items():
        np.testing.assert_array_equal(value, want[0], err_msg=plan)
        assert jax.tree.map(lambda a: a.shape, shapes[plan]) == jax.tree.map(lambda a: a.shape, want), plan
    np.testing.assert_array_equal(by_plan["tuned"](x, k), want[0])  # which an eager call looks up anew


def test_transposed_local_and_pools_with_empty_axes():
    """Whose results are those of their definition: sums of nothing are zero, of no positions there are none."""
    ones = functools.partial(np.ones, dtype="float32")
    calls = {}  # functions of their operands, whose results are compiled together

    def pulled(fn, *operands):
        y, pull = jax.vjp(fn, *operands)
        return y, pull(jnp.ones_like(y))

    x, k, bias = ones((1, 0, 2)), ones((4, 3, 2)), np.arange(3, dtype="float32")
    transposed = [({"strides": 2}, 0), ({"strides": 2, "padding": "VALID"}, 2), ({"padding": 1}, 1),
                  ({"strides": 3, "padding": 0, "output_padding": 2}, 3)]  # fmt: skip
    for i, (options, _) in enumerate(transposed):
        own = functools.partial(jconv.conv_transpose, **options)
        calls["transposed", i] = functools.partial(pulled, own), (x, k, bias)
    calls["cropped"] = functools.partial(jconv.conv_transpose, padding=2), (ones((1, 1, 2)), k)
    for channels, features in ((0, 3), (2, 0)):
        image = ones((1, 5, channels))
        calls["transposed of", 10, features] = (
            functools.partial(jconv.conv_transpose, strides=2), (image, ones((4, features, channels))))  # fmt: skip
        calls["local of", 5, features] = jconv.conv_local, (image, ones((5, 3, channels, features)))
    local = functools.partial(jconv.conv_local, padding=2)
    calls["local"] = functools.partial(pulled, local), (x, ones((2, 3, 2, 4)))
    calls["nowhere"] = jconv.conv_local, (x, ones((0, 3, 2, 4)))
    for rank in (1, 3):
        empty = ones((2, 0, *(3,) * (rank - 1), 1))
        for i, pool in enumerate((jconv.max_pool, jconv.avg_pool,
                                  functools.partial(jconv.avg_pool, count_include_pad=False))):  # fmt: skip
            call = functools.partial(pool, window_shape=(2,) * rank)
            calls["pool", rank, i] = functools.partial(pulled, call), (empty,)

    names = list(calls)
    run = lambda operands: [calls[name][0](*given) for name, given in zip(names, operands, strict=True)]
    results = dict(zip(names, compiled(run, [given for _, given in calls.values()]), strict=True))
    for i, (_, length) in enumerate(transposed):
        y, (x_bar, k_bar, b_bar) = results["transposed", i]
        np.testing.assert_array_equal(y, np.broadcast_to(bias, (1, length, 3)))
        assert (x_bar.shape, k_bar.shape, np.abs(k_bar).sum()) == ((1, 0, 2), k.shape, 0)
        np.testing.assert_array_equal(b_bar, [length] * 3)
    assert results["cropped"].shape == (1, 0, 3)
    for name in names:
        if " of" in name[0]:
            assert (results[name].shape, results[name].sum()) == ((1, *name[1:]), 0)
    y, bars = results["local"]
    assert (y.shape, y.sum()) == ((1, 2, 4), 0)
    assert [v.shape for v in bars] == [(1, 0, 2), (2, 3, 2, 4)]
    assert results["nowhere"].shape == (1, 0, 4)
    for rank, i in itertools.product((1, 3), range(3)):
        y, (v_bar,) = results["pool", rank, i]
        assert (y.shape, v_bar.shape) == ((2, 0, *(1,) * (rank - 1), 1), (2, 0, *(3,) * (rank - 1), 1))


@pytest.mark.parametrize("seed", range(60))  # `tests/fuzz.py` tries more
def test_lax(seed):
    x_shape, k_shape, dtype, reference, own = lax_arguments(seed)
    x, k = (draw(shape, np.dtype(jnp.dtype(dtype)), i) for i, shape in enumerate((x_shape, k_shape)))
    algorithm = [*GENERAL, "auto"][seed % 3]
    own = functools.partial(own, algorithm=algorithm)
    # lax itself is wrong on CPU in jaxlib 0.10 where one axis is cropped and padded, so it gets its x padded before
    spec = jconv.ConvSpec(x_shape, k_shape, *(own.keywords[n] for n in ("strides", "padding", "input_dilation",
                          "kernel_dilation", "feature_group_count")))  # fmt: skip
    config = [(0, 0, 0), *((*p, q - 1) for p, q in zip(spec.padding, spec.input_dilation, strict=True)), (0, 0, 0)]
    if any(low * high < 0 for low, high in spec.padding):
        plain = {"padding": ((0, 0),) * spec.rank, "lhs_dilation": (1,) * spec.rank}
        expect = lambda x, k: reference(lax.pad(x, jnp.zeros((), x.dtype), config), k, **plain)
    else:
        expect = reference
    differentiable = dtype in ("float32", "complex64")
    if differentiable:
        g = draw(spec.output_shape, np.dtype(dtype), 2)
        results = with_gradients({"lax": expect, "own": own}, g, x, k)
        (want, want_bars), (got, got_bars) = results["lax"], results["own"]
        for a, b in zip(got_bars, want_bars, strict=True):
            np.testing.assert_allclose(a, b, rtol=5e-5, atol=5e-5 * max(1.0, float(np.max(np.abs(b)))))
    else:
        want, got = compiled(lambda x, k: (expect(x, k), own(x, k)), x, k)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    digits = {"bfloat16": 2e-2, "float16": 2e-2, "int32": 0, "int8": 0}.get(dtype, 2e-5)
    scale = max(1.0, np.max(np.abs(wide(want))))
    np.testing.assert_allclose(wide(got), wide(want), rtol=digits, atol=digits * scale)


def test_lax_int8_default_is_wider():
    """The one documented difference: lax keeps int8 and wraps around, jconv sums and returns int32."""
    x, k = jnp.full((1, 4, 1), 100, jnp.int8), jnp.full((2, 1, 1), 100, jnp.int8)
    assert jconv.conv(x, k, padding="VALID")[0, 0, 0] == 20000


def to_torch(x):
    """[batch, *spatial, channels] to torch's [batch, channels, *spatial]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def from_torch(y):
    return np.moveaxis(y.detach().numpy(), 1, -1)


def assert_every_algorithm_agrees(own, g, operands, ty, there):
    """The result and the gradients of x, kernel and bias, with those that PyTorch has by now."""
    tx, tk, tb = there
    rank = tk.ndim - 2
    results = with_gradients({name: functools.partial(own, algorithm=name) for name in GENERAL}, g, *operands)
    for name, (y, (x_bar, k_bar, b_bar)) in results.items():
        np.testing.assert_allclose(y, from_torch(ty), rtol=2e-5, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(x_bar, from_torch(tx.grad), rtol=1e-4, atol=1e-4, err_msg=name)
        moved = k_bar.transpose(rank + 1, rank, *range(rank))
        np.testing.assert_allclose(moved, tk.grad, rtol=1e-4, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(b_bar, tb.grad, rtol=1e-4, atol=1e-4, err_msg=name)


@needs_torch
@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_torch_conv(rank, seed):
    rng = random.Random(f"{rank} {seed}")
    groups = rng.choice((1, 2, 4))
    x = draw((2, *(rng.randint(5, 8) for _ in range(rank)), 4), seed=seed)
    k = draw((*(rng.randint(1, 3) for _ in range(rank)), 4 // groups, 8), seed=seed + 1)
    b = draw((8,), seed=seed + 2)
    several = lambda low, high: tuple(rng.randint(low, high) for _ in range(rank))
    strides, padding, dilation = several(1, 3), several(0, 2), several(1, 2)
    tx, tb = to_torch(x).requires_grad_(), torch.from_numpy(b).requires_grad_()
    tk = torch.from_numpy(k.transpose(rank + 1, rank, *range(rank)).copy()).requires_grad_()
    ty = getattr(torch.nn.functional, f"conv{rank}d")(tx, tk, tb, strides, padding, dilation, groups)
    own = functools.partial(
        jconv.conv, strides=strides, padding=padding, kernel_dilation=dilation, feature_group_count=groups
    )
    g = draw(from_torch(ty).shape, seed=seed + 3)
    ty.backward(to_torch(g))
    assert_every_algorithm_agrees(own, g, (x, k, b), ty, (tx, tk, tb))


@needs_torch
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_torch_padding_modes(rank):
    x, k = draw((2, *(6, 5, 4)[:rank], 3)), draw((*(3,) * rank, 3, 4), seed=1)
    modes = ("reflect", "replicate", "circular")
    results = compiled(lambda x, k: {mode: jconv.conv(x, k, padding=1, padding_mode=mode) for mode in modes}, x, k)
    for mode, got in results.items():
        layer = getattr(torch.nn, f"Conv{rank}d")(3, 4, 3, padding=1, padding_mode=mode, bias=False)
        layer.weight.data = torch.from_numpy(k.transpose(rank + 1, rank, *range(rank)).copy())
        np.testing.assert_allclose(got, from_torch(layer(to_torch(x))), rtol=2e-5, atol=2e-5, err_msg=mode)


@needs_torch
@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_torch_conv_transpose(rank, seed):
    rng = random.Random(f"t {rank} {seed}")
    groups = rng.choice((1, 2))
    several = lambda low, high: tuple(rng.randint(low, high) for _ in range(rank))
    strides, dilation, window = several(1, 3), several(1, 2), several(1, 4)
    padding = tuple(rng.randint(0, (k - 1) * d // 2) for k, d in zip(window, dilation, strict=True))
    extra = tuple(rng.randint(0, s - 1) for s in strides)
    x = draw((2, *(rng.randint(3, 5) for _ in range(rank)), 4), seed=seed)
    k = draw((*window, 6 // groups, 4), seed=seed + 1)
    b = draw((6,), seed=seed + 2)
    # torch's (in, out / groups, *window) is our last two axes exchanged and moved to the front; unlike conv, no flip
    tk = torch.from_numpy(k.transpose(rank + 1, rank, *range(rank)).copy()).requires_grad_()
    tx, tb = to_torch(x).requires_grad_(), torch.from_numpy(b).requires_grad_()
    options = {"stride": strides, "padding": padding, "output_padding": extra, "groups": groups, "dilation": dilation}
    ty = getattr(torch.nn.functional, f"conv_transpose{rank}d")(tx, tk, tb, **options)
    own = functools.partial(
        jconv.conv_transpose, strides=strides, padding=padding, output_padding=extra, kernel_dilation=dilation,
        feature_group_count=groups,
    )  # fmt: skip
    g = draw(from_torch(ty).shape, seed=3)
    ty.backward(to_torch(g))
    assert_every_algorithm_agrees(own, g, (x, k, b), ty, (tx, tk, tb))


@needs_torch
@pytest.mark.parametrize(("stride", "dilation"), [(1, 3), (2, 3), (3, 2), (2, 5)])
def test_torch_output_padding_beyond_the_stride(stride, dilation):
    """PyTorch takes less than the stride or the dilation, whichever is larger."""
    x, k = draw((2, 4, 5, 2)), draw((3, 1, 3, 2), seed=1)
    tk = torch.from_numpy(k.transpose(3, 2, 0, 1).copy())
    most = max(stride, dilation) - 1
    fixed = {"strides": stride, "kernel_dilation": dilation}
    every = list(itertools.product((0, 1), range(most + 1)))
    results = compiled(
        lambda x, k: [jconv.conv_transpose(x, k, padding=p, output_padding=extra, **fixed) for p, extra in every], x, k
    )
    for (padding, extra), got in zip(every, results, strict=True):
        want = torch.nn.functional.conv_transpose2d(
            to_torch(x), tk, None, stride, padding, extra, 1, dilation)  # fmt: skip
        np.testing.assert_allclose(got, from_torch(want), rtol=2e-5, atol=2e-5, err_msg=f"{padding} {extra}")
    with pytest.raises(ValueError, match=rf"output_padding: got {most + 1} .*\(output_padding 0 to {most}\)"):
        jconv.conv_transpose(x, k, padding=0, output_padding=most + 1, **fixed)


@needs_torch
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("window", [2, 3])
def test_torch_pools(window, ceil_mode):
    functional = torch.nn.functional
    images = {size: draw((2, size, 3)) - 5 for size in (1, 5, 6)}  # what is added must never win
    wanted = {}
    for size, stride, pad in itertools.product(images, (2, 3), (0, 1)):
        tx = to_torch(images[size])
        try:
            wanted[size, stride, pad, "max"] = functional.max_pool1d(tx, window, stride, pad, ceil_mode=ceil_mode)
        except RuntimeError:
            with pytest.raises(ValueError, match=f"window_shape: got {window} along spatial axis 0"):
                jconv.max_pool(images[size], (window,), strides=stride, padding=pad, ceil_mode=ceil_mode)
            continue
        for count in (False, True):
            wanted[size, stride, pad, count] = functional.avg_pool1d(tx, window, stride, pad, ceil_mode, count)

    def pool(images, size, stride, pad, kind):
        options = {"strides": stride, "padding": pad, "ceil_mode": ceil_mode}
        if kind == "max":
            return jconv.max_pool(images[size], (window,), **options)
        return jconv.avg_pool(images[size], (window,), **options, count_include_pad=kind)

    results = compiled(lambda images: [pool(images, *call) for call in wanted], images)
    for (call, want), got in zip(wanted.items(), results, strict=True):
        if call[-1] == "max":
            np.testing.assert_array_equal(got, from_torch(want), err_msg=str(call))
        else:
            np.testing.assert_allclose(got, from_torch(want), rtol=1e-5, atol=1e-6, err_msg=str(call))


@needs_torch
def test_torch_pools_of_images_and_their_layers():
    x = draw((2, 7, 6, 3))
    options = {"strides": (3, 2), "padding": (1, 0), "ceil_mode": True}
    tx = to_torch(x)
    want = torch.nn.functional.max_pool2d(tx, (3, 3), (3, 2), (1, 0), ceil_mode=True)
    layer = jconv.layers.MaxPool(3, **options)
    assert layer.output_shape((2, 7, 6, 3)) == from_torch(want).shape
    np.testing.assert_array_equal(layer.apply({}, {}, x)[0], from_torch(want))
    for count in (False, True):
        want = torch.nn.functional.avg_pool2d(tx, (3, 3), (3, 2), (1, 0), True, count)
        layer = jconv.layers.AvgPool(3, **options, count_include_pad=count)
        np.testing.assert_allclose(layer.apply({}, {}, x)[0], from_torch(want), rtol=1e-5, atol=1e-6)
    assert "MaxPool" in str(jconv.summary(jconv.layers.Sequential(jconv.layers.MaxPool(3, **options)), (1, 7, 6, 3)))


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("rank", "window"), [*itertools.product((1, 2), (1, 2, 3, 4)), (3, 3)])
def test_lax_conv_transpose(rank, window, stride, dilation):
    """Names and pairs, both settings of transpose_kernel, windows narrower than the stride; docs/porting.md."""
    x, k = draw((2, *(5, 6, 4)[:rank], 3)), draw((*(window,) * rank, 4, 3), seed=1)
    image = (0, rank + 1, *range(1, rank + 1))
    numbers = lax.ConvDimensionNumbers(image, (rank + 1, rank, *range(rank)), image)
    extent = (window - 1) * dilation + 1
    plain = np.flip(k, tuple(range(rank))).swapaxes(-1, -2)
    paddings = ("SAME", "VALID", (extent - 1, extent - 1), (extent // 2, extent))
    steps, dilations = (stride,) * rank, (dilation,) * rank

    def run(x, k, plain):
        own, transposed, flipped = [], [], []
        for padding in paddings:
            pairs = (
                padding if isinstance(padding, str) else ((extent - 1 - padding[0], extent - 1 - padding[1]),) * rank
            )
            theirs = padding if isinstance(padding, str) else (padding,) * rank
            own.append(jconv.conv_transpose(x, k, strides=stride, padding=pairs, kernel_dilation=dilation))
            reference = functools.partial(lax.conv_transpose, x, strides=steps, padding=theirs, rhs_dilation=dilations,
                                          dimension_numbers=numbers)  # fmt: skip
            transposed.append(reference(k, transpose_kernel=True))
            flipped.append(reference(plain, transpose_kernel=False))
        return own, transposed, flipped

    for padding, got, *wanted in zip(paddings, *compiled(run, x, k, plain), strict=True):
        for want in wanted:
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=str(padding))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_keras_conv_transpose(window, stride, rank):
    """same, valid and every output_padding that Keras accepts; docs/porting.md."""
    keras = pytest.importorskip("keras")
    x, k = draw((2, *(5, 6, 4)[:rank], 3)), draw((*(window,) * rank, 4, 3), seed=1)
    pairs = []  # of Keras' arguments and ours
    for padding, extra in itertools.product(("same", "valid"), (None, *range(stride))):
        own = None if extra is None else extra - (padding == "same" and window % 2 == 0)
        if own == -1:
            continue  # fewer elements than any image whose convolution has that output
        theirs = {"strides": stride, "padding": padding, "output_padding": extra}
        pairs.append((theirs, {"strides": stride, "padding": padding.upper(), "output_padding": own}))
    if stride == 1 and window > 1:
        pairs.append(({"dilation_rate": 2}, {"padding": "VALID", "kernel_dilation": 2}))
    layers = []
    for theirs, _ in pairs:
        make = getattr(keras.layers, f"Conv{rank}DTranspose")
        layer = make(4, window, **theirs, use_bias=False, kernel_initializer="zeros")
        layer.build(x.shape)
        layers.append(layer)

    def run(x, k):
        wanted = [layer.stateless_call([k], [], x)[0] for layer in layers]
        return [jconv.conv_transpose(x, k, **own) for _, own in pairs], wanted

    for (theirs, _), got, want in zip(pairs, *compiled(run, x, k), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=str(theirs))


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_flax_conv_transpose(window, stride, padding):
    nn = pytest.importorskip("flax.linen")
    x, k = draw((2, 6, 7, 3)), draw((window, window, 4, 3), seed=1)
    options = {"padding": "SAME", "padding_mode": "circular"} if padding == "CIRCULAR" else {"padding": padding}
    plain = np.flip(k, (0, 1)).swapaxes(2, 3)
    make = functools.partial(nn.ConvTranspose, 4, (window, window), (stride, stride), padding, use_bias=False)

    def run(x, k, plain):
        got = jconv.conv_transpose(x, k, strides=stride, **options)
        kernels = {True: k, False: plain}
        return got, {t: make(transpose_kernel=t).apply({"params": {"kernel": v}}, x) for t, v in kernels.items()}

    got, wanted = compiled(run, x, k, plain)
    for transposed, want in wanted.items():
        moved = max(window - stride, 0) % 2 if padding == "CIRCULAR" and transposed else 0
        np.testing.assert_allclose(got, np.roll(want, (moved, moved), (1, 2)), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID", "CAUSAL", 1, ((2, 0),)], ids=str)
def test_every_output_shape_that_the_stride_leaves_open(padding, stride):
    x, k = draw((2, 5, 3)), draw((4, 2, 3), seed=1)
    fitting = [n for n in range(1, 30) if _outputs(n, padding, stride) == 5]
    assert len(fitting) == stride
    forward = lambda v, k: jconv.conv(v, k, strides=stride, padding=padding)

    def run(x, k):
        results = {}
        for n in fitting:
            y = jconv.conv_transpose(x, k, strides=stride, padding=padding, output_shape=(n,))
            image = jax.ShapeDtypeStruct((2, n, 2), x.dtype)
            results[n] = y, jax.linear_transpose(lambda v: forward(v, k), image)(x)[0]
        return results

    for n, (y, want) in compiled(run, x, k).items():
        assert y.shape == (2, n, 2)
        np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)
    for n in (fitting[0] - 1, fitting[-1] + 1):
        with pytest.raises(ValueError, match=rf"output_shape: got {n} along spatial axis 0"):
            jconv.conv_transpose(x, k, strides=stride, padding=padding, output_shape=(n,))


def _outputs(n, padding, stride):
    try:
        return jconv.ConvSpec((n, 2), (4, 2, 3), strides=stride, padding=padding).output_spatial[0]
    except ValueError:
        return 0


@pytest.mark.parametrize("options", [
    {"strides": 3, "padding": "SAME", "output_shape": (13,)},
    {"strides": 3, "padding": "SAME", "output_shape": (15,)},
    {"strides": 3, "padding": "SAME_LOWER", "output_padding": 1},
    {"strides": 2, "padding": "VALID", "output_padding": 1},
    {"strides": 2, "padding": "CAUSAL"},
    {"strides": 2, "padding": "FULL", "output_padding": 1},
    {"strides": 2, "padding": ((1, 2),), "kernel_dilation": 2},
    {"strides": 2, "padding": ((-1, 2),)},
    {"strides": 1, "padding": "SAME", "feature_group_count": 2},
    {"strides": 2, "padding": "SAME", "padding_mode": "circular"},
    {"strides": 3, "padding": 2, "padding_mode": "reflect", "output_padding": 1},
], ids=str)  # fmt: skip
def test_conv_transpose_is_the_adjoint_of_conv(options):
    groups = options.get("feature_group_count", 1)
    x, k = draw((2, 5, 4), "int32") % 9, draw((4, 6 // groups, 4), "int32", 1) % 9
    own = {n: o for n, o in options.items() if not n.startswith("output")}

    def run(x, k):
        y = jconv.conv_transpose(x, k, **options)
        v = draw(y.shape, "int32", 2) % 9
        return y, v, jconv.conv(v, k, **own)

    y, v, forward = compiled(run, x, k)
    assert forward.shape == x.shape
    assert np.sum(forward * x) == np.sum(v * y) != 0


@pytest.mark.parametrize("options", [
    {},
    {"strides": 2, "padding": "VALID", "kernel_dilation": 2},
    {"padding": ((1, 0), (2, 1)), "feature_group_count": 2, "input_dilation": 2},
], ids=str)  # fmt: skip
def test_conv_local_with_equal_kernels_is_conv(options):
    groups = options.get("feature_group_count", 1)
    x, k = draw((2, 7, 6, 4)), draw((2, 3, 4 // groups, 6), seed=1)
    spec = jconv.ConvSpec(x.shape, k.shape, **options)
    everywhere = np.broadcast_to(k, (*spec.output_spatial, *k.shape))
    g = draw(spec.output_shape, seed=2)

    def run(g, x, *kernels):
        (y, pull), (local, pull_local) = (
            jax.vjp(functools.partial(fn, **options), x, kernel)
            for fn, kernel in zip((jconv.conv, jconv.conv_local), kernels, strict=True)
        )
        return y, pull(g), local, pull_local(g)

    y, (x_bar, k_bar), local, (x_local, k_local) = compiled(run, g, x, k, everywhere)
    np.testing.assert_allclose(local, y, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(x_local, x_bar, rtol=2e-5, atol=2e-5)
    # the gradient of a shared weight is the sum of those of the unshared ones
    np.testing.assert_allclose(np.sum(k_local, (0, 1)), k_bar, rtol=5e-5, atol=5e-5)


def test_conv_local_is_lax_conv_general_dilated_local():
    x, k, b = draw((2, 6, 5, 3)), draw((4, 3, 3, 3, 3, 2), seed=1), draw((4, 3, 2), seed=2)
    # lax orders its patches channels first: [in, *window]
    flat = np.moveaxis(k, 4, 2).reshape(4, 3, 27, 2)

    def run(x, k, flat, b):
        names = ("NHWC", "HWIO", "NHWC")
        want = lax.conv_general_dilated_local(x, flat, (1, 1), "VALID", (3, 3), dimension_numbers=names)
        return jconv.conv_local(x, k, b, padding="VALID"), want

    got, want = compiled(run, x, k, flat, b)
    np.testing.assert_allclose(got, want + b[None], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("padding", ["VALID", "SAME", ((1, 0), (0, 1))])
@pytest.mark.parametrize("strides", [None, 1, 2])
def test_pools_by_their_definition(strides, padding):
    x, window = draw((2, 6, 7, 3)).astype(np.float64), (2, 3)
    steps = window if strides is None else (strides, strides)
    sizes = jconv.ConvSpec((6, 7, 1), (*window, 1, 1), strides=steps, padding=padding)
    wanted = {kind: np.empty((2, *sizes.output_spatial, 3)) for kind in ("max", "avg", "avg-without-pad")}
    for i, j in np.ndindex(*sizes.output_spatial):
        starts = [o * s - lo for o, s, (lo, _) in zip((i, j), steps, sizes.padding, strict=True)]
        rows, columns = (
            slice(max(start, 0), min(start + k, n)) for start, k, n in zip(starts, window, (6, 7), strict=True)
        )
        part = x[:, rows, columns].reshape(2, -1, 3)
        for kind, value in {"max": part.max(1), "avg": part.sum(1) / 6, "avg-without-pad": part.mean(1)}.items():
            wanted[kind][:, i, j] = value
    options = {"strides": strides, "padding": padding}

    def run(x):
        average = functools.partial(jconv.avg_pool, x, window, **options)
        return {"max": jconv.max_pool(x, window, **options), "avg": average(count_include_pad=True),
                "avg-without-pad": average(count_include_pad=False)}  # fmt: skip

    for kind, got in compiled(run, x.astype(np.float32)).items():
        np.testing.assert_allclose(got, wanted[kind], rtol=1e-6, atol=1e-6, err_msg=kind)


def test_pools_of_other_dtypes_and_batches():
    x = draw((2, 3, 6, 4), "int8")
    assert (jconv.max_pool(x, (2,)) == np.max(x.reshape(2, 3, 3, 2, 4), 3)).all()
    z = draw((4, 6, 2), "complex64")
    np.testing.assert_allclose(jconv.avg_pool(z, (3,)), z.reshape(4, 2, 3, 2).mean(2), rtol=1e-5)
    np.testing.assert_allclose(jconv.global_avg_pool(x.astype("float32")), x.mean((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(jconv.global_max_pool(x, rank=1), x.max(2))
    b = jnp.full((1, 4096, 1), 1 + 2.0**-7, jnp.bfloat16)
    assert jconv.global_avg_pool(b)[0, 0] == jconv.avg_pool(b, (4096,))[0, 0, 0] == b[0, 0, 0]
