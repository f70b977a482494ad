"""What must be set before jax and Keras start: eight CPU devices, for the sharding tests, and Keras on JAX.

With JCONV_TEST_PLATFORM=gpu in the environment (`make test-gpu`) the tests run on a GPU. There products are asked for in
full precision, since by default they are of numbers rounded to 10 bits (tf32); and what needs two devices is skipped on one.

The tests run in JAX's strict modes: no dtype and no rank is promoted without being told. What uses a library that takes
the standard modes for granted, or is about them, is marked `standard_modes`; doctests and scripts are in these too.
What is marked `checked` runs with JAX's own checks and without not-a-number, and with JCONV_TEST_MODE=checks in the
environment everything does; what makes not-a-number on purpose is marked `non_finite`.

What was measured on this machine is not read.

And Ctrl-C, which a shell that runs the tests in the background has them ignore, and the scripts that they start too.
"""

import gc
import os
import random
import signal
import sys
import threading
from importlib.metadata import version

# The doctests' collection would leave half of the one among the modules where torch is missing, and put the other in place.
collect_ignore = ["peer_plugin.py"]

ON_GPU = os.environ.get("JCONV_TEST_PLATFORM", "") == "gpu"
# Compilation takes most of the time of the tests, and with these options half of it or less. What XLA_FLAGS says prevails.
flags = ["--xla_cpu_parallel_codegen_split_count=1"]
if not ON_GPU:
    flags += ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # later versions do not know this one
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")])
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ["JCONV_CACHE"] = os.path.join(os.devnull, "tuned.json")
gc.set_threshold(10_000, 100, 100)  # as often as by default, walking all that jax keeps takes a twentieth of the time
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax  # noqa: E402
import pytest  # noqa: E402

STRICT = {"jax_numpy_dtype_promotion": "strict", "jax_numpy_rank_promotion": "raise"}
CHECKED = {"jax_enable_checks": True, "jax_debug_nans": True}


@pytest.fixture(autouse=True)
def modes(request):
    """JAX's modes for one test: strict ones, but for those marked otherwise, and with checks where asked for."""
    wanted = {} if request.node.get_closest_marker("standard_modes") else dict(STRICT)
    if ON_GPU and not request.node.get_closest_marker("default_precision"):
        wanted["jax_default_matmul_precision"] = "highest"
    if request.node.get_closest_marker("checked") or os.environ.get("JCONV_TEST_MODE") == "checks":
        wanted |= CHECKED
        if request.node.get_closest_marker("non_finite"):
            del wanted["jax_debug_nans"]
    before = {name: getattr(jax.config, name) for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(autouse=True)
def devices(request):
    """Skips what needs more devices than there are."""
    found = jax.devices()
    for name, count in (("two_devices", 2), ("eight_devices", 8)):
        if request.node.get_closest_marker(name) and len(found) < count:
            pytest.skip(f"needs {count} devices, here are {len(found)}: {found[0].device_kind}")


@pytest.fixture(autouse=True)
def seeds():
    """What PyTorch and Keras draw by themselves is the same in every order of the tests."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    if hasattr(sys.modules.get("keras"), "utils"):
        sys.modules["keras"].utils.set_random_seed(0)


def pytest_addoption(parser):
    parser.addoption("--share", type=float, default=1.0, help="run this share of the tests, drawn by the order's seed")


def pytest_collection_modifyitems(config, items):
    seed, share = config.getoption("randomly_seed", None), config.getoption("share")
    if share < 1:
        items[:] = [item for item in items if random.Random(f"{seed} {item.nodeid}").random() < share]


def pytest_terminal_summary(terminalreporter, config):
    """-q leaves out the header, which has the seed of the order."""
    seed, share = config.getoption("randomly_seed", None), config.getoption("share")
    if seed is not None:
        part = f"--share={share} " if share < 1 else ""
        terminalreporter.write_line(f'This order again: ARGS="{part}--randomly-seed={seed}"')
