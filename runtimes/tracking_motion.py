"""Where a box will be: a Kalman filter of constant velocity over its centre and size."""

from __future__ import annotations

import numpy as np

_POSITION, _VELOCITY = 1 / 20, 1 / 160  # deviations in shares of the box's size (ByteTrack)
_MEASURED = 4  # numbers of a box: cx, cy, w, h; their velocities follow
_LEAST = 1.0  # pixel: a box without size would have no deviation


class Motion:
    """One box in motion: mean (8,) and covariance (8, 8) of centre, size and velocities.

    Args:
        box: x1, y1, x2, y2 in pixels, where it was first seen.
    """

    def __init__(self, box: np.ndarray) -> None:
        measured = _to_centre(box)
        self._mean = np.concatenate([measured, np.zeros(_MEASURED)])
        deviation = self._deviation(2 * _POSITION, 10 * _VELOCITY)
        self._covariance = np.diag(deviation**2)

    @property
    def box(self) -> np.ndarray:
        """x1, y1, x2, y2 as believed now."""
        centre, half = self._mean[:2], np.maximum(self._mean[2:_MEASURED], 0) / 2
        return np.concatenate([centre - half, centre + half])

    def predict(self, moving: bool = True) -> None:
        """One frame on.

        Args:
            moving: False for a box that is out of sight, whose size is kept: it would go on
                to grow or shrink by itself.
        """
        if not moving:
            self._mean[_MEASURED + 2 :] = 0
        step = np.eye(2 * _MEASURED)
        step[:_MEASURED, _MEASURED:] = np.eye(_MEASURED)
        noise = np.diag(self._deviation(_POSITION, _VELOCITY) ** 2)
        self._mean = step @ self._mean
        self._covariance = step @ self._covariance @ step.T + noise

    def correct(self, box: np.ndarray) -> None:
        """Take in where it was seen."""
        noise = np.diag(self._deviation(_POSITION, 0)[:_MEASURED] ** 2)
        inside = self._covariance[:_MEASURED, :_MEASURED] + noise
        gain = np.linalg.solve(inside, self._covariance[:_MEASURED]).T
        self._mean = self._mean + gain @ (_to_centre(box) - self._mean[:_MEASURED])
        self._covariance = self._covariance - gain @ inside @ gain.T

    def _deviation(self, position: float, velocity: float) -> np.ndarray:
        width, height = np.maximum(self._mean[2:_MEASURED], _LEAST)
        size = np.array([width, height, width, height])
        return np.concatenate([position * size, velocity * size])


def _to_centre(box: np.ndarray) -> np.ndarray:
    box = np.asarray(box, np.float64)
    return np.concatenate([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])
