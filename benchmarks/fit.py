"""`python -m benchmarks fit`: the prices of the forecasts, from surveys.

The time of a plan is a sum of counts, each with a price of at least 0 (`jconv._forecast`). With c the prices, x the
counts of one measurement and t its time, they minimise

    sum over measurements of  w (x c - t)^2 / (t p),      p = x c,

which for small errors is the square of log(p / t), and for large ones treats twice and half alike. It is solved by
setting p to what the last prices gave, again and again: each time a least-squares problem with c >= 0 (Lawson and
Hanson, "Solving least squares problems", 1974, chapter 23). w is smaller for plans far behind the best of their call,
which need only be known to be far, and for errors that are large after all (Huber, 1964). Most of the error that all
plans of a call have in common is taken out of t first, as it does not matter to their order.

Few measurements of a count cannot tell its price, so each is drawn, weakly, to a first guess: for float32 the price of
the plain kind, for the other dtypes that of float32 times what their units take.

What is left of the errors is kept beside the prices, for calls that are alike (`jconv._forecast.near`).

The regret of a call is the time of the plan taken over the time of the best that was measured. It is also told for
layers that the fit has not seen, each left out in turn.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from benchmarks.survey import FOLDER, read, spec_of, tuned, work_of
from jconv import _files as jconv_files
from jconv import _forecast, _select, _tune
from jconv._algorithms import ALGORITHMS, REDUCTIONS
from jconv._algorithms.base import Call
from jconv._forecast import near
from jconv._plan import SEPARATOR, Plan

PRICES = _forecast.PRICES
ROUNDS = 12
FAR, LEAST = 2.0, 0.25  # times the best of the call, from where a measurement counts less; and what it counts at least
WEAK = 6e-5  # how strongly prices of float32 are drawn to their first guess, in measurements for each that there is
COMMON = 0.8  # how much of what is common to all plans of a call is left out of account: only their order matters
LARGE = 0.5  # of log(p / t), from where an error counts less
SMALL = 0.02  # a price that is no more of any measurement is left out


# Measured in the same runs as h200.jsonl: a copy, bytes read and written; and in bfloat16 a product of 8192 x 8192.
H200 = {dtype: {"bytes": 2 / 4.17e12} for dtype in ("float32", "bfloat16")}
H200["bfloat16"]["matrix"] = 2 / 780e12


# A kernel that was written for a trial, in the place of the one that was not measured yet.
STANDS_FOR = {"pallas trial": "pallas"}


class Measured(NamedTuple):
    """One call of a survey: its plans with their counts and seconds."""

    layer: str
    call: Call
    names: tuple[str, ...]
    counts: tuple[dict[str, float], ...]
    seconds: np.ndarray
    lax: float


def call_of(record: dict[str, Any], platform: str) -> Call:
    """The call of a line of a survey."""
    return _tune.calls_of(spec_of(record), [record["role"]], record["dtype"], None, platform)[0]


def measured(records: Iterable[dict[str, Any]], platform: str) -> list[Measured]:
    """The calls of a survey, with the counts of the plans that exist."""
    model, found = _forecast.Model(platform, "", {}, 1.0), []
    for record in records:
        if "layer" not in record:
            continue
        call, seconds, counts = call_of(record, platform), {}, []
        for label, ms in record["ms"].items():
            name = "xla" if label == "lax" and "xla" not in record["ms"] else STANDS_FOR.get(label, label)
            plan = _plan(name, record)
            if plan is not None and plan.refusal(call) is None and _comparable(plan, call):
                seconds[name] = ms / 1e3
                counts.append(model.counts(plan.work(call), call.dtype, _select.result_bytes(call)))
        lax = record["ms"].get("lax", math.nan) / 1e3
        found.append(Measured(record["layer"], call, tuple(seconds), tuple(counts), np.array([*seconds.values()]), lax))
    return found


def _plan(name: str, record: dict[str, Any]) -> Plan | None:
    """The plan of a name in a survey, a plug-in's by what it said then; None for a peer."""
    *reductions, last = name.split(SEPARATOR)
    if entry := record.get("plugged", {}).get(name):
        done = work_of(entry)
        xla = ALGORITHMS["xla"]
        algorithm = dataclasses.replace(xla, name=last, supports=lambda call: None, work=lambda call: done)
    elif last not in ALGORITHMS:
        return None
    else:
        algorithm = ALGORITHMS[last]
    return Plan(algorithm, tuple(REDUCTIONS[reduction] for reduction in reductions))


