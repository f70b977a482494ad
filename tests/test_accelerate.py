"""`accelerate`: every convolution of a function replaced, wherever it is, and nothing else changed."""

import functools

import chex
import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from jax.sharding import Mesh, PartitionSpec

import jconv
from jconv import accelerate

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((4, 10, 9, 6)), jnp.float32) * 0.3
K = jnp.asarray(RNG.standard_normal((3, 3, 3, 8)), jnp.float32) * 0.1
close = functools.partial(chex.assert_trees_all_close, rtol=2e-4, atol=2e-4)
NHWC = ("NHWC", "HWIO", "NHWC")


def conv(x, k, strides=(1, 1), groups=2):
    return lax.conv_general_dilated(x, k, strides, "SAME", dimension_numbers=NHWC, feature_group_count=groups)


def counts(fn, *args):
    """How many convolutions of jconv and of lax a function has, those inside of others too."""

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            yield eqn.primitive.name
            for value in eqn.params.values():
                for part in value if isinstance(value, (tuple, list)) else (value,):
                    if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
                        yield from walk(getattr(part, "jaxpr", part))

    names = list(walk(jax.make_jaxpr(fn)(*args).jaxpr))
    return names.count("jconv"), names.count("conv_general_dilated")


@jax.custom_jvp
def clipped(x, k):
    return jnp.clip(conv(x, k), -1, 1)


@clipped.defjvp
def _(primals, tangents):
    (x, k), (dx, dk) = primals, tangents
    return clipped(x, k), conv(dx, k) + conv(x, dk)  # straight through


@jax.custom_vjp
def doubled(x, k):
    return conv(x, k)


doubled.defvjp(lambda x, k: (conv(x, k), (x, k)), lambda r, g: tuple(2 * v for v in jax.vjp(conv, *r)[1](g)))


def scanned(x, k):
    return lax.scan(lambda c, f: (c + conv(x, k * f).sum(), None), 0.0, jnp.arange(3.0))[0]


def looped(x, k):
    start = 0, x
    return lax.while_loop(
        lambda c: c[0] + 0 * conv(x, k).sum() < 3, lambda c: (c[0] + 1, conv(c[1], k)[..., :6]), start
    )[1]


def branched(x, k):
    return lax.cond(x[0, 0, 0, 0] > 0, conv, lambda x, k: -conv(x, k), x, k)


FUNCTIONS = {
    "plain": conv,
    "jit": jax.jit(lambda x, k: jax.nn.relu(jax.jit(conv)(x, k))),
    "scan": scanned,
    "while": looped,
    "cond": branched,
    "checkpoint": jax.checkpoint(lambda x, k: jnp.sin(conv(jnp.sin(x), k))),
    "custom_jvp": clipped,
    "custom_vjp": doubled,
    "gradients": jax.grad(lambda x, k: jnp.sum(conv(x, k, (2, 1)) ** 2), (0, 1)),
    "vmap": lambda x, k: jax.vmap(conv)(jnp.stack([x, -x]), jnp.stack([k, 2 * k])),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_convolution_is_replaced(name):
    fn = FUNCTIONS[name]
    fast = accelerate(fn)
    want = jax.jit(fn)(X, K)
    close(fast(X, K), want)
    close(jax.jit(fast)(X, K), want)
    mine, theirs = counts(fast, X, K)
    assert mine > 0
    assert theirs == 0
    assert all(found.role for found in fast.replaced(X, K))


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "while"])
def test_it_differentiates_and_batches_as_before(name):
    fn = FUNCTIONS[name]
    loss = lambda fn: lambda x, k: sum(jnp.sum(jnp.sin(v)) for v in jax.tree.leaves(fn(x, k)))
    gradient = lambda fn: jax.grad(loss(fn), (0, 1))

    def every(x, k, xs):
        tangent = lambda fn: jax.jvp(fn, (x, k), (k.sum() * x, k))[1] if name != "custom_vjp" else None
        batched = lambda fn: jax.vmap(fn, (0, None))(xs, k)
        gradients = gradient(accelerate(fn))(x, k), accelerate(gradient(fn))(x, k), gradient(fn)(x, k)
        return gradients, [(of(accelerate(fn)), of(fn)) for of in (tangent, batched)]

    (inside, outside, want), others = jax.jit(every)(X, K, np.stack([X, X[::-1]]))
    close(inside, want, atol=2e-3)
    close(outside, want, atol=2e-3)
    for got, theirs in others:
        close(got, theirs)
    assert counts(gradient(accelerate(fn)), X, K)[1] == 0
    if name == "plain":
        close(gradient(accelerate(fn))(X, K), want, atol=2e-3)  # and without jit around it


