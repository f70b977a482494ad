"""The command line: ``python -m jconv explain``, ``bench``, ``tune``, ``calibrate`` and ``algorithms``."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from . import _cache, _calibrate, _tune, plugins
from ._algorithms import REDUCTIONS
from ._algorithms.base import ROLES, Algorithm, Call, Reduction
from ._forecast import model
from ._primitive import PLATFORMS
from ._select import Choice, candidates, forecaster, plans, resolve
from ._spec import ConvSpec
from ._version import __version__

WIDTH = 100
DESCRIPTION = {
    "explain": "Shows the plans for a layer, cheapest forecast first, and which one runs and why.",
    "bench": "Measures the plans for a layer on this device. Nothing is kept.",
    "tune": 'Measures them and keeps the fastest, for algorithm="tuned" to take.',
    "calibrate": "Measures how fast this machine is at each kind of work, in under a minute, for the forecasts.",
    "algorithms": "Lists the algorithms, and the reductions that lead to them.",
}
EXAMPLE = """\
example:
  python -m jconv {command} --x 8,56,56,64 --kernel 3,3,64,64 --strides 2 --role kernel_grad"""
# An algorithm counts for a platform where it covers one of these there.
PROBES = (
    ConvSpec((2, 32, 32, 8), (3, 3, 8, 8)),
    ConvSpec((2, 32, 32, 8), (3, 3, 2, 8), feature_group_count=4),
    ConvSpec((2, 32, 32, 2), (3, 3, 2, 8), strides=2),
    ConvSpec((2, 999, 1), (99, 1, 1)),
    ConvSpec((2, 999, 64), (9, 1, 64), feature_group_count=64),
)


# Arguments -----------------------------------------------------------------------------------------------
class _Parser(argparse.ArgumentParser):
    """Errors in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, accepted are integers and commas, as in 3,3,64,64") from None


def _per_axis(text: str) -> int | tuple[int, ...]:
    values = _shape(text)
    return values[0] if len(values) == 1 else values


def _padding(text: str) -> Any:
    def entry(part: str) -> Any:
        low, colon, high = part.partition(":")
        try:
            return (int(low), int(high)) if colon else int(low)
        except ValueError:
            if not colon and part.replace("_", "").isalpha():
                return part
        raise argparse.ArgumentTypeError(
            f"got {text!r}, accepted are names, integers or low:high, one or one for each spatial axis with commas"
        )

    entries = tuple(entry(part) for part in text.split(","))
    return entries[0] if len(entries) == 1 and ":" not in text else entries


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, accepted is an integer of at least 1")
    return int(text)


