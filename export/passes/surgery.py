"""Editing an ExportedProgram: what the passes need and torch does not offer.

An ExportedProgram is a graph, a signature that says what each placeholder stands for, and
the tensors. A pass must keep the three in step; these helpers do, and never change the
program they were given.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputSpec,
    TensorArgument,
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
        set_name(new, old.name)
    return GraphModule(program.graph_module, graph)


def set_name(node: Node, name: str) -> None:
    """Give ``node`` exactly this name, which no other node may have.

    fx itself would number a name that it has seen before, or that is one of Python's builtins
    (many a network calls its argument ``input``).
    """
    node.name = name
    node.graph._graph_namespace._rename_object(node, name)


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
    root = program.module_call_graph[0]
    # The root lists no outputs of its own: names there do not follow later decompositions.
    tree = pytree.tree_structure(tuple(range(len(outputs))))
    return [replace(root, signature=replace(root.signature, outputs=[], out_spec=tree))]


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
    taken = {*nodes, *names}
    for name in names:
        # Another node may have the wanted name: move it out of the way first.
        if name in nodes and nodes[name] not in users:
            free = f"{name}_inner"
            while free in taken:
                free += "_"
            taken.add(free)
            set_name(nodes[name], free)
    for node, name in zip(users, names, strict=True):
        node.target = name
        set_name(node, name)
    return rebuild(program, module)


def call(
    graph: torch.fx.Graph, origin: Node, operator: torch._ops.OpOverload, *args: object
) -> Node:
    """Insert a call at the graph's insertion point, with the shape and type it will have.

    It keeps the module path and source line of ``origin``, which it stands for.
    """
    node = graph.call_function(operator, args)
    node.meta = {k: v for k, v in origin.meta.items() if k not in ("val", "tensor_meta")}
    fake = origin.meta["val"].fake_mode
    values = torch.fx.node.map_arg(args, lambda n: n.meta["val"])
    with fake:
        node.meta["val"] = operator(*values)
    return node


def add_constant(
    module: GraphModule,
    specs: list[InputSpec],
    constants: dict[str, torch.Tensor],
    name: str,
    value: torch.Tensor,
) -> Node:
    """Add a stored tensor to a graph being edited: its placeholder, ``specs`` and ``constants``.

    Constants stand before the user's inputs, as torch.export has them.
    """
    users = [i for i, spec in enumerate(specs) if spec.kind is InputKind.USER_INPUT]
    placeholders = module.graph.find_nodes(op="placeholder")
    position = users[0] if users else len(specs)
    anchor = placeholders[position] if users else _after_placeholders(module)
    with module.graph.inserting_before(anchor):
        node = module.graph.placeholder(f"c_{name}")
    fake = next(
        n.meta["val"].fake_mode
        for n in module.graph.nodes
        if isinstance(n.meta.get("val"), torch._subclasses.FakeTensor)
    )
    node.meta["val"] = fake.from_tensor(value, static_shapes=True)
    constants[target := f"added.{name}"] = value
    argument = TensorArgument(name=node.name)
    specs.insert(position, InputSpec(InputKind.CONSTANT_TENSOR, argument, target))
    return node


def _after_placeholders(module: GraphModule) -> Node:
    return next(node for node in module.graph.nodes if node.op != "placeholder")


def is_op(node: object, *operators: torch._ops.OpOverload) -> bool:
    """Whether ``node`` calls one of ``operators``."""
    return isinstance(node, Node) and node.op == "call_function" and node.target in operators


def supersede(graph: torch.fx.Graph, old: Node, new: Node) -> None:
    """Let ``new``, which was made for it, take the place and the name of ``old``, which goes.

    The name is how a value is found again in what a target emits (see ``locate``).
    """
    name = old.name
    old.replace_all_uses_with(new)
    graph.erase_node(old)
    set_name(new, name)
