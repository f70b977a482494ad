"""How far from the oracle a result may be.

A sum of n products, each rounded, differs from the exact one by at most about n u sum |x||k|, where u is the
accumulator's unit roundoff (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1), and is then
rounded once to the result's dtype. The oracle at |x|, |k| gives the sum, so the bound needs no guess. An
implementation that accumulates in 16 bits exceeds it by orders of magnitude.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

UNIT = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "complex64": 2.0**-22,  # a complex product is four real ones and two sums
    "complex128": 2.0**-51,
}
ACCUMULATOR = {"float16": "float32", "bfloat16": "float32"}
DTYPES = ("float64", "float32", "float16", "bfloat16", "complex64", "complex128", "int8", "uint8", "int16", "int32")


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name)) if name == "bfloat16" else np.dtype(name)


# Algorithms whose errors are relative to more than the one result: by how much they amplify it. docs/algorithms.md has
# these bounds beside what was measured.
AMPLIFIES = {"winograd2": 4, "winograd4": 40, "fft": 4}


def assert_close(got, want, magnitude, terms, operand_dtype, result_dtype=None, plan="xla", norms=None):
    """`magnitude` is the oracle at the operands' absolute values, `terms` the number of products in a sum.

    Errors of `winograd` are relative to the largest magnitude, those of `fft` to the product of the operands' `norms`.
    """
    algorithm = plan.split("+")[-1]
    if algorithm in AMPLIFIES:
        scale = norms if algorithm == "fft" else np.max(magnitude, initial=0.0)
        magnitude = np.full_like(magnitude, AMPLIFIES[algorithm] * scale)
    got = np.asarray(got)
    assert got.shape == want.shape
    if got.dtype.kind in "iu":
        np.testing.assert_array_equal(got.astype(np.int64), want)
        return
    result_dtype = result_dtype or operand_dtype
    assert got.dtype.name == result_dtype
    got = got.astype(np.complex128 if got.dtype.kind == "c" else np.float64)
    sums = UNIT[ACCUMULATOR.get(operand_dtype, operand_dtype)] * (terms + 2) * magnitude
    bound = UNIT[result_dtype] * np.abs(want) + sums
    if result_dtype == "float16":
        bound = bound + 2.0**-25  # half of its smallest subnormal
    error = np.abs(got - want)
    worst = np.max(error / np.maximum(bound, 1e-300), initial=0.0)
    assert worst <= 1, f"the error is {worst:.3g} times its bound"
