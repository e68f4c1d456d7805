"""Voxels and sets against their definition, one voxel at a time, in plain Python."""

import doctest
import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtimes import partition as module
from edgekit.runtimes.partition import (
    Layout,
    grouped,
    network_inputs,
    partition,
    point_features,
    pooled,
    voxelise,
)

FLAT = Layout((-8, -8, -1, 8, 8, 1), (1, 1, 2), 3, ((3, 4, 1),), (2, 2, 1), (2, 1, 0))
TALL = replace(
    FLAT, voxel_size=(1, 1, 0.25), windows=((3, 4, 8), (3, 4, 2)), z_strides=(4,), shift=(2, 1, 5)
)
MAPPED = replace(
    TALL,
    windows=(*TALL.windows, (3, 4, 1)),
    z_strides=(4, 2),
    map_strides=((1,), (2, 1)),
    upsample=(1, 2),
)
PLACE = st.tuples(*[st.floats(-9, 9, width=32)] * 2, st.floats(-1.5, 1.5, width=32))
SWEEPS = st.lists(PLACE, min_size=1, max_size=150)


def voxels_by_hand(points, layout):
    """Points of each occupied voxel, by (x, y, z)."""
    found = defaultdict(list)
    for index, point in enumerate(points):
        cell = tuple(
            math.floor(np.float32(np.float32(v) - np.float32(low)) / np.float32(size))
            for v, low, size in zip(point, layout.point_range[:3], layout.voxel_size, strict=True)
        )
        if all(0 <= c < n for c, n in zip(cell, layout.grid, strict=True)):
            found[cell].append(index)
    return dict(sorted(found.items()))


