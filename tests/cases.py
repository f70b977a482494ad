"""The geometries that every algorithm is held to: named ones, and random ones from a fixed seed."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np

import jconv
from jconv._algorithms import ALGORITHMS, pallas
from jconv._algorithms.base import Call
from jconv._cache import platform_of, this_device
from jconv._plan import Plan, Plans, named_plan
from jconv.plugins import algorithms
from tests import oracle
from tests.numerics import dtype_of

# Algorithms that cover every call, and plans between which every algorithm and every reduction is met, some twice.
GENERAL = ("xla", "einsum")
COMPOSED = (
    "fold+xla",
    "fold+matmul",
    "unfold+xla",
    "unfold+fold+einsum",
    "fold+unfold+matmul",
    "group+xla",
    "unfold+group+matmul",
    "split+xla",
    "swap+shift",
    "swap+fold+xla",
)
PLATFORM = platform_of(this_device())


def _is_here(name: str) -> bool:
    spec = jconv.ConvSpec((1, 9, 1), (3, 1, 1))
    return named_plan(name).refusal(Call(spec, "forward", *[np.dtype("float32")] * 2, None, PLATFORM)) is None


# jconv's own algorithms that exist on this platform, and those of plug-ins that are installed here
OWN = tuple(name for name in ALGORITHMS if _is_here(name) and not ALGORITHMS[name].variant)
PLUGGED = tuple(name for name in algorithms() if name not in ALGORITHMS and _is_here(name))
PLANS = (*OWN, *COMPOSED, *PLUGGED)
# The kernels for GPUs, interpreted: a plan that runs anywhere, slowly.
INTERPRETED = Plans(*[Plan(pallas.Kernels(interpret=True).algorithm("interpreted"))] * 3)


@dataclasses.dataclass(frozen=True)
class Case:
    """One convolution; `x` has exactly one batch axis."""

    name: str
    x: tuple[int, ...]
    kernel: tuple[int, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def spec(self) -> jconv.ConvSpec:
        return jconv.ConvSpec(self.x, self.kernel, **self.options)

    @property
    def geometry(self) -> dict[str, Any]:
        """What the oracle takes: numbers only."""
        names = ("strides", "padding", "input_dilation", "kernel_dilation")
        return {name: getattr(self.spec, name) for name in names} | {"groups": self.spec.feature_group_count}

    def __str__(self) -> str:
        return self.name


NAMED = [
    Case("rank0", (3, 4), (4, 5)),
    Case("rank0-groups", (3, 6), (2, 9), {"feature_group_count": 3}),
    Case("1d-valid", (2, 11, 3), (4, 3, 5), {"padding": "VALID"}),
    Case("1d-same-even-window", (2, 10, 2), (4, 2, 3)),
    Case("1d-same-lower", (2, 10, 2), (4, 2, 3), {"padding": "SAME_LOWER", "strides": 3}),
    Case("1d-causal-dilated", (2, 9, 2), (3, 2, 4), {"padding": "CAUSAL", "kernel_dilation": 2}),
    Case("1d-full", (1, 5, 1), (3, 1, 1), {"padding": "FULL"}),
    Case("1d-long-window", (1, 12, 1), (31, 1, 2), {"padding": [(20, 20)]}),
    Case("2d-same", (2, 6, 7, 3), (3, 3, 3, 4)),
    Case("2d-pointwise", (2, 5, 4, 3), (1, 1, 3, 6)),
    Case("2d-pointwise-strided", (2, 5, 4, 3), (1, 1, 3, 6), {"strides": 2}),
    Case("2d-strided", (2, 9, 8, 3), (3, 3, 3, 4), {"strides": 2}),
    Case("2d-stride-per-axis", (2, 9, 8, 2), (3, 2, 2, 4), {"strides": (3, 1), "padding": "VALID"}),
    Case("2d-stride-beyond-window", (1, 11, 10, 2), (2, 3, 2, 3), {"strides": (4, 5), "padding": "VALID"}),
    Case("2d-stride-leaves-rest", (1, 8, 9, 2), (3, 3, 2, 2), {"strides": 3, "padding": "VALID"}),
    Case("2d-asymmetric-pad", (1, 5, 6, 2), (3, 3, 2, 3), {"padding": ((0, 3), (2, 0))}),
    Case("2d-pad-beyond-window", (1, 4, 4, 1), (2, 2, 1, 2), {"padding": 5, "strides": 3}),
    Case("2d-negative-pad", (1, 8, 9, 2), (3, 2, 2, 3), {"padding": ((-1, -2), (-3, 2))}),
    Case("2d-crop-all-but-one", (1, 6, 6, 1), (1, 1, 1, 1), {"padding": ((-3, -2), (0, -5))}),
    Case("2d-dilated", (1, 9, 10, 2), (3, 2, 2, 3), {"kernel_dilation": (2, 3)}),
    Case("2d-input-dilated", (1, 4, 5, 2), (3, 3, 2, 3), {"input_dilation": (2, 3), "padding": "FULL"}),
    Case("2d-everything", (2, 7, 6, 4), (3, 2, 2, 6),
         {"strides": (2, 3), "padding": ((2, -1), (1, 4)), "input_dilation": (3, 2), "kernel_dilation": (2, 3),
          "feature_group_count": 2}),
    Case("2d-groups", (2, 5, 6, 6), (3, 3, 2, 9), {"feature_group_count": 3}),
    Case("2d-groups-strided", (2, 7, 6, 4), (3, 3, 2, 4), {"feature_group_count": 2, "strides": 2}),
    Case("2d-depthwise", (2, 6, 5, 4), (3, 3, 1, 4), {"feature_group_count": 4}),
    Case("2d-depthwise-multiplier", (2, 6, 5, 3), (3, 3, 1, 6), {"feature_group_count": 3}),
    Case("2d-window-as-image", (2, 4, 5, 3), (4, 5, 3, 2), {"padding": "VALID"}),
    Case("2d-one-row", (2, 1, 7, 2), (1, 3, 2, 3)),
    Case("2d-causal-second-axis", (1, 5, 6, 2), (3, 3, 2, 2), {"padding": "CAUSAL"}),
    Case("2d-causal-first-axis", (1, 5, 6, 2), (3, 3, 2, 2), {"padding": ("CAUSAL", "SAME")}),
    Case("2d-mixed-padding", (1, 6, 7, 2), (3, 4, 2, 2), {"padding": ("SAME_LOWER", (1, 2)), "strides": 2}),
    Case("1d-depthwise-strides-share-a-factor", (2, 9, 3), (3, 1, 6),
         {"strides": 2, "input_dilation": 2, "kernel_dilation": 2, "padding": ((2, 2),), "feature_group_count": 3}),
    Case("2d-strides-share-a-factor", (1, 5, 6, 2), (3, 2, 2, 2),
         {"strides": (4, 2), "input_dilation": 2, "padding": ((2, 3), (-1, 2))}),
    Case("3d-same", (1, 4, 5, 3, 2), (3, 3, 3, 2, 3)),
    Case("3d-strided-groups", (1, 5, 4, 6, 4), (2, 3, 2, 2, 4), {"strides": (2, 1, 3), "feature_group_count": 2}),
    Case("3d-dilated", (1, 5, 5, 4, 2), (2, 2, 2, 2, 2), {"kernel_dilation": (2, 1, 3), "padding": 1}),
    Case("4d", (1, 3, 4, 3, 2, 2), (2, 2, 1, 2, 2, 2), {"strides": (1, 2, 1, 1)}),
    Case("single-element", (1, 1, 1, 1), (1, 1, 1, 1)),
    Case("batch-of-none", (0, 5, 5, 2), (3, 3, 2, 3)),
]  # fmt: skip


def random_case(seed: int) -> Case:
    rng = random.Random(seed)
    while True:
        rank = rng.choice((0, 1, 1, 2, 2, 2, 3))
        groups = rng.choice((1, 1, 2, 3))
        x = (rng.randint(1, 3), *(rng.randint(1, 8) for _ in range(rank)), groups * rng.randint(1, 3))
        kernel = (*(rng.randint(1, 4) for _ in range(rank)), x[-1] // groups, groups * rng.randint(1, 3))
        several = lambda high: tuple(rng.randint(1, high) for _ in range(rank))
        pads = lambda: (rng.randint(-2, 4), rng.randint(-2, 4))
        entries = tuple(rng.choice(("SAME", "VALID", "FULL", "CAUSAL", "SAME_LOWER", pads())) for _ in range(rank))
        options = {
            "strides": several(3),
            "padding": entries,
            "input_dilation": several(2),
            "kernel_dilation": several(3),
            "feature_group_count": groups,
        }
        try:
            jconv.ConvSpec(x, kernel, **options)
        except ValueError:
            continue  # the window does not fit; draw again
        return Case(f"random{seed}", x, kernel, options)


RANDOM = [random_case(seed) for seed in range(9)]
CASES = NAMED + RANDOM
# a few that between them use every option, for tests that multiply cases by something else
FEW = [c for c in NAMED if c.name in ("rank0-groups", "1d-causal-dilated", "2d-everything", "2d-depthwise", "3d-same")]


def draw(shape, dtype="float32", seed=0):
    """Random numbers of a dtype; integers over its whole range where that is 8 bits."""
    rng = np.random.default_rng([seed, *shape])
    dtype = np.dtype(dtype) if not isinstance(dtype, np.dtype) else dtype
    if dtype.kind in "iu":
        low = 0 if dtype.kind == "u" else -100
        return rng.integers(low, 101, shape).astype(dtype)
    values = rng.standard_normal(shape)
    if dtype.kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def operands(case, role, dtype="float32"):
    spec = case.spec
    shapes = {"x": spec.x_shape, "k": spec.kernel_shape, "g": spec.output_shape}
    names = {"forward": "xk", "input_grad": "gk", "kernel_grad": "xg"}[role]
    return [draw(shapes[n], dtype_of(dtype), seed=i) for i, n in enumerate(names)]


def run(case, role, a, b, **options):
    options = case.options | options
    if role == "forward":
        return jconv.conv(a, b, **options)
    if role == "input_grad":
        return jconv.conv_input_grad(a, b, case.x, **options)
    return jconv.conv_kernel_grad(a, b, case.kernel[:-2], **options)


def truth(case, role, a, b):
    if role == "forward":
        return oracle.forward(a, b, **case.geometry)
    if role == "input_grad":
        return oracle.input_grad(a, b, case.x, **case.geometry)
    return oracle.kernel_grad(a, b, case.kernel[:-2], **case.geometry)
