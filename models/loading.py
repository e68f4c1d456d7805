"""From a registry entry and a checkpoint to a network that is ready for capture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError, MissingBackendError

from .checkpoint_info import CheckpointInfo, read_info
from .heads import CLASSIFICATION, count_classes, with_head
from .registry import spec
from .resolution import at_resolution
from .spec import LABELS, LoadedModel, ModelSpec, resolve

if TYPE_CHECKING:
    from torch import Tensor, nn

RANDOM = "random"


def load(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    head: str | None = None,
    classes: int | None = None,
) -> LoadedModel:
    """A network of the registry with all that is needed to deploy it.

    What a checkpoint says of itself (see :mod:`.checkpoint_info`) holds where nothing else is
    asked; one that says nothing shows its number of classes by its shapes.

    Args:
        name: a registry name. weights: as in :func:`edgekit.models.build`.
        head: what the network ends in; None: as the checkpoint says, or a classifier.
        classes: how many it tells apart; None: as the checkpoint says or shows, or the
            head's own number.

    Raises:
        UsageError, MissingBackendError, InputError: as :func:`edgekit.models.build`.

    >>> model = load("cpubone-nano", weights="random")
    >>> model.weights, model.graphs[0].inputs[0].shape
    ('random (seed 0)', (1, 3, 224, 224))
    """
    registered = spec(name)
    if find_spec("torch") is None:
        raise MissingBackendError(
            f"cannot build {registered.name}",
            "PyTorch is not installed",
            "pip install 'edgekit-toolkit[export]'",
        )
    from .weights import apply_checkpoint, load_checkpoint

    path = _checkpoint(registered, weights)
    read = resolve(registered.reader) if registered.reader else load_checkpoint
    state = read(path) if path else None
    info = read_info(path) if path else None
    if info is not None and info.model != registered.name:
        raise InputError(
            f"checkpoint {path} is of {info.model}, not of {registered.name}",
            "it says so in its header",
            f"edgekit export {info.model} --weights {path}",
        )
    entry = _changed(_ending(registered, head, classes, info, state), info)
    module = _seeded(entry)
    if state is not None:
        apply_checkpoint(module, state, path)
    model = LoadedModel(
        name=entry.name if head in (None, CLASSIFICATION) else f"{entry.name}-{head}",
        source=entry.name,
        module=module,
        graphs=entry.graphs,
        weights=_origin(path, info),
        task=entry.task,
        paper=entry.paper,
        licence=entry.licence,
        macs=entry.macs,
        assets={**entry.assets, **_own_assets(module, path)},
    )
    return _as_trained(model, entry, info) if info else model


def _changed(entry: ModelSpec, info: CheckpointInfo | None) -> ModelSpec:
    """The entry with what the checkpoint says that its recipe changed in the network.

    Raises:
        InputError: this network cannot be changed so.
    """
    names = ("skip", "student", "speech", "components")
    said = info.model_dump(mode="python", include=set(names), exclude_none=True) if info else {}
    changes = {name: said[name] for name in names if said.get(name)}
    if not changes:
        return entry
    if not set(changes) <= set(entry.changes):
        raise InputError(
            f"the checkpoint says that {entry.name} has other parts",
            f"it names {', '.join(changes)}, which {entry.name} does not have",
        )
    options = {**entry.builder_options, **changes}
    return replace(entry, builder_options=options, parameters=0, macs=None)


def _origin(path: Path | None, info: CheckpointInfo | None) -> str:
    """Where the weights came from, in words; what was made of random ones is still random."""
    if path is None:
        return "random (seed 0)"
    random = info is not None and (info.origin or "").startswith(RANDOM)
    return f"random (seed 0), then {path.name}" if random else path.name


def _own_assets(module: nn.Module, path: Path | None) -> Mapping[str, bytes]:
    """What a network that needs more than its graphs has a bundle carry, such as a vocabulary."""
    own = getattr(module, "own_assets", None)
    return own(path) if own is not None else {}


def _checkpoint(entry: ModelSpec, weights: str | os.PathLike[str] | None) -> Path | None:
    """The file (or the folder with it) to load, or None for random weights."""
    if weights is None:
        return resolve(entry.default_weights)() if entry.default_weights else None
    return None if weights == RANDOM else Path(weights)


def _ending(
    entry: ModelSpec,
    head: str | None,
    classes: int | None,
    info: CheckpointInfo | None,
    state: Mapping[str, Tensor] | None,
) -> ModelSpec:
    """The entry with the head and the classes that were asked for, or that the checkpoint has."""
    asked = head or (info.head if info else None)
    if classes is None and state is not None:
        ending = with_head(entry, asked)
        classes = count_classes(ending, {key: tuple(t.shape) for key, t in state.items()})
    return with_head(entry, asked, classes)


def _seeded(entry: ModelSpec) -> nn.Module:
    """The network with the same random weights every time; the caller's state is left alone."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(0)
        return entry.build()


def _as_trained(model: LoadedModel, entry: ModelSpec, info: CheckpointInfo) -> LoadedModel:
    """The model with the labels and the pictures that its checkpoint was trained with."""
    if info.task.size is not None:
        model = at_resolution(model, info.task.size)
    params: dict[str, Any] = dict(model.task.params)
    params |= info.task.model_dump(mode="json", exclude_none=True, exclude={"resolution"})
    assets = dict(model.assets)
    # A trunk without its classifier tells nothing apart, whatever it was trained for.
    if info.labels and entry.rows is not None:
        params["labels"] = LABELS
        assets[LABELS] = "\n".join((*info.labels, "")).encode()
    task = model.task.model_copy(update={"params": params})
    return replace(model, task=task, assets=assets)
