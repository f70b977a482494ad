"""What a training step is: loss, gradients and an update by SGD with momentum, all in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

LEARNING_RATE = 0.01
MOMENTUM = 0.9
EPSILON = 1e-5
KEPT = 0.9  # of batch norm's running statistics

Values = list[dict[str, np.ndarray]]  # of each layer with parameters, in order, as jconv.layers names and lays them out


class Stepper(NamedTuple):
    """A compiled training step that keeps its own parameters; `run` makes one step and gives the loss before it."""

    run: Callable[[], Any]
    facts: dict[str, Any]
