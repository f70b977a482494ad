"""oneDNN's convolutions as an algorithm of jconv: `algorithm()` is what jconv finds through its entry point.

The three roles are oneDNN's forward, backward-data and backward-weights convolution. Images and kernels are handed over
as they lie in memory; the kernel's layout inside is oneDNN's choice, made when a shape is met first. Sums are kept in
float32 (int32 for int8), in every role.

    Source: oneDNN (https://github.com/oneapi-src/oneDNN), version 3.2, Apache-2.0.
"""

from __future__ import annotations

import ctypes
import functools
import math
import pathlib
import re
from importlib import metadata

import jax
import jaxlib
import numpy as np
from jax import numpy as jnp

from jconv import ConvSpec
from jconv.plugins import UNFINISHED, Algorithm, Call, Copy, Finish, Launch, Loop, Product, Work

TARGET = "jconv_onednn_convolve"
LIBRARY = "libjconv_onednn.so"
DTYPES = ("float32", "bfloat16", "float16", "int8")
ACTIVATIONS = {None: 0, "relu": 1}
ROLES = {"forward": 0, "input_grad": 1, "kernel_grad": 2}
AVX2_VNNI, AVX512_VNNI = 0x8, 0x40  # bits of dnnl_cpu_isa_t
# The numbers of xla::ffi::DataType
NUMBERS = {"float32": 11, "float16": 10, "bfloat16": 16, "int8": 2, "int32": 4}


def _open() -> ctypes.CDLL:
    """The compiled library. oneDNN is opened first, from wherever its package lies."""
    for file in metadata.files("onednn-cpu-gomp") or []:
        if file.name == "libdnnl.so.3":
            ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(pathlib.Path(__file__).with_name(LIBRARY)))


def versions(found: ctypes.CDLL | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The version of oneDNN, and that of XLA's foreign-function interface which the library was compiled with."""
    numbers = (ctypes.c_int64 * 5)()
    (found or library()).jconv_onednn_versions(numbers)
    return tuple(numbers[:3]), tuple(numbers[3:])


def interface() -> tuple[int, ...]:
    """The version of XLA's foreign-function interface in the jaxlib that is installed."""
    header = pathlib.Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    return tuple(int(re.findall(rf"#define XLA_FFI_API_{part} (\d+)", header)[0]) for part in ("MAJOR", "MINOR"))


@functools.cache
def library() -> ctypes.CDLL:
    """The library, its handler known to XLA. An older interface than jaxlib's is served, a newer one is not."""
    found = _open()
    (_, built), here = versions(found), interface()
    if built[0] != here[0] or built > here:
        text = "{}.{}".format
        raise RuntimeError(
            f"it was compiled with version {text(*built)} of XLA's foreign-function interface, and jaxlib "
            f"{jaxlib.__version__} has {text(*here)}: compile it again beside this jaxlib"
        )
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(found.jconv_onednn_convolve), platform="cpu")
    return found


# Problems ------------------------------------------------------------------------------------------------
def _spatial(spec: ConvSpec) -> tuple[int, ...]:
    """The image's sizes after pads below zero are carried out."""
    return tuple(n + min(0, low) + min(0, high) for n, (low, high) in zip(spec.spatial, spec.padding, strict=True))


def _shapes(call: Call) -> dict[str, tuple[int, ...]]:
    """x, kernel and y as oneDNN is given them: pads below zero carried out, and two spatial axes where there is one."""
    spec = call.spec
    extra = (1,) if spec.rank == 1 else ()
    (batch,) = spec.batch_shape
    return {
        "x": (batch, *extra, *_spatial(spec), spec.in_features),
        "k": (*extra, *spec.kernel_shape),
        "y": (batch, *extra, *spec.output_spatial, spec.out_features),
    }


def _geometry(call: Call) -> dict[str, tuple[int, ...]]:
    spec = call.spec
    one, none = ((1,), (0,)) if spec.rank == 1 else ((), ())
    return {
        "strides": (*one, *spec.strides),
        "dilations": (*one, *spec.kernel_dilation),
        "low": (*none, *(max(0, low) for low, _ in spec.padding)),
        "high": (*none, *(max(0, high) for _, high in spec.padding)),
    }


