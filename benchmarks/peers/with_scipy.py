"""SciPy: `scipy.signal.oaconvolve` and `fftconvolve`, for long filters of one channel."""

from __future__ import annotations

import numpy as np

import jconv

from .base import NotExpressible, Prepared, load

LONG = 64


class ScipyPeer:
    """SciPy, where it is the tool for the layer."""

    name = "scipy"

    def __init__(self) -> None:
        self.signal = load("scipy.signal")

    def prepare(self, role: str, spec: jconv.ConvSpec, operands: list[np.ndarray]) -> Prepared:
        same = spec.replace(padding="SAME") == spec and spec.window[0] % 2 == 1
        plain = spec.strides == spec.input_dilation == spec.kernel_dilation == (1,) * spec.rank
        if spec.rank != 1 or spec.in_features * spec.out_features != 1 or spec.window[0] < LONG or not (same and plain):
            raise NotExpressible("SciPy is measured on long filters of one channel only")
        signal, a = self.signal, operands[0][..., 0]
        if role == "kernel_grad":
            half = spec.window[0] // 2
            x, g = np.pad(a, ((0, 0), (half, half))), operands[1][:, ::-1, 0]
            run = lambda: signal.fftconvolve(x, g, "valid", axes=1).sum(0)
        else:
            kernel = operands[1][None, :, 0, 0]
            taps = kernel[:, ::-1] if role == "forward" else kernel
            run = lambda: signal.oaconvolve(a, taps, "same", axes=1)
        shape = spec.kernel_shape if role == "kernel_grad" else spec.x_shape
        return Prepared(run, lambda result: result.reshape(shape), {})
