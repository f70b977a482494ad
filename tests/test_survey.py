"""The survey goes on where it was stopped, and what is committed of it can be read."""

import json
import pathlib

import pytest

import jconv
from benchmarks import survey
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
    measure = lambda task, reach, rounds: (
        measured.append(task) or {"layer": task.layer, "dtype": "float32", "role": "forward"}
    )
    path = tmp_path / "folder" / "cpu.jsonl"
    monkeypatch.setattr(survey, "measure", measure)
    assert survey.main(["--out", str(path), "--minutes", "0"]) == 0
    assert not measured
    assert len(survey.read(path)) == 1
    line = json.dumps({"layer": "layer-1", "dtype": "float32", "role": "forward"})
    with open(path, "a") as file:
        file.write(f'{line}\n{{"layer": "layer-2", "dty')  # stopped while it wrote
    assert [r.get("layer") for r in survey.read(path)] == [None, "layer-1"]
    survey.main(["--out", str(path)])
    assert [task.layer for task in measured] == ["layer-0", "layer-2"]
    assert [r.get("layer") for r in survey.read(path)] == [None, "layer-1", "layer-0", "layer-2"]
    assert pathlib.Path(path).read_bytes().endswith(b"}\n")


def test_a_call_is_measured_by_its_plans_and_by_lax():
    task = survey.Task("small", jconv.ConvSpec((2, 9, 3), (3, 3, 4)), "float32", "kernel_grad")
    found = survey.measure(task, 100.0, 1)
    assert {"lax", "xla"} < set(found["ms"])
    assert survey.spec_of(found) == task.call.spec
    assert found["bytes"] == 4 * (2 * 9 * 3 + 3 * 3 * 4 + 2 * 9 * 4)
    assert found["flops"] == 2 * task.spec.macs * 2
