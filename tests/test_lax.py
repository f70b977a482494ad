"""The drop-in for jax.lax: the same values, dtypes and errors."""

import inspect
import pickle
import random

import chex
import jax
import jax.export
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import PartitionSpec as P

import jconv
from jconv import lax
from tests import lax_grid

NAMES = [name for name in dir(lax) if name.startswith("conv")]


def test_what_jax_lax_has():
    expected = {"conv", "conv_with_general_padding", "conv_general_dilated", "conv_general_dilated_local",
                "conv_general_dilated_patches", "conv_transpose"}  # fmt: skip
    assert set(NAMES) == expected
    for name in NAMES:
        assert inspect.signature(getattr(lax, name)) == inspect.signature(getattr(jax.lax, name))


@pytest.mark.parametrize("block", range(8))
def test_random_arguments(block):
    for i in range(block * 12, block * 12 + 12):
        case = lax_grid.case(random.Random(i))
        assert lax_grid.difference(case) is None, case


X, K = (np.random.default_rng(i).standard_normal(s, np.float32) for i, s in enumerate(((2, 3, 9, 8), (4, 3, 3, 3))))
CALLS = {
    "conv": (X, K, (2, 1), "SAME"),
    "conv_with_general_padding": (X, K, (1, 2), [(1, 0), (0, 2)], (2, 1), (1, 2)),
    "conv_general_dilated": (X, K, (1, 1), "VALID"),
    "conv_general_dilated_local": (X, np.ones((4, 27, 7, 6), np.float32), (1, 1), "VALID", (3, 3)),
    "conv_general_dilated_patches": (X, (3, 2), (1, 2), "SAME"),
    "conv_transpose": (X.transpose(0, 2, 3, 1), K.transpose(2, 3, 1, 0), (2, 3), "SAME"),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_of_them(name):
    mine, theirs = (getattr(module, name)(*CALLS[name]) for module in (lax, jax.lax))
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
    assert mine.dtype == theirs.dtype
    text = str(
        jax.make_jaxpr(lambda x: getattr(lax, name)(x, *CALLS[name][1:]))(X if "trans" not in name else CALLS[name][0])
    )
    assert "jconv[" in text
    assert "conv_general_dilated[" not in text


def test_errors_are_those_of_lax():
    with pytest.raises(ValueError, match="lhs feature dimension size divided by feature_group_count must equal"):
        lax.conv_general_dilated(X, K[:, :2], (1, 1), "SAME")
    with pytest.raises(TypeError, match=r"conv_general_dilated\(\) missing 2 required positional arguments"):
        lax.conv_general_dilated(X, K)
    with pytest.raises(TypeError, match=r"conv\(\) got an unexpected keyword argument 'groups'"):
        lax.conv(X, K, (1, 1), "SAME", groups=2)


@pytest.mark.parametrize("name", NAMES)
def test_pickle_finds_each_of_them(name):
    assert pickle.loads(pickle.dumps(getattr(lax, name))) is getattr(lax, name)


def test_precisions_of_dot_products_are_laxs():
    for given in ("F32_F32_F32", jax.lax.DotAlgorithmPreset.BF16_BF16_F32):
        mine, theirs = (module.conv_general_dilated(X, K, (1, 1), "SAME", precision=given) for module in (lax, jax.lax))
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_symbolic_sizes_of_every_axis():
    """Of which nothing says whether the window or the image has more positions."""
    fn = lambda x: lax.conv_general_dilated(x, K, (1, 1), "SAME")
    args = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 3, h, w"), jnp.float32)
    expected = jax.lax.conv_general_dilated(X, K, (1, 1), "SAME")
    np.testing.assert_allclose(jax.export.export(jax.jit(fn))(args).call(X), expected, rtol=1e-4, atol=1e-4)


def test_a_depthwise_layer_in_another_layout_runs_jconvs_own():
    x, k = jnp.ones((8, 64, 28, 28)), jnp.ones((64, 1, 3, 3))
    fn = lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", feature_group_count=64)
    chosen = jconv.select_algorithm((8, 28, 28, 64), (3, 3, 1, 64), feature_group_count=64, platform="cpu")
    assert f"jconv.forward.{chosen.name}" in jax.jit(fn).lower(x, k).as_text(debug_info=True)


def test_in_the_place_of_laxs_own_functions(monkeypatch):
    """The shortest way to reach a library that takes no such argument; jconv itself still runs."""
    names = [name for name in dir(jconv.lax) if name.startswith("conv") and hasattr(jax.lax, name)]
    assert len(names) == 6
    own = {name: getattr(jax.lax, name) for name in names}
    for name in names:
        monkeypatch.setattr(jax.lax, name, getattr(jconv.lax, name))
    x, k = np.arange(50, dtype=np.float32).reshape(1, 2, 5, 5), np.ones((3, 2, 3, 3), np.float32)
    loss = lambda conv: jax.jit(jax.grad(lambda x, k: jnp.sum(conv(x, k, (2, 2), "SAME") ** 2), (0, 1)))(x, k)
    chex.assert_trees_all_close(loss(jax.lax.conv_general_dilated), loss(own["conv_general_dilated"]))
    np.testing.assert_allclose(jax.lax.conv(x, k, (1, 1), "VALID"), own["conv"](x, k, (1, 1), "VALID"))
    for algorithm in ("auto", "xla"):
        y = jconv.conv(x[0], jnp.ones((3, 5, 4)), algorithm=algorithm)
        np.testing.assert_allclose(y, jconv.conv(x[0], jnp.ones((3, 5, 4)), algorithm="einsum"))


@pytest.mark.two_devices
@pytest.mark.parametrize(
    ("image", "kernel", "out"),
    [
        (P("d"), P(), None),
        (P(None, None, "d"), P(), None),
        (P(), P("d"), P(None, "d")),
        (P(None, "d"), P(None, "d"), P()),
    ],
    ids=["batch", "space", "features", "channels"],
)
@pytest.mark.parametrize("how", ["drop-in", "accelerate"])
def test_results_on_explicit_meshes_are_sharded_as_laxs(image, kernel, out, how):
    x, k = X[:, :2, :8], K[:, :2]
    fn = lambda conv: lambda x, k: conv(x, k, (1, 1), "SAME", out_sharding=out)
    gradient = lambda fn: jax.jit(jax.grad(lambda k, x: jnp.sum(jnp.sin(fn(x, k)))))
    plain = fn(jax.lax.conv_general_dilated)
    mine = fn(lax.conv_general_dilated) if how == "drop-in" else jconv.accelerate(plain)
    with jax.set_mesh(jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))):
        xs, ks = jax.device_put(x, image), jax.device_put(k, kernel)
        got, want = jax.jit(mine)(xs, ks), jax.jit(plain)(xs, ks)
        assert jax.typeof(got) == jax.typeof(want)
        slope = gradient(mine)(ks, xs)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    one = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME")
    np.testing.assert_allclose(slope, gradient(one)(k, x), rtol=1e-4, atol=1e-4)
