"""Name the first node of the common graph where an artifact departs.

Two ways to look inside. Where the emitted file keeps the graph's value names (ONNX,
OpenVINO, Core ML), its intermediate values are read from the artifact itself. Elsewhere prefixes of
the common graph are lowered again and bisected, which finds a fault of the lowering but
not a file that was changed afterwards; the answer says which was done.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.export.graph_signature import OutputKind, OutputSpec, TensorArgument
from torch.fx import Interpreter, Node

from edgekit.bundle import Files
from edgekit.errors import MissingBackendError
from edgekit.manifest import Artifact, Graph, Metrics, TensorSpec
from edgekit.metrics import compare, worst

from ..quant.precision import failures, thresholds
from .passes.surgery import constant_of, copy_graph, rebuild
from .program import Program, module_path, source_line
from .reference import Reference
from .verify import PlainFolder, judge, open_to_judge

if TYPE_CHECKING:
    from .captured import Captured
    from .targets import Target


@dataclass(frozen=True)
class Location:
    """Where an artifact departs. ``node`` is empty if no node could be named: see ``how``."""

    node: str = ""
    operator: str = ""
    module: str = ""
    line: str = ""
    metrics: Metrics | None = None
    how: str = ""

    def describe(self) -> str:
        """One line."""
        if not self.node:
            return self.how
        text = f"{self.operator} ({self.node})"
        if self.module:
            text += f" in {self.module}"
        if self.line:
            text += f" at {self.line}"
        nmse = f", NMSE {self.metrics.nmse:.3g}" if self.metrics else ""
        return f"{text}{nmse} ({self.how})"

    def to_json(self) -> dict[str, Any]:
        """Plain values; the source line is left to :meth:`describe`, it names this machine."""
        return {
            "node": self.node,
            "operator": self.operator,
            "module": self.module,
            "metrics": self.metrics.model_dump(mode="json") if self.metrics else None,
            "how": self.how,
        }


def locate(
    target: Target, captured: Captured, files: Files, graph: Graph, artifact: Artifact
) -> Location:
    """The first node, in the common graph's order, whose value departs in the artifact.

    Args:
        target: what made the artifact. captured: its program and reference.
        files, graph, artifact: the artifact as emitted, under its original names.
    """
    bounds = thresholds(artifact.precision)
    try:
        index = _telling(target, captured, files, graph, artifact)
        sample = captured.reference.samples[index].inputs
        expected = node_values(captured.program, sample)
        probe = _Probe(target, captured.program, artifact.precision, sample, expected, bounds)
        if astray := _outside_the_graph(captured, index, expected, bounds):
            return astray
        if tapped := _tap(target, captured.program, files, artifact, sample, expected):
            return probe.first_departure(tapped)
        return probe.bisect()
    except MissingBackendError as error:
        return Location(how=f"not located: {error}")


def _telling(
    target: Target, captured: Captured, files: Files, graph: Graph, artifact: Artifact
) -> int:
    """Index of the sample on which the artifact departs most: not every input shows a fault."""
    reference = captured.reference
    opened = open_to_judge(files, graph, artifact, target.runtime, target.interpret)
    with opened.session as session:
        errors = [
            judge(session, Reference((sample,), (outputs,)), graph.picked)[0].nmse
            for sample, outputs in zip(reference.samples, reference.outputs, strict=True)
        ]
    return int(np.argmax(errors))


def _tap(
    target: Target,
    program: Program,
    files: Files,
    artifact: Artifact,
    sample: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Values inside the artifact by node; a node that is an output has the output's name there."""
    outputs = program.exported.graph_signature.user_outputs
    called = {node: spec.name for node, spec in zip(outputs, program.outputs, strict=True)}
    emitted = {called.get(node, node): node for node in expected}
    tapped = target.tap(files, artifact, list(emitted), sample)
    return {emitted[name]: value for name, value in tapped.items()}


