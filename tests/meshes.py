"""Random convolutions over meshes, against the oracle, and what a compiled program moves between devices.

`python -m tests.meshes --count 500` tries many, each in all roles, on eight devices that the CPU plays, and prints those
that differ or gather, with the number that repeats each. `tests/test_sharding.py` tries some. The arrays are spread over
batch and space; where they do not divide, they are laid out with not-a-number behind them and cut inside the program.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import sys
from collections import Counter

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {os.environ.get('XLA_FLAGS', '')}"

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jconv
from benchmarks.sharding import moved
from jconv._algorithms.base import ROLES
from tests import oracle


def mesh_of(*sizes: int, names="dhw", types=AxisType.Auto) -> Mesh:
    devices = np.array(jax.devices()[: math.prod(sizes)]).reshape(sizes)
    return Mesh(devices, tuple(names[: len(sizes)]), axis_types=(types,) * len(sizes))


class Trial:
    """A convolution over a mesh (batch, *space), and how to run and check its roles."""

    def __init__(self, mesh: tuple[int, ...], x, kernel, modes=None, **options):
        self.spec, self.options = jconv.ConvSpec(x, kernel, **options), options
        self.mesh = mesh_of(*mesh, *(1,) * (1 + self.spec.rank - len(mesh)))
        self.modes = modes or ("zeros",) * self.spec.rank
        self.sharded = NamedSharding(self.mesh, PartitionSpec(*self.mesh.axis_names, None))

    def operands(self, role: str, seed: int):
        spec = self.spec
        shapes = {"x": spec.x_shape, "k": spec.kernel_shape, "y": spec.output_shape}
        kinds = {"forward": "xk", "input_grad": "yk", "kernel_grad": "xy"}[role]
        rng = np.random.default_rng(seed)
        return kinds, [rng.standard_normal(shapes[kind]).astype(np.float32) for kind in kinds]

    def rest(self, shape) -> list[tuple[int, int]]:
        sizes = [*self.mesh.shape.values(), 1]
        return [(0, -n % size) for n, size in zip(shape, sizes, strict=True)]

    def put(self, kind: str, v: np.ndarray):
        if kind == "k":
            return jax.device_put(v, NamedSharding(self.mesh, PartitionSpec()))
        return jax.device_put(np.pad(v, self.rest(v.shape), constant_values=np.nan), self.sharded)

    def compiled(self, role: str, kinds: str, arrays, algorithm="auto"):
        spec, options = self.spec, {**self.options, "padding_mode": self.modes, "algorithm": algorithm}
        constrained = lambda v: jax.lax.with_sharding_constraint(v, self.sharded)

        def cut(kind, v, shape):
            return v if kind == "k" else constrained(v[tuple(map(slice, shape))])

        def fn(a, b):
            a, b = (cut(kind, v, v0.shape) for kind, v, v0 in zip(kinds, (a, b), arrays, strict=True))
            if role == "kernel_grad":
                return jconv.conv_kernel_grad(a, b, spec.window, **options)
            if role == "forward":
                out = jconv.conv(a, b, **options)
            else:
                out = jconv.conv_input_grad(a, b, spec.x_shape, **options)
            return constrained(jnp.pad(constrained(out), self.rest(out.shape)))

        placed = [self.put(kind, v) for kind, v in zip(kinds, arrays, strict=True)]
        return jax.jit(fn).lower(*placed).compile(), placed

    def truth(self, role: str, arrays):
        spec = self.spec
        geometry = {
            "strides": spec.strides,
            "input_dilation": spec.input_dilation,
            "kernel_dilation": spec.kernel_dilation,
            "groups": spec.feature_group_count,
            "padding": [(0, 0) if mode != "zeros" else p for p, mode in zip(spec.padding, self.modes, strict=True)],
        }
        rows = [np.arange(n) for n in spec.spatial]  # which row of x stands at each row of the padded image
        for j, ((low, high), mode) in enumerate(zip(spec.padding, self.modes, strict=True)):
            if mode != "zeros":
                name = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
                at = np.pad(rows[j], (max(low, 0), max(high, 0)), mode=name)
                rows[j] = at[max(-low, 0) : len(at) - max(-high, 0)]
        at = np.ix_(*rows)
        a, b = arrays
        if role == "forward":
            return oracle.forward(a[(slice(None), *at)], b, **geometry)
        if role == "kernel_grad":
            return oracle.kernel_grad(a[(slice(None), *at)], b, spec.window, **geometry)
        shape = (spec.x_shape[0], *map(len, rows), spec.in_features)
        padded, out = oracle.input_grad(a, b, shape, **geometry), np.zeros(spec.x_shape)
        np.add.at(out, (slice(None), *at), padded)
        return out

    def check(self, role: str, seed: int, algorithm="auto") -> tuple[float, Counter[str]]:
        """The largest error, in units of the largest result, and what moved."""
        kinds, arrays = self.operands(role, seed)
        compiled, placed = self.compiled(role, kinds, arrays, algorithm)
        got, want = np.asarray(compiled(*placed)), self.truth(role, arrays)
        got = got[tuple(map(slice, want.shape))]
        return float(np.max(np.abs(got - want)) / max(1.0, np.max(np.abs(want)))), moved(compiled)

    def __repr__(self) -> str:
        return f"mesh {dict(self.mesh.shape)}, {self.spec}, {self.modes}"


def random_trial(seed: int) -> Trial:
    """Uneven sizes, every option, one or two spatial axes over two to eight devices."""
    rng = random.Random(seed)
    while True:
        rank = rng.choice((1, 1, 2))
        space = (
            rng.choice([(2, 2), (2, 3), (3, 2), (2, 4), (4, 2), (2, 1), (5, 1)]) if rank == 2 else (rng.randint(2, 8),)
        )
        batch = rng.choice((1, 2)) if math.prod(space) <= 4 else 1
        groups = rng.choice((1, 1, 2, 3))
        several = lambda low, high: tuple(rng.randint(low, high) for _ in range(rank))
        modes = tuple(rng.choice(("zeros", "zeros", "zeros", "circular", "reflect", "replicate")) for _ in range(rank))
        pads = tuple((rng.randint(-1, 6), rng.randint(-1, 6)) for _ in range(rank))
        x = (2, *several(5, 64 if rank == 1 else 20), groups * rng.randint(1, 3))
        kernel = (*several(1, 9 if rank == 1 else 5), x[-1] // groups, groups * rng.randint(1, 3))
        options = {
            "strides": several(1, 4),
            "kernel_dilation": several(1, 4 if rank == 1 else 2),
            "input_dilation": tuple(rng.choice((1, 1, 1, 2, 3)) if m == "zeros" else 1 for m in modes),
            "padding": rng.choice(("SAME", "VALID", "FULL", "CAUSAL", "SAME_LOWER", pads)),
            "feature_group_count": groups,
        }
        try:
            trial = Trial((batch, *space), x, kernel, modes, **options)
            jax.eval_shape(lambda v, k: jconv.conv(v, k, padding_mode=modes, **options), *map(jnp.zeros, (x, kernel)))
        except ValueError:
            continue  # the window does not fit, or no mode can pad so much
        return trial


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--algorithm", default="auto")
    args = parser.parse_args()
    bad = 0
    for seed, role in itertools.product(range(args.first, args.first + args.count), ROLES):
        trial = random_trial(seed)
        error, found = trial.check(role, seed, args.algorithm)
        if not error < 2e-5 or found["all-gather"] or found["all-to-all"]:
            bad += 1
            print(f"{seed} {role}: error {error:.1e}, {dict(found)}, {trial}", flush=True)
    print(f"{args.count} geometries in {len(ROLES)} roles, {bad} wrong or gathered")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
