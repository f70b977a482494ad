"""Measured choices: the fastest wins, is kept whole under every accident to its file, and is what runs."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

import jconv
from jconv import _cache, _select, _tune
from jconv._algorithms.base import ROLES, Call
from jconv._plan import Plan
from tests.cases import CASES

SPEC = jconv.ConvSpec((2, 9, 3), (3, 3, 4))
SHAPES = SPEC.x_shape, SPEC.kernel_shape
QUICK = {"limit": 2, "rounds": 2}
ONCE = {"limit": 1, "rounds": 1}


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """A cache of its own for each test, in the file and in memory."""
    path = tmp_path / "caches" / "tuned.json"
    monkeypatch.setenv("JCONV_CACHE", str(path))
    _cache.forget()
    yield path
    _cache.forget()


def call_of(spec=SPEC, role="forward", dtype="float32", precision=None, platform="cpu"):
    return _tune.calls_of(spec, [role], dtype, precision, platform)[0]


def choice(name, seconds=1e-3, **measured):
    return _cache.Choice(name, seconds, {name: seconds, **measured}, "2026-11-21")


def selected(**options):
    return jconv.select_algorithm(*SHAPES, algorithm="tuned", **options)


@pytest.mark.parametrize("precision", [None, "high", ("default", "highest")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "complex64"])
def test_the_text_of_a_call_can_be_read_again(dtype, precision):
    spec = jconv.ConvSpec((2, 9, 8, 4), (3, 2, 2, 6), (2, 1), ((1, 0), (-1, 2)), 2, (1, 3), 2)
    for role in ROLES:
        call = call_of(spec, role, dtype, precision)
        assert _cache.call_of(_cache.call_text(call), "cpu") == call
        with pytest.raises(ValueError, match="describes no call"):
            _cache.call_of(_cache.call_text(call).replace(role, "backward"), "cpu")


class Clock:
    """In the place of `time` where plans are measured, so that no machine decides which is fast."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def taking(self, seconds, run):
        """`run`, of which each call takes that long."""

        def go():
            self.now += seconds
            return run()

        return go


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(_tune, "time", clock := Clock())
    return clock


@pytest.fixture
def takes(monkeypatch, clock):
    """Sets how many seconds each plan takes."""
    compiled = _tune.compiled

    def set_to(seconds):
        run = lambda name, call, operands: clock.taking(seconds(name, call.role), compiled(name, call, operands))
        monkeypatch.setattr(_tune, "compiled", run)

    return set_to


# What is measured ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("fast", ["einsum", "xla", "matmul"])
def test_the_fastest_wins_and_is_what_runs(fast, monkeypatch, takes):
    monkeypatch.setattr(_tune, "names_for", lambda call, limit: ["einsum", "xla", "matmul"])
    takes(lambda name, role: 0.0012 if name == fast else 0.02)
    (record,) = jconv.tune(SPEC, roles="forward", rounds=3)
    assert record.name == fast
    assert record.measured == pytest.approx(dict.fromkeys(("einsum", "xla", "matmul"), 0.02) | {fast: 0.0012})
    assert record.seconds == record.measured[fast]
    name, reason = selected()
    assert name == fast
    other = "matmul" if fast == "xla" else "xla"
    for text in ("measured on", "1.2 ms, against", f"for {'' if fast == 'xla' else other}"):
        assert text in reason
    x, k = (jnp.ones(shape) for shape in SHAPES)
    for algorithm in ("tuned", jconv.Algorithms(forward="tuned")):
        fn = jax.jit(lambda x, k: jconv.conv(x, k, algorithm=algorithm))
        assert f"jconv.forward.{fast}" in fn.lower(x, k).as_text(debug_info=True)
        np.testing.assert_allclose(fn(x, k), jconv.conv(x, k), rtol=1e-5)
    # the other roles were not tuned
    assert selected(role="kernel_grad").name == jconv.select_algorithm(*SHAPES, role="kernel_grad").name


