"""Draws the pictures of the pages into docs/images: ``python docs/pictures.py``.

What is connected with what is read from the Jacobian of jconv's own functions, and every number is computed by them.
Pictures of docs/plotting.md are those of its code blocks, run one after the other.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
from jax import numpy as jnp
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import jconv
from jconv._files import write_atomically
from jconv._partition.blocks import blocks

PAGES = Path(__file__).parent
LINES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (9, 2)))
DROP = 2.4  # from a row of cells to the one below


def board(width: float, height: float, *, title: str = "") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    return figure, blank(axes, title)


def blank(axes: Axes, title: str) -> Axes:
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=11, loc="left")
    return axes


def cell(axes: Axes, x: float, y: float, text: object = "", *, grey: float = 1.0, pad: bool = False) -> None:
    """One element, its centre at (x, y); what is no element but padding is hatched."""
    style = {"hatch": "////", "edgecolor": "0.75", "facecolor": "white"} if pad else {"facecolor": str(grey)}
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **{"edgecolor": "black", "linewidth": 1, **style}))
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if pad and text != "" else None
    axes.text(x, y, str(text), ha="center", va="center", fontsize=10, bbox=behind)
    axes.update_datalim([(x - 0.6, y - 0.6), (x + 0.6, y + 0.6)])
    axes.autoscale_view()


def taps_of(function: Callable, n: int) -> np.ndarray:
    """[output, input]: which tap, counted from 1, multiplies this input for this output; 0 for none.

    The function convolves a series [n] with a kernel whose taps are 1, 2, 3, ...
    """
    return np.asarray(jax.jacobian(function)(jnp.zeros(n)), int)


def along(kernel: Sequence[float], function: Callable = jconv.conv, **options) -> Callable:
    """A convolution of a series [n] with these taps."""
    k = jnp.asarray(kernel, jnp.float32).reshape(-1, 1, 1)
    return lambda z: function(z[:, None], k, **options)[:, 0]


def whole(values) -> list[int]:
    return [round(float(v)) for v in values]


def series(axes: Axes, n: int, title: str, *, kernel=(1, 2, 1), padding="VALID", **options: Any) -> None:
    """A series above, what the convolution makes of it below, and a line from each tap to the element that it meets."""
    x, k = np.arange(1, n + 1), len(kernel)
    spec = jconv.ConvSpec((n, 1), (k, 1, 1), padding=padding, **options)
    ((low, high),) = spec.padding
    y = whole(along(kernel, padding=padding, **options)(jnp.asarray(x, jnp.float32)))
    taps = taps_of(along(range(1, k + 1), padding="VALID", **options), low + n + high)
    blank(axes, f"{title}: {n} elements, {len(y)} outputs")
    for p in range(-low, n + high):
        inside = 0 <= p < n
        cell(axes, p, 0, x[p] if inside else 0, pad=not inside)
    for o, row in enumerate(taps):
        (met,) = np.nonzero(row)
        at = (met[0] + met[-1]) / 2 - low
        for p in met:
            axes.plot([at, p - low], [-DROP + 0.5, -0.5], color="black", linewidth=1, linestyle=LINES[row[p] - 1])
        cell(axes, at, -DROP, y[o], grey=0.85)


def grid(axes: Axes, values: np.ndarray, left: float, *, dark: Callable = lambda i, j: False, title: str = "") -> None:
    for (i, j), value in np.ndenumerate(values):
        cell(axes, left + j, -i, value, grey=0.75 if dark(i, j) else 1.0)
    axes.text(left - 0.5, 0.7, title, fontsize=11, va="bottom")
    axes.update_datalim([(left, 1.6)])


def one_output() -> Figure:
    """A 5x5 image, a 3x3 kernel and the 3x3 output, with the window of one output marked."""
    x = np.array([[1, 2, 0, 1, 3], [0, 1, 2, 2, 1], [1, 0, 3, 1, 0], [2, 1, 0, 0, 1], [0, 2, 1, 1, 2]])
    k = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    y = np.asarray(jconv.conv(jnp.asarray(x)[..., None], jnp.asarray(k)[..., None, None], padding="VALID"))[..., 0]
    at = (1, 2)
    figure, axes = board(9, 4)
    grid(axes, x, 0, dark=lambda i, j: 0 <= i - at[0] < 3 and 0 <= j - at[1] < 3, title="image x, 5×5")
    grid(axes, k, 7, dark=lambda i, j: True, title="kernel k, 3×3")
    grid(axes, y, 12, dark=lambda i, j: (i, j) == at, title="output y, 3×3")
    factor = lambda v: f"({v})" if v < 0 else str(v)
    terms = " + ".join(f"{x[at[0] + i, at[1] + j]}·{factor(k[i, j])}" for i in range(3) for j in range(3) if k[i, j])
    axes.text(0, -5.4, f"y[{at[0]}, {at[1]}] = {terms} = {y[at]}    (terms with a zero in k left out)", fontsize=10)
    axes.update_datalim([(0, -5.8)])
    axes.autoscale_view()
    return figure


def stacked(count: int, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, height), layout="constrained")
    return figure, figure.subplots(count, 1, squeeze=False)[:, 0]


def paddings() -> Figure:
    figure, panels = stacked(4, 9)
    for axes, padding in zip(panels, ("VALID", "SAME", "FULL", "CAUSAL"), strict=True):
        series(axes, 6, f'padding="{padding}"', padding=padding)
        axes.set_xlim(-2.8, 8)
    return figure


def by(option: str) -> Figure:
    """One, two and three of an option of `conv`."""
    figure, panels = stacked(3, 6.5)
    for axes, n in zip(panels, (1, 2, 3), strict=True):
        chosen: dict[str, Any] = {option: n}
        series(axes, 9, f"{option}={n}", **chosen)
        axes.set_xlim(-1, 9.5)
    return figure


def padding_modes() -> Figure:
    figure, axes = board(9, 4)
    x = jnp.arange(1.0, 6.0)
    for i, mode in enumerate(("zeros", "reflect", "replicate", "circular")):
        extended = whole(along([1], padding=[(3, 3)], padding_mode=mode)(x))  # one tap of 1 leaves what it meets
        axes.text(-4.2, -1.4 * i, f'"{mode}"', ha="right", va="center", fontsize=11)
        for p, value in zip(range(-3, 8), extended, strict=True):
            cell(axes, p, -1.4 * i, value, pad=not 0 <= p < 5)
    axes.update_datalim([(-7, 0)])
    axes.autoscale_view()
    return figure


def stride_2() -> Figure:
    """5x5, window 3x3, stride 2, without padding and with 1: the middle of each window, the first and last window."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, pad in zip(figure.subplots(1, 2), (0, 1), strict=True):
        spec = jconv.ConvSpec((5, 5, 1), (3, 3, 1, 1), strides=2, padding=pad)
        high, wide = spec.output_spatial
        blank(axes, f"strides=2, padding={pad}: 5×5 gives {high}×{wide}")
        for i in range(-pad, 5 + pad):
            for j in range(-pad, 5 + pad):
                cell(axes, j, -i, "", pad=not (0 <= i < 5 and 0 <= j < 5))
        n = 5 + 2 * pad
        taps = taps_of(along((1, 2, 3), padding="VALID", strides=2), n)  # both axes alike
        middles = np.argmax(taps == 2, axis=1) - pad
        for i in middles:
            axes.plot(middles, [-i] * len(middles), "o", color="black", markersize=9)
        for middle, line in ((middles[0], LINES[0]), (middles[-1], LINES[1])):
            corner = (middle - 1.5, -middle - 1.5)
            axes.add_patch(Rectangle(corner, 3, 3, fill=False, linewidth=3.2, edgecolor="black", linestyle=line))
    return figure


