"""Cameras of this device, such as a Raspberry Pi's or a Jetson's, by Video4Linux."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgekit.errors import DeviceError

from .clips import import_av

SIZE: Final = (640, 480)  # what is asked for; a camera that has another size gives its own


@dataclass(frozen=True)
class Camera:
    """A camera. Iterating opens it, and gives a frame whenever it has one, without an end.

    Whoever takes them slowly gets frames that are some time old: a driver keeps a few.

    Attributes:
        path: of the device, ``/dev/video0``. rate: endless: it sets the pace itself.
        driver: FFmpeg's name of what reads it.
    """

    path: Path
    rate: float = math.inf
    driver: str = "v4l2"

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames, uint8 (height, width, 3) RGB.

        Raises:
            DeviceError: it cannot be opened, or gives no more frames.
            MissingBackendError: PyAV is not here.
        """
        av = import_av()
        with closing(_open(av, self)) as container:
            try:
                for frame in container.decode(video=0):
                    yield frame.to_ndarray(format="rgb24")
            except av.FFmpegError as error:
                raise DeviceError(f"the camera {self.path} gives no frames", str(error)) from error
        raise DeviceError(f"the camera {self.path} gives no more frames", "it was unplugged?")


def open_camera(path: Path) -> Camera:
    """A camera that has been opened once, to see that it is one.

    Raises:
        DeviceError, MissingBackendError: as when it is iterated.
    """
    camera = Camera(path)
    _open(import_av(), camera).close()
    return camera


def _open(av: Any, camera: Camera) -> Any:
    options = {"video_size": "{}x{}".format(*SIZE)} if camera.driver == "v4l2" else {}
    try:
        container = av.open(str(camera.path), format=camera.driver, options=options)
    except av.FFmpegError as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DeviceError(
            f"the camera {camera.path} cannot be opened",
            reason,
            "v4l2-ctl --list-devices shows those that are here; the group video may read them",
        ) from error
    return container
