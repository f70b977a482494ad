"""What the training scripts share: files that are written whole or not at all, metrics, pictures and parameters."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class InputError(ValueError):
    """Something the user gave does not do. The scripts print its message, without a traceback, and exit with 2."""


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that under its name there is the old content or the new, and never a part of it.

    The content goes to a temporary file in the same folder, hence on the same disk, where `os.replace` is one step.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def prepare_folder(folder: Path) -> Path:
    """Makes the folder for the results, and proves that it can be written to before hours are spent on them."""
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"--out {folder}: {error.strerror}; accepted is a folder that can be written to.") from error
    return folder


class MetricsWriter:
    """A file of metrics, one JSON object a line; written anew with each row, so it is complete at any time."""

    def __init__(self, path: Path):
        self.path, self.rows = path, []

    def write(self, **row: float) -> None:
        self.rows.append(row)
        write_atomically(self.path, "".join(f"{json.dumps(row)}\n" for row in self.rows).encode())


def save_json(path: Path, value: Any) -> None:
    write_atomically(path, f"{json.dumps(value, indent=2)}\n".encode())


def save_figure(path: Path, figure: Figure) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(path, buffer.getvalue())


def _named(tree: Any) -> dict[str, Any]:
    """The leaves of nested dicts under names like "c1/kernel"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(str(entry.key) for entry in path): leaf for path, leaf in leaves}


def save_params(path: Path, params: Any, metadata: Mapping[str, str]) -> None:
    """Writes the parameters as safetensors, which any framework reads, under names like "c1/kernel"."""
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in _named(params).items()}
    write_atomically(path, safetensors.numpy.save(arrays, metadata=dict(metadata)))


def load_params(path: Path, like: Any) -> tuple[Any, dict[str, str]]:
    """The parameters of a file, in the tree of `like` (arrays, or shapes from `jax.eval_shape`), and the metadata.

    Raises InputError for a file that is missing or damaged, and for parameters of another network; then the message
    lists every name that is missing, unexpected, or of another shape or dtype.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it has no iterator)
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise InputError(f"{path}: there are no trained parameters; train first, without --predict.") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: no readable safetensors file ({error}).") from error
    wanted = _named(like)
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in wanted]
    for name in wanted.keys() & found.keys():
        expected, got = (f"{np.dtype(a.dtype)}{list(a.shape)}" for a in (wanted[name], found[name]))
        if expected != got:
            problems.append(f"{name} expected {expected}, got {got}")
    if problems:
        raise InputError(f"{path}: these are the parameters of another network: {'; '.join(sorted(problems))}.")
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in wanted]), metadata
