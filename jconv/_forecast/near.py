"""What was measured of calls that are alike corrects a forecast.

Let e_i be the logarithm of what a plan took over what it was forecast in call i of the survey, less most of what all
plans of that call have in common, and d_i how far that call is from the one at hand, in octaves of each of their sizes.
The forecast is multiplied by exp of

    sum_i w_i e_i / (ridge + sum_i w_i),      w_i = exp(-d_i^2 / (2 length^2)),

the mean of what is near, and nearly nothing where nothing is. `length` and `ridge` are those with which each call is
told best by the others (`python -m benchmarks fit`).

    Source: kernel regression, Nadaraya, "On estimating regression", 1964, and Watson, "Smooth regression analysis",
    1964; the ridge is a measurement of no error anywhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .._spec import ConvSpec

UNIT = 32  # of which an octave has so many
MOST = 3 * UNIT  # what is further off than this is as far: it was forecast by a price that few have
APART = 100.0  # octaves between dense and depthwise convolutions, or of one axis and of two
SIZES = 13  # numbers that a call is compared by


def sizes_of(spec: ConvSpec) -> list[int]:
    """What a call is compared by."""
    groups, window = spec.feature_group_count, (*spec.window, 1, 1, 1)
    return [
        math.prod(spec.batch_shape),
        math.prod(spec.spatial),
        *window[:3],
        groups,
        spec.in_features // groups,
        spec.out_features // groups,
        math.prod(spec.strides),
        math.prod(spec.input_dilation),
        math.prod(spec.kernel_dilation),
        1 + any(map(any, spec.padding)),
        spec.rank,
    ]


def _places(sizes: Iterable[Sequence[int]]) -> np.ndarray:
    """Points whose distances are what is between calls: logarithms of sizes, and kinds that are far apart."""
    found = np.array([*sizes], np.float32)
    kind = np.minimum(found[:, 5], 2) + (found[:, 5] > 1) * (found[:, 6] == 1)  # dense, grouped, depthwise
    return np.column_stack([np.log2(np.maximum(found[:, :-1], 1)), APART * found[:, -1], APART * kind])


def told(squares: np.ndarray, errors: np.ndarray, known: np.ndarray, length: float, ridge: float) -> np.ndarray:
    """The formula above: what calls tell of one at hand, or of several, to which they are so far, squared."""
    weights = np.exp(-squares / (2 * length**2))
    return weights @ errors / (weights @ known + ridge)


class Near:
    """The surveyed calls of one dtype and role.

    `lines` has one for each, of whole numbers: its sizes, then pairs of a plan's number in `plans` and its error, in
    units of 1/32 of an octave.
    """

    def __init__(self, lines: Sequence[str], plans: Sequence[str], length: float, ridge: float) -> None:
        self.lines, self.plans, self.length, self.ridge = lines, plans, length, ridge

    @functools.cached_property
    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the calls are, the errors of all plans, and which of these are known."""
        errors = np.zeros((len(self.lines), len(self.plans)), np.float32)
        known, sizes = np.zeros_like(errors), []
        for i, line in enumerate(self.lines):
            numbers = np.fromstring(line, np.int64, sep=" ")
            sizes.append(numbers[:SIZES])
            errors[i, numbers[SIZES::2]] = numbers[SIZES + 1 :: 2]
            known[i, numbers[SIZES::2]] = 1.0
        return _places(sizes), errors, known

    def factors(self, spec: ConvSpec) -> dict[str, float]:
        """What the forecast of each plan is to be multiplied by that was measured in some call of this kind."""
        if not all(isinstance(n, int) for n in spec.x_shape):
            return {}
        places, errors, known = self.tables
        away = places - _places([sizes_of(spec)])
        squares = np.einsum("ij,ij->i", away, away)
        factors = np.exp2(told(squares, errors, known, self.length, self.ridge) / UNIT).tolist()
        measured = (squares < APART**2) @ known > 0
        return {name: f for name, f, seen in zip(self.plans, factors, measured.tolist(), strict=True) if seen}


def line_of(spec: ConvSpec, errors: Mapping[int, float]) -> str:
    """The line of a call; `errors` are logarithms, by the number of the plan."""
    numbers = sizes_of(spec)
    for plan, error in errors.items():
        numbers += [plan, max(-MOST, min(MOST, round(UNIT * error / math.log(2))))]
    return " ".join(map(str, numbers))
