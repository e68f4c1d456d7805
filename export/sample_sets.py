"""What a model is calibrated with and what it is judged by: two sets that share nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..models.spec import LoadedModel
from ..quant.options import RANDOM, QuantOptions
from ..quant.plan import Scheme
from ..quant.samples import Contract, Samples, hold_back, open_samples, refuse_overlap
from ..runtimes.labelled_pictures import TEST, TRAIN
from .captured import Captured
from .evaluate import labels_of
from .real_samples import preparer
from .samples import random_inputs

HELD_BACK = 128  # samples at most, where no evaluation is given
LEAST = 2

Progress = Callable[[str], None]


def calibration_and_evaluation(
    model: LoadedModel,
    captured: Captured,
    asked: QuantOptions,
    scheme: Scheme,
    progress: Progress,
) -> tuple[Samples | None, Samples]:
    """The two sets. Without an evaluation, some calibration samples are held back for it.

    Random samples are taken only where ``--calib random`` says so, or where weights alone
    are quantised and nothing real was given (their ranges need no samples).

    Raises:
        InputError: a sample cannot be used, or is in both sets.
    """
    program = captured.program
    contract = Contract(
        program.inputs,
        program.dynamic,
        preparer(model.task, program.inputs, program.outputs, program.dynamic),
        labels_of(model),
    )
    progress("reading samples")
    source = asked.calibration
    evaluation = None
    if asked.evaluation is not None:
        evaluation = open_samples(asked.evaluation, contract, TEST, "evaluation")
    if source is None and evaluation is not None:
        return None, _checked(evaluation.draw(asked.evaluation_count))
    if source is None or (isinstance(source, str) and source == RANDOM):
        calibration = _random(captured, asked.count + HELD_BACK)
    else:
        calibration = open_samples(source, contract, TRAIN, "calibration")
    if evaluation is None:
        calibration, evaluation = hold_back(calibration, HELD_BACK, LEAST)
    else:
        refuse_overlap(calibration, evaluation)
    drawn = _checked(calibration.draw(asked.count))
    held = _checked(evaluation.draw(asked.evaluation_count))
    return (drawn if scheme == "static" else None), held


def _checked(samples: Samples) -> Samples:
    """The samples, each made once now: a broken one is refused before anything is lowered."""
    made = [samples[index] for index in range(len(samples))]
    return replace(samples, read=made.__getitem__)


def _random(captured: Captured, count: int) -> Samples:
    spec = captured.spec
    axes = {name: dict(limits) for name, limits in spec.dynamic.items()}
    made = [random_inputs(spec.inputs, axes, seed=seed) for seed in range(count)]
    names = [one.name for one in captured.program.inputs]
    return open_samples(
        [dict(zip(names, one.values(), strict=True)) for one in made],
        Contract(captured.program.inputs, captured.program.dynamic),
        TRAIN,
        "random",
    ).titled("random numbers")
