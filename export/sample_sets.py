"""What a model is calibrated with and what it is judged by: two sets that share nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from ..models.spec import LoadedModel
from ..quant.options import RANDOM, QuantOptions
from ..quant.plan import Arrays, Scheme
from ..quant.samples import Contract, Samples, hold_back, open_samples, refuse_overlap
from ..runtimes.labelled_pictures import TEST, TRAIN
from ..runtimes.tasks import TASKS
from .captured import Captured
from .evaluate import labels_of
from .real_samples import preparer
from .samples import random_inputs

HELD_BACK = 128  # samples at most, where no evaluation is given
LEAST = 2
KEPT = 2**29  # bytes of prepared samples that stay in memory

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
        calibration = _random(model, captured, asked.count + HELD_BACK)
    else:
        calibration = open_samples(source, contract, TRAIN, "calibration")
    if evaluation is None:
        calibration, evaluation = hold_back(calibration, HELD_BACK, LEAST)
    else:
        refuse_overlap(calibration, evaluation)
    drawn = _checked(calibration.draw(asked.count))
    held = _checked(evaluation.draw(asked.evaluation_count))
    return (drawn if scheme == "static" else None), held


def own_samples(captured: Captured) -> Samples:
    """What the export itself verifies a graph with: for graphs that no file goes into."""
    made = [_named(captured, sample.inputs.values()) for sample in captured.reference.samples]
    return open_samples(made, _contract(captured), TRAIN, "evaluation").titled("made-up inputs")


def _checked(samples: Samples) -> Samples:
    """The samples, each made once now: a broken one is refused before anything is lowered.

    They are kept as far as :data:`KEPT` goes; the rest is made again each time.
    """
    kept: dict[int, Arrays] = {}
    size = 0
    for index in range(len(samples)):
        made = samples[index]
        size += sum(array.nbytes for array in made.values())
        if size <= KEPT:
            kept[index] = made
    return replace(
        samples, read=lambda index: kept[index] if index in kept else samples.read(index)
    )


def _random(model: LoadedModel, captured: Captured, count: int) -> Samples:
    """Random numbers of the sizes that the graph was captured with.

    Where numbers drawn at random are no input (they make no partition of a sweep, nor the state
    that a stream comes to), what the export itself verifies with takes their place.
    """
    if carries_state(model, captured):
        return own_samples(captured)
    spec, known = captured.spec, TASKS.get(model.task.kind)
    shapes = {one.name: one.shape for one in spec.inputs}
    if known is not None and known.examples(model.task.params, shapes) is not None:
        return own_samples(captured)
    sizes = captured.reference.samples[0].inputs.values()
    inputs = [
        replace(one, shape=array.shape) for one, array in zip(spec.inputs, sizes, strict=True)
    ]
    made = [_named(captured, random_inputs(inputs, seed=seed).values()) for seed in range(count)]
    return open_samples(made, _contract(captured), TRAIN, "random").titled("random numbers")


def carries_state(model: LoadedModel, captured: Captured) -> bool:
    """Whether the graph carries state, also where it is looked at call by call."""
    return any(one.name == captured.spec.name and one.states for one in model.graphs)


def _named(captured: Captured, arrays: Iterable[np.ndarray]) -> Arrays:
    """By the graph's names: those that are no identifiers were changed on capture."""
    names = (one.name for one in captured.program.inputs)
    return dict(zip(names, arrays, strict=True))


def _contract(captured: Captured) -> Contract:
    return Contract(captured.program.inputs, captured.program.dynamic)
