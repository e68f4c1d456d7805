"""Quantise one graph for one target within a budget: keep the worst layers until it holds."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.bundle import BundleWriter
from edgekit.errors import AccuracyError, EdgekitError, MissingBackendError
from edgekit.manifest import Artifact, Fidelity, Graph, LayerError, Quantisation

from ..quant.fidelity import drop_of, drop_unit
from ..quant.plan import QuantPlan
from ..quant.precision import failures
from ..quant.samples import Samples
from .artifacts import describe_artifact, explain_refusal, reason_of, reject, verified
from .captured import Captured
from .options import ExportOptions
from .round_weights import Correction, round_weights
from .sample_judge import Judged, SampleJudge
from .targets import Target

#: More layers than this share in floating point is not a quantised network any more.
KEPT_LIMIT = 0.5

Progress = Callable[[str], None]
Ranking = Callable[[], Sequence[LayerError]]


@dataclass(frozen=True)
class Job:
    """What all targets have in common.

    Attributes:
        calibration: the samples that ranges are found with, if any.
        ranking: the layers, the most sensitive first; computed when first asked for.
        corrections: of weights and biases; empty where the scheme rounds weights by itself.
        fixed: nodes that are never quantised; they are no layers here.
        start: how many layers to keep from the beginning. layers: how many there are.
    """

    captured: Captured
    graph: Graph
    plan: QuantPlan
    judge: SampleJudge
    calibration: Samples | None
    ranking: Ranking
    corrections: dict[str, Correction]
    fixed: tuple[str, ...]
    start: int
    layers: int
    options: ExportOptions


@dataclass(frozen=True)
class Attempt:
    """One way to quantise: the artifact as it came out, and how it was judged."""

    kept: tuple[LayerError, ...]
    artifact: Artifact
    judged: Judged
    drop: float | None
    folder: Path | None = None

    @property
    def fits(self) -> bool:
        """Whether it is the network still, and within the budget."""
        return self.artifact.status == "ok"


@dataclass(frozen=True)
class Quantised:
    """What became of one target: the attempt that counts, and the one without kept layers if
    that is another."""

    chosen: Attempt
    plain: Attempt | None = None


def quantise_graph(
    writer: BundleWriter, target: Target, job: Job, spare: Path, progress: Progress
) -> Quantised:
    """Lower, judge, and keep more layers in floating point for as long as the budget is broken.

    Args:
        spare: a folder for the files of attempts that do not count.

    Returns:
        the first attempt that fits, or else the best, rejected.
    """
    attempts: list[Attempt] = []
    count = 0
    limit = int(job.layers * KEPT_LIMIT)
    folder = writer.root / f"graphs/{job.graph.name}/{target.name}"
    while True:
        kept = tuple(job.ranking()[:count]) if count else ()
        said = f", {count} of {job.layers} layers kept in floating point" if count else ""
        progress(f"{target.name}: quantising{said}")
        attempt = _attempt(writer, target, job, kept, progress)
        attempts.append(attempt)
        if _settled(job, attempt, count) or count >= limit:
            break
        aside = spare / job.graph.name / target.name / str(count)
        attempts[-1] = _put_aside(folder, attempt, aside)
        count = max(job.start, min(limit, _next_count(job, attempt, count)))
    return _choose(writer, folder, job, attempts)


def _next_count(job: Job, attempt: Attempt, count: int) -> int:
    """How many layers to keep next: as many as should do, and at least half as many again.

    Small errors change answers in proportion to their amplitude, so a loss of twice the budget
    needs a quarter of the error; what the layers contribute to it is known by their ranking.
    """
    errors = [layer.nmse for layer in job.ranking()]
    least = max(count + 1, math.ceil(1.5 * count))
    budget = job.options.quantisation.max_drop
    if not budget or not attempt.drop or attempt.drop <= budget or not sum(errors[count:]):
        return max(least, 2 * count)
    wanted = (budget / attempt.drop) ** 2 * sum(errors[count:])
    enough = next(k for k in range(len(errors) + 1) if sum(errors[k:]) <= wanted)
    return max(least, enough)


def _settled(job: Job, attempt: Attempt, count: int) -> bool:
    """Whether keeping more layers is not asked for, or would change nothing."""
    unjudged = attempt.judged.fidelity is None  # refused, or nothing here can run it
    if unjudged and not attempt.fits:
        return True
    if count < job.start:
        return False
    return attempt.fits or unjudged or job.options.quantisation.max_drop is None


def _attempt(
    writer: BundleWriter,
    target: Target,
    job: Job,
    kept: tuple[LayerError, ...],
    progress: Progress,
) -> Attempt:
    plan = replace(job.plan, kept=(*job.fixed, *(layer.node for layer in kept)))
    blank = Artifact(target=target.name, status="failed", precision=plan.precision)
    folder = f"graphs/{job.graph.name}/{target.name}"
    try:
        target.check()
        (writer.root / folder).mkdir(parents=True, exist_ok=True)
        program = round_weights(job.captured.program, job.corrections, plan.kept)
        lowered = target.lower_quantised(program, plan, writer.root / folder)
    except Exception as error:
        status = "unavailable" if isinstance(error, MissingBackendError) else "failed"
        failed = blank.model_copy(update={**reason_of(error), "status": status})
        return Attempt(kept, failed, Judged(None), None)
    artifact = describe_artifact(writer.root, folder, target, lowered, plan.precision)
    try:
        artifact = verified(
            writer, target, lowered, artifact, job.graph, job.judge.stored, job.options.tolerance
        )
        judged = job.judge.judge(target, writer, job.graph, artifact, progress)
        if judged.fidelity is not None:
            lost = drop_of(judged.fidelity, job.judge.reference)
            progress(f"{target.name}: loses {lost:.2f} {drop_unit(judged.fidelity)}")
    except EdgekitError as error:
        refused = explain_refusal(target, job.captured.program, artifact, error)
        artifact = artifact.model_copy(update={**reason_of(refused), "status": "failed"})
        return Attempt(kept, artifact, Judged(None), None)
    return _weighed(job, kept, artifact, judged)


def _weighed(job: Job, kept: tuple[LayerError, ...], artifact: Artifact, judged: Judged) -> Attempt:
    """The artifact with what quantising cost in it, failed if that is too much."""
    found, budget = judged.fidelity, job.options.quantisation.max_drop
    drop = drop_of(found, job.judge.reference) if found else None
    record = Quantisation(
        scheme=job.plan.scheme,
        bits=job.plan.bits,
        kept=kept,
        layers=job.layers,
        fidelity=found,
        drop=drop,
        max_drop=budget,
    )
    update: dict[str, object] = {"quantisation": record}
    check = artifact.verify
    if check and not check.passed and not job.options.allow_drift:
        broken = failures(check.metrics, check.thresholds)
        reason = f"{artifact.target} departs from PyTorch: {'; '.join(broken)}"
        update |= {"status": "failed", "exit_code": 5, "reason": reason}
    elif drop is not None and budget is not None and drop > budget:
        update |= {"status": "failed", "exit_code": 6, "reason": _over(artifact, job, drop, found)}
    return Attempt(kept, artifact.model_copy(update=update), judged, drop)


def _over(artifact: Artifact, job: Job, drop: float, found: Fidelity) -> str:
    budget = job.options.quantisation.max_drop
    return (
        f"{artifact.target}: {artifact.precision} loses {drop:.2f} {drop_unit(found)}, the budget "
        f"is {budget:g}"
    )


def _put_aside(folder: Path, attempt: Attempt, place: Path) -> Attempt:
    """Move an attempt's files out of the way of the next one."""
    if not folder.exists():
        return attempt
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder, place)
    return replace(attempt, folder=place)


