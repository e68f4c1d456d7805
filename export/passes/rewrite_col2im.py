"""Write the sum of overlapping patches (``F.fold``) as a transposed convolution."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from .base import Pass
from .surgery import add_constant, call, copy_graph, is_op, rebuild

aten = torch.ops.aten
COL2IM = aten.col2im.default


class RewriteCol2im(Pass):
    """Replace ``col2im``, which TensorRT lacks and Core ML takes without overlap only.

    Rules:
        1. col2im of (N, C*kh*kw, L) -> the patches as (N, C*kh*kw, rows, columns), then a
           transposed convolution in C groups whose weight is one-hot: patch element (i, j)
           goes to position (i, j), and overlaps add up.

    Must not touch unbatched input or dynamic sizes. What the grid of patches leaves of the
    picture at the far edges becomes the transposed convolution's output padding.
    """

    name = "rewrite_col2im"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        constants = dict(program.constants)
        specs = list(program.graph_signature.input_specs)
        for node in list(module.graph.find_nodes(op="call_function", target=COL2IM)):
            if _remainder(node) is None:
                continue
            weight = add_constant(module, specs, constants, f"{node.name}_patches", _one_hot(node))
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(_transposed(module.graph, node, weight))
            module.graph.erase_node(node)
        return rebuild(program, module, constants=constants, inputs=specs)

    def ensures(self, program: ExportedProgram) -> str:
        left = [n for n in program.graph.nodes if is_op(n, COL2IM) and _remainder(n) is not None]
        return f"{left[0].name} is still there" if left else ""


def _grid(node: Node) -> tuple[list[int], list[int]]:
    """Rows and columns of the grid of patches, and what they leave of the picture."""
    _, size, kernel, dilation, padding, stride = node.args
    covered = [
        s + 2 * p - d * (k - 1) - 1
        for s, k, d, p in zip(size, kernel, dilation, padding, strict=True)
    ]
    rows = [c // step + 1 for c, step in zip(covered, stride, strict=True)]
    return rows, [c % step for c, step in zip(covered, stride, strict=True)]


def _remainder(node: Node) -> list[int] | None:
    """What the patches do not cover at the far edges; None where the rule does not apply."""
    patches = node.args[0].meta["val"]
    fixed = all(isinstance(v, int) for v in (*patches.shape[1:], *node.args[1]))
    if patches.dim() != 3 or not fixed:
        return None
    return _grid(node)[1]


def _one_hot(node: Node) -> torch.Tensor:
    """(C*kh*kw, 1, kh, kw): row c*kh*kw + i*kw + j has its one at (i, j)."""
    source = node.args[0].meta["val"]
    kernel = node.args[2]
    area = kernel[0] * kernel[1]
    eye = torch.eye(area, dtype=source.dtype).reshape(area, 1, *kernel)
    return eye.repeat(source.shape[1] // area, 1, 1, 1)


def _transposed(graph: torch.fx.Graph, node: Node, weight: Node) -> Node:
    patches, _, kernel, dilation, padding, stride = node.args
    rows, remainder = _grid(node)
    batch, channels, _ = patches.meta["val"].shape
    groups = channels // (kernel[0] * kernel[1])
    first = batch if isinstance(batch, int) else -1
    laid = call(graph, node, aten.view.default, patches, [first, channels, *rows])
    return call(
        graph,
        node,
        aten.conv_transpose2d.input,
        laid,
        weight,
        None,
        list(stride),
        list(padding),
        remainder,
        groups,
        list(dilation),
    )
