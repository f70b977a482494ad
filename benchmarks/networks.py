"""The networks whose training steps are measured, described once for all libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Conv(NamedTuple):
    """Padded alike on both sides."""

    features: int
    window: int
    strides: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = False


class Up(NamedTuple):
    """A transposed convolution that doubles the image: window 2, strides 2."""

    features: int


class Norm(NamedTuple):
    """Batch norm with the batch's own statistics; epsilon 1e-5, running statistics kept at 0.9."""


class Relu(NamedTuple):
    cap: float | None = None


class MaxPool(NamedTuple):
    """Of 2×2, without overlap."""


class GlobalPool(NamedTuple):
    """The mean over space."""


class Flatten(NamedTuple):
    """Space, then channels."""


class Dense(NamedTuple):
    features: int


class Residual(NamedTuple):
    """x + body(x)"""

    body: tuple[Any, ...]


class Skip(NamedTuple):
    """The channels of x, and then those of body(x)."""

    body: tuple[Any, ...]


class Network(NamedTuple):
    """Logits are [batch, *positions, classes]; each position of the labels has its class."""

    name: str
    origin: str
    input_shape: tuple[int, ...]
    layers: tuple[Any, ...]
    positions: tuple[int, ...]
    classes: int


class Functions(NamedTuple):
    """How a library computes the layers without parameters."""

    relu: Callable[[Any, float | None], Any]
    max_pool: Callable[[Any], Any]
    global_pool: Callable[[Any], Any]
    flatten: Callable[[Any], Any]
    concatenate: Callable[[list[Any]], Any]


def with_parameters(layers: tuple[Any, ...]) -> Iterator[Any]:
    """The layers that have parameters, in their order."""
    for layer in layers:
        if isinstance(layer, (Residual, Skip)):
            yield from with_parameters(layer.body)
        elif isinstance(layer, (Conv, Up, Norm, Dense)):
            yield layer


def walk(layers: tuple[Any, ...], x: Any, modules: Iterator[Any], functions: Functions) -> Any:
    """Runs a network: `modules` are callables for the layers with parameters, `functions` computes the others."""
    for layer in layers:
        match layer:
            case Residual(body):
                x = x + walk(body, x, modules, functions)
            case Skip(body):
                x = functions.concatenate([x, walk(body, x, modules, functions)])
            case Relu(cap):
                x = functions.relu(x, cap)
            case MaxPool():
                x = functions.max_pool(x)
            case GlobalPool():
                x = functions.global_pool(x)
            case Flatten():
                x = functions.flatten(x)
            case _:
                x = next(modules)(x)
    return x


def _bottleneck(channels: int, features: int, strides: int, expansion: int = 6) -> tuple[Any, ...]:
    wide = channels * expansion
    body = (
        Conv(wide, 1),
        Norm(),
        Relu(6.0),
        Conv(wide, 3, strides, 1, groups=wide),
        Norm(),
        Relu(6.0),
        Conv(features, 1),
        Norm(),
    )
    return (Residual(body),) if strides == 1 and channels == features else body


def _double(features: int) -> tuple[Any, ...]:
    return (Conv(features, 3, 1, 1), Norm(), Relu()) * 2


NETWORKS = (
    Network(
        "lenet-5",
        "LeCun 1998, with ReLU and max pools",
        (64, 32, 32, 1),
        (
            Conv(6, 5, bias=True),
            Relu(),
            MaxPool(),
            Conv(16, 5, bias=True),
            Relu(),
            MaxPool(),
            Flatten(),
            Dense(120),
            Relu(),
            Dense(84),
            Relu(),
            Dense(10),
        ),
        (),
        10,
    ),
    Network(
        "mobilenetv2-blocks",
        "Sandler 2018, the bottlenecks from 24 to 32 channels, and a classifier",
        (8, 56, 56, 24),
        (*_bottleneck(24, 24, 1), *_bottleneck(24, 32, 2), *_bottleneck(32, 32, 1), GlobalPool(), Dense(10)),
        (),
        10,
    ),
    Network(
        "resnext-block",
        "Xie 2017, a block of conv3 of ResNeXt-50 32x4d with 256 channels around, and a classifier",
        (8, 28, 28, 256),
        (
            Residual(
                (Conv(256, 1), Norm(), Relu(), Conv(256, 3, 1, 1, groups=32), Norm(), Relu(), Conv(256, 1), Norm())
            ),
            Relu(),
            GlobalPool(),
            Dense(10),
        ),
        (),
        10,
    ),
    Network(
        "unet-small",
        "Ronneberger 2015, two levels, thinned, with batch norm",
        (4, 64, 64, 3),
        (
            *_double(16),
            Skip((MaxPool(), *_double(32), Skip((MaxPool(), *_double(64), Up(32))), *_double(32), Up(16))),
            *_double(16),
            Conv(4, 1, bias=True),
        ),
        (64, 64),
        4,
    ),
)
