"""`pallas`: depthwise and small-group convolution on NVIDIA's GPUs, by kernels in Pallas.

Along one axis let r be a position of the result and t a tap. They meet position

    p(r, t) = (r slope + low + t dilation) / over        of the operand, where that is whole and there is one,

which is both passes: the forward one has slope s, low -lo, dilation d, over q, and the input's gradient, which is read
off the same relation p q = o s + t d - lo, has slope q, low lo, dilation -d, over s. With g = gcd(dilation, over) a
position meets no tap, or every (over / g)-th from the first one, t0(r), and these lie dilation / g apart in the
operand. So a pass gathers, without a zero and without two programs that write to one place:

    result[b, r, g, c] = sum over taps and j of  operand[b, p(r, t), g, j]  weights[t, j, g, c].

A program computes `rows` x `channels` elements of the result at a time, for each of `positions` places that lie `step`
apart. An element of the operand is read once for all places and taps of the last axis that meet it: with k taps,
positions + k - 1 reads serve positions x k multiply-adds. `step` is a multiple of over / gcd(slope, over), so that all
places meet the same taps, and the least such that they share elements. With few channels it is larger: then a program's
rows lie side by side, and are read together.

The gradient of the kernel is a sum over batch and space. Each program sums some rows in order, for some taps; there are
as many partial sums of a tap as `splits`, and one sum over them. Nothing is added by atomic operations, so a result
repeats bit for bit.

Images are read unpadded: what lies outside is masked. Sums are in float32. A sum that ends is finished with a bias and
an activation before it is rounded and written.

The Triton backend of Pallas is deprecated in jax 0.12, in favour of Mosaic's, which knows devices from Hopper on alone.
In a jax without it the kernels are refused with that reason, and another plan takes over.

A TPU's vector unit wants blocks that lie in its own memory, shifted inside of it, and not gathers: a kernel for it
would take the same `Line`s, copy the rows that a block reaches there, and roll them for each tap. Until it is written,
XLA's own convolution serves TPUs.

    Source: Pallas (https://docs.jax.dev/en/latest/pallas). That outputs share what they read in registers is the
    blocking of Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008, ACM TOMS 34(3).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from .._forecast.work import Copy, Launch, Loop, Work
from .._spec import Axis
from ._activations import activated
from .base import UNFINISHED, Algorithm, Call, Finish, grouped, sizes_of_groups

DTYPES = ("float32", "bfloat16", "float16")
CAPABILITY = 8.0  # of the device, from which on Triton compiles for it
MAX_RANK = 3
MAX_DEPTH, MAX_PAIRS = 16, 64  # channels of a group that a pass sums over; pairs of them in a kernel's gradient
MAX_ELEMENTS = 2**31 - 1  # of one array: offsets have 32 bits
WARPS, WARP = 4, 32  # of threads in a program
TAPS = 16  # of the last axis, of which the weights are held at a time
SUMS = 32  # taps whose sums a program holds in a gradient of the kernel
POSITIONS = 8  # places of one program, at most
READ, REGISTERS = 16, 96  # bytes that a thread reads at a time, and sums and weights that it holds: beyond, they spill
PROGRAMS = 1056  # that fill a large device: 8 on each of 132 multiprocessors
PARTIAL = 1 << 23  # elements of partial sums, at most


# Geometry ------------------------------------------------------------------------------------------------
class Line(NamedTuple):
    """One axis, from the side of the result, in the letters of the relation above; `n` positions of the operand."""

    size: int
    n: int
    k: int
    slope: int
    low: int
    dilation: int
    over: int

    @property
    def common(self) -> int:
        return math.gcd(self.dilation, self.over)

    @property
    def tap_step(self) -> int:
        """From one tap that a position meets to the next."""
        return self.over // self.common

    @property
    def apart(self) -> int:
        """How far these lie apart in the operand."""
        return self.dilation // self.common

    @property
    def taps(self) -> int:
        """At most so many of them."""
        return -(-self.k // self.tap_step)

    @property
    def furthest(self) -> int:
        """No number of the relation, before it is divided by `over`, is larger; blocks end beyond the last position."""
        reach = self.k * abs(self.dilation) + abs(self.low) + self.over
        return 2 * max(self.size, 1) * self.slope + reach + 2 * self.n * self.over

    @property
    def alike(self) -> int:
        """From one position to the next that meets the same taps."""
        return self.over // math.gcd(self.slope, self.over)

    def first(self, r: Any) -> tuple[Any, Any, Any]:
        """The first tap that positions meet, where it lies in the operand, and whether there is one (None: always).

        t0 solves r slope + low + t dilation = 0 modulo over: divided by g, it is -(r slope + low) / g times the inverse
        of dilation / g, modulo over / g. Integers are kept from below zero, where division would round up.
        """
        if self.over == 1:
            return 0, r * self.slope + self.low, None
        lowest = self.low + min(0, (self.k - 1) * self.dilation)
        more = max(0, -(lowest // self.over))
        number, taps, g = r * self.slope + (self.low + more * self.over), self.tap_step, self.common
        t0: Any = 0
        if taps > 1:
            inverse = -pow(self.dilation // g, -1, taps) % taps
            t0 = _rem(_rem(_div(number, g), taps) * inverse, taps)
        whole = None if g == 1 else _rem(number, g) == 0
        return t0, _div(number + t0 * self.dilation, self.over) - more, whole


def _line(axis: Axis, result: str) -> Line:
    if result == "o":
        return Line(axis.o, axis.n, axis.k, axis.s, -axis.lo, axis.d, axis.q)
    return Line(axis.n, axis.o, axis.k, axis.q, axis.lo, -axis.d, axis.s)


# Of jax.numpy's // and % not all that is for negative numbers lowers to Triton.
def _div(a: Any, b: int) -> Any:
    if isinstance(a, int):
        return a // b
    return a if b == 1 else lax.div(a, jnp.full(a.shape, b, a.dtype))


def _rem(a: Any, b: int) -> Any:
    if isinstance(a, int):
        return a % b
    return a * 0 if b == 1 else lax.rem(a, jnp.full(a.shape, b, a.dtype))


def _split(a: Any, sizes: Sequence[int]) -> list[Any]:
    """An index into an array of these sizes, as one for each of its axes."""
    found = []
    for size in reversed(sizes[1:]):
        found.append(_rem(a, size) if size > 1 else 0)
        a = _div(a, size)
    return [a, *reversed(found)]


def _joined(indices: Sequence[Any], sizes: Sequence[int]) -> Any:
    """The inverse of `_split`."""
    a = indices[0]
    for index, size in zip(indices[1:], sizes[1:], strict=True):
        a = a * size + index
    return a


def _all(*conditions: Any) -> Any:
    """All of the conditions that there are; None where there is none."""
    given = [c for c in conditions if c is not None]
    return functools.reduce(jnp.logical_and, given) if given else None


class Tiles(NamedTuple):
    """What a program computes: `rows` x `channels` elements at a time, at `positions` places of the last axis, `step`
    apart."""

    rows: int
    channels: int
    positions: int
    step: int


def _tiles(line: Line, channels: int, item: int, most: int, beside: int) -> Tiles:
    """The tiles of a pass, or of a kernel's gradient, where `line` is the forward pass's.

    `beside`: how many weights, or sums, a thread holds for each channel beside the sums, or values, of the places.
    """
    per_step = line.alike * line.slope // line.over  # positions of the operand from one place to the next
    step = line.alike * (abs(line.apart) // math.gcd(per_step, abs(line.apart)))
    width = 1 << (channels - 1).bit_length()
    if width < WARP:
        step *= WARP // width
    step = max(line.alike, min(step, line.alike * -(-line.size // line.alike)))
    if width < WARP:
        most = min(most, 2)  # nothing is shared then, and what is read for more places would not fit into registers
    places = -(-line.size // step)
    positions = -(-places // -(-places // most))
    each = READ // item  # elements of a thread
    while each > 2 and (positions + beside) * each > REGISTERS:
        each //= 2
    while width > WARP and (width > WARP * each or -(-channels // width) * width > 1.13 * channels):
        width //= 2
    return Tiles(WARPS * WARP * each // width, width, positions, step)


class Rows(NamedTuple):
    """How the rows of programs are counted: by image, by position along all axes but the last, and by place."""

    sizes: tuple[int, ...]
    tiles: Tiles

    @property
    def number(self) -> int:
        return math.prod(self.sizes)

    def blocks(self) -> int:
        """How many programs of `rows` they make."""
        return -(-self.number // self.tiles.rows)

    def at(self, block: Any, blocks: int) -> tuple[Any, list[Any], Any, Any]:
        """One of so many blocks of rows: images, positions of the other axes and of the last, and which exist."""
        index = block * self.tiles.rows + lax.iota(np.int32, self.tiles.rows)
        exist = None if self.number == blocks * self.tiles.rows else index < self.number
        image, *others, block, place = _split(index, self.sizes)
        return image, others, block * (self.tiles.positions * self.tiles.step) + place, exist


def _rows(batch: int, lines: Sequence[Line], tiles: Tiles) -> Rows:
    *others, last = (line.size for line in lines)
    blocks = -(-last // (tiles.positions * tiles.step))
    return Rows((batch, *others, blocks, tiles.step), tiles)


# Kernels -------------------------------------------------------------------------------------------------
def _load(ref: Any, row: Any, column: Any, *masks: Any) -> jax.Array:
    """Elements at row + column, [rows, 1] + [1, channels], in float32; zero where a mask of either shape says no."""
    from jax.experimental.pallas import triton

    index = row + column
    mask = _all(*masks)
    if mask is None:
        return triton.load(ref.at[index]).astype(jnp.float32)
    mask = jnp.broadcast_to(mask, index.shape)
    return triton.load(ref.at[index], mask=mask, other=np.zeros((), ref.dtype)).astype(jnp.float32)


def _store(ref: Any, row: Any, column: Any, value: jax.Array, *masks: Any) -> None:
    from jax.experimental.pallas import triton

    index = row + column
    mask = _all(*masks)
    mask = None if mask is None else jnp.broadcast_to(mask, index.shape)
    triton.store(ref.at[index], jnp.broadcast_to(value, index.shape).astype(ref.dtype), mask=mask)


def _tall(a: Any) -> Any:
    """[rows] as [rows, 1]."""
    return a[:, None] if getattr(a, "ndim", 0) == 1 else a


def _columns(block: Any, tiles: Tiles, channels: int) -> tuple[Any, Any]:
    """Channels of a block, [1, channels], and which of them exist."""
    column = (block * tiles.channels + lax.iota(np.int32, tiles.channels))[None, :]
    return column, column < channels if channels % tiles.channels else None


def _inside(position: Any, n: int) -> Any:
    return (position >= 0) & (position < n)


def _meetings(places: int, per_place: int, taps: int, per_tap: int) -> list[tuple[int, list[tuple[int, int]]]]:
    """How far from the first one each element lies that is read, and the pairs of place and tap that it serves."""
    meet: dict[int, list[tuple[int, int]]] = {}
    for place in range(places):
        for tap in range(taps):
            meet.setdefault(place * per_place + tap * per_tap, []).append((place, tap))
    return sorted(meet.items())


def _plus(total: jax.Array, product: jax.Array, mask: Any) -> jax.Array:
    """The sum, where a mask says so: what is masked may be infinite, and zero times infinity is not zero."""
    return total + (product if mask is None else jnp.where(mask, product, np.float32(0)))


def _loop(number: int, body: Callable[[Any, Any], Any], carry: Any) -> Any:
    return body(np.int32(0), carry) if number == 1 else lax.fori_loop(np.int32(0), np.int32(number), body, carry)


def _pass_kernel(
    a_ref, w_ref, *refs, lines: tuple[Line, ...], batch: int, groups: int, depth: int, width: int, tiles: Tiles,
    activation: str | None,
):  # fmt: skip
    from jax.experimental import pallas as pl

    *bias_ref, out_ref = refs
    *others, last = lines
    rows = _rows(batch, lines, tiles)
    image, r_others, r, exist = rows.at(pl.program_id(0), rows.blocks())
    column, real = _columns(pl.program_id(1), tiles, groups * width)
    group = _div(column, width)
    t_last, start, whole = last.first(r)
    firsts = [line.first(r) for line, r in zip(others, r_others, strict=True)]
    outer = [line.taps for line in others]

    def chunk(index, carry, *, number: int, at: Any):
        """Adds the products of `number` taps of the last axis, from `at` on, in one combination of the others'."""
        *indices, j = _split(index, [*outer, depth])
        rows, tap, masks, met = image, 0, [exist, whole], []
        for line, i, (t0, p0, ok) in zip(others, indices, firsts, strict=True):
            t, p = t0 + i * line.tap_step, p0 + i * line.apart
            met += [t < line.k] if line.tap_step > 1 else []  # positions differ in how many taps they meet
            masks += [ok, _inside(p, line.n)]
            rows, tap = rows * line.n + p, tap * line.k + t
        p0 = start + at * last.apart
        here, there = _tall(_all(*masks, *met)), _tall(_all(*met))
        source = group * depth + j
        weights, within = [], []
        for i in range(number):
            t = t_last + (at + i) * last.tap_step
            # A position may meet one tap less than others do.
            within.append(_tall(t < last.k) if last.tap_step > 1 else None)
            row = _tall(((tap * last.k + t) * depth + j) * (groups * width))
            weights.append(_load(w_ref, row, column, real, within[-1], there))
        sums, per_place = list(carry), tiles.step * last.slope // last.over
        for offset, pairs in _meetings(tiles.positions, per_place, number, last.apart):
            p = p0 + offset
            row = _tall((rows * last.n + p) * (groups * depth))
            value = _load(a_ref, row, source, here, _tall(_inside(p, last.n)), real)
            for place, i in pairs:
                sums[place] = _plus(sums[place], value * weights[i], within[i])
        return tuple(sums)

    sums = tuple(jnp.zeros((tiles.rows, tiles.channels), jnp.float32) for _ in range(tiles.positions))
    times, full, rest = math.prod(outer) * depth, last.taps // TAPS, last.taps % TAPS
    if full:
        every = lambda i, carry: chunk(
            _div(i, full) if full > 1 else i, carry, number=TAPS, at=_rem(i, full) * TAPS if full > 1 else 0
        )
        sums = _loop(times * full, every, sums)
    if rest:
        sums = _loop(times, functools.partial(chunk, number=rest, at=full * TAPS), sums)
    above = _joined([image, *r_others], [batch, *(line.size for line in others)])
    bias = [_load(ref, 0, column, real) for ref in bias_ref]
    for place, total in enumerate(sums):
        position = r + place * tiles.step
        row = _tall((above * last.size + position) * (groups * width))
        value = activated(total + bias[0] if bias else total, activation)
        _store(out_ref, row, column, value, _tall(_all(exist, position < last.size)), real)


