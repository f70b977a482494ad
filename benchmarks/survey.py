"""`python -m benchmarks survey`: the time of every plan, for the forecasts to be fitted to.

The named layers of `benchmarks.workloads`, a few that are known to be hard, those of networks in `jconv.models`, and
geometries drawn at random: ranks 1 to 3, dense, with few channels, in groups and depthwise, strides, dilations,
transposed ones, three dtypes and roles. One line is one call: its geometry and the median milliseconds of each plan,
and of lax as JAX differentiates it. Plans are measured as `jconv.tune` does, in turns. A plan whose forecast is more
than `--reach` times the best one's is left out but in every fortieth call, which has all of them.

It goes on where it was stopped: what the file holds already is not measured again, but with `--again` where it lacks
the plan that "auto" takes by now. After a fit this finds the plans that were left out and would be taken.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import pathlib
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

import jconv
from benchmarks import machine
from benchmarks.peers.on_jax import lax_conv, role_of
from benchmarks.workloads import WORKLOADS, Workload, flops
from jconv import _cache, _calibrate, _select, _tune, models
from jconv._algorithms.base import ROLES, Call, Role, reduced_call
from jconv._dtypes import keeps_64_bits, result_dtype
from jconv._forecast import work
from jconv._forecast.work import Work
from jconv._plan import named_plan
from jconv.layers import Layer

FOLDER = pathlib.Path(__file__).parent / "surveys"
DTYPES = ("float32", "float64", "bfloat16")
FLOPS, BYTES = 5e10, 5e9  # a second, of a small machine
SHORTEST_S, LONGEST_S = 3e-5, 1.5e-2  # of a geometry that is drawn, at such a pace
SLOW_S, SLOW = 0.02, 6.0  # seconds, and times the best: what takes longer than both is called twice at most
LONG_S = 3.0  # seconds: what takes so long is called but once
KNOWN = "where a forecast was seen to err, or a network to be slow"
HARD = (
    Workload("image-one-channel", KNOWN, (1, 512, 512, 1), (3, 3, 1, 1), {}),
    Workload("filter-101-taps", KNOWN, (1, 16000, 1), (101, 1, 1), {}),
    Workload("stencil-48", KNOWN, (1, 48, 48, 48, 1), (3, 3, 3, 1, 1), {}),
    Workload("regnet-groups-of-16", KNOWN, (8, 28, 28, 128), (3, 3, 16, 128), {"feature_group_count": 8}),
    Workload("two-taps-far-apart", KNOWN, (8, 4096, 32), (2, 32, 32), {"kernel_dilation": 256}),
    Workload("small-image-many-groups", KNOWN, (4, 7, 7, 512), (3, 3, 8, 512), {"feature_group_count": 64}),
    Workload("large-dilation", KNOWN, (2, 48, 48, 64), (3, 3, 64, 64), {"kernel_dilation": 12}),
    Workload("plain-wide", KNOWN, (2, 14, 14, 512), (3, 3, 512, 512), {}),
    Workload("resnet50-reduce", KNOWN, (4, 14, 14, 1024), (1, 1, 1024, 256), {}),
    Workload("resnet50-stride", KNOWN, (4, 56, 56, 256), (1, 1, 256, 512), {"strides": 2, "padding": "VALID"}),
)


# Networks of jconv.models by the shape of what they are given, and the roles of their convolutions that are measured.
NETWORKS: tuple[tuple[Callable[[], Layer], tuple[int, ...], tuple[Role, ...]], ...] = (
    (models.resnet18, (8, 112, 112, 3), ROLES),
    (models.resnet50, (4, 112, 112, 3), ROLES),
    (models.mobilenet_v2, (8, 112, 112, 3), ROLES),
    (models.convnext_tiny, (4, 112, 112, 3), ROLES),
    (models.unet, (4, 96, 96, 3), ROLES),
    (models.lenet5, (64, 28, 28, 1), ROLES),
    (models.resnet50, (1, 224, 224, 3), ("forward",)),
    (models.mobilenet_v2, (1, 224, 224, 3), ("forward",)),
)


class Task(NamedTuple):
    """One call to measure."""

    layer: str
    spec: jconv.ConvSpec
    dtype: str
    role: Role

    @property
    def key(self) -> tuple[str, str, str]:
        return self.layer, self.dtype, self.role

    @property
    def call(self) -> Call:
        platform = _cache.platform_of(_cache.this_device())
        return _tune.calls_of(self.spec, [self.role], self.dtype, None, platform)[0]


# What is measured ----------------------------------------------------------------------------------------
def spec_of(record: dict[str, Any]) -> jconv.ConvSpec:
    """The geometry of a line of a survey."""
    padding = record["padding"]
    return jconv.ConvSpec(
        tuple(record["x"]),
        tuple(record["kernel"]),
        strides=record["strides"],
        padding=[tuple(pair) for pair in padding] if isinstance(padding, list) else padding,
        kernel_dilation=record["kernel_dilation"],
        input_dilation=record["input_dilation"],
        feature_group_count=record["groups"],
    )


def _between(rng: random.Random, low: float, high: float) -> int:
    """A whole number whose logarithm is uniform."""
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def _channels(rng: random.Random) -> tuple[int, int, int]:
    """Groups, and the channels of one before and after."""
    kind = rng.choice(("dense", "dense", "few", "depthwise", "groups"))
    if kind == "dense":
        return 1, _between(rng, 8, 512), _between(rng, 8, 512)
    if kind == "few":
        few, other = _between(rng, 1, 6), _between(rng, 1, 128)
        return (1, few, other) if rng.random() < 0.7 else (1, other, few)
    if kind == "depthwise":
        return _between(rng, 8, 512), 1, rng.choice((1, 1, 1, 2))
    return 2 ** rng.randint(1, 6), _between(rng, 2, 64), _between(rng, 2, 64)


def _geometry(rng: random.Random) -> jconv.ConvSpec:
    rank = rng.choice((1, 1, 2, 2, 2, 3))
    groups, inputs, outputs = _channels(rng)
    longest = {1: 65536, 2: 256, 3: 64}[rank]
    size = _between(rng, 4, longest)
    space = [max(1, round(size * rng.uniform(0.7, 1.3))) for _ in range(rank)]
    taps = rng.choice((1, 2, 3, 3, 3, 4, 5, 7)) if rank > 1 else rng.choice((1, 2, 3, 4, 5, 8, 16, 31, 101, 301))
    window = [taps if rng.random() < 0.9 else rng.choice((1, 2, 3)) for _ in range(rank)]
    options: dict[str, Any] = {"padding": rng.choice(("SAME", "SAME", "VALID"))}
    kind = rng.choice(("plain", "plain", "plain", "strided", "strided", "dilated", "transposed"))
    if kind == "strided":
        options["strides"] = rng.choice((2, 2, 3, taps))
    elif kind == "dilated":
        options["kernel_dilation"] = rng.choice((2, 4, 8, 32 if rank == 1 else 3))
    elif kind == "transposed":
        options |= {"input_dilation": 2, "padding": [(k // 2, (k + 1) // 2) for k in window]}
    batch = rng.choice((1, 1, 2, 4, 8, 16, 32))
    return jconv.ConvSpec(
        (batch, *space, groups * inputs), (*window, inputs, groups * outputs), feature_group_count=groups, **options
    )


def drawn(number: int) -> list[Task]:
    """The three roles of one geometry that is neither too small to tell nor too large to wait for."""
    rng = random.Random(number)
    dtype = rng.choice(("float32", "float32", "float32", "float64", "bfloat16"))
    while True:
        try:
            spec = _geometry(rng)
        except ValueError:  # a window larger than its image
            continue
        elements = math.prod(spec.x_shape) + math.prod(spec.kernel_shape) + math.prod(spec.output_shape)
        seconds = flops(spec) / FLOPS + 4 * elements / BYTES
        if not spec.is_empty and elements < 3e7 and SHORTEST_S < seconds < LONGEST_S:
            return [Task(f"drawn-{number}", spec, dtype, role) for role in ROLES]


def networks() -> list[Task]:
    """The convolutions of networks, each geometry once."""
    found: dict[tuple[jconv.ConvSpec, Role], Task] = {}
    for make, shape, roles in NETWORKS:
        network = make()

        def run(key: jax.Array, x: jax.Array, network: Layer = network, shape: tuple[int, ...] = shape) -> jax.Array:
            return network.apply(*network.init(key, shape)[:2], x)[0]

        jaxpr = jax.make_jaxpr(run)(jax.random.key(0), jax.ShapeDtypeStruct(shape, "float32"))
        specs = dict.fromkeys(call.spec for call in _tune.calls_in(jaxpr.jaxpr, "cpu") if call.spec.rank)
        for i, spec in enumerate(specs):
            for role in roles:
                name = f"{make.__name__}-{'x'.join(map(str, shape[:-1]))}-{i}"
                found.setdefault((spec, role), Task(name, spec, DTYPES[0], role))
    return [*found.values()]


def tasks(draws: int) -> list[Task]:
    """The named layers and those of networks in float32, then those drawn and the other dtypes of the named ones,
    mixed."""
    layers = (*WORKLOADS, *HARD)
    named = {dtype: [Task(w.name, w.spec, dtype, role) for w in layers for role in ROLES] for dtype in DTYPES}
    others = [[task] for dtype in DTYPES[1:] for task in named[dtype]] + [drawn(i) for i in range(draws)]
    random.Random(0).shuffle(others)
    return [*named[DTYPES[0]], *networks(), *(task for group in others for task in group)]


# Measuring -----------------------------------------------------------------------------------------------
def _lax(task: Task, operands: list[jax.Array]) -> Any:
    """The role as JAX derives it from lax's convolution."""
    spec, dtype = task.call.spec, task.call.dtype
    x, kernel = (jax.ShapeDtypeStruct(shape, dtype) for shape in (spec.x_shape, spec.kernel_shape))
    executable = jax.jit(role_of(lax_conv(spec), task.role, x, kernel)).lower(*operands).compile()
    return lambda: executable(*operands)