def _comparable(plan: Plan, call: Call) -> bool:
    """Whether a plan still does what was measured: on GPU, `matmul` and `winograd` took a few images at a time."""
    return call.platform == "cpu" or not plan.algorithm.name.startswith("winograd")


# Fitting -------------------------------------------------------------------------------------------------
class Problem(NamedTuple):
    """All measurements of one dtype, as a matrix."""

    names: list[str]
    x: np.ndarray
    t: np.ndarray
    w: np.ndarray
    call: np.ndarray


def _weights(call: Measured) -> np.ndarray:
    """How much each measurement counts."""
    return np.clip(FAR * call.seconds.min() / call.seconds, LEAST, 1.0)


def problem(calls: Sequence[Measured], names: Sequence[str]) -> Problem:
    place = {name: i for i, name in enumerate(names)}
    rows, times, weights, owners = [], [], [], []
    for i, call in enumerate(calls):
        for counts, seconds, weight in zip(call.counts, call.seconds, _weights(call), strict=True):
            row = np.zeros(len(names))
            for name, number in counts.items():
                if name in place:
                    row[place[name]] = number
            rows.append(row)
            times.append(seconds)
            weights.append(weight)
            owners.append(i)
    return Problem(list(names), np.array(rows), np.array(times), np.array(weights), np.array(owners))


def solve(
    p: Problem, guess: np.ndarray, pull: np.ndarray, start: np.ndarray | None = None, rounds: int = ROUNDS
) -> np.ndarray:
    """The prices; `pull` is how strongly each is drawn to its guess, in measurements."""
    scale = np.where(guess > 0, guess, 1e-12)
    c = guess.copy() if start is None else start
    forecast = np.maximum(p.x @ c, 1e-7)
    for _ in range(rounds):
        t = p.t * _common(forecast / p.t, p)
        error = np.log(forecast / t)  # one that makes a plan look too good is not excused
        weight = np.sqrt(p.w * np.minimum(1.0, LARGE / np.maximum(error, 1e-9)) / (t * forecast))
        a = p.x * scale * weight[:, None]
        left = a.T @ a + np.diag(pull)
        right = a.T @ (t * weight) + pull * (guess / scale)
        factor = np.linalg.cholesky(left + 1e-9 * np.eye(len(left)))
        c = scale * nnls(factor.T, np.linalg.solve(factor, right), maxiter=20 * len(left))[0]
        forecast = np.sqrt(forecast * np.maximum(p.x @ c, 1e-7))  # half way, which does not go to and fro
    return c


def _common(ratio: np.ndarray, p: Problem) -> np.ndarray:
    """By how much all plans of a call were forecast too high or too low together, raised to `COMMON`."""
    error = np.clip(np.log(ratio), -1.0, 1.0)
    sums, weights = np.bincount(p.call, p.w * error), np.bincount(p.call, p.w)
    return np.exp(COMMON * sums / weights)[p.call]


def first_guess(p: Problem) -> np.ndarray:
    """For each count, the price at which it alone would explain a tenth of the median of its measurements."""
    guess = np.zeros(len(p.names))
    for j in range(len(p.names)):
        some = p.x[:, j] > 0
        guess[j] = 0.1 * np.median(p.t[some] / p.x[some, j]) if some.any() else 0.0
    return guess


def _kept(p: Problem, prices: np.ndarray) -> dict[str, float]:
    """The prices of what was measured; of what is never more than a small part of a time, none."""
    found = {}
    for j, (name, price) in enumerate(zip(p.names, prices, strict=True)):
        some = p.x[:, j] > 0
        if some.any():
            found[name] = float(price) if (p.x[some, j] * price / p.t[some]).max() > SMALL else 0.0
    return found


def _names(calls: Sequence[Measured]) -> list[str]:
    return sorted({name for call in calls for counts in call.counts for name in counts})


