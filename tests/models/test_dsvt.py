"""DSVT against the golden data of the official code, and its two ways in against each other."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit import models
from edgekit.errors import UsageError
from edgekit.models.dsvt import build, partition
from edgekit.models.dsvt.attention import Projections, Reduction
from edgekit.models.dsvt.config import BLOCK_STRIDES, CONFIGS, MERGES, POINT_GROUP
from edgekit.models.dsvt.detector import DSVT
from edgekit.models.dsvt.inputs import described, input_names
from edgekit.models.dsvt.map_sites import map_sites
from edgekit.models.dsvt.transfusion_head import thinned
from edgekit.models.dsvt.voxel_features import grouped_maximum, scattered_maximum
from edgekit.runtimes import lidar_decoder
from edgekit.runtimes import partition as numpy_partition
from edgekit.runtimes.synthetic_sweep import synthetic_sweep
from edgekit.runtimes.tasks.lidar_params import LidarParams

from .dsvt_golden import fill, sweep

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
FILES = {
    "waymo-pillar": "waymo_pillar",
    "waymo-voxel": "waymo_voxel",
    "nuscenes-pillar": "nus_pillar",
}
SMALL = replace(
    CONFIGS["waymo-voxel"],
    name="small",
    point_range=(-7.68, -7.68, -2.0, 7.68, 7.68, 4.0),
    width=16,
    hidden=32,
)


def layout_of(config) -> numpy_partition.Layout:
    return numpy_partition.Layout(
        config.point_range,
        config.voxel_size,
        config.set_size,
        tuple(config.window_at(stage, 0) for stage in range(config.stages)),
        config.window_factor,
        config.shift,
        config.z_strides,
        BLOCK_STRIDES,
        config.upsample,
    )


def task_of(name: str) -> LidarParams:
    return LidarParams.model_validate(models.spec(f"dsvt-{name}").task.params)


@pytest.mark.parametrize("name", CONFIGS)
def test_keys_and_shapes_are_the_official_ones(name, shared_data):
    file = shared_data / f"golden/dsvt/state_dict_{FILES[name]}.json"
    official = {key: (shape, dtype) for key, shape, dtype in json.loads(file.read_text())}
    with torch.device("meta"):
        state = build(name).state_dict()
    ours = {key: (list(t.shape), str(t.dtype).removeprefix("torch.")) for key, t in state.items()}
    assert ours == official


class Golden:
    """One variant's arrays, compared by name."""

    def __init__(self, file):
        with np.load(file, allow_pickle=False) as stored:
            self.arrays = dict(stored)

    def __getitem__(self, name):
        return self.arrays[name]

    def rows(self, count):
        """The sampled rows that a stage of ``count`` voxels still has."""
        rows = self["rows_stage0"]
        return rows[rows < count]

    def close(self, name, tensor):
        np.testing.assert_allclose(tensor.numpy(), self[name], err_msg=name, **CLOSE)

    def same(self, name, array):
        np.testing.assert_array_equal(array, self[name], err_msg=name)


def check_partition(golden, one, stage, shift):
    tail = f"stage{stage}_shift{shift}"
    golden.same(f"set_inds_{tail}", one.sets)
    mask = np.zeros(one.sets.shape, bool)
    mask[..., 1:] = one.sets[..., 1:] == one.sets[..., :-1]
    golden.same(f"set_mask_{tail}_packed", np.packbits(mask))


def check_pool(golden, pool, count, stage):
    row, slot = np.nonzero(pool < count)
    assert sorted(pool[row, slot]) == list(range(count))
    mapped, slots = np.empty(count, int), np.empty(count, int)
    mapped[pool[row, slot]], slots[pool[row, slot]] = row, slot
    golden.same(f"pool_map_stage{stage}", mapped)
    golden.same(f"pool_slot_stage{stage}", slots)


@pytest.mark.parametrize("name", ["waymo-pillar", "waymo-voxel"])
def test_integers_are_exactly_the_official_ones(name, shared_data):
    config, layout = CONFIGS[name], layout_of(CONFIGS[name])
    golden = Golden(shared_data / f"golden/dsvt/golden_{FILES[name]}.npz")
    voxels = numpy_partition.voxelise(sweep(shared_data / "golden/dsvt"), layout)
    number = voxels.number
    for stage in range(config.stages):
        places = numpy_partition.coordinates(number, config.grid_at(stage))
        coords = np.concatenate([0 * places[:, :1], places[:, ::-1]], axis=1)
        golden.same(f"voxel_coords{f'_stage{stage}' if stage else ''}", coords)
        for shift in range(2):
            one = numpy_partition.partition(number, layout, stage, bool(shift))
            check_partition(golden, one, stage, shift)
        if stage < len(config.z_strides):
            count = number.size
            number, pool = numpy_partition.pooled(number, layout, stage)
            check_pool(golden, pool, count, stage + 1)


