"""The plug-in for oneDNN, where it is installed: what the table of algorithms and cases does not reach."""

import concurrent.futures
import functools
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import Mesh, PartitionSpec

import jconv
from jconv import plugins
from jconv._algorithms.base import ROLES, Call
from jconv._plan import refusal
from tests.cases import operands, random_case, run, truth

onednn = pytest.importorskip("jconv_onednn", reason="jconv-onednn is not installed")
pytestmark = pytest.mark.skipif("onednn" not in jconv.algorithms(), reason="plug-ins are switched off")
X, K = (np.random.default_rng(0).standard_normal(s, np.float32) for s in ((2, 9, 8, 6), (3, 3, 6, 4)))
CONV = functools.partial(jconv.conv, algorithm="onednn")


def test_it_is_found():
    assert "onednn" in jconv.algorithms()
    assert [p.name for p in plugins.plugins() if p.algorithm] == ["onednn"]
    version, built = onednn.versions()
    assert version[0] == 3
    assert built <= onednn.interface()


@pytest.fixture
def anew():
    """The library as if it had not been opened."""
    onednn.library.cache_clear()
    yield
    onednn.library.cache_clear()


def test_what_hinders_loading_is_said(anew, monkeypatch):
    """`tests/test_plugins.py` shows that jconv then goes on without it, with one warning."""
    with monkeypatch.context() as patched:
        patched.setattr(onednn, "LIBRARY", "libmissing.so")
        with pytest.raises(OSError, match=r"libmissing\.so"):
            onednn.algorithm()
    with monkeypatch.context() as patched:
        patched.setattr(onednn, "interface", lambda: (0, 0))
        with pytest.raises(RuntimeError, match=r"compiled with version 0\.\d+ of XLA's .*, and jaxlib .* has 0\.0"):
            onednn.algorithm()
    assert onednn.algorithm().name == "onednn"


@pytest.mark.parametrize(
    ("x", "k", "options", "dtype", "why"),
    [
        ((2, 9, 8, 6), (3, 3, 6, 4), {}, "float64", "onednn takes float32, bfloat16, float16, int8, not float64"),
        ((2, 9, 8, 6), (3, 3, 6, 4), {"input_dilation": 2}, "float32", "onednn takes no input dilation; swap first"),
        ((2, 6), (6, 4), {}, "float32", "onednn takes one to three spatial axes, here are 0"),
        ((2, 3, 3, 3, 3, 1), (1, 1, 1, 1, 1, 1), {}, "float32", "onednn takes one to three spatial axes, here are 4"),
    ],
)
def test_refusals(x, k, options, dtype, why):
    call = Call(jconv.ConvSpec(x, k, **options), "forward", jnp.dtype(dtype), jnp.dtype(dtype), None, "cpu")
    assert refusal("onednn", call) == why
    on_gpu = Call(jconv.ConvSpec(X.shape, K.shape), "forward", *[jnp.dtype("float32")] * 2, None, "cuda")
    assert refusal("onednn", on_gpu) == "onednn runs on CPUs, not on cuda"


def test_transforms():
    want = jconv.conv(X, K, algorithm="xla")
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
    loss = lambda conv: lambda x, k: jnp.sum(jnp.sin(conv(x, k)))
    xla = functools.partial(jconv.conv, algorithm="xla")
    close(CONV(X, K), want)
    for argnum in (0, 1):
        close(jax.grad(loss(CONV), argnum)(X, K), jax.grad(loss(xla), argnum)(X, K))
        tangent = (X, K)[argnum] * 0.1
        fn = lambda conv, v, n=argnum: conv(*(v if i == n else a for i, a in enumerate((X, K))))
        close(jax.jvp(functools.partial(fn, CONV), ((X, K)[argnum],), (tangent,))[1],
              jax.jvp(functools.partial(fn, xla), ((X, K)[argnum],), (tangent,))[1])  # fmt: skip
    close(jax.vmap(CONV)(jnp.stack([X, 2 * X]), jnp.stack([K, 3 * K])), jnp.stack([want, 6 * want]))
    _, scanned = jax.lax.scan(lambda c, k: (c, CONV(X, k)), 0, jnp.stack([K, -K]))
    close(scanned, jnp.stack([want, -want]))
    close(jax.jit(CONV, donate_argnums=())(X, K), want)
    assert CONV(X[:0], K).shape == (0, *want.shape[1:])


