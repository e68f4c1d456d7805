"""Files of lidar points: KITTI, nuScenes and Waymo style ``.bin``, ``.npy``, ``.pcd``."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from edgekit.errors import InputError

from . import lzf

SUFFIXES: Final = (".bin", ".npy", ".pcd")
COLUMNS: Final = (4, 5)
MOST_POINTS: Final = 1 << 24
"""More are not read: 16.8 million, over a hundred sweeps."""

_NAMES: Final = {"x": 0, "y": 1, "z": 2, "intensity": 3, "i": 3, "reflectivity": 3}
_FIFTH: Final = ("elongation", "timestamp", "time", "t", "ring")
_PCD_TYPES: Final = {"F": "f", "I": "i", "U": "u"}
_ADVICE: Final = "give float32 rows of x, y, z, intensity and perhaps a fifth number"


def read_points(source: str | Path | np.ndarray) -> np.ndarray:
    """The points of a sweep, (P, 4) or (P, 5) float32, as they are in the file.

    Raises:
        InputError: the file cannot be read, or has other columns.
    """
    if isinstance(source, np.ndarray):
        return _checked(source, "the array")
    path = Path(source)
    readers: dict[str, Callable[[Path, bytes], np.ndarray]] = {".npy": _npy, ".pcd": _pcd}
    try:
        content = path.read_bytes()
    except OSError as e:
        raise InputError(f"{path} cannot be read", e.strerror or str(e)) from e
    if not content:
        raise InputError(f"{path} is empty", "it has no bytes")
    return _checked(readers.get(path.suffix.lower(), _bin)(path, content), str(path))


def _checked(points: np.ndarray, name: str) -> np.ndarray:
    if points.ndim != 2 or points.shape[1] not in COLUMNS or points.dtype.kind not in "fiu":
        raise InputError(
            f"{name} holds {points.dtype} {list(points.shape)}",
            "a sweep has 4 or 5 columns of numbers",
            _ADVICE,
        )
    if len(points) > MOST_POINTS:
        raise InputError(f"{name} has {len(points)} points", f"at most {MOST_POINTS} are taken")
    return points.astype(np.float32, copy=False)


def _bin(path: Path, content: bytes) -> np.ndarray:
    """Rows of 4 or 5 numbers, without a header that says which."""
    if len(content) % 4:
        raise InputError(f"{path} is no sweep", f"{len(content)} bytes are no float32 numbers")
    numbers = np.frombuffer(content, np.float32)
    fitting = [count for count in COLUMNS if numbers.size % count == 0]
    if not fitting:
        raise InputError(
            f"{path} is no sweep", f"{numbers.size} numbers are no rows of 4 or of 5", _ADVICE
        )
    return min((numbers.reshape(-1, count) for count in fitting), key=_spread_of_height)


def _spread_of_height(points: np.ndarray) -> float:
    """How much the third column varies: of the two readings of a file the wrong one has
    places and intensities among its heights."""
    heights = points[:, 2]
    finite = heights[np.isfinite(heights)].astype(np.float64)
    return float(np.std(np.clip(finite, -1e4, 1e4))) if finite.size else float("inf")


def _npy(path: Path, content: bytes) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
    except Exception as e:  # NumPy's reader raises nearly any exception on malformed bytes
        raise InputError(f"{path} holds no array", "it is damaged, or no .npy file") from e
    if not isinstance(loaded, np.ndarray):
        raise InputError(f"{path} is an archive of arrays", "", "give an .npy file of one array")
    return loaded


def _pcd(path: Path, content: bytes) -> np.ndarray:
    """Point Cloud Library's format: ascii, binary, or binary compressed."""
    try:
        header, body = _pcd_header(content)
        names, kinds = header["FIELDS"], _pcd_kinds(header)
        count = int(header["POINTS"][0])
        encoding = header["DATA"][0]
        if encoding not in ("ascii", "binary", "binary_compressed"):
            raise ValueError(f"DATA {encoding} is not known")
        if not 0 <= count <= MOST_POINTS:
            raise InputError(f"{path} claims {count} points", f"at most {MOST_POINTS} are taken")
        if encoding == "ascii":
            table = np.array(body.split(), np.float64).reshape(count, -1)
            columns = dict(zip(names, table.T, strict=True))
        elif encoding == "binary_compressed":
            columns = _compressed_columns(body, names, kinds, count)
        else:
            record = np.dtype(list(zip(names, kinds, strict=True)))
            table = np.frombuffer(body, record, count)
            columns = {name: table[name] for name in names}
    except (KeyError, ValueError, IndexError, TypeError) as e:
        raise InputError(f"{path} is no .pcd file", str(e) or type(e).__name__) from e
    return _by_name(path, columns, count)


def _compressed_columns(
    body: bytes, names: list[str], kinds: list[str], count: int
) -> dict[str, np.ndarray]:
    """Two sizes (uint32, before and after), then field after field of all points, in LZF.

    Raises:
        ValueError: it is not what the header says.
    """
    packed, size = struct.unpack_from("<2I", body) if len(body) >= 8 else (0, -1)
    types = [np.dtype(kind) for kind in kinds]
    if size != count * sum(kind.itemsize for kind in types) or len(body) < 8 + packed:
        raise ValueError("its compressed part is not as long as its header says")
    content, start, columns = lzf.decompress(body[8 : 8 + packed], size), 0, {}
    for name, kind in zip(names, types, strict=True):
        columns[name] = np.frombuffer(content, kind, count, start)
        start += count * kind.itemsize
    return columns


def _pcd_header(content: bytes) -> tuple[dict[str, list[str]], bytes]:
    found = re.search(rb"^DATA [a-z_]+\r?\n", content[: 1 << 16], re.M)
    if found is None:
        raise ValueError("its header has no DATA line")
    lines = content[: found.end()].decode("ascii").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return {first: rest for first, *rest in words}, content[found.end() :]


def _pcd_kinds(header: dict[str, list[str]]) -> list[str]:
    if any(count != "1" for count in header.get("COUNT", [])):
        raise ValueError("a field has more than one number a point")
    pairs = zip(header["TYPE"], header["SIZE"], strict=True)
    return [f"<{_PCD_TYPES[kind]}{size}" for kind, size in pairs]


def _by_name(path: Path, columns: dict[str, np.ndarray], count: int) -> np.ndarray:
    missing = [axis for axis in "xyz" if axis not in columns]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}", f"it has {', '.join(columns)}")
    fifth = next((name for name in _FIFTH if name in columns), None)
    points = np.zeros((count, 4 if fifth is None else 5), np.float32)
    for name, values in columns.items():
        if name in _NAMES:
            points[:, _NAMES[name]] = values
    if fifth is not None:
        points[:, 4] = columns[fifth]
    return points
