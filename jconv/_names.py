"""Names: what an error about an unknown one says, and which argument is meant where another library's name is given."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# What PyTorch, Keras, TensorFlow, Haiku, SciPy and lax call the arguments that stand in front; the first that a
# function has is meant.
CALLED = {
    "x": "input inputs image images lhs data",
    "kernel": "weight weights filter filters rhs w",
    "bias": "b",
    "g": "grad grad_output cotangent ct dy",
    "in1": "a x input",
    "in2": "v y kernel",
    "features": "filters out_channels output_channels out_features units output_size channels",
    "kernel_size": "kernel_shape window_shape window pool_size filter_size ksize size",
    "window_shape": "kernel_size kernel_shape window pool_size filter_size ksize size window_dimensions weight_size",
    "strides": "stride window_strides step subsample",
    "padding": "pad pads paddings border_mode",
    "padding_mode": "pad_mode",
    "input_dilation": "lhs_dilation base_dilation",
    "kernel_dilation": "dilation dilations dilation_rate rhs_dilation window_dilation atrous_rate rate",
    "feature_group_count": "groups group num_groups feature_groups",
    "num_groups": "groups group",
    "channel_multiplier": "depth_multiplier",
    "output_shape": "output_size",
    "input_shape": "input_size x_shape",
    "x_shape": "input_shape",
    "kernel_shape": "window_shape weight_shape",
    "preferred_element_type": "out_dtype dtype",
    "use_bias": "bias with_bias",
    "use_scale": "scale create_scale affine elementwise_affine",
    "kernel_init": "kernel_initializer w_init weight_init",
    "bias_init": "bias_initializer b_init",
    "epsilon": "eps",
    "momentum": "decay decay_rate",
    "rate": "p dropout_rate",
    "activation": "act nonlinearity",
    "function": "activation",
    "key": "rng rngs seed prng",
    "train": "training is_training",
}  # fmt: skip
# What has no argument here, and why not.
INSTEAD = {
    **dict.fromkeys(
        ("data_format", "dimension_numbers", "channels_last", "channel_axis"),
        "images are always [*batch, *spatial, channels], and kernels [*window, in // groups, out]",
    ),
    **dict.fromkeys(
        ("in_channels", "in_features", "num_features", "normalized_shape", "input_channels"),
        "the channels of the input are read from its shape",
    ),
    **dict.fromkeys(("deterministic", "inference"), "it is train=False of `apply`"),
    "batch_group_count": "jconv.lax.conv_general_dilated has it",
}


def nearest(name: object, accepted: Iterable[str]) -> str:
    """What an error about an unknown name ends with: the accepted names, the nearest one first."""
    accepted = list(accepted)
    by_folded = {a.lower(): a for a in accepted}
    close = difflib.get_close_matches(str(name).lower(), list(by_folded), n=1)
    hint = f" Did you mean {by_folded[close[0]]!r}?" if close else ""
    return f"accepted: {', '.join(map(repr, accepted))}.{hint}"


def named(fn: Callable[P, R]) -> Callable[P, R]:
    """`fn`, whose errors about arguments that it does not have name those that are meant."""
    parameters = {name: p for name, p in inspect.signature(fn).parameters.items() if name != "self"}
    by_position = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    by_name = [name for name in parameters if name not in by_position]
    itself = len(inspect.signature(fn).parameters) - len(parameters)
    open_end = any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    called = fn.__qualname__.removesuffix(".__init__")

    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in parameters:
                raise TypeError(f"{name}: no argument of {called}; {_meant(name, list(parameters))}")
        if len(args) - itself > len(by_position) and not open_end:
            options = f"; {', '.join(by_name)} are given by name" if by_name else ""
            raise TypeError(f"{called}: got {len(args) - itself} arguments without a name, accepted are "
                            f"{', '.join(by_position)}{options}.")  # fmt: skip
        return fn(*args, **kwargs)

    return call


def _meant(name: str, accepted: list[str]) -> str:
    for own in accepted:
        if name in CALLED.get(own, "").split():
            return f"it is called {own!r} here."
    if name in INSTEAD:
        return f"{INSTEAD[name]}."
    return nearest(name, accepted)
