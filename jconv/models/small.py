"""Small networks, one for each kind of task: digits, photographs, small pictures, series."""

from __future__ import annotations

from typing import Any

from .._spec import integer
from ..layers import Activation, Conv, Dense, Dropout, Flatten, GlobalMaxPool, Layer, MaxPool, Sequential
from ..layers.base import constructor, rate_of
from .base import classifier, sized


@constructor
def lenet5(
    *,
    classes: int = 10,
    probabilities: bool = False,
    dtype: Any = None,
    algorithm: Any = "auto",
    name: str | None = None,
) -> Layer:
    """LeNet-5 for pictures such as 32×32×1, with today's parts: relu for tanh, maximum for mean, logits at the end.

    C1 has 6 maps of 5×5, S2 halves, C3 has 16 maps of 5×5, S4 halves, and C5 120, F6 84 and the output 10 units. For
    32×32×1 C1 has 156 parameters and 122,304 connections, and the network 61,706 parameters. The network of 1998 has
    60,000: its C3 leaves out some links between maps, which makes 1,516 where there are 2,416 here; each map of its
    pools has a factor and a bias, 44 in all; and the centres of its output, radial basis functions, are given, where
    there are 850 here.

    Args:
        classes: number of outputs; 1 is one logit for two classes.
        probabilities: whether the output is a softmax of the logits (of one logit a sigmoid) rather than the logits.
        dtype: to compute in; by default that of the operands.
        algorithm: of the convolutions, as for `jconv.conv`.
        name: of its parameters in a `Sequential`.

    Returns:
        A `Layer`: ``[batch, *spatial, channels]`` to ``[batch, classes]``; spatial sizes are 16 or more.

    Raises:
        ValueError: in init and apply, for smaller sizes.

    >>> import jconv
    >>> jconv.summary(lenet5(), (-1, 32, 32, 1)).parameters
    61706

    References:
        LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998,
        section II.B.
    """
    network = Sequential(
        Conv(6, 5, padding="VALID", dtype=dtype, algorithm=algorithm, name="c1"),
        Activation("relu"),
        MaxPool(2, name="s2"),
        Conv(16, 5, padding="VALID", dtype=dtype, algorithm=algorithm, name="c3"),
        Activation("relu"),
        MaxPool(2, name="s4"),
        Flatten(),
        Dense(120, dtype=dtype, name="c5"),
        Activation("relu"),
        Dense(84, dtype=dtype, name="f6"),
        Activation("relu"),
        *classifier(classes, probabilities, dtype, "output"),
        name=name,
    )
    return sized(network, "lenet5", at_least=16)


@constructor
def catnet39(
    *,
    classes: int = 1,
    probabilities: bool = False,
    dtype: Any = None,
    algorithm: Any = "auto",
    name: str | None = None,
) -> Layer:
    """Three convolutions that shrink a picture, and a logistic or softmax output, as for cats in 39×39×3.

    39×39×3 → 3×3, 10 filters → 37×37×10 → 5×5, stride 2, 20 filters → 17×17×20 → 5×5, stride 2, 40 filters → 7×7×40,
    flattened 1,960 → output; relu after each convolution, no padding. 27,301 parameters with one output.

    Args:
        classes: as for `lenet5`.
        probabilities: as for `lenet5`.
        dtype: as for `lenet5`.
        algorithm: as for `lenet5`.
        name: as for `lenet5`.

    Returns:
        A `Layer`: ``[batch, *spatial, channels]`` to ``[batch, classes]``; spatial sizes are 15 or more.

    Raises:
        ValueError: in init and apply, for smaller sizes.

    >>> catnet39().output_shape((-1, 39, 39, 3))
    (-1, 1)

    References:
        Ng, "Convolutional neural networks", deeplearning.ai, week 1: the example of a whole network.
    """
    network = Sequential(
        Conv(10, 3, padding="VALID", dtype=dtype, algorithm=algorithm),
        Activation("relu"),
        Conv(20, 5, strides=2, padding="VALID", dtype=dtype, algorithm=algorithm),
        Activation("relu"),
        Conv(40, 5, strides=2, padding="VALID", dtype=dtype, algorithm=algorithm),
        Activation("relu"),
        Flatten(),
        *classifier(classes, probabilities, dtype, "output"),
        name=name,
    )
    return sized(network, "catnet39", at_least=15)


