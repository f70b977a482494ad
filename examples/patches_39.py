"""Is it the cat? 39×39 colour patches of six photographs, learned from the left of each and judged on the right.

    python examples/patches_39.py            # a minute on two cores
    python examples/patches_39.py --quick    # fewer patches and two epochs, to see that all works

The network is 39×39×3 → 37×37×10 → 17×17×20 → 7×7×40 → 1,960 → logistic. Half of the patches are of the cat, and the
others of five photographs in equal parts. Patches to test on lie in the right third of each photograph, patches to
train on in the rest, so no pixel is in both. The epochs were chosen by training on the left half of the training parts
and judging on their right half, and the other way round; the baselines' penalties are, too.

How hard is it? Not very, for a network: it has to know these photographs, their colours and textures, at places where
it has not seen them. It learns this cat, not what a cat is. Logistic regression on the pixels can hardly do it, since a
patch shows anything anywhere; on how often each of 64 colours occurs in a patch, it does better. As a check on what was
learned, patches of two photographs that nothing was trained on are judged too: none of them is the cat.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

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
from jconv import models, plot

SIZE = 39
INPUT_SHAPE = (-1, SIZE, SIZE, 3)
CAT = "chelsea"
OTHERS = ("astronaut", "china", "coffee", "flower", "rocket")
UNSEEN = ("hubble", "retina")
CLASSES = ("another photograph", "the cat")


class Patches(NamedTuple):
    images: np.ndarray  # uint8, [count, 39, 39, 3]
    labels: np.ndarray  # int32, [count], 1 for the cat
    names: np.ndarray  # of the photographs, [count]
    corners: np.ndarray  # row and column of the first pixel, [count, 2]


def boundary(photograph: np.ndarray) -> int:
    """The first column that is tested on."""
    return 2 * photograph.shape[1] // 3


def corners(photograph: np.ndarray, first: int, last: int, stride: int) -> np.ndarray:
    """Where patches lie that are wholly in the columns from first to last, the last one not included."""
    rows, columns = np.arange(0, len(photograph) - SIZE + 1, stride), np.arange(first, last - SIZE + 1, stride)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


def cut(photograph: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.stack([photograph[row : row + SIZE, column : column + SIZE] for row, column in places])


def patches(part: str, stride: int) -> Patches:
    """The patches of the part "train" or "test": all of the cat, and as many of the others, evenly spread."""
    images, names, places = [], [], []
    for name in (CAT, *OTHERS):
        photograph = packaged.photograph(name)
        first, last = (0, boundary(photograph)) if part == "train" else (boundary(photograph), photograph.shape[1])
        found = corners(photograph, first, last, stride)
        if name != CAT:
            found = found[np.linspace(0, len(found) - 1, len(places[0]) // len(OTHERS)).astype(int)]
        images.append(cut(photograph, found))
        names.append(np.full(len(found), name))
        places.append(found)
    names = np.concatenate(names)
    return Patches(np.concatenate(images), (names == CAT).astype(np.int32), names, np.concatenate(places))


def halves(data: Patches) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and rows to choose with, twice: the left and the right half of the training parts change places."""
    middles = {name: boundary(packaged.photograph(name)) // 2 for name in (CAT, *OTHERS)}
    middle, column = np.array([middles[name] for name in data.names]), data.corners[:, 1]
    left, right = np.flatnonzero(column + SIZE <= middle), np.flatnonzero(column >= middle)
    return [(left, right), (right, left)]


def to_input(images) -> jax.Array:
    return jnp.asarray(images, jnp.float32) / 127.5 - 1


def colours(images: np.ndarray) -> np.ndarray:
    """The share of each of 64 colours in a patch: four levels of red, green and blue."""
    levels = (images // 64).reshape(len(images), -1, 3).astype(int)
    indices = 16 * levels[..., 0] + 4 * levels[..., 1] + levels[..., 2]
    return np.stack([np.bincount(row, minlength=64) for row in indices]) / indices.shape[1]


def loss_of(logits, labels) -> jax.Array:
    """Mean cross-entropy of a sigmoid."""
    return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels).mean()


def places_picture(data: Patches, right: np.ndarray) -> Figure:
    """The photographs, where the patches to test on have their middle, and how they were judged."""
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    figure.suptitle(
        f"Patches to test on, by their middles: {right.sum()} right (white dots), {np.sum(~right)} wrong (black "
        "crosses)\nTraining has seen what is left of the line"
    )
    for axes, name in zip(figure.subplots(2, 3).flat, (CAT, *OTHERS), strict=True):
        photograph, own = packaged.photograph(name), data.names == name
        axes.imshow(photograph)
        axes.axvline(boundary(photograph), color="white", linewidth=3)
        axes.axvline(boundary(photograph), color="black", linewidth=1)
        for judged, marker, colour, edge in ((right, "o", "white", "black"), (~right, "X", "black", "white")):
            rows, columns = data.corners[own & judged].T + SIZE // 2
            axes.scatter(columns, rows, s=14 if marker == "o" else 60, c=colour, marker=marker, edgecolors=edge)
        axes.set(xticks=[], yticks=[], title=f"{name}: {right[own].mean():.0%} right")
    return figure


def run(args: argparse.Namespace) -> None:
    train, test = patches("train", 18 if args.quick else 9), patches("test", 13)
    begun, out = time.perf_counter(), training.Run(args)
    network = models.catnet39()
    table = jconv.summary(network, INPUT_SHAPE)
    print(table, f"\n\n{len(train.images):,} patches to train on, {len(test.images)} to test on", flush=True)
    out.note(network="catnet39", parameters=table.parameters, cat=CAT, others=OTHERS)
    out.note(train_patches=len(train.images), test_patches=len(test.images))

    schedule = training.warmup_cosine(args.learning_rate, training.num_steps(args, len(train.images)))
    optimizer = optax.adamw(schedule, weight_decay=0.01)
    apply = jax.jit(lambda params, images: network.apply(params, {}, to_input(images))[0])

    def loss(params, state, batch, key):
        x = to_input(batch["images"])
        x = jnp.where(jax.random.bernoulli(key, shape=(len(x), 1, 1, 1)), x[:, :, ::-1], x)  # mirrored or not
        logits, state = network.apply(params, state, x, train=True)
        return loss_of(logits, batch["labels"]), state

    def evaluate(trained: training.TrainState):
        """For the learning curves; nothing is chosen by them."""
        logits = apply(trained.params, test.images)
        accuracy = np.mean((np.asarray(logits[:, 0]) > 0) == test.labels)
        return {"test_loss": loss_of(logits, test.labels), "test_accuracy": accuracy}

    start = training.init(network, INPUT_SHAPE, optimizer, args.seed)
    data = {"images": train.images, "labels": train.labels}
    trained, rows = out.fit(start, training.make_step(loss, optimizer), data, evaluate)

    params = trained.params
    files.save_params(args.out / "params.safetensors", params, {"network": "catnet39"})
    predicted = np.asarray(apply(params, test.images)[:, 0]) > 0
    kernel, bias = params["Conv_0"]["kernel"], params["Conv_0"]["bias"]
    out.save_figure("learning_curves.png", plot.learning_curves(rows, title="The cat or another photograph"))
    title = "The 10 filters of the first convolution: red, green and blue below each other"
    out.save_figure("filters.png", plot.filters(kernel, bias=bias, title=title))
    out.save_figure("confusion_matrix.png", plot.confusion_matrix(test.labels, predicted.astype(int), CLASSES))
    out.save_figure("places.png", places_picture(test, predicted == test.labels))

    found = {}
    for name, form in (("pixels", to_input), ("64 colours", colours)):
        x, y = (np.asarray(form(images)).reshape(len(images), -1) for images in (train.images, test.images))
        model = baselines.logistic_regression(x, train.labels, halves(train))
        found[f"logistic regression on {name}"] = model.score(y, test.labels)
    accuracy = rows[-1]["test_accuracy"]
    print(
        f"\ntest accuracy: network {accuracy:.3f},", ", ".join(f"{name} {share:.3f}" for name, share in found.items())
    )
    alarms = {}
    for name in UNSEEN:
        photograph = packaged.photograph(name)
        images = cut(photograph, corners(photograph, 0, photograph.shape[1], 3 * SIZE))
        alarms[name] = float(np.mean(apply(params, images) > 0))
        print(f"of {len(images)} patches of the unseen photograph {name}, taken for the cat: {alarms[name]:.1%}")
    out.note(test_accuracy=accuracy, baselines=found, unseen_taken_for_the_cat=alarms)
    out.note(seconds=round(time.perf_counter() - begun, 1))
    print(f"wrote to {args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}")


def parser() -> argparse.ArgumentParser:
    return training.parser(
        "Three convolutions and a logistic output learn which 39×39 patches of photographs show the cat.",
        out="runs/patches",
        epochs={"": 24, "--quick": 2},
        batch_size=64,
        learning_rate={"": 0.002},
        quick="a quarter of the patches and two epochs, to see that all works",
        epilog="The photographs come with scikit-image and scikit-learn, whose wheels have them in them. The baselines "
        "are logistic regression on the pixels of a patch, and on how often each of 64 colours occurs in it.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    return training.main(run, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