def node_values(program: Program, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Value of every node of the common graph that gives one float tensor, in graph order."""
    found: dict[str, np.ndarray] = {}

    class Recorder(Interpreter):
        def run_node(self, node: Node) -> Any:
            value = super().run_node(node)
            if (
                node.op == "call_function"
                and isinstance(value, torch.Tensor)
                and value.is_floating_point()
            ):
                found[node.name] = value.detach().float().numpy().copy()
            return value

    constants = constant_of(program.exported)
    arguments = [
        constants[node.name] if node.name in constants else torch.from_numpy(inputs[node.name])
        for node in program.exported.graph.find_nodes(op="placeholder")
    ]
    with torch.no_grad():
        Recorder(program.exported.graph_module).run(*arguments)
    return found


def _outside_the_graph(
    captured: Captured,
    sample: int,
    values: Mapping[str, np.ndarray],
    bounds: Mapping[str, float],
) -> Location | None:
    """Whether the common graph itself is not the network any more."""
    outputs = captured.program.exported.graph_signature.user_outputs
    for spec, node in zip(captured.program.outputs, outputs, strict=True):
        wanted = captured.reference.outputs[sample][spec.name]
        if node in values and failures(compare(values[node], wanted), bounds):
            return Location(
                how=f"the common graph departs before any target, at output {spec.name}"
            )
    return None


@dataclass(frozen=True)
class _Probe:
    target: Target
    program: Program
    precision: str
    sample: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    bounds: Mapping[str, float]

    def first_departure(self, tapped: Mapping[str, np.ndarray]) -> Location:
        """The first node among the values read from the artifact itself."""
        for name, wanted in self.expected.items():
            if name not in tapped or tapped[name].shape != wanted.shape:
                continue
            metrics = compare(tapped[name], wanted)
            if failures(metrics, self.bounds):
                return self._at(name, metrics, "read from the artifact")
        return Location(how="no value inside the artifact departs; only its outputs do")

    def bisect(self) -> Location:
        """The first node with which a freshly lowered prefix of the graph departs."""
        names = list(self.expected)
        whole = self._departs(len(names) - 1)
        if whole is None:
            return Location(
                how="a fresh lowering of the same program does not depart: "
                "the artifact is not what this lowering gives"
            )
        low, high, found = 0, len(names) - 1, whole
        while low < high:
            middle = (low + high) // 2
            if (metrics := self._departs(middle)) is not None:
                high, found = middle, metrics
            else:
                low = middle + 1
        return self._at(names[high], found, "bisected by lowering prefixes again")

    def _departs(self, index: int) -> Metrics | None:
        """The metrics of the values alive after node ``index`` if they break the bounds."""
        names = self._alive(index)
        prefix = cut(self.program, names)
        metrics = worst([compare(v, self.expected[n]) for n, v in self._run(prefix).items()])
        return metrics if failures(metrics, self.bounds) else None

    def _alive(self, index: int) -> list[str]:
        """Values computed by then that something later (or an output) still needs."""
        names = list(self.expected)
        done = set(names[: index + 1])
        nodes = {node.name: node for node in self.program.exported.graph.nodes}
        return [
            name
            for name in names[: index + 1]
            if name == names[index] or any(user.name not in done for user in nodes[name].users)
        ]

    def _run(self, program: Program) -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory(prefix="edgekit-locate-") as temporary:
            root = Path(temporary)
            lowered = self.target.lower(program, self.precision, root)
            artifact = Artifact(
                target=self.target.name,
                status="ok",
                file=lowered.file,
                extra=tuple(lowered.extra),
                precision=self.precision,
            )
            graph = Graph(name="prefix", inputs=program.inputs, outputs=program.outputs)
            opened = open_to_judge(
                PlainFolder(root), graph, artifact, self.target.runtime, self.target.interpret
            )
            with opened.session as session:
                values = session.run(self.sample)
            nodes = program.exported.graph_signature.user_outputs
            return dict(zip(nodes, values.values(), strict=True))

    def _at(self, name: str, metrics: Metrics, how: str) -> Location:
        node = next(n for n in self.program.exported.graph.nodes if n.name == name)
        return Location(name, str(node.target), module_path(node), source_line(node), metrics, how)


def cut(program: Program, names: Sequence[str]) -> Program:
    """The part of a program that computes the nodes ``names``, which become its outputs."""
    module = copy_graph(program.exported)
    nodes = {node.name: node for node in module.graph.nodes}
    output = module.graph.output_node()
    output.args = (tuple(nodes[name] for name in names),)
    output.meta = {}
    module.graph.eliminate_dead_code()
    specs = []
    for node, spec in zip(
        module.graph.find_nodes(op="placeholder"),
        program.exported.graph_signature.input_specs,
        strict=True,
    ):
        if node.users or node.name in {s.name for s in program.inputs}:
            specs.append(spec)
        else:
            module.graph.erase_node(node)
    outputs = [
        OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(name=name), None) for name in names
    ]
    exported = rebuild(program.exported, module, inputs=specs, outputs=outputs)
    tensors = tuple(
        TensorSpec(
            name=f"value_{index}",
            dtype=str(nodes[name].meta["val"].dtype).removeprefix("torch."),
            shape=tuple(
                size if isinstance(size, int) else str(size)
                for size in nodes[name].meta["val"].shape
            ),
        )
        for index, name in enumerate(names)
    )
    return replace(program, exported=exported, outputs=tensors)
