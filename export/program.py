"""The common graph: what every target is lowered from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.manifest import AxisRange, PickedRows, StatePair, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import Node


_HERE = str(Path(__file__).parent)


@dataclass(frozen=True)
class Program:
    """One captured graph with its contract.

    Attributes:
        name: the graph's name in the bundle.
        exported: the functional graph; its user inputs and outputs are flat, in the order
            of ``inputs`` and ``outputs``.
        inputs, outputs: names, dtypes and shapes; a string in a shape names a dynamic axis.
        dynamic: the sizes that each dynamic axis may take.
        states: output-to-input pairs of a streaming graph.
        picked: which rows the outputs are of, where the network picks them itself.
        precision: floating-point type of the weights and the arithmetic.
    """

    name: str
    exported: ExportedProgram
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dynamic: Mapping[str, AxisRange] = field(default_factory=dict)
    states: tuple[StatePair, ...] = ()
    picked: PickedRows | None = None
    precision: str = "fp32"

    def with_exported(self, exported: ExportedProgram) -> Program:
        """The same contract over a rewritten graph."""
        return replace(self, exported=exported)

    def example_inputs(self) -> tuple[torch.Tensor, ...]:
        """The tensors that the graph was captured with, flat and in order."""
        args, _ = self.exported.example_inputs
        return tuple(args)

    def dynamic_shapes(self) -> tuple[tuple[object, ...], ...] | None:
        """The sizes of the flat inputs as ``torch.export`` wants them; None if all are fixed."""
        if not self.dynamic:
            return None
        from torch.export import Dim

        def size(axis: int | str) -> object:
            if isinstance(axis, int):
                return Dim.STATIC
            limits = self.dynamic[axis]
            return Dim.DYNAMIC(min=limits.min, max=limits.max)

        return tuple(tuple(size(axis) for axis in spec.shape) for spec in self.inputs)


def describe_node(node: Node) -> str:
    """A node as a user finds it again: operator, module path and source line.

    For example ``aten.conv2d.default (conv2d_3) in stages.0.depth_conv at models/net.py:41``.
    """
    return describe_place(str(node.target), node.name, module_path(node), source_line(node))


def describe_place(operator: str, name: str, module: str, line: str) -> str:
    """``operator (name) in module at line``, without what is not known."""
    text = f"{operator} ({name})"
    if module:
        text += f" in {module}"
    return f"{text} at {line}" if line else text


def module_path(node: Node) -> str:
    """Dotted path of the innermost module that the node came from, or an empty string."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] if isinstance(entry, tuple) else str(entry) for entry in stack.values()]
    return without_wrapper(paths[-1]) if paths else ""


def without_wrapper(path: str) -> str:
    """A module's path in the user's network, which capture wraps and calls ``model``."""
    return path.removeprefix("model").removeprefix(".")


def source_line(node: Node) -> str:
    """``file:line`` of the innermost frame outside torch, or an empty string."""
    return own_line(node.meta.get("stack_trace") or "")


def own_line(stack_trace: str) -> str:
    """``file:line`` of the user's innermost frame in a formatted stack trace.

    That is neither in torch nor in the capture around the network; of a network of torch's
    own layers, the innermost in torch.
    """
    lines = [line.strip() for line in stack_trace.splitlines()]
    frames = [line for line in lines if line.startswith('File "') and _HERE not in line]
    own = [frame for frame in frames if "/torch/" not in frame.replace("\\", "/")]
    if not (own or frames):
        return ""
    _, path, rest = (own or frames)[-1].split('"', 2)
    line = rest.removeprefix(", line ").split(",", 1)[0]
    return f"{path}:{line}"
