"""Sixteen-bit floating point: the whole graph in fp16 or bf16, its contract unchanged."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.fx import Graph, Node

from edgekit.errors import UnsupportedError

from ..program import Program
from .surgery import rename_user_inputs

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

_WITHOUT_BF16 = (torch.ops.aten.hardswish.default, torch.ops.aten.hardsigmoid.default)
_SOFTMAX = (torch.ops.aten.softmax.int, torch.ops.aten.log_softmax.int)
_OF_ANGLES = (torch.ops.aten.sin.default, torch.ops.aten.cos.default)
_OF_ONE_TYPE = {
    torch.ops.aten.linear.default,
    torch.ops.aten.matmul.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.layer_norm.default,
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv_transpose2d.input,
}

# Several targets may want the same program in the same precision.
_cast: WeakKeyDictionary[object, dict[str, Program]] = WeakKeyDictionary()


class CastGraph(nn.Module):
    """Runs ``inner`` in ``dtype`` between floating-point inputs and outputs of other types."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype, outputs: Sequence[str]) -> None:
        super().__init__()
        self.model = inner.to(dtype)
        self._dtype = dtype
        self._outputs = [getattr(torch, name) for name in outputs]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cast = [t.to(self._dtype) if t.is_floating_point() else t for t in tensors]
        results = self.model(*cast)
        return tuple(r.to(dtype) for r, dtype in zip(results, self._outputs, strict=True))


def cast_precision(program: Program, precision: str) -> Program:
    """The program with weights and arithmetic in ``precision``.

    Rules:
        1. Every floating-point weight and constant becomes ``precision``.
        2. Floating-point inputs are cast on entry and outputs on exit.
        3. In bf16, hard swish and hard sigmoid become clamps, which TensorRT has in bf16.
        4. The argument of a sine or cosine that is made of constants and integers alone, such
           as a rotary position, stays in fp32, and what comes out is cast: an angle of
           thousands of radians has no place in half precision.

    Must not touch types that the network itself states, as far as the captured graph has them:
    ``softmax(x, dtype=float32)`` stays, ``x.float()`` did nothing in fp32 and is gone.
    The graph is traced again, so that every node's type follows from the weights'.

    Args:
        precision: ``fp32`` (returns the program itself), ``fp16`` or ``bf16``.

    Raises:
        UnsupportedError: ``precision`` is not a floating-point type, or the network states
            types that do not go together in it.
    """
    if precision == program.precision:
        return program
    if precision not in DTYPES:
        raise UnsupportedError(
            f"precision {precision} is not available",
            f"this version exports fp32, {', '.join(DTYPES)}",
        )
    found = _cast.setdefault(program.exported, {})
    if precision not in found:
        found[precision] = _retrace(program, precision)
    return found[precision]


def _retrace(program: Program, precision: str) -> Program:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A copy: Module.to would change the program's weights, which are the network's.
            inner = copy.deepcopy(program.exported.module())
            _cast_constants(inner, DTYPES[precision])
            _drop_assertions(inner)
            _narrow_softmax(inner, DTYPES[precision])
            angles = _narrow_angles(inner, program.exported.module(), DTYPES[precision])
            outer = CastGraph(inner, DTYPES[precision], [spec.dtype for spec in program.outputs])
            for name, value in angles.items():
                _put(inner, name, value)
            shapes = program.dynamic_shapes()
            # One tuple for the parameter `*tensors`.
            shapes = None if shapes is None else (shapes,)
            exported = torch.export.export(
                outer, program.example_inputs(), dynamic_shapes=shapes, strict=False
            )
            _refuse_mixed(exported.graph)
            _copy_origins(program.exported.graph, exported.graph)
            exported = exported.run_decompositions(_table(precision))
    except Exception as error:
        raise UnsupportedError(
            f"the network does not trace in {precision}", f"{type(error).__name__}: {error}"
        ) from error
    names = [spec.name for spec in program.inputs]
    return replace(program, exported=rename_user_inputs(exported, names), precision=precision)


