"""Measuring the plans of a call on the device at hand, and remembering the fastest.

Each candidate is compiled ahead of time, its result compared with that of `xla`, and then all run in turns, in another
seeded order each round, so that a machine that slows down slows all of them. The figures are medians over the rounds.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import functools
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax import numpy as jnp

from . import _cache, _primitive, _select
from ._algorithms.base import OPERANDS, RESULT, ROLES, Call, Role
from ._dtypes import FLOATS, INTEGERS, canonical_precision, check_dtype, keeps_64_bits, result_dtype
from ._forecast import model
from ._jaxprs import equations
from ._names import named
from ._plan import SEPARATOR, Plans, Request, named_plan, refusal
from ._select import candidates, select
from ._spec import ConvSpec, integer, is_sequence, nearest

# No plan is measured whose forecast is this many times the best one; where there are no forecasts for the device, those
# of a CPU only order the candidates.
PRUNE = 5.0
LIMIT, ROUNDS = 8, 7
SAMPLE_SECONDS = 2e-3  # a call that takes less is repeated, and the mean of that is one sample
SLOW = 4.0  # a candidate whose first sample is this many times the best one's is not sampled again
TIE = 0.02  # plans this close to the fastest are as fast, and the simplest of them is taken


# Records -------------------------------------------------------------------------------------------------
class Tuned(NamedTuple):
    """What was measured for one call, and the file that keeps it, empty where none does.

    A call that was skipped has no figures, and its `note` says why.
    """

    spec: ConvSpec
    role: Role
    dtype: np.dtype
    name: str
    seconds: float
    measured: dict[str, float]
    device: str
    out_dtype: np.dtype
    precision: Any
    note: str = ""
    file: str = ""

    def __str__(self) -> str:
        return str(Tunings([self]))


class Tunings(tuple[Tuned, ...]):
    """Records of `Tuned`, and a table when printed."""

    def __str__(self) -> str:
        header, rows = columns(self)
        layers = [layer_text(record.spec) for record in self]
        notes = dict.fromkeys(f"{layer} {r.role}: {r.note}" for layer, r in zip(layers, self, strict=True) if r.note)
        rows = [(layer, *row) for layer, row in zip(layers, rows, strict=True)]
        return "\n".join([table(("layer", *header), rows, left=4), *notes])


def columns(records: Iterable[Tuned]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header and the rows of a table of records, without their layers."""
    rows = []
    for record in records:
        xla = record.measured.get("xla", math.nan)
        figures = (milliseconds(record.seconds), milliseconds(xla), f"{xla / record.seconds:.2f}")
        figures = figures if record.measured else ("-",) * 3
        rows.append((record.role, record.dtype.name, record.name, *figures))
    return ("role", "dtype", "fastest", "ms", "xla ms", "xla / fastest"), rows


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def layer_text(spec: ConvSpec) -> str:
    """A geometry in few characters; pads are left out."""
    text = f"{','.join(map(str, spec.x_shape))} * {','.join(map(str, spec.kernel_shape))}"
    for letter, values in (("s", spec.strides), ("q", spec.input_dilation), ("d", spec.kernel_dilation)):
        if any(v != 1 for v in values):
            text += f" {letter}{','.join(map(str, values))}"
    return text + (f" g{spec.feature_group_count}" if spec.feature_group_count != 1 else "")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    """Columns of text, the first `left` of them flush left and the others flush right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in [text[0], "-" * len(text[0]), *text[1:]])


# Finding -------------------------------------------------------------------------------------------------
def calls_of(spec: ConvSpec, roles: Iterable[Role], dtype: Any, precision: Any, platform: str) -> list[Call]:
    """The calls that `jconv.conv` and its gradients make for a geometry."""
    dtype, flat = jnp.dtype(dtype), _primitive.flatten_batch(spec)
    out_dtype = result_dtype(dtype, None)
    return [Call(flat, role, dtype, out_dtype, canonical_precision(precision), platform) for role in roles]


def calls_in(jaxpr: Any, platform: str) -> list[Call]:
    """Every different call of the primitive in a jaxpr and all that are nested in it, in order."""
    found: dict[Call, None] = {}
    for eqn in equations(jaxpr):
        if eqn.primitive in (_primitive.conv_p, _primitive.finished_p):
            found[eqn.params["request"].call(eqn.invars[0].aval.dtype, platform)] = None
    return list(found)


# Measuring -----------------------------------------------------------------------------------------------
class Measured(NamedTuple):
    """Median seconds of each plan, and why others have none."""

    seconds: dict[str, float]
    left_out: dict[str, str]


def names_for(call: Call, limit: int) -> list[str]:
    """The plans to measure: those of the cheapest forecasts, `xla` where it covers the call, and what "auto" takes."""
    ranked = candidates(call)
    near = [plan.name for plan in ranked if model(call.platform) is None or plan.seconds <= PRUNE * ranked[0].seconds]
    xla = ["xla"] if refusal("xla", call) is None else []
    return list(dict.fromkeys([*near[:limit], *xla, select(call).name]))


def tolerance(call: Call) -> float:
    """How far a result may be from that of `xla`, in units of the largest element; 0 for integers.

    Sums of n products of random operands err by about sqrt(n) units of roundoff relative to the largest one, and the
    result is rounded once more. Algorithms that trade accuracy for products get a factor of 256. Accelerators
    multiply float32 in fewer digits by default, of which 8 are sure.
    """
    if call.is_integer:
        return 0.0
    unit = lambda dtype: float(jnp.finfo(dtype).eps) / 2
    products = math.prod(call.spec.output_shape) * math.prod(call.spec.kernel_shape[:-1])
    terms = max(1.0, products / math.prod(_primitive.shape_of(RESULT[call.role], call.spec)))
    exact = call.platform == "cpu" or set(_cache.precision_text(call.precision).split(",")) == {"highest"}
    once = max(unit(call.out_dtype), 0.0 if exact else 2.0**-8)
    return 4 * once + 256 * unit(call.accumulator) * math.sqrt(terms)


def _operands(call: Call) -> list[np.ndarray]:
    """Seeded operands; integers so small that no sum overflows 32 bits."""
    rng, found = np.random.default_rng(0), []
    for argument in OPERANDS[call.role]:
        shape = _primitive.shape_of(argument, call.spec)
        if call.is_integer:
            array = rng.integers(0, 4, shape)
        else:
            array = rng.standard_normal(shape)
            if jnp.issubdtype(call.dtype, jnp.complexfloating):
                array = array + 1j * rng.standard_normal(shape)
        found.append(array.astype(call.dtype))
    return found


def compiled(name: str, call: Call, operands: Sequence[jax.Array]) -> Callable[[], jax.Array]:
    """The call by one plan, compiled for the device that the operands are on."""
    plan = named_plan(name)
    request = Request(call.spec, call.role, Plans(plan, plan, plan), call.out_dtype, call.precision)
    executable = jax.jit(functools.partial(_primitive.bind, request=request)).lower(*operands).compile()
    return lambda: executable(*operands)


def _seconds(run: Callable[[], jax.Array], calls: int, queue: bool) -> float:
    """Mean seconds of a call. With `queue` the calls are handed over together, as a program would on an accelerator."""
    start, out = time.perf_counter(), None
    for _ in range(calls):
        out = run()
        if not queue:
            out.block_until_ready()
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / calls


def _error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference, in units of the largest element."""
    wide = np.result_type(want.dtype, np.float64) if want.dtype.kind in "fc" else np.float64
    got, want = got.astype(wide), want.astype(wide)
    with np.errstate(all="ignore"):
        return float(np.max(np.abs(got - want)) / (np.max(np.abs(want)) or 1.0))


