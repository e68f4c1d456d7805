"""The way of a model: capture, passes, one lowering per target, verify, bundle."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekit.bundle import BundleWriter
from edgekit.errors import (
    EdgekitError,
    MissingBackendError,
    ParityError,
)
from edgekit.manifest import Artifact, Graph, Manifest, ModelInfo, Verification

from ..models.counting import count_macs, count_parameters
from ..models.spec import LoadedModel
from ..quant.evaluation import Evaluation, check_classes
from ..quant.precision import failures
from .alternatives import settle
from .artifacts import describe_artifact, explain_refusal, reason_of, reject, verified
from .captured import Captured, as_single_calls, capture_graph, described
from .conditioning import rounding_noise, widened
from .evaluate import evaluate_export, evaluation_info, open_evaluation, recorded, task_graph
from .locate import locate
from .options import ExportOptions
from .program import Program
from .reference import Reference, save_reference
from .targets import Target

Progress = Callable[[str], None]

# What the emitted bytes depend on.
_TOOLS = (
    "torch",
    "transformers",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "executorch",
    "nncf",
    "torchao",
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
        captured = capture_all(model, options, progress)
        chosen = task_graph(model.graphs, model.task)
        if pictures is not None:
            check_classes(describe_graph(captured[chosen].program), model.task, pictures)
        graphs = lower_all(writer, model, captured, targets, options, progress)
        if pictures is not None:
            evaluation = evaluate_export(writer, model, graphs, pictures, progress)
            graphs[chosen] = _judged(writer.root, graphs[chosen], evaluation)
        progress("writing the bundle")
        info = evaluation_info(evaluation) if evaluation else None
        manifest = finish_bundle(writer, model, captured, graphs, options, evaluation=info)
    return manifest, evaluation


def capture_all(
    model: LoadedModel, options: ExportOptions, progress: Progress
) -> tuple[Captured, ...]:
    """Every graph of the model, in its order.

    Raises:
        UsageError, UnsupportedError: as in :func:`.captured.capture_graph`.
    """
    found = []
    for spec in model.graphs:
        progress(f"capturing {spec.name}")
        found.append(capture_graph(model, spec, options))
    return tuple(found)


def lower_all(
    writer: BundleWriter,
    model: LoadedModel,
    captured: Sequence[Captured],
    targets: Sequence[Target],
    options: ExportOptions,
    progress: Progress,
) -> list[Graph]:
    """Every graph on every target, verified; with its reference."""
    graphs = []
    for one in captured:
        own = replace(options, precision="fp32") if one.spec.exact else options
        if own.precision != options.precision:
            progress(f"{one.spec.name} has to be exact: it stays in fp32")
        artifacts = []
        for target in targets:
            progress(f"{target.name}: lowering to {own.precision} and verifying")
            artifacts.append(export_graph(writer, target, one, own))
        graphs.append(record_graph(writer, one.program, one.reference, artifacts))
    return settle(model.graphs, graphs, writer.root, progress)


def finish_bundle(
    writer: BundleWriter,
    model: LoadedModel,
    captured: Sequence[Captured],
    graphs: Sequence[Graph],
    options: ExportOptions,
    **found: Any,
) -> Manifest:
    """Add the assets, write the manifest, and put the bundle in its place.

    Args:
        found: fields of the manifest that only some exports have.
    """
    for name, asset in model.assets.items():
        writer.add(name, asset if isinstance(asset, bytes) else _shipped(asset))
    manifest = Manifest(
        edgekit=_version("edgekit-toolkit") or "0",
        model=_describe(model, [one.program for one in captured]),
        task=model.task,
        precision=options.precision,
        drift_allowed=options.allow_drift,
        device=options.device,
        graphs=tuple(graphs),
        tools=_tools(),
        files=(),
        **found,
    )
    writer.finish(manifest)
    return manifest


def _shipped(asset: str) -> bytes:
    return (importlib.resources.files("edgekit.models") / "assets" / asset).read_bytes()


def record_graph(
    writer: BundleWriter, program: Program, reference: Reference, artifacts: Sequence[Artifact]
) -> Graph:
    """The graph as the manifest has it, its reference written beside it."""
    name = f"verify/{program.name}.safetensors"
    save_reference(reference, writer.root / name)
    return describe_graph(program).model_copy(
        update={"reference": name, "artifacts": tuple(artifacts)}
    )


def describe_graph(program: Program) -> Graph:
    """A graph's contract, as the manifest has it."""
    return described(program)


