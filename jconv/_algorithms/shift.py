"""`shift`: a sum of shifted multiply-adds, for channels that do not mix (or hardly).

With p(o, t) the position that tap t meets at output o, and channels in groups g of i inputs and c outputs,

    y[b, o, g, c]     = sum_{t, i} x[b, p(o, t), g, i] k[t, i, g, c]
    x_bar[b, p, g, i] = sum_{t, c} y_bar[b, o(p, t), g, c] k[t, i, g, c]
    k_bar[t, i, g, c] = sum_{b, o} x[b, p(o, t), g, i] y_bar[b, o, g, c].

For one tap, p(o, t) runs through an arithmetic progression, so each term is a strided slice times one vector of
channels, and the sum over t and i is one loop over contiguous channels: it vectorises, reads x once, and no zero is
inserted for strides or dilations (`jconv._spec.Axis.phases`).

The kernel's gradient sums over batch and space instead. XLA keeps the order of a floating-point sum, so a plain
reduction is a scalar loop; here `FOLD` slabs of the image are first added element by element, which vectorises over
channels, and only what is left is summed, by a product with ones. That also shortens the chains of additions: the error
is below that of summing in one chain (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2).

    Source: sums of shifted images are the textbook form of the discrete convolution; the progressions are those of
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from .._forecast.work import Copy, Launch, Loop, Work
from ._gather import gather, padded
from .base import Algorithm, Call, apart, grouped, pad, sizes_of_groups, to_rank

CHAIN = 8  # terms added to one another before they are added to the rest
FOLD = 14  # slabs added before the reduction
ONES = 8  # rows of ones; XLA turns a product with one row back into a sum
MAX_TERMS = 128  # multiply-adds for one output; more would take long to compile


def _contract(terms, weights, groups: int, depth: int, width: int, dtype):
    """sum over taps and `depth` of part[..., g, j] weights[tap][j, (g, l)], `CHAIN` terms at a time."""
    total = None
    products = []
    for tap, operand in terms:
        part = operand.astype(dtype)
        columns = [part] if depth == 1 else [grouped(part, groups)[..., j] for j in range(depth)]
        weight = grouped(weights[tap], groups)  # [j, g, l]
        for j, column in enumerate(columns):
            if width == 1:
                products.append(column * to_rank(weight[j, :, 0], column.ndim))
            else:
                products.append(column[..., None] * to_rank(weight[j], column.ndim + 1))
    for first in range(0, len(products), CHAIN):
        partial = functools.reduce(operator.add, products[first : first + CHAIN])
        total = partial if total is None else total + partial
    assert total is not None
    return total if width == 1 else total.reshape(*total.shape[:-2], groups * width)


def _pass(a, weights, result: str, depth: int, width: int, call: Call):
    """The forward pass, or with `result` "p" the input's gradient; on its own where each tap has several terms."""
    spec, groups = call.spec, call.spec.feature_group_count
    weights = weights.astype(call.accumulator)

    def run(a, weights):
        combine = functools.partial(
            _contract, weights=weights, groups=groups, depth=depth, width=width, dtype=call.accumulator
        )
        return gather(a, spec.axes, result, groups * width, call.accumulator, combine)

    if depth == 1:
        return run(a, weights)
    space = spec.output_spatial if result == "o" else spec.spatial
    shape = (a.shape[0], *space, groups * width)
    return apart(run, jax.ShapeDtypeStruct(shape, call.accumulator), a, weights, call=call)


def forward(x, kernel, call: Call):
    _, inputs, outputs = sizes_of_groups(call)
    return _pass(x, kernel, "o", inputs, outputs, call)


def input_grad(g, kernel, call: Call):
    groups, inputs, outputs = sizes_of_groups(call)
    weights = jnp.swapaxes(grouped(kernel, groups), -1, -3)  # [*window, c, g, i]
    weights = weights.reshape(*kernel.shape[:-2], outputs, groups * inputs)  # one axis: written out in this order
    return _pass(g, weights, "p", outputs, inputs, call)


