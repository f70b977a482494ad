"""What work costs on a GPU of NVIDIA's: bytes over the memory's bandwidth, products over the rate of the matrix units,
multiply-adds over that of the others, and launches.

Matrix units take tiles: sides are rounded up to them, which is most of what few channels cost. What XLA hands to cuDNN
goes to its kernels for the matrix units where there is one group, dilation or not; to direct kernels for depthwise
convolution along two axes; and to general kernels, far slower, for groups along one or three.
"""

from __future__ import annotations

import math

import numpy as np

from .work import Convolution, Copy, Counts, Launch, Loop, Product, Transform

TILE = (64, 16, 16)  # rows, depth and columns that a product is rounded up to
PASSES = 4  # over memory, of a Fourier transform
CHANNELS = 8  # that a convolution's channels are rounded up to


def _up(n: float, to: int) -> float:
    return -(-max(1.0, n) // to) * to


def _product(step: Product, dtype: np.dtype) -> Counts:
    item = dtype.itemsize
    m, k, n = (_up(side, tile) for side, tile in zip((step.rows, step.depth, step.columns), TILE, strict=True))
    # A long sum for a small result is divided between few units.
    kind = "batched" if "batched" in step.kind else "einsum" if "einsum" in step.kind else "plain"
    yield f"{kind} products", step.times * m * k * n
    rows, depth, columns = step.rows, step.depth, step.columns
    yield "bytes", step.times * item * (rows * depth + depth * columns + rows * columns)


def _loop(step: Loop, dtype: np.dtype) -> Counts:
    kind = "pallas reads" if step.kind == "pallas" else "long multiply-adds" if "long" in step.kind else "multiply-adds"
    yield kind, step.macs


def _copy(step: Copy, dtype: np.dtype) -> Counts:
    kinds = {"pallas": "pallas bytes", "einsum": "bytes of patches"}
    yield next((kinds[kind] for kind in kinds if kind in step.kind), "bytes"), step.times * step.bytes
    yield "runs", step.times * step.runs


def _transform(step: Transform, dtype: np.dtype) -> Counts:
    item = dtype.itemsize
    # Each pass over memory does some factors of the length.
    yield "bytes", PASSES * 2 * item * step.elements
    yield "launches", PASSES


def _launch(step: Launch, dtype: np.dtype) -> Counts:
    yield "pallas launches" if step.kind == "pallas" else "launches", step.number


def _convolution(step: Convolution, dtype: np.dtype) -> Counts:
    spec, times, item = step.spec, step.times, dtype.itemsize
    groups, taps, rank = spec.feature_group_count, math.prod(spec.window), spec.rank
    inputs, outputs = spec.in_features // groups, spec.out_features // groups
    holes, strides = math.prod(spec.input_dilation), math.prod(spec.strides)
    space = math.prod(spec.batch_shape) * math.prod(spec.output_spatial)
    x, k, y = (math.prod(shape) for shape in (spec.x_shape, spec.kernel_shape, spec.output_shape))
    yield "bytes", times * item * (x + k + y)
    yield "launches", times
    macs = float(space * taps * inputs * outputs * groups) / holes
    role = "kernel gradient" if step.role == "kernel_grad" else "pass"
    # A convolution of a dilated image is computed as the gradient of a strided one, and the other way round.
    if (strides > 1 and step.role == "input_grad") or (holes > 1 and step.role == "forward"):
        role = "strided gradient"
    wide = "wide " if step.kind == "wide" and item == 2 else ""
    if groups == 1:
        more_x, more_y = (_up(n, CHANNELS) / n for n in (inputs, outputs))
        if more_x > 1 or more_y > 1:  # channels are added, in copies
            yield "bytes", times * 2 * item * (x * (more_x - 1) + y * (more_y - 1))
            yield "launches", times
        far = rank == 1 and taps > 1 and spec.kernel_dilation[0] > 1
        yield f"cudnn {wide}{'far' if far else 'dense'} {role}", times * macs * more_x * more_y
        yield f"cudnn {wide}{role} positions", times * space * taps / holes
    elif rank == 2:
        kind = "depthwise" if inputs == 1 else "grouped"
        large = " of a large window" if kind == "depthwise" and item == 4 and taps > 25 else ""
        yield f"cudnn {kind} {role}{large}", times * macs
    else:
        yield f"cudnn general {role}", times * macs
        yield f"cudnn general {role}: elements", times * (x + y)


COUNTS = {
    Product: _product,
    Loop: _loop,
    Copy: _copy,
    Transform: _transform,
    Convolution: _convolution,
    Launch: _launch,
}


def rate_of(count: str) -> str:
    """The rate that a price goes with."""
    if count.endswith("products") or count.startswith(("cudnn dense", "cudnn wide dense")):
        return "matrix"
    if count.endswith("launches"):
        return "launch"
    return "bytes" if "bytes" in count or count == "runs" else "vector"
