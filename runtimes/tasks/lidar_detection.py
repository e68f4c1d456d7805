"""Lidar detection: the points of a sweep in, upright turned boxes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError, ParityError

from .. import lidar_decoder
from ..partition import Layout, network_inputs, voxelise
from ..point_clouds import SUFFIXES, read_points
from ..sessions.base import Session
from ..synthetic_sweep import synthetic_sweep
from . import birdseye
from .base import Prepared, Result, Shape, Task
from .labels import Labels
from .lidar_params import LidarParams
from .params import check_params
from .picture_task import find_tensor
from .recording import write_recording

WHOLE, SPLIT = "whole", "split"
_CROWD = 1200


@dataclass(frozen=True)
class LidarDetection3D:
    """One object: label, index of its class, score, box, and its velocity if that is known.

    ``box`` is x, y, z of the centre, length, width, height in metres, and the heading in
    radians, counter-clockwise from x. ``velocity`` is along x and y, in m/s.
    """

    label: str
    index: int
    score: float
    box: tuple[float, ...]
    velocity: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; without a velocity where there is none."""
        found = {"label": self.label, "index": self.index, "score": self.score}
        found["box"] = list(self.box)
        return found | ({"velocity": list(self.velocity)} if self.velocity else {})


@dataclass(frozen=True)
class Counts:
    """Points of a sweep: all, not finite, outside the range, and how many voxels the rest fill."""

    points: int = 0
    not_finite: int = 0
    outside: int = 0
    voxels: int = 0


@dataclass(frozen=True)
class LidarResult(Result):
    """What was found, best first.

    Attributes:
        counts: of the sweep. deployment: ``whole`` or ``split``.
        reach: least x and y of the range, then greatest, in metres.
        show_threshold: what scores less is neither drawn nor described.
    """

    detections: tuple[LidarDetection3D, ...]
    counts: Counts
    deployment: str
    reach: tuple[float, float, float, float]
    show_threshold: float = 0.0

    @property
    def shown(self) -> tuple[LidarDetection3D, ...]:
        """Those that score at least ``show_threshold``."""
        return tuple(one for one in self.detections if one.score >= self.show_threshold)

    def to_json(self) -> dict[str, Any]:
        """``{"deployment", "points", "not_finite", "outside", "voxels", "detections"}``."""
        return {
            "deployment": self.deployment,
            **vars(self.counts),
            "detections": [one.to_json() for one in self.detections],
        }

    def describe(self) -> str:
        """What the sweep held, how many objects there are, then one line each."""
        counts = self.counts
        lines = [
            f"{counts.points} points ({counts.not_finite} not finite, {counts.outside} outside "
            f"the range) in {counts.voxels} voxels, deployed {self.deployment}",
            f"{len(self.shown)} object{'' if len(self.shown) == 1 else 's'} with "
            f"{100 * self.show_threshold:g} % or more",
        ]
        for one in self.shown:
            x, y, z, length, width, height, heading = one.box
            lines.append(
                f"{100 * one.score:6.2f} %  {one.label}  at {x:.1f}, {y:.1f}, {z:.1f} m, "
                f"{length:.1f} x {width:.1f} x {height:.1f} m, {np.degrees(heading):.0f} degrees"
            )
        return "\n".join(lines)

    def draw(self, source: str | Path | np.ndarray) -> Image.Image:
        """The sweep seen from above, with the boxes that are shown.

        Raises:
            InputError: it cannot be read as a sweep.
        """
        points = _finite(source)
        shown = self.shown[::-1]  # the best last, and so on top
        boxes = np.array([one.box for one in shown], np.float64).reshape(-1, 7)
        counted = Counter((one.label, one.index) for one in shown)
        legend = [(f"{label}: {many}", index) for (label, index), many in counted.most_common()]
        return birdseye.draw(points, self.reach, boxes, [one.index for one in shown], legend)

    def record(self, source: str | Path | np.ndarray, path: Path) -> None:
        """Write the sweep and the boxes that are shown as a Rerun recording.

        Raises:
            InputError: it cannot be read as a sweep. MissingBackendError: Rerun is not here.
        """
        boxes = np.array([one.box for one in self.shown], np.float64).reshape(-1, 7)
        labels = [f"{one.label} {100 * one.score:.0f} %" for one in self.shown]
        classes = [one.index for one in self.shown]
        write_recording(path, _finite(source), boxes, classes, labels)


