"""Files of results, each written whole or not at all: JSON, pictures and parameters."""

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

from jconv import interop

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class InputError(ValueError):
    """Something the user gave does not do. The scripts print its message, without a traceback, and exit with 2."""


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that under its name there is the old content or the new, and never a part of it.

    The content goes to a temporary file in the same folder, hence on the same disk, where `os.replace` is one step.
    What a killed process leaves of it has the same name every time, so the next one takes it away.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # the system names no file where one that is open cannot grow
        raise
    finally:
        temporary.unlink(missing_ok=True)


def prepare_folder(folder: Path) -> Path:
    """Makes the folder for the results, and proves that it can be written to before hours are spent on them."""
    probe = folder / ".probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"--out {folder}: {error.strerror}; accepted is a folder that can be written to.") from error
    return folder


def save_json(path: Path, value: Any) -> None:
    write_atomically(path, f"{json.dumps(value, indent=2)}\n".encode())


def save_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write_atomically(path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())


def save_figure(path: Path, figure: Figure) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(path, buffer.getvalue())


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree under names like "c1/kernel"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def described(arrays: Mapping[str, Any]) -> dict[str, str]:
    """The dtypes and shapes of named arrays, as in "float32[5, 5, 1, 6]"."""
    return {name: f"{np.dtype(array.dtype)}{list(array.shape)}" for name, array in arrays.items()}


def save_params(path: Path, params: Any, metadata: Mapping[str, str]) -> None:
    """Writes the parameters as safetensors, which any framework reads, under names like "c1/kernel"."""
    interop.write_safetensors(path, named_leaves(params), metadata=metadata)


def load_params(path: Path, like: Any) -> tuple[Any, dict[str, str]]:
    """The parameters of a file, in the tree of `like` (arrays, or shapes from `jax.eval_shape`), and the metadata.

    Raises InputError for a file that is missing or damaged, and for parameters of another network; then the message
    lists every name that is missing, unexpected, or of another shape or dtype.
    """
    try:
        found = interop.read_safetensors(path)
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise InputError(f"{path}: there are no trained parameters; train first, without --predict.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no readable safetensors file ({error}).") from error
    wanted = named_leaves(like)
    problems = different_arrays(described(wanted), described(found))
    if problems:
        raise InputError(f"{path}: these are the parameters of another network: {'; '.join(problems)}.")
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in wanted]), metadata


def different_arrays(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What is missing, unexpected, or of another shape or dtype, from two results of `described`."""
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in wanted]
    problems += [
        f"{name} expected {wanted[name]}, got {found[name]}"
        for name in wanted.keys() & found.keys()
        if wanted[name] != found[name]
    ]
    return sorted(problems)
