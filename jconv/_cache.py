"""Measured choices and rates, kept in a file from one process to the next.

The file is JSON: ``{"format": FORMAT, "choices": {environment: {call: choice}}, "rates": {environment: {dtype: {name:
seconds}}}}``. The keys are text that can be read: the device with the versions of jax, jaxlib and jconv, and the call
with all that is static about it. So what was measured on another machine, or with another version, is not found.

A write takes the lock, reads what the file holds by now, adds to it and puts a new file in its place, which readers see
whole or not at all. The lock is one of the operating system's, which ends with the process that holds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.lib import __version__ as jaxlib_version  # type: ignore

from ._algorithms.base import ROLES, Call
from ._files import write_atomically
from ._spec import ConvSpec
from ._version import __version__

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FORMAT = "jconv tuned choices, version 1"
LOCK_SECONDS = 10.0  # longer than any write takes


class Choice(NamedTuple):
    """What was measured for one call: the plan that won, and the seconds of each."""

    name: str
    seconds: float
    measured: dict[str, float]
    date: str


_guard = threading.RLock()
Rates = dict[str, dict[str, float]]  # seconds of a unit of work, for each dtype and kind of it


class Kept(NamedTuple):
    """What a file holds for one environment."""

    choices: dict[str, Choice]
    rates: Rates


_here: dict[tuple[str, str], Choice] = {}  # tuned by this process
_rates_here: dict[str, Rates] = {}  # and measured
_read: dict[pathlib.Path, tuple[Any, Kept]] = {}  # what a file held, and its state then


# Keys ----------------------------------------------------------------------------------------------------
def this_device() -> Any:
    """The device that measurements are made on and hold for."""
    return jax.local_devices()[0]


def platform_of(device: Any) -> str:
    """The platform of a device, by the name that lowering uses."""
    if device.platform != "gpu":
        return device.platform
    return "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"


@functools.cache
def cpu_model(otherwise: str) -> str:
    """The model name of the CPU, where the system tells it."""
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), otherwise)
    return otherwise


def cores() -> int | None:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def device_kind(device: Any) -> str:
    """The model of a device; of a CPU with the number of cores that this process may use."""
    if device.platform != "cpu":
        return device.device_kind
    return f"{cpu_model(platform.processor() or platform.machine() or device.device_kind)}, {cores()} cores"


def environment(device: Any) -> str:
    """The device and the versions that a measurement holds for."""
    versions = f"jax {jax.__version__}, jaxlib {jaxlib_version}, jconv {__version__}"
    return f"{platform_of(device)}: {device_kind(device)}; {versions}"


def precision_text(precision: Any) -> str:
    """A `Call.precision` as text; None is the default one."""
    entries = precision if isinstance(precision, tuple) else (precision,)
    return ",".join((entry or jax.lax.Precision.DEFAULT).name.lower() for entry in entries)


def call_text(call: Call) -> str:
    """All that is static about a call, but for its platform."""
    spec = ((f.name, getattr(call.spec, f.name)) for f in dataclasses.fields(call.spec))
    geometry = " ".join(f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in spec)
    dtypes = f"{call.dtype.name}->{call.out_dtype.name}"
    return f"{call.role} {dtypes} precision={precision_text(call.precision)} {geometry}"


def call_of(text: str, platform: str) -> Call:
    """The call that `call_text` wrote; ValueError where it is none."""
    try:
        role, dtypes, precision, *geometry = text.split(" ")
        entries = [jax.lax.Precision(entry) for entry in precision.removeprefix("precision=").split(",")]
        dtype, out_dtype = (jnp.dtype(name) for name in dtypes.split("->"))
        fields = {name: json.loads(value) for name, value in (field.split("=") for field in geometry)}
        fields["padding"] = [tuple(pair) for pair in fields["padding"]]
        one = None if entries == [jax.lax.Precision.DEFAULT] else entries[0]
        found = tuple(entries) if len(entries) > 1 else one
        call = Call(ConvSpec(**fields), role, dtype, out_dtype, found, platform)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{text!r} describes no call: {error}") from None
    if role not in ROLES or call_text(call) != text:
        raise ValueError(f"{text!r} describes no call")
    return call


def is_symbolic(call: Call) -> bool:
    """Whether the batch has no size yet."""
    return not all(isinstance(n, int) for n in call.spec.x_shape)


def default_path() -> pathlib.Path:
    """``$JCONV_CACHE`` where that is set, else ``jconv/tuned.json`` in the user's folder of caches."""
    if named := os.environ.get("JCONV_CACHE"):
        return pathlib.Path(named).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(caches).expanduser() / "jconv" / "tuned.json"


# Reading -------------------------------------------------------------------------------------------------
Sections = dict[str, dict[str, Any]]


