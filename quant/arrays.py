"""Inputs of a graph from ``.npz`` and ``.npy`` files: many samples along the first axis."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from edgekit.errors import InputError
from edgekit.manifest import AxisRange, TensorSpec

ARRAYS: Final = (".npz", ".npy")
LABELS: Final = "labels"

Dynamic = Mapping[str, AxisRange]


def read_arrays(
    path: Path, inputs: Sequence[TensorSpec], dynamic: Dynamic
) -> tuple[list[dict[str, np.ndarray]], list[int] | None]:
    """The samples in a file, and their classes if it has an integer array ``labels``.

    Args:
        path: an ``.npz`` with an array per input (a graph of one input takes any name), or an
            ``.npy``. An array holds one sample, as the graph takes it; or many, along an axis
            before its shape or along its batch axis of 1.

    Raises:
        InputError: it cannot be read, lacks an input, or one has the wrong shape or type.
    """
    found = _load(path)
    labels = found.pop(LABELS, None) if LABELS not in [spec.name for spec in inputs] else None
    if len(inputs) == 1 and len(found) == 1:
        found = {inputs[0].name: next(iter(found.values()))}
    parts = {}
    for spec in inputs:
        if spec.name not in found:
            raise InputError(
                f"{path} has no array {spec.name}",
                f"it has {', '.join(found) or 'none'}; the graph takes "
                + ", ".join(one.name for one in inputs),
            )
        parts[spec.name] = _split(found[spec.name], spec, str(path))
    counts = {name: len(part) for name, part in parts.items()}
    if len(set(counts.values())) != 1:
        raise InputError(f"the arrays of {path} are not of as many samples each", str(counts))
    count = next(iter(counts.values()))
    samples = [
        check_sample(
            {name: part[index] for name, part in parts.items()}, inputs, dynamic, str(path)
        )
        for index in range(count)
    ]
    if not samples:
        raise InputError(f"{path} holds no samples", "its arrays are empty")
    return samples, _classes(labels, count, path)


def check_sample(
    sample: Mapping[str, np.ndarray], inputs: Sequence[TensorSpec], dynamic: Dynamic, name: str
) -> dict[str, np.ndarray]:
    """One sample in the graph's dtypes.

    Raises:
        InputError: an input is missing, has another shape or kind of number, or is not finite.
    """
    checked = {}
    for spec in inputs:
        if spec.name not in sample:
            raise InputError(f"{name} has no array {spec.name}", f"it has {', '.join(sample)}")
        array = np.asarray(sample[spec.name])
        if not _fits(array.shape, spec, dynamic):
            raise InputError(
                f"{spec.name} of {name} has shape {list(array.shape)}",
                f"the graph takes {list(spec.shape)}",
            )
        if array.dtype != spec.dtype and not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            raise InputError(
                f"{spec.name} of {name} is {array.dtype}", f"the graph takes {spec.dtype}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{spec.name} of {name} has values that are not finite")
        checked[spec.name] = np.ascontiguousarray(array, dtype=spec.dtype)
    return checked


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {path.stem: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read", str(error) or type(error).__name__) from error


def _split(array: np.ndarray, spec: TensorSpec, name: str) -> Sequence[np.ndarray]:
    if array.ndim == len(spec.shape) + 1:
        return array
    if array.ndim == len(spec.shape) and spec.shape and spec.shape[0] == 1:
        return [array[index : index + 1] for index in range(len(array))]
    if array.ndim == len(spec.shape):
        return [array]
    raise InputError(
        f"{spec.name} of {name} has shape {list(array.shape)}",
        f"the graph takes {list(spec.shape)}, and many samples have one axis before that",
    )


def _fits(shape: tuple[int, ...], spec: TensorSpec, dynamic: Dynamic) -> bool:
    if len(shape) != len(spec.shape):
        return False
    for have, want in zip(shape, spec.shape, strict=True):
        if isinstance(want, int):
            if have != want:
                return False
        elif (limits := dynamic.get(want)) and not limits.min <= have <= limits.max:
            return False
    return True


def _classes(labels: np.ndarray | None, count: int, path: Path) -> list[int] | None:
    if labels is None:
        return None
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels of {path} is {labels.dtype} {list(labels.shape)}",
            f"one integer for each of the {count} samples is expected",
        )
    return [int(label) for label in labels]
