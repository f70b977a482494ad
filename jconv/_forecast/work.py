"""What an algorithm does, in counts that no platform enters.

Each kind of work says how much of it there is, and in what shape; what that costs is the model's of the platform
(`cpu`, `cuda`). `kind` names the code that does it where several do the same work differently: a model that knows no
such kind takes its price of the plain one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Union

from .._spec import ConvSpec

# What the time of work is a sum of on a platform: names, and how much of each.
Counts = Iterator[tuple[str, float]]


class Product(NamedTuple):
    """`times` matrix products ``[rows, depth] @ [depth, columns]``."""

    rows: float
    depth: float
    columns: float
    times: float = 1.0
    kind: str = "plain"

    def __mul__(self, times: float) -> Product:  # type: ignore[override]
        return self._replace(times=self.times * times)


class Loop(NamedTuple):
    """Multiply-adds in loops over `lanes` adjacent elements."""

    macs: float
    lanes: float = 16.0
    kind: str = "plain"

    def __mul__(self, times: float) -> Loop:  # type: ignore[override]
        return self._replace(macs=self.macs * times)


class Copy(NamedTuple):
    """`times` copies of so many bytes from one place to another, each in so many runs of adjacent elements."""

    bytes: float
    runs: float = 0.0
    kind: str = "plain"
    times: float = 1.0

    def __mul__(self, times: float) -> Copy:  # type: ignore[override]
        return self._replace(times=self.times * times)


class Transform(NamedTuple):
    """Fourier transforms of `elements` in all, each of `length`."""

    elements: float
    length: float
    kind: str = "plain"

    def __mul__(self, times: float) -> Transform:  # type: ignore[override]
        return self._replace(elements=self.elements * times)


class Convolution(NamedTuple):
    """`times` convolutions that are left to XLA; `role` is one of "forward", "input_grad" and "kernel_grad"."""

    spec: ConvSpec
    role: str
    times: float = 1.0
    kind: str = "plain"

    def __mul__(self, times: float) -> Convolution:  # type: ignore[override]
        return self._replace(times=self.times * times)


class Launch(NamedTuple):
    """Computations that are begun one after the other."""

    number: float
    kind: str = "plain"

    def __mul__(self, times: float) -> Launch:  # type: ignore[override]
        return self._replace(number=self.number * times)


Step = Union[Product, Loop, Copy, Transform, Convolution, Launch]  # noqa: UP007


class Work(NamedTuple):
    """What one call does.

    Args:
        steps: of `Product`, `Loop`, `Copy`, `Transform`, `Convolution` and `Launch`.
        workspace: bytes needed beyond operands and result.
    """

    steps: tuple[Step, ...] = ()
    workspace: int = 0

    def __mul__(self, times: float) -> Work:  # type: ignore[override]
        """The same work several times, one after the other: the workspace is used again."""
        return self if times == 1 else Work(tuple(step * times for step in self.steps), self.workspace)

    def __add__(self, other: Work) -> Work:  # type: ignore[override]
        return Work(self.steps + other.steps, self.workspace + other.workspace)
