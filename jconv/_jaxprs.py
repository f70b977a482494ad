"""Walking jaxprs: the one place that knows where an equation keeps those inside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ._primitive import ClosedJaxpr, Jaxpr


def opened(jaxpr: Any) -> Any:
    """A jaxpr without its constants."""
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, (ClosedJaxpr, Jaxpr)):
        yield value
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _inside(entry)
    elif isinstance(value, dict):
        yield from _inside(list(value.values()))


def inner(eqn: Any) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation, closed or not, in order."""
    yield from _inside(list(eqn.params.values()))


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr and of all that are inside it, in order, each different jaxpr once."""
    seen: set[int] = set()

    def walk(jaxpr: Any) -> Iterator[Any]:
        jaxpr = opened(jaxpr)
        if id(jaxpr) in seen:
            return
        seen.add(id(jaxpr))
        for eqn in jaxpr.eqns:
            yield eqn
            for each in inner(eqn):
                yield from walk(each)

    return walk(jaxpr)
