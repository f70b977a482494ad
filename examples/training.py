"""What the training scripts share: their options, the loop, and how it stops and goes on.

A script says what its data, its network, its loss and its pictures are:

    def run(args):
        out = training.Run(args)                       # the folder of the results; config.json
        start = training.init(network, input_shape, optimizer, args.seed)
        step = training.make_step(loss, optimizer)     # loss(params, state, batch, key) -> (loss, state)
        trained, rows = out.fit(start, step, data, evaluate)

    if __name__ == "__main__":
        sys.exit(training.main(run, parser()))

The order of the examples and every random number are functions of the seed and the step alone, so a training that was
stopped and resumed gives the same numbers, bit for bit on one device, as one that was not. Over several devices and
processes (`devices.py`) sums are in another order; how many there are may change when a training is resumed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import inspect
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import checkpoints
import devices
import files
import jax
import numpy as np
import optax
from files import InputError
from jax import numpy as jnp
from tqdm import tqdm

from jconv.layers import Layer

AHEAD = 8  # steps that are handed to the device before the loss of the first of them is read
# Options that a resumed run may have otherwise; of "data", the content is compared.
NOT_OF_THE_TRAINING = {"out", "resume", "checkpoint_every", "data", "predict", "script", "seeds"}
NOT_OF_THE_TRAINING |= {"mesh", "processes", "process", "coordinator", "saved"}


class Interrupted(Exception):
    """The training was asked to stop, by Ctrl-C or SIGTERM, and has saved everything."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


# Options -------------------------------------------------------------------------------------------------
def _number(kind: type, above: float, name: str) -> Callable:
    def parse(text: str):
        value = kind(text)
        if not above < value < 2**32:
            raise ValueError
        return value

    parse.__name__ = name  # argparse shows it: "invalid positive integer value: '0'"
    return parse


count, rate = _number(int, 0, "positive integer"), _number(float, 0, "positive number")
_seed = _number(int, -1, "non-negative integer")


