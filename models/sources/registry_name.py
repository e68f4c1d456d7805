"""A registry name, at another resolution if asked."""

from __future__ import annotations

from edgekit.errors import UsageError

from ..resolution import at_resolution
from ..spec import LoadedModel
from . import SourceOptions


def load_registered(name: str, options: SourceOptions) -> LoadedModel:
    """The registry's model ``name``; errors as :func:`edgekit.models.load`."""
    from .. import load

    if options.inputs:
        raise UsageError(
            f"{name} states its own inputs", "--input is for models of your own", "--resolution HxW"
        )
    model = load(name, options.weights, head=options.head, classes=options.classes)
    return at_resolution(model, options.resolution) if options.resolution else model
