"""DSVT in the official code's formulation, in eager PyTorch: what edgekit is measured against.

The same weights, from edgekit's own network. Unlike there, features go back from voxels to
points before the second layer, position embeddings are computed for every voxel, sets are
gathered before queries, keys and values are projected, and results are written back by index.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.models.dsvt import partition
from edgekit.models.dsvt.center_head import CANDIDATES
from edgekit.models.dsvt.detector import DSVT

PARTS = ("voxel features", "partition", "attention", "bev", "head")


def voxel_features(network: DSVT, points: Tensor, voxels: partition.Voxels) -> Tensor:
    """Two layers over all points, with their voxel's maximum handed back in between."""
    x = partition.point_features(points, voxels, network.config)
    count = voxels.number.shape[0]
    for number, layer in enumerate(network.vfe.pfn_layers):
        x = F.relu(layer.norm(layer.linear(x)))
        index = voxels.point[:, None].expand(-1, x.shape[1])
        most = x.new_zeros(count + 1, x.shape[1]).scatter_reduce(0, index, x, "amax")
        x = most[:count] if number else torch.cat([x, most[voxels.point]], dim=1)
    return x


def input_layer(network: DSVT, number: Tensor) -> tuple[list, Tensor]:
    """Partitions, masks and the position embedding of every voxel for every block."""
    stages, last = partition.stages(number, network.config)
    found = []
    for index, stage in enumerate(stages):
        masks = []
        for one in stage.partitions:
            mask = torch.zeros(one.sets.shape, dtype=torch.bool)
            mask[..., 1:] = one.sets[..., 1:] == one.sets[..., :-1]
            masks.append(mask)
        embeddings = [
            [embed._embed(one.cells) for embed, one in zip(layers, stage.partitions, strict=True)]
            for layers in network.backbone_3d.input_layer.posembed_layers[index]
        ]
        found.append((stage, masks, embeddings))
    return found, last


def attention(network: DSVT, x: Tensor, stages: list) -> Tensor:
    """All blocks, with ``multi_head_attention_forward`` on gathered sets."""
    backbone, number = network.backbone_3d, 0
    for index, (stage, masks, embeddings) in enumerate(stages):
        for block in range(network.config.blocks[index]):
            shift, residual = number % 2, x
            layers = backbone.get_submodule(f"stage_{index}")[block].encoder_list
            for axis, layer in enumerate(layers):
                sets = stage.partitions[shift].sets[axis]
                x = _encoder(layer, x, embeddings[block][axis], sets, masks[shift][axis])
            x = backbone.get_submodule(f"residual_norm_stage_{index}")[block](x + residual)
            number += 1
        if stage.pool is not None:
            x = backbone.get_submodule(f"stage_{index}_reduction")(x, stage.pool)
    return x


def _encoder(layer, x: Tensor, position: Tensor, sets: Tensor, mask: Tensor) -> Tensor:
    part = layer.win_attn
    gathered = x[sets]
    placed = (gathered + position[sets]).transpose(0, 1)
    own = part.self_attn
    mixed = F.multi_head_attention_forward(
        placed,
        placed,
        gathered.transpose(0, 1),
        x.shape[1],
        own.heads,
        own.in_proj_weight,
        own.in_proj_bias,
        None,
        None,
        False,
        0.0,
        own.out_proj.weight,
        own.out_proj.bias,
        training=False,
        key_padding_mask=mask,
        need_weights=False,
    )[0].transpose(0, 1)
    back = torch.zeros_like(x)
    back[sets.reshape(-1)] = mixed.reshape(-1, x.shape[1])
    out = part.norm1(x + back)
    out = part.norm2(out + part.linear2(F.gelu(part.linear1(out))))
    return layer.norm(out + x)


def dense_map(network: DSVT, x: Tensor, number: Tensor) -> Tensor:
    """(1, C, height, width) of pillars (N, C) by number: the scatter of the official code."""
    height, width = network.shape
    rows = partition.map_rows(number, network.config.grid)
    cells = torch.cat([x, x.new_zeros(1, x.shape[1])])[rows]
    return cells.transpose(0, 1).reshape(1, -1, height, width)


def run(network: DSVT, points: Tensor, lap) -> tuple[Tensor, ...]:
    """The whole way; ``lap(part)`` is called after each part."""
    voxels = partition.voxelise(points, network.config)
    x = voxel_features(network, points, voxels)
    lap("voxel features")
    stages, last = input_layer(network, voxels.number)
    lap("partition")
    x = attention(network, x, stages)
    lap("attention")
    bev = torch.cat(network.backbone_2d(dense_map(network, x, last)), dim=1)
    lap("bev")
    answer = head(network, bev)
    lap("head")
    return answer


def head(network: DSVT, bev: Tensor) -> tuple[Tensor, ...]:
    """The centre head: all outputs in all cells, and then the best 500."""
    own = network.dense_head
    maps = own.maps(own.shared_conv(bev))
    scores = F.sigmoid(maps["hm"])
    width = scores.shape[3]
    best, index = scores.flatten().topk(CANDIDATES)
    classes, cells = index // scores[0, 0].numel(), index % scores[0, 0].numel()
    picked = {name: value.flatten(2)[0].T[cells] for name, value in maps.items()}
    place = torch.stack([cells % width, cells // width], dim=1)
    size = torch.tensor(network.config.voxel_size[:2])
    centre = (picked["center"] + place) * size + torch.tensor(network.config.point_range[:2])
    boxes = torch.cat([centre, picked["center_z"], picked["dim"].exp(), picked["rot"]], dim=1)
    return best[:, None], boxes, picked["iou"], classes, cells