@pytest.mark.parametrize("policy", ["dots_saveable", "nothing_saveable"])
def test_a_policy_that_saves_laxs_convolutions_saves_these(policy):
    """What is not saved is computed again: one more convolution of lax, and so of jconv."""
    options = {"policy": getattr(jax.checkpoint_policies, policy)}
    fn = jax.checkpoint(lambda x, k: jnp.sin(conv(jnp.sin(x), k)), **options)
    gradient = lambda fn: jax.grad(lambda x, k: fn(x, k).sum(), (0, 1))
    theirs = counts(gradient(fn), X, K)[1]
    assert theirs == (3 if policy == "dots_saveable" else 4)
    assert counts(gradient(accelerate(fn)), X, K) == (theirs, 0)
    assert counts(accelerate(gradient(fn)), X, K) == (theirs, 0)


def test_gradients_that_are_taken_are_recognised():
    """A strided depthwise layer: what lax derives is zero-inserted, and grouped over the batch."""
    k = jnp.ones((3, 3, 1, 6))
    loss = lambda x, k: jnp.sum(conv(x, k, (2, 2), groups=6) ** 2)
    found = accelerate(jax.grad(loss, (0, 1))).replaced(X, k)
    spec = jconv.ConvSpec(X.shape, k.shape, 2, feature_group_count=6)
    roles = [(r.role, r.spec) for r in found]
    assert [role for role, _ in roles].count("kernel_grad") == 1
    assert ("forward", spec) in roles
    (gradient,) = (s for role, s in roles if role == "kernel_grad")
    assert (gradient.x_shape, gradient.kernel_shape, gradient.feature_group_count) == (X.shape, k.shape, 6)
    assert gradient.output_spatial == spec.output_spatial
    (transposed,) = (s for role, s in roles if role == "forward" and s != spec)
    assert transposed.input_dilation == (2, 2)


@pytest.mark.two_devices
def test_shard_map():
    mesh = Mesh(np.array(jax.devices()[:2]), "d")
    spread, whole = PartitionSpec("d"), PartitionSpec()

    def step(x, k):
        return lax.pmean(jax.grad(lambda k: jnp.sum(conv(x, k) ** 2))(k), "d")

    options = {"mesh": mesh, "in_specs": (spread, whole), "out_specs": whole, "check_vma": False}
    fn = jax.jit(jax.shard_map(step, **options))
    fast = accelerate(fn)
    close(fast(X, K), fn(X, K))
    assert counts(fast, X, K)[1] == 0
    checked = jax.jit(jax.shard_map(lambda x, k: lax.psum(conv(x, k).sum(), "d"), **{**options, "check_vma": True}))
    close(accelerate(checked)(X, K), checked(X, K), rtol=1e-3)
    assert counts(accelerate(checked), X, K)[1] == 0


@pytest.mark.standard_modes  # the program itself promotes
def test_what_surrounds_a_function_survives(capsys):
    @functools.partial(jax.jit, static_argnums=2, static_argnames="mode", donate_argnums=0)
    def fn(state, x, repeats, *, mode="a", scale=1.0):
        jax.debug.print("{}", state["n"])
        y = sum(conv(x, K) for _ in range(repeats)) * scale
        return {"n": state["n"] + 1}, y if mode == "a" else -y, jax.random.normal(jax.random.key(0), (2,))

    fast = accelerate(fn)
    for mode in "ab":
        state = {"n": jnp.zeros(8)}
        new, y, drawn = fast(state, X, 2, mode=mode, scale=0.5)
        jax.effects_barrier()
        assert "0." in capsys.readouterr().out
        assert state["n"].is_deleted()
        want = fn({"n": jnp.zeros(8)}, X, 2, mode=mode, scale=0.5)
        close((new, y, drawn), want)

    calls = []
    counted = accelerate(jax.jit(lambda x, scale: calls.append(1) or conv(x, K) * scale))
    for scale in (0.5, 0.7):
        close(counted(X, scale), conv(X, K) * scale)
    assert len(calls) == 1  # a number that is no static argument is an input
    typed = accelerate(lambda key, x: conv(x, K) + jax.random.normal(key, (8,)))
    close(typed(jax.random.key(1), X), conv(X, K) + jax.random.normal(jax.random.key(1), (8,)))


