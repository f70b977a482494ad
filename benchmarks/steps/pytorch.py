"""The networks in PyTorch, channels-first in memory and channels-last; the faster of the two is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.networks import Conv, Functions, Network, Norm, Up, walk, with_parameters
from benchmarks.peers.base import Absent, fastest, image_layout, kernel_layout, load

from .base import EPSILON, KEPT, LEARNING_RATE, MOMENTUM, Stepper, Values


def training_step(torch: Any, net: Any, images: Any, classes: Any, rate: float = LEARNING_RATE) -> Callable[[], Any]:
    """A step of training: loss, gradients and an update; it gives the loss before it."""
    optimiser = torch.optim.SGD(net.parameters(), lr=rate, momentum=MOMENTUM)

    def step() -> Any:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(images), classes)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def torch_stepper(network: Network, values: Values, x: np.ndarray, labels: np.ndarray) -> Stepper:
    if jax.default_backend() != "cpu":
        raise Absent("torch: measured on CPU only")
    torch = load("torch")
    images = torch.from_numpy(image_layout(2, channels_first=True).to(x))
    classes = torch.from_numpy(labels.astype(np.int64))
    formats = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}

    def start(memory_format: Any) -> Any:
        net = torch_model(torch, network, values).to(memory_format=memory_format)
        return training_step(torch, net, images.contiguous(memory_format=memory_format), classes)

    chosen, tried = fastest({name: start(memory_format) for name, memory_format in formats.items()})
    facts = {"layout": chosen, "layouts_ms": tried, "threads": torch.get_num_threads()}
    return Stepper(start(formats[chosen]), facts)


def torch_model(torch: Any, network: Network, values: Values) -> Any:
    nn = torch.nn

    functions = Functions(
        relu=lambda x, cap: nn.functional.relu6(x) if cap else nn.functional.relu(x),
        max_pool=lambda x: nn.functional.max_pool2d(x, 2),
        global_pool=lambda x: x.mean((2, 3)),
        flatten=lambda x: x.movedim(1, -1).flatten(1),
        concatenate=lambda xs: torch.cat(xs, 1),
    )

    def module(layer: Any, value: dict[str, np.ndarray]) -> Any:
        native = {"bias": value["bias"]} if "bias" in value else {}
        match layer:
            case Conv(features, window, strides, padding, groups, bias):
                channels = value["kernel"].shape[-2] * groups
                made = nn.Conv2d(channels, features, window, strides, padding, groups=groups, bias=bias)
                native["weight"] = kernel_layout(2, "oik").to(value["kernel"])
            case Up(features):
                made = nn.ConvTranspose2d(value["kernel"].shape[-1], features, 2, 2, bias=False)
                native["weight"] = np.moveaxis(value["kernel"], (-1, -2), (0, 1))
            case Norm():
                made = nn.BatchNorm2d(value["scale"].size, eps=EPSILON, momentum=1 - KEPT)
                native["weight"] = value["scale"]
            case _:
                made = nn.Linear(*value["kernel"].shape)
                native["weight"] = value["kernel"].T
        made.load_state_dict({n: torch.from_numpy(np.array(a, order="C")) for n, a in native.items()}, strict=False)
        return made

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pairs = zip(with_parameters(network.layers), values, strict=True)
            self.parts = nn.ModuleList([module(*pair) for pair in pairs])

        def forward(self, x: Any) -> Any:
            return walk(network.layers, x, iter(self.parts), functions)

    return Net()
