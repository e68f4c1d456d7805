"""Write normalisation with operators that XNNPACK has: means, products, a reciprocal root."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputSpec
from torch.fx import GraphModule, Node

from .base import Pass
from .surgery import add_constant, call, copy_graph, is_op, rebuild, supersede

aten = torch.ops.aten
GROUP_NORM = aten.group_norm.default
LAYER_NORM = aten.layer_norm.default
_EPS = 1e-5  # torch's default

Mean = Callable[[Node], Node]


class NormalizeByMeans(Pass):
    """Replace group norm and layer norm, which XNNPACK lacks, by their definition.

    A norm that is left to a portable kernel cuts the graph in two, and every cut costs a
    copy of the map, a change of its layout and a call.

    Rules (d = x - mean(x), y = d * rsqrt(mean(d * d) + eps) * gamma + beta):
        1. group_norm(x, 1, ...) of (N, C, H, W): the mean over the pixels, then over the
           channels by a 1x1 convolution whose weights are 1/C, since XNNPACK takes means
           over the pixels only.
        2. layer_norm(x, [C], ...): the mean is a linear layer to one feature, of weights 1/C.

    Must not touch several groups, a norm over more than one axis, and other types than
    float32 (in 16 bits the squares need a wider sum, which the kernel has). Two passes over
    the map, as the kernels make: one pass (mean of squares less square of mean) would cancel.
    Height, width and batch may be symbolic. Requires nothing.
    """

    name = "normalize_by_means"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        editor = _Editor(program, module)
        for node in list(module.graph.nodes):
            if _is_group_norm(node):
                editor.replace_group_norm(node)
            elif _is_layer_norm(node):
                editor.replace_layer_norm(node)
        return rebuild(program, module, constants=editor.constants, inputs=editor.specs)

    def ensures(self, program: ExportedProgram) -> str:
        left = [n.name for n in program.graph.nodes if _is_group_norm(n) or _is_layer_norm(n)]
        return f"{', '.join(left)} is still there" if left else ""


def _argument(node: Node, index: int, default: object = None) -> object:
    return node.args[index] if len(node.args) > index else default


def _is_group_norm(node: Node) -> bool:
    if not is_op(node, GROUP_NORM) or node.args[1] != 1:
        return False
    value = node.args[0].meta["val"]
    return value.dim() == 4 and value.dtype == torch.float32 and isinstance(value.shape[1], int)


def _is_layer_norm(node: Node) -> bool:
    if not is_op(node, LAYER_NORM) or len(node.args[1]) != 1:
        return False
    value = node.args[0].meta["val"]
    return value.dtype == torch.float32 and isinstance(value.shape[-1], int)


class _Editor:
    """A graph being edited, with one stored row of weights per number of channels."""

    def __init__(self, program: ExportedProgram, module: GraphModule) -> None:
        self.module = module
        self.constants = dict(program.constants)
        self.specs: list[InputSpec] = list(program.graph_signature.input_specs)
        self._rows: dict[tuple[int, ...], Node] = {}

    def replace_group_norm(self, node: Node) -> None:
        graph, channels = self.module.graph, node.args[0].meta["val"].shape[1]
        row = self._row(1, channels, 1, 1)
        affine = [_argument(node, 2), _argument(node, 3)]
        with graph.inserting_before(node):
            # Per channel, to be added to and multiplied with (N, C, H, W).
            scale, shift = (
                v and call(graph, node, aten.view.default, v, [1, channels, 1, 1]) for v in affine
            )

            def mean(value: Node) -> Node:
                pixels = call(graph, node, aten.mean.dim, value, [2, 3], True)
                return call(graph, node, aten.conv2d.default, pixels, row)

            eps = _argument(node, 4, _EPS)
            result = _normalized(graph, node, mean, eps, scale, shift)
        supersede(graph, node, result)

    def replace_layer_norm(self, node: Node) -> None:
        graph = self.module.graph
        row = self._row(1, node.args[1][0])
        with graph.inserting_before(node):

            def mean(value: Node) -> Node:
                return call(graph, node, aten.linear.default, value, row)

            scale, shift = _argument(node, 2), _argument(node, 3)
            result = _normalized(graph, node, mean, _argument(node, 4, _EPS), scale, shift)
        supersede(graph, node, result)

    def _row(self, *shape: int) -> Node:
        """The weights of a mean over the second axis of ``shape``."""
        if shape not in self._rows:
            value = torch.full(shape, 1.0 / shape[1])
            name = "mean_of_" + "_".join(map(str, shape[1:]))
            self._rows[shape] = add_constant(self.module, self.specs, self.constants, name, value)
        return self._rows[shape]


def _normalized(
    graph: torch.fx.Graph,
    node: Node,
    mean: Mean,
    eps: float,
    scale: Node | None,
    shift: Node | None,
) -> Node:
    """The norm of ``node``'s first argument; ``mean`` inserts what averages a value."""
    source = node.args[0]
    centred = call(graph, node, aten.sub.Tensor, source, mean(source))
    variance = mean(call(graph, node, aten.mul.Tensor, centred, centred))
    safe = call(graph, node, aten.add.Tensor, variance, eps)
    inverse = call(graph, node, aten.rsqrt.default, safe)
    result = call(graph, node, aten.mul.Tensor, centred, inverse)
    if scale is not None:
        result = call(graph, node, aten.mul.Tensor, result, scale)
    if shift is not None:
        result = call(graph, node, aten.add.Tensor, result, shift)
    return result
