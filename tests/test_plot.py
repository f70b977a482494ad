"""Pictures: what is drawn, read back from the figure, is the data; and all of it is grey."""

import io
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jconv
from jconv import plot
from jconv.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    Layer,
    MaxPool,
    Parallel,
    Residual,
    SeparableConv,
    Sequential,
)
from jconv.layers.table import seen

PIL = pytest.importorskip("PIL.Image")
key = jax.random.key(0)


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    return np.asarray(PIL.open(buffer).convert("RGB")).astype(int)


def assert_readable_in_grey(figure):
    seen = pixels(figure)
    assert np.ptp(seen, axis=-1).max() == 0, "there is colour"
    assert seen.min() < 50, "nothing is dark"
    assert seen.max() == 255
    assert figure.get_suptitle()


def images(figure):
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.images]


def heads(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_matplotlib_is_imported_when_something_is_drawn_and_pyplot_never():
    code = (
        "import sys, jax.numpy as jnp, jconv.plot; print('matplotlib' in sys.modules);"
        "jconv.plot.filters(jnp.ones((3, 3, 1, 2))).savefig(sys.argv[1]);"
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, "/dev/null"], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True", "False"], done.stderr


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"matplotlib is not installed; accepted is: pip install 'jconv\[plot\]'"):
        plot.filters(draw(3, 3, 1, 2))


# Filters -----------------------------------------------------------------------------------------------------
def test_filters_of_an_image():
    kernel, bias = draw(5, 5, 1, 6), draw(6)
    figure = plot.filters(kernel, bias=bias)
    drawn = images(figure)[:6]  # the colour bar follows
    for i in range(6):
        np.testing.assert_array_equal(drawn[i], kernel[:, :, 0, i])
        assert figure.axes[i].get_title() == f"filter {i}"
        assert figure.axes[i].get_xlabel() == f"bias {bias[i]:+.2f}"
        limit = float(np.abs(kernel).max())
        assert figure.axes[i].images[0].get_clim() == (-limit, limit)
    assert_readable_in_grey(figure)


def test_filters_with_channels_are_columns():
    kernel = draw(3, 3, 4, 20)
    figure = plot.filters(kernel, max_filters=5, max_channels=3)
    drawn = np.stack(images(figure)[:15]).reshape(3, 5, 3, 3)
    np.testing.assert_array_equal(drawn, np.transpose(kernel[:, :, :3, :5], (2, 3, 0, 1)))
    assert figure.get_suptitle() == "5 of 20 filters of 3×3 on 3 of 4 channels; white is positive, black negative"


def test_filters_of_a_series():
    figure = plot.filters(draw(5, 1, 11))
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    np.testing.assert_allclose(np.array(heights).T, draw(5, 1, 11)[:, 0])
    assert_readable_in_grey(figure)
    figure = plot.filters(draw(5, 3, 2), title="mine")
    np.testing.assert_array_equal(np.stack(images(figure)[:2]), np.transpose(draw(5, 3, 2), (2, 1, 0)))
    assert figure.get_suptitle() == "mine"


@pytest.mark.parametrize(("kernel", "options", "message"), [
    (np.ones((3, 3, 3, 1, 2)), {}, r"kernel: got shape \(3, 3, 3, 1, 2\), accepted is \[\*window, in // groups, out\]"),
    (np.ones((3, 3, 0, 2)), {}, r"kernel: got shape \(3, 3, 0, 2\)"),
    (np.full((3, 1, 2), np.nan), {}, "kernel: got 6 elements that are not finite"),
    (np.ones((3, 3, 1, 2)) * 1j, {}, r"kernel: got complex128, accepted are real numbers: abs\(\) gives their magnitude"),
    (np.ones((3, 3, 1, 2)), {"bias": np.ones(2) * 1j}, "bias: got complex128, accepted are real numbers"),
    (np.ones((3, 3, 1, 2)), {"bias": np.ones(3)}, r"bias: got shape \(3,\), accepted is \(2,\)"),
])  # fmt: skip
def test_kernels_that_do_not_do(kernel, options, message):
    with pytest.raises(ValueError, match=message):
        plot.filters(kernel, **options)


