"""The libraries that are measured, by name."""

from collections.abc import Callable

from . import on_jax, pytorch, with_scipy
from .base import Absent, NotExpressible, Peer, Prepared

PEERS: dict[str, Callable[[], Peer]] = {
    "lax": on_jax.lax_peer,
    "torch": pytorch.TorchPeer,
    "flax": on_jax.flax_peer,
    "haiku": on_jax.haiku_peer,
    "equinox": on_jax.equinox_peer,
    "keras": on_jax.keras_peer,
    "scipy": with_scipy.ScipyPeer,
}

__all__ = ["PEERS", "Absent", "NotExpressible", "Peer", "Prepared"]
