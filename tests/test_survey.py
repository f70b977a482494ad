"""The survey goes on where it was stopped, and what is committed of it can be read."""

import json
import pathlib

import pytest

import jconv
from benchmarks import fit, survey
from jconv._algorithms.base import ROLES

PEERS = {"lax", "torch", "pallas trial"}


@pytest.mark.parametrize("name", ["cpu.jsonl.gz", "h200.jsonl"])
def test_a_committed_survey_can_be_read(name):
    lines = [line for line in survey.read(survey.FOLDER / name) if "layer" in line]
    assert len(lines) > 80
    assert {line["role"] for line in lines} == set(ROLES)
    assert len({(line["layer"], line["dtype"], line["role"]) for line in lines}) == len(lines)
    known = {*jconv.algorithms(), "onednn"}
    for line in lines:
        spec = survey.spec_of(line)
        assert spec.x_shape == tuple(line["x"])
        assert all(plan in PEERS or plan.split("+")[-1] in known for plan in line["ms"])
        assert min(line["ms"].values()) > 0


def test_the_same_geometries_are_drawn_again():
    first, again = (list(survey.drawn(7)) for _ in range(2))
    assert first == again
    assert [task.role for task in first] == list(ROLES)
    assert first != list(survey.drawn(8))


def test_a_survey_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    spec = jconv.ConvSpec((2, 9, 3), (3, 3, 4))
    tasks = [survey.Task(f"layer-{i}", spec, "float32", "forward") for i in range(3)]
    monkeypatch.setattr(survey, "tasks", lambda draws: tasks)
    measured = []

    def measure(task, reach, rounds, also=()):
        measured.append(task)
        return {"layer": task.layer, "dtype": "float32", "role": "forward", "ms": dict.fromkeys([*also, "xla"], 1.0)}

    path = tmp_path / "folder" / "cpu.jsonl"
    monkeypatch.setattr(survey, "measure", measure)
    assert survey.main(["--out", str(path), "--minutes", "0"]) == 0
    assert not measured
    assert len(survey.read(path)) == 1
    line = json.dumps({"layer": "layer-1", "dtype": "float32", "role": "forward", "ms": {"einsum": 1.0}})
    with open(path, "a") as file:
        file.write(f'{line}\n{{"layer": "layer-2", "dty')  # stopped while it wrote
    assert [r.get("layer") for r in survey.read(path)] == [None, "layer-1"]
    survey.main(["--out", str(path)])
    assert [task.layer for task in measured] == ["layer-0", "layer-2"]
    assert [r.get("layer") for r in survey.read(path)] == [None, "layer-1", "layer-0", "layer-2"]
    assert pathlib.Path(path).read_bytes().endswith(b"}\n")

    monkeypatch.setattr(survey, "taken", lambda call: ["xla", "xla"])
    survey.main(["--out", str(path), "--again"])
    assert [task.layer for task in measured[2:]] == ["layer-1"], "what auto takes was missing there"
    (line,) = (r for r in survey.read(path) if r.get("layer") == "layer-1")
    assert set(line["ms"]) == {"einsum", "xla"}


def test_a_call_is_measured_by_its_plans_and_by_lax():
    task = survey.Task("small", jconv.ConvSpec((2, 9, 3), (3, 3, 4)), "float32", "kernel_grad")
    found = survey.measure(task, 100.0, 1)
    assert {"lax", "xla"} < set(found["ms"])
    assert survey.spec_of(found) == task.call.spec
    assert found["bytes"] == 4 * (2 * 9 * 3 + 3 * 3 * 4 + 2 * 9 * 4)
    assert found["flops"] == 2 * task.spec.macs * 2


@pytest.mark.default_precision
def test_what_tune_measured_can_be_fitted(tmp_path):
    """A file of tuned choices gives the same calls and seconds as a survey of them would."""
    spec = jconv.ConvSpec((2, 9, 8, 4), (3, 2, 2, 6), strides=(2, 1), padding=((1, 0), (-1, 2)), feature_group_count=2)
    file = tmp_path / "tuned.json"
    kept = jconv.tune(spec, limit=2, rounds=1, cache=file)
    jconv.tune(spec, precision="highest", roles="forward", limit=1, rounds=1, cache=file)
    lines = survey.tuned(file, "cpu")
    assert not survey.tuned(file, "cuda")
    assert {line["role"]: set(line["ms"]) for line in lines} == {record.role: set(record.measured) for record in kept}
    for line in lines:
        assert survey.spec_of(line) == spec
        (record,) = (r for r in kept if r.role == line["role"])
        assert line["ms"]["xla"] == pytest.approx(1e3 * record.measured["xla"], rel=1e-3)
    entry, calls = fit.surveyed("cpu", [file])
    assert calls[-1].names == tuple(lines[-1]["ms"])
    assert entry["from"].startswith("cpu.jsonl.gz, tuned.json: ")
    assert len(calls) == len(fit.surveyed("cpu")[1]) + len(lines)
