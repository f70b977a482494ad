"""A U-Net takes noise out of photographs: learned on four of them, judged on two others.

    python examples/denoise_unet.py            # two minutes on two cores
    python examples/denoise_unet.py --quick    # one short epoch, to see that all works

The noise is Gaussian, with a standard deviation of 25 of 255 levels. The network says what is noise, and that is taken
away. The baseline is a Gaussian filter, its width the best one for the photographs to train on. Both are judged by the
peak signal-to-noise ratio, 10 log10(1 / mean squared error), of pixels from 0 to 1. Width and epochs of the network
were set by the time that it may take; the photographs to test on are looked at after each epoch for the curves alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence

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

TRAIN = ("astronaut", "china", "coffee", "rocket")
TEST = ("chelsea", "flower")
NOISE = 25 / 255
CROP, STRIDE = 64, 32
WIDTHS = np.arange(0.5, 2.01, 0.1)  # of the Gaussian filter, in pixels


def clean(name: str) -> np.ndarray:
    """A photograph as floats from 0 to 1, its sides multiples of 4 because the U-Net halves them twice."""
    image = packaged.photograph(name)
    height, width = (4 * (n // 4) for n in image.shape[:2])
    return image[:height, :width].astype(np.float32) / 255


def noisy(names: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Photographs with noise: the same in every run, whatever --seed is."""
    draw = np.random.default_rng(seed)
    return {name: image + NOISE * draw.standard_normal(image.shape, np.float32) for name, image in _clean(names)}