def transposed() -> Figure:
    """Each element of the image spread over the output by the kernel, where windows overlap added."""
    figure, panels = stacked(3, 7)
    paddings: list[dict] = [{"padding": "VALID"}, {"padding": 1}, {"padding": 1, "output_padding": 1}]
    for axes, padding in zip(panels, paddings, strict=True):
        options = {**padding, "strides": 2}
        function = lambda kernel, options=options: along(kernel, jconv.conv_transpose, **options)
        x = jnp.arange(1.0, 5.0)
        y, taps = whole(function((1, 2, 1))(x)), taps_of(function((1, 2, 3)), 4)
        text = ", ".join(f'{name}="{v}"' if isinstance(v, str) else f"{name}={v}" for name, v in options.items())
        blank(axes, f"conv_transpose, {text}: 4 elements, {len(y)} outputs")
        first = np.argmax(taps == 2, axis=0)  # below each element the output that meets its middle tap
        for i, o in enumerate(first):
            cell(axes, o, 0, int(x[i]))
        for o, row in enumerate(taps):
            for i in np.nonzero(row)[0]:
                axes.plot([o, first[i]], [-DROP + 0.5, -0.5], color="black", linewidth=1, linestyle=LINES[row[i] - 1])
            cell(axes, o, -DROP, y[o], grey=0.85)
        axes.set_xlim(-2, 10)
    return figure


