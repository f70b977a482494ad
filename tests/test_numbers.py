"""Every row of the design's table of numbers, from the specification and from real arrays and layers."""

import jax
import numpy as np
from jax import numpy as jnp

import jconv
from jconv import layers


def init(layer, shape):
    params, state = layer.init(jax.random.key(0), shape)
    assert state == {}
    return params


def sizes(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_12_filters_of_3x3_on_25x25x1():
    layer = layers.Conv(12, 3, padding="VALID")
    params = init(layer, (-1, 25, 25, 1))
    assert (params["kernel"].shape, params["bias"].shape) == ((3, 3, 1, 12), (12,))
    assert layer.output_shape((-1, 25, 25, 1)) == (-1, 23, 23, 12)
    assert layer.apply(params, {}, jnp.zeros((2, 25, 25, 1)))[0].shape == (2, 23, 23, 12)
    spec = jconv.ConvSpec((25, 25, 1), (3, 3, 1, 12), padding="VALID")
    assert (spec.output_shape, spec.num_parameters, sizes(params)) == ((23, 23, 12), 120, 120)
    limit = np.sqrt(6 / 117)  # Glorot: fan-in 9, fan-out 108
    many = np.concatenate([np.ravel(layer.init(jax.random.key(s), (1, 25, 25, 1))[0]["kernel"]) for s in range(50)])
    assert 0.99 * limit < np.abs(many).max() <= limit
    assert not np.any(params["bias"])


def test_111_filters_of_5_on_a_series_of_300():
    layer = layers.Conv(111, 5, padding="VALID")
    params = init(layer, (-1, 300, 1))
    assert params["kernel"].shape == (5, 1, 111)
    assert layer.apply(params, {}, jnp.zeros((1, 300, 1)))[0].shape == (1, 296, 111)
    assert jconv.ConvSpec((300, 1), (5, 1, 111), padding="VALID").output_shape == (296, 111)


def test_111_filters_of_5_on_300_channels():
    params = init(layers.Conv(111, 5), (-1, 40, 300))
    assert params["kernel"].shape == (5, 300, 111)
    assert sizes(params) == jconv.ConvSpec((40, 300), (5, 300, 111)).num_parameters == 166_611


def test_each_filter_sums_over_the_8_maps():
    params = init(layers.Conv(16, 3, padding="VALID"), (-1, 26, 26, 8))
    assert params["kernel"].shape == (3, 3, 8, 16)
    y = jconv.conv(jnp.ones((26, 26, 8)), jnp.ones((3, 3, 8, 16)), padding="VALID")
    assert y.shape == (24, 24, 16)
    assert np.all(y == 72)


def test_stride_2_on_5x5():
    x, k = jnp.ones((5, 5, 1)), jnp.ones((3, 3, 1, 1))
    assert jconv.conv(x, k, strides=2, padding=0).shape == (2, 2, 1)
    assert jconv.conv(x, k, strides=2, padding=1).shape == (3, 3, 1)


def test_40_filters_of_5x5_on_128x128x3():
    spec = jconv.ConvSpec((128, 128, 3), (5, 5, 3, 40), padding="VALID")
    assert (spec.output_shape, spec.num_parameters) == ((124, 124, 40), 3_040)
    assert sizes(init(layers.Conv(40, 5, padding="VALID"), (-1, 128, 128, 3))) == 3_040


def test_2_filters_of_3x3_on_6x6x3():
    assert jconv.conv(jnp.ones((6, 6, 3)), jnp.ones((3, 3, 3, 2)), padding="VALID").shape == (4, 4, 2)


def test_280_parameters_for_an_image_of_any_size():
    for size in (7, 39, 1000):
        assert sizes(init(layers.Conv(10, 3), (-1, size, size, 3))) == 280
        assert jconv.ConvSpec((size, size, 3), (3, 3, 3, 10)).num_parameters == 280


def test_the_39x39_network():
    net = layers.Sequential(
        layers.Conv(10, 3, padding="VALID"),
        layers.Conv(20, 5, strides=2, padding="VALID"),
        layers.Conv(40, 5, strides=2, padding="VALID"),
        layers.Flatten(),
        layers.Dense(1),
    )
    table = jconv.summary(net, (-1, 39, 39, 3))
    shapes = [row.output_shape[1:] for row in table.rows]
    assert shapes == [(37, 37, 10), (17, 17, 20), (7, 7, 40), (1960,), (1,)]
    params = init(net, (-1, 39, 39, 3))
    assert net.apply(params, {}, jnp.zeros((2, 39, 39, 3)))[0].shape == (2, 1)


def test_lenet_c1():
    spec = jconv.ConvSpec((32, 32, 1), (5, 5, 1, 6), padding="VALID")
    assert (spec.output_shape, spec.num_parameters, spec.num_connections) == ((28, 28, 6), 156, 122_304)
    assert sizes(init(layers.ConvLocal(6, 5, padding="VALID"), (-1, 32, 32, 1))) == 122_304
    row = jconv.summary(layers.Conv(6, 5, padding="VALID"), (-1, 32, 32, 1)).rows[0]
    assert (row.output_shape, row.parameters, row.connections) == ((-1, 28, 28, 6), 156, 122_304)
