"""Inputs to judge a model by: seeded random ones, and real ones through its own preprocessing."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.manifest import TaskInfo

from ..models.spec import InputSpec
from ..runtimes.tasks import TASKS

# Token ids and other integers without a stated bound stay below this: small enough for any table.
DEFAULT_HIGH = 10


@dataclass(frozen=True)
class Sample:
    """One set of inputs with its origin in words."""

    origin: str
    inputs: dict[str, np.ndarray]


def random_inputs(
    specs: Sequence[InputSpec],
    dynamic: Mapping[str, Mapping[int, tuple[int, int]]] | None = None,
    *,
    seed: int = 0,
    smallest: int = 1,
    end: str | None = None,
) -> dict[str, np.ndarray]:
    """Random inputs for a graph: standard normal floats, integers below ``high``, or bits.

    Each input has its own stream, seeded by ``seed`` and its name, so that adding an
    input changes no other. A dynamic axis takes its example size, moved into its range
    and to at least ``smallest``; ``end`` = "min" or "max" takes that end of its range.
    """
    found = {}
    for spec in specs:
        shape = list(spec.shape)
        for axis, (low, high) in (dynamic or {}).get(spec.name, {}).items():
            example = min(max(shape[axis], low, smallest), max(high, smallest))
            shape[axis] = {"min": low, "max": high}.get(end or "", example)
        rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(spec.name.encode())]))
        found[spec.name] = _draw(rng, spec, tuple(shape))
    return found


def _draw(rng: np.random.Generator, spec: InputSpec, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape), dtype=dtype)
    high = 2 if dtype.kind == "b" else spec.high or DEFAULT_HIGH
    return np.asarray(rng.integers(spec.low, high, shape), dtype=dtype)


def example_inputs(
    task: TaskInfo,
    specs: Sequence[InputSpec],
    dynamic: Mapping[str, Mapping[int, tuple[int, int]]] | None = None,
    smallest: int = 1,
) -> dict[str, np.ndarray]:
    """Inputs to capture a graph with: what the task makes up, else random ones."""
    made = _made_up(task, specs, None)
    return made.inputs if made else random_inputs(specs, dynamic, smallest=smallest)


def seeded_samples(
    task: TaskInfo,
    specs: Sequence[InputSpec],
    dynamic: Mapping[str, Mapping[int, tuple[int, int]]],
) -> Iterator[Sample]:
    """What every graph is judged by: random numbers, unless they are no example of its inputs,
    and what its task makes up."""
    made = [_made_up(task, specs, end) for end in (None, "min", "max")]
    if made[0] is None:
        yield Sample("random seed 0", random_inputs(specs, dynamic))
        yield from sizes(specs, dynamic)
    yield from (sample for sample in made if sample is not None)


def _made_up(task: TaskInfo, specs: Sequence[InputSpec], end: str | None) -> Sample | None:
    known = TASKS.get(task.kind)
    shapes = {spec.name: spec.shape for spec in specs}
    made = known.examples(task.params, shapes, end) if known else None
    return Sample(made[1], made[0]) if made else None


def sizes(
    specs: Sequence[InputSpec], dynamic: Mapping[str, Mapping[int, tuple[int, int]]]
) -> Iterator[Sample]:
    """Random samples at both ends of the dynamic ranges (none for a static graph)."""
    if any(dynamic.values()):
        for end in ("min", "max"):
            inputs = random_inputs(specs, dynamic, seed=1, end=end)
            yield Sample(f"random seed 1, dynamic axes at {end}", inputs)