# Feature maps ------------------------------------------------------------------------------------------------
NET = Sequential(
    Conv(3, 3, name="c1"),
    BatchNorm(),
    Activation("relu"),
    Sequential(MaxPool(2), Conv(10, 3), name="block"),
    GlobalAvgPool(),
    Dense(4),
)


@pytest.fixture(scope="module")
def made():
    params, state = NET.init(key, (-1, 8, 10, 1))
    state["BatchNorm_0"]["mean"] += 0.25
    return params, state, draw(2, 8, 10, 1)


def test_feature_maps(made):
    params, state, x = made
    figure = plot.feature_maps(NET, params, state, x, index=1)
    drawn = images(figure)
    np.testing.assert_array_equal(drawn[0], x[1, :, :, 0])
    y, _ = Conv(3, 3).apply(params["c1"], {}, x)
    y, _ = BatchNorm().apply(params["BatchNorm_0"], state["BatchNorm_0"], y)
    y = jnp.maximum(y, 0)
    np.testing.assert_allclose(np.stack(drawn[1:4], -1), y[1], atol=1e-6)
    y = jconv.max_pool(y, (2, 2))
    np.testing.assert_allclose(np.stack(drawn[4:7], -1), y[1], atol=1e-6)
    y = jconv.conv(y, params["block"]["Conv_0"]["kernel"])
    np.testing.assert_allclose(np.stack(drawn[7:15], -1), y[1, :, :, :8], atol=1e-5)
    assert len(drawn) == 15
    assert heads(figure) == [
        "c1, BatchNorm_0, relu_0: 8×10", "block/MaxPool_0: 4×5", "block/Conv_0: 4×5, 8 of 10 maps"
    ]  # fmt: skip
    assert figure.axes[1].images[0].get_clim()[0] == 0  # after relu
    limit = np.abs(y[1]).max()  # of all ten maps, also those not drawn
    np.testing.assert_allclose(figure.axes[-1].images[0].get_clim(), (-limit, limit), rtol=1e-5)
    assert_readable_in_grey(figure)


def test_feature_maps_of_named_layers(made):
    figure = plot.feature_maps(NET, *made, names=["c1", "block/Conv_0"], max_maps=16)
    assert heads(figure) == ["c1: 8×10", "block/Conv_0: 4×5"]
    assert len(images(figure)) == 1 + 3 + 10


def test_feature_maps_of_one_layer_and_of_colours():
    layer = SeparableConv(2, 3)
    params, state = layer.init(key, (1, 6, 6, 3))
    figure = plot.feature_maps(layer, params, state, draw(1, 6, 6, 3))
    x = np.asarray(draw(1, 6, 6, 3)[0])
    np.testing.assert_allclose(images(figure)[0], (x - x.min()) / np.ptp(x), atol=1e-6)
    np.testing.assert_allclose(np.stack(images(figure)[1:], -1), layer.apply(params, {}, x[None])[0][0], atol=1e-6)


def test_feature_maps_of_a_series():
    net = Sequential(Conv(3, 5, padding="VALID"), Activation("tanh"), GlobalMaxPool())
    params, state = net.init(key, (1, 20, 1))
    x = draw(1, 20, 1)
    figure = plot.feature_maps(net, params, state, x)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), x[0, :, 0])
    want = jnp.tanh(jconv.conv(x, params["Conv_0"]["kernel"], padding="VALID"))[0].T
    np.testing.assert_allclose(images(figure)[0], want, atol=1e-6)
    assert heads(figure) == ["Conv_0, tanh_0: 16"]
    assert_readable_in_grey(figure)