def _parser() -> _Parser:
    parser = _Parser(prog="python -m jconv", description="What jconv computes a convolution by, and how fast that is.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    found = {}
    for command, description in DESCRIPTION.items():
        epilog = EXAMPLE.format(command=command) if command not in ("algorithms", "calibrate") else None
        found[command] = commands.add_parser(
            command,
            help=description,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        found[command].add_argument("--json", action="store_true", help="print one JSON document; times are seconds")
    for command in ("explain", "bench", "tune"):
        group = found[command].add_argument_group("layer")
        add = group.add_argument
        add("--x", type=_shape, required=True, metavar="B,H,W,C", help="shape of the image, [*batch, *spatial, in]")
        add("--kernel", type=_shape, required=True, metavar="H,W,I,O", help="shape, [*window, in // groups, out]")
        add("--strides", type=_per_axis, default=1, metavar="N[,N]", help="one, or one for each spatial axis")
        add("--padding", type=_padding, default="SAME", metavar="PADDING",
            help="SAME, SAME_LOWER, VALID, FULL, CAUSAL or a number, or for each axis one or low:high")  # fmt: skip
        add("--input-dilation", type=_per_axis, default=1, metavar="N[,N]", help="distance between image elements")
        add("--kernel-dilation", type=_per_axis, default=1, metavar="N[,N]", help="distance between taps")
        add("--groups", "--feature-group-count", dest="groups", type=int, default=1, metavar="N",
            help="number of groups of channels")  # fmt: skip
        add("--dtype", default="float32", help="dtype of the operands (float32)")
        add("--precision", choices=("default", "high", "highest"), help="as for jconv.conv")
        add("--role", choices=(*ROLES, "all"), default="all", help="one of the three roles (all)")
    explain = found["explain"].add_argument
    explain("--platform", choices=(*PLATFORMS, "gpu"), help="by default that of this machine's first device")
    explain("--top", type=_count, default=10, metavar="N", help="how many plans to show (10)")
    for command in ("bench", "tune"):
        add = found[command].add_argument
        add(
            "--limit",
            type=_count,
            default=8,
            metavar="N",
            help="at most so many plans, of those forecast within 5 times the best (8)",
        )
        add("--rounds", type=_count, default=7, metavar="N", help="samples of each plan (7)")
    for command in ("tune", "calibrate"):
        found[command].add_argument("--cache", metavar="FILE", help="where to keep it ($JCONV_CACHE, or a default)")
    return parser


def _calls(options: argparse.Namespace) -> list[Call]:
    """The calls of the layer that the options describe, with its batch axes in one."""
    o = options
    spec = ConvSpec(o.x, o.kernel, o.strides, o.padding, o.input_dilation, o.kernel_dilation, o.groups)
    if spec.is_empty:
        raise ValueError(f"x and kernel: got shapes {o.x} and {o.kernel}, accepted are sizes of at least 1.")
    here = _cache.platform_of(_cache.this_device())
    platform = getattr(o, "platform", None) or here
    if platform == "gpu":
        platform = here if here in ("cuda", "rocm") else "cuda"
    roles = ROLES if o.role == "all" else (o.role,)
    return _tune.calls_of(spec, roles, _tune.as_dtype(o.dtype), o.precision, platform)


# Output --------------------------------------------------------------------------------------------------
def _print(text: str, indent: int = 0) -> None:
    print(textwrap.fill(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2)))


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=1))


def _layer(call: Call) -> dict[str, Any]:
    spec = call.spec
    return {
        "x": spec.x_shape,
        "kernel": spec.kernel_shape,
        "output": spec.output_shape,
        "strides": spec.strides,
        "padding": spec.padding,
        "input_dilation": spec.input_dilation,
        "kernel_dilation": spec.kernel_dilation,
        "groups": spec.feature_group_count,
        "dtype": call.dtype.name,
        "precision": _cache.precision_text(call.precision),
        "multiply_adds": spec.macs * int(np.prod(spec.batch_shape)),
    }


def _title(call: Call, where: str) -> str:
    layer = _layer(call)
    output = ",".join(map(str, layer["output"]))
    work = f"{layer['multiply_adds'] / 1e6:.4g} million multiply-adds"
    return f"{_tune.layer_text(call.spec)} -> {output}, {layer['dtype']}, {work}; {where}"


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.1f}"


def _said(choice: Choice) -> dict[str, str]:
    return {"name": choice.name, "reason": choice.reason}


# Commands ------------------------------------------------------------------------------------------------
def explain(options: argparse.Namespace, calls: Sequence[Call]) -> None:
    """The plans of each role by forecast, and the choice."""
    roles = []
    for call in calls:
        auto, tuned, may = resolve("auto", call), resolve("tuned", call), candidates(call)
        able = {plan.name for plan in may}
        # Those that "auto" may take by forecast, then the others by forecast.
        ranked = may + sorted((p for p in plans(call) if p.name not in able), key=lambda plan: plan.seconds)
        shown = ranked[: options.top] + [p for p in ranked[options.top :] if p.name == auto.name]
        rows = [
            {"name": p.name, "seconds": p.seconds, "workspace": int(p.workspace), "exact": p.plan.exact,
             "local": p.plan.local, "eligible": p.name in able}
            for p in shown
        ]  # fmt: skip
        roles.append({"role": call.role, "auto": _said(auto), "tuned": _said(tuned), "plans": rows,
                      "not_shown": len(ranked) - len(rows)})  # fmt: skip
    platform = calls[0].platform
    if options.json:
        return _print_json({"layer": _layer(calls[0]), "platform": platform, "roles": roles})
    _print(_title(calls[0], f"on {platform}"))
    print(f"Prices of {forecaster(platform).name}.")
    for role in roles:
        print(f"\n{role['role']}")
        rows = [
            (("* " if p["name"] == role["auto"]["name"] else "  ") + p["name"], _tune.milliseconds(p["seconds"]),
             _megabytes(p["workspace"]), _yes(p["exact"]), _yes(p["local"]), _yes(p["eligible"]))
            for p in role["plans"]
        ]  # fmt: skip
        header = ("  plan", "forecast ms", "workspace MB", "exact", "NaN stays", "eligible")
        print(_tune.table(header, rows, left=1))
        if role["not_shown"]:
            print(f"  and {role['not_shown']} more")
        for name in ("auto", "tuned"):
            _print(f"{name}: {role[name]['name']}, {role[name]['reason']}", indent=2)
    return None


