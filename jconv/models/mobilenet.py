"""MobileNetV2."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

from .._spec import Padding
from ..initializers import VarianceScaling
from ..layers import Activation, BatchNorm, Conv, DepthwiseConv, Dropout, GlobalAvgPool, Layer, Residual, Sequential
from ..layers.base import constructor, number, rate_of
from .base import choice, classifier, sized


class Convention(NamedTuple):
    """In what the MobileNetV2 of the libraries differ."""

    padding: Padding  # of a 3×3 window; differs where it moves by two over an even size
    epsilon: float
    momentum: float


CONVENTIONS = {"torchvision": Convention(1, 1e-5, 0.9), "keras": Convention("SAME", 1e-3, 0.999)}

STAGES = (  # table 2 of the paper: expansion, channels, blocks, strides of the first
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip

_PARTS = {
    "expand": "0.0",
    "expand_bn": "0.1",
    "depthwise": "1.0",
    "depthwise_bn": "1.1",
    "project": "2",
    "project_bn": "3",
}
_FIRST = {"depthwise": "0.0", "depthwise_bn": "0.1", "project": "1", "project_bn": "2"}  # which does not expand
NAMES = {
    "keras": (
        (r"stem_conv", r"Conv1"),
        (r"stem_bn", r"bn_Conv1"),
        (r"block0/(?:body/)?(depthwise|project)", r"expanded_conv_\1"),
        (r"block0/(?:body/)?(depthwise|project)_bn", r"expanded_conv_\1_BN"),
        (r"block(\d+)/(?:body/)?(expand|depthwise|project)", r"block_\1_\2"),
        (r"block(\d+)/(?:body/)?(expand|depthwise|project)_bn", r"block_\1_\2_BN"),
        (r"last_conv", r"Conv_1"),
        (r"last_bn", r"Conv_1_bn"),
        (r"classifier", r"predictions"),
    ),
    "torchvision": (
        (r"stem_conv", r"features.0.0"),
        (r"stem_bn", r"features.0.1"),
        (rf"block0/(?:body/)?({'|'.join(_FIRST)})", lambda m: f"features.1.conv.{_FIRST[m[1]]}"),
        (rf"block(\d+)/(?:body/)?({'|'.join(_PARTS)})", lambda m: f"features.{int(m[1]) + 1}.conv.{_PARTS[m[2]]}"),
        (r"last_conv", r"features.18.0"),
        (r"last_bn", r"features.18.1"),
        (r"classifier", r"classifier.1"),
    ),
}


def _eights(channels: float) -> int:
    """The nearest multiple of eight, one more where that is less than nine tenths."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


@constructor
def mobilenet_v2(
    *,
    classes: int = 1000,
    width: float = 1.0,
    head: bool = True,
    dropout: float = 0.0,
    like: str = "torchvision",
    probabilities: bool = False,
    dtype: Any = None,
    algorithm: Any = "auto",
    name: str | None = None,
) -> Layer:
    """MobileNetV2: blocks y = x + project(depthwise(expand(x))) with narrow ends, and nothing nonlinear at the end.

    3,504,872 parameters with 1,000 classes and three channels; Keras counts 3,538,984, with the 34,112 running means
    and variances, which are state here. The networks of torchvision and Keras have the same parameters, but not the
    same epsilon, momentum and padding: where a window moves by two over an even size, torchvision pads one pixel on
    each side, and Keras one at the end. So `like` must be that of the weights.

    Args:
        classes: number of outputs.
        width: factor of all channels, rounded to multiples of eight; those of the last convolution do not get fewer.
        head: whether there are the mean over positions and the dense layer; otherwise the output is the last feature
            maps.
        dropout: probability with which training leaves out a feature in front of the dense layer; then apply needs a
            key.
        like: ``"torchvision"`` or ``"keras"``, whose network it is.
        probabilities: whether the output is a softmax of the logits (of one logit a sigmoid) rather than the logits.
        dtype: to compute in; by default that of the operands.
        algorithm: of the convolutions, as for `jconv.conv`.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer`: ``[batch, *spatial, channels]`` of any sizes to ``[batch, classes]``, or without the head to
        ``[batch, *spatial / 32, 1280]``, rounded up.

    Raises:
        ValueError: for an unknown `like`, a `width` or `dropout` out of range; in init and apply, for a shape without
            spatial axes.

    >>> mobilenet_v2(head=False).output_shape((-1, 96, 96, 3))
    (-1, 3, 3, 1280)

    References:
        Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018,
        arXiv:1801.04381; ``torchvision.models.mobilenet_v2``; ``keras.applications.MobileNetV2``.
    """
    convention = choice("like", like, CONVENTIONS)
    width = number(width, "width", low=math.nextafter(0, 1), accepted="a positive number")
    dropout = rate_of(dropout, "dropout")
    options = {"use_bias": False, "dtype": dtype, "algorithm": algorithm}
    options |= {"kernel_init": VarianceScaling(2.0, "fan_out", "normal")}
    norm = partial(BatchNorm, momentum=convention.momentum, epsilon=convention.epsilon)
    relu6 = Activation("relu6")

    def block(index: int, expansion: int, channels: int, features: int, strides: int) -> Layer:
        expand = [Conv(expansion * channels, 1, name="expand", **options), norm(name="expand_bn"), relu6]
        body = (
            *(expand if expansion > 1 else []),
            DepthwiseConv(3, strides=strides, padding=convention.padding, name="depthwise", **options),
            norm(name="depthwise_bn"),
            relu6,
            Conv(features, 1, name="project", **options),
            norm(name="project_bn"),
        )
        around = Residual if strides == 1 and channels == features else Sequential
        return around(*body, name=f"block{index}")

    channels = _eights(32 * width)
    layers = [Conv(channels, 3, strides=2, padding=convention.padding, name="stem_conv", **options)]
    layers += [norm(name="stem_bn"), relu6]
    index = 0
    for expansion, features, depth, first in STAGES:
        for strides in (first, *[1] * (depth - 1)):
            layers += [block(index, expansion, channels, _eights(features * width), strides)]
            channels, index = _eights(features * width), index + 1
    layers += [Conv(_eights(1280 * max(1.0, width)), 1, name="last_conv", **options), norm(name="last_bn"), relu6]
    if head:
        layers += [GlobalAvgPool(), Dropout(dropout), *classifier(classes, probabilities, dtype, "classifier")]
    return sized(Sequential(*layers, name=name), "mobilenet_v2")
