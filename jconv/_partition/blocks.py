"""One spatial axis over several devices: which rows each of them holds, and which ones it fetches. No arrays.

n rows lie in blocks of B = ceil(n / N) over N devices, and the o outputs in blocks of C = ceil(o / N). Row p and tap t
belong to output j where p q = j s + t d - lo. Say that a device computes its own outputs from rows that it fetches.
With u = q / gcd(s, q), outputs that lie u apart see rows at the same distance from them, so device r computes from

    a(r) = u floor(r C / u)    a number E >= C of outputs, that block among them,

and j = a(r) + j', p = f(r) + p' with f(r) = a(r) s / q + floor(-lo / q) gives p' q = j' s + t d - lo', where

    lo' = -((-lo) mod q),

the same convolution on all devices, from W = floor(((E - 1) s + (k - 1) d - lo') / q) + 1 rows. Without input dilation
u = 1, E = C, lo' = 0 and f(r) = r C s - lo. Where C s = q B, f(r) moves with the block, and W - B rows come from other
devices, without dilation (k - 1) d + 1 - s. Elsewhere f(r) drifts away from it, and the rows come from farther.

The relation reads the same from the other side (`exchanged`): each device computes what belongs to its own rows from
outputs that it fetches. What is fetched in one role is added to in another: the map from blocks to windows F is linear,

    T(x, k, y) = sum over r of T'(F_r x, k, M_r y),

where M_r takes the device's own outputs, so forward is M^T forward'(F x, k), the input gradient
F^T input_grad'(M g, k), and the kernel gradient the sum over devices of kernel_grad'(F x, M g).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from .._padding import source
from .._spec import Axis, span


def exchanged(axis: Axis) -> Axis:
    """The axis seen from the other side: its outputs as rows, and its rows as outputs; taps run backwards."""
    low, high = axis.input_grad_padding
    return Axis(axis.o, axis.k, axis.q, low, high, axis.s, axis.d)


class Piece(NamedTuple):
    """Rows `first` to `last` of the block of device r + hop, which r fetches; all that any device needs."""

    hop: int
    first: int
    last: int


class Edge(NamedTuple):
    """Rows of the block of device `giver` that stand beyond the image in the window of device `rank`, from row `at` on.

    `rows` of them: from row `first` on, `step` (1, -1 or 0) apart.
    """

    giver: int
    rank: int
    first: int
    step: int
    rows: int
    at: int


class Blocks(NamedTuple):
    """How `devices` fetch rows for the outputs of their blocks."""

    devices: int
    size: int  # rows in all
    block: int  # rows of one device
    window: int  # rows that it computes from
    starts: tuple[int, ...]  # where they begin, by device, counted from its block's beginning
    pieces: tuple[Piece, ...]  # where they come from, in order; one with hop 0 is the device's own
    outputs: int  # in all
    own: int  # outputs of one device
    extent: int  # that it computes
    shifts: tuple[int, ...]  # where its own begin among those, by device
    local: Axis  # the convolution that each of them computes
    edges: tuple[Edge, ...] = ()  # what pads the image other than by zeros
    ring: bool = False  # whether the last device's block is followed by the first one's

    def start(self, rank: Any) -> Any:
        """`starts` of a device whose rank is known when the program runs."""
        unit = self.local.q // math.gcd(self.local.s, self.local.q)
        first = rank * self.own // unit * unit
        return first * self.local.s // self.local.q + self.starts[0] - rank * self.block

    def shift(self, rank: Any) -> Any:
        """`shifts` of such a device."""
        unit = self.local.q // math.gcd(self.local.s, self.local.q)
        return rank * self.own % unit

    @property
    def low(self) -> int:
        """How many rows before its own the farthest fetched one lies."""
        return max(0, -min(self.starts))

    @property
    def high(self) -> int:
        """How many rows beyond its own the farthest fetched one lies."""
        return max(0, max(self.starts) + self.window - self.block)

    @property
    def moved(self) -> int:
        """Rows that come from other devices."""
        inner = sum(piece.last - piece.first for piece in self.pieces if piece.hop % self.devices)
        return inner + sum(edge.rows if edge.step else 1 for edge in self.edges if edge.giver != edge.rank)


@functools.lru_cache(maxsize=4096)
def blocks(axis: Axis, devices: int, mode: str = "zeros") -> Blocks:
    """Each device computes its block of outputs, from rows that it fetches; `mode` is what pads the axis."""
    n, k, s, lo, hi, q, d = axis
    block, own = -(-n // devices), -(-axis.o // devices)
    unit = q // math.gcd(s, q)
    aligned = [rank * own // unit * unit for rank in range(devices)]
    shifts = tuple(rank * own - first for rank, first in enumerate(aligned))
    extent = own + max(shifts)
    crop = -lo % q
    window = ((extent - 1) * s + (k - 1) * d + crop) // q + 1
    firsts = [first * s // q + (-lo) // q for first in aligned]
    busy = [rank * own < axis.o for rank in range(devices)]  # the last ones may have no output
    starts = tuple(first - rank * block if busy[rank] else firsts[0] for rank, first in enumerate(firsts))
    high = (extent - 1) * s + span(k, d) - span(window, q) + crop
    local = Axis(window, k, s, -crop, high, q, d)
    ring = mode == "circular" and n == block * devices
    begin, end = (-max(lo, 0), n + max(hi, 0)) if ring else (0, n)
    needed: dict[int, tuple[int, int]] = {}
    edges: list[Edge] = []
    for rank in range(devices):
        if not busy[rank]:
            continue
        origin = rank * block
        first, last = max(starts[rank], begin - origin), min(starts[rank] + window, end - origin)
        for hop in range(first // block, -(-last // block)):
            low, top = needed.get(hop, (block, 0))
            needed[hop] = min(low, max(first - hop * block, 0)), max(top, min(last - hop * block, block))
        if mode != "zeros" and not ring:
            beyond = [*range(-max(lo, 0), 0), *range(n, n + max(hi, 0))]
            for p in beyond:
                if 0 <= p - origin - starts[rank] < window:
                    giver, row = divmod(source(mode, n, p), block)
                    edges = _extended(edges, Edge(giver, rank, row, 0, 1, p - origin - starts[rank]))
    pieces = tuple(Piece(hop, *needed[hop]) for hop in sorted(needed))
    return Blocks(devices, n, block, window, starts, pieces, axis.o, own, extent, shifts, local, tuple(edges), ring)


def _extended(edges: list[Edge], more: Edge) -> list[Edge]:
    """Edges with one more row: of the last one, where it goes on with that."""
    if not edges:
        return [more]
    *rest, last = edges
    step = more.first - last.first if last.rows == 1 else last.step
    goes_on = more.first == last.first + step * last.rows and more.at == last.at + last.rows and abs(step) < 2
    if goes_on and (more.giver, more.rank) == (last.giver, last.rank):
        return [*rest, last._replace(step=step, rows=last.rows + 1)]
    return [*edges, more]
