"""Bias and activation in one pass: values and derivatives of every order are those of the separate steps."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jconv
from jconv import layers
from jconv._algorithms import ALGORITHMS
from jconv._algorithms._activations import ACTIVATIONS
from jconv._algorithms.base import Call
from jconv._plan import refusal
from tests import oracle
from tests.cases import draw
from tests.numerics import UNIT

HAS_ONEDNN = "onednn" in jconv.algorithms()
X, K, B = draw((2, 7, 6, 4)), draw((3, 2, 2, 6), seed=1), draw((6,), seed=2)
OPTIONS = {"strides": (1, 2), "padding": (1, 1), "feature_group_count": 2}
NAMES = ["xla", "matmul", "shift", "unfold+xla", "group+matmul", *(["onednn", "unfold+onednn"] if HAS_ONEDNN else [])]
close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)


def reference(x, k, b=None, activation=None):
    """The steps one by one, in jax's own operations."""
    y = jax.lax.conv_general_dilated(
        x, k, (1, 2), ((1, 1), (1, 1)), feature_group_count=2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = y if b is None else y + jnp.broadcast_to(b, y.shape)
    return getattr(jax.nn, activation)(y) if activation else y


def finished(x, k, b=None, activation=None, algorithm="auto"):
    return jconv.conv(x, k, b, **OPTIONS, activation=activation, algorithm=algorithm)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("algorithm", NAMES)
def test_every_plan_gives_the_definition(algorithm, dtype):
    call = Call(jconv.ConvSpec(X.shape, K.shape, **OPTIONS), "forward", jnp.dtype(dtype), jnp.dtype(dtype), None, "cpu")
    if why := refusal(algorithm, call):
        assert "onednn" in algorithm  # which takes what the processor has instructions for
        pytest.skip(why)
    operands = [np.asarray(a, jnp.dtype(dtype)) for a in (X, K, B)]
    x, k, b = (np.asarray(a, np.float64) for a in operands)
    geometry = {"strides": (1, 2), "padding": ((1, 1),) * 2, "groups": 2}
    geometry |= {"input_dilation": (1, 1), "kernel_dilation": (1, 1)}
    sums, magnitude = oracle.forward(x, k, **geometry), oracle.forward(abs(x), abs(k), **geometry) + abs(b)
    # The sum is rounded, and then again with the bias added, where that is a step of its own.
    bound = UNIT[dtype] * (abs(sums) + abs(sums + b)) + 20 * UNIT["float32"] * magnitude
    for activation, want in ((None, sums + b), ("relu", np.maximum(sums + b, 0))):
        y = jax.jit(functools.partial(finished, activation=activation, algorithm=algorithm))(*operands)
        assert y.dtype == dtype
        assert (abs(np.asarray(y, np.float64) - want) <= bound).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_those_of_jax(activation):
    """Values, and derivatives up to the third, of each dtype; beyond what is finite elsewhere they stay finite."""
    u = np.concatenate([np.linspace(-9, 9, 64), [-1e3, 1e3, 0.3]])
    x, k = u.reshape(1, -1, 1), np.ones((1, 1, 1))

    def both(u, dtype):
        own = lambda u: jconv.conv(u.reshape(x.shape), k.astype(dtype), activation=activation)[0, :, 0]
        slope = lambda fn: lambda u: jax.jvp(fn, (u,), (jnp.ones_like(u),))[1]
        for fn in (own, getattr(jax.nn, activation)):
            yield [f(u) for f in (fn, slope(fn), slope(slope(fn)), slope(slope(slope(fn))))]

    with jax.enable_x64(True):
        got, want = jax.jit(lambda u: list(both(u, "float64")))(u)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), got, want)
    for dtype in ("float32", "bfloat16", "float16"):
        wide = [np.asarray(v) for v in want[:2]]
        short, _ = jax.jit(lambda u, dtype=dtype: list(both(u, dtype)))(u.astype(jnp.dtype(dtype)))
        unit = float(jnp.finfo(dtype).eps)
        for a, b in zip(short[:2], wide, strict=True):
            assert a.dtype == dtype
            np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=6 * unit, atol=20 * unit)