def channels() -> Figure:
    """6x6x3, two filters of 3x3x3, 4x4x2."""
    spec = jconv.ConvSpec((6, 6, 3), (3, 3, 3, 2), padding="VALID")
    figure, axes = board(9, 4.2)

    def block(left, top, size, count, greys, label):
        for c in reversed(range(count)):  # the first map in front
            for i in range(size):
                for j in range(size):
                    cell(axes, left + j + 0.5 * c, top - i + 0.5 * c, "", grey=greys[c])
        axes.text(left - 0.5, top - size - 0.1, label, fontsize=10, va="top")
        axes.update_datalim([(left, top - size - 1.8)])

    block(0, 0, 6, 3, (1.0, 0.9, 0.8), "image [6, 6, 3]")
    for f, top in enumerate((1.3, -4.6)):
        block(10, top, 3, 3, (1.0, 0.9, 0.8), f"filter {f}, [3, 3, 3]")
        axes.annotate("", (18.4, -2.0 - f * 0.8), (14.2, top - 1), arrowprops={"arrowstyle": "->"})
    block(19, 0.2, spec.output_spatial[0], 2, (1.0, 0.7), f"output {list(spec.output_shape)}")
    axes.text(8.1, -2.2, "∗", fontsize=22, ha="center")
    axes.autoscale_view()
    return figure


