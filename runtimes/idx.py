"""The idx format of MNIST and its successors: arrays of bytes behind a short header.

Format: http://yann.lecun.com/exdb/mnist/ (two zero bytes, the kind of value, the number of
dimensions, then each dimension as a big-endian 32-bit number, then the values). Files are
often compressed with gzip; both are read.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Final

import numpy as np

from edgekit.errors import InputError

_GZIP: Final = b"\x1f\x8b"
_UNSIGNED_BYTE: Final = 8  # the only kind of value that pictures and labels have
# 2 GiB: a header, or a few kilobytes of gzip, can promise far more than there is memory.
MAX_BYTES: Final = 1 << 31


def read_idx(path: str | Path, dimensions: int) -> np.ndarray:
    """The array in an idx file of unsigned bytes, gzipped or not.

    Args:
        dimensions: how many it must have: 3 for pictures (number, height, width), 1 for labels.

    Returns:
        uint8, of the shape that the header states.

    Raises:
        InputError: the file cannot be read, is no such idx file, or is not as long as its
            header says.
    """
    try:
        with _open(Path(path)) as stream:
            shape = _shape(stream, path, dimensions)
            size = math.prod(shape)
            if size > MAX_BYTES:
                raise InputError(f"{path} states {size:,} bytes", f"more than {MAX_BYTES:,}")
            content = stream.read(size)
            rest = stream.read(1)
    except OSError as error:  # gzip's BadGzipFile is one
        raise InputError(f"{path} cannot be read", error.strerror or str(error)) from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged", str(error), "download it again") from error
    if len(content) != size or rest:
        found = f"more than {size:,}" if rest else f"{len(content):,}"
        raise InputError(
            f"{path} is damaged",
            f"its header states {' x '.join(map(str, shape))} bytes, it holds {found}",
            "download it again",
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _open(path: Path) -> IO[bytes]:
    with open(path, "rb") as stream:
        compressed = stream.read(2) == _GZIP
    return gzip.open(path, "rb") if compressed else open(path, "rb")


def _shape(stream: IO[bytes], path: str | Path, dimensions: int) -> tuple[int, ...]:
    head = stream.read(4)
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    sizes = stream.read(4 * dimensions) if head == magic else b""
    if len(sizes) != 4 * dimensions:
        raise InputError(
            f"{path} is no idx file of {'pictures' if dimensions == 3 else 'labels'}",
            f"it begins with {head.hex(' ') or 'nothing'}, not {magic.hex(' ')} and its sizes",
        )
    return struct.unpack(f">{dimensions}I", sizes)