def _once(run: Callable[[], Any]) -> float:
    """The seconds of one call."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def compiled_work(call: Call, names: Iterable[str]) -> dict[str, Any]:
    """What plug-ins say that they do behind each plan, so that a fit needs neither them nor this machine."""
    found = {}
    for name in names:
        plan = None if name == "lax" else named_plan(name)
        if plan is None or plan.algorithm.portable:
            continue
        inner = call
        for reduction in plan.reductions:
            inner = reduced_call(reduction.reduce(inner), inner)
        work = plan.algorithm.work(inner)
        found[name] = [work.workspace, *([type(step).__name__, *step] for step in work.steps)]
    return {"plugged": found} if found else {}


def work_of(entry: list[Any]) -> Work:
    """What `compiled_work` wrote."""
    workspace, *steps = entry
    return Work(tuple(getattr(work, kind)(*fields) for kind, *fields in steps), workspace)


def taken(call: Call) -> list[str]:
    """What "auto" takes, with plug-ins and without."""
    return [_select.select(asked).name for asked in (call, call._replace(portable=True))]


def measure(task: Task, reach: float, rounds: int, also: Iterable[str] = ()) -> dict[str, Any]:
    """The line of one call; plans in `also` are measured too."""
    call = task.call
    names = [*also, *taken(call)]
    for asked in (call, call._replace(portable=True)):
        ranked = _select.candidates(asked)
        names += [plan.name for plan in ranked if plan.seconds <= reach * ranked[0].seconds]
    runs, failed, slow = {}, {}, {}
    with keeps_64_bits(call.dtype, call.out_dtype):
        operands = [jax.device_put(array) for array in _tune._operands(call)]
        best = math.inf
        for name in dict.fromkeys((*names, "xla", "lax")):
            try:
                run = _lax(task, operands) if name == "lax" else _tune.compiled(name, call, operands)
                took = _once(run)
                if max(SLOW_S, SLOW * best) < took < LONG_S:  # a first call may make what later ones have
                    took = _once(run)
                if took > max(SLOW_S, SLOW * best):  # far behind, and long enough for one call to tell
                    slow[name] = took
                else:
                    runs[name], best = run, min(best, took)
            except (jax.errors.JaxRuntimeError, NotImplementedError, MemoryError) as error:
                failed[name] = str(error).splitlines()[0][:200]
        seconds = _tune.interleaved(runs, rounds, queue=call.platform != "cpu") | slow
    return record(task.layer, call, seconds) | ({"failed": failed} if failed else {})


def record(layer: str, call: Call, seconds: Mapping[str, float]) -> dict[str, Any]:
    """The line of a call whose plans took so many seconds."""
    spec = call.spec
    return {
        "layer": layer,
        "x": spec.x_shape,
        "kernel": spec.kernel_shape,
        "strides": spec.strides,
        "padding": spec.padding,
        "kernel_dilation": spec.kernel_dilation,
        "input_dilation": spec.input_dilation,
        "groups": spec.feature_group_count,
        "dtype": call.dtype.name,
        "role": call.role,
        "bytes": _select.operand_bytes(call),
        "flops": flops(spec),
        "ms": {name: float(f"{seconds[name] * 1e3:.4g}") for name in seconds},
        **compiled_work(call, seconds),
    }


def tuned(path: pathlib.Path, platform: str) -> list[dict[str, Any]]:
    """What `jconv.tune` measured on devices of a platform and kept in a file, as lines of a survey.

    One that asks for a precision or a dtype of its result is left out: its plans do other work.
    """
    found = []
    for environment, choices in _cache.parse(path.read_bytes())[0].items():
        if environment.partition(":")[0] == platform:
            for text, choice in choices.items():
                call = _cache.call_of(text, platform)
                if call.precision is None and call.out_dtype == result_dtype(call.dtype, None):
                    found.append(record(f"tuned-{len(found)}", call, choice["measured"]))
    return found


def _environment() -> dict[str, Any]:
    """The machine, with the rates that `jconv calibrate` compares others with."""
    rates = _calibrate.rates(jax.default_backend())
    return machine.environment() | {"algorithms": list(jconv.algorithms()), "rates": rates}


# Files ---------------------------------------------------------------------------------------------------
def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a survey, compressed or not: of each call the last, without one that was not written to its end."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    found = {}
    for line in text[: text.rfind("\n") + 1].splitlines():
        record = json.loads(line)
        found[tuple(record.get(name) for name in ("layer", "dtype", "role"))] = record
    return [*found.values()]


def _cut(path: pathlib.Path) -> None:
    """Removes a last line that was not written to its end."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with open(path, "r+b") as file:
            file.truncate(whole)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks survey", description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, help="the file; default runs/survey/PLATFORM.jsonl")
    parser.add_argument("--draws", type=int, default=250, help="how many geometries are drawn")
    parser.add_argument(
        "--reach", type=float, default=4.0, help="plans forecast beyond so many times the best are left out"
    )
    parser.add_argument("--rounds", type=int, default=5, help="samples of each plan")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; the same command goes on")
    parser.add_argument(
        "--again", action="store_true", help="measure calls again of which the file lacks what auto takes by now"
    )
    args = parser.parse_args(argv)
    path = args.out or pathlib.Path("runs/survey", f"{jax.default_backend()}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    known: dict[tuple[str, str, str], list[str]] = {}
    if path.exists():
        _cut(path)
        known = {(r["layer"], r["dtype"], r["role"]): [*r["ms"]] for r in read(path) if "layer" in r}
    wanted = lambda task: task.key not in known or (args.again and not {*taken(task.call)} <= {*known[task.key]})
    start, todo = time.monotonic(), [(i, task) for i, task in enumerate(tasks(args.draws)) if wanted(task)]
    with open(path, "a") as file:
        if not path.stat().st_size:
            file.write(json.dumps(_environment()) + "\n")
        for i, task in (progress := tqdm(todo, unit="call")):
            if time.monotonic() - start > 60 * args.minutes:
                break
            progress.set_description(" ".join(task.key))
            reach, before = math.inf if i % 40 == 39 else args.reach, known.get(task.key, [])
            file.write(json.dumps(measure(task, reach, args.rounds, before)) + "\n")
            file.flush()
            if i % 50 == 49:
                jax.clear_caches()
    print(f"written: {path}")
    return 0
