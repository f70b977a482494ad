"""convolve and correlate beside NumPy and SciPy."""

import itertools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jconv

signal = pytest.importorskip("scipy.signal")
SHAPES = [
    ((9,), (4,)),
    ((4,), (9,)),
    ((7,), (7,)),
    ((1,), (5,)),
    ((6, 7), (3, 2)),
    ((3, 8), (3, 2)),
    ((5, 4, 6), (2, 3, 3)),
]


def drawn(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(-5, 6, shape).astype(dtype)
    real, imaginary = rng.standard_normal((2, *shape))
    return (real + 1j * imaginary if np.issubdtype(dtype, np.complexfloating) else real).astype(dtype)


@pytest.mark.parametrize("name", ["convolve", "correlate"])
@pytest.mark.parametrize("dtype", ["float32", "complex64", "int32", "int8"])
@pytest.mark.parametrize("method", ["auto", "direct", "fft"])
def test_scipy(name, dtype, method):
    if method == "fft" and dtype.startswith("int"):
        pytest.skip("spectra are of floats")
    for (one, other), mode in itertools.product(SHAPES, ("full", "same", "valid")):
        a, b = drawn(one, np.dtype(dtype), 0), drawn(other, np.dtype(dtype), 1)
        want = getattr(signal, name)(a, b, mode, "direct")
        got = getattr(jconv, name)(a, b, mode, method)
        assert (got.shape, got.dtype) == (want.shape, want.dtype), (one, other, mode)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=f"{one} {other} {mode}")


@pytest.mark.parametrize("mode", ["full", "valid"])
def test_numpy(mode):
    a, b = drawn((12,), "float32", 0), drawn((5,), "float32", 1)
    np.testing.assert_allclose(jconv.convolve(a, b, mode), np.convolve(a, b, mode), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jconv.correlate(a, b, mode), np.correlate(a, b, mode), rtol=1e-5, atol=1e-5)


def test_more_than_three_dimensions_scalars_and_nothing():
    a, b = drawn((3, 4, 2, 3), "float32", 0), drawn((2, 2, 1, 2), "float32", 1)
    np.testing.assert_allclose(jconv.convolve(a, b), signal.convolve(a, b), rtol=1e-5, atol=1e-5)
    assert jconv.convolve(2.0, 3.0) == 6.0
    assert jconv.convolve(np.zeros(0), np.zeros(3)).shape == (0,)
    assert (jconv.convolve(np.array([True, False]), np.array([True, True])) == np.array([True, True, False])).all()


@pytest.mark.standard_modes  # float32 beside int8
def test_mixed_dtypes_and_gradients():
    a, b = drawn((9,), "float32", 0), drawn((4,), "int8", 1)
    got = jconv.convolve(a, b)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.convolve(a, b), rtol=1e-5, atol=1e-5)
    g = drawn((12,), "float32", 2)
    bar = jax.grad(lambda a: jnp.sum(g * jconv.convolve(a, b.astype("float32"))))(a)
    np.testing.assert_allclose(bar, np.correlate(g, b.astype("float32"), "valid"), rtol=1e-5, atol=1e-5)


def test_a_long_filter_takes_spectra():
    spec = ((4_000, 1), (3_000, 1, 1))
    assert "fft" in jconv.select_algorithm(*spec, padding="VALID", platform="cpu").name
    a, b = drawn((4_000,), "float32", 0), drawn((3_000,), "float32", 1)
    want = np.convolve(a.astype("float64"), b.astype("float64"))
    np.testing.assert_allclose(jconv.convolve(a, b), want, rtol=1e-4, atol=1e-3)


