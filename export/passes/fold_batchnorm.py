"""Fold batch normalisation into the convolution or linear layer before it."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule, Node

from .base import Pass, in_place_operators
from .surgery import constant_of, copy_graph, is_op, mutated_names, rebuild

aten = torch.ops.aten
BATCH_NORM = aten._native_batch_norm_legit_no_training.default
CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    # padding="same" and "valid"; the arguments stand in the same places.
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
)
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input)
LAYERS = (*CONVOLUTIONS, *TRANSPOSED, aten.linear.default)


@dataclass(frozen=True)
class _Match:
    """A layer, the normalisation after it, and the node that takes its first result."""

    layer: Node
    norm: Node
    result: Node


class FoldBatchNorm(Pass):
    """Turn layer -> batch norm into one layer.

    Rules (with s = gamma / sqrt(var + eps), per output channel):
        1. conv/linear(x, W, b) -> batch_norm: weight W*s, bias (b - mean)*s + beta.
        2. conv_transpose: the same, with the output channel on axis 1 of W, per group.

    Must not touch a layer whose result is used elsewhere, too; a weight, bias or statistic
    that is computed in the graph, shared with another node, or written back; a batch norm
    that is not directly after a layer (pre-activation nets); a linear layer whose features
    are not the axis that is normalised (input of rank other than 2).

    Folding is done in float64 and rounded once. Requires a functional graph. Ensures
    nothing beyond the rules: batch norms that stay are left for the target.
    """

    name = "fold_batchnorm"

    def requires(self, program: ExportedProgram) -> str:
        found = in_place_operators(program)
        return f"{', '.join(found)} writes in place; run decompose first" if found else ""

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        tensors = constant_of(program)
        frozen = mutated_names(program)
        state, constants = dict(program.state_dict), dict(program.constants)
        specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        for node in list(module.graph.find_nodes(op="call_function", target=BATCH_NORM)):
            match = _match(node, tensors, frozen)
            if match is None:
                continue
            bias = _bias_holder(match)
            for holder, value in zip(
                (match.layer.args[1], bias), _folded(match, tensors), strict=True
            ):
                spec = specs[holder.name]
                if spec.kind is InputKind.PARAMETER:
                    value = torch.nn.Parameter(value, requires_grad=False)
                (state if spec.target in state else constants)[spec.target] = value
                tensors[holder.name] = value  # for another batch norm after this one
            _apply(module, match, bias)
        return rebuild(program, module, state=state, constants=constants)


def _match(norm: Node, tensors: dict[str, torch.Tensor], frozen: set[str]) -> _Match | None:
    layer = norm.args[0]
    if not is_op(layer, *LAYERS) or len(layer.users) != 1:
        return None
    if layer.target is aten.linear.default and layer.meta["val"].dim() != 2:
        return None
    own = [layer.args[1], layer.args[2] if len(layer.args) > 2 else None]
    for value in (*own, *norm.args[1:5]):
        if value is None:
            continue
        # A tensor with a second user would change for that user, too.
        known = value.op == "placeholder" and value.name in tensors and value.name not in frozen
        if not known or len(value.users) != 1:
            return None
    results = [user for user in norm.users if user.target is operator.getitem]
    if len(results) != 1 or len(norm.users) != 1 or results[0].args[1] != 0:
        return None
    return _Match(layer, norm, results[0])


def _bias_holder(match: _Match) -> Node:
    """The placeholder whose tensor becomes the bias: the layer's own, beta, or the mean."""
    own = match.layer.args[2] if len(match.layer.args) > 2 else None
    _, _, beta, mean, _ = match.norm.args[:5]
    return next(node for node in (own, beta, mean) if node is not None)


def _folded(match: _Match, tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    gamma, beta, mean, variance = (
        tensors[node.name].detach().double() if node is not None else None
        for node in match.norm.args[1:5]
    )
    eps = match.norm.args[6]
    weight = tensors[match.layer.args[1].name].detach()
    scale = torch.rsqrt(variance + eps) * (gamma if gamma is not None else 1.0)
    own = match.layer.args[2] if len(match.layer.args) > 2 else None
    bias = tensors[own.name].detach().double() if own is not None else torch.zeros_like(mean)
    offset = (bias - mean) * scale + (beta if beta is not None else 0.0)
    folded = weight.double() * _shaped(match.layer, scale, weight)
    return folded.to(weight.dtype).contiguous(), offset.to(weight.dtype)


def _shaped(layer: Node, scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``scale`` broadcastable over the weight's output channels."""
    rest = [1] * (weight.dim() - 1)
    if layer.target not in TRANSPOSED:
        return scale.reshape(-1, *rest)
    # A transposed weight is (in, out / groups, …); group g holds in-rows g*in/groups onwards.
    groups = layer.args[6] if len(layer.args) > 6 else 1
    per_group = scale.reshape(groups, 1, -1)
    rows = per_group.expand(groups, weight.shape[0] // groups, per_group.shape[-1])
    return rows.reshape(weight.shape[0], -1, *rest[1:])


def _apply(module: GraphModule, match: _Match, bias: Node) -> None:
    arguments = list(match.layer.args)
    arguments[2:3] = [bias]
    match.layer.args = tuple(arguments)
    match.result.replace_all_uses_with(match.layer)
    module.graph.erase_node(match.result)
    module.graph.erase_node(match.norm)
