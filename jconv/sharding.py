"""Images over several devices: what stands beside a device's block, and what a convolution moves.

>>> mesh = {"data": 2, "space": 4}
>>> print(plan((8, 224, 224, 3), (7, 7, 3, 64), mesh, x_spec=("data", "space"), strides=2, padding=3))
forward of ConvSpec([8,224,224,3]*[7,7,3,64]->[8,112,112,64],strides=(2,2),padding=((3,3),(3,3)))
  image   4 of 8 images, 56 of 224 along spatial axis 0, 588.0 KiB
  kernel  whole, 36.8 KiB
  output  4 of 8 images, 28 of 112 along spatial axis 0, 3.1 MiB
  fetches 5 rows of the image along spatial axis 0, 52.5 KiB
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from ._algorithms.base import RESULT, ROLES, Call, Role, accumulator
from ._dtypes import as_array
from ._names import named
from ._padding import padded_spec
from ._partition import layout, shards
from ._partition.blocks import blocks
from ._primitive import flatten_batch, shape_of
from ._spec import Axis, ConvSpec, Padding, integer, nearest, padding_mode_per_axis

WORDS = {"x": "image", "k": "kernel", "y": "output"}


@named
def halo(
    x: jax.typing.ArrayLike,
    low: int,
    high: int,
    *,
    axis: int,
    axis_name: str | Sequence[str],
    size: int | None = None,
    padding_mode: str = "zeros",
) -> jax.Array:
    """Inside `jax.shard_map`, a device's block of an array with what stands before and after it.

        y[j] = x[r B - low + j],    0 <= j < B + low + high

    for device r of N with blocks of B, where x is the whole array; it may be farther than one block away. Its transpose
    sends back what was fetched, and adds.

    Args:
        x: the block.
        low: elements before it.
        high: elements after it.
        axis: the one that is divided.
        axis_name: the axis of the mesh that it is divided over, or several.
        size: of the whole array, where the last devices hold less than their block; by default B N. What x holds
            beyond it is not read.
        padding_mode: what stands before the first element and after the last, as for `jconv.conv`.

    Returns:
        x with `low` and `high` elements more along `axis`.

    Raises:
        ValueError: for sizes that do not fit each other.

    >>> import jax, jax.numpy as jnp
    >>> mesh, rows = jax.make_mesh((1,), ("space",)), jax.sharding.PartitionSpec("space")
    >>> ring = lambda x: halo(x, 1, 1, axis=0, axis_name="space", padding_mode="circular")
    >>> x = jax.device_put(jnp.arange(4), jax.sharding.NamedSharding(mesh, rows))
    >>> jax.jit(jax.shard_map(ring, mesh=mesh, in_specs=rows, out_specs=rows))(x)
    Array([3, 0, 1, 2, 3, 0], dtype=int32)

    References:
        Halo or ghost-cell exchange, as in Kjolstad and Snir, "Ghost cell pattern", 2010.
    """
    x = as_array(x, "x")
    low, high = integer(low, "low", minimum=0), integer(high, "high", minimum=0)
    at = integer(axis, "axis", minimum=-x.ndim) % x.ndim
    names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)
    (mode,) = padding_mode_per_axis(padding_mode, 1)
    parts = math.prod(jax.lax.axis_size(name) for name in names)
    block = x.shape[at]
    size = block * parts if size is None else integer(size, "size", minimum=1)
    if -(-size // parts) != block:
        raise ValueError(
            f"size: got {size} for blocks of {block} over {parts} devices; accepted is {block * (parts - 1) + 1} to "
            f"{block * parts}."
        )
    padded_spec(ConvSpec((size, 1), (1, 1, 1), padding=[(low, high)]), (mode,))
    return shards.fetched(x, at, blocks(Axis(size, low + high + 1, 1, low, high, 1, 1), parts, mode), names)


class ShardPlan(NamedTuple):
    """What each device holds of a convolution, fetches and sums; `str` of it is text to read, a line for each.

    `blocks` are the shapes of what a device holds, by argument; `spec` is the geometry that it computes. `fetched` and
    `added` are elements that come from other devices, by spatial axis, and `summed` those that are summed over devices;
    the three `..._bytes` are what that is in bytes, for one device.
    """

    role: str
    whole: ConvSpec
    spec: ConvSpec
    blocks: dict[str, tuple[int, ...]]
    fetched: dict[int, int]
    added: dict[int, int]
    summed: int
    fetched_bytes: int
    added_bytes: int
    summed_bytes: int
    text: str

    def __str__(self) -> str:
        return self.text


@named
def plan(
    x_shape: Sequence[int],
    kernel_shape: Sequence[int],
    mesh: Mapping[str, int] | jax.sharding.Mesh,
    *,
    x_spec: Sequence[Any] = (),
    kernel_spec: Sequence[Any] = (),
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    padding_mode: str | Sequence[str] = "zeros",
    input_dilation: int | Sequence[int] = 1,
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    role: Role = "forward",
    dtype: Any = "float32",
) -> ShardPlan:
    """What each device of a mesh holds of one role of a convolution, what it fetches from others, and what is summed.

    With n rows in blocks of B = ceil(n / N) over N devices and o outputs in blocks of C = ceil(o / N), the first output
    of device r reads from row r C s - lo on, W = (C - 1) s + (k - 1) d + 1 rows. Where C s = B that is
    (k - 1) d + 1 - s rows of its neighbours.

    Args:
        x_shape: shape of the image, ``[*batch, *spatial, in]``, in elements.
        kernel_shape: ``[*window, in // feature_group_count, out]``.
        mesh: a mesh, or the sizes of its axes by name.
        x_spec: the axes of the mesh that divide each axis of x, as in `jax.sharding.PartitionSpec`. The output is
            divided alike, and its channels as the kernel's.
        kernel_spec: those that divide each axis of the kernel.
        strides: as for `jconv.conv`.
        padding: as for `jconv.conv`.
        padding_mode: as for `jconv.conv`.
        input_dilation: as for `jconv.conv`.
        kernel_dilation: as for `jconv.conv`.
        feature_group_count: as for `jconv.conv`.
        role: ``"forward"``, ``"input_grad"`` or ``"kernel_grad"``.
        dtype: of the operands.

    Returns:
        A `ShardPlan`, which `print` shows.

    Raises:
        ValueError: for shapes, names or entries that do not fit.

    >>> moved = plan((1, 64, 64, 8), (3, 3, 8, 8), {"space": 4}, x_spec=(None, "space"))
    >>> moved.fetched, moved.fetched_bytes, moved.spec.spatial
    ({0: 2}, 4096, (18, 64))

    References:
        The derivation is in docs/sharding.md.
    """
    spec = ConvSpec(x_shape, kernel_shape, strides, padding, input_dilation, kernel_dilation, feature_group_count)
    if role not in ROLES:
        raise ValueError(f"role: got {role!r}, {nearest(role, ROLES)}")
    modes = padding_mode_per_axis(padding_mode, spec.rank)
    padded_spec(spec, modes)
    sizes = dict(mesh.shape) if isinstance(mesh, jax.sharding.Mesh) else dict(mesh)
    flat = flatten_batch(spec)
    x_entries = _entries(x_spec, len(spec.x_shape), sizes, "x_spec")
    given = {
        "x": layout.flat_entries(x_entries, len(spec.batch_shape)),
        "k": _entries(kernel_spec, len(spec.kernel_shape), sizes, "kernel_spec"),
    }
    dtype = jnp.dtype(dtype)
    itemsize: int = dtype.itemsize
    over = layout.layout(flat, sizes, given, dict.fromkeys("xky", itemsize))
    form, moves = shards.reduced(Call(flat, role, dtype, dtype), modes, over)
    held = {kind: shards.block(kind, flat, over) for kind in "xky"}
    wide, names = accumulator(dtype).itemsize, over.summed(role, spec.rank)
    summed = math.prod(held[RESULT[role]]) if names else 0
    fetched = {move.axis: move.rows for move in moves if not move.added}
    added = {move.axis: move.rows for move in moves if move.added}
    counts = [sum(move.elements for move in moves if move.added is flag) for flag in (False, True)]
    lines = [f"{role} of {spec}"]
    for kind, shape in held.items():
        lines.append(
            f"  {WORDS[kind]:7} {_held(kind, shape, shape_of(kind, flat))}, {_size(math.prod(shape) * dtype.itemsize)}"
        )
    for move in moves:
        verb, width = ("adds", wide) if move.added else ("fetches", dtype.itemsize)
        what = f"{move.rows} rows of the {WORDS[move.argument]} along spatial axis {move.axis}"
        lines.append(f"  {verb:7} {what}, {_size(move.elements * width)}")
    if names:
        lines.append(f"  sums    the {WORDS[RESULT[role]]} over {', '.join(names)}, {_size(summed * wide)}")
    return ShardPlan(
        role,
        spec,
        form.spec,
        {WORDS[kind]: shape for kind, shape in held.items()},
        fetched,
        added,
        summed,
        counts[0] * dtype.itemsize,
        counts[1] * wide,
        summed * wide,
        "\n".join(lines),
    )


def _entries(spec: Sequence[Any], ndim: int, sizes: Mapping[str, int], name: str) -> layout.Entries:
    entries = layout.named_entries(spec, ndim)
    if len(entries) > ndim:
        raise ValueError(f"{name}: got {tuple(spec)}, accepted is at most one entry for each of {ndim} axes.")
    axes = [axis for entry in entries for axis in entry]
    for axis in axes:
        if axis not in sizes:
            raise ValueError(f"{name}: got {axis!r}, {nearest(axis, tuple(sizes))}")
    if len(set(axes)) < len(axes):
        raise ValueError(f"{name}: got {tuple(spec)}, accepted is each axis of the mesh once.")
    return entries


def _held(kind: str, shape: Sequence[int], whole: Sequence[int]) -> str:
    last = len(whole) - 1
    names = {0: "images", last: "channels"} if kind != "k" else {last - 1: "channels in", last: "channels out"}
    parts = [
        f"{n} of {size} {names[i]}" if i in names else f"{n} of {size} along spatial axis {i - (kind != 'k')}"
        for i, (n, size) in enumerate(zip(shape, whole, strict=True))
        if n != size
    ]
    return ", ".join(parts) or "whole"


def _size(count: int) -> str:
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
