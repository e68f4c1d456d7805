"""Keep the names of values over a decomposition, which numbers nodes anew.

Without this a value of the lowered graph can have the name of another value of the common
graph, and whoever looks inside an artifact by name is misled.
"""

from __future__ import annotations

from collections.abc import Callable

from torch.export import ExportedProgram
from torch.fx import Node

from .surgery import copy_graph, rebuild, set_name

_MARK = "edgekit_name"


def mark_names(program: ExportedProgram) -> ExportedProgram:
    """A copy whose nodes carry their names in what torch hands on to their successors."""
    module = copy_graph(program)
    for node in module.graph.nodes:
        node.meta["custom"] = {**node.meta.get("custom", {}), _MARK: (node.name, _shape(node))}
    return rebuild(program, module)


def restore_names(program: ExportedProgram, spell: Callable[[str], str]) -> ExportedProgram:
    """Every marked name, as ``spell`` writes it, back to the node that has its value.

    Of the nodes that one was decomposed into that is the last of its shape. No other node
    keeps a name that was marked.
    """
    module = copy_graph(program)
    nodes = [node for node in module.graph.nodes if node.op == "call_function"]
    marked: dict[str, Node | None] = {}
    for node in nodes:
        name, shape = node.meta.get("custom", {}).get(_MARK, ("", ""))
        if name:
            marked[name] = node if _shape(node) == shape else marked.get(name)
    taken = {node.name for node in module.graph.nodes}
    for node in nodes:
        if node.name in marked and marked[node.name] is not node:
            set_name(node, _free(f"{node.name}_part", taken))
    for name, node in marked.items():
        if node is not None and node.name != spell(name):
            set_name(node, spell(name))
    return rebuild(program, module)


def _shape(node: Node) -> str:
    value = node.meta.get("val")
    return str(tuple(value.shape)) if hasattr(value, "shape") else ""


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
