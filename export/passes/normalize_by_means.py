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

# Inserts the mean of a value, plus a number that a node holds.
Mean = Callable[..., Node]


class NormalizeByMeans(Pass):
    """Replace group norm and layer norm, which XNNPACK lacks, by their definition.

    A norm that is left to a portable kernel cuts the graph in two, and every cut costs a
    copy of the map, a change of its layout and a call.

    Rules (d = x - mean(x), y = d * rsqrt(mean(d * d) + eps) * gamma + beta):
        1. group_norm(x, 1, ...) of (N, C, H, W): the mean over the pixels, then over the
           channels by a 1x1 convolution whose weights are 1/C, since XNNPACK takes means
           over the pixels only. gamma and beta are a depthwise 1x1 convolution.
        2. layer_norm(x, [C], ...): the mean is a linear layer to one feature, of weights 1/C.
        In both, eps is the bias of the second mean: an operator less, and as operators of
        one number cost as much as others to start, worth it.

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


def _affine(node: Node) -> tuple[Node | None, Node | None]:
    """What scales and what shifts the result."""
    return _argument(node, 2), _argument(node, 3)


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
    """A graph being edited, and the tensors stored for it."""

    def __init__(self, program: ExportedProgram, module: GraphModule) -> None:
        self.module = module
        self.constants = dict(program.constants)
        self.specs: list[InputSpec] = list(program.graph_signature.input_specs)
        self._stored: dict[tuple, Node] = {}

    def replace_group_norm(self, node: Node) -> None:
        graph, channels = self.module.graph, node.args[0].meta["val"].shape[1]
        mean_of, scale, shift = self._row(1, channels, 1, 1), *_affine(node)
        if scale is None and shift is not None:
            scale = self._constant("ones", torch.ones(channels))
        with graph.inserting_before(node):

            def mean(value: Node, offset: Node | None = None) -> Node:
                pixels = call(graph, node, aten.mean.dim, value, [2, 3], True)
                return call(graph, node, aten.conv2d.default, pixels, mean_of, offset)

            result = self._normalized(node, mean)
            if scale is not None:
                # One operator for both, and weights that lie as the convolution reads them.
                kernel = call(graph, node, aten.view.default, scale, [channels, 1, 1, 1])
                own = ([1, 1], [0, 0], [1, 1], channels)  # stride, padding, dilation, groups
                result = call(graph, node, aten.conv2d.default, result, kernel, shift, *own)
        supersede(graph, node, result)

    def replace_layer_norm(self, node: Node) -> None:
        graph, mean_of = self.module.graph, self._row(1, node.args[1][0])
        scale, shift = _affine(node)
        with graph.inserting_before(node):

            def mean(value: Node, offset: Node | None = None) -> Node:
                return call(graph, node, aten.linear.default, value, mean_of, offset)

            result = self._normalized(node, mean)
            if scale is not None:
                result = call(graph, node, aten.mul.Tensor, result, scale)
            if shift is not None:
                result = call(graph, node, aten.add.Tensor, result, shift)
        supersede(graph, node, result)

    def _normalized(self, node: Node, mean: Mean) -> Node:
        """``node``'s first argument of mean 0 and variance 1; ``mean`` averages a value."""
        graph, source = self.module.graph, node.args[0]
        eps = self._constant("eps", torch.tensor([_argument(node, 4, _EPS)]))
        centred = call(graph, node, aten.sub.Tensor, source, mean(source))
        squares = call(graph, node, aten.mul.Tensor, centred, centred)
        inverse = call(graph, node, aten.rsqrt.default, mean(squares, eps))
        return call(graph, node, aten.mul.Tensor, centred, inverse)

    def _row(self, *shape: int) -> Node:
        """The weights of a mean over the second axis of ``shape``."""
        return self._constant("mean", torch.full(shape, 1.0 / shape[1]))

    def _constant(self, what: str, value: torch.Tensor) -> Node:
        """A stored tensor whose elements are all equal, shared by all that want the same."""
        element = float(value.flatten()[0])
        key = (what, tuple(value.shape), element)
        if key not in self._stored:
            name = f"{what}_{len(self._stored)}"
            self._stored[key] = add_constant(self.module, self.specs, self.constants, name, value)
        return self._stored[key]