def sets_by_hand(cells, layout, stage, shifted, along_x):
    """The sets of one partition, window by window, as the paper's equation 3 has them."""
    window = layout.windows[stage]
    covered = window[2] == layout.grid_at(stage)[2]
    if shifted:
        window = tuple(w * f for w, f in zip(window, layout.window_factor, strict=True))
    shift = layout.shift if shifted else (0, 0, 0)
    shift = (shift[0], shift[1], 0 if covered else shift[2])
    members = defaultdict(list)
    for index, cell in enumerate(cells):
        moved = [c + s for c, s in zip(cell, shift, strict=True)]
        home = tuple(m // w for m, w in zip(moved, window, strict=True))
        x, y, z = (m % w for m, w in zip(moved, window, strict=True))
        members[home].append(((x, y, z) if along_x else (y, x, z), index))
    sets = []
    for home in sorted(members):
        ranked = [index for _, index in sorted(members[home])]
        count = math.ceil(len(ranked) / layout.set_size)
        slots = count * layout.set_size
        chosen = [ranked[k * len(ranked) // slots] for k in range(slots)]
        sets += [chosen[i : i + layout.set_size] for i in range(0, slots, layout.set_size)]
    return sets


@settings(deadline=None, max_examples=60)
@given(SWEEPS, st.sampled_from([FLAT, TALL]))
def test_voxels_and_sets_are_as_defined(places, layout):
    points = np.array(places, np.float32)
    voxels = voxelise(points, layout)
    by_hand = voxels_by_hand(points, layout)
    cells = module.coordinates(voxels.number, layout.grid)
    assert [tuple(cell) for cell in cells.tolist()] == list(by_hand)
    groups = np.split(voxels.order, voxels.start[1:]) if by_hand else []
    assert [group.tolist() for group in groups] == list(by_hand.values())
    number = voxels.number
    for stage in range(len(layout.windows) if by_hand else 0):
        cells = module.coordinates(number, layout.grid_at(stage)).tolist()
        for shifted in (False, True):
            found = partition(number, layout, stage, shifted)
            for axis in range(2):
                assert found.sets[axis].tolist() == sets_by_hand(
                    cells, layout, stage, shifted, bool(axis)
                )
                flat = found.sets[axis].ravel().tolist()
                assert found.slots[axis].tolist() == [flat.index(i) for i in range(number.size)]
        if stage < len(layout.z_strides):
            before = cells
            number, pool = pooled(number, layout, stage)
            after = module.coordinates(number, layout.grid_at(stage + 1)).tolist()
            stride = layout.z_strides[stage]
            assert pool.tolist() == [
                [
                    before.index([x, y, z * stride + s])
                    if [x, y, z * stride + s] in before
                    else len(before)
                    for s in range(stride)
                ]
                for x, y, z in after
            ]


@settings(deadline=None, max_examples=40)
@given(SWEEPS)
def test_features_are_offsets_from_mean_and_centre(places):
    points = np.array(places, np.float32)
    voxels = voxelise(points, TALL)
    if not voxels.number.size:
        return
    features = point_features(points, voxels, TALL)
    rows = iter(features)
    for cell, members in voxels_by_hand(points, TALL).items():
        mean = points[members].astype(np.float64).mean(0)
        low = np.array(TALL.point_range[:3])
        centre = (np.array(cell) + 0.5) * np.array(TALL.voxel_size) + low
        for member in members:
            row = next(rows)
            np.testing.assert_array_equal(row[:3], points[member])
            np.testing.assert_allclose(row[3:6], points[member] - mean, atol=1e-5)
            np.testing.assert_allclose(row[6:], points[member] - centre, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([1, 2, 3, 4, 5, 31, 32, 33, 512, 513, 1500]), min_size=1, max_size=8)
)
def test_every_point_reaches_its_voxel_and_no_other(counts):
    """The maximum through the tables is the voxel's own, for whichever point is the largest."""
    counts = np.array(counts)
    owner = np.repeat(np.arange(counts.size), counts)
    values = np.arange(owner.size, dtype=np.float32)[:, None]  # unlike for every point
    for signed in (values, -values):
        found = grouped(signed, counts)
        level, levels = found["points"].max(1), []
        for name in ("merge_0", "merge_1", "merge_2"):
            level = level[found[name]].max(1)
            levels.append(level)
        result = np.concatenate(levels)[found["voxel_rows"]]
        wanted = [signed[owner == voxel].max() for voxel in range(counts.size)]
        assert result[:, 0].tolist() == wanted


def test_the_tables_stay_small_where_a_voxel_holds_very_many_points():
    counts = np.concatenate([[400_000], np.full(5000, 33)])
    found = grouped(np.zeros((counts.sum(), 1), np.float32), counts)
    assert sum(found[f"merge_{level}"].size for level in range(3)) < 2 * counts.sum()


def test_what_is_not_finite_or_outside_drops_out():
    points = np.array(
        [[np.nan, 0, 0], [0, np.inf, 0], [0, 0, -np.inf], [8, 0, 0], [0, 0, 1], [7.99, 0, 0]]
    )
    assert voxelise(points, FLAT).order.tolist() == [5]
    assert voxelise(points[:5], FLAT).number.size == 0


def test_a_single_point_makes_every_input():
    voxels = voxelise(np.zeros((1, 3)), MAPPED)
    inputs = network_inputs(np.zeros((1, 5), np.float32), voxels, MAPPED)
    assert {name for name, value in inputs.items() if 0 in value.shape} == set()
    assert inputs["points"].shape == (1, 4, 11)
    assert inputs["sets_0_0"].tolist() == [[[0, 0, 0]]] * 2
    assert (inputs["middles_0"] == 1).sum() == 1


def test_two_million_points_take_seconds():
    stream = np.random.default_rng(0)
    points = np.zeros((2_000_000, 5), np.float32)
    points[:, :2] = stream.uniform(-75, 75, (len(points), 2))
    wide = Layout(
        (-74.88, -74.88, -2, 74.88, 74.88, 4),
        (0.32, 0.32, 6),
        36,
        ((12, 12, 1),),
        (2, 2, 1),
        (6, 6, 0),
        map_strides=((1, 1), (2, 1, 1), (2, 1, 1)),
        upsample=(1, 2, 4),
    )
    inputs = network_inputs(points, voxelise(points, wide), wide)
    voxels = inputs["slots_0_0"].shape[1]
    assert 468 * 468 * 0.999 < voxels <= 468 * 468
    assert np.unique(inputs["map_rows_0"]).size == 468 * 468  # a pillar reaches every cell


def test_examples_in_docstrings():
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("layout", [FLAT, TALL])
def test_grids_are_what_ranges_and_sizes_make(layout):
    assert layout.grid[:2] == (16, 16)
    assert layout.grid_at(len(layout.z_strides)) == (16, 16, 2 if layout.z_strides else 1)
