"""Whole networks, training and inference, beside PyTorch, PyTorch compiled, and lax.

The networks are those of `jconv.models` and the same ones in torch.nn, with the same weights. A training step is loss,
gradients and an update by SGD with momentum; inference is a forward pass with the running statistics, and once more
with the norms folded into the convolutions (`jconv.layers.fold_batch_norm`). PyTorch has its images channels-last. lax
is the same program with every convolution and pool by lax alone.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from benchmarks.harness import Effort, measured
from benchmarks.peers.base import PLUGGED, Absent, load, rounded
from benchmarks.peers.on_jax import has_plugins
from benchmarks.steps import models as steps
from benchmarks.steps.pytorch import training_step
from jconv import _pool, interop, models
from jconv.layers import fold_batch_norm

NAME = "whole"
FOLDED = "jconv folded"  # with plug-ins, if there are any
MODES = ("training", "inference")
# The gradient of a ResNet-50 at its beginning is 1,700 long, and float32 leaves 2 % of it unknown, in lax as here: a
# step that is to give the same loss everywhere must be this small.
RATE = 1e-7
TOLERANCE = 5e-3  # of the loss before and after a step, and of the largest logit
CLASSES = 10


class Whole(NamedTuple):
    """A network, of jconv and of torch.nn, and the images that it is given."""

    shape: tuple[int, ...]
    make: Callable[..., Any]
    there: Callable[[Any], Any]
    positions: tuple[int, ...] = ()


NETWORKS = {
    "lenet5": Whole((64, 32, 32, 1), models.lenet5, lambda t: t.lenet5()),
    "resnet18": Whole((8, 112, 112, 3), models.resnet18, lambda t: t.resnet18(64, CLASSES)),
    "resnet50": Whole((4, 112, 112, 3), models.resnet50, lambda t: t.resnet50(64, CLASSES)),
    "mobilenet_v2": Whole((8, 112, 112, 3), models.mobilenet_v2, lambda t: t.MobileNetV2(CLASSES)),
    "convnext_tiny": Whole((4, 112, 112, 3), models.convnext_tiny, lambda t: t.ConvNeXt(96, CLASSES)),
    "unet": Whole((4, 96, 96, 3), models.unet, lambda t: t.UNet(64, 4, 3, CLASSES), (96, 96)),
}
LENET_NAMES = dict(zip(("c1", "c3", "c5", "f6", "output"), ("0", "3", "7", "9", "11"), strict=True))


@contextlib.contextmanager
def pools_by_lax() -> Iterator[None]:
    """Inside, pools are traced as those of lax."""
    with mock.patch.object(_pool.Windows, "over_each", _pool.Windows.by_lax):
        yield


def _on_jax(whole: Whole, algorithm: str, mode: str, trees: Any, x: np.ndarray, labels: np.ndarray, folded=False):
    network = whole.make(classes=CLASSES, algorithm=algorithm)
    if folded:
        network, *trees = fold_batch_norm(network, *trees)
    if mode == "training":
        apply = lambda params, state, x: network.apply(params, state, x, train=True)
        params, state = trees
        step = steps.stepper(steps.Model(params, state, apply), x, labels, RATE)
        return step.run, step.facts
    arrays = jax.device_put((*trees, x))
    start = time.perf_counter()
    compiled = jax.jit(lambda params, state, x: network.apply(params, state, x)[0]).lower(*arrays).compile()
    facts = {"compile_s": rounded(time.perf_counter() - start)}
    return lambda: jax.block_until_ready(compiled(*arrays)), facts


def _on_torch(whole: Whole, name: str, mode: str, trees: Any, x: np.ndarray, labels: np.ndarray, compiled: bool):
    torch = load("torch")
    from benchmarks.peers import torch_networks

    module = whole.there(torch_networks)
    network = whole.make(classes=CLASSES)
    names: Any = LENET_NAMES if name == "lenet5" else module.names() if name == "unet" else None
    arrays = interop.to_torch(network, x.shape, *trees, names=names or models.names(network, "torchvision"))
    module.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in arrays.items()}, strict=True)
    for each in module.modules():
        if isinstance(each, torch.nn.Dropout):
            each.p = 0.0
    module = module.to(memory_format=torch.channels_last)
    images = torch.from_numpy(np.moveaxis(x, -1, 1)).contiguous(memory_format=torch.channels_last)
    classes = torch.from_numpy(labels.astype(np.int64))
    run = torch.compile(module) if compiled else module
    if mode == "inference":
        module.eval()

        def infer() -> Any:
            with torch.inference_mode():
                return run(images)

        return infer
    return training_step(torch, run, images, classes, RATE)


def _figure(result: Any, mode: str) -> np.ndarray:
    """What a run gives, as logits with the classes last, or a loss."""
    is_torch = not isinstance(result, jax.Array)
    array = result.numpy() if is_torch else np.asarray(result)
    return np.moveaxis(array, 1, -1) if is_torch and mode == "inference" else array


def measure(name: str, mode: str, effort: Effort) -> list[dict[str, Any]]:
    """One record for each candidate; of kind "wrong", without a time, where a result is not that of the first one."""
    whole = NETWORKS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal(whole.shape, np.float32)
    labels = rng.integers(CLASSES, size=(whole.shape[0], *whole.positions)).astype(np.int32)
    trees = jax.jit(whole.make(classes=CLASSES).init, static_argnums=1)(jax.random.key(0), whole.shape)
    trees = jax.tree.map(np.asarray, trees)

    def by_lax() -> Any:
        with pools_by_lax():
            return _on_jax(whole, "xla", mode, trees, x, labels)

    candidates: dict[str, Callable[[], Any]] = {
        "jconv": lambda: _on_jax(whole, "portable", mode, trees, x, labels),
        PLUGGED: lambda: _on_jax(whole, "auto", mode, trees, x, labels),
        "lax": by_lax,
        "torch": lambda: (_on_torch(whole, name, mode, trees, x, labels, False), {}),
    }
    if mode == "inference" and jax.tree.leaves(trees[1]):
        best = "auto" if has_plugins() else "portable"
        candidates[FOLDED] = lambda: _on_jax(whole, best, mode, trees, x, labels, folded=True)
    if not has_plugins():
        del candidates[PLUGGED]
    if shutil.which("g++"):  # which PyTorch compiles with
        candidates["torch.compile"] = lambda: (_on_torch(whole, name, mode, trees, x, labels, True), {})
    records, runs, first, wrong = {}, {}, {}, []
    expected: np.ndarray | None = None
    for candidate, prepare in candidates.items():
        try:
            run, facts = prepare()
        except Absent:
            continue  # the report names it
        cell = {"network": name, "mode": mode, "candidate": candidate}
        found = []
        for _ in range(2):
            start = time.perf_counter()
            found.append(_figure(run(), mode))
            first[candidate] = time.perf_counter() - start
        figures = np.array(found)
        expected = figures if expected is None else expected
        error = np.max(np.abs(figures - expected)) / np.max(np.abs(expected))
        if not error < TOLERANCE:
            wrong.append({"kind": "wrong", **cell, "error": float(error)})
            continue
        runs[candidate] = run
        records[candidate] = {"kind": NAME, **cell, "error": float(error), **facts}
    for candidate, figures in measured(runs, first, effort).items():
        records[candidate] |= figures
    return [*records.values(), *wrong]
