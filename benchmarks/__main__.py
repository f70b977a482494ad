"""`python -m benchmarks`: measures jconv beside lax, the layer libraries of JAX, PyTorch and SciPy.

Whole networks in training and inference, what stands between convolutions, layers of well-known networks in all three
roles, training steps of other libraries, 16-bit floats and 8-bit integers, a bias and relu after a layer, gradients of
each example, what a call costs, and the limits of the machine. Writes JSON lines, Markdown and a picture.
`python -m benchmarks --device gpu` measures layers on a GPU. `python -m benchmarks survey` measures every plan, and
`python -m benchmarks fit` turns that into the prices of the forecasts.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jconv
from benchmarks import between, finish, gpu, harness, low_precision, machine, per_example, report, steps, whole
from benchmarks.networks import NETWORKS
from benchmarks.peers import PEERS, Absent, Peer
from benchmarks.peers.base import PLUGGED
from benchmarks.peers.on_jax import has_plugins, jconv_peer
from benchmarks.workloads import WORKLOADS

ROOT = pathlib.Path(__file__).parent.parent
RESULTS, PICTURE = ROOT / "benchmarks" / "results" / "cpu.jsonl", "docs/images/benchmark.png"
OVERHEAD = "overhead"
OTHERS = (whole.NAME, between.NAME, low_precision.NAME, finish.NAME, per_example.NAME, OVERHEAD)
QUICK_PEERS = ("lax", "torch")
Part = tuple[str, Callable[[], list[report.Record]]]


class Results:
    """Records that are on disk as soon as they are known, in a file that takes its name when it is complete."""

    def __init__(self, path: pathlib.Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.partial = path, path.with_name(f"{path.name}.partial")
        self.records: list[report.Record] = []
        self.file = open(self.partial, "w")  # noqa: SIM115

    def add(self, records: list[report.Record]) -> None:
        self.records += records
        self.file.writelines(json.dumps(record) + "\n" for record in records)
        self.file.flush()

    def finish(self) -> None:
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.partial, self.path)


def peers_of(names: list[str], algorithms: bool) -> tuple[list[Peer], list[report.Record]]:
    """jconv without and with plug-ins, and those of the others that are installed; a record for each that is not."""
    peers: list[Peer] = [jconv_peer()]
    absent = []
    if has_plugins():
        peers.append(jconv_peer("auto", PLUGGED))
    else:
        absent.append({"kind": "absent", "candidate": PLUGGED, "reason": "no plug-in is loaded"})
    for name in names:
        try:
            peers.append(PEERS[name]())
        except Absent as reason:
            absent.append({"kind": "absent", "candidate": name, "reason": str(reason)})
    if algorithms:
        peers += [jconv_peer(name, f"jconv:{name}") for name in jconv.algorithms()]
    return peers, absent


def parts(
    args: argparse.Namespace, effort: harness.Effort, peers: list[Peer], limits: dict[str, Any]
) -> Iterator[Part]:
    """What there is to measure, in order, as names and functions."""
    wanted = lambda name: not args.only or any(part in name for part in args.only)
    for name in whole.NETWORKS if not args.quick else ():
        for mode in whole.MODES:
            if wanted(f"{whole.NAME} {name} {mode}"):
                yield f"{whole.NAME} {name} {mode}", functools.partial(whole.measure, name, mode, effort)
    for name in between.OPERATIONS if wanted(between.NAME) and not args.quick else ():
        for backward in (False, True):
            yield (
                f"{between.NAME} {name} {between.PASSES[backward]}",
                functools.partial(between.measure, name, backward, effort),
            )
    for workload in filter(lambda w: wanted(w.name), WORKLOADS):
        for role in harness.ROLES:
            measure = functools.partial(harness.measure, workload, role, peers, effort, limits)
            yield f"{workload.name} {role}", measure
    if args.quick and not args.only:
        return
    libraries = [p.name for p in peers if (p.name in steps.LIBRARIES and p.name != "jconv") or p.name == "torch"]
    for network in filter(lambda n: wanted(n.name), NETWORKS):
        yield network.name, functools.partial(steps.measure, network, libraries, effort)
    for workload, role in low_precision.CELLS if wanted(low_precision.NAME) else ():
        yield (
            f"{low_precision.NAME} {workload} {role}",
            functools.partial(low_precision.measure, workload, role, effort),
        )
    for workload in finish.LAYERS if wanted(finish.NAME) else ():
        yield f"{finish.NAME} {workload}", functools.partial(finish.measure, workload, effort)
    if wanted(per_example.NAME):
        yield per_example.NAME, functools.partial(per_example.measure, effort)
    if wanted(OVERHEAD):
        yield OVERHEAD, functools.partial(harness.overhead, effort.rounds)


def measure(args: argparse.Namespace) -> int:
    """Measures, writes and prints; 1 where a result was wrong."""
    from tqdm import tqdm  # which a machine with a GPU need not have

    effort = harness.QUICK if args.quick else harness.FULL
    if args.rounds:
        effort = effort._replace(rounds=args.rounds)
    names = args.peers or (QUICK_PEERS if args.quick else tuple(PEERS))
    peers, absent = peers_of([n for n in PEERS if n == "lax" or n in names], args.algorithms)
    environment = machine.environment()
    results = Results(args.out / f"{environment['platform']}.jsonl")
    limits = machine.limits(1 if args.quick else 5)
    results.add([environment, limits, *absent])
    progress = tqdm(list(parts(args, effort, peers, limits)), unit="cell")
    for name, part in progress:
        progress.set_description(name)
        results.add(part())
    results.finish()
    stem = results.path.with_suffix("")
    text = report.full_report(results.records)
    report.write(stem.with_suffix(".md"), text)
    made = [f"{stem}.jsonl", f"{stem}.md"]
    if report.cells_of(results.records):
        report.picture(results.records, stem.with_suffix(".png"))
        made.append(f"{stem}.png")
    print(text)
    print(f"written: {', '.join(made)}")
    wrong = report.of_kind(results.records, "wrong")
    for record in wrong:
        print(f"wrong, and not timed: {record}", file=sys.stderr)
    return 1 if wrong else 0


def rewrite_readme() -> None:
    """The README's generated part and its picture, from the results that are kept with the source."""
    records = report.read(RESULTS)
    report.picture(records, ROOT / PICTURE)
    readme = ROOT / "README.md"
    report.write(readme, report.rewrite(readme.read_text(), report.readme_part(records, PICTURE)))
    print(f"written: {readme.relative_to(ROOT)}, {PICTURE}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="layers only, jconv, lax and PyTorch, few rounds: under two minutes"
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        nargs="+",
        help=f"part of the names of layers, networks, {', '.join(OTHERS)}",
    )
    parser.add_argument("--rounds", type=int, help="rounds a cell (default 15, quick 5)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/bench"), help="folder for the results")
    parser.add_argument("--peers", type=lambda text: text.split(","), help=f"of {','.join(PEERS)}; lax is always there")
    parser.add_argument("--algorithms", action="store_true", help="also every algorithm of jconv by name")
    parser.add_argument("--readme", action="store_true", help="only rewrite the README, from benchmarks/results")
    args = parser.parse_args()
    names = [*(w.name for w in WORKLOADS), *(n.name for n in NETWORKS), *OTHERS]
    for part in args.only or ():
        if not any(part in name for name in names):
            parser.error(f"--only: got {part!r}, accepted is part of one of {', '.join(names)}")
    for name in args.peers or ():
        if name not in PEERS:
            parser.error(f"--peers: got {name!r}, accepted are {', '.join(PEERS)}")
    return args


def main() -> None:
    if sys.argv[1:2] in (["survey"], ["fit"]):
        command = importlib.import_module(f"benchmarks.{sys.argv[1]}")
        sys.exit(command.main(sys.argv[2:]))
    if any(word.partition("=")[0] == "--device" for word in sys.argv[1:]):
        sys.exit(gpu.main(sys.argv[1:]))
    args = arguments()
    if args.readme:
        rewrite_readme()
    else:
        sys.exit(measure(args))


if __name__ == "__main__":
    main()
