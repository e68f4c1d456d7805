"""The way of a model: capture, passes, one lowering per target, verify, bundle."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from edgekit.bundle import BundleWriter
from edgekit.errors import (
    BundleError,
    EdgekitError,
    MissingBackendError,
    ParityError,
    UnsupportedError,
)
from edgekit.manifest import Artifact, Graph, Manifest, ModelInfo, Verification

from ..models.counting import count_macs, count_parameters
from ..models.spec import LoadedModel
from ..quant.evaluation import Evaluation, check_classes
from ..quant.precision import failures
from .alternatives import settle
from .captured import Captured, capture_graph
from .conditioning import rounding_noise, widened
from .evaluate import (
    classifier_graph,
    evaluate_export,
    evaluation_info,
    open_evaluation,
    recorded,
)
from .locate import locate
from .options import ExportOptions
from .program import Program
from .reference import save_reference
from .targets import Lowered, Target
from .targets.base import refuse, shorten
from .verify import REJECTED, verify_artifact

Progress = Callable[[str], None]

# What the emitted bytes depend on.
_TOOLS = (
    "torch",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "executorch",
    "coremltools",
    "tensorrt-rtx-cu13",
    "numpy",
)


def write_bundle(
    model: LoadedModel,
    targets: Sequence[Target],
    out: Path,
    options: ExportOptions,
    progress: Progress = lambda step: None,
) -> tuple[Manifest, Evaluation | None]:
    """Export every graph of ``model`` to every target, and put the bundle at ``out``.

    A target that fails does not stop the others: its artifact says why.

    Returns:
        the manifest, and the evaluation if one was asked for.

    Raises:
        UsageError: ``out`` is something else than a bundle, or the inputs are wrong.
        UnsupportedError: the network cannot be captured.
        InputError: the labelled pictures cannot be read, or are of other classes.
    """
    pictures = open_evaluation(model, options.evaluation) if options.evaluation else None
    evaluation = None
    with BundleWriter(out) as writer:
        graphs, programs = [], []
        for spec in model.graphs:
            progress(f"capturing {spec.name}")
            captured = capture_graph(model, spec, options)
            if pictures is not None and spec is model.graphs[classifier_graph(model.graphs)]:
                check_classes(_graph(captured.program), model.task, pictures)
            programs.append(captured.program)
            artifacts = []
            for target in targets:
                progress(f"{target.name}: lowering and verifying")
                artifacts.append(export_graph(writer, target, captured, options))
            graphs.append(_record(writer, captured, artifacts))
        graphs = settle(model.graphs, graphs, writer.root, progress)
        for name, asset in model.assets.items():
            writer.add(name, asset if isinstance(asset, bytes) else _shipped(asset))
        if pictures is not None:
            evaluation = evaluate_export(writer, model, graphs, pictures, progress)
            chosen = classifier_graph(graphs)
            graphs[chosen] = _judged(writer.root, graphs[chosen], evaluation)
        progress("writing the bundle")
        manifest = Manifest(
            edgekit=_version("edgekit-toolkit") or "0",
            model=_describe(model, programs),
            task=model.task,
            precision=options.precision,
            drift_allowed=options.allow_drift,
            device=options.device,
            evaluation=evaluation_info(evaluation) if evaluation else None,
            graphs=tuple(graphs),
            tools=_tools(),
            files=(),
        )
        writer.finish(manifest)
    return manifest, evaluation


def _shipped(asset: str) -> bytes:
    return (importlib.resources.files("edgekit.models") / "assets" / asset).read_bytes()


def _record(writer: BundleWriter, captured: Captured, artifacts: Sequence[Artifact]) -> Graph:
    program = captured.program
    name = f"verify/{program.name}.safetensors"
    save_reference(captured.reference, writer.root / name)
    return _graph(program).model_copy(update={"reference": name, "artifacts": tuple(artifacts)})


def _graph(program: Program) -> Graph:
    return Graph(
        name=program.name,
        inputs=program.inputs,
        outputs=program.outputs,
        dynamic=dict(program.dynamic),
        states=program.states,
    )


def export_graph(
    writer: BundleWriter, target: Target, captured: Captured, options: ExportOptions
) -> Artifact:
    """Lower one graph to one target and verify it; the artifact says what became of it."""
    folder = f"graphs/{captured.program.name}/{target.name}"
    failed = Artifact(target=target.name, status="failed", precision=options.precision)
    try:
        target.check()
    except MissingBackendError as error:
        return failed.model_copy(update={"status": "unavailable", **_reason(error)})
    (writer.root / folder).mkdir(parents=True)
    try:
        lowered = target.lower(captured.program, options.precision, writer.root / folder)
    except Exception as error:
        return failed.model_copy(update=_reason(error))
    artifact = _artifact(writer.root, folder, target, lowered, options.precision)
    try:
        check, precision = verify_artifact(
            writer,
            _graph(captured.program),
            artifact,
            captured.reference,
            level=target.level,
            runtime=target.runtime,
            interpret=target.interpret,
            tolerance=options.tolerance,
            notes=lowered.notes,
        )
    except EdgekitError as error:
        refused = _refused_by_runtime(target, captured.program, artifact, error)
        changed = {**_reason(refused), "status": "failed"}
        return _reject(writer.root, artifact.model_copy(update=changed))
    if not check.passed and options.precision == "fp32" and not options.tolerance:
        check = _allow_for_rounding(check, captured)
    artifact = artifact.model_copy(
        update={
            "verify": check,
            "effective_precision": precision or artifact.effective_precision,
        }
    )
    return artifact if check.passed else _failed(writer, target, captured, artifact, options)


def _allow_for_rounding(check: Verification, captured: Captured) -> Verification:
    """Judge the same metrics by what fp32 can promise for this network (see conditioning)."""
    noise = rounding_noise(captured.module, captured.spec, captured.reference)
    if noise is None or check.metrics is None:
        return check
    bounds = widened(check.thresholds, noise)
    if failures(check.metrics, bounds):
        return check
    note = (
        f"the network amplifies rounding: PyTorch's own fp32 is {noise.nmse:.1e} (NMSE) from "
        "fp64; the bounds are widened accordingly"
    )
    return check.model_copy(update={"passed": True, "thresholds": bounds, "notes": (note,)})


def _failed(
    writer: BundleWriter,
    target: Target,
    captured: Captured,
    artifact: Artifact,
    options: ExportOptions,
) -> Artifact:
    """What becomes of an artifact that is not the same model any more."""
    check: Verification = artifact.verify
    broken = [note for note in check.notes if " is above " in note or " is below " in note]
    reason = f"{target.name} departs from PyTorch: {'; '.join(broken)}"
    details = dict(artifact.details)
    if options.locate:
        found = locate(target, captured, writer, _graph(captured.program), artifact)
        details["located"] = found.to_json()
        reason += f"; first departure: {found.describe()}"
    changed = artifact.model_copy(update={"reason": reason, "details": details})
    if options.allow_drift:
        return changed
    return _reject(writer.root, changed.model_copy(update={"status": "failed", "exit_code": 5}))


def _refused_by_runtime(
    target: Target, program: Program, artifact: Artifact, error: EdgekitError
) -> EdgekitError:
    """A fresh artifact that its runtime refuses is not damaged: the target cannot do it."""
    if found := re.search(r"\b(?:aten|dim_order_ops)::([\w.]+)", str(error)):
        operator = found[1]
        for name, module in artifact.details.get("undelegated_in", {}).items():
            if operator.split(".")[0] in name.split("."):
                return UnsupportedError(
                    f"{target.name} does not support aten.{operator}, in {module}", str(error)
                )
        return refuse(target.name, program, operator, str(error))
    if isinstance(error, BundleError) or type(error) is EdgekitError:
        return UnsupportedError(error.what, error.why)
    return error


def _reason(error: Exception) -> dict[str, object]:
    if isinstance(error, EdgekitError):
        return {"reason": str(error), "exit_code": error.exit_code}
    return {"reason": f"{type(error).__name__}: {shorten(error)}", "exit_code": 1}


def _artifact(
    root: Path, folder: str, target: Target, lowered: Lowered, precision: str
) -> Artifact:
    details = _rooted(dict(lowered.details), folder)
    files = [p for p in (root / folder).rglob("*") if p.is_file()]
    return Artifact(
        target=target.name,
        status="ok",
        file=f"{folder}/{lowered.file}",
        extra=tuple(f"{folder}/{name}" for name in lowered.extra),
        bytes=sum(path.stat().st_size for path in files),
        precision=precision,
        effective_precision=lowered.effective_precision,
        operators=dict(lowered.operators),
        details=details,
    )


def _rooted(details: dict, folder: str) -> dict:
    """Paths in a TensorRT artifact's details, relative to the bundle."""
    if "engines" in details:
        details["engines"] = [
            {**entry, "file": f"{folder}/{entry['file']}"} for entry in details["engines"]
        ]
    if "recipe" in details:
        details["recipe"] = f"{folder}/{details['recipe']}"
    return details


