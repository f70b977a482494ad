"""Which axes of a mesh divide which index of T(x, k, y). No arrays.

Every index of T but the taps can be divided over devices: b (images), s0, s1, ... (space), g (groups), i and c (a
group's input and output channels). A device then computes the part of the sum that lies in its parts of the indices.
Arguments that have an index are divided along it; a result that lacks it is the sum over the devices, and an operand
that lacks it is whole on each of them. An axis of the mesh divides one index.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .._algorithms.base import OPERANDS, RESULT, Role
from .._spec import ConvSpec

# For each axis of an array the axes of the mesh that divide it, the major one first.
Entries = tuple[tuple[str, ...], ...]


def named_entries(spec: Iterable[Any], ndim: int) -> Entries:
    """Those of a `jax.sharding.PartitionSpec`, for each axis of an array."""
    entries = tuple((e,) if isinstance(e, str) else tuple(e or ()) for e in spec)
    return entries + ((),) * (ndim - len(entries))


def flat_entries(entries: Entries, batch: int) -> Entries:
    """Those of an array whose first axes, so many, become one."""
    return (sum(entries[:batch], ()), *entries[batch:])


def dims(argument: str, rank: int) -> list[tuple[str, ...]]:
    """The indices that each axis of an argument consists of, the major one first."""
    space = [(f"s{j}",) for j in range(rank)]
    taps: list[tuple[str, ...]] = [()] * rank
    of = {
        "x": [("b",), *space, ("g", "i")],
        "k": [*taps, ("i",), ("g", "c")],
        "y": [("b",), *space, ("g", "c")],
        "bias": [("g", "c")],
    }
    return of[argument]


def contracted(role: Role, rank: int) -> frozenset[str]:
    """The indices that a role sums over: those of its operands that its result lacks."""
    indices = lambda argument: {index for dim in dims(argument, rank) for index in dim}
    first, second = OPERANDS[role]
    return frozenset(indices(first) | indices(second)) - indices(RESULT[role])


def sizes(spec: ConvSpec) -> dict[str, int]:
    """The sizes of the indices of channels."""
    groups = spec.feature_group_count
    return {"g": groups, "i": spec.in_features // groups, "c": spec.out_features // groups}


class Layout(NamedTuple):
    """The axes of the mesh that divide each index, the major one first, and their sizes."""

    axes: Mapping[str, tuple[str, ...]]
    mesh: Mapping[str, int]

    def names(self, index: str) -> tuple[str, ...]:
        return self.axes.get(index, ())

    def parts(self, index: str) -> int:
        """How many parts an index is in."""
        return math.prod(self.mesh[name] for name in self.names(index))

    def entries(self, argument: str, rank: int) -> Entries:
        """How an argument is divided."""
        return tuple(tuple(name for index in dim for name in self.names(index)) for dim in dims(argument, rank))

    def summed(self, role: Role, rank: int) -> tuple[str, ...]:
        """The axes of the mesh over which a role's result is summed."""
        return tuple(name for index in sorted(contracted(role, rank)) for name in self.names(index))


def layout(
    spec: ConvSpec, mesh: Mapping[str, int], given: Mapping[str, Entries], itemsizes: Mapping[str, int]
) -> Layout:
    """How to divide the indices, where the arguments are divided as `given`: each mesh axis where most bytes are.

    What an axis divides otherwise is gathered, or is divided anew. Channels are divided into equal parts, and those
    within groups only where each device has one group.
    """
    shapes = {"x": spec.x_shape, "k": spec.kernel_shape, "y": spec.output_shape}
    weights: dict[tuple[str, str], int] = {}
    for argument, entries in given.items():
        for dim, names in zip(dims(argument, spec.rank), entries, strict=True):
            for name, index in _read(dim, names, spec, mesh):
                weight = math.prod(shapes[argument]) * itemsizes[argument]
                weights[name, index] = weights.get((name, index), 0) + weight
    groups = spec.feature_group_count
    for able in ("bgic", "bg"):
        axes: dict[str, tuple[str, ...]] = {}
        for name, index in sorted(weights, key=lambda pair: weights[pair], reverse=True):
            names, taken = (*axes.get(index, ()), name), {name for names in axes.values() for name in names}
            if name not in taken and index[0] in f"{able}s" and _divides(index, names, spec, mesh):
                axes[index] = names
        over = Layout(axes, mesh)
        if over.parts("g") == groups or not axes.keys() & {"i", "c"}:
            break
    return over


