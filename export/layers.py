"""The layers of the common graph that have weights to quantise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.fx import Node

from ..quant.plan import QuantPlan
from .passes.surgery import constant_of
from .program import Program, module_path

_ATEN = torch.ops.aten

# Operator -> which argument is the weight.
CONVOLUTIONS = {
    _ATEN.conv1d.default: 1,
    _ATEN.conv2d.default: 1,
    _ATEN.conv3d.default: 1,
    _ATEN.convolution.default: 1,
    _ATEN.conv_transpose1d.default: 1,
    _ATEN.conv_transpose2d.input: 1,
    _ATEN.conv_transpose3d.input: 1,
}
LINEARS = {
    _ATEN.linear.default: 1,
    _ATEN.addmm.default: 2,
    _ATEN.mm.default: 1,
    _ATEN.matmul.default: 1,
}
_WEIGHTS = CONVOLUTIONS | LINEARS


@dataclass(frozen=True)
class Layer:
    """One node with a constant weight.

    Attributes:
        node: its name in the common graph. operator: such as ``aten.conv2d.default``.
        module: path of the module that it comes from. weights: how many it has.
        convolution: whether it slides its weight over its input.
    """

    node: str
    operator: str
    module: str
    weights: int
    convolution: bool


def weight_layers(program: Program) -> tuple[Layer, ...]:
    """All of them, in the graph's order."""
    return tuple(_layers(program))


def _layers(program: Program) -> Iterator[Layer]:
    constants = constant_of(program.exported)
    for node in program.exported.graph.nodes:
        weight = weight_of(node)
        if weight is None or weight.name not in constants:
            continue
        yield Layer(
            node=node.name,
            operator=str(node.target),
            module=module_path(node),
            weights=math.prod(constants[weight.name].shape),
            convolution=node.target in CONVOLUTIONS,
        )


def weight_of(node: Node) -> Node | None:
    """What a node takes as its weight; None for one that takes none."""
    position = _WEIGHTS.get(node.target) if node.op == "call_function" else None
    if position is None or position >= len(node.args):
        return None
    weight = node.args[position]
    return weight if isinstance(weight, Node) else None


def linear_share(program: Program) -> float:
    """Which share of the layers' weights is in linear layers; 0 where there are none."""
    layers = weight_layers(program)
    total = sum(layer.weights for layer in layers)
    linear = sum(layer.weights for layer in layers if not layer.convolution)
    return linear / total if total else 0.0


def convolutional_share(program: Program) -> float:
    """Which share of the layers are convolutions: those are where the time goes, whatever the
    number of their weights."""
    layers = weight_layers(program)
    return sum(layer.convolution for layer in layers) / len(layers) if layers else 0.0


def channel_axis(node: Node) -> int:
    """Which axis of a layer's weight counts its output channels."""
    transposed = "transpose" in str(node.target)
    if node.target in CONVOLUTIONS:
        return 1 if transposed else 0
    return 0 if node.target is torch.ops.aten.linear.default else -1


def rounded_weight(node: Node, weight: torch.Tensor, plan: QuantPlan) -> torch.Tensor:
    """A layer's weight on the levels of its output channels, or with 4 bits of its groups."""
    axis = channel_axis(node)
    weight = weight.detach()
    rows = weight.movedim(axis, 0)
    flat = rows.reshape(rows.shape[0], -1)
    group = plan.group_size if plan.bits == 4 else flat.shape[1]
    padded = torch.nn.functional.pad(flat, (0, -flat.shape[1] % group))
    parts = padded.reshape(flat.shape[0], -1, group)
    top = 2 ** (plan.bits - 1) - 1
    scale = (parts.abs().amax(-1, keepdim=True) / top).clamp_min(1e-12)
    levels = torch.round(parts / scale) * scale
    back = levels.reshape(flat.shape[0], -1)[:, : flat.shape[1]]
    return back.reshape(rows.shape).movedim(0, axis).contiguous()
