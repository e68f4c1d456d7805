"""Samples to calibrate with or to judge by: real inputs through the model's own preprocessing.

A folder of what the model's task takes (pictures, sounds, point clouds), labelled pictures, an
``.npz`` with an array per input, or any Python iterable of such things.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgekit.errors import InputError
from edgekit.manifest import AxisRange, TensorSpec

from ..runtimes.labelled_pictures import TRAIN, LabelledPictures, open_labelled
from ..runtimes.tasks.base import Task
from ..runtimes.tasks.classification import Classification
from ..runtimes.tasks.inputs import files_beneath
from .arrays import ARRAYS, check_sample, read_arrays
from .plan import Arrays

SEED: Final = 0


@dataclass(frozen=True)
class Samples:
    """Inputs of a graph, each made when it is asked for.

    Attributes:
        title: what they are, in words without a path of this machine.
        names: of each sample. digests: sha256 of each one's content as it was given.
        read: makes the inputs of one, by its index.
        classes: the class index of each, where it is known.
    """

    title: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    read: Callable[[int], Arrays]
    classes: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Arrays:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.read(index)

    @cached_property
    def sha256(self) -> str:
        """Of the list: each sample's name, class and content, in order."""
        whole = hashlib.sha256()
        for index, (name, digest) in enumerate(zip(self.names, self.digests, strict=True)):
            known = "" if self.classes is None else self.classes[index]
            whole.update(f"{name}\t{known}\t{digest}\n".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()

    def titled(self, title: str) -> Samples:
        """The same samples under another title."""
        return replace(self, title=title)

    def pick(self, indices: Sequence[int]) -> Samples:
        """Some of them, in this order."""
        return replace(
            self,
            names=tuple(self.names[i] for i in indices),
            digests=tuple(self.digests[i] for i in indices),
            read=lambda index: self.read(indices[index]),
            classes=None if self.classes is None else tuple(self.classes[i] for i in indices),
        )

    def draw(self, count: int) -> Samples:
        """``count`` of them, chosen at random with a fixed seed, in their own order."""
        if count >= len(self):
            return self
        chosen = np.random.default_rng(SEED).choice(len(self), count, replace=False)
        return self.pick(sorted(int(index) for index in chosen))


@dataclass(frozen=True)
class Contract:
    """What the samples are for: a graph's inputs, and the task that prepares files for it.

    Attributes:
        inputs, dynamic: of the graph. task: None where it takes arrays only.
        labels: the names of the network's classes, if it has such.
    """

    inputs: tuple[TensorSpec, ...]
    dynamic: Mapping[str, AxisRange]
    task: Task | None = None
    labels: tuple[str, ...] | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the files that a sample may be."""
        return (*(self.task.suffixes if self.task else ()), *ARRAYS)

    def prepare(self, source: Any, name: str) -> dict[str, np.ndarray]:
        """The inputs for one file, or for what the task takes in place of one.

        Raises:
            InputError: it is not what the task takes, or does not fit the graph.
        """
        if isinstance(source, Mapping):
            return check_sample(source, self.inputs, self.dynamic, name)
        only = self.inputs[0]
        if isinstance(source, np.ndarray) and source.dtype == only.dtype and len(self.inputs) == 1:
            return check_sample({only.name: source}, self.inputs, self.dynamic, name)
        if self.task is None:
            raise InputError(
                f"{name} cannot be fed to this model",
                "it states no preprocessing, so it takes arrays",
                "give an .npz file with an array per input",
            )
        return dict(self.task.prepare(source))


def open_samples(source: Any, contract: Contract, split: str, role: str) -> Samples:
    """The samples at ``source``.

    Args:
        source: a path (a folder of files, labelled pictures, an ``.npz`` or ``.npy``), or an
            iterable of files, decoded inputs, arrays or mappings of arrays.
        split: ``train`` or ``test``, of labelled pictures that have both.
        role: what they are for, in words: "calibration" or "evaluation".

    Raises:
        InputError: there is nothing there, a file is broken, or something does not fit.
    """
    if isinstance(source, Samples):
        return source
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists():
            raise InputError(f"no {role} data at {path}", "there is no such file or folder")
        if path.suffix.lower() in ARRAYS and path.is_file():
            return _from_arrays([path], path.name, contract)
        return _from_path(path, contract, split, role)
    if not isinstance(source, Iterable):
        raise InputError(f"{type(source).__name__} is no {role} data", "a path or an iterable is")
    return _from_iterable(source, contract, role)


def refuse_overlap(calibration: Samples, evaluation: Samples) -> None:
    """Raise InputError where a sample of one is in the other: the figures would flatter."""
    common = set(calibration.digests) & set(evaluation.digests)
    if common:
        raise InputError(
            f"{len(common)} of {len(calibration)} calibration samples are evaluation samples, too",
            "accuracy on what the ranges were chosen by says little",
            "give another --calib or --eval, or leave --eval out: some samples are then held back",
        )


def hold_back(samples: Samples, count: int, least: int) -> tuple[Samples, Samples]:
    """Split off a fifth, at most ``count``, to judge by: (the rest, those held back).

    Raises:
        InputError: there are fewer than ``least`` samples.
    """
    if len(samples) < least:
        raise InputError(
            f"{samples.title} has {len(samples)} sample{'' if len(samples) == 1 else 's'}",
            f"a part is held back to judge by, which takes {least}",
            "give more, or other ones with --eval",
        )
    order = np.random.default_rng(SEED).permutation(len(samples))
    size = min(count, max(1, len(samples) // 5))
    held, rest = sorted(map(int, order[:size])), sorted(map(int, order[size:]))
    kept = samples.pick(held)
    return samples.pick(rest), replace(kept, title=f"held back of {kept.title}")


def _from_path(path: Path, contract: Contract, split: str, role: str) -> Samples:
    if path.is_dir() and _is_flat(path, contract):
        files = sorted(files_beneath(path, contract.suffixes))
        return _from_files(files, path, contract, role)
    pictures = contract.task is not None and contract.task.takes_pictures
    if pictures and (path.is_file() or split == TRAIN or isinstance(contract.task, Classification)):
        # To calibrate, the classes do not matter, only which split the pictures are of.
        labels = None if split == TRAIN else contract.labels
        if path.is_file() and path.suffix.lower() in contract.suffixes:
            return _from_files([path], path.parent, contract, role)
        return _from_labelled(open_labelled(path, labels, split), contract, split)
    files = [path] if path.is_file() else sorted(files_beneath(path, contract.suffixes))
    return _from_files(files, path if path.is_dir() else path.parent, contract, role)


def _is_flat(folder: Path, contract: Contract) -> bool:
    """Whether samples lie in the folder itself, or nothing like a sample is in it at all."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be read", error.strerror or str(error)) from error
    return not entries or any(
        entry.is_file() and entry.name.lower().endswith(contract.suffixes) for entry in entries
    )


