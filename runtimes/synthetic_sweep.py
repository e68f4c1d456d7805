"""A made-up lidar sweep: flat ground with box-shaped things on it, seen by a turning sensor.

Where nobody gave a real sweep this is what a lidar bundle is tried and timed on: unlike
random points it has the rings, the shadows and the uneven density of the real thing.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from .rotated_boxes import footprints

HEIGHT: Final = 1.8  # of the sensor above the ground, metres
REACH: Final = 100.0  # what is further away returns nothing
LAP: Final = 140  # metres, and frames, after which a drive comes by the same things
_LANE: Final = 2.0  # metres to both sides that are free where it drives
_RING_ANGLES: Final = (-17.6, 2.4)  # lowest and highest beam, degrees from level
_KINDS: Final = np.array([[4.5, 1.9, 1.6], [0.8, 0.8, 1.75], [12.0, 2.6, 3.4], [1.8, 0.7, 1.7]])


def synthetic_sweep(rings: int = 64, steps: int = 1800, things: int = 60, seed: int = 0):
    """A sweep (P, 5) float32: x, y, z in metres (ground near z = 0), intensity 0 to 1, zeros.

    Args:
        rings: beams above each other. steps: directions around; P is at most their product.
        things: boxes of the sizes of cars, people, buses and bicycles, 4 to 70 m away.
        seed: of their places and of the noise; the same sweep comes for the same arguments.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    return _scan(_scene(random, things), random, rings, steps)


def synthetic_drive(
    frame: int, rings: int = 64, steps: int = 1800, things: int = 60, seed: int = 0
) -> np.ndarray:
    """Sweep ``frame`` of a drive straight ahead, 1 m from one to the next.

    It passes the things of :func:`synthetic_sweep` that do not stand in its way, and comes by
    them again: the world is a ring, and frame :data:`LAP` sees what frame 0 saw.

    Args:
        frame: counted from 0. The others, and what is returned, as :func:`synthetic_sweep`.
    """
    boxes = _scene(np.random.Generator(np.random.PCG64(seed)), things)
    clearance = np.abs(boxes[:, 1]) - np.hypot(boxes[:, 3], boxes[:, 4]) / 2
    boxes = boxes[clearance > _LANE]
    boxes[:, 0] = (boxes[:, 0] - frame + LAP / 2) % LAP - LAP / 2
    return _scan(boxes, np.random.Generator(np.random.PCG64([seed, frame])), rings, steps)


def _scan(boxes: np.ndarray, random: np.random.Generator, rings: int, steps: int) -> np.ndarray:
    azimuth = np.arange(steps) * (2 * np.pi / steps)
    nearest, top = _hits(boxes, azimuth)
    tilt = np.radians(np.linspace(*_RING_ANGLES, rings))[:, None]
    slope = np.tan(tilt)
    with np.errstate(divide="ignore"):
        ground = np.where(slope < 0, -HEIGHT / slope, np.inf) + 0 * azimuth
    distance, thing = ground.copy(), np.zeros(ground.shape, bool)
    for wall, roof in zip(nearest, top, strict=True):
        hit = (wall < distance) & (HEIGHT + wall * slope < roof) & (wall < ground)
        distance, thing = np.where(hit, wall, distance), thing | hit
    distance = distance * (1 + random.normal(0, 0.002, distance.shape))
    seen = distance < REACH
    angle = np.broadcast_to(azimuth, distance.shape)[seen]
    height = (HEIGHT + distance * slope)[seen]
    away = distance[seen]
    intensity = np.where(thing[seen], 0.6, 0.25) * random.uniform(0.5, 1.5, away.size)
    columns = [away * np.cos(angle), away * np.sin(angle), height, intensity, 0 * away]
    return np.stack(columns, axis=1).astype(np.float32)


def _scene(random: np.random.Generator, things: int) -> np.ndarray:
    """(things, 7) boxes standing on the ground, none around the sensor itself."""
    away, around = random.uniform(4, 70, things), random.uniform(0, 2 * np.pi, things)
    sizes = _KINDS[random.integers(0, len(_KINDS), things)]
    away = away + sizes[:, 0] / 2
    centres = np.stack([away * np.cos(around), away * np.sin(around), sizes[:, 2] / 2], axis=1)
    return np.concatenate([centres, sizes, random.uniform(0, 2 * np.pi, (things, 1))], axis=1)


def _hits(boxes: np.ndarray, azimuth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per box and direction the distance to its nearest wall (inf: missed), and roofs (B, 1)."""
    corners = footprints(boxes)
    step = np.roll(corners, -1, axis=1) - corners
    ray = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=-1)
    cross = ray[:, 0] * step[..., 1, None] - ray[:, 1] * step[..., 0, None]  # (B, 4, steps)
    safe = np.where(cross == 0, 1, cross)
    across = (corners[..., 0] * step[..., 1] - corners[..., 1] * step[..., 0])[..., None] / safe
    along = (corners[..., 0, None] * ray[:, 1] - corners[..., 1, None] * ray[:, 0]) / safe
    hit = (cross != 0) & (across > 0) & (along >= 0) & (along <= 1)
    return np.where(hit, across, np.inf).min(1), (boxes[:, 2] + boxes[:, 5] / 2)[:, None]
