"""What a measured result is compared with: the definition of each role, summed in float64.

`oracle_of` computes all of it with the tests' oracle. That takes minutes for large layers, so `sampled` sums single
elements by the same definition; `tests/test_benchmarks.py` holds it to the oracle. Half of the elements lie on the
border, where padding matters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import jconv
from tests import oracle

TOLERANCE = 1e-5  # of the largest sum of absolute products; float32
ELEMENTS = 64


class Sample(NamedTuple):
    """Elements of a result: where they are, what they must be, and the sum of the absolute products of each."""

    where: tuple[np.ndarray, ...]
    values: np.ndarray
    sizes: np.ndarray

    def error(self, result: np.ndarray) -> float:
        """The largest difference, relative to the largest sum of absolute products; inf where it is no number."""
        worst = np.max(np.abs(np.asarray(result[self.where], np.float64) - self.values)) / np.max(self.sizes)
        return float(worst) if np.isfinite(worst) else float("inf")


def oracle_of(role: str, spec: jconv.ConvSpec, a: Any, b: Any) -> np.ndarray:
    """The whole result of one role in float64."""
    geometry: dict[str, Any] = {
        n: getattr(spec, n) for n in ("strides", "padding", "input_dilation", "kernel_dilation")
    }
    geometry["groups"] = spec.feature_group_count
    if role == "forward":
        return oracle.forward(a, b, **geometry)
    if role == "input_grad":
        return oracle.input_grad(a, b, spec.x_shape, **geometry)
    return oracle.kernel_grad(a, b, spec.window, **geometry)


def _meet(role: str, axis: Any, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Along one axis, the indices of both operands that meet in one element of the result: p q = o s + t d - lo."""
    other = np.arange(axis.o if role == "kernel_grad" else axis.k)  # the outputs, or the taps
    if role == "forward":
        numerator, divisor, size = index * axis.s + other * axis.d - axis.lo, axis.q, axis.n
    elif role == "input_grad":
        numerator, divisor, size = index * axis.q - other * axis.d + axis.lo, axis.s, axis.o
    else:
        numerator, divisor, size = other * axis.s + index * axis.d - axis.lo, axis.q, axis.n
    found = numerator // divisor
    valid = (numerator % divisor == 0) & (found >= 0) & (found < size)
    return found[valid], other[valid]


def _products(role: str, spec: jconv.ConvSpec, a: np.ndarray, b: np.ndarray, index: tuple[int, ...]) -> np.ndarray:
    """All products that one element of the result sums."""
    groups = spec.feature_group_count
    ins, outs = spec.in_features // groups, spec.out_features // groups
    if role == "kernel_grad":
        *places, i, c = index
        a, b = a[..., c // outs * ins + i], b[..., c]
        first = second = [np.arange(a.shape[0])]  # the batch
        last: list[tuple[np.ndarray, np.ndarray]] = []
    else:
        example, *places, channel = index
        own, summed = (outs, ins) if role == "forward" else (ins, outs)
        group = channel // own * summed + np.arange(summed)  # the channels of the first operand
        a, b = a[example], b[..., channel] if role == "forward" else b[..., channel % ins, :]
        first, second = [], []
        last = [(group, np.arange(summed) if role == "forward" else group)]
    pairs = [*(_meet(role, axis, place) for axis, place in zip(spec.axes, places, strict=True)), *last]
    left = a[np.ix_(*first, *(p[0] for p in pairs))]  # type: ignore[arg-type]
    right = b[np.ix_(*second, *(p[1] for p in pairs))]  # type: ignore[arg-type]
    return left.astype(np.float64) * right.astype(np.float64)


def sampled(role: str, spec: jconv.ConvSpec, a: np.ndarray, b: np.ndarray, count: int = ELEMENTS) -> Sample:
    """`count` elements of one role's result, drawn at random, every other one from the border."""
    shapes = {"forward": spec.output_shape, "input_grad": spec.x_shape, "kernel_grad": spec.kernel_shape}
    rng = np.random.default_rng(1)
    indices = []
    for i in range(count):
        index = tuple(int(rng.integers(n)) for n in shapes[role])
        indices.append(tuple(int(rng.choice((0, n - 1))) for n in shapes[role]) if i % 2 else index)
    products = [_products(role, spec, a, b, index) for index in indices]
    where = tuple(np.array(axis) for axis in zip(*indices, strict=True))
    return Sample(where, np.array([p.sum() for p in products]), np.array([np.abs(p).sum() for p in products]))
