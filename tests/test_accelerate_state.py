"""State that libraries keep beside arguments and results: `accelerate` carries it, or says what to write instead.

Whole trainings are in test_peer_programs.py; here are the corners.
"""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jconv import accelerate

pytestmark = pytest.mark.standard_modes  # which the libraries take for granted
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((2, 6, 6, 3)), jnp.float32)


def test_objects_of_nnx_as_functions_methods_and_arguments():
    nnx = pytest.importorskip("flax.nnx")

    class Counting(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=nnx.Rngs(0))
            self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

        def __call__(self, x):
            self.calls[...] += 1
            return self.norm(self.conv(x))

        @accelerate
        def fast(self, x):
            return self(x)

    want = Counting()
    y = want(X)
    for run in (
        lambda net: accelerate(net)(X),
        lambda net: accelerate(net.__call__)(X),
        lambda net: net.fast(X),
        lambda net: accelerate(lambda net, x: net(x))(net, X),
        lambda net: accelerate(nnx.jit(lambda nets, x: nets["a"](x)))({"a": net}, X),
        lambda net: nnx.jit(lambda net: accelerate(net)(X))(net),
    ):
        net = Counting()
        np.testing.assert_allclose(run(net), y, rtol=1e-5, atol=1e-5)
        assert int(net.calls[...]) == 1
        np.testing.assert_allclose(net.norm.mean[...], want.norm.mean[...], rtol=1e-5)
    net = Counting()
    assert [found.role for found in accelerate(net).replaced(X)] == ["forward"]
    assert int(net.calls[...]) == 0
    with pytest.raises(Exception, match="Cannot mutate"):  # Flax's own: it is no argument
        accelerate(lambda x: net(x))(X)


def test_what_nnx_makes_and_shares_comes_out():
    nnx = pytest.importorskip("flax.nnx")

    def grown(net, x):
        net.extra = nnx.Param(jnp.ones(2))
        return {"net": net, "made": nnx.Linear(3, 2, rngs=nnx.Rngs(0)), "y": net(x)}

    for wrap in (lambda fn: accelerate(nnx.jit(fn)), lambda fn: nnx.jit(accelerate(fn)), accelerate):
        net = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
        out = wrap(grown)(net, X)
        assert out["net"] is net
        assert net.extra.shape == (2,)
        assert out["made"](X).shape == (2, 6, 6, 2)


def keras_model(keras):
    if keras.backend.backend() != "jax":
        pytest.skip("keras is not on jax")
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization(momentum=0.5)
    return keras.Sequential([keras.Input(X.shape[1:]), keras.layers.Conv2D(4, 3), norm]), norm


def test_variables_of_keras_are_assigned():
    keras = pytest.importorskip("keras")
    (plain, want), (model, norm) = keras_model(keras), keras_model(keras)
    y = plain(X, training=True)
    np.testing.assert_allclose(accelerate(model)(X, training=True), y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(norm.moving_mean.value, want.moving_mean.value, rtol=1e-5)
    values = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
    model.call = accelerate(model.call)  # inside of Keras's own scope
    y, state = jax.jit(lambda *values: model.stateless_call(*values, X, training=True))(*values)
    plain(X, training=True)
    np.testing.assert_allclose(state[0], want.moving_mean.value, rtol=1e-5)
    late = keras.Sequential([keras.layers.Conv2D(4, 3)])  # its variables are made when it is called
    assert accelerate(late)(X).shape == (2, 4, 4, 4)
    assert not isinstance(late.layers[0].kernel.value, jax.core.Tracer)
    lossy = keras.Sequential([keras.Input(X.shape[1:]), keras.layers.Conv2D(4, 3, activity_regularizer="l2")])
    with pytest.raises(TypeError, match="adds losses to layers of Keras.*model.train_step = jconv.accelerate"):
        accelerate(lossy)(X)


def test_inside_a_haiku_function():
    hk = pytest.importorskip("haiku")
    with_state = lambda x: hk.BatchNorm(True, True, 0.9)(hk.Conv2D(4, 3)(x), is_training=True)
    for fn, key in ((with_state, None), (lambda x: hk.dropout(hk.next_rng_key(), 0.5, x), jax.random.key(0))):
        plain, net = hk.transform_with_state(fn), hk.transform_with_state(accelerate(fn))
        (params, state), wanted = net.init(jax.random.key(0), X), plain.init(jax.random.key(0), X)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, (params, state), wanted))
        with pytest.raises(TypeError, match=r"collects.*apply = jconv.accelerate\(hk.transform_with_state\(fn\).apply"):
            net.apply(params, state, key, X)
        got, want = (f(params, state, key, X) for f in (accelerate(plain.apply), plain.apply))
        assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), got, want))
    only = hk.transform(lambda x: accelerate(hk.Conv2D(4, 3))(x))
    assert only.apply(only.init(jax.random.key(0), X), None, X).shape == (2, 6, 6, 4)


def test_inside_a_linen_module():
    nn = pytest.importorskip("flax.linen")

    class Net(nn.Module):
        norm: bool

        @nn.compact
        def __call__(self, x):
            inside = lambda x: nn.BatchNorm(use_running_average=False)(x) if self.norm else nn.Conv(4, (3, 3))(x)
            return accelerate(inside)(x)

    variables = Net(False).init(jax.random.key(0), X)
    assert Net(False).apply(variables, X).shape == (2, 6, 6, 4)
    variables = Net(True).init(jax.random.key(0), X)
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(variables))
    with pytest.raises(TypeError, match=r"accelerate the whole: apply = jconv.accelerate\(module.apply\)"):
        Net(True).apply(variables, X, mutable=["batch_stats"])