def measured_prices(calls: Sequence[Measured], pull: float = 0.3) -> dict[str, dict[str, float]]:
    """The prices of what was measured in each dtype."""
    names = _names(calls)
    by = {d: [c for c in calls if c.call.dtype.name == d] for d in sorted({c.call.dtype.name for c in calls})}
    base = problem(by.pop("float32"), names)
    weak = np.full(len(names), WEAK * len(base.t))
    prices = solve(base, first_guess(base), weak)
    found, seen = {"float32": _kept(base, prices)}, np.asarray((base.x > 0).any(axis=0))
    others = problem([c for own in by.values() for c in own], names) if by else base
    # What float32 does not do is guessed from all the others.
    rest = solve(others, np.where(seen, prices, first_guess(others)), weak) if by else prices
    for dtype, own in by.items():
        p = problem(own, names)
        start = np.where(seen, prices * _forecast.RATIOS.get(dtype, 1.0), rest)
        unseen = {n: float(c) for n, c, s in zip(names, rest, seen, strict=True) if c and not s}
        found[dtype] = _kept(p, solve(p, start, np.full(len(names), pull))) | unseen
    for own in found.values():
        own.update(_siblings(own))
    found["float32"].update(_plain(found["float32"]))
    return found


def _siblings(prices: dict[str, float]) -> dict[str, float]:
    """What a way of XLA costs along so many axes, where no survey had it: the most that it does along others."""
    found: dict[str, float] = {}
    for name, price in prices.items():
        for rank in "0123":
            other = re.sub(r"\d-d", f"{rank}-d", name)
            if other not in prices:
                found[other] = max(price, found.get(other, 0.0))
    return found


def _plain(prices: dict[str, float]) -> dict[str, float]:
    """What a kind costs that was not surveyed: the median of those that were."""
    groups: dict[str, list[float]] = {}
    for name, price in prices.items():
        kind, colon, what = name.partition(": ")
        if not kind.startswith("xla ") and price > 0 and " " in kind:
            groups.setdefault(f"plain {kind.split()[-1]}{colon}{what}", []).append(price)
    return {name: float(np.median(found)) for name, found in groups.items() if name not in prices}


# What is near --------------------------------------------------------------------------------------------
LENGTHS, RIDGES = (0.7, 1.0, 1.4, 2.0, 2.8), (0.1, 0.3, 1.0)


class Alike(NamedTuple):
    """The calls of one dtype and role: the errors of plans, which are known, their weights, and how far apart the calls
    are, squared; those of one layer are so far that they do not tell of one another."""

    errors: np.ndarray
    known: np.ndarray
    weights: np.ndarray
    away: np.ndarray


def _alike(calls: Sequence[Measured], plans: Sequence[str], lines: Sequence[str]) -> Alike:
    places, errors, known = near.Near(lines, plans, LENGTHS[0], RIDGES[0]).tables
    weights, layers = np.zeros_like(known), np.array([call.layer for call in calls])
    for row, call in zip(weights, calls, strict=True):
        row[[plans.index(name) for name in call.names]] = _weights(call)
    away = np.square(places[:, None] - places[None]).sum(-1)
    return Alike(errors, known, weights, np.where(layers[:, None] == layers[None], np.inf, away))


def _surprise(alike: Alike, length: float, ridge: float) -> float:
    """How far the errors of calls are from what those of other layers tell of them."""
    told = near.told(alike.away, alike.errors, alike.known, length, ridge)
    error = np.minimum(np.abs(alike.errors - told) / near.UNIT, 1.0)
    return float((alike.weights * error**2).sum())


