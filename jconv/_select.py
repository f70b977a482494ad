"""The choice of algorithm: a pure function of what is static about a call."""

from __future__ import annotations

import math
from typing import NamedTuple

from ._algorithms import ALGORITHMS
from ._algorithms.base import ROLES, Algorithm, Algorithms, Call
from ._spec import nearest

# `auto` takes no lowering whose workspace is larger than this many times the operands and the result together.
MAX_WORKSPACE_RATIO = 32
# Up to so many taps a depthwise window is small enough for patches on CPU: 4×4 gains, 5×5 loses.
SMALL_WINDOW = 16


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
    if not isinstance(name, str) or name not in ALGORITHMS:
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
    is the faster one, but for three cases, in which `einsum` is a (batched) matrix product: the kernel's gradient of a
    window of one element, which XLA computes as a convolution with a window as large as the image; the kernel's
    gradient of several groups, unless they have one channel each; and the input's gradient of a depthwise kernel with a
    small window, both of which XLA runs as scalar loops. Patches beyond `MAX_WORKSPACE_RATIO` are never taken.
    """
    spec, einsum, reason = call.spec, ALGORITHMS["einsum"], ""
    taps, groups = math.prod(spec.window), spec.feature_group_count
    one_to_one = groups > 1 and spec.in_features == spec.out_features == groups
    if spec.rank == 0:
        return Selection("einsum", "without spatial axes it is a matrix product")
    if call.platform != "cpu":
        return Selection(
            "xla", f"on {call.platform or 'this platform'} XLA hands convolutions to the device's own library"
        )
    if call.role == "kernel_grad" and taps == 1:
        reason = "a window of one element: the kernel's gradient is a matrix product"
    elif call.role == "kernel_grad" and groups > 1 and not one_to_one:
        reason = f"{groups} groups: the kernel's gradient is a batched matrix product over them"
    elif call.role == "input_grad" and groups > 1 and spec.in_features == groups and taps <= SMALL_WINDOW:
        reason = f"a depthwise kernel of {taps} taps: the input's gradient is a batched matrix product"
    if not reason:
        return Selection("xla", f"on cpu XLA's convolution is faster than patches for this {call.role}")
    if why := einsum.supports(call):
        return Selection("xla", why)
    if not isinstance(spec.batch_shape[0], int):  # symbolic; the ratio is all but that of one example
        call = call._replace(spec=spec.replace(x_shape=(1, *spec.x_shape[1:])))
    workspace = einsum.workspace(call)
    if workspace > MAX_WORKSPACE_RATIO * operand_bytes(call):
        return Selection(
            "xla", f"the patches of einsum, {workspace} bytes, exceed {MAX_WORKSPACE_RATIO} times the operands"
        )
    return Selection("einsum", reason)


def resolve(name: str, call: Call) -> Selection:
    """The algorithm that runs when ``name`` is asked for."""
    if name == "auto":
        return select(call)
    check(name, call)
    return Selection(name, "asked for by name")
