"""The interface of an algorithm. An algorithm is one file that imports only this one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from .._forecast.work import Work
from .._spec import ConvSpec

Role = Literal["forward", "input_grad", "kernel_grad"]
ROLES: tuple[Role, ...] = ("forward", "input_grad", "kernel_grad")


@functools.cache
def promoted(*dtypes: Any) -> np.dtype:
    """The dtype that JAX's standard promotion gives, in whatever mode the program is.

    What jconv widens on its own account are no operands that the user mixed, so the strict mode has no say in it.
    """
    different = {np.dtype(dtype) for dtype in dtypes}
    if len(different) == 1:
        return different.pop()
    with jax.numpy_dtype_promotion("standard"):
        return np.dtype(functools.reduce(jnp.promote_types, different))


@functools.cache
def accumulator(dtype: Any) -> np.dtype:
    """The dtype in which products of ``dtype`` are summed: float32 for 16-bit floats, int32 for short integers."""
    dtype = jnp.dtype(dtype)
    if jnp.issubdtype(dtype, jnp.floating):
        return promoted(dtype, jnp.float32)
    if jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize < 4:
        return jnp.dtype(jnp.int32)
    return dtype


class Call(NamedTuple):
    """All that is static about one role of one convolution, when it is lowered.

    `spec` has exactly one batch axis. Both operands have dtype `dtype`; products are summed in `accumulator`,
    and the result, whatever dtype an algorithm returns it in, is rounded to `out_dtype` once. `platform` is
    "cpu", "cuda", "rocm", "tpu", or None while it is not known (at trace time). `portable`: the program will run
    elsewhere (`jax.export`), so it is made of XLA's own operations alone. `direct`: "auto" is to take what computes the
    sum itself, exact and local.
    """

    spec: ConvSpec
    role: Role
    dtype: np.dtype
    out_dtype: np.dtype
    precision: Any = None
    platform: str | None = None
    portable: bool = False
    direct: bool = False

    @property
    def accumulator(self) -> np.dtype:
        return promoted(accumulator(self.dtype), self.out_dtype)

    @property
    def is_integer(self) -> bool:
        return bool(jnp.issubdtype(self.dtype, jnp.integer))


class Finish(NamedTuple):
    """What a forward pass does to its sums y before it writes them: activation(y + bias).

    `bias` is [out], of a dtype that the result holds, or None; `activation` is a name in `_activations`, or None.
    """

    bias: jax.Array | None = None
    activation: str | None = None


UNFINISHED = Finish()

Run = Callable[[jax.Array, jax.Array, Call], jax.Array]


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """One way to compute the three roles of the trilinear form T(x, kernel, y).

    `forward(x, kernel, call)` gives y, `input_grad(g, kernel, call)` the gradient with respect to x and
    `kernel_grad(x, g, call)` that with respect to the kernel. `supports(call)` gives None where the algorithm
    covers the call, else the reason why it does not. `work(call)` gives what it does, for a forecast to price.

    `finished(x, kernel, call, finish)` is `forward` with a `Finish`, in one pass over the result, or None where it has
    none for this call; without it what there is to finish is done to the result.

    `exact`: whether its error is at most that of direct summation. `local`: whether a NaN or an Inf reaches only the
    results whose definition contains it. `portable`: whether it consists of XLA's own operations. `variant`: it is
    another one with other tiles, for `tune` to measure; "auto" takes that other one. `description`: what it is, in one
    line; where there is none the first line of its file says it.
    """

    name: str
    forward: Run
    input_grad: Run
    kernel_grad: Run
    supports: Callable[[Call], str | None]
    work: Callable[[Call], Work]
    finished: Callable[[jax.Array, jax.Array, Call, Finish], jax.Array | None] | None = None
    exact: bool = True
    local: bool = True
    portable: bool = True
    variant: bool = False
    description: str = ""

    def run(self, role: Role) -> Run:
        return getattr(self, role)


class Map(NamedTuple):
    """A linear map and its transpose."""

    apply: Callable[[jax.Array], Any]
    transpose: Callable[[Any], jax.Array]


IDENTITY = Map(lambda a: a, lambda a: a)


class Reduced(NamedTuple):
    """One convolution written as another one: T(x, k, y) = T'(A x, B k, C y).

    `spec` is the geometry of T', and `x`, `k`, `y` are A, B and C with their transposes. Differentiating both sides
    gives every role at once:

        forward      y     = C^T forward'(A x, B k)
        input_grad   x_bar = A^T input_grad'(C g, B k)
        kernel_grad  k_bar = B^T kernel_grad'(A x, C g)

    With `exchanged`, A x takes the place of T' 's y, and C y that of its x. With `parts`, T is the sum of so many such
    forms of one geometry: the maps give a list, one array for each, and their transposes take one.
    With `in_rows`, C only moves whole rows of channels, so a result can be finished (`Finish`) where it lies in T'.
    """

    spec: ConvSpec
    x: Map = IDENTITY
    k: Map = IDENTITY
    y: Map = IDENTITY
    exchanged: bool = False
    parts: int = 1
    in_rows: bool = False


@dataclasses.dataclass(frozen=True)
class Reduction:
    """A way to write a convolution as another one, for another algorithm to compute.

    `reduce(call)` gives the other one, where `supports(call)` is None. `work(call)` is what the maps do, without the
    other convolution. The maps only place, copy and add elements, so the error is the other algorithm's; where zeros
    are placed beside an operand that holds a NaN or an Inf they spread it (`local` is False). `moves`: whether they
    move images.
    """

    name: str
    reduce: Callable[[Call], Reduced]
    supports: Callable[[Call], str | None]
    work: Callable[[Call], Work]
    local: bool = False
    exact: bool = True
    moves: bool = True
    description: str = ""


OPERANDS: dict[Role, str] = {"forward": "xk", "input_grad": "yk", "kernel_grad": "xy"}  # arguments of T
RESULT: dict[Role, str] = {"forward": "y", "input_grad": "x", "kernel_grad": "k"}


def reduced_call(reduced: Reduced, call: Call) -> Call:
    """The call of the other convolution; its result stays in the accumulator, for the maps to add up."""
    role = call.role
    if reduced.exchanged and role != "kernel_grad":
        role = "input_grad" if role == "forward" else "forward"
    return call._replace(spec=reduced.spec, role=role, out_dtype=call.accumulator)


def through(reduced: Reduced, a: jax.Array, b: jax.Array, call: Call, inner: Callable) -> jax.Array:
    """One role through the other convolution; `inner(a, b)` computes that."""
    maps = {"x": reduced.x, "k": reduced.k, "y": reduced.y}
    first, second = OPERANDS[call.role]
    a, b = maps[first].apply(a), maps[second].apply(b)
    if reduced.parts > 1:
        return maps[RESULT[call.role]].transpose([inner(*pair) for pair in zip(a, b, strict=True)])
    out = inner(b, a) if reduced.exchanged and call.role == "kernel_grad" else inner(a, b)
    return maps[RESULT[call.role]].transpose(out)


def exchanged(spec: ConvSpec) -> Reduced:
    """T(x, k, y) = T'(y, k', x), with the window reversed and the channels of each group exchanged.

    The relation p q = o s + t d - lo reads the same from the other side: o s = p q + t' d - lo' with t' = k - 1 - t and
    lo' = (k - 1) d - lo. So strides and input dilation change places (`ConvSpec.input_grad_spec`).
    """
    other = spec.input_grad_spec

    def flipped(kernel, spec):
        groups, r = spec.feature_group_count, spec.rank
        kernel = jax.lax.rev(kernel, tuple(range(r)))
        kernel = kernel.reshape(*spec.window, -1, groups, spec.out_features // groups)  # [*window, i, g, c]
        kernel = jax.lax.transpose(kernel, (*range(r), r + 2, r + 1, r))
        return kernel.reshape(*spec.window, spec.out_features // groups, spec.in_features)

    return Reduced(other, k=Map(lambda k: flipped(k, spec), lambda k: flipped(k, other)), exchanged=True)


def to_rank(a: jax.Array, rank: int) -> jax.Array:
    """`a` with axes of one element in front, so that it is broadcast in every mode of rank promotion."""
    return jax.lax.expand_dims(a, tuple(range(rank - a.ndim)))


def pad(a: jax.Array, first: int, *ends: tuple[int, ...]) -> jax.Array:
    """Zeros (or, for negative numbers, cuts) around axes `first`, `first + 1`, ...: (low, high[, between]) for each.

    In one operation: XLA looks through several, and then keeps more than one copy.
    """
    if not any(any(end) for end in ends):
        return a
    config = [(0, 0, 0)] * a.ndim
    for i, (low, high, *between) in enumerate(ends):
        config[first + i] = (low, high, between[0] if between else 0)
    return jax.lax.pad(a, jnp.zeros((), a.dtype), config)


def zeros(shape: tuple[int, ...], dtype: Any, *operands: jax.Array) -> jax.Array:
    """Zeros for a loop to begin with, varying over the manual axes of `shard_map` over which the operands vary."""
    varying = sorted(frozenset().union(*(jax.typeof(v).mat.varying for v in operands)))
    out = jnp.zeros(shape, dtype)
    return jax.lax.pcast(out, tuple(varying), to="varying") if varying else out


def apart(fn: Callable, result: jax.ShapeDtypeStruct, *operands: jax.Array, call: Call) -> jax.Array:
    """`fn(*operands)`, on CPU with nothing fused into it from before or after.

    XLA draws what makes an operand, and a sum over the result, into a loop over many terms, which it then computes anew
    for each term, or no longer vectorises. It does not look into a loop whose number of turns is known only when it
    runs: here always one, (u | 1) & 1 of a number u among the operands.
    """
    if call.platform != "cpu":
        return fn(*operands)
    first = jnp.real(operands[0].reshape(-1)[0]).astype(jnp.float32)
    turns = (jax.lax.bitcast_convert_type(first, jnp.int32) | 1) & 1
    zero = zeros(result.shape, result.dtype, *operands)
    _, *_, out = jax.lax.while_loop(
        lambda state: state[0] < turns,
        lambda state: (state[0] + 1, *state[1:-1], fn(*state[1:-1]).astype(result.dtype)),
        (jnp.int32(0), *operands, zero),
    )
    return out


def sizes_of_groups(call: Call) -> tuple[int, int, int]:
    """The number of groups, and the input and output channels of each."""
    spec, groups = call.spec, call.spec.feature_group_count
    return groups, spec.in_features // groups, spec.out_features // groups


def grouped(array: jax.Array, groups: int) -> jax.Array:
    """The last axis as groups and the channels of each."""
    return array.reshape(*array.shape[:-1], groups, array.shape[-1] // groups)


def wants_exact(precision: object) -> bool:
    """Whether a precision asks for more than the default."""
    entries = precision if isinstance(precision, tuple) else (precision,)
    return any(entry in (jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST) for entry in entries)


def einsum(subscripts: str, a: jax.Array, b: jax.Array, call: Call) -> jax.Array:
    """A product summed in the accumulator, in the precision of the call.

    The libraries of GPUs may add up parts of a product of 16-bit numbers in 16 bits; asked for more than the default it
    is one of 32 bits.
    """
    if call.platform in ("cuda", "rocm") and wants_exact(call.precision) and jnp.issubdtype(call.dtype, jnp.floating):
        a, b = a.astype(call.accumulator), b.astype(call.accumulator)
    return jnp.einsum(subscripts, a, b, precision=call.precision, preferred_element_type=call.accumulator)


def map_blocks(fn: Callable, a: jax.Array, images: int) -> jax.Array:
    """`fn` of so many images at a time, one block after the other; of all at once where `images` is 0."""
    batch = a.shape[0]
    if images in (0, batch):
        return fn(a)
    out = jax.lax.map(fn, a.reshape(batch // images, images, *a.shape[1:]))
    return out.reshape(batch, *out.shape[2:])


def sum_blocks(fn: Callable, x: jax.Array, g: jax.Array, images: int, result: jax.ShapeDtypeStruct) -> jax.Array:
    """The sum of `fn` over the same blocks of two operands."""
    batch = x.shape[0]
    if images in (0, batch):
        return fn(x, g)

    def step(i, total):
        return total + fn(*(jax.lax.dynamic_slice_in_dim(v, i * images, images) for v in (x, g)))

    return jax.lax.fori_loop(0, batch // images, step, zeros(result.shape, result.dtype, x, g))


LARGE_BLOCK = 1 << 30  # bytes


def block_bytes(call: Call, near: int) -> int:
    """How many bytes a block of images may take: what lies near a CPU's cores; elsewhere all, but for memory's sake."""
    return near if call.platform == "cpu" else LARGE_BLOCK


def divisor(n: object, at_most: float) -> int:
    """The largest divisor of n that is at most `at_most` (1 at least; 1 for a symbolic size)."""
    if not isinstance(n, int):
        return 1
    if n <= at_most:
        return max(1, n)
    return max((d for d in range(1, n + 1) if n % d == 0 and d <= at_most), default=1)


@dataclasses.dataclass(frozen=True)
class Algorithms:
    """The algorithm of each role of one convolution, by name; ``"auto"`` leaves the choice to `jconv`.

    The roles are those of the trilinear form T(x, kernel, y): y = forward(x, kernel), and for a cotangent g
    of y, input_grad(g, kernel) and kernel_grad(x, g).

    Args:
        forward: the algorithm of the forward pass.
        input_grad: the one of the gradient with respect to the input.
        kernel_grad: the one of the gradient with respect to the kernel.

    Returns:
        A frozen, hashable triple, accepted wherever `algorithm` is.

    Raises:
        ValueError: where it is used, for a name that no algorithm has.

    >>> Algorithms(forward="xla", kernel_grad="einsum")
    Algorithms(forward='xla', input_grad='auto', kernel_grad='einsum')

    References:
        The three roles of one trilinear form are the bilinear-rule view of automatic differentiation, as in
        Baydin et al., "Automatic differentiation in machine learning: a survey", 2018, JMLR 18.
    """

    forward: str = "auto"
    input_grad: str = "auto"
    kernel_grad: str = "auto"

    def role(self, role: Role) -> str:
        """The name chosen for ``role``."""
        return getattr(self, role)
