"""The benchmark: its sampled check against the oracle, one cell measured, and what it writes."""

import argparse
import json
import math
import time

import numpy as np
import pytest

import jconv
from benchmarks import __main__ as command
from benchmarks import between, check, finish, gpu, harness, networks, report, whole, workloads
from benchmarks.peers import NotExpressible, on_jax
from benchmarks.peers.base import OPERANDS, Layout, Prepared, rounded
from benchmarks.steps import models

pytestmark = pytest.mark.standard_modes  # what is measured is measured as it is used

GEOMETRIES = {
    "plain": ((2, 7, 6, 3), (3, 3, 3, 4), {}),
    "strided": ((2, 9, 8, 2), (3, 4, 2, 3), {"strides": 2, "padding": 1}),
    "groups": ((2, 6, 5, 4), (3, 3, 2, 6), {"feature_group_count": 2}),
    "depthwise": ((2, 6, 5, 4), (3, 3, 1, 8), {"feature_group_count": 4}),
    "causal": ((2, 19, 2), (3, 2, 3), {"padding": "CAUSAL", "kernel_dilation": 4}),
    "transposed": ((2, 5, 4, 3), (4, 4, 3, 2), {"input_dilation": 2, "padding": 2}),
    "volume": ((1, 4, 5, 6, 2), (2, 3, 1, 2, 3), {}),
}
ONCE = harness.QUICK._replace(rounds=2, sample_s=0.0, limit_s=math.inf)
MACHINE = {"flops_per_s": 1e11, "bytes_per_s": 1e10}
TINY = workloads.Workload("tiny", "none", (2, 6, 6, 3), (3, 3, 3, 4), {})


def operands(role, spec):
    rng = np.random.default_rng(0)
    shapes = {"x": spec.x_shape, "kernel": spec.kernel_shape, "g": spec.output_shape}
    return [rng.standard_normal(shapes[n], np.float32) for n in OPERANDS[role]]


@pytest.mark.parametrize("role", harness.ROLES)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_sampled_elements_are_those_of_the_oracle(name, role):
    x, kernel, options = GEOMETRIES[name]
    spec = jconv.ConvSpec(x, kernel, **options)
    a, b = operands(role, spec)
    sample = check.sampled(role, spec, a, b)
    np.testing.assert_allclose(sample.values, check.oracle_of(role, spec, a, b)[sample.where], atol=1e-12)
    sizes = check.oracle_of(role, spec, np.abs(a), np.abs(b))[sample.where]
    np.testing.assert_allclose(sample.sizes, sizes, atol=1e-12)


def test_workloads_are_named_once_and_have_an_origin():
    names = [w.name for w in workloads.WORKLOADS]
    assert len(names) == len(set(names)) >= 16
    assert all(w.origin and workloads.flops(w.spec) > 0 and workloads.traffic(w.spec) > 0 for w in workloads.WORKLOADS)


def test_flops_of_a_transposed_convolution_leave_out_the_zeros():
    spec = jconv.ConvSpec((1, 8, 1), (2, 1, 1), input_dilation=2, padding=1)
    assert spec.output_shape == (1, 16, 1)
    assert workloads.flops(spec) == 2 * 16  # each output has one tap on an element


def test_a_layout_there_and_back():
    a = np.arange(24).reshape(2, 3, 4)
    layout = Layout((2, 0, 1), (1,))
    np.testing.assert_array_equal(layout.back(layout.to(a)), a)
    assert layout.to(a).shape == (4, 2, 3)


