"""Weights of other libraries: outputs as there, and every round trip exact."""

import types

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jconv
from jconv import interop
from jconv import layers as jl

SHAPE = (2, 9, 8, 4)
X = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def drawn(layer, shape, key=0):
    """Parameters and state with nothing at its default; variances are positive."""
    rng = np.random.default_rng(key)
    params, state = jax.eval_shape(lambda: layer.init(jax.random.key(0), shape))
    fresh = lambda v: jnp.asarray(rng.uniform(0.1, 1, v.shape).astype(v.dtype))
    return jax.tree.map(fresh, params), jax.tree.map(fresh, state)


def output(layer, *args):
    """What a layer gives for parameters, state and images, in one program."""
    return np.asarray(jax.jit(lambda *args: layer.apply(*args)[0])(*args))


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def cnn():
    """All kinds of layers that PyTorch, Equinox and Keras have too, in one network."""
    return jl.Sequential(
        jl.Conv(6, (3, 2), strides=2, padding=1, feature_group_count=2),
        jl.BatchNorm(),
        jl.Activation("relu"),
        jl.DepthwiseConv(3, channel_multiplier=2, padding=1),
        jl.ConvTranspose(8, (3, 4), strides=2, padding=1, feature_group_count=1),
        jl.GroupNorm(4, epsilon=1e-5),
        jl.Conv(3, 1, use_bias=False),
        jl.Flatten(),
        jl.Dense(7),
        jl.Activation("relu"),
        jl.Dense(5),
    )


NAMES = ("Conv_0", "BatchNorm_0", "DepthwiseConv_0", "ConvTranspose_0", "GroupNorm_0", "Conv_1", "Dense_0", "Dense_1")


