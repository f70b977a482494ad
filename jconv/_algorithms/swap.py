"""`swap`: the image and the output exchange places.

A transposed convolution becomes the input's gradient of a strided one, and the input's gradient of a plain convolution
a plain convolution; `exchanged` in `base` has the derivation.

    Source: the transpose of a Toeplitz matrix is one; Dumoulin and Visin, "A guide to convolution arithmetic for deep
    learning", 2016, arXiv:1603.07285, section 4.
"""

from __future__ import annotations

import math

from .._forecast.work import Copy, Launch, Work
from .base import Call, Reduced, Reduction, exchanged


def reduce(call: Call) -> Reduced:
    return exchanged(call.spec)


def supports(call: Call) -> str | None:
    if call.role != "kernel_grad" and all(q == 1 for q in call.spec.input_dilation):
        return (
            "swap turns an input dilation into strides, here is none; `xla` computes both ways of a plain convolution"
        )
    return None


def work(call: Call) -> Work:
    return Work((Copy(math.prod(call.spec.kernel_shape) * call.dtype.itemsize, kind="swap"), Launch(1, "swap")))


REDUCTION = Reduction("swap", reduce, supports, work, local=True, moves=False)
