"""The geometry of one convolution: shapes, sizes and counts. It touches no arrays.

A convolution along one spatial axis is fixed by the image length ``n``, the window length ``k``, the
stride ``s``, the pads ``lo`` and ``hi``, the input dilation ``q`` and the kernel dilation ``d``. Output
position ``o`` and tap ``t`` meet input position ``p`` where

    p * q = o * s + t * d - lo,        0 <= p < n,

and the output has ``floor((span(n, q) + lo + hi - span(k, d)) / s) + 1`` positions, where
``span(n, q) = (n - 1) * q + 1`` is the length of ``n`` points that lie ``q`` apart. Everything in this file
follows from that one relation, and so do the three roles that `jconv._primitive` derives from it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex, cast

from ._names import named
from ._names import nearest as nearest

AxisPadding = str | int | tuple[int, int]
Padding = str | int | Sequence[str | int | Sequence[int]]

PADDINGS = ("SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def span(size: int, dilation: int) -> int:
    """Length of ``size`` points that lie ``dilation`` apart (no points span nothing)."""
    return (size - 1) * dilation + 1 if size > 0 else 0


def is_sequence(value: Any) -> bool:
    """Whether a value has entries: a list or an array, and no array without axes."""
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) != 0


def sequence(value: Any, name: str, what: str = "integers, one for each spatial axis") -> tuple:
    """``value`` as a tuple; ValueError in the name of ``name`` where it has no entries."""
    if not is_sequence(value) or isinstance(value, str):
        raise ValueError(f"{name}: got {value!r}, accepted is a sequence of {what}.")
    return tuple(value)


def integer(value: Any, name: str, *, minimum: int | None = None) -> int:
    """``value`` as an int; ValueError in the name of ``name`` where it is none, or too small."""
    if not isinstance(value, bool):
        try:
            value = operator.index(cast(SupportsIndex, value))
            if minimum is None or value >= minimum:
                return value
        except TypeError:
            pass
    bound = "" if minimum is None else f" of at least {minimum}"
    raise ValueError(f"{name}: got {value!r}, accepted is an integer{bound}.")


def per_axis(value: int | Sequence[int], rank: int, name: str, *, minimum: int = 1) -> tuple[int, ...]:
    """``value`` as one integer for each of ``rank`` spatial axes; raises ValueError in the name of ``name``."""
    if not is_sequence(value):
        return (integer(value, name, minimum=minimum),) * rank
    values = tuple(cast(Sequence[int], value))
    if len(values) != rank:
        raise ValueError(
            f"{name}: got {values!r} of length {len(values)}, accepted is one integer or {rank} of them, "
            f"one for each spatial axis (the kernel has {rank})."
        )
    return tuple(integer(v, f"{name}[{i}]", minimum=minimum) for i, v in enumerate(values))


def padding_per_axis(padding: Padding, rank: int) -> tuple[AxisPadding, ...]:
    """``padding`` spelled out for each spatial axis, names not yet turned into numbers.

    ``"CAUSAL"`` for a whole image means: causal along the last spatial axis, ``"SAME"`` along the others.
    """
    if isinstance(padding, str):
        name = _padding_name(padding)
        if name == "CAUSAL" and rank > 1:
            return ("SAME",) * (rank - 1) + (name,)
        return (name,) * rank
    if not is_sequence(padding):
        return (_axis_padding(padding, "padding"),) * rank
    entries = tuple(cast(Sequence[Any], padding))
    if len(entries) != rank:
        hint = ""
        if rank == 1 and len(entries) == 2:
            hint = f" For one spatial axis, a low and a high pad are written [{entries!r}]."
        raise ValueError(
            f"padding: got {entries!r} of length {len(entries)}, accepted is a name, an integer, or {rank} "
            f"entries, one for each spatial axis, each a name, an integer or a pair (low, high).{hint}"
        )
    return tuple(_axis_padding(entry, f"padding[{i}]") for i, entry in enumerate(entries))


def _padding_name(name: str) -> str:
    upper = name.upper()
    if upper not in PADDINGS:
        raise ValueError(f"padding: got {name!r}, {nearest(name, PADDINGS)}")
    return upper


def _axis_padding(entry: Any, name: str) -> AxisPadding:
    if isinstance(entry, str):
        return _padding_name(entry)
    if is_sequence(entry):
        pair = tuple(entry)
        if len(pair) != 2:
            raise ValueError(f"{name}: got {pair!r}, accepted is a name, an integer or a pair (low, high).")
        return (integer(pair[0], name), integer(pair[1], name))
    try:
        return integer(entry, name)
    except ValueError:
        raise ValueError(
            f"{name}: got {entry!r}, accepted is one of {', '.join(map(repr, PADDINGS))}, an integer or pairs."
        ) from None


def resolve_padding(entry: AxisPadding, size: int, window: int, stride: int) -> tuple[int, int]:
    """The two pads of one axis, for an image that spans ``size`` and a window that spans ``window``."""
    if isinstance(entry, tuple):
        return entry
    if not isinstance(entry, str):
        return (entry, entry)
    if entry == "VALID":
        return (0, 0)
    if entry == "FULL":
        return (window - 1, window - 1)
    if entry == "CAUSAL":
        return (window - 1, 0)
    total = max((-(-size // stride) - 1) * stride + window - size, 0)  # SAME: ceil(size / stride) outputs
    low = total // 2
    return (total - low, low) if entry == "SAME_LOWER" else (low, total - low)


def padding_mode_per_axis(mode: str | Sequence[str], rank: int) -> tuple[str, ...]:
    """``padding_mode`` spelled out for each spatial axis."""
    what = "names, one for each spatial axis, or one name"
    modes = (mode,) * rank if isinstance(mode, str) else sequence(mode, "padding_mode", what)
    if len(modes) != rank:
        raise ValueError(
            f"padding_mode: got {modes!r} of length {len(modes)}, accepted is one name or {rank} of them, "
            "one for each spatial axis."
        )
    for m in modes:
        if m not in PADDING_MODES:
            raise ValueError(f"padding_mode: got {m!r}, {nearest(m, PADDING_MODES)}")
    return modes


def layout_hint(x_shape: tuple, kernel_shape: tuple, takes: int, moved_takes: int, letters: str) -> str:
    """Which transposes would make the channels agree, where some would.

    `takes` is the number of channels that the kernel takes as it is, `moved_takes` that which it would take were its
    channels in front, in the order of `letters`. Where more than one reading fits, all moves are named.
    """
    rank = len(kernel_shape) - 2
    if rank < 1 or len(x_shape) < rank + 1:
        return ""
    spatial = "DHW"[-rank:] if rank <= 3 else "..."
    to_last = f"jax.numpy.moveaxis(x, {-rank - 1}, -1)"
    to_hwio = f"kernel.transpose({', '.join(map(str, (*range(2, rank + 2), 1, 0)))})"
    first, last = x_shape[-rank - 1], x_shape[-1]
    x_alone, kernel_alone, both = first == takes, last == moved_takes, first == moved_takes
    if x_alone and both:
        return f" x looks like NC{spatial}: pass {to_last}, and if the kernel is {letters}{spatial}, {to_hwio} too."
    if kernel_alone and both:
        return f" The kernel looks like {letters}{spatial}: pass {to_hwio}, and if x is NC{spatial}, {to_last} too."
    if kernel_alone:
        return f" The kernel looks like {letters}{spatial}: pass {to_hwio}."
    if x_alone:
        return f" x looks like NC{spatial}: pass {to_last}."
    if both:
        return f" x looks like NC{spatial} and the kernel like {letters}{spatial}: pass {to_last} and {to_hwio}."
    return ""


def _kernel_shape(shape: Sequence[int]) -> tuple[int, ...]:
    shape = sequence(shape, "kernel", "integers, its shape")
    if len(shape) < 2:
        raise ValueError(
            f"kernel: got shape {shape}, accepted is [*window, in // feature_group_count, out], at least two axes."
        )
    least = (1,) * (len(shape) - 2) + (0, 0)
    return tuple(integer(k, f"kernel.shape[{i}]", minimum=m) for i, (k, m) in enumerate(zip(shape, least, strict=True)))


def _x_shape(shape: Sequence[int], kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
    shape, rank = sequence(shape, "x", "integers, its shape"), len(kernel_shape) - 2
    if len(shape) < rank + 1:
        raise ValueError(
            f"x: got shape {shape}, accepted is [*batch, *spatial, in] with {rank} spatial axes, because the "
            f"kernel of shape {kernel_shape} has a window of {rank} axes."
        )
    batch = len(shape) - rank - 1  # a batch size may be symbolic (jax.export), so it is kept as it is
    return shape[:batch] + tuple(integer(n, f"x.shape[{batch + i}]", minimum=0) for i, n in enumerate(shape[batch:]))


def _groups(x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], feature_group_count: int) -> int:
    groups = integer(feature_group_count, "feature_group_count", minimum=1)
    if x_shape[-1] != kernel_shape[-2] * groups:
        raise ValueError(
            f"x and kernel: x of shape {x_shape} has {x_shape[-1]} channels and a kernel of shape {kernel_shape} "
            f"with feature_group_count={groups} takes {kernel_shape[-2] * groups}. Accepted are x "
            "[*batch, *spatial, in] and kernel [*window, in // feature_group_count, out]."
            + layout_hint(x_shape, kernel_shape, kernel_shape[-2] * groups, kernel_shape[1] * groups, "OI")
        )
    if kernel_shape[-1] % groups:
        raise ValueError(
            f"feature_group_count: got {groups}, which does not divide the {kernel_shape[-1]} output channels of a "
            f"kernel of shape {kernel_shape}; accepted is a divisor of both channel counts."
        )
    return groups


class Phases(NamedTuple):
    """`Axis.phases`: for each phase r, which taps meet it and where their first operand lies.

    Result position ``r + m step`` takes from operand position ``start + m other``, m < length, for each (tap, start) of
    ``taps[r]``.
    """

    step: int
    other: int
    length: int
    taps: tuple[tuple[tuple[int, int], ...], ...]


class Axis(NamedTuple):
    """The geometry of one spatial axis, in the letters of the relation above."""

    n: int
    k: int
    s: int
    lo: int
    hi: int
    q: int
    d: int

    @property
    def fits(self) -> int:
        """Output positions; below 1 where the window does not fit."""
        return (span(self.n, self.q) + self.lo + self.hi - span(self.k, self.d)) // self.s + 1

    @property
    def o(self) -> int:
        """Output positions."""
        return max(0, self.fits)

    def phases(self, result: str) -> Phases:
        """The pairs (o, p) of the relation, as arithmetic progressions; `result` is "o" or "p", what is summed into.

        With g = gcd(s, q), adding q / g to o adds s / g to p, so the solutions for one tap form one progression. For
        result "o", phase r holds each tap t for which ``(r s + t d - lo) / q`` is whole, and there ``o = r + m q / g``
        meets ``p = (r s + t d - lo) / q + m s / g``. For "p" the two exchange places: ``p = r + m s / g`` meets
        ``o = (r q + lo - t d) / s + m q / g``. No zero is ever inserted.
        """
        g = math.gcd(self.s, self.q)
        if result == "o":
            size, step, other, low, slope, sign = self.o, self.q // g, self.s // g, -self.lo, self.s, 1
        else:
            size, step, other, low, slope, sign = self.n, self.s // g, self.q // g, self.lo, self.q, -1
        over = self.q if result == "o" else self.s
        taps = tuple(
            tuple(
                (t, (r * slope + low + sign * t * self.d) // over)
                for t in range(self.k)
                if (r * slope + low + sign * t * self.d) % over == 0
            )
            for r in range(step)
        )
        return Phases(step, other, -(-size // step), taps)

    @property
    def reach(self) -> tuple[int, int, int]:
        """Low pad, high pad and length of the image, cut to what the windows of the outputs reach."""
        length = span(self.o, self.s) + span(self.k, self.d) - 1
        return self.lo, length - self.lo - span(self.n, self.q), length

    @property
    def input_grad_padding(self) -> tuple[int, int]:
        """Pads of the convolution over g that gives the cotangent of x; see `ConvSpec.input_grad_spec`."""
        low = span(self.k, self.d) - 1 - self.lo
        return low, span(self.n, self.q) + span(self.k, self.d) - 1 - span(self.o, self.s) - low

    @property
    def kernel_grad_padding(self) -> tuple[int, int]:
        """Pads of the convolution of x with g that gives the cotangent of the kernel.

        There g is the window, with dilation s, and ``t d = p q + lo - o s`` counts the outputs with stride d; the
        high pad leaves exactly k of them.
        """
        return self.lo, span(self.k, self.d) + span(self.o, self.s) - 1 - span(self.n, self.q) - self.lo


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class ConvSpec:
    """The geometry of a convolution: every shape, size and count, without any array.

    Along each spatial axis, with window length k, stride s, pads lo and hi, input dilation q and kernel
    dilation d, the output has

        floor((span(n, q) + lo + hi - span(k, d)) / s) + 1,   span(n, q) = (n - 1) q + 1

    positions. The arguments are those of `jconv.conv`; after construction `strides`, `padding` and the
    dilations hold plain numbers, one (for `padding` one pair) for each spatial axis, so two ways of writing
    the same convolution are equal and hash alike.

    Args:
        x_shape: shape of the image, ``[*batch, *spatial, in]``, in elements.
        kernel_shape: shape of the kernel, ``[*window, in // groups, out]``, in elements.
        strides: step between windows, in elements of the (dilated) image.
        padding: a name, an integer, or one entry for each spatial axis.
        input_dilation: distance between image elements; 1 leaves them adjacent.
        kernel_dilation: distance between taps; 1 leaves them adjacent.
        feature_group_count: number of groups that the channels fall into.

    Returns:
        A frozen, hashable description.

    Raises:
        ValueError: for shapes that do not fit each other, or an image that has elements and an output without a
            position; the message names the argument, what was given and what is accepted.

    >>> spec = ConvSpec((25, 25, 1), (3, 3, 1, 12), padding="VALID")
    >>> spec.output_shape, spec.num_weights, spec.num_parameters
    ((23, 23, 12), 108, 120)
    >>> ConvSpec((32, 32, 1), (5, 5, 1, 6), padding="VALID").num_connections
    122304

    References:
        The output size is the one of Dumoulin and Visin, "A guide to convolution arithmetic for deep
        learning", 2016, arXiv:1603.07285, with input dilation added. Parameters and connections are counted as
        in LeCun et al., "Gradient-based learning applied to document recognition", 1998.
    """

    x_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    feature_group_count: int

    @named
    def __init__(
        self,
        x_shape: Sequence[int],
        kernel_shape: Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "SAME",
        input_dilation: int | Sequence[int] = 1,
        kernel_dilation: int | Sequence[int] = 1,
        feature_group_count: int = 1,
    ) -> None:
        window = _kernel_shape(kernel_shape)
        image = _x_shape(x_shape, window)
        rank = len(window) - 2
        groups = _groups(image, window, feature_group_count)
        steps = per_axis(strides, rank, "strides")
        q = per_axis(input_dilation, rank, "input_dilation")
        d = per_axis(kernel_dilation, rank, "kernel_dilation")
        entries = padding_per_axis(padding, rank)
        space = image[len(image) - rank - 1 : -1]
        pads = tuple(
            resolve_padding(entries[i], span(space[i], q[i]), span(window[i], d[i]), steps[i]) for i in range(rank)
        )
        fields = (image, window, steps, pads, q, d, groups)
        for field, value in zip(dataclasses.fields(self), fields, strict=True):
            object.__setattr__(self, field.name, value)
        for i, axis in enumerate(self.axes):
            padded = span(axis.n, axis.q) + axis.lo + axis.hi
            if axis.fits < 1 and (axis.n > 0 or padded < 0):  # an image of nothing may have outputs of nothing
                raise ValueError(
                    f"x, kernel, padding: along spatial axis {i} the image spans {span(axis.n, axis.q)} and padding "
                    f"{pads[i]} makes that {padded}, but the window spans {span(axis.k, axis.d)}, so the output would "
                    f"have {axis.fits} positions; accepted is at least 1. "
                    "Pad more, or use a smaller window or kernel_dilation."
                )

    # Sizes -----------------------------------------------------------------------------------------------
    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel_shape) - 2

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch axes of x."""
        return self.x_shape[: len(self.x_shape) - self.rank - 1]

    @property
    def spatial(self) -> tuple[int, ...]:
        """The spatial axes of x."""
        return self.x_shape[len(self.x_shape) - self.rank - 1 : -1]

    @property
    def window(self) -> tuple[int, ...]:
        """The window axes of the kernel."""
        return self.kernel_shape[:-2]

    @property
    def in_features(self) -> int:
        """Channels of x."""
        return self.x_shape[-1]

    @property
    def out_features(self) -> int:
        """Channels of the output."""
        return self.kernel_shape[-1]

    @functools.cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The geometry of each spatial axis."""
        return tuple(
            Axis(n, k, s, lo, hi, q, d)
            for n, k, s, (lo, hi), q, d in zip(
                self.spatial,
                self.window,
                self.strides,
                self.padding,
                self.input_dilation,
                self.kernel_dilation,
                strict=True,
            )
        )

    @functools.cached_property
    def output_spatial(self) -> tuple[int, ...]:
        """The spatial axes of the output."""
        return tuple(axis.o for axis in self.axes)

    @functools.cached_property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output, ``[*batch, *output_spatial, out]``."""
        return (*self.batch_shape, *self.output_spatial, self.out_features)

    # Counts ----------------------------------------------------------------------------------------------
    @property
    def num_weights(self) -> int:
        """Elements of the kernel."""
        return math.prod(self.kernel_shape)

    @property
    def num_parameters(self) -> int:
        """Weights and one bias for each output channel."""
        return self.num_weights + self.out_features

    @property
    def num_connections(self) -> int:
        """Links into the outputs of one example: every tap of every output, and its bias."""
        return math.prod(self.output_spatial) * self.num_parameters

    @property
    def macs(self) -> int:
        """Multiply-adds for one example; the same in all three roles."""
        return math.prod(self.output_spatial) * self.num_weights

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """How many elements of the (dilated) image one output spans, for each spatial axis."""
        return tuple(span(axis.k, axis.d) for axis in self.axes)

    @property
    def is_empty(self) -> bool:
        """Whether image, kernel or output has no elements; all three roles are then sums of nothing."""
        return any(isinstance(n, int) and n == 0 for n in (*self.x_shape, *self.kernel_shape, *self.output_spatial))

    # Roles -----------------------------------------------------------------------------------------------
    def replace(self, **changes: Any) -> ConvSpec:
        """The same geometry with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def input_grad_spec(self) -> ConvSpec:
        """The forward convolution that computes the gradient with respect to x.

        Solving ``p q = o s + t d - lo`` for ``o`` gives ``o s = p q + (k - 1 - t) d - ((k - 1) d - lo)``: again a
        convolution, over g, with the window reversed, strides and input dilation exchanged, and
        ``lo' = (k - 1) d - lo``. ``hi'`` is what makes its output exactly as long as x. The channels of each
        group are exchanged in the kernel: ``[*window, out // groups, in]``. Nothing may be empty.
        """
        return ConvSpec(
            self.output_shape,
            (*self.window, self.out_features // self.feature_group_count, self.in_features),
            strides=self.input_dilation,
            padding=tuple(axis.input_grad_padding for axis in self.axes),
            input_dilation=self.strides,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=self.feature_group_count,
        )

    def __repr__(self) -> str:
        text = f"{list(self.x_shape)}*{list(self.kernel_shape)}->{list(self.output_shape)}"
        for name, default in (("strides", 1), ("padding", (0, 0)), ("input_dilation", 1), ("kernel_dilation", 1)):
            values = getattr(self, name)
            if any(v != default for v in values):
                text += f", {name}={values}"
        if self.feature_group_count != 1:
            text += f", feature_group_count={self.feature_group_count}"
        return f"ConvSpec({text.replace(' ', '')})"