def _kernel_grad_kernel(
    x_ref, g_ref, out_ref, *, lines: tuple[Line, ...], batch: int, groups: int, inputs: int, outputs: int, tiles: Tiles,
    taps: int, combinations: int, splits: int, turns: int,
):  # fmt: skip
    """Sums of products for `taps` taps of the last axis in `combinations` of the others', one channel of a group."""
    from jax.experimental import pallas as pl

    *others, last = lines
    chunks, windows = -(-last.k // taps), math.prod(line.k for line in others)
    column, real = _columns(pl.program_id(1), tiles, groups * outputs)
    combination, at, i = _split(pl.program_id(0), [-(-windows // combinations), chunks, inputs])
    combination, at = combination * combinations, at * taps
    source = _div(column, outputs) * inputs + i
    rows, split = _rows(batch, lines, tiles), pl.program_id(2)
    exact = last.size % (tiles.positions * tiles.step) == 0

    def where(line: Line, number: Any) -> tuple[Any, Any]:
        """The operand's position at a number of the relation, and whether there is one."""
        if line.over == 1:
            return number, _inside(number, line.n)
        position = _div(number, line.over)
        return position, (number >= 0) & (_rem(number, line.over) == 0) & (position < line.n)

    def turn(step, carry):
        image, r_others, r, exist = rows.at(split * turns + step, splits * turns)
        above = _joined([image, *r_others], [batch, *(line.size for line in others)])
        values, within = [], []
        for place in range(tiles.positions):
            position = r + place * tiles.step
            # A place beyond the last one has no share, whatever x is there.
            within.append(None if exact else _tall(position < last.size))
            row = _tall((above * last.size + position) * (groups * outputs))
            values.append(_load(g_ref, row, column, _tall(exist), within[-1], real))
        sums, met = list(carry), _meetings(tiles.positions, tiles.step * last.slope, taps, last.dilation)
        for c in range(combinations):
            above, masks = image, [exist]
            choice = _split(combination + c, [line.k for line in others]) if others else []
            for line, t, position in zip(others, choice, r_others, strict=True):
                p, there = where(line, position * line.slope + line.low + t * line.dilation)
                above, masks = above * line.n + p, [*masks, there]
            for offset, pairs in met:
                p, there = where(last, r * last.slope + last.low + at * last.dilation + offset)
                row = _tall((above * last.n + p) * (groups * inputs))
                x = _load(x_ref, row, source, _tall(_all(there, *masks)), real)
                for place, tap in pairs:
                    sums[c * taps + tap] = _plus(sums[c * taps + tap], x * values[place], within[place])
        return tuple(sums)

    zero = jnp.zeros((tiles.rows, tiles.channels), jnp.float32)
    sums = _loop(turns, turn, (zero,) * (taps * combinations))
    for c in range(combinations):
        for tap in range(taps):
            t = (combination + c) * last.k + at + tap
            row = (split * (windows * last.k) + t) * (inputs * groups * outputs) + i * (groups * outputs)
            there = None if last.k % taps == 0 else jnp.full((1, 1), at + tap < last.k)
            if windows % combinations:
                there = _all(there, jnp.full((1, 1), combination + c < windows))
            _store(out_ref, row, column, jnp.sum(sums[c * taps + tap], axis=0, keepdims=True), there, real)


def _call(kernel: Callable, grid: tuple[int, ...], shape: tuple[int, ...], dtype: Any, *operands, interpret: bool):
    """Runs a kernel over flat arrays, whole ones that it reads where it likes."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    # Of jax 0.12 on, where it is lowered, which is after this; the filter stays, and leaves this one message out.
    warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
    varying = jax.typeof(operands[0]).mat
    out = jax.ShapeDtypeStruct((math.prod(shape),), dtype, manual_axis_type=varying)
    run = pl.pallas_call(
        kernel, out, grid=grid, interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=2),
    )  # fmt: skip
    return run(*(operand.reshape(-1) for operand in operands)).reshape(shape)


# The three roles -----------------------------------------------------------------------------------------
def _lines(call: Call) -> tuple[Line, ...]:
    return tuple(_line(axis, "p" if call.role == "input_grad" else "o") for axis in call.spec.axes)


def _sums(call: Call) -> tuple[int, int]:
    """Of how many taps of the last axis, in how many combinations of the others', a program holds the sums."""
    *others, last = call.spec.window
    windows = math.prod(others)
    taps = -(-last // -(-last // TAPS))
    combinations = max(1, min(windows, SUMS // taps))
    return taps, -(-windows // -(-windows // combinations))


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The roles by kernels of at most so many places a program; interpreted ones run anywhere, slowly, for tests."""

    positions: int = POSITIONS
    interpret: bool = False

    def tiles(self, call: Call) -> Tiles:
        groups, inputs, outputs = sizes_of_groups(call)
        width = inputs if call.role == "input_grad" else outputs
        line = _lines(call)[-1]
        beside = math.prod(_sums(call)) if call.role == "kernel_grad" else min(line.taps, TAPS)
        return _tiles(line, groups * width, call.dtype.itemsize, self.positions, beside)

    def _pass(self, a, weights, depth: int, width: int, call: Call, finish: Finish = UNFINISHED) -> jax.Array:
        spec, lines, tiles = call.spec, _lines(call), self.tiles(call)
        batch, groups = spec.batch_shape[0], spec.feature_group_count
        rows = _rows(batch, lines, tiles)
        grid = (rows.blocks(), -(-groups * width // tiles.channels))
        kernel = functools.partial(
            _pass_kernel, lines=lines, batch=batch, groups=groups, depth=depth, width=width, tiles=tiles,
            activation=finish.activation,
        )  # fmt: skip
        operands = (a, weights) if finish.bias is None else (a, weights, finish.bias)
        shape = (batch, *(line.size for line in lines), groups * width)
        return _call(kernel, grid, shape, call.out_dtype, *operands, interpret=self.interpret)

    def forward(self, x, kernel, call: Call) -> jax.Array:
        return self.finished(x, kernel, call, UNFINISHED)

    def finished(self, x, kernel, call: Call, finish: Finish) -> jax.Array:
        _, inputs, outputs = sizes_of_groups(call)
        return self._pass(x, kernel, inputs, outputs, call, finish)

    def input_grad(self, g, kernel, call: Call) -> jax.Array:
        groups, inputs, outputs = sizes_of_groups(call)
        weights = jnp.swapaxes(grouped(kernel, groups), -1, -3)  # [*window, c, g, i]
        return self._pass(g, weights, outputs, inputs, call)

    def kernel_grad(self, x, g, call: Call) -> jax.Array:
        spec, lines, tiles = call.spec, _lines(call), self.tiles(call)
        groups, inputs, outputs = sizes_of_groups(call)
        window, batch = spec.window, spec.batch_shape[0]
        taps, combinations = _sums(call)
        windows = math.prod(window[:-1])
        columns = -(-groups * outputs // tiles.channels)
        parts = inputs * -(-windows // combinations) * -(-window[-1] // taps)
        blocks = _rows(batch, lines, tiles).blocks()
        most = max(1, min(PROGRAMS // (parts * columns), PARTIAL // math.prod(spec.kernel_shape), blocks))
        turns = -(-blocks // most)
        splits = -(-blocks // turns)
        kernel = functools.partial(
            _kernel_grad_kernel, lines=lines, batch=batch, groups=groups, inputs=inputs, outputs=outputs, tiles=tiles,
            taps=taps, combinations=combinations, splits=splits, turns=turns,
        )  # fmt: skip
        shape = (splits, *spec.kernel_shape)
        sums = _call(kernel, (parts, columns, splits), shape, np.float32, x, g, interpret=self.interpret)
        return jnp.sum(sums, axis=0)

    def supports(self, call: Call) -> str | None:
        spec = call.spec
        if not self.interpret and call.platform not in (None, "cuda"):
            return f"pallas kernels run on NVIDIA's GPUs, not on {call.platform}"
        if not self.interpret and call.platform == "cuda" and (why := _unknown_to_triton()):
            return why
        if call.dtype.name not in DTYPES or call.out_dtype.name not in DTYPES:
            return f"pallas takes {', '.join(DTYPES)}, not {call.dtype} with a result of {call.out_dtype}"
        if not 1 <= spec.rank <= MAX_RANK:
            return f"pallas takes one to {MAX_RANK} spatial axes, here are {spec.rank}"
        if not all(isinstance(n, int) for n in spec.x_shape):
            return "pallas takes numbers for shapes, not symbols"
        _, inputs, outputs = sizes_of_groups(call)
        if call.role == "kernel_grad" and inputs * outputs > MAX_PAIRS:
            return f"pallas takes at most {MAX_PAIRS} pairs of channels of a group, here are {inputs} times {outputs}"
        depth = {"forward": inputs, "input_grad": outputs, "kernel_grad": 1}[call.role]
        if depth > MAX_DEPTH:
            return f"pallas sums over at most {MAX_DEPTH} channels of a group, here are {depth}"
        largest = max(math.prod(shape) for shape in (spec.x_shape, spec.kernel_shape, spec.output_shape))
        if largest > MAX_ELEMENTS:
            return f"pallas takes arrays of at most {MAX_ELEMENTS} elements, one here has {largest}"
        furthest = max(line.furthest for line in _lines(call))
        if furthest > MAX_ELEMENTS:
            return (
                f"pallas counts positions in 32 bits, up to {MAX_ELEMENTS}; here strides and dilations reach {furthest}"
            )
        if not self.interpret and self.positions != POSITIONS and self.tiles(call) == Kernels().tiles(call):
            return f"at most {self.positions} places a program are what pallas takes here too"
        return None

    def work(self, call: Call) -> Work:
        """Each operand and result once; and reads of what lies near, which long windows wait for."""
        spec, places = call.spec, self.tiles(call).positions
        if call.role == "kernel_grad":
            taps, windows = _sums(call)
            reads = places + windows * (places + taps - 1)
        else:
            taps, windows = min(_lines(call)[-1].taps, TAPS), 1
            reads = places + taps - 1 + taps
        products = spec.macs * math.prod(spec.batch_shape) / math.prod(spec.input_dilation)
        sizes = sum(math.prod(shape) for shape in (spec.x_shape, spec.kernel_shape, spec.output_shape))
        return Work((
            Copy(sizes * call.dtype.itemsize, kind="pallas"),
            Loop(products * reads / (places * windows * taps), kind="pallas"),
            Launch(1, "pallas"),
        ))  # fmt: skip

    def algorithm(self, name: str) -> Algorithm:
        """The algorithm of a name."""
        variant = self.positions != POSITIONS
        about = f"`pallas` with at most {self.positions} places a program, for `tune` to try" if variant else ""
        return Algorithm(
            name, self.forward, self.input_grad, self.kernel_grad, self.supports, self.work, self.finished,
            portable=False, variant=variant, description=about,
        )  # fmt: skip


@functools.cache
def _unknown_to_triton() -> str | None:
    """Why the devices of this process cannot run the kernels; a process without a GPU compiles them for others."""
    try:
        from jax.experimental.pallas import triton  # noqa: F401
    except ImportError as error:
        return f"this jax has no Triton ({error})"
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:
        devices = []
    for device in devices:
        found = getattr(device, "compute_capability", None)
        if found is not None and float(found) < CAPABILITY:
            return f"Triton compiles for compute capability {CAPABILITY} and above, {device.device_kind} has {found}"
    return None


ALGORITHMS = (
    Kernels().algorithm("pallas"),
    Kernels(positions=16).algorithm("pallas16"),
    Kernels(positions=2).algorithm("pallas2"),
)