def parse(content: bytes) -> tuple[Sections, Sections]:
    """The choices and the rates in a file, not yet looked into; ValueError where it is no such file."""
    try:
        document = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    found = []
    for name in ("choices", "rates"):
        sections = document.get(name, {} if name == "rates" else None)
        if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
            raise ValueError(f"its {name} are no objects of objects")
        found.append(sections)
    return found[0], found[1]


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def _choice(entry: Any) -> Choice | None:
    """An entry of the file, or None where it is none."""
    if not isinstance(entry, dict) or set(entry) != set(Choice._fields):
        return None
    choice = Choice(**entry)
    measured = choice.measured
    texts = isinstance(choice.name, str) and isinstance(choice.date, str)
    if not texts or not _is_seconds(choice.seconds) or not isinstance(measured, dict):
        return None
    return choice if all(map(_is_seconds, measured.values())) else None


def _rates(section: Any) -> Rates | None:
    """The rates of one environment, or None where they are none."""
    entries = section.values() if isinstance(section, dict) else [None]
    if not all(isinstance(e, dict) and all(_is_seconds(v) and v > 0 for v in e.values()) for e in entries):
        return None
    return section


def _state(path: pathlib.Path) -> Any:
    """What changes when the file does; None where there is no file."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return str(error)
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _load(path: pathlib.Path, section: str) -> Kept:
    """What a file holds for one environment; read again only when the file has changed, and complained of once."""
    with _guard:
        state, complaint = _state(path), ""
        if path in _read and _read[path][0] == (section, state):
            return _read[path][1]
        found = Kept({}, {})
        if state is not None:
            try:
                choices, rates = (sections.get(section, {}) for sections in parse(path.read_bytes()))
                good = {call: choice for call, entry in choices.items() if (choice := _choice(entry))}
                found = Kept(good, _rates(rates) or {})
                if strange := [call for call in choices if call not in good]:
                    complaint = f"{len(strange)} of its {len(choices)} choices are not understood, {strange[0]!r} first"
                elif _rates(rates) is None:
                    complaint = "its rates are not understood"
            except (OSError, ValueError) as error:
                complaint = f"it is not understood: {error}"
        _read[path] = (section, state), found
    if complaint:
        warnings.warn(f"{path}: ignored as a cache of tuned choices, because {complaint}.", stacklevel=2)
    return found


def lookup(call: Call) -> Choice | None:
    """What was measured for a call on this machine's first device; None where nothing was."""
    device = this_device()
    if call.platform != platform_of(device) or is_symbolic(call):
        return None
    section, key = environment(device), call_text(call)
    with _guard:
        own = _here.get((section, key))
    return own or _load(default_path(), section).choices.get(key)


def rates_of(platform: str | None) -> Rates | None:
    """What `calibrate` measured on this machine's first device, where that is of the platform; else None."""
    device = this_device()
    if platform != platform_of(device):
        return None
    section = environment(device)
    with _guard:
        own = _rates_here.get(section)
    return own or _load(default_path(), section).rates or None


# Writing -------------------------------------------------------------------------------------------------
def _try_lock(file: int) -> bool:
    """Whether the lock could be had; where the file system has no locks, it could."""
    if sys.platform == "win32":
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a cache file. TimeoutError, an OSError, where a living process does not give it back."""
    with open(f"{path}.lock", "wb") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _try_lock(file.fileno()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process has held {path}.lock for {LOCK_SECONDS:.0f} s")
            time.sleep(0.005)
        yield


def _put_aside(path: pathlib.Path) -> pathlib.Path:
    """Renames a file that is not understood to a name that is free."""
    names = (f"{path.name}.damaged{i or ''}" for i in range(10_000))
    aside = next(other for name in names if not (other := path.with_name(name)).exists())
    os.replace(path, aside)
    return aside


def remember(
    found: Mapping[Call, Choice], path: str | os.PathLike[str] | None = None, rates: Rates | None = None
) -> str:
    """Keeps choices and rates measured on this machine's first device: for this process, and in the file for others.

    A file that is not understood is put aside first. Gives the file; where it cannot be written nothing, and a warning
    says so.
    """
    section = environment(this_device())
    entries = {call_text(call): choice for call, choice in found.items()}
    with _guard:
        _here.update({(section, key): choice for key, choice in entries.items()})
        if rates:
            _rates_here[section] = rates
    path = pathlib.Path(os.path.realpath(path or default_path()))
    complaint, kept = "", str(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            choices, measured = {}, {}
            if path.exists():
                try:
                    choices, measured = parse(path.read_bytes())
                except ValueError as error:
                    complaint = f"was not understood ({error}) and is now {_put_aside(path)}"
            if entries:
                own = choices.setdefault(section, {})
                own.update({key: choice._asdict() for key, choice in entries.items()})
            if rates:
                measured[section] = rates
            content = {"format": FORMAT, "choices": choices} | ({"rates": measured} if measured else {})
            text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
            write_atomically(path, f"{text}\n".encode())
    except OSError as error:
        complaint, kept = f"cannot be written ({error}), so the choices and rates hold in this process only", ""
    if complaint:
        warnings.warn(f"{path}: {complaint}.", stacklevel=2)
    return kept


def forget() -> None:
    """Drops what this process holds in memory; files stay."""
    with _guard:
        _here.clear()
        _rates_here.clear()
        _read.clear()