def test_the_gradients_run_what_was_measured_for_them(monkeypatch, takes):
    monkeypatch.setattr(_tune, "names_for", lambda call, limit: ["xla", "einsum", "matmul"])
    fast = {"forward": "einsum", "input_grad": "matmul", "kernel_grad": "xla"}
    takes(lambda name, role: 0.001 if name == fast[role] else 0.01)
    records = jconv.tune(SPEC, rounds=2)
    assert {r.role: r.name for r in records} == fast
    loss = lambda x, k: jnp.sum(jconv.conv(x, k, algorithm="tuned") ** 2)
    text = jax.jit(jax.grad(loss, (0, 1))).lower(*map(jnp.ones, SHAPES)).as_text(debug_info=True)
    assert all(f"jconv.{role}.{name}" in text for role, name in fast.items())


@pytest.mark.non_finite
def test_a_plan_that_is_wrong_is_left_out_and_said(monkeypatch, clock):
    monkeypatch.setattr(_tune, "names_for", lambda call, limit: ["einsum", "matmul", "xla"])
    compiled = _tune.compiled

    def broken(name, call, operands):
        run = compiled(name, call, operands)
        if name == "einsum":
            return lambda: run().at[0, 0, 0].add(0.1)
        if name == "matmul":
            return lambda: run() * jnp.nan
        return clock.taking(0.01, run)

    monkeypatch.setattr(_tune, "compiled", broken)
    (record,) = jconv.tune(SPEC, roles="forward", rounds=1)
    assert set(record.measured) == {"xla"}
    assert record.name == "xla"
    assert "einsum differs from xla by" in record.note
    assert "matmul differs from xla by nan" in record.note
    assert record.note in str(record)


def test_a_plan_that_fails_is_left_out_and_said(monkeypatch):
    monkeypatch.setattr(_tune, "names_for", lambda call, limit: ["einsum", "xla"])
    compiled = _tune.compiled

    def failing(name, call, operands):
        if name == "einsum":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")
        return compiled(name, call, operands)

    monkeypatch.setattr(_tune, "compiled", failing)
    (record,) = jconv.tune(SPEC, roles="forward", rounds=1)
    assert (record.name, record.note) == ("xla", "einsum fails: RESOURCE_EXHAUSTED: out of memory")


def test_the_plans_to_measure():
    for case in CASES[::7]:
        for role in ROLES:
            call = call_of(case.spec, role)
            names, ranked = _tune.names_for(call, 3), _select.candidates(call)
            cheap = [plan.name for plan in ranked if plan.seconds <= _tune.PRUNE * ranked[0].seconds][:3]
            assert names[: len(cheap)] == cheap
            assert {"xla", _select.select(call).name} <= set(names)
            assert len(names) <= 5
            assert len(set(names)) == len(names)
    few = call_of(precision="highest")
    assert all(found.plan.exact for found in _select.candidates(few) if found.name in _tune.names_for(few, 99))


def test_plans_that_are_as_fast_but_for_noise_go_to_the_simplest():
    assert _tune.fastest({"xla": 1.01, "swap+xla": 1.0}) == "xla"
    assert _tune.fastest({"xla": 1.05, "swap+xla": 1.0}) == "swap+xla"
    assert _tune.fastest({"fold+swap+xla": 1.0, "matmul": 1.015, "einsum": 1.01, "xla": 2.0}) == "einsum"


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "complex64", "int8", "uint8"])
def test_every_dtype_agrees_with_xla(dtype):
    """The tolerance holds for plans that are right; 64 bits without jax_enable_x64."""
    for record in jconv.tune(SPEC, dtype=dtype, limit=3, rounds=1):
        assert not record.note
        assert record.dtype.name == dtype
        assert len(record.measured) >= 2
        call = call_of(role=record.role, dtype=dtype)
        assert _select.resolve("tuned", call).name == record.name


def test_it_is_deterministic_and_reproducible(monkeypatch):
    order = []
    monkeypatch.setattr(_tune, "_seconds", lambda run, calls, queue: order.append(run) or 1e-3)
    runs = {name: object() for name in "abcd"}
    first = _tune.interleaved(runs, 5, False), order[:]
    order.clear()
    assert (_tune.interleaved(runs, 5, False), order) == first
    assert len({tuple(order[i : i + 4]) for i in range(8, len(order), 4)}) > 1, "every round had the same order"
    a, b = _tune._operands(call_of()), _tune._operands(call_of())
    assert all(np.array_equal(*pair) for pair in zip(a, b, strict=True))


