"""`accelerate`: a function whose convolutions are replaced whenever it is called.

The function is traced, and its jaxpr evaluated by `Replacer`. What a call is given, and gives, that is no array goes
around the trace: functions, strings, numbers. What it changes in place comes out of the trace as results and is
written back: dicts and lists among its arguments here, the state of other libraries by `_libraries`. What cannot be
written back is an error.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from .._algorithms.base import Algorithms
from .._names import named
from .._plan import Plans, parsed
from .._primitive import Literal
from . import _libraries
from ._role import Replacement
from ._rules import Replacer

NUMBERS = (bool, int, float, complex, np.generic)
RETRACES = 16  # a function that is traced more often than this, for arguments of one kind, is reported
KEPT = 256  # kinds of arguments that a wrapper remembers something about


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class _Fixed:
    """A leaf that is no array, as a part of a structure."""

    value: Any


def _fixed(tree: Any) -> Any:
    """The tree with the leaves that are no arrays of jax made part of its structure."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else _Fixed(leaf), tree)


def _loose(tree: Any) -> Any:
    """What `_fixed` was given."""
    is_fixed = lambda node: isinstance(node, _Fixed)
    return jax.tree.map(lambda leaf: leaf.value if is_fixed(leaf) else leaf, tree, is_leaf=is_fixed)


class _Given(NamedTuple):
    """What a call is given beside its inputs."""

    tree: Any
    rest: tuple[tuple[type, Any] | None, ...]  # for each leaf its type and itself, or None where it is an input

    def filled(self, inputs: Any) -> Any:
        """The arguments, positional and by keyword."""
        found = iter(inputs)
        return self.tree.unflatten([next(found) if leaf is None else leaf[1] for leaf in self.rest])


class _Result(NamedTuple):
    """All that comes out of the trace of a function that is not jitted."""

    value: Any
    containers: dict[int, Any]  # the new contents of dicts and lists among the arguments
    state: list[Any]  # new values of the state of other libraries


# What is changed in place --------------------------------------------------------------------------------
def _containers(tree: Any) -> Iterator[Any]:
    """Every dict and list in a tree, outermost first."""
    children = jax.tree.leaves(tree, is_leaf=lambda node: node is not tree)
    if len(children) == 1 and children[0] is tree:
        return
    if isinstance(tree, (dict, list)):
        yield tree
    for child in children:
        yield from _containers(child)


def _same(a: Any, b: Any) -> bool:
    """Whether two flattened trees, leaves and structure, are the same objects in the same places."""
    return a[1] == b[1] and all(x is y for x, y in zip(a[0], b[0], strict=True))


class _Nth(NamedTuple):
    """A dict or list that was among the arguments already, in what another one holds."""

    place: int


def _mapped(fn: Callable[[Any], Any], container: Any) -> Any:
    """The entries of a dict or a list, each through a function."""
    return {k: fn(v) for k, v in container.items()} if isinstance(container, dict) else [fn(v) for v in container]


class _Snapshot:
    """What the arguments of a function are before it runs, and what of it has changed after it."""

    def __init__(self, name: str, args: Any) -> None:
        self.name, self.args = name, args
        self.containers = [(each, _mapped(lambda v: v, each)) for each in _containers(args)]
        self.flat = jax.tree.flatten(args)
        self.is_stable = _same(self.flat, jax.tree.flatten(args))  # some classes make their leaves anew

    def changed(self) -> dict[int, Any]:
        """The new contents of dicts and lists; TypeError for other objects."""
        nth = {id(each): _Fixed(_Nth(i)) for i, (each, _) in enumerate(self.containers)}
        ids = lambda container: _mapped(id, container)
        found = {
            i: _mapped(lambda v: nth.get(id(v), v), now)
            for i, (now, old) in enumerate(self.containers)
            if ids(now) != ids(old)
        }
        if not found and self.is_stable and not _same(self.flat, jax.tree.flatten(self.args)):
            raise TypeError(
                f"accelerate: {self.name} changes an object among its arguments in place, which tracing cannot see; "
                "accepted are functions that return what they change, that change dicts and lists, or that change "
                "objects of Flax nnx."
            )
        return found


