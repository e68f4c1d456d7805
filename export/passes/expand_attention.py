"""Write attention out where the runtime has products and a softmax, but no attention."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from .base import Pass
from .rewrite_attention import ATTENTION, argument, plain_attention
from .surgery import copy_graph, is_op, rebuild, supersede

aten = torch.ops.aten


class ExpandAttention(Pass):
    """Replace attention without a mask by matrix products and a softmax.

    torch's own decomposition also sees to rows that a mask leaves empty, with comparisons
    and selections that XNNPACK lacks. Without a mask there is no such row.

    Rules:
        1. scaled_dot_product_attention(q, k, v) -> matmul(softmax(matmul(q * scale, k^T)), v).
        2. view -> reshape, which is the same where the layout allows a view.

    Must not touch masked or causal attention, grouped heads, dropout, and other types than
    float32 (in 16 bits the kernel keeps the scores wider). Requires nothing.
    """

    name = "expand_attention"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        for node in list(module.graph.find_nodes(op="call_function", target=ATTENTION)):
            if not _matches(node):
                continue
            with module.graph.inserting_before(node):
                result = plain_attention(module.graph, node)
            supersede(module.graph, node, result)
        # The kernel lays its result out as the view of all heads wants it; a product does not.
        for view in module.graph.find_nodes(op="call_function", target=aten.view.default):
            view.target = aten.reshape.default
        return rebuild(program, module)

    def ensures(self, program: ExportedProgram) -> str:
        left = [n.name for n in program.graph.nodes if is_op(n, ATTENTION) and _matches(n)]
        return f"{', '.join(left)} is still there" if left else ""


def _matches(node: Node) -> bool:
    return (
        node.meta["val"].dtype == torch.float32
        and argument(node, 3, "attn_mask", None) is None
        and not argument(node, 4, "dropout_p", 0.0)
        and not argument(node, 5, "is_causal", False)
        and not node.kwargs.get("enable_gqa", False)
    )
