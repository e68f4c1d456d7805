"""From a PyTorch model to a verified bundle.

>>> from edgekit.export import export
>>> result = export("cpubone-nano", targets=["onnx"], out="nano", report=False)
>>> result.targets[0].status, result.targets[0].graphs[0].verify["level"]
('ok', 'ran')

Importing this loads neither torch nor any back end; calling it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from edgekit.manifest import DeviceHint, Manifest

    from ..models.sources import SourceOptions
    from ..models.spec import LoadedModel
    from ..quant.evaluation import Evaluation
    from ..quant.options import QuantOptions
    from .options import ExportOptions
    from .result import ExportResult
    from .targets import Target

__all__ = ["export"]


def export(
    model: str | nn.Module | LoadedModel,
    targets: Sequence[str | Target] = ("onnx",),
    out: str | Path | None = None,
    *,
    precision: str = "fp32",
    weights: str | None = None,
    inputs: Any = (),
    dynamic: Mapping[str, Mapping[str, tuple[int, int]]] | None = None,
    resolution: tuple[int, int] | None = None,
    head: str | None = None,
    classes: int | None = None,
    tolerance: Mapping[str, float] | None = None,
    allow_drift: bool = False,
    samples: str | Path | None = None,
    locate: bool = False,
    device: DeviceHint | None = None,
    evaluation: str | Path | None = None,
    quantisation: QuantOptions | None = None,
    report: bool = True,
    progress: Callable[[str], None] = lambda step: None,
) -> ExportResult:
    """Capture a model, lower it to each target, verify each, and write one bundle.

    Args:
        model: what the command line takes as MODEL, an ``nn.Module``, or a loaded model.
        targets: names, ``all``, or :class:`~edgekit.export.targets.Target` instances.
        out: a folder, or a file ending in ``.edgekit``; by default named after the model.
        precision: ``fp32``, ``fp16``, ``bf16``; ``int8``, ``int4`` or ``mixed`` (int8 with
            the most sensitive layers in floating point).
        weights: a checkpoint, ``random`` or ``pretrained``; None for the model's own.
        inputs: example inputs of a model of your own: tensors (one, a tuple, or by name) or
            :class:`~edgekit.models.spec.InputSpec`.
        dynamic: per input and axis (number or name), the smallest and largest size.
        resolution: (height, width) of pictures.
        head: what a network of the registry ends in: ``classification``, ``features``,
            ``retinanet`` or ``semantic-fpn``; None: as the checkpoint says, or a classifier.
        classes: how many it tells apart; None: as the checkpoint says or shows.
        tolerance: bounds on ``nmse``, ``cosine`` or ``rel_range`` in place of the precision's.
        allow_drift: keep artifacts that fail the comparison, and say so in the manifest.
        samples: real inputs to verify with, beside seeded random ones.
        locate: where a target fails, name the first node that departs.
        device: what the bundle is made for, for whoever runs it there; it changes no artifact.
            :meth:`edgekit.devices.profiles.Profile.hint` gives one.
        evaluation: labelled pictures (see :mod:`edgekit.runtimes.labelled_pictures`) to
            measure the accuracy on, in PyTorch and on every runtime.
        quantisation: for the integer precisions: calibration samples, the budget, and more.
            Its evaluation is ``evaluation`` unless it has one of its own.
        report: write ``report.html``.
        progress: called with each step in words.

    Returns:
        what ``edgekit export --json`` prints. A target that failed does not raise: see
        ``status``, ``exit_code`` and :meth:`~.result.ExportResult.raise_for_status`.

    Raises:
        UsageError, InputError: the model, its weights or an option is wrong.
        UnsupportedError: the network cannot be captured.
    """
    from edgekit.bundle import BundleWriter

    from ..models.sources import SourceOptions
    from ..models.sources.python_callable import describe_inputs
    from .options import ExportOptions
    from .result import describe_export
    from .targets import choose

    chosen = choose(targets)
    options = ExportOptions(
        precision=precision,
        dynamic=dynamic or {},
        tolerance=tolerance or {},
        allow_drift=allow_drift,
        samples=Path(samples) if samples is not None else None,
        locate=locate,
        device=device,
        evaluation=Path(evaluation) if evaluation is not None else None,
        quantisation=quantisation,
    )
    options = check_options(options)
    if out is not None:
        with BundleWriter(out):
            pass  # what cannot be written is said now, not after the model is loaded
    progress("loading the model")
    said = SourceOptions(weights, describe_inputs(inputs), resolution, head, classes)
    loaded = _load(model, said)
    place = Path(out) if out is not None else _default_out(loaded.name, precision)
    manifest, measured = _write(loaded, chosen, place, options, progress)
    if report:
        progress("writing the report")
        refresh_report(place)
    return describe_export(place, manifest, measured)


def _write(
    model: LoadedModel,
    targets: Sequence[Target],
    place: Path,
    options: ExportOptions,
    progress: Callable[[str], None],
) -> tuple[Manifest, Evaluation | None]:
    if options.quantisation is None:
        from .pipeline import write_bundle

        return write_bundle(model, targets, place, options, progress)
    from .quantise import write_quantised_bundle

    timed = _timed_if_possible(progress)
    return write_quantised_bundle(model, targets, place, options, progress, timed), None


def check_options(options: ExportOptions) -> ExportOptions:
    """The options made whole: an integer precision has its :class:`QuantOptions`.

    Raises:
        UsageError: a precision that this version does not export, or options that do not go
            with it.
    """
    from edgekit.errors import UsageError

    from ..quant.options import QUANTISED, QuantOptions
    from ..quant.precision import THRESHOLDS

    known = dict.fromkeys((*THRESHOLDS, *QUANTISED))
    if options.precision not in known:
        raise UsageError(
            f"precision {options.precision} is not available",
            f"this version exports {', '.join(known)}",
        )
    asked = options.quantisation
    if options.precision not in QUANTISED:
        if asked is not None:
            raise UsageError(
                f"{options.precision} is not quantised",
                "calibration and a budget are for the integer precisions",
                f"give --precision {', '.join(QUANTISED[:-1])} or {QUANTISED[-1]}",
            )
        return options
    asked = asked or QuantOptions()
    if asked.evaluation is None:
        asked = replace(asked, evaluation=options.evaluation)
    asked.check()
    return replace(options, quantisation=asked, evaluation=None)


def _timed_if_possible(progress: Callable[[str], None]) -> Callable[[dict[str, Path]], None]:
    """Timing the precisions; where it fails the export has succeeded all the same."""

    def measure(bundles: dict[str, Path]) -> None:
        from edgekit.errors import EdgekitError

        from .time_precisions import time_precisions

        try:
            time_precisions(bundles)
        except EdgekitError as error:
            progress(f"not timed: {error}")

    return measure


def refresh_report(bundle: str | Path) -> None:
    """Write the bundle's ``report.html`` anew, with the timings measured on this host."""
    from edgekit.bundle import Bundle, update_report
    from edgekit.measurements import precisions_for, rows_for

    from .report import render

    with Bundle.open(bundle) as opened:
        quantised = opened.manifest.quantisation is not None
        timings = precisions_for(opened.digest) if quantised else None
        html = render(opened.manifest, rows_for(opened.digest), timings)
    update_report(bundle, html)


def _default_out(name: str, precision: str) -> Path:
    return Path(name if precision == "fp32" else f"{name}-{precision}")


def _load(model: Any, said: SourceOptions) -> LoadedModel:
    from ..models.sources import load_model, refuse_head
    from ..models.sources.python_callable import from_module
    from ..models.spec import LoadedModel

    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, str):
        return load_model(model, said)
    refuse_head(type(model).__name__, said)
    return from_module(model, type(model).__name__, type(model).__name__, said)
