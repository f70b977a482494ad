"""Layers of well-known networks, with their origin.

Shapes are [batch, *spatial, in] and [*window, in // groups, out]. A layer that its origin pads on both sides alike is
padded so here, so that libraries that know no other padding can compute it without a pass of their own. "Thinned"
means fewer channels or positions than in the paper. Transposed convolutions are written as `jconv.conv` writes them:
input dilation, and the pads that make the output twice as large.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jconv


class Workload(NamedTuple):
    """One layer; `options` are those of `jconv.conv`."""

    name: str
    origin: str
    x: tuple[int, ...]
    kernel: tuple[int, ...]
    options: dict[str, Any]

    @property
    def spec(self) -> jconv.ConvSpec:
        return jconv.ConvSpec(self.x, self.kernel, **self.options)


def flops(spec: jconv.ConvSpec) -> int:
    """Floating-point operations of direct summation, in any role; those with zeros between elements do not count."""
    return 2 * spec.macs * math.prod(spec.batch_shape) // math.prod(spec.input_dilation)


def traffic(spec: jconv.ConvSpec) -> int:
    """Bytes of image, kernel and output in float32, each once: what any role reads and writes at least."""
    return 4 * sum(math.prod(shape) for shape in (spec.x_shape, spec.kernel_shape, spec.output_shape))


WORKLOADS = (
    Workload("lenet-c1", "LeNet-5, LeCun 1998, C1", (64, 32, 32, 1), (5, 5, 1, 6), {"padding": "VALID"}),
    Workload("resnet-stem", "ResNet, He 2016, conv1", (8, 224, 224, 3), (7, 7, 3, 64), {"strides": 2, "padding": 3}),
    Workload("resnet-3x3", "ResNet-18, He 2016, conv2_x", (8, 56, 56, 64), (3, 3, 64, 64), {}),
    Workload("vgg-3x3", "VGG-16, Simonyan 2015, conv3_1", (4, 56, 56, 128), (3, 3, 128, 256), {}),
    Workload(
        "resnet-3x3-stride2",
        "ResNet-18, He 2016, conv3_1",
        (8, 56, 56, 64),
        (3, 3, 64, 128),
        {"strides": 2, "padding": 1},
    ),
    Workload("resnet-1x1", "ResNet-50, He 2016, conv2_x, reducing", (8, 56, 56, 256), (1, 1, 256, 64), {}),
    Workload(
        "resnext-groups",
        "ResNeXt-50 32x4d, Xie 2017, conv3",
        (8, 28, 28, 256),
        (3, 3, 8, 256),
        {"feature_group_count": 32},
    ),
    Workload(
        "mobilenet-depthwise",
        "MobileNet, Howard 2017, conv dw at 56x56",
        (8, 56, 56, 128),
        (3, 3, 1, 128),
        {"feature_group_count": 128},
    ),
    Workload(
        "mobilenetv2-depthwise-stride2",
        "MobileNetV2, Sandler 2018, first bottleneck of 32 channels",
        (8, 56, 56, 144),
        (3, 3, 1, 144),
        {"feature_group_count": 144, "strides": 2, "padding": 1},
    ),
    Workload(
        "mobilenetv2-expand",
        "MobileNetV2, Sandler 2018, expansion by 6 of 32 channels",
        (8, 28, 28, 32),
        (1, 1, 32, 192),
        {},
    ),
    Workload(
        "convnext-depthwise",
        "ConvNeXt-T, Liu 2022, stage 1",
        (8, 56, 56, 96),
        (7, 7, 1, 96),
        {"feature_group_count": 96},
    ),
    Workload(
        "convnext-patchify",
        "ConvNeXt-T, Liu 2022, stem",
        (8, 224, 224, 3),
        (4, 4, 3, 96),
        {"strides": 4, "padding": "VALID"},
    ),
    Workload(
        "efficientnet-depthwise",
        "EfficientNet-B0, Tan 2019, second MBConv6 5x5 of 40 channels",
        (8, 28, 28, 240),
        (5, 5, 1, 240),
        {"feature_group_count": 240},
    ),
    Workload(
        "deeplab-dilated",
        "DeepLabv3, Chen 2017, block 5 at rate 4, thinned",
        (4, 32, 32, 128),
        (3, 3, 128, 128),
        {"kernel_dilation": 4},
    ),
    Workload(
        "wavenet-causal",
        "WaveNet, van den Oord 2016, filter and gate at dilation 64",
        (8, 4096, 32),
        (2, 32, 64),
        {"padding": "CAUSAL", "kernel_dilation": 64},
    ),
    Workload("text-1d", "after Kim 2014, filters of 5 words", (32, 300, 64), (5, 64, 111), {"padding": "VALID"}),
    Workload(
        "conformer-depthwise",
        "Conformer, Gulati 2020, convolution module, 31 taps as it is mostly built, thinned",
        (8, 8192, 64),
        (31, 1, 64),
        {"feature_group_count": 64},
    ),
    Workload(
        "mamba-causal",
        "Mamba, Gu and Dao 2023, convolution of 4 taps, thinned",
        (8, 2048, 256),
        (4, 1, 256),
        {"padding": "CAUSAL", "feature_group_count": 256},
    ),
    Workload(
        "wav2vec-first",
        "wav2vec 2.0, Baevski 2020, first layer, on 2 s of sound",
        (4, 32000, 1),
        (10, 1, 512),
        {"strides": 5, "padding": "VALID"},
    ),
    Workload("long-filter", "a finite impulse response of 511 taps", (8, 65536, 1), (511, 1, 1), {}),
    Workload("video-3d", "C3D, Tran 2015, conv2a, thinned", (2, 16, 56, 56, 16), (3, 3, 3, 16, 32), {}),
    Workload(
        "unet-up-2x2",
        "U-Net, Ronneberger 2015, last up-convolution, thinned",
        (8, 28, 28, 128),
        (2, 2, 128, 64),
        {"input_dilation": 2, "padding": 1},
    ),
    Workload(
        "dcgan-up-4x4",
        "DCGAN, Radford 2016, third layer of the generator, 4x4 as in PyTorch's example",
        (8, 16, 16, 256),
        (4, 4, 256, 128),
        {"input_dilation": 2, "padding": 2},
    ),
)