def _cast_constants(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast what hangs on a module as a plain tensor, which ``Module.to`` passes over.

    Folded constants do: they are neither parameters nor buffers of the network's own.
    """
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                setattr(part, name, value.to(dtype))


def _drop_assertions(module: nn.Module) -> None:
    """Remove what checks that a tensor has the type with which the network was captured."""
    for part in module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in list(part.graph.nodes):
                if node.target is torch.ops.aten._assert_tensor_metadata.default:
                    part.graph.erase_node(node)
            part.recompile()


def _refuse_mixed(graph: Graph) -> None:
    """Raise TypeError where a product is of numbers of two types, which no target computes.

    Tracing does not see all of these.
    """
    for node in graph.nodes:
        if node.op != "call_function" or node.target not in _OF_ONE_TYPE:
            continue
        values = [one.meta.get("val") for one in node.all_input_nodes]
        types = {v.dtype for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()}
        if len(types) > 1:
            raise TypeError(
                f"{node.name} has inputs of {', '.join(map(str, sorted(types, key=str)))}"
            )


def _narrow_softmax(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast what a softmax that states fp32 gives back to ``dtype``.

    Networks write ``softmax(x, dtype=float32).to(x.dtype)``; captured in fp32, the second part
    does nothing and is gone. The softmax itself stays in the type that the network states.
    """
    for part in module.modules():
        if not isinstance(part, torch.fx.GraphModule):
            continue
        for node in list(part.graph.nodes):
            if node.target in _SOFTMAX and torch.float32 in (*node.args, *node.kwargs.values()):
                with part.graph.inserting_after(node):
                    narrow = part.graph.call_function(torch.ops.aten.to.dtype, (node, dtype))
                node.replace_all_uses_with(narrow, lambda user, narrow=narrow: user is not narrow)
        part.recompile()


def _narrow_angles(
    module: torch.fx.GraphModule, exact: torch.fx.GraphModule, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Cast what sines and cosines of angles give; the constants that the angles are made of.

    Args:
        exact: the same module with its constants as they were.
    """
    found: dict[str, torch.Tensor] = {}
    for node in [n for n in module.graph.nodes if n.target in _OF_ANGLES]:
        constants = _angle_constants(node.args[0])
        if constants is None:
            continue
        for name in constants:
            found[name] = operator.attrgetter(name)(exact).detach().clone()
        with module.graph.inserting_after(node):
            narrow = module.graph.call_function(torch.ops.aten.to.dtype, (node, dtype))
        node.replace_all_uses_with(narrow, lambda user, narrow=narrow: user is not narrow)
    module.recompile()
    return found


def _angle_constants(node: Node) -> set[str] | None:
    """The floating-point constants in what a node is computed from; None if more goes in."""
    waiting, names, seen = [node], set(), set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        value = one.meta.get("val")
        if isinstance(value, torch.Tensor) and not value.is_floating_point():
            continue
        if one.op == "get_attr":
            names.add(str(one.target))
        elif one.op != "call_function":
            return None
        waiting += one.all_input_nodes
    return names


def _put(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Replace a tensor of a module, whatever it hangs there as."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    if last in owner._parameters:
        owner._parameters[last] = nn.Parameter(value, requires_grad=False)
    elif last in owner._buffers:
        owner._buffers[last] = value
    else:
        setattr(owner, last, value)


def _copy_origins(before: Graph, after: Graph) -> None:
    """Give each node of the new trace the module path and source line of the one it repeats.

    The new graph has the old one's calls in the old one's order, and casts between them.
    """
    rest = iter(after.nodes)
    for old in before.nodes:
        if old.op != "call_function":
            continue
        for new in rest:
            if new.op == "call_function" and new.target == old.target:
                for key in ("nn_module_stack", "stack_trace"):
                    if key in old.meta:
                        new.meta[key] = old.meta[key]
                break


def _table(precision: str) -> dict:
    if precision != "bf16":
        return {}
    table = torch.export.default_decompositions()
    return {operator: table[operator] for operator in _WITHOUT_BF16}