def export_graph(
    writer: BundleWriter, target: Target, captured: Captured, options: ExportOptions
) -> Artifact:
    """Lower one graph to one target and verify it; the artifact says what became of it."""
    folder = f"graphs/{captured.program.name}/{target.name}"
    failed = Artifact(target=target.name, status="failed", precision=options.precision)
    try:
        target.check()
    except MissingBackendError as error:
        return failed.model_copy(update={"status": "unavailable", **reason_of(error)})
    (writer.root / folder).mkdir(parents=True)
    try:
        lowered = target.lower(captured.program, options.precision, writer.root / folder)
    except Exception as error:
        return failed.model_copy(update=reason_of(error))
    artifact = describe_artifact(writer.root, folder, target, lowered, options.precision)
    try:
        graph = describe_graph(captured.program)
        artifact = verified(
            writer, target, lowered, artifact, graph, captured.reference, options.tolerance
        )
    except EdgekitError as error:
        refused = explain_refusal(target, captured.program, artifact, error)
        changed = {**reason_of(refused), "status": "failed"}
        return reject(writer.root, artifact.model_copy(update=changed))
    check = artifact.verify
    if not check.passed and options.precision == "fp32" and not options.tolerance:
        check = _allow_for_rounding(check, captured)
        artifact = artifact.model_copy(update={"verify": check})
    return artifact if check.passed else _failed(writer, target, captured, artifact, options)


def _allow_for_rounding(check: Verification, captured: Captured) -> Verification:
    """Judge the same metrics by what fp32 can promise for this network (see conditioning)."""
    alone = as_single_calls(captured)
    noise = rounding_noise(alone.module, alone.spec, alone.reference)
    if noise is None or check.metrics is None:
        return check
    bounds = widened(check.thresholds, noise)
    if failures(check.metrics, bounds):
        return check
    note = (
        f"the network amplifies rounding: PyTorch's own fp32 is {noise.nmse:.1e} (NMSE) from "
        "fp64; the bounds are widened accordingly"
    )
    broken = failures(check.metrics, check.thresholds)
    others = (said for said in check.notes if said not in broken)
    return check.model_copy(update={"passed": True, "thresholds": bounds, "notes": (note, *others)})


def _failed(
    writer: BundleWriter,
    target: Target,
    captured: Captured,
    artifact: Artifact,
    options: ExportOptions,
) -> Artifact:
    """What becomes of an artifact that is not the same model any more."""
    check: Verification = artifact.verify
    broken = failures(check.metrics, check.thresholds)
    reason = f"{target.name} departs from PyTorch: {'; '.join(broken)}"
    details = dict(artifact.details)
    if options.locate:
        alone = as_single_calls(captured)
        found = locate(target, alone, writer, describe_graph(alone.program), artifact)
        details["located"] = found.to_json()
        reason += f"; first departure: {found.describe()}"
    changed = artifact.model_copy(update={"reason": reason, "details": details})
    if options.allow_drift:
        return changed
    return reject(writer.root, changed.model_copy(update={"status": "failed", "exit_code": 5}))


def _judged(root: Path, graph: Graph, evaluation: Evaluation) -> Graph:
    """The graph with the accuracy of its artifacts; one that answers with NaN is rejected."""
    broken = {row.target: row.error for row in evaluation.rows if type(row.error) is ParityError}
    artifacts = [
        reject(root, artifact.model_copy(update={"status": "failed", **reason_of(error)}))
        if (error := broken.get(artifact.target))
        else artifact
        for artifact in recorded(graph, evaluation).artifacts
    ]
    return graph.model_copy(update={"artifacts": tuple(artifacts)})


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
