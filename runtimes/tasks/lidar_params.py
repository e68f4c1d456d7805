"""The parameters of lidar detection in a manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..partition import Layout
from .picture_input import Finite, Positive

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=1 << 20)]
Side = Annotated[int, Field(ge=1, le=4096)]
BlockStrides = Annotated[tuple[Annotated[int, Field(ge=1, le=4)], ...], Field(max_length=16)]
Factor = Annotated[float, Field(gt=0, le=16)]
Voxels = tuple[Side, Side, Side]
Shift = tuple[Annotated[int, Field(ge=0, le=4096)], ...]
Box = tuple[Finite, Finite, Finite, Finite, Finite, Finite]


class LayoutParams(BaseModel):
    """Grid, windows and sets; see :class:`edgekit.runtimes.partition.Layout`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    point_range: Box
    voxel_size: tuple[Positive, Positive, Positive]
    set_size: Side
    windows: Annotated[tuple[Voxels, ...], Field(min_length=1, max_length=8)]
    window_factor: Voxels
    shift: Annotated[Shift, Field(min_length=3, max_length=3)]
    z_strides: tuple[Side, ...] = ()
    map_strides: Annotated[tuple[BlockStrides, ...], Field(min_length=1, max_length=8)]
    upsample: Annotated[tuple[Factor, ...], Field(min_length=1, max_length=8)]

    @model_validator(mode="after")
    def _consistent(self) -> LayoutParams:
        cells = 1
        for low, high, size in zip(
            self.point_range[:3], self.point_range[3:], self.voxel_size, strict=True
        ):
            if not 1 <= round((high - low) / size) <= 4096:
                raise ValueError("an axis of point_range has no voxel, or more than 4096")
            cells *= round((high - low) / size)
        if cells >= 1 << 31:
            raise ValueError("the grid has more than 2**31 voxels")
        if len(self.z_strides) != len(self.windows) - 1:
            raise ValueError("z_strides has one number between each two stages")
        if len(self.map_strides) != len(self.upsample):
            raise ValueError("map_strides and upsample have as many stages as each other")
        return self

    def layout(self) -> Layout:
        """The same as what the partition takes."""
        return Layout(**self.model_dump())


class SuppressionParams(BaseModel):
    """How doubles are told; see :class:`edgekit.runtimes.lidar_decoder.Suppression`.

    ``rotation`` is ``true``, or ``published``: footprints turned by 90 degrees, as the code
    behind the published figures has it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    thresholds: tuple[Share | None, ...]
    rotation: Literal["true", "published"] = "true"
    candidates: Count = 4096
    limit: Count = 500


class LidarParams(BaseModel):
    """The parameters of the task in a manifest.

    Attributes:
        graph: which graph is run unless told; alternatives: those that stand in where a
            runtime has no artifact of it.
        columns: what the five numbers of a point are. squashed: those of which the network
            takes the hyperbolic tangent.
        layout: grid, windows and sets. head: what the outputs are.
        score_threshold: what scores no more is not answered.
        limits: least x, y, z of a centre, then greatest, in metres.
        overlap_exponents: per class, how much the expected overlap weighs in the score.
        suppression: how doubles are told.
        labels: file in the bundle, one a line. show_threshold: what scores less is neither
            drawn nor printed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: str | None = None
    alternatives: tuple[str, ...] = ()
    columns: Annotated[tuple[str, ...], Field(min_length=5, max_length=5)]
    squashed: tuple[str, ...] = ()
    layout: LayoutParams
    head: Literal["center", "transfusion"]
    score_threshold: Share
    limits: Box
    overlap_exponents: Annotated[tuple[Share, ...], Field(min_length=1)]
    suppression: SuppressionParams
    labels: str | None = None
    show_threshold: Share = 0.3
