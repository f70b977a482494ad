"""What a figure depends on beside the code, and what the machine can do at most."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

import jconv
from benchmarks.peers.base import Absent, load, seconds
from jconv._cache import cores, cpu_model

Run = Callable[[], Any]

MATRIX = 2048
TRIAD = 2**27  # float32 elements an array: three of them are 1.5 GiB, beyond any cache
LIBRARIES = ("torch", "flax", "dm-haiku", "equinox", "keras", "scipy", "numpy")


def environment() -> dict[str, Any]:
    """The machine and the versions."""
    device = jax.devices()[0]
    kind = cpu_model(device.device_kind) if device.platform == "cpu" else device.device_kind
    installed = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    return {
        "kind": "environment",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "platform": device.platform,
        "device": kind,
        "cores": cores(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "jconv": jconv.__version__,
        "libraries": {name: installed[name] for name in LIBRARIES if name in installed},
    }


def limits(rounds: int = 3) -> dict[str, Any]:
    """The highest rate of a float32 matrix product, and of a triad a = b + s c in memory, that any library reaches."""
    libraries = {"jax": _on_jax, "numpy": _on_numpy, "torch": _on_torch}
    found: dict[str, dict[str, float]] = {"flops_per_s": {}, "bytes_per_s": {}}
    for name, build in libraries.items() if jax.default_backend() == "cpu" else [("jax", _on_jax)]:
        try:
            product, triad = build()
        except Absent:
            continue  # environment() says what is installed
        found["flops_per_s"][name] = 2 * MATRIX**3 / _best(product, rounds)
        found["bytes_per_s"][name] = 12 * TRIAD / _best(triad, rounds)
    return {"kind": "machine", **{what: max(rates.values()) for what, rates in found.items()}, "by_library": found}


def roofline_s(flops: int, traffic: int, machine: dict[str, Any]) -> float:
    """Seconds that direct summation takes at least on this machine, if nothing stays in cache between calls."""
    return max(flops / machine["flops_per_s"], traffic / machine["bytes_per_s"])


def _best(run: Run, rounds: int) -> float:
    run()
    return min(seconds(run) for _ in range(rounds))


def _on_jax() -> tuple[Run, Run]:
    matrix, b, c = (jnp.ones(n, jnp.float32) for n in ((MATRIX, MATRIX), TRIAD, TRIAD))
    product, triad = jax.jit(jnp.matmul), jax.jit(lambda b, c: b + 3.0 * c)
    return lambda: product(matrix, matrix).block_until_ready(), lambda: triad(b, c).block_until_ready()


def _on_numpy() -> tuple[Run, Run]:
    matrix, b, c, a = (np.ones(n, np.float32) for n in ((MATRIX, MATRIX), TRIAD, TRIAD, TRIAD))
    block = 2**16  # two passes over blocks that stay in cache

    def triad() -> None:
        for i in range(0, TRIAD, block):
            np.multiply(c[i : i + block], np.float32(3.0), out=a[i : i + block])
            np.add(a[i : i + block], b[i : i + block], out=a[i : i + block])

    return lambda: matrix @ matrix, triad


def _on_torch() -> tuple[Run, Run]:
    torch = load("torch")
    matrix, b, c, a = (torch.ones(n) for n in ((MATRIX, MATRIX), TRIAD, TRIAD, TRIAD))
    return lambda: torch.mm(matrix, matrix), lambda: torch.add(b, c, alpha=3.0, out=a)