def test_activations_of_integers():
    x, k = draw((1, 9, 1), "int8"), draw((3, 1, 1), "int8", seed=1)
    y = np.asarray(jconv.conv(x, k))
    np.testing.assert_array_equal(jconv.conv(x, k, activation="relu6"), np.clip(y, 0, 6))
    with pytest.raises(
        TypeError, match=r"activation: got 'silu' for a result of int32, accepted are \('relu', 'relu6'\)"
    ):
        jconv.conv(x, k, activation="silu")


@pytest.mark.parametrize("algorithm", ["xla", *(["onednn"] if HAS_ONEDNN else [])])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_derivatives(activation, algorithm):
    here = functools.partial(finished, activation=activation, algorithm=algorithm)
    there = functools.partial(reference, activation=activation)
    tangents = draw(X.shape, seed=3), draw(K.shape, seed=4), draw(B.shape, seed=5)
    primals = X, K, B
    loss = lambda fn: lambda *args: jnp.sum(jnp.sin(fn(*args)))
    some = draw((3, 4), seed=6)

    def every(fn, x, k, b, tangents):
        first = [jax.jvp(fn, (x, k, b), tangents)]
        first += [jax.grad(loss(fn), argnums)(x, k, b) for argnums in ((0,), (1,), (2,), (0, 1, 2))]
        second = jax.jvp(jax.grad(loss(fn), (0, 1, 2)), (x, k, b), tangents)[1]
        wrapped = jax.checkpoint(fn) if fn is here else fn
        checkpointed = jax.grad(lambda k: jnp.sum(some) + loss(wrapped)(x, k, b))(k)
        return first, second, jax.hessian(lambda b: loss(fn)(x, k, b))(b), checkpointed

    both = jax.jit(lambda *args: [every(fn, *args) for fn in (here, there)])
    (first, second, hessian, checkpointed), want = both(*primals, tangents)
    jax.tree.map(close, first, want[0])
    jax.tree.map(functools.partial(close, rtol=2e-4, atol=2e-4), second, want[1])
    close(hessian, want[2], rtol=1e-4, atol=1e-4)
    close(checkpointed, want[3])
    if activation and algorithm == "xla":  # and without jit
        jax.tree.map(close, jax.jvp(here, primals, tangents), want[0][0])


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_vmap_over_any_of_the_three(activation):
    many = [np.stack([a, 2 * a, -a]) for a in (X, K, B)]
    here, there = (functools.partial(fn, activation=activation) for fn in (finished, reference))
    every = [axes for axes in itertools.product((0, None), repeat=3) if set(axes) != {None}]

    def batched(fn, many):
        for axes in every:
            yield jax.vmap(fn, axes)(*(m if axis == 0 else m[0] for m, axis in zip(many, axes, strict=True)))
        yield jax.vmap(jax.grad(lambda k, x: jnp.sum(fn(x, k, B) ** 2)), (None, 0))(K, many[0])

    got, want = jax.jit(lambda many: [list(batched(fn, many)) for fn in (here, there)])(many)
    jax.tree.map(close, got[:-1], want[:-1])
    close(got[-1], want[-1], rtol=1e-4, atol=1e-4)


def test_what_is_linear_is_transposed():
    """In x and the bias together, as a sum of the two is."""
    ct = draw(np.asarray(reference(X, K)).shape, seed=7)
    here, there = (
        jax.linear_transpose(lambda x, b, fn=fn: fn(x, K, b), X, B)(jnp.asarray(ct)) for fn in (finished, reference)
    )
    jax.tree.map(close, here, there)


