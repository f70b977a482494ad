"""Backprop through LeNet-5 by hand: each layer's forward pass, what it keeps, and its backward pass.

Everything here is derived on paper and written with `jax.numpy` alone: no `jax.grad`, and neither jconv's convolution
nor its gradient rules. `lenet_digits.py` compares the result with `jax.grad` of the network of jconv's layers before it
trains, so a mistake in either shows.

The rule behind all of it: if y = f(x) and the loss is L(y), write g = dL/dy for what arrives from above. Then
dL/dx_p = sum_q g_q dy_q/dx_p, and likewise for the parameters. Images are [batch, height, width, channels].
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

Params = dict[str, dict[str, jax.Array]]


def tap_at(i, x, kernel, size):
    """Tap number i of the window, row by row: where it is, its weights, and the part of x that it meets."""
    r, c = i // kernel.shape[1], i % kernel.shape[1]
    return r, c, kernel[r, c], lax.dynamic_slice(x, (0, r, c, 0), (len(x), *size, x.shape[-1]))


def conv_forward(x, kernel, bias):
    """y[b, o, c] = bias[c] + sum_{t, i} x[b, o + t, i] kernel[t, i, c], over all o for which x has every o + t.

    For one tap t of the window this is a matrix product of the channels, at all positions of x shifted by t.
    """
    size = (x.shape[1] - kernel.shape[0] + 1, x.shape[2] - kernel.shape[1] + 1)

    def add_tap(i, y):
        _, _, weights, part = tap_at(i, x, kernel, size)
        return y + jnp.einsum("bhwi,io->bhwo", part, weights)

    y = jnp.broadcast_to(bias, (len(x), *size, kernel.shape[-1]))
    return lax.fori_loop(0, kernel.shape[0] * kernel.shape[1], add_tap, y)


def conv_backward(x, kernel, g):
    """The gradients of x, kernel and bias.

    Tap t takes part in y[o] through the product x[o + t] kernel[t]. So its weights collect x[o + t] g[o] over all
    positions, the element x[o + t] collects g[o] kernel[t] over all taps, and the bias, in every y[o], sums g.
    """

    def add_tap(i, bars):
        x_bar, kernel_bar = bars
        r, c, weights, part = tap_at(i, x, kernel, g.shape[1:3])
        kernel_bar = kernel_bar.at[r, c].set(jnp.einsum("bhwi,bhwo->io", part, g))
        part_bar = tap_at(i, x_bar, kernel, g.shape[1:3])[-1] + jnp.einsum("bhwo,io->bhwi", g, weights)
        return lax.dynamic_update_slice(x_bar, part_bar, (0, r, c, 0)), kernel_bar

    bars = jnp.zeros_like(x), jnp.zeros_like(kernel)
    x_bar, kernel_bar = lax.fori_loop(0, kernel.shape[0] * kernel.shape[1], add_tap, bars)
    return x_bar, kernel_bar, g.sum((0, 1, 2))


def pool_forward(x):
    """y[b, o, c] = max_t x[b, 2 o + t, c] over the four t of a 2x2 window; also which t that is.

    `argmax` names the first of equal elements, in the order of rows.
    """
    batch, height, width, channels = x.shape
    windows = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
    windows = windows.reshape(*windows.shape[:4], 4)
    return windows.max(-1), windows.argmax(-1)


def pool_backward(winner, g):
    """The gradient of x: y copies one element of the window, which gets all of g; the other three get nothing.

    Where elements are equal, the maximum has no derivative; the first of them gets g, as in jconv.
    """
    batch, height, width, channels = g.shape
    windows = jnp.where(winner[..., None] == jnp.arange(4), g[..., None], 0)
    windows = windows.reshape(batch, height, width, channels, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return windows.reshape(batch, 2 * height, 2 * width, channels)


def relu_forward(x):
    """y = max(x, 0)."""
    return jnp.maximum(x, 0)


def relu_backward(x, g):
    """The gradient of x: the slope is 1 above zero and 0 below; at zero, where there is none, it is taken as 0."""
    return jnp.where(x > 0, g, 0)


def dense_forward(x, kernel, bias):
    """y = x W + b."""
    return x @ kernel + bias


def dense_backward(x, kernel, g):
    """The gradients of x, W and b.

    x[n, i] and W[i, j] meet in y[n, j] alone, as their product; so x_bar = g W^T, W_bar = x^T g, b_bar = sum_n g[n].
    """
    return g @ kernel.T, x.T @ g, g.sum(0)


def cross_entropy_forward(logits, labels):
    """L = mean_n(log sum_j exp z[n, j] - z[n, label_n]); also the probabilities p = softmax(z).

    The largest logit is subtracted first: it changes nothing, and no exponential overflows.
    """
    shifted = logits - logits.max(-1, keepdims=True)
    exps = jnp.exp(shifted)
    total = exps.sum(-1, keepdims=True)
    picked = jnp.take_along_axis(shifted, labels[:, None], -1)
    return jnp.mean(jnp.log(total) - picked), exps / total


def cross_entropy_backward(probabilities, labels):
    """The gradient of the logits: (p - onehot) / n, since d/dz_j log sum exp z = p_j, and -z_label adds -1 there."""
    onehot = (labels[:, None] == jnp.arange(probabilities.shape[-1])).astype(probabilities.dtype)
    return (probabilities - onehot) / len(labels)


def gradients(params: Params, x: jax.Array, labels: jax.Array) -> tuple[jax.Array, Params]:
    """The mean loss of LeNet-5 on images [batch, 32, 32, 1], and its gradient, in the tree of the layers' params."""
    c1, c3, c5, f6, output = (params[name] for name in ("c1", "c3", "c5", "f6", "output"))

    # Forward, keeping what the way back needs: each layer's input, and the winners of the pools.
    a1 = conv_forward(x, c1["kernel"], c1["bias"])
    s2, winner2 = pool_forward(relu_forward(a1))
    a3 = conv_forward(s2, c3["kernel"], c3["bias"])
    s4, winner4 = pool_forward(relu_forward(a3))
    flat = s4.reshape(len(s4), -1)
    a5 = dense_forward(flat, c5["kernel"], c5["bias"])
    h5 = relu_forward(a5)
    a6 = dense_forward(h5, f6["kernel"], f6["bias"])
    h6 = relu_forward(a6)
    loss, probabilities = cross_entropy_forward(dense_forward(h6, output["kernel"], output["bias"]), labels)

    # Backward: the same layers in reverse, each turning the gradient of its output into that of its input.
    grads: dict[str, Any] = {}
    g = cross_entropy_backward(probabilities, labels)
    g, *grads["output"] = dense_backward(h6, output["kernel"], g)
    g, *grads["f6"] = dense_backward(h5, f6["kernel"], relu_backward(a6, g))
    g, *grads["c5"] = dense_backward(flat, c5["kernel"], relu_backward(a5, g))
    g = pool_backward(winner4, g.reshape(s4.shape))
    g, *grads["c3"] = conv_backward(s2, c3["kernel"], relu_backward(a3, g))
    g = pool_backward(winner2, g)
    _, *grads["c1"] = conv_backward(x, c1["kernel"], relu_backward(a1, g))
    return loss, {name: {"kernel": kernel, "bias": bias} for name, (kernel, bias) in grads.items()}


def largest_relative_difference(tree_a, tree_b) -> float:
    """max over leaves of max|a - b| / max|b|; ValueError for trees of different structure.

    Each leaf is measured against its own largest element, so a small gradient counts as much as a large one.
    """

    def of_leaf(a, b):
        a, b = np.asarray(a), np.asarray(b)
        return float(np.abs(a - b).max() / (np.abs(b).max() or 1))

    return max(jax.tree.leaves(jax.tree.map(of_leaf, tree_a, tree_b)))
