"""Where a model comes from: what the user types as MODEL, turned into a network.

``cpubone-b0`` (the registry), ``timm:NAME``, ``hf:FOLDER_OR_ID``, ``PATH.py:CALLABLE``,
``package.module:CALLABLE``, a ``.pt2``, an ``.onnx`` or a ``.gguf`` file. One file per kind; each
is imported only when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.errors import UsageError

from ..spec import InputSpec, LoadedModel

SEED = 0
RANDOM = f"random (seed {SEED})"


@dataclass(frozen=True)
class SourceOptions:
    """What a user may say about a model.

    Attributes:
        weights: a checkpoint file, ``random``, ``pretrained`` (fetched by timm), or None for
            the source's own.
        inputs: example inputs of a model of the user's own, in call order.
        resolution: height and width of pictures, or None for the model's own.
        head: what a network of the registry ends in (see :mod:`edgekit.models.heads`).
        classes: how many it tells apart.
    """

    weights: str | None = None
    inputs: Sequence[InputSpec] = ()
    resolution: tuple[int, int] | None = None
    head: str | None = None
    classes: int | None = None

    def recipe(self) -> dict[str, Any]:
        """What is not the default, as plain values."""
        found: dict[str, Any] = {}
        if self.weights is not None:
            found["weights"] = str(self.weights)
        if self.inputs:
            found["inputs"] = [{**asdict(spec), "shape": list(spec.shape)} for spec in self.inputs]
        if self.resolution is not None:
            found["resolution"] = list(self.resolution)
        if self.head is not None:
            found["head"] = self.head
        if self.classes is not None:
            found["classes"] = self.classes
        return found


def load_model(text: str, options: SourceOptions | None = None) -> LoadedModel:
    """The network that ``text`` names, in eval mode, with its example inputs.

    Random weights are seeded: the same name gives the same network.

    Raises:
        UsageError: nothing is called so, or its inputs must be stated.
        MissingBackendError: the package that the source needs is not installed.
        InputError: a file cannot be read, or a checkpoint does not fit.
    """
    options = options or SourceOptions()
    suffix = Path(text).suffix.lower()
    if ":" in text or suffix in (".pt2", ".onnx", ".gguf"):
        refuse_head(text, options)
    if text.startswith("timm:"):
        from .timm_model import load_timm as load
    elif text.startswith("hf:"):
        from .hf_folder import load_hf as load
    elif suffix == ".pt2":
        from .pt2_file import load_pt2 as load
    elif suffix == ".onnx":
        from .onnx_file import load_onnx_file as load
    elif suffix == ".gguf":
        from .gguf_file import load_gguf as load
    elif ":" in text:
        from .python_callable import load_callable as load
    else:
        from .registry_name import load_registered as load
    return replace(load(text, options), recipe=options.recipe())


def refuse_weights(text: str, options: SourceOptions) -> None:
    """Raise UsageError where a file that has its weights inside is given others."""
    if options.weights is not None:
        raise UsageError(f"{text} has its own weights", "--weights cannot replace them")


def refuse_head(text: str, options: SourceOptions) -> None:
    """Raise UsageError where a network that is not the registry's is to end otherwise."""
    if options.head is not None or options.classes is not None:
        raise UsageError(
            f"{text} has the head that it comes with",
            "--head and --classes are for models of the registry",
            "`edgekit models` lists them",
        )


def refuse_resolution(text: str, options: SourceOptions) -> None:
    """Raise UsageError where the picture size is not edgekit's to choose."""
    if options.resolution is not None:
        raise UsageError(
            f"{text} states its own input sizes",
            "--resolution is for registry and timm models",
            "give --input NAME:DTYPE[SHAPE]",
        )
