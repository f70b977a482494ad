"""A face or not? 25×25 pixels, 12 filters of 3×3 first, 200 images, five-fold cross-validation.

    python examples/faces_25.py            # half a minute on two cores
    python examples/faces_25.py --quick    # three epochs a fold, to see that all works

With so few images, each is judged by a network that was trained on the other four fifths. Logistic regression has the
same five trials, and the same mirror images to learn from. Depth and scaling of the images were chosen among a few by
cross-validations with other folds (seeds 10 to 15); the learning rate and the rest are the first that were tried.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import baselines
import jax
import numpy as np
import optax
import packaged
import training
from jax import numpy as jnp
from matplotlib.figure import Figure

import jconv
from jconv import plot
from jconv.layers import Activation, Conv, Dense, Dropout, Flatten, Layer, MaxPool, Sequential

INPUT_SHAPE = (-1, 25, 25, 1)
FOLDS = 5
CLASSES = ("background", "face")


def folds(seed: int, count: int) -> list[np.ndarray]:
    """The rows that are held out in each fold: as many faces, rows 0 to count - 1, as pieces of background, the others.

    A face and the background at the same place may be of one photograph, so they are held out together.
    """
    order = np.random.default_rng(seed).permutation(count)
    return [np.concatenate([part, part + count]) for part in np.array_split(order, FOLDS)]


def face_network() -> Layer:
    """25×25×1 → 12 filters (120 parameters) 23×23 → 11×11 → 24 filters 9×9 → 4×4 → 48 filters 2×2 → 1×1 → logit."""
    return Sequential(
        Conv(12, 3, padding="VALID"),
        Activation("relu"),
        MaxPool(2),
        Conv(24, 3, padding="VALID"),
        Activation("relu"),
        MaxPool(2),
        Conv(48, 3, padding="VALID"),
        Activation("relu"),
        MaxPool(2),
        Flatten(),
        Dropout(0.5),
        Dense(1),
    )


def to_input(images: np.ndarray) -> np.ndarray:
    """Each image with mean 0 and standard deviation 1, so that light and contrast tell nothing."""
    scale = images.std((1, 2, 3), keepdims=True) + 0.01
    return (images - images.mean((1, 2, 3), keepdims=True)) / scale


def loss_of(logits, labels) -> jax.Array:
    """Mean cross-entropy of a sigmoid."""
    return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels).mean()


def logistic_regression(train, labels, test) -> np.ndarray:
    """The baseline's probabilities of a face, from training images and their mirror images.

    It has the images as they are: light and contrast do tell something, and it does worse without.
    """
    inner = np.tile(np.arange(len(train)) % (len(train) // 2) % 4, 2)  # four parts, as many faces as background in each
    splits = [(np.flatnonzero(inner != part), np.flatnonzero(inner == part)) for part in range(4)]
    both = np.concatenate([train, train[:, :, ::-1]])
    model = baselines.logistic_regression(both, np.tile(labels, 2), splits)
    return model.predict_proba(test.reshape(len(test), -1))[:, 1]


def least_sure(images, labels, network, baseline, shown: int = 16) -> Figure:
    """The images whose class the network gives the least probability, and what both make of them."""
    right = [np.where(labels == 1, probability, 1 - probability) for probability in (network, baseline)]
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    figure.suptitle(
        f"The {shown} held-out images that the network is least sure of: probability of the right class, which is "
        "wrong\nbelow 0.5, by the network and by logistic regression"
    )
    for axes, row in zip(figure.subplots(2, shown // 2).flat, np.argsort(right[0])[:shown], strict=True):
        axes.imshow(images[row, :, :, 0], cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[], title=CLASSES[labels[row]])
        axes.set_xlabel("\n".join(f"{n}: {p[row]:.2f}" for n, p in zip(("network", "logistic"), right, strict=True)))
    return figure


def run(args: argparse.Namespace) -> None:
    images, labels = packaged.faces()
    held_out = folds(args.seed, len(images) // 2)
    begun, out = time.perf_counter(), training.Run(args)
    network = face_network()
    table = jconv.summary(network, INPUT_SHAPE)
    print(table, f"\n\n{len(images)} images, of which each of {FOLDS} folds holds {len(held_out[0])} out", flush=True)
    out.note(network="three convolutions", parameters=table.parameters, images=len(images), folds=FOLDS)

    examples = len(images) - len(held_out[0])
    schedule = training.warmup_cosine(args.learning_rate, training.num_steps(args, examples))
    optimizer = optax.adamw(schedule, weight_decay=0.01)
    apply = jax.jit(lambda params, x: network.apply(params, {}, x)[0])

    def loss(params, state, batch, key):
        mirror, dropout = jax.random.split(key)
        x = batch["images"]
        x = jnp.where(jax.random.bernoulli(mirror, shape=(len(x), 1, 1, 1)), x[:, :, ::-1], x)  # still a face
        logits, state = network.apply(params, state, x, train=True, key=dropout)
        return loss_of(logits, batch["labels"]), state

    step = training.make_step(loss, optimizer)
    found, baseline = np.zeros((2, len(images)))  # the probability of a face, of each image when it is held out
    x, params = to_input(images), {}
    for fold, test in enumerate(held_out):
        train = np.setdiff1d(np.arange(len(images)), test)

        def evaluate(trained, test=test):
            """For the learning curves; nothing is chosen by them."""
            logits = apply(trained.params, x[test])
            accuracy = np.mean((np.asarray(logits[:, 0]) > 0) == labels[test])
            return {"test_loss": loss_of(logits, labels[test]), "test_accuracy": accuracy}

        start = training.init(network, INPUT_SHAPE, optimizer, args.seed)
        data = {"images": x[train], "labels": labels[train]}
        trained, _ = out.fit(start, step, data, evaluate, name=f"fold{fold + 1}")
        params = trained.params
        found[test] = jax.nn.sigmoid(apply(params, x[test])[:, 0])
        baseline[test] = logistic_regression(images[train], labels[train], images[test])

    epochs = [[row for row in out.rows if row["epoch"] == epoch + 1] for epoch in range(args.epochs)]
    names = ("epoch", "train_loss", "test_loss", "test_accuracy")
    means = [{name: float(np.mean([row[name] for row in rows])) for name in names} for rows in epochs]
    out.save_figure("learning_curves.png", plot.learning_curves(means, title=f"Faces: means of {FOLDS} folds"))
    kernel, bias = params["Conv_0"]["kernel"], params["Conv_0"]["bias"]
    out.save_figure("filters.png", plot.filters(kernel, bias=bias, title="The 12 filters that the last fold learned"))
    out.save_figure("confusion_matrix.png", plot.confusion_matrix(labels, (found > 0.5).astype(int), CLASSES))
    out.save_figure("least_sure.png", least_sure(images, labels, found, baseline))
    right, theirs = ((p > 0.5) == labels for p in (found, baseline))
    out.note(
        test_accuracy=right.mean(),
        baselines={"logistic regression": theirs.mean()},
        only_network_right=int(np.sum(right & ~theirs)),
        only_baseline_right=int(np.sum(theirs & ~right)),
        seconds=round(time.perf_counter() - begun, 1),
    )
    print(f"\nheld-out accuracy: network {right.mean():.3f}, logistic regression {theirs.mean():.3f}")
    only = f"network {np.sum(right & ~theirs)}, baseline {np.sum(theirs & ~right)} times"
    print(f"right where the other is wrong: {only}")
    print(f"wrote to {args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}")


def parser() -> argparse.ArgumentParser:
    return training.parser(
        "Three convolutions tell faces from background, in five-fold cross-validation.",
        out="runs/faces",
        epochs={"": 40, "--quick": 3},
        batch_size=32,
        learning_rate={"": 0.002},
        quick="three epochs a fold, to see that all works",
        epilog="The 200 images are the lfw_subset of scikit-image, which its wheel has in it. The baseline is logistic "
        "regression on the same pixels in the same folds, its penalty chosen within each training part.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    return training.main(run, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
