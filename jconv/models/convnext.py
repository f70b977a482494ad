"""ConvNeXt."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from .._spec import integer
from ..layers import (
    Activation,
    Conv,
    Dense,
    GlobalAvgPool,
    Layer,
    LayerNorm,
    LayerScale,
    Residual,
    Sequential,
    StochasticDepth,
)
from ..layers.base import constructor, rate_of
from .base import classifier, sized

DEPTHS = (3, 3, 9, 3)

_PARTS = {"depthwise": ".block.0", "norm": ".block.2", "expand": ".block.3", "project": ".block.5", "scale": ""}
_KERAS_PARTS = {"depthwise": "depthwise_conv", "norm": "layernorm", "expand": "pointwise_conv_1",
                "project": "pointwise_conv_2", "scale": "layer_scale"}  # fmt: skip
_BLOCK = rf"stage(\d)_block(\d+)/body/({'|'.join(_PARTS)})"
NAMES = {
    "keras": (
        (r"stem/conv", r"convnext_tiny_stem/convnext_tiny_stem_conv"),
        (r"stem/norm", r"convnext_tiny_stem/convnext_tiny_stem_layernorm"),
        (r"downsample(\d)/conv", r"convnext_tiny_downsampling_block_\1/convnext_tiny_downsampling_conv_\1"),
        (r"downsample(\d)/norm", r"convnext_tiny_downsampling_block_\1/convnext_tiny_downsampling_layernorm_\1"),
        (_BLOCK, lambda m: f"convnext_tiny_stage_{m[1]}_block_{m[2]}_{_KERAS_PARTS[m[3]]}"),
        (r"head_norm", r"convnext_tiny_head_layernorm"),
        (r"head", r"convnext_tiny_head_dense"),
    ),
    "torchvision": (
        (r"stem/conv", r"features.0.0"),
        (r"stem/norm", r"features.0.1"),
        (r"downsample(\d)/norm", lambda m: f"features.{2 * int(m[1]) + 2}.0"),
        (r"downsample(\d)/conv", lambda m: f"features.{2 * int(m[1]) + 2}.1"),
        (_BLOCK, lambda m: f"features.{2 * int(m[1]) + 1}.{m[2]}{_PARTS[m[3]]}"),
        (r"head_norm", r"classifier.0"),
        (r"head", r"classifier.2"),
    ),
}


def _gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function; `jax.nn.gelu` by itself approximates that by tanh."""
    return jax.nn.gelu(x, approximate=False)


@constructor
def convnext_tiny(
    *,
    classes: int = 1000,
    width: int = 96,
    head: bool = True,
    drop_path: float = 0.0,
    probabilities: bool = False,
    dtype: Any = None,
    algorithm: Any = "auto",
    name: str | None = None,
) -> Layer:
    """ConvNeXt-T: blocks y = x + scale * project(gelu(expand(norm(depthwise 7×7(x))))), (3, 3, 9, 3) in four stages.

    28,589,128 parameters with 1,000 classes and three channels, in torchvision and Keras alike. Keras puts the
    normalisation of pixels from 0 to 255 into its network unless ``include_preprocessing=False``; here there is none.

    Args:
        classes: number of outputs.
        width: channels of the first stage; each further stage has twice as many.
        head: whether there are the mean over positions, its norm and the dense layer; otherwise the output is the last
            feature maps.
        drop_path: probability with which training leaves out the last block for an example; that of the blocks before
            grows evenly from zero. Then apply needs a key.
        probabilities: whether the output is a softmax of the logits (of one logit a sigmoid) rather than the logits.
        dtype: to compute in; by default that of the operands.
        algorithm: of the convolutions, as for `jconv.conv`.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer`: ``[batch, *spatial, channels]`` of sizes of 32 or more to ``[batch, classes]``, or without the head
        to ``[batch, *spatial / 32, 8 * width]``, rounded down.

    Raises:
        ValueError: for a `drop_path` out of range; in init and apply, for smaller sizes.

    >>> convnext_tiny(head=False).output_shape((-1, 96, 96, 3))
    (-1, 3, 3, 768)

    References:
        Liu, Mao, Wu, Feichtenhofer, Darrell and Xie, "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545;
        ``torchvision.models.convnext_tiny``; ``keras.applications.ConvNeXtTiny``. Leaving out blocks is stochastic
        depth: Huang et al., ECCV 2016, arXiv:1603.09382.
    """
    width, drop_path = integer(width, "width", minimum=1), rate_of(drop_path, "drop_path")
    kernel_init = jax.nn.initializers.truncated_normal(0.02)
    conv = partial(Conv, padding="VALID", kernel_init=kernel_init, dtype=dtype, algorithm=algorithm)
    dense = partial(Dense, kernel_init=kernel_init, dtype=dtype)

    def block(stage: int, index: int) -> Layer:
        features, before = width * 2**stage, sum(DEPTHS[:stage]) + index
        return Residual(
            conv(features, 7, padding="SAME", feature_group_count=features, name="depthwise"),
            LayerNorm(name="norm"),
            dense(4 * features, name="expand"),
            Activation(_gelu),
            dense(features, name="project"),
            LayerScale(1e-6, name="scale"),
            StochasticDepth(drop_path * before / (sum(DEPTHS) - 1)),
            name=f"stage{stage}_block{index}",
        )

    layers = [Sequential(conv(width, 4, strides=4, name="conv"), LayerNorm(name="norm"), name="stem")]
    for stage, depth in enumerate(DEPTHS):
        if stage:
            halve = conv(width * 2**stage, 2, strides=2, name="conv")
            layers += [Sequential(LayerNorm(name="norm"), halve, name=f"downsample{stage - 1}")]
        layers += [block(stage, index) for index in range(depth)]
    if head:
        layers += [GlobalAvgPool(), LayerNorm(name="head_norm"), *classifier(classes, probabilities, dtype, "head")]
    return sized(Sequential(*layers, name=name), "convnext_tiny", at_least=32)
