"""Layers of well-known networks, with their origin.

Shapes are [batch, *spatial, in] and [*window, in // groups, out].
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Workload(NamedTuple):
    """One layer; `options` are those of `jconv.conv`."""

    name: str
    origin: str
    x: tuple[int, ...]
    kernel: tuple[int, ...]
    options: dict[str, Any]


WORKLOADS = (
    Workload("lenet-c1", "LeNet-5, LeCun 1998, first layer", (64, 32, 32, 1), (5, 5, 1, 6), {"padding": "VALID"}),
    Workload("resnet-stem", "ResNet, He 2016, conv1", (4, 224, 224, 3), (7, 7, 3, 64), {"strides": 2}),
    Workload("resnet-3x3", "ResNet-18, He 2016, conv2_x; VGG", (8, 56, 56, 64), (3, 3, 64, 64), {}),
    Workload("resnet-3x3-stride2", "ResNet-18, He 2016, conv3_1", (8, 56, 56, 64), (3, 3, 64, 128), {"strides": 2}),
    Workload("resnet-1x1", "ResNet-50, He 2016, conv2_x", (8, 56, 56, 256), (1, 1, 256, 64), {}),
    Workload(
        "resnext-groups", "ResNeXt-50 32x8d, Xie 2017", (8, 28, 28, 256), (3, 3, 8, 256), {"feature_group_count": 32}
    ),
    Workload(
        "mobilenet-depthwise",
        "MobileNet, Howard 2017, conv dw",
        (8, 56, 56, 128),
        (3, 3, 1, 128),
        {"feature_group_count": 128},
    ),
    Workload("deeplab-dilated", "DeepLab, Chen 2018", (4, 32, 32, 128), (3, 3, 128, 128), {"kernel_dilation": 4}),
    Workload(
        "wavenet-causal",
        "WaveNet, van den Oord 2016",
        (8, 4096, 32),
        (2, 32, 64),
        {"padding": "CAUSAL", "kernel_dilation": 64},
    ),
    Workload("text-1d", "Kim 2014, filters of 5 words", (32, 300, 64), (5, 64, 111), {"padding": "VALID"}),
    Workload("video-3d", "C3D, Tran 2015, conv2 thinned", (2, 16, 28, 28, 16), (3, 3, 3, 16, 32), {}),
)
