"""`python -m benchmarks --device gpu`: layers at batches that fill a GPU, beside lax and PyTorch with cuDNN.

Needs jax with a GPU, and PyTorch with one where that is to be compared; nothing else. Figures are of the device: calls
are handed over one after the other without waiting, many enough for `SAMPLE_S`, and the time until the last one is done
is divided by their number. Where handing over alone takes most of that, the record says so ("dispatch"). Candidates run
in turns, in another order each round; a figure is the median of the rounds. Each result is compared with lax in full
precision first. float32 is what the libraries make of it by default: products of numbers rounded to 10 bits (tf32).

The layers come in the order of their interest, and none is begun when `--seconds` are over. What was measured so far is
on disk at any time.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

import jconv
from benchmarks import machine, report
from benchmarks.peers.base import OPERANDS, RESULT, Absent, NotExpressible, load, rounded
from benchmarks.peers.on_jax import lax_conv, options, role_of
from benchmarks.peers.pytorch import as_image, layouts_of, role_function
from benchmarks.workloads import Workload, flops
from jconv._algorithms.base import ROLES, Role

OUT = pathlib.Path(__file__).parent / "results"
DTYPES = ("float32", "bfloat16")
SAMPLE_S, ROUNDS = 0.02, 5
SLOW = 10.0  # times the best one: what takes longer is not measured again
TOLERANCE = {"float32": 2e-3, "bfloat16": 2e-2}  # of the norm of the result; tf32 has 10 bits
DISPATCH = 0.8  # of the time, from where handing over is what was measured


def _depthwise(name: str, x: tuple[int, ...], window: tuple[int, ...], origin: str, **geometry: Any) -> Workload:
    return Workload(name, origin, x, (*window, 1, x[-1]), {"feature_group_count": x[-1]} | geometry)


LAYERS = (
    _depthwise("mamba-conv", (8, 4096, 2048), (4,), "Mamba, arXiv:2312.00752", padding="CAUSAL"),
    _depthwise("conformer-conv", (32, 2048, 512), (31,), "Conformer, arXiv:2005.08100"),
    _depthwise("convnext-7x7", (64, 56, 56, 96), (7, 7), "ConvNeXt-T, arXiv:2201.03545"),
    _depthwise("convnext-7x7-14", (64, 14, 14, 384), (7, 7), "ConvNeXt-T, its third stage"),
    _depthwise("mobilenet-3x3", (64, 56, 56, 128), (3, 3), "MobileNet, arXiv:1704.04861"),
    _depthwise("mobilenetv2-3x3-s2", (64, 112, 112, 96), (3, 3), "MobileNetV2, arXiv:1801.04381", strides=2, padding=1),
    _depthwise("efficientnet-5x5-s2", (64, 28, 28, 240), (5, 5), "EfficientNet-B0, arXiv:1905.11946", strides=2,
               padding=2),
    _depthwise("video-depthwise", (8, 16, 56, 56, 48), (3, 3, 3), "CSN, arXiv:1904.02811"),
    _depthwise("hyena-short", (8, 8192, 768), (3,), "Hyena, arXiv:2302.10866", padding="CAUSAL"),
    _depthwise("dilated-depthwise", (16, 4096, 512), (7,), "Conv-TasNet, arXiv:1809.07454", kernel_dilation=16),
    Workload("fir-511", "a FIR filter of sound", (16, 64000, 1), (511, 1, 1), {}),
    Workload("wavenet-d64", "WaveNet, arXiv:1609.03499", (16, 8192, 64), (2, 64, 128),
             {"kernel_dilation": 64, "padding": "CAUSAL"}),
    Workload("resnext-g32", "ResNeXt-50, arXiv:1611.05431", (64, 56, 56, 256), (3, 3, 8, 256),
             {"feature_group_count": 32}),
    Workload("resnet-stem", "ResNet-50, arXiv:1512.03385", (64, 224, 224, 3), (7, 7, 3, 64),
             {"strides": 2, "padding": 3}),
    Workload("resnet-3x3", "ResNet-50", (64, 56, 56, 64), (3, 3, 64, 64), {}),
    Workload("resnet-1x1", "ResNet-50", (64, 56, 56, 64), (1, 1, 64, 256), {}),
    Workload("convnext-patch", "ConvNeXt-T", (64, 224, 224, 3), (4, 4, 3, 96), {"strides": 4, "padding": "VALID"}),
    Workload("video-3x3x3", "C3D, arXiv:1412.0767", (4, 16, 56, 56, 64), (3, 3, 3, 64, 64), {}),
    Workload("dcgan-up4", "DCGAN, arXiv:1511.06434", (64, 8, 8, 512), (4, 4, 512, 256),
             {"input_dilation": 2, "padding": 2}),
)  # fmt: skip


# Running -------------------------------------------------------------------------------------------------
class Run(NamedTuple):
    """A call that is handed over without waiting; how to wait for its result; and that in jconv's layout."""

    call: Callable[[], Any]
    wait: Callable[[Any], Any]
    array: Callable[[Any], jax.Array]
    facts: dict[str, Any]


