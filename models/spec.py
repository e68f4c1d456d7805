"""What the registry knows of a model, and what a model source hands to the exporter.

Nothing here imports torch: ``edgekit models`` lists the registry on a device, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.manifest import PickedRows, StatePair, TaskInfo

if TYPE_CHECKING:
    from torch import nn

LABELS = "assets/labels.txt"  # where a bundle keeps the names of its classes


@dataclass(frozen=True)
class InputSpec:
    """One input of a graph: name, NumPy dtype name and example shape.

    Random integers are drawn from ``low`` to ``high`` (exclusive), e.g. the vocabulary's
    size; an attention mask is all ones with ``low=1, high=2``.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: int = 0
    high: int | None = None


@dataclass(frozen=True)
class GraphSpec:
    """One graph that a model deploys: its inputs in call order and its outputs' names.

    ``outputs`` empty means that names are derived from what the module returns.
    ``method`` names the module's method that the graph runs. ``dynamic`` maps an input's
    name to ``{axis: (min, max)}``. ``alternative`` names the graph that does the same work
    on a target that refuses this one. ``picked`` says that the outputs are rows which the
    network picks itself. ``answer`` names an output of logits whose largest along the last axis
    decides, on a token for one: a quantised graph is judged by how often it decides the same.
    ``exact`` says that nothing is to be lost on it, since it answers with codes, whose neighbours
    mean something else, or shows what another graph does: whatever precision is asked for, this
    graph stays in fp32.
    """

    name: str = "forward"
    inputs: tuple[InputSpec, ...] = ()
    outputs: tuple[str, ...] = ()
    method: str = "forward"
    dynamic: Mapping[str, Mapping[int, tuple[int, int]]] = field(default_factory=dict)
    states: tuple[StatePair, ...] = ()
    alternative: str | None = None
    picked: PickedRows | None = None
    answer: str | None = None
    exact: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """A registry entry.

    Attributes:
        name: what the user types.
        builder: ``"package.module:callable"``; called with ``*builder_args`` and
            ``**builder_options`` it returns the network in eval mode with random weights.
        graphs: what is deployed.
        task: how real input becomes tensors and outputs become answers.
        parameters: number of parameters; macs: multiply-accumulates of the graphs at the
            example shapes (both counted by tests, not trusted).
        paper: title and where to read it. licence: of the architecture's source.
        default_weights: ``"package.module:callable"`` returning the path of a checkpoint
            that a package ships, or raising an EdgekitError that says what to install;
            None where checkpoints must be given with ``--weights``.
        assets: bundle name -> file in ``models/assets``.
        heads: what the network may end in (see :mod:`edgekit.models.heads`).
        changes: what a checkpoint may say that its recipe changed in the network, by the
            builder's arguments (see :class:`edgekit.models.checkpoint_info.CheckpointInfo`).
        classes: how many the classifier tells apart; None where ``builder`` has no argument
            of that name. rows: as in :class:`edgekit.models.heads.Head`.
        reader: ``"package.module:callable"`` that reads a checkpoint's path into tensors by
            the network's keys, where official files have a form of their own; None: as
            :func:`edgekit.models.weights.load_checkpoint`.
    """

    name: str
    builder: str
    builder_args: tuple[Any, ...] = ()
    builder_options: Mapping[str, Any] = field(default_factory=dict)
    graphs: tuple[GraphSpec, ...] = ()
    task: TaskInfo = field(default_factory=TaskInfo)
    parameters: int = 0
    macs: int | None = None
    paper: str = ""
    licence: str = ""
    default_weights: str | None = None
    assets: Mapping[str, str] = field(default_factory=dict)
    heads: tuple[str, ...] = ("classification",)
    changes: tuple[str, ...] = ()
    classes: int | None = None
    rows: tuple[str, int] | None = None
    reader: str | None = None

    def build(self) -> nn.Module:
        """The network with random weights, in eval mode."""
        return resolve(self.builder)(*self.builder_args, **self.builder_options).eval()


@dataclass(frozen=True)
class LoadedModel:
    """A network ready for capture, wherever it came from.

    Attributes:
        name: short name for the bundle. source: what the user typed.
        module: in eval mode, on the CPU, float32.
        graphs, task, paper, licence, macs: as in :class:`ModelSpec`.
        assets: bundle name -> file in ``models/assets``, or content.
        weights: where the weights came from, in words.
        recipe: what the user said beside the name, to make the network again.
    """

    name: str
    source: str
    module: nn.Module
    graphs: tuple[GraphSpec, ...]
    weights: str
    task: TaskInfo = field(default_factory=TaskInfo)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    paper: str | None = None
    licence: str | None = None
    macs: int | None = None
    assets: Mapping[str, str | bytes] = field(default_factory=dict)


def resolve(path: str) -> Callable[..., Any]:
    """``"package.module:name"`` to the object it names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
