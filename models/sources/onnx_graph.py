"""Read an ONNX file into plain nodes and arrays, and refuse what cannot be run.

Specification: onnx.proto (IR) and the operator sets 11 to 24 of the default domain.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import InputError, MissingBackendError, UnsupportedError

from . import (  # noqa: F401 (they register the operators)
    onnx_ops_math,
    onnx_ops_nn,
    onnx_ops_pool,
    onnx_ops_resize,
    onnx_ops_sequence,
    onnx_ops_shape,
)
from .onnx_ops import OPERATORS, TORCH_TYPES, Node

if TYPE_CHECKING:
    import onnx

OPSETS = range(11, 25)
DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class GraphInput:
    """A graph's input: its ONNX element type, and sizes or names of sizes; None where the
    file says nothing (of an axis, or of all of them)."""

    name: str
    code: int
    dims: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class Graph:
    """An ONNX graph as plain data: nodes in running order, constants by name."""

    nodes: list[Node]
    constants: dict[str, np.ndarray]
    inputs: list[GraphInput]
    outputs: list[str]


def read_file(path: Path) -> onnx.ModelProto:
    """The checked model of an ``.onnx`` file, with its external data.

    External data must lie in the file's folder or below; onnx itself refuses links and
    paths that lead out of it.

    Raises:
        InputError: the file is missing, damaged, or its external data cannot be used.
        MissingBackendError: the package onnx is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        why = "reading .onnx files takes the package onnx"
        raise MissingBackendError(f"cannot read {path.name}", why, "pip install onnx") from error
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        onnx.checker.check_model(str(path))
        model = onnx.load(str(path))
        check_names(model.graph)
        return model
    except (onnx.checker.ValidationError, DecodeError, OSError, ValueError) as error:
        why = str(error).strip().splitlines() or ["it is damaged"]
        raise InputError(f"{path.name} is not a usable ONNX file", why[0]) from error


def check_names(graph: onnx.GraphProto) -> None:
    """ValueError where a name is not UTF-8: protobuf then gives bytes in place of a str."""
    values = [*graph.input, *graph.output, *graph.initializer]
    names = [value.name for value in values]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    names += [dim.dim_param for v in graph.input for dim in v.type.tensor_type.shape.dim]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a name in it is not text")


def read_graph(model: onnx.ModelProto) -> Graph:
    """A model's graph as plain data, with its functions inlined.

    Raises:
        UnsupportedError: the opset, operators or types of constants are not supported; all
            unsupported operators are listed, each with a node that uses it.
        InputError: a constant's data do not fit its shape.
    """
    import onnx.inliner

    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    opset = default_opset(model)
    model = expand_definitions(model, opset)
    refuse_unsupported(model.graph)
    constants = {t.name: to_array(t.name, t) for t in model.graph.initializer}
    nodes = plain_nodes(model.graph.node, constants, opset, {o.name for o in model.graph.output})
    inputs = [graph_input(i) for i in model.graph.input if i.name not in constants]
    return Graph(nodes, constants, inputs, [o.name for o in model.graph.output])


def default_opset(model: onnx.ModelProto) -> int:
    """The version of the default operator set, if it is one that the operators here follow."""
    opset = next((o.version for o in model.opset_import if o.domain in DEFAULT_DOMAINS), 0)
    if opset not in OPSETS:
        raise UnsupportedError(
            f"the ONNX graph uses operator set {opset}",
            f"{OPSETS.start} to {OPSETS.stop - 1} are supported",
            "export it again at opset 18, or convert it with onnx.version_converter",
        )
    return opset


def unsupported(graph: onnx.GraphProto) -> dict[str, str]:
    """Operators that are not in the table -> the name of the first node that uses each."""
    found: dict[str, str] = {}
    for index, node in enumerate(graph.node):
        default = node.domain in DEFAULT_DOMAINS
        if not default or (node.op_type not in OPERATORS and node.op_type != "Constant"):
            op = node.op_type if default else f"{node.domain}.{node.op_type}"
            found.setdefault(op, node_name(node, index))
    return found


