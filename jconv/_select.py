"""The choice of algorithm: a pure function of what is static about a call."""

from __future__ import annotations

import math
from typing import NamedTuple

from ._algorithms import ALGORITHMS
from ._algorithms.base import ROLES, Algorithm, Algorithms, Call
from ._spec import nearest

# `auto` takes no lowering whose workspace is larger than this many times the operands and the result together.
MAX_WORKSPACE_RATIO = 32


class Selection(NamedTuple):
    """The algorithm that runs, and why."""

    name: str
    reason: str


def operand_bytes(call: Call) -> int:
    """Bytes of x, kernel and y together."""
    spec = call.spec
    sizes = (math.prod(shape) for shape in (spec.x_shape, spec.kernel_shape, spec.output_shape))
    return sum(sizes) * call.dtype.itemsize


def lookup(name: str) -> Algorithm:
    """The algorithm of that name; ValueError, with the nearest name, where there is none."""
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm: got {name!r}, {nearest(name, ('auto', *ALGORITHMS))}")
    return ALGORITHMS[name]


def canonical(algorithm: str | Algorithms) -> Algorithms:
    """`algorithm` as the names of all three roles, each of them known."""
    if isinstance(algorithm, str):
        algorithm = Algorithms(algorithm, algorithm, algorithm)
    if not isinstance(algorithm, Algorithms):
        raise TypeError(f"algorithm: got {algorithm!r}, accepted is a name or jconv.Algorithms.")
    for role in ROLES:
        if algorithm.role(role) != "auto":
            lookup(algorithm.role(role))
    return algorithm


def refusal(name: str, call: Call) -> str | None:
    """Why the named algorithm does not cover the call, or None where it does."""
    return None if name == "auto" else lookup(name).supports(call)


def check(name: str, call: Call) -> None:
    """Raises ValueError where the named algorithm does not cover the call."""
    if why := refusal(name, call):
        able = [n for n in ALGORITHMS if refusal(n, call) is None]
        raise ValueError(f"algorithm: {name!r} does not cover {call.role} of {call.spec}: {why}. Accepted: {able}.")


def select(call: Call) -> Selection:
    """What "auto" stands for in this call.

    The rule is small, and each line of it is measured (docs/algorithms.md). Without spatial axes a convolution is a
    matrix product. Accelerators have tuned libraries behind XLA's convolution, so there it stays `xla`. On CPU `xla`
    is the faster one forwards and for the input. For the kernel's gradient XLA walks through the groups one product at
    a time, and for a window of one element through a convolution as large as the image; there `einsum` is a batched
    matrix product, and it is taken unless its patches would be out of proportion.
    """
    spec, einsum = call.spec, ALGORITHMS["einsum"]
    pointwise, groups = all(k == 1 for k in spec.window), spec.feature_group_count
    if spec.rank == 0:
        return Selection("einsum", "without spatial axes it is a matrix product")
    if call.platform != "cpu":
        return Selection("xla", f"on {call.platform} XLA hands convolutions to the device's own library")
    if call.role != "kernel_grad":
        return Selection("xla", f"on cpu XLA's convolution is faster than patches in the role {call.role}")
    if groups == 1 and not pointwise:
        return Selection("xla", "one group: on cpu XLA's convolution is faster than patches")
    if why := einsum.supports(call):
        return Selection("xla", why)
    workspace, bound = einsum.workspace(call), MAX_WORKSPACE_RATIO * operand_bytes(call)
    if workspace > bound:
        return Selection(
            "xla", f"the patches of einsum, {workspace} bytes, exceed {MAX_WORKSPACE_RATIO} times the operands"
        )
    if groups == 1:
        return Selection("einsum", "a window of one element: the kernel's gradient is one matrix product")
    return Selection("einsum", f"{groups} groups: the kernel's gradient is a batched matrix product over them")


def resolve(name: str, call: Call) -> Selection:
    """The algorithm that runs when ``name`` is asked for."""
    if name == "auto":
        return select(call)
    check(name, call)
    return Selection(name, "asked for by name")
