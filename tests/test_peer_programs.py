"""Training programs as the layer libraries' own documentation writes them: with `accelerate` anywhere, the same results.

Each program marks the functions that a user may accelerate, `mark("step", fn)`, and gives what its user would see: losses,
metrics, predictions, weights and statistics. It is run as it is, and once for each of its marks.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

import jconv
from jconv import _primitive

pytestmark = pytest.mark.standard_modes  # which these libraries take for granted

RNG = np.random.default_rng(0)
LABELS = RNG.integers(5, size=(4, 8), dtype=np.int32)
TINTS = RNG.standard_normal((5, 3))  # what tells the classes apart
IMAGES = np.asarray(RNG.standard_normal((4, 8, 8, 8, 3)) + TINTS[LABELS][:, :, None, None], np.float32)
BATCHES = [(jnp.asarray(x), jnp.asarray(y)) for x, y in zip(IMAGES, LABELS, strict=True)] * 5  # 20 steps
# Layers before a norm have no bias: its gradient would be rounding alone, which Adam makes large.
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def nnx_train(mark):
    """With an optimizer, metrics, statistics and random numbers that change in place."""
    nnx = pytest.importorskip("flax.nnx")

    class CNN(nnx.Module):
        def __init__(self, *, rngs):
            self.conv1 = nnx.Conv(3, 6, kernel_size=(3, 3), use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(6, rngs=rngs)
            self.dropout = nnx.Dropout(rate=0.1, rngs=rngs)
            self.conv2 = nnx.Conv(6, 6, kernel_size=(3, 3), feature_group_count=6, use_bias=False, rngs=rngs)
            self.linear = nnx.Linear(6, 5, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.dropout(self.norm(self.conv1(x))))
            return self.linear(self.conv2(nnx.avg_pool(x, (2, 2), (2, 2))).mean((1, 2)))

    def loss_fn(model, batch):
        image, label = batch
        logits = model(image)
        return cross_entropy(logits=logits, labels=label).mean(), logits

    gradient = mark("gradient", nnx.value_and_grad(mark("loss", loss_fn), has_aux=True))

    def train_step(model, optimizer, metrics, batch):
        (loss, logits), grads = gradient(model, batch)
        metrics.update(loss=loss, logits=logits, labels=batch[1])
        optimizer.update(model, grads)
        return loss

    def eval_step(model, metrics, batch):
        loss, logits = loss_fn(model, batch)
        metrics.update(loss=loss, logits=logits, labels=batch[1])

    train_step = mark("jitted", nnx.jit(mark("step", train_step)))
    eval_step = mark("jitted", nnx.jit(mark("step", eval_step)))
    model = CNN(rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.03), wrt=nnx.Param)
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
    model.train()
    losses = [train_step(model, optimizer, metrics, batch) for batch in BATCHES]
    trained = metrics.compute()
    metrics.reset()
    model.eval()
    eval_step(model, metrics, BATCHES[0])
    state = nnx.filter_state(nnx.state((model, optimizer)), nnx.Not(nnx.RngState))
    return losses, trained, metrics.compute(), nnx.to_pure_dict(state)


def nnx_scan(mark):
    """Over layers that `nnx.vmap` makes, with statistics inside."""
    nnx = pytest.importorskip("flax.nnx")

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 3, (3, 3), use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(3, rngs=rngs)

        def __call__(self, x):
            return x + nnx.relu(self.norm(self.conv(x)))

    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def create_blocks(rngs):
        return Block(rngs)

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.blocks = create_blocks(rngs)
            self.head = nnx.Linear(3, 5, rngs=rngs)

        def __call__(self, x):
            layer = mark("layer", lambda x, block: block(x))
            forward = mark("scan", nnx.scan(layer, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry))
            return self.head(forward(x, self.blocks).mean((1, 2)))

    def train_step(net, optimizer, x, y):
        loss, grads = nnx.value_and_grad(lambda net: cross_entropy(net(x), y).mean())(net)
        optimizer.update(net, grads)
        return loss

    train_step = mark("jitted", nnx.jit(mark("step", train_step)))
    net = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)
    losses = [train_step(net, optimizer, *batch) for batch in BATCHES]
    return losses, nnx.to_pure_dict(nnx.state(net))


def nnx_split_and_merge(mark):
    """In jax.jit, with all that changes as arguments and results."""
    nnx = pytest.importorskip("flax.nnx")

    def train_step(graphdef, state, x, y):
        model, optimizer = nnx.merge(graphdef, state)
        loss, grads = nnx.value_and_grad(mark("loss", lambda model: cross_entropy(model(x), y).mean()))(model)
        optimizer.update(model, grads)
        return nnx.state((model, optimizer)), loss

    train_step = mark("jitted", jax.jit(mark("step", train_step)))
    rngs = nnx.Rngs(0)
    layers = [nnx.Conv(3, 6, (3, 3), strides=2, use_bias=False, rngs=rngs), nnx.BatchNorm(6, rngs=rngs), nnx.relu]
    model = nnx.Sequential(*layers, lambda x: x.mean((1, 2)), nnx.Linear(6, 5, rngs=rngs))
    optimizer = nnx.Optimizer(model, optax.adam(0.03), wrt=nnx.Param)
    graphdef, state = nnx.split((model, optimizer))
    losses = []
    for batch in BATCHES:
        state, loss = train_step(graphdef, state, *batch)
        losses.append(loss)
    return losses, nnx.to_pure_dict(state)


@functools.cache
def linen_cnn():
    """The network and what it starts from, compiled once for all runs."""
    nn = pytest.importorskip("flax.linen")

    class Block(nn.Module):
        train: bool

        @nn.compact
        def __call__(self, x):
            y = nn.Conv(6, (3, 3), feature_group_count=3, kernel_dilation=2, use_bias=False)(x)
            return nn.relu(nn.BatchNorm(use_running_average=not self.train, momentum=0.9)(y))

    class CNN(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.remat(Block)(train)(x)
            x = nn.Dropout(rate=0.1, deterministic=not train)(x)
            return nn.Dense(5)(nn.ConvTranspose(4, (2, 2), strides=(2, 2))(x).mean((1, 2)))

    cnn = CNN()
    return cnn, jax.jit(lambda key, x: cnn.init(key, x, train=False))(jax.random.key(0), BATCHES[0][0])


def linen(mark):
    """With a TrainState, statistics that are mutable, dropout, and blocks that are computed again."""
    cnn, variables = linen_cnn()
    train_state = pytest.importorskip("flax.training.train_state")

    class TrainState(train_state.TrainState):
        batch_stats: Any
        key: jax.Array

    def train_step(state, image, label):
        key = jax.random.fold_in(state.key, state.step)

        def loss_fn(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            options = {"train": True, "rngs": {"dropout": key}, "mutable": ["batch_stats"]}
            logits, updates = state.apply_fn(variables, image, **options)
            return cross_entropy(logits, label).mean(), (logits, updates)

        gradient = mark("gradient", jax.value_and_grad(mark("loss", loss_fn), has_aux=True))
        (loss, (logits, updates)), grads = gradient(state.params)
        state = state.apply_gradients(grads=grads).replace(batch_stats=updates["batch_stats"])
        return state, {"loss": loss, "accuracy": jnp.mean(jnp.argmax(logits, -1) == label)}

    train_step = mark("jitted", jax.jit(mark("step", train_step)))
    state = TrainState.create(
        apply_fn=mark("apply", cnn.apply), tx=optax.adam(0.03), key=jax.random.key(1), **variables
    )
    metrics = []
    for batch in BATCHES:
        state, metric = train_step(state, *batch)
        metrics.append(metric)
    return [m["loss"] for m in metrics], metrics, state.step, state.params, state.batch_stats, state.opt_state


@functools.cache
def haiku_net():
    """The network, what it starts from, and its predictions: what no mark is in is compiled once for all runs."""
    hk = pytest.importorskip("haiku")

    def net_fn(x, is_training):
        x = hk.Conv2D(6, 3, stride=2, with_bias=False)(x)
        x = jax.nn.relu(hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(x, is_training))
        x = hk.dropout(hk.next_rng_key(), 0.1, x) if is_training else x
        return hk.Linear(5)(hk.DepthwiseConv2D(1, 3)(x).mean((1, 2)))

    net = hk.transform_with_state(net_fn)
    start = jax.jit(lambda key, x: net.init(key, x, True))(jax.random.key(0), BATCHES[0][0])
    return net, start, jax.jit(lambda params, state, x: net.apply(params, state, None, x, False))


def haiku(mark):
    """With state, and random numbers."""
    net, (params, state), predict = haiku_net()
    optimizer = optax.adam(0.03)

    class TrainingState(NamedTuple):
        params: Any
        state: Any
        opt_state: Any

    def loss_fn(params, state, key, image, label):
        logits, state = net.apply(params, state, key, image, True)
        return cross_entropy(logits, label).mean(), (logits, state)

    gradient = mark("gradient", jax.value_and_grad(mark("loss", loss_fn), has_aux=True))

    def update(train, key, image, label):
        (loss, (logits, state)), grads = gradient(train.params, train.state, key, image, label)
        updates, opt_state = optimizer.update(grads, train.opt_state)
        return TrainingState(optax.apply_updates(train.params, updates), state, opt_state), loss, logits

    update = mark("jitted", jax.jit(mark("step", update)))
    train, losses, logits = TrainingState(params, state, optimizer.init(params)), [], None
    for i, batch in enumerate(BATCHES):
        train, loss, logits = update(train, jax.random.key(i), *batch)
        losses.append(loss)
    return losses, logits, train, predict(train.params, train.state, BATCHES[0][0])


def equinox(mark):
    """With filters, and a model and results that hold functions, numbers and state."""
    eqx = pytest.importorskip("equinox")

    class CNN(eqx.Module):
        layers: list
        norm: eqx.nn.BatchNorm
        scale: float
        name: str = "cnn"

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.norm = eqx.nn.BatchNorm(6, axis_name="batch", mode="batch")
            conv = [eqx.nn.Conv2d(3, 6, 3, use_bias=False, key=keys[0]), eqx.nn.Conv2d(6, 6, 3, groups=6, key=keys[1])]
            self.layers = [*conv, jax.nn.relu, eqx.nn.Linear(6, 5, key=keys[2])]
            self.scale = 0.5

        def __call__(self, x, state):
            x, state = self.norm(self.layers[0](x), state)
            x = self.layers[2](self.layers[1](x)).mean((1, 2)) * self.scale
            return self.layers[3](x), state

    def compute_loss(model, state, xs, ys):
        batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        logits, state = batched(xs, state)
        return cross_entropy(logits, ys).mean(), (state, model.layers[2])

    gradient = mark("gradient", eqx.filter_value_and_grad(mark("loss", compute_loss), has_aux=True))
    optim = optax.adam(0.03)

    def make_step(model, state, opt_state, xs, ys):
        (loss, (state, _)), grads = gradient(model, state, xs, ys)
        updates, opt_state = optim.update(grads, opt_state)
        return eqx.apply_updates(model, updates), state, opt_state, loss

    make_step = mark("jitted", eqx.filter_jit(mark("step", make_step)))
    model, state = eqx.nn.make_with_state(CNN)(jax.random.key(0))
    opt_state, losses = optim.init(eqx.filter(model, eqx.is_inexact_array)), []
    for xs, ys in BATCHES:
        model, state, opt_state, loss = make_step(model, state, opt_state, xs.transpose(0, 3, 1, 2), ys)
        losses.append(loss)
    assert model.layers[2] is jax.nn.relu
    assert (type(model.scale), model.name) == (float, "cnn")
    return losses, eqx.filter((model, state, opt_state), eqx.is_array)


def on_jax():
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("keras is not on jax")
    return keras


def keras_model():
    keras = on_jax()
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(6, 3, use_bias=False), keras.layers.BatchNormalization(momentum=0.9)]
    layers += [keras.layers.Activation("relu"), keras.layers.Dropout(0.1), keras.layers.DepthwiseConv2D(3)]
    return keras.Sequential(
        [keras.Input(IMAGES.shape[2:]), *layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)]
    )


def keras_fit(mark):
    """`fit`, `evaluate` and `predict`, with what each does to one batch accelerated."""
    keras, model = on_jax(), keras_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.03), loss=loss, metrics=["accuracy"])
    for name in ("train_step", "test_step", "predict_step"):
        setattr(model, name, mark("step", getattr(model, name)))
    images, labels = IMAGES.reshape(-1, *IMAGES.shape[2:]), LABELS.reshape(-1)
    data = {"batch_size": 8, "verbose": 0}
    history = model.fit(images, labels, epochs=5, shuffle=False, validation_data=(images[:16], labels[:16]), **data)
    weights = [np.asarray(variable.value) for variable in model.weights]
    seen = model.evaluate(images, labels, return_dict=True, **data), model.predict(images, **data)
    return history.history["loss"], history.history, seen, weights


def keras_loop(mark):
    """A training loop of one's own, without state."""
    keras, model = on_jax(), keras_model()
    optimizer, loss_fn = keras.optimizers.Adam(0.03), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metric = keras.metrics.SparseCategoricalAccuracy()
    optimizer.build(model.trainable_variables)

    def compute_loss(trainable, non_trainable, metrics, x, y):
        logits, non_trainable = model.stateless_call(trainable, non_trainable, x, training=True)
        return loss_fn(y, logits), (non_trainable, metric.stateless_update_state(metrics, y, logits))

    gradient = mark("gradient", jax.value_and_grad(mark("loss", compute_loss), has_aux=True))

    def train_step(state, data):
        trainable, non_trainable, slots, metrics = state
        (loss, (non_trainable, metrics)), grads = gradient(trainable, non_trainable, metrics, *data)
        trainable, slots = optimizer.stateless_apply(slots, grads, trainable)
        return loss, (trainable, non_trainable, slots, metrics)

    train_step = mark("jitted", jax.jit(mark("step", train_step)))
    values = lambda variables: [variable.value for variable in variables]
    state = tuple(
        map(values, (model.trainable_variables, model.non_trainable_variables, optimizer.variables, metric.variables))
    )
    losses = []
    for batch in BATCHES:
        loss, state = train_step(state, batch)
        losses.append(loss)
    return losses, state, metric.stateless_result(state[3])


