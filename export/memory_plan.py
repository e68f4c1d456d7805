"""How much memory a graph asks of a device: weights, and what must be held at once.

A bound before any engine is built: each operator's results lie in memory from where they are
computed to their last use, in the order of the graph; a view of a value holds that value. Engines
fuse operators and need less for values; they add their own code and work space, which only the
device tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.manifest import AxisRange, TensorSpec

from .program import Program

if TYPE_CHECKING:
    from torch.fx import Node


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that one graph asks for.

    Attributes:
        weights: of the file that holds them. inputs, outputs: of those arrays.
        values: the most that results of operators take at one time, outputs included.
    """

    weights: int
    inputs: int
    outputs: int
    values: int

    @property
    def total(self) -> int:
        """All of it at once."""
        return self.weights + self.inputs + self.values

    def to_json(self) -> dict[str, int]:
        """As a recipe and an artifact's details hold it."""
        return {
            "weights_bytes": self.weights,
            "inputs_bytes": self.inputs,
            "outputs_bytes": self.outputs,
            "values_bytes": self.values,
            "total_bytes": self.total,
        }


def plan_memory(program: Program, weights: int) -> MemoryPlan:
    """The plan of a graph whose stored weights take ``weights`` bytes.

    Dynamic axes count with their largest sizes.
    """
    return MemoryPlan(
        weights=weights,
        inputs=sum(_bytes_of(spec, program.dynamic) for spec in program.inputs),
        outputs=sum(_bytes_of(spec, program.dynamic) for spec in program.outputs),
        values=_peak(program),
    )


def _bytes_of(spec: TensorSpec, dynamic: Mapping[str, AxisRange]) -> int:
    import numpy as np

    size = np.dtype("uint16" if spec.dtype == "bfloat16" else spec.dtype).itemsize
    for axis in spec.shape:
        size *= dynamic[axis].max if isinstance(axis, str) else axis
    return size


def _peak(program: Program) -> int:
    """The most bytes of operators' results that are alive at one node."""
    nodes = list(program.exported.graph.nodes)
    order = {node: index for index, node in enumerate(nodes)}
    base = _bases(nodes)
    last: dict[Node, int] = {}
    for node in nodes:
        for user in node.users:
            last[base[node]] = max(last.get(base[node], 0), order[user])
    sizes = _Sizes(program.exported.range_constraints)
    alive = peak = 0
    ending: dict[int, int] = {}
    for index, node in enumerate(nodes):
        if node.op == "call_function" and base[node] is node:
            size = sum(map(sizes.of, _tensors(node.meta.get("val"))))
            alive += size
            end = last.get(node, index)
            ending[end] = ending.get(end, 0) + size
        peak = max(peak, alive)
        alive -= ending.pop(index, 0)
    return peak


def _bases(nodes: list[Node]) -> dict[Node, Node]:
    """Each node's own memory: that of its source where the node is a view of it."""
    base: dict[Node, Node] = {}
    for node in nodes:
        source = node.args[0] if node.args else None
        is_view = node.op == "call_function" and (
            getattr(node.target, "is_view", False) or "getitem" in str(node.target)
        )
        base[node] = base[source] if is_view and source in base else node
    return base


def _tensors(value: Any) -> Iterator[Any]:
    for one in value if isinstance(value, list | tuple) else [value]:
        if hasattr(one, "element_size"):
            yield one


class _Sizes:
    """Bytes of a traced tensor, with dynamic sizes at their largest."""

    def __init__(self, ranges: Mapping[Any, Any]) -> None:
        self._largest = {symbol: limits.upper for symbol, limits in ranges.items()}

    def of(self, tensor: Any) -> int:
        size = tensor.element_size()
        for axis in tensor.shape:
            size *= axis if isinstance(axis, int) else self._largest_of(axis)
        return size

    def _largest_of(self, axis: Any) -> int:
        expression = axis.node.expr
        return int(expression.subs(self._largest))
