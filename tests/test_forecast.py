"""The forecasts: fitted, not edited; near the best plan of what was measured; and of machines that differ."""

import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jconv
from benchmarks import fit
from benchmarks.survey import read
from jconv import _cache, _forecast, _select
from jconv._algorithms.base import ROLES, Call
from jconv._forecast import model, near, stored
from jconv._forecast.work import Convolution, Copy, Launch, Loop, Product, Transform, Work
from jconv._plan import named_plan

FLOAT32 = np.dtype("float32")
ROOT = pathlib.Path(__file__).parent.parent
FOLDS = 2
BOUNDS = {"cpu": (1.02, 2.0), "cuda": (1.06, 1.6)}  # of the mean, and of the worst of those over 100 us
PRICES_ALONE = {"cpu": 1.18, "cuda": 1.10}
UNSEEN = {"cpu": 1.22, "cuda": 1.20}  # in two halves
surveyed = functools.cache(fit.surveyed)


@functools.cache
def command(platform):
    """What ``python -m benchmarks fit --check`` says; in one thread, in which it is done sooner beside other tests."""
    args = ["fit", "--check", "--folds", str(FOLDS), "--show", "0", "--platform", platform]
    env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *args], check=False, cwd=ROOT, env=env, capture_output=True, text=True
    )


@pytest.mark.parametrize("platform", sorted(stored()))
def test_the_file_is_what_the_fit_writes_and_unseen_layers_have_little_regret(platform):
    done = command(platform)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"layers left out.*: (\d+) calls, regret ([\d.]+)", done.stdout)
    assert found
    for calls, regret in found:
        assert int(calls) == len(surveyed(platform)[1])
        assert float(regret) <= UNSEEN[platform]


def test_a_price_that_is_edited_is_found_out():
    entry, calls = surveyed("cpu")
    kept = stored()["cpu"]
    found = entry | {"prices": kept["prices"], "near": kept["near"]}
    assert fit.same(kept, found, calls)
    edited = {dtype: dict(own) for dtype, own in kept["prices"].items()}
    edited["float32"]["plain product: multiply-adds"] *= 1.5
    assert not fit.same(kept, found | {"prices": edited}, calls)
    assert not fit.same(kept, found | {"margin": 1.01}, calls)
    assert not fit.same(kept | {"near": kept["near"] | {"length": 3.0}}, found, calls)
    lines = {key: [f"{line}0" for line in own] for key, own in kept["near"]["calls"].items()}
    assert not fit.same(kept | {"near": kept["near"] | {"calls": lines}}, found, calls)


@pytest.mark.parametrize(("platform", "without"), [("cpu", ""), ("cpu", "onednn"), ("cuda", "")])
def test_the_regret_on_what_was_measured_is_bounded(platform, without):
    found = [fit.regret(call, model(platform), without) for call in surveyed(platform)[1]]
    # No call is known then, so each plan has the margin twice.
    alone = dataclasses.replace(model(platform), near={}, margin=math.sqrt(model(platform).margin))
    assert fit.mean(fit.regret(call, alone, without).ratio for call in surveyed(platform)[1]) <= PRICES_ALONE[platform]
    mean, worst = BOUNDS[platform]
    assert fit.mean(r.ratio for r in found) <= mean
    assert max(r.ratio for r in found if r.seconds > 1e-4) <= worst


def test_on_gpu_the_plans_are_faster_than_lax_and_none_is_slower():
    gains = [fit.regret(call, model("cuda")).lax for call in surveyed("cuda")[1]]
    assert fit.mean(gains) >= 2.0
    assert min(gains) >= 0.95


