"""Weights of an ONNX model stored as 4 or 8-bit integers, for ONNX Runtime's own operators.

``MatMulNBits`` and ``GatherBlockQuantized`` (domain ``com.microsoft``) multiply by, and look up
in, packed integers with a scale per group of a row; activations stay in floating point. The
rounding is ONNX Runtime's (``DefaultWeightOnlyQuantizer``, behind its MatMulNBitsQuantizer);
the graph is edited here, so that a Gemm counts, its bias stays inside the operator, a weight
that is stored transposed is found, and no copy of the whole model is serialised.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...quant.plan import QuantPlan

DOMAIN = "com.microsoft"

#: How many weights share a scale with 8 bits: the kernels' own default. Shorter groups would
#: take space for errors that are far below those of 4 bits.
GROUP_INT8 = 128

_LINEAR, _EMBEDDING = "layers", "embeddings"


def quantise_weights(model: ir.Model, plan: QuantPlan) -> tuple[ir.Model, dict[str, Any]]:
    """A copy of ``model`` whose linear layers and embeddings have integer weights.

    Rules:
        1. A MatMul or Gemm with a constant matrix becomes a MatMulNBits.
        2. An embedding (a Gather of rows of a constant matrix) becomes a GatherBlockQuantized
           if its width is a multiple of the group.
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
    import onnx_ir.passes.common as passes

    copy = model.clone()
    editor = _Editor(copy, plan)
    for node in list(copy.graph):
        editor.visit(node)
    if not any(editor.done.values()):
        raise UnsupportedError(
            "onnx has no weights to quantise", "no layer that is not kept has a constant matrix"
        )
    passes.RemoveUnusedNodesPass()(copy)  # transposes and floating-point weights
    copy.opset_imports[DOMAIN] = 1
    details = {
        "bits": plan.bits,
        "group_size": editor.group,
        "levels": "symmetric",
        **editor.done,
    }
    return copy, {"weights": details}


class _Editor:
    """Replaces one node after another in a model's graph.

    Attributes:
        group: how many weights of a row share a scale. done: how many layers and embeddings
            were quantised.
    """

    def __init__(self, model: ir.Model, plan: QuantPlan) -> None:
        self.group = plan.group_size if plan.bits == 4 else GROUP_INT8
        self.done = {_LINEAR: 0, _EMBEDDING: 0}
        self._graph = model.graph
        self._bits = plan.bits
        self._keep = frozenset(plan.kept)
        # A tied weight is rounded once: by the name of its value.
        self._rounded: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def visit(self, node: ir.Node) -> None:
        """Replace ``node`` if it has weights to quantise."""
        if node.domain not in ("", "ai.onnx"):
            return
        if node.op_type in ("MatMul", "Gemm"):
            self._linear(node)
        elif node.op_type == "Gather":
            self._embedding(node)

    def _linear(self, node: ir.Node) -> None:
        found = _matrix(node.inputs[1])
        if found is None or not _is_plain(node) or self._is_kept(node):
            return
        value, transposed = found
        if node.op_type == "Gemm" and node.attributes.get_int("transB", 0):
            transposed = not transposed
        array = value.const_value.numpy()
        # The kernels take a column per output.
        columns = array.T if transposed else array
        packed, scales = self._round(f"{value.name}:{transposed}", columns)
        rows = columns.shape[1]
        inputs = [node.inputs[0], self._add(node, "packed", packed)]
        inputs.append(self._add(node, "scales", scales))
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            inputs += [None, None, node.inputs[2]]  # no zero points, no order of groups
        self._replace(node, "MatMulNBits", inputs, K=columns.shape[0], N=rows)
        self.done[_LINEAR] += 1

    def _embedding(self, node: ir.Node) -> None:
        found = _matrix(node.inputs[0])
        axis = node.attributes.get_int("axis", 0)
        if found is None or found[1] or axis != 0 or self._is_kept(node):
            return
        value = found[0]
        table = value.const_value.numpy()
        if table.shape[1] % self.group:
            return
        packed, scales = self._round(f"{value.name}:True", table.T)
        inputs = [
            self._add(node, "packed", packed.reshape(table.shape[0], -1)),
            node.inputs[1],
            self._add(node, "scales", scales),
        ]
        self._replace(node, "GatherBlockQuantized", inputs, gather_axis=0, quantize_axis=1)
        self.done[_EMBEDDING] += 1

    def _round(self, key: str, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Packed integers (outputs, groups, bytes) and scales (outputs, groups)."""
        if key not in self._rounded:
            quantizer = _quantizer(self._bits, self.group)
            packed, scales, _ = quantizer.qbits_block_quant(np.ascontiguousarray(columns))
            self._rounded[key] = packed, scales
        return self._rounded[key]

    def _is_kept(self, node: ir.Node) -> bool:
        return not self._keep.isdisjoint(_names(node))

    def _add(self, node: ir.Node, kind: str, array: np.ndarray) -> ir.Value:
        import onnx_ir as ir

        name = f"{node.outputs[0].name}.{kind}"
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            const_value=ir.Tensor(array, name=name),
        )
        self._graph.register_initializer(value)
        return value

    def _replace(self, node: ir.Node, kind: str, inputs: list[Any], **sizes: int) -> None:
        import onnx_ir as ir

        attributes = {**sizes, "bits": self._bits, "block_size": self.group}
        old = node.outputs[0]
        new = ir.node(
            kind,
            inputs,
            attributes,
            domain=DOMAIN,
            outputs=[ir.Value(name=old.name, shape=old.shape, type=old.type)],
            name=node.name,
        )
        ir.convenience.replace_nodes_and_values(
            self._graph, node, [node], [new], [old], [new.outputs[0]]
        )


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
