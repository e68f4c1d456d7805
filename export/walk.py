"""Streaming graphs are judged on a walk: frame after frame, each side carrying its own state.

One call from made-up state would not show that what a step gives back is what the next one needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import InputError
from edgekit.manifest import Graph, TaskInfo

from ..models.spec import GraphSpec
from ..quant.evaluation import THREADS
from ..runtimes.sessions.base import Session
from ..runtimes.streaming import StreamingSession
from ..runtimes.tasks.inputs import expand
from .real_samples import preparer
from .reference import Reference
from .samples import Sample, random_inputs

if TYPE_CHECKING:
    from torch import nn

    from .capture import FlatGraph

FRAMES = 12
#: Bytes of an output up to which it is compared; a ring that comes back whole shows in what the
#: frames after it answer.
COMPARED = 2**20
#: Bytes of frames with their state that are kept at once.
UNROLLED = 2**29


class Walk:
    """A stream of calls: :meth:`run` takes a frame and gives what is no state, and the state's
    successors as the runtime itself gave them."""

    def __init__(self, session: Session) -> None:
        self._session, self._stream = session, StreamingSession(session)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One frame."""
        answers = self._stream.step(inputs)
        return {**answers, **self._stream.successors()}


def runner(session: Session, reference: Reference) -> Session | Walk:
    """What runs a reference's samples: the session, or a walk where they have no state."""
    if not session.states or not reference.samples:
        return session
    fed = {pair.input for pair in session.states}
    return session if fed <= set(reference.samples[0].inputs) else Walk(session)


def frames(
    task: TaskInfo, spec: GraphSpec, graph: Graph, folder: Path | None = None
) -> Iterator[Sample]:
    """Inputs for a walk, without the state: seeded ones, then those in the user's files.

    Raises:
        InputError: a file cannot be read, or this graph takes none.
    """
    free = [one for one in spec.inputs if one.name not in _fed(graph)]
    for number in range(FRAMES):
        inputs = random_inputs(free, seed=number)
        yield Sample(f"frame {number + 1} of a seeded stream", inputs)
    if folder is None or task.params.get("input") not in {one.name for one in free}:
        return
    alone = preparer(task, graph.inputs, graph.outputs, {})
    if alone is None or not hasattr(alone, "frames"):
        raise InputError(f"{folder} cannot be fed to this graph", "it is not streamed from files")
    for path in expand([folder], alone.suffixes):
        for number, inputs in zip(range(FRAMES), alone.frames(path), strict=False):
            yield Sample(f"frame {number + 1} of {path.name}", inputs)


def _fed(graph: Graph) -> set[str]:
    return {pair.input for pair in graph.states}


def compute_walk(network: FlatGraph, graph: Graph, samples: Sequence[Sample]) -> Reference:
    """The network's answers along the walk, in PyTorch."""
    walk = Walk(_eager(network, graph))
    outputs = []
    for sample in samples:
        found = walk.run(sample.inputs)
        small = {name: value for name, value in found.items() if value.nbytes <= COMPARED}
        outputs.append({name: value.copy() for name, value in small.items()})
    return Reference(tuple(samples), tuple(outputs))


def unrolled(module: nn.Module, spec: GraphSpec, graph: Graph, reference: Reference) -> Reference:
    """A walk as single calls: each frame with the state that PyTorch came to it with.

    For what looks at one call at a time: how much rounding matters, where a graph departs, what
    quantising costs. As many frames as fit into memory, two at least.
    """
    from .capture import FlatGraph

    session = _eager(FlatGraph(module, spec), graph)
    stream = StreamingSession(session)
    samples, outputs, size = [], [], 0
    for number, sample in enumerate(reference.samples):
        whole = {**sample.inputs, **stream.state()}
        size += sum(array.nbytes for array in whole.values())
        if size > UNROLLED and number >= 2:
            break
        ordered = {one.name: whole[one.name] for one in graph.inputs}
        samples.append(Sample(sample.origin, ordered))
        outputs.append({name: a.copy() for name, a in session.run(ordered).items()})
        stream.step(sample.inputs)
    return Reference(tuple(samples), tuple(outputs))


def _eager(network: FlatGraph, graph: Graph) -> Session:
    from .evaluate import EagerSession

    session = EagerSession(network, graph, THREADS)
    session.states = graph.states
    return session