def measure(call: Call, names: Sequence[str], rounds: int) -> Measured:
    """Median seconds of each of the named plans that agrees with `xla`, or where that is not among them with another
    exact one."""
    runs: dict[str, Callable[[], jax.Array]] = {}
    left_out: dict[str, str] = {}
    allowed, want = tolerance(call), None
    with keeps_64_bits(call.dtype, call.out_dtype):
        operands = [jax.device_put(array, _cache.this_device()) for array in _operands(call)]
        reference = ""
        for name in sorted(names, key=lambda name: (name != "xla", not named_plan(name).exact)):
            try:
                run = compiled(name, call, operands)
                got = np.asarray(run())
            except (jax.errors.JaxRuntimeError, NotImplementedError, MemoryError) as error:
                left_out[name] = f"fails: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}"
                if name == "xla":
                    return Measured({}, left_out)
                continue
            reference, want = (reference, want) if want is not None else (name, got)
            if not (error := _error(got, want)) <= allowed:
                left_out[name] = (
                    f"differs from {reference} by {error:.1e} of the largest element, where {allowed:.1e} may be"
                )
                continue
            runs[name] = run
        return Measured(interleaved(runs, rounds, queue=call.platform != "cpu"), left_out)


def interleaved(runs: dict[str, Callable[[], jax.Array]], rounds: int, queue: bool) -> dict[str, float]:
    """Median seconds of each run, in the order of `runs`."""
    first = {name: _seconds(run, 1, queue) for name, run in runs.items()}
    calls = {name: max(1, math.ceil(SAMPLE_SECONDS / max(first[name], 1e-7))) for name in runs}
    samples = {name: [_seconds(run, calls[name], queue)] for name, run in runs.items()}
    best = min(found[0] for found in samples.values())
    order, shuffle = [name for name in runs if samples[name][0] <= SLOW * best], random.Random(0).shuffle
    for _ in range(rounds - 1):
        shuffle(order)
        for name in order:
            samples[name].append(_seconds(runs[name], calls[name], queue))
    return {name: statistics.median(found) for name, found in samples.items()}


