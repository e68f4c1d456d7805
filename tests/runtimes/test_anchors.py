"""Anchors against their definition, one at a time, and against MMDetection's own examples."""

import math

import numpy as np
import pytest

from edgekit.runtimes.anchors import base_anchors, grid_anchors, level_counts, level_sizes


def one_by_one(size, strides, base, octave, ratios):
    """Every anchor by hand, in the order of the docstring."""
    found = []
    for stride in strides:
        for row in range(math.ceil(size[0] / stride)):
            for column in range(math.ceil(size[1] / stride)):
                for ratio in ratios:
                    for i in range(octave):
                        side = stride * base * 2 ** (i / octave)
                        w, h = side / math.sqrt(ratio), side * math.sqrt(ratio)
                        x, y = column * stride, row * stride
                        found.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return found


@pytest.mark.parametrize(
    ("size", "strides", "base", "octave", "ratios"),
    [
        ((96, 160), (8, 16, 32, 64, 128), 4.0, 3, (0.5, 1.0, 2.0)),
        ((33, 50), (8, 32), 2.5, 1, (1.0,)),
        ((1, 1), (8, 16), 4.0, 2, (0.25, 3.0)),
    ],
)
def test_every_anchor(size, strides, base, octave, ratios):
    want = np.array(one_by_one(size, strides, base, octave, ratios))
    found = grid_anchors(size, strides, base, octave, ratios)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-4)
    assert sum(level_counts(size, strides, octave * len(ratios))) == len(found)


def test_the_example_of_mmdetection():
    """AnchorGenerator([16], [1.], [1.], [9]).grid_anchors([(2, 2)]), scaled to a stride of 16."""
    nine = grid_anchors((32, 32), (16,), 9 / 16, 1, (1.0,))
    assert nine.tolist() == [
        [-4.5, -4.5, 4.5, 4.5],
        [11.5, -4.5, 20.5, 4.5],
        [-4.5, 11.5, 4.5, 20.5],
        [11.5, 11.5, 20.5, 20.5],
    ]


def test_areas_are_those_of_the_paper():
    """32^2 to 512^2 pixels on five levels, each at three scales and in three shapes."""
    for stride, side in zip((8, 16, 32, 64, 128), (32, 64, 128, 256, 512), strict=True):
        found = base_anchors(stride, 4, 3, (0.5, 1, 2))
        width, height = (found[:, 2:] - found[:, :2]).T
        areas = np.tile([(side * 2 ** (i / 3)) ** 2 for i in range(3)], 3)
        np.testing.assert_allclose(width * height, areas, rtol=1e-5)
        np.testing.assert_allclose(height / width, np.repeat([0.5, 1, 2], 3), rtol=1e-5)
        np.testing.assert_allclose(found[:, :2], -found[:, 2:])


def test_level_sizes_are_rounded_up():
    assert level_sizes((800, 1333), (8, 128)) == [(100, 167), (7, 11)]
    assert level_counts((1, 9), (8,), 9) == [18]


def test_anchors_are_remembered_and_cannot_be_changed():
    first = grid_anchors((64, 64))
    assert grid_anchors((64, 64)) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0
