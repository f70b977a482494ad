"""What the algorithms over taps share: slices of one operand, one for each tap, for each phase of the result."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax
from jax import lax
from jax import numpy as jnp

from .._spec import Axis
from .base import pad

Terms = list[tuple[tuple[int, ...], jax.Array]]  # (tap of each axis, the operand's elements that it meets)


def padded(a: jax.Array, axes: Sequence[Axis], result: str) -> tuple[jax.Array, list[int]]:
    """`a` with zeros where taps reach beyond it, and cut where none reaches; and how far each axis moved."""
    ends = []
    for axis in axes:
        phase = axis.phases(result)
        starts = [start for taps in phase.taps for _, start in taps] or [0]
        size = axis.n if result == "o" else axis.o
        ends.append((-min(starts), max(starts) + (phase.length - 1) * phase.other + 1 - size))
    return pad(a, 1, *ends), [low for low, _ in ends]


def shifted(a: jax.Array, axes: Sequence[Axis], result: str) -> tuple[list[Terms], list[tuple[int, ...]]]:
    """For each phase of the result: its taps with the slices of `a` that they meet, and the phase's offsets.

    `a` is [batch, *spatial, channels]; every slice is [batch, *counts, channels].
    """
    phases = [axis.phases(result) for axis in axes]
    a, lows = padded(a, axes, result)
    terms, offsets = [], []
    for offset in itertools.product(*(range(phase.step) for phase in phases)):
        here: Terms = []
        for choice in itertools.product(*(phase.taps[r] for phase, r in zip(phases, offset, strict=True))):
            begin = [start + low for (_, start), low in zip(choice, lows, strict=True)]
            limit = [b + (p.length - 1) * p.other + 1 for b, p in zip(begin, phases, strict=True)]
            steps = (1, *(p.other for p in phases), 1)
            part = lax.slice(a, (0, *begin, 0), (a.shape[0], *limit, a.shape[-1]), steps)
            here.append((tuple(t for t, _ in choice), part))
        terms.append(here)
        offsets.append(offset)
    return terms, offsets


def gather(a: jax.Array, axes: Sequence[Axis], result: str, channels: int, dtype, combine: Callable) -> jax.Array:
    """The result whose phases are `combine(terms)`, interleaved; a phase that no tap meets is zero."""
    phases = [axis.phases(result) for axis in axes]
    counts = tuple(phase.length for phase in phases)
    terms, _ = shifted(a, axes, result)
    zeros = jnp.zeros((a.shape[0], *counts, channels), dtype)
    parts = [combine(here) if here else zeros for here in terms]
    steps, rank = [phase.step for phase in phases], len(phases)
    if len(parts) == 1:
        out = parts[0]
    else:
        out = jnp.stack(parts).reshape(*steps, a.shape[0], *counts, channels)
        order = [rank, *(j for i in range(rank) for j in (rank + 1 + i, i)), 2 * rank + 1]
        out = out.transpose(order).reshape(a.shape[0], *(c * s for c, s in zip(counts, steps, strict=True)), channels)
    for i, axis in enumerate(axes):
        size = axis.o if result == "o" else axis.n
        out = lax.slice_in_dim(out, 0, size, axis=1 + i)
    return out
