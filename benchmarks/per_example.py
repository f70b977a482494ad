"""The kernel's gradient of each example: vmap(grad) of jconv and of lax, and a batched matrix product of its size."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

import jconv
from benchmarks.harness import Effort, measured
from benchmarks.peers.base import seconds
from benchmarks.peers.on_jax import candidates

NAME = "per-example"
EXAMPLES, SIZE, CHANNELS, WINDOW = 32, 28, 32, 3


def per_example(conv: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[[Any, Any, Any], jax.Array]:
    """One kernel gradient for each example of the batch."""

    def loss(kernel: jax.Array, x: jax.Array, g: jax.Array) -> jax.Array:
        return jnp.sum(conv(x[None], kernel)[0] * g)

    return jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))


def measure(effort: Effort) -> list[dict[str, Any]]:
    """A record for each; the gradients are compared with each other first."""
    rng = np.random.default_rng(0)
    image, taps = (EXAMPLES, SIZE, SIZE, CHANNELS), WINDOW**2 * CHANNELS
    kernel, x, g = (
        jax.device_put(rng.standard_normal(shape, np.float32))
        for shape in ((WINDOW, WINDOW, CHANNELS, CHANNELS), image, image)
    )
    patches = jax.device_put(rng.standard_normal((EXAMPLES, taps, SIZE**2), np.float32))
    rows = g.reshape(EXAMPLES, SIZE**2, CHANNELS)
    spec = jconv.ConvSpec((1, *image[1:]), kernel.shape)
    compiled: dict[str, tuple[Any, tuple[Any, ...]]] = {
        name: (jax.jit(per_example(conv)).lower(kernel, x, g).compile(), (kernel, x, g))
        for name, conv in candidates(spec).items()
    }
    want, *others = (np.asarray(executable(*operands)) for executable, operands in compiled.values())
    for got in others:
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * SIZE**2)
    compiled["matmul"] = (jax.jit(jnp.matmul).lower(patches, rows).compile(), (patches, rows))

    def call(executable: Any, operands: tuple[Any, ...]) -> Any:
        return jax.block_until_ready(executable(*operands))

    runs = {name: functools.partial(call, *pair) for name, pair in compiled.items()}
    figures = measured(runs, {name: seconds(run) for name, run in runs.items()}, effort)
    layer = f"{EXAMPLES} examples of {SIZE}×{SIZE}×{CHANNELS}, {WINDOW}×{WINDOW}, {CHANNELS} filters"
    return [{"kind": NAME, "layer": layer, "candidate": name, **found} for name, found in figures.items()]
