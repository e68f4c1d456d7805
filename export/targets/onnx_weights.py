"""Weights of an ONNX model stored as 4 or 8-bit integers, for ONNX Runtime's own operators.

``MatMulNBits`` and ``GatherBlockQuantized`` (domain ``com.microsoft``) multiply by, and look up
in, packed integers with a scale per group of a row; activations stay in floating point. The
rounding is ONNX Runtime's (``DefaultWeightOnlyQuantizer``, behind its MatMulNBitsQuantizer);
the graph is edited here, so that a Gemm counts, its bias stays inside the operator, a weight
that is stored transposed is found, and no copy of the whole model is serialised.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgekit.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...quant.plan import QuantPlan

DOMAIN = "com.microsoft"

#: How many weights share a scale with 8 bits: the kernels' own default. Shorter groups would
#: take space for errors that are far below those of 4 bits.
GROUP_INT8 = 128
SMALLEST_GROUP = 16  # of the kernels


def quantise_weights(model: ir.Model, plan: QuantPlan) -> tuple[ir.Model, dict[str, Any]]:
    """A copy of ``model`` whose linear layers and embeddings have integer weights.

    Rules:
        1. A MatMul or Gemm with a constant matrix becomes a MatMulNBits.
        2. An embedding (a Gather of rows of a constant matrix) becomes a GatherBlockQuantized,
           with the largest group up to the plan's that divides its width; one whose width 16
           does not divide stays.
        3. Nodes of the common graph in ``plan.kept`` keep their floating-point weights, bit
           for bit.
        4. Values keep their names.

    Args:
        model: in floating point; its values are named after the common graph's nodes. It is
            not changed, its tensors are shared.
        plan: ``bits``, ``kept`` and, with 4 bits, ``group_size``.

    Returns:
        the model; and details, under ``weights``: bits, group size, how many layers and
        embeddings were quantised.

    Raises:
        UnsupportedError: there is nothing to quantise.
    """
    copy, details = _Packed(model, plan).run("onnx")
    copy.opset_imports[DOMAIN] = 1
    return copy, details


@dataclass(frozen=True)
class LinearLayer:
    """What a MatMul or Gemm computes with.

    Attributes:
        columns: the weight, (inputs, outputs). name: of the stored tensor, and which way around
            it is. bias: None without.
    """

    columns: np.ndarray
    name: str
    bias: ir.Value | None


class WeightEditor(ABC):
    """Replaces what has weights in a copy of a model, one node after another.

    Attributes:
        bits, group: of a weight; how many weights of a row share a scale.
        embeddings: whether they are replaced, too.
    """

    embeddings: ClassVar[bool] = True

    def __init__(self, model: ir.Model, plan: QuantPlan) -> None:
        self.bits = plan.bits
        self.group = plan.group_size if plan.bits == 4 else GROUP_INT8
        self._model = model.clone()
        self._keep = frozenset(plan.kept)

    def run(self, target: str) -> tuple[ir.Model, dict[str, Any]]:
        """The edited copy, and the details of what was done.

        Raises:
            UnsupportedError: nothing was replaced.
        """
        import onnx_ir.passes.common as passes

        kinds = [self.visit(node) for node in list(self._model.graph)]
        if not any(kinds):
            raise UnsupportedError(
                f"{target} has no weights to quantise",
                "no layer that is not kept has a constant matrix",
            )
        passes.RemoveUnusedNodesPass()(self._model)  # transposes and floating-point weights
        details = {
            "bits": self.bits,
            "group_size": self.group,
            "levels": "symmetric",
            "layers": kinds.count("linear"),
            "embeddings": kinds.count("embedding"),
        }
        return self._model, {"weights": details}

    def visit(self, node: ir.Node) -> str | None:
        """Replace ``node`` if it has weights to quantise; what it was."""
        if node.domain not in ("", "ai.onnx") or not self._keep.isdisjoint(_names(node)):
            return None
        if node.op_type in ("MatMul", "Gemm") and (layer := _linear(node)) is not None:
            return "linear" if self.replace_linear(node, layer) else None
        if node.op_type == "Gather" and self.embeddings and _is_embedding(node):
            return "embedding" if self.replace_embedding(node, node.inputs[0]) else None
        return None

    @abstractmethod
    def replace_linear(self, node: ir.Node, layer: LinearLayer) -> bool:
        """Put other nodes in the place of a linear layer; whether that was done."""

    def replace_embedding(self, node: ir.Node, table: ir.Value) -> bool:
        """The same for the look-up of rows in a stored table."""
        return False

    def add(
        self, node: ir.Node, kind: str, array: np.ndarray, dtype: ir.DataType | None = None
    ) -> ir.Value:
        """A stored tensor for what replaces ``node``; integers of ``dtype`` held in ``array``."""
        import onnx_ir as ir

        name = f"{node.outputs[0].name}.{kind}"
        stored = dtype or ir.DataType.from_numpy(array.dtype)
        tensor = ir.Tensor(array.astype(stored.numpy()), dtype=stored, name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(stored))
        value.const_value = tensor
        self._model.graph.register_initializer(value)
        return value

    def put(self, node: ir.Node, made: list[ir.Node]) -> None:
        """Put ``made``, the last of which gives the result, in the place of ``node``."""
        import onnx_ir as ir

        made[-1].name = node.name
        old, new = node.outputs[0], made[-1].outputs[0]
        ir.convenience.replace_nodes_and_values(self._model.graph, node, [node], made, [old], [new])


class _Packed(WeightEditor):
    """ONNX Runtime's own operators, with its own rounding."""

    def __init__(self, model: ir.Model, plan: QuantPlan) -> None:
        super().__init__(model, plan)
        # A tied weight is rounded once: by the name of its value and the group.
        self._rounded: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}

    def replace_linear(self, node: ir.Node, layer: LinearLayer) -> bool:
        packed, scales = self._round(layer.name, layer.columns, self.group)
        inputs = [node.inputs[0], self.add(node, "packed", packed)]
        inputs.append(self.add(node, "scales", scales))
        if layer.bias is not None:
            inputs += [None, None, layer.bias]  # no zero points, no order of groups
        inner, outer = layer.columns.shape
        self._put(node, "MatMulNBits", inputs, self.group, K=inner, N=outer)
        return True

    def replace_embedding(self, node: ir.Node, table: ir.Value) -> bool:
        array = table.const_value.numpy()
        group = math.gcd(array.shape[1], self.group)  # group sizes are powers of two
        if group < SMALLEST_GROUP:
            return False
        packed, scales = self._round(f"{table.name}:True", array.T, group)
        inputs = [
            self.add(node, "packed", packed.reshape(array.shape[0], -1)),
            node.inputs[1],
            self.add(node, "scales", scales),
        ]
        self._put(node, "GatherBlockQuantized", inputs, group, gather_axis=0, quantize_axis=1)
        return True

    def _round(self, name: str, columns: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Packed integers (outputs, groups, bytes) and scales (outputs, groups)."""
        if (name, group) not in self._rounded:
            quantizer = _quantizer(self.bits, group)
            packed, scales, _ = quantizer.qbits_block_quant(np.ascontiguousarray(columns))
            self._rounded[name, group] = packed, scales
        return self._rounded[name, group]

    def _put(self, node: ir.Node, kind: str, inputs: list[Any], group: int, **sizes: int) -> None:
        import onnx_ir as ir

        attributes = {**sizes, "bits": self.bits, "block_size": group}
        self.put(node, [ir.node(kind, inputs, attributes, domain=DOMAIN)])


def _linear(node: ir.Node) -> LinearLayer | None:
    found = _matrix(node.inputs[1])
    if found is None or not _is_plain(node):
        return None
    value, transposed = found
    if node.op_type == "Gemm" and node.attributes.get_int("transB", 0):
        transposed = not transposed
    array = value.const_value.numpy()
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return LinearLayer(array.T if transposed else array, f"{value.name}:{transposed}", bias)


def _is_embedding(node: ir.Node) -> bool:
    found = _matrix(node.inputs[0])
    return found is not None and not found[1] and node.attributes.get_int("axis", 0) == 0


def _matrix(value: ir.Value | None) -> tuple[ir.Value, bool] | None:
    """The stored matrix that ``value`` is, and whether it is that matrix transposed."""
    transposed = False
    made = value.producer() if value is not None else None
    if made is not None and made.op_type == "Transpose":
        order = made.attributes.get_ints("perm", [1, 0])
        if list(order) != [1, 0]:
            return None
        value, transposed = made.inputs[0], True
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    tensor = value.const_value
    floating = tensor.dtype.name in ("FLOAT", "FLOAT16", "BFLOAT16")
    return (value, transposed) if floating and len(tensor.shape) == 2 else None


def _is_plain(node: ir.Node) -> bool:
    """Whether a Gemm is a linear layer: not scaled, its input not transposed."""
    wanted = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    given = {name: node.attributes[name].value for name in wanted if name in node.attributes}
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    one_row = bias is None or (bias.shape is not None and len(bias.shape) == 1)
    return one_row and all(wanted[name] == value for name, value in given.items())


def _names(node: ir.Node) -> set[str]:
    """What the node may be called in the common graph.

    The last of the nodes that an operator became has its name: of a linear layer with a
    bias that is the addition. An output of the graph is called as the contract says.
    """
    readers = [reader for reader, _ in node.outputs[0].uses()]
    nodes = [node]
    if len(readers) == 1 and readers[0].op_type == "Add":
        nodes.append(readers[0])
    found = {each.outputs[0].name or "" for each in nodes}
    return found | {(each.name or "").removeprefix("node_") for each in nodes}


def _quantizer(bits: int, group: int) -> Any:
    """ONNX Runtime's rounding to symmetric levels."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    # Importing it sets up logging for the whole process.
    from onnxruntime.quantization import matmul_nbits_quantizer as library

    root.handlers, root.level = handlers, level
    settings = library.DefaultWeightOnlyQuantConfig(block_size=group, is_symmetric=True, bits=bits)
    return library.DefaultWeightOnlyQuantizer(settings)
