"""Streams: any cut into pieces gives what the whole convolution gives, and so do the derivatives."""

import dataclasses
import functools
import itertools
import pickle

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jconv
from jconv import layers
from jconv.layers import Activation, Conv, Dense, DepthwiseConv, LayerNorm, Parallel, Residual, Sequential, Streaming
from tests import oracle
from tests.cases import draw

GEOMETRIES = [
    ((2, 23, 3), (4, 3, 5), {}),
    ((2, 23, 4), (3, 2, 6), {"strides": 2, "kernel_dilation": 3, "feature_group_count": 2}),
    ((23, 4), (5, 1, 8), {"strides": 3, "feature_group_count": 4}),
    ((1, 23, 2), (1, 2, 3), {"strides": 4}),
    ((2, 5, 23, 2), (3, 2, 2, 3), {"strides": (2, 3), "kernel_dilation": (1, 2)}),
    ((1, 4, 23, 2), (3, 3, 2, 3), {"padding": ("VALID", "CAUSAL")}),
]
CUTS = [(1,) * 23, (23,), (5, 0, 7, 1, 1, 9), (2, 3, 18), (0, 0, 22, 1)]


def pieces_of(x, cut):
    return jnp.split(x, np.cumsum(cut)[:-1], axis=-2)


def run(stream, state, pieces):
    ys = []
    for piece in pieces:
        state, y = stream.step(state, piece)
        ys.append(y)
    return state, jnp.concatenate(ys, axis=-2)


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize(("x", "kernel", "options"), GEOMETRIES)
def test_pieces_give_what_the_whole_gives(x, kernel, options, cut):
    x, kernel, bias = draw(x), draw(kernel, seed=1), draw(kernel[-1:], seed=2)
    options = {"padding": "CAUSAL"} | options

    @jax.jit
    def both(x):
        stream = jconv.stream(kernel, bias, activation="tanh", **options)
        whole = jconv.conv(x, kernel, bias, activation="tanh", **options)
        return whole, run(stream, stream.init(x.shape), pieces_of(x, cut))

    whole, (state, got) = both(x)
    np.testing.assert_allclose(got, whole, rtol=2e-6, atol=2e-6)
    assert state.phase == 23 % np.atleast_1d(options.get("strides", 1))[-1]
    # and by the definition
    spec = jconv.ConvSpec((1, *x.shape) if len(x.shape) == 2 else x.shape, kernel.shape, **options)
    geometry = {n: getattr(spec, n) for n in ("strides", "padding", "input_dilation", "kernel_dilation")}
    want = oracle.forward(x.reshape(spec.x_shape), kernel, groups=spec.feature_group_count, **geometry)
    np.testing.assert_allclose(got.reshape(want.shape), np.tanh(want + bias), rtol=1e-5, atol=1e-5)


def test_a_scan_and_its_derivatives():
    x, kernel, bias = draw((2, 24, 3)), draw((3, 3, 4), seed=1), draw((4,), seed=2)
    options = {"strides": 2, "kernel_dilation": 2}

    def scanned(x, kernel, bias):
        stream = jconv.stream(kernel, bias, activation="silu", **options)
        pieces = jnp.moveaxis(x.reshape(2, 6, 4, 3), 1, 0)
        _, ys = jax.lax.scan(stream.step, stream.init((2, 4, 3)), pieces)
        return jnp.moveaxis(ys, 0, 1).reshape(2, 12, 4)

    def whole(x, kernel, bias):
        return jconv.conv(x, kernel, bias, activation="silu", padding="CAUSAL", **options)

    def everything(fn):
        loss = lambda *args: jnp.sum(jnp.sin(fn(*args)))
        second = jax.jvp(jax.grad(loss, (0, 1, 2)), (x, kernel, bias), (x, kernel, bias))[1]
        many = jax.vmap(fn, (0, None, None))(jnp.stack([x, -x]), kernel, bias)
        return fn(x, kernel, bias), jax.grad(loss, (0, 1, 2))(x, kernel, bias), second, many

    got, want = jax.jit(lambda: [everything(fn) for fn in (scanned, whole)])()
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5), got, want)


