"""Compute once, at export, what does not depend on the inputs."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils import _pytree as pytree

from .base import Pass, in_place_operators
from .surgery import add_constant, constant_of, copy_graph, mutated_names, rebuild

# Folding may trade arithmetic for bytes, but not a scalar for megabytes.
GROWTH_LIMIT = 4
SMALL = 65536


class FoldConstants(Pass):
    """Replace sub-graphs of parameters, buffers and literals by their value.

    Rules:
        1. A call whose tensor inputs are all constant (weight standardisation, relative
           position tables, ``arange``, resized position embeddings) becomes a stored
           constant.
        2. Only the frontier is stored: what feeds further constants is dropped.

    Must not touch random operators; calls with symbolic sizes; a state that the graph
    writes back; an output of the graph; results over 64 Ki elements that are more than
    4 times the size of what they are computed from (an ``expand`` of a scalar).
    Requires a functional graph.
    """

    name = "fold_constants"

    def requires(self, program: ExportedProgram) -> str:
        found = in_place_operators(program)
        return f"{', '.join(found)} writes in place; run decompose first" if found else ""

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        frozen = mutated_names(program)
        known = {name: t for name, t in constant_of(program).items() if name not in frozen}
        module = copy_graph(program)
        values: dict[Node, object] = {
            node: known[node.name].detach()
            for node in module.graph.find_nodes(op="placeholder")
            if node.name in known
        }
        stored = set(values)
        for node in module.graph.nodes:
            if node.op == "call_function" and _foldable(node, values):
                values[node] = _evaluate(node, values)
        frontier = [
            node
            for node, value in values.items()
            if node not in stored
            and isinstance(value, torch.Tensor)
            and any(user not in values for user in node.users)
        ]
        if not frontier:
            return program
        return _store(program, module, {node: values[node] for node in frontier})


def _foldable(node: Node, values: dict[Node, object]) -> bool:
    inputs = node.all_input_nodes
    if not all(source in values for source in inputs):
        return False
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return False
    result = node.meta.get("val")
    tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    if not tensors or any(isinstance(size, torch.SymInt) for t in tensors for size in t.shape):
        return False
    if any(user.op == "output" for user in node.users):
        return False
    before = sum(t.numel() for t in map(values.get, inputs) if isinstance(t, torch.Tensor))
    after = sum(t.numel() for t in tensors)
    return after <= SMALL or after <= GROWTH_LIMIT * before


def _evaluate(node: Node, values: dict[Node, object]) -> object:
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
    with torch.no_grad():
        result = node.target(*args, **kwargs)
    if not isinstance(result, torch.Tensor):
        return result
    # A view of a weight would keep the whole weight alive, and serialise strangely; so would an
    # axis of length 1 that was expanded, which counts as contiguous and keeps its stride of 0.
    return result.clone(memory_format=torch.contiguous_format)


def _store(
    program: ExportedProgram, module: torch.fx.GraphModule, found: dict[Node, torch.Tensor]
) -> ExportedProgram:
    specs = list(program.graph_signature.input_specs)
    constants = dict(program.constants)
    for node, value in found.items():
        placeholder = add_constant(module, specs, constants, f"folded_{node.name}", value)
        node.replace_all_uses_with(placeholder)
    return rebuild(program, module, constants=constants, inputs=specs)
