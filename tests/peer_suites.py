"""The convolution tests of JAX, Flax, Haiku and Equinox, with `jconv.lax` in the place of lax's functions.

    python -m tests.peer_suites --jax PATH --flax PATH --haiku PATH --equinox PATH

Each PATH is a checkout of that project, at the version that is installed; its tests are copied to a folder of their own,
so that they import what is installed, and run in a pytest of their own (`tests/peer_plugin.py`). What fails is run with
lax as well. The exit code is 1 where a test fails with jconv and passes with lax, or where nothing reached jconv.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Suite:
    """Where the tests of convolution are in a checkout: the folder, the files of it, and their names (for -k)."""

    distribution: str
    folder: str
    files: tuple[str, ...]
    names: str


SUITES = {
    "jax": Suite(
        "jax",
        "tests",
        ("lax_test.py", "lax_autodiff_test.py", "lax_vmap_test.py", "batching_test.py"),
        "Conv and not Convert",
    ),
    "flax": Suite("flax", "tests", ("linen/linen_linear_test.py", "nnx/nn/conv_test.py"), "conv"),
    "haiku": Suite("dm-haiku", "haiku/_src", ("conv_test.py", "depthwise_conv_test.py"), ""),
    "equinox": Suite("equinox", "tests", ("test_nn.py",), "conv"),
}


def run(title, checkout, where, workers, only=(), plain=False):
    """Each test's result. `only` are the names of some tests; `plain` leaves lax as it is."""
    suite = SUITES[title]
    folder = where / f"peer_{title}"  # a name that no package has
    if not folder.exists():
        shutil.copytree(checkout / suite.folder, folder, ignore=lambda _, names: filter(_is_data, names))
    settings, report, names = where / f"{title}.toml", where / f"{title}.json", where / f"{title}.txt"
    theirs = checkout / "pyproject.toml"
    settings.write_text(theirs.read_text() if theirs.exists() else "[tool.pytest.ini_options]\n")
    names.write_text("\n".join(only or [f"{folder.name}/{file}" for file in suite.files]))
    report.unlink(missing_ok=True)
    options = ["-q", "--tb=short", "-p", "tests.peer_plugin", "-p", "no:cacheprovider", "--import-mode=importlib"]
    options += [
        "-c",
        str(settings),
        "--rootdir",
        str(where),
        "-o",
        "addopts=",
        *(["-n", str(workers)] if workers else []),
    ]
    options += [] if only or not suite.names else ["-k", suite.names]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PYTHONPATH": path, "JCONV_PEERS_REPORT": str(report), "PYTHONDONTWRITEBYTECODE": "1"}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    env |= {"JCONV_PEERS_PLAIN": "1"} if plain else {}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"@{names}"],
        cwd=where,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if not report.exists():
        raise SystemExit(f"{title}: pytest ended without a report.\n{done.stdout}{done.stderr}")
    (where / f"{title}-{'lax' if plain else 'jconv'}.log").write_text(done.stdout + done.stderr)
    return json.loads(report.read_text())


def _is_data(name):
    """Whether a file is not of the tests' source; folders have no suffix."""
    return Path(name).suffix not in ("", ".py")


def judged(title, checkout, where, workers):
    """Prints what became of a suite; whether every test that passes with lax passes with jconv too."""
    tests = run(title, checkout, where, workers)
    failed = [name for name, result in tests.items() if result["outcome"] == "failed"]
    plain = run(title, checkout, where, workers, failed, plain=True) if failed else {}
    theirs = [name for name in failed if plain.get(name, {}).get("outcome") != "passed"]
    number = lambda outcome: sum(result["outcome"] == outcome for result in tests.values())
    calls, computed = (sum(result[name] for result in tests.values()) for name in ("calls", "computed"))
    suite = SUITES[title]
    print(
        f"{title} ({suite.distribution} {version(suite.distribution)}): {number('passed')} passed, {len(failed)} failed,"
    )
    print(
        f"  {number('skipped')} skipped; {calls} calls reached jconv, which computed {computed} convolutions for them"
    )
    for name in failed:
        where_else = "fails with lax too" if name in theirs else "FAILS WITH JCONV ALONE"
        print(f"  {where_else}: {name}: {tests[name]['error']}")
    return len(failed) == len(theirs) and computed > 0


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.peer_suites", description=__doc__.partition("\n")[0])
    for title in SUITES:
        parser.add_argument(f"--{title}", type=Path, metavar="PATH", help=f"a checkout of {title}")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the copies and pytest's own words are kept")
    parser.add_argument("--workers", type=int, default=0, help="processes of pytest-xdist (none)")
    given = parser.parse_args(arguments)
    checkouts = {title: getattr(given, title).resolve() for title in SUITES if getattr(given, title)}
    if not checkouts:
        parser.error("give one checkout at least")
    with tempfile.TemporaryDirectory() as temporary:
        where = given.keep.resolve() if given.keep else Path(temporary)
        where.mkdir(parents=True, exist_ok=True)
        fine = [judged(title, path, where, given.workers) for title, path in checkouts.items()]
        return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
