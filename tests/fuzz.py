"""Random calls of jconv's functions and layers, in JAX's strict modes, against lax and the definitions.

`python -m tests.fuzz --count 2000` tries many and prints what differs, each with the line that reproduces it; with
`--only NAME` one kind of call alone. `tests/test_fuzz.py` tries some. The references share nothing with jconv: they pad the
image themselves and leave the products to `lax.conv_general_dilated`, `lax.reduce_window` or NumPy. Operands are small whole
numbers, so sums are exact but for those of the algorithms that say otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

import jconv
from jconv import layers
from jconv._algorithms.base import ROLES, Call
from jconv._plan import refusal
from tests import lax_grid
from tests.cases import PLANS
from tests.numerics import AMPLIFIES, dtype_of

FLOATS = ("float32",) * 4 + ("bfloat16", "float16", "complex64", "float64", "complex128")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
SHORT = {"bfloat16": 2e-2, "float16": 3e-3}
STRICT = {"jax_numpy_dtype_promotion": "strict", "jax_numpy_rank_promotion": "raise"}


class Trial(NamedTuple):
    """A function of arrays and what it should give, by a function of the same arrays in a wider dtype."""

    text: str
    fn: Callable[..., Any]
    reference: Callable[..., Any]
    operands: tuple[Any, ...]
    tolerance: float = 1e-5
    transforms: tuple[str, ...] = ("eager", "jit", "grad", "jvp", "vmap first", "vmap all", "second")


def draw(shape, dtype: str, rng: random.Random) -> jax.Array:
    """Small whole numbers."""
    low = 0 if dtype.startswith("u") else -3
    generator = np.random.default_rng(rng.randrange(1 << 30))
    values = generator.integers(low, 4, shape)
    if dtype.startswith("complex"):
        values = values + 1j * generator.integers(low, 4, shape)
    return jnp.asarray(values.astype(dtype_of(dtype)))


def pick(rng: random.Random, dtypes: Sequence[str]) -> str:
    """A dtype that there is in this mode."""
    dtype = rng.choice(dtypes)
    return dtype if jax.config.jax_enable_x64 else {"float64": "float32", "complex128": "complex64"}.get(dtype, dtype)


def widened(dtype: str) -> str:
    """What the reference computes in."""
    return {"bfloat16": "float32", "float16": "float32"}.get(dtype, "int32" if dtype in INTEGERS else dtype)


# Geometries ----------------------------------------------------------------------------------------------
def size(rng: random.Random, most: int) -> int:
    """Now and then nothing."""
    return 0 if rng.random() < 0.08 else rng.randint(1, most)


class Geometry(NamedTuple):
    """One convolution in numbers, and the options that ask for it."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    options: dict[str, Any]

    @property
    def rank(self) -> int:
        return len(self.kernel) - 2

    def per_axis(self, name: str) -> tuple[int, ...]:
        value = self.options.get(name, 1)
        return (value,) * self.rank if isinstance(value, int) else tuple(value)

    def convolve(self, x, kernel):
        """The definition, by lax: pads and zeros between elements are put in beforehand."""
        r, first = self.rank, x.ndim - self.rank - 1
        modes = self.options.get("padding_mode", "zeros")
        modes = (modes,) * r if isinstance(modes, str) else modes
        for i, ((low, high), mode) in enumerate(zip(self.pads, modes, strict=True)):
            if mode != "zeros":
                ends = [(0, 0)] * x.ndim
                ends[first + i] = (max(0, low), max(0, high))
                x = jnp.pad(x, ends, mode={"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])
                x = lax.slice_in_dim(x, max(0, -low), x.shape[first + i] - max(0, -high), axis=first + i)
        q = self.per_axis("input_dilation")
        ends = [(*p, d - 1) if m == "zeros" else (0, 0, d - 1) for p, d, m in zip(self.pads, q, modes, strict=True)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * first + ends + [(0, 0, 0)])
        batch, image = x.shape[:first], (0, r + 1, *range(1, r + 1))
        y = lax.conv_general_dilated(
            x.reshape(math.prod(batch), *x.shape[first:]),
            kernel,
            self.per_axis("strides"),
            "VALID",
            rhs_dilation=self.per_axis("kernel_dilation"),
            dimension_numbers=lax.ConvDimensionNumbers(image, (r + 1, r, *range(r)), image),
            feature_group_count=self.options.get("feature_group_count", 1),
            precision="highest",
        )
        return y.reshape(*batch, *y.shape[1:])


def geometry(rng: random.Random, *, modes: bool = True, dilated: bool = True) -> Geometry:
    """One whose windows fit."""
    while True:
        rank, groups = rng.choice((0, 1, 1, 2, 2, 3)), rng.choice((1, 1, 1, 2, 3))
        batch = [size(rng, 3) for _ in range(rng.choice((0, 1, 1, 1, 2)))]
        space = [size(rng, 7) for _ in range(rank)]
        into, out = size(rng, 3), groups * size(rng, 3)
        window = [rng.randint(1, 4) if rng.random() < 0.5 else 3 for _ in range(rank)]
        several = lambda most: tuple(rng.randint(1, most) if rng.random() < 0.4 else 1 for _ in range(rank))
        options: dict[str, Any] = {"strides": several(3), "kernel_dilation": several(3), "feature_group_count": groups}
        if dilated:
            options["input_dilation"] = several(3)
        if rng.random() < 0.3:
            options["strides"] = rng.randint(1, 3)
        entry = lambda: rng.choice(("SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL", rng.randint(0, 3),
                                    (rng.randint(-1, 4), rng.randint(-1, 4))))  # fmt: skip
        options["padding"] = (
            tuple(entry() for _ in range(rank)) if rng.random() < 0.6 else rng.choice(("SAME", "VALID", 1))
        )
        if modes and rng.random() < 0.25:
            options["padding_mode"] = tuple(
                rng.choice(("zeros", "reflect", "replicate", "circular")) for _ in range(rank)
            )
        x, kernel = (*batch, *space, groups * into), (*window, into, out)
        try:
            spec = jconv.ConvSpec(x, kernel, **{k: v for k, v in options.items() if k != "padding_mode"})
        except ValueError as error:
            if "the output would have" not in str(error):
                raise
            continue  # lax gives an empty image; `jconv.conv` says that the window does not fit
        named = zip(
            options.get("padding_mode", ("zeros",) * rank), spec.padding, space, spec.input_dilation, strict=True
        )
        if all(m == "zeros" or (q == 1 and n > max(*p, 0)) for m, p, n, q in named):
            return Geometry(x, kernel, spec.padding, options)


def algorithms(rng: random.Random, spec: jconv.ConvSpec, dtype: str) -> jconv.Algorithms:
    """For each role one that covers it."""
    names = {}
    for role in ROLES:
        short = {"int8": "int32", "uint8": "int32", "int16": "int32", "uint16": "int32"}.get(dtype, dtype)
        flat = spec.replace(x_shape=(math.prod(spec.batch_shape), *spec.x_shape[len(spec.batch_shape) :]))
        call = Call(flat, role, dtype_of(dtype), dtype_of(short), None, "cpu")
        able = [
            name
            for name in PLANS
            if refusal(name, call) is None and refusal(name, call._replace(platform=None)) is None
        ]
        names[role] = rng.choice((*able, "auto", "auto", "direct", "portable", "tuned"))
    return jconv.Algorithms(**names)


def loosened(names: jconv.Algorithms, dtype: str) -> float:
    """The tolerance of such algorithms."""
    inexact = any(names.role(role).split("+")[-1] in (*AMPLIFIES, "auto", "tuned", "portable") for role in ROLES)
    return max(SHORT.get(dtype, 1e-5), 3e-4 if inexact else 0)


# Functions -----------------------------------------------------------------------------------------------
def conv(rng: random.Random) -> Trial:
    g, dtype = geometry(rng), pick(rng, FLOATS + INTEGERS)
    spec = jconv.ConvSpec(g.x, g.kernel, **{k: v for k, v in g.options.items() if k != "padding_mode"})
    names = algorithms(rng, spec, dtype) if "padding_mode" not in g.options else jconv.Algorithms()
    operands = [draw(g.x, dtype, rng), draw(g.kernel, dtype, rng)]
    options = g.options | {"algorithm": names}
    if rng.random() < 0.4:
        operands.append(draw(g.kernel[-1:], dtype, rng))
        if not dtype.startswith("complex"):
            options["activation"] = rng.choice((None, "relu"))

    def reference(x, kernel, bias=None):
        y = g.convolve(x, kernel)
        if bias is not None:
            y = y + lax.broadcast_in_dim(bias, y.shape, (y.ndim - 1,))
        return jnp.maximum(y, 0) if options.get("activation") else y

    fn = functools.partial(jconv.conv, **options)
    # Where relu's argument is zero its derivative is a choice.
    smooth = (
        ("eager", "jit", "vmap first", "vmap all") if options.get("activation") else Trial._field_defaults["transforms"]
    )
    text = f"conv({g.x}, {g.kernel}, bias={len(operands) == 3}, {dtype}, {options})"
    return Trial(text, fn, reference, tuple(operands), loosened(names, dtype), smooth)


def conv_transpose(rng: random.Random) -> Trial:
    """The transpose of a convolution whose image is as long as any that gives these outputs."""
    g, dtype = geometry(rng, dilated=False), pick(rng, FLOATS + INTEGERS)
    given = {k: v for k, v in g.options.items() if k != "padding_mode"}
    spec = jconv.ConvSpec(g.x, g.kernel, **given)
    if 0 in (*spec.output_spatial, *spec.spatial):
        return conv_transpose(rng)  # which image nothing came from is a convention
    y, kernel = draw(spec.output_shape, dtype, rng), draw(g.kernel, dtype, rng)
    options = g.options | {"output_shape": spec.spatial, "padding": spec.padding}
    names = algorithms(rng, spec, dtype) if "padding_mode" not in g.options else jconv.Algorithms()

    def reference(y, kernel):
        at = jnp.zeros(g.x, kernel.dtype)
        if not jnp.issubdtype(kernel.dtype, jnp.inexact):
            transposed = reference(y.astype(jnp.float32), kernel.astype(jnp.float32))
            return transposed.astype(kernel.dtype)
        return jax.linear_transpose(lambda x: g.convolve(x, kernel), at)(y)[0]

    fn = functools.partial(jconv.conv_transpose, **options, algorithm=names)
    return Trial(f"conv_transpose({y.shape}, {g.kernel}, {dtype}, {options}, {names})", fn, reference, (y, kernel),
                 loosened(names, dtype))  # fmt: skip


def conv_gradients(rng: random.Random) -> Trial:
    g, dtype = geometry(rng), pick(rng, FLOATS)
    given = {k: v for k, v in g.options.items() if k != "padding_mode"}
    spec = jconv.ConvSpec(g.x, g.kernel, **given)
    names = algorithms(rng, spec, dtype) if "padding_mode" not in g.options else jconv.Algorithms()
    x, kernel, y = (draw(shape, dtype, rng) for shape in (g.x, g.kernel, spec.output_shape))
    options = g.options | {"algorithm": names}
    if rng.random() < 0.5:
        fn = functools.partial(jconv.conv_input_grad, input_shape=g.x, **options)
        reference = lambda y, k: jax.linear_transpose(lambda x: g.convolve(x, k), jnp.zeros(g.x, y.dtype))(y)[0]
        return Trial(f"conv_input_grad({g}, {dtype}, {names})", fn, reference, (y, kernel), loosened(names, dtype))
    fn = functools.partial(jconv.conv_kernel_grad, window_shape=g.kernel[:-2], **options)
    reference = lambda x, y: jax.linear_transpose(lambda k: g.convolve(x, k), jnp.zeros(g.kernel, y.dtype))(y)[0]
    return Trial(f"conv_kernel_grad({g}, {dtype}, {names})", fn, reference, (x, y), loosened(names, dtype))


def conv_bias_grad(rng: random.Random) -> Trial:
    shape, dtype = tuple(size(rng, 4) for _ in range(rng.randint(1, 4))), pick(rng, FLOATS + INTEGERS)
    reference = lambda g: jnp.sum(g, axis=tuple(range(len(shape) - 1)), dtype=g.dtype)
    return Trial(f"conv_bias_grad({shape}, {dtype})", jconv.conv_bias_grad, reference, (draw(shape, dtype, rng),),
                 SHORT.get(dtype, 1e-5))  # fmt: skip


def conv_local(rng: random.Random) -> Trial:
    """At each position the result of a convolution with the kernel of that position."""
    g, dtype = geometry(rng, modes=False), pick(rng, FLOATS + INTEGERS)
    spec = jconv.ConvSpec(g.x, g.kernel, **g.options)
    space, batch = spec.output_spatial, len(spec.batch_shape)
    operands = [draw(g.x, dtype, rng), draw((*space, *g.kernel), dtype, rng)]
    if rng.random() < 0.5:
        operands.append(draw((*space, g.kernel[-1]), dtype, rng))

    def reference(x, kernel, bias=None):
        count = math.prod(space)
        if count == 0:
            return jnp.zeros(spec.output_shape, x.dtype)
        every = jax.vmap(lambda k: g.convolve(x, k))(kernel.reshape(count, *g.kernel))
        every = every.reshape(count, *every.shape[1 : batch + 1], count, g.kernel[-1])
        y = jnp.stack([every[(i, *(slice(None),) * batch, i)] for i in range(count)], batch).reshape(spec.output_shape)
        return y if bias is None else y + lax.broadcast_in_dim(bias, y.shape, tuple(range(batch, y.ndim)))

    fn = functools.partial(jconv.conv_local, **g.options)
    return Trial(
        f"conv_local({g}, bias={len(operands) == 3}, {dtype})", fn, reference, tuple(operands), SHORT.get(dtype, 1e-5)
    )


def pool(rng: random.Random) -> Trial:
    rank, kind = rng.randint(0, 3), rng.choice(("max", "avg", "global max", "global avg"))
    batch = [size(rng, 3) for _ in range(rng.choice((0, 1, 1, 2)))]
    shape = (*batch, *(size(rng, 7) for _ in range(rank)), size(rng, 3))
    real = [dtype for dtype in FLOATS if not dtype.startswith("complex")]
    dtype = pick(rng, (*real, *INTEGERS) if "max" in kind else FLOATS)
    x, tolerance = draw(shape, dtype, rng), SHORT.get(dtype, 1e-5)
    axes = tuple(range(len(batch), len(batch) + rank))
    if "global" in kind:
        if 0 in shape[len(batch) : -1]:
            return conv_bias_grad(rng)  # the maximum of nothing is an error, the mean of nothing not a number
        fn = functools.partial(jconv.global_max_pool if "max" in kind else jconv.global_avg_pool, rank=rank)
        reduce = jnp.max if "max" in kind else functools.partial(jnp.mean, dtype=None)
        linear = ("eager", "jit", "vmap all") if "max" in kind else Trial._field_defaults["transforms"]
        return Trial(f"{kind} pool({shape}, {dtype})", fn, lambda x: reduce(x, axis=axes), (x,), tolerance, linear)
    window = tuple(rng.randint(1, 4) for _ in range(rank))
    strides = tuple(rng.randint(1, 3) for _ in range(rank))
    padding = rng.choice(("SAME", "VALID", tuple((rng.randrange(k), rng.randrange(k)) for k in window)))
    pads = (
        padding if isinstance(padding, tuple) else lax.padtype_to_pads(shape[len(batch) : -1], window, strides, padding)
    )
    lengths = [n + low + high for n, (low, high) in zip(shape[len(batch) : -1], pads, strict=True)]
    if any(length < k for length, k in zip(lengths, window, strict=True)) or 0 in shape[len(batch) : -1]:
        return pool(rng)
    ones = (1,) * len(batch)
    dims, steps = (*ones, *window, 1), (*ones, *strides, 1)
    ends = (*((0, 0) for _ in ones), *pads, (0, 0))
    options = {"strides": strides, "padding": padding}
    if kind == "max":

        def reference(x):
            low = -np.inf if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.iinfo(x.dtype).min
            return lax.reduce_window(x, np.asarray(low, x.dtype), lax.max, dims, steps, ends)

        fn = functools.partial(jconv.max_pool, window_shape=window, **options)
        transforms = ("eager", "jit", "vmap all")
    else:
        count = rng.random() < 0.5
        options["count_include_pad"] = count

        def reference(x):
            add = lambda a: lax.reduce_window(a, np.zeros((), a.dtype), lax.add, dims, steps, ends)
            return add(x) / (add(jnp.ones_like(x)) if not count else jnp.full_like(add(x), math.prod(window)))

        fn = functools.partial(jconv.avg_pool, window_shape=window, **options)
        transforms = Trial._field_defaults["transforms"]
    return Trial(f"{kind}_pool({shape}, {window}, {dtype}, {options})", fn, reference, (x,), tolerance, transforms)


def signal(rng: random.Random) -> Trial:
    """Every term where it belongs."""
    rank, dtype = rng.randint(0, 3), pick(rng, FLOATS + INTEGERS)
    mode, name = rng.choice(("full", "same", "valid")), rng.choice(("convolve", "correlate"))
    long, short = ([rng.randint(1, most) for _ in range(rank)] for most in (7, 4))
    if mode == "valid":
        short = [min(n, k) for n, k in zip(long, short, strict=True)]
    if rng.random() < 0.3:
        long, short = short, long
    able = ("auto", "direct", "fft") if dtype not in INTEGERS else ("auto", "direct")
    method = rng.choice(able)

    def reference(a, b):
        if name == "correlate":
            b = jnp.flip(jnp.conj(b))
        full = jnp.zeros([n + k - 1 for n, k in zip(a.shape, b.shape, strict=True)], a.dtype)
        for at in np.ndindex(b.shape):
            ends = [(t, k - 1 - t, 0) for t, k in zip(at, b.shape, strict=True)]
            full = full + lax.pad(a * b[at], jnp.zeros((), a.dtype), ends)
        lengths = {"full": full.shape, "same": a.shape,
                   "valid": [abs(n - k) + 1 for n, k in zip(a.shape, b.shape, strict=True)]}[mode]  # fmt: skip
        starts = [(m - n) // 2 for m, n in zip(full.shape, lengths, strict=True)]
        return full[tuple(slice(s, s + n) for s, n in zip(starts, lengths, strict=True))]

    fn = lambda a, b: getattr(jconv, name)(a, b, mode, method)
    text = f"{name}({long}, {short}, {mode!r}, {method!r}, {dtype})"
    operands = draw(long, dtype, rng), draw(short, dtype, rng)
    return Trial(text, fn, reference, operands, max(1e-4, SHORT.get(dtype, 0)))


def drop_in(rng: random.Random) -> Trial | str:
    """`jconv.lax` beside `jax.lax`, errors included; a text where they differ."""
    pick = rng.random()
    if pick < 0.5:
        case = lax_grid.case(rng)
        if 0 in (*case.lhs, *case.rhs):
            return pool(rng)
        found = lax_grid.difference(case)
        return f"{case}: {found}" if found else ""
    dtype = rng.choice(("float32", "bfloat16", "complex64"))
    rank = rng.choice((1, 2))
    space, window = [rng.randint(3, 7) for _ in range(rank)], [rng.randint(1, 3) for _ in range(rank)]
    steps = tuple(rng.randint(1, 2) for _ in range(rank))
    x = draw((2, 2, *space), dtype, rng)
    if pick < 0.65:
        name, rest = "conv", (draw((3, 2, *window), dtype, rng), steps, rng.choice(("SAME", "VALID")))
    elif pick < 0.8:
        name, rest = "conv_transpose", (draw((*window, 2, 3), dtype, rng), steps, rng.choice(("SAME", "VALID")))
        x = jnp.moveaxis(x, 1, -1)
    elif pick < 0.9:
        name, rest = "conv_general_dilated_patches", (window, steps, "SAME")
    else:
        out = [-(-n // s) for n, s in zip(space, steps, strict=True)]
        name = "conv_general_dilated_local"
        rest = (draw((3, 2 * math.prod(window), *out), dtype, rng), steps, "SAME", window)
    arrays = 1 if isinstance(rest[0], list) else 2
    operands = (x, *rest)[:arrays]
    call = lambda module: lambda *a: getattr(module, name)(*a, *rest[arrays - 1 :])
    return Trial(f"lax.{name}({x.shape}, {rest[arrays - 1 :]}, {dtype})", call(jconv.lax), call(jax.lax), operands,
                 max(1e-4, SHORT.get(dtype, 0)))  # fmt: skip


# Layers --------------------------------------------------------------------------------------------------
Reference = Callable[[Any, jax.Array], jax.Array]  # of parameters and an image


def over_channels(v: jax.Array, like: jax.Array) -> jax.Array:
    """A vector of channels for each element of an image."""
    return lax.broadcast_in_dim(v, like.shape, (like.ndim - 1,))


def biased(params: Any, y: jax.Array) -> jax.Array:
    """The bias added, where there is one."""
    if "bias" not in params:
        return y
    return y + lax.broadcast_in_dim(params["bias"], y.shape, range(y.ndim - params["bias"].ndim, y.ndim))


def standardised(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    mean = jnp.mean(x, axes, keepdims=True)
    return (x - mean) / jnp.sqrt(jnp.mean((x - mean) ** 2, axes, keepdims=True) + epsilon)


def affine(params: Any, y: jax.Array) -> jax.Array:
    return y * over_channels(params["scale"], y) + over_channels(params["bias"], y)


def every_layer(rng: random.Random, channels: int, size: int) -> dict[str, tuple[layers.Layer, Reference]]:
    """Layers by name, each with its formula; nothing left out at random. `size`: of the shortest axis."""
    steps, window, padding = rng.randint(1, 2), rng.randint(1, min(3, size)), rng.choice(("SAME", "VALID"))
    options: dict[str, Any] = {"strides": steps, "padding": padding}
    bias = {"use_bias": rng.random() < 0.5}
    space = lambda x: tuple(range(1, x.ndim - 1))

    def convolved(x, kernel, groups=1):
        spec = jconv.ConvSpec(x.shape, kernel.shape, steps, padding, feature_group_count=groups)
        g = Geometry(x.shape, kernel.shape, spec.padding, {"strides": steps, "feature_group_count": groups})
        return g.convolve(x, kernel)

    def transposed(p, x):
        """Of the image that Keras gives: as long as the strides make it, and the rest of the window without pads."""
        more = max(window - steps, 0) if padding == "VALID" else 0
        image = (x.shape[0], *(n * steps + more for n in x.shape[1:-1]), p["kernel"].shape[-2])
        y = jax.linear_transpose(lambda x: convolved(x, p["kernel"]), jnp.zeros(image, x.dtype))(x)[0]
        return biased(p, y)

    def separable(p, x):
        y = convolved(x, p["depthwise"]["kernel"], channels)
        kernel = p["pointwise"]["kernel"]
        return biased(p["pointwise"], lax.dot_general(y, kernel.reshape(kernel.shape[-2:]), (((y.ndim - 1,), (0,)), ((), ())),
                                                      precision="highest"))  # fmt: skip

    def local(p, x):
        places = p["kernel"].shape[: x.ndim - 2]
        each = jax.vmap(lambda k: convolved(x, k))(p["kernel"].reshape(-1, *p["kernel"].shape[x.ndim - 2 :]))
        y = jnp.stack([each[(i, slice(None), *at)] for i, at in enumerate(np.ndindex(places))], 1)
        return biased(p, y.reshape(x.shape[0], *places, y.shape[-1]))

    def windows(x, start, combine):
        dims = [(1, *(v for _ in space(x)), 1) for v in (window, steps)]
        return lax.reduce_window(x, np.asarray(start, x.dtype), combine, *dims, padding)

    def grouped(p, x):
        split = x.reshape(*x.shape[:-1], 2, channels // 2)
        return affine(p, standardised(split, (*space(x), x.ndim), 1e-6).reshape(x.shape))

    def branches(p, x):
        return jnp.concatenate([biased(q, convolved(x, q["kernel"])) for q in (p["Conv_0"], p["Conv_1"])], x.ndim - 1)

    conv = lambda features: layers.Conv(features, window, **options, **bias)
    same = layers.Conv(channels, window, **bias)

    def inside(p, x):
        pads = jconv.ConvSpec(x.shape, p["kernel"].shape).padding
        return biased(p, Geometry(x.shape, p["kernel"].shape, pads, {}).convolve(x, p["kernel"]))

    pools = {"strides": steps, "padding": padding}
    ones = lambda x: windows(jnp.ones_like(x), 0, lax.add)
    return {
        "Conv": (conv(4), lambda p, x: biased(p, convolved(x, p["kernel"]))),
        "DepthwiseConv": (layers.DepthwiseConv(window, **options, **bias),
                          lambda p, x: biased(p, convolved(x, p["kernel"], channels))),
        "SeparableConv": (layers.SeparableConv(3, window, **options, **bias), separable),
        "ConvTranspose": (layers.ConvTranspose(3, window, **options, **bias), transposed),
        "ConvLocal": (layers.ConvLocal(3, window, **options, **bias), local),
        "Dense": (layers.Dense(3, **bias), lambda p, x: biased(p, lax.dot_general(
            x, p["kernel"], (((x.ndim - 1,), (0,)), ((), ())), precision="highest"))),
        "LayerNorm": (layers.LayerNorm(), lambda p, x: affine(p, standardised(x, (x.ndim - 1,), 1e-6))),
        "GroupNorm": (layers.GroupNorm(2), grouped),
        "BatchNorm": (layers.BatchNorm(), lambda p, x: affine(p, x / math.sqrt(1 + 1e-5))),
        "LayerScale": (layers.LayerScale(0.5), lambda p, x: x * over_channels(p["scale"], x)),
        "Dropout": (layers.Dropout(0.5), lambda p, x: x),
        "StochasticDepth": (layers.StochasticDepth(0.5), lambda p, x: x),
        "Flatten": (layers.Flatten(), lambda p, x: x.reshape(x.shape[0], math.prod(x.shape[1:]))),
        "relu": (layers.Activation("relu"), lambda p, x: jnp.maximum(x, 0)),
        "MaxPool": (layers.MaxPool(window, **pools), lambda p, x: windows(x, -np.inf, lax.max)),
        "AvgPool": (layers.AvgPool(window, **pools), lambda p, x: windows(x, 0, lax.add) / window ** (x.ndim - 2)),
        "AvgPool of what is there": (layers.AvgPool(window, **pools, count_include_pad=False),
                                     lambda p, x: windows(x, 0, lax.add) / ones(x)),
        "GlobalAvgPool": (layers.GlobalAvgPool(), lambda p, x: jnp.mean(x, space(x))),
        "GlobalMaxPool": (layers.GlobalMaxPool(), lambda p, x: jnp.max(x, space(x))),
        "Residual": (layers.Residual(same), lambda p, x: x + inside(p["body"]["Conv_0"], x)),
        "Parallel": (layers.Parallel(conv(2), conv(3)), branches),
    }  # fmt: skip


IN_A_ROW = ("Conv", "DepthwiseConv", "LayerNorm", "BatchNorm", "LayerScale", "Dropout", "relu", "MaxPool", "Residual")
KINKS = ("relu", "MaxPool", "GlobalMaxPool")  # where derivatives are a choice


def layer(rng: random.Random) -> Trial:
    """A layer, or a few in a row, by its formula."""
    rank = rng.choice((1, 1, 2, 2, 3))
    dtype = rng.choice(("float32", "float32", "bfloat16", "int32"))
    batch, channels = (0 if rng.random() < 0.08 else 2), rng.choice((2, 4, 6))
    shape = (batch, *(rng.randint(3, 6) for _ in range(rank)), channels)
    name = rng.choice((*every_layer(random.Random(0), 2, 3), "Sequential", "Sequential"))
    if name == "Sequential":
        names = [rng.choice(IN_A_ROW) for _ in range(3)]
        parts, space, depth = [], list(shape[1:-1]), channels
        for each in names:
            parts.append(every_layer(rng, depth, min(space))[each])
            *space, depth = parts[-1][0].output_shape((2, *space, depth))[1:]
        net = layers.Sequential(*(part for part, _ in parts))

        def reference(params, x):
            counts: Counter[str] = Counter()
            for each, (_, formula) in zip(names, parts, strict=True):
                x = formula(params.get(f"{each}_{counts[each]}", {}), x)
                counts[each] += 1
            return x

    else:
        names = [name]
        net, reference = every_layer(rng, channels, min(shape[1:-1]))[name]
    # Integers where floating-point results are promised, and where nothing is computed.
    if dtype == "int32" and name not in ("LayerNorm", "GroupNorm", "BatchNorm", "LayerScale", "Flatten", "MaxPool"):
        dtype = "float32"
    param_dtype = dtype if dtype == "bfloat16" else "float32"
    params, state = net.init(jax.random.key(rng.randrange(1 << 30)), (2, *shape[1:]))
    cast = lambda tree, to: jax.tree.map(lambda v: v.astype(to), tree)
    params, state = cast(params, param_dtype), cast(state, param_dtype)
    train = name == "BatchNorm" and batch > 0 and rng.random() < 0.6
    sums = lambda y, mean, var: jnp.concatenate([y.reshape(-1), mean.astype(y.dtype), var.astype(y.dtype)])

    def own(x):
        y, after = net.apply(params, state, x, train=train)
        return sums(y, after["mean"], after["var"]) if train else y

    def expected(x):
        p, x = cast(params, "float32"), x.astype(jnp.float32)
        if not train:
            return reference(p, x)
        axes = tuple(range(x.ndim - 1))
        mean, var = jnp.mean(x, axes), jnp.var(x, axes)
        moved = 0.99 * cast(state, "float32")["mean"] + 0.01 * mean, 0.99 * cast(state, "float32")["var"] + 0.01 * var
        return sums(affine(p, standardised(x, axes, 1e-5)), *moved)

    transforms: tuple[str, ...] = ("eager", "jit", "vmap all", "grad", "jvp")
    if dtype == "int32" or any(each in KINKS for each in names):
        transforms = ("eager", "jit", "vmap all")
    text = f"{name if len(names) == 1 else names}({shape}, {dtype}, train={train})"
    return Trial(text, own, expected, (draw(shape, dtype, rng),), 6e-2 if dtype == "bfloat16" else 1e-3, transforms)


# Running -------------------------------------------------------------------------------------------------
def transformed(transform: str, fn: Callable, operands: tuple[Any, ...]) -> list[jax.Array]:
    """The results of a function under one transform."""
    real = lambda *a: jnp.sum(jnp.real(fn(*a)) ** 2)
    each = tuple(range(len(operands)))
    two = [jnp.stack([v, v + v]) for v in operands]
    match transform:
        case "jit":
            return [jax.jit(fn)(*operands)]
        case "grad":
            return list(jax.jit(jax.grad(real, each))(*operands))
        case "jvp":
            return list(jax.jit(lambda *a: jax.jvp(fn, a, a))(*operands))
        case "second":
            return list(jax.jit(lambda *a: jax.jvp(jax.grad(real, each), a, a)[1])(*operands))
        case "vmap first":
            return [jax.vmap(fn, (0,) + (None,) * (len(operands) - 1))(two[0], *operands[1:])]
        case "vmap all":
            return [jax.vmap(fn)(*two)]
    return [fn(*operands)]


def difference(trial: Trial, transform: str, wide: Callable[[Any], str]) -> str | None:
    """How a call differs from its reference, or None."""
    want = transformed(transform, trial.reference, tuple(v.astype(wide(v.dtype.name)) for v in trial.operands))
    try:
        got = transformed(transform, trial.fn, trial.operands)
        jax.block_until_ready(got)
    except Exception as error:  # whatever it is, the reference did without
        if "vmap" in transform and "does not cover" in str(error):
            return None  # a plan asked for by name may not cover the groups that two batched operands become
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    for a, b in zip(got, want, strict=True):
        if a.shape != b.shape:
            return f"shape {a.shape}, not {b.shape}"
        exact, own = (np.asarray(v).astype(np.complex128) for v in (b, a))
        if jnp.issubdtype(a.dtype, jnp.integer):
            apart = (np.asarray(a).astype(np.int64) - np.asarray(b).astype(a.dtype).astype(np.int64)) != 0
            if apart.any():
                return f"{apart.sum()} of {apart.size} integers differ"
            continue
        largest = max(1.0, float(np.max(np.abs(exact), initial=0.0)))
        if not np.all(np.abs(own - exact) <= trial.tolerance * largest):
            return f"values differ by {np.max(np.abs(own - exact)):.3g} of {largest:.3g}"
    return None


KINDS: dict[str, Callable[[random.Random], Any]] = {
    made.__name__: made
    for made in (conv, conv_transpose, conv_gradients, conv_bias_grad, conv_local, pool, signal, drop_in, layer)
}
OFTEN = ("conv", "conv", "conv", "conv_transpose", "conv_gradients", "conv_gradients", "layer", "drop_in")


def attempt(seed: int, only: str | None = None) -> tuple[str, str | None]:
    """The kind of one case, and what is wrong with it, with the line that reproduces it."""
    kind = only or random.Random(f"kind {seed}").choice((*KINDS, *OFTEN))
    rng = random.Random(f"{kind} {seed}")
    trial: Any = None
    with contextlib.ExitStack() as stack:
        for name, value in STRICT.items():
            stack.callback(jax.config.update, name, getattr(jax.config, name))
            jax.config.update(name, value)
        stack.enter_context(jax.enable_x64(rng.random() < 0.2))
        try:
            trial = KINDS[kind](rng)
        except Exception as error:  # a layer that cannot be made
            trial = f"{kind}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if isinstance(trial, str):
            found, text = trial or None, ""
        else:
            inexact = all(jnp.issubdtype(v.dtype, jnp.inexact) for v in trial.operands)
            able = [t for t in trial.transforms if inexact or t in ("eager", "jit", "vmap first", "vmap all")]
            transform = rng.choice(able)
            found, text = difference(trial, transform, widened), f"{trial.text} under {transform}"
    if not found:
        return kind, None
    return kind, f"{text}\n    {found}\n    python -m tests.fuzz --only {kind} --count 1 --seed {seed}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(KINDS), metavar="NAME", help=", ".join(sorted(KINDS)))
    args = parser.parse_args()
    return lax_grid.tally(lambda i: attempt(args.seed + i, args.only), args.count)


if __name__ == "__main__":
    sys.exit(main())
