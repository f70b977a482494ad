"""The examples' loop over several processes: the losses of one, also where it was killed and goes on in another number."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "spread_training.py"
pytestmark = pytest.mark.skipif(os.environ.get("JCONV_TEST_PLATFORM") == "gpu", reason="it runs on CPUs")


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def begin(out, network, processes, devices, mesh, *options):
    """Processes that train together, each with so many devices."""
    flags = os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
    }
    where = [f"--mesh={mesh}"] if mesh else []
    if processes > 1:
        where += [f"--processes={processes}", f"--coordinator=localhost:{free_port()}"]
    command = [sys.executable, SCRIPT, "--network", network, "--out", out, "--checkpoint-every", "1", *options]
    return [
        subprocess.Popen(
            [*command, *where, *([f"--process={i}"] if processes > 1 else [])],
            env=flags, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(processes)
    ]  # fmt: skip


def finish(running):
    for each in running:
        output, _ = each.communicate(timeout=300)
        assert each.returncode == 0, output


def losses(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows for name in ("train_loss", "test_loss")]


@pytest.mark.parametrize(
    ("network", "first", "second"),
    [
        ("lenet", (2, 1, "data=2"), (1, 4, "data=4")),
        ("unet", (2, 1, "space=2"), (1, 4, "data=2,space=2")),
    ],
)
def test_killed_and_resumed_in_another_number(network, first, second, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    finish(begin(alone, network, 1, 1, ""))
    running = begin(together, network, *first, "--stall=3")
    deadline = time.monotonic() + 240
    while not (together / "checkpoints" / "00000003").exists():
        assert time.monotonic() < deadline
        assert all(each.poll() is None for each in running), running[0].communicate()[0]
        time.sleep(0.1)
    for each in running:
        each.kill()
        each.communicate()
    resumed = begin(together, network, *second, "--resume")
    finish(resumed)
    assert losses(together) == pytest.approx(losses(alone), abs=1e-6)
    assert sorted(path.name for path in together.iterdir()) == ["checkpoints", "config.json", "metrics.jsonl"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mesh=data=3"], "--mesh: got data=3,space=1, for 3 devices; here are 2. A CPU plays several with"),
        (["--mesh=data=two"], "accepted are sizes of data and space, as data=4,space=2"),
        (["--mesh=data=2", "--batch-size=3"], "--batch-size: got 3, accepted is a multiple of 2"),
        (["--processes=2"], "--mesh: accepted with --processes are the sizes of a mesh"),
        (["--processes=2", "--process=2"], "--process: got 2, accepted is 0 to 1"),
    ],
)
def test_what_cannot_be_spread_is_told(options, message, tmp_path):
    (process,) = begin(tmp_path, "lenet", 1, 2, "", *options)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert message in output
