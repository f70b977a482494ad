"""Layers: pairs of pure functions.

    params, state = layer.init(key, input_shape)
    y, state = layer.apply(params, state, x, train=False, key=None)

`input_shape` includes the batch axis (any size, or -1). Parameters are dicts named as in Flax and Keras (``kernel``,
``bias``, ``scale``, ...), state likewise (``mean``, ``var``). A layer made of others nests their dicts under
their names, ``Conv_0``, ``Conv_1``, ``Dense_0``, ..., as ``flax.linen`` does, and leaves out those that are empty.
Anything with these two functions is a layer: ``Layer(init, apply)`` is all there is to it.
"""

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
from .table import Row as Row
from .table import Summary as Summary
from .table import summary as summary