def timed(run: Run, calls: int) -> tuple[float, float]:
    """Seconds of a call on the device, and of handing it over."""
    start, out = time.perf_counter(), None
    for _ in range(calls):
        out = run.call()
    handed = time.perf_counter()
    run.wait(out)
    return (time.perf_counter() - start) / calls, (handed - start) / calls


def on_jax(fn: Callable, operands: list[jax.Array], **facts: Any) -> Run:
    start = time.perf_counter()
    executable = jax.jit(fn).lower(*operands).compile()
    memory = executable.memory_analysis()
    facts["compile_s"] = rounded(time.perf_counter() - start)
    facts["workspace_bytes"] = int(memory.temp_size_in_bytes) if memory else None
    return Run(lambda: executable(*operands), jax.block_until_ready, lambda y: y, facts)


def role_function_of(conv: Callable, spec: jconv.ConvSpec, role: Role, dtype: str) -> Callable:
    """One role of a convolution function, as JAX derives it."""
    return role_of(conv, role, *(jax.ShapeDtypeStruct(shape, dtype) for shape in (spec.x_shape, spec.kernel_shape)))


def jconv_conv(spec: jconv.ConvSpec, role: Role, algorithm: str = "auto") -> Callable:
    """jconv's, with an algorithm for the role that is measured."""
    return functools.partial(jconv.conv, **options(spec), algorithm=jconv.Algorithms(**{role: algorithm}))


def on_torch(torch: Any, spec: jconv.ConvSpec, role: str, operands: list[jax.Array]) -> Run:
    """The faster of channels-first and channels-last, on the device and of the dtype of the operands."""
    flat, kind = as_image(spec), RESULT[role]
    layouts, compute = layouts_of(flat), role_function(torch, role, flat)
    shapes = {"x": flat.x_shape, "kernel": flat.kernel_shape, "g": flat.output_shape}
    own = {"x": spec.x_shape, "kernel": spec.kernel_shape, "g": spec.output_shape}[kind]
    arrays = {n: torch.from_dlpack(v) for n, v in zip(OPERANDS[role], operands, strict=True)}
    some = next(iter(arrays.values()))
    wait = (lambda _: torch.cuda.synchronize()) if some.is_cuda else (lambda _: None)

    def native(n: str, memory_format: Any) -> Any:
        none = torch.zeros(1, dtype=some.dtype, device=some.device)  # of what the role does not depend on
        tensor = arrays[n].reshape(shapes[n]) if n in arrays else none.expand(shapes[n])
        return tensor.flip(layouts[n].flip).permute(layouts[n].axes).contiguous(memory_format=memory_format)

    def back(y: Any) -> jax.Array:
        y = y.permute(tuple(int(axis) for axis in np.argsort(layouts[kind].axes))).flip(layouts[kind].flip)
        return jnp.from_dlpack(y.reshape(own).contiguous())

    last = torch.channels_last if flat.rank == 2 else torch.channels_last_3d
    tried: dict[str, tuple[float, Run]] = {}
    for name, memory_format in (("channels first", torch.contiguous_format), ("channels last", last)):
        given = {n: native(n, memory_format) for n in shapes}
        run = Run(functools.partial(compute, **given), wait, back, {"layout": name})
        run.wait(run.call())  # cuDNN tries its kernels
        tried[name] = min(timed(run, 3)[0] for _ in range(3)), run
    return min(tried.values(), key=lambda pair: pair[0])[1]


