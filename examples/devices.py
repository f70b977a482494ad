"""A training over several devices, and over several processes: the mesh, and which part of a batch is where.

`--mesh data=4,space=2` spreads the images of a batch over four groups of devices, and the rows of each image over the
two of a group; the parameters are on all of them. With `--processes N` N processes run the script together, each with
its own devices and its own part of every batch. Process 0 alone writes.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from files import InputError
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "space")


def mesh_sizes(text: str) -> tuple[tuple[str, int], ...]:
    """The sizes of the axes in a text like "data=4,space=2"."""
    sizes = {}
    for entry in text.split(","):
        name, _, size = entry.partition("=")
        if name not in AXES or name in sizes or not size.isdecimal() or int(size) < 1:
            raise argparse.ArgumentTypeError(
                f"got {text!r}, accepted are sizes of {' and '.join(AXES)}, as data=4,space=2"
            )
        sizes[name] = int(size)
    return tuple(sizes.items())


def add_options(made: argparse.ArgumentParser) -> None:
    add = made.add_argument_group("several devices").add_argument
    add("--mesh", type=mesh_sizes, metavar="AXES", help="how a batch is spread over devices, as data=4,space=2: images "
        "over the first, rows of each image over the second (default: one device)")  # fmt: skip
    add("--processes", type=int, default=1, metavar="N", help="run as one of N processes (default: %(default)s)")
    add("--process", type=int, default=0, metavar="I", help="which one of them this is, 0 to N - 1; 0 writes")
    add(
        "--coordinator", default="localhost:8476", metavar="HOST:PORT", help="where process 0 is (default: %(default)s)"
    )


class Devices(NamedTuple):
    """What a batch is spread over; without a mesh it is one device."""

    mesh: Mesh | None

    def check(self, batch_size: int) -> None:
        parts = self.mesh.shape["data"] if self.mesh else 1
        if batch_size % parts:
            raise InputError(
                f"--batch-size: got {batch_size}, accepted is a multiple of {parts}, of --mesh data={parts}."
            )

    def everywhere(self, tree: Any) -> Any:
        """Arrays that every device has; a copy."""
        if self.mesh is None:
            return jax.tree.map(jax.numpy.array, tree)
        return jax.device_put(jax.tree.map(np.array, tree), NamedSharding(self.mesh, PartitionSpec()))

    def here(self, tree: Any) -> Any:
        """The same arrays for a program of this process alone."""
        return tree if self.mesh is None else jax.device_get(tree)

    def spread(self, array: np.ndarray, rows: np.ndarray) -> jax.Array:
        """The rows of an array, of which a device takes its part, and a process no other than its devices take."""
        assert self.mesh is not None
        space = "space" if array.ndim > 2 and array.shape[1] % self.mesh.shape["space"] == 0 else None
        sharding = NamedSharding(self.mesh, PartitionSpec("data", space))

        def held(part: Any) -> np.ndarray:
            return array[rows[part[0]]][(slice(None), *part[1:])]

        return jax.make_array_from_callback((len(rows), *array.shape[1:]), sharding, held)

    def agreed(self, number: int) -> int:
        """The largest of a number over the processes."""
        if jax.process_count() == 1:
            return number
        return int(np.max(multihost_utils.process_allgather(np.int32(number))))

    def together(self, what: str) -> None:
        """Waits for all processes to come here."""
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(what)


def connect(args: argparse.Namespace) -> None:
    """Joins the other processes, before anything asks for devices."""
    if not 0 <= args.process < args.processes:
        raise InputError(f"--process: got {args.process}, accepted is 0 to {args.processes - 1}, below --processes.")
    if args.processes > 1:
        if args.mesh is None:
            raise InputError("--mesh: accepted with --processes are the sizes of a mesh, such as data=2.")
        jax.distributed.initialize(args.coordinator, args.processes, args.process)


def devices(args: argparse.Namespace) -> Devices:
    """The mesh that was asked for, if one was."""
    if getattr(args, "mesh", None) is None:
        return Devices(None)
    sizes = {name: dict(args.mesh).get(name, 1) for name in AXES}
    wanted, found = math.prod(sizes.values()), len(jax.devices())
    if wanted > found or (jax.process_count() > 1 and wanted < found):
        raise InputError(
            f"--mesh: got {','.join(f'{name}={size}' for name, size in sizes.items())}, for {wanted} devices; here "
            f"{'are' if found > 1 else 'is'} {found}. A CPU plays several with JAX_NUM_CPU_DEVICES={wanted} set."
        )
    grid = np.array(jax.devices()[:wanted]).reshape(tuple(sizes.values()))
    return Devices(Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES)))


@contextlib.contextmanager
def one_writes(args: argparse.Namespace) -> Iterator[None]:
    """Has every process but the first write its results to a folder that is deleted, and print nothing."""
    args.saved = args.out
    if args.process == 0:
        yield
        return
    args.out = Path(tempfile.mkdtemp())
    try:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            yield
    finally:
        shutil.rmtree(args.out, ignore_errors=True)
