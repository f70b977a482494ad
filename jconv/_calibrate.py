"""How fast this machine is at each kind of work, for the forecasts.

The prices of `jconv._forecast` were fitted on one machine of each platform. What differs most between machines of a
platform are four rates: of matrix products, of multiply-adds in loops, of bytes that are copied, and of launches. These
are measured here by the same few programs as on the machine of the survey, and each price is scaled by the ratio of
its rate. The rates are kept in the file of the tuned choices, for the device and the versions.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from . import _cache, _select
from ._algorithms.base import accumulator
from ._dtypes import keeps_64_bits

DTYPES = ("float32", "float64", "bfloat16")
MATRIX = {"cpu": 768, "cuda": 4096}  # side of the product
COPIED = {"cpu": 1 << 20, "cuda": 1 << 27}  # elements
CHANNELS, POSITIONS, TAPS = 64, 1 << 13, 9  # of the loop on a CPU; elsewhere with 16 times as many positions
SAMPLE_SECONDS, SAMPLES = 0.05, 9


def _seconds(fn: Callable[..., Any], *operands: jax.Array) -> float:
    """Median seconds of a call."""
    run = jax.jit(fn).lower(*operands).compile()
    jax.block_until_ready(run(*operands))
    start = time.perf_counter()
    jax.block_until_ready(run(*operands))
    calls = max(1, round(SAMPLE_SECONDS / max(1e-6, time.perf_counter() - start)))
    found = []
    for _ in range(SAMPLES):
        start, out = time.perf_counter(), None
        for _ in range(calls):
            out = run(*operands)
        jax.block_until_ready(out)
        found.append((time.perf_counter() - start) / calls)
    return statistics.median(found)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=accumulator(a.dtype))


def _loop(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Shifted multiply-adds over contiguous channels."""
    size = x.shape[0] - TAPS + 1
    return sum(x[t : t + size] * weights[t] for t in range(TAPS))  # type: ignore[return-value]


def rates(platform: str) -> _cache.Rates:
    """Seconds of a multiply-add in a matrix product and in a loop, of a byte that is copied, and of a launch."""
    found: _cache.Rates = {}
    device, generator = _cache.this_device(), np.random.default_rng(0)
    side, elements = (sizes.get(platform) or sizes["cuda"] for sizes in (MATRIX, COPIED))
    positions = POSITIONS if platform == "cpu" else 16 * POSITIONS
    for name in DTYPES:
        dtype = jnp.dtype(name)

        def operand(*shape: int, dtype: Any = dtype) -> jax.Array:
            return jax.device_put(generator.random(shape, np.float32).astype(dtype), device)

        with keeps_64_bits(dtype):
            a, b = operand(side, side), operand(side, side)
            x, weights = operand(positions + TAPS - 1, CHANNELS), operand(TAPS, 1, CHANNELS)
            small, large = operand(8), operand(elements)
            launch = _seconds(lambda a: a + a, small)
            product = _seconds(_product, a, b)
            found[name] = {
                "matrix": (product - min(launch, 0.5 * product)) / side**3,
                "vector": _seconds(_loop, x, weights) / (positions * CHANNELS * TAPS),
                "bytes": _seconds(lambda a: jnp.concatenate([a[1:], a[:1]]), large) / (elements * dtype.itemsize),
                "launch": launch,
            }
    return found


def calibrate(cache: str | os.PathLike[str] | None = None) -> tuple[_cache.Rates, str]:
    """Measures the rates of this machine's first device and keeps them; gives them, and the file that has them."""
    found = rates(_cache.platform_of(_cache.this_device()))
    file = _cache.remember({}, cache, found)
    _select.forecaster.cache_clear()
    return found, file
