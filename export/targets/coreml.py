"""Core ML: an ``.mlpackage`` with an ML program, checked by structure and interpreted."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.export import ExportedProgram
from torch.utils._sympy.value_ranges import ValueRanges

from edgekit.bundle import Files
from edgekit.errors import ParityError, UnsupportedError
from edgekit.manifest import Artifact, Graph, TensorSpec
from edgekit.quiet import quiet

from ...quant.plan import QuantPlan
from ...runtimes.sessions.base import Session
from ..passes.rewrite_for_coreml import rewrite_for_coreml
from ..program import Program
from .base import Lowered, Target, refuse, shorten
from .coreml_weights import compress
from .need import need
from .weight_only import kept_weights

PACKAGE = "model.mlpackage"

_DAY = "com.github.apple.coremltools.conversion_date"

# Core ML takes and gives these; the session casts where the contract says otherwise.
_FLOATS = {"fp32": "FLOAT32", "fp16": "FLOAT16"}


class CoreMLTarget(Target):
    """From the exported program through coremltools, iOS 18 and macOS 15 onwards."""

    name = "coreml"
    runtime = "coreml"
    level = "converted"

    def check(self) -> None:
        need("coremltools", "coreml", "coremltools")

    def lower(self, program: Program, precision: str, folder: Path) -> Lowered:
        if precision not in _FLOATS:
            raise UnsupportedError(
                f"coreml does not compute in {precision}", "an ML program has fp32 and fp16"
            )
        return self._write(program, _convert(program, precision), precision, folder)

    def lower_quantised(self, program: Program, plan: QuantPlan, folder: Path) -> Lowered:
        # fp16 is what every processor of an Apple device computes in.
        with quiet(stderr=True, level=logging.ERROR):
            model = compress(_convert(program, "fp16"), plan, kept_weights(program, plan))
        lowered = self._write(program, model, "fp16", folder)
        details = {"bits": plan.bits, "format": plan.weight_format}
        if plan.bits == 4 or plan.weight_format == "palettized":
            details["group_size"] = plan.group_size
        # coremltools would run the model to calibrate, which Apple systems alone can.
        only = ("weights only: activations stay in fp16",) if plan.scheme != "weights" else ()
        return replace(
            lowered,
            details={**lowered.details, "weights": details},
            effective_precision=f"fp16 ({plan.precision} weights)",
            notes=only,
        )

    def _write(self, program: Program, model: Any, precision: str, folder: Path) -> Lowered:
        """Save a converted model that computes in ``precision``, and check its structure."""
        model.save(str(folder / PACKAGE))
        spec = _settle(folder / PACKAGE)
        operators = check_structure(spec, program, precision)
        return Lowered(
            file=PACKAGE,
            operators=operators,
            effective_precision=precision,
            details={
                "specification": spec.specificationVersion,
                "minimum": "iOS 18, macOS 15",
                "precision_ops": _arithmetic_types(spec),
            },
            unrun=(
                "structure, operators, precision and contract checked; Core ML predicts on "
                "Apple systems only, so no numbers were compared",
            ),
        )

    def interpret(self, files: Files, graph: Graph, artifact: Artifact) -> Session:
        self.check()
        from ..mil import InterpretedSession

        with quiet(stderr=True, level=logging.ERROR):
            return InterpretedSession(files, graph, artifact)

    def tap(
        self,
        files: Files,
        artifact: Artifact,
        names: Sequence[str],
        inputs: Mapping[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        from ..mil import values_inside

        with quiet(stderr=True, level=logging.ERROR):
            return values_inside(files.folder(artifact.file or ""), names, inputs)


def _convert(program: Program, precision: str) -> Any:
    with quiet(stderr=True, level=logging.ERROR):
        import coremltools as ct

        ready = rewrite_for_coreml(program.exported)
        _state_ranges(ready, program)
        try:
            return ct.convert(
                ready,
                outputs=[ct.TensorType(name=spec.name) for spec in program.outputs],
                minimum_deployment_target=ct.target.iOS18,
                convert_to="mlprogram",
                compute_precision=getattr(ct.precision, _FLOATS[precision]),
                skip_model_load=True,
            )
        except Exception as error:
            raise _explain(program, error) from error


def _state_ranges(ready: ExportedProgram, program: Program) -> None:
    """Give dynamic axes the range of the contract: torch's own starts at 2, never at 1."""
    nodes = {node.name: node for node in ready.graph.nodes}
    for spec in program.inputs:
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                limits = program.dynamic[size]
                symbol = nodes[spec.name].meta["val"].shape[axis].node.expr
                ready.range_constraints[symbol] = ValueRanges(limits.min, limits.max)


