"""Networks without batch norms: what they give is what the network gave, up to rounding."""

import pickle

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jconv import layers as jl
from jconv import models
from jconv.layers import fold_batch_norm
from tests.cases import draw


def drawn(layer, shape):
    """Parameters and state that are not those at the beginning."""
    trees = jax.eval_shape(lambda key: layer.init(key, shape), jax.random.key(0))
    leaves, tree = jax.tree.flatten_with_path(trees)
    positive = lambda path: jax.tree_util.keystr(path).endswith(("['var']", "['scale']"))
    values = [draw(v.shape, v.dtype, i) / max(1, v.size // v.shape[-1]) ** 0.5 for i, (_, v) in enumerate(leaves)]
    values = [np.abs(v) + 0.5 if positive(path) else v for v, (path, _) in zip(values, leaves, strict=True)]
    return jax.tree.unflatten(tree, values)


def kinds(layer):
    return [layer.kind, *(kind for _, child in layer.children for kind in kinds(child))]


MAKERS = {
    "Conv": lambda bias: jl.Conv(6, 3, strides=2, feature_group_count=2, use_bias=bias),
    "DepthwiseConv": lambda bias: jl.DepthwiseConv(3, channel_multiplier=2, use_bias=bias),
    "SeparableConv": lambda bias: jl.SeparableConv(5, 3, use_bias=bias),
    "ConvLocal": lambda bias: jl.ConvLocal(5, 3, use_bias=bias),
    "ConvTranspose": lambda bias: jl.ConvTranspose(6, 3, strides=2, feature_group_count=2, use_bias=bias),
    "Dense": lambda bias: jl.Dense(5, use_bias=bias),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", MAKERS)
def test_each_layer_takes_the_norm_behind_it(kind, bias):
    shape = (2, 6, 5, 4)
    norms = jl.BatchNorm(use_scale=not bias, epsilon=1e-3), jl.BatchNorm(use_bias=bias)
    inner = jl.Sequential(jl.Activation("tanh"), MAKERS[kind](bias), name="inner")
    net = jl.Sequential(inner, *norms, jl.Activation("relu"), jl.Dense(3, name="last"))
    params, state = drawn(net, shape)
    folded, few, rest = fold_batch_norm(net, params, state)
    assert "BatchNorm" not in kinds(folded)
    assert not rest
    assert set(few) == set(params) - {"BatchNorm_0", "BatchNorm_1"}
    x = jnp.asarray(draw(shape))
    np.testing.assert_allclose(folded.apply(few, rest, x)[0], net.apply(params, state, x)[0], rtol=1e-5, atol=1e-5)
    init = jax.eval_shape(lambda key: folded.init(key, shape), jax.random.key(0))
    assert jax.tree.map(jnp.shape, init[0]) == jax.tree.map(jnp.shape, few)


@pytest.mark.parametrize("make", [models.resnet18, models.resnet50, models.mobilenet_v2, models.unet])
def test_networks(make):
    options = {"batch_norm": True, "levels": 2, "width": 4} if make is models.unet else {}
    options |= {"width": 8} if make in (models.resnet18, models.resnet50) else {}
    net, shape = make(classes=5, algorithm="xla", **options), (2, 32, 32, 3)
    params, state = drawn(net, shape)
    folded, few, rest = fold_batch_norm(net, params, state)
    assert kinds(net).count("BatchNorm") > 5
    assert kinds(folded).count("BatchNorm") == 0
    x = jnp.asarray(draw(shape))
    want = jax.jit(net.apply)(params, state, x)[0]
    again = pickle.loads(pickle.dumps(folded))
    for network in (folded, again):
        np.testing.assert_allclose(jax.jit(network.apply)(few, rest, x)[0], want, rtol=1e-4, atol=1e-4 * np.max(want))


def test_a_norm_behind_something_else_stays():
    """Before a convolution, behind an activation, and behind a layer of one's own, whose apply is another."""
    conv = jl.Conv(4, 3)
    wrapped = jl.Layer(conv.init, lambda *args, **kwargs: conv.apply(*args, **kwargs))
    net = jl.Sequential(jl.BatchNorm(), jl.Conv(4, 3), jl.Activation("relu"), jl.BatchNorm(), wrapped, jl.BatchNorm())
    params, state = drawn(net, (2, 6, 6, 3))
    folded, few, rest = fold_batch_norm(net, params, state)
    assert kinds(folded).count("BatchNorm") == 3
    x = jnp.asarray(draw((2, 6, 6, 3)))
    np.testing.assert_allclose(folded.apply(few, rest, x)[0], net.apply(params, state, x)[0], rtol=1e-5, atol=1e-5)
    alone = jl.BatchNorm()
    assert fold_batch_norm(alone, {}, {}) == (alone, {}, {})
    with pytest.raises(TypeError, match="layer: got 3, accepted is a Layer"):
        fold_batch_norm(3, {}, {})


def test_a_folded_network_says_which_sizes_it_takes():
    net = models.unet(batch_norm=True, levels=3, width=2)
    folded, few, rest = fold_batch_norm(net, *drawn(net, (1, 16, 16, 1)))
    with pytest.raises(ValueError, match=r"x: got shape \(1, 30, 32, 1\).*multiples of 8"):
        folded.apply(few, rest, jnp.ones((1, 30, 32, 1)))
