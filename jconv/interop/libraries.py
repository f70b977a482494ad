"""The tables of each library, and the functions that read and write its trees."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from ..layers import Layer
from .base import OI, SAME, STATE, Convention, Layout, Leaf, Names, leaves_of, named_leaves, to_here, to_there

UNNAMED = "variable"  # what Keras calls a weight without a name, and then variable_1, variable_2 and so on
COUNTED = 1_000_000  # steps after which a running average that is corrected for its start needs no correction


# Layouts -------------------------------------------------------------------------------------------------
def _flip(a: np.ndarray) -> np.ndarray:
    return np.flip(a, tuple(range(a.ndim - 2)))


def _transposed_there(a: np.ndarray, leaf: Leaf) -> np.ndarray:
    groups, rank = leaf.groups, a.ndim - 2
    a = _flip(a).reshape(*a.shape[:-1], groups, -1)  # [*window, out / groups, groups, in / groups]
    return a.transpose(rank + 1, rank, rank + 2, *range(rank)).reshape(leaf.features, -1, *a.shape[:rank])


def _transposed_back(a: np.ndarray, leaf: Leaf) -> np.ndarray:
    groups, rank = leaf.groups, a.ndim - 2
    a = a.reshape(groups, leaf.features // groups, *a.shape[1:])
    return _flip(a.transpose(*range(3, rank + 3), 1, 0, 2).reshape(leaf.shape))


def _local_there(a: np.ndarray, leaf: Leaf) -> np.ndarray:
    rank = len(leaf.input_shape) - 2
    a = np.moveaxis(a, -2, rank)  # lax orders the elements of a patch channel by channel
    return a.reshape(*a.shape[:rank], -1, a.shape[-1])


def _local_back(a: np.ndarray, leaf: Leaf) -> np.ndarray:
    rank = len(leaf.input_shape) - 2
    return np.moveaxis(a.reshape(*leaf.shape[:rank], leaf.shape[-2], *leaf.shape[rank:-2], leaf.shape[-1]), rank, -2)


CONV_OI = OI._replace(text="[out, in / groups, *window]")
TRANSPOSE_IO = OI._replace(text="[in, out / groups, *window]")
DENSE_OI = OI._replace(text="[out, in]")
DEPTHWISE = Layout(
    "[*window, in, multiplier]",
    lambda a, leaf: a.reshape(*a.shape[:-2], leaf.input_shape[-1], -1),
    lambda a, leaf: a.reshape(leaf.shape),
)
UNGROUPED = SAME._replace(text="[*window, out, in]", has_groups=False)
FLIPPED = Layout("[*window, out, in], flipped", lambda a, leaf: _flip(a), lambda a, leaf: _flip(a), has_groups=False)
FLIPPED_IO = Layout(
    "[*window, in, out], flipped",
    lambda a, leaf: _flip(a).swapaxes(-1, -2),
    lambda a, leaf: _flip(a).swapaxes(-1, -2),
    has_groups=False,
)
TRANSPOSE_OI = Layout("[out, in / groups, *window], flipped", _transposed_there, _transposed_back)
PATCHES = Layout("[*positions, in * window, out]", _local_there, _local_back, has_groups=False)
AS_IMAGE = Layout(
    "[1, ..., 1, channels]",
    lambda a, leaf: a.reshape(*(1,) * (len(leaf.input_shape) - 1), -1),
    lambda a, leaf: a.reshape(-1),
)
AS_FIRST = Layout(
    "[channels, 1, ..., 1]",
    lambda a, leaf: a.reshape(-1, *(1,) * (len(leaf.input_shape) - 2)),
    lambda a, leaf: a.reshape(-1),
)


# Tables --------------------------------------------------------------------------------------------------
def _norms(scale: str, bias: str, mean: str, var: str, layout: Layout = SAME) -> dict:
    named = {("BatchNorm", n): (there, layout) for n, there in zip(("scale", "bias", "mean", "var"),
             (scale, bias, mean, var), strict=True)}  # fmt: skip
    for kind in ("GroupNorm", "LayerNorm"):
        named |= {(kind, "scale"): (scale, SAME), (kind, "bias"): (bias, SAME)}
    return named


def _kernels(kernel: str, bias: str, layouts: Mapping[str, Layout], bias_layout: Layout = SAME) -> dict:
    named = {}
    for kind, layout in layouts.items():
        named |= {(kind, "kernel"): (kernel, layout)}
        named |= {(kind, "bias"): (bias, SAME if kind == "Dense" else bias_layout)}
    return named


TORCH = Convention(
    "PyTorch",
    ".",
    {
        **_kernels("weight", "bias", {"Conv": CONV_OI, "DepthwiseConv": CONV_OI, "ConvTranspose": TRANSPOSE_IO,
                                      "Dense": DENSE_OI}),
        **_norms("weight", "bias", "running_mean", "running_var"),
        ("SeparableConv", "depthwise/kernel"): ("depthwise.weight", CONV_OI),
        ("SeparableConv", "pointwise/kernel"): ("pointwise.weight", CONV_OI),
        ("SeparableConv", "pointwise/bias"): ("pointwise.bias", SAME),
        ("LayerScale", "scale"): ("layer_scale", AS_FIRST),  # torchvision's, since PyTorch has none
    },
    channels_first=True,
)  # fmt: skip

KERAS = Convention(
    "Keras",
    names={
        **_kernels(
            "kernel", "bias", {"Conv": SAME, "DepthwiseConv": DEPTHWISE, "ConvTranspose": UNGROUPED, "Dense": SAME}
        ),
        **_norms("gamma", "beta", "moving_mean", "moving_variance"),
        ("SeparableConv", "depthwise/kernel"): ("depthwise_kernel", DEPTHWISE),
        ("SeparableConv", "pointwise/kernel"): ("pointwise_kernel", SAME),
        ("SeparableConv", "pointwise/bias"): ("bias", SAME),
        ("LayerScale", "scale"): (UNNAMED, SAME),  # that of keras.applications
    },
)

HAIKU = Convention(
    "Haiku",
    names={
        **_kernels("w", "b", {"Conv": SAME, "DepthwiseConv": SAME, "ConvTranspose": FLIPPED, "Dense": SAME}),
        **_norms("scale", "offset", "~/mean_ema/average", "~/var_ema/average", AS_IMAGE),
    },
)

EQUINOX = Convention(
    "Equinox",
    ".",
    {
        **_kernels("weight", "bias", {"Conv": CONV_OI, "DepthwiseConv": CONV_OI, "ConvTranspose": TRANSPOSE_OI,
                                      "Dense": DENSE_OI}, AS_FIRST),
        **_norms("weight", "bias", "mean", "var"),
    },
    channels_first=True,
)  # fmt: skip

PLAIN = Convention("jconv")


def _flax(transpose_kernel: bool, collections: bool) -> Convention:
    transposed = UNGROUPED if transpose_kernel else FLIPPED_IO
    kernels = {"Conv": SAME, "DepthwiseConv": SAME, "ConvTranspose": transposed, "Dense": SAME, "ConvLocal": PATCHES}
    names = {**_kernels("kernel", "bias", kernels), **_norms("scale", "bias", "mean", "var")}
    return Convention("Flax", "/", names, ("params", "batch_stats") if collections else ("", ""))


# Trees ---------------------------------------------------------------------------------------------------
def _keys(path: tuple[Any, ...]) -> list[str]:
    names = [getattr(k, "name", getattr(k, "key", getattr(k, "idx", None))) for k in path]
    if len(names) > 1 and isinstance(path[-1], jax.tree_util.GetAttrKey) and names[-1] == "value":
        names = names[:-1]  # the box of a variable
    return [str(name) for name in names]


def _flat(tree: Any, separator: str) -> dict[str, Any]:
    """The arrays of a tree under the joined keys of the way to them; keys of random numbers are none."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        keys = _keys(path)
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype") and "rngs" not in keys:
            found[separator.join(keys)] = leaf
    return found


