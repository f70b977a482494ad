"""Layers: pairs of pure functions.

    params, state = layer.init(key, input_shape)
    y, state = layer.apply(params, state, x, train=False, key=None)

`input_shape` includes the batch axis (any size, -1 or None). It may be a ``jax.ShapeDtypeStruct``, which tells the
dtype of the input too, where that is not float32; each layer in a `Sequential` gets the dtype that reaches it with its
shape, as ``input_shape.dtype``. Parameters are dicts named as in Flax and Keras (``kernel``, ``bias``, ``scale``, ...),
state likewise (``mean``, ``var``). A layer made of others nests their dicts under their names, ``Conv_0``, ``Conv_1``,
``Dense_0``, ..., as ``flax.linen`` does, and leaves out those that are empty.

Parameters of another dtype than the input: what convolves and `Dense` compute in the dtype that both have together, or
in that of their argument `dtype`. Norms, scales and dropout compute in float32 or more and give the dtype of their
input, so that a network in bfloat16 stays so; integers and booleans count there as numbers of the parameters' dtype
(float32 without parameters). Layers cast, so all of it holds in JAX's strict modes of promotion too.

Anything with these two functions is a layer: ``Layer(init, apply)`` is all there is to it.
"""

from .base import Epilogue as Epilogue
from .base import Geometry as Geometry
from .base import Layer as Layer
from .composition import Parallel as Parallel
from .composition import Residual as Residual
from .composition import Sequential as Sequential
from .convolution import Conv as Conv
from .convolution import ConvLocal as ConvLocal
from .convolution import ConvTranspose as ConvTranspose
from .convolution import Dense as Dense
from .convolution import DepthwiseConv as DepthwiseConv
from .convolution import SeparableConv as SeparableConv
from .folding import fold_batch_norm as fold_batch_norm
from .normalisation import BatchNorm as BatchNorm
from .normalisation import Dropout as Dropout
from .normalisation import GroupNorm as GroupNorm
from .normalisation import LayerNorm as LayerNorm
from .normalisation import LayerScale as LayerScale
from .normalisation import StochasticDepth as StochasticDepth
from .pooling import Activation as Activation
from .pooling import AvgPool as AvgPool
from .pooling import Flatten as Flatten
from .pooling import GlobalAvgPool as GlobalAvgPool
from .pooling import GlobalMaxPool as GlobalMaxPool
from .pooling import MaxPool as MaxPool
from .streaming import Streaming as Streaming
from .table import Row as Row
from .table import Summary as Summary
from .table import summary as summary