def test_the_fit_finds_prices_that_made_the_times():
    """Times made of known prices, with noise: the prices come back."""
    rng = np.random.default_rng(0)
    x = rng.lognormal(0, 2, (400, 5)) * (rng.random((400, 5)) < 0.6)
    x[:, 0] += 1.0
    true = np.array([3e-6, 1e-9, 5e-8, 0.0, 2e-7])
    t = (x @ true) * rng.lognormal(0, 0.05, 400)
    p = fit.Problem(list("abcde"), x, t, np.ones(400), np.arange(400) // 20)
    found = fit.solve(p, np.full(5, 1e-8), np.full(5, 1e-6), rounds=30)
    assert found[[0, 2, 4]] == pytest.approx(true[[0, 2, 4]], rel=0.1)
    assert found[3] <= 1e-9


# Models --------------------------------------------------------------------------------------------------
STEPS = (
    Product(100, 20, 30),
    Loop(1e6, 32),
    Copy(1e6, 1e3),
    Transform(1e7, 1024),
    Launch(3),
    Convolution(jconv.ConvSpec((2, 16, 16, 8), (3, 3, 8, 8)), "forward"),
    Convolution(jconv.ConvSpec((2, 16, 16, 8), (3, 3, 2, 8), feature_group_count=4), "kernel_grad"),
    Convolution(jconv.ConvSpec((2, 16, 16, 8), (3, 3, 1, 8), feature_group_count=8), "input_grad"),
)


@pytest.mark.parametrize("platform", sorted(stored()))
@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "bfloat16", "float16", "complex64", "complex128", "int8", "int32"]
)
def test_every_step_has_a_price_that_grows_with_the_work(platform, dtype):
    prices = model(platform)
    for step in STEPS:
        once = prices.price((step,), jnp.dtype(dtype))
        assert math.isfinite(once)
        assert once > 0, step
        assert prices.price((step * 3,), jnp.dtype(dtype)) > 1.2 * once, step
        assert prices.price((step, step), jnp.dtype(dtype)) == pytest.approx(2 * once)


def test_a_kind_that_no_survey_had_costs_what_the_plain_one_does():
    prices = model("cpu")
    strange, plain = (prices.price((Copy(1e6, 10, kind),), FLOAT32) for kind in ("of a stranger", "plain"))
    assert strange == plain > 0


def test_work_adds_up():
    work = Work((Launch(2),), 100) + Work((Copy(8.0, 2.0),), 50) * 3
    assert work == Work((Launch(2), Copy(8.0, 2.0, times=3)), 150)
    call = Call(jconv.ConvSpec((4, 8, 20, 20, 8), (3, 3, 3, 8, 8)), "forward", FLOAT32, FLOAT32, None, "cpu")
    counts = model("cpu").counts(named_plan("unfold+matmul").work(call), FLOAT32)
    assert any(name.startswith("unfold copy") for name in counts)
    assert any(name.startswith("plain product") for name in counts)


@pytest.mark.parametrize("role", ROLES)
def test_what_is_forecast_is_the_price_of_the_plans_work(role):
    """By recursion for all plans at once, and plan by plan."""
    call = Call(
        jconv.ConvSpec((4, 20, 20, 12), (3, 3, 3, 24), feature_group_count=4), role, FLOAT32, FLOAT32, None, "cpu"
    )
    prices = _select.forecaster("cpu")
    near = prices.factors(call.spec, FLOAT32, role)
    for found in _select.plans(call):
        work = found.plan.work(call)
        assert found.workspace == work.workspace
        want = prices.price(work.steps, FLOAT32) + prices.held(work.workspace, _select.result_bytes(call), FLOAT32)
        assert found.seconds == pytest.approx(want * near.get(found.name, 1.0))