def _result(call: Call) -> np.dtype:
    """The dtype that oneDNN returns: that of the result where it can, else that of the sums."""
    if jnp.dtype(call.out_dtype) in (jnp.dtype(call.dtype), jnp.dtype("float32")) and not call.is_integer:
        return jnp.dtype(call.out_dtype)
    return jnp.dtype(call.accumulator)


@functools.cache
def _sums_in_32_bits() -> bool:
    """Whether oneDNN has the instructions that add products of int8 in 32 bits: VNNI, with vectors of 256 or 512 bits.

    Without them it scales kernels down and adds pairs of products in 16 bits, and the result is not the sum.
    """
    ask = library().dnnl_get_effective_cpu_isa  # of oneDNN itself, which the library is linked with
    ask.restype = ctypes.c_int
    return bool(ask() & (AVX2_VNNI | AVX512_VNNI))


@functools.lru_cache(maxsize=4096)
def _describe(values: tuple[int, ...]) -> tuple[str, int]:
    text, size = ctypes.create_string_buffer(256), ctypes.c_int64(256)
    ask = library().jconv_onednn_describe
    ask.restype = ctypes.c_int64
    scratch = ask((ctypes.c_int64 * len(values))(*values), ctypes.c_int64(len(values)), text, size)
    return text.value.decode(errors="replace"), scratch


def implementation(call: Call, finish: Finish = UNFINISHED) -> tuple[str, int]:
    """The name of what oneDNN would run, or "no: " and why not; and how many bytes of scratch memory it takes."""
    shapes, geometry = _shapes(call), _geometry(call)
    values = [ROLES[call.role], NUMBERS[call.dtype.name], NUMBERS[_result(call).name]]
    values += [call.spec.feature_group_count, int(finish.bias is not None), ACTIVATIONS[finish.activation]]
    values += [len(geometry["strides"])]
    for numbers in (*shapes.values(), *geometry.values()):
        values += numbers
    return _describe(tuple(values))


def supports(call: Call) -> str | None:
    spec = call.spec
    if call.platform not in (None, "cpu"):
        return f"onednn runs on CPUs, not on {call.platform}"
    if call.dtype.name not in DTYPES or _result(call).name not in NUMBERS:
        return f"onednn takes {', '.join(DTYPES)}, not {call.dtype}"
    if call.is_integer and call.role != "forward":
        return "onednn takes integers in the forward pass alone"
    if call.is_integer and not _sums_in_32_bits():
        return "oneDNN adds products of int8 in 16 bits, which wrap or saturate, where a processor has no VNNI"
    if not 1 <= spec.rank <= 3:
        return f"onednn takes one to three spatial axes, here are {spec.rank}"
    if any(q > 1 for q in spec.input_dilation):
        return "onednn takes no input dilation; swap first"
    if not all(isinstance(n, int) for n in spec.x_shape):
        return "onednn takes numbers for shapes, not symbols"
    if math.prod(spec.x_shape) == 0:
        return None  # nothing is run
    found, _ = implementation(call)
    if found.startswith("no: "):
        return f"oneDNN does not cover it ({found[4:]})"
    if found.startswith("ref"):
        return "oneDNN has nothing but its reference loops for it"
    return None


# Running -------------------------------------------------------------------------------------------------
def _cropped(x: jax.Array, call: Call, back: bool = False) -> jax.Array:
    """The image without what negative pads cut off; with `back` zeros in its place."""
    sign = -1 if back else 1
    ends = [(0, 0, 0), *((sign * min(0, low), sign * min(0, high), 0) for low, high in call.spec.padding), (0, 0, 0)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), ends) if any(map(any, ends)) else x