@pytest.mark.non_finite
def test_feature_maps_that_do_not_do(made):
    params, state, x = made
    with pytest.raises(ValueError, match=r"names: got 'block/conv', accepted: 'c1', .* Did you mean 'block/Conv_0'"):
        plot.feature_maps(NET, *made, names=["block/conv"])
    with pytest.raises(ValueError, match=r"index: got 2, accepted is 0 to 1"):
        plot.feature_maps(NET, *made, index=2)
    with pytest.raises(ValueError, match=r"x: got shape \(8, 10\), accepted is \[batch, length, channels\] or"):
        plot.feature_maps(NET, params, state, x[0, :, :, 0])
    with pytest.raises(ValueError, match=r"accepted are layers whose output has spatial axes"):
        plot.feature_maps(NET, *made, names=["Dense_0"])
    params = {**params, "c1": {"kernel": params["c1"]["kernel"] * jnp.inf, "bias": params["c1"]["bias"]}}
    with pytest.raises(ValueError, match=r"the output of c1: got \d+ elements that are not finite"):
        plot.feature_maps(NET, params, state, x)
    whirl = Activation(lambda x: jax.lax.complex(x, x))
    with pytest.raises(ValueError, match=r"the output of <lambda>.*: got complex64, accepted are real numbers"):
        plot.feature_maps(Sequential(whirl), {}, {}, x)
    with pytest.raises(ValueError, match=r"x: got complex64, accepted are real numbers"):
        plot.feature_maps(Sequential(whirl), {}, {}, np.asarray(x) * np.complex64(1j))
    with pytest.raises(ValueError, match=r"layer: got complex64 outputs, accepted are real ones"):
        plot.saliency(whirl, {}, {}, x)
    with pytest.raises(ValueError, match=r"image: got complex64, accepted are real numbers"):
        plot.receptive_field(Conv(1, 3), x.shape, image=np.asarray(x[0]) * np.complex64(1j))


# Learning curves ---------------------------------------------------------------------------------------------
ROWS = [
    {"step": 10 * i, "epoch": i, "train_loss": 2.0 / i, "test_loss": 2.5 / i, "images_per_second": 9.0}
    for i in (1, 2, 4)
]


def test_learning_curves(tmp_path):
    rows = [*ROWS[:2], {**ROWS[2], "test_top_5_accuracy": 0.75, "val_loss": 0.6}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    figure = plot.learning_curves(rows)
    loss, accuracy = figure.axes
    lines = {line.get_label(): line for line in loss.lines}
    assert list(lines) == ["training", "validation", "test"]
    assert lines["training"].get_xydata().tolist() == [[1, 2], [2, 1], [4, 0.5]]
    assert lines["validation"].get_xydata().tolist() == [[4, 0.6]]
    assert lines["test"].get_xydata().tolist() == [[1, 2.5], [2, 1.25], [4, 0.625]]
    assert len({line.get_linestyle() for line in lines.values()}) == 3
    assert [t.get_text() for t in loss.get_legend().get_texts()] == list(lines)
    assert loss.get_title() == "loss, at last 0.5 (training), 0.6 (validation), 0.625 (test)"
    assert (loss.get_xlabel(), loss.get_yscale(), accuracy.get_yscale()) == ("epoch", "log", "linear")
    assert (accuracy.get_ylabel(), accuracy.lines[0].get_ydata()) == ("top 5 accuracy", [0.75])
    assert_readable_in_grey(figure)


def test_learning_curves_over_steps_and_through_zero():
    figure = plot.learning_curves([{"step": 1, "train_loss": 0.0}, {"step": 5, "train_loss": 1.0}])
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_yscale()) == ("step", "linear")
    assert plot.learning_curves(ROWS, against="step").axes[0].lines[0].get_xdata().tolist() == [10, 20, 40]
    assert plot.learning_curves(ROWS, log=()).axes[0].get_yscale() == "linear"
    assert len(plot.learning_curves([{**ROWS[0], "test_a": 1, "test_b": 2}]).axes) == 3


def test_rows_that_do_not_do():
    with pytest.raises(ValueError, match="rows: got none"):
        plot.learning_curves([])
    with pytest.raises(ValueError, match=r"rows: row 1 has \['epoch', 'test_a'\], accepted are rows with 'step'"):
        plot.learning_curves([{"step": 1, "test_a": 1}, {"epoch": 1, "test_a": 1}])
    with pytest.raises(ValueError, match=r"rows: got keys \['loss', 'step'\], accepted are keys like 'train_loss'"):
        plot.learning_curves([{"step": 1, "loss": 1}])


