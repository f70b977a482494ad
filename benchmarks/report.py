"""The figures in words: Markdown tables, a summary, a picture, and the generated part of the README."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.peers.base import PLUGGED, ROLES
from jconv._files import write_atomically

Record = dict[str, Any]
Cells = dict[tuple[str, str], dict[str, Record]]

BEGIN = "<!-- benchmark: begin (written by python -m benchmarks --readme) -->"
END = "<!-- benchmark: end -->"
# Below these the summary names a cell: of lax, and of PyTorch.
BEHIND = {"jconv": (0.95, 0.4), PLUGGED: (0.95, 0.8)}
NAMES = {
    "jconv": "jconv",
    PLUGGED: "jconv with plug-ins",
    "jconv folded": "jconv, norms folded",
    "jconv:xla": "jconv, xla",
    "flax": "Flax nnx",
    "haiku": "Haiku",
    "equinox": "Equinox",
    "keras": "Keras on JAX",
    "torch": "PyTorch",
    "torch.compile": "PyTorch compiled",
    "scipy": "SciPy",
    "lax": "lax",
}


def write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def read(path: pathlib.Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def of_kind(records: Iterable[Record], kind: str) -> list[Record]:
    return [r for r in records if r["kind"] == kind]


def cells_of(records: Iterable[Record]) -> Cells:
    """The records of each layer and role, by candidate."""
    cells: Cells = {}
    for r in of_kind(records, "layer"):
        cells.setdefault((r["workload"], r["role"]), {})[r["candidate"]] = r
    return cells


def ratio(cell: dict[str, Record], other: str, mine: str = "jconv") -> float | None:
    """How many times as long the other one takes as jconv."""
    return cell[other]["ms"] / cell[mine]["ms"] if {other, mine} <= set(cell) else None


def geometric_mean(ratios: Iterable[float | None]) -> float:
    found = [r for r in ratios if r is not None]
    return float(np.exp(np.mean(np.log(found)))) if found else float("nan")


def number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """In two digits, which a small one has too."""
    return "" if value is None else f"{value:.2g}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> list[str]:
    """A table whose first `words` columns are words."""
    rule = "|" + "---|" * words + "---:|" * (len(head) - words)
    return [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


def milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


# Parts -----------------------------------------------------------------------------------------------------
def conditions(records: list[Record]) -> list[str]:
    """Where, when and with what."""
    (e,) = of_kind(records, "environment")
    libraries = ", ".join(f"{name} {version}" for name, version in e["libraries"].items())
    lines = [
        f"{e['device']}, {e['cores']} cores, jax {e['jax']}, jaxlib {e['jaxlib']}, {libraries}, Python {e['python']}, "
        f"{e['date']}; float32."
    ]
    for machine in of_kind(records, "machine"):
        lines.append(
            f"Measured limits of this machine: {machine['flops_per_s'] / 1e9:.0f} GFLOP/s in a matrix product, "
            f"{machine['bytes_per_s'] / 1e9:.1f} GB/s in memory."
        )
    return lines


def absences(records: list[Record]) -> list[str]:
    """What is missing, by name."""
    lines = [f"Absent: {r['candidate']} ({r['reason']})." for r in of_kind(records, "absent")]
    found: dict[tuple[str, str], list[str]] = {}
    for r in of_kind(records, "left out"):
        if r["candidate"] != "scipy" and not r["candidate"].startswith("jconv:"):
            found.setdefault((r["candidate"], r["reason"]), []).append(f"{r['workload']} {r['role']}")
    return lines + [f"Left out: {who} on {', '.join(where)}: {why}." for (who, why), where in found.items()]


def summary(records: list[Record]) -> list[str]:
    """The geometric means, and the cells that are behind."""
    cells = cells_of(records)
    lines = []
    for mine, limits in BEHIND.items():
        whose = "jconv's" if mine == "jconv" else "that of jconv with plug-ins"
        for other, least in zip(("lax", "torch"), limits, strict=True):
            ratios = {key: r for key, cell in cells.items() if (r := ratio(cell, other, mine)) is not None}
            if not ratios:
                continue
            by_role = ", ".join(
                f"{role} {geometric_mean(r for key, r in ratios.items() if key[1] == role):.2f}" for role in ROLES
            )
            lines.append(
                f"Geometric mean of {NAMES[other]}'s time over {whose}: {geometric_mean(ratios.values()):.2f} "
                f"over {len(ratios)} layers and roles ({by_role})."
            )
            behind = [f"{' '.join(key)} ({r:.2f})" for key, r in ratios.items() if r < least]
            lines.append(f"Below {least} of {NAMES[other]}: {len(behind)}{': ' if behind else ''}{', '.join(behind)}.")
    return lines


def layer_table(records: list[Record]) -> list[str]:
    cells = cells_of(records)
    own = [n for n in BEHIND if any(n in cell for cell in cells.values())]
    peers = [n for n in NAMES if n not in (*BEHIND, "jconv:xla") and any(n in cell for cell in cells.values())]
    head = ["layer", "role", *(f"{NAMES[n]}: algorithm" for n in own), *(f"{NAMES[n]} ms" for n in (*own, *peers))]
    head += [f"{NAMES[other]} / {NAMES[n]}" for n in own for other in ("lax", "torch")]
    head += ["roofline: jconv", "lax", "lower s: jconv", "lax", "compile s: jconv", "lax"]
    head += ["compile ratio", "workspace MB: jconv", "lax"]
    rows = []
    for key, cell in cells.items():
        mine, lax = cell.get("jconv", {}), cell.get("lax", {})
        pair = (mine, lax)
        compiled = [r["lower_s"] + r["compile_s"] for r in pair if r]
        rows.append(
            [
                *key,
                *(cell.get(n, {}).get("algorithm", "") for n in own),
                *(milliseconds(cell[p]["ms"] if p in cell else None) for p in (*own, *peers)),
                *(number(ratio(cell, other, n)) for n in own for other in ("lax", "torch")),
                *(share(r.get("roofline")) for r in pair),
                *(number(r.get("lower_s"), 3) for r in pair),
                *(number(r.get("compile_s"), 3) for r in pair),
                number(compiled[0] / compiled[1] if len(compiled) == 2 else None),
                *(
                    number(r["workspace_bytes"] / 1e6 if r.get("workspace_bytes") is not None else None, 1)
                    for r in pair
                ),
            ]
        )
    return markdown(head, rows, 2 + len(own)) if rows else []


def algorithm_table(records: list[Record]) -> list[str]:
    """Every algorithm by name, where they were measured."""
    cells = cells_of(records)
    names = list(dict.fromkeys(n for cell in cells.values() for n in cell if n.startswith("jconv:")))
    if not names:
        return []
    rows = [
        [*key, cell["jconv"]["algorithm"], *(milliseconds(cell[n]["ms"] if n in cell else None) for n in names)]
        for key, cell in cells.items()
    ]
    return markdown(["layer", "role", "auto takes", *(f"{n.removeprefix('jconv:')} ms" for n in names)], rows, 3)


def step_table(records: list[Record]) -> list[str]:
    """Milliseconds of a training step, compile time of jconv and Flax."""
    steps: dict[str, dict[str, Record]] = {}
    for r in of_kind(records, "step"):
        steps.setdefault(r["network"], {})[r["candidate"]] = r
    if not steps:
        return []
    libraries = [n for n in NAMES if any(n in found for found in steps.values())]
    rows = [
        [network, *(milliseconds(found[n]["ms"] if n in found else None) for n in libraries)]
        for network, found in steps.items()
    ]
    return markdown(["training step, ms", *(NAMES[n] for n in libraries)], rows)


def ratio_table(records: list[Record], kind: str, words: Sequence[str]) -> list[str]:
    """Milliseconds of jconv, and how many times as long the others take, with the geometric mean of each column.

    `words` are the names of what tells a row from the others. Of jconv with plug-ins, where there are any.
    """
    cells: dict[tuple[str, ...], dict[str, float]] = {}
    for r in of_kind(records, kind):
        cells.setdefault(tuple(r[word] for word in words), {})[r["candidate"]] = r["ms"]
    if not cells:
        return []
    own = [n for n in (PLUGGED, "jconv") if any(n in cell for cell in cells.values())]
    others = [n for n in NAMES if n not in own and any(n in cell for cell in cells.values())]
    columns = [(other, mine) for mine in own for other in others]
    ratio = lambda cell, other, mine: cell[other] / cell[mine] if {other, mine} <= cell.keys() else None
    rows = [
        [*key, *(milliseconds(cell.get(n)) for n in own), *(number(ratio(cell, *column)) for column in columns)]
        for key, cell in cells.items()
    ]
    for last in sorted({key[-1] for key in cells}, reverse=True):
        found = [[ratio(cell, *column) for key, cell in cells.items() if key[-1] == last] for column in columns]
        means = [
            number(float(np.exp(np.mean(np.log(known))))) if (known := [r for r in each if r]) else "" for each in found
        ]
        rows.append(["geometric mean", last, *("" for _ in own), *means])
    head = [*words, *(f"{NAMES[n]}, ms" for n in own), *(f"{NAMES[other]} / {NAMES[mine]}" for other, mine in columns)]
    return markdown(head, rows, len(words))


def low_precision_table(records: list[Record]) -> list[str]:
    """Milliseconds of each dtype, and how many times as fast as float32 it is in the same library."""
    cells: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for r in of_kind(records, "low-precision"):
        cells.setdefault((r["workload"], r["role"]), {})[r["candidate"], r["dtype"]] = r["ms"]
    if not cells:
        return []
    columns = list(dict.fromkeys(column for cell in cells.values() for column in cell))
    libraries = list(dict.fromkeys(library for library, _ in columns))
    head = ["layer", "role", *(f"{NAMES[library]} {dtype}" for library, dtype in columns)]
    head += [f"{NAMES[library]}: float32 / bfloat16" for library in libraries]
    rows = [
        [
            *key,
            *(milliseconds(cell.get(column)) for column in columns),
            *(number(cell[library, "float32"] / cell[library, "bfloat16"]) for library in libraries),
        ]
        for key, cell in cells.items()
    ]
    return markdown(head, rows, 2)


def other_tables(records: list[Record]) -> list[str]:
    lines = []
    calls = {(r["overhead"], r["candidate"]): r["us"] for r in of_kind(records, "overhead")}
    if calls:
        rows = [
            [words, *(number(calls[what, n], 1) for n in ("lax", "xla", "auto"))]
            for what, words in (("dispatch", "a jitted call of one multiplication"), ("trace", "tracing it"))
        ]
        lines += ["", *markdown(["microseconds", "lax", "xla", "auto"], rows)]
    finished: dict[str, dict[str, float]] = {}
    for r in of_kind(records, "finish"):
        finished.setdefault(r["workload"], {})[r["candidate"]] = r["ms"]
    if finished:
        columns = list(dict.fromkeys(name for cell in finished.values() for name in cell))
        words = [f"{NAMES[name.split()[0]]}{name.removeprefix(name.split()[0])}" for name in columns]
        rows = [[layer, *(milliseconds(cell.get(name)) for name in columns)] for layer, cell in finished.items()]
        lines += ["", *markdown(["layer with bias and relu, ms", *words], rows)]
    examples = {r["candidate"]: r for r in of_kind(records, "per-example")}
    if examples:
        names = {**NAMES, "matmul": "a batched matrix product of that size"}
        names = {n: words for n, words in names.items() if n in examples}
        rows = [[examples["jconv"]["layer"], *(milliseconds(examples[n]["ms"]) for n in names)]]
        lines += ["", *markdown(["kernel gradient of each example, ms", *names.values()], rows)]
    return lines


def full_report(records: list[Record]) -> str:
    """All of it in Markdown."""
    lines = [
        *conditions(records),
        "Run time is the median over interleaved rounds; lowering, compile time and workspace (the temporary memory "
        "that XLA reports) are apart, and the compile ratio is lowering and compiling of jconv over that of lax. "
        "Roofline is the share of the machine's limits that direct summation reaches in that time; it can exceed 1 "
        "where operands stay in cache between calls, or an algorithm multiplies less. PyTorch is the faster of its two "
        "layouts. Where jconv was behind lax the cell was measured again, and both measurements are pooled.",
        "",
        *layer_table(records),
    ]
    networks = ratio_table(records, "whole", ("network", "mode"))
    between = ratio_table(records, "between", ("operation", "pass"))
    for part in (networks, between, algorithm_table(records), step_table(records), low_precision_table(records)):
        lines += ["", *part] if part else []
    lines += other_tables(records)
    for line in (*summary(records), *absences(records)):
        lines += ["", line]
    return "\n".join(lines) + "\n"


# README ----------------------------------------------------------------------------------------------------
def readme_part(records: list[Record], picture_path: str) -> str:
    """A picture, the summary, and tables short enough for a first page."""
    cells = cells_of(records)
    own = [n for n in BEHIND if any(n in cell for cell in cells.values())]
    rows = []
    for (layer, role), cell in cells.items():
        row = [layer, role]
        for n in own:
            mine = cell.get(n, {})
            ratios = (number(ratio(cell, "lax", n)), number(ratio(cell, "torch", n)))
            row += [f"{mine.get('algorithm', '')} {milliseconds(mine.get('ms'))}", *ratios]
        rows.append(row)
    head = ["layer", "role"]
    for n in own:
        head += [f"{NAMES[n]}: algorithm, ms", "lax /", "PyTorch /"]
    return "\n".join(
        [
            f"![How many times as fast as lax jconv and PyTorch are, layer by layer]({picture_path})",
            "",
            " ".join(conditions(records)),
            "",
            *(line for text in summary(records) for line in (text, "")),
            *step_table(records),
            "",
            "<details>",
            "<summary>All layers and roles: more than 1 means that jconv is faster</summary>",
            "",
            *markdown(head, rows, 3),
            "",
            "</details>",
        ]
    )


def rewrite(text: str, part: str) -> str:
    """The text with what stands between the markers replaced."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md: accepted is a text with the lines {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n{part}\n{END}{after}"