def _summed(x_part: Callable, g_part: Callable, counts: Sequence[int], most: int, call: Call):
    """The sum of x[..., g, i] g[..., g, c] over batch and space, for one tap.

    `x_part` and `g_part` give what that tap pairs of them from one position of the longest axis to another.
    """
    groups, inputs, outputs = sizes_of_groups(call)
    size = max(counts, default=1)
    slabs = next((f for f in range(most, most // 2, -1) if size % f == 0), min(size, most))
    rows = size // slabs

    def product(low, high):
        a, b = (part(low, high).astype(call.accumulator) for part in (x_part, g_part))
        if inputs == outputs == 1:
            return a * b
        return grouped(a, groups).swapaxes(-1, -2)[..., None] * grouped(b, groups)[..., None, :, :]

    def added(array):
        """Over batch and space, as a product with ones: XLA would draw all the terms above into a plain sum."""
        rows = array.reshape(-1, inputs * groups * outputs)
        ones = jnp.ones((ONES, rows.shape[0]), rows.dtype)
        return jnp.matmul(ones, rows, precision="highest", preferred_element_type=rows.dtype)[0]

    total = added(functools.reduce(operator.add, (product(j * rows, (j + 1) * rows) for j in range(slabs))))
    return total + added(product(rows * slabs, size)) if rows * slabs < size else total


def _bounds(starts, steps, counts, low, high):
    """Where a part begins and ends on each spatial axis, and its shape; `low` to `high` of the longest one."""
    longest = max(range(len(counts)), key=lambda i: counts[i], default=0)
    first = [low if i == longest else 0 for i in range(len(counts))]
    shape = [high - low if i == longest else count for i, count in enumerate(counts)]
    begin = [start + step * f for start, step, f in zip(starts, steps, first, strict=True)]
    return begin, [b + step * (n - 1) + 1 for b, step, n in zip(begin, steps, shape, strict=True)], shape


def kernel_grad(x, g, call: Call):
    axes = call.spec.axes
    x, lows = padded(x, axes, "o")
    if any(axis.q > 1 for axis in axes):
        return _written_out(x, g, lows, call)
    starts = [[start + low for _, start in axis.phases("o").taps[0]] for axis, low in zip(axes, lows, strict=True)]
    return _looped(x, g, starts, call)


def _looped(x, g, starts, call: Call):
    """One tap after the other: a loop compiles in the time of one, and none of them meets a hole in g.

    A slice that vectorises has no stride and begins anywhere: so x is split by the remainders of its positions, all of
    which each stride steps over. Nor may it be cut out of another one.
    """
    spec, batch = call.spec, x.shape[0]
    strides, rank, counts = spec.strides, spec.rank, [axis.o for axis in spec.axes]
    space = [-(-n // s) for n, s in zip(x.shape[1:-1], strides, strict=True)]
    if math.prod(strides) > 1:
        x = pad(x, 1, *((0, n * s - size) for n, s, size in zip(space, strides, x.shape[1:-1], strict=True)))
        x = x.reshape(batch, *itertools.chain(*zip(space, strides, strict=True)), x.shape[-1])
        x = x.transpose(*range(2, 2 * rank + 1, 2), 0, *range(1, 2 * rank, 2), 2 * rank + 1)
    x = x.reshape(-1, batch, *space, x.shape[-1])  # [remainders, batch, *positions, channels]

    def offsets(tap):
        remainder = 0
        for start, step in zip(tap, strides, strict=True):
            remainder = remainder * step + start % step
        return remainder, *(start // step for start, step in zip(tap, strides, strict=True))

    ones = (1,) * rank

    def term(place):
        def x_part(low, high):
            begin, _, shape = _bounds(place[1:], ones, counts, low, high)
            # An index that is known helps to vectorise.
            remainder = place[0] if x.shape[0] > 1 else 0
            at = [jnp.asarray(i, np.int32) for i in (remainder, 0, *begin, 0)]
            return lax.dynamic_slice(x, at, (1, batch, *shape, x.shape[-1]))[0]

        def g_part(low, high):
            begin, end, _ = _bounds((0,) * rank, ones, counts, low, high)
            return lax.slice(g, (0, *begin, 0), (batch, *end, g.shape[-1]))

        return _summed(x_part, g_part, counts, FOLD if rank < 3 else FOLD // 2, call)

    places = np.array([offsets(tap) for tap in itertools.product(*starts)], np.int32)
    return lax.map(lambda p: term([p[i] for i in range(rank + 1)]), places).reshape(spec.kernel_shape)


def _written_out(x, g, lows, call: Call):
    """The same where the input is dilated: each tap meets other outputs, every step-th of them, or none."""
    axes = call.spec.axes
    phases = [axis.phases("o") for axis in axes]
    steps, others = [phase.step for phase in phases], [phase.other for phase in phases]
    where = []  # for each axis and tap: (phase, start), or None where the tap meets nothing
    for axis, phase, low in zip(axes, phases, lows, strict=True):
        found = {t: (r, start + low) for r, taps in enumerate(phase.taps) for t, start in taps if r < axis.o}
        where.append([found.get(t) for t in range(axis.k)])

    def tap(choice):
        counts = [-(-(axis.o - r) // step) for (r, _), axis, step in zip(choice, axes, steps, strict=True)]

        def part(array, starts, steps, low, high):
            begin, end, _ = _bounds(starts, steps, counts, low, high)
            return lax.slice(array, (0, *begin, 0), (array.shape[0], *end, array.shape[-1]), (1, *steps, 1))

        x_part = functools.partial(part, x, [start for _, start in choice], others)
        g_part = functools.partial(part, g, [r for r, _ in choice], steps)
        return _summed(x_part, g_part, counts, FOLD // 2, call)

    zero = jnp.zeros(math.prod(call.spec.kernel_shape[-2:]), call.accumulator)
    out = [zero if None in choice else tap(choice) for choice in itertools.product(*where)]
    return jnp.stack(out).reshape(call.spec.kernel_shape)


def supports(call: Call) -> str | None:
    _, inputs, outputs = sizes_of_groups(call)
    depth = {"forward": inputs, "input_grad": outputs, "kernel_grad": 1}[call.role]
    terms = math.prod(call.spec.window) * depth
    if terms > MAX_TERMS and call.role != "kernel_grad":
        return f"shift writes out at most {MAX_TERMS} multiply-adds for one result, this takes {terms}"
    if inputs * outputs > 64 and call.role == "kernel_grad":
        return f"shift keeps every pair of channels of a group, here {inputs} times {outputs}; at most 64 in all"
    if call.role == "kernel_grad" and math.prod(call.spec.window) > 4 * MAX_TERMS:
        return f"shift takes windows of at most {4 * MAX_TERMS} taps here, this has {math.prod(call.spec.window)}"
    return None


def work(call: Call) -> Work:
    spec = call.spec
    groups, inputs, outputs = sizes_of_groups(call)
    batch, taps = math.prod(spec.batch_shape), math.prod(spec.window)
    x, y = math.prod(spec.x_shape), math.prod(spec.output_shape)
    macs = float(spec.macs * batch)
    item = call.accumulator.itemsize
    read = y if call.role == "input_grad" else x
    width = {"forward": outputs, "input_grad": inputs, "kernel_grad": outputs}[call.role]
    lanes = groups if width == 1 else width  # elements along the last axis of what is multiplied
    contracted = {"forward": inputs, "input_grad": outputs, "kernel_grad": 1}[call.role]
    if call.role == "kernel_grad":
        left = macs / FOLD
        copies = 2 if math.prod(spec.strides) > 1 else 1
        dilated = any(q > 1 for q in spec.input_dilation)
        paired = "" if inputs == outputs == 1 else " of pairs"
        return Work(
            (
                Loop(macs, lanes, f"long shift{paired}" if not dilated else f"long shift written out{paired}"),
                Copy(copies * read * item, kind="shift"),
                Copy(left * item, kind="shift sums"),
                Launch(taps, "long shift"),
            ),
            workspace=int(1.1 * copies * read * item + 2 * left * item / taps),
        )
    pieces = math.prod(axis.phases("o" if call.role == "forward" else "p").step for axis in spec.axes)
    written = x + y - read
    return Work(
        (
            Loop(macs / math.prod(spec.input_dilation), lanes, "shift" if contracted == 1 else "shift of channels"),
            Copy(read * item, kind="shift"),
            Copy(written * item, written / (groups * width), "shift phases")
            if pieces > 1
            else Copy(written * item, kind="shift result"),
            Launch(pieces, "shift"),
        ),
        workspace=int(item * (1.25 * read + (written if pieces > 1 else 0))),
    )


ALGORITHM = Algorithm("shift", forward, input_grad, kernel_grad, supports, work)
