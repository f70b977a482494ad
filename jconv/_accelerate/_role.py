"""What a convolution of jax.lax is as a role of jconv.

Its axes are put in jconv's order. A `batch_group_count` is a `feature_group_count` of the image whose batch groups are
channels. And a convolution is a kernel gradient read differently: with x and y for image and result, and a contraction
over channels i in the one, over a batch in the other,

    y[b, o, g, c]    = sum over t, i of   x[b, o s + t d - lo, g, i]   k[t, i, g, c]      forward
    kbar[i, t, g, c] = sum over o, b of   x[b, o s + t d - lo, g, i]   y[b, o, g, c]      kernel_grad

are the same sums with the names of b and i, of o and t, and of s and d exchanged. A kernel gradient as lax derives it
is a forward pass whose window is the whole of the cotangent; under `jax.vmap` it has a group for each example, which
stands before the contracted channels i and has to go before the batch b. So where the window has more positions than
the result it is computed as the kernel gradient that it is.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from .._algorithms.base import Call, Role
from .._conv import apply_role
from .._dtypes import FLOATS, INTEGERS, canonical_precision, holds
from .._layouts import moved, transposed
from .._plan import Plan, Plans
from .._primitive import flatten_batch
from .._spec import ConvSpec


@dataclasses.dataclass(frozen=True)
class Replacement:
    """What became of one convolution of jax.lax, y(lhs, rhs): what it is computed as, or why it was left.

    Args:
        path: the functions around it, outermost first, as in ``("jit step", "scan")``.
        lhs_shape: of its first operand, in elements and in lax's order.
        rhs_shape: of its second operand.
        dtype: of both.
        role: ``"forward"`` or ``"kernel_grad"``; None where it was left.
        spec: the geometry that it is computed as.
        why: the reason where it was left.

    Returns:
        A frozen record; `str` of it is a line to read.

    Raises:
        Nothing.

    >>> print(Replacement(("scan",), (1, 3, 8, 8), (4, 3, 3, 3), "float32", why="there is nothing to compute"))
    (1, 3, 8, 8) with (4, 3, 3, 3), float32: left, there is nothing to compute (in scan)

    References:
        `accelerate`.
    """

    path: tuple[str, ...]
    lhs_shape: tuple[int, ...]
    rhs_shape: tuple[int, ...]
    dtype: str
    role: Role | None = None
    spec: ConvSpec | None = None
    why: str = ""

    def __str__(self) -> str:
        where = " in ".join(reversed(self.path))
        what = f"{self.lhs_shape} with {self.rhs_shape}, {self.dtype}"
        inside = f" (in {where})" if where else ""
        return f"{what}: {f'left, {self.why}' if self.role is None else self.role}{inside}"


@dataclasses.dataclass(frozen=True)
class View:
    """A convolution of lax as a role of jconv: how its operands become jconv's, and the result becomes its.

    `groups` stand before the first axis of the first operand, once that is in order, and go before its channels.
    """

    role: Role
    spec: ConvSpec
    lhs_axes: tuple[int, ...]
    rhs_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    groups: int

    def compute(self, lhs: Any, rhs: Any, plans: Plans, precision: Any, out_dtype: Any) -> Any:
        """The convolution of lax, whose operands and result may be `Moved`."""
        a, b = transposed(lhs, self.lhs_axes), transposed(rhs, self.rhs_axes)
        if self.groups > 1:
            a = _groups_to_channels(a, self.groups)
        out = apply_role(self.role, a, b, self.spec, plans, precision, out_dtype)
        return moved(out, self.out_axes)


def _groups_to_channels(x, groups: int):
    """[groups * batch, *spatial, channels] to [batch, *spatial, groups * channels]."""
    x = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
    x = jnp.moveaxis(x, 0, -2)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def _is_more(a: Any, b: Any) -> bool:
    """Whether a > b, for symbolic numbers too; False where they may be either."""
    try:
        return bool(a > b)
    except jax.errors.InconclusiveDimensionOperation:
        return False


def _view(lhs_shape, rhs_shape, out_shape, params: dict[str, Any]) -> View:
    """How jconv computes it; ValueError for a geometry that `ConvSpec` does not take."""
    numbers = params["dimension_numbers"]
    (batch, channel, *space), (out, into, *window) = numbers.lhs_spec, numbers.rhs_spec
    positions = [out_shape[i] for i in numbers.out_spec[2:]]
    taps = [rhs_shape[i] for i in window]
    groups, batch_groups = params["feature_group_count"], params["batch_group_count"]  # one of them is 1
    s, d = params["window_strides"], params["rhs_dilation"]
    q, pads = params["lhs_dilation"], params["padding"]
    rank, sizes = len(space), [lhs_shape[i] for i in space]
    if _is_more(math.prod(taps), math.prod(positions)):
        role: Role = "kernel_grad"
        lhs_axes, rhs_axes, first = (channel, *space, batch), (into, *window, out), groups
        # What the windows reach over, and no more: the pad at the end makes it so.
        spans = [(o - 1) * s[i] + (taps[i] - 1) * d[i] + 1 for i, o in enumerate(positions)]
        padding = [(pads[i][0], spans[i] - (n - 1) * q[i] - 1 - pads[i][0]) for i, n in enumerate(sizes)]
        x = (lhs_shape[channel] // groups, *sizes, lhs_shape[batch] * groups)
        kernel = (*positions, lhs_shape[batch] // batch_groups, rhs_shape[out])
        spec = ConvSpec(x, kernel, d, padding, q, s, groups * batch_groups)
        made = (rank, rank + 1, *range(rank))
    else:
        role = "forward"
        lhs_axes, rhs_axes, first = (batch, *space, channel), (*window, into, out), batch_groups
        x = (lhs_shape[batch] // batch_groups, *sizes, lhs_shape[channel] * batch_groups)
        kernel = tuple(rhs_shape[i] for i in rhs_axes)
        spec = ConvSpec(x, kernel, s, pads, q, d, groups * batch_groups)
        made = (0, rank + 1, *range(1, rank + 1))
    axes = dict(zip(numbers.out_spec, made, strict=True))  # batch, features and positions of the result
    return View(role, spec, lhs_axes, rhs_axes, tuple(axes[i] for i in range(rank + 2)), first)


def plan(lhs: Any, rhs: Any, out: Any, params: dict[str, Any], plans: Plans) -> View | str:
    """How jconv computes a convolution of lax with these avals, or why it does not."""
    dtype, out_dtype = np.dtype(lhs.dtype), np.dtype(out.dtype)
    if dtype.name not in (*FLOATS, *INTEGERS) or rhs.dtype != dtype:
        return f"its operands are {lhs.dtype} and {rhs.dtype}"
    if not holds(out_dtype, dtype):
        return f"its result is {out_dtype} for operands of {dtype}"
    if 0 in (*lhs.shape, *rhs.shape, *out.shape):
        return "there is nothing to compute"
    try:
        precision = canonical_precision(params["precision"])
        view = _view(lhs.shape, rhs.shape, out.shape, params)
    except ValueError as error:
        return str(error)
    call = Call(flatten_batch(view.spec), view.role, dtype, out_dtype, precision)
    asked = plans.role(view.role)
    return (isinstance(asked, Plan) and asked.refusal(call)) or view
