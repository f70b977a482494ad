"""Layers: shapes, parameters, training and inference, composition, initializers, the table."""

import copy
import dataclasses
import functools
import inspect
import itertools
import math
import pickle

import chex
import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

import jconv
from jconv import initializers, layers, models
from jconv._names import CALLED
from tests.cases import draw
from tests.test_agreement import needs_torch, torch

key = jax.random.key(0)
IMAGE = (2, 8, 9, 4)


def every_layer():
    return [
        layers.Conv(6, 3, strides=2),
        layers.Conv(6, (3, 1), feature_group_count=2, use_bias=False, padding_mode="circular"),
        layers.ConvTranspose(6, 4, strides=2),
        layers.DepthwiseConv(3, channel_multiplier=2),
        layers.SeparableConv(6, 3),
        layers.ConvLocal(3, 3, padding="VALID"),
        layers.Dense(5),
        layers.BatchNorm(),
        layers.GroupNorm(2),
        layers.LayerNorm(),
        layers.LayerScale(0.1),
        layers.Dropout(0.3),
        layers.StochasticDepth(0.3),
        layers.MaxPool(2),
        layers.AvgPool((2, 3), padding="SAME", count_include_pad=False),
        layers.GlobalAvgPool(),
        layers.GlobalMaxPool(),
        layers.Flatten(),
        layers.Activation("gelu"),
        layers.Activation(jnp.tanh),
        layers.Sequential(layers.Conv(4, 3), layers.BatchNorm(), layers.Activation("relu"), layers.Dropout(0.5)),
        layers.Residual(layers.Conv(4, 3), layers.BatchNorm()),
        layers.Parallel(layers.Conv(2, 1), layers.Sequential(layers.Conv(3, 3), layers.BatchNorm())),
    ]


