"""What the layers of the networks are called in other libraries."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..layers import Layer
from . import convnext, mobilenet, resnet
from .base import choice

FAMILIES = (resnet.NAMES, mobilenet.NAMES, convnext.NAMES)
LIBRARIES = {library: [rule for names in FAMILIES for rule in names[library]] for library in ("keras", "torchvision")}


def _paths(layer: Layer, at: str = "") -> Iterator[str]:
    for name, child in layer.children:
        yield from _paths(child, f"{at}{name}/")
    if not layer.children:
        yield at[:-1]


def names(network: Layer, library: str) -> dict[str, str]:
    """What each layer of a network is called in another library: the ``names`` for its weights in `jconv.interop`.

    The networks are those of `resnet18`, `resnet50`, `mobilenet_v2` and `convnext_tiny`; ``keras`` stands for
    ``keras.applications``, which has no ResNet-18. Where they take `like`, it must be the library's. The names of the
    layers of Keras's ConvNeXt begin with that of the model, here ``convnext_tiny``, as it is by default.

    Args:
        network: the network.
        library: ``"keras"`` or ``"torchvision"``.

    Returns:
        The name there for each layer with parameters here, for ``interop.from_keras`` and ``to_keras``, or
        ``interop.from_torch`` and ``to_torch``.

    Raises:
        ValueError: for an unknown library, or a network none of whose layers it has.

    >>> from jconv import models
    >>> there = models.names(models.resnet50(like="keras"), "keras")
    >>> there["conv1"], there["conv2_block1/body/conv3"], there["conv2_block1/shortcut/bn"]
    ('conv1_conv', 'conv2_block1_3_conv', 'conv2_block1_0_bn')

    References:
        The layers of ``keras.applications`` and the modules of ``torchvision.models``.
    """
    rules = choice("library", library, LIBRARIES)
    found = {}
    for path in _paths(network):
        matches = ((re.fullmatch(pattern, path), there) for pattern, there in rules)
        match, there = next((pair for pair in matches if pair[0]), (None, ""))
        if match:
            found[path] = there(match) if callable(there) else match.expand(there)
    if not found:
        raise ValueError(
            f"network: got a {network.kind} without a layer that {library} names, accepted are resnet18, resnet50, "
            "mobilenet_v2 and convnext_tiny of jconv.models."
        )
    return found
