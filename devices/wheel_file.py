"""Writing a wheel by hand: a zip in the format that pip installs, the same bytes each time.

Format: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can state
_MODE: Final = 0o644 << 16


@dataclass(frozen=True)
class Wheel:
    """What a wheel holds.

    Attributes:
        name, version: of the distribution. tag: Python, ABI and platform (``py3-none-any``).
        pure: whether it holds no compiled code.
        files: what is installed, by its name beside other packages: content, or a file.
        metadata: the text of ``METADATA``. entry_points: the text of that file; may be empty.
    """

    name: str
    version: str
    tag: str
    pure: bool
    files: Mapping[str, bytes | Path]
    metadata: str
    entry_points: str = ""

    @property
    def file_name(self) -> str:
        """Its name, in which pip reads what it is."""
        return f"{self.name.replace('-', '_')}-{self.version}-{self.tag}.whl"

    def write(self, folder: Path) -> Path:
        """Write it into ``folder``; returns its path."""
        path = folder / self.file_name
        info = f"{self.name.replace('-', '_')}-{self.version}.dist-info"
        described = {
            f"{info}/METADATA": self.metadata.encode(),
            f"{info}/WHEEL": self._about().encode(),
        }
        if self.entry_points:
            described[f"{info}/entry_points.txt"] = self.entry_points.encode()
        record = []
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in [*sorted(self.files.items()), *described.items()]:
                data = content if isinstance(content, bytes) else content.read_bytes()
                _add(archive, name, data)
                record.append(f"{name},sha256={_digest(data)},{len(data)}")
            record.append(f"{info}/RECORD,,")
            _add(archive, f"{info}/RECORD", ("\n".join(record) + "\n").encode())
        return path

    def _about(self) -> str:
        return (
            "Wheel-Version: 1.0\nGenerator: edgekit\n"
            f"Root-Is-Purelib: {str(self.pure).lower()}\nTag: {self.tag}\n"
        )


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr, entry.compress_type = _MODE, zipfile.ZIP_DEFLATED
    archive.writestr(entry, data)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
