"""Binary messages of the demos: eight bytes that say what, then content.

Little endian: a byte for the kind, a byte 0, two bytes with how many the sender left out since
the last, four bytes with the number of the frame.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from edgekit.errors import InputError

_HEADER: Final = struct.Struct("<BxHI")


class Kind(IntEnum):
    """What the content is."""

    PICTURE = 1  # JPEG
    SOUND = 2  # float32 samples, one channel
    POINTS = 3  # a lidar sweep; apps/lidar.py says how
    PIXELS = 4  # a picture without compression; pixels.py says how


@dataclass(frozen=True)
class Frame:
    """One message. ``skipped``: how many the sender left out since its last, 65535 at most."""

    kind: Kind
    number: int
    content: bytes
    skipped: int = 0

    def pack(self) -> bytes:
        """As it is sent."""
        return _HEADER.pack(self.kind, min(self.skipped, 65535), self.number) + self.content

    @classmethod
    def parse(cls, message: bytes) -> Frame:
        """What was sent.

        Raises:
            InputError: it is too short, or of no known kind.
        """
        try:
            kind, skipped, number = _HEADER.unpack_from(message)
            return cls(Kind(kind), number, message[_HEADER.size :], skipped)
        except (struct.error, ValueError):
            raise InputError(
                "a message makes no sense", f"{len(message)} bytes, {message[:1].hex() or 'none'}…"
            ) from None
