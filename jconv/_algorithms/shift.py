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

import jax
from jax import lax
from jax import numpy as jnp

from ._gather import gather, padded
from .base import Algorithm, Call, Work, apart, grouped, zeros

CHAIN = 8  # terms added to one another before they are added to the rest
FOLD = 14  # slabs added before the reduction
ONES = 8  # rows of ones; XLA turns a product with one row back into a sum
UNROLLED = 9  # taps of the kernel's gradient that are written out; of more, one row after the other in a loop
MAX_TERMS = 128  # multiply-adds for one output; more would take long to compile


def _contract(terms, weights, groups: int, depth: int, width: int, dtype):
    """sum over taps and `depth` of part[..., g, j] weights[tap][j, (g, l)], `CHAIN` terms at a time."""
    total = None
    products = []
    for tap, operand in terms:
        part = operand.astype(dtype)
        columns = [part] if depth == 1 else [grouped(part, groups)[..., j] for j in range(depth)]
        weight = grouped(weights[tap], groups)  # [j, g, l]
        products += [c * weight[j, :, 0] if width == 1 else c[..., None] * weight[j] for j, c in enumerate(columns)]
    for first in range(0, len(products), CHAIN):
        partial = functools.reduce(operator.add, products[first : first + CHAIN])
        total = partial if total is None else total + partial
    assert total is not None
    return total if width == 1 else total.reshape(*total.shape[:-2], groups * width)


def _sizes(call: Call) -> tuple[int, int, int]:
    spec = call.spec
    groups = spec.feature_group_count
    return groups, spec.in_features // groups, spec.out_features // groups


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
    _, inputs, outputs = _sizes(call)
    return _pass(x, kernel, "o", inputs, outputs, call)


def input_grad(g, kernel, call: Call):
    groups, inputs, outputs = _sizes(call)
    weights = jnp.swapaxes(grouped(kernel, groups), -1, -3)  # [*window, c, g, i]
    weights = weights.reshape(*kernel.shape[:-2], outputs, groups * inputs)  # one axis: written out in this order
    return _pass(g, weights, "p", outputs, inputs, call)


