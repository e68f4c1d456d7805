"""An ``.onnx`` file, read into a network that torch can capture."""

from __future__ import annotations

from ..spec import LoadedModel
from . import SourceOptions, refuse_resolution, refuse_weights


def load_onnx_file(text: str, options: SourceOptions) -> LoadedModel:
    """Load an ONNX file; errors as :func:`.onnx_module.load_onnx`."""
    from .onnx_module import load_onnx

    refuse_weights(text, options)
    refuse_resolution(text, options)
    shapes = {spec.name: spec.shape for spec in options.inputs} or None
    return load_onnx(text, shapes=shapes)