def _explain(program: Program, error: Exception) -> UnsupportedError:
    text = str(error)
    for marker in ("Unsupported fx node ", "PyTorch convert function for op '"):
        if marker in text:
            rest = text.split(marker, 1)[1]
            operator = rest.split("'")[0] if marker.endswith("'") else rest.split(", kind ")[-1]
            return refuse("coreml", program, operator.split()[0].strip("',."), text)
    for pattern in (
        r'Layer "(\w+)", with type',
        r"node (\w+) \(\w+\) got",
        r"lowering for Torch `(\w+)` op",
        r'[Oo]p "?([\w.]+)"? .*?\((?:op_type|op type): ?\w+',
    ):
        if found := re.search(pattern, text):
            return refuse("coreml", program, found.group(1), text)
    return UnsupportedError(
        "coreml cannot convert the graph", f"{type(error).__name__}: {shorten(text)}"
    )


def _settle(package: Path) -> Any:
    """Make the package's bytes depend on the model alone; returns the specification.

    coremltools names the package's items by random UUIDs, writes protobuf maps in hash order,
    notes the day, and numbers the names of operators that a pass made in an order of its own
    (``transpose_0`` in one process, ``transpose_3`` in another).
    """
    from coremltools.proto import Model_pb2

    for extra in package.glob("*_debug_handle_mapping.json"):
        extra.unlink()  # for ExecuTorch's debugger; the package does not refer to it
    manifest = json.loads((package / "Manifest.json").read_text())
    entries = manifest["itemInfoEntries"]
    names = {
        old: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])).upper()
        for old, entry in entries.items()
    }
    manifest["itemInfoEntries"] = {names[old]: entry for old, entry in entries.items()}
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")

    path = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = Model_pb2.Model()
    spec.ParseFromString(path.read_bytes())
    spec.description.metadata.userDefined.pop(_DAY, None)
    for operation in _operations(spec):
        # An operator is known by what it gives; its own name is for people.
        if operation.outputs and "name" in operation.attributes:
            named = operation.attributes["name"].immediateValue.tensor.strings.values
            named[:] = [operation.outputs[0].name]
    path.write_bytes(spec.SerializeToString(deterministic=True))
    return spec


def check_structure(spec: Any, program: Program, precision: str) -> dict[str, int]:
    """Hold the emitted specification against the contract; returns its operators, counted.

    Raises:
        ParityError: it is no ML program, an input or output has another name, shape or
            type, or its arithmetic is in another precision.
    """
    if spec.WhichOneof("Type") != "mlProgram":
        raise ParityError("coreml emitted no ML program", str(spec.WhichOneof("Type")))
    _check_features("input", spec.description.input, program.inputs)
    _check_features("output", spec.description.output, program.outputs)
    found = _arithmetic_types(spec)
    other = {"fp32": "FLOAT16", "fp16": "FLOAT32"}[precision]
    if found.get(other, 0) and precision == "fp32":
        raise ParityError("coreml emitted fp16 arithmetic", f"{found[other]} operators")
    counts = Counter(operation.type for operation in _operations(spec) if operation.type != "const")
    return dict(counts.most_common())


def _check_features(kind: str, features: Any, specs: tuple[TensorSpec, ...]) -> None:
    names = [feature.name for feature in features]
    if names != [spec.name for spec in specs]:
        raise ParityError(
            f"coreml's {kind}s are {', '.join(names)}",
            f"the contract has {', '.join(spec.name for spec in specs)}",
        )
    for feature, spec in zip(features, specs, strict=True):
        shape = tuple(feature.type.multiArrayType.shape)
        fixed = tuple(size for size in spec.shape if isinstance(size, int))
        if len(fixed) == len(spec.shape) and shape and shape != (fixed or (1,)):
            raise ParityError(
                f"coreml's {kind} {spec.name} has shape {list(shape)}",
                f"the contract has {list(spec.shape)}",
            )


def _operations(spec: Any) -> Iterator[Any]:
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            yield from block.operations


def _arithmetic_types(spec: Any) -> dict[str, int]:
    """How many operators give fp32 and how many fp16 (casts and constants left out)."""
    from coremltools.proto import MIL_pb2

    names = {MIL_pb2.FLOAT16: "FLOAT16", MIL_pb2.FLOAT32: "FLOAT32"}
    counts: Counter[str] = Counter()
    for operation in _operations(spec):
        if operation.type in ("const", "cast"):
            continue
        for output in operation.outputs:
            if name := names.get(output.type.tensorType.dataType):
                counts[name] += 1
    return dict(counts)
