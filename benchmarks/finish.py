"""A bias and relu after a convolution: steps of their own, or part of it, `jconv.conv(..., activation="relu")`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from benchmarks.harness import Effort, measured
from benchmarks.peers.base import seconds
from benchmarks.peers.on_jax import candidates
from benchmarks.workloads import WORKLOADS

NAME = "finish"
LAYERS = ("lenet-c1", "resnet-stem", "resnet-3x3", "resnet-1x1", "mobilenet-depthwise", "mobilenetv2-expand")
PART = "as part"
TOLERANCE = 1e-4


def measure(workload: str, effort: Effort) -> list[dict[str, Any]]:
    """One record for each candidate; those "as part" give the bias and the activation to jconv. All must agree."""
    spec = next(w.spec for w in WORKLOADS if w.name == workload)
    rng = np.random.default_rng(0)
    shapes = spec.x_shape, spec.kernel_shape, (spec.out_features,)
    operands = [jax.device_put(rng.standard_normal(shape, np.float32)) for shape in shapes]
    functions: dict[str, Callable[..., jax.Array]] = {}
    for name, conv in candidates(spec).items():
        functions[name] = lambda x, k, b, conv=conv: jnp.maximum(conv(x, k) + b, 0)
        if name != "lax":
            functions[f"{name} {PART}"] = functools.partial(conv, activation="relu")
    runs: dict[str, Callable[[], Any]] = {}
    expected = None
    for name, function in functions.items():
        compiled = jax.jit(function).lower(*operands).compile()
        result = np.asarray(compiled(*operands))
        expected = result if expected is None else expected
        np.testing.assert_allclose(result, expected, rtol=0, atol=TOLERANCE * np.max(np.abs(expected)))
        runs[name] = lambda call=compiled: jax.block_until_ready(call(*operands))
    figures = measured(runs, {name: seconds(run) for name, run in runs.items()}, effort)
    return [{"kind": NAME, "workload": workload, "candidate": name, **found} for name, found in figures.items()]
