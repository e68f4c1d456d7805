"""The weights of an ML program: Core ML's blob storage format, version 2.

A header of 64 bytes (number of blobs, version), then the blobs. A program refers to a blob
by the offset of its record: 64 bytes, on a multiple of 64, with a fixed mark, the type, the
size in bytes, the offset of the data and, for types below a byte, the unused bits at the
end. Little-endian throughout. The format carries no checksum: a record that does not fit
is noticed here, a changed weight only by comparing what the program computes.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Final

import numpy as np

from edgekit.errors import BundleError

_HEADER = struct.Struct("<II56x")
_RECORD = struct.Struct("<IIQQQ32x")
_MARK: Final = 0xDEADBEEF
_VERSION: Final = 2
_ALIGNMENT: Final = 64

# The format's number of each type: our word for it, and its width in bits.
_TYPES: Final = {
    1: ("float16", 16),
    2: ("float32", 32),
    3: ("uint8", 8),
    4: ("int8", 8),
    6: ("int16", 16),
    7: ("uint16", 16),
    8: ("int4", 4),
    9: ("uint1", 1),
    10: ("uint2", 2),
    11: ("uint4", 4),
    12: ("uint3", 3),
    13: ("uint6", 6),
    14: ("int32", 32),
    15: ("uint32", 32),
}


class BlobFile:
    """A weight file, read blob by blob; the file itself stays on disk.

    Raises:
        BundleError: the file is no blob storage, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        with path.open("rb") as file:
            if path.stat().st_size < _HEADER.size:
                raise self._damaged("it is shorter than its header")
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _, version = _HEADER.unpack_from(self._data)
        if version != _VERSION:
            raise self._damaged(f"its format has version {version}, not {_VERSION}")

    def read(self, offset: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """The blob whose record is at ``offset``, as the program declares it.

        Returns:
            a copy of shape ``shape``; types below a byte have one element a byte.

        Raises:
            BundleError: there is no record, it has another type or size than declared, or
                it points outside the file.
        """
        if offset % _ALIGNMENT or not 0 < offset <= len(self._data) - _RECORD.size:
            raise self._damaged(f"no blob can be at {offset}")
        mark, number, size, start, unused = _RECORD.unpack_from(self._data, offset)
        if mark != _MARK:
            raise self._damaged(f"no blob is at {offset}")
        if number not in _TYPES or _TYPES[number][0] != dtype:
            found = _TYPES[number][0] if number in _TYPES else f"type {number}"
            raise self._damaged(f"the blob at {offset} is {found}, the program says {dtype}")
        count, bits = int(np.prod(shape, dtype=np.int64)), _TYPES[number][1]
        if size != -(-count * bits // 8) or (bits < 8 and unused != 8 * size - count * bits):
            raise self._damaged(f"the blob at {offset} does not have {count} elements")
        if start % _ALIGNMENT or start < offset + _RECORD.size or start + size > len(self._data):
            raise self._damaged(f"the blob at {offset} points outside the file")
        return unpack(self._data[start : start + size], dtype, shape)

    def _damaged(self, why: str) -> BundleError:
        return BundleError(f"the weight file {self._name} is damaged", why)


def unpack(content: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array from packed little-endian bytes, the least significant bits first.

    Raises:
        ValueError: there are too few or too many bytes for the shape.
    """
    bits = {name: width for name, width in _TYPES.values()}[dtype]
    if bits >= 8:
        plain = np.frombuffer(content, np.dtype(dtype).newbyteorder("<"))
        return plain.astype(dtype).reshape(shape)
    count = int(np.prod(shape, dtype=np.int64))
    flags = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
    if flags.size - count * bits not in range(8):
        raise ValueError(f"{len(content)} bytes are not {count} elements of {bits} bits")
    weights = (1 << np.arange(bits)).astype(np.uint8)
    values = flags[: count * bits].reshape(count, bits) @ weights
    if dtype == "int4":
        values = ((values.astype(np.int8) ^ 8) - 8).astype(np.int8)
    return values.astype(np.int8 if dtype == "int4" else np.uint8).reshape(shape)
