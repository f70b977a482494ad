"""Whole training steps: the same network, parameters, batch and update in every library."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from benchmarks.harness import Effort, measured
from benchmarks.networks import Network
from benchmarks.peers.base import PLUGGED, Absent

from . import models
from .base import Stepper, Values
from .pytorch import torch_stepper

TOLERANCE = 1e-4  # of the loss, after each of the first steps
CHECKED = 2

LIBRARIES: dict[str, Callable[..., models.Model]] = {
    "jconv": functools.partial(models.own_model, algorithm="portable"),
    PLUGGED: functools.partial(models.own_model, algorithm="auto"),
    "jconv:xla": functools.partial(models.own_model, algorithm="xla"),
    "flax": models.flax_model,
    "haiku": models.haiku_model,
    "equinox": models.equinox_model,
    "keras": models.keras_model,
}


def prepare(library: str, network: Network, values: Values, x: np.ndarray, labels: np.ndarray) -> Stepper:
    """The network's training step in one library; raises Absent where that is not installed."""
    if library == "torch":
        return torch_stepper(network, values, x, labels)
    return models.stepper(LIBRARIES[library](network, values), x, labels)


def measure(network: Network, libraries: Iterable[str], effort: Effort) -> list[dict[str, Any]]:
    """One record for each library. The losses of the first steps, from equal parameters, must be those of jconv; where
    they are not the record is of kind "wrong", and without a time."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(network.input_shape, np.float32)
    labels = rng.integers(network.classes, size=(network.input_shape[0], *network.positions)).astype(np.int32)
    values = models.initial_values(network)
    records: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[], Any]] = {}
    first: dict[str, float] = {}
    expected: list[float] = []
    wrong = []
    for library in ("jconv", "jconv:xla", *libraries):
        try:
            step = prepare(library, network, values, x, labels)
        except Absent:
            continue  # the report names it
        losses = []
        for _ in range(CHECKED):
            start = time.perf_counter()
            losses.append(float(step.run()))
            first[library] = time.perf_counter() - start
        expected = expected or losses
        if not np.allclose(losses, expected, rtol=TOLERANCE, atol=0):
            wrong.append({"kind": "wrong", "network": network.name, "candidate": library, "losses": losses})
            continue
        runs[library] = step.run
        records[library] = {
            "kind": "step",
            "network": network.name,
            "candidate": library,
            "losses": losses,
            **step.facts,
        }
    for name, figures in measured(runs, first, effort).items():
        records[name] |= figures
    return [*records.values(), *wrong]
