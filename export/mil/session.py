"""An emitted package behind the sessions' contract, and values inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgekit.bundle import Files
from edgekit.errors import BundleError, ParityError, UnsupportedError
from edgekit.manifest import Artifact, Graph

from ...runtimes.sessions.base import Session
from ...runtimes.sessions.coreml import from_multiarray, pair_features, to_multiarray
from ..passes.rewrite_for_coreml import value_name
from .interpreter import Interpreter
from .program import HELD, Function
from .reader import read_package

# What coremltools appends to a value's name when it makes it fp16.
_CAST = "_cast_fp16"


class InterpretedSession(Session):
    """Runs a package's program with the interpreter; values go in and out as with Core ML.

    A program with states starts from zeros at every run.

    Raises:
        BundleError: the package is damaged or does not fit the manifest.
        UnsupportedError: the interpreter does not know an operator; it names it.
    """

    runtime: ClassVar[str] = "coreml interpreter"

    def __init__(self, files: Files, graph: Graph, artifact: Artifact) -> None:
        super().__init__(graph.inputs, graph.outputs, graph.dynamic, None)
        function, spec = read_package(files.folder(artifact.file or ""))
        self._interpreter = Interpreter(function)
        self._feeds = pair_features(artifact.file, graph.inputs, spec.description.input)
        self._fetches = pair_features(artifact.file, graph.outputs, spec.description.output)
        given = {named.name for named in function.inputs}
        if not given >= {theirs for _, theirs in self._feeds} or not set(
            function.block.outputs
        ) >= {theirs for _, theirs in self._fetches}:
            raise BundleError(
                f"{artifact.file} is damaged", "its program and its description do not fit"
            )
        self.effective_precision = artifact.effective_precision or artifact.precision

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        feed = {theirs: inputs[spec.name] for spec, theirs in self._feeds}
        with torch.no_grad():
            found, _ = self._interpreter.run(_held(self._interpreter.function, feed))
        return {
            spec.name: from_multiarray(found[theirs].numpy(), spec)
            for spec, theirs in self._fetches
        }


def values_inside(
    package: Path, names: Sequence[str], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Values of nodes of the common graph, and outputs, as far as a package's program has them.

    A program that
    contradicts itself or has operators that are not known shows nothing.
    """
    function, _ = read_package(package)
    inside = {named.name for step in function.block.operations for named in step.outputs}
    wanted = {name: name for name in names if name in function.block.outputs}
    for name in names:
        own = value_name(name)
        wanted |= {emitted: name for emitted in (own, own + _CAST) if emitted in inside}
    try:
        with torch.no_grad():
            _, seen = Interpreter(function).run(_held(function, inputs), watched=wanted.keys())
    except (ParityError, UnsupportedError):
        return {}
    return {wanted[emitted]: value.numpy() for emitted, value in seen.items()}


def _held(function: Function, inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays as the interpreter holds the function's inputs."""
    return {
        named.name: torch.from_numpy(to_multiarray(inputs[named.name])).to(HELD[named.type.dtype])
        for named in function.inputs
        if not named.type.state
    }
