"""`fft`: products of spectra, for long filters.

With X, K, Y the discrete Fourier transforms of x padded by its pads, of the dilated kernel and of y with the stride's
zeros between its positions, all of one length N per axis that no sum reaches beyond, the correlation theorem gives

    Y = sum_i X K(-),      X_bar = sum_c Y_bar K,      K_bar = sum_b X Y_bar(-)

at every frequency, K(-) being K at the opposite one: conj(K) for real k, and conj(F(conj(k))) for any. The second and
third are the derivatives of <Y_bar, Y>, which is bilinear in x and k, by Parseval's identity. The cost per axis is
N log N, whatever the window. Rounding errors are relative to the largest result instead of each (docs/algorithms.md has
them measured), so `precision` HIGH and HIGHEST exclude it, and a NaN or an Inf reaches every result of its image.

    Sources: Cooley and Tukey, "An algorithm for the machine calculation of complex Fourier series", 1965; Mathieu,
    Henaff and LeCun, "Fast training of convolutional networks through FFTs", 2013, arXiv:1312.5851.
"""

from __future__ import annotations

import math

import jax
from jax import numpy as jnp

from .._forecast.work import Copy, Launch, Loop, Transform, Work
from .._spec import ConvSpec, span
from .base import Algorithm, Call, pad


def good_length(n: int) -> int:
    """The smallest product of 2, 3 and 5 that is at least n."""
    best = 1 << max(0, n - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            best = min(best, three << max(0, -(-n // three) - 1).bit_length())
            three *= 3
        five *= 5
    return best


def _lengths(spec: ConvSpec) -> tuple[int, ...]:
    """Outputs start at 0 and window taps go forward: nothing reaches beyond the padded image."""
    return tuple(good_length(a.reach[2]) for a in spec.axes)


def _spectrum(a: jax.Array, spec: ConvSpec, first: int, interior: list[int], lows: list[int]):
    """[.., *spatial, channels] to [.., channels, *frequencies]; spatial axes begin at `first`."""
    ends = []
    for i, (length, inside, low) in enumerate(zip(_lengths(spec), interior, lows, strict=True)):
        ends.append((low, length - low - span(a.shape[first + i], inside + 1), inside))
    a = pad(a, first, *ends)
    a = jnp.moveaxis(a, -1, first)
    axes = tuple(range(first + 1, a.ndim))
    return jnp.fft.fftn(a, axes=axes) if jnp.iscomplexobj(a) else jnp.fft.rfftn(a, axes=axes)


def _back(a: jax.Array, call: Call, first: int, lows: list[int], steps: list[int], sizes: tuple[int, ...]):
    spec, is_complex = call.spec, jnp.issubdtype(call.accumulator, jnp.complexfloating)
    axes = tuple(range(first + 1, a.ndim))
    a = (jnp.fft.ifftn if is_complex else jnp.fft.irfftn)(a, s=_lengths(spec), axes=axes)
    a = jnp.moveaxis(a, first, -1)
    ends = [
        (-low, low + span(n, step) - length)
        for length, low, step, n in zip(_lengths(spec), lows, steps, sizes, strict=True)
    ]
    strides = tuple(slice(None, None, step) for step in steps)
    return pad(a, first, *ends)[(*(slice(None),) * first, *strides)]


def _image(x, call: Call):
    spec = call.spec
    x = _spectrum(x.astype(call.accumulator), spec, 1, [a.q - 1 for a in spec.axes], [a.lo for a in spec.axes])
    return x.reshape(x.shape[0], spec.feature_group_count, -1, *x.shape[2:])  # [b, g, i, *freq]


def _kernel(kernel, call: Call):
    spec = call.spec
    k = jnp.moveaxis(kernel.astype(call.accumulator), -2, 0)  # [i, *window, out]
    k = _spectrum(k, spec, 1, [a.d - 1 for a in spec.axes], [0] * spec.rank)
    return k.reshape(k.shape[0], spec.feature_group_count, -1, *k.shape[2:])  # [i, g, c, *freq]


def _output(g, call: Call):
    spec = call.spec
    g = _spectrum(g.astype(call.accumulator), spec, 1, [a.s - 1 for a in spec.axes], [0] * spec.rank)
    return g.reshape(g.shape[0], spec.feature_group_count, -1, *g.shape[2:])  # [b, g, c, *freq]


def _opposite(spectrum, a, call: Call):
    """The spectrum of `a` at the opposite frequencies."""
    return jnp.conj(spectrum(jnp.conj(a), call))


def _contract(subscripts: str, a, b):
    return jnp.einsum(subscripts, a, b, precision="highest")


def forward(x, kernel, call: Call):
    spec = call.spec
    y = _contract("bgi...,igc...->bgc...", _image(x, call), _opposite(_kernel, kernel, call))
    y = y.reshape(y.shape[0], spec.out_features, *y.shape[3:])
    return _back(y, call, 1, [0] * spec.rank, [a.s for a in spec.axes], spec.output_spatial)


def input_grad(g, kernel, call: Call):
    spec = call.spec
    x = _contract("bgc...,igc...->bgi...", _output(g, call), _kernel(kernel, call))
    x = x.reshape(x.shape[0], spec.in_features, *x.shape[3:])
    return _back(x, call, 1, [a.lo for a in spec.axes], [a.q for a in spec.axes], spec.spatial)


def kernel_grad(x, g, call: Call):
    spec = call.spec
    k = _contract("bgi...,bgc...->igc...", _image(x, call), _opposite(_output, g, call))
    k = k.reshape(k.shape[0], spec.out_features, *k.shape[3:])
    k = _back(k, call, 1, [0] * spec.rank, [a.d for a in spec.axes], spec.window)  # [i, *window, out]
    return jnp.moveaxis(k, 0, -2)


def supports(call: Call) -> str | None:
    if not jnp.issubdtype(call.dtype, jnp.inexact):
        return f"fft rounds: floats only, not {call.dtype}"
    if not 1 <= call.spec.rank <= 3:
        return f"XLA transforms 1 to 3 axes at a time, the kernel has {call.spec.rank}"
    return None


def work(call: Call) -> Work:
    spec = call.spec
    if supports(call):
        return Work()
    lengths = _lengths(spec)
    batch, n = math.prod(spec.batch_shape), math.prod(lengths)
    planes = {
        "x": batch * spec.in_features,
        "k": spec.kernel_shape[-2] * spec.out_features,
        "y": batch * spec.out_features,
    }
    parts = 2 if jnp.issubdtype(call.dtype, jnp.complexfloating) else 1
    total = sum(planes.values()) * n * parts
    groups = spec.feature_group_count
    # Frequencies are far apart in memory for the product over channels.
    macs = batch * n * spec.in_features * spec.out_features / groups * parts
    single = min(spec.in_features, spec.out_features) // groups == 1
    return Work(
        (
            Transform(total, n, "fft"),
            Loop(macs, kind="fft of one channel" if single else "fft"),
            Copy(call.accumulator.itemsize * total, kind="fft"),
            Launch(1, "fft"),
        ),
        workspace=int(3 * call.accumulator.itemsize * total),
    )


ALGORITHM = Algorithm("fft", forward, input_grad, kernel_grad, supports, work, exact=False, local=False)