def bench(options: argparse.Namespace, calls: Sequence[Call]) -> None:
    """The plans of each role, measured."""
    device, roles = _cache.device_kind(_cache.this_device()), []
    for call in calls:
        names = _tune.names_for(call, options.limit)
        measured = _tune.measure(call, names, options.rounds)
        priced = {p.name: p for p in plans(call)}
        ranked = sorted(measured.seconds.items(), key=lambda item: item[1])
        rows = [
            {"name": name, "seconds": seconds, "forecast": priced[name].seconds,
             "workspace": int(priced[name].workspace), "exact": priced[name].plan.exact}
            for name, seconds in ranked
        ]  # fmt: skip
        roles.append({"role": call.role, "auto": resolve("auto", call).name, "plans": rows,
                      "left_out": measured.left_out})  # fmt: skip
    if options.json:
        return _print_json({"layer": _layer(calls[0]), "device": device, "roles": roles})
    _print(_title(calls[0], device))
    for role in roles:
        print(f"\n{role['role']}")
        xla = next((p["seconds"] for p in role["plans"] if p["name"] == "xla"), float("nan"))
        rows = [
            (("* " if p["name"] == role["auto"] else "  ") + p["name"], _tune.milliseconds(p["seconds"]),
             f"{xla / p['seconds']:.2f}", _tune.milliseconds(p["forecast"]), _megabytes(p["workspace"]),
             _yes(p["exact"]))
            for p in role["plans"]
        ]  # fmt: skip
        header = ("  plan", "ms", "xla / plan", "forecast ms", "workspace MB", "exact")
        print(_tune.table(header, rows, left=1))
        for name, why in role["left_out"].items():
            _print(f"left out: {name} {why}", indent=2)
    print("\n* what auto takes")
    return None


def tune(options: argparse.Namespace, calls: Sequence[Call]) -> int:
    """The fastest plan of each role, measured and kept; 1 where it could not be kept."""
    call = calls[0]
    records = _tune.tune(
        call.spec,
        roles=[call.role for call in calls],
        dtype=call.dtype,
        precision=call.precision,
        limit=options.limit,
        rounds=options.rounds,
        cache=options.cache,
    )
    device, file = records[0].device, str(options.cache or _cache.default_path())
    kept = all(record.file or not record.measured for record in records)
    if options.json:
        rows = [
            {"role": r.role, "name": r.name, "seconds": r.seconds if r.measured else None, "measured": r.measured,
             "note": r.note}
            for r in records
        ]  # fmt: skip
        _print_json({"layer": _layer(call), "device": device, "cache": file if kept else None, "roles": rows})
    else:
        _print(_title(call, device))
        print(f"\n{_tune.table(*_tune.columns(records), left=2)}")
        for record in records:
            if record.note:
                _print(f"{record.role}: {record.note}")
        reader = "What JCONV_CACHE must name for" if options.cache else "The file of choices for"
        if kept:
            print(f'\n{reader} algorithm="tuned":\n  {file}')
    if not kept:
        print(f"python -m jconv tune: nothing was kept, because {file} cannot be written", file=sys.stderr)
    return int(not kept)


