"""What the training scripts share: what stops a training, in whatever way, loses nothing of it."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import checkpoints
import files
import jax
import numpy as np
import optax
import orbax.checkpoint
import pytest
import training
from jax import numpy as jnp

import jconv
from jconv.layers import Dense

from . import small_training

pytestmark = pytest.mark.standard_modes  # which scripts run in
ROOT = Path(__file__).parent.parent
LONG = 1800  # seconds: no process takes as long, on a machine that is busy either
STEPS = 24  # of each of the two trainings of small_training.py: 6 epochs of 4


def small(out: Path, *options: object) -> int:
    """Runs small_training.py here."""
    return training.main(small_training.run, small_training.parser(), [str(word) for word in ("--out", out, *options)])


class Process:
    """A process of small_training.py, forked from one that has all it imports."""

    def __init__(self, forker: subprocess.Popen, errors: Path, argv: list[str], environment: dict[str, str]):
        self.answers, self.errors, self.returncode = forker.stdout, errors, None
        self.answers_in = select.poll()
        self.answers_in.register(self.answers, select.POLLIN)
        order = {"argv": argv, "environment": environment, "stderr": str(errors)}
        forker.stdin.write(json.dumps(order).encode() + b"\n")
        self.pid = int(self.answers.readline())

    def poll(self, timeout: float = 0) -> int | None:
        """The exit code, once it has ended."""
        if self.returncode is None and self.answers_in.poll(1000 * timeout):
            self.returncode = int(self.answers.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self) -> str:
        """Waits for its end: what it wrote to stderr."""
        if self.poll(LONG) is None:
            self.send_signal(signal.SIGKILL)
            self.poll(LONG)
            pytest.fail(f"it was still running after {LONG} seconds")
        return self.errors.read_text()


@pytest.fixture(scope="module")
def start_small(tmp_path_factory):
    """A function that runs small_training.py as a process of its own, one at a time.

    They have what the undisturbed one compiled, and keep nothing, lest one is killed while it does.
    """
    folder, numbers = tmp_path_factory.mktemp("processes"), itertools.count()
    environment = {
        "PYTHONPATH": os.pathsep.join((str(ROOT / "examples"), str(ROOT))),
        "OPENBLAS_NUM_THREADS": "1",  # or it starts threads when it is imported
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9",
    }
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(ROOT / "tests/small_training.py"), "--fork"],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as forker:

        def start(out: Path, *options: str, **environment: str) -> Process:
            return Process(forker, folder / str(next(numbers)), ["--out", str(out), *options], environment)

        yield start
        forker.stdin.close()


def metrics(out: Path) -> list[dict]:
    """The rows, without what depends on the clock."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, start_small):
    """The folder of a run that nothing happens to."""
    out = tmp_path_factory.mktemp("undisturbed")
    process = start_small(out, KEEP_COMPILED="yes")
    errors = process.communicate()
    assert process.returncode == 0, errors
    return out


def assert_same(out: Path, undisturbed: Path) -> None:
    """Parameters bit for bit, and each row of the metrics once."""
    assert (out / "params.safetensors").read_bytes() == (undisturbed / "params.safetensors").read_bytes()
    assert metrics(out) == metrics(undisturbed)


@pytest.fixture
def half(tmp_path, undisturbed):
    """A function that gives the folder of a run of the first training alone, as if the rest had been stopped."""

    def make() -> Path:
        shutil.copytree(undisturbed, tmp_path / "half")
        shutil.rmtree(tmp_path / "half/checkpoints/second")
        (tmp_path / "half/params.safetensors").unlink()
        return tmp_path / "half"

    return make()


@pytest.fixture
def fresh():
    """For a test that changes what a training is made of."""
    small_training.parts.cache_clear()
    yield
    small_training.parts.cache_clear()


