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


def with_gradients(fn, g, *operands):
    """fn(*operands) and its gradients for the cotangent g, compiled as one program."""

    def run(g, *operands):
        y, vjp = jax.vjp(fn, *operands)
        return y, vjp(g)

    return jax.jit(run)(g, *operands)


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
    x, k = jnp.ones(x_shape), jnp.ones(k_shape)

    def everything(fn):
        loss = lambda x, k: jnp.sum(fn(x, k) ** 2)
        gradient = jax.grad(loss, (0, 1))
        two = lambda a: jnp.stack([a, a])
        return (
            fn(x, k), gradient(x, k), jax.jvp(gradient, (x, k), (x, k)), jax.vmap(gradient)(two(x), two(k)),
            jax.vmap(fn, (0, None))(two(x), k), jax.vmap(fn, (None, 0))(x, two(k)),
            jax.vmap(fn)(two(x)[:0], two(k)[:0]), jax.vmap(fn, (None, 0))(x, two(k)[:0]),
        )  # fmt: skip

    want = jax.jit(lambda: everything(reference))()
    jax.tree.map(np.testing.assert_array_equal, jax.jit(lambda: everything(own))(), want)
    for plan in ("tuned", "direct", *PLANS):
        got = jax.eval_shape(lambda plan=plan: everything(functools.partial(own, algorithm=plan)))
        assert jax.tree.map(lambda a: a.shape, got) == jax.tree.map(lambda a: a.shape, want)
        np.testing.assert_array_equal(own(x, k, algorithm=plan), want[0])


def test_transposed_local_and_pools_with_empty_axes():
    """Whose results are those of their definition: sums of nothing are zero, of no positions there are none."""
    x, k, bias = jnp.ones((1, 0, 2)), jnp.ones((4, 3, 2)), jnp.arange(3.0)
    for options, length in (({"strides": 2}, 0), ({"strides": 2, "padding": "VALID"}, 2), ({"padding": 1}, 1),
                            ({"strides": 3, "padding": 0, "output_padding": 2}, 3)):  # fmt: skip
        y, pull = jax.vjp(lambda x, k, b, options=options: jconv.conv_transpose(x, k, b, **options), x, k, bias)
        np.testing.assert_array_equal(y, np.broadcast_to(bias, (1, length, 3)))
        x_bar, k_bar, b_bar = pull(jnp.ones_like(y))
        assert (x_bar.shape, float(jnp.sum(jnp.abs(k_bar)))) == ((1, 0, 2), 0)
        np.testing.assert_array_equal(b_bar, [length] * 3)
    assert jconv.conv_transpose(jnp.ones((1, 1, 2)), k, padding=2).shape == (1, 0, 3)
    for channels, features in ((0, 3), (2, 0)):
        y = jconv.conv_transpose(jnp.ones((1, 5, channels)), jnp.ones((4, features, channels)), strides=2)
        assert (y.shape, float(jnp.sum(y))) == ((1, 10, features), 0)
        y = jconv.conv_local(jnp.ones((1, 5, channels)), jnp.ones((5, 3, channels, features)))
        assert (y.shape, float(jnp.sum(y))) == ((1, 5, features), 0)
    y, pull = jax.vjp(lambda x, k: jconv.conv_local(x, k, padding=2), x, jnp.ones((2, 3, 2, 4)))
    assert (y.shape, float(jnp.sum(y))) == ((1, 2, 4), 0)
    assert [v.shape for v in pull(y)] == [(1, 0, 2), (2, 3, 2, 4)]
    assert jconv.conv_local(x, jnp.ones((0, 3, 2, 4))).shape == (1, 0, 4)
    for rank in (1, 3):
        empty = jnp.ones((2, 0, *(3,) * (rank - 1), 1))
        for pool in (jconv.max_pool, jconv.avg_pool, functools.partial(jconv.avg_pool, count_include_pad=False)):
            y, pull = jax.vjp(lambda v, pool=pool, rank=rank: pool(v, (2,) * rank), empty)
            assert (y.shape, pull(y)[0].shape) == ((2, 0, *(1,) * (rank - 1), 1), empty.shape)