def test_what_is_left_is_said():
    x = jnp.ones((2, 8, 8, 3), jnp.float8_e4m3fn)
    k = jnp.ones((3, 3, 3, 4), jnp.float8_e4m3fn)
    fn = lambda x, k: lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=NHWC, preferred_element_type=jnp.float32
    )
    (found,) = accelerate(fn).replaced(x, k)
    assert found.role is None
    assert "left, its operands are float8_e4m3fn" in str(found)
    np.testing.assert_array_equal(accelerate(fn)(x, k), fn(x, k))
    (inner,) = accelerate(jax.jit(conv)).replaced(X, jax.ShapeDtypeStruct(K.shape, K.dtype))
    assert inner.path[0].startswith(("jit", "pjit"))
    assert str(inner).endswith("forward (in jit conv)")


def test_nothing_to_replace():
    fn = jax.jit(lambda x: {"y": jnp.sin(x) @ x})
    x = jnp.ones((3, 3))
    close(accelerate(fn)(x), fn(x))
    assert accelerate(fn).replaced(x) == ()


def test_bad_arguments():
    with pytest.raises(TypeError, match="fn: got 3, accepted is a function"):
        accelerate(3)  # type: ignore
    with pytest.raises(ValueError, match="algorithm: got 'fastest'"):
        accelerate(conv, algorithm="fastest")
    with pytest.raises(ValueError, match="feature dimension size"):
        accelerate(conv)(X, K[:, :, :1])


