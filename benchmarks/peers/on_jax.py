"""lax, jconv, and the layer libraries of JAX: each gives a function (x, kernel) -> y in its own layout.

The gradients are those that JAX derives from that function by transposing it. Each role is lowered and compiled ahead
of time, and both are timed.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

import jconv

from .base import (
    OPERANDS,
    PLUGGED,
    RESULT,
    Layout,
    NotExpressible,
    Prepared,
    image_layout,
    is_transposed,
    kernel_layout,
    load,
    padding_of_transposed,
    rounded,
)


class Function(NamedTuple):
    """A layer as a function of image and kernel, and the layouts of both."""

    call: Callable[[Any, Any], Any]
    image: Layout
    kernel: Layout

    def layout(self, kind: str) -> Layout:
        return self.kernel if kind == "kernel" else self.image


@dataclasses.dataclass(frozen=True)
class JaxPeer:
    """A library of JAX, as what it makes of a geometry; `facts` are what its record says beside."""

    name: str
    layer: Callable[[jconv.ConvSpec], Function]
    facts: Callable[[jconv.ConvSpec, str], dict[str, Any]] = lambda spec, role: {}

    def prepare(self, role: str, spec: jconv.ConvSpec, operands: list[np.ndarray]) -> Prepared:
        function = self.layer(spec)
        native = [
            jax.device_put(function.layout(kind).to(array))
            for kind, array in zip(OPERANDS[role], operands, strict=True)
        ]
        x, kernel = (
            jax.ShapeDtypeStruct([shape[axis] for axis in function.layout(kind).axes], np.float32)
            for kind, shape in (("x", spec.x_shape), ("kernel", spec.kernel_shape))
        )
        start = time.perf_counter()
        lowered = jax.jit(role_of(function.call, role, x, kernel)).lower(*native)
        middle = time.perf_counter()
        executable = lowered.compile()
        end = time.perf_counter()
        memory = executable.memory_analysis()
        facts = {
            "lower_s": rounded(middle - start),
            "compile_s": rounded(end - middle),
            "workspace_bytes": int(memory.temp_size_in_bytes) if memory else None,
        }
        return Prepared(
            lambda: jax.block_until_ready(executable(*native)),
            lambda result: function.layout(RESULT[role]).back(np.asarray(result)),
            facts | self.facts(spec, role),
        )


def role_of(conv: Callable[[Any, Any], Any], role: str, x: Any, kernel: Any) -> Callable[[Any, Any], Any]:
    """One role of a convolution function, as JAX derives it; `x` and `kernel` are their shapes."""
    if role == "forward":
        return conv
    if role == "input_grad":
        return lambda g, kernel: jax.linear_transpose(lambda x: conv(x, kernel), x)(g)[0]
    return lambda x, g: jax.linear_transpose(lambda kernel: conv(x, kernel), kernel)(g)[0]


def options(spec: jconv.ConvSpec) -> dict[str, Any]:
    """The geometry as options of `jconv.conv`."""
    names = ("strides", "padding", "input_dilation", "kernel_dilation", "feature_group_count")
    return {name: getattr(spec, name) for name in names}


def lax_conv(spec: jconv.ConvSpec) -> Callable[..., jax.Array]:
    r = spec.rank
    image = (0, r + 1, *range(1, r + 1))
    return functools.partial(
        lax.conv_general_dilated,
        window_strides=spec.strides,
        padding=spec.padding,
        lhs_dilation=spec.input_dilation,
        rhs_dilation=spec.kernel_dilation,
        dimension_numbers=lax.ConvDimensionNumbers(image, (r + 1, r, *range(r)), image),
        feature_group_count=spec.feature_group_count,
    )


def own_layout(spec: jconv.ConvSpec, call: Callable[[Any, Any], Any]) -> Function:
    return Function(call, image_layout(spec.rank), kernel_layout(spec.rank, "kio"))


def lax_peer() -> JaxPeer:
    return JaxPeer("lax", lambda spec: own_layout(spec, lax_conv(spec)))


def jconv_peer(algorithm: str = "portable", name: str = "jconv") -> JaxPeer:
    """jconv with one algorithm, or what chooses one. The record says which one was taken, and why."""

    def layer(spec: jconv.ConvSpec) -> Function:
        def call(x: jax.Array, kernel: jax.Array) -> jax.Array:
            try:
                return jconv.conv(x, kernel, algorithm=algorithm, **options(spec))
            except ValueError as error:
                if "does not cover" in str(error):
                    raise NotExpressible(str(error)) from error
                raise

        return own_layout(spec, call)

    def facts(spec: jconv.ConvSpec, role: str) -> dict[str, Any]:
        chosen = jconv.select_algorithm(
            spec.x_shape,
            spec.kernel_shape,
            role=role,  # type: ignore[arg-type]
            platform=jax.default_backend(),
            algorithm=algorithm,
            **options(spec),
        )
        return {"algorithm": chosen.name, "reason": chosen.reason}

    return JaxPeer(name, layer, facts)


def has_plugins() -> bool:
    return any(plugin.algorithm for plugin in jconv.plugins.plugins())


def candidates(spec: jconv.ConvSpec) -> dict[str, Callable[..., jax.Array]]:
    """lax, and jconv without and with plug-ins where there are any, as functions of image and kernel."""
    found = {"lax": lax_conv(spec), "jconv": functools.partial(jconv.conv, algorithm="portable", **options(spec))}
    if has_plugins():
        found[PLUGGED] = functools.partial(jconv.conv, **options(spec))
    return found


def flax_peer() -> JaxPeer:
    nnx = load("flax.nnx")

    def layer(spec: jconv.ConvSpec) -> Function:
        shared: dict[str, Any] = {"use_bias": False, "kernel_dilation": spec.kernel_dilation, "rngs": nnx.Rngs(0)}
        if is_transposed(spec):
            if spec.feature_group_count > 1 or any(s > 1 for s in spec.strides):
                raise NotExpressible("nnx.ConvTranspose has no groups")
            kind = functools.partial(nnx.ConvTranspose, strides=spec.input_dilation)
        else:
            groups = spec.feature_group_count
            kind = functools.partial(nnx.Conv, strides=spec.strides, feature_group_count=groups)
        module = kind(spec.in_features, spec.out_features, spec.window, padding=spec.padding, **shared)
        graph, parameters, rest = nnx.split(module, nnx.Param, ...)

        def call(x: jax.Array, kernel: jax.Array) -> jax.Array:
            mine = jax.tree.map(lambda _: kernel, parameters)  # the kernel is the only one
            return nnx.merge(graph, mine, rest)(x)

        return own_layout(spec, call)

    return JaxPeer("flax", layer)


def haiku_peer() -> JaxPeer:
    hk = load("haiku")

    def layer(spec: jconv.ConvSpec) -> Function:
        transposed = is_transposed(spec)
        shared = {"with_bias": False, "name": "conv", "data_format": "channels_last", "padding": spec.padding}
        if transposed:
            if spec.feature_group_count > 1 or any(d > 1 for d in (*spec.strides, *spec.kernel_dilation)):
                raise NotExpressible("hk.ConvNDTranspose has no groups and no dilation")
            kind = functools.partial(hk.ConvNDTranspose, stride=spec.input_dilation)
        else:
            groups = spec.feature_group_count
            kind = functools.partial(
                hk.ConvND, stride=spec.strides, rate=spec.kernel_dilation, feature_group_count=groups
            )

        def forward(x: jax.Array) -> jax.Array:
            return kind(spec.rank, spec.out_features, spec.window, **shared)(x)

        apply = hk.without_apply_rng(hk.transform(forward)).apply
        order = "koi" if transposed else "kio"
        return Function(
            lambda x, kernel: apply({"conv": {"w": kernel}}, x),
            image_layout(spec.rank),
            kernel_layout(spec.rank, order),
        )

    return JaxPeer("haiku", layer)


def equinox_peer() -> JaxPeer:
    eqx = load("equinox")

    def layer(spec: jconv.ConvSpec) -> Function:
        kind, geometry = eqx.nn.Conv, {"stride": spec.strides, "padding": spec.padding}
        if is_transposed(spec):
            kind = eqx.nn.ConvTranspose
            geometry = {"stride": spec.input_dilation, "padding": padding_of_transposed(spec)}
        module = kind(
            spec.rank,
            spec.in_features,
            spec.out_features,
            spec.window,
            dilation=spec.kernel_dilation,
            groups=spec.feature_group_count,
            use_bias=False,
            key=jax.random.key(0),
            **geometry,
        )
        return Function(
            lambda x, kernel: jax.vmap(eqx.tree_at(lambda m: m.weight, module, kernel))(x),
            image_layout(spec.rank, channels_first=True),
            kernel_layout(spec.rank, "oik"),
        )

    return JaxPeer("equinox", layer)


def load_keras() -> Any:
    """Keras with JAX beneath; it reads its backend from the environment when it is first imported."""
    os.environ["KERAS_BACKEND"] = "jax"
    return load("keras")


def keras_peer() -> JaxPeer:
    keras = load_keras()

    def padding_of(spec: jconv.ConvSpec) -> tuple[str, Any]:
        """The name of the padding, and the pads to lay on beforehand for those that have none."""
        names = ("VALID", "SAME", "CAUSAL") if spec.rank == 1 and not is_depthwise(spec) else ("VALID", "SAME")
        for name in names:
            if spec.replace(padding=name).padding == spec.padding:
                return name.lower(), None
        return "valid", spec.padding

    def is_depthwise(spec: jconv.ConvSpec) -> bool:
        """Mamba's layer is causal, which only the plain layer with groups is."""
        causal = spec.rank == 1 and spec.replace(padding="CAUSAL").padding == spec.padding
        groups = spec.feature_group_count
        return groups > 1 and groups == spec.in_features == spec.out_features and spec.rank < 3 and not causal

    def layer(spec: jconv.ConvSpec) -> Function:
        window, shared, order, flip = spec.window, {"use_bias": False}, "kio", False
        padding, pads = ("same", None) if is_transposed(spec) else padding_of(spec)
        if is_transposed(spec):
            same = jconv.ConvSpec((1, *spec.output_spatial, 1), (*window, 1, 1), strides=spec.input_dilation)
            if tuple(k - 1 - p for k, p in zip(window, padding_of_transposed(spec), strict=True)) != tuple(
                k - 1 - axis.lo for k, axis in zip(window, same.axes, strict=True)
            ):
                raise NotExpressible("Keras's transposed layers know only the paddings same and valid")
            if spec.feature_group_count > 1:
                raise NotExpressible("Keras's transposed layers have no groups")
            kind = getattr(keras.layers, f"Conv{spec.rank}DTranspose")
            module = kind(spec.out_features, window, strides=spec.input_dilation, padding=padding, **shared)
            order, flip = "koi", True
        elif is_depthwise(spec):
            kind = getattr(keras.layers, f"DepthwiseConv{spec.rank}D")
            geometry = {"strides": spec.strides, "dilation_rate": spec.kernel_dilation, "padding": padding}
            if spec.rank == 1:
                geometry = {n: v[0] if isinstance(v, tuple) else v for n, v in geometry.items()}
            module = kind(window if spec.rank > 1 else window[0], **geometry, **shared)
            order = "koi"
        else:
            kind = getattr(keras.layers, f"Conv{spec.rank}D")
            geometry = {"strides": spec.strides, "dilation_rate": spec.kernel_dilation, "padding": padding}
            module = kind(spec.out_features, window, groups=spec.feature_group_count, **geometry, **shared)
        around = lambda x: x
        if pads:
            around = getattr(keras.layers, f"ZeroPadding{spec.rank}D")(pads if spec.rank > 1 else pads[0])
        space = tuple(n + lo + hi for n, (lo, hi) in zip(spec.spatial, pads or ((0, 0),) * spec.rank, strict=True))
        module.build((spec.x_shape[0], *space, spec.in_features))
        return Function(
            lambda x, kernel: module.stateless_call([kernel], [], around(x))[0],
            image_layout(spec.rank),
            kernel_layout(spec.rank, order, flip=flip),
        )

    return JaxPeer("keras", layer)
