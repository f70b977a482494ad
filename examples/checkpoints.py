"""Checkpoints: all that a training needs to go on where it was, through orbax-checkpoint.

Each is a folder named by its step. orbax writes it under another name and renames it when it is complete, so a process
that dies at any moment leaves whole ones behind. What becomes of them on the disk afterwards shows in two SHA-256 sums,
one of the arrays and one of everything else, because orbax does not notice every changed byte.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from files import described, named_leaves

KEPT = 3  # of each training
UNFINISHED = ".orbax-checkpoint-tmp"  # how orbax ends the name of a folder that it is writing


class Checkpoint(NamedTuple):
    step: int
    state: Any  # a tree of NumPy arrays
    info: dict[str, Any]  # whatever JSON can hold, as it was given to `save`


class Damaged(Exception):
    """A checkpoint that is not what was saved."""


@functools.cache
def _orbax() -> Any:
    import orbax.checkpoint as ocp  # only here: it takes a second, and --predict does without it

    return ocp, ocp.Checkpointer(ocp.CompositeCheckpointHandler())


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, damaged ones among them."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit() and path.is_dir())


def _path(folder: Path, step: int) -> Path:
    return folder.absolute() / f"{step:08}"


def sha256(tree: Any) -> str:
    """Of all arrays of a tree, with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    arrays = named_leaves(tree)
    digest.update(json.dumps(described(arrays)).encode())
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _text_sha256(info: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()


def save(folder: Path, step: int, state: Any, info: Mapping[str, Any]) -> None:
    """Saves a tree of arrays, and beside it what JSON can hold; older checkpoints than the last few are deleted then.

    Raises OSError where it cannot be saved, as on a full disk; the checkpoints before stay as they are.
    """
    ocp, checkpointer = _orbax()
    state = jax.tree.map(np.asarray, jax.device_get(state))
    held = {**info, "arrays": described(named_leaves(state)), "arrays_sha256": sha256(state)}
    held["sha256"] = _text_sha256(held)
    try:
        _delete_unfinished(folder)
        what = ocp.args.Composite(state=ocp.args.StandardSave(state), info=ocp.args.JsonSave(held))
        checkpointer.save(_path(folder, step), what)
    except Exception as error:  # tensorstore tells a full disk as a ValueError
        _delete_unfinished(folder)
        before = steps(folder)
        kept = f"the last good checkpoint is that of step {before[-1]}" if before else "there is none before it"
        raise OSError(f"{folder}: the checkpoint of step {step} cannot be saved ({_reason(error)}); {kept}.") from error
    for old in steps(folder)[:-KEPT]:
        shutil.rmtree(_path(folder, old))


def restore(folder: Path, like: Any, check: Callable[[dict[str, Any]], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None where there are no checkpoints.

    Damaged ones that are newer are told of and renamed. `check` is given the info before the arrays are looked at, and
    raises an error where it is that of another training; so does this function for arrays that differ from `like`.
    """
    damaged: dict[int, Damaged] = {}
    for step in reversed(steps(folder)):
        try:
            found = _read(_path(folder, step), step, like, check)
        except Damaged as error:
            damaged[step] = error
            continue
        for bad, error in damaged.items():
            aside = _path(folder, bad).with_suffix(".damaged")
            shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
            _path(folder, bad).rename(aside)
            print(f"the checkpoint of step {bad} is damaged ({error}), and is now {aside.name};", file=sys.stderr)
            print(f"  going on from that of step {step}", file=sys.stderr)
        return found
    if damaged:
        reasons = "; ".join(f"step {step}: {error}" for step, error in damaged.items())
        raise ValueError(f"{folder}: every checkpoint is damaged ({reasons}).")
    return None


def _read(path: Path, step: int, like: Any, check: Callable[[dict[str, Any]], None]) -> Checkpoint:
    ocp, checkpointer = _orbax()

    def read(**what: Any) -> Any:
        try:
            return checkpointer.restore(path, ocp.args.Composite(**what))
        except Exception as error:  # of whatever kind: msgpack, JSON, tensorstore and orbax have their own
            raise Damaged(_reason(error)) from error

    info = read(info=ocp.args.JsonRestore()).info
    if not isinstance(info, dict) or info.pop("sha256", None) != _text_sha256(info):
        raise Damaged("what is beside the arrays is not what was saved")
    check(info)
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    state = read(state=ocp.args.StandardRestore(like)).state
    if sha256(state) != info["arrays_sha256"]:
        raise Damaged("the arrays are not those that were saved")
    return Checkpoint(step, state, info)


def _delete_unfinished(folder: Path) -> None:
    for path in folder.glob(f"*{UNFINISHED}*"):
        shutil.rmtree(path)


def _reason(error: BaseException) -> str:
    """The first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