def test_what_is_near_corrects_and_what_is_far_does_not():
    """By the formula, with three calls at hand; one that is nearly the same tells nearly its own error."""
    conv = lambda n, c, **options: jconv.ConvSpec((8, n, n, c), (3, 3, c, c), **options)
    errors = [(conv(28, 64), {0: 0.5}), (conv(56, 64), {0: 0.1, 1: -0.3}), (conv(28, 64, strides=2), {1: 9.0})]
    known = near.Near([near.line_of(*pair) for pair in errors], ["xla", "matmul"], 2.0, 0.1)
    told = known.factors(conv(28, 64))
    w = [1.0, math.exp(-4 / 8), math.exp(-(2**2) / 8)]  # the image is four times as large; two strides of two
    assert told["xla"] == pytest.approx(math.exp((0.5 + 0.1 * w[1]) / (1 + w[1] + 0.1)), rel=0.02)
    most = math.log(2) * near.MOST / near.UNIT
    assert told["matmul"] == pytest.approx(math.exp((-0.3 * w[1] + most * w[2]) / (w[1] + w[2] + 0.1)), rel=0.03)
    alone = near.Near([near.line_of(*errors[0])], ["xla"], 1.0, 0.1)
    assert alone.factors(conv(28, 64))["xla"] == pytest.approx(math.exp(0.5 / 1.1), rel=0.02)
    deep = jconv.ConvSpec((8, 28, 28, 64), (3, 3, 1, 64), feature_group_count=64)
    flat = jconv.ConvSpec((8, 784, 64), (3, 64, 64))
    assert alone.factors(conv(28, 2048))["xla"] == pytest.approx(1.0)
    for other in (deep, flat):  # of other kinds, in which nothing was measured
        assert alone.factors(other) == {}
    (batch,) = jax.export.symbolic_shape("b")
    assert alone.factors(conv(28, 64).replace(x_shape=(batch, 28, 28, 64))) == {}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_on_gpu_xla_is_not_asked_for_what_its_library_does_not_know(platform, role):
    for spec, dtype in (
        (jconv.ConvSpec((2, 5, 5, 5, 5, 3), (2, 2, 2, 2, 3, 4)), "float32"),
        (jconv.ConvSpec((2, 8, 8, 3), (3, 3, 3, 4)), "int8"),
        (jconv.ConvSpec((2, 8, 8, 4), (3, 3, 1, 4), feature_group_count=4), "int32"),
    ):
        call = Call(spec, role, jnp.dtype(dtype), jnp.dtype(dtype), None, platform)
        taken = _select.select(call).plan
        assert taken.refusal(call) is None
        assert taken.name != "xla"
        assert "libraries of GPUs" in (named_plan("xla").refusal(call) or "")


# This machine --------------------------------------------------------------------------------------------
def test_a_machine_of_other_rates_has_other_prices(tmp_path, monkeypatch):
    """Ten times slower products, everything else the same: plans of few products are taken instead."""
    monkeypatch.setenv("JCONV_CACHE", str(tmp_path / "kept.json"))
    _cache.forget()
    _select.forecaster.cache_clear()
    call = Call(jconv.ConvSpec((4, 56, 56, 64), (3, 3, 64, 64)), "kernel_grad", FLOAT32, FLOAT32, None, "cpu", True)
    before, fitted = _select.select(call), model("cpu")
    assert fitted.name in before.reason
    rates = {dtype: dict(own) for dtype, own in fitted.rates.items()}
    rates["float32"]["matrix"] *= 10
    try:
        _cache.remember({}, rates=rates)
        _select.forecaster.cache_clear()
        slower = _select.forecaster("cpu")
        assert slower.name.endswith("calibrated")
        product, copy = (Product(500, 500, 500),), (Copy(1e6),)
        assert slower.price(product, FLOAT32) > 3 * fitted.price(product, FLOAT32)
        assert slower.price(copy, FLOAT32) == fitted.price(copy, FLOAT32)
        assert "calibrated" in _select.select(call).reason
        kept = json.loads((tmp_path / "kept.json").read_text())
        assert kept["rates"] == {_cache.environment(jax.local_devices()[0]): rates}
    finally:
        _cache.forget()
        monkeypatch.delenv("JCONV_CACHE")
        _select.forecaster.cache_clear()
    assert _select.select(call) == before
    assert _forecast.model("tpu") is None


def test_on_gpu_auto_takes_what_was_measured():
    """In the surveyed calls: of what was measured there, or `pallas`, in whose place a trial was; never an untried plan."""
    for record in read(fit.FOLDER / "h200.jsonl"):
        name = _select.select(fit.call_of(record, "cuda")).name
        assert name in (*record["ms"], "xla", "pallas"), (record["layer"], record["role"], name)


def test_what_was_never_measured_has_the_margin_twice():
    model = _forecast.model("cuda")
    spec = jconv.ConvSpec((8, 512, 64), (4, 1, 64), feature_group_count=64)
    near = model.factors(spec, np.dtype("float32"), "forward")
    assert {"shift", "pallas"} <= set(near)  # of depthwise convolutions along one axis
    assert "fold+unfold+xla" not in near
    margins = [model.margin_of(name, near) for name in ("xla", "shift", "fold+unfold+xla")]
    assert margins == [1.0, model.margin, model.margin**2]
