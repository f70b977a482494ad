"""Checkpoints: all that a training needs to go on where it was, through orbax-checkpoint.

Each is a folder named by its step, which gets that name when everything is in it, so a process that dies at any moment
leaves whole ones behind. What becomes of them on the disk afterwards shows in the SHA-256 sums of their files, which
are compared before orbax reads anything: it does not notice every changed byte.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from files import InputError, described, named_leaves, write_atomically

KEPT = 3  # of each training
SUMS = "SHA256SUMS"  # `sha256sum --check SHA256SUMS` reads it too
UNFINISHED = "unfinished"


class Checkpoint(NamedTuple):
    step: int
    state: Any  # a tree of NumPy arrays
    info: dict[str, Any]


@functools.cache
def _orbax() -> tuple[Any, Any]:
    import orbax.checkpoint as ocp  # only here: it takes a second, and --predict does without it

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # it logs, with tracebacks, the errors that it raises
    if not jax.distributed.is_initialized():
        return ocp, ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    alone = ocp.options.MultiprocessingOptions(  # of several processes one writes, and each reads for itself
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="alone"
    )
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone))
    return ocp, ocp.Checkpointer(handler, multiprocessing_options=alone)


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that waits at its end for all that was begun in it.

    orbax closes its loops at the first error. tensorstore's threads then still write the other arrays, into a folder
    that is being deleted, and each of them prints that the loop is closed.
    """

    def close(self) -> None:
        if not self.is_closed():
            self.run_until_complete(self._rest())
        super().close()

    async def _rest(self) -> None:
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
        await self.shutdown_default_executor()


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, damaged ones among them."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit() and path.is_dir())


def last_good(folder: Path) -> str:
    """What there is to go on from, for messages."""
    found = steps(folder)
    return f"the last good checkpoint is that of step {found[-1]}" if found else "there is no checkpoint before it"


def _path(folder: Path, step: int) -> Path:
    return folder.absolute() / f"{step:08}"


def save(folder: Path, step: int, state: Any, info: Mapping[str, Any]) -> None:
    """Saves a tree of arrays, and beside it what JSON can hold; then all but the last few checkpoints are deleted.

    Raises OSError where it cannot be saved, as on a full disk; the checkpoints before stay as they are.
    """
    ocp, checkpointer = _orbax()
    state = jax.tree.map(np.asarray, jax.device_get(state))
    info = {**info, "arrays": described(named_leaves(state))}
    path = folder.absolute() / UNFINISHED
    try:
        for left in _unfinished(folder):
            shutil.rmtree(left)
        with mock.patch.object(asyncio, "new_event_loop", _PatientLoop):
            checkpointer.save(path, ocp.args.Composite(state=ocp.args.StandardSave(state)))
        (path / "info").mkdir()  # as orbax has JSON, which beside the arrays would be written by a thread of its own
        write_atomically(path / "info/metadata", json.dumps(info).encode())
        sums = "".join(f"{digest}  {name}\n" for name, digest in _sums(path).items())
        write_atomically(path / SUMS, sums.encode())
        path.rename(_path(folder, step))
    except Exception as error:  # tensorstore tells a full disk as a ValueError
        for left in _unfinished(folder):
            shutil.rmtree(left, ignore_errors=True)  # what cannot be deleted either is so before the next one is saved
        raise OSError(
            f"{folder}: the checkpoint of step {step} cannot be saved ({_reason(error)}); {last_good(folder)}."
        ) from error
    for old in steps(folder)[:-KEPT]:
        shutil.rmtree(_path(folder, old))


def restore(folder: Path, like: Any, check: Callable[[dict[str, Any]], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None where there are no checkpoints.

    Damaged ones that are newer are told of and renamed. `check` is given the info before the arrays are read, "arrays"
    with their dtypes and shapes among it, and raises an error where it is that of another training.
    """
    damaged: dict[int, str] = {}
    for step in reversed(steps(folder)):
        damage = _damage(_path(folder, step))
        if damage:
            damaged[step] = damage
            continue
        ocp, checkpointer = _orbax()
        path = _path(folder, step)
        info = checkpointer.restore(path, ocp.args.Composite(info=ocp.args.JsonRestore())).info
        check(info)
        like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
        state = checkpointer.restore(path, ocp.args.Composite(state=ocp.args.StandardRestore(like))).state
        for bad, damage in damaged.items():
            aside = _path(folder, bad).with_suffix(".damaged")
            shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
            _path(folder, bad).rename(aside)
            print(f"{folder}: the checkpoint of step {bad} is damaged ({damage}), so it is now {aside.name}, and the "
                  f"training goes on from that of step {step}", file=sys.stderr)  # fmt: skip
        return Checkpoint(step, state, info)
    if damaged:
        reasons = "; ".join(f"step {step}: {damage}" for step, damage in damaged.items())
        raise InputError(
            f"--resume: every checkpoint in {folder} is damaged ({reasons}). Accepted is a run without --resume, which "
            "sets them aside and starts anew."
        )
    return None


def _sums(path: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder and below."""
    found = sorted(file for file in path.rglob("*") if file.is_file() and file.name != SUMS)
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def _damage(path: Path) -> str:
    """What is wrong with the files of a checkpoint; "" where nothing is."""
    try:
        lines = [line.split("  ", 1) for line in (path / SUMS).read_text().splitlines()]
        saved = {name: digest for digest, name in lines}
    except FileNotFoundError:
        return f"{SUMS} is missing"
    except ValueError:  # no text, or no lines of two columns
        return f"{SUMS} is changed"
    found = _sums(path)
    missing, changed = saved.keys() - found.keys(), [name for name in found if found[name] != saved.get(name)]
    what = [f"{name} is missing" for name in sorted(missing)] + [f"{name} is changed" for name in changed]
    return ", ".join(what[:3])


def _reason(error: Exception) -> str:
    """An error of saving in few words; tensorstore's has a page of them, and the number of the system's error."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number:
        return os.strerror(int(number[1]))
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"[:300]


def _unfinished(folder: Path) -> list[Path]:
    """Folders of checkpoints that were never finished; orbax's own names for what it is writing begin so too."""
    return list(folder.glob(f"{UNFINISHED}*"))
