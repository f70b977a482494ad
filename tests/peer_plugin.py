"""A plug-in of pytest that puts `jconv.lax` in the place of lax's convolutions, and writes what became of the tests.

`tests/peer_suites.py` runs the tests of other libraries with it: ``-p tests.peer_plugin``. pytest imports it before any
of these libraries, so that they find jconv's functions wherever they take lax's: as an attribute, a name, or a default
argument. JCONV_PEERS_REPORT names the file that is written; with JCONV_PEERS_PLAIN lax stays as it is.
"""

import functools
import json
import os
import sys
from pathlib import Path

import jax
import pytest

import jconv
from jconv import _primitive

NAMES = tuple(name for name in vars(jconv.lax) if name.startswith("conv"))
ORIGINAL = {name: getattr(jax.lax, name) for name in NAMES}
counts = {"calls": 0, "computed": 0}
within = []  # the calls that are under way


def counted(fn):
    """`fn` of jconv.lax, which counts its calls."""

    @functools.wraps(fn)
    def call(*args, **kwargs):
        counts["calls"] += not within
        within.append(fn)
        try:
            return fn(*args, **kwargs)
        finally:
            within.pop()

    return call


def counting(bind):
    """The primitive's `bind`, which counts what it is bound for in such a call."""

    @functools.wraps(bind)
    def call(*args, **kwargs):
        counts["computed"] += bool(within)
        return bind(*args, **kwargs)

    return call


MINE = {name: counted(getattr(jconv.lax, name)) for name in NAMES}


def install():
    """Puts jconv's functions wherever a module holds lax's own, but where lax defines them and in jconv itself."""
    for title, module in list(sys.modules.items()):
        if module is None or title.partition(".")[0] == "jconv" or title == __name__:
            continue
        for name, value in list(vars(module).items()):
            for convolution, original in ORIGINAL.items():
                if value is original and title != original.__module__:
                    setattr(module, name, MINE[convolution])


if not os.environ.get("JCONV_PEERS_PLAIN"):
    _primitive.conv_p.bind = counting(_primitive.conv_p.bind)
    install()


class Results:
    """What became of each test: the worst of its phases, the last line of its error, and its calls."""

    def __init__(self):
        self.tests = {}

    def of(self, name):
        return self.tests.setdefault(name, {"outcome": "skipped", "error": "", "calls": 0, "computed": 0})

    def pytest_collectreport(self, report):
        if report.failed:
            self.of(report.nodeid).update(outcome="failed", error=_last_line(report))

    def pytest_runtest_logreport(self, report):
        result = self.of(report.nodeid)
        if report.failed:
            result.update(outcome="failed", error=_last_line(report))
        elif report.when == "call" and report.passed and result["outcome"] != "failed":
            result["outcome"] = "passed"
        if report.when == "call":
            result.update(value for value in report.user_properties if value[0] in counts)

    def pytest_sessionfinish(self):
        Path(os.environ["JCONV_PEERS_REPORT"]).write_text(json.dumps(self.tests))


def _last_line(report):
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else str(report.longrepr)).strip().splitlines()
    return next((line for line in lines if line.strip()), "")[:200]


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # the workers of pytest-xdist report to this process
        config.pluginmanager.register(Results(), "jconv-peers-results")


def pytest_collection_finish():
    if not os.environ.get("JCONV_PEERS_PLAIN"):
        install()  # where a module took one from where it is defined


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before = dict(counts)
    try:
        return (yield)
    finally:
        item.user_properties += [(name, counts[name] - before[name]) for name in counts]