def _tap(x, g, choice, phases, call: Call):
    """k_bar of one tap, [i, g, c]; `choice` holds, for each axis, its phase r and where x starts.

    Sums x[..., g, i] g[..., g, c] over batch and space by slabs of the longest axis.
    """
    spec = call.spec
    groups, inputs, outputs = _sizes(call)
    counts = [-(-(axis.o - r) // phase.step) for (r, _), axis, phase in zip(choice, spec.axes, phases, strict=True)]
    longest = max(range(len(counts)), key=lambda i: counts[i], default=0)
    size = counts[longest] if counts else 1
    # XLA splits longer sums of slices of more axes, and strided slices take it longer to compile.
    most = FOLD // 2 if spec.rank > 2 or any(phase.other > 1 for phase in phases) else FOLD
    slabs = next((f for f in range(most, most // 2, -1) if size % f == 0), min(size, most))
    rows = size // slabs

    def part(array, starts, steps, low, high):
        begin, limit = [], []
        for i, (start, step, count) in enumerate(zip(starts, steps, counts, strict=True)):
            first, last = (low, high - 1) if i == longest else (0, count - 1)
            begin.append(start + first * step)
            limit.append(start + last * step + 1)
        bounds = (0, *begin, 0), (array.shape[0], *limit, array.shape[-1]), (1, *steps, 1)
        return lax.slice(array, *bounds).astype(call.accumulator)

    def product(low, high):
        a = part(x, [start for _, start in choice], [phase.other for phase in phases], low, high)
        b = part(g, [r for r, _ in choice], [phase.step for phase in phases], low, high)
        if inputs == outputs == 1:
            return a * b
        return grouped(a, groups).swapaxes(-1, -2)[..., None] * grouped(b, groups)[..., None, :, :]

    def summed(array):
        """Over batch and space, as a product with ones: XLA would draw all the terms above into a plain sum."""
        rows = array.reshape(-1, inputs * groups * outputs)
        ones = jnp.ones((ONES, rows.shape[0]), rows.dtype)
        return jnp.matmul(ones, rows, precision="highest", preferred_element_type=rows.dtype)[0]

    total = summed(functools.reduce(operator.add, (product(j * rows, (j + 1) * rows) for j in range(slabs))))
    if rows * slabs < size:
        total = total + summed(product(rows * slabs, size))
    return total.reshape(inputs, groups, outputs)


def kernel_grad(x, g, call: Call):
    _, inputs, outputs = _sizes(call)
    if inputs * outputs == 1:
        return _kernel_grad(x, g, call)
    result = jax.ShapeDtypeStruct(call.spec.kernel_shape, call.accumulator)
    return apart(functools.partial(_kernel_grad, call=call), result, x, g, call=call)


def _kernel_grad(x, g, call: Call):
    spec = call.spec
    phases = [axis.phases("o") for axis in spec.axes]
    x, lows = padded(x, spec.axes, "o")

    where = []  # for each axis and tap: (phase, start), or None where the tap meets nothing
    for axis, phase, low in zip(spec.axes, phases, lows, strict=True):
        found = {t: (r, start + low) for r, taps in enumerate(phase.taps) for t, start in taps if r < axis.o}
        where.append([found.get(t) for t in range(axis.k)])
    zero = jnp.zeros((spec.kernel_shape[-2], spec.feature_group_count, _sizes(call)[2]), call.accumulator)

    def written_out(x, per_axis):
        return jnp.stack([zero if None in c else _tap(x, g, c, phases, call) for c in itertools.product(*per_axis)])

    total, first = math.prod(spec.window), spec.axes[0] if spec.rank else None
    if first is None or total <= UNROLLED or first.q > 1:
        out = written_out(x, where)
    else:
        rest = total // first.k
        # Taps of the first axis in one turn of the loop: as few computations as possible in all.
        rows = min(range(max(1, UNROLLED // rest // 2), max(1, UNROLLED // rest) + 1), key=lambda r: r + first.k % r)
        turns = first.k // rows
        length = (first.o - 1) * first.s + (rows - 1) * first.d + 1
        parts = []
        if turns:

            def window(i):
                return lax.dynamic_slice_in_dim(x, i * rows * first.d, length, axis=1)

            def turn(i, state):
                # What the taps of this turn reach is carried from the turn before: a buffer, whose slices vectorise. A
                # slice at a position that is only known when it runs does not.
                part, out = state
                found = written_out(part, [[(0, j * first.d) for j in range(rows)], *where[1:]])
                return window(i + 1), lax.dynamic_update_slice_in_dim(out, found[None], i, axis=0)

            start = zeros((turns, rows * rest, *zero.shape), call.accumulator, x, g)
            _, found = lax.fori_loop(0, turns, turn, (window(0), start))
            parts.append(found.reshape(turns * rows * rest, *zero.shape))
        if turns * rows < first.k:
            parts.append(written_out(x, [where[0][turns * rows :], *where[1:]]))
        out = jnp.concatenate(parts)
    return out.reshape(spec.kernel_shape)


def supports(call: Call) -> str | None:
    _, inputs, outputs = _sizes(call)
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
    groups, inputs, outputs = _sizes(call)
    batch, taps = math.prod(spec.batch_shape), math.prod(spec.window)
    x, y = math.prod(spec.x_shape), math.prod(spec.output_shape)
    macs = spec.macs * batch
    item = call.accumulator.itemsize
    read = y if call.role == "input_grad" else x
    width = {"forward": outputs, "input_grad": inputs, "kernel_grad": max(inputs, outputs)}[call.role]
    lanes = groups if groups > 8 else groups * width
    contracted = {"forward": inputs, "input_grad": outputs, "kernel_grad": 1}[call.role]
    waste = max(1.0, 16 / lanes) * (1 if contracted == 1 else 1.5)  # one channel of several is a strided read
    if call.role == "kernel_grad":
        left = macs / FOLD
        turns = 0 if taps <= UNROLLED else max(1, spec.window[0] // max(1, UNROLLED * spec.window[0] // taps))
        kept = left * item if not turns else left * item / turns
        return Work(
            vector=4 * waste * macs,
            scalar=left * 0.5,
            bytes=2.0 * read * item * (1 + turns) + 2 * left * item,
            launches=2 * taps,
            workspace=int(1.1 * read * item * (2 if turns else 1) + 2 * kept),
        )
    pieces = math.prod(axis.phases("o" if call.role == "forward" else "p").step for axis in spec.axes)
    return Work(
        vector=waste * macs,
        bytes=(2.0 * read + (x + y - read) * (3 if pieces > 1 else 1)) * item,
        launches=2 + pieces,
        workspace=int(item * (1.25 * read + ((x + y - read) if pieces > 1 else 0))),
    )


ALGORITHM = Algorithm("shift", forward, input_grad, kernel_grad, supports, work)