def _read(dim: tuple[str, ...], names: tuple[str, ...], spec: ConvSpec, mesh: Mapping[str, int]):
    """The index that each mesh axis divides, of those that an axis of an array consists of."""
    if not dim:
        return  # taps
    left = sizes(spec).get(dim[0], 1)
    for name in names:
        if len(dim) > 1 and left % mesh[name] == 0:
            left //= mesh[name]
            yield name, dim[0]
        else:
            yield name, dim[len(dim) - 1]


def _divides(index: str, names: tuple[str, ...], spec: ConvSpec, mesh: Mapping[str, int]) -> bool:
    """Whether an index may be divided over these axes."""
    size = sizes(spec).get(index)
    return size is None or size % math.prod(mesh[name] for name in names) == 0


def inferred(
    spec: ConvSpec, role: Role, mesh: Mapping[str, int], given: Mapping[str, Entries]
) -> tuple[Entries | None, str]:
    """How a role's result is divided where its operands are divided as `given`; or None, and why that is open.

    The result is divided along the indices that it has, as the operands are. A sum over b and space is made on all
    devices that have a part of it; one over channels may be left to them, so that has to be said.
    """
    found: dict[str, str] = {}
    axes: dict[str, tuple[str, ...]] = {}
    for argument in OPERANDS[role]:
        for at, (dim, names) in enumerate(zip(dims(argument, spec.rank), given[argument], strict=True)):
            if not dim and names:
                return None, f"the kernel's window is sharded over {names}"
            for name, index in _read(dim, names, spec, mesh):
                if found.setdefault(name, index) != index:
                    return None, f"the mesh axis {name!r} shards axes of both operands that are not the same"
                if index in contracted(role, spec.rank) and index in ("i", "c"):
                    return None, f"channels that are summed over are sharded, axis {at} of {argument} over {name!r}"
                if name not in axes.get(index, ()):
                    axes[index] = (*axes.get(index, ()), name)
    return Layout(axes, mesh).entries(RESULT[role], spec.rank), ""


def rule(spec: ConvSpec, role: Role, bias: bool) -> tuple[str, dict[str, object]]:
    """How a role passes shardings on, in the notation of `jax.experimental.custom_partitioning`: text and options."""
    size = sizes(spec)

    def factors(argument: str) -> list[str]:
        out = []
        for at, dim in enumerate(dims(argument, spec.rank)):
            able = [index for index in dim if len(dim) == 1 or size[index] > 1] or list(dim[-1:])
            out.append(f"t{at}" if not dim else able[0] if len(able) == 1 else f"({' '.join(able)})")
        return out

    of = {argument: factors(argument) for argument in ("x", "k", "y", "bias")}
    operands = [*OPERANDS[role], *(["bias"] if bias else [])]
    text = f"{', '.join(' '.join(of[argument]) for argument in operands)} -> {' '.join(of[RESULT[role]])}"
    words = text.replace(",", " ").replace("->", " ").split()
    alone = set(words)  # a factor within brackets still has one of them
    order = list(dict.fromkeys(text.translate(str.maketrans("(),->", "     ")).split()))
    options: dict[str, object] = {name: size[name] for name in order if name in size and name not in alone}
    result = of[RESULT[role]]
    options["reduction_factors"] = tuple(
        name for name in order if name in contracted(role, spec.rank) and name not in result
    )
    options["need_replication_factors"] = tuple(name for name in order if name.startswith("t"))
    options["permutation_factors"] = tuple(name for name in order if name.startswith("s") and name in result)
    return text, options
