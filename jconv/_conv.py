"""The public functions: convolution, its transpose, its unshared contrast, and its backprop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from . import _primitive, plugins
from ._algorithms._activations import ACTIVATIONS, OF_INTEGERS, ORDERED
from ._algorithms.base import ROLES, Algorithms, Call, Finish, Role, accumulator, promoted, zeros
from ._algorithms.einsum import MAX_RANK, axis_letters, patches
from ._cache import platform_of, this_device
from ._dtypes import as_array, broadcast_bias, canonical_precision, check_bias, check_dtype, common_dtype, result_dtype
from ._names import named
from ._padding import padded_spec
from ._partition import layout, shards
from ._plan import Request, finish_result, parsed
from ._select import Selection, resolve
from ._spec import (
    AxisPadding,
    ConvSpec,
    Padding,
    integer,
    layout_hint,
    nearest,
    padding_mode_per_axis,
    padding_per_axis,
    per_axis,
    resolve_padding,
    sequence,
    span,
)


def _bias(bias, features: int, dtype, *others) -> jax.Array | None:
    """A bias that fits a result of this dtype, or none; `others` are the dtypes of the operands."""
    if bias is None:
        return None
    bias = as_array(bias, "bias")
    if bias.shape != (features,):
        raise ValueError(f"bias: got shape {bias.shape}, accepted is ({features},), one for each output channel.")
    check_bias(bias, dtype, *others)
    return bias


# One role ------------------------------------------------------------------------------------------------
def explicit_axes(mesh: Any) -> tuple[str, ...]:
    """The axes of a mesh over which the types of arrays say how they are sharded."""
    return tuple(n for n, t in zip(mesh.axis_names, mesh.axis_types, strict=True) if t == AxisType.Explicit)


def automatic(fn: Callable, mesh: Any, out_sharding: Any) -> Callable[..., jax.Array]:
    """A function inside of which the compiler decides over the explicit axes of a mesh."""
    made = jax.sharding.auto_axes(fn, axes=explicit_axes(mesh), out_sharding=out_sharding)
    return cast(Callable[..., jax.Array], made)


def apply_role(
    role: Role,
    a,
    b,
    spec: ConvSpec,
    algorithm,
    precision,
    out_dtype,
    padding_mode: str | Sequence[str] = "zeros",
    out_sharding=None,
    bias=None,
    activation=None,
    over: layout.Layout | None = None,
):
    """Binds one role; any number of batch axes in `spec`, one in the primitive. A forward pass may be finished.

    With `over`, inside `jax.shard_map`, `spec` is that of the whole image, of which a device has its block.
    """
    flat, plans = _primitive.flatten_batch(spec), parsed(algorithm)
    operands, result = _primitive.OPERANDS[role], _primitive.RESULT[role]
    modes = padding_mode_per_axis(padding_mode, spec.rank)
    modes = modes if set(modes) - {"zeros"} else ()
    request = Request(flat, role, plans, jnp.dtype(out_dtype), canonical_precision(precision), activation, modes)
    if modes:
        padded_spec(flat, modes)  # which raises where no mode can pad so

    def run(a, b, bias=None):
        if over is not None:
            a = a.reshape(flat.batch_shape + a.shape[len(spec.batch_shape) :])
            call, inner = request.call(a.dtype)._replace(spec=flat), request._replace(modes=())
            compute = lambda a, b, spec: _primitive.bind(a, b, bias, request=inner._replace(spec=spec))
            out = shards.within(a, b, call, modes, over, compute)
            return out.reshape(spec.batch_shape + out.shape[1:])
        a, b = (v.reshape(_primitive.shape_of(kind, flat)) for v, kind in zip((a, b), operands, strict=True))
        out = _primitive.bind(a, b, bias, request=request)
        return out.reshape(_primitive.shape_of(result, spec))

    for mesh in (jax.typeof(v).sharding.mesh for v in (a, b)):
        if explicit_axes(mesh):
            out_sharding = out_sharding or _out_sharding(role, a, b, spec, mesh, over)
            return automatic(run, mesh, out_sharding)(*((a, b) if bias is None else (a, b, bias)))
    out = run(a, b, bias)
    return out if out_sharding is None else jax.lax.with_sharding_constraint(out, out_sharding)


def _blocks(x: jax.Array, rank: int, names, sizes) -> tuple[tuple[int, ...], layout.Layout | None]:
    """The shape of the image whose block x is inside `jax.shard_map`, and by which axes of the mesh it is divided."""
    if names is None:
        if sizes is not None:
            raise ValueError(f"spatial_sizes: got {sizes!r} without spatial_axis_names; accepted is None.")
        return x.shape, None
    what = "names of mesh axes, None where an axis is whole"
    names = sequence((names,) * rank if isinstance(names, str) and rank == 1 else names, "spatial_axis_names", what)
    sizes = (None,) * rank if sizes is None else sequence(sizes, "spatial_sizes")
    for name, entries in (("spatial_axis_names", names), ("spatial_sizes", sizes)):
        if len(entries) != rank:
            raise ValueError(f"{name}: got {entries}, accepted is one entry for each of {rank} spatial axes.")
    axes = {f"s{j}": (e,) if isinstance(e, str) else tuple(e) for j, e in enumerate(names) if e is not None}
    each = [name for entry in axes.values() for name in entry]
    if len(set(each)) < len(each):
        raise ValueError(f"spatial_axis_names: got {names}, accepted is each axis of the mesh once.")
    over = layout.Layout(axes, {name: jax.lax.axis_size(name) for name in each})
    first, shape = x.ndim - rank - 1, list(x.shape)
    for j, size in enumerate(sizes):
        block, parts = x.shape[first + j], over.parts(f"s{j}")
        shape[first + j] = block * parts if size is None else integer(size, f"spatial_sizes[{j}]", minimum=1)
        if -(-shape[first + j] // parts) != block:
            raise ValueError(
                f"spatial_sizes: got {size} along spatial axis {j}, in blocks of {block} over {parts} devices; "
                f"accepted is {block * (parts - 1) + 1} to {block * parts}."
            )
    return tuple(shape), over


def _out_sharding(role: Role, a, b, spec: ConvSpec, mesh, over: layout.Layout | None = None) -> NamedSharding:
    """How the result is sharded over explicit axes of a mesh, if the operands leave no choice."""
    given, batch, count = {}, (), len(spec.batch_shape)
    for kind, v in zip(_primitive.OPERANDS[role], (a, b), strict=True):
        names = layout.named_entries(jax.typeof(v).sharding.spec, v.ndim)
        if kind != "k":
            batch = batch or names[:count]
            names = layout.flat_entries(names, count)
        given[kind] = names
    kind, flat = _primitive.RESULT[role], _primitive.flatten_batch(spec)
    entries, why = layout.inferred(flat, role, mesh.shape, given)
    if entries is not None:
        entries = entries if kind == "k" else (*batch, *entries[1:])
        held = shards.block(kind, flat, over or layout.Layout({}, {}))
        for size, names in zip(held if kind == "k" else (*spec.batch_shape, *held[1:]), entries, strict=True):
            if size % math.prod(mesh.shape[name] for name in names):
                entries, why = None, f"{size} elements do not divide over {names}"
                break
    if entries is None:
        raise ValueError(
            f"out_sharding: got None for operands {jax.typeof(a)} and {jax.typeof(b)}, where it is open: {why}. "
            "Accepted is a jax.sharding.PartitionSpec or NamedSharding for the result."
        )
    return NamedSharding(mesh, PartitionSpec(*(names or None for names in entries)))


def _matches(name: str, array, shape: tuple[int, ...], why: str) -> None:
    if tuple(array.shape) != tuple(shape):
        got, hint = tuple(array.shape), ""
        if len(got) > 2 and (got[0], *got[2:], got[1]) == tuple(shape):
            hint = f" It looks channels-first: pass jax.numpy.moveaxis({name}, 1, -1)."
        raise ValueError(f"{name}: got shape {got}, accepted is {tuple(shape)}, {why}.{hint}")


# Public --------------------------------------------------------------------------------------------------
@named
def conv(
    x: jax.typing.ArrayLike,
    kernel: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    padding_mode: str | Sequence[str] = "zeros",
    input_dilation: int | Sequence[int] = 1,
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    activation: str | None = None,
    precision: Any = None,
    preferred_element_type: Any = None,
    algorithm: str | Algorithms = "auto",
    out_sharding: Any = None,
    spatial_axis_names: str | Sequence[Any] | None = None,
    spatial_sizes: Sequence[int | None] | None = None,
) -> jax.Array:
    """Convolution of an image with a kernel, in any number of spatial dimensions.

    For each output position o and output channel c of group g, summed over taps t and the group's channels i,

        y[b, o, c] = bias[c] + sum_{t, i} x[b, (o s + t d - lo) / q, g, i] kernel[t, i, c]

    with stride s, kernel dilation d, input dilation q and low pad lo; positions that x does not have count as
    zero. This is cross-correlation, as all of deep learning computes it; `jnp.flip` the kernel's window for
    the convolution of mathematics.

    Args:
        x: image, ``[*batch, *spatial, in]``; any number of batch axes, none included. There are
            ``kernel.ndim - 2`` spatial axes.
        kernel: ``[*window, in // feature_group_count, out]``.
        bias: ``[out]``, or None.
        strides: step between windows, in elements; one integer, or one for each spatial axis.
        padding: elements added around the image. ``"SAME"`` gives ceil(size / stride) outputs, with the odd element
            high (``"SAME_LOWER"``: low); ``"VALID"`` adds none; ``"FULL"`` adds the window less one on both sides;
            ``"CAUSAL"`` adds it on the low side of the last spatial axis only, so no output sees later
            elements, and the other axes are ``"SAME"``. Or an integer for all sides, or one entry for each
            spatial axis: a name, an integer, or a pair (low, high). A negative pad crops.
        padding_mode: what is added: ``"zeros"``, ``"reflect"`` (mirrored, edge not repeated), ``"replicate"`` (the
            edge) or ``"circular"``; one name, or one for each spatial axis.
        input_dilation: distance between image elements after zeros are put between them.
        kernel_dilation: distance between taps, in elements.
        feature_group_count: number of groups; output channels of a group see its input channels only.
        activation: what is applied to each y: ``"relu"``, ``"relu6"``, ``"tanh"``, ``"sigmoid"``, ``"silu"``,
            ``"gelu"`` (by tanh, as `jax.nn.gelu` by default), or None. Some algorithms add the bias and do this before
            they write their result.
        precision: as for `jax.lax.conv_general_dilated`.
        preferred_element_type: dtype of the result. By default that of the operands, and int32 for integers of
            8 or 16 bits. 16-bit floats are summed in float32 in every role, whatever the result's dtype.
        algorithm: ``"auto"``; ``"portable"``, the same without plug-ins: XLA's operations alone; ``"direct"``, the same
            among those that add up the products themselves, so that nothing is approximated and a NaN or an Inf of x
            stays where the sum has it; ``"tuned"``, what `jconv.tune` measured as the fastest on this device, and
            ``"auto"`` where it measured nothing; a name; or `jconv.Algorithms` with one for each role. The gradients
            use theirs.
        out_sharding: how the result is sharded over a mesh with explicit axes, a `jax.sharding.PartitionSpec` or
            `NamedSharding`; by default as the operands say: batch and space as x, channels as the kernel.
        spatial_axis_names: inside `jax.shard_map`, over which axis of the mesh (a name, or several) each spatial axis
            is divided, None where it is whole. x is then a device's block of the image, and so is the result; all
            that is said of padding is meant of the whole image, and rows of other devices are fetched.
        spatial_sizes: with them the sizes of the whole image, where the last devices hold less than their block; None
            is as many blocks as devices. Results beyond the whole one are zeros.

    Returns:
        ``[*batch, *output_spatial, out]``; `jconv.ConvSpec` tells the sizes beforehand.

    Raises:
        ValueError: for shapes, sizes, paddings or names that do not fit; the message names the argument.
        TypeError: for dtypes that are not supported, or would be rounded silently.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(5.0).reshape(5, 1)
    >>> kernel = jnp.array([1.0, 0.0, -1.0]).reshape(3, 1, 1)
    >>> conv(x, kernel, padding="VALID")[:, 0]
    Array([-2., -2., -2.], dtype=float32)
    >>> conv(jnp.ones((8, 28, 28, 3)), jnp.ones((3, 3, 3, 16)), strides=2).shape
    (8, 14, 14, 16)

    References:
        Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285. Names
        and layouts are those of `jax.lax.conv_general_dilated` and Flax; the padding modes those of PyTorch.
    """
    x, kernel = as_array(x, "x"), as_array(kernel, "kernel")
    out_dtype = result_dtype(common_dtype(x=x, kernel=kernel), preferred_element_type)
    shape, over = _blocks(x, kernel.ndim - 2, spatial_axis_names, spatial_sizes)
    spec = ConvSpec(shape, kernel.shape, strides, padding, input_dilation, kernel_dilation, feature_group_count)
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, accepted is None, {nearest(str(activation), ACTIVATIONS)}")
    if activation is not None and activation not in OF_INTEGERS and jnp.issubdtype(out_dtype, jnp.integer):
        raise TypeError(
            f"activation: got {activation!r} for a result of {out_dtype}, accepted are {OF_INTEGERS} there."
        )
    if activation in ORDERED and jnp.issubdtype(out_dtype, jnp.complexfloating):
        known = [name for name in ACTIVATIONS if name not in ORDERED]
        raise TypeError(f"activation: got {activation!r} for a result of {out_dtype}, accepted are {known} there.")
    given = _bias(bias, spec.out_features, out_dtype, x.dtype, kernel.dtype)
    return apply_role(
        "forward", x, kernel, spec, algorithm, precision, out_dtype, padding_mode, out_sharding, given, activation, over
    )


def _transposed_axis(entry, size, window, stride, most, output_padding, output_size, axis) -> tuple[int, AxisPadding]:
    """The image length, along one axis, whose convolution has ``size`` outputs, and the pads of that convolution.

    All of ``smallest ... smallest + stride - 1`` do; `output_padding` or `output_size` chooses among them. By
    default SAME and CAUSAL choose ``size * stride``, VALID at least that (the convention of lax, Flax and
    Keras), and explicit pads the smallest (the convention of PyTorch). An `output_padding` of a stride and more, up to
    `most`, takes whole strides off the high pad, so that there are as many outputs as before.
    """
    if entry in ("SAME", "SAME_LOWER", "CAUSAL"):
        smallest, default = (size - 1) * stride + 1, size * stride
    else:
        low, high = resolve_padding(entry, 0, window, stride)
        smallest = (size - 1) * stride + window - low - high
        default = max(smallest, size * stride) if entry == "VALID" else smallest
    if size == 0:
        smallest, default = max(0, smallest), max(0, default)
    chosen = default
    if output_padding is not None:
        chosen = smallest + output_padding
    if output_size is not None:
        chosen = output_size
    largest = smallest + (most if output_padding is not None else stride - 1)
    if not max(0, smallest) <= chosen <= largest:
        name, value = "padding", entry
        if output_padding is not None or output_size is not None:
            size_given = output_size is not None
            name, value = ("output_shape", output_size) if size_given else ("output_padding", output_padding)
        sizes = f"{max(smallest, 0)} to {largest}" if largest >= 0 else "none at all"
        raise ValueError(
            f"{name}: got {value!r} along spatial axis {axis}, which asks for {chosen} elements; an output of {size} "
            f"with stride {stride}, a window that spans {window} and padding {entry!r} comes from images of "
            f"{sizes} (output_padding 0 to {most})."
        )
    beyond = (chosen - smallest) // stride * stride
    if not beyond:
        return chosen, entry
    low, high = resolve_padding(entry, chosen - beyond, window, stride)
    return chosen, (low, high - beyond)


@named
def conv_transpose(
    x: jax.typing.ArrayLike,
    kernel: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    padding_mode: str | Sequence[str] = "zeros",
    output_padding: int | Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    algorithm: str | Algorithms = "auto",
    out_sharding: Any = None,
    spatial_axis_names: str | Sequence[Any] | None = None,
    spatial_sizes: Sequence[int | None] | None = None,
) -> jax.Array:
    """Transposed convolution: the gradient of `conv` with respect to its input, as a layer of its own.

    With A the linear map x -> conv(x, kernel) of an image of the output's size,

        conv_transpose(x, kernel) = A^T x,
        y[b, p, i] = sum over (o, t) with o s + t d - lo = p of sum_c x[b, o, c] kernel[t, i, c].

    ``padding`` is that of the convolution that is transposed: more of it makes the output smaller.

    Args:
        x: ``[*batch, *spatial, in]``.
        kernel: ``[*window, out // feature_group_count, in]``, the kernel of the convolution that is transposed.
        bias: ``[out]``, or None.
        strides: factor by which the image grows; one integer, or one for each spatial axis.
        padding: as for `conv`. With names the output has ``size * stride`` elements (``"VALID"``: at least so many),
            with explicit pads ``(size - 1) stride + span - low - high``, the smallest possible.
        padding_mode: as for `conv`, of the convolution that is transposed; what it took from beyond an edge is added
            where it was taken from.
        output_padding: elements more than the smallest possible size, for each spatial axis; less than the stride or
            the dilation, whichever is larger.
        output_shape: the spatial sizes of the output, instead of `output_padding`.
        kernel_dilation: distance between taps, in elements.
        feature_group_count: number of groups.
        precision: as for `jax.lax.conv_general_dilated`.
        preferred_element_type: dtype of the result, as for `conv`.
        algorithm: as for `conv`; the roles are those of the convolution that is transposed, so what runs
            forwards here is its ``input_grad``.
        out_sharding: as for `conv`.
        spatial_axis_names: as for `conv`.
        spatial_sizes: as for `conv`.

    Returns:
        ``[*batch, *output_spatial, out]``.

    Raises:
        ValueError: for shapes, sizes, paddings or names that do not fit; the message names the argument.
        TypeError: for dtypes that are not supported, or would be rounded silently.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([1.0, 2.0]).reshape(2, 1)
    >>> kernel = jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)
    >>> conv_transpose(x, kernel, strides=2, padding="VALID")[:, 0]
    Array([  1.,  10., 102.,  20., 200.], dtype=float32)
    >>> conv_transpose(jnp.ones((8, 7, 7, 16)), jnp.ones((4, 4, 3, 16)), strides=2).shape
    (8, 14, 14, 3)

    References:
        Zeiler et al., "Deconvolutional networks", CVPR 2010; Dumoulin and Visin, 2016, chapter 4. Explicit pads and
        `output_padding` mean what they mean in ``torch.nn.ConvTranspose2d``; names give the sizes of
        `jax.lax.conv_transpose` and Keras. A kernel for lax with ``transpose_kernel=False`` is this one
        with its window flipped and its last two axes exchanged.
    """
    x, kernel = as_array(x, "x"), as_array(kernel, "kernel")
    out_dtype = result_dtype(common_dtype(x=x, kernel=kernel), preferred_element_type)
    if kernel.ndim < 2:
        raise ValueError(
            f"kernel: got shape {kernel.shape}, accepted is [*window, out // feature_group_count, in], 2 axes or more."
        )
    rank = kernel.ndim - 2
    if x.ndim < rank + 1 or x.shape[-1] != kernel.shape[-1]:
        raise ValueError(
            f"x and kernel: got x of shape {x.shape} and kernel of shape {kernel.shape}; accepted are x "
            f"[*batch, *spatial, in] with {rank} spatial axes and kernel [*window, out // feature_group_count, in]."
            + layout_hint(x.shape, kernel.shape, kernel.shape[-1], kernel.shape[0], "IO")
        )
    groups = integer(feature_group_count, "feature_group_count", minimum=1)
    if x.shape[-1] % groups:
        raise ValueError(
            f"feature_group_count: got {groups}, accepted is a divisor of the {x.shape[-1]} channels of x."
        )
    if output_padding is not None and output_shape is not None:
        raise ValueError(
            f"output_shape: got {output_shape!r} and output_padding {output_padding!r}, accepted is one of the two."
        )
    entries = padding_per_axis(padding, rank)
    steps, dilation = per_axis(strides, rank, "strides"), per_axis(kernel_dilation, rank, "kernel_dilation")
    extra = (None,) * rank if output_padding is None else per_axis(output_padding, rank, "output_padding", minimum=0)
    sizes = (
        (None,) * rank
        if output_shape is None
        else per_axis(sequence(output_shape, "output_shape"), rank, "output_shape")
    )
    whole, over = _blocks(x, rank, spatial_axis_names, spatial_sizes)
    batch = whole[: x.ndim - rank - 1]
    image = whole[len(batch) : -1]
    axes = [
        _transposed_axis(entry, n, span(k, d), s, max(s, d) - 1, e, size, i)
        for i, (entry, n, k, d, s, e, size) in enumerate(
            zip(entries, image, kernel.shape[:-2], dilation, steps, extra, sizes, strict=True)
        )
    ]
    shape = (*batch, *(n for n, _ in axes), kernel.shape[-2] * groups)
    given = _bias(bias, shape[-1], out_dtype, x.dtype, kernel.dtype)
    if 0 in image:  # a sum of nothing, whatever convolution it may have come from
        return finish_result(zeros(shape, out_dtype, x, kernel), Finish(given))
    spec = ConvSpec(
        shape,
        kernel.shape,
        strides=steps,
        padding=[pads for _, pads in axes],
        kernel_dilation=dilation,
        feature_group_count=groups,
    )
    options = padding_mode, out_sharding
    y = apply_role("input_grad", x, kernel, spec, algorithm, precision, out_dtype, *options, over=over)
    y = finish_result(y, Finish(given))
    return y if over is None else shards.cut(y, spec.spatial, over)


@named
def conv_local(
    x: jax.typing.ArrayLike,
    kernel: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    input_dilation: int | Sequence[int] = 1,
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Convolution without weight sharing: every output position has a kernel of its own.

        y[b, o, c] = bias[o, c] + sum_{t, i} x[b, (o s + t d - lo) / q, g, i] kernel[o, t, i, c]

    What sharing saves is the difference to `conv`: LeNet-5's first layer has 156 parameters, and 122,304
    without sharing.

    Args:
        x: image, ``[*batch, *spatial, in]``.
        kernel: ``[*output_spatial, *window, in // feature_group_count, out]``.
        bias: ``[*output_spatial, out]``, or None.
        strides: step between windows, in elements; one integer, or one for each spatial axis.
        padding: as for `conv`; what is added is zeros.
        input_dilation: distance between image elements after zeros are put between them.
        kernel_dilation: distance between taps, in elements.
        feature_group_count: number of groups.
        precision: as for `jax.lax.dot_general`.
        preferred_element_type: dtype of the result, as for `conv`.

    Returns:
        ``[*batch, *output_spatial, out]``.

    Raises:
        ValueError: for shapes, sizes, paddings or names that do not fit; the message names the argument.
        TypeError: for dtypes that are not supported, or would be rounded silently.

    >>> import jax.numpy as jnp
    >>> x = jnp.ones((5, 1))
    >>> kernel = jnp.arange(3.0).reshape(3, 1, 1, 1) * jnp.ones((3, 3, 1, 1))
    >>> conv_local(x, kernel, padding="VALID")[:, 0]
    Array([0., 3., 6.], dtype=float32)

    References:
        LeCun et al., "Gradient-based learning applied to document recognition", 1998, section II (weight sharing);
        Keras calls the layer LocallyConnected.
    """
    x, kernel = as_array(x, "x"), as_array(kernel, "kernel")
    dtype = common_dtype(x=x, kernel=kernel)
    out_dtype = result_dtype(dtype, preferred_element_type)
    rank = (kernel.ndim - 2) // 2
    if kernel.ndim < 2 or kernel.ndim % 2:
        raise ValueError(
            f"kernel: got shape {kernel.shape}, accepted is [*output_spatial, *window, in // feature_group_count, out]."
        )
    if rank > MAX_RANK:
        raise ValueError(f"kernel: got shape {kernel.shape} with {rank} spatial axes, accepted are at most {MAX_RANK}.")
    shared = kernel.shape[rank:]
    spec = ConvSpec(x.shape, shared, strides, padding, input_dilation, kernel_dilation, feature_group_count)
    _matches("kernel", kernel, (*spec.output_spatial, *shared), "its first axes the output positions of x")
    flat, groups = _primitive.flatten_batch(spec), spec.feature_group_count
    space, taps = axis_letters(rank)
    wide = promoted(accumulator(dtype), out_dtype)  # from the start, so that the gradients are summed there
    p = patches(x.reshape(flat.x_shape).astype(wide), flat)
    p = p.reshape(*p.shape[:-1], groups, spec.in_features // groups)
    k = kernel.astype(wide).reshape(*kernel.shape[:-1], groups, spec.out_features // groups)
    y = jnp.einsum(
        f"b{space}{taps}gi,{space}{taps}igc->b{space}gc",
        p,
        k,
        precision=canonical_precision(precision),
        preferred_element_type=wide,
    )
    y = y.astype(out_dtype).reshape(spec.output_shape)
    if bias is None:
        return y
    bias = as_array(bias, "bias")
    check_bias(bias, y.dtype, x.dtype, kernel.dtype)
    _matches("bias", bias, spec.output_shape[len(spec.batch_shape) :], "one for each output position and channel")
    return y + broadcast_bias(bias, y)


@named
def conv_input_grad(
    g: jax.typing.ArrayLike,
    kernel: jax.typing.ArrayLike,
    input_shape: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    padding_mode: str | Sequence[str] = "zeros",
    input_dilation: int | Sequence[int] = 1,
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    algorithm: str | Algorithms = "auto",
    out_sharding: Any = None,
) -> jax.Array:
    """Backprop through `conv` to its input: the cotangent of x, given the one of y.

        x_bar[b, p, i] = sum over (o, t) with o s + t d - lo = p q of sum_c g[b, o, c] kernel[t, i, c]

    `jax.grad` of `conv` runs the same rule.

    Args:
        g: cotangent of y, ``[*batch, *output_spatial, out]``.
        kernel: ``[*window, in // feature_group_count, out]``.
        input_shape: shape of x, ``[*batch, *spatial, in]``; a stride leaves it open, so it must be told.
        strides: as for `conv`.
        padding: as for `conv`.
        padding_mode: as for `conv`.
        input_dilation: as for `conv`.
        kernel_dilation: as for `conv`.
        feature_group_count: as for `conv`.
        precision: as for `conv`.
        preferred_element_type: dtype of the result.
        algorithm: as for `conv`; the role that runs is ``input_grad``.
        out_sharding: as for `conv`.

    Returns:
        The cotangent of x, of shape ``input_shape``.

    Raises:
        ValueError: for shapes, sizes, paddings or names that do not fit; the message names the argument.
        TypeError: for dtypes that are not supported, or would be rounded silently.

    >>> import jax, jax.numpy as jnp
    >>> x, kernel, g = jnp.ones((1, 6, 2)), jnp.ones((3, 2, 4)), jnp.ones((1, 3, 4))
    >>> _, vjp = jax.vjp(lambda x: conv(x, kernel, strides=2), x)
    >>> bool((conv_input_grad(g, kernel, x.shape, strides=2) == vjp(g)[0]).all())
    True

    References:
        LeCun et al., "Backpropagation applied to handwritten zip code recognition", 1989. The derivation is in
        `jconv._spec` and `jconv._primitive`.
    """
    g, kernel = as_array(g, "g"), as_array(kernel, "kernel")
    out_dtype = result_dtype(common_dtype(g=g, kernel=kernel), preferred_element_type)
    spec = ConvSpec(
        sequence(input_shape, "input_shape"),
        kernel.shape,
        strides,
        padding,
        input_dilation,
        kernel_dilation,
        feature_group_count,
    )
    _matches("g", g, spec.output_shape, f"the output of conv for input_shape {tuple(input_shape)}")
    return apply_role("input_grad", g, kernel, spec, algorithm, precision, out_dtype, padding_mode, out_sharding)


@named
def conv_kernel_grad(
    x: jax.typing.ArrayLike,
    g: jax.typing.ArrayLike,
    window_shape: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    padding_mode: str | Sequence[str] = "zeros",
    input_dilation: int | Sequence[int] = 1,
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    algorithm: str | Algorithms = "auto",
    out_sharding: Any = None,
) -> jax.Array:
    """Backprop through `conv` to its kernel: the cotangent of the kernel, given the one of y.

        kernel_bar[t, i, c] = sum_{b, o} x[b, (o s + t d - lo) / q, g, i] g[b, o, c]

    `jax.grad` of `conv` runs the same rule.

    Args:
        x: image, ``[*batch, *spatial, in]``.
        g: cotangent of y, ``[*batch, *output_spatial, out]``.
        window_shape: the window of the kernel, one size for each spatial axis.
        strides: as for `conv`.
        padding: as for `conv`.
        padding_mode: as for `conv`.
        input_dilation: as for `conv`.
        kernel_dilation: as for `conv`.
        feature_group_count: as for `conv`.
        precision: as for `conv`.
        preferred_element_type: dtype of the result.
        algorithm: as for `conv`; the role that runs is ``kernel_grad``.
        out_sharding: as for `conv`.

    Returns:
        The cotangent of the kernel, ``[*window, in // feature_group_count, out]``.

    Raises:
        ValueError: for shapes, sizes, paddings or names that do not fit; the message names the argument.
        TypeError: for dtypes that are not supported, or would be rounded silently.

    >>> import jax.numpy as jnp
    >>> x, g = jnp.arange(6.0).reshape(1, 6, 1), jnp.ones((1, 4, 1))
    >>> conv_kernel_grad(x, g, (3,), padding="VALID")[:, 0, 0]
    Array([ 6., 10., 14.], dtype=float32)

    References:
        LeCun et al., "Backpropagation applied to handwritten zip code recognition", 1989. The derivation is in
        `jconv._spec` and `jconv._primitive`.
    """
    x, g = as_array(x, "x"), as_array(g, "g")
    out_dtype = result_dtype(common_dtype(x=x, g=g), preferred_element_type)
    groups = integer(feature_group_count, "feature_group_count", minimum=1)
    window = sequence(window_shape, "window_shape")
    if x.ndim < len(window) + 1 or g.ndim != x.ndim:
        raise ValueError(
            f"window_shape: got {window} for x of shape {x.shape} and g of shape {g.shape}; accepted are x "
            "[*batch, *spatial, in], g [*batch, *output_spatial, out] and one window size for each spatial axis."
        )
    if x.shape[-1] % groups:
        raise ValueError(
            f"feature_group_count: got {groups}, accepted is a divisor of the {x.shape[-1]} channels of x."
        )
    kernel_shape = (*window, x.shape[-1] // groups, g.shape[-1])
    spec = ConvSpec(x.shape, kernel_shape, strides, padding, input_dilation, kernel_dilation, groups)
    _matches("g", g, spec.output_shape, f"the output of conv for x of shape {x.shape}")
    return apply_role("kernel_grad", x, g, spec, algorithm, precision, out_dtype, padding_mode, out_sharding)


@named
def conv_bias_grad(g: jax.typing.ArrayLike) -> jax.Array:
    """Backprop through the bias of `conv`: the cotangent of y summed over everything but its channels.

        bias_bar[c] = sum_{b, o} g[b, o, c]

    Args:
        g: cotangent of y, ``[*batch, *output_spatial, out]``. 16-bit floats are summed in float32.

    Returns:
        ``[out]``, in the dtype of g; int32 for integers of 8 or 16 bits.

    Raises:
        ValueError: for a g without axes.
        TypeError: for a dtype that is no number.

    >>> import jax.numpy as jnp
    >>> conv_bias_grad(jnp.ones((8, 5, 5, 3)))
    Array([200., 200., 200.], dtype=float32)

    References:
        LeCun et al., "Backpropagation applied to handwritten zip code recognition", 1989.
    """
    g = as_array(g, "g")
    if g.ndim < 1:
        raise ValueError(f"g: got shape {g.shape}, accepted is [*batch, *output_spatial, out].")
    out_dtype = result_dtype(common_dtype(g=g), None)
    return jnp.sum(g, axis=tuple(range(g.ndim - 1)), dtype=accumulator(g.dtype)).astype(out_dtype)


@named
def select_algorithm(
    x_shape: Sequence[int],
    kernel_shape: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    input_dilation: int | Sequence[int] = 1,
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    role: Role = "forward",
    platform: str | None = None,
    dtype: Any = "float32",
    precision: Any = None,
    algorithm: str | Algorithms = "auto",
) -> Selection:
    """Which algorithm runs one role of a convolution, and why.

    The roles are forward: y(x, kernel), input_grad: x_bar(g, kernel) and kernel_grad: kernel_bar(x, g).

    Args:
        x_shape: shape of the image, ``[*batch, *spatial, in]``, in elements.
        kernel_shape: ``[*window, in // feature_group_count, out]``.
        strides: as for `conv`.
        padding: as for `conv`.
        input_dilation: as for `conv`.
        kernel_dilation: as for `conv`.
        feature_group_count: as for `conv`.
        role: ``"forward"``, ``"input_grad"`` or ``"kernel_grad"``.
        platform: ``"cpu"``, ``"cuda"``, ``"rocm"`` or ``"tpu"``; by default that of this machine's first device.
        dtype: of the operands.
        precision: as for `conv`.
        algorithm: as for `conv`; ``"tuned"`` tells what was measured.

    Returns:
        A tuple (name, reason).

    Raises:
        ValueError: for an unknown role, platform or algorithm, or one that does not cover the call.
        TypeError: for a dtype that `conv` does not take.

    >>> shapes = (8, 28, 28, 256), (3, 3, 1, 256)
    >>> options = {"feature_group_count": 256, "role": "forward", "platform": "cpu"}
    >>> select_algorithm(*shapes, **options, algorithm="portable").name
    'shift'
    >>> print(select_algorithm((8, 56, 56, 128), (3, 3, 128, 128), platform="tpu").reason)
    on tpu XLA hands convolutions to the device's own library

    References:
        The rule and the measurements behind it: docs/algorithms.md.
    """
    spec = ConvSpec(
        tuple(x_shape), tuple(kernel_shape), strides, padding, input_dilation, kernel_dilation, feature_group_count
    )
    if role not in ROLES:
        raise ValueError(f"role: got {role!r}, {nearest(role, ROLES)}")
    platforms = ("cpu", "cuda", "rocm", "tpu")
    platform = {"gpu": "cuda"}.get(chosen := platform or platform_of(this_device()), chosen)
    if platform not in platforms:
        raise ValueError(f"platform: got {platform!r}, {nearest(platform, platforms)}")
    dtype = jnp.dtype(dtype)
    check_dtype(dtype, "dtype")
    call = Call(
        _primitive.flatten_batch(spec), role, dtype, result_dtype(dtype, None), canonical_precision(precision), platform
    )
    plan, reason = resolve(parsed(algorithm).role(role), call)
    return Selection(plan.name, reason)


def algorithms() -> tuple[str, ...]:
    """The names that `algorithm` accepts beside ``"auto"``, ``"portable"``, ``"direct"`` and ``"tuned"``, in order.

    Each may have reductions before it, as in ``"unfold+xla"``: `python -m jconv algorithms` lists both.

    Each computes all three roles of T(x, kernel, y) = <y, conv(x, kernel)>.

    Args:
        None.

    Returns:
        A tuple of names.

    Raises:
        Nothing.

    >>> algorithms()[:7]
    ('xla', 'einsum', 'matmul', 'shift', 'winograd2', 'winograd4', 'fft')

    References:
        docs/algorithms.md.
    """
    return tuple(plugins.algorithms())
