"""`matmul`: matrix products over the channels, a few images at a time.

For the outputs of one phase (`jconv._spec.Axis.phases`) let column (t, i) of the matrix P hold the slice of x that tap
t meets. Then, with the kernel's taps in the same order,

    y = P k,        k_bar = P^T y_bar,

and x_bar is the first of these with x and y exchanged. `einsum` does the same with the whole image's patches; here the
patches of only as many images as fit `BLOCK` bytes exist at a time, which keeps them in the cache, and in memory that
the allocator reuses instead of giving it back to the system with every call.

The kernel's gradient contracts over batch and space, a long sum for a small result. The product is written with the
operand of fewer channels first, because the library packs the second one once.

    Source: the patch-matrix method of Chellapilla, Puri and Simard, "High performance convolutional neural networks for
    document processing", 2006; blocking it for the cache as in Goto and van de Geijn, "Anatomy of high-performance
    matrix multiplication", 2008.
"""

from __future__ import annotations

import functools
import itertools
import math

import jax
from jax import lax
from jax import numpy as jnp

from .._forecast.work import Copy, Launch, Product, Step, Work
from .._spec import ConvSpec
from ._gather import gather, shifted
from .base import (
    Algorithm,
    Call,
    block_bytes,
    divisor,
    einsum,
    grouped,
    map_blocks,
    sum_blocks,
)

BLOCK = 12 << 20  # bytes of patches at a time on a CPU, which its cache holds
MAX_TERMS = 128


def _is_pointwise(spec: ConvSpec) -> bool:
    """Whether the patches are the image itself."""
    return spec.feature_group_count == 1 and all(a.k == a.s == a.q == 1 and a.lo == a.hi == 0 for a in spec.axes)


def _blocks(call: Call) -> int:
    """Images in one block, 0 for all of a symbolic batch."""
    spec = call.spec
    batch = spec.batch_shape[0]
    if not isinstance(batch, int):
        return 0
    if _is_pointwise(spec):
        return batch
    return divisor(batch, block_bytes(call, BLOCK) / max(1, _patch_bytes(call)))


def _group_blocks(call: Call) -> int:
    """Into how many parts the groups of the kernel's gradient are divided: one image's patches may be too many."""
    groups = call.spec.feature_group_count
    return groups // divisor(
        groups, block_bytes(call, BLOCK) * groups / max(1, _patch_bytes(call) * max(1, _blocks(call)))
    )


