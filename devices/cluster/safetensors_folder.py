"""Tensors of a folder of ``.safetensors`` files, a part of one at a time.

The format's own library hands whole tensors out and has no NumPy type for bfloat16. A checkpoint
larger than memory is cut here row by row, so its files are mapped and read in part.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import InputError, UnsupportedError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_HEADER_AT_MOST = 100_000_000  # the format's own bound
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}


@dataclass(frozen=True)
class _Entry:
    path: Path
    start: int
    kind: str
    shape: tuple[int, ...]


class SafetensorsFolder:
    """Names, shapes and parts of the tensors of one checkpoint.

    Raises:
        InputError: there are no weights, a file is damaged, or the index names a file outside.
    """

    def __init__(self, folder: Path) -> None:
        self._entries: dict[str, _Entry] = {}
        self._maps: dict[Path, np.memmap] = {}
        for path in _files(folder):
            self._entries |= _entries(path)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor, which must be there."""
        return self._entry(name).shape

    def read(self, name: str, rows: Any = slice(None), columns: Any = slice(None)) -> np.ndarray:
        """A part of a tensor in float32; ``columns`` are for matrices.

        Raises:
            InputError: there is no such tensor.
            UnsupportedError: its numbers are of a type that a checkpoint should not have.
        """
        entry = self._entry(name)
        if entry.kind not in _TYPES:
            raise UnsupportedError(f"the tensor {name} is of type {entry.kind}")
        whole = self._mapped(entry.path)[entry.start :]
        kind = np.dtype(_TYPES[entry.kind])
        whole = whole[: math.prod(entry.shape) * kind.itemsize].view(kind).reshape(entry.shape)
        part = whole[rows] if len(entry.shape) == 1 else whole[rows, columns]
        return widened(part) if entry.kind == "BF16" else np.asarray(part, np.float32)

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise InputError(f"the checkpoint lacks the tensor {name}")
        return self._entries[name]

    def _mapped(self, path: Path) -> np.memmap:
        if path not in self._maps:
            self._maps[path] = np.memmap(path, mode="r")
        return self._maps[path]


def widened(halves: np.ndarray) -> np.ndarray:
    """bfloat16, as the 16-bit integers it is stored in, in float32.

    >>> widened(np.array([0x3F80], np.uint16))
    array([1.], dtype=float32)
    """
    return (np.asarray(halves, np.uint32) << 16).view(np.float32)


def _files(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            raise InputError(f"no weights in {folder}", f"there is neither {SINGLE} nor {INDEX}")
        return [folder / SINGLE]
    try:
        names = set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / INDEX} is damaged", repr(error)) from error
    for name in names:
        if not isinstance(name, str) or "/" in name or "\\" in name or name in ("", ".", ".."):
            raise InputError(f"{folder / INDEX} names a file outside its folder", repr(name))
    return [folder / name for name in sorted(names)]


def _entries(path: Path) -> dict[str, _Entry]:
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(_HEADER_AT_MOST, size - 8):
                raise InputError(f"{path} is no safetensors file", f"a header of {length} bytes")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        return {name: _entry(path, 8 + length, size, one) for name, one in header.items()}
    except OSError as error:
        raise InputError(f"cannot read {path}", error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged", repr(error)) from error


def _entry(path: Path, base: int, size: int, one: dict[str, Any]) -> _Entry:
    start, end = one["data_offsets"]
    shape = tuple(int(side) for side in one["shape"])
    kind = str(one["dtype"])
    width = np.dtype(_TYPES[kind]).itemsize if kind in _TYPES else None
    if not 0 <= start <= end <= size - base or min(shape, default=0) < 0:
        raise InputError(f"{path} is damaged", f"a tensor lies at {start} to {end}")
    if width is not None and math.prod(shape) * width != end - start:
        raise InputError(f"{path} is damaged", f"{shape} of {kind} is not {end - start} bytes")
    return _Entry(path, base + start, kind, shape)
