"""Initializers: random weights whose scale keeps the signal's variance, with fans that know groups.

A kernel ``[*window, in // groups, out]`` gives each output ``window * in / groups`` inputs (fan-in), and each input
``window * out / groups`` outputs (fan-out). Each initializer is a function ``init(key, shape, dtype)``, as in
`jax.nn.initializers`; those can be passed wherever these can.

| name here | Keras | PyTorch | JAX |
|---|---|---|---|
| `glorot_uniform`, `glorot_normal` | the same, normal truncated | `xavier_uniform_`; normal not truncated | the same |
| `he_uniform`, `he_normal` | the same, normal truncated | `kaiming_*_(nonlinearity="relu")`; not truncated | the same |
| `lecun_uniform`, `lecun_normal` | the same, normal truncated | | the same |
| `torch_default` | | default of `nn.Conv*`, `nn.ConvTranspose*`, `nn.Linear` | |
| `xavier_normal`, `kaiming_normal` | | those, not truncated | |

Those under a name of PyTorch's count fans as it does, from the shape alone (`plain_fans` of `VarianceScaling`): groups
are not taken off the fan-out, and a transposed convolution has the fan-in of the convolution which is transposed,
``window * out / groups``. Keras and JAX count so too, so that with groups, or transposed, what is under their names
draws from another range here than there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import numpy as jnp

from . import _spec

_MODES = ("fan_in", "fan_out", "fan_avg")
_DISTRIBUTIONS = ("uniform", "truncated_normal", "normal")


def fans(shape: Sequence[int], *, feature_group_count: int = 1, transposed: bool = False) -> tuple[int, int]:
    """Inputs of each output, and outputs of each input: (prod(window) in / groups, prod(window) out / groups).

    Args:
        shape: of the kernel, ``[*window, in // feature_group_count, out]``.
        feature_group_count: number of groups.
        transposed: whether the kernel is for a transposed convolution,
            ``[*window, out // feature_group_count, in]``.

    Returns:
        (fan_in, fan_out).

    Raises:
        ValueError: for fewer than two axes, or groups that do not divide the last one.

    >>> fans((3, 3, 1, 12))
    (9, 108)
    >>> fans((3, 3, 1, 128), feature_group_count=128)
    (9, 9)

    References:
        Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010. Keras, JAX
        and PyTorch count ``window * out`` as fan-out also with groups, which is groups times too many.
    """
    shape = tuple(shape)
    if len(shape) < 2:
        raise ValueError(f"shape: got {shape}, accepted is [*window, in // feature_group_count, out].")
    if feature_group_count < 1 or shape[-1] % feature_group_count:
        raise ValueError(f"feature_group_count: got {feature_group_count}, accepted is a divisor of {shape[-1]}.")
    window = math.prod(shape[:-2])
    first, last = window * shape[-2], window * shape[-1] // feature_group_count
    return (last, first) if transposed else (first, last)


@dataclasses.dataclass(frozen=True)
class VarianceScaling:
    """Random weights of variance scale / fan, independent of each other.

    "uniform" draws from +-sqrt(3 scale / fan), "normal" has that standard deviation sqrt(scale / fan), and
    "truncated_normal" is cut at two standard deviations and widened so as to have it again.

    Args:
        scale: variance of the weights times their fan.
        mode: which fan: ``"fan_in"``, ``"fan_out"`` or ``"fan_avg"``.
        distribution: ``"uniform"``, ``"truncated_normal"`` or ``"normal"``.
        plain_fans: whether fans are ``window * shape[-2]`` and ``window * shape[-1]`` of every kernel, with groups and
            transposed too, as PyTorch, Keras and JAX count them.

    Returns:
        A function ``init(key, shape, dtype=float32, *, feature_group_count=1, transposed=False)``.

    Raises:
        ValueError: for an unknown mode or distribution, or a scale that is not positive.

    >>> import jax
    >>> weights = VarianceScaling(1.0, "fan_avg", "uniform")(jax.random.key(0), (3, 3, 1, 12))
    >>> weights.shape, bool((abs(weights) < (6 / 117) ** 0.5).all())
    ((3, 3, 1, 12), True)

    References:
        The class of that name in Keras; LeCun et al., "Efficient backprop", 1998.
    """

    scale: float
    mode: str
    distribution: str
    plain_fans: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale: got {self.scale}, accepted is a positive number.")
        if self.mode not in _MODES:
            raise ValueError(f"mode: got {self.mode!r}, {_spec.nearest(self.mode, _MODES)}")
        if self.distribution not in _DISTRIBUTIONS:
            raise ValueError(
                f"distribution: got {self.distribution!r}, {_spec.nearest(self.distribution, _DISTRIBUTIONS)}"
            )

    def __call__(
        self,
        key: jax.Array,
        shape: Sequence[int],
        dtype: Any = jnp.float32,
        *,
        feature_group_count: int = 1,
        transposed: bool = False,
        fan_shape: Sequence[int] | None = None,
    ) -> jax.Array:
        """Draws `shape`; `fan_shape`, if given, is the kernel whose fans set the scale (for its bias)."""
        counted = {} if self.plain_fans else {"feature_group_count": feature_group_count, "transposed": transposed}
        fan_in, fan_out = fans(fan_shape or shape, **counted)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        std = math.sqrt(self.scale / max(fan, 1))
        shape = tuple(shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):  # half of the variance in each part
            part, real = dataclasses.replace(self, scale=self.scale / 2), jnp.finfo(dtype).dtype
            options: dict[str, Any] = {"feature_group_count": feature_group_count, "transposed": transposed}
            parts = (part(k, shape, real, **options, fan_shape=fan_shape) for k in jax.random.split(key))
            return jax.lax.complex(*parts)
        if self.distribution == "uniform":
            limit = math.sqrt(3) * std
            return jax.random.uniform(key, shape, dtype, -limit, limit)
        if self.distribution == "normal":
            return std * jax.random.normal(key, shape, dtype)
        kept = 0.8796256610342398  # standard deviation of a standard normal cut at +-2
        return jnp.asarray(std / kept, dtype) * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)


def _named(name: str, scale: float, mode: str, distribution: str, equation: str, source: str, plain_fans: bool = False):
    def make() -> VarianceScaling:
        return VarianceScaling(scale, mode, distribution, plain_fans)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"""{equation}.

    Args:
        None.

    Returns:
        A function ``init(key, shape, dtype)``, the `VarianceScaling` of
        ``{scale!r}``, ``{mode!r}``, ``{distribution!r}``{", plain_fans=True" if plain_fans else ""}.

    Raises:
        Nothing.

    >>> {name}().mode
    {mode!r}

    References:
        {source}
    """
    return make


_GLOROT = "Glorot and Bengio, 2010, equation 16; Keras and JAX under the same name."
_HE = "He et al., 2015, arXiv:1502.01852; Keras and JAX under the same name."
_LECUN = "LeCun et al., 1998, Efficient backprop; Keras and JAX under the same name."
_TORCH = "The PyTorch initializer of the same name with an underscore."

glorot_uniform = _named(
    "glorot_uniform", 1.0, "fan_avg", "uniform", "Uniform in +-sqrt(6 / (fan_in + fan_out))", _GLOROT
)
glorot_normal = _named(
    "glorot_normal", 1.0, "fan_avg", "truncated_normal", "Truncated normal of variance 2 / (fan_in + fan_out)", _GLOROT
)
he_uniform = _named("he_uniform", 2.0, "fan_in", "uniform", "Uniform in +-sqrt(6 / fan_in)", _HE)
he_normal = _named("he_normal", 2.0, "fan_in", "truncated_normal", "Truncated normal of variance 2 / fan_in", _HE)
lecun_uniform = _named("lecun_uniform", 1.0, "fan_in", "uniform", "Uniform in +-sqrt(3 / fan_in)", _LECUN)
lecun_normal = _named(
    "lecun_normal", 1.0, "fan_in", "truncated_normal", "Truncated normal of variance 1 / fan_in", _LECUN
)
xavier_normal = _named(
    "xavier_normal", 1.0, "fan_avg", "normal", "Normal of variance 2 / (fan_in + fan_out)", _TORCH, True
)
kaiming_normal = _named("kaiming_normal", 2.0, "fan_in", "normal", "Normal of variance 2 / fan_in", _TORCH, True)
torch_default = _named(
    "torch_default",
    1 / 3,
    "fan_in",
    "uniform",
    "Uniform in +-1 / sqrt(fan_in)",
    "reset_parameters of torch.nn.Conv2d, ConvTranspose2d and Linear; their bias is drawn from the same range.",
    True,
)


def zeros(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """All zeros: w = 0.

    Args:
        key: ignored.
        shape: of the result.
        dtype: of the result.

    Returns:
        An array of zeros.

    Raises:
        Nothing.

    >>> zeros(None, (2,))
    Array([0., 0.], dtype=float32)

    References:
        `jax.nn.initializers.zeros`.
    """
    del key
    return jnp.zeros(tuple(shape), dtype)


def ones(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """All ones: w = 1.

    Args:
        key: ignored.
        shape: of the result.
        dtype: of the result.

    Returns:
        An array of ones.

    Raises:
        Nothing.

    >>> ones(None, (2,))
    Array([1., 1.], dtype=float32)

    References:
        `jax.nn.initializers.ones`.
    """
    del key
    return jnp.ones(tuple(shape), dtype)
