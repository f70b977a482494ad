"""What weight sharing saves: LeNet-5 with its first layer shared and unshared, trained on the same digits.

    python examples/weight_sharing.py              # three seeds of each
    python examples/weight_sharing.py --data DIR   # on MNIST or Fashion-MNIST

A convolution has one kernel for all positions: C1 has 6 kernels of 5×5 and 6 biases, 156 parameters. Without sharing,
each of its 28×28 positions has kernels and biases of its own: 122,304 parameters, for the same 122,304 connections.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import digits
import lenet_digits
import numpy as np
import optax
import training
from matplotlib.figure import Figure

import jconv
from jconv.layers import Conv, ConvLocal, Layer, Sequential

FIRST_LAYERS = {"shared": Conv, "unshared": ConvLocal}
STYLES = {
    "shared": {"color": "black", "linestyle": "-", "marker": "o"},
    "unshared": {"color": "0.55", "linestyle": "--", "marker": "s"},
}
SEEDS = {"": 3, "--quick": 1}
PIXELS = range(5)  # MNIST's digits have a margin of four


def network(kind: str) -> Layer:
    """LeNet-5 whose first layer is shared or not; all the others are the same."""
    _, *others = (layer for _, layer in lenet_digits.lenet().children)
    return Sequential(FIRST_LAYERS[kind](6, 5, padding="VALID", name="c1"), *others)


def moved(images: np.ndarray, pixels: int) -> list[np.ndarray]:
    """The images moved up, down, left and right, with blank paper where nothing came from."""
    padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels)))
    height, width = images.shape[1:]
    corners = [(2, 1), (0, 1), (1, 2), (1, 0)]  # of what is cut out, in units of `pixels`
    return [padded[:, pixels * r :, pixels * c :][:, :height, :width] for r, c in corners]


def run(args: argparse.Namespace) -> None:
    data = digits.load(args.data, quick=args.quick)
    schedule = training.warmup_cosine(args.learning_rate, training.num_steps(args, len(data.train_images)))
    out, optimizer = training.Run(args), optax.adamw(schedule, weight_decay=0.1)
    networks = {kind: network(kind) for kind in FIRST_LAYERS}
    steps = {
        kind: training.make_step(lenet_digits.make_loss(net, augmented=False, dtype="float32"), optimizer)
        for kind, net in networks.items()
    }
    classify = {kind: lenet_digits.make_classify(net) for kind, net in networks.items()}
    curves: dict[str, list] = {kind: [] for kind in networks}  # the rows of metrics of each seed
    errors: dict[str, list] = {kind: [] for kind in networks}  # of digits that are moved
    for seed in range(args.seed, args.seed + args.seeds):
        for kind, net in networks.items():  # by turns, so that whatever slows the machine slows both
            start = training.init(net, lenet_digits.INPUT_SHAPE, optimizer, seed)
            evaluate = lenet_digits.make_evaluate(classify[kind], data)
            trained, rows = out.fit(start, steps[kind], data.training(), evaluate, name=f"{kind}-{seed}", seed=seed)
            curves[kind].append(rows)
            errors[kind].append([error_rate(classify[kind], trained.params, data, pixels) for pixels in PIXELS])

    results: dict[str, dict[str, Any]] = {}
    for kind, net in networks.items():
        table = jconv.summary(net, lenet_digits.INPUT_SHAPE)
        results[kind] = {
            "c1_parameters": table.rows[0].parameters,
            "parameters": table.parameters,
            "test_accuracy": [rows[-1]["test_accuracy"] for rows in curves[kind]],
            "images_per_second": statistics.median(row["images_per_second"] for rows in curves[kind] for row in rows),
            "test_errors": [[1 - row["test_accuracy"] for row in rows] for rows in curves[kind]],
            "errors_when_moved": errors[kind],
        }
    out.note(train_images=len(data.train_images), test_images=len(data.test_images), results=results)
    out.save_figure("weight_sharing.png", picture(results, len(data.train_images)))
    for kind, result in results.items():
        accuracies = result["test_accuracy"]
        print(
            f"C1 {kind:>8}: {result['c1_parameters']:>7,} parameters of {result['parameters']:>7,}, test accuracy "
            f"{np.mean(accuracies):.2%} ({min(accuracies):.2%} to {max(accuracies):.2%}), "
            f"{result['images_per_second']:,.0f} images/s"
        )
    print(f"wrote to {args.out}: weight_sharing.png, metrics.jsonl, config.json")


def error_rate(classify: Callable, params: Any, data: digits.Dataset, pixels: int) -> float:
    """Of the test images, moved by so many pixels."""
    ways = moved(data.test_images, pixels) if pixels else [data.test_images]
    wrong = [np.asarray(classify(params, images).argmax(-1)) != data.test_labels for images in ways]
    return float(np.mean(wrong))


def picture(results: Mapping[str, Mapping[str, Any]], examples: int) -> Figure:
    """Accuracy, parameters and time of both, in one figure."""
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    (curves, shifts), (counts, times) = figure.subplots(2, 2)
    seeds = len(results["shared"]["test_accuracy"])
    figure.suptitle(
        "LeNet-5 with its first layer (C1) shared and unshared"
        + (f"\n{seeds} seeds of each: lines are at their mean, bands from the least to the most" if seeds > 1 else "")
    )
    for kind, result in results.items():
        for axes, values, first in ((curves, result["test_errors"], 1), (shifts, result["errors_when_moved"], 0)):
            percent, x = 100 * np.array(values), first + np.arange(len(values[0]))
            axes.plot(x, percent.mean(0), label=f"C1 {kind}", markersize=4, **STYLES[kind])
            axes.fill_between(x, percent.min(0), percent.max(0), color=STYLES[kind]["color"], alpha=0.2, linewidth=0)
    last = {kind: 100 * (1 - np.mean(result["test_accuracy"])) for kind, result in results.items()}
    curves.set(
        title=f"Test error, at last {last['shared']:.1f} % shared, {last['unshared']:.1f} % unshared",
        xlabel="epoch",
        ylabel="errors (%)",
    )
    shifts.set(title="Digits that are moved after training", xlabel="moved by (pixels)", ylabel="errors (%)")
    for axes in (curves, shifts):
        axes.legend()
        axes.set_ylim(bottom=0)
        axes.grid(True, color="0.9")
        axes.xaxis.get_major_locator().set_params(integer=True)

    names = [f"C1 {kind}" for kind in results]
    colors = [STYLES[kind]["color"] for kind in results]
    bars = counts.bar(names, [result["c1_parameters"] for result in results.values()], color=colors, width=0.5)
    counts.bar_label(bars, [f"{result['c1_parameters']:,}" for result in results.values()], padding=2)
    counts.set(title="Parameters of C1, for 122,304 connections", ylabel="parameters", yscale="log", ylim=(10, 1e6))
    seconds = [examples / result["images_per_second"] for result in results.values()]
    times.bar_label(times.bar(names, seconds, color=colors, width=0.5), fmt="{:.2f} s", padding=2)
    times.set(title=f"Time of an epoch of {examples:,} images", ylabel="seconds", ylim=(0, 1.15 * max(seconds)))
    return figure


def parser() -> argparse.ArgumentParser:
    made = training.parser(
        "LeNet-5 with its first layer shared and unshared, trained on the same digits.",
        out="runs/weight_sharing",
        epochs={"": 12, "--data": 3, "--quick": 1},
        batch_size=50,
        learning_rate={"": 0.003},
        quick="one seed, some 200 images and one epoch, to see that all works",
        epilog=digits.PACKAGED,
    )
    digits.add_data_option(made)
    made.add_argument(
        "--seeds",
        type=training.count,
        default=SEEDS,
        metavar="N",
        help=f"how many of them, from --seed on ({training.told(SEEDS)})",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return training.main(run, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
