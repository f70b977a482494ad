"""The networks in jconv and in the layer libraries of JAX, each with its own modules, and one training step for all."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from benchmarks.networks import (
    Conv,
    Dense,
    Flatten,
    Functions,
    GlobalPool,
    MaxPool,
    Network,
    Norm,
    Relu,
    Residual,
    Skip,
    Up,
    walk,
    with_parameters,
)
from benchmarks.peers.base import image_layout, kernel_layout, load, rounded
from benchmarks.peers.on_jax import load_keras
from jconv import layers as jl

from .base import EPSILON, KEPT, LEARNING_RATE, MOMENTUM, Stepper, Values


class Model(NamedTuple):
    """`apply(params, state, x)` gives logits, classes last, and the new state."""

    params: Any
    state: Any
    apply: Callable[[Any, Any, Any], tuple[Any, Any]]
    channels_first: bool = False


def stepper(model: Model, x: np.ndarray, labels: np.ndarray, rate: float = LEARNING_RATE) -> Stepper:
    """The model's training step, compiled; what it replaces is donated."""

    def loss(params: Any, state: Any, x: Any, labels: Any) -> tuple[Any, Any]:
        logits, state = model.apply(params, state, x)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)
        return -jnp.mean(chosen), state

    def step(carry: Any, x: Any, labels: Any) -> tuple[Any, Any]:
        params, state, velocity = carry
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params, state, x, labels)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
        params = jax.tree.map(lambda p, v: p - rate * v, params, velocity)
        return (params, state, velocity), value

    carry = (model.params, model.state, jax.tree.map(jnp.zeros_like, model.params))
    carry = jax.tree.map(lambda v: jnp.array(v, copy=True), carry)  # its own, so that it can be donated
    images = jax.device_put(image_layout(2, channels_first=model.channels_first).to(x))
    classes = jax.device_put(labels)
    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0).lower(carry, images, classes)
    middle = time.perf_counter()
    executable = lowered.compile()
    end = time.perf_counter()

    def run() -> jax.Array:
        nonlocal carry
        carry, value = jax.block_until_ready(executable(carry, images, classes))
        return value

    memory = executable.memory_analysis()
    facts = {
        "lower_s": rounded(middle - start),
        "compile_s": rounded(end - middle),
        "workspace_bytes": int(memory.temp_size_in_bytes) if memory else None,
    }
    return Stepper(run, facts)


# jconv -----------------------------------------------------------------------------------------------------
def own_layers(layers: tuple[Any, ...], algorithm: str) -> list[jl.Layer]:
    made = []
    for layer in layers:
        match layer:
            case Conv(features, window, strides, padding, groups, bias):
                made.append(
                    jl.Conv(
                        features,
                        window,
                        strides=strides,
                        padding=padding,
                        feature_group_count=groups,
                        use_bias=bias,
                        algorithm=algorithm,
                    )
                )
            case Up(features):
                made.append(jl.ConvTranspose(features, 2, strides=2, use_bias=False, algorithm=algorithm))
            case Norm():
                made.append(jl.BatchNorm(momentum=KEPT, epsilon=EPSILON))
            case Dense(features):
                made.append(jl.Dense(features))
            case Relu(cap):
                made.append(jl.Activation("relu6" if cap else "relu"))
            case MaxPool():
                made.append(jl.MaxPool(2))
            case GlobalPool():
                made.append(jl.GlobalAvgPool())
            case Flatten():
                made.append(jl.Flatten())
            case Residual(body):
                made.append(jl.Residual(*own_layers(body, algorithm)))
            case Skip(body):
                made.append(jl.Parallel(jl.Activation("identity"), jl.Sequential(*own_layers(body, algorithm))))
    return made


def own_model(network: Network, values: Values | None = None, algorithm: str = "auto") -> Model:
    """The network in `jconv.layers`, whose own initial parameters are those of all libraries."""
    net = jl.Sequential(*own_layers(network.layers, algorithm))
    params, state = net.init(jax.random.key(0), network.input_shape)
    if values is not None:
        left = iter(values)
        params = jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(_filled(params, left)))
    return Model(params, state, lambda params, state, x: net.apply(params, state, x, train=True))


def _filled(tree: dict[str, Any], values: Iterator[dict[str, np.ndarray]]) -> dict[str, Any]:
    if all(isinstance(v, dict) for v in tree.values()):
        return {name: _filled(branch, values) for name, branch in tree.items()}
    return {name: jnp.asarray(v) for name, v in next(values).items()}


