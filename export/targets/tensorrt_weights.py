"""Weights of an ONNX model stored as 4 or 8-bit integers, in operators that TensorRT reads.

TensorRT has no kernel for ONNX Runtime's MatMulNBits; it fuses a standard DequantizeLinear of a
constant with the product after it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import UnsupportedError

from .onnx_weights import SMALLEST_GROUP, LinearLayer, WeightEditor

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...quant.plan import QuantPlan

OPSET = 21  # the first with integers of 4 bits, and with a scale per block
_CHANGED = ("GroupNormalization",)  # means something else from this operator set on


def quantise_weights(model: ir.Model, plan: QuantPlan) -> tuple[ir.Model, dict[str, Any]]:
    """A copy of ``model`` whose linear layers multiply with dequantised integers.

    Rules:
        1. A MatMul or Gemm with a constant matrix becomes a MatMul with the DequantizeLinear of
           integers, and an Add for a bias. Levels are symmetric (-7 to 7, -127 to 127), scales
           positive.
        2. A scale is for ``plan.group_size`` weights of a row, with 8 bits for 128, or for the
           largest smaller power of two that divides the row; rows that 16 does not divide stay.
        3. Embeddings stay. Nodes in ``plan.kept`` stay, bit for bit.

    Args:
        model: in fp32 or fp16. It is not changed, its tensors are shared.

    Returns:
        the model, of operator set 21, and details as of the onnx target.

    Raises:
        UnsupportedError: there is nothing to quantise, or an operator means something else in
            that operator set.
    """
    if changed := [node.op_type for node in model.graph if node.op_type in _CHANGED]:
        raise UnsupportedError(
            f"tensorrt: {changed[0]} beside integer weights is not available here",
            f"it changed in operator set {OPSET}, which has the integers",
        )
    copy, details = _Dequantised(model, plan).run("tensorrt")
    copy.opset_imports[""] = OPSET
    return copy, details


class _Dequantised(WeightEditor):
    embeddings = False

    def replace_linear(self, node: ir.Node, layer: LinearLayer) -> bool:
        import onnx_ir as ir

        group = math.gcd(layer.columns.shape[0], self.group)  # group sizes are powers of two
        if group < SMALLEST_GROUP:
            return False
        whole, scales = _round(layer.columns, group, self.bits)
        stored = ir.DataType.INT4 if self.bits == 4 else ir.DataType.INT8
        wide = ir.Value(name=f"{node.outputs[0].name}.weight")
        dequantise = ir.node(
            "DequantizeLinear",
            [self.add(node, "packed", whole, stored), self.add(node, "scales", scales)],
            {"axis": 0, "block_size": group},
            outputs=[wide],
        )
        product = ir.node("MatMul", [node.inputs[0], wide])
        made = [dequantise, product]
        if layer.bias is not None:
            made.append(ir.node("Add", [product.outputs[0], layer.bias]))
            product.outputs[0].name = f"{node.outputs[0].name}.product"
        self.put(node, made)
        return True


def _round(columns: np.ndarray, group: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers of the shape of ``columns`` (inputs, outputs), and scales (groups, outputs)."""
    most = 2 ** (bits - 1) - 1
    blocks = columns.reshape(-1, group, columns.shape[1]).astype(np.float32)
    scales = (np.abs(blocks).max(1, keepdims=True) / most).astype(columns.dtype)
    scales[scales == 0] = 1  # a group of zeros
    whole = np.rint(blocks / scales).clip(-most, most)
    return whole.reshape(columns.shape).astype(np.int8), scales[:, 0]
