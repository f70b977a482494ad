"""The interface of an algorithm. An algorithm is one file that imports only this one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from .._spec import ConvSpec

Role = Literal["forward", "input_grad", "kernel_grad"]
ROLES: tuple[Role, ...] = ("forward", "input_grad", "kernel_grad")


def accumulator(dtype: Any) -> np.dtype:
    """The dtype in which products of ``dtype`` are summed: float32 for 16-bit floats, int32 for short integers."""
    dtype = jnp.dtype(dtype)
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.dtype(jnp.promote_types(dtype, jnp.float32))
    if jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize < 4:
        return jnp.dtype(jnp.int32)
    return dtype


class Call(NamedTuple):
    """All that is static about one role of one convolution, when it is lowered.

    `spec` has exactly one batch axis. Both operands have dtype `dtype`; products are summed in `accumulator`,
    and the result, whatever dtype an algorithm returns it in, is rounded to `out_dtype` once. `platform` is
    "cpu", "cuda", "rocm", "tpu", or None while it is not known (at trace time).
    """

    spec: ConvSpec
    role: Role
    dtype: np.dtype
    out_dtype: np.dtype
    precision: Any = None
    platform: str | None = None

    @property
    def accumulator(self) -> np.dtype:
        return jnp.promote_types(accumulator(self.dtype), self.out_dtype)

    @property
    def is_integer(self) -> bool:
        return bool(jnp.issubdtype(self.dtype, jnp.integer))


Run = Callable[[jax.Array, jax.Array, Call], jax.Array]


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """One way to compute the three roles of the trilinear form T(x, kernel, y).

    `forward(x, kernel, call)` gives y, `input_grad(g, kernel, call)` the gradient with respect to x and
    `kernel_grad(x, g, call)` that with respect to the kernel. `supports(call)` gives None where the algorithm
    covers the call, else the reason why it does not. `workspace(call)` gives the bytes that it needs beyond
    its operands and result.
    """

    name: str
    forward: Run
    input_grad: Run
    kernel_grad: Run
    supports: Callable[[Call], str | None]
    workspace: Callable[[Call], int]

    def run(self, role: Role) -> Run:
        return getattr(self, role)


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