def test_a_plan_far_behind_is_not_run_again(clock):
    count = {"quick": 0, "near": 0, "slow": 0}

    def run(name, seconds):
        return clock.taking(seconds, lambda: count.update({name: count[name] + 1}) or np.zeros(()))

    seconds = {"quick": 0.002, "near": 0.005, "slow": 0.05}
    found = _tune.interleaved({name: run(name, seconds[name]) for name in seconds}, 6, True)
    assert count == {"quick": 7, "near": 7, "slow": 2}
    assert found == pytest.approx(seconds)


def test_where_xla_does_not_cover_a_call_another_plan_is_the_reference():
    """As on GPU, whose library convolves no integers."""
    call = Call(jconv.ConvSpec((1, 9, 2), (3, 2, 4)), "forward", np.dtype("int8"), np.dtype("int32"), None, "cuda")
    names = _tune.names_for(call, 4)
    assert "xla" not in names
    measured = _tune.measure(call, names, 1)
    assert set(measured.seconds) == set(names)
    assert not measured.left_out


# What is found in a function -----------------------------------------------------------------------------
@pytest.mark.two_devices
def test_a_function_is_searched_everywhere():
    x, k = jnp.ones((2, 8, 3)), jnp.ones((3, 3, 3))
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    P = jax.sharding.PartitionSpec

    @jax.custom_vjp
    def custom(x):
        return jconv.conv(x, jnp.ones((2, 3, 3)))

    custom.defvjp(lambda x: (custom(x), None), lambda _, g: (g,))

    def fn(x, k):
        def step(carry, _):
            return jax.checkpoint(lambda c: jconv.conv(c, jnp.ones((4, 3, 3))))(carry), None

        x, _ = lax.scan(step, x, length=2)
        x = lax.cond(x[0, 0, 0] > 0, lambda x: jconv.conv(x, jnp.ones((5, 3, 3))), lambda x: x, x)
        x = lax.while_loop(lambda x: x[0, 0, 0] > 0, lambda x: jconv.conv(x, jnp.ones((6, 3, 3))), x)
        x = jax.jit(lambda x: jconv.conv(x, jnp.ones((7, 3, 3)), algorithm="xla"))(x)
        x = custom(x) + jax.shard_map(
            lambda x: jconv.conv(x, k), mesh=mesh, in_specs=P("d"), out_specs=P("d"), check_vma=False
        )(x)
        return jnp.sum(jax.vmap(lambda x: jconv.conv(x, jnp.ones((8, 3, 3), jnp.float32)))(x[None]))

    calls = _tune.calls_in(jax.make_jaxpr(jax.jit(fn))(x, k), "cpu")
    assert sorted(call.spec.window for call in calls) == [(n,) for n in range(2, 9)]
    assert [call.spec.x_shape[0] for call in calls if call.spec.window == (3,)] == [1], "that of one device"
    grads = _tune.calls_in(jax.make_jaxpr(jax.grad(lambda k: jnp.sum(jnp.tanh(jconv.conv(x, k)))))(k), "cpu")
    assert [call.role for call in grads] == ["forward", "kernel_grad"]


def test_a_function_is_tuned(file):
    def loss(x, k):
        y = jconv.conv(x, k)
        return jnp.sum(jconv.conv(y, k).astype(jnp.float32) ** 2)  # the same call again

    shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((4, 6, 3), (3, 3, 3))]
    records = jconv.tune(jax.jit(jax.grad(loss, (0, 1))), *shapes, **ONCE)
    assert sorted(r.role for r in records) == sorted(ROLES)
    assert {(r.spec.x_shape, r.dtype.name) for r in records} == {((4, 6, 3), "bfloat16")}
    table = str(records).splitlines()
    assert len(table) == 5
    assert table[0].split()[:4] == ["layer", "role", "dtype", "fastest"]
    (section,) = json.loads(file.read_text())["choices"].values()
    assert len(section) == 3
    only = jconv.tune(loss, *shapes, roles=["kernel_grad"], **ONCE)
    assert only == ()


