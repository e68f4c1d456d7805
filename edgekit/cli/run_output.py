"""Where ``edgekit run -o OUT`` puts what a task found: JSON, arrays, sound, a clip, a folder."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.cli.output import dumps, write_whole
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgekit.runtimes.tasks import Result

RESULTS_NAME = "results.json"
ARRAYS_SUFFIX = ".npz"
PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
RECORDING_SUFFIX = ".rrd"
SOUND_SUFFIXES = (".wav", ".flac")
TOKENS_SUFFIX = ".safetensors"
CLIP_SUFFIXES = (".mp4", ".gif", ".webp")
JPEG_QUALITY = 92


class Destination(ABC):
    """One place to write to. Results are taken as they come, so that none need be kept."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def take(self, file: Path, runtime: str, result: Result) -> None:
        """Write what belongs to one input on one runtime.

        Raises:
            UsageError: this task's results are nothing to write here, or it cannot be written.
        """

    @abstractmethod
    def finish(self, document: dict[str, Any]) -> None:
        """Write what belongs to the whole run; errors as in :meth:`take`."""


class JsonFile(Destination):
    """All results as the document that ``--json`` prints."""

    def take(self, file: Path, runtime: str, result: Result) -> None:
        """Nothing: the document has it all."""

    def finish(self, document: dict[str, Any]) -> None:
        """Write the document."""
        write_whole(self.path, lambda part: part.write_text(dumps(document), encoding="utf-8"))


class _AnswerFile(Destination):
    """A file for a single answer, and nothing else."""

    def finish(self, document: dict[str, Any]) -> None:
        """Nothing: the file is written."""


class ArraysFile(_AnswerFile):
    """The arrays of a single answer."""

    def take(self, file: Path, runtime: str, result: Result) -> None:
        """Write the arrays."""
        save = getattr(result, "save", None)
        if save is None:
            raise UsageError(
                f"cannot write {self.path}",
                "the answers of this task are no arrays",
                "give -o a name that ends in .json",
            )
        write_whole(self.path, save)


class PictureFile(_AnswerFile):
    """A single answer, drawn into its picture."""

    def take(self, file: Path, runtime: str, result: Result) -> None:
        """Draw and write."""
        if moves(result):
            raise UsageError(
                f"cannot write {self.path}",
                "it holds one picture, and a clip has many",
                f"give -o a name that ends in {', '.join(CLIP_SUFFIXES)} or .json",
            )
        if not draws(result):
            raise UsageError(
                f"cannot write {self.path}",
                "the answers of this task cannot be drawn",
                "give -o a name that ends in .json",
            )
        _write_picture(self.path, result.draw(file))


class SoundFile(_AnswerFile):
    """A single answer as sound."""

    def take(self, file: Path, runtime: str, result: Result) -> None:
        """Write it."""
        save = getattr(result, "save_sound", None)
        if save is None:
            raise UsageError(
                f"cannot write {self.path}",
                "the answers of this task are no sound",
                "give -o a name that ends in .json",
            )
        write_whole(self.path, lambda part: save(part, self.path.suffix.lower()))


class TokensFile(_AnswerFile):
    """A single answer as a file of codes, which ``edgekit run`` takes back."""

    def take(self, file: Path, runtime: str, result: Result) -> None:
        """Write it."""
        save = getattr(result, "save_tokens", None)
        if save is None:
            raise UsageError(
                f"cannot write {self.path}",
                "the answers of this task are no codes",
                "give -o a name that ends in .json",
            )
        write_whole(self.path, save)


class RecordingFile(_AnswerFile):
    """A single answer as a recording for the Rerun viewer."""

    def take(self, file: Path, runtime: str, result: Result) -> None:
        """Record and write; MissingBackendError where Rerun is not installed."""
        record = getattr(result, "record", None)
        if record is None:
            raise UsageError(
                f"cannot write {self.path}",
                "the answers of this task cannot be recorded",
                "give -o a name that ends in .json",
            )
        write_whole(self.path, lambda part: record(file, part))


class ClipFile(_AnswerFile):
    """A single clip, with what is found drawn into its frames."""

    def take(self, file: Path, runtime: str, result: Result) -> None:
        """Draw and write, frame by frame."""
        if not moves(result):
            raise UsageError(
                f"cannot write {self.path}",
                "it holds a clip, and this is one picture",
                "give -o a name that ends in .png, or follow a clip with --track",
            )
        _write_clip(self.path, result)


