"""16-bit floats and 8-bit integers beside float32, on layers that the arithmetic limits rather than memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.harness import ROLES, Effort, measured
from benchmarks.peers.base import OPERANDS, seconds
from benchmarks.peers.on_jax import candidates, role_of
from benchmarks.workloads import WORKLOADS

NAME = "low-precision"
LAYERS = ("resnet-3x3", "vgg-3x3", "resnet-1x1", "deeplab-dilated", "video-3d")
DTYPES = ("float32", "bfloat16", "int8")
TOLERANCE = 0.02  # of the largest result; bfloat16 keeps 8 bits, and the sum is rounded to it once


def measure(workload: str, role: str, effort: Effort) -> list[dict[str, Any]]:
    """One record for each candidate and dtype; results are compared with those of lax in float32. Integers have the
    forward pass alone, and sums of 32 bits."""
    spec = next(w.spec for w in WORKLOADS if w.name == workload)
    shapes = {"x": spec.x_shape, "kernel": spec.kernel_shape, "g": spec.output_shape}
    rng = np.random.default_rng(0)
    drawn = [rng.integers(-9, 10, shapes[kind]) for kind in OPERANDS[role]]  # exact in every dtype
    runs: dict[str, Callable[[], Any]] = {}
    expected = None
    for dtype in DTYPES if role == "forward" else DTYPES[:2]:
        operands = [jax.device_put(values.astype(dtype)) for values in drawn]
        x, kernel = (jax.ShapeDtypeStruct(shapes[kind], operands[0].dtype) for kind in ("x", "kernel"))
        wide = {"preferred_element_type": np.int32} if dtype == "int8" else {}
        for name, conv in candidates(spec).items():
            compiled = jax.jit(role_of(functools.partial(conv, **wide), role, x, kernel)).lower(*operands).compile()
            result = np.asarray(compiled(*operands), np.float64)
            expected = result if expected is None else expected
            np.testing.assert_allclose(result, expected, rtol=0, atol=TOLERANCE * np.max(np.abs(expected)))
            runs[f"{name} {dtype}"] = lambda call=compiled, operands=operands: jax.block_until_ready(call(*operands))
    figures = measured(runs, {name: seconds(run) for name, run in runs.items()}, effort)
    cell = {"kind": NAME, "workload": workload, "role": role}
    return [{**cell, "candidate": name.split()[0], "dtype": name.split()[1], **f} for name, f in figures.items()]


CELLS = tuple((layer, role) for layer in LAYERS for role in ROLES)