def calibrate(options: argparse.Namespace) -> int:
    """The rates of this machine, beside those that the prices were fitted with; 1 where they could not be kept."""
    rates, kept = _calibrate.calibrate(options.cache)
    device = _cache.device_kind(_cache.this_device())
    fitted = model(_cache.platform_of(_cache.this_device()))
    if options.json:
        _print_json({"device": device, "cache": kept or None, "rates": rates, "fitted": fitted and fitted.rates})
    else:
        _print(
            f"Seconds of one unit on {device}; in brackets, times those of {fitted.name if fitted else 'no survey'}."
        )
        units = list(next(iter(rates.values())))
        rows = []
        for dtype, own in rates.items():
            there = fitted.rates.get(dtype, {}) if fitted else {}
            rows.append(
                (dtype, *(f"{own[u]:.3g} ({own[u] / there[u]:.2f})" if u in there else f"{own[u]:.3g}" for u in units))
            )
        print("\n" + _tune.table(("dtype", *units), rows, left=1))
        if kept:
            print(f"\nKept in {kept}")
    if not kept:
        file = options.cache or _cache.default_path()
        print(f"python -m jconv calibrate: nothing was kept, because {file} cannot be written", file=sys.stderr)
    return int(not kept)


def algorithms(options: argparse.Namespace) -> None:
    """Every algorithm and reduction."""
    rows = []
    found = plugins.plugins()
    source = {plugin.algorithm.name: plugin.distribution for plugin in found if plugin.algorithm}
    for kind, entries in (("algorithm", plugins.algorithms()), ("reduction", REDUCTIONS)):
        for entry in entries.values():
            rows.append({"name": entry.name, "kind": kind, "exact": entry.exact, "local": entry.local,
                         "platforms": _platforms(entry), "description": _description(entry),
                         "distribution": source.get(entry.name, f"jconv {__version__}")})  # fmt: skip
    failed = [{"name": p.name, "kind": "plug-in", "distribution": p.distribution, "why": p.why} for p in found if p.why]
    if options.json:
        return _print_json([*rows, *failed])
    where = lambda row: "all" if len(row["platforms"]) == len(PLATFORMS) else ", ".join(row["platforms"])
    header = ("name", "kind", "platforms", "exact", "NaN stays")
    lines = [(r["name"], r["kind"], where(r), _yes(r["exact"]), _yes(r["local"])) for r in rows]
    print(_tune.table(header, lines, left=3) + "\n")
    for row in rows:
        _print(f"{row['name']}: {row['description']}")
    print()
    _print(
        "A plan is an algorithm, or reductions and then an algorithm, as in fold+matmul. Exact: its error is at most "
        "that of direct summation. NaN stays: a NaN or an Inf reaches only the results that contain it."
    )
    for plugin in found:
        state = f"does not load: {plugin.why}" if plugin.why else "is loaded"
        _print(f"The plug-in {plugin.name} of {plugin.distribution} {state}.")
    return None


def _platforms(entry: Algorithm | Reduction) -> list[str]:
    dtype = np.dtype("float32")
    covers = lambda platform: any(
        entry.supports(Call(spec, role, dtype, dtype, None, platform)) is None for spec in PROBES for role in ROLES
    )
    return [platform for platform in PLATFORMS if covers(platform)]


def _description(entry: Algorithm | Reduction) -> str:
    """Its own line, else what the first line of its file says: behind its name, or before a colon."""
    if entry.description:
        return entry.description
    module = sys.modules.get(entry.supports.__module__)
    head, _, rest = ((module.__doc__ if module else None) or "").partition("\n")[0].partition(": ")
    return rest if f"`{entry.name}`" in head else head


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0, 1 where `tune` could not keep what it found, or 2 after an error in the arguments."""
    options = _parser().parse_args(arguments)
    if options.command == "algorithms":
        algorithms(options)
        return 0
    if options.command == "calibrate":
        return calibrate(options)
    try:
        calls = _calls(options)
    except (ValueError, TypeError) as error:
        print(f"python -m jconv {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return {"explain": explain, "bench": bench, "tune": tune}[options.command](options, calls) or 0


if __name__ == "__main__":
    sys.exit(main())
