"""Files of weights: safetensors, which hold names, shapes and numbers and nothing that runs."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from .._files import write_atomically

DTYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
    "I32": np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16, "BF16": jnp.bfloat16, "F32": np.float32,
    "F64": np.float64, "C64": np.complex64, "F8_E4M3": jnp.float8_e4m3fn, "F8_E5M2": jnp.float8_e5m2,
}  # fmt: skip
NAMES = {np.dtype(dtype).name: name for name, dtype in DTYPES.items()}


def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("safetensors is not installed; accepted is: pip install 'jconv[interop]'.") from error
    return safetensors


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, of whatever library: a state dict for `from_torch`, or arrays for `unflatten`.

    Args:
        path: of the file.

    Returns:
        Names and arrays, with the dtypes of the file, bfloat16 among them.

    Raises:
        ValueError: for a file that is damaged, or none of safetensors.
        OSError: for a file that cannot be read.
        ImportError: where safetensors is not installed.

    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> write_safetensors(folder / "net.safetensors", {"Conv_0/bias": np.arange(3.0)})
    >>> read_safetensors(folder / "net.safetensors")
    {'Conv_0/bias': array([0., 1., 2.])}

    References:
        https://github.com/huggingface/safetensors, the format.
    """
    library = _library()
    content = pathlib.Path(path).read_bytes()
    try:
        entries = library.deserialize(content)
    except library.SafetensorError as error:
        raise ValueError(f"path: got {path}, which is no readable safetensors file ({error}).") from error
    found = {}
    for name, entry in entries:
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"path: {name!r} in {path} is {entry['dtype']}, accepted are {', '.join(DTYPES)}.")
        array = np.frombuffer(bytes(entry["data"]), np.dtype(DTYPES[entry["dtype"]]))
        found[name] = array.reshape(entry["shape"]).copy()
    return found


def write_safetensors(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes arrays to a safetensors file; under its name there is the old file or the new one, never a part.

    Args:
        path: of the file.
        arrays: names and arrays, as `flatten` or `to_torch` gives them.
        metadata: texts that the file keeps beside them.

    Returns:
        Nothing.

    Raises:
        ValueError: for arrays whose dtype the format does not have.
        OSError: for a file that cannot be written; what was there stays.
        ImportError: where safetensors is not installed.

    >>> import pathlib, tempfile
    >>> import jax.numpy as jnp
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "net.safetensors"
    >>> write_safetensors(path, {"kernel": jnp.ones((1, 2), jnp.bfloat16)}, metadata={"network": "none"})
    >>> read_safetensors(path)["kernel"].dtype
    dtype(bfloat16)

    References:
        As for `read_safetensors`.
    """
    library, path = _library(), pathlib.Path(path)
    found = {name: np.array(jax.device_get(array), order="C") for name, array in arrays.items()}
    for name, array in found.items():
        if array.dtype.name not in NAMES:
            raise ValueError(f"arrays: got {name!r} of {array.dtype}, accepted are {', '.join(NAMES)}.")
    write_atomically(path, library.numpy.save(found, metadata=dict(metadata or {}) or None))