@pytest.mark.two_devices
def test_the_gradient_of_a_shared_kernel_under_shard_map():
    mesh = Mesh(np.array(jax.devices()[:2]), "d")
    spread, whole = PartitionSpec("d"), PartitionSpec()
    grad = jax.grad(lambda k, x: jax.lax.psum(jnp.sum(CONV(x, k) ** 2), "d"))
    shared = jax.jit(jax.shard_map(grad, mesh=mesh, in_specs=(whole, spread), out_specs=whole))(K, X)
    want = jax.grad(lambda k: jnp.sum(jconv.conv(X, k, algorithm="xla") ** 2))(K)
    np.testing.assert_allclose(shared, want, rtol=1e-4, atol=1e-3)


def test_an_exported_program_falls_back():
    fn = jax.jit(lambda x, k: jconv.conv(x, k))
    text = jax.export.export(fn, platforms=("cpu",))(X, K).mlir_module()
    assert onednn.TARGET not in text


def test_an_error_of_onednn_is_an_error_of_xla():
    onednn.library()
    shapes = {"x": X.shape, "k": K.shape, "y": (2, 9, 8, 4), "strides": (1, 1), "dilations": (1, 1)}
    pads = {"low": (7, 0), "high": (0, 0)}  # y is another size
    results = (jax.ShapeDtypeStruct(shapes["y"], jnp.float32), jax.ShapeDtypeStruct((0,), jnp.uint8))
    call = jax.ffi.ffi_call(onednn.TARGET, results)
    arrays = {name: np.asarray(v, np.int64) for name, v in {**shapes, **pads}.items()}
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"oneDNN: .* for forward of a convolution: x=\(2, 9, 8, 6\)"):
        jax.block_until_ready(call(X, K, role=np.int64(0), groups=np.int64(1), activation=np.int64(0), **arrays))


def test_random_geometries_in_all_roles_from_many_threads():
    """Eight threads plan and run at once; every result is that of the definition."""

    def able(case, role):
        return refusal("onednn", Call(case.spec, role, *[jnp.dtype("float32")] * 2, None, "cpu")) is None

    def run_all(case):
        roles = [role for role in ROLES if able(case, role)]
        for role in roles:
            a, b = operands(case, role)
            got = run(case, role, a, b, algorithm="onednn")
            np.testing.assert_allclose(got, truth(case, role, a, b), rtol=1e-4, atol=1e-4)
        return len(roles)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(run_all, map(random_case, range(170)))) > 120


def test_the_same_bits_from_run_to_run():
    x, k = (np.random.default_rng(1).standard_normal(s, np.float32) for s in ((4, 28, 28, 32), (3, 3, 32, 64)))
    grads = jax.jit(jax.grad(lambda x, k: jnp.sum(CONV(x, k) ** 2), (0, 1)))
    first = grads(x, k)
    for _ in range(5):
        jax.tree.map(np.testing.assert_array_equal, grads(x, k), first)


HUGE_PAGES = """
    import mmap, pathlib, re
    import jax, jconv, numpy as np

    def advised(array):
        'Whether all that is mapped where it lies is advised.'
        begin, flags = array.__array_interface__["data"][0], {}
        for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
            if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                area = int(found[1], 16), int(found[2], 16)
            elif line.startswith("VmFlags:") and area[0] < begin + array.nbytes and begin < area[1]:
                flags[area] = line.split()
        return bool(flags) and all("hg" in found for found in flags.values())

    def result(megabytes):
        x = np.zeros((1, 128, 32 * megabytes, 4), np.float32)
        y = np.asarray(jconv.conv(x, np.ones((1, 1, 4, 64), np.float32), algorithm="onednn"))
        assert y.nbytes == megabytes << 20 and not y.flags.owndata
        return y

    with mmap.mmap(-1, 8 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        array = np.frombuffer(area, np.uint8)
        shown = [advised(array), area.madvise(mmap.MADV_HUGEPAGE), advised(array)] == [False, None, True]
        del array
    found = [advised(result(size)) for size in (36, 48)]
    side_by_side = [result(36), result(36)]
    found += map(advised, side_by_side)
    del side_by_side
    print([shown, *found, advised(result(48))])
"""


def test_large_results_are_advised_to_lie_in_huge_pages():
    """All of each, wherever a smaller one lay before; in a process of its own, whose heap has no room for them."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(HUGE_PAGES)]
    folders = [str(pathlib.Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    shown, *results = json.loads(done.stdout.lower())
    if not shown:
        pytest.skip("this system does not say what is advised")
    assert all(results), results
