"""The TransFusion head: 200 peaks of a heat map, each refined by attention to its surroundings.

Bai et al., arXiv:2203.11496, as the DSVT authors adapted it: each query attends to itself
alone and then to the 41x41 cells around it. Maps are (x, y) here, unlike elsewhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import MASKED, Projections
from .bev import joined
from .config import DSVTConfig
from .partition import floor_divide

WIDTH, HIDDEN, HEADS = 128, 256, 8
PREDICTION = 64
QUERIES = 200
RADIUS = 20
STRIDE = 2  # of the map, in voxels
OUTPUTS = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "iou": 1}
# Classes of small objects, whose peaks are not thinned out (pedestrian, traffic cone).
UNTHINNED = 2
ROUNDING = 1e-5  # of a probability


class ConvBlock(nn.Module):
    """A 3x3 convolution with bias, batch norm and ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        return F.relu(self.bn(self.conv(x)))


class PlaceEmbedding(nn.Module):
    """A place (x, y) in cells as a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Conv1d(2, WIDTH, 1), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Conv1d(WIDTH, WIDTH, 1)
        )

    def forward(self, places: Tensor) -> Tensor:
        """(P, WIDTH) of (P, 2)."""
        return self.position_embedding_head(places.transpose(0, 1)[None])[0].transpose(0, 1)


class Decoder(nn.Module):
    """One layer: self-attention, cross-attention, feed-forward, each with residual and norm."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Projections(WIDTH, HEADS)
        self.multihead_attn = Projections(WIDTH, HEADS)
        self.linear1 = nn.Linear(WIDTH, HIDDEN)
        self.linear2 = nn.Linear(HIDDEN, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.norm3 = nn.LayerNorm(WIDTH)
        self.self_posembed = PlaceEmbedding()
        self.cross_posembed = PlaceEmbedding()

    def forward(
        self, query: Tensor, places: Tensor, cells: Tensor, keys: Tensor, bias: Tensor
    ) -> Tensor:
        """Refined queries (Q, C).

        Args:
            query: (Q, C). places: (Q, 2) in cells.
            cells: (H*W, C) features of all cells, their place embedded and added.
            keys: (Q, K) cells around each query. bias: (Q, 1, 1, K), added to the scores.
        """
        place = self.self_posembed(places)
        # Attention of a single token to itself gives its value, whatever the scores.
        own = self.self_attn
        value = F.linear(query + place, own.in_proj_weight[-WIDTH:], own.in_proj_bias[-WIDTH:])
        query = self.norm1(query + own.out_proj(value))
        query = self.norm2(query + self._cross(query + place, cells, keys, bias))
        return self.norm3(query + self.linear2(F.relu(self.linear1(query))))

    def _cross(self, query: Tensor, cells: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        """Keys and values are projected once a cell, not once a query that looks at it."""
        part = self.multihead_attn
        q, k, v = part.project(query[:, None], cells, cells)
        count = keys.shape[0]
        both = torch.cat([k, v], dim=1).index_select(0, keys.reshape(-1))
        k, v = both.view(count, -1, 2 * WIDTH).chunk(2, dim=2)
        size = WIDTH // HEADS
        q = q.view(count, 1, HEADS, size).transpose(1, 2) * (1 / math.sqrt(size))
        k, v = (x.view(count, -1, HEADS, size).transpose(1, 2) for x in (k, v))
        weights = (torch.matmul(q, k.transpose(-2, -1)) + bias).softmax(-1)
        mixed = torch.matmul(weights, v).transpose(1, 2).reshape(count, WIDTH)
        return part.out_proj(mixed)


class Predictions(nn.Module):
    """Two 1x1 convolutions for each output."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        for name, channels in (OUTPUTS | {"heatmap": classes}).items():
            hidden = nn.Sequential(
                nn.Conv1d(WIDTH, PREDICTION, 1), nn.BatchNorm1d(PREDICTION), nn.ReLU()
            )
            self.add_module(name, nn.Sequential(hidden, nn.Conv1d(PREDICTION, channels, 1)))

    def forward(self, queries: Tensor) -> dict[str, Tensor]:
        """Each output (1, channels, Q) of queries (Q, C)."""
        x = queries.transpose(0, 1)[None]
        return {name: part(x) for name, part in self.named_children()}


class TransFusionHead(nn.Module):
    """``dense_head`` of the nuScenes detector."""

    outputs = ("scores", "boxes", "iou", "classes", "cells", "peaks")

    def __init__(self, config: DSVTConfig, inputs: int) -> None:
        super().__init__()
        self.config = config
        classes = len(config.labels)
        self.side = config.grid[0] // STRIDE
        self.shared_conv = nn.Conv2d(inputs, WIDTH, 3, padding=1)
        self.heatmap_head = nn.Sequential(ConvBlock(WIDTH), nn.Conv2d(WIDTH, classes, 3, padding=1))
        self.class_encoding = nn.Conv1d(classes, WIDTH, 1)
        self.decoder = Decoder()
        self.prediction_head = Predictions(classes)

    def maps(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """Each output as it is before decoding, and what the queries are.

        Returns:
            per query the ``prediction_head``'s outputs (1, channels, Q), the centre with the
            query's place added; ``peaks`` (Q,) of the heat map; ``query_labels`` (Q,);
            ``query_cells`` (Q,);
            ``dense_heatmap`` (1, classes, x, y).
        """
        conv = self.shared_conv
        shared = joined(maps, conv.weight, conv.bias, transposed=True).transpose(2, 3).contiguous()
        heat = self.heatmap_head(shared)
        cells = shared.flatten(2)[0].transpose(0, 1)
        peaks, index = thinned(F.sigmoid(heat)).flatten().topk(QUERIES)
        label = floor_divide(index, cells.shape[0])
        cell = index - label * cells.shape[0]
        encoding = self.class_encoding
        query = cells.index_select(0, cell) + encoding.bias
        query = query + encoding.weight[:, :, 0].transpose(0, 1).index_select(0, label)
        places = self._places()
        keys, bias = self._surroundings(cell)
        placed = cells + self.decoder.cross_posembed(places)
        place = places.index_select(0, cell)
        query = self.decoder(query, place, placed, keys, bias)
        found = self.prediction_head(query)
        found["center"] = found["center"] + place.transpose(0, 1)[None]
        picked = {"peaks": peaks, "query_labels": label, "query_cells": cell}
        return found | picked | {"dense_heatmap": heat}

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        """Per query, best peak first: score, box, expected overlap, and which peak it was.

        Returns:
            scores (Q, 1), probabilities; boxes (Q, 10): x, y, z of the box's middle, length,
            width, height in metres, cosine and sine of the heading, velocity along x and y in
            m/s; iou (Q, 1),
            overlap from -1 to 1; classes and cells (Q,); peaks (Q,) of the heat map.
        """
        found = self.maps(maps)
        flat = {name: found[name][0].transpose(0, 1) for name in (*OUTPUTS, "heatmap")}
        label, peaks = found["query_labels"], found["peaks"]
        score = F.sigmoid(flat["heatmap"]).gather(1, label[:, None]) * peaks[:, None]
        size = torch.tensor(self.config.voxel_size[:2])
        centre = flat["center"] * STRIDE * size + torch.tensor(self.config.point_range[:2])
        dims = flat["dim"].exp()
        height = flat["height"] - dims[:, 2:] * 0.5
        turned = flat["rot"].flip(1)  # the head gives the sine first
        boxes = torch.cat([centre, height, dims, turned, flat["vel"]], dim=1)
        return score, boxes, flat["iou"], label, found["query_cells"], peaks

    def _places(self) -> Tensor:
        """(side * side, 2): x and y of each cell's middle."""
        line = torch.arange(self.side) + 0.5
        return torch.cartesian_prod(line, line)

    def _surroundings(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The cells around each query by number, and what is added to their scores.

        A number counts through columns of cells: beyond a column's end the next one begins,
        which the official code lets happen. Only numbers that no cell has are masked.
        """
        line = torch.arange(-RADIUS, RADIUS + 1)
        offsets = (line[:, None] * self.side + line[None, :]).flatten()
        numbers = cell[:, None] + offsets[None, :]
        last = self.side * self.side - 1
        outside = (numbers < 0) | (numbers > last)
        bias = outside.to(torch.float32) * MASKED
        return numbers.clamp(0, last), bias[:, None, None, :]


def thinned(heat: Tensor) -> Tensor:
    """The heat map with zeros where a neighbour is higher, and on the border.

    The last classes, of small objects, stay as they are. Values that differ by less than
    rounding are equal: where the map is flat, far from all points, no runtime's rounding then
    decides which cells are peaks, nor does it where one computes a value twice.
    """
    highest = F.pad(F.max_pool2d(heat, 3, stride=1), (1, 1, 1, 1), value=2.0)
    kept = heat * (heat >= highest - ROUNDING).to(heat.dtype)
    split = heat.shape[1] - UNTHINNED
    return torch.cat([kept[:, :split], heat[:, split:]], dim=1)
