"""A sweep with its boxes as a recording that the Rerun viewer shows (https://rerun.io)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgekit.errors import MissingBackendError

from .drawing import colour

SUFFIX: Final = ".rrd"
_POINT: Final = 0.03  # metres, a point's radius


def require_rerun() -> Any:
    """The ``rerun`` package.

    Raises:
        MissingBackendError: it is not here.
    """
    try:
        import rerun
    except ImportError as error:
        raise MissingBackendError(
            "a recording needs Rerun", str(error), "pip install 'edgekit-toolkit[rerun]'"
        ) from error
    return rerun


def write_recording(
    path: Path,
    points: np.ndarray,
    boxes: np.ndarray,
    classes: Sequence[int],
    labels: Sequence[str],
) -> None:
    """Write points and boxes, z up, in metres.

    Args:
        points: (P, 4 or more), finite: x, y, z, intensity.
        boxes: (N, 7) x, y, z of the centre, length, width, height, heading in radians.
        classes: of each box. labels: what is written beside each.

    Raises:
        MissingBackendError: Rerun is not here.
    """
    rerun = require_rerun()
    recording = rerun.RecordingStream("edgekit")
    # Told of the file first: what is logged before has nowhere to go.
    recording.save(path)
    recording.log("sweep", rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    recording.log("sweep/points", rerun.Points3D(points[:, :3], radii=_POINT))
    half = boxes[:, 6] / 2
    zero = np.zeros_like(half)
    found = rerun.Boxes3D(
        centers=boxes[:, :3],
        sizes=boxes[:, 3:6],
        quaternions=np.stack([zero, zero, np.sin(half), np.cos(half)], axis=1),
        colors=[colour(index) for index in classes],
        labels=list(labels),
    )
    recording.log("sweep/boxes", found)
    recording.disconnect()
