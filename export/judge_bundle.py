"""Judge a bundle again: with the references it carries, or against the network itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.bundle import Bundle, Files
from edgekit.errors import (
    BundleError,
    EdgekitError,
    MissingBackendError,
    ParityError,
    UsageError,
)
from edgekit.manifest import Artifact, Graph, Verification

from ..quant.precision import failures
from .reference import Reference, load_reference
from .verify import REJECTED, restored, verify_artifact

if TYPE_CHECKING:
    from ..runtimes.sessions.base import Session
    from .captured import Captured
    from .locate import Location

# What was found about an artifact without running it holds on every machine.
WITHOUT_RUNNING = ("compiled", "converted")
# Level of an artifact that cannot be run here, if the manifest knows no such level of it.
UNKNOWN = "converted"


@dataclass(frozen=True)
class Verdict:
    """One artifact judged again. ``status`` is ok, failed or unavailable."""

    graph: str
    target: str
    status: str
    reason: str | None
    exit_code: int
    rejected: bool
    effective_precision: str | None = None
    verify: Verification | None = None
    located: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        plain = asdict(replace(self, verify=None))
        plain["verify"] = self.verify.model_dump(mode="json") if self.verify else None
        return plain


def judge_bundle(
    bundle: Bundle,
    targets: Sequence[str] = (),
    samples: Path | None = None,
    tolerance: Mapping[str, float] | None = None,
    locate: bool = False,
) -> list[Verdict]:
    """Run every artifact that can run here and hold it against its reference.

    Without ``samples`` and ``locate`` torch is not needed: the bundle carries inputs and
    PyTorch's outputs. With them the network is made again from where it came from.

    Raises:
        BundleError: a file has changed, or a reference is damaged.
        UsageError: a target is not in the bundle.
        ParityError: the network that the bundle names is not the one it was made from.
    """
    bundle.check_all()
    present = {a.target for graph in bundle.manifest.graphs for a in graph.artifacts}
    if unknown := [name for name in targets if name not in present]:
        raise UsageError(
            f"the bundle has no target {', '.join(unknown)}", f"it has {', '.join(sorted(present))}"
        )
    verdicts = []
    for graph in bundle.manifest.graphs:
        captured = _capture_again(bundle, graph, samples) if samples or locate else None
        reference = captured.reference if captured else _stored(bundle, graph)
        for artifact in graph.artifacts:
            if targets and artifact.target not in targets:
                continue
            verdict = _judge(bundle, graph, artifact, reference, tolerance)
            departs = verdict.exit_code == ParityError.exit_code and verdict.verify is not None
            if locate and captured and departs:
                found = _locate(bundle, graph, artifact, captured)
                verdict = replace(verdict, located=found.describe())
            verdicts.append(verdict)
    return verdicts


def _stored(bundle: Bundle, graph: Graph) -> Reference:
    if graph.reference is None:
        raise BundleError(
            f"the graph {graph.name} carries no reference", "", "verify with --samples DIR"
        )
    path = bundle.file(graph.reference)
    return load_reference(path, graph.inputs, graph.outputs, graph.states)


def _judge(
    bundle: Bundle,
    graph: Graph,
    artifact: Artifact,
    reference: Reference,
    tolerance: Mapping[str, float] | None,
) -> Verdict:
    rejected = (artifact.file or "").endswith(REJECTED)
    verdict = Verdict(graph.name, artifact.target, "ok", None, 0, rejected)
    if artifact.file is None:
        return replace(
            verdict,
            status=artifact.status,
            reason=artifact.reason,
            exit_code=artifact.exit_code,
        )
    before = artifact.verify
    try:
        with restored(bundle, artifact) as (files, plain):
            check, precision = verify_artifact(
                files,
                graph,
                plain,
                reference,
                level=before.level if before and before.level in WITHOUT_RUNNING else UNKNOWN,
                interpret=_interpret,
                # The exporter may have found that fp32 can promise less for this network.
                tolerance=tolerance or (before.thresholds if before else None),
            )
    except EdgekitError as error:
        # What a runtime refused when it was made is not damaged: the target cannot do it.
        code = artifact.exit_code or error.exit_code
        return replace(verdict, status="failed", reason=str(error), exit_code=code)
    if check.passed:
        return replace(verdict, verify=check, effective_precision=precision)
    broken = failures(check.metrics, check.thresholds)
    return replace(
        verdict,
        status="failed",
        reason=f"{artifact.target} departs from PyTorch: {'; '.join(broken)}",
        exit_code=ParityError.exit_code,
        verify=check,
        effective_precision=precision,
    )


def _interpret(files: Files, graph: Graph, artifact: Artifact) -> Session | None:
    """By the artifact's target, which is there where the exporter is installed."""
    try:
        from .targets import choose
    except ImportError as error:
        raise MissingBackendError("the exporter is not installed", str(error)) from error
    return choose([artifact.target])[0].interpret(files, graph, artifact)


def _capture_again(bundle: Bundle, graph: Graph, samples: Path | None) -> Captured:
    """The network the bundle was made from, captured in the same way."""
    from ..models.sources import SourceOptions, load_model
    from .captured import capture_graph
    from .options import ExportOptions
    from .pipeline import state_digest

    info = bundle.manifest.model
    model = load_model(info.source, SourceOptions(**_recipe(bundle)))
    if state_digest(model.module) != info.weights_sha256:
        raise ParityError(
            f"{info.source} is not the network that the bundle was made from",
            "its weights are different",
            "give the same weights where the bundle was exported",
        )
    spec = next((spec for spec in model.graphs if spec.name == graph.name), None)
    if spec is None:
        raise BundleError(f"{info.source} has no graph {graph.name}")
    dynamic = _axes(graph)
    return capture_graph(model, spec, ExportOptions(dynamic=dynamic, samples=samples))


def _recipe(bundle: Bundle) -> dict[str, Any]:
    """What the user said about the model when it was exported."""
    from ..models.spec import InputSpec

    recipe = bundle.manifest.model.recipe
    return {
        "weights": recipe.get("weights"),
        "resolution": tuple(recipe["resolution"]) if recipe.get("resolution") else None,
        "head": recipe.get("head"),
        "classes": recipe.get("classes"),
        "inputs": tuple(
            InputSpec(**{**entry, "shape": tuple(entry["shape"])})
            for entry in recipe.get("inputs", ())
        ),
    }


def _axes(graph: Graph) -> dict[str, dict[str, tuple[int, int]]]:
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for spec in graph.inputs:
        for index, size in enumerate(spec.shape):
            if isinstance(size, str):
                limits = graph.dynamic[size]
                found.setdefault(spec.name, {})[str(index)] = (limits.min, limits.max)
    return found


def _locate(bundle: Bundle, graph: Graph, artifact: Artifact, captured: Captured) -> Location:
    from .captured import as_single_calls
    from .locate import locate
    from .targets import choose

    captured = as_single_calls(captured)
    graph = graph.model_copy(update={"states": ()}) if graph.states else graph
    target = choose([artifact.target])[0]
    with restored(bundle, artifact) as (files, plain):
        return locate(target, captured, files, graph, plain)