# The loop ------------------------------------------------------------------------------------------------
def test_fit_is_this_loop(tmp_path):
    """The same in a few lines: every example once an epoch, a key for each step, the mean loss of each epoch."""
    x = np.random.default_rng(1).normal(size=(10, 3)).astype(np.float32)
    network, optimizer, seen = Dense(1), optax.sgd(0.1), []

    def loss(params, state, batch, key):
        y, state = network.apply(params, state, batch + jax.random.normal(key, batch.shape))
        return jnp.mean(y**2), state

    args = training.parser("", out="", epochs={"": 3}, batch_size=5, learning_rate={"": 0.1}, quick="").parse_args(
        ["--epochs", "3", "--out", str(tmp_path)]
    )
    args.script = "test"
    start = training.init(network, (-1, 3), optimizer, 7)
    params = jax.tree.map(np.asarray, start.params)
    evaluate = lambda train: seen.append(jax.tree.map(np.asarray, train.params)) or {"test_loss": jnp.float32(0.5)}
    end, rows = training.Run(args).fit(start, training.make_step(loss, optimizer), x, evaluate, seed=7)

    means = []
    for epoch in range(3):
        order = np.random.default_rng([7, epoch]).permutation(10)
        losses = []
        for i in range(2):
            key = jax.random.fold_in(jax.random.key(7), 2 * epoch + i)
            (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params, {}, x[order[5 * i : 5 * i + 5]], key)
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
            losses.append(float(value))
        means.append(np.mean(losses))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), seen[epoch], params)
    jax.tree.map(np.testing.assert_array_equal, end.params, seen[-1])
    assert not np.allclose(end.params["kernel"], start.params["kernel"])  # which is still there
    np.testing.assert_allclose([row["train_loss"] for row in rows], means, rtol=1e-5)
    assert [(row["step"], row["epoch"], row["test_loss"]) for row in rows] == [(2, 1, 0.5), (4, 2, 0.5), (6, 3, 0.5)]
    assert list(rows[0]) == ["step", "epoch", "train_loss", "test_loss", "images_per_second"]
    assert all(row["images_per_second"] > 0 for row in rows)


def test_schedule():
    rates = [float(training.warmup_cosine(0.4, 100)(step)) for step in range(101)]
    np.testing.assert_allclose(rates[:6], 0.4 * np.arange(6) / 5, rtol=1e-6)
    np.testing.assert_allclose(rates[5:], 0.2 * (1 + np.cos(np.pi * np.arange(96) / 95)), atol=1e-7)
    assert float(training.warmup_cosine(0.4, 1)(0)) == 0.0  # a single step, too, has a schedule


def test_cast_leaves_integers():
    tree = training.cast({"a": jnp.ones(2), "b": jnp.ones(2, jnp.int32)}, "bfloat16")
    assert (tree["a"].dtype, tree["b"].dtype) == (jnp.bfloat16, jnp.int32)


def test_defaults_hold_under_conditions(capsys):
    seen = []
    made = lambda: training.parser(
        "", out="", epochs={"": 9, "--resume": 4, "--quick": 1}, batch_size=5, learning_rate={"--seed 0": 0.1, "--seed 1": 0.2},
        quick="",
    )  # fmt: skip
    for argv in ([], ["--resume"], ["--quick", "--resume"], ["--seed", "1", "--epochs", "3"]):
        assert training.main(lambda args: seen.append(args), made(), argv) == 0
    assert [(args.epochs, args.learning_rate) for args in seen] == [(9, 0.1), (4, 0.1), (1, 0.1), (3, 0.2)]
    with pytest.raises(SystemExit):
        training.main(lambda args: seen.append(args), made(), ["--help"])
    assert "(default: 9, 4 with --resume, 1 with --quick)" in " ".join(capsys.readouterr().out.split())


