"""Models of the layer libraries, each as it is: under `accelerate` they give the same losses."""

import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

import jconv

pytestmark = pytest.mark.standard_modes  # the other libraries, and optax, promote dtypes and ranks

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((4, 12, 12, 3)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(5, size=4))
STEPS = 20


def flax_nnx():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.stem = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
            self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.head = nnx.Linear(8, 5, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.norm(self.depthwise(self.stem(x))))
            return self.head(x.mean((1, 2)))

    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    return params, lambda params, x: nnx.merge(graph, params, rest, copy=True)(x)


def flax_linen():
    nn = pytest.importorskip("flax.linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(8, (3, 3), strides=2, padding="VALID")(x))
            x = nn.Conv(8, (3, 3), feature_group_count=4, kernel_dilation=2)(x)
            x = nn.ConvTranspose(6, (2, 2), strides=(2, 2))(x)
            return nn.Dense(5)(x.mean((1, 2)))

    net = Net()
    return net.init(jax.random.key(0), X), net.apply


def haiku():
    hk = pytest.importorskip("haiku")

    def forward(x):
        x = jax.nn.relu(hk.Conv2D(8, 3, stride=2)(x))
        x = hk.DepthwiseConv2D(1, 3)(x)
        return hk.Linear(5)(x.mean((1, 2)))

    net = hk.without_apply_rng(hk.transform(forward))
    return net.init(jax.random.key(0), X), net.apply


def equinox():
    eqx = pytest.importorskip("equinox")
    keys = jax.random.split(jax.random.key(0), 3)
    layers = (
        eqx.nn.Conv2d(3, 8, 3, stride=2, key=keys[0]),
        eqx.nn.Conv2d(8, 8, 3, padding=1, groups=8, key=keys[1]),
        eqx.nn.Linear(8, 5, key=keys[2]),
    )
    params, static = eqx.partition(layers, eqx.is_inexact_array)

    def one(layers, x):
        stem, depthwise, head = layers
        return head(depthwise(jax.nn.relu(stem(x))).mean((1, 2)))

    return params, lambda params, x: jax.vmap(one, (None, 0))(eqx.combine(params, static), x.transpose(0, 3, 1, 2))


def keras():
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("keras is not on jax")
    model = keras.Sequential(
        [
            keras.Input(X.shape[1:]),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.DepthwiseConv2D(3),
            keras.layers.SeparableConv2D(8, 2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5),
        ]
    )
    others = [v.value for v in model.non_trainable_variables]
    params = [v.value for v in model.trainable_variables]
    return params, lambda params, x: model.stateless_call(params, others, x)[0]


@pytest.mark.parametrize("library", [flax_nnx, flax_linen, haiku, equinox, keras], ids=lambda f: f.__name__)
def test_the_same_losses_over_many_steps(library):
    params, apply = library()
    optimizer = optax.sgd(0.1, momentum=0.9)

    def loss(params, x):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), LABELS).mean()

    @jax.jit
    def step(params, state, x):
        value, gradient = jax.value_and_grad(loss)(params, x)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    forward = jconv.accelerate(apply)  # only the model, differentiated afterwards

    @jax.jit
    def outside(params, state, x):
        again = lambda params: optax.softmax_cross_entropy_with_integer_labels(forward(params, x), LABELS).mean()
        value, gradient = jax.value_and_grad(again)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    whole = jconv.accelerate(step)
    roles = [found.role for found in whole.replaced(params, optimizer.init(params), X)]
    assert len(roles) >= 5
    assert None not in roles
    assert "kernel_grad" in roles
    losses = {}
    for name, fn in {"as it is": step, "whole": whole, "outside": outside}.items():
        carry = (params, optimizer.init(params))
        losses[name] = []
        for _ in range(STEPS):
            *carry, value = fn(*carry, X)
            losses[name].append(float(value))
    assert losses["as it is"][-1] < losses["as it is"][0]
    for name in ("whole", "outside"):
        np.testing.assert_allclose(losses[name], losses["as it is"], rtol=1e-3, atol=1e-4)


def test_flax_takes_the_drop_in_as_an_argument():
    nnx = pytest.importorskip("flax.nnx")
    options = {"strides": 2, "padding": "CIRCULAR", "feature_group_count": 3}
    plain = nnx.Conv(3, 9, (3, 3), rngs=nnx.Rngs(0), **options)
    mine = nnx.Conv(3, 9, (3, 3), rngs=nnx.Rngs(0), conv_general_dilated=jconv.lax.conv_general_dilated, **options)
    np.testing.assert_allclose(mine(X), plain(X), rtol=1e-5, atol=1e-5)


PAGE = Path(__file__).parent.parent / "docs" / "libraries.md"
PROGRAMS = re.findall(r"^## (.*?)$.*?^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.mark.parametrize(("title", "program"), PROGRAMS, ids=[title for title, _ in PROGRAMS])
def test_programs_of_the_documentation(title, program):
    module = {"Flax nnx": "flax.nnx", "Flax linen": "flax.linen", "Haiku": "haiku", "Equinox": "equinox"}
    library = pytest.importorskip(module.get(title, "keras"))
    if title.startswith("Keras") and library.backend.backend() != "jax":
        pytest.skip("keras is not on jax")
    assert len([line for line in program.splitlines() if line.strip()]) < 30
    namespace: dict = {}
    exec(compile(program, f"{PAGE.name}, {title}", "exec"), namespace)
    step, fresh = namespace["step"], namespace["params"]
    state, value = namespace["state"], namespace["value"]
    assert np.isfinite(value)
    x = jnp.ones((8, 16, 28, 28) if title == "Equinox" else (8, 28, 28, 16))
    assert {found.role for found in step.replaced(fresh, state, x, jnp.arange(8))} >= {"forward", "kernel_grad"}
