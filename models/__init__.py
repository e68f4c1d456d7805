"""The networks, and what each one deploys.

Listing needs no torch; building does. Every network comes in eval mode, on the CPU, in
float32, with the state dict keys of its official checkpoints.

>>> "cpubone-b0" in names()
True
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# `spec` the function hides `spec` the submodule as an attribute of this package; the
# submodule is imported as `from edgekit.models.spec import ...`, which still finds it.
from .loading import load
from .registry import names, spec
from .spec import LoadedModel, ModelSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LoadedModel", "ModelSpec", "build", "load", "names", "spec"]


def build(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    head: str | None = None,
    classes: int | None = None,
    features_only: bool = False,
) -> nn.Module:
    """A network of the registry.

    Args:
        name: a registry name (see :func:`names`).
        weights: a checkpoint file (``.safetensors``, ``.pt``, ``.pth``), loaded strictly;
            ``"random"`` for seeded random weights, the same on every call; None for the
            weights that a package ships, or random ones where no package does.
        head: what the network ends in: ``classification``, ``features``, ``retinanet`` or
            ``semantic-fpn``; None: as the checkpoint says, or a classifier.
        classes: how many it tells apart; None: as the checkpoint says or shows, or as many as
            the head's data set has (ImageNet 1000, COCO 80, ADE20K 150).
        features_only: the same as ``head="features"``, as timm calls it.

    Returns:
        The network in eval mode. The caller's random state is left alone.

    Raises:
        UsageError: no such model or head. MissingBackendError: torch, or the package with the
        default weights, is not installed. InputError: the checkpoint is unreadable or does
        not fit.

    >>> import torch
    >>> network = build("cpubone-nano")
    >>> network(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 1000])
    >>> maps = build("lowformer-e1", features_only=True)(torch.zeros(1, 3, 64, 64))
    >>> [tuple(m.shape[1:]) for m in maps.values()]
    [(40, 16, 16), (80, 8, 8), (160, 4, 4), (320, 2, 2)]
    """
    return load(name, weights, head="features" if features_only else head, classes=classes).module