def test_state_is_small_and_a_tree():
    stream = jconv.stream(jnp.ones((4, 1, 8)), feature_group_count=8, kernel_dilation=3, strides=2)
    state = stream.init((5, 1, 8))
    assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(5, 9, 8)]
    shapes = []
    for n in (1, 1, 4, 7):
        state, y = stream.step(state, jnp.ones((5, n, 8)))
        shapes.append(y.shape[1])
    assert shapes == [1, 0, 2, 4]  # of positions 0, none, 2 and 4, 6 to 12
    with pytest.raises(TypeError, match="carry"):  # a piece that is no multiple of the stride changes the structure
        jax.lax.scan(stream.step, stream.init((5, 1, 8)), jnp.ones((3, 5, 1, 8)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "complex64"])
def test_other_dtypes(dtype):
    x, kernel = draw((1, 9, 2), jnp.dtype(dtype)), draw((3, 2, 3), jnp.dtype(dtype), seed=1)
    stream = jconv.stream(kernel)
    _, y = run(stream, stream.init((1, 1, 2)), pieces_of(x, (4, 5)))
    want = jconv.conv(x, kernel, padding="CAUSAL")
    assert y.dtype == want.dtype
    np.testing.assert_array_equal(np.asarray(y), np.asarray(want)) if dtype == "int8" else np.testing.assert_allclose(
        np.asarray(y, "complex64"), np.asarray(want, "complex64"), rtol=2e-2, atol=2e-2
    )


def test_errors():
    kernel = jnp.ones((3, 2, 4))
    with pytest.raises(ValueError, match=r"kernel: got shape \(2, 4\), accepted are one spatial axis or more"):
        jconv.stream(kernel[0])
    with pytest.raises(ValueError, match=r"padding: got 'SAME', accepted is 'CAUSAL'"):
        jconv.stream(kernel, padding="SAME")
    stream = jconv.stream(kernel)
    with pytest.raises(ValueError, match=r"input_shape: got \(2,\), accepted is \[\*batch, \*spatial, in\] with 1"):
        stream.init((2,))
    state = stream.init((1, 1, 2))
    with pytest.raises(ValueError, match=r"x: got shape \(2, 1, 2\), accepted by this stream is \(1, n, 2\)"):
        stream.step(state, jnp.ones((2, 1, 2)))
    with pytest.raises(TypeError, match=r"x: got dtype bfloat16, accepted by this stream is its state's, float32"):
        stream.step(state, jnp.ones((1, 1, 2), jnp.bfloat16))


# Networks ------------------------------------------------------------------------------------------------
def wavenet(algorithm="auto", channels=8):
    """Gated, dilated, residual: van den Oord et al., 2016."""
    conv = lambda features, dilation, taps=2: Conv(
        features, taps, padding="CAUSAL", kernel_dilation=dilation, algorithm=algorithm
    )
    gate = lambda d, act: Sequential(conv(channels, d), Activation(act))
    blocks = [
        Residual(Parallel(gate(d, "tanh"), gate(d, "sigmoid"), combine="product"), conv(channels, 1, 1))
        for d in (1, 2, 4, 8, 16)
    ]
    return Sequential(conv(channels, 1), *blocks, Activation("relu"), Conv(1, 1, algorithm=algorithm))


def mamba(algorithm="auto", channels=8):
    """What surrounds the recurrence of Mamba's blocks: four causal taps a channel, silu and a gate; Gu and Dao, 2023."""
    conv = DepthwiseConv(4, padding="CAUSAL", algorithm=algorithm)
    gated = lambda: Parallel(
        Sequential(Dense(2 * channels), conv, Activation("silu")),
        Sequential(Dense(2 * channels), Activation("silu")),
        combine="product",
    )
    return Sequential(Dense(channels), *[Residual(LayerNorm(), gated(), Dense(channels)) for _ in range(3)], Dense(1))