class LidarDetection(Task):
    """A network from a sweep to boxes, deployed whole (points in) or split (sets in)."""

    kind: ClassVar[str] = "lidar-detection"
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def __init__(self, bundle: Bundle, session: Session) -> None:
        super().__init__(bundle, session)
        self.params = _parsed(bundle.manifest.task.params, str(bundle.path))
        self.layout = self.params.layout.layout()
        self.labels = Labels.read(bundle, self.params.labels)
        self.deployment = WHOLE if len(session.inputs) == 1 else SPLIT
        find_tensor(session.inputs, "points", "input")
        names = ("scores", "boxes", "iou", "classes", "cells")
        self._outputs = [find_tensor(session.outputs, name, "output").name for name in names]
        params = self.params.suppression
        self._rule = lidar_decoder.Suppression(
            params.thresholds, params.rotation == "published", params.candidates, params.limit
        )

    def decode(self, source: str | Path | np.ndarray) -> np.ndarray:
        """The points, read: (P, 4) or (P, 5)."""
        return read_points(source)

    def prepare(self, source: str | Path | np.ndarray) -> dict[str, np.ndarray]:
        """The session's inputs for one sweep: a file, or an array (P, 4) or (P, 5).

        Raises:
            InputError: it is no sweep, or no point of it is of use.
        """
        return self._prepared(source)[0]

    def begin(self, source: str | Path | np.ndarray) -> Prepared:
        """The inputs, and a finish that knows what the sweep held."""
        inputs, counts = self._prepared(source)
        return Prepared(inputs, partial(self.finish, counts=counts))

    def _prepared(self, source: str | Path | np.ndarray) -> tuple[dict[str, np.ndarray], Counts]:
        points = with_columns(read_points(source), self.params)
        finite = points[np.isfinite(points).all(1)]
        voxels = voxelise(finite, self.layout)
        counts = Counts(
            points=len(points),
            not_finite=len(points) - len(finite),
            outside=len(finite) - voxels.order.size,
            voxels=voxels.number.size,
        )
        if not counts.voxels:
            raise _useless(counts, self.params)
        if self.deployment == WHOLE:
            inputs = {"points": finite[np.sort(voxels.order)]}
        else:
            inputs = network_inputs(finite, voxels, self.layout)
        self._check_sizes(inputs, counts)
        return inputs, counts

    def _check_sizes(self, inputs: Mapping[str, np.ndarray], counts: Counts) -> None:
        """A sweep that is too large for the graph is refused in the user's words."""
        for spec in self.session.inputs:
            for axis, have in zip(spec.shape, inputs[spec.name].shape, strict=True):
                limits = self.session.dynamic.get(axis) if isinstance(axis, str) else None
                if limits is not None and have > limits.max:
                    raise InputError(
                        f"{counts.points} points in {counts.voxels} voxels are too many",
                        f"{spec.name} would be {have} long, the graph was made for {limits.max}",
                        "thin the sweep out, or export with a larger --dynamic",
                    )

    def finish(
        self, outputs: Mapping[str, np.ndarray], counts: Counts | None = None
    ) -> LidarResult:
        """Decode the best candidates, weigh their scores, suppress doubles within each class.

        Raises:
            ParityError: an output is not finite: the artifact is broken.
            BundleError: the outputs do not fit the task.
        """
        values = [outputs[name] for name in self._outputs]
        self._check(values)
        params = self.params
        found, overlap = lidar_decoder.candidates(*values)
        kept = lidar_decoder.within(found, params.score_threshold, params.limits)
        found = lidar_decoder.rectified(found, overlap, params.overlap_exponents)[kept]
        found = lidar_decoder.suppressed(found, self._rule)
        low, high = params.layout.point_range[:2], params.layout.point_range[3:5]
        return LidarResult(
            tuple(self._objects(found)),
            counts or Counts(),
            self.deployment,
            (*low, *high),
            params.show_threshold,
        )

    def _objects(self, found: lidar_decoder.Boxes) -> list[LidarDetection3D]:
        speeds = [None] * len(found.scores) if found.velocities is None else found.velocities
        return [
            LidarDetection3D(
                self.labels[index],
                index,
                score,
                tuple(box),
                None if speed is None else tuple(speed.tolist()),
            )
            for index, score, box, speed in zip(
                found.classes.tolist(),
                found.scores.tolist(),
                found.boxes.tolist(),
                speeds,
                strict=True,
            )
        ]

    def _check(self, values: list[np.ndarray]) -> None:
        classes = len(self.params.suppression.thresholds)
        scores, boxes = values[:2]
        fits = scores.ndim == boxes.ndim == 2 and scores.shape[1] == 1 and boxes.shape[1] >= 8
        if not fits or any(len(value) != len(scores) for value in values):
            raise BundleError(
                f"the task of {self.bundle.path} does not fit its graph",
                f"its outputs are {', '.join(str(list(value.shape)) for value in values)}",
            )
        self.labels.check(classes, "classes")
        if not all(np.isfinite(value).all() for value in values):
            raise ParityError(
                "the boxes are not finite",
                f"{self.session.runtime} overflows in this artifact",
                f"edgekit verify {self.bundle.path}",
            )

    @classmethod
    def examples(
        cls, params: Mapping[str, Any], shapes: Mapping[str, Shape], end: str | None = None
    ) -> tuple[dict[str, np.ndarray], str]:
        """Made-up inputs of a graph that takes ``shapes``, and what they are.

        Numbers drawn at random make no partition, and so no example of a split graph.

        Args:
            end: ``min``: a single point; ``max``: a full sweep; None: a sparse one.
        """
        parsed = _parsed(params, "(being made)")
        points, what = _example(end, parsed.layout.point_range)
        inputs = (
            {"points": points}
            if len(shapes) == 1
            else _split(with_columns(points, parsed), parsed.layout.layout())
        )
        return {name: inputs[name] for name in shapes}, what


