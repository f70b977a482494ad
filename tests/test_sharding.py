"""Convolutions over several devices: values by the oracle, and what moves between devices by the compiled program."""

import functools
import math
import random

import jax
import jax.export
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jconv
from jconv._algorithms.base import ROLES
from jconv._partition.blocks import blocks, exchanged
from jconv._partition.spmd import mesh_of as mesh_behind
from jconv._spec import Axis
from jconv.sharding import halo, plan
from tests.cases import draw
from tests.meshes import Trial, mesh_of, moved, random_trial

pytestmark = pytest.mark.eight_devices
over_roles = pytest.mark.parametrize("role", ROLES)


# Geometry ------------------------------------------------------------------------------------------------
def line(x, w, axis):
    """The convolution of one axis, from its definition."""
    y = np.zeros(axis.o)
    for o in range(axis.o):
        for t in range(axis.k):
            p, rest = divmod(o * axis.s + t * axis.d - axis.lo, axis.q)
            y[o] += x[p] * w[t] if rest == 0 and 0 <= p < axis.n else 0
    return y


@pytest.mark.parametrize("seed", range(200))
def test_blocks(seed):
    """Each device's outputs come out of the rows that it has and is said to fetch, and of those alone."""
    rng = random.Random(seed)
    pads = rng.randint(-2, 12), rng.randint(-2, 12)
    axis = Axis(rng.randint(1, 64), rng.randint(1, 9), rng.randint(1, 4), *pads, rng.randint(1, 3), rng.randint(1, 4))
    parts = rng.randint(2, 8)
    if axis.fits < 1:
        return
    x, w = np.random.default_rng(seed).standard_normal((2, 64))
    y, of = line(x, w, axis), blocks(axis, parts)
    assert of.local.o == of.extent
    for rank in range(parts):
        known = {}
        for piece in of.pieces:
            if 0 <= rank + piece.hop < parts:
                first = (rank + piece.hop) * of.block
                known |= {p: x[p] for p in range(first + piece.first, first + piece.last) if p < axis.n}
        begin = rank * of.block + of.starts[rank]
        window = np.array([known.get(p, 0.0) for p in range(begin, begin + of.window)])
        mine = range(rank * of.own, min((rank + 1) * of.own, axis.o))
        got = line(window, w, of.local)[of.shifts[rank] :][: len(mine)]
        np.testing.assert_allclose(got, y[mine.start : mine.stop], atol=1e-12)
        if len(mine):
            assert (of.start(rank), of.shift(rank)) == (of.starts[rank], of.shifts[rank])
    other = exchanged(axis)
    assert other.o == axis.n
    assert exchanged(other)._replace(hi=axis.hi) == axis


