"""LZF, the compression of binary-compressed ``.pcd`` files, decoded.

The format has two kinds of pieces. A first byte below 32 says that so many bytes and one more
follow as they are. Any other one is a reference into what is decoded already: its upper three
bits are the length less 2 (7: one more byte is added to it), its lower five bits and the byte
after are how far back it begins, less 1. A reference may reach into what it itself makes,
which repeats. Written from that description of the format by M. Lehmann (LibLZF).

>>> decompress(bytes([0, 97, 96, 0]), 6)
b'aaaaaa'
"""

from __future__ import annotations

from typing import Final

_LITERAL: Final = 32
_LONG: Final = 7


def decompress(packed: bytes, size: int) -> bytes:
    """The ``size`` bytes that ``packed`` stands for.

    Raises:
        ValueError: it ends too early, refers to what is not there, or is of another size.
    """
    found = bytearray()
    at, end = 0, len(packed)
    while at < end:
        first = packed[at]
        at += 1
        if first < _LITERAL:
            if at + first + 1 > end:
                raise ValueError("the compressed part ends within a piece")
            found += packed[at : at + first + 1]
            at += first + 1
        else:
            at = _repeat(packed, at, first, found)
        if len(found) > size:
            break
    if len(found) != size:
        raise ValueError(f"{len(found)} bytes came out of compressed ones, not {size}")
    return bytes(found)


def _repeat(packed: bytes, at: int, first: int, found: bytearray) -> int:
    """Append what a reference means; gives where the next piece begins."""
    length, more = first >> 5, 1 + (first >> 5 == _LONG)
    if at + more > len(packed):
        raise ValueError("the compressed part ends within a piece")
    if length == _LONG:
        length += packed[at]
        at += 1
    length += 2
    back = ((first & 31) << 8) + packed[at] + 1
    start = len(found) - back
    if start < 0:
        raise ValueError("the compressed part refers to what is before its begin")
    if back >= length:
        found += found[start : start + length]
    else:
        piece = bytes(found[start:])
        found += (piece * (length // back + 1))[:length]
    return at + 1
