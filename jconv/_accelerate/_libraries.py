"""State that other libraries keep beside the arguments of a function, and how it comes through a trace.

A trace sees arguments and results. Flax nnx changes modules in place, Keras its variables, Haiku and Flax linen what a
transformed function or a module collects. None of them is imported here: a library that the program has not imported
keeps no state.

- Flax nnx: objects among the arguments go through as what `flax.nnx.to_tree` makes of them, and back into themselves,
  as in Flax's own transformations.
- Keras: a scope of its own notes what is assigned to variables, which is assigned again where the function was called.
- Haiku, Flax linen: what runs while parameters are made is not traced; what sets state inside of a trace is an error.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax

_JIT = type(jax.jit(jax.numpy.add))


def _loaded(name: str, *parts: str) -> Any:
    """A module, where the program has imported it whole."""
    module = sys.modules.get(name)
    return module if all(hasattr(module, part) for part in parts) else None


def is_jitted(fn: Callable[..., Any]) -> bool:
    """Whether a function is jitted, by whatever library: it is traced once for each kind of arguments."""
    return hasattr(fn, "lower")


def is_jax_jit(fn: Callable[..., Any]) -> bool:
    """Whether it is `jax.jit`'s own: nothing but arrays comes out, and nothing is changed in place."""
    return isinstance(fn, _JIT)


def traces_numbers(fn: Callable[..., Any]) -> bool:
    """Whether Python's numbers are inputs, if they are no static arguments, as for `jax.jit` and `flax.nnx.jit`."""
    return is_jax_jit(getattr(fn, "jitted_fn", fn))


# Flax nnx ------------------------------------------------------------------------------------------------
def _is_graph_node() -> Callable[[Any], bool] | None:
    nnx = _loaded("flax.nnx", "graph", "to_tree", "from_tree", "update_context")
    return None if nnx is None else nnx.graph.is_graph_node


def has_objects(tree: Any) -> bool:
    """Whether there are objects of Flax nnx in a tree."""
    is_object = _is_graph_node()
    return is_object is not None and any(map(is_object, jax.tree.leaves(tree, is_leaf=is_object)))


