"""Real pictures to judge a model by, from the user or from packages that ship some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from edgekit.errors import InputError
from edgekit.manifest import AxisRange, TaskInfo, TensorSpec

from ..runtimes.tasks import TASKS
from ..runtimes.tasks.base import Task
from ..runtimes.tasks.inputs import expand
from .samples import Sample

ARRAYS = (".npz", ".npy")

# Photographs inside the wheels of scikit-image and scikit-learn.
_SHIPPED = (
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/astronaut.png"),
    ("sklearn", "datasets/images/flower.jpg"),
)
SHIPPED_LIMIT = 2


def shipped_pictures() -> list[Path]:
    """Photographs that installed packages ship; none is imported to find out."""
    found = []
    for package, relative in _SHIPPED:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            path = Path(spec.origin).parent / relative
            if path.is_file():
                found.append(path)
    return found[:SHIPPED_LIMIT]


def real_samples(
    task: TaskInfo,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    folder: Path | None,
    dynamic: Mapping[str, AxisRange] | None = None,
) -> Iterator[Sample]:
    """Real inputs, through the model's own preprocessing.

    Args:
        task: how a file becomes tensors.
        inputs, outputs: the graph's contract.
        folder: a file or folder of the user's; None takes what installed packages ship, if
            the model takes pictures.
        dynamic: the sizes that dynamic axes of the contract may take.

    Raises:
        InputError: the folder holds nothing that the model takes, or a file is broken.
    """
    if _for_another_graph(task, inputs):
        return
    task_alone = preparer(task, inputs, outputs, dynamic or {})
    if folder is not None:
        paths = expand([folder], (*getattr(task_alone, "suffixes", ()), *ARRAYS))
    else:
        paths = shipped_pictures() if task_alone is not None and task_alone.takes_pictures else []
    for path in paths:
        if path.suffix in ARRAYS:
            yield Sample(path.name, _arrays(path, inputs))
        elif task_alone is not None:
            yield Sample(path.name, dict(task_alone.prepare(path)))
        else:
            raise InputError(
                f"{path} cannot be fed to this model",
                "it states no preprocessing, so it takes arrays",
                "give .npz files with an array per input",
            )


def _for_another_graph(task: TaskInfo, inputs: tuple[TensorSpec, ...]) -> bool:
    """Whether files go into another graph than this one, of a model that has several."""
    if "graph" not in task.params or "input" not in task.params:
        return False
    return all(spec.name != task.params["input"] for spec in inputs)


def preparer(
    task: TaskInfo,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    dynamic: Mapping[str, AxisRange],
) -> Task | None:
    """The task without a bundle or a session: only its way from a file to tensors."""
    if task.kind == "tensors" or task.kind not in TASKS:
        return None
    params = {key: value for key, value in task.params.items() if key != "labels"}
    manifest = SimpleNamespace(task=task.model_copy(update={"params": params}))
    draft = SimpleNamespace(manifest=manifest, path="(being made)")
    contract = SimpleNamespace(inputs=inputs, outputs=outputs, dynamic=dynamic)
    return TASKS[task.kind](draft, contract)


def _arrays(path: Path, inputs: tuple[TensorSpec, ...]) -> dict[str, np.ndarray]:
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {inputs[0].name: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"cannot read {path}", str(error)) from error
    missing = [spec.name for spec in inputs if spec.name not in arrays]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}", f"it has {', '.join(arrays)}")
    return {spec.name: arrays[spec.name].astype(spec.dtype, copy=False) for spec in inputs}