@pytest.mark.parametrize("seed", range(60))  # `tests/fuzz.py` tries more
def test_lax(seed):
    x_shape, k_shape, dtype, reference, own = lax_arguments(seed)
    x, k = (jnp.asarray(draw(shape, np.dtype(jnp.dtype(dtype)), i)) for i, shape in enumerate((x_shape, k_shape)))
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
        g = jnp.asarray(draw(spec.output_shape, np.dtype(dtype), 2))
        (want, want_bars), (got, got_bars) = with_gradients(expect, g, x, k), with_gradients(own, g, x, k)
        for a, b in zip(got_bars, want_bars, strict=True):
            np.testing.assert_allclose(a, b, rtol=5e-5, atol=5e-5 * max(1.0, float(np.max(np.abs(b)))))
    else:
        want, got = jax.jit(expect)(x, k), jax.jit(own)(x, k)
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


@needs_torch
@pytest.mark.parametrize("algorithm", GENERAL)
@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_torch_conv(rank, seed, algorithm):
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
        jconv.conv, strides=strides, padding=padding, kernel_dilation=dilation, feature_group_count=groups,
        algorithm=algorithm,
    )  # fmt: skip
    g = draw(from_torch(ty).shape, seed=seed + 3)
    ty.backward(to_torch(g))
    y, (x_bar, k_bar, b_bar) = with_gradients(own, g, x, k, b)
    np.testing.assert_allclose(y, from_torch(ty), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(x_bar, from_torch(tx.grad), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(k_bar.transpose(rank + 1, rank, *range(rank)), tk.grad, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(b_bar, tb.grad, rtol=1e-4, atol=1e-4)


@needs_torch
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_torch_padding_modes(rank, mode):
    x, k = draw((2, *(6, 5, 4)[:rank], 3)), draw((*(3,) * rank, 3, 4), seed=1)
    layer = getattr(torch.nn, f"Conv{rank}d")(3, 4, 3, padding=1, padding_mode=mode, bias=False)
    layer.weight.data = torch.from_numpy(k.transpose(rank + 1, rank, *range(rank)).copy())
    got = jconv.conv(x, k, padding=1, padding_mode=mode)
    np.testing.assert_allclose(got, from_torch(layer(to_torch(x))), rtol=2e-5, atol=2e-5)


@needs_torch
@pytest.mark.parametrize("algorithm", GENERAL)
@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_torch_conv_transpose(rank, seed, algorithm):
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
    tx = to_torch(x).requires_grad_()
    options = {"stride": strides, "padding": padding, "output_padding": extra, "groups": groups, "dilation": dilation}
    ty = getattr(torch.nn.functional, f"conv_transpose{rank}d")(tx, tk, torch.from_numpy(b), **options)
    own = functools.partial(
        jconv.conv_transpose, strides=strides, padding=padding, output_padding=extra, kernel_dilation=dilation,
        feature_group_count=groups, algorithm=algorithm,
    )  # fmt: skip
    g = draw(from_torch(ty).shape, seed=3)
    ty.backward(to_torch(g))
    y, (x_bar, k_bar, _) = with_gradients(own, g, x, k, b)
    np.testing.assert_allclose(y, from_torch(ty), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(x_bar, from_torch(tx.grad), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(k_bar.transpose(rank + 1, rank, *range(rank)), tk.grad, rtol=1e-4, atol=1e-4)


@needs_torch
@pytest.mark.parametrize(("stride", "dilation"), [(1, 3), (2, 3), (3, 2), (2, 5)])
def test_torch_output_padding_beyond_the_stride(stride, dilation):
    """PyTorch takes less than the stride or the dilation, whichever is larger."""
    x, k = draw((2, 4, 5, 2)), draw((3, 1, 3, 2), seed=1)
    tk = torch.from_numpy(k.transpose(3, 2, 0, 1).copy())
    most = max(stride, dilation) - 1
    for padding, extra in itertools.product((0, 1), range(most + 1)):
        want = torch.nn.functional.conv_transpose2d(
            to_torch(x), tk, None, stride, padding, extra, 1, dilation)  # fmt: skip
        options = {"strides": stride, "padding": padding, "output_padding": extra, "kernel_dilation": dilation}
        np.testing.assert_allclose(jconv.conv_transpose(x, k, **options), from_torch(want), rtol=2e-5, atol=2e-5)
    with pytest.raises(ValueError, match=rf"output_padding: got {most + 1} .*\(output_padding 0 to {most}\)"):
        jconv.conv_transpose(x, k, strides=stride, padding=0, output_padding=most + 1, kernel_dilation=dilation)


@needs_torch
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("window", [2, 3])
def test_torch_pools(window, ceil_mode):
    functional = torch.nn.functional
    for size, stride, pad in itertools.product((1, 5, 6), (2, 3), (0, 1)):
        x = draw((2, size, 3)) - 5  # what is added must never win
        options = {"strides": stride, "padding": pad, "ceil_mode": ceil_mode}
        try:
            want = functional.max_pool1d(to_torch(x), window, stride, pad, ceil_mode=ceil_mode)
        except RuntimeError:
            with pytest.raises(ValueError, match=f"window_shape: got {window} along spatial axis 0"):
                jconv.max_pool(x, (window,), **options)
            continue
        np.testing.assert_array_equal(jconv.max_pool(x, (window,), **options), from_torch(want))
        for count in (False, True):
            want = functional.avg_pool1d(to_torch(x), window, stride, pad, ceil_mode, count)
            got = jconv.avg_pool(x, (window,), **options, count_include_pad=count)
            np.testing.assert_allclose(got, from_torch(want), rtol=1e-5, atol=1e-6)


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
    for padding in ("SAME", "VALID", (extent - 1, extent - 1), (extent // 2, extent)):
        pairs = padding if isinstance(padding, str) else ((extent - 1 - padding[0], extent - 1 - padding[1]),) * rank
        theirs = padding if isinstance(padding, str) else (padding,) * rank
        got = jconv.conv_transpose(x, k, strides=stride, padding=pairs, kernel_dilation=dilation)
        for kernel, transposed in ((k, True), (plain, False)):
            want = lax.conv_transpose(
                x, kernel, (stride,) * rank, theirs, (dilation,) * rank, numbers, transpose_kernel=transposed
            )
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_keras_conv_transpose(window, stride, rank):
    """same, valid and every output_padding that Keras accepts; docs/porting.md."""
    keras = pytest.importorskip("keras")
    x, k = draw((2, *(5, 6, 4)[:rank], 3)), draw((*(window,) * rank, 4, 3), seed=1)
    for padding, extra in itertools.product(("same", "valid"), (None, *range(stride))):
        own = None if extra is None else extra - (padding == "same" and window % 2 == 0)
        if own == -1:
            continue  # fewer elements than any image whose convolution has that output
        layer = getattr(keras.layers, f"Conv{rank}DTranspose")(
            4, window, strides=stride, padding=padding, output_padding=extra, use_bias=False
        )
        layer.build(x.shape)
        layer.set_weights([k])
        got = jconv.conv_transpose(x, k, strides=stride, padding=padding.upper(), output_padding=own)
        np.testing.assert_allclose(got, np.asarray(layer(x)), rtol=2e-5, atol=2e-5, err_msg=f"{padding} {extra}")
    if stride == 1 and window > 1:
        layer = getattr(keras.layers, f"Conv{rank}DTranspose")(4, window, dilation_rate=2, use_bias=False)
        layer.build(x.shape)
        layer.set_weights([k])
        got = jconv.conv_transpose(x, k, padding="VALID", kernel_dilation=2)
        np.testing.assert_allclose(got, np.asarray(layer(x)), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_flax_conv_transpose(window, stride, padding):
    nn = pytest.importorskip("flax.linen")
    x, k = draw((2, 6, 7, 3)), draw((window, window, 4, 3), seed=1)
    options = {"padding": "SAME", "padding_mode": "circular"} if padding == "CIRCULAR" else {"padding": padding}
    got = jconv.conv_transpose(x, k, strides=stride, **options)
    plain = np.flip(k, (0, 1)).swapaxes(2, 3)
    for kernel, transposed in ((k, True), (plain, False)):
        layer = nn.ConvTranspose(
            4, (window, window), (stride, stride), padding, use_bias=False, transpose_kernel=transposed
        )
        want = layer.apply({"params": {"kernel": kernel}}, x)
        moved = max(window - stride, 0) % 2 if padding == "CIRCULAR" and transposed else 0
        want = np.roll(want, (moved, moved), (1, 2))
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID", "CAUSAL", 1, ((2, 0),)], ids=str)
def test_every_output_shape_that_the_stride_leaves_open(padding, stride):
    x, k = draw((2, 5, 3)), draw((4, 2, 3), seed=1)
    fitting = [n for n in range(1, 30) if _outputs(n, padding, stride) == 5]
    assert len(fitting) == stride
    for n in fitting:
        y = jconv.conv_transpose(x, k, strides=stride, padding=padding, output_shape=(n,))
        assert y.shape == (2, n, 2)
        forward = lambda v: jconv.conv(v, k, strides=stride, padding=padding)
        (want,) = jax.linear_transpose(forward, jnp.zeros((2, n, 2)))(x)
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
    y = jconv.conv_transpose(x, k, **options)
    v = draw(y.shape, "int32", 2) % 9
    own = {n: o for n, o in options.items() if not n.startswith("output")}
    forward = jconv.conv(v, k, **own)
    assert forward.shape == x.shape
    assert np.sum(forward * x) == np.sum(v * y)


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
    y, (x_bar, k_bar) = with_gradients(functools.partial(jconv.conv, **options), g, x, k)
    local, (x_local, k_local) = with_gradients(functools.partial(jconv.conv_local, **options), g, x, everywhere)
    np.testing.assert_allclose(local, y, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(x_local, x_bar, rtol=2e-5, atol=2e-5)
    # the gradient of a shared weight is the sum of those of the unshared ones
    np.testing.assert_allclose(np.sum(k_local, (0, 1)), k_bar, rtol=5e-5, atol=5e-5)


def test_conv_local_is_lax_conv_general_dilated_local():
    x, k, b = draw((2, 6, 5, 3)), draw((4, 3, 3, 3, 3, 2), seed=1), draw((4, 3, 2), seed=2)
    # lax orders its patches channels first: [in, *window]
    flat = np.moveaxis(k, 4, 2).reshape(4, 3, 27, 2)
    want = lax.conv_general_dilated_local(x, flat, (1, 1), "VALID", (3, 3), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(jconv.conv_local(x, k, b, padding="VALID"), want + b[None], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("padding", ["VALID", "SAME", ((1, 0), (0, 1))])
@pytest.mark.parametrize("strides", [None, 1, 2])
@pytest.mark.parametrize("kind", ["max", "avg", "avg-without-pad"])
def test_pools_by_their_definition(kind, strides, padding):
    x, window = draw((2, 6, 7, 3)).astype(np.float64), (2, 3)
    steps = window if strides is None else (strides, strides)
    sizes = [jconv.ConvSpec((6, 7, 1), (*window, 1, 1), strides=steps, padding=padding)][0]
    want = np.empty((2, *sizes.output_spatial, 3))
    for i, j in np.ndindex(*sizes.output_spatial):
        starts = [o * s - lo for o, s, (lo, _) in zip((i, j), steps, sizes.padding, strict=True)]
        rows, columns = (
            slice(max(start, 0), min(start + k, n)) for start, k, n in zip(starts, window, (6, 7), strict=True)
        )
        part = x[:, rows, columns].reshape(2, -1, 3)
        want[:, i, j] = {"max": part.max(1), "avg": part.sum(1) / 6, "avg-without-pad": part.mean(1)}[kind]
    x32 = x.astype(np.float32)
    if kind == "max":
        got = jconv.max_pool(x32, window, strides=strides, padding=padding)
    else:
        got = jconv.avg_pool(x32, window, strides=strides, padding=padding, count_include_pad=kind == "avg")
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_pools_of_other_dtypes_and_batches():
    x = draw((2, 3, 6, 4), "int8")
    assert (jconv.max_pool(x, (2,)) == np.max(x.reshape(2, 3, 3, 2, 4), 3)).all()
    z = draw((4, 6, 2), "complex64")
    np.testing.assert_allclose(jconv.avg_pool(z, (3,)), z.reshape(4, 2, 3, 2).mean(2), rtol=1e-5)
    np.testing.assert_allclose(jconv.global_avg_pool(x.astype("float32")), x.mean((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(jconv.global_max_pool(x, rank=1), x.max(2))
    b = jnp.full((1, 4096, 1), 1 + 2.0**-7, jnp.bfloat16)
    assert jconv.global_avg_pool(b)[0, 0] == jconv.avg_pool(b, (4096,))[0, 0, 0] == b[0, 0, 0]