@pytest.mark.parametrize("network", [wavenet, mamba])
def test_networks_generate_what_they_give_as_a_whole(network):
    """1,000 steps, each fed what the one before gave, in float64, equal the whole network on what they made."""
    with jax.enable_x64(True):
        net = network()
        params, _ = net.init(jax.random.key(0), jax.ShapeDtypeStruct((2, 1, 1), "float64"))
        params = jax.tree.map(lambda p: p.astype("float64"), params)
        piecewise = Streaming(net)
        _, empty = piecewise.init(jax.random.key(0), jax.ShapeDtypeStruct((2, 1, 1), "float64"))
        push = jnp.sin(jnp.arange(1000.0) / 7)

        def generate(params):
            def step(carry, extra):
                state, x = carry
                y, state = piecewise.apply(params, state, x)
                return (state, jnp.tanh(y) + extra), (x, y)

            _, (x, y) = jax.lax.scan(step, (empty, jnp.zeros((2, 1, 1))), push)
            return [jnp.moveaxis(v[:, :, 0], 0, 1) for v in (x, y)]

        x, y = jax.jit(generate)(params)
        want, _ = jax.jit(net.apply)(params, {}, x)
        assert np.abs(want).max() > 0.1
        np.testing.assert_allclose(y, want, rtol=1e-11, atol=1e-12)


def test_parameters_are_those_of_the_whole():
    net = wavenet()
    key = jax.random.key(3)
    (params, _), (own, state) = net.init(key, (1, 4, 1)), Streaming(net).init(key, (1, 1, 1))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params, own))
    assert jax.tree.structure(params) == jax.tree.structure(own)
    assert len(jax.tree.leaves(state)) == 17  # of each convolution, those of one tap too
    assert Streaming(net).output_shape((1, 3, 1)) == (1, 3, 1)


