"""Properties of geometry, over random geometries that hypothesis shrinks to the smallest that fails."""

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import jconv
from jconv._spec import span
from tests import oracle
from tests.cases import draw

pytestmark = pytest.mark.checked
sizes = st.integers(1, 12)
AXIS = st.tuples(sizes, st.integers(1, 5), st.integers(1, 4), st.integers(-3, 6), st.integers(-3, 6), st.integers(1, 3),
                 st.integers(1, 3))  # fmt: skip
fixed = settings(derandomize=True, deadline=None)


def spec_of(axes, groups=1, channels=(1, 1), batch=2):
    n, k, s, lo, hi, q, d = zip(*axes, strict=True)
    total = [(a - 1) * b + 1 + c + e - span(w, r) for a, b, c, e, w, r in zip(n, q, lo, hi, k, d, strict=True)]
    assume(min(total) >= 0)
    return jconv.ConvSpec(
        (batch, *n, groups * channels[0]), (*k, channels[0], groups * channels[1]), s,
        tuple(zip(lo, hi, strict=True)), q, d, groups,
    )  # fmt: skip


@fixed
@given(st.lists(AXIS, min_size=1, max_size=3))
def test_output_size_is_the_number_of_windows_that_fit(axes):
    spec = spec_of(axes)
    for (n, k, s, lo, hi, q, d), got in zip(axes, spec.output_spatial, strict=True):
        image = list(range(-lo, (n - 1) * q + 1 + hi))  # every place from the low pad's first to the high pad's last
        starts = [p for p in image if (p + lo) % s == 0 and p + (k - 1) * d <= image[-1]]
        assert len(starts) == got


@fixed
@given(st.lists(AXIS, min_size=1, max_size=3), st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_the_adjoint_geometry_gives_back_the_shapes(axes, groups, channels):
    spec = spec_of(axes, groups, channels)
    back = spec.input_grad_spec
    assert back.x_shape == spec.output_shape
    assert back.output_shape == spec.x_shape
    assert back.macs * 1 == np.prod(spec.spatial, dtype=int) * spec.num_weights
    for axis in spec.axes:
        low, high = axis.kernel_grad_padding
        count = (span(axis.n, axis.q) + low + high - span(axis.o, axis.s)) // axis.d + 1
        assert count == axis.k


@fixed
@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 5), st.integers(1, 3))
def test_named_padding(n, k, s, d):
    shape = lambda padding: jconv.ConvSpec((n, 1), (k, 1, 1), s, padding, 1, d).output_spatial[0]
    for name in ("SAME", "SAME_LOWER"):
        assert shape(name) == -(-n // s)
    low, high = jconv.ConvSpec((n, 1), (k, 1, 1), s, "SAME", 1, d).padding[0]
    assert 0 <= high - low <= 1
    assert jconv.ConvSpec((n, 1), (k, 1, 1), s, "SAME_LOWER", 1, d).padding[0] == (high, low)
    assert shape("CAUSAL") == -(-n // s)
    assert jconv.ConvSpec((n, 1), (k, 1, 1), 1, "FULL", 1, d).output_spatial[0] == n + span(k, d) - 1


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.lists(AXIS, min_size=0, max_size=2), st.integers(1, 2), st.sampled_from(["xla", "einsum"]))
def test_the_three_roles_are_one_trilinear_form(axes, groups, algorithm):
    spec = (
        spec_of(axes, groups, (2, 1))
        if axes
        else jconv.ConvSpec((2, 2 * groups), (2, groups), feature_group_count=groups)
    )
    shapes = (spec.x_shape, spec.kernel_shape, spec.output_shape)
    x, k, g = (draw(shape, "int32", i) % 5 for i, shape in enumerate(shapes))
    options = {n: getattr(spec, n) for n in ("strides", "padding", "input_dilation", "kernel_dilation")}
    want = oracle.forward(x, k, groups=groups, **options)
    options |= {"feature_group_count": groups, "algorithm": algorithm}

    @jax.jit
    def roles(x, k, g):
        x_bar = jconv.conv_input_grad(g, k, spec.x_shape, **options)
        return jconv.conv(x, k, **options), x_bar, jconv.conv_kernel_grad(x, g, spec.window, **options)

    y, x_bar, k_bar = map(np.asarray, roles(x, k, g))
    np.testing.assert_array_equal(y, want)
    assert np.sum(x * x_bar) == np.sum(k * k_bar) == np.sum(g * want)
