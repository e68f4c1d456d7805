"""Core ML: runs ``.mlpackage`` folders on macOS, on the CPU, the GPU or the Neural Engine.

Not run where edgekit is developed (Linux): written from coremltools' documentation.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from edgekit.bundle import Files
from edgekit.errors import BundleError, MissingBackendError, UsageError
from edgekit.manifest import Artifact, Graph, TensorSpec

from .base import Session, failed, refused


class CoreMLSession(Session):
    """An ``MLModel``; Core ML decides on threads by itself, so ``threads`` is only noted.

    Args:
        compute_units: ``ALL``, ``CPU_ONLY``, ``CPU_AND_GPU`` or ``CPU_AND_NE``.
    """

    runtime: ClassVar[str] = "coreml"

    def __init__(
        self,
        files: Files,
        graph: Graph,
        artifact: Artifact,
        threads: int | None = None,
        *,
        compute_units: str = "ALL",
    ) -> None:
        super().__init__(graph.inputs, graph.outputs, graph.dynamic, threads)
        coremltools = _load_library()
        if compute_units not in coremltools.ComputeUnit.__members__:
            raise UsageError(
                f"no compute units {compute_units!r}",
                f"Core ML has {', '.join(coremltools.ComputeUnit.__members__)}",
            )
        path = files.folder(artifact.file or "")
        try:
            self._model = coremltools.models.MLModel(
                str(path), compute_units=coremltools.ComputeUnit[compute_units]
            )
            description = self._model.get_spec().description
        except (RuntimeError, ValueError, OSError) as e:
            raise refused(self.runtime, artifact.file, e) from e
        self._feeds = pair_features(artifact.file, graph.inputs, description.input)
        self._fetches = pair_features(artifact.file, graph.outputs, description.output)
        self.effective_precision = artifact.effective_precision or artifact.precision

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        feed = {theirs: to_multiarray(inputs[spec.name]) for spec, theirs in self._feeds}
        try:
            results = self._model.predict(feed)
        except (RuntimeError, ValueError) as e:
            raise failed(self.runtime, e) from e
        return {spec.name: from_multiarray(results[t], spec) for spec, t in self._fetches}

    def close(self) -> None:
        """Release the model."""
        self._model = None
        super().close()


def _load_library() -> Any:
    if sys.platform != "darwin":
        raise MissingBackendError(
            "Core ML is not here",
            "Core ML runs on Apple systems only",
            "copy the bundle to a Mac, or choose another --runtime",
        )
    try:
        import coremltools
    except ImportError as e:
        raise MissingBackendError(
            "coremltools is not here", str(e), 'pip install "edgekit-toolkit[coreml]"'
        ) from e
    return coremltools


def pair_features(
    file: str | None, specs: tuple[TensorSpec, ...], features: Any
) -> list[tuple[TensorSpec, str]]:
    """Our tensors with Core ML's names: by name where all agree, otherwise by position."""
    names = [feature.name for feature in features]
    if len(names) != len(specs):
        raise BundleError(
            f"{file} does not fit the manifest", f"it has {names} for {[s.name for s in specs]}"
        )
    if {spec.name for spec in specs} == set(names):
        return [(spec, spec.name) for spec in specs]
    return list(zip(specs, names, strict=True))


def to_multiarray(array: np.ndarray) -> np.ndarray:
    """Core ML's arrays are float16, float32, float64 or int32, of rank 1 at least."""
    if array.dtype.kind in "iub" and array.dtype != np.int32:
        array = array.astype(np.int32)
    return np.atleast_1d(np.ascontiguousarray(array))


def from_multiarray(value: Any, spec: TensorSpec) -> np.ndarray:
    array = np.asarray(value).astype(spec.dtype, copy=True)
    # A scalar comes back with one axis.
    return array.reshape(()) if spec.shape == () else array
