"""The choice of algorithm: a pure function of what is static about a call, and of the prices of its platform.

"auto" forecasts every plan (`jconv._forecast`) and takes the cheapest; "portable" does so without plug-ins, "direct"
among those that compute the sum itself. "tuned" takes what `tune` measured as the fastest on this device, and where
nothing was measured what "auto" takes.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ._algorithms import REDUCTIONS
from ._algorithms.base import Algorithm, Call, Reduction, reduced_call, wants_exact
from ._cache import device_kind, lookup, rates_of, this_device
from ._forecast import Model, model
from ._plan import Plan, named_plan, refusal_of
from .plugins import algorithms

# `auto` takes no plan whose workspace is larger than this many times the operands and the result together.
MAX_WORKSPACE_RATIO = 32
# At most so many reductions in one plan.
MAX_REDUCTIONS = 2


class Selection(NamedTuple):
    """The algorithm that runs, and why."""

    name: str
    reason: str


class Choice(NamedTuple):
    """The plan that runs, and why."""

    plan: Plan
    reason: str

    @property
    def name(self) -> str:
        return self.plan.name


def operand_bytes(call: Call) -> int:
    """Bytes of x, kernel and y together."""
    spec = call.spec
    sizes = (math.prod(shape) for shape in (spec.x_shape, spec.kernel_shape, spec.output_shape))
    return sum(sizes) * call.dtype.itemsize


def result_bytes(call: Call) -> int:
    """Bytes of what a call gives."""
    spec = call.spec
    shape = {"forward": spec.output_shape, "input_grad": spec.x_shape, "kernel_grad": spec.kernel_shape}[call.role]
    return math.prod(shape) * call.out_dtype.itemsize


# Forecasts -----------------------------------------------------------------------------------------------
class Candidate(NamedTuple):
    """A plan that covers a call, what it needs beyond the operands, and how long it is forecast to take."""

    plan: Plan
    workspace: int
    seconds: float
    margin: float  # what the forecast is marked up by, against that of `xla`

    @property
    def name(self) -> str:
        return self.plan.name


@functools.cache
def forecaster(platform: str | None) -> Model:
    """The model that speaks for a platform, or that of a CPU where it was not surveyed.

    Where `calibrate` measured this machine, its prices are this machine's; what the file holds is read once a process.
    """
    found = model(platform) or model("cpu")
    assert found is not None
    rates = rates_of(found.platform)
    return found.scaled(rates, device_kind(this_device())) if rates else found


def plans(call: Call) -> Iterator[Candidate]:
    """Every plan that covers the call; each reduction at most once."""
    prices = forecaster(call.platform)
    result, near = result_bytes(call), prices.factors(call.spec, call.dtype, call.role)
    for plan, workspace, seconds in _plans(call, prices, MAX_REDUCTIONS, ()):
        margin = prices.margin_of(plan.name, near)
        total = seconds + prices.held(workspace, result, call.dtype)
        yield Candidate(plan, workspace, total * near.get(plan.name, 1.0), margin)


def _plans(call: Call, prices: Model, most: int, used: tuple[Reduction, ...]) -> Iterator[tuple[Plan, int, float]]:
    """Plans with their workspace and their seconds without it."""
    for algorithm in algorithms().values():
        if refusal_of(algorithm, call) is None:
            work = algorithm.work(call)
            yield Plan(algorithm), work.workspace, prices.price(work.steps, call.dtype)
    if not most:
        return
    for reduction in REDUCTIONS.values():
        if reduction in used or reduction.supports(call) is not None:
            continue
        reduced, own = reduction.reduce(call), reduction.work(call)
        moved = prices.price(own.steps, call.dtype)
        for plan, workspace, seconds in _plans(reduced_call(reduced, call), prices, most - 1, (*used, reduction)):
            yield plan.after(reduction), own.workspace + workspace, moved + reduced.parts * seconds


def candidates(call: Call) -> list[Candidate]:
    """The plans that "auto" and `tune` may take, the cheapest forecast first."""
    bound = MAX_WORKSPACE_RATIO * operand_bytes(call)
    exact = wants_exact(call.precision)
    fits = lambda p: (p.exact or not (exact or call.direct)) and (p.local or not call.direct)
    able = [c for c in plans(call) if c.workspace <= bound and fits(c.plan)]
    return sorted(able, key=lambda candidate: candidate.seconds)


def table() -> tuple[Algorithm | Reduction | Model, ...]:
    """All that plans are made of by now, and what prices them; a choice holds for as long as this is the same."""
    return *algorithms().values(), *REDUCTIONS.values(), forecaster("cpu"), forecaster("cuda")


def select(call: Call) -> Choice:
    """What "auto" stands for in this call.

    Without spatial axes a convolution is a matrix product. Where the platform was surveyed every plan is forecast, and
    the cheapest is taken where it is forecast to be faster than `xla` by the model's margin and more; elsewhere it is
    `xla`. Plans beyond `MAX_WORKSPACE_RATIO` are never taken, and inexact ones not where `precision` asks for more
    than the default.
    """
    return _remembered(call, table())


@functools.lru_cache(maxsize=4096)
def _remembered(call: Call, known: tuple[Algorithm | Reduction | Model, ...]) -> Choice:
    """The same for one call and one table, which it reads through `plans`."""
    del known
    return chosen(call)


def chosen(call: Call) -> Choice:
    """The same, computed anew."""
    spec = call.spec
    xla = named_plan("xla")
    if spec.is_empty:
        return Choice(xla, "there is nothing to compute")
    if spec.rank == 0:
        return Choice(named_plan("matmul"), "without spatial axes it is a matrix product")
    refused = xla.refusal(call)
    if model(call.platform) is None and refused is None:
        return Choice(xla, f"on {call.platform or 'this platform'} XLA hands convolutions to the device's own library")
    if not isinstance(spec.batch_shape[0], int):  # symbolic: the choice is that of one example
        call = call._replace(spec=spec.replace(x_shape=(1, *spec.x_shape[1:])))
    ranked = candidates(call) or sorted(plans(call), key=lambda candidate: candidate.seconds)
    ranked = [candidate for candidate in ranked if not candidate.plan.algorithm.variant]
    if not ranked:
        return Choice(xla, f"no plan covers it: {refused}")
    best = min(ranked, key=lambda candidate: candidate.seconds * candidate.margin)
    own = next((candidate for candidate in ranked if candidate.name == "xla"), None)
    other = next((candidate for candidate in ranked if candidate is not best), None) if best is own else own
    against = f", against {_time(other.seconds)} for {other.name}" if other else ""
    against += f"; xla is out: {refused}" if refused else ""
    return Choice(best.plan, f"forecast {_time(best.seconds)}{against} (prices of {forecaster(call.platform).name})")


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _unusable(name: str, call: Call) -> str | None:
    """Why a remembered plan cannot be taken, or None where it can."""
    try:
        plan = named_plan(name)
    except ValueError:
        return "which does not exist"
    if why := plan.refusal(call):
        return f"which does not cover the call: {why}"
    return "which is less exact than `precision` asks for" if wants_exact(call.precision) and not plan.exact else None


# What measures a call that was not tuned: `_tune` puts its own here.
MEASURE: list[Callable[[Call], None]] = []


def measure_missing(call: Call) -> None:
    """Measures a call that is about to be compiled, where ``$JCONV_TUNE`` is "missing" and nothing was measured yet."""
    if os.environ.get("JCONV_TUNE", "").lower() == "missing" and not call.portable and lookup(call) is None:
        for measure in MEASURE:
            measure(call)


def tuned(call: Call) -> Choice:
    """What "tuned" stands for in this call: the plan that was measured as the fastest, else what "auto" stands for."""
    choice = lookup(call)
    if choice is None:
        why = "not tuned on this device"
    elif reason := _unusable(choice.name, call):
        why = f"tuned to {choice.name!r}, {reason}"
    else:
        others = {name: seconds for name, seconds in choice.measured.items() if name != choice.name}
        other = "xla" if "xla" in others else min(others, key=lambda name: others[name], default=None)
        against = f", against {_time(others[other])} for {other}" if other else ""
        measured = f"measured on {device_kind(this_device())}: {_time(choice.seconds)}{against}"
        return Choice(named_plan(choice.name), f"{measured} (tuned {choice.date})")
    plan, reason = select(call)
    return Choice(plan, f"{why}, so as auto: {reason}")


def resolve(asked: Plan | str, call: Call) -> Choice:
    """The plan that runs where a plan, or the name of what chooses one, is asked for."""
    if isinstance(asked, Plan):
        asked.check(call)
        return Choice(asked, "asked for by name")
    if asked == "tuned":
        return tuned(call)
    return select(call._replace(portable=call.portable or asked == "portable", direct=asked == "direct"))
