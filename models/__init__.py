"""The networks, and what each one deploys.

Listing needs no torch; building does. Every network comes in eval mode, on the CPU, in
float32, with the state dict keys of its official checkpoints.

>>> "cpubone-b0" in names()
True
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import MissingBackendError

# `spec` the function hides `spec` the submodule as an attribute of this package; the
# submodule is imported as `from edgekit.models.spec import ...`, which still finds it.
from .registry import names, spec
from .spec import LoadedModel, ModelSpec, resolve

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LoadedModel", "ModelSpec", "build", "load", "names", "spec"]

_RANDOM = "random"


def build(name: str, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """A network of the registry.

    Args:
        name: a registry name (see :func:`names`).
        weights: a checkpoint file (``.safetensors``, ``.pt``, ``.pth``), loaded strictly;
            ``"random"`` for seeded random weights, the same on every call; None for the
            weights that a package ships, or random ones where no package does.

    Returns:
        The network in eval mode. The caller's random state is left alone.

    Raises:
        UsageError: no such model. MissingBackendError: torch, or the package with the
        default weights, is not installed. InputError: the checkpoint is unreadable or does
        not fit.

    >>> import torch
    >>> network = build("cpubone-nano")
    >>> network(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 1000])
    """
    return _network(spec(name), weights)[0]


def load(name: str, weights: str | os.PathLike[str] | None = None) -> LoadedModel:
    """A network of the registry with all that is needed to deploy it.

    Arguments and errors are those of :func:`build`.

    >>> model = load("cpubone-nano", weights="random")
    >>> model.weights, model.graphs[0].inputs[0].shape
    ('random (seed 0)', (1, 3, 224, 224))
    """
    entry = spec(name)
    module, origin = _network(entry, weights)
    return LoadedModel(
        name=entry.name,
        source=name,
        module=module,
        graphs=entry.graphs,
        weights=origin,
        task=entry.task,
        paper=entry.paper,
        licence=entry.licence,
        macs=entry.macs,
        assets=entry.assets,
    )


def _network(entry: ModelSpec, weights: str | os.PathLike[str] | None) -> tuple[nn.Module, str]:
    """The network, and where its weights came from in words."""
    if find_spec("torch") is None:
        raise MissingBackendError(
            f"cannot build {entry.name}",
            "PyTorch is not installed",
            "pip install 'edgekit-toolkit[export]'",
        )
    import torch

    from .weights import apply_checkpoint, load_checkpoint

    path = _checkpoint(entry, weights)
    state = load_checkpoint(path) if path else None
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(0)
        module = entry.build()
    if state is None:
        return module, "random (seed 0)"
    apply_checkpoint(module, state, path)
    return module, path.name


def _checkpoint(entry: ModelSpec, weights: str | os.PathLike[str] | None) -> Path | None:
    """The file to load, or None for random weights."""
    if weights is None:
        return resolve(entry.default_weights)() if entry.default_weights else None
    return None if weights == _RANDOM else Path(weights)
