"""What a checkpoint says of itself: the network it is for, its classes, how it sees pictures.

A checkpoint trained by a recipe of :mod:`edgekit.models.recipes` holds, beside its tensors, a
JSON document under ``edgekit`` in the header of the safetensors file. With it `edgekit export
MODEL --weights FILE` deploys the network as it was trained. Nothing here imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgekit.errors import InputError

KEY = "edgekit"

_Side = Annotated[int, Field(ge=1, le=16384)]
_Size = _Side | tuple[_Side, _Side]
_Values = tuple[float, float, float]
_Line = Annotated[str, Field(pattern=r"^[^\r\n]+$")]  # a bundle keeps labels one a line


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PictureInfo(_Record):
    """How a picture becomes the input, as far as it differs from the registry's entry.

    The fields are those of the tasks in :mod:`edgekit.runtimes.tasks`.
    """

    resolution: _Size | None = None
    resize: _Size | None = None
    crop: bool | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    scale: float | None = None
    mean: _Values | None = None
    std: _Values | None = None
    channels: Literal["RGB", "BGR"] | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """``resolution`` as (height, width)."""
        if isinstance(self.resolution, int):
            return self.resolution, self.resolution
        return self.resolution


class SpeechInfo(_Record):
    """A frozen speech network: its kind and its configuration in transformers."""

    kind: Literal["whisper", "wav2vec2", "hubert", "wavlm"]
    settings: dict[str, bool | int | float | str | tuple[int, ...]] = {}


class CheckpointInfo(_Record):
    """The document.

    Attributes:
        model: the registry's name. head: as in :mod:`.heads`.
        classes: how many are told apart. labels: their names, in order.
        task: how it sees pictures.
        skip: blocks of its backbone that are left out. student: what stands in place of its
            backbone. speech: the frozen network of a model that listens. components: of its
            front end that it was trained with.
        origin: where the weights came from that a recipe began with.
    """

    model: str
    head: str = "classification"
    classes: Annotated[int, Field(ge=1)] | None = None
    labels: tuple[_Line, ...] = ()
    task: PictureInfo = PictureInfo()
    skip: tuple[Annotated[int, Field(ge=0, lt=1024)], ...] = ()
    student: Annotated[str, Field(max_length=200)] | None = None
    speech: SpeechInfo | None = None
    components: tuple[Annotated[str, Field(max_length=20)], ...] = ()
    origin: str | None = None

    @model_validator(mode="after")
    def _one_label_a_class(self) -> CheckpointInfo:
        if self.labels and len(self.labels) != self.classes:
            raise ValueError(f"{len(self.labels)} labels for {self.classes} classes")
        return self


def read_info(path: str | Path) -> CheckpointInfo | None:
    """The document in a safetensors file; None where there is none, or in another kind of file.

    Raises:
        InputError: the file is damaged, or the document is not as described here.
    """
    if Path(path).suffix != ".safetensors" or not Path(path).is_file():
        return None
    metadata = _metadata(Path(path))
    if KEY not in metadata:
        return None
    try:
        return CheckpointInfo.model_validate_json(metadata[KEY])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"what checkpoint {path} says of itself is not valid", f"{where}: {first['msg']}"
        ) from error


def info_metadata(info: CheckpointInfo) -> dict[str, str]:
    """The header of a safetensors file with ``info`` in it."""
    return {KEY: info.model_dump_json(exclude_defaults=True)}


def _metadata(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"cannot read checkpoint {path}", str(error)) from error