def primitives(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            if hasattr(inner, "eqns"):
                yield from primitives(getattr(inner, "jaxpr", inner))


def test_nothing_is_computed_for_what_is_not_differentiated():
    """The gradient for the kernel: one forward pass and one kernel gradient, no convolution with zeros."""
    jaxpr = jax.make_jaxpr(jax.grad(lambda k: jnp.sum(finished(X, k, B, "relu"))))(K)
    assert [name for name in primitives(jaxpr) if name.startswith("jconv")] == ["jconv_finished", "jconv"]


@pytest.mark.two_devices
def test_two_devices_and_explicit_meshes():
    devices, whole, spread = np.array(jax.devices()[:2]), PartitionSpec(), PartitionSpec("d")
    loss = lambda x, k, b, fn=finished: jnp.sum(fn(x, k, b, "relu") ** 2)
    want = jax.grad(functools.partial(loss, fn=reference), (1, 2))(X, K, B)
    grads = lambda x, k, b: jax.grad(lambda k, b: jax.lax.psum(loss(x, k, b), "d"), (0, 1))(k, b)
    shared = jax.shard_map(grads, mesh=Mesh(devices, "d"), in_specs=(spread, whole, whole), out_specs=whole)
    jax.tree.map(functools.partial(close, rtol=1e-4, atol=1e-4), jax.jit(shared)(X, K, B), want)
    mesh = Mesh(devices, "d", axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, spread))
        k, b = (jax.device_put(a, NamedSharding(mesh, whole)) for a in (K, B))
        close(jax.jit(functools.partial(finished, activation="relu"))(x, k, b), reference(X, K, B, "relu"))
        got = jax.jit(jax.grad(loss, (1, 2)))(x, k, b)
    jax.tree.map(functools.partial(close, rtol=1e-4, atol=1e-4), got, want)


def test_export_for_other_platforms_and_empty_batches():
    fn = jax.jit(functools.partial(finished, activation="relu"))
    exported = jax.export.export(fn, platforms=("cpu", "cuda", "tpu"))(X, K, B)
    close(jax.export.deserialize(exported.serialize()).call(X, K, B), reference(X, K, B, "relu"))
    assert fn(X[:0], K, B).shape == (0, *reference(X, K).shape[1:])


def test_bad_input():
    with pytest.raises(ValueError, match=r"activation: got 'rleu', accepted is None, .*'relu'"):
        finished(X, K, B, "rleu")
    with pytest.raises(ValueError, match=r"bias: got shape \(5,\), accepted is \(6,\)"):
        finished(X, K, B[:5], "relu")
    with pytest.raises(TypeError, match=r"bias: got dtype float32 for a result of bfloat16"):
        finished(jnp.asarray(X, jnp.bfloat16), jnp.asarray(K, jnp.bfloat16), jnp.asarray(B), "relu")


# Who finishes --------------------------------------------------------------------------------------------
@pytest.fixture
def finisher():
    """An algorithm that finishes, and tells what it was asked for."""
    asked = []

    def run(x, kernel, call, finish):
        asked.append((finish.bias is not None, finish.activation))
        if finish.activation is None:
            return None
        y = ALGORITHMS["xla"].forward(x, kernel, call)
        return jnp.maximum(y if finish.bias is None else y + jnp.broadcast_to(finish.bias, y.shape), 0)

    ALGORITHMS["finisher"] = dataclasses.replace(ALGORITHMS["xla"], name="finisher", finished=run)
    yield asked
    del ALGORITHMS["finisher"]


def test_an_algorithm_finishes_where_it_can(finisher):
    """Behind a reduction too, if that leaves the result alone; what it declines is done after it."""
    jax.clear_caches()
    for algorithm, args, expected in [
        ("finisher", (B, "relu"), [(True, "relu")]),
        ("finisher", (None, "relu"), [(False, "relu")]),
        ("finisher", (B, None), [(True, None)]),  # declined
        ("finisher", (None, None), []),
        ("unfold+finisher", (B, "relu"), [(True, "relu")]),
        ("split+finisher", (B, "relu"), []),  # each of its parts has some of the channels
    ]:
        finisher.clear()
        close(jax.jit(lambda x, k, a=args, n=algorithm: finished(x, k, *a, n))(X, K), reference(X, K, *args))
        assert finisher == expected, algorithm


def test_sequential_lets_the_convolution_apply_the_relu_that_follows():
    key = jax.random.key(0)
    net = layers.Sequential(
        layers.Conv(6, 3), layers.Activation("relu"), layers.DepthwiseConv(3), layers.Activation(jnp.tanh)
    )
    params, state = net.init(key, X.shape)
    jaxpr = jax.make_jaxpr(lambda p, x: net.apply(p, state, x)[0])(params, X)
    assert "max" not in set(primitives(jaxpr))
    y, x = net.apply(params, state, X)[0], X
    for name, layer in net.children:
        x, _ = layer.apply(params.get(name, {}), {}, x)
    close(y, x)


