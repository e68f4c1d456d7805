"""ONNX files: one below 2 GB, weights beside it above; checked by ONNX itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import UnsupportedError

from .base import shorten

if TYPE_CHECKING:
    import onnx_ir

# Protobuf cannot hold 2 GiB; leave room for the graph itself.
SINGLE_FILE_LIMIT = 2**31 - 2**24


def save_onnx(model: onnx_ir.Model, path: Path, limit: int = SINGLE_FILE_LIMIT) -> tuple[str, ...]:
    """Write ``model``; returns the names of files beside it that hold its weights."""
    import onnx_ir as ir

    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    if size <= limit:
        ir.save(model, path)
        return ()
    ir.save(model, path, external_data=f"{path.name}.data")
    return (f"{path.name}.data",)


def check_onnx(path: Path) -> None:
    """Run ONNX's own checker over a file, with shape inference.

    Raises:
        UnsupportedError: the model is not valid ONNX.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise UnsupportedError("onnx: the emitted model is not valid", shorten(error)) from error