def interleaved(runs: Mapping[str, Run]) -> dict[str, dict[str, Any]]:
    """The figures of each run."""
    for run in runs.values():
        run.wait(run.call())
    first = {name: timed(run, 3)[0] for name, run in runs.items()}
    calls = {name: max(3, round(SAMPLE_S / max(first[name], 1e-6))) for name in runs}
    best, found = min(first.values()), {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(0).shuffle
    for i in range(ROUNDS):
        shuffle(order)
        for name in order:
            if i == 0 or first[name] < SLOW * best:
                found[name].append(timed(runs[name], calls[name]))
    figures = {}
    for name, samples in found.items():
        seconds, handed = (statistics.median(column) for column in zip(*samples, strict=True))
        figures[name] = {"ms": rounded(1e3 * seconds), "rounds": len(samples)}
        if handed > DISPATCH * seconds:
            figures[name]["dispatch_ms"] = rounded(1e3 * handed)
    return figures


@jax.jit
def difference(got: jax.Array, want: jax.Array) -> jax.Array:
    return jnp.linalg.norm((got.astype(jnp.float32) - want).ravel()) / jnp.linalg.norm(want.ravel())


def measure(
    workload: Workload, role: Role, dtype: str, torch: Any, names: list[str], limits: Mapping[str, float]
) -> list[dict[str, Any]]:
    """One record for each candidate of a layer, a role and a dtype."""
    spec = workload.spec
    shapes = {"x": spec.x_shape, "kernel": spec.kernel_shape, "g": spec.output_shape}
    keys = jax.random.split(jax.random.key(0), 2)
    operands = [
        jax.random.normal(key, shapes[n], jnp.float32).astype(dtype)
        for key, n in zip(keys, OPERANDS[role], strict=True)
    ]
    exact = [operand.astype(jnp.float32) for operand in operands]
    full = functools.partial(lax_conv(spec), precision=jax.lax.Precision.HIGHEST)
    want = jax.jit(role_function_of(full, spec, role, "float32"))(*exact)
    item = jnp.dtype(dtype).itemsize
    traffic = item * sum(int(np.prod(shape)) for shape in shapes.values())
    least = max(flops(spec) / limits[f"flops_per_s {dtype}"], traffic / limits["bytes_per_s"])
    cell = {"workload": workload.name, "role": role, "dtype": dtype}
    records, runs = [], {}

    def candidate(name: str, prepare: Callable[[], Run]) -> None:
        try:
            run = prepare()
            got = run.array(run.call())
        except Exception as error:  # of a library that does not take the layer, or a device without memory for it
            why = str(error).strip().splitlines() or [type(error).__name__]
            refused = isinstance(error, NotExpressible | ValueError) and name not in ("jconv", "lax")
            kind = "left out" if refused else "failed"
            records.append({"kind": kind, **cell, "candidate": name, "reason": why[0][:300]})
            return
        error = float(difference(got, want))
        if not error < TOLERANCE[dtype]:
            records.append({"kind": "wrong", **cell, "candidate": name, "error": error})
            return
        runs[name] = run._replace(facts=run.facts | {"error": rounded(error)})

    call = jconv.select_algorithm(
        spec.x_shape, spec.kernel_shape, role=role, dtype=dtype, platform="cuda", **options(spec)
    )
    derived = lambda conv: role_function_of(conv, spec, role, dtype)
    candidate("lax", lambda: on_jax(derived(lax_conv(spec)), operands))
    own = lambda: on_jax(derived(jconv_conv(spec, role)), operands, algorithm=call.name, reason=call.reason)
    candidate("jconv", own)
    for name in names:
        candidate(f"jconv:{name}", lambda name=name: on_jax(derived(jconv_conv(spec, role, name)), operands))
    if torch is not None:
        candidate("torch", lambda: on_torch(torch, spec, role, operands))
    for name, figures in interleaved(runs).items() if runs else ():
        share = rounded(1e3 * least / figures["ms"])
        facts = {"bytes": traffic, "flops": flops(spec), "limit_ms": rounded(1e3 * least), "of_limit": share}
        records.append({"kind": "layer", **cell, "candidate": name, **facts, **runs[name].facts, **figures})
    return records


def limits_of_device(n: int = 1 << 28, side: int = 8192) -> dict[str, float]:
    """What a copy moves, bytes read and written, and what products give, by jax."""
    found: dict[str, float] = {}
    copied = on_jax(lambda a: a + 1, [jnp.zeros(n, jnp.float32)])
    copied.wait(copied.call())
    found["bytes_per_s"] = 8 * n / min(timed(copied, 5)[0] for _ in range(3))
    for dtype in DTYPES:
        product = on_jax(jnp.matmul, [jnp.ones((side, side), dtype)] * 2)
        product.wait(product.call())
        found[f"flops_per_s {dtype}"] = 2 * side**3 / min(timed(product, 5)[0] for _ in range(3))
    return found


# Reporting -----------------------------------------------------------------------------------------------
Cells = dict[tuple[str, str, str], dict[str, dict[str, Any]]]


def cells_of(records: list[dict[str, Any]]) -> Cells:
    """The records of each layer, role and dtype, by candidate."""
    cells: Cells = {}
    for r in report.of_kind(records, "layer"):
        cells.setdefault((r["workload"], r["role"], r["dtype"]), {})[r["candidate"]] = r
    return cells


def text_of(records: list[dict[str, Any]]) -> str:
    """The figures in words and a table."""
    (e,), (limits,) = report.of_kind(records, "environment"), report.of_kind(records, "machine")
    names = [r["candidate"] for r in report.of_kind(records, "layer")]
    plans = sorted({n for n in names if n.startswith("jconv:")})
    depthwise = {w.name for w in LAYERS if w.spec.feature_group_count == w.spec.in_features > 1}
    lines = [
        f"# {e['device']}", "",
        f"jax {e['jax']}, {', '.join(f'{n} {v}' for n, v in e['libraries'].items())}, {e['date']}; written by "
        "`python -m benchmarks --device gpu`. Milliseconds of the device; *of limit* is the time that the memory or "
        "the product units would need over that of jconv.", "",
        f"Measured limits: {limits['bytes_per_s'] / 1e12:.2f} TB/s in a copy, read and written; "
        + ", ".join(f"{limits[f'flops_per_s {d}'] / 1e12:.0f} TFLOP/s in a product in {d}" for d in DTYPES) + ".", "",
    ]  # fmt: skip
    cells = cells_of(records)
    for other in ("lax", "torch"):
        for what, keep in (
            ("all layers", lambda key: True),
            ("depthwise layers, forward and input gradient", lambda k: k[0] in depthwise and k[1] != "kernel_grad"),
            ("depthwise layers, kernel gradient", lambda k: k[0] in depthwise and k[1] == "kernel_grad"),
        ):
            found = [r for key, cell in cells.items() if keep(key) and (r := report.ratio(cell, other)) is not None]
            if found:
                lines.append(
                    f"- {other}'s time over jconv's, {what}: geometric mean {report.geometric_mean(found):.2f} of "
                    f"{len(found)}, least {min(found):.2f}"
                )
    rows = []
    for (workload, role, dtype), cell in cells.items():
        mine = cell.get("jconv", {})
        times = [report.milliseconds(cell.get(n, {}).get("ms")) for n in ("jconv", "lax", "torch", *plans)]
        share = report.share(mine.get("of_limit"))
        rows.append([workload, role, dtype, mine.get("algorithm", ""), *times, share])
    head = ["layer", "role", "dtype", "plan", "jconv", "lax", "PyTorch", *(n.partition(":")[2] for n in plans)]
    lines += ["", *report.markdown([*head, "of limit"], rows, words=4)]
    for kind in ("wrong", "failed"):
        for r in report.of_kind(records, kind):
            what = r.get("reason") or f"error {r['error']:.2g}"
            lines.append(f"\n{kind}: {r['candidate']} {r['workload']} {r['role']} {r['dtype']}: {what}")
    for r in report.of_kind(records, "not reached"):
        lines.append(f"\nTime was up before {len(r['cells'])} cells: {', '.join(r['cells'])}.")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks --device gpu", description=__doc__)
    parser.add_argument("--device", choices=["gpu"], required=True)
    parser.add_argument("--seconds", type=float, default=540.0, help="no cell is begun after (default: %(default)s)")
    parser.add_argument("--only", metavar="NAME", nargs="+", help="part of the names of layers")
    parser.add_argument("--plans", nargs="*", default=["pallas", "pallas2", "pallas16", "shift"], metavar="PLAN",
                        help="also these by name (default: %(default)s)")  # fmt: skip
    parser.add_argument("--out", type=pathlib.Path, default=OUT, help="folder for DEVICE.jsonl and DEVICE.md")
    args = parser.parse_args(argv)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too
    device, begun = jax.devices()[0], time.perf_counter()
    if device.platform != "gpu":
        parser.error(f"--device: jax has no GPU here, its device is {device.device_kind}")
    return run(args, device.device_kind, begun)


def run(args: argparse.Namespace, kind: str, begun: float) -> int:
    """Measures, writes and prints; 1 where a result was wrong, or jconv gave none."""
    torch: Any = None
    try:
        torch = load("torch")
        if not torch.cuda.is_available():
            torch = None
        else:
            torch.backends.cudnn.benchmark = True
    except Absent:
        pass
    stem = args.out / re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")
    records: list[dict[str, Any]] = [machine.environment(), {"kind": "machine"} | limits_of_device()]
    if torch is None:
        records.append({"kind": "absent", "candidate": "torch", "reason": "not installed, or without a GPU"})
    wanted = [w for w in LAYERS if not args.only or any(part in w.name for part in args.only)]
    cells: list[tuple[Workload, Role, str]] = [(w, role, dtype) for w in wanted for dtype in DTYPES for role in ROLES]
    keep = lambda: report.write(stem.with_suffix(".jsonl"), "".join(json.dumps(r) + "\n" for r in records))
    for number, (workload, role, dtype) in enumerate(cells):
        if time.perf_counter() - begun > args.seconds:
            left = [" ".join((w.name, r, d)) for w, r, d in cells[number:]]
            records.append({"kind": "not reached", "cells": left})
            break
        records += measure(workload, role, dtype, torch, args.plans, records[1])
        keep()
        print(f"{number + 1}/{len(cells)} {workload.name} {role} {dtype}", file=sys.stderr, flush=True)
    keep()
    text = text_of(records)
    report.write(stem.with_suffix(".md"), text)
    print(text)
    print(f"written: {stem}.jsonl, {stem}.md")
    failed = [r for r in report.of_kind(records, "failed") if r["candidate"] == "jconv"]
    return 1 if failed or report.of_kind(records, "wrong") else 0
