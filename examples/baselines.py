"""What the networks are compared with: the simple methods that each of them has to beat, fitted with the same care."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def logistic_regression(x: np.ndarray, labels: np.ndarray, splits: Sequence[tuple[np.ndarray, np.ndarray]]) -> Any:
    """Logistic regression on the numbers of x as they are, its penalty chosen on parts of the training data.

    Args:
        x: training examples, [count, ...].
        labels: [count].
        splits: pairs of rows, to fit and to choose the penalty with; then all rows are fitted.

    Returns:
        A model with `predict` and `predict_proba`, which take [count, numbers].
    """
    from sklearn.linear_model import LogisticRegression  # only here: it takes seconds
    from sklearn.model_selection import GridSearchCV

    penalties = {"C": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]}  # one over the penalty
    search = GridSearchCV(LogisticRegression(tol=1e-3, max_iter=5000), penalties, cv=splits)
    return search.fit(x.reshape(len(x), -1), labels)


def nearest_neighbour(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The labels of the training examples that are nearest to the test examples, by Euclidean distance."""
    train, test = (array.reshape(len(array), -1).astype(np.float64) for array in (train, test))
    squares = (test**2).sum(1)[:, None] - 2 * test @ train.T + (train**2).sum(1)
    return labels[squares.argmin(1)]