def _clean(names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    return [(name, clean(name)) for name in names]


def crops(names: Sequence[str], stride: int) -> np.ndarray:
    """Pieces of the photographs as bytes, [count, 64, 64, 3]."""
    pieces = []
    for name in names:
        image = packaged.photograph(name)
        rows, columns = (range(0, n - CROP + 1, stride) for n in image.shape[:2])
        pieces += [image[row : row + CROP, column : column + CROP] for row in rows for column in columns]
    return np.stack(pieces)


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in decibels, of what can be shown: pixels from 0 to 1."""
    return float(-10 * np.log10(np.mean((np.clip(image, 0, 1) - truth) ** 2)))


def gaussian(image: np.ndarray, width: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter  # only here: it takes a second

    return gaussian_filter(image, (width, width, 0))


def best_width(names: Sequence[str]) -> float:
    """The width of the Gaussian filter with the highest mean ratio on these photographs."""
    images = noisy(names, seed=0)
    ratios = [np.mean([psnr(gaussian(images[name], width), clean(name)) for name in names]) for width in WIDTHS]
    return float(WIDTHS[np.argmax(ratios)])


def augment(key: jax.Array, x: jax.Array) -> jax.Array:
    """Each square mirrored or not, and its axes exchanged or not."""
    mirror, exchange = jax.random.bernoulli(key, shape=(2, len(x), 1, 1, 1))
    x = jnp.where(mirror, x[:, :, ::-1], x)
    return jnp.where(exchange, x.swapaxes(1, 2), x)


def before_and_after(stages: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """One row for each photograph, one column for each stage, and what a piece of it looks like from near."""
    figure = Figure(figsize=(12, 4.1 * len(TEST) + 0.6), layout="constrained")
    figure.suptitle("Two photographs that nothing was trained on, and a piece of each four times as large")
    panels = figure.subplots(2 * len(TEST), len(stages), squeeze=False, height_ratios=[1.0, 1.2] * len(TEST))
    for i, name in enumerate(TEST):
        truth = clean(name)
        row, column = (n // 2 - 48 for n in truth.shape[:2])
        for j, (stage, images) in enumerate(stages.items()):
            image = np.clip(images[name], 0, 1)
            whole, piece = panels[2 * i, j], panels[2 * i + 1, j]
            whole.imshow(image)
            whole.add_patch(_frame(column, row))
            piece.imshow(image[row : row + 96, column : column + 96], interpolation="nearest")
            ratio = f", {psnr(image, truth):.2f} dB" if stage != "original" else ""
            whole.set_title(f"{stage}{ratio}", fontsize=10)
            for axes in (whole, piece):
                axes.set(xticks=[], yticks=[])
        panels[2 * i, 0].set_ylabel(name)
    return figure


def _frame(column: int, row: int):
    from matplotlib.patches import Rectangle

    return Rectangle((column, row), 96, 96, fill=False, edgecolor="white", linewidth=1.5)


def run(args: argparse.Namespace) -> None:
    pieces, truths, inputs = crops(TRAIN, 3 * STRIDE if args.quick else STRIDE), dict(_clean(TEST)), noisy(TEST, seed=1)
    begun, out = time.perf_counter(), training.Run(args)
    network = models.unet(classes=3, width=16, levels=2)
    table = jconv.summary(network, (-1, CROP, CROP, 3))
    print(table, f"\n\n{len(pieces)} pieces of {len(TRAIN)} photographs to train on, {len(TEST)} to test on", flush=True)
    out.note(network="unet", parameters=table.parameters, noise=NOISE, pieces=len(pieces))
    out.note(train_photographs=TRAIN, test_photographs=TEST)

    def denoised(params, x):
        return x - network.apply(params, {}, x - 0.5)[0]

    def loss(params, state, batch, key):
        turn, draw = jax.random.split(key)
        x = augment(turn, batch.astype(jnp.float32) / 255)
        return jnp.mean((denoised(params, x + NOISE * jax.random.normal(draw, x.shape)) - x) ** 2), state

    apply: Callable = jax.jit(denoised)

    def outputs(params) -> dict[str, np.ndarray]:
        return {name: np.asarray(apply(params, image[None])[0]) for name, image in inputs.items()}

    def evaluate(trained: training.TrainState):
        found = outputs(trained.params)
        errors = [np.mean((found[name] - truth) ** 2) for name, truth in truths.items()]
        ratios = [psnr(found[name], truth) for name, truth in truths.items()]
        return {"test_loss": np.mean(errors), "test_psnr": np.mean(ratios)}

    schedule = training.warmup_cosine(args.learning_rate, training.num_steps(args, len(pieces)))
    optimizer = optax.adam(schedule)
    start = training.init(network, (-1, CROP, CROP, 3), optimizer, args.seed)
    trained, rows = out.fit(start, training.make_step(loss, optimizer), pieces, evaluate)

    width = best_width(TRAIN)
    stages = {
        "noisy": inputs,
        f"Gaussian filter, {width:.1f}": {name: gaussian(image, width) for name, image in inputs.items()},
        "U-Net": outputs(trained.params),
        "original": truths,
    }
    files.save_params(args.out / "params.safetensors", trained.params, {"network": "unet", "noise": str(NOISE)})
    out.save_figure("learning_curves.png", plot.learning_curves(rows, title="Mean squared error, and PSNR in decibels"))
    out.save_figure("before_and_after.png", before_and_after(stages))
    ratios = {
        stage: {name: round(psnr(images[name], truths[name]), 3) for name in TEST}
        for stage, images in stages.items()
        if stage != "original"
    }
    out.note(psnr=ratios, gaussian_width=width, seconds=round(time.perf_counter() - begun, 1))
    print("\nPSNR in decibels:")
    for stage, of in ratios.items():
        print(f"  {stage:>20}: {', '.join(f'{name} {ratio:.2f}' for name, ratio in of.items())}")
    print(f"wrote to {args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}")


def parser() -> argparse.ArgumentParser:
    return training.parser(
        "A U-Net learns to take Gaussian noise out of photographs.",
        out="runs/denoise",
        epochs={"": 8, "--quick": 1},
        batch_size=8,
        learning_rate={"": 0.002},
        quick="an eighth of the pieces and one epoch, to see that all works",
        epilog="The photographs come with scikit-image and scikit-learn, whose wheels have them in them: "
        f"{', '.join(TRAIN)} to train on, {' and '.join(TEST)} to test on. The baseline is a Gaussian filter.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    return training.main(run, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
