"""The plain task: arrays in a file to arrays in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekit.errors import InputError

from .base import Result, Task


@dataclass(frozen=True, eq=False)
class TensorsResult(Result):
    """The outputs by name."""

    outputs: dict[str, np.ndarray]

    def save(self, path: str | Path) -> None:
        """Write the outputs to an ``.npz`` file."""
        with open(path, "wb") as stream:  # a name without the suffix would get one
            np.savez(stream, allow_pickle=False, **self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Dtype, shape and, where all values are finite, range and mean of each output."""
        return {"outputs": {name: _summary(array) for name, array in self.outputs.items()}}

    def describe(self) -> str:
        """One line an output."""
        lines = []
        for name, array in self.outputs.items():
            facts = _summary(array)
            line = f"{name}  {facts['dtype']} {facts['shape']}"
            if "mean" in facts:
                line += f"  {facts['min']:.6g} to {facts['max']:.6g}, mean {facts['mean']:.6g}"
            lines.append(line)
        return "\n".join(lines)


class Tensors(Task):
    """Arrays from an ``.npz`` file with one array per input, or a ``.npy`` file for one input."""

    kind: ClassVar[str] = "tensors"
    suffixes: ClassVar[tuple[str, ...]] = (".npz", ".npy")

    def decode(self, source: str | Path | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays, read."""
        return self.prepare(source)

    def prepare(self, source: str | Path | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays in the file ``source`` (or given as a mapping), by input name.

        Raises:
            InputError: it holds no arrays, or pickled objects, which are never loaded.
        """
        if isinstance(source, Mapping):
            return dict(source)
        arrays = _read(source)
        if isinstance(arrays, dict):
            return arrays
        names = [spec.name for spec in self.session.inputs]
        if len(names) != 1:
            raise InputError(
                f"{source} holds one array", f"the graph takes {', '.join(names)}", "use an .npz"
            )
        return {names[0]: arrays}

    def finish(self, outputs: Mapping[str, np.ndarray]) -> TensorsResult:
        """The outputs as they are."""
        return TensorsResult(dict(outputs))


def _read(path: str | Path) -> np.ndarray | dict[str, np.ndarray]:
    # NumPy's reader raises nearly any exception on malformed bytes, so all are taken.
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as e:
        reason = str(e) or type(e).__name__
        if "pickle" in reason:  # its advice is to load the file without any check
            reason = "it is no file of NumPy arrays, or has Python objects in it"
        raise InputError(f"{path} holds no arrays", reason, "give an .npz file") from e


def _summary(array: np.ndarray) -> dict[str, Any]:
    facts: dict[str, Any] = {"dtype": array.dtype.name, "shape": list(array.shape)}
    if array.size and np.isfinite(array).all():
        values = array.astype(np.float64)
        facts |= {"min": values.min(), "max": values.max(), "mean": values.mean()}
        facts = {k: float(v) if isinstance(v, np.floating) else v for k, v in facts.items()}
    return facts
