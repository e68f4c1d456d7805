"""Remove what no output needs, tensors included."""

from __future__ import annotations

from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from .base import Pass
from .surgery import copy_graph, rebuild


class RemoveDeadCode(Pass):
    """Drop nodes without users, and the weights that only they used.

    Rules:
        1. A call without users and without effects goes, repeatedly.
        2. A parameter, buffer or constant without users goes, from the graph, the
           signature and the stored tensors.

    Must not touch user inputs: an unused input stays part of the contract.
    Requires nothing. Ensures that every tensor that is stored is used.
    """

    name = "remove_dead_code"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        module = copy_graph(program)
        module.graph.eliminate_dead_code()
        specs = []
        placeholders = module.graph.find_nodes(op="placeholder")
        for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
            if node.users or spec.kind is InputKind.USER_INPUT:
                specs.append(spec)
            else:
                module.graph.erase_node(node)
        return rebuild(program, module, inputs=specs)

    def ensures(self, program: ExportedProgram) -> str:
        unused = [
            spec.target
            for node, spec in zip(
                program.graph.find_nodes(op="placeholder"),
                program.graph_signature.input_specs,
                strict=True,
            )
            if not node.users and spec.kind is not InputKind.USER_INPUT
        ]
        return f"{', '.join(map(str, unused))} is unused" if unused else ""