# Confusion matrix --------------------------------------------------------------------------------------------
def test_confusion_matrix():
    metrics = pytest.importorskip("sklearn.metrics")
    labels, predicted = np.random.default_rng(0).integers(0, 4, (2, 50))
    predicted = np.where(predicted == 2, labels, predicted)
    figure = plot.confusion_matrix(labels, predicted, ["cat", "dog", "bird", "fish"])
    counts = metrics.confusion_matrix(labels, predicted)
    drawn = np.zeros((4, 4), int)
    for text in figure.axes[0].texts:
        drawn[int(text.get_position()[1]), int(text.get_position()[0])] = int(text.get_text())
    np.testing.assert_array_equal(drawn, counts)
    np.testing.assert_allclose(images(figure)[0] ** 2, metrics.confusion_matrix(labels, predicted, normalize="true"))
    recall = metrics.recall_score(labels, predicted, average=None)
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names == [f"{name} ({r:.0%})" for name, r in zip(["cat", "dog", "bird", "fish"], recall, strict=True)]
    assert figure.get_suptitle() == f"{np.sum(labels != predicted)} of 50 wrong"
    assert_readable_in_grey(figure)


def test_a_class_that_never_occurs():
    figure = plot.confusion_matrix([0, 0], [0, 1], "ab")
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["a (50%)", "b (none)"]


def test_classes_that_do_not_do():
    with pytest.raises(ValueError, match="labels: got classes 0 to 2, accepted are 0 to 1"):
        plot.confusion_matrix([0, 2], [0, 1], "ab")
    with pytest.raises(ValueError, match=r"predicted: got float64 of shape \(2,\), accepted are integers"):
        plot.confusion_matrix([0, 1], [0.5, 1], "ab")
    with pytest.raises(ValueError, match="predicted: got 1, accepted are 2"):
        plot.confusion_matrix([0, 1], [0], "ab")