def test_a_symbolic_batch_is_skipped():
    (batch,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, 9, 3), jnp.float32)
    (record,) = jconv.tune(lambda x: jconv.conv(x, jnp.ones((3, 3, 4))), x)
    assert record.measured == {}
    assert "no size yet" in record.note
    assert record.note in str(record)
    exported = jax.export.export(jax.jit(lambda x: jconv.conv(x, jnp.ones((3, 3, 4)), algorithm="tuned")))(x)
    assert exported.call(jnp.ones((2, 9, 3))).shape == (2, 9, 4)


def test_an_empty_image_is_skipped():
    records = jconv.tune(jconv.ConvSpec((0, 9, 3), (3, 3, 4)))
    assert all("nothing to compute" in record.note and not record.measured for record in records)
    assert len(str(records).splitlines()) == 8


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: jconv.tune(3), TypeError, "fn_or_spec: got 3, accepted is a function or a jconv.ConvSpec"),
    (lambda: jconv.tune(jnp.sum, jnp.ones(3)), ValueError, "fn_or_spec: got .* no convolution of jconv"),
    (lambda: jconv.tune(SPEC, 1), ValueError, "args: got 1 of them beside a ConvSpec"),
    (lambda: jconv.tune(jconv.ConvSpec((-1, 9, 3), (3, 3, 4))), ValueError, "fn_or_spec: got ConvSpec.*at least 0"),
    (lambda: jconv.tune(SPEC, roles="forwards"), ValueError, "roles: got 'forwards'.*mean 'forward'"),
    (lambda: jconv.tune(SPEC, roles=()), ValueError, r"roles: got \(\), accepted are some of 'forward'"),
    (lambda: jconv.tune(SPEC, roles=3), ValueError, "roles: got 3"),
    (lambda: jconv.tune(SPEC, limit=0), ValueError, "limit: got 0, accepted is an integer of at least 1"),
    (lambda: jconv.tune(SPEC, rounds=1.5), ValueError, "rounds: got 1.5"),
    (lambda: jconv.tune(SPEC, dtype="float31"), TypeError, "dtype: got 'float31'.*mean 'float32'"),
    (lambda: jconv.tune(SPEC, dtype="bool"), TypeError, "dtype: got dtype bool, accepted are"),
    (lambda: jconv.tune(SPEC, precision="best"), ValueError, "precision: got 'best'"),
    (lambda: jconv.tune(SPEC, cache=3), ValueError, "cache: got 3, accepted is the path of a file"),
    (lambda: jconv.tune(jnp.sum, jnp.ones(3), dtype="float32"), ValueError, "dtype: got 'float32' beside a function"),
    (lambda: jconv.tune(jnp.sum, jnp.ones(3), precision="high"), ValueError, "precision: got 'high' beside a function"),
])  # fmt: skip
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()


# What "tuned" takes --------------------------------------------------------------------------------------
def test_without_measurements_it_is_auto():
    for role in ROLES:
        for platform in ("cpu", "cuda", "tpu"):
            auto = jconv.select_algorithm(*SHAPES, role=role, platform=platform)
            name, reason = selected(role=role, platform=platform)
            assert (name, reason) == (auto.name, f"not tuned on this device, so as auto: {auto.reason}")
    assert not pathlib.Path(os.environ["JCONV_CACHE"]).parent.exists(), "looking something up wrote something"


@pytest.mark.default_precision
def test_a_choice_holds_for_its_call_alone():
    _cache.remember({call_of(): choice("einsum")})
    assert selected().name == "einsum"
    for options in ({"role": "input_grad"}, {"dtype": "bfloat16"}, {"precision": "highest"}, {"platform": "tpu"},
                    {"strides": 2}, {"padding": "VALID"}):  # fmt: skip
        assert "not tuned on this device" in selected(**options).reason
    assert jconv.select_algorithm((2, 1, 9, 3), (3, 3, 4), algorithm="tuned").name == "einsum", "one batch of two"
    assert selected(precision="default").name == "einsum", "that is what None means"


