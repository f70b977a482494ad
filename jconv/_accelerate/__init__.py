"""`accelerate`: a function with every convolution in it replaced by jconv's.

It is one mechanism for a forward pass, for a training step whose gradients are already taken, and for the convolutions
of `jconv.lax`, which are those of jax.lax, accelerated. `_role` says what a convolution of lax is as a role of jconv,
`_rules` evaluates jaxprs with convolutions replaced, `_libraries` carries the state of other libraries through a trace,
and `_wrapper` is the function that a user calls.
"""

from ._role import Replacement as Replacement
from ._wrapper import Accelerated as Accelerated
from ._wrapper import accelerate as accelerate
from ._wrapper import replace as replace
