"""Networks: published counts, weights and outputs of Keras and PyTorch, a step of training, sizes."""

import functools
import math
import os
import pickle

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jconv
from jconv import interop, layers, models

os.environ.setdefault("KERAS_BACKEND", "jax")
key = jax.random.key(0)
QUICK = {"xla_backend_optimization_level": 0}  # compilation takes most of the time of these tests


def compiled(function, *args):
    """The result as NumPy arrays, of which nothing more is compiled."""
    return jax.tree.map(np.asarray, jax.jit(function).lower(*args).compile(compiler_options=QUICK)(*args))


@functools.cache
def shapes(network, shape):
    return jax.eval_shape(lambda: network.init(key, shape))


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def random_array(name, shape, rng):
    """A weight with nothing at its default, from the end of its name, such that signals keep about their size."""
    if name in ("kernel", "weight") and len(shape) > 1:
        raise ValueError("a kernel's fan-in depends on the library's layout")
    positive = name in ("scale", "var", "gamma", "moving_variance", "running_var", "layer_scale", "weight")
    return (rng.uniform(0.5, 1.5, shape) if positive else 0.2 * rng.standard_normal(shape)).astype(np.float32)


def drawn(network, shape, seed=0):
    """Parameters and state with nothing at its default, drawn by NumPy, since drawing by jax takes long to compile."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name != "kernel":
            return random_array(name, leaf.shape, rng)
        return (rng.standard_normal(leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]))).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(network, shape))


def image(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unet_parameters(channels, classes, widths):
    """By hand: two 3×3 convolutions at each level on the way down, a 2×2 and two 3×3 on the way up, a 1×1."""
    conv = lambda before, after, window: (window**2 * before + 1) * after
    down = sum(conv(a, b, 3) + conv(b, b, 3) for a, b in zip([channels, *widths], widths, strict=False))
    up = sum(conv(2 * w, w, 2) + conv(2 * w, w, 3) + conv(w, w, 3) for w in widths[:-1])
    return down + up + conv(widths[0], classes, 1)


COUNTS = [
    # LeCun et al., 1998, p. 7: C1 has 156 parameters and 122,304 connections. C3 with all links, a dense output.
    ("lenet5", models.lenet5(), (32, 32, 1), 61_706),
    ("catnet39", models.catnet39(), (39, 39, 3), 280 + 5_020 + 20_040 + 1_961),
    ("catnet39 of 3", models.catnet39(classes=3), (39, 39, 3), 280 + 5_020 + 20_040 + 3 * 1_961),
    ("keras_conv25", models.keras_conv25(), (25, 25, 1), 120 + 11 * 11 * 12 + 1),
    ("conv1d_text", models.conv1d_text(), (300, 300), 166_611 + 112),
    # the pages of these networks at docs.pytorch.org/vision/stable/models: num_params
    ("resnet18", models.resnet18(), (224, 224, 3), 11_689_512),
    ("resnet50", models.resnet50(), (224, 224, 3), 25_557_032),
    ("mobilenet_v2", models.mobilenet_v2(), (224, 224, 3), 3_504_872),
    ("convnext_tiny", models.convnext_tiny(), (224, 224, 3), 28_589_128),
    # Ronneberger et al., 2015, figure 1: widths 64 to 1,024, one channel in, two classes
    ("unet", models.unet(classes=2), (64, 64, 1), unet_parameters(1, 2, [64, 128, 256, 512, 1024])),
]


GFLOPS = {
    "resnet18": 1.81,
    "resnet50": 4.09,
    "mobilenet_v2": 0.30,
    "convnext_tiny": 4.46,
}  # of multiply-adds, there too


@pytest.mark.parametrize(("name", "network", "shape", "parameters"), COUNTS, ids=[c[0] for c in COUNTS])
def test_summary_shows_the_published_counts(name, network, shape, parameters):
    table = jconv.summary(network, (-1, *shape))
    assert table.parameters == parameters
    assert str(table).splitlines()[-1].split()[:2] == ["total", f"{parameters:,}"]
    assert name not in GFLOPS or round(table.macs / 1e9, 2) == GFLOPS[name]


def test_what_keras_counts():
    # keras.io/api/applications: 25.6M and 3.5M; Model.summary() prints 25,636,712 and 3,538,984, all that is not trained too
    for network, parameters, state in (
        (models.resnet50(like="keras"), 25_583_592, 53_120),
        (models.mobilenet_v2(like="keras"), 3_504_872, 34_112),
    ):
        trees = shapes(network, (1, 64, 64, 3))
        assert (count(trees[0]), count(trees[1])) == (parameters, state)
    assert 25_583_592 + 53_120 == 25_636_712
    assert 3_504_872 + 34_112 == 3_538_984
    assert 25_583_592 - 25_557_032 == 53_120 // 2  # a bias for each channel that is normalised


def test_layers_of_the_small_networks():
    rows = lambda network, shape: {row.name: row for row in jconv.summary(network, (-1, *shape)).rows}
    lenet = rows(models.lenet5(), (32, 32, 1))
    assert [n for n in lenet if "_" not in n] == ["c1", "s2", "c3", "s4", "c5", "f6", "output"]
    assert (lenet["c1"].parameters, lenet["c1"].connections) == (156, 122_304)
    assert [lenet[n].output_shape[1:] for n in ("c1", "s2", "c3", "s4", "c5", "f6", "output")] == [
        (28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16), (120,), (84,), (10,)]  # fmt: skip
    assert [lenet[n].parameters for n in ("c3", "c5", "f6", "output")] == [2_416, 48_120, 10_164, 850]
    cat = rows(models.catnet39(), (39, 39, 3))
    assert [cat[n].output_shape[1:] for n in ("Conv_0", "Conv_1", "Conv_2", "Flatten_0", "output")] == [
        (37, 37, 10), (17, 17, 20), (7, 7, 40), (1_960,), (1,)]  # fmt: skip
    assert [cat[n].parameters for n in ("Conv_0", "Conv_1", "Conv_2")] == [280, 5_020, 20_040]
    conv25 = rows(models.keras_conv25(), (25, 25, 1))
    assert conv25["Conv_0"].output_shape == (-1, 23, 23, 12)
    assert conv25["Conv_0"].parameters == 120
    params, _ = models.keras_conv25().init(key, (-1, 25, 25, 1))
    assert params["Conv_0"]["kernel"].shape == (3, 3, 1, 12)
    limit = math.sqrt(6 / 117)  # Glorot-uniform, as in Keras
    assert 0.8 * limit < np.abs(params["Conv_0"]["kernel"]).max() <= limit
    assert not params["Conv_0"]["bias"].any()
    text = models.conv1d_text()
    assert rows(text, (300, 1))["Conv_0"].output_shape == (-1, 296, 111)
    assert shapes(text, (1, 300, 1))[0]["Conv_0"]["kernel"].shape == (5, 1, 111)
    assert shapes(text, (1, 50, 300))[0]["Conv_0"]["kernel"].shape == (5, 300, 111)


LARGE = {"algorithm": "xla"}  # to compile faster; test_auto_agrees runs one of these as it is
TRAINED = [
    ("lenet5", models.lenet5(), (28, 30, 1), 10),
    ("catnet39", models.catnet39(probabilities=True), (21, 18, 3), 1),
    ("keras_conv25", models.keras_conv25(classes=3, dropout=0.3, probabilities=True), (9, 8, 2), 3),
    ("conv1d_text", models.conv1d_text(classes=6), (40, 3), 6),
    ("resnet18", models.resnet18(classes=5, width=8, **LARGE), (40, 33, 3), 5),
    ("resnet50", models.resnet50(classes=5, width=4, **LARGE), (33, 40, 3), 5),
    ("mobilenet_v2", models.mobilenet_v2(classes=5, width=0.35, dropout=0.2, **LARGE), (33, 40, 1), 5),
    ("convnext_tiny", models.convnext_tiny(classes=5, width=8, drop_path=0.5, **LARGE), (35, 47, 3), 5),
    ("unet", models.unet(classes=2, width=4, batch_norm=True, **LARGE), (16, 48, 3), 2),
]


@pytest.mark.parametrize(("name", "network", "shape", "outputs"), TRAINED, ids=[t[0] for t in TRAINED])
def test_a_step_of_training(name, network, shape, outputs):
    params, state = drawn(network, (2, *shape))
    x = image((2, *shape))

    def loss(params):
        y, after = network.apply(params, state, x, train=True, key=jax.random.key(1, impl="rbg"))
        return jnp.mean((y - 1) ** 2), (y, after)

    (value, (y, after)), grads = compiled(jax.value_and_grad(loss, has_aux=True), params)
    assert y.shape == (2, *(shape[:-1] if name == "unet" else ()), outputs)
    assert np.isfinite(value)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert (
        np.mean([g.any() for g in jax.tree.leaves(grads)]) > 0.75
    )  # the blocks that stochastic depth leaves out have none, nor has a dead relu
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert not np.array_equal(old, new)  # every running mean and variance has moved
    assert bool(state) == (name in ("resnet18", "resnet50", "mobilenet_v2", "unet"))


@pytest.fixture
def keras(monkeypatch):
    """Keras, whose weights are constants of NumPy at first: all are assigned, and the draws take long to compile."""
    library = pytest.importorskip("keras")
    filled = lambda value: lambda self, shape, dtype=None: np.full(shape, value, dtype or "float32")
    for name, value in (("VarianceScaling", 0), ("Zeros", 0), ("Ones", 1)):
        monkeypatch.setattr(getattr(library.initializers, name), "__call__", filled(value))
    return library


def keras_output(model, x):
    variables = [[v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)]
    return compiled(functools.partial(model.stateless_call, training=False), *variables, x)[0]


def keras_model(keras, name, **options):
    """A model with random weights."""
    model = getattr(keras.applications, name)(weights=None, classes=10, classifier_activation=None, **options)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        layer, _, weight = variable.path.rpartition("/")
        if weight == "kernel":
            fan_in = math.prod(variable.shape[:2] if "depthwise" in layer else variable.shape[:-1])
            value = rng.standard_normal(variable.shape) / math.sqrt(fan_in)
        else:
            value = random_array("scale" if weight.startswith("variable") else weight, variable.shape, rng)
        variable.assign(value.astype(np.float32))
    return model


@pytest.mark.standard_modes  # Keras adds its biases to more axes by itself
@pytest.mark.parametrize(("name", "network", "size", "options"), [
    ("ResNet50", models.resnet50(classes=10, like="keras", **LARGE), (64, 64), {}),
    ("MobileNetV2", models.mobilenet_v2(classes=10, like="keras", **LARGE), (75, 64), {}),
    ("ConvNeXtTiny", models.convnext_tiny(classes=10, **LARGE), (64, 70), {"include_preprocessing": False}),
])  # fmt: skip
def test_weights_and_outputs_of_keras(name, network, size, options, keras):
    shape = (2, *size, 3)
    model = keras_model(keras, name, input_shape=shape[1:], **options)
    names = models.names(network, "keras")
    params, state = interop.from_keras(network, shape, model, names=names)
    assert count((params, state)) == model.count_params()
    x = image(shape)
    want = keras_output(model, x)
    assert 0.3 < np.std(want) < 30  # neither dead nor blown up, so that what follows says something
    got, after = compiled(network.apply, params, state, x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    assert jax.tree.all(jax.tree.map(np.array_equal, state, after))

    before = [np.asarray(v.value) for v in model.weights]
    interop.to_keras(network, shape, jax.tree.map(lambda a: 2 * np.asarray(a), params), state, model, names=names)
    kept = ("moving_mean", "moving_variance")
    for v, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.asarray(v.value), old if v.path.endswith(kept) else 2 * old)


@pytest.mark.standard_modes  # Keras adds its biases to more axes by itself
def test_small_networks_in_keras(keras):
    K = keras.layers
    for network, shape, there in (
        (models.catnet39(probabilities=True), (39, 39, 3), [
            K.Conv2D(10, 3, activation="relu"), K.Conv2D(20, 5, 2, activation="relu"),
            K.Conv2D(40, 5, 2, activation="relu"), K.Flatten(), K.Dense(1, activation="sigmoid")]),
        (models.keras_conv25(classes=3, dropout=0.5, probabilities=True), (25, 25, 1), [
            K.Conv2D(12, 3, activation="relu"), K.MaxPooling2D(2), K.Flatten(), K.Dropout(0.5),
            K.Dense(3, activation="softmax")]),
        (models.conv1d_text(classes=6), (300, 1), [
            K.Conv1D(111, 5, activation="relu"), K.GlobalMaxPooling1D(), K.Dense(6)]),
    ):  # fmt: skip
        model = keras.Sequential([keras.Input(shape), *there], name="net")
        arrays = drawn(network, (1, *shape))
        own = [layer.name for layer in model.layers if layer.weights]
        names = dict(zip([n for n, _ in network.children if n in arrays[0]], own, strict=True))
        interop.to_keras(network, (1, *shape), *arrays, model, names=names)
        x = image((2, *shape))
        got, want = compiled(network.apply, *arrays, x)[0], keras_output(model, x)
        assert np.std(want) > 0.01
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "network", "shape", "there"), [
    ("lenet5", models.lenet5(), (32, 32, 1), lambda t: t.lenet5()),
    ("resnet18", models.resnet18(classes=10, width=8, **LARGE), (64, 70, 3), lambda t: t.resnet18(8, 10)),
    ("resnet50", models.resnet50(classes=10, width=8, **LARGE), (64, 70, 3), lambda t: t.resnet50(8, 10)),
    ("mobilenet_v2", models.mobilenet_v2(classes=10, **LARGE), (64, 70, 3), lambda t: t.MobileNetV2(10)),
    ("convnext_tiny", models.convnext_tiny(classes=10, width=16, **LARGE), (64, 70, 3), lambda t: t.ConvNeXt(16, 10)),
    ("unet", models.unet(classes=3, width=8, levels=3, **LARGE), (32, 40, 2), lambda t: t.UNet(8, 3, 2, 3)),
])  # fmt: skip
def test_weights_and_outputs_of_pytorch(name, network, shape, there):
    pytest.importorskip("torch")
    from benchmarks.peers import torch_networks

    torch, module = torch_networks.torch, there(torch_networks).eval()
    shape = (2, *shape)
    if name == "lenet5":
        names = dict(zip(("c1", "c3", "c5", "f6", "output"), ("0", "3", "7", "9", "11"), strict=True))
    else:
        names = module.names() if name == "unet" else models.names(network, "torchvision")
    params, state = drawn(network, shape)
    arrays = interop.to_torch(network, shape, params, state, names=names)
    module.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()}, strict=True)
    x = image(shape)
    with torch.no_grad():
        want = np.moveaxis(module(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).numpy(), 1, -1)
    assert 0.1 < np.std(want) < 30
    got, _ = compiled(network.apply, params, state, x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    again = interop.from_torch(network, shape, module.state_dict(), names=names)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, (params, state)))


def test_auto_agrees():
    shape = (2, 33, 40, 3)
    x = image(shape)
    trees = drawn(models.resnet18(width=8), shape)
    got, want = (compiled(models.resnet18(width=8, **o).apply, *trees, x)[0] for o in ({}, LARGE))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def outline(layer):
    return layer.kind, [(name, outline(child)) for name, child in layer.children]


@pytest.mark.parametrize("make", [
    models.lenet5, models.catnet39, models.keras_conv25, models.conv1d_text, models.resnet18, models.resnet50,
    models.mobilenet_v2, models.convnext_tiny, models.unet,
])  # fmt: skip
def test_options_that_all_have(make):
    shape = (3, 300, 1) if make is models.conv1d_text else (3, 64, 64, 3)
    network = make(classes=7, dtype=jnp.bfloat16, name="net")
    again = pickle.loads(pickle.dumps(network))
    assert network.name == again.name == "net"
    assert outline(again) == outline(network)
    params, state = shapes(network, shape)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    y, after = jax.eval_shape(functools.partial(network.apply, train=True, key=key), params, state, x)
    assert y.dtype == jnp.bfloat16
    assert y.shape[-1] == 7
    assert {leaf.dtype for leaf in jax.tree.leaves((params, after))} == {jnp.dtype("float32")}
    with pytest.raises(ValueError, match="algorithm: got 'xlaa'.*Did you mean 'xla'"):
        make(algorithm="xlaa")
    if make in (models.resnet18, models.resnet50, models.mobilenet_v2, models.convnext_tiny):
        assert make(head=False).output_shape(shape)[1:3] == (2, 2)


@pytest.mark.parametrize("dtype", ["own", "mixed"])
@pytest.mark.parametrize(("network", "size"), [
    (models.lenet5(), 16), (models.resnet18(width=4), 32), (models.mobilenet_v2(width=0.1, dropout=0.5), 32),
    (models.convnext_tiny(width=4, drop_path=0.5), 32), (models.unet(width=4, levels=1, batch_norm=True), 8),
], ids=["lenet5", "resnet18", "mobilenet_v2", "convnext_tiny", "unet"])  # fmt: skip
def test_networks_and_their_gradients_in_strict_modes(network, size, dtype):
    """All in bfloat16, or pictures in float16 for parameters in float32. Traced, which is where promotion happens."""
    own, given = ("bfloat16", "bfloat16") if dtype == "own" else ("float32", "float16")
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        trees = jax.eval_shape(lambda: network.init(key, (2, size, size, 3)))
        params, state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, own), trees)
        x = jax.ShapeDtypeStruct((2, size, size, 3), given)

        def loss(params, x, state):
            y, after = network.apply(params, state, x, train=True, key=key)
            return jnp.sum(y.astype(jnp.float32)), (y, after)

        (_, (y, after)), grads = jax.eval_shape(jax.value_and_grad(loss, has_aux=True), params, x, state)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((y, after, grads))} == {own}


def test_probabilities():
    x = image((3, 39, 39, 3))
    for classes in (1, 4):
        network = models.catnet39(classes=classes, probabilities=True)
        params, state = drawn(network, x.shape)
        both = lambda *args, classes=classes, network=network: (
            network.apply(*args)[0],
            models.catnet39(classes=classes).apply(*args)[0],
        )
        got, logits = compiled(both, params, state, x)
        e = np.exp(np.asarray(logits, np.float64))
        want = e / (1 + e) if classes == 1 else e / e.sum(-1, keepdims=True)
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_networks_of_series_and_volumes():
    assert models.resnet18(classes=6).output_shape((-1, 427, 1)) == (-1, 6)
    assert models.unet(width=4, levels=2).output_shape((-1, 8, 12, 16, 1)) == (-1, 8, 12, 16, 1)


def test_a_network_in_a_network():
    network = layers.Sequential(
        models.mobilenet_v2(head=False, name="features"), layers.GlobalAvgPool(), layers.Dense(2)
    )
    params, state = shapes(network, (1, 64, 64, 3))
    assert set(params) == {"features", "Dense_0"}
    own = shapes(models.mobilenet_v2(head=False), (1, 64, 64, 3))
    assert (params["features"], state["features"]) == own


@pytest.mark.parametrize(("network", "shape", "accepted"), [
    (models.unet(), (1, 50, 64, 3), "a unet of 4 levels is .* spatial sizes are multiples of 16"),
    (models.unet(levels=2), (1, 6, 8, 3), "a unet of 2 levels is .* spatial sizes are multiples of 4"),
    (models.lenet5(), (1, 15, 32, 1), "lenet5 is .* spatial sizes are 16 or more"),
    (models.catnet39(), (1, 39, 14, 3), "catnet39 is .* spatial sizes are 15 or more"),
    (models.keras_conv25(), (1, 3, 25, 1), "keras_conv25 is .* spatial sizes are 4 or more"),
    (models.conv1d_text(), (1, 4, 300), "conv1d_text is .* spatial sizes are 5 or more"),
    (models.convnext_tiny(), (1, 224, 31, 3), "convnext_tiny is .* spatial sizes are 32 or more"),
    (models.resnet50(), (1, 3), "resnet50 is .* spatial sizes are 1 or more"),
])  # fmt: skip
def test_sizes_that_do_not_fit(network, shape, accepted):
    got = rf"got shape \({', '.join(map(str, shape))}\), accepted by {accepted}"
    with pytest.raises(ValueError, match=f"input_shape: {got}"):
        network.init(key, shape)
    with pytest.raises(ValueError, match=f"x: {got}"):
        network.apply({}, {}, np.zeros(shape, np.float32))


@pytest.mark.parametrize(("network", "size"), [
    (models.lenet5(), 16), (models.catnet39(), 15), (models.keras_conv25(), 4), (models.convnext_tiny(), 32),
    (models.resnet50(), 1), (models.mobilenet_v2(), 1), (models.unet(), 16),
])  # fmt: skip
def test_the_smallest_sizes_are_taken(network, size):
    assert len(network.output_shape((1, size, size, 3))) in (2, 4)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="like: got 'kers'.*Did you mean 'keras'"):
        models.resnet50(like="kers")
    with pytest.raises(ValueError, match="like: got 'torch'.*'torchvision'"):
        models.mobilenet_v2(like="torch")
    with pytest.raises(ValueError, match="library: got 'Keras'.*Did you mean 'keras'"):
        models.names(models.resnet50(), "Keras")
    with pytest.raises(
        ValueError, match="network: got a Sequential without a layer that keras names, accepted are resn"
    ):
        models.names(models.unet(), "keras")
    with pytest.raises(ValueError, match="drop_path: got 1.0, accepted is 0 <= drop_path < 1"):
        models.convnext_tiny(drop_path=1.0)
    with pytest.raises(ValueError, match="dropout: got -0.5, accepted is 0 <= dropout < 1"):
        models.mobilenet_v2(dropout=-0.5)
    with pytest.raises(ValueError, match="width: got 0, accepted is a positive number"):
        models.mobilenet_v2(width=0)
    for make in (models.resnet18, models.resnet50, models.convnext_tiny, models.unet):
        with pytest.raises(ValueError, match="width: got 0, accepted is an integer of at least 1"):
            make(width=0)
    with pytest.raises(ValueError, match="classes: got 0, accepted is an integer of at least 1"):
        models.lenet5(classes=0)
    with pytest.raises(TypeError, match="num_classes: no argument of resnet18; .* Did you mean 'classes'"):
        models.resnet18(num_classes=10)
    with pytest.raises(ValueError, match="levels: got -1, accepted is an integer of at least 0"):
        models.unet(levels=-1)