@pytest.mark.parametrize(("name", "precision", "why"), [
    ("winograd99", None, "which does not exist"),
    ("fold", None, "which does not exist"),
    ("tuned", None, "which does not exist"),
    ("winograd2", None, "which does not cover the call: "),
    ("fft", "highest", "which is less exact than `precision` asks for"),
    ("fft", "high", "which is less exact than `precision` asks for"),
])  # fmt: skip
def test_a_choice_that_cannot_be_taken_is_ignored_and_said(name, precision, why):
    spec = jconv.ConvSpec((2, 40, 3), (2, 3, 4))
    _cache.remember({call_of(spec, precision=precision): choice(name)})
    options = {"precision": precision, "padding": spec.padding}
    auto = jconv.select_algorithm(spec.x_shape, spec.kernel_shape, **options)
    said = jconv.select_algorithm(spec.x_shape, spec.kernel_shape, algorithm="tuned", **options)
    assert said.name == auto.name
    assert said.reason.startswith(f"tuned to {name!r}, {why}")
    assert said.reason.endswith(f", so as auto: {auto.reason}")
    jconv.conv(jnp.ones(spec.x_shape), jnp.ones(spec.kernel_shape), algorithm="tuned", **options)


def test_what_was_compiled_before_keeps_its_choice_and_an_eager_call_takes_the_new_one(monkeypatch):
    ran = []
    run = Plan.run
    monkeypatch.setattr(Plan, "run", lambda plan, *args: ran.append(plan.name) or run(plan, *args))
    fn = lambda x, k: jconv.conv(x, k, algorithm="tuned")
    compiled, (x, k) = jax.jit(fn), map(jnp.ones, SHAPES)
    jax.clear_caches()
    compiled(x, k), fn(x, k)
    assert "einsum" not in ran
    for name in ("einsum", "xla", "einsum"):
        _cache.remember({call_of(): choice(name)})
        ran.clear()
        compiled(x, k)
        assert not ran  # nothing was compiled
        np.testing.assert_array_equal(fn(x, k), jconv.conv(x, k, algorithm=name))
        assert jconv.select_algorithm(x.shape, k.shape, algorithm="tuned").name == name
    jax.clear_caches()
    compiled(x, k), fn(x, k)
    assert "einsum" in ran


@pytest.mark.parametrize("jitted", [True, False])
def test_what_is_missing_is_measured_when_it_is_compiled(jitted, file, monkeypatch):
    """In every role, and once; without the switch nothing is."""
    x, k = map(jnp.ones, SHAPES)
    loss = lambda x, k: jnp.sum(jconv.conv(x, k, algorithm="tuned"))
    step = jax.grad(loss, (0, 1))
    step = jax.jit(step) if jitted else step
    jax.clear_caches()
    step(x, k)
    assert not file.exists()
    monkeypatch.setenv("JCONV_TUNE", "missing")
    measured, measure = [], _tune.measure
    monkeypatch.setattr(_tune, "measure", lambda call, *args: measured.append(call) or measure(call, *args))
    for _ in range(2):
        jax.clear_caches()
        step(x, k)
    assert {call.role for call in measured} >= {"input_grad", "kernel_grad"}
    assert len(set(measured)) == len(measured)
    for call in measured:
        assert _select.resolve("tuned", call).name == _cache.lookup(call).name
    assert "measured on" in selected(role="kernel_grad").reason
    with jax.disable_jit():
        assert jnp.isfinite(loss(x, k))


# The file ------------------------------------------------------------------------------------------------
@pytest.mark.default_precision
def test_a_later_process_finds_it(file):
    _cache.remember({call_of(): choice("einsum", xla=4.03e-3)})
    _cache.forget()
    name, reason = selected()
    kind = _cache.device_kind(jax.devices()[0])
    assert name == "einsum"
    assert reason == f"measured on {kind}: 1 ms, against 4.03 ms for xla (tuned 2026-11-21)"
    assert os.listdir(file.parent) == ["tuned.json", "tuned.json.lock"] or len(os.listdir(file.parent)) == 2
    document = json.loads(file.read_text())
    (section,) = document["choices"]
    assert jax.__version__ in section
    assert f"jconv {jconv.__version__}" in section
    (key,) = document["choices"][section]
    assert key.startswith("forward float32->float32 precision=default x_shape=[2,9,3] kernel_shape=[3,3,4]")