# Receptive field ---------------------------------------------------------------------------------------------
LENET = Sequential(
    Conv(6, 5, padding="VALID", name="c1"),
    Activation("relu"),
    MaxPool(2, name="s2"),
    Conv(16, 5, padding="VALID", name="c3"),
    Flatten(),
    Dense(10),
)
FIELDS = {
    "lenet": (Sequential(*[layer for _, layer in LENET.children[:4]]), (1, 20, 24, 1), [(0, 0), (3, 2), (3, 5)]),
    "dilated": (Sequential(Conv(2, 3, kernel_dilation=3), Conv(2, 3, strides=2, padding=[(2, 0)])), (1, 30, 1),
                [(0,), (1,), (7,), (14,)]),
    "input dilation": (Sequential(Conv(2, 4, input_dilation=3, strides=2), Conv(2, 2)), (1, 13, 2), [(0,), (9,), (18,)]),
    "transposed": (Sequential(Conv(2, 3), ConvTranspose(2, 3, strides=2), ConvTranspose(3, 5, strides=3, padding=1),
                              Conv(1, 3, strides=2)), (1, 9, 1), [(0,), (5,), (12,), (24,)]),
    "u": (Sequential(Conv(2, 3), Parallel(Conv(2, 1), Sequential(AvgPool(2), Conv(3, 3), ConvTranspose(2, 2, strides=2)))),
          (1, 16, 16, 1), [(0, 3), (7, 7), (8, 15)]),
    "residual": (Sequential(MaxPool(3, strides=2, padding="SAME"), Residual(Conv(2, 3, strides=2), Conv(2, 3),
                            shortcut=Conv(2, 1, strides=2)), SeparableConv(3, 3)), (1, 40, 1), [(0,), (4,), (9,)]),
    "remainder": (Sequential(Conv(2, 2, strides=3, padding="VALID"), Conv(2, 3)), (1, 13, 1), [(0,), (3,)]),
    "causal": (Sequential(Conv(2, 3, padding="CAUSAL", kernel_dilation=2), Conv(2, 3, padding="FULL")), (1, 20, 1),
               [(0,), (11,), (21,)]),
    "everything": (Sequential(Conv(2, 3, strides=2), GlobalAvgPool(), Dense(2)), (1, 9, 9, 1), [()]),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_where_the_gradient_is_not_zero(name):
    net, shape, positions = FIELDS[name]
    params, state = net.init(key, shape)
    x = jax.random.normal(key, (64, *shape[1:]))  # many, since relu and maximum hide some of the input for each

    @jax.jit
    def touched(place):
        out = lambda x: net.apply(params, state, x)[0].sum((0, -1))[tuple(place)]
        found = jnp.abs(jax.grad(out)(x))  # what spectra leave where there is nothing is no gradient
        return jnp.any(found > 1e-5 * jnp.max(found), axis=(0, -1))

    for position in positions:
        mask = np.asarray(touched(jnp.array(position, int)))
        want = [np.unique(where) for where in np.nonzero(mask)]
        for found, axis in zip(seen(net, shape, tuple(np.array([p]) for p in position)), want, strict=True):
            np.testing.assert_array_equal(found, axis)


def test_an_output_that_sees_padding_alone():
    net = Sequential(Conv(1, 3), Conv(1, 1, padding=4))
    assert len(seen(net, (1, 8, 1), (np.array([0]),))[0]) == 0
    with pytest.raises(ValueError, match=r"position: got \(0,\), which sees nothing of the input but padding"):
        plot.receptive_field(net, (1, 8, 1), position=0)


def test_receptive_field_agrees_with_the_table():
    figure = plot.receptive_field(LENET, (-1, 32, 32, 1))
    drawn = [patch for patch in figure.axes[0].patches if patch.get_label()]
    assert [patch.get_label() for patch in drawn] == ["c1: 5×5", "s2: 6×6", "c3: 14×14"]
    by_name = {row.name: row.receptive_field for row in jconv.summary(LENET, (-1, 32, 32, 1)).rows}
    for patch in drawn:
        size = by_name[patch.get_label().partition(":")[0]]
        assert (patch.get_height(), patch.get_width()) == size
    left, top = drawn[-1].get_xy()  # of output (5, 5) of c3: its window begins at 10 of s2's input
    assert (left, top) == (9.5, 9.5)
    assert len({str(patch.get_linestyle()) for patch in drawn}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [patch.get_label() for patch in drawn]
    assert_readable_in_grey(figure)


def test_receptive_field_agrees_with_the_table_behind_a_transposed_layer():
    net = Sequential(Conv(1, 5, strides=2), ConvTranspose(1, 4, strides=2))
    row = jconv.summary(net, (None, 40, 1)).rows[-1]
    widths = [plot.receptive_field(net, (None, 40, 1), position=at).axes[0].patches[-1].get_width() for at in (20, 21)]
    assert (max(widths),) == row.receptive_field == (7,)


def test_receptive_field_on_an_image():
    image = draw(32, 32, 1)
    figure = plot.receptive_field(LENET, (-1, 32, 32, 1), position=(0, 9), names=["c3"], image=image)
    np.testing.assert_array_equal(images(figure)[0], image[:, :, 0])
    assert figure.axes[0].patches[-1].get_xy() == (17.5, -0.5)
    assert_readable_in_grey(figure)


def test_receptive_field_of_a_series():
    net = Sequential(Conv(2, 5, strides=2), MaxPool(2), Conv(3, 3, padding="VALID"), GlobalMaxPool())
    for image in (None, draw(50, 1)):
        figure = plot.receptive_field(net, (-1, 50, 1), image=image)
        bars = figure.axes[0].patches
        assert [bar.get_width() for bar in bars] == [
            row.receptive_field[0] for row in jconv.summary(net, (1, 50, 1)).rows[:3]
        ]
        (places,) = seen(Sequential(*[layer for _, layer in net.children[:3]]), (1, 50, 1), (np.array([5]),))
        assert bars[-1].get_x() == places[0] - 0.5
        assert_readable_in_grey(figure)
    assert figure.axes[1].lines[0].get_ydata().tolist() == draw(50, 1)[:, 0].tolist()


def test_at_most_six_fields():
    net = Sequential(*[Conv(1, 3) for _ in range(30)])
    labels = [text.get_text() for text in plot.receptive_field(net, (1, 99, 99, 1)).legends[0].get_texts()]
    assert len(labels) == 6
    assert (labels[0], labels[-1]) == ("Conv_0: 3×3", "Conv_29: 61×61")


def test_fields_that_do_not_do():
    with pytest.raises(ValueError, match=r"input_shape: got \(1, 4\), accepted is \[batch, length, channels\]"):
        plot.receptive_field(Dense(3), (1, 4))
    with pytest.raises(ValueError, match=r"layer: got Flatten whose outputs have no spatial axes"):
        plot.receptive_field(Flatten(), (1, 4, 4, 1))
    with pytest.raises(ValueError, match=r"position: got \(10, 0\), accepted is an index into the 10×10 outputs"):
        plot.receptive_field(LENET, (1, 32, 32, 1), position=(10, 0))
    with pytest.raises(ValueError, match=r"image: got shape \(4, 4, 1\), accepted is \(32, 32, 'channels'\)"):
        plot.receptive_field(LENET, (1, 32, 32, 1), image=np.ones((4, 4, 1)))
    double = Layer(
        lambda key, shape: ({}, {}), lambda p, s, x, *, train=False, key=None: (x.repeat(2, 1), s), kind="Up"
    )
    with pytest.raises(
        ValueError, match=r"layer: got Up, which makes \(8,\) of \(4,\) and does not say where it looks"
    ):
        plot.receptive_field(double, (1, 4, 1))


# Saliency ----------------------------------------------------------------------------------------------------
def differences(apply, x):
    """The gradient by central differences, in float64."""
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[place] = 1e-6
        gradient[place] = (apply(x + step) - apply(x - step)) / 2e-6
    return gradient


@pytest.mark.parametrize("shape", [(2, 6, 5, 3), (2, 12, 2)])
def test_saliency(shape):
    net = Sequential(Conv(3, 3), Activation("tanh"), Flatten(), Dense(4))
    with jax.enable_x64(True):
        params, state = net.init(key, shape)
        x = np.asarray(jax.random.normal(key, shape, jnp.float64))
        outputs = jax.jit(lambda x: net.apply(params, state, x)[0])
        for output in (None, 2):
            at = int(np.argmax(outputs(x)[1])) if output is None else output
            want = np.abs(differences(lambda v, at=at: float(outputs(v[None])[0, at]), x[1])).max(-1)
            figure = plot.saliency(net, params, state, x, output=output, index=1)
            drawn = images(figure)[1] if len(shape) == 4 else figure.axes[1].lines[0].get_ydata()
            np.testing.assert_allclose(drawn, want, atol=1e-6)
            assert figure.get_suptitle().startswith(f"Where output {at} ({outputs(x)[1, at]:.3g})")
    if len(shape) == 3:
        np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), x[1, :, 1])
        assert_readable_in_grey(figure)


def test_saliency_of_one_element_of_a_map_is_its_kernel():
    kernel = draw(3, 3, 1, 2)
    figure = plot.saliency(
        Conv(2, 3, use_bias=False), {"kernel": kernel}, {}, np.zeros((1, 7, 7, 1), np.uint8), output=(2, 4, 1)
    )
    want = np.zeros((7, 7))
    want[1:4, 3:6] = np.abs(kernel[:, :, 0, 1])
    np.testing.assert_array_equal(images(figure)[1], want)
    assert_readable_in_grey(figure)


def test_outputs_that_do_not_do():
    params = {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.zeros(2)}
    for output in (3, (0, 0, 2), (0, 0)):
        with pytest.raises(ValueError, match=r"output: got .*, accepted is an index into the 4×4×2 outputs"):
            plot.saliency(Conv(2, 3), params, {}, jnp.ones((1, 4, 4, 1)), output=output)
    with pytest.raises(ValueError, match=r"output\[0\]: got -1"):
        plot.saliency(Conv(2, 3), params, {}, jnp.ones((1, 4, 4, 1)), output=(-1, 0, 0))
