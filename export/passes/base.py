"""What a pass over the common graph is.

A pass takes an ExportedProgram and returns a new one. It states what it requires of its
input and what it ensures of its result; both are checked, so that a fault names the pass
and not some target three steps later.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch.export import ExportedProgram

from edgekit.errors import EdgekitError


class PassError(EdgekitError):
    """A pass was given a graph that it does not take, or broke its own promise."""


class Pass(ABC):
    """One rewrite of the common graph; see each pass' docstring for its rules."""

    name: ClassVar[str]

    def __call__(self, program: ExportedProgram) -> ExportedProgram:
        """Check, rewrite, check."""
        if problem := self.requires(program):
            raise PassError(f"pass {self.name} cannot run", problem)
        result = self.rewrite(program)
        if problem := self.ensures(result):
            raise PassError(f"pass {self.name} broke its promise", problem)
        return result

    def requires(self, program: ExportedProgram) -> str:
        """Why ``program`` cannot be rewritten, or an empty string."""
        return ""

    @abstractmethod
    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        """The rewritten program; ``program`` itself is not changed."""

    def ensures(self, program: ExportedProgram) -> str:
        """What is wrong with the result, or an empty string."""
        return ""


def in_place_operators(program: ExportedProgram) -> list[str]:
    """Operators in the graph that write to an argument."""
    return sorted(
        {
            str(node.target)
            for node in program.graph.nodes
            if node.op == "call_function" and getattr(_schema(node), "is_mutable", False)
        }
    )


def _schema(node: object) -> object:
    return getattr(getattr(node, "target", None), "_schema", None)
