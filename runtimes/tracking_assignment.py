"""Who goes with whom at the least cost: the linear assignment problem, without SciPy."""

from __future__ import annotations

import numpy as np

from edgekit.errors import InputError


def assign(cost: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """Pairs of rows and columns with the least total cost, of pairs that cost at most ``limit``.

    A pair that costs more is never made: leaving a row or a column alone costs ``limit / 2``,
    so that two are paired where that is cheaper than leaving both alone.

    Args:
        cost: (rows, columns), finite.

    Returns:
        (row, column), by row; each row and each column at most once.

    Raises:
        InputError: ``cost`` is no matrix of finite numbers.

    >>> assign(np.array([[1.0, 2.0], [0.5, 9.0]]), limit=5.0)
    [(0, 1), (1, 0)]
    """
    cost = np.asarray(cost, np.float64)
    if cost.ndim != 2 or not np.isfinite(cost).all():
        raise InputError(
            f"an array of shape {list(cost.shape)} holds no costs", "or not all finite"
        )
    rows, columns = cost.shape
    if not rows or not columns:
        return []
    # Every row gets a column of its own to stay alone with, and every column a row.
    whole = np.full((rows + columns, rows + columns), limit / 2)
    whole[:rows, :columns] = cost
    whole[rows:, columns:] = 0.0
    chosen = _solve(whole)[:rows]
    return [
        (row, column)
        for row, column in enumerate(chosen.tolist())
        if column < columns and cost[row, column] <= limit
    ]


def _solve(cost: np.ndarray) -> np.ndarray:
    """The column of each row of a square matrix at the least total cost.

    Shortest augmenting paths with potentials (Jonker, Volgenant: "A shortest augmenting path
    algorithm for dense and sparse linear assignment problems", Computing 38, 1987): O(n^3).
    """
    size = len(cost)
    # Row and column 0 are nobody's: a path begins at column 0, which a new row is put in.
    padded = np.zeros((size + 1, size + 1))
    padded[1:, 1:] = cost
    row_price, column_price = np.zeros(size + 1), np.zeros(size + 1)
    row_of = np.zeros(size + 1, np.int64)
    for start in range(1, size + 1):
        row_of[0], column = start, 0
        distance = np.full(size + 1, np.inf)
        before = np.zeros(size + 1, np.int64)
        done = np.zeros(size + 1, bool)
        while row_of[column]:
            done[column] = True
            row = row_of[column]
            reduced = padded[row] - row_price[row] - column_price
            better = ~done & (reduced < distance)
            distance[better], before[better] = reduced[better], column
            reach = np.where(done, np.inf, distance)
            column = int(np.argmin(reach))
            step = reach[column]
            row_price[row_of[done]] += step
            column_price[done] -= step
            distance[~done] -= step
        while column:
            row_of[column] = row_of[before[column]]
            column = int(before[column])
    found = np.empty(size, np.int64)
    found[row_of[1:] - 1] = np.arange(size)
    return found
