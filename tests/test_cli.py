"""The command line: what it prints agrees with the functions, and errors are one line."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import jconv
from jconv import _cache, _calibrate, _select, _tune
from jconv.__main__ import main
from jconv._algorithms import ALGORITHMS, REDUCTIONS
from jconv._algorithms.base import ROLES
from jconv.plugins import algorithms
from tests.cases import PLUGGED

LAYER = ["--x", "2,9,9,4", "--kernel", "3,3,2,6", "--groups", "2", "--strides", "2"]
OPTIONS = {"feature_group_count": 2, "strides": 2}
SPEC = jconv.ConvSpec((2, 9, 9, 4), (3, 3, 2, 6), **OPTIONS)
QUICK = ["--limit", "1", "--rounds", "1"]


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    path = tmp_path / "tuned.json"
    monkeypatch.setenv("JCONV_CACHE", str(path))
    _cache.forget()
    yield path
    _cache.forget()


@pytest.fixture
def run(capsys):
    def run(*arguments):
        assert main(arguments) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_explain_agrees_with_select_algorithm(run, platform, dtype):
    document = json.loads(run("explain", *LAYER, "--platform", platform, "--dtype", dtype, "--json"))
    assert document["layer"]["output"] == [2, 5, 5, 6]
    assert document["layer"]["multiply_adds"] == 2 * SPEC.macs
    assert [role["role"] for role in document["roles"]] == list(ROLES)
    for role in document["roles"]:
        options = OPTIONS | {"role": role["role"], "platform": platform, "dtype": dtype}
        for algorithm in ("auto", "tuned"):
            said = jconv.select_algorithm(SPEC.x_shape, SPEC.kernel_shape, **options, algorithm=algorithm)
            assert role[algorithm] == said._asdict()
        assert role["auto"]["name"] in [plan["name"] for plan in role["plans"]]


def test_explain_lists_every_plan_in_order(run):
    arguments = ["explain", *LAYER, "--platform", "cpu", "--role", "kernel_grad", "--precision", "highest", "--json"]
    (role,) = json.loads(run(*arguments, "--top", "9999"))["roles"]
    (call,) = _tune.calls_of(SPEC, ["kernel_grad"], "float32", "highest", "cpu")
    assert {plan["name"] for plan in role["plans"]} == {plan.name for plan in _select.plans(call)}
    able = [plan["name"] for plan in role["plans"] if plan["eligible"]]
    assert able == [plan.name for plan in _select.candidates(call)]
    assert role["not_shown"] == 0
    (few,) = json.loads(run(*arguments, "--top", "2"))["roles"]
    assert few["plans"][:2] == role["plans"][:2]
    assert len(few["plans"]) + few["not_shown"] == len(role["plans"])
    bound = _select.MAX_WORKSPACE_RATIO * _select.operand_bytes(call)
    for plan in role["plans"]:
        assert plan["eligible"] == (plan["exact"] and plan["workspace"] <= bound)


def test_bench_measures_and_keeps_nothing(run, file):
    document = json.loads(run("bench", *LAYER, "--role", "input_grad", *QUICK, "--json"))
    (role,) = document["roles"]
    assert {"xla", role["auto"]} <= {plan["name"] for plan in role["plans"]}
    seconds = [plan["seconds"] for plan in role["plans"]]
    assert seconds == sorted(seconds)
    assert min(seconds) > 0
    assert not file.exists()


def test_tune_keeps_what_it_measured(run, file):
    document = json.loads(run("tune", *LAYER, "--role", "forward", *QUICK, "--json"))
    (role,) = document["roles"]
    assert document["cache"] == str(file)
    assert file.exists()
    _cache.forget()
    said = jconv.select_algorithm(SPEC.x_shape, SPEC.kernel_shape, **OPTIONS, algorithm="tuned")
    assert said.name == role["name"]
    assert said.reason.startswith(f"measured on {document['device']}: ")
    (explained,) = json.loads(run("explain", *LAYER, "--role", "forward", "--json"))["roles"]
    assert explained["tuned"] == said._asdict()


def test_tune_into_a_file(run, file, tmp_path):
    own = tmp_path / "own.json"
    text = run("tune", *LAYER, "--role", "forward", *QUICK, "--cache", str(own))
    assert str(own) in text
    assert own.exists()
    assert not file.exists()


def test_calibrate_keeps_the_rates_and_the_forecasts_are_this_machines(run, file, monkeypatch):
    for name, value in (("MATRIX", {"cpu": 16}), ("COPIED", {"cpu": 1024}), ("POSITIONS", 16), ("SAMPLE_SECONDS", 0.0)):
        monkeypatch.setattr(_calibrate, name, value)
    try:
        document = json.loads(run("calibrate", "--json"))
        assert document["cache"] == str(file)
        assert set(document["rates"]) == set(_calibrate.DTYPES)
        for rates in document["rates"].values():
            assert set(rates) == {"matrix", "vector", "bytes", "launch"}
            assert all(seconds > 0 for seconds in rates.values())
        assert "calibrated" in run("explain", *LAYER)
        _cache.forget()
        _select.forecaster.cache_clear()
        assert "calibrated" in jconv.select_algorithm(SPEC.x_shape, SPEC.kernel_shape, **OPTIONS).reason, (
            "a later process"
        )
        text = run("calibrate")
        assert "float64" in text
        assert "Kept in" in text
    finally:
        file.unlink(missing_ok=True)
        _cache.forget()
        _select.forecaster.cache_clear()


def test_algorithms_lists_all(run):
    rows = json.loads(run("algorithms", "--json"))
    assert [row["name"] for row in rows] == [*algorithms(), *REDUCTIONS]
    for row in rows:
        entry = (algorithms() if row["kind"] == "algorithm" else REDUCTIONS)[row["name"]]
        assert (row["exact"], row["local"]) == (entry.exact, entry.local)
        if entry.name not in PLUGGED:
            everywhere = not entry.name.startswith("pallas")
            assert row["platforms"] == (["cpu", "cuda", "rocm", "tpu"] if everywhere else ["cuda"])
        assert len(row["description"]) > 10
    said = {row["name"]: row["description"] for row in rows}
    assert len(set(said.values())) == len(said)  # no two alike
    assert "2 outputs" in said["winograd2"]
    assert "4 outputs" in said["winograd4"]
    assert said["xla"] == "every role as one `lax.conv_general_dilated`."
    for name in PLUGGED:
        assert "entry point" not in said[name]


def test_a_cache_that_cannot_be_written_keeps_nothing_and_says_so(tmp_path, capsys, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")  # where a folder would have to be
    for also in ([], ["--json"]):
        with pytest.warns(UserWarning, match="cannot be written"):
            code = main(["tune", *LAYER, "--role", "forward", *QUICK, "--cache", str(blocked / "own.json"), *also])
        out, err = capsys.readouterr()
        assert code == 1
        assert "nothing was kept, because" in err
        assert str(blocked / "own.json") in err
        assert str(blocked) not in out
        assert not also or json.loads(out)["cache"] is None


@pytest.mark.parametrize("arguments", [
    ["explain", *LAYER], ["explain", *LAYER, "--platform", "tpu"], ["bench", *LAYER, *QUICK], ["tune", *LAYER, *QUICK],
    ["algorithms"], ["explain", "--x", "8,224,224,64", "--kernel", "3,3,2,64", "--groups", "32", "--dtype", "bfloat16"],
], ids=lambda arguments: arguments[0])  # fmt: skip
def test_what_people_read_fits_100_columns(run, arguments):
    text = run(*arguments)
    assert max(len(line) for line in text.splitlines() if "tuned.json" not in line) <= 100
    for name in ROLES if arguments[0] != "algorithms" else ALGORITHMS:
        assert name in text


@pytest.mark.parametrize(("padding", "means"), [
    ("VALID", "VALID"), ("same_lower", "SAME_LOWER"), ("2", 2), ("-1", -1), ("1,2", (1, 2)), ("SAME,VALID", ("SAME", "VALID")),
    ("1:2,0:3", ((1, 2), (0, 3))), ("=-1:2,SAME", ((-1, 2), "SAME")),
])  # fmt: skip
def test_padding(run, padding, means):
    given = [f"--padding{padding}"] if padding.startswith("=") else ["--padding", padding]
    document = json.loads(run("explain", "--x", "1,8,8,2", "--kernel", "3,3,2,2", *given, "--json", "--top", "1"))
    want = jconv.ConvSpec((1, 8, 8, 2), (3, 3, 2, 2), padding=means).padding
    assert document["layer"]["padding"] == np.array(want).tolist()


def test_options_of_each_axis(run):
    options = ["--strides", "1,2", "--kernel-dilation", "2,1", "--input-dilation", "3"]
    layer = json.loads(run("explain", "--x", "1,8,8,2", "--kernel", "3,3,2,2", *options, "--json"))["layer"]
    assert layer["strides"] == [1, 2]
    assert layer["kernel_dilation"] == [2, 1]
    assert layer["input_dilation"] == [3, 3]
    one = json.loads(run("explain", "--x", "9,2", "--kernel", "3,2,2", "--padding", "1:2", "--json"))["layer"]
    assert one["padding"] == [[1, 2]]


@pytest.mark.parametrize(("arguments", "text"), [
    ([], "the following arguments are required: COMMAND"),
    (["explane"], "invalid choice: 'explane'"),
    (["explain"], "required: --x, --kernel"),
    (["explain", "--x", "8,a", "--kernel", "3"], "argument --x: got '8,a', accepted are integers and commas"),
    (["explain", "--x", "0,9,4", "--kernel", "3,4,4"], "x and kernel: got shapes (0, 9, 4) and (3, 4, 4), accepted are sizes of at least 1"),
    (["explain", *LAYER, "--padding", "1:2:3,1"], "argument --padding: got '1:2:3,1', accepted are names"),
    (["explain", *LAYER, "--padding", "SANE"], "padding: got 'SANE'"),
    (["explain", *LAYER, "--groups", "3"], "x and kernel: x of shape (2, 9, 9, 4) has 4 channels"),
    (["explain", *LAYER, "--dtype", "float31"], "dtype: got 'float31'"),
    (["explain", *LAYER, "--role", "backward"], "argument --role: invalid choice: 'backward'"),
    (["explain", *LAYER, "--platform", "npu"], "argument --platform: invalid choice: 'npu'"),
    (["explain", *LAYER, "--top", "0"], "argument --top: got '0', accepted is an integer of at least 1"),
    (["bench", *LAYER, "--rounds", "x"], "argument --rounds: got 'x'"),
    (["bench", *LAYER, "--platform", "cpu"], "unrecognized arguments: --platform cpu"),
    (["tune", *LAYER, "--precision", "best"], "argument --precision: invalid choice: 'best'"),
])  # fmt: skip
def test_errors_are_one_line(arguments, text, capsys):
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("python -m jconv")
    assert text in err


@pytest.mark.parametrize("command", [None, "explain", "bench", "tune", "algorithms"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"] if command else ["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    names = (
        ("--x", "--kernel", "--padding", "--role", "--json", "example:")
        if command in ("explain", "bench", "tune")
        else ()
    )
    assert all(name in out for name in names or ("--json" if command else "explain",))


def test_it_runs_as_a_module():
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "jconv", "explain", *LAYER, "--role", "forward", "--json"],
        env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["roles"][0]["role"] == "forward"
    assert done.stderr == ""