def test_pytorch():
    torch = pytest.importorskip("torch")
    net = cnn()
    features = net.output_shape(SHAPE)  # that it runs at all
    assert features == (2, 5)
    there = torch.nn.Sequential(
        torch.nn.Conv2d(4, 6, (3, 2), 2, 1, groups=2),
        torch.nn.BatchNorm2d(6),
        torch.nn.ReLU(),
        torch.nn.Conv2d(6, 12, 3, padding=1, groups=6),
        torch.nn.ConvTranspose2d(12, 8, (3, 4), 2, 1),
        torch.nn.GroupNorm(4, 8),
        torch.nn.Conv2d(8, 3, 1, bias=False),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(7),
        torch.nn.ReLU(),
        torch.nn.Linear(7, 5),
    ).eval()
    image = torch.from_numpy(np.moveaxis(X, -1, 1).copy())
    there(image)  # makes the lazy layer
    names = dict(zip(NAMES, ("0", "1", "3", "4", "5", "6", "8", "10"), strict=True))
    params, state = drawn(net, SHAPE)
    arrays = interop.to_torch(net, SHAPE, params, state, names=names)
    there.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=True)
    want = there(image).detach().numpy()
    np.testing.assert_allclose(output(net, params, state, X), want, rtol=1e-5, atol=1e-5)
    same(interop.from_torch(net, SHAPE, there.state_dict(), names=names), (params, state))

    for p in there.parameters():  # and weights that were drawn there
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(1))
    params, state = interop.from_torch(net, SHAPE, there.state_dict(), names=names)
    np.testing.assert_allclose(output(net, params, state, X), there(image).detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pytorch_grouped_transposed(rank):
    torch = pytest.importorskip("torch")
    there = getattr(torch.nn, f"ConvTranspose{rank}d")(4, 6, 3, 2, 1, 1, groups=2)
    here = jl.ConvTranspose(6, 3, strides=2, padding=1, output_padding=1, feature_group_count=2)
    x = np.random.default_rng(1).standard_normal((2, *(5, 4, 3)[:rank], 4)).astype(np.float32)
    params, state = interop.from_torch(here, x.shape, there.state_dict())
    want = np.moveaxis(there(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).detach().numpy(), 1, -1)
    np.testing.assert_allclose(output(here, params, state, x), want, rtol=1e-5, atol=1e-5)


def test_pytorch_norm_of_flattened_features_and_bfloat16():
    torch = pytest.importorskip("torch")
    there = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(12), torch.nn.Linear(12, 2)).eval()
    for i, v in enumerate(there.state_dict().values()):
        if v.is_floating_point():
            torch.nn.init.uniform_(v, 0.5, 1.5, generator=torch.Generator().manual_seed(i))
    here = jl.Sequential(jl.Flatten(), jl.BatchNorm(), jl.Dense(2))
    names = {"BatchNorm_0": "1", "Dense_0": "2"}
    x = X[:, :2, :2, :3]
    params, state = interop.from_torch(here, x.shape, there.state_dict(), names=names)
    want = there(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).detach().numpy()
    np.testing.assert_allclose(output(here, params, state, x), want, rtol=1e-5, atol=1e-5)
    half = interop.from_torch(here, x.shape, there.to(torch.bfloat16).state_dict(), names=names)[0]
    assert half["Dense_0"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_allclose(half["Dense_0"]["kernel"].astype("float32"), params["Dense_0"]["kernel"], rtol=1e-2)


@pytest.mark.standard_modes  # Keras promotes by itself
def test_keras():
    keras = pytest.importorskip("keras")
    K = keras.layers
    there = keras.Sequential(
        [
            keras.Input(SHAPE[1:]),
            K.Conv2D(6, (3, 2), strides=2, padding="same", groups=2),
            K.BatchNormalization(epsilon=1e-5),
            K.ReLU(),
            K.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
            K.SeparableConv2D(8, 3, padding="same"),
            K.Conv2DTranspose(8, (3, 4), strides=2, padding="same"),
            K.GroupNormalization(4, epsilon=1e-5),
            K.Flatten(),
            K.Dropout(0.5),
            K.Dense(5),
        ],
        name="net",
    )
    here = jl.Sequential(
        jl.Conv(6, (3, 2), strides=2, feature_group_count=2),
        jl.BatchNorm(),
        jl.Activation("relu"),
        jl.DepthwiseConv(3, channel_multiplier=2),
        jl.SeparableConv(8, 3),
        jl.ConvTranspose(8, (3, 4), strides=2),
        jl.GroupNorm(4, epsilon=1e-5),
        jl.Flatten(),
        jl.Dropout(0.5),
        jl.Dense(5),
    )
    layers = [layer.name for layer in there.layers if layer.weights]
    kinds = ("Conv_0", "BatchNorm_0", "DepthwiseConv_0", "SeparableConv_0", "ConvTranspose_0", "GroupNorm_0", "Dense_0")
    names = dict(zip(kinds, layers, strict=True))
    params, state = drawn(here, SHAPE)
    interop.to_keras(here, SHAPE, params, state, there, names=names)
    variables = [[v.value for v in vs] for vs in (there.trainable_variables, there.non_trainable_variables)]
    want = np.asarray(jax.jit(lambda *args: there.stateless_call(*args, training=False)[0])(*variables, X))
    np.testing.assert_allclose(output(here, params, state, X), want, rtol=1e-5, atol=1e-5)
    same(interop.from_keras(here, SHAPE, there, names=names), (params, state))

    layer = K.Conv1D(4, 5)  # one layer alone
    layer.build((None, 30, 3))
    params, state = interop.from_keras(jl.Conv(4, 5, padding="VALID"), (1, 30, 3), layer)
    x = np.random.default_rng(1).standard_normal((2, 30, 3)).astype(np.float32)
    y, _ = jl.Conv(4, 5, padding="VALID").apply(params, state, x)
    np.testing.assert_allclose(y, np.asarray(layer(x)), rtol=1e-5, atol=1e-5)

    before = [np.asarray(v) for v in there.weights]
    wrong = jl.Sequential(*[layer for name, layer in here.children if name != "Dense_0"], jl.Dense(6))
    with pytest.raises(
        ValueError,
        match=r"model: does not fit .*'dense\w*/kernel' has shape \(640, 5\), accepted is \(640, 6\) \[in, out\]",
    ):
        interop.to_keras(wrong, SHAPE, *drawn(wrong, SHAPE), there, names=names)
    for a, v in zip(before, there.weights, strict=True):
        np.testing.assert_array_equal(a, np.asarray(v))


def test_weights_that_keras_gave_no_name():
    weight = lambda path: types.SimpleNamespace(path=path, value=np.full(3, 0.5, np.float32))
    net, shape = jl.Sequential(jl.LayerScale(0.1), jl.LayerScale(0.1)), (1, 4, 4, 3)
    names = {"LayerScale_0": "a", "LayerScale_1": "b"}
    model = types.SimpleNamespace(name="net", weights=[weight("a/variable"), weight("b/variable_17")])
    params, _ = interop.from_keras(net, shape, model, names=names)
    same(params, {f"LayerScale_{i}": {"scale": jnp.full(3, 0.5)} for i in (0, 1)})
    two = types.SimpleNamespace(name="net", weights=[*model.weights, weight("b/variable_18")])  # it is not clear which
    with pytest.raises(ValueError, match="missing are 'b/variable'; unexpected are 'b/variable_17', 'b/variable_18'"):
        interop.from_keras(net, shape, two, names=names)
    arrays = interop.to_torch(net, shape, params, {}, names=names)
    assert {name: array.shape for name, array in arrays.items()} == {
        "a.layer_scale": (3, 1, 1),
        "b.layer_scale": (3, 1, 1),
    }
    with pytest.raises(ValueError, match="LayerScale 'LayerScale_0' with 'scale', of which Flax has no counterpart"):
        interop.to_flax(net, shape, params, {})


def test_flax_linen():
    nn = pytest.importorskip("flax.linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(6, (3, 2), 2, feature_group_count=2)(x)))
            x = nn.Conv(12, (3, 3), feature_group_count=6)(x)
            x = nn.ConvTranspose(8, (3, 4), (2, 2))(x)
            x = nn.LayerNorm()(nn.GroupNorm(4)(x))
            x = nn.ConvLocal(3, (2, 3), padding="VALID")(x)
            return nn.Dense(5)(x.reshape(len(x), -1))

    here = jl.Sequential(
        jl.Conv(6, (3, 2), strides=2, feature_group_count=2),
        jl.BatchNorm(),
        jl.Activation("relu"),
        jl.DepthwiseConv(3, channel_multiplier=2, name="Conv_1"),
        jl.ConvTranspose(8, (3, 4), strides=2),
        jl.GroupNorm(4),
        jl.LayerNorm(),
        jl.ConvLocal(3, (2, 3), padding="VALID"),
        jl.Flatten(),
        jl.Dense(5),
    )
    params, state = drawn(here, SHAPE)
    variables = interop.to_flax(here, SHAPE, params, state)
    net = Net()
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        jnp.shape, dict(jax.eval_shape(net.init, jax.random.key(0), X))
    )
    np.testing.assert_allclose(output(here, params, state, X), jax.jit(net.apply)(variables, X), rtol=1e-5, atol=1e-5)
    same(interop.from_flax(here, SHAPE, variables), (params, state))


def test_flax_nnx():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.body = nnx.List([nnx.Conv(4, 6, (3, 3), rngs=rngs), nnx.BatchNorm(6, rngs=rngs)])
            self.up = nnx.ConvTranspose(6, 2, (2, 2), strides=(2, 2), transpose_kernel=True, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

    net = Net(nnx.Rngs(0))
    here = jl.Sequential(jl.Conv(6, 3), jl.BatchNorm(), jl.ConvTranspose(2, 2, strides=2))
    names = {"Conv_0": "body/0", "BatchNorm_0": "body/1", "ConvTranspose_0": "up"}
    options = {"names": names, "transpose_kernel": True}
    params, state = drawn(here, SHAPE)
    nnx.update(net, interop.to_flax(here, SHAPE, params, state, collections=False, **options))
    net.body[1].use_running_average = True
    want = nnx.jit(lambda net, x: net.up(net.body[1](net.body[0](x))))(net, X)
    np.testing.assert_allclose(output(here, params, state, X), want, rtol=1e-5, atol=1e-5)
    same(interop.from_flax(here, SHAPE, nnx.state(net), **options), (params, state))


def test_haiku():
    hk = pytest.importorskip("haiku")

    def forward(x, train):
        x = hk.BatchNorm(True, True, 0.9)(hk.Conv2D(6, 3, stride=2)(x), train)
        x = hk.DepthwiseConv2D(2, 3)(jax.nn.relu(x))
        x = hk.Conv2DTranspose(8, (3, 4), stride=2)(x)
        x = hk.LayerNorm(-1, True, True)(hk.GroupNorm(4)(x))
        return hk.Linear(5)(hk.Flatten()(x))

    net = hk.without_apply_rng(hk.transform_with_state(forward))
    here = jl.Sequential(
        jl.Conv(6, 3, strides=2),
        jl.BatchNorm(),
        jl.Activation("relu"),
        jl.DepthwiseConv(3, channel_multiplier=2),
        jl.ConvTranspose(8, (3, 4), strides=2),
        jl.GroupNorm(4, epsilon=1e-5),
        jl.LayerNorm(epsilon=1e-5),
        jl.Flatten(),
        jl.Dense(5),
    )
    names = {"Conv_0": "conv2_d", "BatchNorm_0": "batch_norm", "DepthwiseConv_0": "depthwise_conv2_d",
             "ConvTranspose_0": "conv2_d_transpose", "GroupNorm_0": "group_norm", "LayerNorm_0": "layer_norm",
             "Dense_0": "linear"}  # fmt: skip
    params, state = drawn(here, SHAPE)
    trees = interop.to_haiku(here, SHAPE, params, state, names=names)
    both = jax.jit(lambda p, s, x: (net.apply(p, s, x, False)[0], net.apply(p, s, x, True)[1]))
    with jax.numpy_dtype_promotion("standard"):  # which Haiku takes for granted where its counter is traced
        started = jax.eval_shape(lambda key, x: net.init(key, x, True), jax.random.key(0), X)
        want, trained = both(*trees, X)
    assert jax.tree.map(jnp.shape, trees) == jax.tree.map(jnp.shape, started)
    np.testing.assert_allclose(output(here, params, state, X), want, rtol=1e-5, atol=1e-5)
    same(interop.from_haiku(here, SHAPE, *trees, names=names), (params, state))
    # a step on from what was written: a running average without a correction of its start
    stepped = trained["batch_norm/~/mean_ema"]["average"].reshape(-1)
    batch_mean = np.mean(jconv.conv(X, **params["Conv_0"], strides=2), (0, 1, 2))
    want = 0.9 * np.asarray(state["BatchNorm_0"]["mean"]) + 0.1 * batch_mean
    np.testing.assert_allclose(stepped, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_equinox(mode):
    eqx = pytest.importorskip("equinox")
    keys = iter(jax.random.split(jax.random.key(0), 9))

    class Net(eqx.Module):
        layers: list

        def __init__(self):
            self.layers = [
                eqx.nn.Conv2d(4, 6, (3, 2), 2, 1, groups=2, key=next(keys)),
                eqx.nn.BatchNorm(6, "batch", mode=mode, inference=True),
                jax.nn.relu,
                eqx.nn.Conv2d(6, 12, 3, padding=1, groups=6, key=next(keys)),
                eqx.nn.ConvTranspose2d(12, 8, (3, 4), 2, padding=1, groups=2, key=next(keys)),
                eqx.nn.GroupNorm(4, 8),
                jnp.ravel,
                eqx.nn.Linear(8 * 9 * 10, 5, key=next(keys)),
            ]

        def __call__(self, x, state):
            for layer in self.layers:
                if isinstance(layer, eqx.nn.BatchNorm):
                    x, state = layer(x, state)
                else:
                    x = layer(x)
            return x

    net, net_state = eqx.nn.make_with_state(Net)()
    here = jl.Sequential(
        jl.Conv(6, (3, 2), strides=2, padding=1, feature_group_count=2),
        jl.BatchNorm(),
        jl.Activation("relu"),
        jl.DepthwiseConv(3, channel_multiplier=2, padding=1),
        jl.ConvTranspose(8, (3, 4), strides=2, padding=1, feature_group_count=2),
        jl.GroupNorm(4, epsilon=1e-5),
        jl.Flatten(),
        jl.Dense(5),
    )
    names = {"Conv_0": "layers.0", "BatchNorm_0": "layers.1", "DepthwiseConv_0": "layers.3",
             "ConvTranspose_0": "layers.4", "GroupNorm_0": "layers.5", "Dense_0": "layers.7"}  # fmt: skip
    params, state = drawn(here, SHAPE)
    net, net_state = interop.to_equinox(here, SHAPE, params, state, net, net_state, names=names)
    want = jax.jit(jax.vmap(lambda x: net(x, net_state), axis_name="batch"))(np.moveaxis(X, -1, 1))
    np.testing.assert_allclose(output(here, params, state, X), want, rtol=1e-5, atol=1e-5)
    same(interop.from_equinox(here, SHAPE, net, net_state, names=names), (params, state))
    again, again_state = eqx.nn.make_with_state(Net)()
    whole = jax.tree.unflatten(jax.tree.structure(again), jax.tree.leaves(again))
    assert interop.from_equinox(here, SHAPE, whole, again_state, names=names)
    with pytest.raises(ValueError, match=r"module: does not fit .*missing are 'layers.1.mean', 'layers.1.var'"):
        interop.from_equinox(here, SHAPE, net, names=names)


def test_all_that_does_not_fit_is_said_at_once():
    layer = jl.Sequential(jl.Conv(6, 5), jl.BatchNorm())
    shape = (1, 9, 9, 2)
    arrays = interop.to_torch(layer, shape, *drawn(layer, shape))
    arrays["Conv_0.weight"] = arrays["Conv_0.weight"].transpose(2, 3, 1, 0)
    arrays["fc.weight"] = arrays.pop("BatchNorm_0.running_var")
    with pytest.raises(ValueError, match="state_dict: does not fit this network") as error:
        interop.from_torch(layer, shape, arrays)
    for text in ("missing are 'BatchNorm_0.running_var'", "unexpected are 'fc.weight'",
                 "'Conv_0.weight' has shape (5, 5, 2, 6), accepted is (6, 2, 5, 5) [out, in / groups, *window], "
                 "here (5, 5, 2, 6) [*window, in / groups, out]"):  # fmt: skip
        assert text in str(error.value)


def test_wrong_arguments():
    layer, shape = jl.Sequential(jl.Conv(6, 5)), (1, 9, 9, 2)
    params, state = drawn(layer, shape)
    with pytest.raises(ValueError, match=r"names: got 'Conv_1', which is no layer .* Did you mean 'Conv_0'"):
        interop.to_torch(layer, shape, params, state, names={"Conv_1": "a"})
    with pytest.raises(ValueError, match=r"params: got 'Conv_0/kernel' of shape \(3, 3\), accepted .* \(5, 5, 2, 6\)"):
        interop.to_torch(layer, shape, {"Conv_0": {"kernel": np.ones((3, 3)), "bias": np.ones(6)}}, {})
    with pytest.raises(ValueError, match="params: got none of 'Conv_0'"):
        interop.to_torch(layer, shape, {}, {})
    local = jl.ConvLocal(2, 3)
    with pytest.raises(ValueError, match="ConvLocal '' with '(kernel|bias)', of which PyTorch has no counterpart"):
        interop.to_torch(local, shape, *drawn(local, shape))
    with pytest.raises(TypeError, match="layer: got 'Conv', accepted is a Layer"):
        interop.from_torch("Conv", shape, {})
    two = jl.Sequential(jl.Conv(2, 3), jl.Conv(2, 3))
    with pytest.raises(ValueError, match="accepted are two names"):
        interop.to_torch(two, shape, *drawn(two, shape), names={"Conv_0": "a", "Conv_1": "a"})
    with pytest.raises(ValueError, match="'kernel' is float64, which jax makes float32: convert it, or enable 64 bits"):
        interop.unflatten(jl.Dense(2, use_bias=False), (1, 3), {"kernel": np.ones((3, 2))})
    branches = jl.Sequential(jl.Parallel(jl.Flatten(), jl.Flatten()), jl.Dense(2))
    norm = jl.Sequential(jl.Flatten(), jl.GroupNorm(2))
    with pytest.raises(ValueError, match="GroupNorm 'GroupNorm_0' behind a Flatten; PyTorch orders"):
        interop.to_torch(norm, shape, *drawn(norm, shape))
    up = jl.ConvTranspose(6, 3, feature_group_count=2)
    for to in (interop.to_flax, interop.to_haiku):
        with pytest.raises(
            ValueError, match="ConvTranspose '' with 2 groups, of which (Flax|Haiku) has no counterpart"
        ):
            to(up, shape, *drawn(up, shape))
    with pytest.raises(ValueError, match="Dense 'Dense_0' behind branches that flatten; PyTorch orders"):
        interop.to_torch(branches, shape, *drawn(branches, shape))


def test_nested_networks_and_their_names():
    layer = jl.Sequential(jl.Residual(jl.Conv(2, 3), jl.BatchNorm(), shortcut=jl.Conv(2, 1)), jl.Conv(3, 1), name="net")
    shape = (1, 6, 6, 2)
    trees = drawn(layer, shape)
    arrays = interop.to_torch(layer, shape, *trees, names={"": "model", "Residual_0/body": "block"})
    assert {name.rpartition(".")[0] for name in arrays} == {
        "block.Conv_0", "block.BatchNorm_0", "model.Residual_0.shortcut", "model.Conv_0"}  # fmt: skip
    same(interop.unflatten(layer, (-1, *shape[1:]), interop.flatten(*trees)), trees)


def test_safetensors(tmp_path):
    pytest.importorskip("safetensors")
    layer, path = cnn(), tmp_path / "net.safetensors"
    trees = drawn(layer, SHAPE)
    trees[0]["Conv_0"]["kernel"] = trees[0]["Conv_0"]["kernel"].astype(jnp.bfloat16)
    interop.write_safetensors(path, interop.flatten(*trees), metadata={"network": "all kinds"})
    same(interop.unflatten(layer, SHAPE, interop.read_safetensors(path)), trees)
    content = path.read_bytes()
    with pytest.raises(ValueError, match="arrays: got 'a' of object"):
        interop.write_safetensors(path, {"a": np.array([None])})
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="no readable safetensors file"):
        interop.read_safetensors(path)
    with pytest.raises(FileNotFoundError):
        interop.read_safetensors(tmp_path / "none")


def test_safetensors_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    there = torch.nn.Conv2d(3, 4, 5)
    library.save_file(there.state_dict(), tmp_path / "conv.safetensors")
    here = jl.Conv(4, 5, padding="VALID")
    params, _ = interop.from_torch(here, (1, 9, 9, 3), interop.read_safetensors(tmp_path / "conv.safetensors"))
    x = np.random.default_rng(0).standard_normal((1, 9, 9, 3)).astype(np.float32)
    want = np.moveaxis(there(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).detach().numpy(), 1, -1)
    np.testing.assert_allclose(jconv.conv(x, **params, padding="VALID"), want, rtol=1e-5, atol=1e-5)
    interop.write_safetensors(tmp_path / "back.safetensors", interop.to_torch(here, (1, 9, 9, 3), params, {}))
    there.load_state_dict(library.load_file(tmp_path / "back.safetensors"), strict=True)
