"""Records of artifacts: what was emitted, why something was refused, and what is rejected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from edgekit.bundle import Files
from edgekit.errors import BundleError, EdgekitError, UnsupportedError
from edgekit.manifest import Artifact, Graph

from .program import Program
from .reference import Reference
from .targets import Lowered, Target
from .targets.base import refuse, shorten
from .verify import REJECTED, verify_artifact


def describe_artifact(
    root: Path, folder: str, target: Target, lowered: Lowered, precision: str
) -> Artifact:
    """What ``target`` wrote into ``folder`` of the bundle at ``root``, not judged yet."""
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


def verified(
    files: Files,
    target: Target,
    lowered: Lowered,
    artifact: Artifact,
    graph: Graph,
    reference: Reference,
    tolerance: Mapping[str, float],
) -> Artifact:
    """A fresh artifact, run as far as it can be here, with what that showed in ``verify``.

    Raises:
        UnsupportedError: there is not enough memory to run it.
        EdgekitError: as :func:`.verify.verify_artifact`.
    """
    try:
        check, precision = verify_artifact(
            files,
            graph,
            artifact,
            reference,
            level=target.level,
            runtime=target.runtime,
            interpret=target.interpret,
            tolerance=tolerance,
            notes=lowered.notes,
            unrun=lowered.unrun,
        )
    except MemoryError as error:  # ExecuTorch plans for the largest sizes when it loads
        raise UnsupportedError(
            f"{target.name} runs out of memory on {graph.name}",
            "it may reserve what the largest sizes of dynamic axes need",
            "export with smaller ranges, or on a machine with more memory",
        ) from error
    effective = precision or artifact.effective_precision
    return artifact.model_copy(update={"verify": check, "effective_precision": effective})


def _rooted(details: dict, folder: str) -> dict:
    """Paths in a TensorRT artifact's details, relative to the bundle."""
    if "engines" in details:
        details["engines"] = [
            {**entry, "file": f"{folder}/{entry['file']}"} for entry in details["engines"]
        ]
    if "recipe" in details:
        details["recipe"] = f"{folder}/{details['recipe']}"
    return details


def explain_refusal(
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


def reason_of(error: Exception) -> dict[str, object]:
    """An artifact's ``reason`` and ``exit_code`` for an error."""
    if isinstance(error, EdgekitError):
        return {"reason": str(error), "exit_code": error.exit_code}
    return {"reason": f"{type(error).__name__}: {shorten(error)}", "exit_code": 1}


def reject(root: Path, artifact: Artifact) -> Artifact:
    """Rename an artifact's files so that nothing takes them for good ones."""
    for name in (artifact.file, *artifact.extra):
        (root / name).rename(root / f"{name}{REJECTED}")
    return artifact.model_copy(
        update={
            "file": f"{artifact.file}{REJECTED}",
            "extra": tuple(f"{name}{REJECTED}" for name in artifact.extra),
        }
    )