def _choose(writer: BundleWriter, folder: Path, job: Job, attempts: list[Attempt]) -> Quantised:
    """The last attempt if it fits; else the one that lost least, its files rejected."""
    chosen = attempts[-1]
    plain = attempts[0] if len(attempts) > 1 else None
    if not chosen.fits:
        # The last of equals: the files of the others have been moved away.
        chosen = min(attempts[::-1], key=lambda one: math.inf if one.drop is None else one.drop)
        if chosen is not attempts[-1]:
            _put_aside(folder, attempts[-1], chosen.folder.with_name("last"))
            shutil.move(chosen.folder, folder)
        plain = plain if plain is not chosen else None
        artifact = _explained(job, chosen)
        if artifact.file is not None:
            artifact = reject(writer.root, artifact)
        chosen = replace(chosen, artifact=artifact, folder=None)
    return Quantised(chosen, plain)


def _explained(job: Job, attempt: Attempt) -> Artifact:
    """The artifact with, in its reason, that keeping layers did not help either."""
    artifact = attempt.artifact
    if artifact.exit_code != AccuracyError.exit_code:
        return artifact
    kept = len(attempt.kept)
    tried = f"; the best of all tries, with {kept} of {job.layers} layers kept"
    return artifact.model_copy(update={"reason": f"{artifact.reason}{tried}"})