def channels_first(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME")


def transposes(fn, *args):
    """Elements of the arrays that are transposed; what is broadcast XLA lays out as it likes."""
    found = []

    def look(jaxpr):
        spread = {eqn.outvars[0] for eqn in jaxpr.eqns if eqn.primitive.name == "broadcast_in_dim"}
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "transpose" and eqn.invars[0] not in spread:
                found.append(eqn.invars[0].aval.size)
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    look(inner)

    look(jax.make_jaxpr(fn)(*args).jaxpr)
    return found


@pytest.mark.standard_modes  # the program itself promotes
def test_a_channels_first_network_runs_channels_last():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 3, 8, 10)), jnp.float32)
    shapes = ((4, 3, 3, 3), (4, 4, 3, 3), (4, 4, 1, 1))
    kernels = [jnp.asarray(rng.standard_normal(s), jnp.float32) / 5 for s in shapes]
    bias = jnp.asarray(rng.standard_normal(4), jnp.float32)

    def net(x):
        y = x
        for kernel in kernels:
            y = jax.nn.relu(channels_first(y, kernel) + bias[:, None, None])
            mean = jnp.mean(y, (0, 2, 3), keepdims=True)
            y = jnp.where(y > 1, jnp.tanh(y - mean), y * 2)[:, None].squeeze(1)
        return jnp.max(y, (2, 3))

    fast = jconv.accelerate(net)
    np.testing.assert_allclose(fast(x), jax.jit(net)(x), rtol=1e-5, atol=1e-5)
    assert sorted(transposes(fast, x))[-2:] == [k.size for k in kernels[1:2]] + [x.size], (
        "no feature map is put in order"
    )
    # the derivative that an activation brings with it, forwards and backwards
    both = lambda fn, x: (jax.jvp(fn, (x,), (x + 1,)), jax.vjp(fn, x)[1](jnp.ones((2, 4))))
    close(*jax.jit(lambda x: (both(fast, x), both(net, x)))(x))
    together = jax.jit(jax.value_and_grad(lambda x: jnp.sum(net(x) ** 2)))
    for a, b in zip(jconv.accelerate(together)(x), together(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(30))
def test_random_programs_around_channels_first_convolutions(seed):
    """Element by element, reductions, axes of one element, transposes, and what needs the array as it is meant."""
    rng = np.random.default_rng(seed)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 3, 3)) / 3, jnp.float32)
    other = jnp.asarray(rng.standard_normal((2, 3, 6, 5)), jnp.float32)
    steps = [
        lambda y: y + other if y.shape == other.shape else y + 1,
        lambda y: channels_first(y, kernel) if y.ndim == 4 and y.shape[1] == 3 else -y,
        lambda y: jnp.where(y > 0, y, 0.1 * y),
        lambda y: jnp.sum(y, 2, keepdims=True) - y,
        lambda y: y - jnp.mean(y, (0, -1), keepdims=True),
        lambda y: y.reshape(1, *y.shape[:1], 1, *y.shape[1:]).reshape(y.shape),
        lambda y: jnp.transpose(jnp.transpose(y, (0, 3, 1, 2)), (0, 2, 3, 1)) if y.ndim == 4 else y,
        lambda y: jnp.swapaxes(y, 2, 3) if y.ndim == 4 and seed % 2 else y,
        lambda y: jnp.concatenate([y[:1], y[1:]]),
        lambda y: jnp.cumsum(y, 1) / 4,
        lambda y: jax.jit(lambda y: jnp.clip(y, -2, 2) * y)(y),
        lambda y: y.astype(jnp.bfloat16).astype(jnp.float32),
        lambda y: jnp.maximum(y, y[:, :1]),
        lambda y: y.at[0, 0].set(1.0),
        lambda y: jnp.pad(y, ((0, 0), (1, 0), (0, 1), (0, 2)))[:, 1:, :-1, :-2] if y.ndim == 4 else y,
        lambda y: jnp.concatenate([y, y + 1], 1)[:, ::2],
        lambda y: lax.reduce_window(y, 0.0, lax.add, (1, 1, 2, 3), (1, 1, 1, 1), "SAME") if y.ndim == 4 else y,
        lambda y: lax.reshape(y, y.shape, dimensions=tuple(range(y.ndim))) * 2,
        lambda y: jax.nn.gelu(jax.nn.silu(y)) + jax.nn.relu6(y),
    ]
    chosen = [steps[i] for i in rng.integers(len(steps), size=9)]

    def program(x):
        y = channels_first(x, kernel)
        for step in chosen:
            y = step(y)
        return y, jnp.max(y, 1), y[0]

    x = jnp.asarray(rng.standard_normal(other.shape), jnp.float32)
    both = lambda x: (jconv.accelerate(program)(x), program(x))
    for a, b in zip(*(both if seed % 15 == 0 else jax.jit(both))(x), strict=True):  # two of them without jit
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        rounded = steps[11] in chosen  # to bfloat16
        np.testing.assert_allclose(a, b, rtol=2e-2 if rounded else 1e-4, atol=2e-2 if rounded else 1e-4)


def nchw(x):
    return channels_first(x, jnp.ones((3, 3, 3, 3)) / 9)


IMAGE = jnp.asarray(np.random.default_rng(3).standard_normal((2, 3, 6, 6)), jnp.float32)


