"""A short training by the examples' loop, for `test_processes.py` to run over devices and processes, and to kill.

With --stall N the process that saves waits for ever once step N is saved.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import checkpoints
import numpy as np
import optax
import training
from jax import numpy as jnp

from jconv import models


def run(args):
    rng = np.random.default_rng(0)
    if args.network == "lenet":
        network, shape, classes = models.lenet5(), (-1, 32, 32, 1), 10
    else:
        network, shape, classes = models.unet(classes=2, width=4, levels=1, batch_norm=True), (-1, 16, 16, 3), 2
    images = rng.standard_normal((24, *shape[1:]), np.float32)
    labels = rng.integers(0, classes, 24) if args.network == "lenet" else (images[..., 0] > 0).astype(np.int32)

    def loss(params, state, batch, key):
        logits, state = network.apply(params, state, batch["images"], train=True, key=key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean(), state

    def evaluate(trained):
        logits, _ = network.apply(trained.params, trained.state, images)
        return {"test_loss": float(jnp.mean(logits**2))}

    save = checkpoints.save

    def stalling(folder, step, *rest):
        save(folder, step, *rest)
        if step == args.stall:
            time.sleep(3600)

    checkpoints.save = stalling
    out = training.Run(args)
    optimizer = optax.sgd(args.learning_rate, momentum=0.9)
    start = training.init(network, shape, optimizer, args.seed)
    out.fit(start, training.make_step(loss, optimizer), {"images": images, "labels": labels}, evaluate)


if __name__ == "__main__":
    made = training.parser(
        __doc__, out="runs/spread", epochs={"": 2}, batch_size=8, learning_rate={"": 0.01}, quick="the same"
    )
    made.add_argument("--network", choices=("lenet", "unet"), default="lenet")
    made.add_argument("--stall", type=int, default=0)
    training.NOT_OF_THE_TRAINING.add("stall")
    sys.exit(training.main(run, made))
