"""An offline kit: all that a device needs to run one bundle, and a script that installs it.

A kit is a folder or a ``.tar.gz``: edgekit's own wheel, the wheels of the runtimes that the bundle
uses, pip, the bundle, ``install.sh``, a systemd unit, and checksums of everything. Nothing in it
is an exporter, and nothing is downloaded when it is installed.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from edgekit.bundle import Bundle
from edgekit.errors import UsageError

from . import kit_wheels
from .profiles import Profile, System
from .sealed import sealed

SUMS: Final = "SHA256SUMS"
ABOUT: Final = "kit.json"
ARCHIVES: Final = (".tar.gz", ".tgz")
ALIASES: Final = {"x86": "x86-laptop"}
"""What may be said instead of a profile's name: any 64-bit x86 machine takes the laptop's kit."""

DEMOS: Final = {
    "classification": "classify",
    "detection": "detect",
    "prompted-detection": "detect",
    "lidar-detection": "lidar",
    "speech-emotion": "emotion",
    "speech-dialogue": "talk",
}
"""Which of ``edgekit demo`` shows a kind of task."""

_EPOCH: Final = 315532800  # 1980-01-01, as in bundles


@dataclass(frozen=True)
class Kit:
    """What was packed.

    Attributes:
        path: the folder or the archive. name: of the bundle within it, and of its unit.
        device: the profile's name. machine, python: what its wheels fit.
        digest: of the bundle. runtimes: those that it can use there. wheels: their file names.
        bytes: of everything, not compressed.
    """

    path: str
    name: str
    device: str
    machine: str
    python: str
    digest: str
    runtimes: tuple[str, ...]
    wheels: tuple[str, ...]
    bytes: int


def pack(
    bundle: Bundle,
    profile: Profile,
    out: Path,
    python: str | None = None,
    demo: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> Kit:
    """Write a kit to ``out``, a folder that is not there yet, or a name in :data:`ARCHIVES`.

    Args:
        python: the version on the device, if it is not the profile's.
        demo: add what ``edgekit demo`` needs, and a unit that serves it to the network.
        progress: called with each step in words.

    Raises:
        UsageError: the profile does not say what its system is; no demo shows the bundle's
            task; or ``out`` cannot be written.
        BundleError: the bundle is damaged.
        MissingBackendError, DeviceError: as in :func:`.kit_wheels.collect`.
    """
    system = _system(profile)
    version = python or system.python
    name = slug(bundle.manifest.model.name)
    shown = _demo(bundle) if demo else None
    _check_out(out)
    with tempfile.TemporaryDirectory(prefix=".edgekit-kit-", dir=out.parent) as temporary:
        root = Path(temporary) / f"{name}-for-{profile.name}"
        root.mkdir()
        progress("copying the bundle")
        with sealed(bundle) as file:
            shutil.copyfile(file, root / f"{name}.edgekit")
        progress(f"collecting wheels for {system.machine}, Python {version}")
        wheels = kit_wheels.collect(bundle, system, version, root / "wheels", demo)
        kit_wheels.download_pip(system, version, root / "pip")
        kit = Kit(
            path=str(out),
            name=name,
            device=profile.name,
            machine=system.machine,
            python=version,
            digest=bundle.digest,
            runtimes=_runtimes(bundle),
            wheels=tuple(path.name for path in wheels),
            bytes=0,
        )
        _write_texts(root, kit, profile, "tensorrt" in kit_wheels.targets_of(bundle), shown)
        _write_sums(root)
        total = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        progress("putting it in its place")
        _put(root, out)
    return Kit(**{**asdict(kit), "bytes": total})


def _demo(bundle: Bundle) -> str:
    kind = bundle.manifest.task.kind
    if kind not in DEMOS:
        raise UsageError(
            f"no demo shows {bundle.path}",
            f"its task is {kind}; {', '.join(DEMOS)} are shown",
            "leave --demo out",
        )
    return DEMOS[kind]


def _check_out(out: Path) -> None:
    if out.exists():
        raise UsageError(f"{out} is there already", "", "remove it, or choose another --out")
    if not out.parent.is_dir():
        raise UsageError(f"cannot write {out}", f"there is no folder {out.parent}")


def slug(name: str) -> str:
    """A model's name as a part of file names and of a unit's: ``cpubone-b0``."""
    return "-".join(re.findall(r"[a-z0-9]+", name.lower())) or "model"


def _system(profile: Profile) -> System:
    if profile.system is None:
        raise UsageError(
            f"nothing is packed for {profile.title}",
            "its profile has no [system]: edgekit knows no Python there",
            "edgekit devices",
        )
    return profile.system


def _runtimes(bundle: Bundle) -> tuple[str, ...]:
    from ..runtimes import registry

    targets = kit_wheels.targets_of(bundle)
    return tuple(one.name for one in registry.RUNTIMES.values() if one.target in targets)


def _write_texts(root: Path, kit: Kit, profile: Profile, engines: bool, demo: str | None) -> None:
    words = {
        "@NAME@": kit.name,
        "@DEVICE@": profile.title,
        "@PYTHON@": kit.python,
        "@MACHINE@": kit.machine,
        "@DEMO@": demo or "",
        # TensorRT's Python package is the system's, where a GPU is to be used.
        "@VENV_OPTIONS@": "--system-site-packages" if engines else "",
        "@BUILD@": '"$edgekit" build --quiet "$part" || true # without a GPU the rest runs\n'
        if engines
        else "",
    }
    templates = importlib.resources.files(__package__) / "kit_files"
    written = {"install.sh": "install.sh", "unit.service": f"edgekit-{kit.name}.service"}
    if demo is not None:
        written["demo.service"] = f"edgekit-{kit.name}-demo.service"
    for source, target in written.items():
        text = (templates / source).read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(word, value)
        (root / target).write_text(text, encoding="utf-8")
    (root / "install.sh").chmod(0o755)
    pins = (re.match(r"(.+?)-([^-]+)-", name) for name in kit.wheels)
    lines = sorted(f"{pin[1].replace('_', '-')}=={pin[2]}\n" for pin in pins if pin)
    (root / "requirements.txt").write_text("".join(lines), encoding="utf-8")
    about = {key: value for key, value in asdict(kit).items() if key not in ("path", "bytes")}
    (root / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _write_sums(root: Path) -> None:
    lines = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            lines.append(f"{digest}  {path.relative_to(root).as_posix()}\n")
    (root / SUMS).write_text("".join(lines), encoding="utf-8")


def _put(root: Path, out: Path) -> None:
    if not out.name.endswith(ARCHIVES):
        os.rename(root, out)
        return
    part = root.parent / "kit.tar.gz"
    with tarfile.open(part, "w:gz", compresslevel=1) as archive:  # wheels are compressed
        archive.add(root, arcname=root.name, filter=_plain)
    os.rename(part, out)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's in particular, and of no time."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = _EPOCH
    return entry