def test_what_has_no_result_or_another_order_sees_the_array_as_it_is_meant(capfd):
    def printed(x):
        y = nchw(x)
        jax.debug.print("{}", y[0, 0, 0, 0])
        return y

    close(accelerate(printed)(IMAGE), nchw(IMAGE))
    jax.effects_barrier()
    assert capfd.readouterr().out.strip()
    turned = lambda x: lax.reshape(nchw(x), (2, 3, 6, 6), dimensions=(0, 1, 3, 2))
    close(accelerate(turned)(IMAGE), turned(IMAGE))
    pooled = lambda x: jax.grad(
        lambda x: lax.reduce_window(nchw(x), -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID").sum()
    )(x)
    close(accelerate(pooled)(IMAGE), pooled(IMAGE))


@pytest.mark.two_devices
def test_a_jitted_function_inside_stays_one_and_keeps_its_shardings():
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    sharding = jax.sharding.NamedSharding(mesh, PartitionSpec("d"))
    inner = jax.jit(lambda y: y * 2, out_shardings=sharding)
    assert accelerate(lambda x: inner(nchw(x)))(IMAGE).sharding == sharding
    jaxpr = jax.make_jaxpr(accelerate(lambda x: jax.jit(jnp.tanh)(nchw(x))))(IMAGE)
    assert "jit" in {eqn.primitive.name for eqn in jaxpr.eqns}


@pytest.mark.two_devices
def test_one_function_under_several_meshes_and_with_64_bits():
    conv = jax.jit(lambda x: lax.with_sharding_constraint(nchw(x), PartitionSpec("d")))
    fast = accelerate(conv)
    devices = np.array(jax.devices()[:2])
    for mesh in (Mesh(devices, ("d",)), Mesh(devices.reshape(1, 2), ("d", "e"))):
        with jax.set_mesh(mesh):
            assert fast(IMAGE).sharding == conv(IMAGE).sharding
    plain = jax.jit(nchw)
    fast = accelerate(plain)
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(IMAGE), jnp.float64)
        assert fast(wide).dtype == plain(wide).dtype
        assert accelerate(jax.jit(jax.grad(lambda x: nchw(x).sum())))(wide).dtype == jnp.float64
    assert fast(IMAGE).dtype == jnp.float32


@pytest.mark.standard_modes  # the program itself promotes
def test_static_numbers_of_any_kind_and_methods():
    fn = jax.jit(lambda x, n: nchw(x) * (n % 7), static_argnums=1)
    for n in (3, 2**40 + 3, np.int64(5)):
        close(accelerate(fn)(IMAGE, n), fn(IMAGE, n))

    class Net:
        scale = 2.0

        @accelerate
        def __call__(self, x):
            return self.scale * nchw(x)

    close(Net()(IMAGE), 2 * nchw(IMAGE))


def test_changes_in_place_reach_the_caller():
    def step(state, log, x):
        y = nchw(x) * state["scale"]
        state["scale"] = state["scale"] / 2
        state["inner"]["last"] = y.sum()
        log.append(state.pop("gone"))
        return y

    def state():
        return {"scale": jnp.ones(()), "inner": {"kept": jnp.zeros(2)}, "gone": "a string"}, ["first"]

    (want, want_log), (got, got_log) = state(), state()
    inner = got["inner"]
    fast = accelerate(step)
    for _ in range(2):
        close(fast(got, got_log, IMAGE), step(want, want_log, IMAGE))
        close(got, want)
        assert got["inner"] is inner
        assert got_log == want_log
        got["gone"] = want["gone"] = "another"
    assert set(got) == set(want)

    @jax.tree_util.register_pytree_node_class
    class Box:
        def __init__(self, value):
            self.value = value

        def tree_flatten(self):
            return (self.value,), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    def put(box, x):
        box.value = nchw(x)

    with pytest.raises(TypeError, match="put changes an object among its arguments in place.*return what they change"):
        accelerate(put)(Box(IMAGE), IMAGE)
    close(accelerate(lambda box: Box(nchw(box.value)))(Box(IMAGE)).value, nchw(IMAGE))


def test_what_is_no_array_goes_in_and_comes_out_as_it_is():
    def fn(x, flag, name, count):
        assert isinstance(flag, np.bool_)
        y = nchw(x) if flag else x
        return {"y": y, "act": jax.nn.relu, "name": name, "count": count, "array": np.arange(count), "none": None}

    for fast in (accelerate(fn), jax.tree_util.Partial(accelerate(fn))):
        got = fast(IMAGE, np.bool_(True), "n", 3)
        assert (got["act"], got["name"], got["count"]) == (jax.nn.relu, "n", 3)
        assert type(got["count"]) is int
        assert type(got["array"]) is np.ndarray
        close(got["y"], nchw(IMAGE))
    close(accelerate(fn)(np.asarray(IMAGE), np.bool_(False), "n", 1)["y"], IMAGE)


