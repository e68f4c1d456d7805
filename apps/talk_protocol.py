"""The messages between Moshi's web client and a server: one byte that says what, then content.

As the official clients and servers have it: binary WebSocket messages on ``/api/chat``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from pydantic import ValidationError

from edgekit.errors import InputError

from ..runtimes.dialogue import Sampling

PATH: Final = "/api/chat"
PORT: Final = 8998
#: Bytes of a message; a client sends some hundred at a time.
LARGEST: Final = 1 << 16
BUSY: Final = 1013  # WebSocket's "try again later"
REFUSED: Final = 1008  # and "policy violation", for what the client asked for

_QUERY: Final = {
    "text_temperature": "text_temperature",
    "text_topk": "text_top_k",
    "audio_temperature": "audio_temperature",
    "audio_topk": "audio_top_k",
    "text_seed": "seed",
}


class Kind(IntEnum):
    """The first byte."""

    HANDSHAKE = 0
    AUDIO = 1
    TEXT = 2
    CONTROL = 3
    METADATA = 4
    ERROR = 5
    PING = 6
    COLOURED_TEXT = 7


class Control(IntEnum):
    """The content of a control message."""

    START = 0
    END_TURN = 1
    PAUSE = 2
    RESTART = 3


_KINDS: Final = frozenset(Kind)
_ACTIONS: Final = frozenset(Control)


def handshake() -> bytes:
    """What opens a session: protocol and model version, both 0."""
    return bytes([Kind.HANDSHAKE]) + struct.pack("<II", 0, 0)


def audio(data: bytes) -> bytes:
    """A piece of the Ogg/Opus stream."""
    return bytes([Kind.AUDIO]) + data


def text(piece: str) -> bytes:
    """What was said, or a part of it."""
    return bytes([Kind.TEXT]) + piece.encode()


def error(words: str) -> bytes:
    """What went wrong, in words."""
    return bytes([Kind.ERROR]) + words.encode()


def parse(message: bytes) -> tuple[Kind, bytes] | None:
    """A client's message; None for a kind that is not known, which is to be discarded.

    Raises:
        InputError: it is empty, or its content is not of its kind.
    """
    if not message:
        raise InputError("an empty message", "the first byte says of which kind it is")
    if message[0] not in _KINDS:
        return None
    kind, content = Kind(message[0]), message[1:]
    if kind == Kind.CONTROL and (len(content) != 1 or content[0] not in _ACTIONS):
        raise InputError("a control message of no known action", content[:8].hex() or "none")
    return kind, content


def sampling(query: Mapping[str, str]) -> Sampling:
    """How tokens are to be drawn, by the address's query; what is not known is passed over.

    Raises:
        InputError: a value is no number, or out of range.
    """
    found = {ours: query[theirs] for theirs, ours in _QUERY.items() if query.get(theirs)}
    try:
        # A seed of -1 is how the client leaves it open.
        if found.get("seed", "").startswith("-"):
            del found["seed"]
        return Sampling.model_validate(found)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{where} of the address makes no sense", first["msg"]) from None