def expand_definitions(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Replace unsupported operators that the specification defines by a graph of others."""
    import onnx.inliner

    expandable: list[tuple[str, str]] = []
    for op in unsupported(model.graph):
        if onnx.defs.has(op, opset, "") and onnx.defs.get_schema(op, opset, "").has_function:
            expandable.append(("", op))
    if not expandable:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if ("", node.op_type) in expandable:
            # The inliner takes only attributes that are written out.
            given = {attribute.name for attribute in node.attribute}
            declared = onnx.defs.get_schema(node.op_type, opset, "").attributes
            defaults = [a.default_value for name, a in declared.items() if name not in given]
            node.attribute.extend(value for value in defaults if value.name)
    return onnx.inliner.inline_selected_functions(copy, expandable, inline_schema_functions=True)


def refuse_unsupported(graph: onnx.GraphProto) -> None:
    """Raise one error that lists everything in the graph that is not supported."""
    missing = unsupported(graph)
    if graph.sparse_initializer:
        missing["sparse initializers"] = graph.sparse_initializer[0].values.name
    if missing:
        listed = ", ".join(f"{op} (node {name!r})" for op, name in sorted(missing.items()))
        raise UnsupportedError("the ONNX graph uses operators that edgekit does not know", listed)


def node_name(node: onnx.NodeProto, index: int) -> str:
    return node.name or f"{node.op_type}_{index}"


def to_array(name: str, tensor: onnx.TensorProto) -> np.ndarray:
    """A constant as an array; bfloat16 as the extension type of the package ml_dtypes."""
    import onnx

    if tensor.data_type not in TORCH_TYPES:
        known = {code: kind for kind, code in onnx.TensorProto.DataType.items()}
        kind = known.get(tensor.data_type, tensor.data_type)
        raise UnsupportedError(f"the ONNX constant {name!r}", f"its type {kind} is not supported")
    try:
        return onnx.numpy_helper.to_array(tensor)
    except ValueError as error:
        raise InputError(f"the ONNX constant {name!r} is damaged", str(error)) from error


def plain_nodes(
    protos: Iterable[onnx.NodeProto], constants: dict[str, np.ndarray], opset: int, outputs: set
) -> list[Node]:
    """Nodes as plain data. Constant nodes join ``constants``; other names of a constant
    (Identity, with which exporters share weights) are replaced by its own."""
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    for index, proto in enumerate(protos):
        inputs = tuple(renamed.get(name, name) for name in proto.input)
        attributes = {a.name: attribute_value(proto, a) for a in proto.attribute}
        if proto.op_type == "Constant":
            constants[proto.output[0]] = constant_array(node_name(proto, index), attributes)
        elif proto.op_type == "Identity" and inputs[0] in constants.keys() - outputs:
            renamed[proto.output[0]] = inputs[0]
        else:
            name = node_name(proto, index)
            nodes.append(Node(name, proto.op_type, inputs, tuple(proto.output), attributes, opset))
    return nodes


def attribute_value(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> Any:
    """An attribute as a number, text, list or array."""
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return to_array(f"{node.name}.{attribute.name}", value)
    if isinstance(value, (int, float)):
        return value
    if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return list(value)
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [text.decode("utf-8", "replace") for text in value]
    raise UnsupportedError(f"ONNX node {node.name!r} ({node.op_type})", "it holds a graph")


def constant_array(name: str, attributes: dict[str, Any]) -> np.ndarray:
    """The value of a Constant node, which may be given in several ways."""
    for key, dtype in (
        ("value", None),
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in attributes:
            return np.asarray(attributes[key], dtype=dtype)
    raise UnsupportedError(f"ONNX node {name!r} (Constant)", "its value is text or sparse")


def graph_input(value: onnx.ValueInfoProto) -> GraphInput:
    """An input as plain data.

    Raises:
        UnsupportedError: it is not a tensor (a sequence, an optional, a map).
    """
    if value.type.WhichOneof("value") != "tensor_type":
        raise UnsupportedError(f"the ONNX input {value.name!r}", "it is not a tensor")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return GraphInput(value.name, tensor.elem_type, None)
    dims: list[int | str | None] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value > 0:
            dims.append(dim.dim_value)
        else:
            dims.append(dim.dim_param or None)  # some tools write 0 or -1 for "unknown"
    return GraphInput(value.name, tensor.elem_type, tuple(dims))