PROGRAMS = (nnx_train, nnx_scan, nnx_split_and_merge, linen, haiku, equinox, keras_fit, keras_loop)


@pytest.fixture
def roles(monkeypatch):
    """What jconv's primitive is bound for."""
    seen = []
    bind = _primitive.conv_p.bind

    @functools.wraps(bind)
    def noted(*args, **params):
        seen.append(params["request"].role)
        return bind(*args, **params)

    monkeypatch.setattr(_primitive.conv_p, "bind", noted)
    return seen


def named_leaves(tree):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_accelerated_anywhere_gives_the_same(program, roles):
    marks = {}
    expected = program(lambda name, fn: (marks.setdefault(name), fn)[1])
    losses = np.asarray(expected[0], np.float32)
    assert losses[-1] < 0.9 * losses[0]
    assert not roles
    wrong = []
    for chosen in marks:
        roles.clear()
        try:
            got = program(lambda name, fn, chosen=chosen: jconv.accelerate(fn) if name == chosen else fn)
            pairs = zip(named_leaves(got), named_leaves(expected), strict=True)
            for (name, mine), (same, theirs) in pairs:
                assert name == same
                np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-4, err_msg=name)
            assert set(roles) >= {"forward", "kernel_grad"}
        except Exception as error:
            wrong.append(f"{chosen}: {type(error).__name__}: {error}")
    assert not wrong, "\n\n".join(wrong)