@pytest.mark.parametrize("role", harness.ROLES)
def test_a_cell_is_measured(role, monkeypatch):
    monkeypatch.setattr(harness, "SLOW_S", math.inf)
    found = harness.measure(TINY, role, [on_jax.jconv_peer(), on_jax.lax_peer()], ONCE, MACHINE)
    assert [r["candidate"] for r in found] == ["jconv", "lax"]
    chosen = jconv.select_algorithm(TINY.x, TINY.kernel, role=role, algorithm="portable")
    assert (found[0]["algorithm"], found[0]["reason"]) == chosen
    for r in found:
        assert r["kind"] == "layer"
        assert r["rounds"] == 2
        assert r["error"] < check.TOLERANCE
        assert 0 < r["ms_q1"] <= r["ms"] <= r["ms_q3"]
        assert min(r["compile_s"], r["lower_s"]) > 0
        least_s = max(r["flops"] / MACHINE["flops_per_s"], r["bytes"] / MACHINE["bytes_per_s"])
        assert r["roofline"] == pytest.approx(least_s * 1e3 / r["ms"], rel=1e-4)
        assert r["workspace_bytes"] >= 0


class Odd:
    """A peer that is wrong, or has no such layer."""

    def __init__(self, name):
        self.name = name

    def prepare(self, role, spec, operands):
        if self.name == "lacking":
            raise NotExpressible("no layer")
        return Prepared(lambda: np.zeros(spec.output_shape), lambda result: result, {})


def test_what_is_wrong_or_lacking_is_said_and_not_timed():
    wrong, lacking = harness.measure(TINY, "forward", [Odd("wrong"), Odd("lacking")], ONCE, MACHINE)
    assert wrong["kind"] == "wrong"
    assert "ms" not in wrong
    assert lacking["kind"] == "left out"
    assert lacking["reason"] == "no layer"


def test_an_algorithm_that_does_not_cover_a_call_is_left_out(monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("algorithm: 'x' does not cover forward")

    monkeypatch.setattr(jconv, "conv", refuse)
    (found,) = harness.measure(TINY, "forward", [on_jax.jconv_peer()], ONCE, MACHINE)
    assert found["kind"] == "left out"


def test_a_cell_behind_lax_is_measured_again(monkeypatch):
    calls = []
    speeds = {"jconv": 0.5, "jconv+": 2.0, "lax": 1.0, "torch": 3.0, "flax": 4.0, "haiku": 1.0}

    def interleave(runs, first, effort):
        calls.append((set(runs), effort.rounds))
        return {name: [speeds[name] * 1e-3] * effort.rounds for name in runs}

    monkeypatch.setattr(harness, "interleave", interleave)
    runs = {name: (lambda: None) for name in speeds}
    found = harness.measured(runs, dict.fromkeys(runs, 0.0), harness.FULL)
    assert calls == [(set(runs), 15), (set(harness.PRINCIPAL), 30)]
    assert found["jconv"]["rounds"] == 45
    assert [look["rounds"] for look in found["jconv"]["looks"]] == [15, 30]
    assert "looks" not in found["haiku"]


def test_a_slow_call_gets_the_least_rounds():
    counts = {"jconv": 0, "haiku": 0}
    runs = {name: (lambda name=name: counts.update({name: counts[name] + 1})) for name in counts}
    found = harness.interleave(runs, dict.fromkeys(counts, 2.0), harness.FULL)
    assert counts == {"jconv": 2, "haiku": 0}  # beside the call already made
    assert {name: len(s) for name, s in found.items()} == {"jconv": 3, "haiku": 1}


def test_a_long_call_does_not_cost_a_quick_one_its_rounds(monkeypatch):
    now, took = [0.0], {"long": 0.6, "quick": 0.01}
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])
    runs = {name: (lambda s=s: now.__setitem__(0, now[0] + s)) for name, s in took.items()}
    found = harness.interleave(runs, took, harness.FULL)
    monkeypatch.undo()
    assert {name: len(samples) for name, samples in found.items()} == {"long": 3, "quick": 15}
    assert {name: np.median(samples) for name, samples in found.items()} == pytest.approx(took)


def fake(workload, role, candidate, ms):
    compiled = {"lower_s": 0.1, "compile_s": 0.1, "workspace_bytes": 0}
    more = {"algorithm": "xla", "reason": ""} if candidate == "jconv" else {}
    cell = {"workload": workload, "role": role, "candidate": candidate, "ms": ms, "roofline": 0.5}
    return {"kind": "layer", **cell, **more, **(compiled if candidate != "torch" else {})}


