"""jconv: convolution for JAX as pure functions, with a good algorithm for every shape, role and platform."""

from . import initializers as initializers
from . import interop as interop
from . import lax as lax
from . import layers as layers
from . import plugins as plugins
from ._accelerate import Replacement as Replacement
from ._accelerate import accelerate as accelerate
from ._algorithms.base import Algorithms as Algorithms
from ._conv import algorithms as algorithms
from ._conv import conv as conv
from ._conv import conv_bias_grad as conv_bias_grad
from ._conv import conv_input_grad as conv_input_grad
from ._conv import conv_kernel_grad as conv_kernel_grad
from ._conv import conv_local as conv_local
from ._conv import conv_transpose as conv_transpose
from ._conv import select_algorithm as select_algorithm
from ._pool import avg_pool as avg_pool
from ._pool import global_avg_pool as global_avg_pool
from ._pool import global_max_pool as global_max_pool
from ._pool import max_pool as max_pool
from ._signal import convolve as convolve
from ._signal import correlate as correlate
from ._spec import ConvSpec as ConvSpec
from ._tune import tune as tune
from ._version import __version__ as __version__
from .layers import summary as summary
