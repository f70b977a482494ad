"""Seeded random argument sets of `lax.conv_general_dilated`, and what `jconv.lax` and `jax.lax` make of each.

`python -m tests.lax_grid --count 3000` tries many and prints what differs; `tests/test_lax.py` tries some.
"""

from __future__ import annotations

import argparse
import functools
import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

import jconv

DTYPES = ("float32",) * 8 + ("bfloat16", "float16", "int8", "int32", "uint8", "complex64")
TOLERANCE = {"bfloat16": 2e-2, "float16": 2e-3}
TRANSFORMS = ("plain", "jit", "jvp", "vjp", "second", "vmap lhs", "vmap rhs", "vmap both")


class Case(NamedTuple):
    """Operands by shape and dtype, options, and the transform that both are put under."""

    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    dtypes: tuple[str, str]
    options: dict[str, Any]
    transform: str
    axes: tuple[int, int]


def case(rng: random.Random) -> Case:
    """Mostly one that lax takes; about one in ten is spoilt."""
    rank = rng.choice((0, 1, 1, 2, 2, 2, 3))
    groups, batch_groups = rng.choice(((1, 1),) * 4 + ((2, 1), (3, 1), (1, 2), (1, 3)))
    batch, into, out = batch_groups * rng.randint(1, 3), rng.randint(1, 4), groups * batch_groups * rng.randint(1, 3)
    space, window = ([rng.randint(1, high) for _ in range(rank)] for high in (9, 4))
    if rng.random() < 0.2:  # a window larger than the result, as in a gradient with respect to a kernel
        window = [max(1, n - rng.randint(0, 2)) for n in space]
    some = lambda most: [rng.randint(1, most) if rng.random() < 0.5 else 1 for _ in range(rank)]
    options: dict[str, Any] = {"window_strides": tuple(some(3))}
    pairs = [(rng.randint(-1, 3), rng.randint(-1, 3)) for _ in range(rank)]
    options["padding"] = rng.choice(("SAME", "VALID", "SAME_LOWER", pairs, pairs, pairs))
    if rng.random() < 0.4:
        options["lhs_dilation"] = some(3)
        if isinstance(options["padding"], str):
            options["padding"] = pairs
    if rng.random() < 0.4:
        options["rhs_dilation"] = some(3)
    if groups > 1 or rng.random() < 0.1:
        options["feature_group_count"] = groups
    if batch_groups > 1:
        options["batch_group_count"] = batch_groups
    lhs, rhs = [batch, groups * into, *space], [out, into, *window]  # lax's own order
    if rng.random() < 0.7:
        orders = [rng.sample(range(rank + 2), rank + 2) for _ in range(3)]
        if rng.random() < 0.5:
            options["dimension_numbers"] = jax.lax.ConvDimensionNumbers(*map(tuple, orders))
        else:
            letters = ("NC", "OI", "NC")
            texts = [["?"] * (rank + 2) for _ in range(3)]
            for text, order, (a, b) in zip(texts, orders, letters, strict=True):
                for axis, letter in zip(order, (a, b, *"DHW"[:rank]), strict=True):
                    text[axis] = letter
            options["dimension_numbers"] = tuple(map("".join, texts))
        placed: list[list[int]] = []
        for shape, order in zip((lhs, rhs), orders, strict=False):
            placed.append([0] * (rank + 2))
            for axis, size in zip(order, shape, strict=True):
                placed[-1][axis] = size
        lhs, rhs = placed
    dtype = rng.choice(DTYPES)
    dtypes = (dtype, dtype)
    wider = {"bfloat16": "float32", "float16": "float32", "int8": "int32", "uint8": "int32", "float32": "float32"}
    if rng.random() < 0.3 and dtype in wider:
        options["preferred_element_type"] = jnp.dtype(wider[dtype])
    if rng.random() < 0.3:
        high = jax.lax.Precision.HIGH
        options["precision"] = rng.choice((None, "highest", high, jax.lax.Precision.HIGHEST, (high, high)))
    if rng.random() < 0.2:
        options["out_sharding"] = None
    if rng.random() < 0.1:
        match rng.randrange(5):
            case 0:
                rhs[rng.randrange(len(rhs))] += 1
            case 1:
                dtypes = (dtype, "float32" if dtype != "float32" else "int8")
            case 2:
                options["window_strides"] = (1,) * (rank + 1)
            case 3:
                options["padding"] = "ANY"
            case 4:
                lhs[rng.randrange(len(lhs))] = 0
    return Case(
        tuple(lhs),
        tuple(rhs),
        dtypes,
        options,
        rng.choice(TRANSFORMS),
        (rng.randrange(rank + 3), rng.randrange(rank + 3)),
    )


def draw(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float64)
    if dtype == "complex64":
        values = values + 1j * np.random.default_rng(seed + 100).integers(-3, 4, shape)
    return (values.astype(np.uint8) if dtype == "uint8" else values).astype(jnp.dtype(dtype))


