"""Convolutions by rows against convolutions of the dense map, in plain NumPy."""

import numpy as np
import pytest

from edgekit.runtimes import map_sites
from edgekit.runtimes.map_sites import after, map_inputs, middles, pillars, spread, taps

SHAPES = ((9, 14), (6, 5), (1, 3), (40, 31))


def convolved(dense, weight, bias, stride):
    """A 3x3 convolution (padding 1) of (C, H, W), and ReLU."""
    height, width = dense.shape[1:]
    padded = np.pad(dense, ((0, 0), (1, 1), (1, 1)))
    total = 0
    for y in range(3):
        for x in range(3):
            part = padded[:, y : y + height : stride, x : x + width : stride]
            total = total + np.einsum("oi,ihw->ohw", weight[:, :, y, x], part)
    return np.maximum(total + bias[:, None, None], 0)


def by_rows(rows, table, weight, bias):
    flat = weight.transpose(0, 2, 3, 1).reshape(weight.shape[0], -1)
    found = rows[table].reshape(len(table), -1) @ flat.T + bias
    return np.concatenate([np.zeros((1, len(bias))), np.maximum(found, 0)])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 30])
def test_rows_give_what_the_dense_map_gives(shape, count):
    stream = np.random.default_rng(count)
    height, width = shape
    number = np.sort(stream.permutation(height * width)[:count])
    features = stream.standard_normal((number.size, 4))
    dense = np.zeros((4, height, width))
    x, y = np.divmod(number, height)
    dense[:, y, x] = features.T
    start, rows = pillars(number, (width, height, 1)), np.concatenate([np.zeros((1, 4)), features])
    for stride in (1, 1, 2, 1, 2, 1, 1):
        weight, bias = stream.standard_normal((4, 4, 3, 3)), stream.standard_normal(4)
        then = after(start, stride)
        before = dense
        dense = convolved(dense, weight, bias, stride)
        middle = rows[middles(start, then, stride)]
        rows = by_rows(rows, taps(start, then, stride), weight, bias)
        np.testing.assert_allclose(rows[then.labels].transpose(2, 0, 1), dense, atol=1e-9)
        first = (2 * then.reach + 1) ** 2
        at = np.argwhere(then.reached) * stride
        np.testing.assert_allclose(middle[first:], before[:, at[:, 0], at[:, 1]].T, atol=1e-9)
        start = then


def test_few_rows_are_computed_where_few_cells_are_reached():
    found = map_inputs(np.array([70]), (100, 100, 1), ((1, 1),), (1,))
    assert [len(found[f"taps_0_{layer}"]) for layer in range(2)] == [3**2 + 3 * 2, 5**2 + 5 * 3]


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_finer_cells_are_found_in_the_coarse_row_that_they_come_from(factor):
    labels = np.arange(6).reshape(2, 3)[::-1]
    cells = np.arange(6 * factor**2).reshape(6, factor, factor)
    fine = np.block([[cells[one] for one in row] for row in labels])
    np.testing.assert_array_equal(spread(labels, factor), fine.ravel())


def test_the_module_needs_no_torch():
    assert "torch" not in vars(map_sites)