def check_blocks(golden, network, x, stages):
    """Blocks, pooling and position embeddings at the sampled rows; the transformer's output."""
    backbone, number = network.backbone_3d, 0
    for index, stage in enumerate(stages):
        rows = golden.rows(len(x))
        for shift in range(2):
            embed = backbone.input_layer.posembed_layers[index][0][shift]
            found = embed(stage.partitions[shift].cells)[rows[:24]]
            golden.close(f"posembed_s{index}_b0_i{shift}_rows", found)
        if index == 0:
            own, layer = stage.partitions[0], backbone.stage_0[0].encoder_list[0]
            place = backbone.input_layer.posembed_layers[0][0][0](own.cells)
            given = (x, place, own.sets[0], own.slots[0])
            golden.close("blk_s0_b0_enc0_setattn_rows", layer.win_attn(*given)[rows[:32]])
            golden.close("blk_s0_b0_enc0_rows", layer(*given)[rows[:32]])
        for block in range(network.config.blocks[index]):
            x = backbone.block(x, stage, index, block, number % 2)
            number += 1
            golden.close(f"blk_s{index}_b{block}_rows", x[rows[:32]])
        if stage.pool is not None:
            x = backbone.get_submodule(f"stage_{index}_reduction")(x, stage.pool)
            golden.close(f"blk_s{index}_pool_rows", x[golden.rows(len(x))[:32]])
    golden.close("backbone_out_rows", x[golden["rows_out"]])
    golden.close("backbone_out_channel_mean", x.mean(0))
    golden.close("backbone_out_row_mean", x.mean(1))
    return x


def matched(found, boxes, scores, labels):
    """The largest difference between two sets of boxes, each taken once; scores of 0 tie."""
    assert len(found.scores) == len(scores)
    free, worst = np.ones(len(scores), bool), 0.0
    for box, score, label in zip(found.boxes, found.scores, found.classes, strict=True):
        apart = np.abs(boxes - box).max(1) if score > 0 else np.zeros(len(scores))
        apart = np.maximum(apart, np.abs(scores - score)) + 9.0 * (labels != label) + 99.0 * ~free
        free[apart.argmin()] = False
        worst = max(worst, apart.min())
    return worst


def decoded(name, values):
    """What the task does with the network's answer."""
    params = task_of(name)
    arrays = [value.numpy() for value in values]
    found, overlap = lidar_decoder.candidates(*arrays[:5])
    best = found
    kept = lidar_decoder.within(found, params.score_threshold, params.limits)
    found = lidar_decoder.rectified(found, overlap, params.overlap_exponents)[kept]
    rule = params.suppression
    rule = lidar_decoder.Suppression(
        rule.thresholds, rule.rotation == "published", rule.candidates, rule.limit
    )
    return best, lidar_decoder.suppressed(found, rule)


@pytest.mark.parametrize("name", ["waymo-pillar", "waymo-voxel"])
def test_features_and_boxes_are_the_official_ones(name, shared_data):
    golden = Golden(shared_data / f"golden/dsvt/golden_{FILES[name]}.npz")
    network = fill(build(name))
    points = torch.from_numpy(sweep(shared_data / "golden/dsvt"))
    width = network.config.grid[0]
    with torch.inference_mode():
        voxels = partition.voxelise(points, network.config)
        features = partition.point_features(points, voxels, network.config)
        x = network.vfe(features, scattered_maximum(voxels.point, len(voxels.number)))
        golden.close("vfe_rows", x[golden["rows_stage0"]])
        stages, last = partition.stages(voxels.number, network.config)
        x = check_blocks(golden, network, x, stages)
        rows = partition.map_rows(last, network.config.grid)
        bev = network.backbone_2d.sparse(
            x,
            map_sites(rows, len(last), network.shape, BLOCK_STRIDES, network.config.upsample),
            network.shape,
        )
        answer = network.dense_head(bev)
        shared = network.dense_head.shared(bev)
        bev = torch.cat(bev, dim=1)
        golden.close("bev_out_channel_mean", bev.mean((0, 2, 3)))
        golden.close("bev_out_channel_std", bev.std((0, 2, 3)))
        middle = width // 2
        crop = bev[0, ::24, middle - 12 : middle + 12, middle - 12 : middle + 12]
        golden.close("bev_out_crop_c0_384_24", crop)
        for part, values in network.dense_head.maps(shared).items():
            crop = values[0, :, middle - 20 : middle + 20, middle - 20 : middle + 20]
            golden.close(f"head_{part}", crop)
    best, final = decoded(name, answer)
    np.testing.assert_allclose(best.scores, golden["topk_score"], **CLOSE)
    assert sorted(best.classes) == sorted(golden["topk_class"])
    wanted = [golden[f"final_{part}"] for part in ("boxes", "scores", "labels")]
    assert matched(final, wanted[0], wanted[1], wanted[2] - 1) < 1e-3