RECORDS = [
    {"kind": "environment", "platform": "cpu", "device": "a machine", "cores": 2, "jax": "1", "jaxlib": "1",
     "python": "3", "date": "today", "libraries": {"torch": "2"}},
    {"kind": "machine", **MACHINE},
    {"kind": "absent", "candidate": "keras", "reason": "keras: No module named 'keras'"},
    *(fake("layer", role, who, ms) for role in harness.ROLES for who, ms in (("jconv", 2.0), ("lax", 4.0), ("torch", 1.0))),
    *(fake("other", "forward", who, ms) for who, ms in (("jconv", 4.0), ("jconv+", 1.0), ("lax", 2.0))),
    {"kind": "step", "network": "net", "candidate": "jconv", "ms": 1.0},
]  # fmt: skip


def test_summary_counts_and_names_the_cells_behind():
    text = "\n".join(report.summary(RECORDS))
    assert "lax's time over jconv's: 1.41 over 4 layers and roles" in text
    assert "Below 0.95 of lax: 1: other forward (0.50)." in text
    assert "PyTorch's time over jconv's: 0.50 over 3" in text
    assert "Below 0.4 of PyTorch: 0." in text
    assert "lax's time over that of jconv with plug-ins: 2.00 over 1 layers and roles" in text


@pytest.mark.parametrize(
    ("measured", "shown"), [(1.234567e-5, "1.2e-05"), (0.004321, "0.0043"), (0.5, "0.5"), (1.23, "1.2")]
)
def test_small_shares_keep_their_digits(measured, shown):
    assert rounded(measured) == pytest.approx(measured, rel=1e-5)
    records = [record | ({"roofline": rounded(measured)} if record["kind"] == "layer" else {}) for record in RECORDS]
    rows = [line.split(" | ") for line in report.layer_table(records)]
    assert {row[rows[0].index("roofline: jconv")] for row in rows[2:]} == {shown}


def test_report_names_who_is_absent():
    text = report.full_report(RECORDS)
    assert "Absent: keras" in text
    assert "100 GFLOP/s" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith(("| layer", "| other"))}
    assert len(widths) == 1