# Killed --------------------------------------------------------------------------------------------------
def test_killed_at_random_moments(tmp_path, undisturbed, start_small):
    """SIGKILL a dozen times, most of them while a checkpoint is being written, and --resume after each."""
    out, rng, unfinished, reached = tmp_path / "out", random.Random(20), 0, []
    options = ("--resume", "--checkpoint-every", "1")
    for kill in range(12):
        if kill % 3:  # within Python's part of writing: at a random one of its operations on files
            process = start_small(out, *options, DIE_AT=str(rng.randrange(5, 220)), DIE_IN=str(out))
        else:  # at a random time, of which the next checkpoint takes most
            process = start_small(out, *options)
            seen, new = set(out.glob("checkpoints/*/0*")), []
            while len(new) < 2 and process.poll() is None:
                if set(out.glob("checkpoints/*/0*")) - seen:
                    seen |= set(out.glob("checkpoints/*/0*"))
                    new.append(time.perf_counter())
            time.sleep(rng.uniform(0, 1.2) * (new[-1] - new[0]) if new else 0)
            process.send_signal(signal.SIGKILL)
        errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        unfinished += bool(list(out.glob("checkpoints/*/unfinished*")))
        reached.append([max(checkpoints.steps(out / "checkpoints" / name), default=0) for name in ("first", "second")])
    assert unfinished >= 3, "hardly any of them fell into saving"
    assert reached == sorted(reached), "a step that was saved was lost"
    assert reached[0] < reached[-1]
    process = start_small(out, *options)
    errors = process.communicate()
    assert process.returncode == 0, errors
    assert_same(out, undisturbed)
    assert not list(out.rglob("*.tmp"))
    assert not list(out.rglob("unfinished*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_and_save(tmp_path, undisturbed, start_small, number):
    """In the middle of the training, which until then waits with its second checkpoint, however late the signal is."""
    process = start_small(tmp_path, "--checkpoint-every", "1", WAIT_FOR=str(tmp_path / "go"))
    while not list(tmp_path.glob("checkpoints/first/0*")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    (tmp_path / "go").touch()
    errors = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    (step,) = checkpoints.steps(tmp_path / "checkpoints/first")[-1:]
    assert f"first: stopped after step {step} of {STEPS}, which is saved; to go on: python" in errors
    assert errors.rstrip().endswith("--checkpoint-every 1 --resume")
    assert small(tmp_path, "--resume") == 0
    assert_same(tmp_path, undisturbed)
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)


def test_signals_before_and_after_training(monkeypatch, capsys):
    assert training.main(lambda args: signal.raise_signal(signal.SIGINT), small_training.parser(), []) == 130
    assert "--resume goes on from the last checkpoint" in capsys.readouterr().err
    with training._Signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)  # someone does not want to wait


# Damaged -------------------------------------------------------------------------------------------------
def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


DAMAGES = {
    "truncated": (lambda folder: os.truncate(largest(folder), 10), "is changed"),
    "flipped": (lambda folder: flip(largest(folder)), "is changed"),
    "flipped info": (lambda folder: flip(folder / "info/metadata"), "info/metadata is changed"),
    "missing": (lambda folder: (folder / "state/manifest.ocdbt").unlink(), "state/manifest.ocdbt is missing"),
    "no arrays": (lambda folder: shutil.rmtree(folder / "state"), "is missing"),
    "no sums": (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
    "sums": (lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff\n"), "SHA256SUMS is changed"),
    "empty": (lambda folder: [shutil.rmtree(folder), folder.mkdir()], "SHA256SUMS is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint(tmp_path, capsys, damage):
    tree = {"a": np.random.default_rng(0).normal(size=(30, 30)), "b": np.ones(3, np.float32)}
    checkpoints.save(tmp_path, 1, tree, {"losses": [0.5]})
    checkpoints.save(tmp_path, 2, jax.tree.map(np.zeros_like, tree), {"losses": []})
    spoil, why = DAMAGES[damage]
    spoil(tmp_path / "00000002")
    found = checkpoints.restore(tmp_path, tree, lambda info: None)
    assert found is not None
    assert (found.step, found.info["losses"]) == (1, [0.5])
    jax.tree.map(np.testing.assert_array_equal, found.state, tree)
    message = capsys.readouterr().err
    assert "the checkpoint of step 2 is damaged" in message
    assert why in message
    assert "it is now 00000002.damaged, and the training goes on from that of step 1" in message
    assert checkpoints.restore(tmp_path, tree, lambda info: None).step == 1  # and the next time all is well
    assert not capsys.readouterr().err


def test_damaged_newest_checkpoint(half, undisturbed, capsys):
    folder = half / "checkpoints/first"
    flip(largest(folder / f"{STEPS:08}"))
    assert small(half, "--resume") == 0
    written = capsys.readouterr()
    assert f"the checkpoint of step {STEPS} is damaged" in written.err
    assert f"first: going on after step {STEPS - 4} of {STEPS}" in written.out
    assert_same(half, undisturbed)
    assert checkpoints.steps(folder) == [STEPS - 8, STEPS - 4, STEPS]


def test_every_checkpoint_is_damaged(half, capsys):
    for folder in half.glob("checkpoints/first/0*"):
        flip(largest(folder))
    assert small(half, "--resume") == 2
    message = capsys.readouterr().err
    assert "--resume: every checkpoint in" in message
    assert message.count("is changed") == 3
    assert len(checkpoints.steps(half / "checkpoints/first")) == 3  # they are left as they are


def test_orbax_does_not_notice_every_changed_byte(tmp_path):
    """Why there are sums: a digit of the info may change, and orbax reads another number."""
    checkpoints.save(tmp_path, 1, {"a": jnp.ones(3)}, {"losses": [0.125]})
    path = tmp_path / "00000001/info/metadata"
    path.write_text(path.read_text().replace("0.125", "0.225"))
    args = orbax.checkpoint.args.Composite(info=orbax.checkpoint.args.JsonRestore())
    reader = orbax.checkpoint.Checkpointer(orbax.checkpoint.CompositeCheckpointHandler())
    assert reader.restore(tmp_path / "00000001", args).info["losses"] == [0.225]
    with pytest.raises(files.InputError, match=r"step 1: info/metadata is changed"):
        checkpoints.restore(tmp_path, {"a": jnp.ones(3)}, lambda info: None)


def test_checkpoints_keep_every_dtype_and_the_last_three(tmp_path):
    tree = {
        "half": jnp.arange(5, dtype=jnp.bfloat16) / 3,
        "single": (jnp.float32(jnp.pi), [jnp.array([jnp.nan, -0.0, jnp.inf])]),
        "count": jnp.int32(7),
        "key": jax.random.key_data(jax.random.key(3)),
        "none": {},
    }
    for step in range(5):
        checkpoints.save(tmp_path, step, tree, {"step": step})
    assert checkpoints.steps(tmp_path) == [2, 3, 4]
    found = checkpoints.restore(tmp_path, tree, lambda info: None)
    assert found is not None
    assert (found.step, found.info["step"]) == (4, 4)
    assert jax.tree.structure(found.state) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(found.state), jax.tree.leaves(tree), strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == np.asarray(b).tobytes()


# A full disk ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("limit", "width"), [(1500, 2), (20000, 4000)], ids=["Python writes", "tensorstore writes"])
def test_no_file_may_be_longer(tmp_path, start_small, limit, width):
    """The system refuses to write on, in the middle of a file; when it does not any more, --resume goes on."""
    options = ("--width", width, "--quick")
    assert small(tmp_path / "whole", *options) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    shutil.rmtree(tmp_path / "out/checkpoints/second")
    (tmp_path / "out/params.safetensors").unlink()
    before = contents(tmp_path / "out/checkpoints")
    process = start_small(tmp_path / "out", "--resume", *map(str, options), FILE_LIMIT=str(limit))
    errors = process.communicate()
    assert process.returncode == 2
    assert "the checkpoint of step 4 cannot be saved (File too large); there is no checkpoint before it" in errors
    assert "Traceback" not in errors
    assert errors.count(" error: ") == 1
    assert contents(tmp_path / "out/checkpoints") == before
    assert small(tmp_path / "out", "--resume", *options) == 0
    assert_same(tmp_path / "out", tmp_path / "whole")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def file_limit(size: int):
    """Files here may have that many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [60, 90, 110, 200, 300, 500, 900, 1400, 5000, 9000, 20000, 50000, 100000, 200000])
def test_whichever_file_cannot_be_written(tmp_path, capfd, limit):
    """Nobody writes on after the error, says something about it elsewhere, or has left anything behind."""
    rng = np.random.default_rng(0)
    tree = {f"layer {i}": {"kernel": rng.normal(size=(5, 1 + 150 * i)), "bias": rng.normal(size=9)} for i in range(20)}
    checkpoints.save(tmp_path, 1, tree, {"losses": [0.5]})
    before, threads = contents(tmp_path), set(threading.enumerate())
    with file_limit(limit), pytest.raises(OSError, match=r"step 2 cannot be saved \(File too large\); .* step 1\."):
        checkpoints.save(tmp_path, 2, tree, {"losses": list(range(400))})
    assert set(threading.enumerate()) <= threads
    assert contents(tmp_path) == before
    assert capfd.readouterr() == ("", "")
    checkpoints.save(tmp_path, 2, tree, {"losses": []})
    assert checkpoints.steps(tmp_path) == [1, 2]


def test_what_cannot_be_deleted_either(tmp_path, monkeypatch):
    """The error is still that of saving, and what is left is deleted before the next one is saved."""

    def refuse(*args, **kwargs):
        if not kwargs.get("ignore_errors"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(checkpoints, "write_atomically", refuse)
        broken.setattr(shutil, "rmtree", refuse)
        with pytest.raises(OSError, match=r"step 1 cannot be saved \(Input/output error\); there is no checkpoint"):
            checkpoints.save(tmp_path, 1, {"a": np.ones(3)}, {})
    assert list(tmp_path.glob("unfinished*"))
    checkpoints.save(tmp_path, 1, {"a": np.ones(3)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]


@pytest.mark.parametrize("write", [files.write_atomically, jconv._files.write_atomically])
def test_an_error_of_writing_names_the_file(tmp_path, write):
    with file_limit(10), pytest.raises(OSError, match=re.escape(str(tmp_path / "file"))):
        write(tmp_path / "file", bytes(11))
    assert not list(tmp_path.iterdir())


def test_disk_becomes_full(half, undisturbed, capsys, monkeypatch):
    """The sums, the last file of a checkpoint, find no place; the run ends, and goes on when there is place again."""
    write = files.write_atomically

    def full(path, content):
        if path.name == checkpoints.SUMS and len(checkpoints.steps(path.parents[1])) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    monkeypatch.setattr(checkpoints, "write_atomically", full)
    assert small(half, "--resume") == 2
    message = capsys.readouterr().err
    assert "the checkpoint of step 12 cannot be saved (No space left on device)" in message
    assert "the last good checkpoint is that of step 8" in message
    assert checkpoints.steps(half / "checkpoints/second") == [4, 8]
    assert not list(half.rglob("unfinished*"))
    monkeypatch.undo()
    assert small(half, "--resume") == 0
    assert_same(half, undisturbed)


# Divergence ----------------------------------------------------------------------------------------------
def test_divergence_names_the_step_and_keeps_what_is_good(half, undisturbed, capsys):
    """A rate that is far too large for the second training; with the old one it goes on as if nothing had been."""
    assert small(half, "--resume", "--learning-rate", "1e9", "--checkpoint-every", "1") == 2
    message = capsys.readouterr().err
    assert "--learning-rate: got 1000000000.0, with which " in message
    assert "try a smaller one" in message
    step = checkpoints.steps(half / "checkpoints/second")[-1]
    assert f"at step {step + 1};" in message
    assert f"the last good checkpoint is that of step {step}" in message
    arrays = small_arrays(half / "checkpoints/second" / f"{step:08}")
    assert all(np.isfinite(array).all() for array in arrays)


def small_arrays(path: Path) -> list[np.ndarray]:
    """The arrays of a checkpoint, read by orbax alone."""
    reader = orbax.checkpoint.Checkpointer(orbax.checkpoint.CompositeCheckpointHandler())
    state = orbax.checkpoint.args.StandardRestore()
    return jax.tree.leaves(reader.restore(path, orbax.checkpoint.args.Composite(state=state)).state)


def test_loss_that_is_no_number(tmp_path, capsys, monkeypatch, fresh):
    """At the one step that has a bad example, however many steps the device is ahead."""
    make = training.make_step

    def spoiled(loss, optimizer):
        def bad(params, state, batch, key):
            value, state = loss(params, state, batch, key)
            return jnp.where(jnp.all(key_of_step == jax.random.key_data(key)), jnp.nan, value), state

        return make(bad, optimizer)

    key_of_step = jax.random.key_data(jax.random.fold_in(jax.random.key(0), 5))
    monkeypatch.setattr(training, "make_step", spoiled)
    assert small(tmp_path) == 2
    message = capsys.readouterr().err
    assert "with which loss is nan at step 6;" in message
    assert "the last good checkpoint is that of step 4." in message
    assert [row["step"] for row in metrics(tmp_path)] == [4]


# Other settings ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--batch-size", 4], "--batch-size: got 4, the checkpoint has 6."),
        (["--seed", 3], "--seed: got 3, the checkpoint has 0."),
        (["--epochs", 3], "--epochs: got 3, the checkpoint has 6."),
        (["--width", 3], "--width: got 3, the checkpoint has 2."),
        (["--data-seed", 1], "the training data: got 24 examples, SHA-256 "),
        (["--batch-size", 4, "--seed", 3], "--batch-size: got 4, the checkpoint has 6; --seed: got 3, the checkpoint"),
    ],
)
def test_other_settings(half, capsys, options, expected):
    assert small(half, "--resume", *options) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert "Accepted are the same options, another --out, or no --resume" in message


def test_another_network_of_the_same_options(half, capsys, monkeypatch, fresh):
    monkeypatch.setattr(small_training, "Dense", lambda features: Dense(features, use_bias=features > 1))
    assert small(half, "--resume") == 2
    message = capsys.readouterr().err
    assert "another network or optimizer: missing train/moments/0/mu/Dense_1/bias" in message


def test_resume_with_nothing_to_resume(tmp_path, undisturbed, capsys):
    assert small(tmp_path, "--resume", "--epochs", 6) == 0
    assert f"--resume: there is no checkpoint in {tmp_path}/checkpoints, so this starts anew" in capsys.readouterr().out
    assert_same(tmp_path, undisturbed)


def test_start_anew_loses_nothing(half, undisturbed, capsys):
    """The checkpoints of the run before are set aside, and give its results again when they are put back."""
    assert small(half, "--seed", 5) == 0
    assert "checkpoints is of an earlier run, and is now checkpoints.1" in capsys.readouterr().out
    assert small(half, "--seed", 6) == 0
    assert "is now checkpoints.2" in capsys.readouterr().out
    shutil.rmtree(half / "checkpoints")
    (half / "checkpoints.1").rename(half / "checkpoints")
    assert small(half, "--resume") == 0
    assert_same(half, undisturbed)


def test_learning_rate_may_change(half, capsys):
    assert small(half, "--resume", "--learning-rate", "0.01") == 0
    assert "--learning-rate: got 0.01, the checkpoint has 0.05; going on with 0.01" in capsys.readouterr().out
    assert json.loads((half / "config.json").read_text())["learning_rate"] == 0.01