def groups() -> Figure:
    """Which input channel reaches which output channel, read from the Jacobian."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle("Which input channels an output channel sums over (grey); 3×3 kernels, 8 channels to 8")
    for axes, count in zip(figure.subplots(1, 3), (1, 2, 8), strict=True):
        kernel = jnp.ones((3, 3, 8 // count, 8))
        summed = lambda z, k=kernel, g=count: jconv.conv(z, k, feature_group_count=g).sum((0, 1))
        reach = jax.jacobian(summed)(jnp.ones((3, 3, 8)))
        axes.imshow(np.asarray(reach).sum((1, 2)) != 0, cmap="Greys", vmin=0, vmax=2)
        weights = jconv.ConvSpec((3, 3, 8), kernel.shape, feature_group_count=count).num_weights
        axes.set(xlabel="input channel", ylabel="output channel", xticks=range(8), yticks=range(8))
        axes.set_title(f"feature_group_count={count}: {weights} weights", fontsize=10)
        axes.set_xticks(np.arange(7) + 0.5, minor=True)
        axes.set_yticks(np.arange(7) + 0.5, minor=True)
        axes.grid(True, which="minor", color="0.7")
        axes.tick_params(which="minor", length=0)
    return figure


def weight_sharing() -> Figure:
    """The same links with shared weights and with weights of their own, the number of its weight beside each."""
    figure, panels = stacked(2, 6)
    local = lambda z: jconv.conv_local(z[:, None], jnp.arange(1.0, 13.0).reshape(4, 3, 1, 1), padding="VALID")[:, 0]
    shared = along((1, 2, 3), padding="VALID")
    titles = ("conv: {} weights", "conv_local: {} weights")
    for axes, function, title in zip(panels, (shared, local), titles, strict=True):
        weights = taps_of(function, 6)
        blank(axes, f"{title.format(len(np.unique(weights[weights > 0])))} for {np.count_nonzero(weights)} links")
        for p in range(6):
            cell(axes, 3 * p, 0, f"x{p}")
        for o, row in enumerate(weights):
            at = 3 * (o + 1)
            for tap, p in enumerate(np.flatnonzero(row).tolist()):
                axes.plot([at, 3 * p], [-3.1, -0.5], color="black", linewidth=1, linestyle=LINES[tap])
                label = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                middle = (at + 0.62 * (3 * p - at), -3.1 + 0.62 * 2.6)
                axes.text(*middle, f"w{row[p]}", ha="center", va="center", fontsize=8, bbox=label)
            cell(axes, at, -3.6, f"y{o}", grey=0.85)
    return figure


SHADES = (0.98, 0.86, 0.74, 0.62)  # of the devices


def halos() -> Figure:
    """Who holds which row of an image over four devices, and what each of them computes from."""
    cases = (
        ("3 taps: one row of each neighbour", (12, 3), {"padding": 1}),
        ("5 taps, stride 2: three rows of neighbours", (16, 5), {"strides": 2, "padding": 2}),
        ("3 taps, circular: the ring is closed", (12, 3), {"padding": 1, "padding_mode": "circular"}),
    )
    figure, panels = stacked(len(cases), 8.2)
    for axes, (title, (n, k), options) in zip(panels, cases, strict=True):
        blank(axes, title)
        mode = options.get("padding_mode", "zeros")
        of = blocks(jconv.ConvSpec((n, 1), (k, 1, 1), options.get("strides", 1), options["padding"]).axes[0], 4, mode)
        for row in range(n):
            cell(axes, row, 0, row, grey=SHADES[row // of.block])
        axes.text(-3.2, 0, "image", ha="right", va="center", fontsize=10)
        for rank in range(4):
            first = rank * of.block + of.starts[rank]
            for row in range(first, first + of.window):
                inside = 0 <= row < n
                source = row % n if inside or of.ring else None
                text = "" if source is None else source
                shade = 1.0 if source is None else SHADES[source // of.block]
                cell(axes, row, -1.4 * (rank + 1), text, grey=shade, pad=source is None)
            axes.text(-3.2, -1.4 * (rank + 1), f"device {rank}", ha="right", va="center", fontsize=10)
    return figure


PICTURES = {
    "conv_2d": one_output, "conv_padding": paddings, "conv_padding_modes": padding_modes,
    "conv_strides": partial(by, "strides"), "conv_dilation": partial(by, "kernel_dilation"), "conv_stride_2": stride_2,
    "conv_transposed": transposed, "conv_channels": channels, "conv_groups": groups, "weight_sharing": weight_sharing,
    "halos": halos,
}  # fmt: skip


def save(figure: Figure, name: str, folder: Path) -> None:
    """An SVG, its text as text, that is the same whenever the same matplotlib draws it; the file is written whole."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "jconv", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = re.sub(r"[ \t]+$", "", buffer.getvalue(), flags=re.M)
    write_atomically(folder / f"{name}.svg", text.encode())


def of_page(page: Path) -> dict[str, Figure]:
    """The pictures of a page's code blocks: each is called `figure` there, and shown as the image after the block."""
    found, namespace = {}, {}
    parts = re.split(r"^```python\n(.*?)^```$", page.read_text(), flags=re.M | re.S)
    for i in range(1, len(parts), 2):
        exec(compile(parts[i], f"{page.name}, block {i // 2}", "exec"), namespace)
        for name in re.findall(r"!\[[^\]]*\]\(images/(\w+)\.svg\)", parts[i + 1]):
            found[name] = namespace["figure"]
    return found


def main(folder: Path = PAGES / "images") -> None:
    figures = {name: draw() for name, draw in PICTURES.items()} | of_page(PAGES / "plotting.md")
    for name, figure in figures.items():
        save(figure, name, folder)
        print(f"{name}.svg")


if __name__ == "__main__":
    main()
