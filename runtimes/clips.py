"""Moving pictures: the frames of a video, an animated picture or a folder, one at a time.

Folders, GIF, WebP, PNG and TIFF are read with Pillow, which is here in any case; videos in
containers with PyAV, which brings FFmpeg's decoders along.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from edgekit.errors import InputError, MissingBackendError

from .tasks import pictures

SUFFIXES: Final = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
RATE: Final = 25.0  # frames a second, where nothing says how many
# FFmpeg's names of what these suffixes promise. Others are not even tried: a playlist would
# have it open further files, by whatever path or address it names.
_CONTAINERS: Final = "avi,mov,matroska"
_ANIMATED: Final = ("GIF", "PNG", "TIFF", "WEBP")


@dataclass(frozen=True)
class Clip:
    """A moving picture. Iterating decodes it frame by frame, anew each time.

    Attributes:
        path: a video, an animated picture, or a folder of pictures.
        rate: frames a second; 25 where it does not say.
    """

    path: Path
    rate: float

    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames in order, uint8 (height, width, 3) RGB; of a folder by the names of its
        files, in which numbers count as numbers.

        Raises:
            InputError: a frame cannot be decoded; those before it have been given.
        """
        if self.path.is_dir():
            return _of_folder(self.path)
        if self.path.suffix.lower() in SUFFIXES:
            return _of_video(self.path)
        return _of_picture(self.path)


def open_clip(path: str | Path) -> Clip:
    """A moving picture, before its first frame is decoded.

    Raises:
        InputError: there is no such file, or nothing in it moves.
        MissingBackendError: it is a video, and PyAV is not here.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no file {path}", "it does not exist")
    if path.is_dir():
        _names(path)
        return Clip(path, RATE)
    if path.suffix.lower() in SUFFIXES:
        with _Video(path) as video:
            return Clip(path, video.rate)
    with _animated(path) as image:
        _read(image, path, 0)
        shown = image.info.get("duration")  # milliseconds of a frame
    return Clip(path, 1000 / shown if shown else RATE)


def import_av() -> Any:
    """PyAV.

    Raises:
        MissingBackendError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingBackendError(
            "videos cannot be read or written here",
            f"PyAV is not installed: {error}",
            'pip install "edgekit-toolkit[video]", or give a folder of pictures',
        ) from error
    return av


def _of_folder(folder: Path) -> Iterator[np.ndarray]:
    for path in _names(folder):
        yield np.asarray(pictures.decode(path))


def _names(folder: Path) -> list[Path]:
    found = [p for p in folder.iterdir() if p.suffix.lower() in pictures.SUFFIXES]
    if not found:
        raise InputError(f"no frames in {folder}", f"no file ends in {' '.join(pictures.SUFFIXES)}")
    # frame9 comes before frame10.
    return sorted(found, key=lambda p: [*map(_number, re.split(r"(\d+)", p.name))])


def _number(part: str) -> tuple[int, str]:
    return (int(part), part) if part.isdecimal() else (-1, part)


def _of_picture(path: Path) -> Iterator[np.ndarray]:
    with _animated(path) as image:
        for number in range(image.n_frames):
            yield _read(image, path, number)


def _read(image: Image.Image, path: Path, number: int) -> np.ndarray:
    try:
        image.seek(number)
        return np.asarray(pictures.decode(image))
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly any
        raise _broken(path, number, error) from error


def _animated(path: Path) -> Image.Image:
    try:
        image = Image.open(path, formats=_ANIMATED)
        count = getattr(image, "n_frames", 1)
    except Exception as error:  # Pillow's readers raise nearly any
        raise InputError(
            f"{path} is no moving picture",
            f"{', '.join((*SUFFIXES, *_ANIMATED))} and folders of pictures are",
            "leave --track out for a single picture",
        ) from error
    if count < 2:
        image.close()
        raise InputError(
            f"nothing moves in {path}", "it has one frame", "leave --track out, or give a folder"
        )
    return image


def _of_video(path: Path) -> Iterator[np.ndarray]:
    with _Video(path) as video:
        yield from video.frames()


class _Video:
    """A container, open on its first video stream."""

    def __init__(self, path: Path) -> None:
        self._av, self._path = import_av(), path
        try:
            self._file = path.open("rb")  # a file's content: a name could be an address
        except OSError as error:
            raise InputError(f"{path} cannot be read", error.strerror or str(error)) from error
        try:
            options = {"format_whitelist": _CONTAINERS}
            self._container = self._av.open(self._file, options=options)
            self._stream = self._container.streams.video[0]
            self._check(self._stream.codec_context)
        except (self._av.FFmpegError, IndexError) as error:
            self._file.close()
            raise InputError(f"{path} is no video", _reason(error)) from error
        except InputError:
            self.__exit__()
            raise

    @property
    def rate(self) -> float:
        """Frames a second."""
        return float(self._stream.average_rate or RATE)

    def frames(self) -> Iterator[np.ndarray]:
        """Each frame as it is to be shown."""
        self._stream.thread_type = "AUTO"
        decoded, number = self._container.decode(self._stream), 0
        while True:
            try:
                frame = next(decoded, None)
                if frame is None:
                    return
                array = frame.to_ndarray(format="rgb24")
            except self._av.FFmpegError as error:
                raise _broken(self._path, number, error) from error
            # Phones store pictures as the sensor lies, and by how much to turn them back:
            # degrees against the clock, as NumPy turns.
            yield np.ascontiguousarray(np.rot90(array, round(frame.rotation / 90)))
            number += 1

    def _check(self, context: Any) -> None:
        if context.width * context.height > pictures.MAX_PIXELS:
            raise InputError(
                f"{self._path} has frames of {context.width}x{context.height}",
                f"more than {pictures.MAX_PIXELS} pixels are not decoded",
            )

    def __enter__(self) -> _Video:
        return self

    def __exit__(self, *exc: object) -> None:
        self._container.close()
        self._file.close()


def _broken(path: Path, number: int, error: Exception) -> InputError:
    return InputError(f"frame {number} of {path} cannot be decoded", _reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, IndexError):
        return "it has no pictures"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
