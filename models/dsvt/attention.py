"""Attention within sets of voxels, and between the voxels that are pooled into one.

Three things are done otherwise than in the official code, with the same result to rounding:
queries, keys and values are projected per voxel, before voxels are gathered into sets, since
a voxel may be in several slots; the result goes back to voxels by a gather; the output
projection follows that gather.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Added to the scores of repeated voxels. exp(-1e4) is exactly 0, and unlike an infinity it
# survives arithmetic in half precision.
MASKED = -1e4


class Projections(nn.Module):
    """The weights of ``nn.MultiheadAttention``, under its keys.

    Args:
        width: of what attends and is attended to. heads: must divide it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Each with its own third of the weights."""
        inputs = (query, key, value)
        parts = zip(inputs, self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        return [F.linear(x, weight, bias) for x, weight, bias in parts]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Attention over projected (units, length, width); ``bias`` is added to the scores."""
        q, k, v = (self._by_head(x) for x in (query, key, value))
        scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(-2, -1))
        if bias is not None:
            scores = scores + bias
        mixed = torch.matmul(scores.softmax(-1), v)
        return mixed.transpose(1, 2).reshape(query.shape)

    def _by_head(self, x: Tensor) -> Tensor:
        split = x.view(x.shape[0], x.shape[1], self.heads, x.shape[2] // self.heads)
        return split.transpose(1, 2)


class SetAttention(nn.Module):
    """Attention within sets, then a feed-forward part (``win_attn``)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = Projections(width, heads)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, sets: Tensor, slots: Tensor) -> Tensor:
        """New features of the same voxels (N, C).

        Args:
            x: (N, C). position: (N, C), embedded.
            sets: (S, K) the voxel in each slot; repeated ones stand beside each other.
            slots: (N,) a slot of each voxel, counted through all sets.
        """
        placed = x + position
        projected = torch.cat(self.self_attn.project(placed, placed, x), dim=1)
        gathered = projected.index_select(0, sets.reshape(-1))
        gathered = gathered.view(sets.shape[0], sets.shape[1], projected.shape[1])
        # Slices, not chunks: ExecuTorch would take the number of sets for a constant then.
        width = x.shape[1]
        parts = [gathered[..., i * width : (i + 1) * width] for i in range(3)]
        mixed = self.self_attn.attend(*parts, repeated(sets))
        back = mixed.reshape(-1, x.shape[1]).index_select(0, slots)
        x = self.norm1(x + self.self_attn.out_proj(back))
        return self.norm2(x + self.linear2(F.gelu(self.linear1(x))))


def repeated(sets: Tensor) -> Tensor:
    """(S, 1, 1, K): what is added to scores, so that each voxel of a set counts once."""
    same = (sets[:, 1:] == sets[:, :-1]).to(torch.float32) * MASKED
    return F.pad(same, (1, 0))[:, None, None, :]


class EncoderLayer(nn.Module):
    """Set attention with a residual and a norm around it."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.win_attn = SetAttention(width, heads, hidden)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, sets: Tensor, slots: Tensor) -> Tensor:
        """As :meth:`SetAttention.forward`."""
        return self.norm(self.win_attn(x, position, sets, slots) + x)


class Block(nn.Module):
    """Two encoder layers, over the sets sorted along y and along x."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.encoder_list = nn.ModuleList([EncoderLayer(width, heads, hidden) for _ in range(2)])


class Reduction(nn.Module):
    """Pooling by attention: the maximum over a cell's slots asks the slots themselves.

    Empty slots are zero vectors that are attended to like the others, as in the official code.
    """

    def __init__(self, width: int, heads: int, volume: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.self_attn = Projections(width, heads)
        self.pos_embedding = nn.Parameter(torch.randn(volume, width) * 0.01)

    def forward(self, x: Tensor, pool: Tensor) -> Tensor:
        """Pooled features (N', C).

        Args:
            x: (N, C). pool: (N', volume) the voxel in each slot, N where it is empty.
        """
        padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
        slots = padded.index_select(0, pool.reshape(-1))
        slots = slots.view(pool.shape[0], pool.shape[1], x.shape[1])
        query = slots.amax(1, keepdim=True)
        projected = self.self_attn.project(query, slots + self.pos_embedding, slots)
        mixed = self.self_attn.attend(*projected, None)
        return self.norm(self.self_attn.out_proj(mixed) + query).squeeze(1)
