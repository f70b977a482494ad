"""Networks as functions that give a `jconv.layers.Layer`.

    network = models.resnet18(classes=10)
    params, state = network.init(key, (-1, 64, 64, 3))
    logits, state = network.apply(params, state, x, train=True)

Pictures are NHWC, of any size that the strides of a network take; the number of channels is that of the input. As the
layers take any number of spatial axes, so do the networks: ``(-1, 1000, 1)`` makes a `resnet18` for series. Outputs are
logits, so that a loss may be stable, or with ``probabilities=True`` what they stand for. `names` is the way to the
weights of ``keras.applications`` and torchvision.
"""

from .convnext import convnext_tiny as convnext_tiny
from .mobilenet import mobilenet_v2 as mobilenet_v2
from .names import names as names
from .resnet import resnet18 as resnet18
from .resnet import resnet50 as resnet50
from .small import catnet39 as catnet39
from .small import conv1d_text as conv1d_text
from .small import keras_conv25 as keras_conv25
from .small import lenet5 as lenet5
from .unet import unet as unet
