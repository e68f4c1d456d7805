"""The names of a network's classes."""

from __future__ import annotations

from edgekit.bundle import Bundle
from edgekit.errors import BundleError


class Labels:
    """Class indices to names; without a file of names, ``class 0``, ``class 1``, …

    Args:
        names: in the order of the classes; none where there is no file.
    """

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self.names = names

    @classmethod
    def read(cls, bundle: Bundle, file: str | None) -> Labels:
        """The labels in a file of the bundle, one a line.

        Raises:
            BundleError: there is no such file, or it is not UTF-8.
        """
        if file is None:
            return cls()
        try:
            return cls(tuple(bundle.read(file).decode().splitlines()))
        except UnicodeDecodeError as e:
            raise BundleError(f"the labels in {file} are not UTF-8", str(e)) from e

    def __getitem__(self, index: int) -> str:
        return self.names[index] if self.names else f"class {index}"

    def check(self, count: int, what: str) -> None:
        """Raise BundleError where ``count`` classes (``what``, in words) have other labels."""
        if self.names and len(self.names) != count:
            raise BundleError(f"{count} {what} do not fit {len(self.names)} labels")