@constructor
def keras_conv25(
    *,
    classes: int = 1,
    filters: int = 12,
    dropout: float = 0.0,
    probabilities: bool = False,
    dtype: Any = None,
    algorithm: Any = "auto",
    name: str | None = None,
) -> Layer:
    """The first network of many a Keras tutorial: one convolution for pictures such as 25×25×1, a pool, a dense layer.

    25×25×1 → 3×3, 12 filters, relu → 23×23×12 (120 parameters) → maximum of 2×2 → 11×11×12 → flattened 1,452 → output.

    Args:
        classes: as for `lenet5`.
        filters: of the convolution.
        dropout: probability with which training leaves out a flattened feature; then apply needs a key.
        probabilities: as for `lenet5`.
        dtype: as for `lenet5`.
        algorithm: as for `lenet5`.
        name: as for `lenet5`.

    Returns:
        A `Layer`: ``[batch, *spatial, channels]`` to ``[batch, classes]``; spatial sizes are 4 or more.

    Raises:
        ValueError: in init and apply, for smaller sizes.

    >>> import jax
    >>> params, _ = keras_conv25().init(jax.random.key(0), (-1, 25, 25, 1))
    >>> sum(array.size for array in params["Conv_0"].values())
    120

    References:
        Chollet, "Simple MNIST convnet", keras.io, 2015, is of this form.
    """
    filters, dropout = integer(filters, "filters", minimum=1), rate_of(dropout, "dropout")
    network = Sequential(
        Conv(filters, 3, padding="VALID", dtype=dtype, algorithm=algorithm),
        Activation("relu"),
        MaxPool(2),
        Flatten(),
        Dropout(dropout),
        *classifier(classes, probabilities, dtype, "output"),
        name=name,
    )
    return sized(network, "keras_conv25", at_least=4)


@constructor
def conv1d_text(
    *,
    classes: int = 1,
    filters: int = 111,
    kernel_size: int = 5,
    probabilities: bool = False,
    dtype: Any = None,
    algorithm: Any = "auto",
    name: str | None = None,
) -> Layer:
    """Filters along a text or another series, the strongest answer of each, and a dense layer.

    Length 300 of one channel → 111 filters of 5, relu → 296×111 → maximum over all positions → 111 → output. For a
    series of word vectors with 300 channels, of any length, the kernel is (5, 300, 111), with the bias 166,611
    parameters.

    Args:
        classes: as for `lenet5`.
        filters: of the convolution.
        kernel_size: length of a filter.
        probabilities: as for `lenet5`.
        dtype: as for `lenet5`.
        algorithm: as for `lenet5`.
        name: as for `lenet5`.

    Returns:
        A `Layer`: ``[batch, length, channels]`` to ``[batch, classes]``; the length is `kernel_size` or more.

    Raises:
        ValueError: in init and apply, for a shorter series.

    >>> conv1d_text(classes=6).output_shape((-1, 300, 1))
    (-1, 6)

    References:
        Kim, "Convolutional neural networks for sentence classification", EMNLP 2014, arXiv:1408.5882.
    """
    filters, kernel_size = integer(filters, "filters", minimum=1), integer(kernel_size, "kernel_size", minimum=1)
    network = Sequential(
        Conv(filters, kernel_size, padding="VALID", dtype=dtype, algorithm=algorithm),
        Activation("relu"),
        GlobalMaxPool(),
        *classifier(classes, probabilities, dtype, "output"),
        name=name,
    )
    return sized(network, "conv1d_text", at_least=kernel_size)
