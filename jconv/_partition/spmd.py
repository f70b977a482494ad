"""Programs that the compiler divides among devices: what it is told of a role, and what each device computes of it.

The compiler propagates shardings through a role by its `rule`, and then asks how to compute it, given how the arguments
are divided. It knows nothing of the mesh by then, only which device holds which tile. `mesh_of` finds one for which all
of them are divided by whole axes, so that it does not matter how many meshes a program has, or what they are called.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from .._algorithms.base import OPERANDS, RESULT, Call
from .layout import Entries, layout, rule

Tiles = np.ndarray  # for each device (first axis) which tile of an array it holds, along each of the array's axes


def tiles(sharding, ndim: int, devices: int) -> tuple[Tiles, tuple[int, ...]]:
    """Which tile each device holds, and how many there are along each axis; one where it is not in tiles."""
    held = sharding._to_xla_hlo_sharding(ndim)  # what a `jax.sharding.Sharding` must define
    whole = np.zeros((devices, ndim), int), (1,) * ndim
    if not held.is_tiled():
        return whole
    counts = tuple(held.tile_assignment_dimensions())
    order = np.asarray(held.tile_assignment_devices())
    if order.size != devices or len(counts) < ndim:
        return whole
    out = np.empty((devices, ndim), int)
    for at, where in zip(order, np.ndindex(*counts), strict=True):
        out[at] = where[:ndim]
    return out, counts[:ndim]


def _factorised(n: int) -> list[int]:
    out, p = [], 2
    while n > 1:
        while n % p == 0:
            out.append(p)
            n //= p
        p += 1
    return out


def _expressed(held: Tiles, counts: Sequence[int], radices: Sequence[int]) -> Entries | None:
    """The digits of a device's number, in these radices, that tell its tile along each axis; None where none do.

    A tile's number is then a sum of digits times weights: those that it has for a one in one place.
    """
    weights = [math.prod(radices[i + 1 :]) for i in range(len(radices))]
    digits = np.stack(np.unravel_index(np.arange(len(held)), radices), 1)
    out = []
    for axis, count in enumerate(counts):
        tile = held[:, axis]
        found = sorted(((int(tile[w]), i) for i, w in enumerate(weights) if tile[w] > 0), reverse=True)
        mine = [math.prod(radices[i] for _, i in found[at + 1 :]) for at in range(len(found))]
        total = sum(
            (digits[:, i] * weight for (_, i), weight in zip(found, mine, strict=True)), np.zeros(len(held), int)
        )
        if math.prod(radices[i] for _, i in found) != count or (total != tile).any():
            return None
        out.append(tuple(str(i) for _, i in found))
    return tuple(out)


def mesh_of(
    arguments: Mapping[str, tuple[Tiles, tuple[int, ...]]], devices: int
) -> tuple[dict[str, int], dict[str, Entries]]:
    """A mesh of prime axes, and by which of them each argument is divided; whole where no mesh serves all of them."""
    best: tuple[dict[str, int], dict[str, Entries]] = {}, {}
    for radices in dict.fromkeys(itertools.islice(itertools.permutations(_factorised(devices)), 5040)):
        found = {name: _expressed(*held, radices) for name, held in arguments.items()}
        known = {name: entries for name, entries in found.items() if entries is not None}
        if len(known) > len(best[1]) or not best[0]:
            best = {str(i): size for i, size in enumerate(radices)}, known
        if len(known) == len(arguments):
            break
    return best


def able(context: Any) -> bool:
    """Whether the compiler can be told how to divide a call: for that all of the program's axes must be its own."""
    return hasattr(context, "device_assignment") and bool(getattr(jax.config, "jax_use_shardy_partitioner", False))


def partitioned(
    whole: Callable,
    rule: tuple[str, dict[str, Any]],
    devices: int,
    kinds: Sequence[str],
    choose: Callable[[dict[str, int], dict[str, Entries]], tuple[Callable[[str], Entries], Callable]],
) -> Callable:
    """`whole(*operands)`, which the compiler divides.

    `kinds` name the operands and the result. `choose(mesh, given)` is told how those are divided, by axes of a mesh
    that is found, and gives how they are to be, by kind, and what each device calls with its parts.
    """

    def partition(_, operands, result):
        held = {
            kind: tiles(v.sharding, len(v.shape), devices) for kind, v in zip(kinds, [*operands, result], strict=True)
        }
        mesh, given = mesh_of(held, devices)
        entries, compute = choose(mesh, given)
        abstract = AbstractMesh(tuple(mesh.values()), tuple(mesh))
        *shards, last = (
            NamedSharding(abstract, PartitionSpec(*(names or None for names in entries(kind)))) for kind in kinds
        )

        def part(*operands):
            with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):  # the program's own is no matter of a part's
                return compute(*operands)

        return abstract, part, last, tuple(shards)

    @custom_partitioning
    def function(*operands):
        return jax.jit(whole)(*operands)  # inside of which constants may stand

    text, options = rule
    function.def_partition(partition, sharding_rule=text, decode_shardings=False, **options)
    return function


def divided(whole: Callable, compute: Callable, call: Call, devices: int, bias: bool) -> Callable:
    """`whole(*operands)` of a role, of which each device calls `compute(*operands, layout)` with its parts."""
    role, rank = call.role, call.spec.rank
    itemsizes = dict.fromkeys("xky", call.dtype.itemsize) | {RESULT[role]: call.out_dtype.itemsize}

    def choose(mesh, given):
        over = layout(call.spec, mesh, {kind: given[kind] for kind in "xky" if kind in given}, itemsizes)
        return lambda kind: over.entries(kind, rank), lambda *v: compute(*v, over)

    kinds = [*OPERANDS[role], *(["bias"] if bias else []), RESULT[role]]
    return partitioned(whole, rule(call.spec, role, bias), devices, kinds, choose)