def _finished(x: jax.Array, kernel: jax.Array, call: Call, finish: Finish) -> jax.Array | None:
    """A forward pass that adds the bias and applies the activation before it writes its result."""
    if call.is_integer or finish.activation not in ACTIVATIONS or _result(call) != call.out_dtype:
        return None
    if implementation(call, finish)[0] != implementation(call)[0]:  # none, or a slower one
        return None
    return _run(x, kernel, call, finish)


def _run(a: jax.Array, b: jax.Array, call: Call, finish: Finish = UNFINISHED) -> jax.Array:
    library()
    bias = () if finish.bias is None else (finish.bias.astype(_result(call)),)
    shapes = _shapes(call)
    if call.role != "input_grad":
        a = _cropped(a, call)
    first, second, result = {"forward": "xky", "input_grad": "ykx", "kernel_grad": "xyk"}[call.role]
    results = (
        jax.ShapeDtypeStruct(shapes[result], _result(call)),
        jax.ShapeDtypeStruct((implementation(call, finish)[1],), jnp.uint8),
    )
    out, _ = jax.ffi.ffi_call(TARGET, results)(
        a.reshape(shapes[first]),
        b.reshape(shapes[second]),
        *bias,
        role=np.int64(ROLES[call.role]),
        groups=np.int64(call.spec.feature_group_count),
        activation=np.int64(ACTIVATIONS[finish.activation]),
        **{name: np.asarray(values, np.int64) for name, values in {**shapes, **_geometry(call)}.items()},
    )
    spec = call.spec
    if call.role == "input_grad":
        return _cropped(out.reshape(*spec.batch_shape, *_spatial(spec), spec.in_features), call, back=True)
    return out.reshape(spec.kernel_shape if call.role == "kernel_grad" else spec.output_shape)


# Work ----------------------------------------------------------------------------------------------------
def work(call: Call) -> Work:
    """By the name of what oneDNN would run, which says how it computes."""
    spec, (found, scratch) = call.spec, implementation(call)
    groups, batch, taps = spec.feature_group_count, math.prod(spec.batch_shape), math.prod(spec.window)
    inputs, outputs = spec.in_features // groups, spec.out_features // groups
    macs, strided = float(spec.macs * batch), max(spec.strides) > 1
    kernel = math.prod(spec.kernel_shape) * call.dtype.itemsize
    images = (math.prod(spec.x_shape) + math.prod(spec.output_shape)) * call.dtype.itemsize
    name = re.sub(r":[^+]*", "", found.replace("x64:gemm:jit", "gemm"))  # without the processor's instructions
    kind = f"onednn {name} {call.role}"
    same = (Launch(1, kind), Copy(images, kind=f"onednn {call.role}"))
    if "_dw" in found:  # one channel a lane
        slow = " strided" if strided and call.role == "input_grad" else ""
        return Work((*same, Loop(macs, groups, f"{kind}{slow}")), scratch)
    if "gemm" in found and inputs == outputs == 1:
        return Work((*same, Loop(macs, kind=f"{kind} of one channel")), scratch)
    positions = batch * math.prod(spec.output_spatial)
    if call.role == "input_grad":
        product = Product(positions, taps * outputs, inputs, groups, kind)
    elif call.role == "forward":
        product = Product(positions, taps * inputs, outputs, groups, kind)
    else:
        product = Product(taps * inputs, positions, outputs, groups, kind)
    steps = [*same, product, Copy(kernel, kind="onednn kernel")]
    if "gemm" in found:
        steps.append(Copy(positions * taps * spec.in_features * call.dtype.itemsize, kind="onednn patches"))
    if call.role == "kernel_grad" and inputs == outputs == 1:
        steps.append(Loop(float(math.prod(spec.x_shape)), kind="onednn thin"))
    return Work(tuple(steps), scratch)


def algorithm() -> Algorithm:
    """What the entry point gives jconv; raises where the library cannot be loaded."""
    library()
    about = "oneDNN's own convolutions, compiled for the processor at hand, on CPUs alone."
    return Algorithm("onednn", _run, _run, _run, supports, work, _finished, portable=False, description=about)