def test_picture_is_drawn(tmp_path):
    report.picture(RECORDS, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_readme_is_rewritten_between_its_markers():
    part = report.readme_part(RECORDS, "a.png")
    once = report.rewrite(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", part)
    assert "old" not in once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "| layer | forward | xla 2 | 2.00 | 0.50 |   |  |  |" in once
    assert report.rewrite(once, part) == once
    with pytest.raises(ValueError, match="markers|accepted"):
        report.rewrite("no such lines", part)


def test_readme_has_the_markers():
    report.rewrite((command.ROOT / "README.md").read_text(), "")


def test_results_are_kept_from_the_first_and_named_at_the_end(tmp_path):
    results = command.Results(tmp_path / "cpu.jsonl")
    results.add([{"kind": "machine"}])
    assert not results.path.exists()
    assert json.loads(results.partial.read_text()) == {"kind": "machine"}
    results.finish()
    assert report.read(results.path) == [{"kind": "machine"}]
    assert not results.partial.exists()


def test_initial_values_follow_the_layers():
    body = (networks.Conv(4, 1), networks.Norm(), networks.Skip((networks.MaxPool(), networks.Up(3))))
    layers = (networks.Conv(5, 3, padding=1, bias=True), networks.Relu(), *body, networks.Conv(2, 1))
    values = models.initial_values(networks.Network("tiny", "none", (2, 4, 4, 1), layers, (4, 4), 2))
    shapes = [{name: v.shape for name, v in value.items()} for value in values]
    assert shapes == [
        {"kernel": (3, 3, 1, 5), "bias": (5,)},
        {"kernel": (1, 1, 5, 4)},
        {"scale": (4,), "bias": (4,)},
        {"kernel": (2, 2, 3, 4)},
        {"kernel": (1, 1, 7, 2)},
    ]
    assert len(values) == len(list(networks.with_parameters(layers)))


def test_a_bias_and_relu_are_measured_both_ways(monkeypatch):
    monkeypatch.setattr(finish, "WORKLOADS", [TINY])
    found = finish.measure("tiny", ONCE)
    assert {"lax", "jconv", "jconv as part"} <= {r["candidate"] for r in found}
    table = "\n".join(report.other_tables(found))
    assert "| tiny |" in table
    assert "| jconv as part |" in table


def test_the_benchmark_of_gpus(tmp_path, monkeypatch, capsys):
    """All of it but the device: jconv, lax and PyTorch on arrays that they share, each compared with lax."""
    torch = pytest.importorskip("torch")
    layers = (
        gpu._depthwise("causal", (2, 64, 8), (4,), "none", padding="CAUSAL"),
        workloads.Workload("up", "none", (1, 8, 8, 5), (4, 4, 5, 3), {"input_dilation": 2, "padding": 2}),
    )
    limits = {"bytes_per_s": 1e10, "flops_per_s float32": 1e11, "flops_per_s bfloat16": 1e11}
    for name, value in (("LAYERS", layers), ("SAMPLE_S", 0.0), ("limits_of_device", lambda: limits)):
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    arguments = argparse.Namespace(out=tmp_path, only=None, plans=["shift", "winograd4"], seconds=100.0)
    assert gpu.run(arguments, "NVIDIA H200", time.perf_counter()) == 0
    records = report.read(tmp_path / "nvidia-h200.jsonl")
    cells = {(r["workload"], r["role"], r["dtype"]) for r in records if r["kind"] == "layer"}
    assert len(cells) == 2 * 3 * 2
    for cell in cells:
        there = {
            r["candidate"] for r in records if r["kind"] == "layer" and (r["workload"], r["role"], r["dtype"]) == cell
        }
        assert there == {"jconv", "lax", "torch", "jconv:shift"}
    refused = [r for r in records if r["kind"] == "left out"]
    assert {r["candidate"] for r in refused} == {"jconv:winograd4"}
    text = (tmp_path / "nvidia-h200.md").read_text()
    assert "depthwise layers, kernel gradient: geometric mean" in text
    assert text in capsys.readouterr().out
    arguments.seconds = -1.0
    gpu.run(arguments, "NVIDIA H200", time.perf_counter())
    assert "Time was up before 12 cells: causal forward float32" in (tmp_path / "nvidia-h200.md").read_text()


def test_layers_of_the_benchmark_of_gpus():
    assert len({w.name for w in gpu.LAYERS}) == len(gpu.LAYERS) >= 16
    with pytest.raises(SystemExit):
        gpu.main(["--device", "gpu"])


def test_whole_networks_and_what_stands_between(monkeypatch):
    """Every candidate gives what the others give, and the tables have their ratios."""
    monkeypatch.setattr(whole.shutil, "which", lambda name: None)  # compiling takes PyTorch minutes
    monkeypatch.setattr(between, "SHAPE", (2, 6, 6, 64))
    found = [r for mode in whole.MODES for r in whole.measure("lenet5", mode, ONCE)]
    found += [
        r for name in between.OPERATIONS for backward in (False, True) for r in between.measure(name, backward, ONCE)
    ]
    assert not report.of_kind(found, "wrong")
    assert report.ratio_table(found, "none", ("name", "pass")) == []
    table = "\n".join(report.ratio_table(found, whole.NAME, ("network", "mode")))
    assert "| lenet5 | training |" in table
    assert "| geometric mean | inference |" in table
    assert "lax / jconv" in table
    table = "\n".join(report.ratio_table(found, between.NAME, ("operation", "pass")))
    assert "| max pool 2×2 | forward and backward |" in table
