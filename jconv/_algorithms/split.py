"""`split`: each group is a convolution of its own.

Groups do not meet: T(x, k, y) = sum_g T'(x_g, k_g, y_g), where x_g, k_g and y_g are the channels of group g, which lie
next to one another along the last axis of all three. XLA on CPU has a fast path for one group only, so a few dense
convolutions are faster than one grouped convolution.

    Source: this is how Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural
    networks", 2012, ran the two groups of theirs.
"""

from __future__ import annotations

import math

from jax import numpy as jnp

from .._forecast.work import Copy, Launch, Work
from .base import Call, Map, Reduced, Reduction

MAX_PARTS = 8


def reduce(call: Call) -> Reduced:
    spec = call.spec
    groups = spec.feature_group_count
    other = spec.replace(
        x_shape=(*spec.x_shape[:-1], spec.in_features // groups),
        kernel_shape=(*spec.kernel_shape[:-1], spec.out_features // groups),
        feature_group_count=1,
    )
    channels = Map(lambda a: jnp.split(a, groups, axis=-1), lambda parts: jnp.concatenate(parts, axis=-1))
    return Reduced(other, x=channels, k=channels, y=channels, parts=groups)


def supports(call: Call) -> str | None:
    groups = call.spec.feature_group_count
    if not 1 < groups <= MAX_PARTS:
        return f"split writes out one convolution a group, for 2 to {MAX_PARTS} groups, here are {groups}"
    return None


def work(call: Call) -> Work:
    spec = call.spec
    elements = math.prod(spec.x_shape) + math.prod(spec.output_shape)
    size = elements * call.dtype.itemsize
    runs = math.prod((*spec.batch_shape, *spec.spatial)) + math.prod((*spec.batch_shape, *spec.output_spatial))
    groups = spec.feature_group_count
    return Work((Copy(size, runs * groups, "split"), Launch(groups, "split")), workspace=size)


REDUCTION = Reduction("split", reduce, supports, work, local=True)