@pytest.mark.parametrize(("k", "s", "d"), [(3, 1, 1), (7, 2, 1), (5, 1, 3), (2, 2, 1), (1, 1, 1), (1, 2, 1), (3, 3, 2)])
def test_an_aligned_halo_is_what_the_theory_needs(k, s, d):
    axis = Axis(96, k, s, ((k - 1) * d) // 2, 96, 1, d)
    axis = axis._replace(hi=axis.hi - (axis.o - 96 // s) * s)  # as many outputs as blocks of s rows
    assert axis.o == 96 // s
    for parts in (2, 4, 8):
        assert blocks(axis, parts).moved == max(0, (k - 1) * d + 1 - s)


@pytest.mark.parametrize("sizes", [(8,), (4, 2), (2, 3), (3, 2), (2, 2, 3), (6, 2), (5,)])
def test_the_mesh_behind_tiles(sizes):
    """For tiles of any mesh, with its axes in any order and place, a mesh of primes is found that they come from."""
    devices, rng = math.prod(sizes), random.Random(str(sizes))
    coordinates = np.stack(np.unravel_index(np.arange(devices), sizes), 1)
    for _ in range(10):
        axes = rng.sample(range(len(sizes)), len(sizes))
        cut = rng.randint(0, len(sizes))
        arguments = {}
        for name, groups in (("x", (axes[:cut], axes[cut:])), ("y", (axes[cut:], []))):
            counts = tuple(math.prod(sizes[a] for a in group) for group in groups)
            tile = [sum((coordinates[:, a] * math.prod(sizes[b] for b in group[i + 1 :]) for i, a in enumerate(group)),
                        np.zeros(devices, int)) for group in groups]  # fmt: skip
            arguments[name] = np.stack(tile, 1), counts
        mesh, found = mesh_behind(arguments, devices)
        assert math.prod(mesh.values()) == devices
        digits = dict(zip(mesh, np.unravel_index(np.arange(devices), tuple(mesh.values())), strict=True))
        for name, (tiles, counts) in arguments.items():
            for at, count in enumerate(counts):
                number = np.zeros(devices, int)
                for axis in found[name][at]:
                    number = number * mesh[axis] + digits[axis]
                assert (number == tiles[:, at]).all()
                assert math.prod(mesh[axis] for axis in found[name][at]) == count


# Auto meshes ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(12))
def test_random_geometries_over_batch_and_space(seed):
    """Right in every role, and nothing is gathered; `python -m tests.meshes` tries more."""
    trial = random_trial(seed)
    for role in ROLES:
        error, found = trial.check(role, seed)
        assert error < 2e-5, (role, trial)
        assert not found["all-gather"], (role, trial)
        assert not found["all-to-all"], (role, trial)


@over_roles
@pytest.mark.parametrize(
    ("mesh", "x", "kernel", "options"),
    [
        ((1, 4), (2, 16, 6, 8), (3, 3, 8, 4), {}),
        ((2, 4), (4, 32, 6, 3), (7, 3, 3, 4), {"strides": (2, 1)}),
        ((1, 2, 4), (2, 16, 16, 4), (5, 3, 1, 4), {"feature_group_count": 4}),
        ((2, 2), (4, 24, 4), (4, 4, 6), {"padding": "CAUSAL", "kernel_dilation": 2}),
        ((1, 8), (1, 64, 4), (3, 4, 6), {"input_dilation": 2, "padding": ((2, 1),)}),
        ((1, 8), (1, 32, 4), (5, 4, 6), {}),
        ((1, 8), (1, 16, 4), (6, 4, 6), {"padding": ((2, 3),)}),
    ],
)
def test_what_moves_is_what_the_plan_says(mesh, x, kernel, options, role):
    trial = Trial(mesh, x, kernel, **options)
    error, found = trial.check(role, 0)
    assert error < 2e-5
    names = trial.mesh.axis_names
    said = plan(x, kernel, trial.mesh, x_spec=names, role=role, **options)
    assert found["collective-permute"] == said.fetched_bytes + said.added_bytes
    assert found["all-reduce"] == said.summed_bytes
    assert set(found) <= {"collective-permute", "all-reduce"}


@pytest.mark.parametrize("channels", ["in", "out", "both", "groups"])
@over_roles
def test_channels(channels, role):
    """A device's part of the channels; those that are summed over are summed over devices."""
    mesh = mesh_of(4, names="m")
    groups = 4 if channels == "groups" else 1
    spec = jconv.ConvSpec((2, 9, 8), (3, 8 // groups, 12), feature_group_count=groups)
    shapes = {"x": spec.x_shape, "k": spec.kernel_shape, "y": spec.output_shape}
    first = P(None, None, "m") if channels in ("in", "both", "groups") else P()
    last = P(None, None, "m") if channels in ("out", "groups") else P()
    kernel = P(None, "m") if channels in ("in", "both") else last
    specs = {"x": first, "k": kernel, "y": last}
    kinds = {"forward": "xk", "input_grad": "yk", "kernel_grad": "xy"}[role]
    result = {"forward": "y", "input_grad": "x", "kernel_grad": "k"}[role]
    arrays = [draw(shapes[kind], seed=i) for i, kind in enumerate(kinds)]
    fn = {
        "forward": lambda x, k: jconv.conv(x, k, feature_group_count=groups),
        "input_grad": lambda g, k: jconv.conv_input_grad(g, k, spec.x_shape, feature_group_count=groups),
        "kernel_grad": lambda x, g: jconv.conv_kernel_grad(x, g, spec.window, feature_group_count=groups),
    }[role]
    put = lambda kind, v: jax.device_put(v, NamedSharding(mesh, specs[kind]))
    placed = [put(kind, v) for kind, v in zip(kinds, arrays, strict=True)]
    compiled = jax.jit(fn, out_shardings=NamedSharding(mesh, specs[result])).lower(*placed).compile()
    np.testing.assert_allclose(compiled(*placed), jax.jit(fn)(*arrays), atol=2e-5)
    assert not moved(compiled)["all-gather"]
    summed = (channels in ("in", "both") and role == "forward") or (channels == "out" and role == "input_grad")
    assert bool(moved(compiled)["all-reduce"]) == summed


def test_what_lax_gets_wrong_is_right():
    """A kernel gradient of an image in blocks, where the output's rows are no multiple of the devices (jax 16894)."""
    mesh = mesh_of(8, names="s")
    x = draw((2, 8, 8, 1))
    kernel = draw((3, 3, 1, 1), seed=1)
    own = lambda k, x: jnp.sum(jconv.conv(x, k, strides=2, padding=1) ** 2)
    lax = lambda k, x: jnp.sum(
        jax.lax.conv_general_dilated(x, k, (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")) ** 2
    )
    placed = jax.device_put(x, NamedSharding(mesh, P(None, "s")))
    want = jax.jit(jax.grad(own))(kernel, x)
    for fn in (own, jconv.accelerate(lax)):
        np.testing.assert_allclose(jax.jit(jax.grad(fn))(kernel, placed), want, rtol=1e-5)
        np.testing.assert_allclose(jax.grad(fn)(kernel, placed), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("n", "k", "options"),
    [(16, 7, {"strides": 2, "kernel_dilation": 2}), (32, 1, {"strides": 3, "padding": 2})],
)
def test_where_lax_aborts(n, k, options):
    trial = Trial((1, 4), (1, n, 2), (k, 2, 3), **options)
    for role in ROLES:
        error, found = trial.check(role, 0)
        assert error < 2e-5
        assert not found["all-gather"]


def test_two_meshes_in_one_program():
    """Where a mesh has other names or another order for the same devices."""
    devices = np.array(jax.devices()[:4])
    one, two = (
        Mesh(devices, ("d",), axis_types=(AxisType.Auto,)),
        Mesh(devices.reshape(2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2),
    )
    x, k = draw((4, 8, 3)), draw((3, 3, 4), seed=1)
    placed = jax.device_put(x, NamedSharding(one, P("d"))), jax.device_put(k, NamedSharding(two, P(None, None, "b")))
    for fn in (jconv.conv, jax.jit(jconv.conv)):
        np.testing.assert_allclose(fn(*placed), jconv.conv(x, k), atol=1e-5)


def test_names_that_cannot_do_a_part_leave_it_to_auto():
    """Named plans are checked for the whole; a device's part may be of another kind, with cuts for pads."""
    trial = Trial((1, 4), (1, 30, 2), (3, 2, 3), input_dilation=2)
    for name in ("winograd2", "fft", "unfold+xla"):
        try:
            error, _ = trial.check("forward", 0, name)
        except ValueError:
            continue  # it does not cover the whole
        assert error < 1e-4


# Transformations -----------------------------------------------------------------------------------------
WRAPPED = {
    "second": lambda f: lambda k, x: jax.grad(lambda k: jnp.sum(jax.grad(f, 0)(k, x) ** 2))(k),
    "forward over reverse": lambda f: lambda k, x: jax.jvp(jax.grad(f, 1), (k, x), (k, x))[1],
    "vmap": lambda f: lambda k, x: jax.vmap(jax.grad(f), (0, None))(jnp.stack([k, 2 * k]), x),
    "per example": lambda f: lambda k, x: jax.vmap(jax.grad(f), (None, 0))(k, x[:, None]),
    "scan": lambda f: lambda k, x: jax.lax.scan(lambda k, _: (k - 0.01 * jax.grad(f)(k, x), None), k, None, 3)[0],
    "remat": lambda f: jax.grad(jax.checkpoint(f)),
}


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("mesh", [(4, 1), (1, 4), (2, 4)], ids=["batch", "space", "both"])
def test_transformations(wrap, mesh):
    f = lambda k, x: jnp.sum(jnp.tanh(jconv.conv(x, k, strides=2, padding=1, padding_mode=("circular", "zeros"))))
    k, x = draw((3, 3, 2, 4), seed=1), draw((4, 9, 8, 2))
    over = mesh_of(*mesh)
    # an intermediate result of nine rows, which no mesh here divides
    spread = lambda k, x: WRAPPED[wrap](f)(
        k, jax.lax.with_sharding_constraint(x[:, :9], NamedSharding(over, P("d", "h")))
    )
    tall = jnp.pad(x, ((0, 0), (0, 7), (0, 0), (0, 0)))
    got = jax.jit(spread)(
        jax.device_put(k, NamedSharding(over, P())), jax.device_put(tall, NamedSharding(over, P("d", "h")))
    )
    np.testing.assert_allclose(got, jax.jit(WRAPPED[wrap](f))(k, x), rtol=2e-4, atol=2e-4)


def test_finished_over_space():
    """Bias and activation come once, after what devices send each other."""
    mesh = mesh_of(1, 4)
    x, k, b = draw((2, 10, 6, 3)), draw((3, 3, 3, 4), seed=1), draw((4,), seed=2)
    for options in ({}, {"padding": "VALID"}, {"input_dilation": 2}):
        fn = functools.partial(jconv.conv, activation="silu", **options)
        spread = lambda x, k, b: fn(x[:, :10], k, b)
        tall = jax.device_put(np.pad(x, ((0, 0), (0, 2), (0, 0), (0, 0))), NamedSharding(mesh, P("d", "h")))
        np.testing.assert_allclose(jax.jit(spread)(tall, k, b), fn(x, k, b), atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "complex64", "int8"])
def test_dtypes(dtype):
    """16-bit floats are summed in float32 over devices too."""
    with jax.enable_x64(dtype == "float64"):
        mesh = mesh_of(2, 4)
        x, k = jnp.asarray(draw((4, 16, 3), dtype)), jnp.asarray(draw((5, 3, 4), dtype, seed=1))
        g = jnp.asarray(draw((4, 16, 4), dtype, seed=2))
        spread = lambda v: jax.device_put(v, NamedSharding(mesh, P("d", "h")))
        pairs = [
            (jconv.conv(x, k), jax.jit(jconv.conv)(spread(x), k)),
            (
                jconv.conv_kernel_grad(x, g, (5,)),
                jax.jit(lambda x, g: jconv.conv_kernel_grad(x, g, (5,)))(spread(x), spread(g)),
            ),
        ]
        for want, got in pairs:
            assert got.dtype == want.dtype
            tolerance = {"bfloat16": 1e-2, "float64": 1e-13}.get(dtype, 1e-5)
            wide = "complex64" if dtype == "complex64" else "float64"
            np.testing.assert_allclose(
                np.asarray(got, wide), np.asarray(want, wide), rtol=tolerance, atol=tolerance * 20
            )


# Explicit meshes -----------------------------------------------------------------------------------------
def test_explicit_axes_are_kept():
    with jax.set_mesh(mesh_of(2, 4, types=AxisType.Explicit)):
        x, k = jax.device_put(draw((4, 16, 6, 3)), P("d", "h")), jax.device_put(draw((3, 3, 3, 4)), P())
        split = jax.device_put(draw((3, 3, 3, 4)), P(None, None, None, "h"))
        for wrap in (jax.jit, lambda f: f):
            y = wrap(functools.partial(jconv.conv, strides=(2, 1)))(x, k)
            assert jax.typeof(y).sharding.spec == P("d", "h", None, None)
            y = wrap(jconv.conv)(jax.device_put(draw((4, 16, 6, 3)), P("d")), split)
            assert jax.typeof(y).sharding.spec == P("d", None, None, "h")
            g = wrap(functools.partial(jconv.conv_kernel_grad, window_shape=(3, 3)))(x, x)
            assert jax.typeof(g).sharding.spec == P(None, None, None, None)
        grads = jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.tanh(jconv.conv(x, k))), (0, 1)))(x, k)
        assert jax.typeof(grads[0]).sharding.spec == P("d", "h", None, None)
        up = jconv.conv_transpose(x, jax.device_put(draw((3, 3, 4, 3)), P()), strides=(2, 1))
        assert jax.typeof(up).sharding.spec == P("d", "h", None, None)
        layer = jconv.layers.Conv(4, 3, out_sharding=P("d"))
        params, state = layer.init(jax.random.key(0), (4, 16, 6, 3))
        assert jax.typeof(layer.apply(params, state, x)[0]).sharding.spec == P("d", None, None, None)


def test_what_is_open_over_explicit_axes_has_to_be_said():
    with jax.set_mesh(mesh_of(2, 4, types=AxisType.Explicit)):
        x, k = draw((4, 8, 8)), draw((3, 8, 8), seed=1)
        put = lambda v, *spec: jax.device_put(v, P(*spec))
        channels = put(x, None, None, "h"), put(k, None, "h")
        with pytest.raises(ValueError, match="out_sharding: got None .* channels that are summed over"):
            jconv.conv(*channels)
        said = jconv.conv(*channels, out_sharding=P("d", "h"))
        assert jax.typeof(said).sharding.spec == P("d", "h", None)
        np.testing.assert_allclose(jax.device_get(said), jconv.conv(x, k), atol=1e-4)
        with pytest.raises(ValueError, match="'d' shards axes of both operands that are not the same"):
            jconv.conv(put(x, "d"), put(k, None, None, "d"))
        with pytest.raises(ValueError, match="6 elements do not divide over"):
            jconv.conv(put(x, None, "h"), put(k), padding="VALID")
        y = jconv.max_pool(put(x, "d"), (2,))
        assert jax.typeof(y).sharding.spec == P("d", None, None)
        with pytest.raises(ValueError, match="x: got .* of which 2 windows do not divide over .'h',."):
            jconv.max_pool(put(x, "d", "h"), (3,))
        with pytest.raises(ValueError, match="the kernel's window is sharded"):
            jconv.conv(put(x), put(draw((4, 8, 8)), "h"))


# Inside shard_map ----------------------------------------------------------------------------------------
INSIDE = [
    (8, 24, 3, {"strides": 2}),
    (4, 21, 5, {"kernel_dilation": 2, "padding": "CAUSAL"}),
    (4, 21, 3, {"padding_mode": "circular"}),
    (8, 16, 5, {"padding_mode": ("reflect", "replicate")}),
    (2, 9, 4, {"padding": "VALID", "activation": "relu"}),
]


@pytest.mark.parametrize(("parts", "n", "k", "options"), INSIDE)
def test_conv_inside_shard_map(parts, n, k, options):
    """Values and all gradients are those of the whole image, whatever lies behind its last row."""
    block = -(-n // parts)
    mesh = mesh_of(1, parts)
    x, kernel, bias = draw((2, n, 5, 4)), draw((k, 2, 4, 6), seed=1), draw((6,), seed=2)
    tall = np.pad(x, ((0, 0), (0, block * parts - n), (0, 0), (0, 0)), constant_values=7)
    inside = functools.partial(jconv.conv, spatial_axis_names=("h", None), spatial_sizes=(n, None), **options)
    spread = jax.shard_map(inside, mesh=mesh, in_specs=(P("d", "h"), P(), P()), out_specs=P("d", "h"))
    whole = functools.partial(jconv.conv, **options)
    want = whole(x, kernel, bias)
    got = np.asarray(jax.jit(spread)(tall, kernel, bias))
    np.testing.assert_allclose(got[:, : want.shape[1]], want, atol=2e-5)
    assert not got[:, want.shape[1] :].any()
    loss = lambda fn: lambda *v: jnp.sum(jnp.sin(fn(*v)))
    grads = jax.jit(jax.grad(loss(spread), (0, 1, 2)))(tall, kernel, bias)
    for a, b in zip(grads, jax.jit(jax.grad(loss(whole), (0, 1, 2)))(x, kernel, bias), strict=True):
        np.testing.assert_allclose(a[:, :n] if a.shape == tall.shape else a, b, rtol=1e-3, atol=1e-3)


def test_inside_shard_map_over_a_part_of_an_explicit_mesh():
    x, k = draw((4, 16, 6, 3)), draw((3, 3, 3, 4), seed=1)
    fn = functools.partial(jconv.conv, spatial_axis_names=("h", None))
    with jax.set_mesh(mesh_of(2, 4, types=AxisType.Explicit)):
        inside = jax.shard_map(fn, in_specs=(P(None, "h"), P()), out_specs=P(None, "h"), axis_names={"h"})
        got = jax.jit(inside)(jax.device_put(x, P("d", "h")), jax.device_put(k, P()))
        assert jax.typeof(got).sharding.spec == P("d", "h", None, None)
    np.testing.assert_allclose(jax.device_get(got), jconv.conv(x, k), atol=1e-5)


def test_conv_transpose_inside_shard_map():
    mesh = mesh_of(1, 4)
    x, kernel, bias = draw((2, 10, 5, 4)), draw((4, 3, 6, 4), seed=1), draw((6,), seed=2)
    tall = np.pad(x, ((0, 0), (0, 2), (0, 0), (0, 0)), constant_values=7)
    inside = functools.partial(
        jconv.conv_transpose, strides=2, spatial_axis_names=("h", None), spatial_sizes=(10, None)
    )
    spread = jax.shard_map(inside, mesh=mesh, in_specs=(P("d", "h"), P(), P()), out_specs=P("d", "h"))
    want = jconv.conv_transpose(x, kernel, bias, strides=2)
    got = np.asarray(spread(tall, kernel, bias))
    np.testing.assert_allclose(got[:, :20], want, atol=2e-5)
    assert not got[:, 20:].any()
    with pytest.raises(ValueError, match="padding_mode: got 'circular' along spatial axis 0, which is divided"):
        jax.shard_map(
            functools.partial(inside, padding_mode="circular"), mesh=mesh,
            in_specs=(P("d", "h"), P(), P()), out_specs=P("d", "h"),
        )(tall, kernel, bias)  # fmt: skip


def test_names_and_sizes_are_checked():
    mesh = mesh_of(1, 4)
    x, kernel = draw((2, 8, 5, 4)), draw((3, 3, 4, 6))

    def run(**options):
        fn = functools.partial(jconv.conv, **options)
        return jax.shard_map(fn, mesh=mesh, in_specs=(P("d", "h"), P()), out_specs=P("d", "h"))(x, kernel)

    with pytest.raises(ValueError, match=r"spatial_axis_names: got .* one entry for each of 2 spatial axes"):
        run(spatial_axis_names=("h",))
    with pytest.raises(ValueError, match=r"spatial_sizes: got 9 along spatial axis 0.* accepted is 7 to 8"):
        run(spatial_axis_names=("h", None), spatial_sizes=(9, None))
    with pytest.raises(ValueError, match="spatial_axis_names: got .* accepted is each axis of the mesh once"):
        run(spatial_axis_names=("h", "h"))
    with pytest.raises(ValueError, match="spatial_sizes: .* without spatial_axis_names"):
        jconv.conv(x, kernel, spatial_sizes=(8, None))


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("size", [16, 13])
def test_halo(mode, size):
    mesh = mesh_of(8, names="s")
    x = np.arange(16.0, dtype=np.float32)
    low, high = 3, 2
    fn = functools.partial(halo, low=low, high=high, axis=0, axis_name="s", size=size, padding_mode=mode)
    got = np.asarray(jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=P("s"), out_specs=P("s")))(x)).reshape(8, -1)
    name = {"zeros": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}[mode]
    whole = np.pad(x[:size], (low, high + 16 - size), mode=name)
    for rank in range(8):
        valid = min(2, max(0, size - 2 * rank))  # elements of its own
        if valid:
            np.testing.assert_array_equal(got[rank][: low + valid], whole[2 * rank :][: low + valid])
        if valid == 2 and 2 * rank + 2 + high <= size + high:
            np.testing.assert_array_equal(got[rank], whole[2 * rank :][: low + 2 + high])


def test_halo_is_adjoint():
    """<halo(x), y> = <x, halo^T(y)>: what was fetched is sent back and added."""
    mesh = mesh_of(4, names="s")
    fn = functools.partial(halo, low=5, high=4, axis=1, axis_name="s", padding_mode="reflect")
    spread = jax.shard_map(fn, mesh=mesh, in_specs=P(None, "s"), out_specs=P(None, "s"))
    x, y = draw((2, 12, 3)), draw((2, 4 * (3 + 9), 3), seed=1)
    (back,) = jax.linear_transpose(spread, x)(y)
    np.testing.assert_allclose(np.sum(np.asarray(spread(x)) * y), np.sum(x * back), rtol=1e-4)


def test_halo_checks():
    with pytest.raises(ValueError, match="size: got 20 for blocks of 4 over 4 devices; accepted is 13 to 16"):
        jax.shard_map(
            lambda x: halo(x, 1, 1, axis=0, axis_name="s", size=20), mesh=mesh_of(4, names="s"),
            in_specs=P("s"), out_specs=P("s"),
        )(np.zeros(16))  # fmt: skip


def test_pools_of_symbolic_sizes_are_exported():
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, h, 12, 8"), jnp.float32)
    made = jax.export.export(jax.jit(lambda x: jconv.max_pool(x, (3, 3), strides=2, padding=1)))(shape)
    x = draw((2, 10, 12, 8))
    np.testing.assert_array_equal(made.call(x), jconv.max_pool(x, (3, 3), strides=2, padding=1))


# Plans ---------------------------------------------------------------------------------------------------
def test_plan_reads():
    text = str(plan((4, 32, 32, 8), (3, 3, 8, 16), {"d": 2, "s": 4}, x_spec=("d", "s"), role="kernel_grad"))
    assert text.splitlines()[1:] == [
        "  image   2 of 4 images, 8 of 32 along spatial axis 0, 16.0 KiB",
        "  kernel  whole, 4.5 KiB",
        "  output  2 of 4 images, 8 of 32 along spatial axis 0, 32.0 KiB",
        "  fetches 2 rows of the image along spatial axis 0, 4.0 KiB",
        "  sums    the kernel over d, s, 4.5 KiB",
    ]
    with pytest.raises(ValueError, match="x_spec: got 'e'"):
        plan((4, 32, 8), (3, 8, 16), {"d": 2}, x_spec=("e",))
    with pytest.raises(ValueError, match="x_spec: got .* at most one entry for each of 3 axes"):
        plan((4, 32, 8), (3, 8, 16), {"d": 2}, x_spec=("d", None, None, None))
    with pytest.raises(ValueError, match="x_spec: got .* each axis of the mesh once"):
        plan((4, 32, 8), (3, 8, 16), {"d": 2}, x_spec=("d", "d"))
    with pytest.raises(ValueError, match="role: got 'backward'"):
        plan((4, 32, 8), (3, 8, 16), {"d": 2}, role="backward")


def test_bytes_of_a_device_do_not_grow_with_the_mesh():
    """Weak scaling: twice the devices and twice the image."""
    for role in ROLES:
        found = {n: plan((2, 16 * n, 64, 8), (5, 5, 8, 8), {"s": n}, x_spec=(None, "s"), role=role) for n in (2, 4, 8)}
        assert len({(p.fetched_bytes, p.added_bytes, p.summed_bytes) for p in found.values()}) == 1


# Pools and networks --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("parts", "n", "k", "s", "pads"),
    [(4, 27, 5, 1, (3, 1)), (3, 28, 4, 2, (1, 0)), (3, 18, 4, 1, (1, 3)), (4, 6, 2, 1, (1, 1)), (8, 32, 3, 2, (1, 1))],
)
@pytest.mark.parametrize("pool", [jconv.max_pool, jconv.avg_pool])
def test_pools_over_space(pool, parts, n, k, s, pads):
    """XLA's own gradient of a maximum is wrong in the first four."""
    mesh = mesh_of(1, parts)
    spread = NamedSharding(mesh, P("d", "h"))
    fn = lambda x: pool(x, (k, 2), strides=(s, 2), padding=(pads, (0, 0)))
    both = lambda x: (fn(x), jax.grad(lambda x: jnp.sum(jnp.sin(fn(x))))(x))
    x = draw((2, n, 6, 3))
    rest = -n % parts

    def over_devices(tall):
        y, x_bar = both(jax.lax.with_sharding_constraint(tall[:, :n], spread))
        high = -y.shape[1] % parts
        padded = jnp.pad(y, ((0, 0), (0, high), (0, 0), (0, 0))), jnp.pad(x_bar, ((0, 0), (0, rest), (0, 0), (0, 0)))
        return tuple(jax.lax.with_sharding_constraint(v, spread) for v in padded)

    compiled = (
        jax.jit(over_devices).lower(jax.device_put(np.pad(x, ((0, 0), (0, rest), (0, 0), (0, 0))), spread)).compile()
    )
    got = compiled(jax.device_put(np.pad(x, ((0, 0), (0, rest), (0, 0), (0, 0)), constant_values=9), spread))
    for a, b in zip(got, jax.jit(both)(x), strict=True):
        np.testing.assert_allclose(a[:, : b.shape[1]], b, atol=1e-5)
    assert not moved(compiled)["all-gather"]


@pytest.mark.parametrize(("name", "mesh"), [("resnet18", (8, 1)), ("unet", (2, 4))])
def test_networks(name, mesh):
    """Losses and gradients are those of one device; statistics are those of the whole batch; nothing is gathered."""
    options = {"classes": 3, "width": 8} | ({"batch_norm": True, "levels": 2} if name == "unet" else {})
    net = getattr(jconv.models, name)(**options)
    x = draw((8, 32, 32, 3))
    params, state = jax.jit(net.init, static_argnums=1)(jax.random.key(0), x.shape)

    def loss(params, state, x):
        y, state = net.apply(params, state, x, train=True)
        return jnp.mean(jnp.square(y - 1)), state

    step = jax.value_and_grad(loss, has_aux=True)
    (want, want_state), want_grads = jax.jit(step)(params, state, x)
    over = mesh_of(*mesh)
    whole, spread = NamedSharding(over, P()), NamedSharding(over, P("d", "h"))
    placed = *jax.device_put((params, state), whole), jax.device_put(x, spread)
    compiled = jax.jit(step, out_shardings=whole).lower(*placed).compile()
    (got, got_state), grads = compiled(*placed)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for a, b in zip(jax.tree.leaves((got_state, grads)), jax.tree.leaves((want_state, want_grads)), strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-3, atol=5e-4 * max(1.0, float(np.max(np.abs(b)))))
    found = moved(compiled)
    assert not found["all-gather"]
    if mesh[1] == 1:
        size = sum(v.size * 4 for v in jax.tree.leaves((params, state)))
        assert set(found) == {"all-reduce"}
        assert found["all-reduce"] <= 1.05 * size


@pytest.mark.parametrize("names", [("b", "a"), ("a", "b")])
def test_axes_of_a_mesh_in_any_order(names):
    """An image over two axes of the mesh, the minor one first, in all roles, pools and a halo; with 64 bits too."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    x, kernel = whole_numbers(8, 8, 8, 4), whole_numbers(3, 3, 4, 4)
    spread = jax.device_put(x, NamedSharding(mesh, P(None, names)))
    conv = lambda x: jconv.conv(x, kernel, strides=4, padding=[(1, 1), (2, 0)])
    pool = lambda x: jconv.max_pool(x, (3, 3), strides=4, padding=[(1, 1), (2, 0)])
    mean = lambda x: jconv.avg_pool(x, (3, 3), strides=1, padding=1)
    for fn in (conv, pool, mean):
        both = jax.jit(lambda x, fn=fn: (fn(x), jax.grad(lambda x: jnp.sum(fn(x) * fn(x)))(x)))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), both(spread), both(x))
    inside = lambda block: jconv.conv(block, kernel, spatial_axis_names=(names, None))
    over = jax.shard_map(inside, mesh=mesh, in_specs=P(None, names), out_specs=P(None, names))
    np.testing.assert_allclose(jax.jit(over)(x), jconv.conv(x, kernel), rtol=1e-5, atol=1e-4)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(jax.jit(pool)(spread), pool(x))


def whole_numbers(*shape):
    return jnp.asarray(np.random.default_rng(0).integers(-3, 4, shape), jnp.float32)


@pytest.mark.parametrize("how", ["eager", "without Shardy", "beside another axis"])
@pytest.mark.parametrize(("k", "s", "pad"), [(3, 4, 1), (8, 8, 0), (2, 2, 0), (3, 1, 1)])
def test_pools_where_xla_divides_them(how, k, s, pad):
    """It divides slices with fewer elements than devices wrongly, and is given none."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    x = whole_numbers(2, 8, 8, 3)
    spread = jax.device_put(x, NamedSharding(mesh, P("a", "b")))
    by_lax = jconv.accelerate(
        lambda x: jax.lax.reduce_window(
            x, -np.inf, jax.lax.max, (1, k, 1, 1), (1, s, 1, 1), ((0, 0), (pad, pad), (0, 0), (0, 0))
        )
    )
    pool = lambda x: jconv.max_pool(x, (k, k), strides=s, padding=pad)
    mean = lambda x: jconv.avg_pool(x, (k, k), strides=s, padding=pad)
    was = jax.config.jax_use_shardy_partitioner
    try:
        if how == "without Shardy":
            jax.config.update("jax_use_shardy_partitioner", False)
        for fn in (by_lax, pool, mean):
            gradient = jax.grad(lambda x, fn=fn: jnp.sum(fn(x) * fn(x)))
            for run in (fn, gradient):
                over = run
                if how == "beside another axis":
                    options = {"in_specs": P("a"), "out_specs": P("a"), "axis_names": {"a"}}
                    over = jax.jit(jax.shard_map(run, mesh=mesh, **options))
                elif how != "eager":
                    over = jax.jit(run)
                np.testing.assert_allclose(over(spread), run(x), rtol=1e-5, atol=1e-4)
    finally:
        jax.config.update("jax_use_shardy_partitioner", was)
