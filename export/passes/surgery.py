"""Editing an ExportedProgram: what the passes need and torch does not offer.

An ExportedProgram is a graph, a signature that says what each placeholder stands for, and
the tensors. A pass must keep the three in step; these helpers do, and never change the
program they were given.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputSpec,
)
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

TENSOR_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def copy_graph(program: ExportedProgram) -> GraphModule:
    """A copy of the program's graph that a pass may edit (tensors are shared)."""
    graph = torch.fx.Graph()
    graph._codegen = copy.copy(program.graph._codegen)
    copies: dict[Node, Node] = {}
    value, original = graph.graph_copy(program.graph, copies, return_output_node=True)
    graph.output(value).meta = dict(original.meta)
    for old, new in copies.items():
        new.meta = dict(old.meta)
    return GraphModule(program.graph_module, graph)


def rebuild(
    program: ExportedProgram,
    module: GraphModule,
    *,
    state: Mapping[str, torch.Tensor] | None = None,
    constants: Mapping[str, torch.Tensor] | None = None,
    inputs: Sequence[InputSpec] | None = None,
    outputs: Sequence[OutputSpec] | None = None,
) -> ExportedProgram:
    """A program of the edited graph; what is not given is taken from ``program``.

    Tensors that no placeholder refers to any more are dropped.
    """
    module.graph.lint()
    module.recompile()
    signature = copy.deepcopy(program.graph_signature)
    specs = copy.deepcopy(list(inputs if inputs is not None else signature.input_specs))
    # The signature refers to nodes by name; position is what the two have in common.
    placeholders = module.graph.find_nodes(op="placeholder")
    for spec, node in zip(specs, placeholders, strict=True):
        spec.arg.name = node.name
    results = module.graph.output_node().args[0]
    returned = list(outputs if outputs is not None else signature.output_specs)
    for spec, node in zip(returned, results, strict=True):
        if isinstance(node, Node):
            spec.arg.name = node.name
    used = {spec.target for spec in specs if spec.target is not None}
    tensors = dict(state if state is not None else program.state_dict)
    fixed = dict(constants if constants is not None else program.constants)
    return ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=ExportGraphSignature(specs, returned),
        state_dict={name: tensor for name, tensor in tensors.items() if name in used},
        range_constraints=program.range_constraints,
        module_call_graph=_calls(program, outputs),
        example_inputs=program.example_inputs,
        constants={name: value for name, value in fixed.items() if name in used},
        verifiers=program._verifiers,
    )


def _calls(program: ExportedProgram, outputs: Sequence[OutputSpec] | None) -> list[ModuleCallEntry]:
    """The record of module calls, whose root says how many outputs there are."""
    if outputs is None:
        return program.module_call_graph
    root = copy.deepcopy(program.module_call_graph[0])
    root.signature.outputs = [spec.arg for spec in outputs]
    root.signature.out_spec = pytree.tree_structure(tuple(range(len(outputs))))
    return [root]


def constant_of(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Per placeholder that stands for a tensor (parameter, buffer, constant): that tensor."""
    found = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind in TENSOR_KINDS:
            found[spec.arg.name] = (
                program.state_dict[spec.target]
                if spec.target in program.state_dict
                else program.constants[spec.target]
            )
    return found


def mutated_names(program: ExportedProgram) -> set[str]:
    """Placeholders whose tensors the graph writes back (states): never constant."""
    signature = program.graph_signature
    written = set(signature.buffers_to_mutate.values())
    return {
        spec.arg.name for spec in signature.input_specs if spec.target in written and spec.target
    }


def user_inputs(program: ExportedProgram) -> list[str]:
    """Names of the placeholders that the caller fills, in order."""
    return [
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    ]


def rename_user_inputs(program: ExportedProgram, names: Sequence[str]) -> ExportedProgram:
    """The program with its user inputs called ``names``, in order."""
    module = copy_graph(program)
    nodes = {node.name: node for node in module.graph.nodes}
    users = [nodes[name] for name in user_inputs(program)]
    for name in names:
        # Another node may have the wanted name: move it out of the way first.
        if name in nodes and nodes[name] not in users:
            nodes[name]._rename(f"{name}_inner")
    for node, name in zip(users, names, strict=True):
        node.target = name
        node._rename(name)
    return rebuild(program, module)


def is_op(node: object, *operators: torch._ops.OpOverload) -> bool:
    """Whether ``node`` calls one of ``operators``."""
    return isinstance(node, Node) and node.op == "call_function" and node.target in operators
