"""Lidar sweeps to play over and over, and how they are packed for pages."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from edgekit.errors import EdgekitError, InputError

from ..runtimes.point_clouds import SUFFIXES, read_points
from ..runtimes.synthetic_sweep import LAP, synthetic_drive

MOST_DRAWN: Final = 100_000  # points of a sweep that a page gets
MADE_UP: Final = "a made-up street"
_STEPS: Final = 900  # directions around of the made-up sweeps: 50,000 points
_FINEST: Final = 0.01  # metres; int16 then reaches 327 m
_WHOLE: Final = 32767
_HEADER: Final = struct.Struct("<fI")


@dataclass(frozen=True)
class Sweeps:
    """Sweeps in order.

    Attributes:
        source: what they are, for people. names: of each.
        read: gives the points (P, 4) or (P, 5) of one by its index; raises InputError.
    """

    source: str
    names: tuple[str, ...]
    read: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.names)


def open_sweeps(path: Path | None) -> Sweeps:
    """The sweeps of a folder, in which numbers in names count as numbers, or a single one.

    Args:
        path: None makes sweeps up: a drive along a street, see
            :func:`edgekit.runtimes.synthetic_sweep.synthetic_drive`.

    Raises:
        InputError: there is no such file, or not one sweep that can be read.
    """
    if path is None:
        names = tuple(f"frame {number}" for number in range(LAP))
        return Sweeps(MADE_UP, names, lambda index: synthetic_drive(index, steps=_STEPS))
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        raise InputError(f"no file {path}", "it does not exist")
    read_points(path)
    return Sweeps(path.name, (path.name,), lru_cache(1)(lambda index: _read(path)))


def _of_folder(folder: Path) -> Sweeps:
    paths = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    if not paths:
        raise InputError(f"no sweeps in {folder}", f"no file ends in {' '.join(SUFFIXES)}")
    # sweep9 comes before sweep10.
    paths.sort(key=lambda path: [*map(_number, re.split(r"(\d+)", path.name))])
    _check_one(folder, paths)
    names = tuple(path.name for path in paths)
    return Sweeps(folder.resolve().name, names, lambda index: _read(paths[index]))


def _read(path: Path) -> np.ndarray:
    """What viewers are told of a fault names the file, and not where it lies."""
    try:
        return read_points(path)
    except InputError as fault:
        what = fault.what.replace(str(path), path.name)
        raise InputError(what, fault.why, fault.next_step) from fault


def _check_one(folder: Path, paths: list[Path]) -> None:
    """One that can be read is enough; the page tells of others as it comes by them."""
    faults = []
    for path in paths:
        try:
            read_points(path)
            return
        except EdgekitError as fault:
            faults.append(str(fault))
    raise InputError(f"none of {len(paths)} sweeps in {folder} can be read", faults[0])


def _number(part: str) -> tuple[int, str]:
    return (int(part), part) if part.isdecimal() else (-1, part)


def pack(points: np.ndarray, reach: float) -> bytes:
    """Points (P, 4 or more) for a page, little endian: metres of one unit (float32), how many
    points there are (uint32), then of those that are drawn, in units, x, y, z (int16 each) of
    all and the intensity (uint8) of all.

    Drawn are the finite ones; if they are more than :data:`MOST_DRAWN`, as many, evenly spread
    over the sweep. Which numbers stand for intensity differs from sensor to sensor: here 0 is
    the least and 255 what one point in a hundred exceeds.

    Args:
        reach: the greatest coordinate of interest, metres. What lies beyond it and beyond
            327 m is not drawn.
    """
    unit = max(_FINEST, reach / _WHOLE)
    # What is not finite is not near either. Column after column: rows of three are slow.
    near = np.logical_and.reduce([np.abs(points[:, axis]) <= unit * _WHOLE for axis in range(3)])
    drawn = points[near, :4]
    if len(drawn) > MOST_DRAWN:
        drawn = drawn[np.linspace(0, len(drawn) - 1, MOST_DRAWN).astype(np.int64)]
    places = np.rint(drawn[:, :3] / np.float32(unit)).astype("<i2")
    header = _HEADER.pack(unit, len(points))
    return header + places.tobytes() + _shades(drawn[:, 3]).tobytes()


def _shades(intensity: np.ndarray) -> np.ndarray:
    finite = np.nan_to_num(intensity, nan=0.0, posinf=0.0, neginf=0.0)
    if not finite.size:
        return np.zeros(0, np.uint8)
    low, high = float(finite.min()), float(np.percentile(finite, 99))
    share = np.clip((finite - low) / max(high - low, 1e-9), 0, 1)
    return np.rint(255 * share).astype(np.uint8)
