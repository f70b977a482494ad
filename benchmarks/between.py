"""What stands between convolutions: pools, norms and an activation, forward, and forward and backward."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

import jconv
from benchmarks.harness import Effort, measured
from benchmarks.peers.base import Absent, load, seconds

NAME = "between"
SHAPE = (8, 56, 56, 64)  # of ResNet-50's first stage
EPSILON = 1e-5
TOLERANCE = 1e-3
PASSES = ("forward", "forward and backward")

Function = Callable[..., Any]


def _standardised(x: Any, axes: tuple[int, ...]) -> Any:
    return (x - x.mean(axes, keepdims=True)) * lax.rsqrt(x.var(axes, keepdims=True) + EPSILON)


def _by_groups(x: Any, scale: Any, bias: Any) -> Any:
    return _standardised(x.reshape(*x.shape[:-1], 8, -1), (1, 2, 4)).reshape(x.shape) * scale + bias


def _windows(op: Any, start: float, k: int, s: int, pad: int) -> Function:
    ends = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    return lambda x: lax.reduce_window(x, start, op, (1, k, k, 1), (1, s, s, 1), ends)


def _normalised(layer: jconv.layers.Layer) -> Function:
    _, state = layer.init(jax.random.key(0), SHAPE)
    return lambda x, scale, bias: layer.apply({"scale": scale, "bias": bias}, state, x, train=True)[0]


def _torch(name: str) -> Function:
    f = load("torch").nn.functional
    calls: dict[str, Function] = {
        "max pool 3×3, stride 2": lambda x: f.max_pool2d(x, 3, 2, 1),
        "max pool 2×2": lambda x: f.max_pool2d(x, 2),
        "average pool 2×2": lambda x: f.avg_pool2d(x, 2),
        "global average": lambda x: x.mean((2, 3)),
        "batch norm": lambda x, scale, bias: f.batch_norm(x, None, None, scale, bias, True, 0.1, EPSILON),
        "layer norm": lambda x, scale, bias: f.layer_norm(x.permute(0, 2, 3, 1), (64,), scale, bias, EPSILON),
        "group norm of 8": lambda x, scale, bias: f.group_norm(x, 8, scale, bias, EPSILON),
        "relu": f.relu,
    }
    return calls[name]


# Of each operation how jconv computes it, and how it is written on lax; those of three arguments have scale and bias.
OPERATIONS: dict[str, tuple[Function, Function]] = {
    "max pool 3×3, stride 2": (
        lambda x: jconv.max_pool(x, (3, 3), strides=2, padding=1),
        _windows(lax.max, -np.inf, 3, 2, 1),
    ),
    "max pool 2×2": (lambda x: jconv.max_pool(x, (2, 2)), _windows(lax.max, -np.inf, 2, 2, 0)),
    "average pool 2×2": (lambda x: jconv.avg_pool(x, (2, 2)), lambda x: _windows(lax.add, 0.0, 2, 2, 0)(x) / 4),
    "global average": (jconv.global_avg_pool, lambda x: x.mean((1, 2))),
    "batch norm": (
        _normalised(jconv.layers.BatchNorm(epsilon=EPSILON)),
        lambda x, scale, bias: _standardised(x, (0, 1, 2)) * scale + bias,
    ),
    "layer norm": (
        _normalised(jconv.layers.LayerNorm(epsilon=EPSILON)),
        lambda x, scale, bias: _standardised(x, (3,)) * scale + bias,
    ),
    "group norm of 8": (_normalised(jconv.layers.GroupNorm(8, epsilon=EPSILON)), _by_groups),
    "relu": (jax.nn.relu, lambda x: jnp.maximum(x, 0)),
}
WITH_PARAMETERS = ("batch norm", "layer norm", "group norm of 8")


def _on_jax(function: Function, backward: bool, operands: list[np.ndarray], g: np.ndarray) -> tuple[Function, Function]:
    def both(g: Any, *operands: Any) -> Any:
        y, pull = jax.vjp(function, *operands)
        return y, *pull(g)

    arrays = jax.device_put([g, *operands])
    compiled = jax.jit(both if backward else lambda g, *operands: (function(*operands),)).lower(*arrays).compile()
    return lambda: jax.block_until_ready(compiled(*arrays)), lambda result: list(map(np.asarray, result))


def _on_torch(name: str, backward: bool, operands: list[np.ndarray], g: np.ndarray) -> tuple[Function, Function]:
    torch, function = load("torch"), _torch(name)
    to = lambda v: torch.from_numpy(v).permute(0, 3, 1, 2) if v.ndim == 4 else torch.from_numpy(v)
    arrays = [to(v).requires_grad_(backward) for v in operands]
    ct = torch.from_numpy(g) if name in ("layer norm", "global average") else to(g)

    def run() -> Any:
        y = function(*arrays)
        return y, *(torch.autograd.grad(y, arrays, ct) if backward else ())

    def back(result: Any) -> list[np.ndarray]:
        plain = name == "layer norm"  # whose result is channels-last
        last = lambda i, v: v.permute(0, 2, 3, 1) if v.ndim == 4 and not (plain and i == 0) else v
        return [last(i, v).detach().numpy() for i, v in enumerate(result)]

    return run, back


def measure(name: str, backward: bool, effort: Effort) -> list[dict[str, Any]]:
    """One record for each candidate. All must agree with what is written on lax."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)
    own, by_lax = OPERATIONS[name]
    operands = [draw(*SHAPE), *([draw(64), draw(64)] if name in WITH_PARAMETERS else [])]
    g = draw(*jax.eval_shape(by_lax, *operands).shape)
    made = {"lax": _on_jax(by_lax, backward, operands, g), "jconv": _on_jax(own, backward, operands, g)}
    with contextlib.suppress(Absent):  # the report names it
        made["torch"] = _on_torch(name, backward, operands, g)
    expected: list[np.ndarray] = []
    for candidate, (run, back) in made.items():
        results = back(run())
        expected = expected or results
        for a, b in zip(results, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * np.max(np.abs(b)), err_msg=f"{name}: {candidate}")
    figures = measured(
        {k: run for k, (run, _) in made.items()}, {k: seconds(run) for k, (run, _) in made.items()}, effort
    )
    cell = {"kind": NAME, "operation": name, "pass": PASSES[backward]}
    return [{**cell, "candidate": candidate, **found} for candidate, found in figures.items()]
