"""Plans as values: an algorithm, with the reductions that lead to it; and their names, read once where users give them.

The name of a plan is that of its algorithm, with the reductions before it: "fold+matmul" writes the convolution as
another one by `fold` and computes that one by `matmul`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from ._algorithms import REDUCTIONS
from ._algorithms._activations import activated
from ._algorithms.base import (
    ROLES,
    UNFINISHED,
    Algorithm,
    Algorithms,
    Call,
    Finish,
    Reduction,
    Role,
    reduced_call,
    through,
)
from ._dtypes import broadcast_bias
from ._forecast.work import Work
from ._padding import padded_spec
from ._spec import ConvSpec, nearest
from .plugins import algorithms

SEPARATOR = "+"
CHOOSERS = ("auto", "portable", "direct", "tuned")  # names that stand for a plan


@dataclasses.dataclass(frozen=True, repr=False)
class Plan:
    """A way to compute a call: each reduction in turn, and then the algorithm."""

    algorithm: Algorithm
    reductions: tuple[Reduction, ...] = ()

    @functools.cached_property
    def name(self) -> str:
        return SEPARATOR.join((*(reduction.name for reduction in self.reductions), self.algorithm.name))

    def __repr__(self) -> str:
        return repr(self.name)

    @property
    def exact(self) -> bool:
        return self.algorithm.exact and all(reduction.exact for reduction in self.reductions)

    @property
    def local(self) -> bool:
        return self.algorithm.local and all(reduction.local for reduction in self.reductions)

    def behind(self) -> Plan:
        """What computes the call that the first reduction leaves."""
        return Plan(self.algorithm, self.reductions[1:])

    def after(self, reduction: Reduction) -> Plan:
        """This plan with a reduction before it."""
        return Plan(self.algorithm, (reduction, *self.reductions))

    def refusal(self, call: Call) -> str | None:
        """Why it does not cover the call, or None where it does. Sums of nothing are covered by all."""
        if call.spec.is_empty:
            return None
        for reduction in self.reductions:
            if why := reduction.supports(call):
                return why
            call = reduced_call(reduction.reduce(call), call)
        return refusal_of(self.algorithm, call)

    def check(self, call: Call) -> None:
        """Raises ValueError where it does not cover the call."""
        if why := self.refusal(call):
            able = [name for name, algorithm in algorithms().items() if Plan(algorithm).refusal(call) is None]
            raise ValueError(
                f"algorithm: {self.name!r} does not cover {call.role} of {call.spec}: {why}. Accepted: {able}."
            )

    def work(self, call: Call) -> Work:
        """What it does to compute the call."""
        if not self.reductions:
            return self.algorithm.work(call)
        reduced = self.reductions[0].reduce(call)
        rest = self.behind().work(reduced_call(reduced, call))
        return self.reductions[0].work(call) + rest * reduced.parts

    def run(self, a: jax.Array, b: jax.Array, call: Call, finish: Finish = UNFINISHED) -> jax.Array:
        """Computes the call, finished, in the dtype of its result.

        Behind reductions that keep the result's rows of channels, the algorithm may finish it.
        """
        if self.reductions:
            reduced = self.reductions[0].reduce(call)
            inner, rest, inside = reduced_call(reduced, call), self.behind(), UNFINISHED
            if reduced.in_rows:
                inside, finish = finish, UNFINISHED
            y = through(reduced, a, b, call, lambda a, b: rest.run(a, b, inner, inside))
            return finish_result(y.astype(call.out_dtype), finish)
        if finish is not UNFINISHED and self.algorithm.finished:
            y = self.algorithm.finished(a, b, call, finish)
            if y is not None:
                return y.astype(call.out_dtype)
        return finish_result(self.algorithm.run(call.role)(a, b, call).astype(call.out_dtype), finish)


def refusal_of(algorithm: Algorithm, call: Call) -> str | None:
    """Why an algorithm does not cover a call, or None where it does."""
    if call.portable and not algorithm.portable:
        return f"{algorithm.name} is compiled code, which an exported program cannot carry"
    return algorithm.supports(call)


def finish_result(y: jax.Array, finish: Finish) -> jax.Array:
    """activation(y + bias)."""
    y = y if finish.bias is None else y + broadcast_bias(finish.bias, y)
    return activated(y, finish.activation)


# Names ---------------------------------------------------------------------------------------------------
def named_plan(name: str) -> Plan:
    """The plan of a name; ValueError, with the nearest name, where there is none."""
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
    return Plan(known[last], tuple(REDUCTIONS[reduction] for reduction in reductions))


def refusal(name: str, call: Call) -> str | None:
    """Why what is named does not cover a call, or None where it does."""
    return None if name in CHOOSERS else named_plan(name).refusal(call)


class Plans(NamedTuple):
    """What the three roles are to be computed by: a plan, or the name of what chooses one."""

    forward: Plan | str
    input_grad: Plan | str
    kernel_grad: Plan | str

    def role(self, role: Role) -> Plan | str:
        return self[ROLES.index(role)]


def parsed(algorithm: str | Algorithms | Plans) -> Plans:
    """What a user names, as plans, each of them known."""
    if isinstance(algorithm, Plans):
        return algorithm
    if isinstance(algorithm, str):
        algorithm = Algorithms(algorithm, algorithm, algorithm)
    if not isinstance(algorithm, Algorithms):
        raise TypeError(f"algorithm: got {algorithm!r}, accepted is a name or jconv.Algorithms.")
    return Plans(*(name if name in CHOOSERS else named_plan(name) for name in map(algorithm.role, ROLES)))


class Request(NamedTuple):
    """All that is static about a convolution, in the role that is to be computed, before it is lowered.

    `modes` are how the axes are padded, where one is not with zeros: the role is then that of T(P x, k, y).
    """

    spec: ConvSpec
    role: Role
    plans: Plans
    out_dtype: np.dtype
    precision: Any = None
    activation: str | None = None
    modes: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan | str:
        return self.plans.role(self.role)

    def call(self, dtype: Any, platform: str | None = None, portable: bool = False) -> Call:
        """The call that it becomes for operands of a dtype, of the padded image."""
        spec = padded_spec(self.spec, self.modes) if self.modes else self.spec
        return Call(spec, self.role, np.dtype(dtype), self.out_dtype, self.precision, platform, portable)

    def finish(self, bias: jax.Array | None = None) -> Finish:
        """What it does to its sums."""
        return UNFINISHED if bias is None and self.activation is None else Finish(bias, self.activation)
