"""Thousands of calls of random geometries: resident memory stays where it is, though more plans are made than are kept.

Every geometry is compiled and all calls are made once before anything is measured: what XLA keeps for its programs is
then there. A call that misses the cache of plans makes one and drops another.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys

import jax
import jconv_onednn
import numpy as np
from jax import numpy as jnp
from tqdm import tqdm

import jconv
from jconv.plugins import Call

ROLES = ("forward", "input_grad", "kernel_grad")


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def geometry(rng: random.Random) -> tuple[jconv.ConvSpec, str]:
    """One that oneDNN covers."""
    while True:
        rank, groups = rng.choice((1, 2, 3)), rng.choice((1, 1, 2, 4))
        inputs, outputs = (groups * rng.randint(1, 24) for _ in range(2))
        pair = lambda: [rng.randint(1, 3) for _ in range(rank)]  # noqa: B023
        x = (rng.randint(1, 4), *(rng.randint(4, 16) for _ in range(rank)), inputs)
        try:
            spec = jconv.ConvSpec(
                x, (*pair(), inputs // groups, outputs), pair(), "SAME", 1, pair(), feature_group_count=groups
            )
        except ValueError:
            continue
        role = rng.choice(ROLES)
        if jconv_onednn.supports(Call(spec, role, *[jnp.dtype("float32")] * 2, None, "cpu")) is None:  # type: ignore
            return spec, role


def program(spec: jconv.ConvSpec, role: str):
    """The compiled call with its operands."""
    names = ("strides", "padding", "kernel_dilation", "feature_group_count")
    options = {name: getattr(spec, name) for name in names} | {"algorithm": "onednn"}
    x, k, g = (np.ones(shape, np.float32) for shape in (spec.x_shape, spec.kernel_shape, spec.output_shape))
    call, operands = {
        "forward": (lambda x, k: jconv.conv(x, k, **options), (x, k)),
        "input_grad": (lambda g, k: jconv.conv_input_grad(g, k, spec.x_shape, **options), (g, k)),
        "kernel_grad": (lambda x, g: jconv.conv_kernel_grad(x, g, spec.window, **options), (x, g)),
    }[role]
    return jax.jit(call).lower(*operands).compile(), operands


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--geometries", type=int, default=1500, help="more than the 1,024 plans that are kept")
    parser.add_argument("--limit", type=float, default=8.0, help="megabytes that resident memory may grow by")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    programs = [program(*geometry(rng)) for _ in tqdm(range(args.geometries), unit="geometry")]
    order = [rng.choice(programs) for _ in range(args.calls)]
    for run, operands in [*programs, *order]:  # and once more all of it, so that the heap has its shape
        jax.block_until_ready(run(*operands))
    seen = []
    for i, (run, operands) in enumerate(tqdm(order, unit="call")):
        if i % max(1, args.calls // 8) == 0:
            seen.append(resident_mb())
        jax.block_until_ready(run(*operands))
    seen.append(resident_mb())
    before, after = seen[0], seen[-1]
    print("MB:", ", ".join(f"{mb:.1f}" for mb in seen))
    plans = jconv_onednn.library().jconv_onednn_plans()
    print(
        f"{args.calls} calls of {args.geometries} geometries: {before:.1f} MB before, {after:.1f} MB after; "
        f"{plans} plans kept"
    )
    return int(after > before + args.limit or plans > 1024)


if __name__ == "__main__":
    sys.exit(main())
