"""A training script as small as one can be, for tests/test_training.py: a line is fitted, twice, in a second or so."""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import checkpoints
import files
import jax
import numpy as np
import optax
import training
from jax import numpy as jnp

from jconv.layers import BatchNorm, Dense, Sequential


def run(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(args.data_seed)
    x = rng.normal(size=(24, 3)).astype(np.float32)
    data = {"x": x, "y": x.sum(1, keepdims=True)}
    network, optimizer, step, error = parts(args.width, args.learning_rate, training.num_steps(args, 24))
    out, trained = training.Run(args), {}
    for number, name in enumerate(("first", "second")):
        start = training.init(network, (-1, 3), optimizer, args.seed + number)
        evaluate = lambda train: {"test_loss": error(train.params, train.state, data)}
        end, _ = out.fit(start, step, data, evaluate, name=name, seed=args.seed + number)
        trained[name] = {"params": end.params, "state": end.state}
    files.save_params(args.out / "params.safetensors", trained, {})


@functools.cache  # what is compiled takes most of the time, so runs in one process have it in common
def parts(width: int, learning_rate: float, steps: int) -> tuple:
    network = Sequential(Dense(width), BatchNorm(), Dense(1))
    optimizer = optax.adam(training.warmup_cosine(learning_rate, steps))

    def loss(params, state, batch, key):
        x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
        y, state = network.apply(params, state, x, train=True)
        return jnp.mean((y - batch["y"]) ** 2), state

    @jax.jit
    def error(params, state, data):
        return jnp.mean((network.apply(params, state, data["x"])[0] - data["y"]) ** 2)

    return network, optimizer, training.make_step(loss, optimizer), error


def parser() -> argparse.ArgumentParser:
    made = training.parser(
        "Fits a line.",
        out="runs/small",
        epochs={"": 6, "--quick": 2},
        batch_size=6,
        learning_rate={"": 0.05},
        quick="two epochs",
    )
    made.add_argument("--width", type=int, default=2)
    made.add_argument("--data-seed", type=int, default=0)
    return made


def die_at_file_event(number: int, folder: str) -> None:
    """SIGKILL to itself when Python does something to a file in the folder for that many-th time."""
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and folder in str(arguments[0]):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def wait_at_first_checkpoint(go: Path) -> None:
    """Once the first checkpoint has its name, waits for a file."""

    def hook(event: str, arguments: tuple) -> None:
        if event == "os.rename" and Path(arguments[1]).name == "00000002":  # so that of step 1 is there
            while not go.exists():
                time.sleep(0.01)

    sys.addaudithook(hook)


def fork_for_each_line() -> None:
    """Returns in a process of its own for each line of stdin, which says its arguments, environment and stderr.

    What a process imports takes most of its time, so all of them have it from this one, which does nothing else: there
    is no thread in it and no device yet. It answers with the number of each process, and then with its exit code.
    """
    checkpoints._orbax()  # which is imported when it is needed
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            for number, path in ((0, os.devnull), (1, os.devnull), (2, order["stderr"])):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
            sys.argv[1:] = order["argv"]
            os.environ.update(order["environment"])
            return
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


if __name__ == "__main__":
    if sys.argv[1:] == ["--fork"]:
        fork_for_each_line()
    if "KEEP_COMPILED" in os.environ:  # in the folder of JAX_COMPILATION_CACHE_DIR
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if "WAIT_FOR" in os.environ:
        wait_at_first_checkpoint(Path(os.environ["WAIT_FOR"]))
    if "DIE_AT" in os.environ:
        die_at_file_event(int(os.environ["DIE_AT"]), os.environ["DIE_IN"])
    if "FILE_LIMIT" in os.environ:  # bytes that a file may have
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["FILE_LIMIT"]), resource.RLIM_INFINITY))
    sys.exit(training.main(run, parser()))
