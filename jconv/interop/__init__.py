"""Weights from and to PyTorch, Keras, Flax, Haiku, Equinox and safetensors files.

Each way is a permutation of the elements, so what goes there and comes back is the same, bit for bit. The layers of
the network here are matched with those there by a table, ``names={"Conv_0": "features.0"}``; what is missing,
unexpected or of another shape is listed. Nothing is unpickled.
"""

from .files import read_safetensors as read_safetensors
from .files import write_safetensors as write_safetensors
from .libraries import flatten as flatten
from .libraries import from_equinox as from_equinox
from .libraries import from_flax as from_flax
from .libraries import from_haiku as from_haiku
from .libraries import from_keras as from_keras
from .libraries import from_torch as from_torch
from .libraries import to_equinox as to_equinox
from .libraries import to_flax as to_flax
from .libraries import to_haiku as to_haiku
from .libraries import to_keras as to_keras
from .libraries import to_torch as to_torch
from .libraries import unflatten as unflatten
