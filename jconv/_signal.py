"""Convolution and correlation of two signals, as NumPy and SciPy have them."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp

from ._algorithms.base import accumulator, zeros
from ._conv import conv
from ._dtypes import as_array, mixed
from ._names import named
from ._spec import nearest

MODES = ("full", "valid", "same")
METHODS = ("auto", "direct", "fft")


def _checked(in1, in2, mode: str, method: str):
    in1, in2 = as_array(in1, "in1"), as_array(in2, "in2")
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, {nearest(mode, MODES)}")
    if method not in METHODS:
        raise ValueError(f"method: got {method!r}, {nearest(method, METHODS)}")
    if in1.ndim != in2.ndim:
        raise ValueError(f"in1 and in2: got shapes {in1.shape} and {in2.shape}, accepted are arrays with as many axes.")
    if mode == "valid" and not _covers(in1, in2) and not _covers(in2, in1):
        raise ValueError(
            f"mode: got 'valid' for shapes {in1.shape} and {in2.shape}; accepted is that one is at least as long as "
            "the other along every axis."
        )
    dtype = mixed(in1.dtype, in2.dtype)
    if method == "fft" and (not jnp.issubdtype(dtype, jnp.inexact) or in1.ndim > 3):
        raise ValueError(
            f"method: got 'fft' for {in1.ndim} axes of {dtype}, accepted are up to 3 axes of floats or complex numbers."
        )
    return in1.astype(dtype), in2.astype(dtype)


def _covers(a, b) -> bool:
    return all(n >= k for n, k in zip(a.shape, b.shape, strict=True))


def _sums(image, kernel, **options):
    """The correlation of two signals, as a convolution of one channel."""
    return conv(image[..., None], kernel[..., None, None], **options)[..., 0]


def _term_by_term(image, kernel, padding):
    """The same without padding: for each tap, what it meets of the image is added to where it belongs.

    All of ``n + k - 1`` outputs are summed, and those that are not wanted cut off.
    """
    dtype, wide = image.dtype, accumulator(image.dtype)
    image, taps = image.astype(wide), kernel.astype(wide).reshape(-1)
    full = tuple(n + k - 1 for n, k in zip(image.shape, kernel.shape, strict=True))

    def add(i, total):
        at = jnp.unravel_index(i, kernel.shape)
        begin = tuple(jnp.asarray(k - 1, i.dtype) - t for k, t in zip(kernel.shape, at, strict=True))
        here = lax.dynamic_slice(total, begin, image.shape) + image * taps[i]
        return lax.dynamic_update_slice(total, here, begin)

    total = lax.fori_loop(0, taps.size, add, zeros(full, wide, image, taps))
    ends = [(low - (k - 1), high - (k - 1), 0) for (low, high), k in zip(padding, kernel.shape, strict=True)]
    return lax.pad(total, jnp.zeros((), wide), ends).astype(dtype)


@named
def convolve(
    in1: jax.typing.ArrayLike,
    in2: jax.typing.ArrayLike,
    mode: str = "full",
    method: str = "auto",
    *,
    precision: Any = None,
) -> jax.Array:
    """Convolution of two signals in any number of dimensions, as in mathematics.

        z[n] = sum_m in1[m] in2[n - m],      0 <= n < N + K - 1 along each axis

    Args:
        in1: of shape ``[N, ...]``.
        in2: of shape ``[K, ...]``, with as many axes.
        mode: ``"full"``, every n for which there is a term; ``"same"``, the N of them in the middle; ``"valid"``, those
            that no end of either signal cuts short.
        method: ``"direct"``, the sum, which a NaN or an Inf reaches only as one of its terms; ``"fft"``, products of
            spectra (floats and complex numbers, up to 3 axes), where it reaches all; ``"auto"``, what is forecast to be
            faster (`select_algorithm`), where it may reach more than it should.
        precision: as for `jax.lax.conv_general_dilated`; HIGH and HIGHEST keep ``"auto"`` from inexact algorithms.

    Returns:
        The array of ``N + K - 1``, ``N`` or ``max(N, K) - min(N, K) + 1`` elements along each axis, in the common dtype
        of both, as NumPy gives it: integers wrap around.

    Raises:
        ValueError: for shapes that do not go together, or names that are none.

    >>> import jax.numpy as jnp
    >>> convolve(jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 1.0, 0.5]))
    Array([0. , 1. , 2.5, 4. , 1.5], dtype=float32)

    References:
        Arguments and modes of ``scipy.signal.convolve``. ``numpy.convolve`` differs in ``"same"`` alone, where it
        takes the length of the longer one.
    """
    in1, in2 = _checked(in1, in2, mode, method)
    if in1.ndim == 0:
        return in1 * in2
    first, lengths = [], []
    for n, k in zip(in1.shape, in2.shape, strict=True):
        full = max(0, n + k - 1)
        length = {"full": full, "same": n, "valid": abs(n - k) + 1}[mode]
        first.append((full - length) // 2)
        lengths.append(length)
    if 0 in (in1.size, in2.size):
        return jnp.zeros([0 if 0 in (n, k) else m for n, k, m in zip(in1.shape, in2.shape, lengths, strict=True)],
                         in1.dtype)  # fmt: skip
    image, kernel = (in1, in2) if in1.size >= in2.size else (in2, in1)
    # Element n of the full result is output n of the convolution whose low pad is k - 1.
    padding = tuple(
        (k - 1 - start, start + length - n)
        for n, k, start, length in zip(image.shape, kernel.shape, first, lengths, strict=True)
    )
    dtype = in1.dtype
    if dtype == jnp.bool_:
        image, kernel = image.astype(jnp.uint8), kernel.astype(jnp.uint8)
    if method == "direct" and precision is None:
        precision = "highest"
    sums = functools.partial(
        _sums, padding=padding, precision=precision, algorithm={"direct": "direct", "fft": "fft"}.get(method, "auto")
    )
    kernel = jnp.flip(kernel)
    if method == "direct" and any(map(any, padding)) and jnp.issubdtype(dtype, jnp.inexact):
        # Where an element of the kernel meets padding there is no term, but zero times infinity is none.
        finite = jnp.all(jnp.isfinite(kernel))
        y = lax.cond(finite, sums, functools.partial(_term_by_term, padding=padding), image, kernel)
    else:
        y = sums(image, kernel)
    return y != 0 if dtype == jnp.bool_ else y.astype(dtype)


@named
def correlate(
    in1: jax.typing.ArrayLike,
    in2: jax.typing.ArrayLike,
    mode: str = "full",
    method: str = "auto",
    *,
    precision: Any = None,
) -> jax.Array:
    """Cross-correlation of two signals in any number of dimensions.

        z[n] = sum_m in1[m] conj(in2[m - n + K - 1]),      0 <= n < N + K - 1 along each axis

    It is the convolution of in1 with the conjugate of in2 in reverse.

    Args:
        in1: of shape ``[N, ...]``.
        in2: of shape ``[K, ...]``, with as many axes.
        mode: as for `convolve`.
        method: as for `convolve`.
        precision: as for `convolve`.

    Returns:
        As for `convolve`.

    Raises:
        ValueError: as for `convolve`.

    >>> import jax.numpy as jnp
    >>> correlate(jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 1.0, 0.5]), mode="same")
    Array([2. , 3.5, 3. ], dtype=float32)

    References:
        Arguments and modes of ``scipy.signal.correlate``; the default mode of ``numpy.correlate`` is ``"valid"``.
    """
    return convolve(in1, jnp.flip(jnp.conj(as_array(in2, "in2"))), mode=mode, method=method, precision=precision)
