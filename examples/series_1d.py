"""Leaves by their outlines, gun or finger by a hand's motion: 1-D convolution on two series of the UCR archive.

    python examples/series_1d.py                       # six kinds of leaves; a minute on two cores
    python examples/series_1d.py --dataset GunPoint    # two kinds of motion
    python examples/series_1d.py --quick               # GunPoint in few epochs

The split is the archive's own. The baseline is the archive's too: the class of the nearest training series, whose
accuracy on the test series is published, and computed here. Widths, strides and epochs were chosen by four-fold
cross-validation of the training series; the test series are looked at after each epoch for the learning curves alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import baselines
import files
import jax
import numpy as np
import optax
import packaged
import training
from jax import numpy as jnp
from matplotlib.figure import Figure

import jconv
from jconv import plot
from jconv.layers import Activation, BatchNorm, Conv, Dense, GlobalAvgPool, Layer, Sequential

# The outline of a leaf has no end: its last point is beside its first one.
PADDING = {"OSULeaf": "circular", "GunPoint": "zeros"}
PUBLISHED = {"OSULeaf": 0.521, "GunPoint": 0.913}  # the nearest neighbour's accuracy


def series_network(classes: int, padding_mode: str) -> Layer:
    """Three convolutions, the mean over all positions, a dense layer.

    A mean over positions does not ask where something was, and circular padding knows no ends. So which point of a
    leaf's outline comes first makes no difference, but for the first convolution's stride of two.
    """
    parts = [
        Conv(32, 9, strides=2, padding_mode=padding_mode, use_bias=False),
        BatchNorm(momentum=0.9),
        Activation("relu"),
        Conv(64, 5, padding_mode=padding_mode, use_bias=False),
        BatchNorm(momentum=0.9),
        Activation("relu"),
        Conv(32, 3, padding_mode=padding_mode, use_bias=False),
        BatchNorm(momentum=0.9),
        Activation("relu"),
    ]
    return Sequential(Sequential(*parts, name="features"), GlobalAvgPool(), Dense(classes, name="output"))


def loss_of(logits, labels) -> jax.Array:
    """Mean softmax cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def evidence_picture(network: Layer, trained: training.TrainState, x, labels, classes: Sequence[str]) -> Figure:
    """The first test series of each class, and which parts of it speak for the class.

    The output is the mean over positions of features · weights: what a position adds to it is its share of the evidence
    (the class activation map of Zhou et al., CVPR 2016).
    """
    (_, features), *_ = network.children
    figure = Figure(figsize=(10, 1.2 + 1.25 * len(classes)), layout="constrained")
    figure.suptitle("The first test series of each class: dark where it speaks for the class, light where against it")
    panels = figure.subplots(len(classes), 1, sharex=True)
    for label, axes in enumerate(panels):
        series = x[np.flatnonzero(labels == label)[:1]]
        maps, _ = features.apply(trained.params["features"], trained.state["features"], series)
        evidence = np.asarray(maps[0] @ trained.params["output"]["kernel"][:, label])[None]
        limit, length = np.abs(evidence).max(), series.shape[1]
        extent = (-0.5, length - 0.5, series.min() - 0.3, series.max() + 0.3)
        options = {"cmap": "Greys", "vmin": -limit, "vmax": 2 * limit, "interpolation": "nearest"}
        axes.imshow(evidence, aspect="auto", extent=extent, **options)
        axes.plot(series[0, :, 0], color="black", linewidth=1.2)
        axes.set_ylabel(f"class {classes[label]}")
    panels[-1].set_xlabel("position")
    return figure


def run(args: argparse.Namespace) -> None:
    data = packaged.series(args.dataset)
    neighbour = np.mean(baselines.nearest_neighbour(data.train, data.train_labels, data.test) == data.test_labels)
    begun, out = time.perf_counter(), training.Run(args)
    network = series_network(len(data.classes), PADDING[args.dataset])
    input_shape = (-1, *data.train.shape[1:])
    table = jconv.summary(network, input_shape)
    print(table, f"\n\n{args.dataset}: {len(data.train)} series to train on, {len(data.test)} to test on", flush=True)
    out.note(network="three 1-D convolutions", parameters=table.parameters, classes=data.classes)
    out.note(train_series=len(data.train), test_series=len(data.test), length=data.train.shape[1])

    schedule = training.warmup_cosine(args.learning_rate, training.num_steps(args, len(data.train)))
    optimizer = optax.adamw(schedule, weight_decay=0.01)
    apply = jax.jit(lambda trained, x: network.apply(trained.params, trained.state, x)[0])

    def loss(params, state, batch, key):
        logits, state = network.apply(params, state, batch["series"], train=True)
        return loss_of(logits, batch["labels"]), state

    def evaluate(trained: training.TrainState):
        logits = apply(trained, data.test)
        accuracy = np.mean(np.asarray(logits.argmax(-1)) == data.test_labels)
        return {"test_loss": loss_of(logits, data.test_labels), "test_accuracy": accuracy}

    start = training.init(network, input_shape, optimizer, args.seed)
    batches = {"series": data.train, "labels": jnp.asarray(data.train_labels)}
    trained, rows = out.fit(start, training.make_step(loss, optimizer), batches, evaluate, unit="series")

    classes = [f"class {name}" for name in data.classes]
    weights = {"params": trained.params, "state": trained.state}
    files.save_params(args.out / "params.safetensors", weights, {"network": "series_1d", "dataset": args.dataset})
    predicted = np.asarray(apply(trained, data.test).argmax(-1))
    kernel = trained.params["features"]["Conv_0"]["kernel"]
    title = f"{args.dataset}: training and test series"
    out.save_figure("learning_curves.png", plot.learning_curves(rows, title=title))
    out.save_figure("filters.png", plot.filters(kernel, title="16 of the 32 filters of the first convolution"))
    out.save_figure("confusion_matrix.png", plot.confusion_matrix(data.test_labels, predicted, classes))
    picture = evidence_picture(network, trained, data.test, data.test_labels, data.classes)
    out.save_figure("evidence.png", picture)
    accuracy = rows[-1]["test_accuracy"]
    out.note(test_accuracy=accuracy, baselines={"nearest neighbour": neighbour, "published": PUBLISHED[args.dataset]})
    out.note(seconds=round(time.perf_counter() - begun, 1))
    print(f"\ntest accuracy: network {accuracy:.3f}, nearest neighbour {neighbour:.3f}", end=" ")
    print(f"(published: {PUBLISHED[args.dataset]})")
    print(f"wrote to {args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}")


def parser() -> argparse.ArgumentParser:
    made = training.parser(
        "Three 1-D convolutions classify series of the UCR archive, in the archive's own split.",
        out="runs/series",
        epochs={"": 120, "--dataset GunPoint": 100, "--quick": 40},
        batch_size=10,
        learning_rate={"": 0.003},
        quick="GunPoint in few epochs, to see that all works",
        epilog="The series come with sktime, whose wheel has them in it. The baseline is the class of the nearest "
        "training series by Euclidean distance.",
    )
    made.add_argument(
        "--dataset",
        choices=packaged.SERIES,
        default={"": "OSULeaf", "--quick": "GunPoint"},
        help="outlines of leaves, or motions of a hand (default: OSULeaf, GunPoint with --quick)",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return training.main(run, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