def test_another_machine_or_version_does_not_find_it(file):
    _cache.remember({call_of(): choice("einsum")})
    file.write_text(file.read_text().replace(f"jax {jax.__version__}", "jax 0.0.1"))
    _cache.forget()
    assert "not tuned" in selected().reason
    _cache.remember({call_of(role="input_grad"): choice("einsum")})
    assert len(json.loads(file.read_text())["choices"]) == 2, "what others measured is kept"


def test_a_change_of_the_file_is_seen(file):
    _cache.remember({call_of(): choice("einsum")})
    _cache.forget()
    assert selected().name == "einsum"
    file.write_text(file.read_text().replace('"einsum"', '"matmul"'))
    assert selected().name == "matmul"
    file.unlink()
    assert "not tuned" in selected().reason


def test_the_default_path(monkeypatch, tmp_path):
    monkeypatch.delenv("JCONV_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert _cache.default_path() == tmp_path / "xdg" / "jconv" / "tuned.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _cache.default_path() == tmp_path / ".cache" / "jconv" / "tuned.json"


def test_a_file_of_ones_own_leaves_the_default_alone(tmp_path, file):
    own = tmp_path / "own.json"
    (record,) = jconv.tune(SPEC, roles="forward", cache=own, **ONCE)
    assert own.exists()
    assert not file.exists()
    assert selected().name == record.name
    assert "measured on" in selected().reason, "it holds in this process"


GOOD = {"name": "einsum", "seconds": 1.0, "measured": {"einsum": 1.0}, "date": "2026-11-21"}
DAMAGED = {
    "cut": b'{"format": "jconv tuned choices, version 1", "choices": {',
    "empty": b"",
    "binary": bytes(range(256)),
    "other": b'{"a": 1}',
    "list": b"[1, 2]",
    "later": b'{"format": "jconv tuned choices, version 2", "choices": {}}',
    "types": b'{"format": "jconv tuned choices, version 1", "choices": {"cpu": 3}}',
    "deep": b"[" * 200_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_reported_once_and_put_aside(content, file):
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"tuned\.json: ignored as a cache of tuned choices, because"):
        assert "not tuned" in selected().reason
    assert "not tuned" in selected().reason  # a second warning would be an error here
    with pytest.warns(UserWarning, match=r"was not understood .* and is now .*tuned\.json\.damaged\."):
        _cache.remember({call_of(): choice("einsum")})
    assert file.with_name("tuned.json.damaged").read_bytes() == content
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"tuned\.json\.damaged1"):
        _cache.remember({call_of(): choice("einsum")})
    _cache.forget()
    assert selected().name == "einsum"


@pytest.mark.parametrize("entry", [
    3, None, [], {}, GOOD | {"more": 1}, {k: v for k, v in GOOD.items() if k != "date"}, GOOD | {"seconds": "1"},
    GOOD | {"seconds": float("nan")}, GOOD | {"seconds": True}, GOOD | {"seconds": 10**400}, GOOD | {"measured": []},
    GOOD | {"measured": {"xla": None}}, GOOD | {"name": 3}, GOOD | {"date": None},
])  # fmt: skip
def test_a_strange_entry_is_reported_and_ignored_and_the_others_hold(entry, file):
    _cache.remember({call_of(): choice("einsum"), call_of(role="input_grad"): choice("einsum")})
    document = json.loads(file.read_text())
    (section,) = document["choices"].values()
    section[_cache.call_text(call_of())] = entry
    file.write_text(json.dumps(document))
    _cache.forget()
    with pytest.warns(UserWarning, match="1 of its 2 choices are not understood, 'forward float32"):
        assert "not tuned" in selected().reason
    assert selected(role="input_grad").name == "einsum"
    _cache.remember({call_of(role="kernel_grad"): choice("einsum")})
    (section,) = json.loads(file.read_text())["choices"].values()
    assert len(section) == 3, "what is not understood is not lost"


