"""A bundle as one file to be sent away: the same bytes for the same content."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgekit.archive import write_archive
from edgekit.bundle import Bundle
from edgekit.manifest import MANIFEST_NAME
from edgekit.manifest_reader import manifest_bytes


@contextlib.contextmanager
def sealed(bundle: Bundle) -> Iterator[Path]:
    """A temporary ``.edgekit`` file of an open bundle, every byte of which has been checked.

    The report is left out: it is for people, and shows what was measured since. So the file
    depends on the bundle's digest alone.

    Raises:
        BundleError: the bundle is damaged.
    """
    bundle.check_all()
    manifest = bundle.manifest.model_copy(update={"report": None})
    names = [entry.path for entry in manifest.files]
    with tempfile.TemporaryDirectory(prefix="edgekit-sealed-") as folder:
        root = Path(folder) / "bundle"
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            # A copy: a file with a second name is none of a bundle, and would be refused.
            shutil.copyfile(bundle.root / name, root / name)
        root.mkdir(exist_ok=True)
        (root / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
        file = Path(folder) / "sealed.edgekit"
        with file.open("xb") as stream:
            write_archive(root, [*names, MANIFEST_NAME], stream)
        yield file
