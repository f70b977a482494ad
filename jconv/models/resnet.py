"""Residual networks."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from .._spec import integer
from ..initializers import VarianceScaling
from ..layers import Activation, BatchNorm, Conv, GlobalAvgPool, Layer, MaxPool, Residual, Sequential
from ..layers.base import constructor
from .base import choice, classifier, sized


class Convention(NamedTuple):
    """In what the ResNets of the libraries differ."""

    use_bias: bool  # of the convolutions; the normalisation behind each takes it out again
    strides_first: bool  # whether a block that halves does so in its first 1×1 or in its 3×3 convolution
    epsilon: float
    momentum: float


CONVENTIONS = {
    "torchvision": Convention(False, False, 1e-5, 0.9),
    "keras": Convention(True, True, 1.001e-5, 0.99),
}

NAMES = {
    "keras": (
        (r"(conv|bn)1", r"conv1_\1"),
        (r"(conv\d_block\d+)/body/(conv|bn)(\d)", r"\1_\3_\2"),
        (r"(conv\d_block\d+)/shortcut/(conv|bn)", r"\1_0_\2"),
        (r"fc", r"predictions"),
    ),
    "torchvision": (
        (r"(conv1|bn1|fc)", r"\1"),
        (r"conv(\d)_block(\d+)/body/((?:conv|bn)\d)", lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.{m[3]}"),
        (r"conv(\d)_block(\d+)/shortcut/conv", lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.downsample.0"),
        (r"conv(\d)_block(\d+)/shortcut/bn", lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.downsample.1"),
    ),
}


def _resnet(
    what: str,
    depths: tuple[int, ...],
    bottleneck: bool,
    convention: Convention,
    *,
    width: int,
    head: bool,
    classes: int,
    probabilities: bool,
    dtype: Any,
    algorithm: Any,
    name: str | None,
) -> Layer:
    width, kernel_init = integer(width, "width", minimum=1), VarianceScaling(2.0, "fan_out", "normal")
    conv = partial(Conv, use_bias=convention.use_bias, kernel_init=kernel_init, dtype=dtype, algorithm=algorithm)
    norm = partial(BatchNorm, momentum=convention.momentum, epsilon=convention.epsilon)
    relu = Activation("relu")

    def block(stage: int, index: int) -> Layer:
        features = width * 2**stage
        wide = 4 * features if bottleneck else features
        strides = 2 if stage > 0 and index == 0 else 1
        first, second = (strides, 1) if convention.strides_first or not bottleneck else (1, strides)
        if bottleneck:
            body = (
                conv(features, 1, strides=first, name="conv1"), norm(name="bn1"), relu,
                conv(features, 3, strides=second, padding=1, name="conv2"), norm(name="bn2"), relu,
                conv(wide, 1, name="conv3"), norm(name="bn3"),
            )  # fmt: skip
        else:
            body = (
                conv(features, 3, strides=first, padding=1, name="conv1"), norm(name="bn1"), relu,
                conv(features, 3, padding=1, name="conv2"), norm(name="bn2"),
            )  # fmt: skip
        project = Sequential(conv(wide, 1, strides=strides, name="conv"), norm(name="bn"))
        same = index > 0 or (stage == 0 and not bottleneck)
        return Residual(*body, shortcut=None if same else project, name=f"conv{stage + 2}_block{index + 1}")

    layers = [conv(width, 7, strides=2, padding=3, name="conv1"), norm(name="bn1"), relu]
    layers += [MaxPool(3, strides=2, padding=1)]
    for stage, depth in enumerate(depths):
        for index in range(depth):
            layers += [block(stage, index), relu]
    if head:
        layers += [GlobalAvgPool(), *classifier(classes, probabilities, dtype, "fc")]
    return sized(Sequential(*layers, name=name), what)


@constructor
def resnet18(
    *,
    classes: int = 1000,
    width: int = 64,
    head: bool = True,
    probabilities: bool = False,
    dtype: Any = None,
    algorithm: Any = "auto",
    name: str | None = None,
) -> Layer:
    """ResNet-18: blocks y = relu(x + f(x)) of two 3×3 convolutions, two in each of four stages that halve the picture.

    11,689,512 parameters with 1,000 classes and three channels, as in torchvision, whose weights `names` fits it with.

    Args:
        classes: number of outputs.
        width: channels of the first stage; each further stage has twice as many.
        head: whether there are the mean over positions and the dense layer; otherwise the output is the last feature
            maps.
        probabilities: whether the output is a softmax of the logits (of one logit a sigmoid) rather than the logits.
        dtype: to compute in; by default that of the operands.
        algorithm: of the convolutions, as for `jconv.conv`.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer`: ``[batch, *spatial, channels]`` of any sizes to ``[batch, classes]``, or without the head to
        ``[batch, *spatial / 32, 8 * width]``, rounded up.

    Raises:
        ValueError: in init and apply, for a shape without spatial axes.

    >>> resnet18(head=False).output_shape((-1, 224, 224, 3))
    (-1, 7, 7, 512)

    References:
        He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016, arXiv:1512.03385, table 1;
        the initializer is He et al., 2015, arXiv:1502.01852.
    """
    return _resnet(
        "resnet18", (2, 2, 2, 2), False, CONVENTIONS["torchvision"], width=width, head=head, classes=classes,
        probabilities=probabilities, dtype=dtype, algorithm=algorithm, name=name,
    )  # fmt: skip


@constructor
def resnet50(
    *,
    classes: int = 1000,
    width: int = 64,
    head: bool = True,
    like: str = "torchvision",
    probabilities: bool = False,
    dtype: Any = None,
    algorithm: Any = "auto",
    name: str | None = None,
) -> Layer:
    """ResNet-50: blocks y = relu(x + f(x)) of a 1×1, a 3×3 and a 1×1 convolution, (3, 4, 6, 3) in the four stages.

    Two networks go by this name. That of torchvision halves the picture in the 3×3 convolution of a block and has no
    biases in front of a normalisation: 25,557,032 parameters. That of Keras halves it in the first 1×1, as in the
    paper, and has 26,560 biases: 25,583,592 parameters, and 25,636,712 as Keras counts, with the 53,120 running means
    and variances, which are state here. Epsilon and momentum differ too.

    Args:
        classes: as for `resnet18`.
        width: as for `resnet18`.
        head: as for `resnet18`.
        like: ``"torchvision"`` or ``"keras"``, whose network it is, so that the weights of it mean the same here.
        probabilities: as for `resnet18`.
        dtype: as for `resnet18`.
        algorithm: as for `resnet18`.
        name: as for `resnet18`.

    Returns:
        A `Layer`: ``[batch, *spatial, channels]`` of any sizes to ``[batch, classes]``, or without the head to
        ``[batch, *spatial / 32, 32 * width]``, rounded up.

    Raises:
        ValueError: for an unknown `like`; in init and apply, for a shape without spatial axes.

    >>> import jconv
    >>> jconv.summary(resnet50(), (-1, 64, 64, 3)).parameters
    25557032

    References:
        He, Zhang, Ren and Sun, CVPR 2016, arXiv:1512.03385, table 1; ``torchvision.models.resnet50``;
        ``keras.applications.ResNet50``.
    """
    return _resnet(
        "resnet50", (3, 4, 6, 3), True, choice("like", like, CONVENTIONS), width=width, head=head, classes=classes,
        probabilities=probabilities, dtype=dtype, algorithm=algorithm, name=name,
    )  # fmt: skip
