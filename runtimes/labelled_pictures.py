"""Labelled pictures, to measure accuracy on: idx files, or a folder of class folders.

>>> from edgekit.runtimes.labelled_pictures import open_labelled
>>> pictures = open_labelled("/usr/share/datasets/fashion-mnist")  # doctest: +SKIP
>>> len(pictures), pictures.labels[pictures[0][1]]  # doctest: +SKIP
(10000, 'Ankle boot')
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from edgekit.errors import InputError

from .idx import read_idx
from .tasks.inputs import files_beneath
from .tasks.pictures import SUFFIXES

TRAIN: Final = "train"
TEST: Final = "test"
# What the splits are called: as the start of an idx file's name, and as a folder's name.
_SPLITS: Final = {TRAIN: ("train",), TEST: ("t10k", "test")}
_SPLIT_FOLDERS: Final = {TRAIN: ("train",), TEST: ("test", "val", "valid", "validation")}

# An idx file states numbers only; these are the names that its authors give them.
_KNOWN_LABELS: Final = {
    "fashion-mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
}
_SHOWN = 5  # names in a message; the count tells the rest

Source = np.ndarray | Path


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures, each with the index of its class.

    Attributes:
        name: of the data set, e.g. ``fashion-mnist``; no path of this machine.
        split: ``train`` or ``test``; None where the data set is not split.
        labels: the names of the classes, by index.
        sources: a file each, or a uint8 array (height, width) of greys each.
        classes: the class index of each picture.
        names: of each picture: its path within the folder, or its number.
    """

    name: str
    split: str | None
    labels: tuple[str, ...]
    sources: Sequence[Path] | np.ndarray
    classes: np.ndarray
    names: Sequence[str]

    @property
    def title(self) -> str:
        """Name and split, e.g. ``fashion-mnist, test``."""
        return f"{self.name}, {self.split}" if self.split else self.name

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> tuple[Source, int]:
        """A picture as tasks take it (a file, or uint8 (height, width, 3)), and its class."""
        source = self.sources[index]
        if isinstance(source, np.ndarray):
            source = np.repeat(source[..., np.newaxis], 3, axis=2)
        return source, int(self.classes[index])

    def __iter__(self) -> Iterator[tuple[Source, int]]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def sha256(self) -> str:
        """Of the list of samples: each one's name, class and content, in order.

        Raises:
            InputError: a file cannot be read.
        """
        whole = hashlib.sha256()
        for source, name, index in zip(self.sources, self.names, self.classes, strict=True):
            content = hashlib.sha256(_content(source)).hexdigest()
            whole.update(f"{name}\t{index}\t{content}\n".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()


def open_labelled(
    path: str | Path, labels: Sequence[str] | None = None, split: str = TEST
) -> LabelledPictures:
    """The labelled pictures at ``path``.

    Args:
        path: one of:

            - a folder with idx files (``t10k-images-idx3-ubyte`` and its labels, gzipped or
              not), or an idx file of pictures beside the one of its labels;
            - a folder of class folders of pictures, or of the folders ``train`` and ``test``
              (or ``val``) with class folders in each.
        labels: the classes by index, as a network has them. Class folders are matched to them
            by name, ignoring case, spaces and punctuation; where none matches and there are
            as many, in sorted order. None: as the data set has them.
        split: ``train`` or ``test``, where there are both.

    Raises:
        InputError: there are no labelled pictures at ``path``, a file is damaged, or the
            classes are not those of ``labels``.
    """
    path = Path(path)
    if path.is_file():
        return _from_idx(path, labels)
    if not path.is_dir():
        raise InputError(f"no labelled pictures at {path}", "there is no such file or folder")
    if idx := _idx_pictures(path, split):
        return _from_idx(idx, labels)
    return _from_folders(path, labels, split)


def _idx_pictures(folder: Path, split: str) -> Path | None:
    """The idx file of a split's pictures in a folder; None where the folder has no idx files."""
    found = [p for p in _entries(folder) if _is_idx_pictures(p.name) and p.is_file()]
    if not found:
        return None
    fitting = [p for p in found if p.name.startswith(_SPLITS[split])]
    # The same file with and without compression is one; several prefixes are not.
    if len({p.name.removesuffix(".gz") for p in fitting}) != 1:
        raise InputError(
            f"{folder} has {len(fitting) or 'no'} {split} pictures",
            f"it holds {_listing(p.name for p in found)}",
            "give the file of pictures itself",
        )
    return fitting[0]


def _is_idx_pictures(name: str) -> bool:
    return "images" in name and "idx3" in name and not name.startswith(".")


def _from_idx(path: Path, labels: Sequence[str] | None) -> LabelledPictures:
    name = path.parent.resolve().name
    if not _is_idx_pictures(path.name):
        raise InputError(
            f"{path} is no file of labelled pictures",
            "its name is not like t10k-images-idx3-ubyte",
            "give a folder with idx files, or one with a folder of pictures a class",
        )
    pictures = read_idx(path, 3)
    beside = _labels_beside(path)
    classes = read_idx(beside, 1)
    if len(pictures) != len(classes):
        raise InputError(
            f"{path.name} and {beside.name} do not belong together",
            f"{len(pictures)} pictures, {len(classes)} labels",
        )
    if not pictures.size:
        raise InputError(f"{path} holds no pictures", f"its header states {pictures.shape}")
    count = int(classes.max()) + 1
    own = _KNOWN_LABELS.get(name, ())
    if len(own) < count:
        own = tuple(str(number) for number in range(count))
    chosen = own if labels is None else tuple(labels)
    if len(chosen) != len(own):
        raise InputError(
            f"the data set {name} has {len(own)} classes",
            f"the network has {len(chosen)}",
            "export a checkpoint that was trained on this data set",
        )
    names = [str(number) for number in range(len(pictures))]
    part = next((s for s, heads in _SPLITS.items() if path.name.startswith(heads)), None)
    return LabelledPictures(name, part, chosen, pictures, classes, names)


def _labels_beside(path: Path) -> Path:
    plain = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    for name in (plain + path.name[len(path.name.removesuffix(".gz")) :], plain, f"{plain}.gz"):
        if (path.parent / name).is_file():
            return path.parent / name
    raise InputError(f"{path.name} has no labels", f"no {plain} lies beside it")


def _from_folders(path: Path, labels: Sequence[str] | None, split: str) -> LabelledPictures:
    top = path
    folders = _visible_folders(top)
    splits = {kind for kinds in _SPLIT_FOLDERS.values() for kind in kinds}
    if folders and all(folder.name.lower() in splits for folder in folders):
        top = _split_folder(path, folders, split)
        folders = _visible_folders(top)
    if not folders:
        raise InputError(
            f"no labelled pictures in {top}",
            "it holds neither idx files nor a folder for each class",
        )
    order = _match([folder.name for folder in folders], labels, top)
    samples = [
        (file, index)
        for index, folder in sorted(zip(order, folders, strict=True))
        for file in sorted(files_beneath(folder, SUFFIXES))
    ]
    if not samples:
        raise InputError(f"no pictures in the folders of {top}", f"no {' '.join(SUFFIXES)}")
    return LabelledPictures(
        name=path.resolve().name,
        split=split if top is not path else None,
        labels=tuple(labels) if labels is not None else tuple(f.name for f in folders),
        sources=[file for file, _ in samples],
        classes=np.array([index for _, index in samples]),
        names=[file.relative_to(top).as_posix() for file, _ in samples],
    )


def _visible_folders(path: Path) -> list[Path]:
    return [p for p in _entries(path) if p.is_dir() and not p.name.startswith(".")]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read", error.strerror or str(error)) from error


def _split_folder(path: Path, folders: Sequence[Path], split: str) -> Path:
    for wanted in _SPLIT_FOLDERS[split]:
        for folder in folders:
            if folder.name.lower() == wanted:
                return folder
    raise InputError(
        f"{path} has no folder {' or '.join(_SPLIT_FOLDERS[split])}",
        f"it has {_listing(folder.name for folder in folders)}",
    )


def _match(folders: Sequence[str], labels: Sequence[str] | None, path: Path) -> list[int]:
    """The class index of each folder (given in sorted order)."""
    if labels is None:
        return list(range(len(folders)))
    by_name: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        by_name.setdefault(_key(label), []).append(index)
    found = [by_name.get(_key(folder), []) for folder in folders]
    # Where some match and some do not, sorted order would mix classes up in silence.
    if not any(found) and len(folders) == len(labels):
        return list(range(len(folders)))
    lost = [name for name, indices in zip(folders, found, strict=True) if len(indices) != 1]
    if lost:
        raise InputError(
            f"the class folders of {path} are not the network's {len(labels)} classes",
            f"{len(lost)} of {len(folders)} match no label, or several: {_listing(lost)}",
            f"name them like {_listing(labels)}",
        )
    indices = [candidates[0] for candidates in found]
    if len(set(indices)) != len(indices):
        twice = [labels[i] for i in sorted(set(indices)) if indices.count(i) > 1]
        raise InputError(f"several folders of {path} are of one class", _listing(twice))
    return indices


def _key(label: str) -> str:
    """A name without case, spaces and punctuation: a folder cannot be called T-shirt/top."""
    folded = label.casefold()
    return "".join(filter(str.isalnum, folded)) or folded


def _content(source: Source) -> bytes:
    if isinstance(source, np.ndarray):
        return source.tobytes()
    try:
        return source.read_bytes()
    except OSError as error:
        raise InputError(f"{source} cannot be read", error.strerror or str(error)) from error


def _listing(names: Iterator[str] | Sequence[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (f", … ({len(names)})" if len(names) > _SHOWN else "")
