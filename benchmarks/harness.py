"""Measuring: compile apart from run, checked first, candidates interleaved.

Each candidate is prepared (compiled ahead of time where it compiles, operands in its own layout), its result compared
with the definition in float64, and warmed up. Then, in every round, each candidate runs for at least the time of a
sample, in another order each time, so that a machine that slows down slows all of them. The figures are the median and
the quartiles over the rounds. A cell in which jconv is behind lax is measured once more with twice the rounds, and the
samples are pooled.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

import jconv
from benchmarks.check import TOLERANCE, sampled
from benchmarks.check import oracle_of as oracle_of
from benchmarks.machine import roofline_s
from benchmarks.peers import NotExpressible, Peer
from benchmarks.peers.base import OPERANDS, PLUGGED, rounded, seconds
from benchmarks.peers.base import ROLES as ROLES
from benchmarks.peers.on_jax import lax_conv
from benchmarks.workloads import Workload, flops, traffic

PRINCIPAL = ("jconv", PLUGGED, "lax", "flax", "torch")
SLOW_S = 1.0  # a call that takes longer gets the least rounds, and is not repeated untimed before each


class Effort(NamedTuple):
    """How long to measure a cell: rounds, seconds of a sample, seconds of all rounds of a candidate, least rounds."""

    rounds: int
    sample_s: float
    limit_s: float
    least: int
    again: bool

    def twice(self) -> Effort:
        return self._replace(rounds=2 * self.rounds, limit_s=2 * self.limit_s)


FULL = Effort(rounds=15, sample_s=0.02, limit_s=3.0, least=3, again=True)
QUICK = Effort(rounds=5, sample_s=0.004, limit_s=0.1, least=1, again=False)

Samples = dict[str, list[float]]


def interleave(runs: Mapping[str, Callable[[], Any]], first: Mapping[str, float], effort: Effort) -> Samples:
    """Seconds a call, round by round; `first` are those of a call already made.

    Before each sample a candidate runs untimed: the one before it leaves caches cold and threads spinning. Once its
    rounds have taken `limit_s` it gets the least rounds, so that a slow candidate does not cost a quick one its rounds.
    A call slower than SLOW_S is repeated `least` times for the principal candidates, and for the others not at all:
    then the call already made is the figure.
    """
    calls = {name: max(1, round(effort.sample_s / max(first[name], 1e-7))) for name in runs}
    slow = {name for name in runs if first[name] > SLOW_S}
    samples: Samples = {name: [first[name]] if name in slow else [] for name in runs}
    spent = dict.fromkeys(runs, 0.0)
    rng = np.random.default_rng(0)
    for _ in range(effort.rounds):
        for name in rng.permutation(list(runs)):  # so that nobody always runs after the same one
            over = name in slow or spent[name] > effort.limit_s
            wanted = 1 if name in slow - set(PRINCIPAL) else effort.least if over else effort.rounds
            if len(samples[name]) < wanted:
                start = time.perf_counter()
                if name not in slow:
                    seconds(runs[name], 1 + calls[name] // 4)
                samples[name].append(seconds(runs[name], calls[name]))
                spent[name] += time.perf_counter() - start
    return samples


def measured(
    runs: Mapping[str, Callable[[], Any]], first: Mapping[str, float], effort: Effort
) -> dict[str, dict[str, Any]]:
    """The figures of each candidate, with a second look where jconv is behind lax."""
    samples, looks = interleave(runs, first, effort), {name: [] for name in runs}
    mine = [np.median(samples[name]) for name in ("jconv", PLUGGED) if name in runs]
    behind = mine and "lax" in runs and np.median(samples["lax"]) < max(mine)
    if behind and effort.again:
        again = {name: run for name, run in runs.items() if name in PRINCIPAL}
        more = interleave(again, first, effort.twice())
        for name in again:
            looks[name] = [statistics(samples[name]), statistics(more[name])]
            samples[name] = samples[name] + more[name]
    return {
        name: statistics(found) | ({"looks": looks[name]} if looks[name] else {}) for name, found in samples.items()
    }


def statistics(found: list[float], unit: float = 1e3, name: str = "ms") -> dict[str, Any]:
    low, median, high = np.percentile(np.array(found) * unit, (25, 50, 75))
    return {
        name: rounded(median),
        f"{name}_q1": rounded(low),
        f"{name}_q3": rounded(high),
        "rounds": len(found),
    }


def measure(
    workload: Workload, role: str, peers: Iterable[Peer], effort: Effort, machine: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One record for each peer. It is of kind "left out" for one that does not have the layer, and of kind "wrong", and
    without a time, for one whose result is not the layer's."""
    spec = workload.spec
    rng = np.random.default_rng(0)
    shapes = {"x": spec.x_shape, "kernel": spec.kernel_shape, "g": spec.output_shape}
    operands = [rng.standard_normal(shapes[n], np.float32) for n in OPERANDS[role]]
    a, b = operands
    sample = sampled(role, spec, a, b)
    cell = {"workload": workload.name, "role": role}
    records: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[], Any]] = {}
    first: dict[str, float] = {}
    others = []
    for peer in peers:
        try:
            prepared = peer.prepare(role, spec, operands)
        except NotExpressible as error:
            others.append({"kind": "left out", **cell, "candidate": peer.name, "reason": str(error)})
            continue
        start = time.perf_counter()
        result = prepared.run()
        first[peer.name] = time.perf_counter() - start
        error = sample.error(prepared.result(result))
        if not error < TOLERANCE:
            others.append({"kind": "wrong", **cell, "candidate": peer.name, "error": error})
            continue
        if first[peer.name] < SLOW_S:
            first[peer.name] = seconds(prepared.run)
        runs[peer.name] = prepared.run
        records[peer.name] = {
            "kind": "layer",
            **cell,
            "candidate": peer.name,
            "dtype": "float32",
            "error": error,
            "flops": flops(spec),
            "bytes": traffic(spec),
            **prepared.facts,
        }
    least_s = roofline_s(flops(spec), traffic(spec), dict(machine))
    for name, figures in measured(runs, first, effort).items():
        records[name] |= figures
        records[name]["roofline"] = rounded(least_s * 1e3 / figures["ms"])
    return [*records.values(), *others]


def timed(executable: Callable, operands: list, calls: int) -> float:
    """Seconds for one call, as the mean over `calls`, which may overlap."""
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
    return [
        {"kind": "overhead", "overhead": what, "candidate": name, **statistics(found, 1e6, "us")}
        for (what, name), found in samples.items()
    ]
