"""What a peer is: a library that computes a role of a layer its own way, in its own layout."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

import jconv

ROLES = ("forward", "input_grad", "kernel_grad")
OPERANDS = {"forward": ("x", "kernel"), "input_grad": ("g", "kernel"), "kernel_grad": ("x", "g")}
PLUGGED = "jconv+"  # jconv with its plug-ins
RESULT = {"forward": "g", "input_grad": "x", "kernel_grad": "kernel"}  # what it is shaped like


class NotExpressible(Exception):
    """The library has no such layer; the message says what it lacks."""


class Absent(Exception):
    """The library is not installed, or not for this platform."""


class Layout(NamedTuple):
    """An array of jconv's layout as a library wants it: flipped along some axes, then transposed."""

    axes: tuple[int, ...]
    flip: tuple[int, ...] = ()

    def to(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.flip(array, self.flip).transpose(self.axes))

    def back(self, array: np.ndarray) -> np.ndarray:
        return np.flip(array.transpose(np.argsort(self.axes)), self.flip)


class Prepared(NamedTuple):
    """One role of one layer, ready to run: compiled, its operands in place and in the library's layout.

    `run` computes once and waits for the result, which `result` gives as jconv lays it out. `facts` go into the record.
    """

    run: Callable[[], Any]
    result: Callable[[Any], np.ndarray]
    facts: dict[str, Any]


class Peer(Protocol):
    """A library. `prepare` raises NotExpressible for a layer that the library does not have."""

    @property
    def name(self) -> str: ...

    def prepare(self, role: str, spec: jconv.ConvSpec, operands: list[np.ndarray]) -> Prepared: ...


def load(module: str) -> Any:
    """An optional library, by name, so that types and lint do not depend on what is installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Absent(f"{module}: {error}") from error


def is_transposed(spec: jconv.ConvSpec) -> bool:
    return any(q > 1 for q in spec.input_dilation)


def kernel_layout(rank: int, order: str, *, flip: bool = False) -> Layout:
    """The layout of a kernel: `order` has o and i for the channels and k for the window."""
    places = {"i": (rank,), "o": (rank + 1,), "k": tuple(range(rank))}
    return Layout(tuple(axis for letter in order for axis in places[letter]), tuple(range(rank)) if flip else ())


def image_layout(rank: int, *, channels_first: bool = False) -> Layout:
    return Layout((0, rank + 1, *range(1, rank + 1)) if channels_first else tuple(range(rank + 2)))


def padding_of_transposed(spec: jconv.ConvSpec) -> tuple[int, ...]:
    """The padding that PyTorch and Equinox give the transposed convolution with no output padding.

    A transposed convolution of stride q that pads p is one with input dilation q that pads (k - 1) d - p.
    """
    if any(s > 1 for s in spec.strides):
        raise NotExpressible("a transposed convolution with strides of its own")
    pads = tuple((axis.k - 1) * axis.d - axis.lo for axis in spec.axes)
    if any(axis.lo != axis.hi for axis in spec.axes) or any(p < 0 for p in pads):
        raise NotExpressible("a transposed convolution padded otherwise on each side")
    return pads


def rounded(value: float) -> float:
    """A figure in six digits, however small it is."""
    return float(f"{value:.6g}")


def seconds(run: Callable[[], Any], calls: int = 1) -> float:
    """Seconds for one call, as the mean over `calls`; each waits for its result."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def fastest(
    choices: dict[str, Callable[[], Any]], calls: int = 3, enough_s: float = 1.0
) -> tuple[str, dict[str, float]]:
    """The name of the choice with the smallest best time, and the best milliseconds of each."""
    best = {}
    for name, run in choices.items():
        run()
        times = [seconds(run)]
        while len(times) < calls and sum(times) < enough_s:
            times.append(seconds(run))
        best[name] = min(times)
    return min(best, key=lambda n: best[n]), {name: rounded(s * 1e3) for name, s in best.items()}
