"""One-time codes that introduce a device to a hub, each to the other.

A code holds the first 16 bytes of the SHA-256 of the hub's certificate, so that the new device
knows whom it talks to before it says anything, and 10 random bytes that the hub knows it by. The
device proves them with an HMAC over the hub's challenge and both certificates; the hub answers with
one of its own. Nothing of the secret is sent, and a proof is worth nothing on another connection or
for another certificate.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from edgekit.errors import DeviceError, UsageError

from .identity import locked, write_private

HUB_BYTES: Final = 16
SECRET_BYTES: Final = 10
_CHECK_BYTES: Final = 2
_GROUP: Final = 5  # characters between hyphens
# Crockford's alphabet: no I, L, O or U to be mistaken for something else.
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH: Final = -(-(HUB_BYTES + SECRET_BYTES + _CHECK_BYTES) * 8 // 5)
LIFETIME: Final = 24 * 3600.0  # seconds
PENDING: Final = 64  # codes that may be open at once


@dataclass(frozen=True)
class JoinCode:
    """What a code says.

    Attributes:
        hub: the beginning of the hub certificate's fingerprint.
        secret: what the hub knows it by.
    """

    hub: bytes
    secret: bytes

    def __str__(self) -> str:
        data = self.hub + self.secret
        number = int.from_bytes(data + _checksum(data), "big")
        letters = [_ALPHABET[number >> 5 * i & 31] for i in reversed(range(_LENGTH))]
        text = "".join(letters)
        return "-".join(text[i : i + _GROUP] for i in range(0, len(text), _GROUP))

    @classmethod
    def parse(cls, text: str) -> JoinCode:
        """Read what a person typed: case, hyphens, spaces and O for 0 do not matter.

        Raises:
            UsageError: it is no code; a wrong letter is noticed here.
        """
        plain = text.upper().replace("-", "").replace(" ", "")
        plain = plain.translate(str.maketrans("OIL", "011"))
        if len(plain) != _LENGTH or set(plain) - set(_ALPHABET):
            raise UsageError("this is no join code", f"{_LENGTH} letters and digits are due", _NEXT)
        number = 0
        for letter in plain:
            number = number << 5 | _ALPHABET.index(letter)
        size = HUB_BYTES + SECRET_BYTES + _CHECK_BYTES
        if number >> 8 * size:
            raise UsageError("this is no join code", "a letter of it is wrong", _NEXT)
        data = number.to_bytes(size, "big")
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if check != _checksum(body):
            raise UsageError("this is no join code", "a letter of it is wrong", _NEXT)
        return cls(body[:HUB_BYTES], body[HUB_BYTES:])


_NEXT: Final = "copy it from the hub, or make one there: edgekit cluster invite"


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(b"edgekit join code" + data).digest()[:_CHECK_BYTES]


def proof(secret: bytes, side: str, nonce: bytes, hub: bytes, device: bytes) -> bytes:
    """What shows that ``side`` (``device`` or ``hub``) knows the secret.

    Args:
        nonce: the hub's, of this connection.
        hub, device: full fingerprints of both certificates.
    """
    said = b"|".join([b"edgekit cluster join 1", side.encode(), nonce, hub, device])
    return hmac.digest(secret, said, "sha256")


@dataclass
class Issued:
    """A code that the hub made.

    Attributes:
        secret: hexadecimal. expires: seconds since 1970. used_by: fingerprint of the device that
            it introduced; empty while it is open.
    """

    secret: str
    expires: float
    used_by: str = ""


class JoinCodes:
    """The codes of a hub, in a file that only its owner can read.

    Args:
        path: of the file; it need not be there.
        hub: the hub's full fingerprint.
    """

    def __init__(self, path: Path, hub: bytes) -> None:
        self._path, self._hub = path, hub

    def issue(self, lifetime: float = LIFETIME) -> JoinCode:
        """A new code, open until it is used or ``lifetime`` seconds are over.

        Raises:
            UsageError: too many are open.
        """
        with locked(self._path):
            known = self._read()
            if sum(not code.used_by for code in known) >= PENDING:
                raise UsageError(f"{PENDING} join codes are open", "nobody used them", "use one")
            secret = secrets.token_bytes(SECRET_BYTES)
            self._write([*known, Issued(secret.hex(), time.time() + lifetime)])
        return JoinCode(self._hub[:HUB_BYTES], secret)

    def redeem(self, nonce: bytes, device: bytes, shown: bytes) -> bytes:
        """Spend the code that a device proves to know; what the hub answers.

        A device that was cut off before it heard the answer may use its code again; no other can.

        Args:
            device: the device certificate's fingerprint. shown: its proof.

        Raises:
            DeviceError: it proves no code that is open.
        """
        with locked(self._path):
            known = self._read()
            found = None
            for code in known:  # all of them, so that the time does not tell which came close
                due = proof(bytes.fromhex(code.secret), "device", nonce, self._hub, device)
                if hmac.compare_digest(due, shown):
                    found = code
            if found is None:
                raise DeviceError("no such join code", "it is wrong, or its time is over", _NEXT)
            if found.used_by and found.used_by != device.hex():
                raise DeviceError("this join code was used", "each is good for one device", _NEXT)
            found.used_by = device.hex()
            self._write(known)
        return proof(bytes.fromhex(found.secret), "hub", nonce, self._hub, device)

    def _read(self) -> list[Issued]:
        """Those whose time is not over."""
        try:
            found = [Issued(**entry) for entry in json.loads(self._path.read_text("utf-8"))]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise DeviceError(f"{self._path} cannot be read", str(error)) from error
        return [code for code in found if code.expires > time.time()]

    def _write(self, codes: list[Issued]) -> None:
        write_private(self._path, json.dumps([asdict(code) for code in codes]).encode())
