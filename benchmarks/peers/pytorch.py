"""PyTorch: `aten.convolution` and `aten.convolution_backward`, without autograd around them.

The operands lie channels-first in memory and, a second time, channels-last; the faster of the two is measured.
Series are images of height 1, which is what PyTorch makes of them itself; so they have a channels-last form too.
PyTorch pads both sides alike. A causal layer is computed as its users write it: with that much on both sides, and what
is too much cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jconv

from .base import (
    OPERANDS,
    RESULT,
    Absent,
    Layout,
    NotExpressible,
    Prepared,
    fastest,
    image_layout,
    is_transposed,
    kernel_layout,
    load,
    padding_of_transposed,
)


class TorchPeer:
    """PyTorch, on CPU."""

    name = "torch"

    def __init__(self) -> None:
        if jax.default_backend() != "cpu":
            raise Absent("torch: measured on CPU only")
        self.torch = load("torch")

    def prepare(self, role: str, spec: jconv.ConvSpec, operands: list[np.ndarray]) -> Prepared:
        torch, flat = self.torch, as_image(spec)
        layouts = layouts_of(flat)
        shapes = {"x": flat.x_shape, "kernel": flat.kernel_shape, "g": flat.output_shape}
        own_shapes = {"x": spec.x_shape, "kernel": spec.kernel_shape, "g": spec.output_shape}
        call = role_function(torch, role, flat)
        # A gradient is handed all of x and kernel, as autograd hands them; what it does not depend on is zeros.
        arrays = dict(zip(OPERANDS[role], operands, strict=True))
        arrays = {n: arrays.get(n, np.zeros(shapes[n], np.float32)).reshape(shapes[n]) for n in shapes}
        last = torch.channels_last if flat.rank == 2 else torch.channels_last_3d

        def inputs(memory_format: Any) -> dict[str, Any]:
            native = {n: torch.from_numpy(layouts[n].to(a)) for n, a in arrays.items()}
            return {n: a.contiguous(memory_format=memory_format) for n, a in native.items()}

        choices = {
            name: lambda native=inputs(memory_format): call(**native)
            for name, memory_format in (("channels first", torch.contiguous_format), ("channels last", last))
        }
        chosen, tried = fastest(choices)
        kind = RESULT[role]
        return Prepared(
            choices[chosen],
            lambda result: layouts[kind].back(result.numpy()).reshape(own_shapes[kind]),
            {"layout": chosen, "layouts_ms": tried, "threads": torch.get_num_threads()},
        )


def as_image(spec: jconv.ConvSpec) -> jconv.ConvSpec:
    """A series as an image of height 1; images and volumes as they are."""
    if spec.rank != 1:
        return spec
    (batch, length, channels), (taps, *features) = spec.x_shape, spec.kernel_shape
    return jconv.ConvSpec(
        (batch, 1, length, channels),
        (1, taps, *features),
        strides=(1, *spec.strides),
        padding=((0, 0), *spec.padding),
        input_dilation=(1, *spec.input_dilation),
        kernel_dilation=(1, *spec.kernel_dilation),
        feature_group_count=spec.feature_group_count,
    )


def layouts_of(spec: jconv.ConvSpec) -> dict[str, Layout]:
    """Of images and kernels, channels first."""
    image, turned = image_layout(spec.rank, channels_first=True), is_transposed(spec)
    return {"kernel": kernel_layout(spec.rank, "iok" if turned else "oik", flip=turned), "x": image, "g": image}


def role_function(torch: Any, role: str, spec: jconv.ConvSpec) -> Callable[..., Any]:
    """A function of x, kernel and g."""
    transposed = is_transposed(spec)
    stride, crop = list(spec.strides), [(0, 0)] * spec.rank
    if transposed:
        stride, padding = list(spec.input_dilation), list(padding_of_transposed(spec))
    else:
        padding = [max(axis.lo, axis.hi) for axis in spec.axes]
        crop = [(max(axis.hi - axis.lo, 0), max(axis.lo - axis.hi, 0)) for axis in spec.axes]
    if any(p < 0 for p in padding) or any(sum(c) and s > 1 for c, s in zip(crop, spec.strides, strict=True)):
        raise NotExpressible("PyTorch pads both sides alike")
    geometry = (stride, padding, list(spec.kernel_dilation), transposed, [0] * spec.rank, spec.feature_group_count)
    window = tuple(slice(lo, lo + n) for (lo, _), n in zip(crop, spec.output_spatial, strict=True))
    pads = [p for pair in reversed(crop) for p in pair]

    def forward(x: Any, kernel: Any, g: Any) -> Any:
        return torch.ops.aten.convolution(x, kernel, None, *geometry)[(..., *window)]

    def backward(x: Any, kernel: Any, g: Any) -> Any:
        wide = torch.nn.functional.pad(g, pads) if any(pads) else g
        mask = [role == "input_grad", role == "kernel_grad", False]
        return torch.ops.aten.convolution_backward(wide, x, kernel, None, *geometry, mask)[mask.index(True)]

    return forward if role == "forward" else backward
