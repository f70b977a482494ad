"""The choice of algorithm: a pure function of what is static about a call.

A plan is the name of an algorithm, with the reductions that lead to it before it: "fold+matmul" writes the convolution
as another one by `fold` and computes that one by `matmul`. "auto" prices every plan and takes the cheapest;
"portable" does so without plug-ins, "direct" among those that compute the sum itself. "tuned" takes what `tune`
measured as the fastest on this device, and where nothing was measured what "auto" takes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax

from ._algorithms import REDUCTIONS
from ._algorithms.base import (
    ACTIVATIONS,
    ROLES,
    UNFINISHED,
    Algorithm,
    Algorithms,
    Call,
    Finish,
    Reduced,
    Reduction,
    Work,
    reduced_call,
    through,
)
from ._cache import device_kind, lookup, this_device
from ._dtypes import broadcast_bias
from ._spec import nearest
from .plugins import algorithms

# `auto` takes no plan whose workspace is larger than this many times the operands and the result together.
MAX_WORKSPACE_RATIO = 32
# At most so many reductions in one plan.
MAX_REDUCTIONS = 2
# A plan must be forecast to be this much faster than `xla` to take its place, and more so with each reduction before
# it that moves images: a forecast is not a measurement.
MARGIN, REDUCTION_MARGIN = 1.2, 1.2
SEPARATOR = "+"
CHOOSERS = ("auto", "portable", "direct", "tuned")  # names that stand for a plan

# Seconds for one unit of `Work` on a CPU. Only their ratios matter to the choice. Measured on two AVX-512 cores
# (docs/algorithms.md); other CPUs differ far less in the ratios than algorithms differ in the units.
PRICES = Work(products=1.0e-11, vector=5.0e-11, scalar=5.0e-10, bytes=3.0e-11, launches=4.0e-6, workspace=0)  # type: ignore
# Beyond this size the allocator of the C library gives memory back to the system after each call, and every page
# of it is faulted in anew.
REUSED_BYTES = 32 << 20
FAULTED_BYTE = 4.0e-10


class Selection(NamedTuple):
    """The algorithm that runs, and why."""

    name: str
    reason: str


def operand_bytes(call: Call) -> int:
    """Bytes of x, kernel and y together."""
    spec = call.spec
    sizes = (math.prod(shape) for shape in (spec.x_shape, spec.kernel_shape, spec.output_shape))
    return sum(sizes) * call.dtype.itemsize


# Names ---------------------------------------------------------------------------------------------------
def parts_of(name: str) -> tuple[list[str], Algorithm]:
    """The reductions and the algorithm of a plan; ValueError, with the nearest name, where there is none."""
    known = algorithms()
    accepted = (*CHOOSERS, *known, *(f"{r}{SEPARATOR}..." for r in REDUCTIONS))
    if not isinstance(name, str):
        raise ValueError(f"algorithm: got {name!r}, {nearest(name, accepted)}")
    *reductions, last = name.split(SEPARATOR)
    for reduction in reductions:
        if reduction not in REDUCTIONS:
            raise ValueError(f"algorithm: got {name!r}, where {reduction!r} is no reduction; {nearest(name, accepted)}")
    if last not in known:
        hint = (
            f" {last!r} is a reduction: add what computes the rest, as in '{last}+xla'." if last in REDUCTIONS else ""
        )
        raise ValueError(f"algorithm: got {name!r}, {nearest(name, accepted)}{hint}")
    return reductions, known[last]


def canonical(algorithm: str | Algorithms) -> Algorithms:
    """`algorithm` as the names of all three roles, each of them known."""
    if isinstance(algorithm, str):
        algorithm = Algorithms(algorithm, algorithm, algorithm)
    if not isinstance(algorithm, Algorithms):
        raise TypeError(f"algorithm: got {algorithm!r}, accepted is a name or jconv.Algorithms.")
    for role in ROLES:
        if algorithm.role(role) not in CHOOSERS:
            parts_of(algorithm.role(role))
    return algorithm


def refusal(name: str, call: Call) -> str | None:
    """Why the named plan does not cover the call, or None where it does. Sums of nothing are covered by all."""
    if name in CHOOSERS:
        return None
    reductions, algorithm = parts_of(name)
    if call.spec.is_empty:
        return None
    for reduction in reductions:
        if why := REDUCTIONS[reduction].supports(call):
            return why
        call = reduced_call(REDUCTIONS[reduction].reduce(call), call)
    return _refusal(algorithm, call)


def _refusal(algorithm: Algorithm, call: Call) -> str | None:
    if call.portable and not algorithm.portable:
        return f"{algorithm.name} is compiled code of a plug-in, which an exported program cannot carry"
    return algorithm.supports(call)


def check(name: str, call: Call) -> None:
    """Raises ValueError where the named plan does not cover the call."""
    if why := refusal(name, call):
        able = [n for n in algorithms() if refusal(n, call) is None]
        raise ValueError(f"algorithm: {name!r} does not cover {call.role} of {call.spec}: {why}. Accepted: {able}.")


# Prices --------------------------------------------------------------------------------------------------
class Plan(NamedTuple):
    """A way to compute a call, with what it costs."""

    name: str
    work: Work
    exact: bool
    local: bool

    @property
    def seconds(self) -> float:
        """The forecast, for a CPU."""
        faulted = FAULTED_BYTE * self.work.workspace if self.work.workspace > REUSED_BYTES else 0.0
        return sum(a * b for a, b in zip(self.work, PRICES, strict=True)) + faulted

    @property
    def margin(self) -> float:
        """How much the forecast is marked up against that of `xla`."""
        moves = sum(REDUCTIONS[reduction].moves for reduction in self.name.split(SEPARATOR)[:-1])
        return 1.0 if self.name == "xla" else MARGIN * REDUCTION_MARGIN**moves


def plans(call: Call, reductions: int = MAX_REDUCTIONS, used: tuple[str, ...] = ()) -> Iterator[Plan]:
    """Every plan that covers the call; each reduction at most once."""
    for algorithm in algorithms().values():
        if _refusal(algorithm, call) is None:
            yield Plan(algorithm.name, algorithm.work(call), algorithm.exact, algorithm.local)
    if not reductions:
        return
    for reduction in REDUCTIONS.values():
        if reduction.name in used or reduction.supports(call) is not None:
            continue
        reduced = reduction.reduce(call)
        inner = reduced_call(reduced, call)
        own = reduction.work(call)
        for plan in plans(inner, reductions - 1, (*used, reduction.name)):
            name = f"{reduction.name}{SEPARATOR}{plan.name}"
            work = own + plan.work * reduced.parts
            yield Plan(name, work, plan.exact, reduction.local and plan.local)


def _wants_exact(precision: object) -> bool:
    entries = precision if isinstance(precision, tuple) else (precision,)
    return any(entry in (jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST) for entry in entries)


def candidates(call: Call) -> list[Plan]:
    """The plans that "auto" and `tune` may take, the cheapest forecast first."""
    bound = MAX_WORKSPACE_RATIO * operand_bytes(call)
    exact = _wants_exact(call.precision)
    fits = lambda p: (p.exact or not (exact or call.direct)) and (p.local or not call.direct)
    able = [p for p in plans(call) if p.work.workspace <= bound and fits(p)]
    return sorted(able, key=lambda plan: plan.seconds)


def table() -> tuple[Algorithm | Reduction, ...]:
    """All that plans are made of by now; a choice holds for as long as this is the same."""
    return *algorithms().values(), *REDUCTIONS.values()


def select(call: Call) -> Selection:
    """What "auto" stands for in this call.

    Without spatial axes a convolution is a matrix product. Accelerators have tuned libraries behind XLA's convolution,
    so there it is `xla`. On CPU every plan is priced (`Work`, `PRICES`), and the cheapest is taken where it is
    forecast to be faster than `xla` by `MARGIN` and more. Plans beyond `MAX_WORKSPACE_RATIO` are never
    taken, and inexact ones not where `precision` asks for more than the default.
    """
    return _select(call, table())


@functools.lru_cache(maxsize=4096)
def _select(call: Call, known: tuple[Algorithm | Reduction, ...]) -> Selection:
    """The same, remembered for one call and one table, which it reads through `plans`."""
    del known
    spec = call.spec
    if spec.is_empty:
        return Selection("xla", "there is nothing to compute")
    if spec.rank == 0:
        return Selection("matmul", "without spatial axes it is a matrix product")
    if call.platform != "cpu":
        return Selection(
            "xla", f"on {call.platform or 'this platform'} XLA hands convolutions to the device's own library"
        )
    if not isinstance(spec.batch_shape[0], int):  # symbolic: the choice is that of one example
        call = call._replace(spec=spec.replace(x_shape=(1, *spec.x_shape[1:])))
    ranked = candidates(call)
    xla = next(plan for plan in ranked if plan.name == "xla")
    best = min(ranked, key=lambda plan: plan.seconds * plan.margin)
    if best.name == "xla":
        other = next((p for p in ranked if p.name != "xla"), None)
        against = f", against {_time(other.seconds)} for {other.name}" if other else ""
        return Selection("xla", f"forecast {_time(xla.seconds)}{against}")
    return Selection(best.name, f"forecast {_time(best.seconds)}, against {_time(xla.seconds)} for xla")


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _unusable(name: str, call: Call) -> str | None:
    """Why a remembered plan cannot be taken, or None where it can."""
    try:
        reductions, algorithm = parts_of(name)
    except ValueError:
        return "which does not exist"
    if why := refusal(name, call):
        return f"which does not cover the call: {why}"
    exact = algorithm.exact and all(REDUCTIONS[reduction].exact for reduction in reductions)
    return "which is less exact than `precision` asks for" if _wants_exact(call.precision) and not exact else None


def tuned(call: Call) -> Selection:
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
        return Selection(choice.name, f"{measured} (tuned {choice.date})")
    name, reason = select(call)
    return Selection(name, f"{why}, so as auto: {reason}")


def resolve(name: str, call: Call) -> Selection:
    """The plan that runs when ``name`` is asked for."""
    if name in ("auto", "portable", "direct"):
        return select(call._replace(portable=call.portable or name == "portable", direct=name == "direct"))
    if name == "tuned":
        return tuned(call)
    check(name, call)
    return Selection(name, "asked for by name")


def choice(name: str, call: Call) -> tuple[str, tuple[Algorithm | Reduction, ...]]:
    """The plan that runs and what it is made of: what a compiled program depends on beside the call itself."""
    plan = resolve(name, call).name
    reductions, algorithm = parts_of(plan)
    return plan, (*(REDUCTIONS[reduction] for reduction in reductions), algorithm)


# Running -------------------------------------------------------------------------------------------------
def finish_result(y: jax.Array, finish: Finish) -> jax.Array:
    """activation(y + bias)."""
    y = y if finish.bias is None else y + broadcast_bias(finish.bias, y)
    return y if finish.activation is None else ACTIVATIONS[finish.activation](y)


def run(name: str, a: jax.Array, b: jax.Array, call: Call, finish: Finish = UNFINISHED) -> jax.Array:
    """Computes the call by the named plan, finished, in the dtype of its result.

    Behind reductions that keep the result's rows of channels, the last algorithm may finish it.
    """
    reductions, algorithm = parts_of(name)
    if reductions:
        first, rest = REDUCTIONS[reductions[0]], name.split(SEPARATOR, 1)[1]
        reduced: Reduced = first.reduce(call)
        inside = UNFINISHED
        if reduced.in_rows:
            inside, finish = finish, UNFINISHED
        y = through(reduced, a, b, call, lambda a, b: run(rest, a, b, reduced_call(reduced, call), inside))
        return finish_result(y.astype(call.out_dtype), finish)
    if finish is not UNFINISHED and algorithm.finished:
        y = algorithm.finished(a, b, call, finish)
        if y is not None:
            return y.astype(call.out_dtype)
    return finish_result(algorithm.run(call.role)(a, b, call).astype(call.out_dtype), finish)