def test_the_nuscenes_detector_has_the_figures_that_were_measured_on_the_official_code(shared_data):
    network = fill(build("nuscenes-pillar"))
    points = torch.from_numpy(sweep(shared_data / "golden/dsvt"))
    with torch.inference_mode():
        voxels = partition.voxelise(points, network.config)
        stages, _ = partition.stages(voxels.number, network.config)
        features = partition.point_features(points, voxels, network.config)
        x = network.vfe(features, scattered_maximum(voxels.point, len(voxels.number)))
        x = network.backbone_3d(x, stages)
        answer = network(points)
    assert len(voxels.number) == 11698
    assert [one.sets.shape[1] for one in stages[0].partitions] == [201, 213]
    assert x.std().item() == pytest.approx(1.02, abs=0.005)
    assert x.abs().max().item() == pytest.approx(6.1, abs=0.05)
    assert len(decoded("nuscenes-pillar", answer)[1].scores) == 186


def check_map(config, number, inputs):
    """The tables of the map in tensor operators against those in NumPy."""
    width, height, _ = config.grid
    rows = partition.map_rows(number, config.grid)
    sites = map_sites(rows, len(number), (height, width), BLOCK_STRIDES, config.upsample)
    for index, block in enumerate(sites.blocks):
        np.testing.assert_array_equal(block.inner, inputs[f"taps_{index}_0"])
        np.testing.assert_array_equal(block.outer, inputs[f"taps_{index}_1"])
        np.testing.assert_array_equal(block.middles, inputs[f"middles_{index}"])
    for stage, rows in enumerate(sites.rows):
        np.testing.assert_array_equal(rows, inputs[f"map_rows_{stage}"])


@pytest.mark.parametrize("name", [*CONFIGS, "small"])
def test_the_tensor_partition_is_the_numpy_one(name):
    config = SMALL if name == "small" else CONFIGS[name]
    points = np.concatenate([synthetic_sweep(16, 400), np.float32([[np.nan] * 5, [1e9] * 5])])
    given = torch.from_numpy(points)
    voxels = partition.voxelise(given, config)
    ours = numpy_partition.voxelise(points, layout_of(config))
    np.testing.assert_array_equal(voxels.number, ours.number)
    owner = np.full(len(points), ours.number.size)
    owner[ours.order] = np.repeat(np.arange(ours.number.size), ours.counts)
    np.testing.assert_array_equal(voxels.point, owner)
    features = partition.point_features(given, voxels, config).numpy()[ours.order]
    wanted = numpy_partition.point_features(points, ours, layout_of(config))
    np.testing.assert_allclose(features, wanted, atol=2e-5)
    inputs = numpy_partition.network_inputs(points, ours, layout_of(config))
    stages, last = partition.stages(voxels.number, config)
    for index, stage in enumerate(stages):
        for shift, one in enumerate(stage.partitions):
            for part in ("sets", "slots", "cells"):
                np.testing.assert_array_equal(
                    getattr(one, part), inputs[f"{part}_{index}_{shift}"], err_msg=part
                )
        if stage.pool is not None:
            np.testing.assert_array_equal(stage.pool, inputs[f"pool_{index}"])
    check_map(config, last, inputs)
    assert list(inputs) == input_names(config)
    for spec, sizes in described(config):
        assert inputs[spec.name].dtype.name == spec.dtype
        for axis, size in enumerate(inputs[spec.name].shape):
            assert size == spec.shape[axis] if axis not in sizes else size <= sizes[axis][1]


@pytest.mark.parametrize("name", CONFIGS)
def test_points_on_borders_are_in_the_cell_that_division_gives(name):
    config = CONFIGS[name]
    axis = np.arange(-2, config.grid[0] + 3).astype(np.float32)
    low, size = np.float32(config.point_range[0]), np.float32(config.voxel_size[0])
    exact = low + axis * size
    around = [exact]
    for end in (-np.inf, np.inf):
        step = exact
        for _ in range(5):
            step = np.nextafter(step, np.float32(end))
            around.append(step)
    points = np.zeros((axis.size * len(around), 5), np.float32)
    points[:, 0] = np.concatenate(around)
    ours = numpy_partition.voxelise(points, layout_of(config))
    owner = np.full(len(points), ours.number.size)
    owner[ours.order] = np.repeat(np.arange(ours.number.size), ours.counts)
    voxels = partition.voxelise(torch.from_numpy(points), config)
    np.testing.assert_array_equal(voxels.number, ours.number)
    np.testing.assert_array_equal(voxels.point, owner)


