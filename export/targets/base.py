"""What a target is: one file here, one narrow interface.

A target lowers the common graph to the files that one runtime loads. It never decides
whether it succeeded: the verifier does, with the level that is possible on this machine.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekit.bundle import Files
from edgekit.errors import UnsupportedError
from edgekit.manifest import Artifact, Graph, Level

from ...quant.plan import QuantPlan
from ...runtimes.sessions.base import Session
from ..program import Program, describe_node


@dataclass(frozen=True)
class Lowered:
    """What a target made, with paths relative to the folder it was given.

    Attributes:
        file: what the runtime loads. extra: further files that belong to it.
        operators: how often each operator occurs in the emitted program.
        details: facts worth keeping (opset, delegation, engines, recipe).
        effective_precision: what was emitted, where the target knows it without running.
        notes: what a reader of the verification should know of how it was made.
        unrun: what was checked instead, where nothing can run it.
    """

    file: str
    extra: tuple[str, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    effective_precision: str | None = None
    notes: tuple[str, ...] = ()
    unrun: tuple[str, ...] = ()


class Target(ABC):
    """One kind of edge runtime.

    Attributes:
        name: as typed after ``--target``.
        runtime: the session that runs the artifact (see ``edgekit.runtimes``).
        level: how strongly an artifact is verified where it cannot be run; where its
            runtime is, the verifier loads it in its session and compares (``ran``).
    """

    name: ClassVar[str]
    runtime: ClassVar[str]
    level: Level = "ran"

    @abstractmethod
    def check(self) -> None:
        """Raise MissingBackendError, saying what to install, if the toolchain is not here."""

    @abstractmethod
    def lower(self, program: Program, precision: str, folder: Path) -> Lowered:
        """Write the artifact's files into ``folder`` (exists, empty).

        ``program`` is the common graph in fp32; ``precision`` is what to emit.

        Raises:
            UnsupportedError: an operator, a shape or the precision is not supported; it
                names the operator and the module that it comes from.
        """

    def lower_quantised(self, program: Program, plan: QuantPlan, folder: Path) -> Lowered:
        """Write the quantised artifact's files into ``folder`` (exists, empty).

        Raises:
            UnsupportedError: this target does not do what ``plan`` asks; it says what it does.
            MissingBackendError: the library that quantises for it is not installed.
        """
        raise UnsupportedError(
            f"{self.name} does not take {plan.precision}", "it has no quantiser in edgekit"
        )

    def interpret(self, files: Files, graph: Graph, artifact: Artifact) -> Session | None:
        """Something that runs the artifact as emitted where its runtime is not.

        Returns:
            a session, or None where the target has no such thing.

        Raises:
            UnsupportedError: it does not know an operator; it names it.
            MissingBackendError: what it needs is not installed.
            BundleError: the artifact is damaged.
        """
        return None

    def stand_in(self, files: Files, graph: Graph, artifact: Artifact) -> Session | None:
        """Another runtime that computes the artifact's own graph where nothing else does: it
        tells what quantising cost, not whether this target's runtime computes it well."""
        return None

    def tap(
        self,
        files: Files,
        artifact: Artifact,
        names: Sequence[str],
        inputs: Mapping[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        """Values inside the artifact as emitted, for those nodes of the common graph that
        it still has under their names; empty where its runtime cannot show any."""
        return {}


def refuse(target: str, program: Program, operator: str, why: str) -> UnsupportedError:
    """The error for an operator that a target does not take, with the place it comes from."""
    place = find_operator(program, operator)
    return UnsupportedError(
        f"{target} does not support {operator}" + (f", from {place}" if place else ""),
        shorten(why),
        "leave the target out, or rewrite the operator in the model",
    )


def find_operator(program: Program, operator: str) -> str:
    """The first node of the common graph that ``operator`` (any spelling) names, described."""
    words = [w for w in re.split(r"\W+", operator) if w not in ("", "aten", "edge", "ops")]
    if not words:
        return ""
    nodes = [node for node in program.exported.graph.nodes if node.op == "call_function"]
    for node in nodes:
        if node.name == operator or str(node.target).split(".")[-2:-1] == [words[0]]:
            return describe_node(node)
    base = re.sub(r"_(copy|default|tensor|scalar|out)$", "", words[0].lower())
    for node in nodes:
        if base in str(node.target).lower():
            return describe_node(node)
    return ""


def shorten(text: object, limit: int = 300) -> str:
    """One line of at most ``limit`` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 2] + " …"
