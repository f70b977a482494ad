"""What a plan will cost: the counts of what it does, each times a price that was fitted to measurements.

`work` has the counts that algorithms give, in which no platform enters. A platform is one file, which says what its
time is a sum of (its `COUNTS`); the prices are in prices.json, written by ``python -m benchmarks fit`` from the
surveys in benchmarks/surveys, for each dtype that was surveyed. What the surveys found of calls that are alike corrects
the sum (`near`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .._spec import ConvSpec
from . import cpu, cuda
from .near import Near
from .work import Counts, Step, Work

PRICES = pathlib.Path(__file__).with_name("prices.json")
COUNTS: dict[str, Mapping[type, Callable[[Any, np.dtype], Counts]]] = {
    "cpu": cpu.COUNTS,
    "cuda": cuda.COUNTS,
}
# Which of the rates that `jconv calibrate` measures a price goes with: "matrix", "vector", "bytes" or "launch".
RATES: dict[str, Callable[[str], str]] = {"cpu": cpu.rate_of, "cuda": cuda.rate_of}
# A CPU's allocator gives memory beyond so many bytes back, and every page of it is faulted in anew.
REUSED, HELD = 32 << 20, "bytes given back"
# The dtype whose prices another one takes, and how many times as much time it is.
LIKE: dict[str, tuple[str, float]] = {
    "float16": ("bfloat16", 1.0),
    "complex64": ("float64", 2.0),
    "complex128": ("float64", 4.0),
}
OTHERWISE = ("float64", 1.0)  # integers: XLA computes them by loops of its own, as it does 64 bits
BASE = "float32"
# What a count costs that was not surveyed in a dtype, of what it does in float32: bytes are counted by size already.
RATIOS = {"float64": 2.0, "bfloat16": 1.5}


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """The prices of one kind of machine.

    `margin`: a plan must be forecast to be so many times as fast as `xla` to take its place, and that twice over where
    it was measured in no call of the kind. `rates`: the seconds of a unit of each kind of work on the machine of the
    survey, for each dtype (`RATES`). `near`: the surveyed calls of each dtype and role, by "float32 forward".
    """

    platform: str
    name: str
    prices: Mapping[str, Prices]
    margin: float
    rates: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    near: Mapping[str, Near] = dataclasses.field(default_factory=dict)

    def scaled(self, rates: Mapping[str, Mapping[str, float]], device: str) -> Model:
        """The prices of another machine, on which a unit of each kind of work takes so many seconds."""
        kind_of = RATES[self.platform]
        prices = {}
        for dtype, own in self.prices.items():
            there, here = self.rates.get(dtype, {}), rates.get(dtype, {})
            ratio = {kind: here[kind] / there[kind] for kind in here if kind in there}
            prices[dtype] = Prices({name: price * ratio.get(kind_of(name), 1.0) for name, price in own.items()})
        return dataclasses.replace(self, name=f"{device}, calibrated", prices=prices, rates=rates)

    def counts(self, work: Work, dtype: np.dtype, result: float = 0.0) -> dict[str, float]:
        """What the time of a call is a sum of; `result` is the bytes of what it gives."""
        found: dict[str, float] = {}
        for step in work.steps:
            for name, number in COUNTS[self.platform][type(step)](step, dtype):
                found[name] = found.get(name, 0.0) + number
        if held := self._held(work.workspace, result):
            found[HELD] = held
        return found

    def _held(self, *sizes: float) -> float:
        return float(sum(size for size in sizes if size > REUSED)) if self.platform == "cpu" else 0.0

    def price(self, steps: tuple[Step, ...], dtype: np.dtype) -> float:
        """The seconds that steps are forecast to take."""
        name, times = _like(self, dtype)
        prices, kinds, total = self.prices[name], COUNTS[self.platform], 0.0
        for step in steps:
            for count, number in kinds[type(step)](step, dtype):
                total += number * prices[count]
        return times * total

    def factors(self, spec: ConvSpec, dtype: np.dtype, role: str) -> dict[str, float]:
        """What calls that are alike tell of the forecasts of plans, by name: to be multiplied by."""
        near = self.near.get(f"{_like(self, dtype)[0]} {role}")
        return near.factors(spec) if near else {}

    def margin_of(self, plan: str, factors: Mapping[str, float]) -> float:
        """What the forecast of a plan is marked up by, against that of `xla`; `factors` are those of the call."""
        return 1.0 if plan == "xla" else self.margin if plan in factors else self.margin**2

    def held(self, workspace: float, result: float, dtype: np.dtype) -> float:
        """The seconds that it takes to have a workspace and a result of so many bytes, beside what is done in them."""
        held = self._held(workspace, result)
        return self.prices[_like(self, dtype)[0]].get(HELD, 0.0) * held if held else 0.0


@functools.cache
def _like(model: Model, dtype: np.dtype) -> tuple[str, float]:
    """The dtype that was surveyed in the place of another one, and how many times as much time that is."""
    name, times = (dtype.name, 1.0) if dtype.name in model.prices else LIKE.get(dtype.name, OTHERWISE)
    return (name if name in model.prices else BASE), times


class Prices(dict[str, float]):
    """The prices of one dtype. What is not there costs nothing where its kind was surveyed, else what the plain kind
    does: "mine copy: bytes" as "plain copy: bytes"."""

    def __init__(self, prices: Mapping[str, float]) -> None:
        super().__init__(prices)
        self.kinds = {name.partition(": ")[0] for name in prices}

    def __missing__(self, count: str) -> float:
        kind, colon, what = count.partition(": ")
        self[count] = 0.0 if kind in self.kinds else self.get(f"plain {kind.split()[-1]}{colon}{what}", 0.0)
        return self[count]


@functools.cache
def stored() -> dict[str, dict[str, Any]]:
    """The generated file, which has an entry for each platform."""
    return json.loads(PRICES.read_text())["platforms"]


@functools.cache
def model(platform: str | None) -> Model | None:
    """The committed model of a platform; None where nothing was surveyed."""
    found = stored().get(platform or "")
    return None if found is None else model_of(str(platform), found)


def model_of(platform: str, entry: Mapping[str, Any]) -> Model:
    """The model of an entry of the generated file."""
    near = entry["near"]
    known = {key: Near(lines, near["plans"], near["length"], near["ridge"]) for key, lines in near["calls"].items()}
    return Model(platform, entry["name"], completed(entry["prices"]), entry["margin"], entry["rates"], known)


def completed(prices: Mapping[str, Mapping[str, float]]) -> dict[str, Prices]:
    """The prices of every dtype, with those of float32 for what was not surveyed in it."""
    base = prices[BASE]
    return {
        dtype: Prices({name: price * RATIOS.get(dtype, 1.0) for name, price in base.items()} | dict(own))
        for dtype, own in prices.items()
    }
