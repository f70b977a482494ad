"""Pictures of networks: filters, feature maps, learning curves, errors, receptive fields, saliency.

Each function returns a `matplotlib.figure.Figure`, made without pyplot: nothing global is touched, and
``figure.savefig("picture.png")`` writes it. Everything is drawn in grey, but for images that have three channels
themselves, so pictures can be printed and are seen alike by all. matplotlib is an extra: ``pip install 'jconv[plot]'``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import numpy as jnp

from ._names import nearest
from ._spec import integer, is_sequence
from .layers.base import ArrayShape, Layer, Shape, Tree, array_shape
from .layers.table import seen

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Box = tuple[tuple[int, int], ...]  # first and last position along each spatial axis
ACROSS = 8  # panels side by side
LINES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
SPLITS = {"train": "training", "val": "validation", "validation": "validation", "test": "test"}
STYLES = {
    "training": {"color": "black", "linestyle": "solid", "marker": "o"},
    "validation": {"color": "0.3", "linestyle": "dotted", "marker": "^"},
    "test": {"color": "0.5", "linestyle": "dashed", "marker": "s"},
}


def _figure(width: float, height: float, title: str, layout: Any = "constrained") -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("matplotlib is not installed; accepted is: pip install 'jconv[plot]'.") from error
    figure = Figure(figsize=(width, height), layout=layout)
    figure.suptitle(title, wrap=True)
    return figure


def _array(value: Any, argument: str, axes: str, ranks: Sequence[int]) -> np.ndarray:
    """The value in NumPy, of one of these ranks, real and finite; ValueError otherwise."""
    array = np.asarray(value)
    if np.iscomplexobj(array):
        raise ValueError(
            f"{argument}: got {array.dtype}, accepted are real numbers: abs() gives their magnitude, .real and .imag "
            "their parts."
        )
    if array.ndim not in ranks or 0 in array.shape:
        raise ValueError(f"{argument}: got shape {array.shape}, accepted is {axes}, none of them empty.")
    array = array.astype(np.float64)
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise ValueError(f"{argument}: got {bad} elements that are not finite, accepted are finite ones.")
    return array


def _example(x: Any, index: int) -> jax.Array:
    """One example of the images or series x, with its batch axis."""
    array = _array(x, "x", "[batch, length, channels] or [batch, height, width, channels]", (3, 4))
    if not 0 <= index < len(array):
        raise ValueError(f"index: got {index}, accepted is 0 to {len(array) - 1}, an example of x.")
    dtype = jnp.asarray(x).dtype
    return jnp.asarray(array[index : index + 1], dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float32)


def _place(value: Any, sizes: Sequence[int], argument: str, what: str) -> tuple[int, ...]:
    """An index into an array of these sizes; a plain integer will do where it has one axis."""
    given = value if is_sequence(value) else (value,)
    place = tuple(integer(v, f"{argument}[{i}]", minimum=0) for i, v in enumerate(given))
    if len(place) != len(sizes) or any(i >= n for i, n in zip(place, sizes, strict=True)):
        raise ValueError(f"{argument}: got {value!r}, accepted is an index into the {_by(sizes)} {what}.")
    return place


def _by(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def _some(shown: int, there: int, what: str) -> str:
    return f"{shown} of {there} {what}s" if shown < there else f"{there} {what}{'s' if there > 1 else ''}"


def _draw(axes: Axes, image: np.ndarray, low: float, high: float) -> Any:
    """One map [height, width], or [channels, length] of a series, in grey."""
    shown = axes.imshow(image, cmap="gray", vmin=low, vmax=high, aspect="equal", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    return shown


def _limits(maps: np.ndarray) -> tuple[float, float]:
    """What is black and what is white: zero is black where nothing is negative, else it is in the middle."""
    largest = float(np.abs(maps).max()) or 1.0
    return (0.0, largest) if maps.min() >= 0 else (-largest, largest)


def _draw_input(axes: Axes, x: np.ndarray, title: str) -> None:
    """An image or a series as it is: three channels in colour, otherwise the mean over the channels in grey."""
    if x.ndim == 2:
        axes.plot(x if x.shape[-1] <= 3 else x.mean(-1), color="black", linewidth=1)
        axes.set(xlim=(-0.5, len(x) - 0.5), xlabel="position", ylabel="value")
        for line, style in zip(axes.lines, LINES, strict=False):
            line.set_linestyle(style)
    elif x.shape[-1] == 3:
        low, high = float(x.min()), float(x.max())
        axes.imshow((x - low) / ((high - low) or 1.0), interpolation="nearest")
        axes.set(xticks=[], yticks=[])
    else:
        axes.imshow(x.mean(-1), cmap="gray", interpolation="nearest")
        axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def _head(axes: Axes, text: str) -> None:
    """A title that may be wider than its panel; the empty one keeps the room above."""
    axes.set_title(" ", fontsize=10)
    if text:
        offset = {"xycoords": "axes fraction", "xytext": (0, 5), "textcoords": "offset points"}
        axes.annotate(text, (0, 1), fontsize=10, **offset).set_in_layout(False)


def filters(
    kernel: jax.typing.ArrayLike,
    *,
    bias: jax.typing.ArrayLike | None = None,
    max_filters: int = 16,
    max_channels: int = 4,
    title: str | None = None,
) -> Figure:
    """The weights of a convolution, on one grey scale with zero in the middle: white is positive, black negative.

    Kernels of images make one panel for each filter and input channel, kernels of series one for each filter: bars
    for one input channel, otherwise an image with a row for each channel.

    Args:
        kernel: ``[*window, in // groups, out]`` with one or two window axes.
        bias: ``[out]``, written below the filters.
        max_filters: how many filters are drawn, the first ones.
        max_channels: how many input channels are drawn, the first ones.
        title: above the picture; by default it says what is seen.

    Returns:
        A figure; the panels of filter i come in the order of the channels.

    Raises:
        ValueError: for a kernel of another rank, elements that are complex or not finite, or a bias of another shape.
        ImportError: where matplotlib is not installed.

    >>> import jax.numpy as jnp
    >>> figure = filters(jnp.arange(-9.0, 9.0).reshape(3, 3, 1, 2))
    >>> figure.axes[1].images[0].get_array()[0, 0]
    np.float64(-8.0)

    References:
        Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks",
        NeurIPS 2012, figure 3.
    """
    weights = _array(kernel, "kernel", "[*window, in // groups, out] with one or two window axes", (3, 4))
    *window, channels, there = weights.shape
    biases = None if bias is None else _array(bias, "bias", f"[{there}], one for each filter", (1,))
    if biases is not None and len(biases) != there:
        raise ValueError(f"bias: got shape {biases.shape}, accepted is ({there},), one for each filter of the kernel.")
    count, rows = min(there, max_filters), min(channels, max_channels)
    limit = float(np.abs(weights).max()) or 1.0
    series = len(window) == 1
    bars = series and channels == 1
    high = 1 if series else rows  # panels of one filter, below each other
    across = min(count, ACROSS if high == 1 else 2 * ACROSS)
    down = -(-count // across)
    text = f"{_some(count, there, 'filter')} of {_by(window)}"
    text += f" on {_some(rows, channels, 'channel')}" if channels > 1 else ""
    text += "" if bars else "; white is positive, black negative"
    wide = 8.6 / across - 0.1  # one panel, in inches
    tall = 1.2 if bars else wide * (rows / window[0] if series else window[0] / window[1])
    height = 0.6 + down * (0.5 + high * (tall + 0.05))
    figure = _figure(10, height, title or text, "constrained" if bars else "compressed")
    panels = figure.subplots(down * high, across, squeeze=False)
    drawn = None
    for i in range(down * across):
        column = panels[i // across * high : (i // across + 1) * high, i % across]
        if i >= count:
            for axes in column:
                axes.remove()
            continue
        for channel, axes in enumerate(column):
            if bars:
                axes.bar(range(window[0]), weights[:, 0, i], color="0.4")
                axes.axhline(0, color="black", linewidth=0.8)
                axes.set(ylim=(-1.1 * limit, 1.1 * limit), xticks=[])
                axes.tick_params(labelsize=7, labelleft=i % across == 0)
            else:
                drawn = _draw(axes, weights[:, :rows, i].T if series else weights[:, :, channel, i], -limit, limit)
            if i % across == 0 and channels > 1:
                axes.set_ylabel(f"channels 0 to {rows - 1}" if series else f"channel {channel}", fontsize=8)
        column[0].set_title(f"filter {i}", fontsize=9)
        if biases is not None:
            column[-1].set_xlabel(f"bias {biases[i]:+.2f}", fontsize=8)
    if drawn is not None:
        figure.colorbar(drawn, ax=figure.axes, label="weight", fraction=0.03)
    return figure


def _chain(layer: Layer, input_shape: Shape, prefix: str = "") -> list[tuple[str, Layer, Shape]]:
    """The layers that follow each other, out of the nested `Sequential`s, with their paths and input shapes."""
    if layer.kind != "Sequential":
        return [(prefix or layer.name or layer.kind, layer, input_shape)]
    found = []
    for name, child in layer.children:
        found += _chain(child, input_shape, f"{prefix}/{name}" if prefix else name)
        input_shape = child.output_shape(input_shape)
    return found


def _picked(names: Sequence[str] | None, there: Sequence[str]) -> set[str]:
    for name in names or ():
        if name not in there:
            raise ValueError(f"names: got {name!r}, {nearest(name, there)}")
    return set(there if names is None else names)


def _at(tree: Tree, path: str, layer: Layer, network: Layer) -> Tree:
    """The params or state of the layer at a path of the network; the empty tree where it has none."""
    if layer is network:
        return tree
    for name in path.split("/"):
        tree = tree.get(name, {})
    return tree


def feature_maps(
    layer: Layer,
    params: Tree,
    state: Tree,
    x: jax.typing.ArrayLike,
    *,
    index: int = 0,
    names: Sequence[str] | None = None,
    max_maps: int = 8,
    title: str | None = None,
) -> Figure:
    """An input, and the maps that the layers of a network make of it, each layer on its own grey scale.

    What a layer does to each position alone (activation, norm) is drawn together with the layer before it. Layers
    inside a `Residual` or `Parallel` are not drawn one by one.

    Args:
        layer: the network.
        params: its parameters.
        state: its state.
        x: ``[batch, height, width, channels]`` or ``[batch, length, channels]``.
        index: which example of x is drawn.
        names: which layers; by default all whose output has spatial axes. Those of nested networks are "block/Conv_0".
        max_maps: how many maps of a layer are drawn, the first ones.
        title: above the picture.

    Returns:
        A figure: the input, then the maps layer by layer. The maps of a series are the rows of one image.

    Raises:
        ValueError: for an unknown name, an x of another rank, or outputs that are not finite.
        ImportError: where matplotlib is not installed.

    >>> import jax
    >>> from jconv.layers import Activation, Conv, MaxPool, Sequential
    >>> net = Sequential(Conv(4, 3), Activation("relu"), MaxPool(2))
    >>> params, state = net.init(jax.random.key(0), (-1, 8, 8, 1))
    >>> figure = feature_maps(net, params, state, jax.numpy.ones((1, 8, 8, 1)))
    >>> [text.get_text() for axes in figure.axes for text in axes.texts]
    ['Conv_0, relu_0: 8×8', 'MaxPool_0: 4×4']

    References:
        LeCun et al., "Gradient-based learning applied to document recognition", 1998, figure 2.
    """
    example = _example(x, index)
    chain = _chain(layer, ArrayShape(example.shape, example.dtype))
    picked = _picked(names, [path for path, _, _ in chain])

    @jax.jit
    def run(params, state, value):
        outputs = []
        for path, child, _ in chain:
            value, _ = child.apply(_at(params, path, child, layer), _at(state, path, child, layer), value)
            outputs.append(value)
        return outputs

    groups: list[tuple[list[str], np.ndarray]] = []
    for (path, child, shape), out in zip(chain, run(params, state, example), strict=True):
        if path not in picked or out.ndim != len(shape) or out.ndim < 3:
            continue
        maps = _array(out[0], f"the output of {path}", "[*spatial, channels]", (2, 3))
        alone = child.geometry is None and not child.children and out.shape == shape
        if alone and names is None and groups:
            groups[-1] = ([*groups[-1][0], path], maps)
        else:
            groups.append(([path], maps))
    if not groups:
        raise ValueError(f"names: got {names}, accepted are layers whose output has spatial axes.")

    series = example.ndim == 3
    rows = []  # one row of panels each
    for paths, maps in groups:
        count = min(maps.shape[-1], max_maps)
        head = f"{', '.join(paths)}: {_by(maps.shape[:-1])}"
        head += f", {_some(count, maps.shape[-1], 'map')}" if count < maps.shape[-1] else ""
        step = count if series else ACROSS
        rows += [(head if first == 0 else "", maps, first, min(first + step, count)) for first in range(0, count, step)]
    what = "series" if series else "image"
    text = title or f"What the layers make of the {what}: bright is active, each layer on its own scale"
    if series:
        figure = _figure(10, 2.2 + sum(0.6 + 0.12 * (last - first) for _, _, first, last in rows), text)
        heights = [1.6, *[0.4 + 0.12 * (last - first) for _, _, first, last in rows]]
        panels = figure.subplots(len(rows) + 1, 1, height_ratios=heights, squeeze=False)[:, 0]
        _draw_input(panels[0], np.asarray(example[0]), f"input: {_by(example.shape[1:-1])}")
        for axes, (head, maps, first, last) in zip(panels[1:], rows, strict=True):
            _draw(axes, maps[:, first:last].T, *_limits(maps)).axes.set_aspect("auto")
            _head(axes, head)
            axes.set(xlabel="position", ylabel="map")
        return figure
    across = max(last - first for _, _, first, last in rows)
    figure = _figure(10, 0.6 + max(1.35 * len(rows), 2.2), text)
    grid = figure.add_gridspec(len(rows), across + 2, width_ratios=[2.2, 0.1, *[1] * across])
    _draw_input(
        figure.add_subplot(grid[: min(2, len(rows)), 0]), np.asarray(example[0]), f"input: {_by(example.shape[1:-1])}"
    )
    for i, (head, maps, first, last) in enumerate(rows):
        for j, channel in enumerate(range(first, last)):
            axes = figure.add_subplot(grid[i, 2 + j])
            _draw(axes, maps[:, :, channel], *_limits(maps))
            axes.set_xlabel(f"map {channel}", fontsize=8, labelpad=2)
            if j == 0:
                _head(axes, head)
    return figure


def learning_curves(
    rows: Sequence[Mapping[str, Any]],
    *,
    against: str | None = None,
    log: Sequence[str] = ("loss",),
    title: str | None = None,
) -> Figure:
    """Metrics of a training, one panel for each, training and test in it together.

    A metric is what follows ``train_``, ``val_``, ``validation_`` or ``test_`` in the keys: ``train_loss`` and
    ``test_loss`` are two curves of the panel "loss". A row that lacks a metric leaves a curve as it is.

    Args:
        rows: of a metrics.jsonl, in their order: ``[json.loads(line) for line in path.read_text().splitlines()]``.
        against: the key on the horizontal axis; by default "epoch" where all rows have it, otherwise "step".
        log: metrics on a logarithmic scale, where all their values are positive.
        title: above the picture.

    Returns:
        A figure with one panel for each metric, in the order in which they appear.

    Raises:
        ValueError: for no rows, rows without the key of the horizontal axis, or rows without any metric.
        ImportError: where matplotlib is not installed.

    >>> figure = learning_curves([{"epoch": 1, "train_loss": 1.0}, {"epoch": 2, "train_loss": 0.5, "test_loss": 0.6}])
    >>> [line.get_label() for line in figure.axes[0].lines], figure.axes[0].lines[0].get_ydata()
    (['training', 'test'], array([1. , 0.5]))

    References:
        ``val_loss`` is how Keras names what its ``History`` keeps of validation.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("rows: got none, accepted is at least one row of metrics.")
    key = against or ("epoch" if all("epoch" in row for row in rows) else "step")
    missing = [i for i, row in enumerate(rows) if key not in row]
    if missing:
        raise ValueError(f"rows: row {missing[0]} has {sorted(rows[missing[0]])}, accepted are rows with {key!r}.")
    curves: dict[str, dict[str, tuple[list, list]]] = {}
    for row in rows:
        for name, value in row.items():
            split, _, metric = name.partition("_")
            if split in SPLITS and metric and value is not None:
                xs, ys = curves.setdefault(metric, {}).setdefault(SPLITS[split], ([], []))
                xs.append(row[key])
                ys.append(float(value))
    if not curves:
        raise ValueError(f"rows: got keys {sorted(rows[0])}, accepted are keys like 'train_loss' and 'test_accuracy'.")
    down = -(-len(curves) // 2)
    figure = _figure(10 if len(curves) > 1 else 6, 0.4 + 3.6 * down, title or f"Training, {len(rows):,} measurements")
    panels = figure.subplots(down, min(2, len(curves)), squeeze=False).ravel()
    for axes, (metric, splits) in zip(panels, curves.items(), strict=False):
        name = metric.replace("_", " ")
        lasts = []
        for split in [split for split in STYLES if split in splits]:
            xs, ys = splits[split]
            axes.plot(xs, ys, **STYLES[split], markersize=3, markevery=max(1, len(xs) // 30), label=split)
            lasts.append(f"{ys[-1]:.4g} ({split})")
        axes.set(xlabel=key, ylabel=name)
        axes.set_title(f"{name}, at last {', '.join(lasts)}", fontsize=10)
        values = np.array([y for _, ys in splits.values() for y in ys])
        if metric in log and np.all(values[np.isfinite(values)] > 0):
            axes.set_yscale("log")
        axes.grid(True, which="both", color="0.9")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(splits) > 1:
            axes.legend()
    for axes in panels[len(curves) :]:
        axes.remove()
    return figure


def confusion_matrix(
    labels: jax.typing.ArrayLike, predicted: jax.typing.ArrayLike, classes: Sequence[str], *, title: str | None = None
) -> Figure:
    """How often each class was taken for which: true classes down, predicted ones across, counts as numbers.

    Darkness follows the square root of the share of the true class, so that single errors show.

    Args:
        labels: true classes ``[n]``, integers from 0.
        predicted: predicted classes ``[n]``, integers from 0.
        classes: their names.
        title: above the picture; by default it counts what is wrong.

    Returns:
        A figure.

    Raises:
        ValueError: for labels that are no integers, of different lengths, or outside the classes.
        ImportError: where matplotlib is not installed.

    >>> figure = confusion_matrix([0, 0, 1], [0, 1, 1], ["cat", "dog"])
    >>> figure.get_suptitle(), [text.get_text() for text in figure.axes[0].texts]
    ('1 of 3 wrong', ['1', '1', '1'])

    References:
        Rows are true classes, as in ``sklearn.metrics.confusion_matrix``.
    """
    classes = [str(name) for name in classes]
    true, given = np.asarray(labels), np.asarray(predicted)
    for name, array in (("labels", true), ("predicted", given)):
        if array.ndim != 1 or not len(array) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"{name}: got {array.dtype} of shape {array.shape}, accepted are integers [n], n at least 1."
            )
        if array.min() < 0 or array.max() >= len(classes):
            raise ValueError(
                f"{name}: got classes {array.min()} to {array.max()}, accepted are 0 to {len(classes) - 1}, "
                "since there are that many names in classes."
            )
    if len(true) != len(given):
        raise ValueError(f"predicted: got {len(given)}, accepted are {len(true)}, as many as labels.")
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (true, given), 1)
    totals = counts.sum(1)
    shade = np.sqrt(counts / np.maximum(totals, 1)[:, None])
    wrong = len(true) - int(np.trace(counts))
    side = min(4 + 0.3 * len(classes), 24)
    figure = _figure(side, 0.95 * side, title or f"{wrong:,} of {len(true):,} wrong")
    axes = figure.subplots()
    axes.imshow(shade, cmap="Greys", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        if count:
            color = "white" if shade[i, j] > 0.5 else "black"
            axes.text(j, i, f"{count:,}", ha="center", va="center", color=color, fontsize=9 if len(classes) < 20 else 6)
    axes.set(xlabel="predicted class", ylabel="true class (recognised)")
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, classes)) > 2 else {}
    axes.set_xticks(range(len(classes)), classes, **turned)
    between = np.arange(len(classes) - 1) + 0.5
    axes.set_xticks(between, minor=True)
    axes.set_yticks(between, minor=True)
    axes.grid(True, which="minor", color="0.85")
    axes.tick_params(which="minor", length=0)
    shares = [f"{count / total:.0%}" if total else "none" for count, total in zip(np.diag(counts), totals, strict=True)]
    axes.set_yticks(range(len(classes)), [f"{name} ({share})" for name, share in zip(classes, shares, strict=True)])
    return figure


def receptive_field(
    layer: Layer,
    input_shape: Sequence[int],
    *,
    position: int | Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    image: jax.typing.ArrayLike | None = None,
    title: str | None = None,
) -> Figure:
    """What outputs of a network see of its input: for each layer the field of one of its elements, inside each other.

    The fields are those of one element of the last layer with spatial axes, and of the elements in the middle of what
    it sees of the layers before. They are found from the windows, strides, dilations and pads of the layers, without
    any parameters; what lies in padding is not drawn, and statistics that a norm takes over positions do not count.

    Args:
        layer: the network.
        input_shape: ``[batch, length, channels]`` or ``[batch, height, width, channels]``; the batch may be -1.
        position: of the element of the last layer, one integer for each spatial axis; by default in the middle.
        names: which layers; by default up to six whose fields differ. Those of nested networks are "block/Conv_0".
        image: ``[*spatial, channels]``, drawn behind the fields.
        title: above the picture.

    Returns:
        A figure.

    Raises:
        ValueError: for another rank, a position outside the last layer, an unknown name, or a layer that changes the
            spatial axes and does not say where it looks.
        ImportError: where matplotlib is not installed.

    >>> from jconv.layers import Conv, MaxPool, Sequential
    >>> net = Sequential(Conv(6, 5, padding="VALID"), MaxPool(2), Conv(16, 5, padding="VALID"))
    >>> figure = receptive_field(net, (-1, 32, 32, 1))
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['Conv_0: 5×5', 'MaxPool_0: 6×6', 'Conv_1: 14×14']

    References:
        Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", Distill, 2019.
    """
    shape = array_shape(input_shape)
    if len(shape) not in (3, 4):
        raise ValueError(
            f"input_shape: got {shape}, accepted is [batch, length, channels] or [batch, height, width, channels]."
        )
    space = shape[1:-1]
    behind = None
    if image is not None:
        behind = _array(image, "image", f"[*spatial, channels] with {len(space)} spatial axes", (len(shape) - 1,))
        if behind.shape[:-1] != space:
            raise ValueError(
                f"image: got shape {behind.shape}, accepted is {(*space, 'channels')}, as input_shape says."
            )
    chain = _chain(layer, shape)
    spatial = [(path, child, given) for path, child, given in chain if len(child.output_shape(given)) == len(shape)]
    if not spatial:
        raise ValueError(f"layer: got {layer.kind} whose outputs have no spatial axes, accepted is one that has some.")
    last = spatial[-1][1].output_shape(spatial[-1][2])[1:-1]
    if position is None:
        at = tuple(n // 2 for n in last)
    else:
        at = _place(position, last, "position", "outputs of the last layer")
    fields = _fields(spatial, at)
    picked = _picked(names, [path for path, _ in fields])
    if names is None:  # those that see more than the one before, at most six of them
        new = [i for i, (_, box) in enumerate(fields) if i == 0 or box != fields[i - 1][1]]
        few = [new[round(i)] for i in np.linspace(0, len(new) - 1, min(len(new), len(LINES)))]
        picked = {fields[i][0] for i in few}
    shown = [(path, box) for path, box in fields if path in picked]
    text = f"What the element {', '.join(map(str, at))} of {fields[-1][0]} sees, and those that it sees by"
    return _field_picture(shown, space, behind, title or text)


def _fields(chain: list[tuple[str, Layer, Shape]], target: tuple[int, ...]) -> list[tuple[str, Box]]:
    """For each layer of a chain, the box on the input of the middle one of its elements that the target looks at."""
    places = tuple(np.array([p]) for p in target)
    outputs = []  # of each layer, the last one first
    for _, layer, shape in reversed(chain):
        outputs.append(places)
        places = seen(layer, shape, places)
    if not all(map(len, places)):
        raise ValueError(f"position: got {target}, which sees nothing of the input but padding.")
    found = []
    for i, there in enumerate(reversed(outputs)):
        places = tuple(axis[len(axis) // 2, None] for axis in there)
        for _, layer, shape in reversed(chain[: i + 1]):
            places = seen(layer, shape, places)
        if all(map(len, places)):
            found.append((chain[i][0], tuple((int(axis[0]), int(axis[-1])) for axis in places)))
    return found


def _field_picture(
    fields: list[tuple[str, Box]], space: tuple[int, ...], behind: np.ndarray | None, title: str
) -> Figure:
    sizes = [tuple(last - first + 1 for first, last in box) for _, box in fields]
    labels = [f"{path}: {_by(size)}" for (path, _), size in zip(fields, sizes, strict=True)]
    if len(space) == 1:
        figure = _figure(10, 1.6 + 0.35 * len(fields) + (1.6 if behind is not None else 0), title)
        parts = 1 if behind is None else 2
        panels = figure.subplots(parts, 1, sharex=True, squeeze=False)[:, 0]
        if behind is not None:
            _draw_input(panels[1], behind, "input")
        axes = panels[0]
        starts = [box[0][0] - 0.5 for _, box in fields]
        axes.barh(labels, [size[0] for size in sizes], left=starts, height=0.6, color="0.6", edgecolor="black")
        axes.set(xlim=(-0.5, space[0] - 0.5), xlabel="position in the input" if behind is None else "")
        axes.grid(True, axis="x", color="0.85")
        axes.set_axisbelow(True)
        return figure
    from matplotlib.patches import Rectangle

    height, width = space
    figure = _figure(9, max(3.0, min(9.0, 5.6 * height / width)) + 0.4, title)
    axes = figure.subplots()
    if behind is not None:
        _draw_input(axes, behind, "")
    else:
        axes.set_facecolor("0.95")
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal")
        if max(space) <= 64:  # a line between all pixels
            axes.set_xticks(np.arange(width + 1) - 0.5, minor=True)
            axes.set_yticks(np.arange(height + 1) - 0.5, minor=True)
            axes.grid(True, which="minor", color="0.85", linewidth=0.5)
            axes.tick_params(which="minor", length=0)
    frames = []
    for i, (_, box) in enumerate(fields):
        (top, _), (left, _) = box
        at = (left - 0.5, top - 0.5), sizes[i][1], sizes[i][0]
        axes.add_patch(
            Rectangle(*at, fill=False, edgecolor="white", linewidth=3.5, clip_on=False, zorder=3 + len(fields) - i)
        )
        style = {"linestyle": LINES[i % len(LINES)], "linewidth": 1.8, "edgecolor": "black"}
        frames.append(Rectangle(*at, fill=False, label=labels[i], clip_on=False, zorder=3.5 + len(fields) - i, **style))
        axes.add_patch(frames[-1])
    axes.set(xlabel=f"{width} wide", ylabel=f"{height} high")
    figure.legend(handles=frames, loc="outside right center", title="field on the input", handlelength=3)
    return figure


def saliency(
    layer: Layer,
    params: Tree,
    state: Tree,
    x: jax.typing.ArrayLike,
    *,
    output: int | Sequence[int] | None = None,
    index: int = 0,
    title: str | None = None,
) -> Figure:
    """Which elements of an input an output depends on most: s[p] = max_c |d y[output] / d x[p, c]|, beside the input.

    The gradient of a probability vanishes where the network is sure, so y had better be what goes into softmax.

    Args:
        layer: the network.
        params: its parameters.
        state: its state.
        x: ``[batch, height, width, channels]`` or ``[batch, length, channels]``.
        output: index of the output, without its batch axis; by default that of the largest.
        index: which example of x is drawn.
        title: above the picture; by default it says which output it is.

    Returns:
        A figure: the input, and the saliency, black where there is none.

    Raises:
        ValueError: for an x of another rank, an index outside its axis, outputs that are complex, or a gradient that is
            not finite.
        ImportError: where matplotlib is not installed.

    >>> import jax.numpy as jnp
    >>> from jconv.layers import Dense, Flatten, Sequential
    >>> params = {"Dense_0": {"kernel": jnp.array([[1.0], [-2.0], [0.0], [0.5]]), "bias": jnp.zeros(1)}}
    >>> figure = saliency(Sequential(Flatten(), Dense(1)), params, {}, jnp.ones((1, 2, 2, 1)))
    >>> figure.axes[1].images[0].get_array().tolist()
    [[1.0, 2.0], [0.0, 0.5]]

    References:
        Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks: visualising image classification models
        and saliency maps", 2013, arXiv:1312.6034, section 3.
    """
    example = _example(x, index)
    sizes = layer.output_shape(ArrayShape(example.shape, example.dtype))[1:]
    chosen = None if output is None else _place(output, sizes, "output", "outputs of the network")

    @jax.jit
    def run(params, state, example):
        def score(value):
            out = layer.apply(params, state, value)[0][0].ravel()
            if jnp.iscomplexobj(out):
                raise ValueError(f"layer: got {out.dtype} outputs, accepted are real ones: end it with jax.numpy.abs.")
            place = jnp.argmax(out) if chosen is None else np.ravel_multi_index(chosen, sizes)
            return out[place], place

        return jax.value_and_grad(score, has_aux=True)(example)

    (value, place), gradient = run(params, state, example)
    depends = np.abs(_array(gradient[0], "x: the gradient there", "that of x", (2, 3))).max(-1)
    found = tuple(int(i) for i in np.unravel_index(int(place), sizes))
    name = found[0] if len(found) == 1 else found
    text = title or f"Where output {name} ({float(value):.3g}) depends on the input most"
    image = np.asarray(example[0], np.float64)
    if example.ndim == 3:
        figure = _figure(10, 4.6, text)
        top, bottom = figure.subplots(2, 1, sharex=True)
        _draw_input(top, image, "input")
        top.set(xlabel="")
        bottom.fill_between(range(len(depends)), depends, step="mid", color="0.5")
        bottom.plot(depends, color="black", linewidth=0.8, drawstyle="steps-mid")
        bottom.set(xlabel="position", ylabel="largest |gradient|", ylim=(0, None))
        bottom.set_title("saliency", fontsize=10)
        return figure
    height, width = depends.shape
    figure = _figure(9, 0.8 + min(3.9 * height / width, 8.0), text, "compressed")
    left, right = figure.subplots(1, 2)
    _draw_input(left, image, f"input: {_by(depends.shape)}")
    shown = _draw(right, depends, 0.0, float(depends.max()) or 1.0)
    right.set_title("saliency", fontsize=10)
    figure.colorbar(shown, ax=right, label="largest |gradient| over the channels", fraction=0.046)
    return figure
