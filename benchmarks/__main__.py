"""`python -m benchmarks`: measures every algorithm of jconv beside `lax.conv_general_dilated`, in all three roles."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import tempfile

import numpy as np
from tqdm import tqdm

from benchmarks import harness
from benchmarks.workloads import WORKLOADS


def write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def table(records: list[dict], environment: dict) -> str:
    """The figures as Markdown."""
    layers = [r for r in records if "workload" in r]
    others = sorted({r["candidate"] for r in layers} - {"lax"}, key=[r["candidate"] for r in layers].index)
    head = ["layer", "role", "lax ms", *(f"{c} ms" for c in others), "auto takes", "lax / auto",
            "compile s: lax", *others, "workspace MB: lax", *others]  # fmt: skip
    lines = [
        f"| {' | '.join(head)} |",
        "|---|---|" + "---:|" * (1 + len(others)) + "---|" + "---:|" * (3 + 2 * len(others)),
    ]
    ratios = []
    for key in dict.fromkeys((r["workload"], r["role"]) for r in layers):
        cell = {r["candidate"]: r for r in layers if (r["workload"], r["role"]) == key}
        auto = next(r for r in cell.values() if r["auto"])
        ratios.append(cell["lax"]["ms"] / auto["ms"])
        row = [*key, f"{cell['lax']['ms']:.2f}", *(f"{cell[c]['ms']:.2f}" for c in others), auto["candidate"],
               f"{ratios[-1]:.2f}", *(f"{cell[c]['compile_s']:.2f}" for c in ("lax", *others)),
               *(f"{(cell[c]['workspace_bytes'] or 0) / 1e6:.1f}" for c in ("lax", *others))]  # fmt: skip
        lines.append(f"| {' | '.join(row)} |")
    text = [
        f"{environment['device']}, {environment['cores']} cores, jax {environment['jax']}, jaxlib "
        f"{environment['jaxlib']}, Python {environment['python']}, {environment['date']}; float32.",
        "Run time is the median over interleaved rounds; compile time and workspace (the temporary memory that XLA "
        "reports) are apart.",
        "",
        *lines,
        "",
        f"Geometric mean of lax's time over that of what auto takes: {np.exp(np.mean(np.log(ratios))):.2f}.",
    ]
    calls = {(r["overhead"], r["candidate"]): r["us"] for r in records if "overhead" in r}
    if calls:
        text += ["", "| microseconds | lax | xla | auto |", "|---|---:|---:|---:|"]
        for what, words in (("dispatch", "a jitted call of one multiplication"), ("trace", "tracing it")):
            text.append(f"| {words} | " + " | ".join(f"{calls[what, n]:.1f}" for n in ("lax", "xla", "auto")) + " |")
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and a tighter time limit: under two minutes")
    parser.add_argument("--only", metavar="NAME", help="layers whose name contains NAME")
    parser.add_argument("--rounds", type=int, default=None, help="rounds a cell (default 15, quick 5)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/bench"), help="folder for the results")
    args = parser.parse_args()
    rounds = args.rounds or (5 if args.quick else 15)
    chosen = [w for w in WORKLOADS if not args.only or args.only in w.name]
    if not chosen:
        parser.error(f"--only: got {args.only!r}, accepted is part of one of {', '.join(w.name for w in WORKLOADS)}")
    environment = harness.environment()
    records: list[dict] = []
    cells = [(w, role) for w in chosen for role in harness.ROLES]
    progress = tqdm(cells, unit="cell")
    for workload, role in progress:
        progress.set_description(f"{workload.name} {role}")
        records += harness.measure(workload, role, rounds=rounds, limit_s=3 if args.quick else 20)
    if not args.only:
        records += harness.overhead(rounds)
    name = environment["platform"]
    write(args.out / f"{name}.jsonl", "".join(json.dumps(record | environment) + "\n" for record in records))
    text = table(records, environment)
    write(args.out / f"{name}.md", text)
    print(text)
    print(f"written: {args.out / name}.jsonl and .md")


if __name__ == "__main__":
    main()
