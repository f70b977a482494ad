"""The algorithms and the reductions, in order: to add one, write its file and add its line here."""

from . import einsum, fft, fold, group, matmul, pallas, shift, split, swap, unfold, winograd, xla
from .base import Algorithm, Reduction

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        xla.ALGORITHM,
        einsum.ALGORITHM,
        matmul.ALGORITHM,
        shift.ALGORITHM,
        *winograd.ALGORITHMS,
        fft.ALGORITHM,
        *pallas.ALGORITHMS,
    )
}
REDUCTIONS: dict[str, Reduction] = {
    reduction.name: reduction
    for reduction in (
        fold.REDUCTION,
        unfold.REDUCTION,
        group.REDUCTION,
        split.REDUCTION,
        swap.REDUCTION,
    )
}
