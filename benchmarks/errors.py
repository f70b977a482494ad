"""`python -m benchmarks.errors`: the error of every algorithm, role and dtype, measured against the float64 oracle.

For each it prints the largest error over layers of several shapes, relative to the sum of absolute products (the
oracle at |a|, |b|; for `winograd` the largest such sum, for `fft` the product of the operands' norms), beside the a
priori bound for n products summed in the accumulator and rounded once to the result:
u_result + n u_accumulator (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). `pallas` is
interpreted.
"""

from __future__ import annotations

import jax
import ml_dtypes
import numpy as np

import jconv
from benchmarks.check import oracle_of
from benchmarks.peers.base import ROLES
from jconv.plugins import algorithms
from tests.cases import INTERPRETED

SHAPES = (
    ((4, 16, 16, 8), (3, 3, 8, 16), {}),
    ((2, 24, 24, 64), (3, 3, 64, 64), {}),
    ((2, 24, 24, 32), (5, 5, 1, 32), {"feature_group_count": 32}),
    ((2, 512, 16), (31, 16, 16), {"strides": 2}),
    ((1, 8, 8, 8, 16), (3, 3, 3, 16, 16), {}),
)
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}


def terms(spec: jconv.ConvSpec, role: str) -> int:
    window = int(np.prod(spec.window))
    per_group = {"forward": spec.in_features, "input_grad": spec.out_features}
    if role in per_group:
        return window * per_group[role] // spec.feature_group_count
    return int(np.prod(spec.output_spatial)) * spec.batch_shape[0]


def measure(role: str, algorithm: str, dtype: str) -> tuple[float | None, float]:
    """Largest relative error over the shapes that the algorithm covers (None if none), and the largest bound."""
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    worst, bound = None, 0.0
    for i, (x_shape, k_shape, options) in enumerate(SHAPES):
        spec = jconv.ConvSpec(x_shape, k_shape, **options)
        rng = np.random.default_rng(i)
        shapes = {"x": spec.x_shape, "k": spec.kernel_shape, "g": spec.output_shape}
        names = {"forward": "xk", "input_grad": "gk", "kernel_grad": "xg"}[role]
        a, b = (rng.standard_normal(shapes[n]).astype(kind) for n in names)
        choice = options | {"algorithm": INTERPRETED if algorithm == "pallas" else algorithm}
        fn = {
            "forward": lambda a, b, c=choice: jconv.conv(a, b, **c),
            "input_grad": lambda a, b, c=choice, s=spec: jconv.conv_input_grad(a, b, s.x_shape, **c),
            "kernel_grad": lambda a, b, c=choice, s=spec: jconv.conv_kernel_grad(a, b, s.window, **c),
        }[role]
        with jax.enable_x64(dtype == "float64"):
            try:
                got = np.asarray(jax.jit(fn)(a, b)).astype(np.float64)
            except ValueError as error:
                if "does not cover" not in str(error):
                    raise
                continue
        want, size = oracle_of(role, spec, a, b), oracle_of(role, spec, np.abs(a), np.abs(b))
        if algorithm.startswith("winograd"):
            size = np.max(size)
        elif algorithm == "fft":
            size = np.linalg.norm(a.astype(np.float64)) * np.linalg.norm(b.astype(np.float64))
        worst = max(worst or 0.0, float(np.max(np.abs(got - want) / size)))
        accumulator = UNIT["float32" if dtype in ("bfloat16", "float16") else dtype]
        bound = max(bound, UNIT[dtype] + terms(spec, role) * accumulator)
    return worst, bound


def shown(cell: tuple[float | None, float]) -> str:
    return "-" if cell[0] is None else f"{cell[0]:.1e}"


def main() -> None:
    names = [name for name, found in algorithms().items() if not found.variant]
    print(f"| dtype | role | {' | '.join(names)} | bound |\n|---|---|{'---:|' * (len(names) + 1)}")
    for dtype in UNIT:
        for role in ROLES:
            cells = [measure(role, name, dtype) for name in names]
            print(f"| {dtype} | {role} | {' | '.join(map(shown, cells))} | {cells[0][1]:.1e} |", flush=True)


if __name__ == "__main__":
    main()
