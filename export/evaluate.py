"""Accuracy of what was exported, on labelled pictures: PyTorch's, and that of every artifact."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from edgekit.bundle import Files
from edgekit.errors import InputError
from edgekit.manifest import EvaluationInfo, Graph, TaskInfo

from ..models.spec import GraphSpec, LoadedModel
from ..quant.evaluation import (
    THREADS,
    Contender,
    Evaluation,
    evaluate_graph,
    require_classifier,
    task_around,
)
from ..runtimes.labelled_pictures import LabelledPictures, open_labelled
from ..runtimes.sessions.base import Session
from .capture import FlatGraph

PYTORCH = "pytorch"
_TENTHS = 10  # how often progress is told


class EagerSession(Session):
    """The network itself, eagerly in PyTorch, behind the interface of a runtime."""

    runtime: ClassVar[str] = PYTORCH

    def __init__(self, network: FlatGraph, graph: Graph, threads: int) -> None:
        super().__init__(graph.inputs, graph.outputs, graph.dynamic, threads)
        self._network = network
        self._all_threads = torch.get_num_threads()

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with _threads(self.threads or self._all_threads):
            return self._answer(inputs)

    def run_many(self, several: Sequence[Mapping[str, np.ndarray]]) -> Iterator[dict[str, Any]]:
        """Several samples as one batch, on all threads: the same answers, sooner."""
        whole = {
            spec.name: np.concatenate([inputs[spec.name] for inputs in several])
            for spec in self.inputs
        }
        with _threads(self._all_threads):
            outputs = self._answer(whole)
        for index in range(len(several)):
            yield {name: array[index : index + 1] for name, array in outputs.items()}

    def _answer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = [torch.from_numpy(inputs[spec.name]) for spec in self.inputs]
        with torch.no_grad():
            values = self._network(*tensors)
        names = (spec.name for spec in self.outputs)
        return dict(zip(names, (value.numpy() for value in values), strict=True))


def open_evaluation(model: LoadedModel, path: Path) -> LabelledPictures:
    """The pictures to evaluate ``model`` on, matched with its labels.

    Raises:
        UsageError: the model's task is not classification.
        InputError: there are no labelled pictures at ``path``, or they are of other classes.
    """
    require_classifier(model.task, model.name)
    return open_labelled(path, labels_of(model))


def evaluate_export(
    files: Files,
    model: LoadedModel,
    graphs: Sequence[Graph],
    pictures: LabelledPictures,
    progress: Callable[[str], None],
) -> Evaluation:
    """Evaluate the eager network and every accepted artifact of a classifier's graph.

    Args:
        files: the bundle that is being written.
        progress: told in words, ten times.

    Raises:
        InputError: a picture cannot be read, or the network has another number of classes.
        ParityError: the network's own answers are not finite.
    """
    index = task_graph(graphs, model.task)
    graph = graphs[index]
    session = EagerSession(FlatGraph(model.module, model.graphs[index]), graph, THREADS)
    eager = Contender(PYTORCH, session, task_around(session, model.task), run_many=session.run_many)
    evaluation = evaluate_graph(
        files,
        graph,
        model.task,
        pictures,
        reference=eager,
        advance=_Telling(len(pictures), progress),
    )
    if (error := evaluation.rows[0].error) is not None:
        raise error
    return evaluation


def task_graph(graphs: Sequence[Graph | GraphSpec], task: TaskInfo) -> int:
    """Which graph files go into: the one that the task names, or that a bundle opens."""
    names = [graph.name for graph in graphs]
    wanted = task.params.get("graph", "forward")
    return names.index(wanted) if wanted in names else 0


def recorded(graph: Graph, evaluation: Evaluation) -> Graph:
    """The graph with each artifact's accuracy in it."""
    found = {row.target: row.accuracy for row in evaluation.rows if row.target}
    artifacts = [
        artifact.model_copy(update={"accuracy": found.get(artifact.target)})
        for artifact in graph.artifacts
    ]
    return graph.model_copy(update={"artifacts": tuple(artifacts)})


def evaluation_info(evaluation: Evaluation) -> EvaluationInfo:
    """What the manifest says of the whole; timings are left out."""
    eager = evaluation.rows[0].accuracy
    if eager is None:
        raise InputError(f"nothing was measured on {evaluation.dataset}")
    return EvaluationInfo(dataset=evaluation.dataset, sha256=evaluation.sha256, pytorch=eager)


class _Telling:
    """Says how many pictures are done, each tenth of the way."""

    def __init__(self, total: int, progress: Callable[[str], None]) -> None:
        self._total, self._progress, self._done = total, progress, 0
        progress(f"accuracy: {total:,} pictures")

    def __call__(self, count: int) -> None:
        before, self._done = self._done, self._done + count
        if self._done * _TENTHS // self._total > before * _TENTHS // self._total:
            self._progress(f"accuracy: {self._done:,} of {self._total:,} pictures")


def labels_of(model: LoadedModel) -> tuple[str, ...] | None:
    """The names of the classes that a model tells apart, if it brings them."""
    asset = model.assets.get(model.task.params.get("labels") or "")
    if asset is None:
        return None
    if isinstance(asset, str):
        asset = (importlib.resources.files("edgekit.models") / "assets" / asset).read_bytes()
    return tuple(asset.decode().splitlines())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