def fastest(seconds: dict[str, float]) -> str:
    """The plan of the least seconds; of those that are as fast but for noise the one with the fewest steps."""
    bound = (1 + TIE) * min(seconds.values())
    close = [name for name in seconds if seconds[name] <= bound]
    return min(close, key=lambda name: (name.count(SEPARATOR), name != "xla", seconds[name]))


def tuned(call: Call, limit: int, rounds: int) -> Tuned:
    """The record of one call, measured unless there is a reason to skip it."""
    measured, note = Measured({}, {}), ""
    if _cache.is_symbolic(call):
        note = "skipped, because its batch has no size yet; give arrays of the sizes that will run"
    elif call.spec.is_empty:
        note = "skipped, because there is nothing to compute"
    else:
        measured = measure(call, names_for(call, limit), rounds)
        note = "; ".join(f"{name} {why}" for name, why in measured.left_out.items())
    seconds = measured.seconds
    name = fastest(seconds) if seconds else select(call).name
    device = _cache.device_kind(_cache.this_device())
    best = seconds.get(name, math.nan)
    fields = (call.spec, call.role, call.dtype, name, best, seconds, device, call.out_dtype, call.precision)
    return Tuned(*fields, note)


def _measure_now(call: Call) -> None:
    """Tunes a call of this machine's first device and keeps what was found, while another program is being compiled.

    In a thread of its own, whose operations are computed where those of this one are traced.
    """
    if call.platform != _cache.platform_of(_cache.this_device()) or _cache.is_symbolic(call) or call.spec.is_empty:
        return
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        record = thread.submit(tuned, call, LIMIT, ROUNDS).result()
    if record.measured:
        date = datetime.date.today().isoformat()
        _cache.remember({call: _cache.Choice(record.name, record.seconds, record.measured, date)})


_select.MEASURE.append(_measure_now)


# Public --------------------------------------------------------------------------------------------------
def check_roles(roles: Any) -> tuple[Role, ...]:
    """`roles` as a tuple of them; ValueError for one that is none."""
    given = (roles,) if isinstance(roles, str) else roles
    if not is_sequence(given) or not len(given):
        raise ValueError(f"roles: got {roles!r}, accepted are some of {', '.join(map(repr, ROLES))}.")
    for role in given:
        if role not in ROLES:
            raise ValueError(f"roles: got {role!r}, {nearest(role, ROLES)}")
    return cast(tuple[Role, ...], tuple(given))


def as_dtype(dtype: Any) -> np.dtype:
    """`dtype` as one that is supported; TypeError in its name where it is none."""
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype: got {dtype!r}, which is none; {nearest(dtype, (*FLOATS, *INTEGERS))}") from None
    check_dtype(found, "dtype")
    return found


def _found(fn: Callable, args: Sequence[Any], roles: Sequence[Role], platform: str) -> list[Call]:
    calls = calls_in(jax.make_jaxpr(fn)(*args), platform)
    if not calls:
        raise ValueError(
            f"fn_or_spec: got {fn!r}, in which jax traces no convolution of jconv; accepted is one that has."
        )
    return [call for call in calls if call.role in roles]