def _write_back(args: Any, contents: dict[int, Any]) -> None:
    containers = list(_containers(args)) if contents else []
    for i, content in contents.items():
        now = _mapped(lambda v: containers[v.place] if isinstance(v, _Nth) else v, content)
        containers[i].clear()
        (containers[i].update if isinstance(now, dict) else containers[i].extend)(now)


# The function --------------------------------------------------------------------------------------------
def _donated(closed: Any) -> tuple[int, ...]:
    """Which inputs of a jaxpr a jitted function in it takes for good."""
    used: Counter[Any] = Counter(v for eqn in closed.jaxpr.eqns for v in eqn.invars if not isinstance(v, Literal))
    used.update(v for v in closed.jaxpr.outvars if not isinstance(v, Literal))
    donated = {
        v
        for eqn in closed.jaxpr.eqns
        if eqn.primitive.name == "jit"
        for v, given in zip(eqn.invars, eqn.params["donated_invars"], strict=True)
        if given and not isinstance(v, Literal) and used[v] == 1
    }
    return tuple(i for i, v in enumerate(closed.jaxpr.invars) if v in donated)


class Accelerated:
    """What `accelerate` returns: the function, with its convolutions replaced in every call."""

    def __init__(self, fn: Callable[..., Any], algorithm: str | Algorithms | Plans) -> None:
        functools.update_wrapper(self, fn, updated=())
        self._name = getattr(fn, "__qualname__", type(fn).__name__)
        fn, self._given, self._options = _libraries.unbound(fn)
        self._fn, self._plans = fn, parsed(algorithm)
        # A jitted function is traced once for each kind of arguments, and so is it here; any other is run each time.
        self._is_jitted = fn._is_jitted if isinstance(fn, Accelerated) else _libraries.is_jitted(fn)
        self._traces_numbers = _libraries.traces_numbers(fn)
        self._first = jax.jit(self._once, static_argnums=0)  # keeps the traces
        self._runners: dict[_Given, Callable[..., Any]] = {}
        self._quick: Callable[..., Any] | None = None  # for arguments that are all arrays, where none is donated
        self._on_trees: Accelerated | None = None  # the same for objects of Flax nnx, and there
        self._takes_trees = False
        self._traces: Counter[Any] = Counter()

    def __repr__(self) -> str:
        return f"jconv.accelerate({self._fn!r})"

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method, it is given the instance first, as a jitted function is."""
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = (*self._given, *args), {**self._options, **kwargs}
        is_jax_jit = _libraries.is_jax_jit(self._fn)
        arrays = is_jax_jit and all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((args, kwargs)))
        if arrays and self._quick is not None:
            return self._quick(*args, **kwargs)
        if not is_jax_jit and _libraries.makes_parameters():
            return self._fn(*args, **kwargs)
        if self._wants_trees(args, kwargs):
            with _libraries.as_trees(self, args, kwargs) as trees:
                return _libraries.back(self, self._for_objects()(*trees))
        if not self._is_jitted:
            return self._called(args, kwargs)
        given, inputs = self._split(args, kwargs)
        runner = self._runners.get(given)
        if runner is None:
            given, inputs, closed, _ = self._trace(args, kwargs)
            donated = _donated(closed)
            runner = jax.jit(self._run, static_argnums=0, donate_argnums=tuple(i + 1 for i in donated))
            while len(self._runners) >= KEPT:
                self._runners.pop(next(iter(self._runners)))
            self._runners[given] = runner
            if arrays and not donated:  # from now on jit itself finds what was traced for which arguments

                def quick(*args: Any, **kwargs: Any) -> Any:
                    given, inputs = self._split(args, kwargs)
                    return self._run(given, *inputs)

                self._quick = jax.jit(functools.wraps(self._fn)(quick))
        return _loose(runner(given, *inputs))

    def _split(self, args: Any, kwargs: Any) -> tuple[_Given, list[Any]]:
        """A call's arguments as the inputs of a trace and the rest."""
        leaves, tree = jax.tree.flatten((args, kwargs))
        kinds: tuple[type, ...] = (jax.Array, jax.ShapeDtypeStruct)
        if self._is_jitted:
            kinds += (np.ndarray, *(NUMBERS if self._traces_numbers else ()))
        rest = tuple(None if isinstance(leaf, kinds) else (type(leaf), leaf) for leaf in leaves)
        return _Given(tree, rest), [leaf for leaf in leaves if isinstance(leaf, kinds)]

    def _trace(self, args: Any, kwargs: Any) -> tuple[_Given, list[Any], Any, Any]:
        """The same of a jitted function, with its jaxpr and its results as shapes."""
        given, inputs = self._split(args, kwargs)
        try:
            with jax.disable_jit(False):
                traced = self._first.trace(given, *inputs)
        except (TypeError, ValueError, OverflowError):
            # A number that the function wants as it is, a static argument: from now on all of them are.
            if not (self._traces_numbers and any(isinstance(leaf, NUMBERS) for leaf in inputs)):
                raise
            self._traces_numbers = False
            try:
                return self._trace(args, kwargs)
            except BaseException:
                self._traces_numbers = True
                raise
        return given, inputs, traced.jaxpr, traced.out_info

    def _once(self, given: _Given, *inputs: Any) -> Any:
        """The jitted function itself, inside the one trace for arguments of this kind."""
        self._count((given.tree, *map(jax.typeof, inputs)), "it is given another number, string or function each time")
        args, kwargs = given.filled(inputs)
        return _fixed(self._fn(*args, **kwargs))

    def _run(self, given: _Given, *inputs: Any) -> Any:
        """It with its convolutions replaced, inside jit."""
        with jax.disable_jit(False):
            traced = self._first.trace(given, *inputs)
        results = Replacer(self._plans).run(traced.jaxpr, inputs)
        return jax.tree.structure(traced.out_info).unflatten(results)

    def _made(self, args: Any, kwargs: Any) -> tuple[list[Any], Any, Any, _libraries.Watch]:
        """Inputs, jaxpr and results as shapes of a function that is not jitted, and what it does to the state."""
        given, inputs = self._split(args, kwargs)
        watch = _libraries.Watch(self._name)

        def run(*inputs: Any) -> _Result:
            args, kwargs = given.filled(inputs)
            snapshot = _Snapshot(self._name, (args, kwargs))
            value = self._fn(*args, **kwargs)
            return _Result(_fixed(value), _fixed(snapshot.changed()), watch.values())

        with watch, jax.disable_jit(False):
            return inputs, *jax.make_jaxpr(run, return_shape=True)(*inputs), watch

    def _called(self, args: Any, kwargs: Any) -> Any:
        """A function that is not jitted."""
        inputs, closed, shape, watch = self._made(args, kwargs)
        results = Replacer(self._plans).run(closed, inputs)
        if not any(isinstance(leaf, Tracer) for leaf in (*inputs, *results)):
            self._count(None, "it is not jitted")
        result = jax.tree.structure(shape).unflatten(results)
        _write_back((args, kwargs), _loose(result.containers))
        watch.commit(result.state)
        return _loose(result.value)

    def _wants_trees(self, args: Any, kwargs: Any) -> bool:
        """Whether objects of Flax nnx are among the arguments of a function that may change them."""
        return not (self._takes_trees or _libraries.is_jax_jit(self._fn)) and _libraries.has_objects((args, kwargs))

    def _for_objects(self) -> Accelerated:
        if self._on_trees is None:
            inner = Accelerated(_libraries.on_trees(self._fn, self), self._plans)
            inner._takes_trees = True
            inner._name, inner._is_jitted, inner._traces_numbers = self._name, self._is_jitted, self._traces_numbers
            self._on_trees = inner
        return self._on_trees

    def _count(self, kind: Any, why: str) -> None:
        """Warns once of a function that is traced again and again."""
        if len(self._traces) >= KEPT and kind not in self._traces:
            self._traces.clear()
        self._traces[kind] += 1
        if self._traces[kind] == RETRACES + 1:
            warnings.warn(
                f"accelerate: {self._name} has been traced {RETRACES + 1} times for arguments of one kind, since "
                f"{why}. Write jax.jit(jconv.accelerate(fn)), with arrays for what changes; for Keras, "
                "model.train_step = jconv.accelerate(model.train_step).",
                RuntimeWarning,
                stacklevel=4,
            )

    def replaced(self, *args: Any, **kwargs: Any) -> tuple[Replacement, ...]:
        """What becomes of each convolution for these arguments (arrays, or their `jax.ShapeDtypeStruct`)."""
        args, kwargs = (*self._given, *args), {**self._options, **kwargs}
        if self._wants_trees(args, kwargs):
            with _libraries.as_trees(self, args, kwargs) as trees:
                return self._for_objects().replaced(*trees)
        if self._is_jitted:
            _, inputs, closed, _ = self._trace(args, kwargs)
        else:
            inputs, closed, *_ = self._made(args, kwargs)
        replacer = Replacer(self._plans)
        jax.make_jaxpr(lambda *inputs: replacer.run(closed, inputs))(*inputs)
        return tuple(replacer.found)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """``jax.jit(fn).lower(*args, **kwargs)`` with the convolutions replaced: a `jax.stages.Lowered`.

        Arguments that are no arrays are compiled in, and None in their place when what is compiled is called.
        """
        split = self._trace if _libraries.is_jax_jit(self._fn) else self._split
        given, inputs, *_ = split(args, kwargs)

        def lowered(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = given.filled(jax.tree.leaves((args, kwargs)))
            return self(*args, **kwargs)

        found = iter(inputs)
        args, kwargs = given.tree.unflatten([next(found) if leaf is None else None for leaf in given.rest])
        return jax.jit(functools.wraps(self._fn)(lowered)).lower(*args, **kwargs)


def replace(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` of arrays alone, with its convolutions replaced."""
    return lambda *args: Replacer(parsed("auto")).again(fn, *args)


@named
def accelerate(fn: Callable[..., Any], *, algorithm: str | Algorithms = "auto") -> Accelerated:
    """A function with every convolution and pool of jax.lax in it replaced by jconv's: y = fn(x), sooner.

    It works on any function that JAX can trace, however its convolutions came there (Flax, Haiku, Equinox, Keras, lax
    itself), and on a whole training step: convolutions that are gradients are computed as the gradients that they are.
    The result can be jitted, differentiated and vmapped as before. Convolutions inside jit, scan, while, cond,
    checkpoint, shard_map and custom derivatives are replaced too, and so are maxima, minima and sums over windows.

    Whatever `fn` does beside computing stays as it is. Leaves of arguments and results that are no arrays (functions,
    strings, Python numbers) pass as they are. Dicts and lists among the arguments, objects of Flax nnx and variables of
    Keras are changed where `fn` changes them. What a trace cannot carry, such as state that a function of Haiku or a
    module of Flax linen collects around `fn`, is an error that says what to accelerate instead.

    Args:
        fn: a function of pytrees, jitted (`jax.jit`, `flax.nnx.jit`, `equinox.filter_jit`) or not. A jitted one keeps
            its static and donated arguments, and is traced once for each kind of arguments; any other is traced with
            every call, so jit it, or what calls it. A function that is traced again and again is reported once.
        algorithm: as for `jconv.conv`.

    Returns:
        A function of the same arguments. Its method ``replaced(*args)`` tells what becomes of each convolution: the
        role and geometry that it is computed as, or why it is left to XLA; ``lower(*args)`` is that of a jitted
        function.

    Raises:
        TypeError: for something that is no function; in a call, where `fn` changes what no trace can carry.
        ValueError: for an unknown algorithm; and what `fn` raises.

    >>> import jax, jax.numpy as jnp
    >>> net = lambda x, k: jax.nn.relu(jax.lax.conv_general_dilated(x, k, (1, 1), "SAME"))
    >>> x, k = jnp.ones((1, 3, 8, 8)), jnp.ones((4, 3, 3, 3))
    >>> fast = accelerate(net)
    >>> bool(jnp.allclose(jax.jit(fast)(x, k), net(x, k)))
    True
    >>> print(*fast.replaced(x, k))
    (1, 3, 8, 8) with (4, 3, 3, 3), float32: forward

    References:
        How a convolution of lax becomes a role of jconv: the top of ``jconv/_accelerate/_role.py``.
    """
    if not callable(fn):
        raise TypeError(f"fn: got {fn!r}, accepted is a function.")
    return Accelerated(fn, algorithm)
