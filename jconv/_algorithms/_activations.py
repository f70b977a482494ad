"""The activations that a forward pass may be finished with (`base.Finish`), and their derivatives.

y tells the derivative where the derivative is a function of y: with s the logistic function, s' = s (1 - s) and
tanh' = 1 - tanh^2. silu and gelu fall and rise again, so theirs needs the sum u before them. So where there is
something to differentiate u is computed in the place of y, and rounded to its dtype before the activation:

    silu(u) = u s(u),       silu' = s(u) + u s(u) (1 - s(u))
    gelu(u) = u s(z),       gelu' = s(z) + u s(z) (1 - s(z)) z'
    z = sqrt(8 / pi) (u + 0.044715 u^3),        z' = sqrt(8 / pi) (1 + 3 0.044715 u^2)

s(z) is (1 + tanh(z / 2)) / 2, as gelu is written elsewhere, without the cancellation where tanh is near -1.

    Source: Elfwing, Uchibe and Doya, "Sigmoid-weighted linear units", 2018, arXiv:1702.03118; Hendrycks and Gimpel,
    "Gaussian error linear units", 2016, arXiv:1606.08415.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp


class Elementwise(NamedTuple):
    """y = apply(u), and `derivative(v, t)`: its derivative at v, applied to a tangent t; v is y, with `of_sum` u."""

    apply: Callable[[jax.Array], jax.Array]
    derivative: Callable[[jax.Array, jax.Array], jax.Array]
    of_sum: bool = False


SLOPE, CUBE = math.sqrt(8 / math.pi), 0.044715
FLAT = 20.0  # from where gelu' is 0 or 1 to the last digit, and u^2 need not grow until it is infinite


def _z(u):
    return SLOPE * (u + CUBE * u**3)


def _gelu_derivative(u, t):
    u = jnp.clip(u, -FLAT, FLAT)
    s = lax.logistic(_z(u))
    return t * (s + u * s * (1 - s) * SLOPE * (1 + 3 * CUBE * u**2))


def _silu_derivative(u, t):
    s = lax.logistic(u)
    return t * (s + u * s * (1 - s))


ACTIVATIONS: dict[str, Elementwise] = {
    "relu": Elementwise(lambda u: jnp.maximum(u, 0), lambda y, t: jnp.where(y > 0, t, jnp.zeros_like(t))),
    "relu6": Elementwise(lambda u: jnp.clip(u, 0, 6), lambda y, t: jnp.where((y > 0) & (y < 6), t, jnp.zeros_like(t))),
    "tanh": Elementwise(jnp.tanh, lambda y, t: t * (1 - y**2)),
    "sigmoid": Elementwise(lax.logistic, lambda y, t: t * (y * (1 - y))),
    "silu": Elementwise(lambda u: u * lax.logistic(u), _silu_derivative, of_sum=True),
    "gelu": Elementwise(lambda u: u * lax.logistic(_z(u)), _gelu_derivative, of_sum=True),
}
OF_INTEGERS = ("relu", "relu6")
ORDERED = ("relu6", "gelu")  # which clip, and complex numbers have no order


def activated(u: jax.Array, activation: str | None) -> jax.Array:
    """The activation of a name, or u itself."""
    return u if activation is None else ACTIVATIONS[activation].apply(u)