def near_of(calls: Sequence[Measured], prices: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The errors of the forecasts by prices, and the length and the ridge by which other layers tell them best."""
    completed = _forecast.completed(prices)
    plans = sorted({name for call in calls for name in call.names})
    groups: dict[str, list[Measured]] = {}
    for call in calls:
        groups.setdefault(f"{call.call.dtype.name} {call.call.role}", []).append(call)
    lines: dict[str, list[str]] = {key: [] for key in groups}
    for key, own in groups.items():
        for call in own:
            errors = np.log(call.seconds / priced(call, completed))
            errors -= COMMON * np.average(errors, weights=_weights(call))
            told = {plans.index(name): error for name, error in zip(call.names, errors, strict=True)}
            lines[key].append(near.line_of(call.call.spec, told))
    alike = [_alike(own, plans, lines[key]) for key, own in groups.items()]
    surprise = lambda pair: sum(_surprise(own, *pair) for own in alike)
    length, ridge = min(itertools.product(LENGTHS, RIDGES), key=surprise)
    return {"length": length, "ridge": ridge, "plans": plans, "calls": lines}


# Regret --------------------------------------------------------------------------------------------------
class Regret(NamedTuple):
    """The time taken over the best time of each call, with what was taken."""

    layer: str
    call: Call
    taken: str
    best: str
    seconds: float
    ratio: float
    lax: float


def fitted(calls: Sequence[Measured]) -> dict[str, Any]:
    """What an entry of the generated file has from the fit."""
    prices = _rounded(measured_prices(calls))
    return {"prices": prices, "near": near_of(calls, prices)}


def priced(call: Measured, prices: Mapping[str, _forecast.Prices]) -> np.ndarray:
    """What prices alone give for each plan."""
    own = prices.get(call.call.dtype.name) or prices["float32"]
    return np.array([sum(own[n] * v for n, v in counts.items()) for counts in call.counts])


def regret(call: Measured, model: _forecast.Model, without: str = "") -> Regret:
    """Of the plan that a model takes, among those that were measured; of an algorithm, `without`, none."""
    able = [i for i, name in enumerate(call.names) if not without or without not in name]
    factors = model.factors(call.call.spec, call.call.dtype, call.call.role)
    margins = [factors.get(n, 1.0) * model.margin_of(n, factors) for n in call.names]
    cost = priced(call, model.prices) * np.array(margins)
    taken = min(able, key=lambda i: cost[i])
    best = min(able, key=lambda i: call.seconds[i])
    seconds = call.seconds
    lax = call.lax / seconds[taken]
    return Regret(
        call.layer, call.call, call.names[taken], call.names[best], float(seconds[best]),
        float(seconds[taken] / seconds[best]), float(lax),
    )  # fmt: skip


def left_out(
    calls: Sequence[Measured], platform: str, entry: dict[str, Any], without: Sequence[str], folds: int = 0
) -> list[list[Regret]]:
    """The regrets, without each of the algorithms, on layers that the model was fitted without: one at a time, or in
    so many folds."""
    layers = list(dict.fromkeys(call.layer for call in calls))
    found: list[list[Regret]] = [[] for _ in without]
    for fold in range(folds or len(layers)):
        unseen = set(layers[fold :: folds or len(layers)])
        model = _forecast.model_of(platform, entry | fitted([c for c in calls if c.layer not in unseen]))
        for regrets, name in zip(found, without, strict=True):
            regrets += [regret(c, model, name) for c in calls if c.layer in unseen]
    return found


def mean(values: Iterable[float]) -> float:
    return math.exp(np.mean(np.log(list(values))))


# Output --------------------------------------------------------------------------------------------------
ABOUT = "The prices of jconv._forecast, in seconds a count. Written by `python -m benchmarks fit`; not to be edited."


def _rounded(prices: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """To three digits, without what costs nothing: but for one price of each kind, which says that it was measured."""
    base, kept = prices["float32"], {}
    kinds = {name.partition(": ")[0] for name, price in base.items() if price > 0}
    for dtype, own in sorted(prices.items()):
        kept[dtype] = {}
        for name, price in sorted(own.items()):
            kind = name.partition(": ")[0]
            if price > 0 or base.get(name) or (dtype == "float32" and kind not in kinds):
                kept[dtype][name] = float(f"{price:.3g}")
                kinds.add(kind)
    return kept


def surveys() -> dict[str, tuple[pathlib.Path, float]]:
    """The committed survey of each platform, and the margin that its forecasts are taken with."""
    return {"cpu": (FOLDER / "cpu.jsonl.gz", 1.1), "cuda": (FOLDER / "h200.jsonl", 1.5)}


def surveyed(platform: str, files: Iterable[pathlib.Path] = ()) -> tuple[dict[str, Any], list[Measured]]:
    """The calls of a platform's survey and of files of tuned choices, and all of its entry in the generated file but
    the prices."""
    path, margin = surveys()[platform]
    names, records = [path.name], read(path)
    for file in files:
        names.append(file.name)
        records += tuned(file, platform)
    calls = measured(records, platform)
    about = next((r for r in records if "layer" not in r), {})
    rates = about.get("rates", H200 if platform == "cuda" else {})
    cores = f", {about['cores']} cores" if "cores" in about else ""
    entry = {
        "name": f"{about.get('device', 'NVIDIA H200')}{cores}",
        "from": f"{', '.join(names)}: {len(calls)} calls, {sum(len(c.names) for c in calls)} measurements",
        "margin": margin,
        "rates": {dtype: {kind: float(f"{s:.3g}") for kind, s in own.items()} for dtype, own in rates.items()},
    }
    return entry, calls


def differences(
    one: dict[str, dict[str, float]], other: dict[str, dict[str, float]], calls: Sequence[Measured]
) -> np.ndarray:
    """How far the forecasts of two sets of prices are from one another, as logarithms, for all that was measured."""
    a, b = (np.concatenate([priced(c, _forecast.completed(p)) for c in calls]) for p in (one, other))
    return np.abs(np.log(a / b))


def same(kept: dict[str, Any], found: dict[str, Any], calls: Sequence[Measured]) -> bool:
    """Whether an entry of the file is what was fitted: all to the letter but the prices, which are compared by what
    they forecast, since where two of them can stand for one another a library's last digits decide; and the errors,
    which must be those of its own prices."""
    loose = ("prices", "near")
    if {k: v for k, v in kept.items() if k not in loose} != {k: v for k, v in found.items() if k not in loose}:
        return False
    far = differences(kept["prices"], found["prices"], calls)
    return bool(far.mean() < 0.005 and far.max() < 0.2) and kept["near"] == near_of(calls, kept["prices"])


def text_of(entries: dict[str, Any]) -> str:
    """The generated file."""
    return json.dumps({"about": ABOUT, "platforms": entries}, indent=1) + "\n"


def _summary(title: str, found: Sequence[Regret], show: int) -> str:
    """One line, and the worst."""
    if not found:
        return f"{title}: no calls"
    worst = sorted(found, key=lambda r: -r.ratio)
    lax = [r.lax for r in found if math.isfinite(r.lax)]
    behind = sum(ratio < 0.95 for ratio in lax)
    lines = [
        f"{title}: {len(found)} calls, regret {mean(r.ratio for r in found):.3f}, worst {worst[0].ratio:.2f}, "
        f"{sum(r.ratio > 1.5 and r.seconds > 1e-4 for r in found)} above 1.5 among those over 100 us; "
        f"{mean(lax):.2f} times lax, worst {min(lax):.2f}, {behind} below 0.95"
    ]
    lines += [
        f"    {r.ratio:5.2f}  {r.layer} {r.call.dtype.name} {r.call.role}: {r.taken}, "
        f"best {r.best} {r.seconds * 1e3:.3g} ms"
        for r in worst[:show]
    ]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fit", description=__doc__)
    parser.add_argument("--platform", choices=sorted(surveys()), nargs="+", default=sorted(surveys()))
    parser.add_argument("--quick", action="store_true", help="leave no layer out: the regret on what was fitted alone")
    parser.add_argument("--folds", type=int, default=0, help="leave layers out in so many parts, not one at a time")
    parser.add_argument("--show", type=int, default=8, help="how many of the worst calls to list")
    parser.add_argument(
        "--tuned", type=pathlib.Path, nargs="+", default=[], help="files of jconv.tune, to be fitted too"
    )
    parser.add_argument("--check", action="store_true", help="write nothing: 1 where the file is not what this writes")
    args = parser.parse_args(argv)
    entries, status = dict(_forecast.stored()), 0
    for platform in args.platform:
        entry, calls = surveyed(platform, args.tuned)
        entry |= fitted(calls)
        model = _forecast.model_of(platform, entry)
        if args.check and not same(entries.get(platform, {}), entry, calls):
            print(f"{platform}: {PRICES} is not what this writes")
            status = 1
        entries[platform] = entry
        print(f"\n{platform}: {entry['name']}, from {entry['from']}; near within {entry['near']['length']} octaves")
        algorithms = ("", "onednn") if platform == "cpu" else ("",)
        ending = lambda name: f" without {name}" if name else ""
        for name in algorithms:
            for dtype in sorted({c.call.dtype.name for c in calls}):
                own = [regret(c, model, name) for c in calls if c.call.dtype.name == dtype]
                print(_summary(f"{dtype}{ending(name)}", own, args.show))
        if not args.quick:
            for name, found in zip(algorithms, left_out(calls, platform, entry, algorithms, args.folds), strict=True):
                print(_summary(f"layers left out{ending(name)}", found, 2 * args.show))
    if args.check:
        return status
    jconv_files.write_atomically(PRICES, text_of(entries).encode())
    print(f"\nwritten: {PRICES}")
    return 0
