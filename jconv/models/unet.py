"""U-Net."""

from __future__ import annotations

from functools import partial
from typing import Any

from .._spec import integer
from ..initializers import he_normal
from ..layers import Activation, BatchNorm, Conv, ConvTranspose, Layer, MaxPool, Parallel, Sequential
from ..layers.base import constructor
from .base import sized


@constructor
def unet(
    *,
    classes: int = 1,
    width: int = 64,
    levels: int = 4,
    batch_norm: bool = False,
    dtype: Any = None,
    algorithm: Any = "auto",
    name: str | None = None,
) -> Layer:
    """U-Net: down by halving and up again, with a way across at each level; as many pixels out as in.

    A level is y = f([x', up(level(down(x')))]) with x' = g(x), where f and g are two 3×3 convolutions with relu, down
    the maximum of 2×2, up a transposed convolution of 2×2, and [,] joins channels. The paper's widths, 64 to 1,024,
    make 31,030,593 parameters for one channel in and one out. The paper convolves without padding and crops what goes
    across; here all convolutions keep the size, so that the output fits the input.

    Args:
        classes: channels of the output, numbers without an activation: logits of each pixel, or the pixel itself.
        width: channels of the first level; each level below has twice as many.
        levels: how many times the picture is halved.
        batch_norm: whether a `BatchNorm` follows each 3×3 convolution, in the place of its bias; the paper has none.
        dtype: to compute in; by default that of the operands.
        algorithm: of the convolutions, as for `jconv.conv`.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer`: ``[batch, *spatial, channels]`` to ``[batch, *spatial, classes]``, where ``2**levels`` divides each
        spatial size.

    Raises:
        ValueError: for `levels` below 0; in init and apply, for a size that ``2**levels`` does not divide.

    >>> unet(classes=3, width=8).output_shape((-1, 48, 64, 3))
    (-1, 48, 64, 3)

    References:
        Ronneberger, Fischer and Brox, "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015,
        arXiv:1505.04597.
    """
    levels, width = integer(levels, "levels", minimum=0), integer(width, "width", minimum=1)
    classes = integer(classes, "classes", minimum=1)
    options = {"kernel_init": he_normal(), "dtype": dtype, "algorithm": algorithm}
    conv = partial(Conv, kernel_size=3, use_bias=not batch_norm, **options)

    def twice(features: int) -> list[Layer]:
        return 2 * [conv(features), *([BatchNorm()] if batch_norm else []), Activation("relu")]

    def level(depth: int) -> list[Layer]:
        features = width * 2**depth
        if depth == levels:
            return twice(features)
        up = ConvTranspose(features, 2, strides=2, **options)
        below = Sequential(MaxPool(2), *level(depth + 1), up, name="below")
        return [*twice(features), Parallel(Activation("identity"), below, name="across"), *twice(features)]

    network = Sequential(*level(0), Conv(classes, 1, name="output", **options), name=name)
    return sized(network, f"a unet of {levels} levels", multiple=2**levels)