def test_strides_and_dtypes_of_networks():
    net = Sequential(Conv(4, 3, padding="CAUSAL", strides=2), Activation("gelu"), Conv(2, 3, padding="CAUSAL"))
    piecewise = Streaming(net)
    shape = jax.ShapeDtypeStruct((1, 2, 3), jnp.bfloat16)
    params, state = piecewise.init(jax.random.key(0), shape)
    x = draw((1, 12, 3), jnp.dtype("bfloat16"))
    ys = []
    for piece in pieces_of(x, (2, 6, 4)):
        y, state = piecewise.apply(params, state, piece)
        ys.append(y)
    want, _ = net.apply(params, {}, x)
    np.testing.assert_allclose(jnp.concatenate(ys, 1), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (Conv(3, 3), "got Conv with padding='SAME', accepted by Streaming is padding='CAUSAL'"),
        (Conv(3, (3, 2), padding=("CAUSAL", (0, 1))), r"got Conv with padding=\('CAUSAL', \(0, 1\)\), accepted"),
        (Conv(3, 3, padding="CAUSAL", padding_mode="circular"), "got Conv with padding_mode='circular', accepted"),
        (Conv(3, 3, padding="CAUSAL", input_dilation=2), "got Conv with input_dilation=2, accepted"),
        (Sequential(Conv(3, 3, padding="CAUSAL"), layers.MaxPool(2)), "got MaxPool, which looks at more than one"),
        (layers.GroupNorm(1), "got GroupNorm, which looks at more than one position"),
        (layers.ConvLocal(3, 3), "got ConvLocal"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_is_not_causal_is_refused(layer, why):
    with pytest.raises(ValueError, match=why):
        Streaming(layer)


def test_a_stream_needs_a_batch():
    layer = Streaming(Conv(3, 3, padding="CAUSAL"))
    with pytest.raises(
        ValueError, match=r"input_shape: got \(-1, 1, 2\), accepted by Conv in Streaming is .* a number"
    ):
        layer.init(jax.random.key(0), (-1, 1, 2))
    with pytest.raises(TypeError, match="layer: got 3, accepted is a Layer"):
        Streaming(3)
    params, _ = layer.init(jax.random.key(0), (1, 1, 2))
    with pytest.raises(ValueError, match="state: got .*, accepted by Conv is a dict with 'stream'"):
        layer.apply(params, {}, jnp.ones((1, 1, 2)))


def test_bits():
    """In float64 by one plan, pieces give the bits of the whole: a sum is in the same order wherever it is cut."""
    with jax.enable_x64(True):
        x, kernel = draw((1, 64, 8), "float64"), draw((4, 1, 8), "float64", seed=1)
        stream = jconv.stream(kernel, feature_group_count=8, algorithm="shift")
        cuts = itertools.chain([(1,) * 64], [(5, 59), (32, 32)])
        whole = np.asarray(jax.jit(lambda x: jconv.conv(
            x, kernel, feature_group_count=8, padding="CAUSAL", algorithm="shift"))(x))  # fmt: skip
        for cut in cuts:
            _, y = jax.jit(lambda x, cut=cut: run(stream, stream.init((1, 1, 8)), pieces_of(x, cut)))(x)
            np.testing.assert_array_equal(y, whole)


@pytest.mark.parametrize("layer", [
    Conv(3, 1, padding=0), Conv(2, (3, 1), padding="SAME"), Conv(2, (3, 1), padding="VALID"),
    Conv(2, 1, padding="SAME"), Conv(2, (3, 2), padding=("VALID", (1, 0))),
    DepthwiseConv((1, 3), padding=[0, (4, 0)], kernel_dilation=2),
])  # fmt: skip
def test_what_is_causal_by_its_numbers_streams(layer):
    x = draw((1, 4, 7, 2))
    params, state = Streaming(layer).init(jax.random.key(0), (1, 4, 1, 2))
    ys = []
    for piece in pieces_of(x, (2, 5)):
        y, state = Streaming(layer).apply(params, state, piece)
        ys.append(y)
    want, _ = layer.apply(params, {}, x)
    np.testing.assert_allclose(jnp.concatenate(ys, axis=2), want, rtol=1e-5, atol=1e-5)


def test_what_was_replaced_is_not_streamed_as_if_it_were_not():
    conv = Conv(2, 3, padding="CAUSAL", name="mine")
    assert Streaming(conv).name == "mine"
    twice = dataclasses.replace(conv, apply=lambda *args, **options: (2 * conv.apply(*args, **options)[0], {}))
    with pytest.raises(ValueError, match="layer: got Conv, which looks at more than one position"):
        Streaming(Sequential(twice))
    assert pickle.loads(pickle.dumps(Streaming(conv))).name == "mine"


def test_integers_in_a_network():
    """What is a float of integers is a step of its own, as before it was fused."""
    x, kernel = draw((1, 5, 2), "int8"), draw((1, 2, 3), "int8", seed=1)
    net = Sequential(Conv(3, 1, use_bias=False), Activation("tanh"))
    y, _ = net.apply({"Conv_0": {"kernel": kernel}}, {}, x)
    np.testing.assert_allclose(y, np.tanh(np.asarray(jconv.conv(x, kernel), np.float32)), rtol=1e-6)


@pytest.mark.two_devices
def test_a_stream_on_an_explicit_mesh():
    kernel, x = draw((3, 2, 4)), draw((4, 6, 2), seed=1)
    want = np.asarray(jconv.conv(x, kernel, padding="CAUSAL", strides=4))
    stream, P = jconv.stream(kernel, strides=4), jax.sharding.PartitionSpec
    with jax.set_mesh(jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))):
        state, pieces = jax.device_put((stream.init((4, 1, 2)), pieces_of(x, (1, 2, 3))), P("d"))
        _, ys = jax.jit(functools.partial(run, stream))(state, pieces)
        assert jax.typeof(ys).sharding.spec[0] == "d"
    np.testing.assert_allclose(ys, want, rtol=1e-5, atol=1e-5)
