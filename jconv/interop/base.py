"""How an array of a layer of jconv is called and laid out in another library, and the way there and back.

A `Convention` is a table: for each kind of layer and each of its arrays the name there and the `Layout`, a permutation
of the elements. So both ways are exact. What else a permutation may depend on, as the geometry in front of a dense
layer, is read off the network itself (`Leaf`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from .._names import nearest
from ..layers import Layer
from ..layers.base import ArrayShape, array_shape

Shape = tuple[int, ...]
Names = Mapping[str, str]

PARAMS, STATE = 0, 1
HERE = {
    "Conv": "[*window, in / groups, out]",
    "DepthwiseConv": "[*window, 1, out]",
    "SeparableConv": "[*window, in / groups, out]",
    "ConvTranspose": "[*window, out / groups, in]",
    "ConvLocal": "[*positions, *window, in / groups, out]",
    "Dense": "[in, out]",
}


class Leaf(NamedTuple):
    """One array of a network, and what its layout elsewhere may depend on."""

    module: str  # the path of its layer, "Residual_0/body/Conv_0"; "" where the network is one layer
    kind: str
    name: str  # "kernel", "pointwise/kernel"
    tree: int  # PARAMS or STATE
    shape: Shape
    dtype: Any
    input_shape: Shape  # of its layer
    features: int  # output channels of its layer
    flattened: Shape | None  # [*spatial, channels] that became the features it meets, () if none; None: not known

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(part for part in (*self.module.split("/"), *self.name.split("/")) if part)

    @property
    def groups(self) -> int:
        """Of a kernel."""
        if self.kind == "ConvTranspose":
            return self.features // self.shape[-2]
        return self.input_shape[-1] // self.shape[-2]

    @property
    def here(self) -> str:
        return HERE.get(self.kind, "[channels]") if self.name.endswith("kernel") else "[channels]"


class Layout(NamedTuple):
    """How the elements of an array lie elsewhere."""

    text: str
    there: Callable[[np.ndarray, Leaf], np.ndarray]
    back: Callable[[np.ndarray, Leaf], np.ndarray]
    has_groups: bool = True  # otherwise the library has no such layer with groups


class Convention(NamedTuple):
    """What a library calls what jconv has, and how it lays it out."""

    library: str
    separator: str = "/"
    names: Mapping[tuple[str, str], tuple[str, Layout]] | None = None  # None: as here
    prefixes: tuple[str, str] = ("", "")  # of parameters and of state
    channels_first: bool = False  # what is flattened is taken channel by channel


SAME = Layout("as here", lambda a, leaf: a, lambda a, leaf: a)
OI = Layout(
    "[out, in, *window]",
    lambda a, leaf: a.transpose(a.ndim - 1, a.ndim - 2, *range(a.ndim - 2)),
    lambda a, leaf: a.transpose(*range(2, a.ndim), 1, 0),
)


# Networks ------------------------------------------------------------------------------------------------
def leaves_of(layer: Layer, input_shape: Sequence[int]) -> list[Leaf]:
    """Every array of a network, in the order of its layers."""
    if not isinstance(layer, Layer):
        raise TypeError(f"layer: got {layer!r}, accepted is a Layer of jconv.layers.")
    shape = array_shape(input_shape)
    shape = ArrayShape([1 if n == -1 else n for n in shape], shape.dtype)
    params, state = jax.eval_shape(lambda: layer.init(jax.random.key(0), shape))
    found: list[Leaf] = []
    _walk(layer, "", shape, (), (params, state), found)
    return found


def _walk(layer: Layer, module: str, input_shape: Shape, flattened: Shape | None, trees: tuple[Any, Any], found):
    """Adds the arrays of a layer; gives what `flattened` is behind it."""
    if layer.children and layer.kind != "SeparableConv":
        at, ends = input_shape, []
        for name, child in layer.children:
            start = flattened if not layer.chained or not ends else ends[-1]
            below = f"{module}/{name}" if module else name
            inner = tuple(tree.get(name, {}) for tree in trees)
            ends.append(_walk(child, below, at, start, inner, found))  # type: ignore[arg-type]
            at = child.output_shape(at) if layer.chained else at
        return ends[-1] if layer.chained or all(end == () for end in ends) else None
    out = layer.output_shape(input_shape)
    for tree in (PARAMS, STATE):
        for path, leaf in jax.tree_util.tree_leaves_with_path(trees[tree]):
            name = "/".join(str(entry.key) for entry in path)  # type: ignore[attr-defined]
            shape = tuple(leaf.shape)
            found.append(Leaf(module, layer.kind, name, tree, shape, leaf.dtype, input_shape, out[-1], flattened))
    if layer.kind == "Flatten":
        return input_shape[1:] if flattened == () and math.prod(input_shape[1:-1]) > 1 else flattened
    return () if _mixes(layer.kind, input_shape) else flattened


def _mixes(kind: str, input_shape: Shape) -> bool:
    """Whether a layer takes all features into each of its own."""
    return kind == "Dense" or (kind == "Conv" and len(input_shape) == 2)


# Names ---------------------------------------------------------------------------------------------------
def named_leaves(leaves: list[Leaf], convention: Convention, names: Names | None) -> dict[str, tuple[Leaf, Layout]]:
    """The name of each array there, with its layout. `names` renames layers, and with them all that is in them."""
    table = dict(names or {})
    paths = {leaf.module for leaf in leaves}
    known = {"/".join(path.split("/")[:i]) for path in paths for i in range(path.count("/") + 2)} | {""}
    for name in table:
        if name not in known:
            raise ValueError(f"names: got {name!r}, which is no layer with parameters; {nearest(name, sorted(known))}")

    found: dict[str, tuple[Leaf, Layout]] = {}
    for leaf in leaves:
        entry = (leaf.name, SAME) if convention.names is None else convention.names.get((leaf.kind, leaf.name))
        grouped = leaf.name == "kernel" and entry is not None and not entry[1].has_groups and leaf.groups > 1
        if entry is None or grouped:
            what = f"{leaf.groups} groups" if grouped else repr(leaf.name)
            raise ValueError(
                f"layer: got {leaf.kind} {leaf.module!r} with {what}, of which {convention.library} has no counterpart."
            )
        parts = leaf.module.split("/")
        longest = next((i for i in range(len(parts), -1, -1) if "/".join(parts[:i]) in table), None)
        module = parts if longest is None else [table["/".join(parts[:longest])], *parts[longest:]]
        name = convention.separator.join(part for part in (convention.prefixes[leaf.tree], *module, entry[0]) if part)
        if name in found:
            raise ValueError(f"names: got {name!r} for {found[name][0].path} and {leaf.path}, accepted are two names.")
        found[name] = (leaf, entry[1])
    return found


# Arrays --------------------------------------------------------------------------------------------------
def _reorder(array: np.ndarray, leaf: Leaf, convention: Convention, back: bool) -> np.ndarray:
    """Features that were flattened: here position by position, in a library of channels first channel by channel."""
    mixes = _mixes(leaf.kind, leaf.input_shape)
    if not convention.channels_first or leaf.flattened == () or (mixes and leaf.name != "kernel"):
        return array
    if leaf.flattened is None or (not mixes and leaf.kind not in ("BatchNorm", "LayerNorm")):
        what = "behind branches that flatten" if leaf.flattened is None else "behind a Flatten"
        raise ValueError(
            f"layer: got {leaf.kind} {leaf.module!r} {what}; {convention.library} orders flattened features otherwise, "
            "which is accepted for Dense, BatchNorm and LayerNorm where layers follow each other."
        )
    order = np.moveaxis(np.arange(math.prod(leaf.flattened)).reshape(leaf.flattened), -1, 0).reshape(-1)
    axis = array.ndim - 2 if mixes else array.ndim - 1
    return np.take(array, np.argsort(order) if back else order, axis)


def to_there(
    layer: Layer, input_shape: Sequence[int], params: Any, state: Any, convention: Convention, names: Names | None
) -> dict[str, np.ndarray]:
    """The arrays of a network under their names there, as they lie there."""
    out = {}
    for name, (leaf, layout) in named_leaves(leaves_of(layer, input_shape), convention, names).items():
        array: Any = (params, state)[leaf.tree]
        argument = ("params", "state")[leaf.tree]
        for i, key in enumerate(leaf.path):
            if not hasattr(array, "keys") or key not in array:
                raise ValueError(f"{argument}: got none of {'/'.join(leaf.path[: i + 1])!r}, which this network has.")
            array = array[key]
        array = np.asarray(array)
        if array.shape != leaf.shape:
            raise ValueError(
                f"{argument}: got {'/'.join(leaf.path)!r} of shape {array.shape}, accepted for this network is "
                f"{leaf.shape}."
            )
        out[name] = np.array(layout.there(_reorder(array, leaf, convention, back=False), leaf), order="C")
    return out


def to_here(
    layer: Layer,
    input_shape: Sequence[int],
    arrays: Mapping[str, Any],
    convention: Convention,
    names: Names | None,
    argument: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(params, state) of a network from arrays that are named and laid out as there."""
    named = named_leaves(leaves_of(layer, input_shape), convention, names)
    problems = []
    for title, lost in (("missing", set(named) - set(arrays)), ("unexpected", set(arrays) - set(named))):
        if lost:
            problems.append(f"{title} are {', '.join(map(repr, sorted(lost)))}")
    trees: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name, (leaf, layout) in named.items():
        if name not in arrays:
            continue
        array = np.asarray(arrays[name])
        there = layout.there(np.broadcast_to(np.zeros((), np.bool_), leaf.shape), leaf).shape
        if array.shape != there:
            both = leaf.here if layout is SAME else f"{layout.text}, here {leaf.shape} {leaf.here}"
            problems.append(f"{name!r} has shape {array.shape}, accepted is {there} {both}")
            continue
        array = _reorder(layout.back(array, leaf), leaf, convention, back=True)
        given = jnp.asarray(array)
        if given.dtype != array.dtype:
            problems.append(f"{name!r} is {array.dtype}, which jax makes {given.dtype}: convert it, or enable 64 bits")
        inner = trees[leaf.tree]
        for key in leaf.path[:-1]:
            inner = inner.setdefault(key, {})
        inner[leaf.path[-1]] = given
    if problems:
        raise ValueError(f"{argument}: does not fit this network: {'; '.join(problems)}.")
    return trees