def _finite(source: str | Path | np.ndarray) -> np.ndarray:
    points = read_points(source)
    return points[np.isfinite(points[:, :3]).all(1)]


def _example(end: str | None, point_range: Sequence[float]) -> tuple[np.ndarray, str]:
    if end == "min":
        low, high = np.array(point_range[:3]), np.array(point_range[3:])
        place = low + 0.6 * (high - low)
        return np.array([[*place, 0.2, 0.1]], np.float32), "a sweep of one point"
    low, high = np.array(point_range[:3]), np.array(point_range[3:])
    rings, steps = (64, 1800) if end == "max" else (24, 300)
    points = synthetic_sweep(rings, steps)
    # Two voxels with very many points, so that no table of a split graph is degenerate.
    crowds = np.zeros((2 * _CROWD, 5), np.float32)
    crowds[:, :3] = np.repeat([low + share * (high - low) for share in (0.4, 0.6)], _CROWD, axis=0)
    points = np.concatenate([points, crowds])
    return points, f"a synthetic sweep of {len(points)} points"


def _split(points: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
    return network_inputs(points, voxelise(points, layout), layout)


def with_columns(points: np.ndarray, params: LidarParams) -> np.ndarray:
    """Points (P, 4) or (P, 5) as the network takes them, (P, 5).

    A fifth column that is missing, or that numbers the sensor's rings, is zero.
    """
    if points.shape[1] == 5 and not _numbers_rings(points[:, 4]):
        ready = points.copy() if params.squashed else points
    else:
        ready = np.concatenate([points[:, :4], np.zeros((len(points), 1), np.float32)], axis=1)
    for name in params.squashed:
        index = params.columns.index(name)
        ready[:, index] = np.tanh(ready[:, index])
    return ready


def _numbers_rings(column: np.ndarray) -> bool:
    """Whether all are whole numbers and some are above 1: nuScenes files count rings there."""
    finite = column[np.isfinite(column)]
    return bool(finite.size and finite.max() > 1 and (finite == np.floor(finite)).all())


def _useless(counts: Counts, params: LidarParams) -> InputError:
    if not counts.points:
        return InputError("the sweep is empty", "it has no points")
    if counts.not_finite == counts.points:
        return InputError("the sweep has no usable point", f"all {counts.points} are not finite")
    low, high = params.layout.point_range[:3], params.layout.point_range[3:]
    reach = ", ".join(f"{axis} {a:g} to {b:g}" for axis, a, b in zip("xyz", low, high, strict=True))
    return InputError(
        "the sweep has no usable point",
        f"{counts.outside} lie outside the range ({reach} m), {counts.not_finite} are not finite",
        "check that it is in metres, with x ahead, y to the left and z up",
    )


def _parsed(params: Mapping[str, Any], name: str) -> LidarParams:
    parsed = check_params(params, LidarParams, name)
    if unknown := set(parsed.squashed) - set(parsed.columns):
        raise BundleError(f"the task of {name} makes no sense", f"no column {sorted(unknown)[0]}")
    if len(parsed.overlap_exponents) != len(parsed.suppression.thresholds):
        raise BundleError(f"the task of {name} makes no sense", "one exponent a class is needed")
    return parsed
