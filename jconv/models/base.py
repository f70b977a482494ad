"""What the networks share: how they end, and which sizes they take."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from .._names import nearest
from .._spec import integer
from ..layers import Activation, Dense, Epilogue, Layer
from ..layers.base import array_shape, constructor

T = TypeVar("T")


def choice(name: str, value: str, table: Mapping[str, T]) -> T:
    """The entry of a table that an argument names; ValueError where there is none."""
    if value not in table:
        raise ValueError(f"{name}: got {value!r}, {nearest(value, table)}")
    return table[value]


def classifier(classes: int, probabilities: bool, dtype: Any, name: str) -> list[Layer]:
    """Logits, or the probabilities that they stand for: a sigmoid of one, a softmax of more."""
    classes = integer(classes, "classes", minimum=1)
    ending = [Activation("sigmoid" if classes == 1 else "softmax")] if probabilities else []
    return [Dense(classes, dtype=dtype, name=name), *ending]


@constructor
def sized(network: Layer, what: str, *, at_least: int = 1, multiple: int = 1) -> Layer:
    """A network that says which sizes it takes, before a layer deep in it says which one it got."""

    def check(shape: Sequence[int], argument: str) -> None:
        shape = tuple(array_shape(shape, argument))
        if len(shape) < 3 or any(n < at_least or n % multiple for n in shape[1:-1]):
            sizes = f"multiples of {multiple}" if multiple > 1 else f"{at_least} or more"
            raise ValueError(
                f"{argument}: got shape {shape}, accepted by {what} is [batch, *spatial, channels] where the spatial "
                f"sizes are {sizes}."
            )

    def init(key, input_shape):
        check(input_shape, "input_shape")
        return network.init(key, input_shape)

    def apply(params, state, x, *, train=False, key=None):
        check(x.shape, "x")
        return network.apply(params, state, x, train=train, key=key)

    known = network.epilogue
    assert known is not None
    assert known.remade is not None  # a Sequential
    remade = known.remade
    again = lambda layers: sized(remade(layers), what, at_least=at_least, multiple=multiple)
    epilogue = Epilogue(apply, remade=again)
    return dataclasses.replace(network, init=init, apply=apply, epilogue=epilogue)
