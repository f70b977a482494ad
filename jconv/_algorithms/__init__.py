"""The algorithms, in order: to add one, write its file and add its line here."""

from . import einsum, xla
from .base import Algorithm

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        xla.ALGORITHM,
        einsum.ALGORITHM,
    )
}