@pytest.mark.parametrize("layer", every_layer(), ids=lambda layer: layer.kind)
def test_the_contract_of_every_layer(layer):
    params, state = layer.init(key, (-1, *IMAGE[1:]))
    chex.assert_trees_all_equal((params, state), layer.init(key, IMAGE))  # the batch size does not matter
    assert isinstance(params, dict)
    assert isinstance(state, dict)
    x = jnp.asarray(draw(IMAGE))
    for train in (False, True):
        y, after = layer.apply(params, state, x, train=train, key=jax.random.key(1))
        assert y.shape == layer.output_shape(IMAGE)
        assert layer.output_shape((-1, *IMAGE[1:])) == (-1, *y.shape[1:])
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        jitted = jax.jit(functools.partial(layer.apply, train=train))
        chex.assert_trees_all_close((y, after), jitted(params, state, x, key=jax.random.key(1)), rtol=1e-5, atol=1e-5)
        if not train:
            chex.assert_trees_all_equal(after, state)
    grads = jax.grad(lambda p: jnp.sum(layer.apply(p, state, x)[0] ** 2))(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
    rows = jconv.summary(layer, (-1, *IMAGE[1:]))
    assert rows.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_layers_are_the_functions():
    x = jnp.asarray(draw(IMAGE))
    options = {"strides": 2, "padding": "VALID", "kernel_dilation": 2, "padding_mode": "zeros"}
    layer = layers.Conv(6, 3, feature_group_count=2, **options)
    params, state = layer.init(key, IMAGE)
    want = jconv.conv(x, params["kernel"], params["bias"], feature_group_count=2, **options)
    np.testing.assert_array_equal(layer.apply(params, state, x)[0], want)
    layer = layers.ConvTranspose(6, 3, strides=2, padding=1, output_padding=1)
    params, state = layer.init(key, IMAGE)
    want = jconv.conv_transpose(x, params["kernel"], strides=2, padding=1, output_padding=1)
    np.testing.assert_allclose(layer.apply(params, state, x)[0], want, rtol=1e-6)
    layer = layers.Dense(5)
    params, state = layer.init(key, IMAGE)
    np.testing.assert_allclose(layer.apply(params, state, x)[0], x @ params["kernel"], rtol=1e-5, atol=1e-5)
    params, state = layers.SeparableConv(6, 3).init(key, IMAGE)
    depthwise = jconv.conv(x, params["depthwise"]["kernel"], feature_group_count=4)
    want = jnp.einsum("bhwc,cd->bhwd", depthwise, params["pointwise"]["kernel"][0, 0])
    np.testing.assert_allclose(layers.SeparableConv(6, 3).apply(params, state, x)[0], want, rtol=1e-5, atol=1e-5)


def test_computing_in_another_dtype():
    layer = layers.Conv(6, 3, dtype=jnp.bfloat16)
    params, state = layer.init(key, IMAGE)
    assert params["kernel"].dtype == jnp.float32
    y, _ = layer.apply(params, state, draw(IMAGE))
    assert y.dtype == jnp.bfloat16
    assert layers.Conv(6, 3, param_dtype=jnp.bfloat16).init(key, IMAGE)[0]["bias"].dtype == jnp.bfloat16


def test_batch_norm_trains_and_infers():
    layer = layers.BatchNorm(momentum=0.9)
    params, state = layer.init(key, IMAGE)
    x = 3 * draw((64, 5, 5, 4)) + 2
    y, after = layer.apply(params, state, x, train=True)
    np.testing.assert_allclose(np.mean(y, (0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(y, (0, 1, 2)), 1, atol=1e-4)
    np.testing.assert_allclose(after["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(after["var"], 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-4)
    inferred, same = layer.apply(params, after, x)
    chex.assert_trees_all_equal(same, after)
    want = (x - np.asarray(after["mean"])) / np.sqrt(np.asarray(after["var"]) + 1e-5)
    np.testing.assert_allclose(inferred, want, rtol=1e-4, atol=1e-5)


def test_batch_norm_of_a_large_mean():
    x = draw((4096, 2)) + 3000
    y, _ = layers.BatchNorm().apply(*layers.BatchNorm().init(key, x.shape), x, train=True)
    np.testing.assert_allclose(np.std(y, 0), 1, rtol=1e-3)  # E[x^2] - E[x]^2 in float32 would be off by half


SCALERS = {
    "BatchNorm": layers.BatchNorm,
    "GroupNorm": functools.partial(layers.GroupNorm, 2),
    "LayerNorm": layers.LayerNorm,
    "LayerScale": functools.partial(layers.LayerScale, 0.3),
}


def test_integers_are_normalised_as_the_numbers_that_they_are():
    layer, x = layers.BatchNorm(), np.array([[0, 0], [3, 7], [1, 2]])
    want = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    assert want.round(2).tolist() == [[-1.07, -1.02], [1.34, 1.36], [-0.27, -0.34]]
    for dtype in ("int8", "int16", "int32", "uint8", "uint32"):
        y, state = layer.apply(*layer.init(key, x.shape), jnp.asarray(x, dtype), train=True)
        assert y.dtype == state["mean"].dtype == jnp.float32
        np.testing.assert_allclose(y, want, rtol=1e-5)
        np.testing.assert_allclose(state["var"], 0.99 + 0.01 * x.var(0), rtol=1e-5)
    y, _ = layer.apply(*layer.init(key, x.shape), x > 1, train=True)
    np.testing.assert_allclose(y, ((x > 1) - (x > 1).mean(0)) / np.sqrt((x > 1).var(0) + 1e-5), rtol=1e-5)


@pytest.mark.parametrize("name", [*SCALERS, "Dropout", "StochasticDepth"])
def test_no_layer_truncates_integers(name):
    x = (10 * draw((4, 3, 4))).astype(np.int32)
    layer = SCALERS[name]() if name in SCALERS else getattr(layers, name)(0.3)
    params, state = layer.init(key, x.shape)
    for train, dtype in itertools.product((False, True), ("int32", "int8", "bool")):
        whole = jnp.asarray(x, dtype)
        y, _ = layer.apply(params, state, whole, train=train, key=key)
        assert y.dtype == jnp.float32
        np.testing.assert_array_equal(y, layer.apply(params, state, whole.astype(jnp.float32), train=train, key=key)[0])


@pytest.mark.parametrize("name", SCALERS)
def test_the_result_has_the_dtype_of_the_input(name):
    """And is computed in float32 or more; integers take the dtype of the parameters, statistics keep theirs."""
    x = draw((4, 3, 4))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for dtype, param_dtype in itertools.product(
            ("float16", "bfloat16", "float32", "float64", "int64", "uint8"), ("bfloat16", "float32", "float64")
        ):
            layer = SCALERS[name](param_dtype=param_dtype)
            params, state = layer.init(key, x.shape)
            assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {param_dtype}
            running = {leaf.dtype.name for leaf in jax.tree.leaves(state)}
            assert running <= {"float64" if param_dtype == "float64" else "float32"}  # bfloat16 would stand still
            y, after = layer.apply(params, state, jnp.asarray(x, dtype), train=True)
            assert y.dtype == (param_dtype if "int" in dtype else dtype)
            chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
            exact = np.asarray(jnp.asarray(x, dtype)).astype(np.float64)  # what the layer is given, in float64
            wide = SCALERS[name](param_dtype="float64")
            there = [jax.tree.map(lambda leaf: leaf.astype("float64"), tree) for tree in (params, state)]
            want, _ = wide.apply(*there, jnp.asarray(exact), train=True)
            digits = min((jnp.finfo(d).nmant for d in (y.dtype, "float32")), default=0)
            np.testing.assert_allclose(np.asarray(y, np.float64), want, rtol=2.0**-digits, atol=1e-6)


def test_statistics_of_complex_numbers_are_theirs():
    x = (draw((50, 2)) + 1j * draw((50, 2), seed=1) + 1 - 2j).astype(np.complex64)
    centred = x - x.mean(0)
    want = centred / np.sqrt((abs(centred) ** 2).mean(0) + 1e-5)
    layer = layers.BatchNorm(param_dtype=jnp.complex64)
    y, state = layer.apply(*layer.init(key, x.shape), x, train=True)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["mean"], 0.01 * x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(state["var"], 0.99 + 0.01 * (abs(centred) ** 2).mean(0), rtol=1e-4)
    scale = np.complex64([1j, 2])
    y, _ = layers.LayerScale(1.0).apply({"scale": scale}, {}, x.real)
    np.testing.assert_allclose(y, scale * x.real, rtol=1e-6)  # not its real part
    real = layers.BatchNorm()
    with pytest.raises(TypeError, match="state: got 'mean' of float32 for a batch of complex numbers"):
        real.apply(*real.init(key, x.shape), x, train=True)
    dense = layers.Dense(3, dtype=jnp.float32)
    with pytest.raises(TypeError, match="dtype: got float32, accepted for a complex x is a complex one"):
        dense.apply(*dense.init(key, x.shape), x)


@pytest.mark.parametrize("param_dtype", ["own", "float32"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_layer_and_its_gradient_in_strict_modes(dtype, param_dtype):
    """Nothing is promoted by itself: all that is cast is cast by rule. Traced, which is where promotion happens."""
    x64, param_dtype = dtype == "float64", dtype if param_dtype == "own" else param_dtype
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        x = jax.ShapeDtypeStruct(IMAGE, dtype)
        for layer in every_layer():
            trees = jax.eval_shape(lambda layer=layer: layer.init(key, IMAGE))
            given = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, param_dtype)
            params, state = (jax.tree.map(given, tree) for tree in trees)

            def loss(params, x, state, layer=layer):
                y, after = layer.apply(params, state, x, train=True, key=jax.random.key(1))
                return jnp.sum(y.astype(jnp.float32)), (y, after)

            (_, (y, after)), grads = jax.eval_shape(jax.value_and_grad(loss, (0, 1), has_aux=True), params, x, state)
            chex.assert_trees_all_equal_shapes_and_dtypes(grads, (params, x))
            chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
            convolves = any("kernel" in path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params))
            assert y.dtype == (np.result_type(np.float32, y.dtype) if convolves and param_dtype != dtype else dtype)


def test_complex_parameters_have_the_same_variance():
    for name in ("glorot_uniform", "he_normal"):
        draws = [getattr(initializers, name)()(key, (64, 64, 8), dtype) for dtype in (jnp.float32, jnp.complex64)]
        np.testing.assert_allclose(np.std(draws[1]), np.std(draws[0]), rtol=0.02)


def test_a_layer_under_vmap_sees_no_batch_axis():
    layer, x = layers.Conv(3, 3), jnp.asarray(draw(IMAGE))
    params, _ = layer.init(key, IMAGE)
    got = jax.vmap(lambda x: layer.apply(params, {}, x)[0])(x)
    np.testing.assert_allclose(got, layer.apply(params, {}, x)[0], rtol=1e-5, atol=1e-5)


def test_branches_that_differ_in_spatial_axes_are_summed_up_too():
    net = layers.Parallel(layers.Flatten(), layers.Sequential(layers.Conv(3, 3), layers.Flatten()))
    assert jconv.summary(net, IMAGE).parameters == 9 * 4 * 3 + 3


def test_deep_nesting_is_traced_in_linear_time():
    inits = 0

    def init(key, shape):
        nonlocal inits
        inits += 1
        return {}, {}

    net = layers.Layer(init, lambda params, state, x, *, train=False, key=None: (x, state))
    for _ in range(12):
        net = layers.Residual(layers.Sequential(net))
    net.init(key, (1, 4))
    assert inits < 100  # twice as many with each level would be thousands


@needs_torch
def test_normalisation_is_that_of_torch():
    x = draw((4, 5, 6, 8))
    tx = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    scale, bias = draw((8,), seed=1), draw((8,), seed=2)
    params = {"scale": scale, "bias": bias}
    ts, tb = torch.from_numpy(scale), torch.from_numpy(bias)
    back = lambda y: np.moveaxis(y.numpy(), 1, -1)
    y, _ = layers.GroupNorm(4, epsilon=1e-5).apply(params, {}, x)
    np.testing.assert_allclose(y, back(torch.nn.functional.group_norm(tx, 4, ts, tb)), rtol=1e-4, atol=1e-5)
    y, _ = layers.LayerNorm(epsilon=1e-5).apply(params, {}, x)
    want = torch.nn.functional.layer_norm(torch.from_numpy(x), (8,), ts, tb).numpy()
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    state = {"mean": jnp.zeros(8), "var": jnp.ones(8)}
    y, _ = layers.BatchNorm().apply(params, state, x, train=True)
    want = torch.nn.functional.batch_norm(tx, None, None, ts, tb, training=True)
    np.testing.assert_allclose(y, back(want), rtol=1e-4, atol=1e-5)


@needs_torch
@pytest.mark.parametrize("train", [True, False])
def test_derivatives_of_batch_norm_are_those_of_torch(train):
    x, g, direction = (draw((2, 3, 4, 5), seed=i).astype(np.float64) for i in range(3))
    x += 30  # a mean much larger than the deviation
    scale, bias, mean, var = (draw((5,), seed=i).astype(np.float64) for i in range(4))
    var, mean = var**2 + 0.5, mean + 30
    first = lambda v: torch.from_numpy(np.moveaxis(v, -1, 1).copy())
    tx, ts, tb = first(x).requires_grad_(), *(torch.from_numpy(v).requires_grad_() for v in (scale, bias))
    statistics = (None, None) if train else (torch.from_numpy(mean), torch.from_numpy(var))
    ty = torch.nn.functional.batch_norm(tx, *statistics, ts, tb, training=train)
    once = torch.autograd.grad((torch.sin(ty) * first(g)).sum(), (tx, ts, tb), create_graph=True)
    twice = torch.autograd.grad((once[0] * first(direction)).sum(), (tx, ts, tb), allow_unused=True)
    back = lambda v: np.moveaxis(v.detach().numpy(), 1, -1) if v.ndim == 4 else v.detach().numpy()

    with jax.enable_x64(True):
        layer, state = layers.BatchNorm(param_dtype=jnp.float64), {"mean": jnp.asarray(mean), "var": jnp.asarray(var)}

        def value(x, scale, bias):
            y, _ = layer.apply({"scale": scale, "bias": bias}, state, x, train=train)
            return jnp.sum(jnp.sin(y) * g)

        arrays = tuple(map(jnp.asarray, (x, scale, bias)))
        got = jax.grad(value, (0, 1, 2))(*arrays)
        again = jax.grad(lambda *arrays: jnp.sum(jax.grad(value)(*arrays) * direction), (0, 1, 2))(*arrays)
        tangent = jax.jvp(value, arrays, (direction, *arrays[1:]))[1]
    for a, b in zip((*got, *again), (*once, *twice), strict=True):
        np.testing.assert_allclose(a, back(b), rtol=1e-8, atol=1e-8)
    want = sum(np.vdot(back(v), d) for v, d in zip(once, (direction, scale, bias), strict=True))
    np.testing.assert_allclose(tangent, want, rtol=1e-8)


def test_batch_norm_over_a_mapped_axis():
    layer = layers.BatchNorm(axis_name="d")
    params, state = layer.init(key, IMAGE)
    x = draw((2, 3, 5, 4))
    together, after = layers.BatchNorm().apply(params, state, x.reshape(6, 5, 4), train=True)
    apart, split = jax.vmap(lambda x: layer.apply(params, state, x, train=True), axis_name="d")(x)
    np.testing.assert_allclose(apart.reshape(6, 5, 4), together, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(jax.tree.map(lambda v: v[0], split), after, rtol=1e-5)


def test_dropout():
    layer, x = layers.Dropout(0.25), jnp.ones((1000, 100))
    np.testing.assert_array_equal(layer.apply({}, {}, x)[0], x)
    y, _ = layer.apply({}, {}, x, train=True, key=key)
    kept = float(np.mean(y != 0))
    assert abs(kept - 0.75) < 5 * math.sqrt(0.25 * 0.75 / x.size)
    np.testing.assert_allclose(y[y != 0], 1 / 0.75, rtol=1e-6)
    assert not np.array_equal(y, layer.apply({}, {}, x, train=True, key=jax.random.key(1))[0])


def test_stochastic_depth_leaves_out_examples():
    x = jnp.ones((4000, 3, 2))
    body = layers.StochasticDepth(0.25)
    np.testing.assert_array_equal(body.apply({}, {}, x)[0], x)
    y = np.asarray(body.apply({}, {}, x, train=True, key=key)[0]).reshape(4000, 6)
    kept = y[:, 0] != 0
    assert abs(kept.mean() - 0.75) < 5 * math.sqrt(0.25 * 0.75 / 4000)
    np.testing.assert_array_equal(y, np.where(kept[:, None], np.float32(1 / 0.75), 0) * np.ones(6))
    with pytest.raises(ValueError, match="key: got None, accepted by StochasticDepth with train=True"):
        body.apply({}, {}, x, train=True)
    with pytest.raises(ValueError, match="rate: got 1, accepted is 0 <= rate < 1"):
        layers.StochasticDepth(1)


def test_layer_scale():
    layer = layers.LayerScale(1e-6)
    params, _ = layer.init(key, IMAGE)
    np.testing.assert_array_equal(params["scale"], np.full(4, 1e-6, np.float32))
    scale, x = draw((4,)), draw(IMAGE)
    np.testing.assert_array_equal(layer.apply({"scale": scale}, {}, x)[0], scale * x)
    assert layer.apply({"scale": scale}, {}, jnp.bfloat16(x))[0].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"params: got 'scale' of shape \(4,\), accepted by LayerScale .* \(3,\)"):
        layer.apply({"scale": scale}, {}, x[..., :3])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: layers.BatchNorm(momentum=1.5), "momentum: got 1.5, accepted is 0 <= momentum <= 1"),
    (lambda: layers.BatchNorm(momentum=-0.1), "momentum: got -0.1, accepted is 0 <= momentum <= 1"),
    (lambda: layers.BatchNorm(epsilon=-1), "epsilon: got -1, accepted is a finite number of at least 0"),
    (lambda: layers.GroupNorm(epsilon=math.nan), "epsilon: got nan, accepted is a finite number"),
    (lambda: layers.LayerNorm(epsilon="1e-5"), "epsilon: got '1e-5', accepted is a finite number"),
    (lambda: layers.GroupNorm(0), "num_groups: got 0, accepted is an integer of at least 1"),
    (lambda: layers.Dropout(None), "rate: got None, accepted is 0 <= rate < 1"),
    (lambda: layers.StochasticDepth(-0.1), "rate: got -0.1, accepted is 0 <= rate < 1"),
    (lambda: layers.Conv(0, 3), "features: got 0, accepted is an integer of at least 1"),
    (lambda: layers.Dense(2.5), "features: got 2.5, accepted is an integer"),
    (lambda: layers.ConvTranspose(-4, 3), "features: got -4"),
    (lambda: layers.DepthwiseConv(3, channel_multiplier=0), "channel_multiplier: got 0"),
    (lambda: layers.Conv(4, (3, 0)), r"kernel_size\[1\]: got 0, accepted is an integer of at least 1"),
    (lambda: layers.Conv(4, 3, strides=0), "strides: got 0"),
    (lambda: layers.ConvLocal(4, 3, kernel_dilation=(1, -1)), r"kernel_dilation\[1\]: got -1"),
    (lambda: layers.ConvTranspose(4, 3, output_padding=-1), "output_padding: got -1"),
    (lambda: layers.Conv(4, 3, padding="smae"), "padding: got 'smae', .* Did you mean 'SAME'"),
    (lambda: layers.Conv(4, 3, precision="hgih"), "precision: got 'hgih', accepted are"),
    (lambda: layers.MaxPool(0), "window_shape: got 0"),
    (lambda: layers.AvgPool(2, strides=0), "strides: got 0"),
    (lambda: initializers.VarianceScaling(-1.0, "fan_in", "normal"), "scale: got -1.0, accepted is a positive number"),
])  # fmt: skip
def test_what_no_input_can_make_right_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [functools.partial(layers.Conv, 4, 3), *SCALERS.values()])
def test_dtypes_that_parameters_cannot_have(make):
    for given in (jnp.int32, bool, "flaot32"):
        with pytest.raises(TypeError, match="param_dtype: got .*, accepted are float16, bfloat16"):
            make(param_dtype=given)
    with pytest.raises(TypeError, match="dtype: got dtype int32, accepted are"):
        layers.Dense(3, dtype=jnp.int32)


MAKERS = [v for module in (layers, models) for name, v in vars(module).items() if hasattr(v, "__wrapped__")]


def test_every_public_function_that_makes_layers_is_a_constructor():
    public = [v for module in (layers, models) for v in vars(module).values() if inspect.isfunction(v)]
    assert set(MAKERS) == {v for v in public if inspect.signature(v).return_annotation in ("Layer", layers.Layer)}
    assert len(MAKERS) > 25


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_names_of_other_libraries(make):
    own = list(inspect.signature(make).parameters)
    for name, others in CALLED.items():
        for other in others.split() if name in own else ():
            if other not in own:
                with pytest.raises(TypeError, match=rf"{other}: no argument of \w+; it is called '\w+' here"):
                    make(**{other: 1})
    with pytest.raises(TypeError, match=r"data_format: no argument of \w+; images are always"):
        make(data_format="NCHW")


def test_a_name_of_another_library():
    with pytest.raises(TypeError, match="stride: no argument of Conv; it is called 'strides' here"):
        layers.Conv(4, 3, stride=2)
    with pytest.raises(TypeError, match="eps: no argument of BatchNorm; it is called 'epsilon' here"):
        layers.BatchNorm(eps=1e-3)
    with pytest.raises(TypeError, match="data_format: no argument of MaxPool; images are always"):
        layers.MaxPool(2, data_format="channels_first")


def test_a_momentum_may_be_traced():
    x = jnp.asarray(draw((3, 2)))

    @jax.jit
    def step(momentum):
        layer = layers.BatchNorm(momentum=momentum)
        return layer.apply(*layer.init(key, x.shape), x, train=True)[1]["mean"]

    np.testing.assert_allclose(step(0.5), 0.5 * x.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", every_layer(), ids=lambda layer: layer.kind)
def test_layers_can_be_pickled_and_copied(layer):
    assert copy.copy(layer) is layer
    assert copy.deepcopy(layer) is layer
    again = pickle.loads(pickle.dumps(layer))
    params, state = layer.init(key, IMAGE)
    chex.assert_trees_all_equal(again.init(key, IMAGE), (params, state))
    x = jnp.asarray(draw(IMAGE))
    run = lambda layer: layer.apply(params, state, x, train=True, key=key)
    chex.assert_trees_all_equal(run(again), run(layer))
    assert [name for name, _ in again.children] == [name for name, _ in layer.children]
    assert (again.epilogue is None) == (layer.epilogue is None)


def doubled(key, shape):
    return {"scale": jnp.full(shape[-1:], 2.0)}, {}


def scaled(params, state, x, *, train=False, key=None):
    return x * jnp.broadcast_to(params["scale"], x.shape), state


def test_own_layers_can_be_pickled_where_their_functions_can():
    own = layers.Layer(doubled, scaled, name="own")
    net = layers.Sequential(own, dataclasses.replace(layers.Dense(3), name="end"), layers.Activation(jax.nn.relu))
    again = pickle.loads(pickle.dumps(net))
    assert list(again.init(key, (1, 4))[0]) == ["own", "end"]
    assert again.children[0][1] == own
    assert again.children[2][1].epilogue.activation == "relu"
    replaced = pickle.loads(pickle.dumps(dataclasses.replace(layers.Conv(4, 3), init=doubled, apply=scaled)))
    assert (replaced.kind, replaced.init, replaced.apply, replaced.epilogue) == ("Conv", doubled, scaled, None)
    for layer in (layers.Activation(lambda x: x), layers.Layer(doubled, lambda params, state, x: (x, state))):
        with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
            pickle.dumps(layers.Sequential(layer))


def embedding():
    def init(key, shape):
        return {"table": jnp.arange(20.0).reshape(10, 2)}, {}

    def apply(params, state, x, *, train=False, key=None):
        return params["table"][x], state

    return layers.Layer(init, apply, name="table")


def test_layers_are_initialised_with_the_dtype_that_reaches_them():
    net = layers.Sequential(layers.Residual(layers.Activation("identity")), embedding(), layers.Conv(3, 2))
    tokens = jax.ShapeDtypeStruct((1, 5), jnp.int32)
    params, state = net.init(key, tokens)
    assert jax.tree.map(jnp.shape, params) == {
        "table": {"table": (10, 2)},
        "Conv_0": {"kernel": (2, 2, 3), "bias": (3,)},
    }
    assert net.output_shape(tokens) == (1, 5, 3)
    assert net.output_shape(tokens).dtype == jnp.float32
    assert net.apply(params, state, jnp.ones((7, 5), jnp.int32))[0].shape == (7, 5, 3)
    assert [row.parameters for row in jconv.summary(net, tokens).rows if row.depth == 0] == [0, 20, 15]
    half = layers.Sequential(layers.LayerNorm(), layers.Flatten())
    assert half.output_shape(jax.ShapeDtypeStruct((2, 3, 4), jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(TypeError) as raised:
        layers.Sequential(embedding()).init(key, (-1, 5))
    assert any("was traced with an input of float32; a jax.ShapeDtypeStruct" in note for note in raised.value.__notes__)


def test_shapes_are_traced_anew_in_another_configuration():
    layer = layers.Layer(doubled, lambda params, state, x, *, train=False, key=None: (jnp.zeros(x.shape), state))
    assert layer.output_shape((1, 2)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert layer.output_shape((1, 2)).dtype == jnp.float64
    assert layer.output_shape((1, 2)).dtype == jnp.float32


@pytest.mark.parametrize("layer", every_layer(), ids=lambda layer: layer.kind)
def test_a_batch_may_be_none_as_in_keras(layer):
    shape = (None, *IMAGE[1:])
    chex.assert_trees_all_equal(layer.init(key, shape), layer.init(key, IMAGE))
    assert layer.output_shape(shape) == layer.output_shape((-1, *IMAGE[1:]))
    with pytest.raises(
        ValueError, match=r"input_shape: got \(2, None, 9, 4\), accepted is .* the batch alone may be None"
    ):
        layer.output_shape((2, None, 9, 4))


def test_a_batch_of_none_elsewhere():
    net, shape = layers.Sequential(layers.Conv(3, 3), layers.BatchNorm()), (None, 8, 9, 4)
    assert jconv.summary(net, shape).rows == jconv.summary(net, (-1, 8, 9, 4)).rows
    assert jconv.interop.to_torch(net, shape, *net.init(key, shape))["Conv_0.weight"].shape == (3, 4, 3, 3)
    for layer in (layers.Conv(3, 3), layers.ConvTranspose(3, 3), layers.Dense(3), layers.GroupNorm(1), net):
        with pytest.raises(ValueError, match="the batch alone may be None or -1"):
            layer.init(key, (None, 8, None, None))


@pytest.mark.parametrize("make", [
    functools.partial(layers.Conv, 4), layers.DepthwiseConv, functools.partial(layers.ConvTranspose, 4),
])  # fmt: skip
def test_how_many_axes_a_convolution_expects(make):
    layer, x = make(3), jnp.ones((2, 2, 8, 8, 1))
    params, _ = layer.init(key, (1, 8, 8, 1))
    with pytest.raises(
        ValueError,
        match=r"x: got shape \(2, 2, 8, 8, 1\) with 5 axes, accepted by .* is \[batch, height, width, channels\] with 4",
    ):
        layer.apply(params, {}, x)
    with pytest.raises(ValueError, match=r"x: got shape \(8, 1\) with 2 axes"):
        layer.apply(params, {}, x[0, 0, 0])
    free = make((3, 3))  # which says how many spatial axes there are
    assert free.apply(params, {}, x)[0].shape[:4] == (2, 2, 8, 8)


def test_sequential_nests_names_states_and_keys():
    net = layers.Sequential(
        layers.Conv(3, 3, name="stem"),
        layers.BatchNorm(),
        layers.Activation("relu"),
        layers.Conv(3, 3),
        layers.Dropout(0.5),
        layers.Sequential(layers.Conv(3, 3), layers.BatchNorm()),
        layers.Conv(5, 1),
    )
    params, state = net.init(key, IMAGE)
    assert list(params) == ["stem", "BatchNorm_0", "Conv_0", "Sequential_0", "Conv_1"]
    assert list(params["Sequential_0"]) == ["Conv_0", "BatchNorm_0"]
    assert list(state) == ["BatchNorm_0", "Sequential_0"]
    x = draw(IMAGE)
    a, after = net.apply(params, state, x, train=True, key=key)
    b, _ = net.apply(params, state, x, train=True, key=jax.random.key(1))
    assert not np.allclose(a, b)
    assert np.any(after["Sequential_0"]["BatchNorm_0"]["mean"] != 0)
    with pytest.raises(ValueError, match="key: got None"):
        net.apply(params, state, x, train=True)
    # parameters of like shape are drawn independently
    flat = [np.ravel(params[n]["kernel"]) for n in ("Conv_0",)] + [np.ravel(params["Sequential_0"]["Conv_0"]["kernel"])]
    assert not np.array_equal(*flat)


def test_residual_and_parallel():
    x = jnp.asarray(draw(IMAGE))
    body, around = layers.Conv(6, 3, strides=2), layers.Conv(6, 1, strides=2)
    net = layers.Residual(body, shortcut=around)
    params, state = net.init(key, IMAGE)
    assert sorted(params) == ["body", "shortcut"]
    want = body.apply(params["body"]["Conv_0"], {}, x)[0] + around.apply(params["shortcut"], {}, x)[0]
    np.testing.assert_allclose(net.apply(params, state, x)[0], want, rtol=1e-6)
    plain = layers.Residual(layers.Activation("tanh"))
    np.testing.assert_allclose(plain.apply(*plain.init(key, IMAGE), x)[0], x + jnp.tanh(x), rtol=1e-6)
    for combine, function in (
        ("sum", lambda a, b: a + b),
        ("product", lambda a, b: a * b),
        ("concatenate", lambda a, b: jnp.concatenate([a, b], -1)),
        (lambda ys: ys[0] - ys[1], lambda a, b: a - b),
    ):
        net = layers.Parallel(layers.Activation("tanh"), layers.Activation("relu"), combine=combine)
        y, _ = net.apply(*net.init(key, IMAGE), x)
        np.testing.assert_allclose(y, function(jnp.tanh(x), jax.nn.relu(x)), rtol=1e-6)


def test_anything_with_two_functions_is_a_layer():
    scale = layers.Layer(
        lambda key, shape: ({"scale": jnp.ones(shape[-1])}, {}),
        lambda params, state, x, *, train=False, key=None: (x * jnp.broadcast_to(params["scale"], x.shape), state),
    )
    net = layers.Sequential(layers.Conv(3, 3), scale)
    params, state = net.init(key, IMAGE)
    assert net.apply(params, state, draw(IMAGE))[0].shape == (2, 8, 9, 3)
    assert jconv.summary(net, IMAGE).rows[1].parameters == 3


def test_the_table():
    net = layers.Sequential(
        layers.Conv(6, 5, padding="VALID", name="c1"),
        layers.MaxPool(2, name="s2"),
        layers.Residual(layers.Conv(6, 3), layers.Conv(6, 3, use_bias=False)),
        layers.ConvTranspose(4, 2, strides=2),
        layers.Flatten(),
        layers.Dense(10),
    )
    table = jconv.summary(net, (-1, 32, 32, 1))
    by_name = {row.name: row for row in table.rows}
    assert by_name["c1"][3:] == ((-1, 28, 28, 6), 156, 122_304, 117_600, (5, 5))
    assert by_name["s2"].receptive_field == (6, 6)
    residual = by_name["Residual_0"]
    assert residual.receptive_field == (6 + 2 * 2 * 2,) * 2
    assert residual.parameters == 2 * 9 * 36 + 6
    assert residual.macs == 14 * 14 * 2 * 9 * 36
    up = by_name["ConvTranspose_0"]
    assert up.output_shape == (-1, 28, 28, 4)
    assert up.macs == 14 * 14 * 4 * 6 * 4  # each input element meets the whole window once
    assert up.connections == up.macs + 28 * 28 * 4
    assert by_name["Dense_0"].parameters == 28 * 28 * 4 * 10 + 10
    assert table.parameters == sum(r.parameters for r in table.rows if r.depth == 0)
    lines = str(table).splitlines()
    assert lines[2].split()[:5] == ["c1", "Conv", "28×28×6", "156", "122,304"]
    assert lines[-1].startswith("total")


def test_summary_of_a_layer_that_keeps_its_parameters_its_own_way():
    """Which of them are a child's is told by the names of the children, where the tree has those; else by the child."""
    conv, norm = layers.Conv(4, 3), layers.BatchNorm()
    same = layers.Layer(conv.init, conv.apply, "same", children=(("inside", conv),))
    nested = layers.Sequential(conv, layers.Residual(conv, norm), name="nested")
    rows = jconv.summary(layers.Sequential(same, nested), (-1, 6, 4)).rows
    counts = [(row.name, row.depth, row.parameters) for row in rows]
    assert counts == [
        ("same", 0, 52), ("inside", 1, 52), ("nested", 0, 112), ("Conv_0", 1, 52), ("Residual_0", 1, 60),
        ("body", 2, 60), ("Conv_0", 3, 52), ("BatchNorm_0", 3, 8), ("shortcut", 2, 0),
    ]  # fmt: skip


def test_fields_through_dilated_images_and_transposed_convolutions():
    fields = lambda *net: [row.receptive_field[0] for row in jconv.summary(layers.Sequential(*net), (1, 30, 1)).rows]
    # of an image with 2 zeros after each element, 4 neighbours hold at most 2 elements, and so do 5; 8 hold 3
    stretched = layers.Conv(2, 4, input_dilation=3)
    assert fields(stretched, layers.Conv(2, 2), layers.Conv(2, 4)) == [2, 2, 3]
    up = layers.ConvTranspose(
        2, 3, strides=2
    )  # an output meets 2 elements or 1, two neighbours meet 2, three at most 3
    assert fields(up, layers.Conv(2, 2), layers.Conv(2, 2)) == [2, 2, 3]


def seen_by_an_output(net, size):
    """The widest row of the Jacobian of a network of one channel, all of whose weights are positive."""
    params, state = net.init(key, (1, size, 1))
    params = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.1, params)
    rows = jax.jacobian(lambda x: net.apply(params, state, x)[0].ravel())(jnp.ones((1, size, 1)))
    places = [np.flatnonzero(row) for row in np.asarray(rows).reshape(-1, size)]
    return max(row[-1] - row[0] + 1 for row in places if row.size)


@pytest.mark.parametrize(("net", "field"), [
    ([layers.Conv(1, 5, strides=2), layers.ConvTranspose(1, 4, strides=2)], 7),
    ([layers.ConvTranspose(1, 3, strides=2), layers.ConvTranspose(1, 3, strides=2), layers.Conv(1, 2)], 2),
    ([layers.Conv(1, 3, input_dilation=3, strides=2), layers.AvgPool(2), layers.ConvTranspose(1, 2, strides=3)], 2),
    ([layers.ConvTranspose(1, 2, strides=3, kernel_dilation=2), layers.Conv(1, 3, strides=2)], 2),
    ([layers.Conv(1, 2, padding=[(3, 0)]), layers.Residual(layers.Conv(1, 3, padding=[(6, -4)]))], 8),
])  # fmt: skip
def test_a_receptive_field_is_what_an_output_sees_at_most(net, field):
    net = layers.Sequential(*net)
    last = [row for row in jconv.summary(net, (1, 40, 1)).rows if row.depth == 0][-1]
    assert (last.receptive_field, seen_by_an_output(net, 40)) == ((field,), field)


def test_a_network_that_makes_space_out_of_features_is_summed_up():
    square = lambda params, state, x, *, train=False, key=None: (x.reshape(-1, 2, 2, 3), state)
    net = layers.Sequential(
        layers.Dense(12), layers.Layer(lambda key, shape: ({}, {}), square), layers.ConvTranspose(4, 2, strides=2)
    )
    assert jconv.summary(net, (-1, 5)).rows[-1].output_shape == (-1, 4, 4, 4)


@pytest.mark.parametrize(("name", "std", "law"), [
    ("glorot_uniform", math.sqrt(2 / (36 + 108)), "uniform"),
    ("glorot_normal", math.sqrt(2 / (36 + 108)), "truncated"),
    ("he_uniform", math.sqrt(2 / 36), "uniform"),
    ("he_normal", math.sqrt(2 / 36), "truncated"),
    ("lecun_uniform", math.sqrt(1 / 36), "uniform"),
    ("lecun_normal", math.sqrt(1 / 36), "truncated"),
    ("xavier_normal", math.sqrt(2 / (36 + 216)), "normal"),  # as PyTorch counts, which does not know of groups
    ("kaiming_normal", math.sqrt(2 / 36), "normal"),
    ("torch_default", 1 / math.sqrt(3 * 36), "uniform"),
])  # fmt: skip
def test_initializers_have_the_distribution_that_they_name(name, std, law):
    # [3, 3, 4, 24] in 2 groups: 36 inputs an output, 9 * 24 / 2 = 108 outputs an input
    init = getattr(initializers, name)()
    keys = jax.random.split(key, 40)
    values = np.ravel(jax.vmap(lambda k: init(k, (3, 3, 4, 24), feature_group_count=2))(keys)).astype(float)
    cut = 2 / 0.8796256610342398
    distribution = {
        "uniform": stats.uniform(-math.sqrt(3) * std, 2 * math.sqrt(3) * std),
        "normal": stats.norm(scale=std),
        "truncated": stats.truncnorm(-2, 2, scale=std * cut / 2),
    }[law]
    assert abs(distribution.std() - std) < 1e-6 * std
    assert stats.kstest(values, distribution.cdf).pvalue > 1e-4


def test_initializers_agree_with_jax_without_groups():
    for name in ("glorot_uniform", "he_normal", "lecun_normal"):
        want = getattr(jax.nn.initializers, name)()(key, (3, 3, 4, 8), jnp.float32)
        np.testing.assert_allclose(getattr(initializers, name)()(key, (3, 3, 4, 8)), want, rtol=1e-5, atol=1e-7)


def test_fans_know_groups_and_transposition():
    assert initializers.fans((5, 5, 1, 6)) == (25, 150)
    assert initializers.fans((3, 3, 2, 8), feature_group_count=4) == (18, 18)
    assert initializers.fans((4, 4, 3, 16), transposed=True) == (256, 48)
    # a depthwise layer draws as wide as a layer of one channel
    params, _ = layers.DepthwiseConv(3, kernel_init=initializers.he_uniform()).init(key, (1, 8, 8, 512))
    assert 0.99 < np.abs(params["kernel"]).max() / math.sqrt(6 / 9) <= 1
    # jax's own initializers can be passed too
    assert layers.Conv(4, 3, kernel_init=jax.nn.initializers.orthogonal()).init(key, IMAGE)[0]["kernel"].shape == (
        3,
        3,
        4,
        4,
    )


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_what_has_pytorchs_name_counts_fans_as_pytorch(groups, transposed):
    """`_calculate_fan_in_and_fan_out` of torch: weight.size(1) and size(0), times the window; kaiming with a = sqrt(5)."""
    make = layers.ConvTranspose if transposed else layers.Conv
    size = (6, 8 // groups, 2, 3) if transposed else (8, 6 // groups, 2, 3)  # torch's weight: [in, out / groups, ...]
    fan_in, fan_out = size[1] * 6, size[0] * 6
    init = initializers.torch_default()
    layer = make(8, (2, 3), feature_group_count=groups, kernel_init=init, bias_init=init)
    drawn = jax.vmap(lambda k: layer.init(k, (1, 8, 8, 6))[0])(jax.random.split(key, 100))
    gain = math.sqrt(2 / (1 + 5))
    for name, limit in (("kernel", gain * math.sqrt(3 / fan_in)), ("bias", 1 / math.sqrt(fan_in))):
        assert 0.98 * limit < np.abs(drawn[name]).max() <= limit * (1 + 1e-6)
    for name, std in (("kaiming_normal", math.sqrt(2 / fan_in)), ("xavier_normal", math.sqrt(2 / (fan_in + fan_out)))):
        layer = make(8, (2, 3), feature_group_count=groups, kernel_init=getattr(initializers, name)())
        kernels = jax.vmap(lambda k, layer=layer: layer.init(k, (1, 8, 8, 6))[0]["kernel"])(jax.random.split(key, 100))
        assert abs(np.std(kernels) / std - 1) < 0.05


@needs_torch
def test_torch_default_has_torchs_range_for_kernel_and_bias():
    torch.manual_seed(0)
    theirs = torch.nn.Conv2d(16, 64, 3, groups=2)
    layer = layers.Conv(
        64, 3, feature_group_count=2, kernel_init=initializers.torch_default(), bias_init=initializers.torch_default()
    )
    ours, _ = layer.init(key, (1, 8, 8, 16))
    limit = 1 / math.sqrt(8 * 9)
    for a in (theirs.weight.detach().numpy(), np.asarray(ours["kernel"])):
        assert 0.99 * limit < np.abs(a).max() <= limit * (1 + 1e-6)
    for a in (theirs.bias.detach().numpy(), np.asarray(ours["bias"])):
        assert 0.8 * limit < np.abs(a).max() <= limit * (1 + 1e-6)


# The tables of docs/porting.md -----------------------------------------------------------------------------
def defaults(function, **names):
    parameters = inspect.signature(function).parameters
    return {own: parameters[there].default for own, there in names.items()}


@pytest.mark.standard_modes  # Flax promotes by itself
def test_defaults_of_other_libraries():
    own = lambda make: defaults(make, epsilon="epsilon")["epsilon"]
    norms = layers.BatchNorm, layers.LayerNorm, layers.GroupNorm
    assert ([own(make) for make in norms], defaults(norms[0], m="momentum")["m"]) == ([1e-5, 1e-6, 1e-6], 0.99)
    nn = pytest.importorskip("flax.linen")
    assert [own(getattr(nn, make.__name__)) for make in norms] == [own(make) for make in norms]
    assert defaults(nn.BatchNorm, m="momentum")["m"] == 0.99
    assert defaults(nn.avg_pool, count="count_include_pad")["count"] is True
    assert nn.avg_pool(jnp.ones((1, 4, 1)), (2,)).shape == (1, 3, 1)
    assert defaults(nn.gelu, a="approximate")["a"] is True
    eqx, hk = pytest.importorskip("equinox"), pytest.importorskip("haiku")
    for make in norms:
        for library in (eqx.nn, hk):
            assert defaults(getattr(library, make.__name__), e="eps")["e"] == 1e-5
    assert defaults(eqx.nn.BatchNorm, m="momentum")["m"] == 0.99


@pytest.mark.standard_modes  # Keras promotes by itself
def test_what_keras_does_by_default():
    keras = pytest.importorskip("keras")
    K = keras.layers
    for there in (K.BatchNormalization, K.LayerNormalization, K.GroupNormalization):
        assert defaults(there.__init__, e="epsilon")["e"] == 1e-3
    assert defaults(K.BatchNormalization.__init__, m="momentum")["m"] == 0.99
    assert defaults(K.LeakyReLU.__init__, s="negative_slope")["s"] == 0.3
    assert defaults(keras.activations.gelu, a="approximate")["a"] is False
    x = draw((2, 5, 4, 3))
    pool = layers.AvgPool(3, strides=2, padding="SAME", count_include_pad=False)
    want = K.AveragePooling2D(3, strides=2, padding="same")(x)
    np.testing.assert_allclose(pool.apply({}, {}, x)[0], want, rtol=1e-5, atol=1e-6)
    whole = np.array([[0, 0], [3, 7], [1, 2]], np.int32)
    for dtype in (np.int32, np.uint8, np.bool_):
        norm = K.BatchNormalization(epsilon=1e-5)
        want = norm(whole.astype(dtype), training=True)
        layer = layers.BatchNorm()
        y, state = layer.apply(*layer.init(key, (None, 2)), whole.astype(dtype), train=True)
        np.testing.assert_allclose(y, want, rtol=1e-5)
        np.testing.assert_allclose(state["var"], norm.moving_variance, rtol=1e-5)


@needs_torch
def test_what_pytorch_does_by_default():
    norm = torch.nn.BatchNorm1d(3)
    assert (norm.momentum, norm.eps) == (0.1, 1e-5)
    x = draw((10, 3))
    norm(torch.from_numpy(x))
    layer = layers.BatchNorm(momentum=0.9)
    _, state = layer.apply(*layer.init(key, x.shape), x, train=True)
    np.testing.assert_allclose(state["mean"], norm.running_mean.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(0.9 + (state["var"] - 0.9) * 10 / 9, norm.running_var.numpy(), rtol=1e-5)
    x = draw((2, 4, 5, 3))
    first = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    y, _ = layers.GroupNorm(1, epsilon=1e-5).apply({"scale": jnp.ones(3), "bias": jnp.zeros(3)}, {}, x)
    want = np.moveaxis(torch.nn.functional.layer_norm(first, (3, 4, 5)).numpy(), 1, -1)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    pool = layers.AvgPool(3, strides=2, padding=1)
    want = np.moveaxis(torch.nn.functional.avg_pool2d(first, 3, 2, 1).numpy(), 1, -1)
    np.testing.assert_allclose(pool.apply({}, {}, x)[0], want, rtol=1e-5, atol=1e-6)


def test_group_norm_of_one_axis():
    layer = layers.GroupNorm(3)
    params, state = layer.init(jax.random.key(0), (6,))
    y, _ = layer.apply(params, state, jnp.arange(6.0))
    np.testing.assert_allclose(y, [-1, 1] * 3, atol=1e-4)