def run(convs: tuple[Any, ...], c: Case) -> list[list[jax.Array]]:
    """The results, gradients included, of each: of one program with all, or eager ones where there is no transform."""
    lhs, rhs = draw(c.lhs, c.dtypes[0], 1), draw(c.rhs, c.dtypes[1], 2)
    also = [draw(shape, dtype, seed) for shape, dtype, seed in zip((c.lhs, c.rhs), c.dtypes, (3, 4), strict=True)]
    stack = lambda first, second, axis: np.stack([first, second], min(axis, first.ndim))
    transform = c.transform
    if transform in ("jvp", "vjp", "second") and not all(jnp.issubdtype(v.dtype, jnp.inexact) for v in (lhs, rhs)):
        transform = "plain"
    if transform == "plain":
        return [[conv(jnp.asarray(lhs), jnp.asarray(rhs), **c.options)] for conv in convs]
    axes = [min(axis, v.ndim) for axis, v in zip(c.axes, (lhs, rhs), strict=True)]
    if transform in ("vmap lhs", "vmap both"):
        lhs = stack(lhs, also[0], c.axes[0])
    if transform in ("vmap rhs", "vmap both"):
        rhs = stack(rhs, also[1], c.axes[1])

    def results(conv: Any, lhs: jax.Array, rhs: jax.Array, also: tuple[jax.Array, ...]) -> list[jax.Array]:
        fn = functools.partial(conv, **c.options)
        match transform:
            case "jvp":
                return list(jax.jvp(fn, (lhs, rhs), also))
            case "vjp":
                y, pull = jax.vjp(fn, lhs, rhs)
                return [y, *pull(jnp.ones_like(y))]
            case "second":
                real = lambda lhs, rhs: jnp.real(jnp.sum(fn(lhs, rhs) ** 2)).astype(jnp.float32)
                return list(jax.jvp(jax.grad(real, (0, 1)), (lhs, rhs), also)[1])
            case "vmap lhs":
                return [jax.vmap(fn, (axes[0], None))(lhs, rhs)]
            case "vmap rhs":
                return [jax.vmap(fn, (None, axes[1]))(lhs, rhs)]
            case "vmap both":
                return [jax.vmap(fn, tuple(axes))(lhs, rhs)]
        return [fn(lhs, rhs)]

    return jax.jit(lambda *operands: [results(conv, *operands) for conv in convs])(lhs, rhs, tuple(also))


def outcomes(convs: tuple[Any, ...], c: Case) -> list[list[jax.Array] | Exception]:
    """What each returns or raises; by itself, where one of them raises."""
    try:
        return [*run(convs, c)]
    except (TypeError, ValueError, IndexError, NotImplementedError, RuntimeError, AssertionError) as error:
        return [error] if len(convs) == 1 else [outcomes((conv,), c)[0] for conv in convs]


def difference(c: Case) -> str | None:
    """How jconv.lax differs from jax.lax, or None."""
    want, got = outcomes((jax.lax.conv_general_dilated, jconv.lax.conv_general_dilated), c)
    if isinstance(want, Exception) or isinstance(got, Exception):
        if type(want) is not type(got):
            return f"jax.lax: {want!r}; jconv.lax: {got!r}"
        # Under vmap jax.lax speaks of its batched operands, and jconv.lax of those that it was given.
        said = [re.sub(r"\d+", "#", str(e)) if "vmap" in c.transform else str(e) for e in (want, got)]
        return None if said[0] == said[1] else f"jax.lax says {want}; jconv.lax says {got}"
    for a, b in zip(want, got, strict=True):
        if (a.shape, a.dtype, a.weak_type) != (b.shape, b.dtype, b.weak_type):
            return f"jax.lax gives {jax.typeof(a)}, jconv.lax {jax.typeof(b)}"
        wide = np.complex128 if jnp.issubdtype(a.dtype, jnp.complexfloating) else np.float64
        exact, apart = np.asarray(a).astype(wide), np.asarray(b).astype(wide) - np.asarray(a).astype(wide)
        largest = max(1.0, float(np.max(np.abs(exact), initial=0.0)))
        if not np.all(np.abs(apart) <= TOLERANCE.get(c.dtypes[0], 1e-5) * largest):
            return f"values differ by {np.max(np.abs(apart))} of {largest}"
    return None


def tally(attempt: Callable[[int], tuple[str, str | None]], count: int) -> int:
    """Makes attempts, each of a kind, prints what is wrong with each, and sums up; the status to exit with."""
    tried: Counter[str] = Counter()
    failures = 0
    try:
        for i in range(count):
            kind, found = attempt(i)
            tried[kind] += 1
            if found:
                failures += 1
                print(found, flush=True)
            if i % 100 == 99:
                jax.clear_caches()
    except KeyboardInterrupt:
        print("stopped")
    print(f"{tried.total()} tried ({', '.join(f'{n} {what}' for what, n in sorted(tried.items()))}); {failures} failed")
    return int(failures > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    def attempt(i: int) -> tuple[str, str | None]:
        c = case(random.Random(args.seed * 1_000_003 + i))
        found = difference(c)
        return c.transform, f"{i}: {c}\n    {found}" if found else None

    return tally(attempt, args.count)


if __name__ == "__main__":
    sys.exit(main())