def _from_files(files: Sequence[Path], root: Path, contract: Contract, role: str) -> Samples:
    if not files:
        raise InputError(
            f"no {role} data in {root}", f"no file ends in {' '.join(contract.suffixes)}"
        )
    if all(file.suffix.lower() in ARRAYS for file in files):
        return _from_arrays(files, root.resolve().name, contract)
    return Samples(
        title=root.resolve().name,
        names=tuple(file.relative_to(root).as_posix() for file in files),
        digests=tuple(_file_digest(file) for file in files),
        read=lambda index: contract.prepare(files[index], str(files[index])),
    )


def _from_labelled(pictures: LabelledPictures, contract: Contract, split: str) -> Samples:
    def read(index: int) -> Arrays:
        source, _ = pictures[index]
        return contract.prepare(source, str(pictures.names[index]))

    return Samples(
        title=pictures.title,
        names=tuple(pictures.names),
        digests=tuple(
            _file_digest(source) if isinstance(source, Path) else _digest(source.tobytes())
            for source in pictures.sources
        ),
        read=read,
        classes=None if split == TRAIN else tuple(int(index) for index in pictures.classes),
    )


def _from_arrays(files: Sequence[Path], title: str, contract: Contract) -> Samples:
    samples: list[Arrays] = []
    names, classes = [], []
    for file in files:
        found, labels = read_arrays(file, contract.inputs, contract.dynamic)
        samples += found
        names += [f"{file.name}/{number}" for number in range(len(found))]
        classes += labels or []
    return Samples(
        title=title,
        names=tuple(names),
        digests=tuple(_sample_digest(sample) for sample in samples),
        read=samples.__getitem__,
        classes=tuple(classes) if len(classes) == len(samples) else None,
    )


def _from_iterable(source: Iterable[Any], contract: Contract, role: str) -> Samples:
    samples = [
        contract.prepare(item, f"{role} sample {number}") for number, item in enumerate(source)
    ]
    if not samples:
        raise InputError(f"no {role} data", "the iterable is empty")
    return Samples(
        title=f"{len(samples)} samples from Python",
        names=tuple(str(number) for number in range(len(samples))),
        digests=tuple(_sample_digest(sample) for sample in samples),
        read=samples.__getitem__,
    )


def _sample_digest(sample: Arrays) -> str:
    whole = hashlib.sha256()
    for name, array in sorted(sample.items()):
        whole.update(f"{name}|{array.dtype}|{array.shape}|".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def _file_digest(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read", error.strerror or str(error)) from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