def test_where_nothing_can_be_written_the_choice_holds_in_this_process(tmp_path, monkeypatch):
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("JCONV_CACHE", str(tmp_path / "plain" / "tuned.json"))
    assert "not tuned" in selected().reason
    with pytest.warns(UserWarning, match="cannot be written .* hold in this process only"):
        (record,) = jconv.tune(SPEC, roles="forward", **ONCE)
    assert selected().name == record.name
    assert "measured on" in selected().reason


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file(broken, file, monkeypatch):
    _cache.remember({call_of(): choice("einsum")})
    before = file.read_bytes()

    def fail(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_cache.os, broken, fail)
    with pytest.warns(UserWarning, match="cannot be written .*Permission denied"):
        _cache.remember({call_of(role="input_grad"): choice("einsum")})
    assert file.read_bytes() == before
    assert not list(file.parent.glob("*.tmp"))
    assert selected(role="input_grad").name == "einsum"


def test_a_folder_in_place_of_the_file(file):
    file.mkdir(parents=True)
    with pytest.warns(UserWarning, match="ignored as a cache"):
        assert "not tuned" in selected().reason
    with pytest.warns(UserWarning, match="cannot be written"):
        _cache.remember({call_of(): choice("einsum")})
    assert selected().name == "einsum"


WRITER = """
    import sys
    from jconv import ConvSpec, _cache, _tune
    first, count = int(sys.argv[1]), int(sys.argv[2])
    _cache.LOCK_SECONDS = 1e9
    for n in range(first, first + count):
        (call,) = _tune.calls_of(ConvSpec((1, 9 + n, 3), (3, 3, 4)), ["forward"], "float32", None, "cpu")
        _cache.remember({call: _cache.Choice("einsum", 1e-3 * (n + 1), {"einsum": 1e-3 * (n + 1)}, "2026-11-21")})
"""
HOLDER = """
    import os, sys, pathlib
    from jconv import _cache
    with _cache._locked(pathlib.Path(os.environ["JCONV_CACHE"])):
        print("held", flush=True)
        sys.stdin.read()
        os._exit(9)  # dies with the lock
"""


def start(code, *arguments, **pipes):
    root = pathlib.Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, **pipes)


@pytest.mark.default_precision
def test_processes_that_write_at_once_lose_nothing(file):
    count = 25
    writers = [start(WRITER, count * i, count) for i in range(3)]
    parses = 0
    while any(writer.poll() is None for writer in writers):
        if file.exists():
            _cache.parse(file.read_bytes())  # whole at any time
            parses += 1
        time.sleep(0.002)
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert parses
    for n in range(3 * count):
        call = call_of(jconv.ConvSpec((1, 9 + n, 3), (3, 3, 4)))
        assert _cache.lookup(call) == choice("einsum", 1e-3 * (n + 1))
    assert sorted(os.listdir(file.parent)) == ["tuned.json", "tuned.json.lock"]


def test_threads_that_write_and_read_at_once_lose_nothing():
    calls = [call_of(jconv.ConvSpec((1, 9 + n, 3), (3, 3, 4))) for n in range(24)]
    errors = []

    def work(own):
        try:
            for call in own:
                _cache.remember({call: choice("einsum")})
                assert _cache.lookup(call) == choice("einsum")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(calls[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    _cache.forget()
    assert all(_cache.lookup(call) == choice("einsum") for call in calls)


def test_a_lock_is_waited_for_and_ends_with_its_process(file, monkeypatch):
    file.parent.mkdir()
    holder = start(HOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == "held\n"
    monkeypatch.setattr(_cache, "LOCK_SECONDS", 0.1)
    with pytest.warns(UserWarning, match="another process has held"):
        _cache.remember({call_of(): choice("einsum")})
    assert not file.exists()
    holder.stdin.close()
    assert holder.wait() == 9
    holder.stdout.close()
    _cache.remember({call_of(): choice("einsum")})
    assert file.exists()


def test_importing_touches_no_file(tmp_path):
    code = """
        import os, pathlib
        import jconv
        x = jconv.select_algorithm((2, 9, 3), (3, 3, 4))
        assert not pathlib.Path(os.environ["JCONV_CACHE"]).parent.exists()
    """
    assert start(code).wait() == 0


def test_progress_goes_to_standard_error(capsys):
    with warnings.catch_warnings():
        jconv.tune(SPEC, roles=("forward", "input_grad"), progress=True, **ONCE)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split()[0] for line in err.splitlines()] == ["1/2", "2/2"]
    assert "forward" in err.splitlines()[0]