def _judged(root: Path, graph: Graph, evaluation: Evaluation) -> Graph:
    """The graph with the accuracy of its artifacts; one that answers with NaN is rejected."""
    broken = {row.target: row.error for row in evaluation.rows if type(row.error) is ParityError}
    artifacts = [
        _reject(root, artifact.model_copy(update={"status": "failed", **_reason(error)}))
        if (error := broken.get(artifact.target))
        else artifact
        for artifact in recorded(graph, evaluation).artifacts
    ]
    return graph.model_copy(update={"artifacts": tuple(artifacts)})


def _reject(root: Path, artifact: Artifact) -> Artifact:
    """Rename an artifact's files so that nothing takes them for good ones."""
    for name in (artifact.file, *artifact.extra):
        (root / name).rename(root / f"{name}{REJECTED}")
    return artifact.model_copy(
        update={
            "file": f"{artifact.file}{REJECTED}",
            "extra": tuple(f"{name}{REJECTED}" for name in artifact.extra),
        }
    )


def _describe(model: LoadedModel, programs: Sequence[Program]) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        source=model.source,
        recipe=dict(model.recipe),
        weights=model.weights,
        weights_sha256=state_digest(model.module),
        parameters=count_parameters(model.module),
        macs=model.macs or _macs(programs),
        paper=model.paper,
        licence=model.licence,
    )


def _macs(programs: Sequence[Program]) -> int | None:
    """Multiply-accumulates of all graphs at their example shapes."""
    total = 0
    for program in programs:
        try:
            total += count_macs(program.exported.module(), *program.example_inputs())
        except (AssertionError, RuntimeError, TypeError, ValueError):
            return None  # a figure of merit, not worth failing an export for
    return total


def state_digest(module: nn.Module) -> str:
    """sha256 over a network's tensors: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{plain.dtype}|{tuple(plain.shape)}|".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
    return digest.hexdigest()


def _tools() -> Mapping[str, str]:
    found = {name: version for name in _TOOLS if (version := _version(name))}
    return {"python": platform.python_version(), **found}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