def _patch_bytes(call: Call) -> int:
    """Patches of one image."""
    spec = call.spec
    taps = math.prod(spec.window)
    space, channels = (
        (spec.spatial, spec.out_features) if call.role == "input_grad" else (spec.output_spatial, spec.in_features)
    )
    steps = math.prod(axis.phases("p" if call.role == "input_grad" else "o").step for axis in spec.axes)
    return math.prod(space) * max(1, taps // steps) * channels * call.dtype.itemsize


def _product(terms, weights, groups: int, call: Call):
    """P k for the slices of one phase; `weights` is [*window, j, (g, l)]."""
    stacked = [weights[tap] for tap, _ in terms]
    if groups == 1:
        columns = jnp.concatenate([part for _, part in terms], -1) if len(terms) > 1 else terms[0][1]
        return einsum("...j,jl->...l", columns, jnp.concatenate(stacked, 0), call)
    columns = jnp.concatenate([grouped(part, groups) for _, part in terms], -1)
    kernel = grouped(jnp.concatenate(stacked, 0), groups)
    out = einsum("...gj,jgl->...gl", columns, kernel, call)
    return out.reshape(*out.shape[:-2], -1)


def forward(x, kernel, call: Call):
    spec = call.spec

    def block(x):
        combine = functools.partial(_product, weights=kernel, groups=spec.feature_group_count, call=call)
        return gather(x, spec.axes, "o", spec.out_features, call.accumulator, combine)

    return map_blocks(block, x, _blocks(call))


def input_grad(g, kernel, call: Call):
    spec = call.spec
    groups = spec.feature_group_count
    kernel = jnp.swapaxes(grouped(kernel, groups), -1, -3)  # [*window, c, g, i]
    kernel = kernel.reshape(*kernel.shape[:-2], spec.in_features)

    def block(g):
        combine = functools.partial(_product, weights=kernel, groups=groups, call=call)
        return gather(g, spec.axes, "p", spec.in_features, call.accumulator, combine)

    return map_blocks(block, g, _blocks(call))


def _first(a, groups: int):
    """Groups as the outermost part of the batch: [b, *spatial, (g, c)] to [(g, b), *spatial, c]."""
    if groups == 1:
        return a
    a = jnp.moveaxis(grouped(a, groups), -2, 0)
    return a.reshape(-1, *a.shape[2:])


def _transposed_product(p, y, groups: int, call: Call):
    """P^T y of every group, [columns, groups, outputs]."""
    p, y = (v.reshape(groups, -1, v.shape[-1]) for v in (p, y))
    if p.shape[-1] >= y.shape[-1]:
        return einsum("gnc,gni->gci", y, p, call).transpose(2, 0, 1)
    return einsum("gni,gnc->gic", p, y, call).transpose(1, 0, 2)


def kernel_grad(x, g, call: Call):
    spec = call.spec
    groups, rank, parts = spec.feature_group_count, spec.rank, _group_blocks(call)
    steps = [axis.phases("o").step for axis in spec.axes]
    shape = (math.prod(spec.window), *spec.kernel_shape[-2:])

    def block(x, g):
        """The taps' gradients, summed over a block of images; of as many groups at a time as fit a block."""
        x, g = _first(x, groups), _first(g, groups)
        if parts == 1:
            return taps_of(x, g)
        found = lax.map(lambda pair: taps_of(*pair), tuple(v.reshape(parts, -1, *v.shape[1:]) for v in (x, g)))
        return jnp.moveaxis(found, 0, -2).reshape(shape)

    def taps_of(x, g):
        rows: dict[tuple[int, ...], jax.Array] = {}
        for terms, offset in zip(*shifted(x, spec.axes, "o"), strict=True):
            if any(r >= axis.o for r, axis in zip(offset, spec.axes, strict=True)):
                continue  # a phase beyond the last output
            part = g
            for i, (r, step) in enumerate(zip(offset, steps, strict=True)):
                part = lax.slice_in_dim(part, r, part.shape[1 + i], step, axis=1 + i)
            for _, same in itertools.groupby(terms, key=lambda term: term[0][:1]):  # one row of the window at a time
                taps, slices = zip(*same, strict=True)
                counts = (slice(None), *(slice(0, n) for n in part.shape[1 : 1 + rank]))
                slices = [s[counts] for s in slices]
                columns = jnp.concatenate(slices, -1) if len(slices) > 1 else slices[0]
                found = _transposed_product(columns, part, groups // parts, call)
                found = found.reshape(len(taps), shape[1], shape[2] // parts)
                rows.update({tap: found[j] for j, tap in enumerate(taps)})
        zero = jnp.zeros((shape[1], shape[2] // parts), call.accumulator)
        return jnp.stack([rows.get(tap, zero) for tap in itertools.product(*map(range, spec.window))])

    out = sum_blocks(block, x, g, _blocks(call), jax.ShapeDtypeStruct(shape, call.accumulator))
    return out.reshape(spec.kernel_shape)


def supports(call: Call) -> str | None:
    taps = math.prod(call.spec.window)
    if taps > MAX_TERMS:
        return f"matmul writes out one slice a tap, for at most {MAX_TERMS} taps; the window has {taps}"
    return None


def work(call: Call) -> Work:
    spec = call.spec
    groups = spec.feature_group_count
    batch, taps = math.prod(spec.batch_shape), math.prod(spec.window)
    x, y = math.prod(spec.x_shape), math.prod(spec.output_shape)
    inputs, outputs = spec.in_features // groups, spec.out_features // groups
    item = call.dtype.itemsize
    images = max(1, _blocks(call))
    blocks = -(-batch // images)
    patches = _patch_bytes(call)
    role = "p" if call.role == "input_grad" else "o"
    phases = math.prod(axis.phases(role).step for axis in spec.axes)
    read, written = (y, x) if call.role == "input_grad" else (x, y)
    kernel = math.prod(spec.kernel_shape) * item
    batched = " batched" if groups > 1 else ""
    if call.role == "kernel_grad":
        lines = spec.window[0] if spec.rank else 1
        rows = taps * inputs / lines / phases
        count = groups * batch / images * taps * inputs / rows
        product = Product(rows, math.prod(spec.output_spatial) * images, outputs, count, f"long{batched}")
        launches = Launch(blocks * (1 + phases * lines), "matmul")
        workspace = 1.1 * patches * images / _group_blocks(call) / lines + read * item / blocks + 2 * kernel
    else:
        depth, width = (outputs, inputs) if call.role == "input_grad" else (inputs, outputs)
        space = math.prod(spec.spatial if call.role == "input_grad" else spec.output_spatial)
        rows = max(1, space / phases) * images
        product = Product(
            rows, max(1.0, depth * taps / phases), width, groups * blocks * phases, batched.strip() or "plain"
        )
        launches = Launch(blocks * (1 + phases), "matmul")
        workspace = 1.1 * patches * images + read * item / blocks + (kernel if taps > 1 else 0)
        workspace += written * item if phases > 1 else 0
    if _is_pointwise(spec):
        return Work((product, launches))
    steps: list[Step] = [product, launches]
    channels = spec.out_features if call.role == "input_grad" else spec.in_features
    steps.append(Copy(patches * batch, patches * batch / item / channels * groups, f"matmul{batched}"))
    if phases > 1:
        steps.append(Copy(written * item, written / (inputs if call.role == "input_grad" else outputs), "phases"))
    if groups > 1:  # groups are brought to the front of the image, or of its patches
        steps.append(Copy((x + y) * item, (x / inputs + y / outputs), "groups"))
        workspace += (x + y) * item / blocks
    return Work(tuple(steps), workspace=int(workspace))


ALGORITHM = Algorithm("matmul", forward, input_grad, kernel_grad, supports, work)
