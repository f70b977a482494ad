"""convolve and correlate beside NumPy and SciPy."""

import itertools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jconv
from tests.numerics import dtype_of

signal = pytest.importorskip("scipy.signal")
MODES = ("full", "same", "valid")
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
    fn = getattr(jconv, name)
    pairs = [(drawn(one, np.dtype(dtype), 0), drawn(other, np.dtype(dtype), 1)) for one, other in SHAPES]
    every = jax.jit(lambda pairs: {mode: [fn(*pair, mode, method) for pair in pairs] for mode in MODES})(pairs)
    every["eager"] = [fn(*pairs[0], "full", method)]
    for mode, i in [*itertools.product(MODES, range(len(SHAPES))), ("eager", 0)]:
        (one, other), (a, b), got = SHAPES[i], pairs[i], np.asarray(every[mode][i])
        want = getattr(signal, name)(a, b, "full" if mode == "eager" else mode, "direct")
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
    bar = jax.jit(jax.grad(lambda a: jnp.sum(g * jconv.convolve(a, b.astype("float32")))))(a)
    np.testing.assert_allclose(bar, np.correlate(g, b.astype("float32"), "valid"), rtol=1e-5, atol=1e-5)


def test_a_long_filter_takes_spectra_or_tiles():
    spec = ((4_000, 1), (3_000, 1, 1))
    taken = jconv.select_algorithm(*spec, padding="VALID", platform="cpu").name
    assert "fft" in taken or "fold" in taken
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


@jax.jit
def direct(a, b, turned):
    """In every mode the sum, and the same by the correlation with b turned round."""
    both = ((jconv.convolve, b), (jconv.correlate, turned))
    return {mode: [fn(a, other, mode, "direct") for fn, other in both] for mode in MODES}


@pytest.mark.non_finite
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("dtype", "shapes"), [("float32", ((1000,), (200,))), ("float32", ((12,), (50,))),
                                              ("complex64", ((20,), (6,))), ("bfloat16", ((9, 8), (3, 4)))])  # fmt: skip
def test_a_non_finite_element_is_in_its_own_terms_alone(dtype, shapes, bad):
    for which in (0, 1):
        a, b = (np.ones(shape, "complex64" if dtype == "complex64" else "float32") for shape in shapes)
        (a, b)[which][tuple(n // 3 for n in shapes[which])] = bad
        found = direct(*(v.astype(dtype_of(dtype)) for v in (a, b, np.flip(b).conj())))
        for mode in MODES:
            want = summed(a, b, mode)
            for got in found[mode]:
                np.testing.assert_array_equal(
                    np.isfinite(np.asarray(got).astype(want.dtype)), np.isfinite(want), err_msg=f"{which} {mode}"
                )


@pytest.mark.non_finite
def test_gradients_of_direct_are_those_of_the_sum_on_either_way():
    a, b = drawn((30,), "float32", 0), drawn((7,), "float32", 1)
    loss = lambda a, b, method: jnp.sum(jconv.convolve(a, b, "same", method)[:10] ** 2)
    got, want = jax.jit(lambda a, b: [jax.grad(loss, (0, 1))(a, b, method) for method in ("direct", "auto")])(a, b)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-4)
    b[6] = np.inf  # which meets a[0], at output 3 after the cut, and everything behind it
    y = np.asarray(jconv.convolve(a, b, "same", "direct"))
    assert np.isfinite(y[:3]).all()
    assert not np.isfinite(y[3:]).any()


@pytest.mark.non_finite
@pytest.mark.parametrize("precision", [None, "default"])
def test_direct_is_the_sum(precision):
    a, b = drawn((4_000,), "float32", 0), drawn((3_000,), "float32", 1)
    a[0] = np.nan  # which spectra spread everywhere
    assert np.isfinite(np.asarray(jconv.convolve(a, b, method="direct", precision=precision))[-100:]).all()
    assert np.isnan(np.asarray(jconv.convolve(a, b, method="fft"))).all()


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