@named
def tune(
    fn_or_spec: Callable[..., Any] | ConvSpec,
    *args: Any,
    roles: Role | Sequence[Role] = ROLES,
    dtype: Any = None,
    precision: Any = None,
    limit: int = LIMIT,
    rounds: int = ROUNDS,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Tunings:
    """Measures the algorithms on this machine's first device, and remembers the fastest for ``algorithm="tuned"``.

    For each role of a convolution, y = forward(x, kernel), x_bar = input_grad(g, kernel) and
    kernel_bar = kernel_grad(x, g), it measures the plans with the cheapest forecasts, `xla`, and what ``"auto"`` takes,
    on random operands. What differs from the result of `xla` by more than rounding explains is left out, and the
    record's `note` says so.

    The choices are kept in a file and hold for the shapes, dtypes and precision, the device, and the versions of
    jax, jaxlib and jconv that they were measured with. They are looked up when a call is compiled, and by every call
    outside jit: a jitted function that was compiled before keeps its algorithm until `jax.clear_caches`. With
    ``JCONV_TUNE=missing`` in the environment, ``"tuned"`` itself measures, and keeps, what is compiled and was not
    measured before. Processes that run one program together must read the same file, for they must compile the same.
    What is measured is a compiled call by itself, its dispatch included, which is most of a call under 0.1 ms.

    Args:
        fn_or_spec: a `ConvSpec`, or a function that convolves: a training step, say. Then every convolution that jax
            traces in it is tuned, of gradients too, inside jit, scan, cond or shard_map, whatever its `algorithm`.
        *args: the function's arguments, or `jax.ShapeDtypeStruct` in their place. None for a `ConvSpec`.
        roles: the roles to measure; others are left as they are.
        dtype: of the operands of a `ConvSpec`, by default float32. A function has its own.
        precision: for a `ConvSpec`, as for `conv`. A function has its own.
        limit: how many plans of the cheapest forecasts to measure for a call; beside them `xla` and ``"auto"``.
        rounds: samples of each plan, of 2 ms or one call; one far behind the best gets only the first.
        cache: the file to keep the choices in. By default ``$JCONV_CACHE``, else ``jconv/tuned.json`` in
            ``$XDG_CACHE_HOME`` or ``~/.cache``; that default is the file that ``"tuned"`` reads.
        progress: whether to print each record to standard error as it comes.

    Returns:
        A tuple of records with the spec (its batch axes in one), role, dtype, the fastest plan's name, its seconds, the
        seconds of all that were measured, and the device. A call that cannot be measured, one with a symbolic batch
        size, is skipped and its record says why. Printed, it is a table.

    Raises:
        ValueError: for an argument that does not fit, or a function without a convolution; the message names it.
        TypeError: for a dtype that `conv` does not take, or what is neither a function nor a `ConvSpec`.

    >>> import os, tempfile
    >>> file = os.path.join(tempfile.mkdtemp(), "tuned.json")
    >>> (record,) = tune(ConvSpec((4, 9, 3), (2, 3, 5)), roles="forward", limit=1, rounds=1, cache=file)
    >>> record.name in record.measured and "xla" in record.measured
    True

    References:
        Frigo and Johnson, "The design and implementation of FFTW3", 2005, whose planner measures and keeps its wisdom
        in a file.
    """
    roles = check_roles(roles)
    limit, rounds = integer(limit, "limit", minimum=1), integer(rounds, "rounds", minimum=1)
    if not isinstance(cache, str | os.PathLike | None) or cache == "":
        raise ValueError(f"cache: got {cache!r}, accepted is the path of a file, or None for the default.")
    platform = _cache.platform_of(_cache.this_device())
    if isinstance(fn_or_spec, ConvSpec):
        if args:
            raise ValueError(f"args: got {len(args)} of them beside a ConvSpec; accepted is none.")
        if any(isinstance(n, int) and n < 0 for n in fn_or_spec.batch_shape):
            raise ValueError(f"fn_or_spec: got {fn_or_spec}, accepted are batch axes of at least 0 elements.")
        dtype = as_dtype("float32" if dtype is None else dtype)
        calls = calls_of(fn_or_spec, roles, dtype, precision, platform)
    elif callable(fn_or_spec):
        for name, value in (("dtype", dtype), ("precision", precision)):
            if value is not None:
                raise ValueError(f"{name}: got {value!r} beside a function, which has its own; accepted is None.")
        calls = _found(fn_or_spec, args, roles, platform)
    else:
        raise TypeError(f"fn_or_spec: got {fn_or_spec!r}, accepted is a function or a jconv.ConvSpec.")
    records = []
    for call in calls:
        record = tuned(call, limit, rounds)
        if record.measured:
            date = datetime.date.today().isoformat()
            choice = _cache.Choice(record.name, record.seconds, record.measured, date)
            record = record._replace(file=_cache.remember({call: choice}, cache))
        records.append(record)
        if progress:
            print(f"{len(records)}/{len(calls)}  {str(record).splitlines()[2]}", file=sys.stderr, flush=True)
    return Tunings(records)
