"""What the network itself answers: the reference that every artifact is held against."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import BundleError, UsageError
from edgekit.manifest import StatePair, TensorSpec

from .samples import Sample

if TYPE_CHECKING:
    from .capture import FlatGraph

# A bundle keeps its references, so that a device can verify without PyTorch, up to this size.
STORED_LIMIT = 16 * 2**20


@dataclass(frozen=True)
class Reference:
    """Samples and, per sample, the outputs of the fp32 network in PyTorch."""

    samples: tuple[Sample, ...]
    outputs: tuple[dict[str, np.ndarray], ...]

    @property
    def origins(self) -> tuple[str, ...]:
        """Where the samples come from, in words."""
        return tuple(sample.origin for sample in self.samples)


def compute(
    network: FlatGraph, outputs: Sequence[TensorSpec], samples: Sequence[Sample]
) -> Reference:
    """Run the network eagerly on every sample.

    Raises:
        UsageError: the network does not run on a sample, e.g. at one end of a dynamic range.
    """
    import torch

    results = []
    for sample in samples:
        tensors = [torch.from_numpy(array) for array in sample.inputs.values()]
        try:
            with torch.no_grad():
                values = network(*tensors)
        except Exception as error:
            shapes = ", ".join(f"{name}{list(a.shape)}" for name, a in sample.inputs.items())
            raise UsageError(
                f"the network does not run on {shapes}", f"{type(error).__name__}: {error}"
            ) from error
        arrays = [value.detach().contiguous().numpy() for value in values]
        results.append(dict(zip((spec.name for spec in outputs), arrays, strict=True)))
    return Reference(tuple(samples), tuple(results))


def save_reference(reference: Reference, path: Path) -> None:
    """Write samples and outputs as safetensors: as many samples as fit, at least one."""
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = {}
    origins: list[str] = []
    pairs = zip(reference.samples, reference.outputs, strict=True)
    for index, (sample, outputs) in enumerate(pairs):
        part = {f"{index}/in/{name}": array for name, array in sample.inputs.items()}
        part |= {f"{index}/out/{name}": array for name, array in outputs.items()}
        size = sum(array.nbytes for array in (*tensors.values(), *part.values()))
        if tensors and size > STORED_LIMIT:
            break
        tensors |= part
        origins.append(sample.origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    path.write_bytes(save(whole, metadata={"samples": json.dumps(origins)}))


def load_reference(
    path: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    states: Sequence[StatePair] = (),
) -> Reference:
    """Read what :func:`save_reference` wrote.

    Of a streaming graph the state may be left out (see :mod:`.walk`).

    Raises:
        BundleError: it is damaged, or does not fit the graph.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            origins = json.loads(file.metadata()["samples"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        inputs = _stored(tensors, "0/in", inputs, {pair.input for pair in states})
        outputs = _stored(tensors, "0/out", outputs, {pair.output for pair in states})
        samples = [
            Sample(str(origin), _pick(tensors, f"{index}/in", inputs))
            for index, origin in enumerate(origins)
        ]
        answers = [_pick(tensors, f"{index}/out", outputs) for index in range(len(origins))]
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise BundleError(f"the reference {path.name} cannot be read", str(error)) from error
    return Reference(tuple(samples), tuple(answers))


def _stored(
    tensors: Mapping[str, np.ndarray], prefix: str, specs: Sequence[TensorSpec], state: set[str]
) -> list[TensorSpec]:
    """The specs without those parts of the state that were left out."""
    return [s for s in specs if s.name not in state or f"{prefix}/{s.name}" in tensors]


def _pick(
    tensors: Mapping[str, np.ndarray], prefix: str, specs: Sequence[TensorSpec]
) -> dict[str, np.ndarray]:
    return {spec.name: tensors[f"{prefix}/{spec.name}"] for spec in specs}