class Folder(Destination):
    """The document, and of a task that draws a picture of every answer.

    NAME.RUNTIME.png is drawn, NAME.RUNTIME.mask.png holds class indices, NAME.RUNTIME.mp4 (or
    .webp, of what was none) is a clip, NAME.RUNTIME.wav is sound; where two inputs have one
    name, the second is NAME-2.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._names: dict[Path, str] = {}

    def take(self, file: Path, runtime: str, result: Result) -> None:
        """Draw and write, if the task draws, or its answer is sound."""
        sounds = hasattr(result, "save_sound")
        if not draws(result) and not moves(result) and not sounds:
            return
        self._make()
        name = f"{self._name(file)}.{runtime}"
        if sounds:
            write_whole(self.path / f"{name}.wav", lambda part: result.save_sound(part, ".wav"))
            return
        if moves(result):
            from edgekit.runtimes.clips import SUFFIXES

            video = file.suffix.lower() in SUFFIXES
            _write_clip(self.path / f"{name}{'.mp4' if video else '.webp'}", result)
            return
        _write_picture(self.path / f"{name}.png", result.draw(file))
        if hasattr(result, "save_mask"):
            write_whole(self.path / f"{name}.mask.png", result.save_mask)

    def finish(self, document: dict[str, Any]) -> None:
        """Write the document."""
        self._make()
        JsonFile(self.path / RESULTS_NAME).finish(document)

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(f"cannot make the folder {self.path}", reason) from error

    def _name(self, file: Path) -> str:
        if file not in self._names:
            taken = {name.casefold() for name in self._names.values()}
            name, number = file.stem, 1
            while name.casefold() in taken:
                number += 1
                name = f"{file.stem}-{number}"
            self._names[file] = name
        return self._names[file]


def destination(out: str, answers: int) -> Destination:
    """What ``-o OUT`` names: by its ending, or a folder if it is one or ends in a slash.

    Args:
        answers: how many are to come.

    Raises:
        UsageError: more answers than one file of that kind can hold.
    """
    path = Path(out)
    separators = tuple(separator for separator in (os.sep, os.altsep) if separator)
    if out.endswith(separators) or path.is_dir():
        return Folder(path)
    suffix = path.suffix.lower()
    whole = (ARRAYS_SUFFIX, RECORDING_SUFFIX, TOKENS_SUFFIX, *SOUND_SUFFIXES)
    if suffix not in (*whole, *PICTURE_FORMATS, *CLIP_SUFFIXES):
        return JsonFile(path)
    if answers != 1:
        raise UsageError(
            f"cannot write {path}",
            f"it holds one answer, and there are {answers}: one for each input and runtime",
            "give -o a folder, or a name that ends in .json",
        )
    if suffix == RECORDING_SUFFIX:
        from edgekit.runtimes.tasks.recording import require_rerun

        require_rerun()  # before the work, not after it
        return RecordingFile(path)
    if suffix in CLIP_SUFFIXES:
        return ClipFile(path)
    if suffix in SOUND_SUFFIXES:
        return SoundFile(path)
    if suffix == TOKENS_SUFFIX:
        return TokensFile(path)
    return ArraysFile(path) if suffix == ARRAYS_SUFFIX else PictureFile(path)


def draws(result: Result) -> bool:
    """Whether a result can be drawn into its picture."""
    return hasattr(result, "draw")


def moves(result: Result) -> bool:
    """Whether a result is of a whole clip, whose frames can be drawn."""
    return hasattr(result, "pictures")


def _write_clip(path: Path, result: Result) -> None:
    from edgekit.runtimes.clip_writer import write_clip

    suffix = path.suffix.lower()
    write_whole(path, lambda part: write_clip(part, result.pictures(), result.rate, suffix))


def _write_picture(path: Path, picture: Image) -> None:
    kind = PICTURE_FORMATS[path.suffix.lower()]
    options = {"quality": JPEG_QUALITY} if kind == "JPEG" else {}
    write_whole(path, lambda part: picture.save(part, format=kind, **options))