def _nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, array in arrays.items():
        *keys, last = name.split("/")
        inner = out
        for key in keys:
            inner = inner.setdefault(key, {})
        inner[last] = array
    return out


def _from_tensor(value: Any) -> np.ndarray:
    if not hasattr(value, "detach"):
        return np.asarray(value)
    value = value.detach().cpu()
    if str(value.dtype) == "torch.bfloat16":  # which NumPy alone does not have
        return value.view(sys.modules["torch"].int16).numpy().view(jnp.bfloat16)
    return value.numpy()


# Public --------------------------------------------------------------------------------------------------
def from_torch(
    layer: Layer, input_shape: Sequence[int], state_dict: Mapping[str, Any], *, names: Names | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and state of a network from the state dict of a PyTorch module.

    | layer | there | here |
    |---|---|---|
    | Conv, DepthwiseConv | ``weight`` [out, in / groups, *window] | ``kernel`` [*window, in / groups, out] |
    | ConvTranspose | ``weight`` [in, out / groups, *window] | ``kernel`` [*window, out / groups, in] |
    | Dense | ``weight`` [out, in] | ``kernel`` [in, out] |
    | BatchNorm | ``weight``, ``bias``, ``running_mean``, ``running_var`` | ``scale``, ``bias``; ``mean``, ``var`` |
    | GroupNorm, LayerNorm | ``weight``, ``bias`` | ``scale``, ``bias`` |

    PyTorch flattens channel by channel and jconv position by position, so what meets flattened features is reordered.
    ``num_batches_tracked`` has no counterpart and is left out.

    Args:
        layer: the network here.
        input_shape: ``[batch, *spatial, channels]`` of its input; the batch may be -1.
        state_dict: names and tensors, or arrays as of a safetensors file. Nothing is unpickled.
        names: the module there for each layer here, as ``{"Conv_0": "features.0"}``; by default the same names.
            Renaming a layer renames all that is in it.

    Returns:
        ``(params, state)``, with the dtypes of the state dict.

    Raises:
        ValueError: for a state dict that does not fit; the message lists all that is missing, unexpected, or of
            another shape, with both layouts.
        TypeError: for a layer that is none.

    >>> import numpy as np
    >>> from jconv import layers
    >>> state_dict = {"weight": np.zeros((6, 1, 5, 5), "float32"), "bias": np.zeros(6, "float32")}
    >>> from_torch(layers.Conv(6, 5), (1, 32, 32, 1), state_dict)[0]["kernel"].shape
    (5, 5, 1, 6)

    References:
        ``torch.nn.Module.state_dict`` and the shapes in the documentation of ``torch.nn.Conv2d`` and
        ``torch.nn.ConvTranspose2d``.
    """
    arrays = {n: _from_tensor(v) for n, v in state_dict.items() if n.rpartition(".")[2] != "num_batches_tracked"}
    return to_here(layer, input_shape, arrays, TORCH, names, "state_dict")


def to_torch(
    layer: Layer, input_shape: Sequence[int], params: Any, state: Any, *, names: Names | None = None
) -> dict[str, np.ndarray]:
    """The state dict of the PyTorch module that computes what a network here computes: the way back of `from_torch`.

    Args:
        layer: the network here.
        input_shape: as for `from_torch`.
        params: its parameters.
        state: its state.
        names: as for `from_torch`.

    Returns:
        Names and NumPy arrays; ``{n: torch.from_numpy(a) for n, a in ...}`` is for ``load_state_dict``. PyTorch takes
        a bfloat16 array as ``torch.from_numpy(a.view("int16")).view(torch.bfloat16)``.

    Raises:
        ValueError: for params or state of another network, or a layer that PyTorch does not have.
        TypeError: for a layer that is none.

    >>> import jax
    >>> from jconv import layers
    >>> layer = layers.ConvTranspose(3, 4, strides=2)
    >>> params, state = layer.init(jax.random.key(0), (1, 7, 7, 16))
    >>> {name: a.shape for name, a in to_torch(layer, (1, 7, 7, 16), params, state).items()}
    {'bias': (3,), 'weight': (16, 3, 4, 4)}

    References:
        As for `from_torch`.
    """
    arrays = to_there(layer, input_shape, params, state, TORCH, names)
    counted = [name for name in arrays if name.rpartition(".")[2] == "running_mean"]
    for name in counted:
        arrays[f"{name.removesuffix('running_mean')}num_batches_tracked"] = np.zeros((), np.int64)
    return arrays


def _variables(model: Any) -> dict[str, Any]:
    """The weights of a Keras layer or model under their paths in it."""
    found = {variable.path: variable for variable in model.weights}
    own = f"{model.name}/"
    if all(n.startswith(own) for n in found):
        found = {name.removeprefix(own): v for name, v in found.items()}
    named = {re.sub(rf"(^|/){UNNAMED}_\d+$", rf"\1{UNNAMED}", name): v for name, v in found.items()}
    return named if len(named) == len(found) else found  # the number counts the weights of all models of the process


def from_keras(
    layer: Layer, input_shape: Sequence[int], model: Any, *, names: Names | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and state of a network from the weights of a Keras layer or model.

    Kernels lie as here, ``[*window, in / groups, out]``, those of depthwise layers ``[*window, in, multiplier]``.
    ``gamma``, ``beta``, ``moving_mean`` and ``moving_variance`` are ``scale``, ``bias``, ``mean`` and ``var``.

    Args:
        layer: the network here.
        input_shape: as for `from_torch`.
        model: a Keras layer or model that is built, on any backend.
        names: the path of the layer there, without the model's own name, for each layer here: ``{"Conv_0": "conv2d"}``.

    Returns:
        ``(params, state)``.

    Raises:
        ValueError: for weights that do not fit; the message lists them all.
        TypeError: for a layer that is none.

    >>> import types
    >>> import numpy as np
    >>> from jconv import layers
    >>> kernel = types.SimpleNamespace(path="dense/kernel", value=np.ones((4, 2), "float32"))
    >>> model = types.SimpleNamespace(name="dense", weights=[kernel])
    >>> from_keras(layers.Dense(2, use_bias=False), (1, 4), model)[0]["kernel"].shape
    (4, 2)

    References:
        The weights of ``keras.layers.Conv2D``, ``DepthwiseConv2D``, ``SeparableConv2D`` and ``BatchNormalization``.
    """
    arrays = {name: _from_tensor(variable.value) for name, variable in _variables(model).items()}
    return to_here(layer, input_shape, arrays, KERAS, names, "model")


def to_keras(
    layer: Layer, input_shape: Sequence[int], params: Any, state: Any, model: Any, *, names: Names | None = None
) -> None:
    """Assigns the parameters and state of a network to a Keras layer or model: the way back of `from_keras`.

    All is checked before anything is assigned.

    Args:
        layer: the network here.
        input_shape: as for `from_torch`.
        params: its parameters.
        state: its state.
        model: a Keras layer or model that is built, with the same layers.
        names: as for `from_keras`.

    Returns:
        Nothing.

    Raises:
        ValueError: for a model that does not fit; it is left as it was.
        TypeError: for a layer that is none.

    >>> import types
    >>> import numpy as np
    >>> from jconv import layers
    >>> kernel = types.SimpleNamespace(path="dense/kernel", value=np.ones((4, 2), "float32"), assign=print)
    >>> model = types.SimpleNamespace(name="dense", weights=[kernel])
    >>> to_keras(layers.Dense(2, use_bias=False), (1, 4), {"kernel": np.zeros((4, 2), "float32")}, {}, model)
    [[0. 0.]
     [0. 0.]
     [0. 0.]
     [0. 0.]]

    References:
        As for `from_keras`.
    """
    arrays = to_there(layer, input_shape, params, state, KERAS, names)
    from_keras(layer, input_shape, model, names=names)
    for name, variable in _variables(model).items():
        variable.assign(arrays[name])


def from_flax(
    layer: Layer,
    input_shape: Sequence[int],
    variables: Any,
    *,
    names: Names | None = None,
    transpose_kernel: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and state of a network from those of Flax: linen variables, or the state of an nnx module.

    Kernels lie as here, but for those of ``ConvTranspose``, ``[*window, in, out]`` with a flipped window (with
    ``transpose_kernel=True`` as here), and of ``ConvLocal``, ``[*positions, in * window, out]``.

    Args:
        layer: the network here.
        input_shape: as for `from_torch`.
        variables: ``{"params": ..., "batch_stats": ...}`` of linen, or ``nnx.state(module)``, or nested dicts as
            ``nnx.to_pure_dict`` gives them.
        names: the module there for each layer here, as ``{"Conv_0": "encoder/conv"}``; by default the same names, which
            are linen's own.
        transpose_kernel: how the transposed layers there were made.

    Returns:
        ``(params, state)``.

    Raises:
        ValueError: for variables that do not fit; the message lists them all.
        TypeError: for a layer that is none.

    >>> import jax.numpy as jnp
    >>> from jconv import layers
    >>> net = layers.Sequential(layers.Conv(8, 3, use_bias=False), layers.BatchNorm(use_scale=False))
    >>> variables = {
    ...     "params": {"Conv_0": {"kernel": jnp.ones((3, 3, 1, 8))}, "BatchNorm_0": {"bias": jnp.ones(8)}},
    ...     "batch_stats": {"BatchNorm_0": {"mean": jnp.zeros(8), "var": jnp.ones(8)}},
    ... }
    >>> params, state = from_flax(net, (1, 9, 9, 1), variables)
    >>> sorted(params), sorted(state["BatchNorm_0"])
    (['BatchNorm_0', 'Conv_0'], ['mean', 'var'])

    References:
        ``flax.linen.Conv``, ``flax.linen.ConvTranspose``, ``flax.linen.BatchNorm`` and their like in ``flax.nnx``.
    """
    arrays = _flat(variables, "/")
    collections = {name.split("/")[0] for name in arrays} <= {"params", "batch_stats"}
    return to_here(layer, input_shape, arrays, _flax(transpose_kernel, collections), names, "variables")


def to_flax(
    layer: Layer,
    input_shape: Sequence[int],
    params: Any,
    state: Any,
    *,
    names: Names | None = None,
    transpose_kernel: bool = False,
    collections: bool = True,
) -> dict[str, Any]:
    """The variables of the Flax module that computes what a network here computes: the way back of `from_flax`.

    Args:
        layer: the network here.
        input_shape: as for `from_torch`.
        params: its parameters.
        state: its state.
        names: as for `from_flax`.
        transpose_kernel: as for `from_flax`.
        collections: ``{"params": ..., "batch_stats": ...}`` as linen has them; otherwise one tree, for nnx
            (``nnx.update(module, ...)``), where a name that is a number is an index.

    Returns:
        Nested dicts.

    Raises:
        ValueError: for params or state of another network, or a layer that Flax does not have.
        TypeError: for a layer that is none.

    >>> import jax
    >>> from jconv import layers
    >>> layer = layers.Dense(2)
    >>> params, state = layer.init(jax.random.key(0), (1, 3))
    >>> sorted(to_flax(layer, (1, 3), params, state, names={"": "Dense_0"})["params"]["Dense_0"])
    ['bias', 'kernel']

    References:
        As for `from_flax`.
    """
    tree = _nested(to_there(layer, input_shape, params, state, _flax(transpose_kernel, collections), names))

    def indexed(tree: Any) -> Any:
        return {int(k) if k.isdigit() else k: indexed(v) for k, v in tree.items()} if isinstance(tree, dict) else tree

    return tree if collections else indexed(tree)


def from_haiku(
    layer: Layer, input_shape: Sequence[int], params: Any, state: Any = None, *, names: Names | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and state of a network from those of a Haiku function.

    ``w`` and ``b`` are ``kernel`` and ``bias``, ``scale`` and ``offset`` are ``scale`` and ``bias``. Kernels lie as
    here, but for those of ``Conv2DTranspose``, whose window is flipped. The averages of ``BatchNorm`` are those that
    inference uses.

    Args:
        layer: the network here.
        input_shape: as for `from_torch`.
        params: ``{module: {name: array}}``.
        state: the same of the state, or None.
        names: the module there for each layer here, as ``{"Conv_0": "conv2_d"}``.

    Returns:
        ``(params, state)``.

    Raises:
        ValueError: for params or state that do not fit; the message lists them all.
        TypeError: for a layer that is none.

    >>> import jax.numpy as jnp
    >>> from jconv import layers
    >>> there = {"linear": {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}}
    >>> sorted(from_haiku(layers.Dense(2), (1, 3), there, names={"": "linear"})[0])
    ['bias', 'kernel']

    References:
        ``haiku.Conv2D``, ``haiku.Conv2DTranspose``, ``haiku.BatchNorm``, ``haiku.ExponentialMovingAverage``.
    """
    arrays = {f"{module}/{n}": array for tree in (params, state or {}) for module, arrays in tree.items()
              for n, array in arrays.items() if not (module.endswith("_ema") and n != "average")}  # fmt: skip
    return to_here(layer, input_shape, arrays, HAIKU, names, "params and state")


def to_haiku(
    layer: Layer, input_shape: Sequence[int], params: Any, state: Any, *, names: Names | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and state of the Haiku function that computes what a network here computes: back of `from_haiku`.

    Haiku corrects a running average for its first steps; those that are written count as long past them.

    Args:
        layer: the network here.
        input_shape: as for `from_torch`.
        params: its parameters.
        state: its state.
        names: as for `from_haiku`.

    Returns:
        ``(params, state)`` of Haiku.

    Raises:
        ValueError: for params or state of another network, or a layer that Haiku does not have.
        TypeError: for a layer that is none.

    >>> import jax
    >>> from jconv import layers
    >>> layer = layers.Dense(2)
    >>> params, state = layer.init(jax.random.key(0), (1, 3))
    >>> {n: a.shape for n, a in to_haiku(layer, (1, 3), params, state, names={"": "linear"})[0]["linear"].items()}
    {'b': (2,), 'w': (3, 2)}

    References:
        As for `from_haiku`.
    """
    trees: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name, array in to_there(layer, input_shape, params, state, HAIKU, names).items():
        module, _, last = name.rpartition("/")
        if last == "average":
            trees[1][module] = {"average": array, "hidden": array, "counter": np.int32(COUNTED)}
        else:
            trees[0].setdefault(module, {})[last] = array
    return trees


def _at(module: Any, path: str) -> Any:
    """What lies in a module of Equinox at a path such as ``layers.0``."""
    for part in filter(None, path.split(".")):
        module = (
            module[int(part)] if part.isdigit() else module[part] if hasattr(module, "keys") else getattr(module, part)
        )
    return module


def _equinox_norms(layer: Layer, input_shape: Sequence[int], names: Names | None) -> list[str]:
    """Paths, there, of the layers with running averages."""
    named = named_leaves(leaves_of(layer, input_shape), EQUINOX, names)
    return [name.rpartition(".")[0] for name, (leaf, _) in named.items() if leaf.tree == STATE and leaf.name == "mean"]


def _equinox_averages(norm: Any, state: Any) -> tuple[Any, Any]:
    if norm.mode == "ema":
        return state.get(norm.ema_state_index)
    steps = int(state.get(norm.batch_counter))
    correction = 1 - norm.momentum**steps if steps else 1.0
    mean, var = (np.asarray(a) for a in state.get(norm.batch_state_index))
    return (mean, var) if correction == 1 else (mean / np.float32(correction), var / np.float32(correction))


def _key(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def from_equinox(
    layer: Layer, input_shape: Sequence[int], module: Any, module_state: Any = None, *, names: Names | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and state of a network from a module of Equinox.

    | layer | there | here |
    |---|---|---|
    | Conv, DepthwiseConv | ``weight`` [out, in / groups, *window] | ``kernel`` [*window, in / groups, out] |
    | ConvTranspose | ``weight`` [out, in / groups, *window], flipped | ``kernel`` [*window, out / groups, in] |
    | Dense | ``weight`` [out, in] | ``kernel`` [in, out] |

    Features that were flattened are reordered as in `from_torch`.

    Args:
        layer: the network here.
        input_shape: as for `from_torch`, with the channels last.
        module: a pytree of Equinox's layers.
        module_state: the ``equinox.nn.State`` with the running averages of its ``BatchNorm``, or None.
        names: the path there for each layer here, as ``{"Conv_0": "layers.0"}``.

    Returns:
        ``(params, state)``.

    Raises:
        ValueError: for a module that does not fit; the message lists all that does not.
        TypeError: for a layer that is none.

    >>> import jax.numpy as jnp
    >>> from jconv import layers
    >>> there = {"weight": jnp.ones((4, 3, 5, 5)), "bias": jnp.ones((4, 1, 1))}  # any pytree with these paths
    >>> from_equinox(layers.Conv(4, 5), (1, 9, 9, 3), there)[0]["kernel"].shape
    (5, 5, 3, 4)

    References:
        ``equinox.nn.Conv``, ``equinox.nn.ConvTranspose``, ``equinox.nn.BatchNorm``.
    """
    arrays = {n: a for n, a in _flat(module, ".").items() if ".init" not in n}  # of the state, before it is taken out
    if module_state is not None:
        for path in _equinox_norms(layer, input_shape, names):
            mean, var = _equinox_averages(_at(module, path), module_state)
            arrays |= {_key(path, "mean"): mean, _key(path, "var"): var}
    return to_here(layer, input_shape, arrays, EQUINOX, names, "module")


def to_equinox(
    layer: Layer,
    input_shape: Sequence[int],
    params: Any,
    state: Any,
    module: Any,
    module_state: Any = None,
    *,
    names: Names | None = None,
) -> Any:
    """A module of Equinox with the parameters and state of a network: the way back of `from_equinox`.

    Args:
        layer: the network here.
        input_shape: as for `from_equinox`.
        params: its parameters.
        state: its state.
        module: a module with the same layers, whose arrays are replaced.
        module_state: its ``equinox.nn.State``, where it has running averages.
        names: as for `from_equinox`.

    Returns:
        The module; with `module_state`, the module and its state.

    Raises:
        ValueError: for a module that does not fit.
        TypeError: for a layer that is none.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jconv import layers
    >>> layer = layers.Dense(2)
    >>> params, state = layer.init(jax.random.key(0), (1, 3))
    >>> there = {"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)}
    >>> to_equinox(layer, (1, 3), params, state, there)["bias"]
    Array([0., 0.], dtype=float32)

    References:
        As for `from_equinox`.
    """
    arrays = to_there(layer, input_shape, params, state, EQUINOX, names)
    from_equinox(layer, input_shape, module, module_state, names=names)
    fresh = lambda path, leaf: jnp.asarray(arrays.get(".".join(_keys(path)), leaf)) if hasattr(leaf, "shape") else leaf
    module = jax.tree_util.tree_map_with_path(fresh, module)
    if module_state is None:
        return module
    for path in _equinox_norms(layer, input_shape, names):
        norm = _at(module, path)
        pair = jnp.asarray(arrays[_key(path, "mean")]), jnp.asarray(arrays[_key(path, "var")])
        if norm.mode == "ema":
            module_state = module_state.set(norm.ema_state_index, pair).set(norm.ema_first_time_index, jnp.array(False))
        else:
            module_state = module_state.set(norm.batch_state_index, pair).set(norm.batch_counter, jnp.array(COUNTED))
    return module, module_state


def flatten(params: Any, state: Any = None) -> dict[str, np.ndarray]:
    """Parameters and state under names such as ``Conv_0/kernel``, as files of weights have them.

    Args:
        params: of a network.
        state: of the network, or None.

    Returns:
        Names and arrays, those of the parameters first.

    Raises:
        ValueError: for a name that both have.

    >>> import jax
    >>> from jconv import layers
    >>> list(flatten(*layers.BatchNorm().init(jax.random.key(0), (1, 8))))
    ['bias', 'scale', 'mean', 'var']

    References:
        The names are those of the nested dicts of `jconv.layers`.
    """
    found: dict[str, np.ndarray] = {}
    for tree in (params, state or {}):
        arrays = {name: np.asarray(array) for name, array in _flat(tree, "/").items()}
        if both := sorted(found.keys() & arrays):
            raise ValueError(f"state: got {both[0]!r}, which params has too; accepted are names that differ.")
        found |= arrays
    return found


def unflatten(
    layer: Layer, input_shape: Sequence[int], arrays: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and state of a network from arrays under the names that `flatten` gives.

    Args:
        layer: the network.
        input_shape: ``[batch, *spatial, channels]`` of its input; the batch may be -1.
        arrays: names and arrays.

    Returns:
        ``(params, state)``.

    Raises:
        ValueError: for arrays of another network; the message lists all that does not fit.
        TypeError: for a layer that is none.

    >>> import jax
    >>> from jconv import layers
    >>> layer = layers.Conv(4, 3)
    >>> params, state = layer.init(jax.random.key(0), (1, 9, 9, 1))
    >>> sorted(unflatten(layer, (1, 9, 9, 1), flatten(params, state))[0])
    ['bias', 'kernel']

    References:
        As for `flatten`.
    """
    return to_here(layer, input_shape, arrays, PLAIN, None, "arrays")
