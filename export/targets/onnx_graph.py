"""The common graph as an ONNX model: shared by the ONNX, OpenVINO and TensorRT targets."""

from __future__ import annotations

import ast
from collections import Counter
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from edgekit.errors import UnsupportedError
from edgekit.quiet import quiet

from ..program import Program, describe_place, own_line, without_wrapper
from .base import refuse, shorten

if TYPE_CHECKING:
    import onnx_ir

# 20 has GELU and is what OpenVINO, TensorRT and every current ONNX Runtime read.
OPSET = 20
OPSET_BF16 = 22  # the first whose convolutions take bf16

# Three targets lower the same program: convert it once.
_models: WeakKeyDictionary[object, onnx_ir.Model] = WeakKeyDictionary()
_origins: WeakKeyDictionary[onnx_ir.Model, list[str]] = WeakKeyDictionary()


def to_onnx(program: Program) -> onnx_ir.Model:
    """The program as an optimised onnx-ir model with the contract's names.

    Values keep the names of the common graph's nodes, which is what lets the verifier
    locate a departure; source lines and module paths (machine paths) are removed.

    Raises:
        UnsupportedError: an operator has no ONNX form.
    """
    cached = _models.get(program.exported)
    if cached is None:
        cached = _models[program.exported] = _convert(program)
    return cached


def opset_of(program: Program) -> int:
    """The operator set that a program is converted to: the oldest that has what it needs."""
    return OPSET_BF16 if program.precision == "bf16" else OPSET


def _convert(program: Program) -> onnx_ir.Model:
    import torch

    try:
        with quiet(stdout=True), torch.no_grad():
            result = torch.onnx.export(
                program.exported,
                (),
                dynamo=True,
                external_data=False,
                opset_version=opset_of(program),
                verbose=False,
                input_names=[spec.name for spec in program.inputs],
                output_names=[spec.name for spec in program.outputs],
            )
    except Exception as error:
        raise _explain(program, error) from error
    _origins[result.model] = [_origin(node) for node in result.model.graph]
    _strip(result.model)
    return result.model


def origin_of(model: onnx_ir.Model, index: int) -> str:
    """Where the ``index``-th node of the graph comes from: operator, module, source line."""
    origins = _origins.get(model, [])
    return origins[index] if 0 <= index < len(origins) else ""


def _origin(node: onnx_ir.Node) -> str:
    """What the exporter noted of a node; it names this machine, so it is not kept in the file."""
    known = node.metadata_props
    if "pkg.torch.onnx.class_hierarchy" not in known:
        return ""
    operator = ast.literal_eval(known["pkg.torch.onnx.class_hierarchy"])[-1]
    scopes = ast.literal_eval(known.get("pkg.torch.onnx.name_scopes", "[]"))
    module = without_wrapper(scopes[-2]) if len(scopes) > 1 else ""
    name = scopes[-1] if scopes else node.name or ""
    line = own_line(known.get("pkg.torch.onnx.stack_trace", ""))
    return describe_place(operator, name, module, line)


def _explain(program: Program, error: Exception) -> UnsupportedError:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = f"{error} {cause}"
    for node in program.exported.graph.nodes:
        if node.op == "call_function" and f"%{node.name} " in text:
            return refuse("onnx", program, node.name, str(cause))
    marker = "No ONNX function found for "
    if marker in text:
        operator = text.split(marker, 1)[1].split()[0].strip("<>,.'\"")
        operator = text.split("overload='")[1].split("'")[0] if "overload='" in text else operator
        return refuse("onnx", program, operator, "it has no ONNX translation")
    return UnsupportedError("onnx cannot express the graph", shorten(cause))


def _strip(model: onnx_ir.Model) -> None:
    model.metadata_props.clear()
    model.doc_string = None
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        graph.doc_string = None
        for value in (*graph.inputs, *graph.initializers.values()) if graph is model.graph else ():
            value.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()


def count_operators(model: onnx_ir.Model) -> dict[str, int]:
    """How often each operator occurs, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph).most_common())
