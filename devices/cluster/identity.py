"""Who a device is: a key that never leaves it, and the certificate that others pin.

There is no authority. A certificate is worth what its fingerprint is: a device takes exactly those
certificates that it was given when the two were introduced. Dates in them say nothing, since a
small board may not know what day it is.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import ssl
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import DeviceError, MissingBackendError

INSTALL = 'pip install "edgekit-toolkit[cluster]"'


def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of a certificate's DER bytes."""
    return hashlib.sha256(certificate).digest()


@dataclass(frozen=True)
class Identity:
    """A device's own key and certificate, on disk.

    Attributes:
        name: what it is called in tables and errors.
        key, certificate: PEM files.
        der: the certificate.
    """

    name: str
    key: Path
    certificate: Path
    der: bytes

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate."""
        return fingerprint(self.der)

    @property
    def pem(self) -> str:
        """The certificate as text."""
        return ssl.DER_cert_to_PEM_cert(self.der)

    @classmethod
    def open(cls, folder: Path, name: str) -> Identity:
        """A folder's identity, made at the first call.

        Raises:
            MissingBackendError: it must be made, and ``cryptography`` is not here.
            DeviceError: the folder cannot be used.
        """
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(folder / "identity"):
                if not (key.is_file() and certificate.is_file()):
                    made_key, made_certificate = _make(name)
                    write_private(key, made_key)
                    write_private(certificate, made_certificate)
            der = ssl.PEM_cert_to_DER_cert(certificate.read_text("ascii"))
        except (OSError, ValueError) as error:
            raise DeviceError(
                f"no identity in {folder}", str(error), "give another folder, or mend this one"
            ) from error
        return cls(name, key, certificate, der)


def _make(name: str) -> tuple[bytes, bytes]:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError as error:
        raise MissingBackendError("cryptography is not here", str(error), INSTALL) from error
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:60] or "edgekit")])
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(1970, 1, 2))
        # RFC 5280's "no well-defined expiration date".
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone with ``path`` among the processes that ask in this way."""
    with open(path.with_name(f".{path.name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Pinned:
    """A device that was introduced: its name and certificate (PEM)."""

    name: str
    certificate: str

    @property
    def der(self) -> bytes:
        """The certificate."""
        return ssl.PEM_cert_to_DER_cert(self.certificate)


class Pins:
    """The certificates that a device takes, in one JSON file by fingerprint.

    Args:
        path: of the file; it need not be there. Read again when it has changed, so that one
            process may enrol or remove a device while another serves.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, Pinned]:
        """Every device by its certificate's fingerprint in hexadecimal.

        Raises:
            DeviceError: the file is damaged.
        """
        try:
            found = json.loads(self._path.read_text("utf-8"))
            return {key: Pinned(**value) for key, value in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DeviceError(f"{self._path} cannot be read", str(error)) from error

    def add(self, name: str, der: bytes) -> Pinned:
        """Take a certificate from now on."""
        pinned = Pinned(name, ssl.DER_cert_to_PEM_cert(der))
        self._change(lambda devices: devices.update({fingerprint(der).hex(): asdict(pinned)}))
        return pinned

    def remove(self, name: str) -> int:
        """Take the certificates of this name no longer; how many there were."""
        gone = [key for key, pinned in self.all().items() if pinned.name == name]
        self._change(lambda devices: [devices.pop(key, None) for key in gone])
        return len(gone)

    def _change(self, change: Any) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(self._path):
            devices = {key: asdict(value) for key, value in self.all().items()}
            change(devices)
            write_private(self._path, json.dumps(devices, indent=1).encode())