def test_whole_quotients_are_exact():
    small, large = torch.arange(2000)[None], torch.arange(300_000_000, 300_000_600)[None]
    for a, b in ((small, torch.arange(1, 600)[:, None]), (large, torch.arange(100, 700)[:, None])):
        assert torch.equal(partition.floor_divide(a, b), a // b)
    assert torch.equal(partition.floor_divide(small, 36), small // 36)


@pytest.mark.parametrize("head", ["center", "transfusion"])
@pytest.mark.parametrize("count", [1, 2, 900])
def test_both_ways_in_lead_to_the_same_answer(head, count):
    config = SMALL
    if head == "transfusion":
        config = replace(SMALL, head=head, upsample=(0.5, 1, 2), labels=("thing",) * 10)
    torch.manual_seed(0)
    network = DSVT(config).eval()
    points = synthetic_sweep(16, 200)[:count]
    points[:, :2] *= 0.1
    layout = layout_of(config)
    inputs = numpy_partition.network_inputs(
        points, numpy_partition.voxelise(points, layout), layout
    )
    with torch.inference_mode():
        whole = network(torch.from_numpy(points))
        split = network.split(*(torch.from_numpy(value) for value in inputs.values()))
    for one, other in zip(whole, split, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_numbers_of_both_rooms_agree():
    assert (POINT_GROUP, MERGES) == (numpy_partition.GROUP, numpy_partition.MERGES)
    for name, config in CONFIGS.items():
        layout = LidarParams.model_validate(models.spec(f"dsvt-{name}").task.params).layout.layout()
        assert layout == layout_of(config)
        assert layout.grid == config.grid


@pytest.mark.parametrize("most", [1, 4, 33, 600, 5000])
def test_the_maximum_by_groups_is_the_maximum(most):
    stream = np.random.default_rng(most)
    counts = np.concatenate([stream.integers(1, 9, 50), [most], stream.integers(1, 9, 3)])
    values = stream.standard_normal((counts.sum(), 3)).astype(np.float32)
    found = numpy_partition.grouped(values, counts)
    merges = [torch.from_numpy(found[f"merge_{level}"]) for level in range(len(MERGES) + 1)]
    reduce = grouped_maximum(merges, torch.from_numpy(found["voxel_rows"]))
    expected = np.maximum.reduceat(values, np.cumsum(counts) - counts)
    np.testing.assert_array_equal(reduce(torch.from_numpy(found["points"])), expected)
    owner = torch.from_numpy(np.repeat(np.arange(counts.size), counts))
    scattered = scattered_maximum(owner, counts.size)(torch.from_numpy(values))
    np.testing.assert_array_equal(scattered, expected)


def test_pooling_is_torchs_attention_over_all_slots():
    torch.manual_seed(0)
    ours, theirs = Reduction(32, 8, 4).eval(), torch.nn.MultiheadAttention(32, 8, batch_first=True)
    ours.self_attn.load_state_dict(theirs.state_dict())
    x, pool = torch.randn(5, 32), torch.tensor([[0, 1, 5, 5], [5, 2, 3, 4]])
    slots = torch.cat([x, torch.zeros(1, 32)])[pool]
    query = slots.amax(1, keepdim=True)
    mixed = theirs(query, slots + ours.pos_embedding, slots)[0]
    torch.testing.assert_close(ours(x, pool), ours.norm(mixed + query)[:, 0])


def test_projections_have_the_keys_of_torchs_attention():
    theirs = torch.nn.MultiheadAttention(32, 8).state_dict()
    ours = Projections(32, 8).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_thinning_keeps_peaks_and_drops_the_border():
    heat = torch.full((1, 3, 5, 5), 0.1)
    heat[0, :, 2, 2], heat[0, :, 2, 3], heat[0, :, 0, 0] = 0.9, 0.8, 1.0
    kept = thinned(heat)
    assert kept[0, 0, 2, 2] == 0.9
    assert kept[0, 0, 2, 3] == kept[0, 0, 0, 0] == 0
    assert torch.equal(kept[:, 1:], heat[:, 1:])


def test_rounding_decides_nothing_where_the_map_is_flat():
    heat = torch.full((1, 3, 6, 6), 0.3)
    heat[0, :, 2, 3] += 1e-6
    kept = thinned(heat)[0, 0]
    assert (kept[1:-1, 1:-1] > 0).all()
    assert (kept[0] == 0).all()
    heat[0, :, 2, 3] += 1e-3
    assert (thinned(heat)[0, 0, 1:4, 2:5] > 0).sum() == 1


def test_unknown_variant_is_refused():
    with pytest.raises(UsageError, match="waymo-voxel"):
        build("waymo")
