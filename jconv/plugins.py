"""Algorithms from other distributions: how they are found, and what is needed to write one.

A distribution adds an algorithm by an entry point of the group `jconv.algorithms`, whose object is a function without
arguments that gives an `Algorithm`:

    [project.entry-points."jconv.algorithms"]
    mine = "my_package:algorithm"

It is found when the first convolution is planned, and from then on is one of the algorithms: "auto" prices it, `tune`
measures it, reductions go before it, and it can be asked for by name; ``algorithm="portable"`` is "auto" without it.
Where it fails to load, everything works without
it, one warning says why, and so does ``python -m jconv algorithms``. With ``JCONV_PLUGINS=off`` in the environment
none is loaded.
"""

from __future__ import annotations

import functools
import os
import warnings
from importlib import metadata
from typing import NamedTuple

from ._algorithms import ALGORITHMS, REDUCTIONS
from ._algorithms.base import UNFINISHED as UNFINISHED
from ._algorithms.base import Algorithm as Algorithm
from ._algorithms.base import Call as Call
from ._algorithms.base import Finish as Finish
from ._algorithms.base import accumulator as accumulator
from ._forecast.work import Convolution as Convolution
from ._forecast.work import Copy as Copy
from ._forecast.work import Launch as Launch
from ._forecast.work import Loop as Loop
from ._forecast.work import Product as Product
from ._forecast.work import Transform as Transform
from ._forecast.work import Work as Work

GROUP = "jconv.algorithms"
SWITCH = "JCONV_PLUGINS"


class Plugin(NamedTuple):
    """One entry point: its name, its distribution with the version, and its algorithm, or why there is none."""

    name: str
    distribution: str
    algorithm: Algorithm | None
    why: str = ""


@functools.cache
def plugins() -> tuple[Plugin, ...]:
    """Every entry point of the group, loaded once; none where the environment switches plug-ins off.

    Args:
        None.

    Returns:
        One `Plugin` for each entry point, in the order of their names; those that do not load say why.

    Raises:
        Nothing: what does not load is a warning.

    >>> all(isinstance(found, Plugin) for found in plugins())
    True

    References:
        https://packaging.python.org/en/latest/specifications/entry-points/
    """
    if os.environ.get(SWITCH, "").lower() == "off":
        return ()
    return tuple(_loaded(point) for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name))


def _loaded(point: metadata.EntryPoint) -> Plugin:
    distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
    try:
        algorithm = point.load()()
        if not isinstance(algorithm, Algorithm):
            raise TypeError(f"{point.value} gave {algorithm!r}, accepted is a jconv.plugins.Algorithm")
        taken = (*ALGORITHMS, *REDUCTIONS, "auto", "portable", "direct", "tuned")
        if algorithm.name in taken or not algorithm.name.isidentifier():
            raise ValueError(f"its name is {algorithm.name!r}, accepted is an identifier other than {', '.join(taken)}")
    except Exception as error:  # whatever a stranger's package raises
        why = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"jconv goes on without the plug-in {point.name!r} of {distribution}, which does not load: {why}. "
            f"{SWITCH}=off leaves plug-ins out.",
            RuntimeWarning,
            stacklevel=2,
        )
        return Plugin(point.name, distribution, None, why)
    return Plugin(point.name, distribution, algorithm)


def algorithms() -> dict[str, Algorithm]:
    """Every algorithm by its name: jconv's own, then those of plug-ins.

    Args:
        None.

    Returns:
        A new dict of names and algorithms.

    Raises:
        Nothing.

    >>> "xla" in algorithms()
    True

    References:
        `jconv.algorithms` gives the names alone.
    """
    found = {plugin.algorithm.name: plugin.algorithm for plugin in plugins() if plugin.algorithm}
    return {**ALGORITHMS, **found}