def fused(net):
    params, state = jax.eval_shape(lambda key: net.init(key, X.shape), jax.random.key(0))
    return "max" not in set(primitives(jax.make_jaxpr(lambda p, s, x: net.apply(p, s, x)[0])(params, state, X)))


def test_what_may_apply_the_relu_that_follows():
    relu = layers.Activation(jax.nn.relu)
    for layer in (layers.Conv(6, 3), layers.Dense(6), layers.DepthwiseConv(3), layers.SeparableConv(6, 3)):
        for named in (layer, dataclasses.replace(layer, name="stem")):
            assert fused(layers.Sequential(named, relu))
    assert fused(layers.Sequential(layers.Sequential(layers.BatchNorm(), layers.Conv(6, 3)), relu))
    assert not fused(layers.Sequential(layers.Sequential(layers.Conv(6, 3), layers.BatchNorm()), relu))
    for layer in (layers.ConvLocal(6, 3), layers.ConvTranspose(6, 3), layers.Residual(layers.Conv(4, 3))):
        assert not fused(layers.Sequential(layer, relu))
    same = layers.Conv(4, 3)  # twice, of which only the last is followed by the relu
    net = layers.Sequential(layers.Sequential(same, layers.Activation("tanh"), same), relu)
    params, _ = net.init(jax.random.key(0), X.shape)
    x = X
    for name in ("Conv_0", "Conv_1"):
        x, _ = same.apply(params["Sequential_0"][name], {}, x)
        x = jnp.tanh(x) if name == "Conv_0" else jax.nn.relu(x)
    close(net.apply(params, {}, X)[0], x)


def test_what_is_put_in_the_place_of_a_function_is_called():
    """Whether or not it takes over the attributes of the function it wraps; what it does then is done in its place."""
    conv, relu = layers.Conv(6, 3), layers.Activation("relu")
    params, _ = layers.Sequential(conv, relu).init(jax.random.key(0), X.shape)
    want = conv.apply(params["Conv_0"], {}, X)[0]

    def negated(apply):
        @functools.wraps(apply)
        def wrapper(*args, **options):
            y, state = apply(*args, **options)
            return -y, state

        return wrapper

    for wrapped, then in (
        ((conv, negated), lambda y: jnp.maximum(-y, 0)),
        ((relu, negated), lambda y: -jnp.maximum(y, 0)),
    ):
        layer, wrap = wrapped
        other = dataclasses.replace(layer, apply=wrap(layer.apply))
        assert other.epilogue is None
        pair = (other, relu) if layer is conv else (conv, other)
        net = layers.Sequential(*(dataclasses.replace(v, name=n) for v, n in zip(pair, ("Conv_0", "end"), strict=True)))
        close(net.apply(params, {}, X)[0], then(want))

    def noted(params, state, x, *, train=False, key=None, activation=None):  # which says that it applies it last
        return conv.apply(params, state, x, activation=activation)

    says = layers.Epilogue(noted, takes_activation=True)
    assert fused(layers.Sequential(dataclasses.replace(conv, apply=noted, epilogue=says), relu))


@pytest.mark.non_finite
@pytest.mark.skipif(not HAS_ONEDNN, reason="the oneDNN plug-in is not loaded")
@pytest.mark.parametrize("groups", [1, 16])
def test_onednn_keeps_nan(groups):
    """Its own relu would make it 0, and a diverging training look well."""
    x, k = draw((1, 6, 6, 16)), draw((3, 3, 16 // groups, 16), seed=1)
    x[0, 2, 2, 0] = np.nan
    run = lambda algorithm: jconv.conv(x, k, activation="relu", feature_group_count=groups, algorithm=algorithm)
    np.testing.assert_array_equal(np.isnan(run("onednn")), np.isnan(run("xla")))
    assert np.isnan(run("onednn")).any()
