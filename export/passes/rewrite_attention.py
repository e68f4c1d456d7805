"""Bring attention to the one rank that every target's attention kernel takes."""

from __future__ import annotations

import math

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from .base import Pass
from .surgery import call, copy_graph, is_op, rebuild

aten = torch.ops.aten
ATTENTION = aten.scaled_dot_product_attention.default
USUAL_RANK = 4  # (batch, heads, length, features)


class RewriteAttention(Pass):
    """Write attention over other ranks as matrix products.

    Rules:
        1. softmax(q k^T * scale + mask) v, where q is not of rank 4 (windowed attention over
           units and windows), becomes matmul, add, softmax, matmul.

    Must not touch attention of rank 4, which stays one operator; causal, grouped or
    boolean-masked attention; attention with dropout.
    """

    name = "rewrite_attention"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        for node in list(module.graph.find_nodes(op="call_function", target=ATTENTION)):
            if not _matches(node):
                continue
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(plain_attention(module.graph, node))
            module.graph.erase_node(node)
        return rebuild(program, module)

    def ensures(self, program: ExportedProgram) -> str:
        left = [n.name for n in program.graph.nodes if is_op(n, ATTENTION) and _matches(n)]
        return f"{', '.join(left)} is still of another rank" if left else ""


def argument(node: Node, index: int, name: str, default: object) -> object:
    """An argument of an operator, given by position or by name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _matches(node: Node) -> bool:
    mask = argument(node, 3, "attn_mask", None)
    return (
        node.args[0].meta["val"].dim() != USUAL_RANK
        and not argument(node, 4, "dropout_p", 0.0)
        and not argument(node, 5, "is_causal", False)
        and not node.kwargs.get("enable_gqa", False)
        and (mask is None or mask.meta["val"].is_floating_point())
    )


def plain_attention(graph: torch.fx.Graph, node: Node) -> Node:
    """Insert the products and the softmax that an attention ``node`` stands for; the result."""
    query, key, value = node.args[:3]
    mask = argument(node, 3, "attn_mask", None)
    scale = node.kwargs.get("scale")
    if scale is None:
        scale = 1 / math.sqrt(query.meta["val"].shape[-1])
    scaled = call(graph, node, aten.mul.Tensor, query, scale)
    turned = call(graph, node, aten.transpose.int, key, -2, -1)
    scores = call(graph, node, aten.matmul.default, scaled, turned)
    if mask is not None:
        scores = call(graph, node, aten.add.Tensor, scores, mask)
    chances = call(graph, node, aten.softmax.int, scores, -1)
    return call(graph, node, aten.matmul.default, chances, value)