def picture(records: list[Record], path: pathlib.Path) -> None:
    """Bars of speed relative to lax, one panel a role: dark jconv, grey with plug-ins, PyTorch hatched."""
    from matplotlib.figure import Figure  # which a machine that only measures need not have

    cells = cells_of(records)
    layers = list(dict.fromkeys(layer for layer, _ in cells))
    figure = Figure(figsize=(12, 1.6 + 0.45 * len(layers)), layout="constrained")
    panels = figure.subplots(1, len(ROLES), sharex=True, sharey=True, squeeze=False)[0]
    looks: tuple[tuple[str, dict[str, Any], Callable[[dict[str, Record]], float | None]], ...] = (
        ("jconv", {"color": "#1f2933"}, lambda cell: ratio(cell, "lax")),
        (NAMES[PLUGGED], {"color": "#7b8794"}, lambda cell: ratio(cell, "lax", PLUGGED)),
        ("PyTorch", {"color": "#e4e7eb", "edgecolor": "#52606d", "hatch": "////", "linewidth": 0.6}, _torch_speed),
    )
    looks = tuple(look for look in looks if any(look[2](cell) is not None for cell in cells.values()))
    width = 0.84 / max(1, len(looks))
    places = np.arange(len(layers))
    for panel, role in zip(panels, ROLES, strict=True):
        for i, (name, style, speed) in enumerate(looks):
            speeds = [speed(cells.get((layer, role), {})) for layer in layers]
            known = [
                (p + (i - (len(looks) - 1) / 2) * width, s)
                for p, s in zip(places, speeds, strict=True)
                if s is not None
            ]
            if not known:
                continue
            where, values = (np.array(v) for v in zip(*known, strict=True))
            panel.barh(where, values - 1, height=0.95 * width, left=1, label=name, zorder=2, **style)
            for y, value in zip(where, values, strict=True):
                side = "left" if value >= 1 else "right"
                gap = 1.06 if value >= 1 else 1 / 1.06
                panel.text(
                    value * gap, y, f"{value:.2g}" if value < 100 else f"{value:.0f}", va="center", ha=side, size=5.5
                )
        panel.axvline(1, color="black", linewidth=1, zorder=3)
        panel.set_xscale("log")
        low, high = panel.get_xlim()
        left = min(max(low / 1.6, 0.1), 0.4)
        panel.set_xlim(left, max(high * 2.2, 4))
        for text in panel.texts:  # of a bar that leaves the panel
            if text.get_position()[0] < 1.4 * left:
                text.set(
                    x=1.1 * left, horizontalalignment="left", bbox={"facecolor": "white", "linewidth": 0, "pad": 0.6}
                )
        panel.set_title(role)
        panel.set_xlabel("times as fast as lax")
        panel.grid(axis="x", color="#cbd2d9", linewidth=0.5, zorder=0)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(places, layers)
    panels[0].set_ylim(len(layers) - 0.4, -0.6)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _torch_speed(cell: dict[str, Record]) -> float | None:
    return cell["lax"]["ms"] / cell["torch"]["ms"] if {"lax", "torch"} <= set(cell) else None