def unbound(fn: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """A function without what it is given beforehand, and that: arguments like others.

    Of a `functools.partial` its arguments; of a method of an object of Flax nnx, or such an object itself, the object.
    """
    owner, function = getattr(fn, "__self__", None), getattr(fn, "__func__", None)
    if isinstance(fn, functools.partial):
        inner, args, kwargs = unbound(fn.func)
        return inner, (*args, *fn.args), {**kwargs, **fn.keywords}
    if function is not None and has_objects(owner):
        return function, (owner,), {}
    return (type(fn).__call__, (fn,), {}) if has_objects(fn) else (fn, (), {})


@contextlib.contextmanager
def as_trees(tag: Any, args: Any, kwargs: Any) -> Iterator[Any]:
    """Arguments with trees in the places of objects."""
    nnx = sys.modules["flax.nnx"]
    with nnx.update_context(tag):
        yield nnx.to_tree((args, kwargs), ctxtag=tag)


def on_trees(fn: Callable[..., Any], tag: Any) -> Callable[..., Any]:
    """`fn(*args, **kwargs)` as a function of what `as_trees` gives; its result is for `back`."""
    nnx, is_object = sys.modules["flax.nnx"], _is_graph_node()

    def pure(args: Any, kwargs: Any) -> Any:
        args, kwargs = nnx.from_tree((args, kwargs), ctxtag=tag, is_inner=True)
        value = fn(*args, **kwargs)
        keep = lambda node: node if is_object and is_object(node) else None
        objects = jax.tree.map(keep, (args, kwargs), is_leaf=is_object)
        return nnx.to_tree((objects, value), ctxtag=tag)

    return pure


def back(tag: Any, trees: Any) -> Any:
    """The result of the function; the objects among its arguments are now as it left them."""
    return sys.modules["flax.nnx"].from_tree(trees, ctxtag=tag, is_inner=False)[1]


# Keras ---------------------------------------------------------------------------------------------------
@functools.cache
def _scope_class(base: Any) -> Any:
    class Scope(base):
        """Notes assignments; a variable that was not assigned to has the value that it has outside."""

        def __init__(self) -> None:
            super().__init__(collect_losses=True)
            self.assigned: dict[int, Any] = {}

        def add_update(self, update: tuple[Any, Any]) -> None:
            super().add_update(update)
            self.assigned[id(update[0])] = update[0]

        def get_current_value(self, variable: Any) -> Any:
            value, outer = super().get_current_value(variable), self.original_scope
            return value if value is not None or outer is None else outer.get_current_value(variable)

    return Scope


def _keras_scope() -> Any:
    keras = _loaded("keras", "StatelessScope", "Variable", "config")
    return None if keras is None or keras.config.backend() != "jax" else _scope_class(keras.StatelessScope)()


# Haiku, Flax linen ---------------------------------------------------------------------------------------
def _haiku() -> Any:
    """Haiku, inside a function that it transforms."""
    haiku = _loaded("haiku", "running_init", "get_current_state", "maybe_get_rng_sequence_state")
    try:
        return haiku if haiku is not None and haiku.running_init() in (True, False) else None
    except ValueError:  # its way to say that it is outside
        return None


def _linen() -> Any:
    """The module of Flax linen whose method runs just now."""
    linen = _loaded("flax.linen.module", "_context")
    module = None if linen is None else linen._context.module_stack[-1]
    return None if module is None or module.scope is None else module


def makes_parameters() -> bool:
    """Whether a function is initialised just now, which collects parameters and needs no speed."""
    haiku, linen = _haiku(), _linen()
    return (haiku is not None and haiku.running_init()) or (linen is not None and linen.is_initializing())


def _collected() -> dict[str, list[Any]]:
    """What the functions that run just now have collected so far, by how to collect it outside of a trace."""
    found, haiku, linen = {}, _haiku(), _linen()
    if haiku is not None:
        state = haiku.get_current_state(), haiku.maybe_get_rng_sequence_state()
        found["apply = jconv.accelerate(hk.transform_with_state(fn).apply)"] = jax.tree.leaves(state)
    if linen is not None:
        found["apply = jconv.accelerate(module.apply)"] = jax.tree.leaves(linen.variables)
    return found


class Watch:
    """What a function does to the state of Keras, Haiku and Flax linen while it is traced.

    Args:
        name: of the function, for errors.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._variables: list[Any] = []

    def __enter__(self) -> Watch:  # around the trace: Keras makes variables anew when it leaves its scope
        self._collected, self._scope = _collected(), _keras_scope()
        if self._scope is not None:
            self._scope.__enter__()
        return self

    def values(self) -> list[Any]:
        """Inside of the trace, after the function: what it assigned to variables."""
        if self._scope is None:
            return []
        outer = self._scope.original_scope
        if self._scope.losses and (outer is None or outer.collect_losses):
            raise TypeError(
                f"accelerate: {self.name} adds losses to layers of Keras, which tracing cannot see; accelerate the "
                "whole step: model.train_step = jconv.accelerate(model.train_step)."
            )
        self._variables = list(self._scope.assigned.values())
        return [self._scope.get_current_value(variable) for variable in self._variables]

    def __exit__(self, kind: Any, *error: Any) -> None:
        if self._scope is not None:
            self._scope.__exit__(kind, *error)
        for how, now in _collected().items() if kind is None else ():
            before = self._collected[how]
            if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
                raise TypeError(
                    f"accelerate: {self.name} sets state or draws random numbers that the function around it collects, "
                    f"which tracing cannot see; accelerate the whole: {how}."
                )

    def commit(self, values: list[Any]) -> None:
        """Assigns to the variables what the function assigned, as it was computed."""
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