def parser(
    description: str,
    *,
    out: str,
    epochs: Mapping[str, int],
    batch_size: int,
    learning_rate: Mapping[str, float],
    quick: str,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    """The options of every training script; a script adds its own.

    `epochs` and `learning_rate` are defaults under the options with which they hold, the last one that does:
    `{"": 25, "--data": 10, "--optimizer sgd": 5}`. `quick` says what is trained with --quick.
    """
    made = argparse.ArgumentParser(description=description, epilog=epilog)
    add = made.add_argument
    add("--epochs", type=count, default=epochs, metavar="N", help=f"passes over the training data ({told(epochs)})")
    add("--batch-size", type=count, default=batch_size, metavar="N", help="examples a step (default: %(default)s)")
    add(
        "--learning-rate",
        type=rate,
        default=learning_rate,
        metavar="RATE",
        help=f"the largest: it rises to it, then falls along a cosine to zero ({told(learning_rate)})",
    )
    add("--seed", type=_seed, default=0, metavar="N", help="of everything random (default: %(default)s)")
    add("--out", type=Path, default=Path(out), metavar="DIR", help="folder for results (default: %(default)s)")
    add("--resume", action="store_true", help="go on from the newest checkpoint in --out, with the same options")
    add(
        "--checkpoint-every",
        type=count,
        metavar="N",
        help=f"save after every N steps too, not only after each epoch; the last {checkpoints.KEPT} are kept",
    )
    add("--quick", action="store_true", help=quick)
    devices.add_options(made)
    return made


def told(defaults: Mapping[str, float]) -> str:
    """The defaults under their options, for help."""
    return f"default: {', '.join(f'{value} with {name}' if name else str(value) for name, value in defaults.items())}"


def _holds(condition: str, args: argparse.Namespace) -> bool:
    option, _, value = condition.partition(" ")
    given = getattr(args, option.lstrip("-").replace("-", "_")) if option else True
    return str(given) == value if value else bool(given)


def main(
    run: Callable[[argparse.Namespace], None], made: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> int:
    """Runs a script: the exit code, 2 with a message for what the user can mend, 128 + signal where it was stopped."""
    made.prog = Path(inspect.getfile(run)).name
    args = made.parse_args(argv)
    for name, value in vars(args).items():
        if isinstance(value, Mapping):
            setattr(args, name, next(value[text] for text in reversed(value) if _holds(text, args)))
    args.script = made.prog
    again = [*sys.argv[:1], *(sys.argv[1:] if argv is None else argv)]
    try:
        devices.connect(args)
        with devices.one_writes(args):
            run(args)
    except (InputError, OSError) as error:  # OSError: a full disk, a file that may not be read
        print(f"{made.prog}: error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        resume = [] if "--resume" in again else ["--resume"]
        print(f"\n{stop}; to go on: {shlex.join(['python', *again, *resume])}", file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:
        print(f"\n{made.prog}: stopped; --resume goes on from the last checkpoint, if there is one", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


# Steps ---------------------------------------------------------------------------------------------------
class TrainState(NamedTuple):
    """What training changes."""

    params: Any
    state: Any  # of the layers: running means of BatchNorm and the like
    moments: Any  # of the optimizer


def init(network: Layer, input_shape: Sequence[int], optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    params, state = _init(network, tuple(input_shape), jax.random.key(seed))
    return TrainState(params, state, optimizer.init(params))


@partial(jax.jit, static_argnums=(0, 1))
def _init(network: Layer, input_shape: tuple[int, ...], key: jax.Array) -> tuple[Any, Any]:
    return network.init(key, input_shape)


def make_step(loss: Callable, optimizer: optax.GradientTransformation) -> Any:
    """One step of training as a compiled function.

    `loss(params, state, batch, key)` gives the loss and the new state of the layers; `batch` has the rows of this step
    of every array in `data`, which stays on the device. Over several devices rows is None, and data has no others.
    """

    @partial(jax.jit, donate_argnums=0)
    def step(train: TrainState, data, rows, key):
        batch = data if rows is None else jax.tree.map(lambda array: array[rows], data)
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(train.params, train.state, batch, key)
        updates, moments = optimizer.update(grads, train.moments, train.params)
        return TrainState(optax.apply_updates(train.params, updates), state, moments), value

    return step


def cast(tree: Any, dtype: Any) -> Any:
    """The floats of a tree in another dtype: parameters stay float32, and are cast to be computed with in bfloat16."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def warmup_cosine(learning_rate: float, steps: int) -> optax.Schedule:
    """The rate at each step: linearly up in the first twentieth of them, then along half a cosine down to zero."""
    warmup = max(1, steps // 20)
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, max(steps, warmup + 1))


def num_steps(args: argparse.Namespace, examples: int) -> int:
    """Steps of a whole training; what is left over of an epoch has its turn in another one."""
    if args.batch_size > examples:
        raise InputError(
            f"--batch-size: got {args.batch_size}, accepted is 1 to {examples}, the number of training examples."
        )
    return args.epochs * (examples // args.batch_size)


# The loop ------------------------------------------------------------------------------------------------
class Run:
    """One run of a script: the folder of its results, with config.json, metrics.jsonl and checkpoints in it.

    Without --resume, the checkpoints of an earlier run in the same folder are set aside under another name. They hold
    all that the run gave, its metrics too: renamed back, --resume gives its results again.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.out, self.devices = args, files.prepare_folder(args.out), devices.devices(args)
        self.saved = getattr(args, "saved", args.out)  # where the first of several processes writes
        self.leads = getattr(args, "process", 0) == 0
        self.rows: list[dict[str, Any]] = []
        self.options = json.loads(json.dumps(vars(args), default=str))
        self.config = dict(self.options)
        self.note(jax=jax.__version__, device=jax.devices()[0].device_kind)
        folder = self.saved / "checkpoints"  # one for all processes
        found = folder.is_dir() and any(folder.iterdir())
        if args.resume and not found:
            print(f"--resume: there is no checkpoint in {folder}, so this starts anew")
        elif found and not args.resume and self.leads:
            numbers = (number for number in range(1, sys.maxsize) if not folder.with_suffix(f".{number}").exists())
            aside = folder.rename(folder.with_suffix(f".{next(numbers)}"))
            print(f"{folder} is of an earlier run, and is now {aside.name}; with --resume this would have gone on")
        self.devices.together("folders are prepared")

    def note(self, **facts: Any) -> None:
        """Adds to config.json."""
        self.config.update(facts)
        files.save_json(self.out / "config.json", self.config)

    def save_figure(self, name: str, figure: Any) -> None:
        files.save_figure(self.out / name, figure)

    def fit(
        self,
        start: TrainState,
        step: Any,
        data: Any,
        evaluate: Callable[[TrainState], Mapping[str, Any]],
        *,
        name: str = "",
        seed: int | None = None,
        unit: str = "images",
    ) -> tuple[TrainState, list[dict[str, Any]]]:
        """Trains: the state at the end, and a row of metrics for each epoch.

        Args:
            start: the state before the first step, from `init`.
            step: a jitted function (state, data, rows, key) -> (state, loss), from `make_step`.
            data: a tree of arrays, whose first axes are the training examples.
            evaluate: gives the measures of an epoch, numbers, under their names, such as {"test_loss": 0.1}.
            name: of this training, where a run has several; its rows have it as "fit".
            seed: of the order and of the keys; by default that of the arguments.
            unit: what the training examples are, for the rate at which they are trained on.
        """
        args, several, seed = self.args, self.devices, int(self.args.seed if seed is None else seed)
        size, examples, title = args.batch_size, len(jax.tree.leaves(data)[0]), name or "training"
        total = num_steps(args, examples)
        several.check(size)
        per_epoch = total // args.epochs
        folder = self.saved / "checkpoints" / name
        settings = {option: value for option, value in self.options.items() if option not in NOT_OF_THE_TRAINING}
        content = f"{examples:,} examples, SHA-256 {_sha256(data)[:16]}"
        settings |= {"the script": args.script, "seed": seed, "the training data": content}

        data, key = jax.tree.map(np.asarray if several.mesh else jnp.asarray, data), jax.random.key(seed)
        saved = {"train": start, "key": jax.random.key_data(key)}
        state = several.everywhere(start)  # a copy: the step gives the memory of what it is called with away
        done, losses, rows = 0, [], []  # the losses of this epoch
        found, check = None, partial(_check_same, folder, settings, saved)
        for reads in ("the first process", "the others"):  # the first one puts damaged ones aside
            turn = (reads == "the first process") == self.leads
            found = checkpoints.restore(folder, saved, check) if args.resume and turn else found
            several.together(f"{reads} did read {name}")
        if found is not None:
            key, done = jax.random.wrap_key_data(jnp.array(found.state["key"])), found.step
            state = several.everywhere(found.state["train"])
            losses, rows = found.info["losses"], found.info["rows"]
            print(f"{title}: going on after step {done} of {total}", flush=True)
        before = list(self.rows)
        self._write(before + rows)
        if done == total:
            return several.here(state), rows

        def given(rows: np.ndarray) -> tuple[Any, Any]:
            """What a step has of the data."""
            return (
                (jax.tree.map(lambda array: several.spread(array, rows), data), None) if several.mesh else (data, rows)
            )

        first = given(np.zeros(size, np.int32))
        step = step.lower(state, *first, jax.random.fold_in(key, 0)).compile()  # now, so that no epoch's time has it
        pending, order, clock = [], None, _Clock()
        with _Signals() as stop, _bar(title, done, total) as bar:
            while done < total:
                epoch, position = divmod(done, per_epoch)
                if order is None or position == 0:
                    order, clock = _order(seed, epoch, examples), _Clock()
                batch = order[position * size : (position + 1) * size]
                state, loss = step(state, *given(batch), jax.random.fold_in(key, done))
                pending.append(loss)
                clock.examples += size
                done += 1
                ends, stopped = done % per_epoch == 0, several.agreed(stop.number)
                saves = ends or stopped or (args.checkpoint_every and done % args.checkpoint_every == 0)
                while len(pending) > (0 if saves else AHEAD):  # reading a loss waits for the device
                    losses.append(float(pending.pop(0)))
                    self._check_finite(folder, epoch * per_epoch + len(losses), {"loss": losses[-1]})
                if losses:
                    bar.set_postfix_str(f"loss {losses[-1]:.4f}, {clock.rate():,.0f} {unit}/s", refresh=False)
                bar.update()
                if not saves:
                    continue
                with clock.stopped():
                    here = several.here(state)
                    self._check_finite(folder, done, files.named_leaves(here))
                    if ends:
                        measures = {measure: float(value) for measure, value in evaluate(here).items()}
                        self._check_finite(folder, done, measures)
                        row = {"fit": name} if name else {}
                        row |= {"step": done, "epoch": epoch + 1, "train_loss": float(np.mean(losses)), **measures}
                        losses, rows = [], [*rows, row | {f"{unit}_per_second": round(clock.rate(), 1)}]
                        self._write(before + rows)
                    info = {"losses": losses, "rows": rows, "settings": settings}
                    if self.leads:
                        checkpoints.save(folder, done, {"train": here, "key": jax.random.key_data(key)}, info)
                if stopped:
                    raise Interrupted(f"{title}: stopped after step {done} of {total}, which is saved", stopped)
        return several.here(state), rows

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        files.save_json_lines(self.out / "metrics.jsonl", rows)

    def _check_finite(self, folder: Path, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if not np.isfinite(np.asarray(value)).all():
                what = f"{name} is {value}" if np.ndim(value) == 0 else f"{name} has numbers that are not finite"
                raise InputError(
                    f"--learning-rate: got {self.args.learning_rate}, with which {what} at step {step}; accepted is a "
                    "rate that the training survives, so try a smaller one, with --resume or anew; "
                    f"{checkpoints.last_good(folder)}."
                )


def _check_same(folder: Path, settings: Mapping[str, Any], arrays: Any, info: Mapping[str, Any]) -> None:
    """That a checkpoint is of this training. Only the learning rate may be another one, as a way out of divergence."""
    problems, saved = [], info["settings"]
    for name in settings | saved:
        if settings.get(name) == saved.get(name):
            continue
        difference = f"{_option(name)}: got {settings.get(name)}, the checkpoint has {saved.get(name)}"
        if name == "learning_rate":
            print(f"{difference}; going on with {settings[name]}")
        else:
            problems.append(difference)
    different = files.different_arrays(info["arrays"], files.described(files.named_leaves(arrays)))
    if different and not problems:
        problems.append(f"another network or optimizer: {', '.join(different)}")
    if problems:
        raise InputError(
            f"--resume: {folder} is of another training: {'; '.join(problems)}. Accepted are the same options, another "
            "--out, or no --resume, which sets the checkpoints aside."
        )


def _option(name: str) -> str:
    return name if " " in name else f"--{name.replace('_', '-')}"


def _sha256(data: Any) -> str:
    """Of arrays, with their names, dtypes and shapes."""
    arrays = files.named_leaves(data)
    digest = hashlib.sha256(json.dumps(files.described(arrays)).encode())
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _order(seed: int, epoch: int, examples: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(examples).astype(np.int32)


def _bar(title: str, done: int, total: int) -> Any:
    interval = 0.1 if sys.stderr.isatty() else 5.0  # seconds from one state of it to the next; a log needs few
    return tqdm(total=total, initial=done, unit="step", desc=title, dynamic_ncols=True, mininterval=interval)


class _Clock:
    """How many examples a second, without the time in which it is stopped."""

    def __init__(self):
        self.examples, self.started, self.paused = 0, time.perf_counter(), 0.0

    def rate(self) -> float:
        return self.examples / max((self.paused or time.perf_counter()) - self.started, 1e-9)

    @contextlib.contextmanager
    def stopped(self):
        self.paused = time.perf_counter()
        yield
        self.started, self.paused = self.started + time.perf_counter() - self.paused, 0.0


class _Signals:
    """Notes SIGINT and SIGTERM instead of ending the process; a second one has its usual effect."""

    def __enter__(self) -> _Signals:
        self.number = 0
        self.before: dict[int, Any] = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.number = number
        signal.signal(number, self.before[number])

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
