"""The one truth: the definition of convolution and of its two gradients in NumPy, without JAX.

For each tap the positions of output and image that it connects are found from p q = o s + t d - lo by trying
them all. No padding, no dilation and no flipping is ever carried out, so nothing is shared with the algorithms.
"""

from __future__ import annotations

import itertools

import numpy as np


def _connections(n, k, s, lo, q, d, o):
    """For each tap of one axis: the outputs that it reaches, and the image positions it reaches them from."""
    table = []
    for t in range(k):
        pairs = [(i, (i * s + t * d - lo) // q) for i in range(o) if (i * s + t * d - lo) % q == 0]
        pairs = [(i, p) for i, p in pairs if 0 <= p < n]
        table.append((np.array([i for i, _ in pairs], int), np.array([p for _, p in pairs], int)))
    return table


def _taps(x_shape, window, out_space, strides, padding, input_dilation, kernel_dilation):
    axes = [
        _connections(n, k, s, lo, q, d, o)
        for n, k, s, (lo, _), q, d, o in zip(
            x_shape[1:-1], window, strides, padding, input_dilation, kernel_dilation, out_space, strict=True
        )
    ]
    for tap in itertools.product(*map(range, window)):
        outs, ins = zip(*(axis[t] for axis, t in zip(axes, tap, strict=True)), strict=True) if tap else ((), ())
        yield tap, np.ix_(range(x_shape[0]), *outs), np.ix_(range(x_shape[0]), *ins)


def _wide(a):
    a = np.asarray(a)
    if a.dtype.kind in "iu":
        return a.astype(np.int64)
    return a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)


def _split(a, groups):
    return a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)


def _output(n, k, lo, hi, s, q, d):
    return ((n - 1) * q + 1 + lo + hi - (k - 1) * d - 1) // s + 1


def output_space(x_shape, window, *, strides, padding, input_dilation, kernel_dilation):
    """Sizes of the output; one batch axis."""
    axes = zip(x_shape[1:-1], window, padding, strides, input_dilation, kernel_dilation, strict=True)
    return tuple(_output(n, k, lo, hi, s, q, d) for n, k, (lo, hi), s, q, d in axes)


def forward(x, kernel, *, groups=1, **geometry):
    """y[b, o, g, c] = sum over t, i of x[b, p, g, i] kernel[t, i, g, c]."""
    x, kernel = _wide(x), _wide(kernel)
    window, out = kernel.shape[:-2], kernel.shape[-1]
    space = output_space(x.shape, window, **geometry)
    y = np.zeros((x.shape[0], *space, groups, out // groups), np.result_type(x, kernel))
    xs = _split(x, groups)
    ks = _split(kernel, groups)
    for tap, o, p in _taps(x.shape, window, space, **geometry):
        y[o] += np.einsum("b...gi,igc->b...gc", xs[p], ks[tap])
    return y.reshape(x.shape[0], *space, out)


def input_grad(g, kernel, x_shape, *, groups=1, **geometry):
    """x_bar[b, p, g, i] = sum over o, t that meet p, and c, of g[b, o, g, c] kernel[t, i, g, c]."""
    g, kernel = _wide(g), _wide(kernel)
    x_bar = np.zeros((*x_shape[:-1], groups, x_shape[-1] // groups), np.result_type(g, kernel))
    gs, ks = _split(g, groups), _split(kernel, groups)
    for tap, o, p in _taps(x_shape, kernel.shape[:-2], g.shape[1:-1], **geometry):
        x_bar[p] += np.einsum("b...gc,igc->b...gi", gs[o], ks[tap])
    return x_bar.reshape(x_shape)


def kernel_grad(x, g, window, *, groups=1, **geometry):
    """kernel_bar[t, i, g, c] = sum over b, o of x[b, p, g, i] g[b, o, g, c]."""
    x, g = _wide(x), _wide(g)
    xs, gs = _split(x, groups), _split(g, groups)
    k_bar = np.zeros((*window, xs.shape[-1], *gs.shape[-2:]), np.result_type(x, g))
    for tap, o, p in _taps(x.shape, window, g.shape[1:-1], **geometry):
        seen, sent = (a.reshape(np.prod(a.shape[:-2], dtype=int), *a.shape[-2:]) for a in (xs[p], gs[o]))
        k_bar[tap] += np.einsum("ngi,ngc->igc", seen, sent)
    return k_bar.reshape(*window, xs.shape[-1], g.shape[-1])


def pad(x, padding, modes):
    """x with one batch axis, padded by mode; a negative pad crops after the positive ones are laid."""
    names = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    for axis, ((lo, hi), mode) in enumerate(zip(padding, modes, strict=True), 1):
        if mode == "zeros":
            continue
        config = [(0, 0)] * x.ndim
        config[axis] = (max(lo, 0), max(hi, 0))
        x = np.pad(x, config, mode=names[mode])
        x = np.take(x, range(max(-lo, 0), x.shape[axis] - max(-hi, 0)), axis)
    return x


def windows(x, *, window, strides, padding, base_dilation, window_dilation, best):
    """The flat index in x of the best element of each window over all axes of x, -1 where there is none.

    `best(candidate, held)` tells whether a later element takes the place of the one that is held.
    """
    axes = list(zip(x.shape, window, strides, padding, base_dilation, window_dilation, strict=True))
    out = tuple(_output(n, k, lo, hi, s, q, d) for n, k, s, (lo, hi), q, d in axes)
    index = np.full(out, -1)
    flat = np.arange(x.size).reshape(x.shape)
    for at in np.ndindex(*out):
        rows = []
        for o, (n, k, s, (lo, _), q, d) in zip(at, axes, strict=True):
            places = [divmod(o * s + t * d - lo, q) for t in range(k)]
            rows.append([p for p, rest in places if rest == 0 and 0 <= p < n])
        for p in itertools.product(*rows):
            if index[at] < 0 or best(x[p], x.flat[index[at]]):
                index[at] = flat[p]
    return index