def summed(a, b, mode):
    """The definition: every term that there is, added where it belongs."""
    full = np.zeros([n + k - 1 for n, k in zip(a.shape, b.shape, strict=True)], np.result_type(a, b))
    with np.errstate(invalid="ignore"):
        for at in np.ndindex(b.shape):
            full[tuple(slice(t, t + n) for t, n in zip(at, a.shape, strict=True))] += a * b[at]
    lengths = {"full": full.shape, "same": a.shape,
               "valid": [abs(n - k) + 1 for n, k in zip(a.shape, b.shape, strict=True)]}[mode]  # fmt: skip
    starts = [(m - n) // 2 for m, n in zip(full.shape, lengths, strict=True)]
    return full[tuple(slice(s, s + n) for s, n in zip(starts, lengths, strict=True))]


@pytest.mark.non_finite
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("dtype", "shapes"), [("float32", ((1000,), (200,))), ("float32", ((12,), (50,))),
                                              ("complex64", ((20,), (6,))), ("bfloat16", ((9, 8), (3, 4)))])  # fmt: skip
def test_a_non_finite_element_is_in_its_own_terms_alone(dtype, shapes, bad):
    for which, mode in itertools.product((0, 1), ("full", "same", "valid")):
        a, b = (np.ones(shape, "complex64" if dtype == "complex64" else "float32") for shape in shapes)
        (a, b)[which][tuple(n // 3 for n in shapes[which])] = bad
        want = summed(a, b, mode)
        got = np.asarray(jconv.convolve(jnp.asarray(a, dtype), jnp.asarray(b, dtype), mode, "direct"))
        np.testing.assert_array_equal(np.isfinite(got.astype(want.dtype)), np.isfinite(want), err_msg=f"{which} {mode}")
        other = jconv.correlate(jnp.asarray(a, dtype), jnp.asarray(np.flip(b).conj(), dtype), mode, "direct")
        np.testing.assert_array_equal(np.isfinite(np.asarray(other).astype(want.dtype)), np.isfinite(want))


@pytest.mark.non_finite
def test_gradients_of_direct_are_those_of_the_sum_on_either_way():
    a, b = drawn((30,), "float32", 0), drawn((7,), "float32", 1)
    loss = lambda a, b, method: jnp.sum(jconv.convolve(a, b, "same", method)[:10] ** 2)
    want = jax.grad(loss, (0, 1))(a, b, "auto")
    np.testing.assert_allclose(jax.grad(loss, (0, 1))(a, b, "direct")[0], want[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.grad(loss, (0, 1))(a, b, "direct")[1], want[1], rtol=1e-4, atol=1e-4)
    b[6] = np.inf  # which meets a[0], at output 3 after the cut, and everything behind it
    assert np.isfinite(jconv.convolve(a, b, "same", "direct")[:3]).all()
    assert not np.isfinite(jconv.convolve(a, b, "same", "direct")[3:]).any()


@pytest.mark.non_finite
@pytest.mark.parametrize("precision", [None, "default"])
def test_direct_is_the_sum(precision):
    a, b = drawn((4_000,), "float32", 0), drawn((3_000,), "float32", 1)
    a[0] = np.nan  # which spectra spread everywhere
    assert np.isfinite(jconv.convolve(a, b, method="direct", precision=precision)[-100:]).all()
    assert np.isnan(jconv.convolve(a, b, method="fft")).all()


def test_errors():
    a, b = np.ones((3, 5)), np.ones((4, 2))
    with pytest.raises(ValueError, match="method: got 'fft' for 1 axes of int32, accepted are up to 3 axes of floats"):
        jconv.convolve(np.ones(3, "int32"), np.ones(2, "int32"), method="fft")
    with pytest.raises(ValueError, match="mode: got 'all', accepted: 'full', 'valid', 'same'"):
        jconv.convolve(a, b, "all")
    with pytest.raises(ValueError, match="method: got 'sum', accepted"):
        jconv.convolve(a, b, method="sum")
    with pytest.raises(
        ValueError, match=r"in1 and in2: got shapes \(3, 5\) and \(4,\), accepted are arrays with as many"
    ):
        jconv.correlate(a, b[:, 0])
    with pytest.raises(
        ValueError, match=r"mode: got 'valid' for shapes \(3, 5\) and \(4, 2\); accepted is that one is"
    ):
        jconv.convolve(a, b, "valid")