def initial_values(network: Network) -> Values:
    """What jconv draws, layer by layer: its dicts hold the layers in their order."""

    def leaves(tree: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
        if all(isinstance(v, dict) for v in tree.values()):
            for branch in tree.values():
                yield from leaves(branch)
        else:
            yield {name: np.asarray(v) for name, v in tree.items()}

    return list(leaves(own_model(network).params))


# The others ------------------------------------------------------------------------------------------------
def lax_up(kernel: np.ndarray) -> np.ndarray:
    """A kernel of jconv's transposed convolution, [*window, out, in], as that of `lax.conv_transpose`."""
    return np.flip(kernel, (0, 1)).swapaxes(-1, -2)


def _relu(x: Any, cap: float | None) -> Any:
    return jax.nn.relu6(x) if cap else jax.nn.relu(x)


def flax_model(network: Network, values: Values) -> Model:
    nnx = load("flax.nnx")

    functions = Functions(
        relu=_relu,
        max_pool=lambda x: nnx.max_pool(x, (2, 2), (2, 2)),
        global_pool=lambda x: jnp.mean(x, (1, 2)),
        flatten=lambda x: x.reshape(x.shape[0], -1),
        concatenate=lambda xs: jnp.concatenate(xs, -1),
    )

    def module(layer: Any, value: dict[str, np.ndarray]) -> Any:
        rngs = nnx.Rngs(0)
        match layer:
            case Conv(features, window, strides, padding, groups, bias):
                made = nnx.Conv(
                    value["kernel"].shape[-2] * groups,
                    features,
                    (window, window),
                    strides=strides,
                    padding=padding,
                    feature_group_count=groups,
                    use_bias=bias,
                    rngs=rngs,
                )
            case Up(features):
                value = {"kernel": lax_up(value["kernel"])}
                channels = value["kernel"].shape[-2]
                made = nnx.ConvTranspose(channels, features, (2, 2), strides=(2, 2), use_bias=False, rngs=rngs)
            case Norm():
                made = nnx.BatchNorm(
                    value["scale"].size, use_running_average=False, momentum=KEPT, epsilon=EPSILON, rngs=rngs
                )
            case _:
                made = nnx.Linear(value["kernel"].shape[0], layer.features, rngs=rngs)
        for name, array in value.items():
            setattr(made, name, nnx.Param(jnp.asarray(array)))
        return made

    class Net(nnx.Module):
        def __init__(self) -> None:
            pairs = zip(with_parameters(network.layers), values, strict=True)
            self.modules_ = nnx.List([module(layer, value) for layer, value in pairs])

        def __call__(self, x: Any) -> Any:
            return walk(network.layers, x, iter(self.modules_), functions)

    graph, params, state = nnx.split(Net(), nnx.Param, ...)

    def apply(params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        net = nnx.merge(graph, params, state, copy=True)  # its variables belong to this trace
        logits = net(x)
        return logits, nnx.split(net, nnx.Param, ...)[2]

    return Model(params, state, apply)


def haiku_model(network: Network, values: Values) -> Model:
    hk = load("haiku")

    functions = Functions(
        relu=_relu,
        max_pool=lambda x: hk.max_pool(x, (2, 2, 1), (2, 2, 1), "VALID"),
        global_pool=lambda x: jnp.mean(x, (1, 2)),
        flatten=lambda x: x.reshape(x.shape[0], -1),
        concatenate=lambda xs: jnp.concatenate(xs, -1),
    )

    def module(layer: Any, name: str) -> Callable[[Any], Any]:
        match layer:
            case Conv(features, window, strides, padding, groups, bias):
                return hk.Conv2D(
                    features,
                    window,
                    stride=strides,
                    padding=((padding, padding),) * 2,
                    feature_group_count=groups,
                    with_bias=bias,
                    name=name,
                )
            case Up(features):
                return hk.Conv2DTranspose(features, 2, stride=2, with_bias=False, name=name)
            case Norm():
                norm = hk.BatchNorm(True, True, KEPT, eps=EPSILON, name=name)
                return functools.partial(norm, is_training=True)
        return hk.Linear(layer.features, name=name)

    def forward(x: Any) -> Any:
        modules = (module(layer, f"layer_{i}") for i, layer in enumerate(with_parameters(network.layers)))
        return walk(network.layers, x, modules, functions)

    def native(layer: Any, value: dict[str, np.ndarray], drawn: dict[str, Any]) -> dict[str, jax.Array]:
        names = {"kernel": "w", "bias": "offset" if isinstance(layer, Norm) else "b", "scale": "scale"}
        if isinstance(layer, Up):
            value = {"kernel": np.flip(value["kernel"], (0, 1))}
        arrays = {names[name]: array for name, array in value.items()}
        return {name: jnp.asarray(array.reshape(drawn[name].shape)) for name, array in arrays.items()}

    transformed = hk.transform_with_state(forward)
    x = jnp.zeros(network.input_shape)
    drawn, state = jax.jit(transformed.init)(jax.random.key(0), x)
    pairs = zip(with_parameters(network.layers), values, strict=True)
    params = {f"layer_{i}": native(*pair, drawn[f"layer_{i}"]) for i, pair in enumerate(pairs)}
    return Model(params, state, lambda params, state, x: transformed.apply(params, state, None, x))


def equinox_model(network: Network, values: Values) -> Model:
    eqx, key = load("equinox"), jax.random.key(0)

    functions = Functions(
        relu=_relu,
        max_pool=eqx.nn.MaxPool2d(2, 2),
        global_pool=lambda x: jnp.mean(x, (1, 2)),
        flatten=lambda x: jnp.moveaxis(x, 0, -1).reshape(-1),
        concatenate=lambda xs: jnp.concatenate(xs, 0),
    )

    def module(layer: Any, value: dict[str, np.ndarray]) -> Any:
        native = {"bias": value["bias"]} if "bias" in value else {}
        match layer:
            case Conv(features, window, strides, padding, groups, bias):
                channels = value["kernel"].shape[-2] * groups
                made = eqx.nn.Conv2d(channels, features, window, strides, padding, 1, groups, bias, key=key)
                native["weight"] = kernel_layout(2, "oik").to(value["kernel"])
            case Up(features):
                channels = value["kernel"].shape[-1]
                made = eqx.nn.ConvTranspose2d(channels, features, 2, 2, use_bias=False, key=key)
                native["weight"] = kernel_layout(2, "oik").to(lax_up(value["kernel"]))
            case Norm():
                made = eqx.nn.BatchNorm(value["scale"].size, "batch", eps=EPSILON, momentum=KEPT, mode="batch")
                native["weight"] = value["scale"]
            case _:
                made = eqx.nn.Linear(*value["kernel"].shape, key=key)
                native["weight"] = value["kernel"].T
        for name, array in native.items():
            shape = getattr(made, name).shape
            made = eqx.tree_at(lambda m, n=name: getattr(m, n), made, jnp.asarray(array).reshape(shape))
        return made

    def build() -> list[Any]:
        return [module(*pair) for pair in zip(with_parameters(network.layers), values, strict=True)]

    modules, state = eqx.nn.make_with_state(build)()
    params, static = eqx.partition(modules, eqx.is_inexact_array)

    def one(params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        def called(module: Any) -> Callable[[Any], Any]:
            def call(x: Any) -> Any:
                nonlocal state
                if isinstance(module, eqx.nn.BatchNorm):
                    x, state = module(x, state)
                    return x
                return module(x)

            return call

        modules = map(called, eqx.combine(params, static))
        return walk(network.layers, x, modules, functions), state

    batched = jax.vmap(one, in_axes=(None, None, 0), out_axes=(0, None), axis_name="batch")

    def apply(params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        logits, state = batched(params, state, x)
        return jnp.moveaxis(logits, 1, -1), state

    return Model(params, state, apply, channels_first=True)


def keras_model(network: Network, values: Values) -> Model:
    keras = load_keras()

    functions = Functions(
        relu=lambda x, cap: keras.layers.ReLU(max_value=cap)(x),
        max_pool=keras.layers.MaxPooling2D(2),
        global_pool=keras.layers.GlobalAveragePooling2D(),
        flatten=keras.layers.Flatten(),
        concatenate=keras.layers.Concatenate(),
    )

    def convolution(layer: Conv, channels: int, x: Any) -> tuple[Any, Any]:
        same = layer.strides == 1 and 2 * layer.padding == layer.window - 1
        if layer.padding and not same:
            x = keras.layers.ZeroPadding2D(layer.padding)(x)
        shared = {"strides": layer.strides, "padding": "same" if same else "valid", "use_bias": layer.bias}
        if 1 < layer.groups == channels == layer.features:
            made = keras.layers.DepthwiseConv2D(layer.window, **shared)
        else:
            made = keras.layers.Conv2D(layer.features, layer.window, groups=layer.groups, **shared)
        return made, x

    def module(layer: Any, value: dict[str, np.ndarray], x: Any) -> Any:
        match layer:
            case Conv():
                made, x = convolution(layer, value["kernel"].shape[-2] * layer.groups, x)
            case Up(features):
                made = keras.layers.Conv2DTranspose(features, 2, strides=2, padding="same", use_bias=False)
            case Norm():
                made = keras.layers.BatchNormalization(momentum=KEPT, epsilon=EPSILON)
            case _:
                made = keras.layers.Dense(layer.features)
        y = made(x)
        for variable, array in zip(made.trainable_variables, value.values(), strict=True):
            variable.assign(array.reshape(variable.shape))
        return y

    image = keras.Input(network.input_shape[1:], batch_size=network.input_shape[0])
    pairs = zip(with_parameters(network.layers), values, strict=True)
    modules = (functools.partial(module, *pair) for pair in pairs)
    model = keras.Model(image, walk(network.layers, image, modules, functions))
    trainable, others = ([v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables))
    return Model(trainable, others, lambda params, state, x: model.stateless_call(params, state, x, training=True))
