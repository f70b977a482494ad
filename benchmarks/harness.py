"""Measuring one role of one layer: compile apart from run, checked first, candidates interleaved.

Each candidate is lowered and compiled ahead of time (both timed, neither in the run time), compared with the float64
oracle, and warmed up. Then, in every round, each candidate runs in turn for at least `SAMPLE_S`, so that a machine that
slows down slows all of them. The figures are the median and the quartiles over the rounds.
"""

from __future__ import annotations

import datetime
import functools
import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jax import lax

import jconv
from benchmarks.workloads import Workload
from tests import oracle

ROLES = ("forward", "input_grad", "kernel_grad")
SAMPLE_S = 0.02
TOLERANCE = 1e-5  # of the sum of absolute products; float32


def environment() -> dict[str, Any]:
    """What a figure depends on beside the code."""
    device = jax.devices()[0]
    kind = device.device_kind
    if device.platform == "cpu" and os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as info:
            names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
        kind = names[0] if names else kind
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "platform": device.platform,
        "device": kind,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "jconv": jconv.__version__,
    }


def lax_conv(spec: jconv.ConvSpec) -> Callable:
    r = spec.rank
    image = (0, r + 1, *range(1, r + 1))
    return functools.partial(
        lax.conv_general_dilated,
        window_strides=spec.strides,
        padding=spec.padding,
        lhs_dilation=spec.input_dilation,
        rhs_dilation=spec.kernel_dilation,
        dimension_numbers=lax.ConvDimensionNumbers(image, (r + 1, r, *range(r)), image),
        feature_group_count=spec.feature_group_count,
    )


def role_of(conv: Callable, role: str, spec: jconv.ConvSpec) -> Callable:
    """One role of a convolution function, as JAX derives it."""
    x, k = (jax.ShapeDtypeStruct(shape, np.float32) for shape in (spec.x_shape, spec.kernel_shape))
    if role == "forward":
        return conv
    if role == "input_grad":
        return lambda g, kernel: jax.linear_transpose(lambda x: conv(x, kernel), x)(g)[0]
    return lambda x, g: jax.linear_transpose(lambda kernel: conv(x, kernel), k)(g)[0]


def candidates(workload: Workload) -> dict[str, Callable]:
    spec = jconv.ConvSpec(workload.x, workload.kernel, **workload.options)
    own = {name: functools.partial(jconv.conv, algorithm=name, **workload.options) for name in jconv.algorithms()}
    return {"lax": lax_conv(spec), **own}


def oracle_of(role: str, spec: jconv.ConvSpec, a, b):
    geometry = {n: getattr(spec, n) for n in ("strides", "padding", "input_dilation", "kernel_dilation")}
    geometry["groups"] = spec.feature_group_count
    if role == "forward":
        return oracle.forward(a, b, **geometry)
    if role == "input_grad":
        return oracle.input_grad(a, b, spec.x_shape, **geometry)
    return oracle.kernel_grad(a, b, spec.window, **geometry)


def measure(workload: Workload, role: str, *, rounds: int, limit_s: float) -> list[dict[str, Any]]:
    """One record for each candidate. `limit_s` bounds the time in rounds; a slow cell gets fewer of them."""
    spec = jconv.ConvSpec(workload.x, workload.kernel, **workload.options)
    rng = np.random.default_rng(0)
    shapes = {"x": spec.x_shape, "k": spec.kernel_shape, "g": spec.output_shape}
    names = {"forward": "xk", "input_grad": "gk", "kernel_grad": "xg"}[role]
    host = [rng.standard_normal(shapes[n]).astype(np.float32) for n in names]
    operands = [jax.device_put(array) for array in host]
    want = oracle_of(role, spec, *host)
    scale = np.max(oracle_of(role, spec, *map(np.abs, host)))

    records, compiled = [], []
    for name, conv in candidates(workload).items():
        start = time.perf_counter()
        lowered = jax.jit(role_of(conv, role, spec)).lower(*operands)
        middle = time.perf_counter()
        executable = lowered.compile()
        end = time.perf_counter()
        got = executable(*operands)
        error = float(np.max(np.abs(np.asarray(got, np.float64) - want)) / scale)
        if not error < TOLERANCE:
            raise RuntimeError(f"{workload.name} {role} {name}: error {error:.2e} against the oracle; not timed")
        memory = executable.memory_analysis()
        records.append(
            {
                "workload": workload.name,
                "role": role,
                "candidate": name,
                "dtype": "float32",
                "lower_s": round(middle - start, 4),
                "compile_s": round(end - middle, 4),
                "workspace_bytes": int(memory.temp_size_in_bytes) if memory else None,
                "error": error,
                "macs": spec.macs * spec.batch_shape[0],
            }
        )
        compiled.append(executable)

    calls = [max(1, round(SAMPLE_S / max(timed(e, operands, 1), 1e-7))) for e in compiled]
    samples: list[list[float]] = [[] for _ in compiled]
    deadline = time.perf_counter() + limit_s
    for i in range(rounds):
        for j in np.roll(np.arange(len(compiled)), i):  # another goes first each round
            samples[j].append(timed(compiled[j], operands, calls[j]))
        if time.perf_counter() > deadline and i >= 2:
            break
    chosen = jconv.select_algorithm(workload.x, workload.kernel, role=role, **workload.options)  # type: ignore
    for record, seconds in zip(records, samples, strict=True):
        low, median, high = np.percentile(np.array(seconds) * 1e3, (25, 50, 75))
        record |= {"ms": round(median, 4), "ms_q1": round(low, 4), "ms_q3": round(high, 4), "rounds": len(seconds)}
        record["auto"] = chosen.name == record["candidate"]
    return records


def timed(executable: Callable, operands: list, calls: int) -> float:
    """Seconds for one call, as the mean over `calls`."""
    start = time.perf_counter()
    out = executable(*operands)
    for _ in range(calls - 1):
        out = executable(*operands)
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / calls


def overhead(rounds: int) -> list[dict[str, Any]]:
    """What jconv adds to a call that computes next to nothing: dispatch of a jitted call, and tracing, beside lax."""
    x, k = jax.device_put(np.ones((1, 4, 4, 1), np.float32)), jax.device_put(np.ones((1, 1, 1, 1), np.float32))
    spec = jconv.ConvSpec(x.shape, k.shape)
    functions = {"lax": lax_conv(spec), "xla": functools.partial(jconv.conv, algorithm="xla"), "auto": jconv.conv}
    jitted = {name: jax.jit(f) for name, f in functions.items()}
    for f in jitted.values():
        f(x, k).block_until_ready()
    samples: dict[tuple[str, str], list[float]] = {(what, n): [] for what in ("dispatch", "trace") for n in functions}
    for i in range(rounds):
        order = list(functions)
        for name in order[i % 3 :] + order[: i % 3]:
            samples["dispatch", name].append(timed(jitted[name], [x, k], 2000))
            start = time.perf_counter()
            for _ in range(50):
                f = functions[name]
                jax.make_jaxpr(lambda x, k, f=f: f(x, k))(x, k)  # a new function each time, so nothing is cached
            samples["trace", name].append((time.perf_counter() - start) / 50)
    records = []
    for (what, name), seconds in samples.items():
        low, median, high = np.percentile(np.array(seconds) * 1e6, (25, 50, 75))
        records.append({"overhead": what, "candidate": name, "us": round(median, 2), "us_q1": round(low, 2),
                        "us_q3": round(high, 2), "rounds": rounds})  # fmt: skip
    return records