def test_tracing_again_and_again_is_said_once():
    plain = accelerate(nchw)
    for _ in range(16):
        plain(IMAGE[:, :, :3, :3])
    with pytest.warns(RuntimeWarning, match=r"nchw has been traced 17 times.*since it is not jitted. Write jax.jit"):
        plain(IMAGE[:, :, :3, :3])
    plain(IMAGE[:, :, :3, :3])  # once: warnings are errors here
    for _ in range(20):
        jax.eval_shape(plain, IMAGE)  # inside a trace it is traced once for each of them
    numbers = accelerate(jax.jit(lambda x, n: x + n, static_argnums=1))
    for n in range(16):
        numbers(IMAGE, n)
    with pytest.warns(RuntimeWarning, match="another number, string or function each time"):
        numbers(IMAGE, 16)
    traced = []
    other = accelerate(jax.jit(lambda x, n: traced.append(1) or x + n))
    for n in range(20):
        other(IMAGE, n)
        other(IMAGE, jnp.float32(n))
    assert len(traced) == 2


def test_lowering_and_the_text_of_an_accelerated_function():
    fn = jax.jit(lambda x, n, *, scale: nchw(x) * n * scale, static_argnums=1)
    fast = accelerate(fn)
    assert repr(fast) == f"jconv.accelerate({fn!r})"
    text = fast.lower(IMAGE, 2, scale=jnp.ones(())).as_text(debug_info=True)
    assert "jconv.forward" in text
    compiled = fast.lower(jax.ShapeDtypeStruct(IMAGE.shape, IMAGE.dtype), 2, scale=jnp.ones(())).compile()
    close(compiled(IMAGE, None, scale=jnp.float32(3)), fn(IMAGE, 2, scale=3.0))
    close(accelerate(nchw).lower(IMAGE).compile()(IMAGE), nchw(IMAGE))
    close(accelerate(accelerate(fn))(IMAGE, 2, scale=1.0), fn(IMAGE, 2, scale=1.0))


def test_without_jit_as_a_debugger_wants_it():
    with jax.disable_jit():
        for fn in (looped, scanned, branched, FUNCTIONS["jit"]):
            got = accelerate(fn)(X, K)
            with jax.disable_jit(False):
                want = jax.jit(fn)(X, K)
            close(got, want)


def test_per_example_gradients_are_kernel_gradients():
    """A vmapped gradient comes with a group for each example, whatever groups there were."""
    xs = X.reshape(4, 1, *X.shape[1:])
    for groups, strides in ((1, (1, 1)), (2, (2, 1)), (6, (1, 2))):
        k = jnp.asarray(np.random.default_rng(groups).standard_normal((3, 3, 6 // groups, 6)), jnp.float32)
        loss = lambda k, x, groups=groups, strides=strides: jnp.sum(jnp.sin(conv(x, k, strides, groups)))
        each = jax.vmap(jax.grad(loss), (None, 0))
        fast = accelerate(each)
        twice = jax.vmap(each, (0, None))  # and over kernels too
        ks = jnp.stack([k, -k])
        every = jax.jit(
            lambda k, ks, xs, f=(fast, each), g=(accelerate(twice), twice): (
                [one(k, xs) for one in f],
                [one(ks, xs) for one in g],
            )
        )
        for got, want in every(k, ks, xs):
            close(got, want)
        roles = [found.role for found in fast.replaced(k, xs)]
        assert roles.count("kernel_grad") == 1
        assert "kernel_grad" in {found.role for found in accelerate(twice).replaced(ks, xs)}


def test_references_are_written_and_partial_functions_stay_jitted():
    def counted(count, x):
        count[...] += 1
        return nchw(x)

    for wrap in (accelerate, lambda fn: accelerate(jax.jit(fn)), lambda fn: jax.jit(accelerate(fn))):
        count = jax.new_ref(jnp.zeros((), jnp.int32))
        close(wrap(counted)(count, IMAGE), nchw(IMAGE))
        assert int(count[...]) == 1

    traced = []
    fn = jax.jit(lambda x, scale, *, shift: traced.append(1) or nchw(x) * scale + shift)
    fast = accelerate(functools.partial(fn, IMAGE, shift=1.0))
    for scale in (2.0, 3.0):
        close(fast(scale), nchw(IMAGE) * scale + 1)
    close(fast(2.0, shift=2.0), nchw(IMAGE) * 2 + 2)
    assert len(traced) == 1
