"""``edgekit demo classify`` and ``detect``: what a network sees in a camera's picture, live.

The camera is a viewer's, sent by the page frame by frame, or a video on the server. One viewer's
camera is shown at a time; the others look on.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from PIL import Image

from edgekit.errors import EdgekitError, InputError, UsageError

from ..runtimes.cameras import Camera
from ..runtimes.clips import Clip
from ..runtimes.detector_prompts import clean
from ..runtimes.tasks.base import Result, Task
from ..runtimes.tasks.prompted_detection import PromptedDetection, Settings
from .web.engine import Engine
from .web.frames import Frame, Kind
from .web.newest import Newest
from .web.pixels import unpack
from .web.site import Viewer
from .web.stage import StageDemo

CLASSIFY: Final = ("classification",)
DETECT: Final = ("detection", "prompted-detection")
MOST_PIXELS: Final = 4096 * 2304  # of a frame, whatever its bytes
MOST_CLASSES: Final = 100
RETRY: Final = 2.0  # seconds until a video that broke off is begun anew
QUALITY: Final = 80  # of the JPEGs that viewers of a video get

log = logging.getLogger("edgekit.demo")


@dataclass(frozen=True)
class Shot:
    """A frame on its way.

    Attributes:
        picture: JPEG, or what :func:`~edgekit.apps.web.pixels.unpack` takes, by ``kind``; of a
            video its pixels. arrived: when, by ``time.perf_counter``.
    """

    number: int
    picture: bytes | np.ndarray
    arrived: float
    kind: Kind | None = None
    viewer: Viewer | None = None


@dataclass(frozen=True)
class Looked:
    """What the task answered to which picture, and ms that decoding and the task took."""

    result: Result
    image: Image.Image
    decode: float
    model: float


class CameraDemo(StageDemo):
    """A picture task on a stream of pictures.

    Args:
        engine: of a task that takes pictures.
        clip: in place of a viewer's camera; a video is played over and over.
    """

    page: ClassVar[str] = "classify.html"
    title: ClassVar[str] = "classify"

    def __init__(self, engine: Engine, clip: Clip | Camera | None = None) -> None:
        super().__init__(engine)
        self._clip = clip
        self._inbox: Newest[Shot] = Newest(1)
        self._skipped = self._played = 0

    def details(self) -> dict[str, Any]:
        """Where pictures come from, and whether somebody's camera is shown."""
        source = self._clip.path.name if self._clip else None
        return {"source": source, "taken": self.presenter is not None}

    async def on_message(self, viewer: Viewer, message: dict[str, Any]) -> None:
        """``present``: a viewer asks to show their camera."""
        if message["type"] != "present":
            return await super().on_message(viewer, message)
        if self._clip is not None:
            raise InputError("no camera is asked for", f"{self._clip.path.name} is shown")
        self.give_stage(viewer)

    async def on_frame(self, viewer: Viewer, frame: Frame) -> None:
        """A picture of the presenter's camera."""
        if viewer is not self.presenter:
            raise InputError("this camera is not shown", "another is, or nobody asked")
        if frame.kind not in (Kind.PICTURE, Kind.PIXELS):
            raise InputError(
                "this demo looks at pictures", f"and this is {frame.kind.name.lower()}"
            )
        self._skipped += frame.skipped
        self._put(Shot(frame.number, frame.content, time.perf_counter(), frame.kind, viewer))

    async def work(self) -> None:
        """Look at each picture that the model has time for."""
        playing = asyncio.create_task(self._play()) if self._clip else None
        try:
            while True:
                await self._look(await self._inbox.get())
        finally:
            if playing is not None:
                playing.cancel()

    def _put(self, shot: Shot) -> None:
        self._inbox.put(shot)
        self.meter.dropped = self._inbox.dropped + self._skipped

    async def _look(self, shot: Shot) -> None:
        try:
            timed = await self.engine.run(lambda task: look(task, shot))
        except EdgekitError as fault:
            self._fail(shot, str(fault))
            return
        except Exception as fault:  # one frame that a library chokes on does not end the demo
            log.exception("a frame failed")
            self._fail(shot, f"{type(fault).__name__}: {fault}")
            return
        looked = timed.answer
        ended = time.perf_counter()
        wait = 1000 * (ended - shot.arrived) - looked.decode - looked.model
        self.meter.take(looked.model, max(wait, 0.0))
        await self._show(shot, looked.image)
        spent = {"wait": wait, "decode": looked.decode, "model": looked.model}
        self.tell(
            {
                "type": "result",
                "number": shot.number,
                "ms": {name: round(value, 3) for name, value in spent.items()},
                **looked.result.to_json(),
            }
        )

    async def _show(self, shot: Shot, image: Image.Image) -> None:
        """Send the picture to all but the one whose it is."""
        others = self.viewers - {shot.viewer}
        if not others:
            return
        jpeg = shot.picture if shot.kind is Kind.PICTURE else await asyncio.to_thread(_jpeg, image)
        packed = Frame(Kind.PICTURE, shot.number, jpeg).pack()
        for viewer in others:
            viewer.tell(packed)

    def _fail(self, shot: Shot, words: str) -> None:
        told = {"type": "error", "words": words, "number": shot.number}
        if shot.viewer is None:
            self.tell(told)
        else:
            shot.viewer.tell(told)

    async def _play(self) -> None:
        """Show the video or the camera, again and again; say what goes wrong, and try again."""
        while True:
            try:
                await self._play_on()
            except EdgekitError as fault:
                log.warning("%s", fault)
                self.tell({"type": "error", "words": str(fault)})
                await asyncio.sleep(RETRY)

    async def _play_on(self) -> None:
        loop = asyncio.get_running_loop()
        due, frames = loop.time(), _endless(self._clip)
        while True:
            await self.watched.wait()
            picture = await asyncio.to_thread(next, frames)
            due = max(due + 1 / self._clip.rate, loop.time())
            await asyncio.sleep(due - loop.time())
            self._played += 1
            self._put(Shot(self._played, picture, time.perf_counter()))


class DetectDemo(CameraDemo):
    """Boxes over the picture; where the model is told what to look for, while it runs.

    Args:
        engine: of a detection; whose tasks are told by ``wanted`` what to look for.
        wanted: the classes, shared with the engine's tasks.
    """

    page: ClassVar[str] = "detect.html"
    title: ClassVar[str] = "detect"

    def __init__(self, engine: Engine, clip: Clip | Camera | None, wanted: Wanted) -> None:
        super().__init__(engine, clip)
        self._wanted = wanted

    def details(self) -> dict[str, Any]:
        """The classes too, if they can be chosen; None if they are the network's own."""
        task = self.engine.task
        prompted = isinstance(task, PromptedDetection)
        return super().details() | {
            "classes": list(self._wanted.names or task.classes) if prompted else None,
            "threshold": self._wanted.threshold(task),
        }

    async def on_message(self, viewer: Viewer, message: dict[str, Any]) -> None:
        """``classes``: look for these from the next picture on."""
        if message["type"] != "classes":
            return await super().on_message(viewer, message)
        names = message.get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError("classes are a list of names")
        if len(names) > MOST_CLASSES:
            raise UsageError(f"{len(names)} classes are too many", f"{MOST_CLASSES} are the most")
        await self.engine.run(lambda task: self._wanted.choose(task, names))
        self.tell_state()


@dataclass
class Wanted:
    """What to look for, whichever runtime is at work.

    Attributes:
        names: of classes; None: what the bundle names. least: score that counts; None: the
            bundle's.
    """

    names: Sequence[str] | None = None
    least: float | None = None

    def tell(self, task: Task) -> None:
        """Tell a task that has just been opened.

        Raises:
            UsageError: the network has classes of its own, or a name is none.
        """
        if isinstance(task, PromptedDetection):
            if self.least is not None:
                task.configure(Settings(threshold=self.least))
            if self.names is not None:
                task.choose(self.names)
        elif self.names is not None:
            raise UsageError(
                f"{task.bundle.path} has classes of its own", "they were trained", "drop --classes"
            )

    def choose(self, task: Task, names: Sequence[str]) -> None:
        """Look for other classes.

        Raises:
            UsageError: the network has classes of its own, or a name is none.
        """
        Wanted(clean(names)).tell(task)
        self.names = clean(names)

    def threshold(self, task: Any) -> float:
        """The score from which on a box is shown."""
        if self.least is not None:
            return self.least
        return getattr(task.params, "show_threshold", task.params.score_threshold)


def look(task: Task, shot: Shot) -> Looked:
    """Decode a picture and let a task answer.

    Raises:
        InputError: it is no picture, or has more than :data:`MOST_PIXELS`.
    """
    begun = time.perf_counter()
    image = _decode(shot)
    decoded = time.perf_counter()
    result = task(image)
    ended = time.perf_counter()
    return Looked(result, image, 1000 * (decoded - begun), 1000 * (ended - decoded))


def _decode(shot: Shot) -> Image.Image:
    if shot.kind is Kind.PIXELS:
        return Image.fromarray(unpack(shot.picture, MOST_PIXELS))
    if shot.kind is None:
        return Image.fromarray(shot.picture)
    try:
        image = Image.open(io.BytesIO(shot.picture), formats=("JPEG",))
        _check_size(image.width, image.height)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")  # a copy takes 1 ms
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError("a frame is no JPEG", f"{len(shot.picture)} bytes: {error}") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise InputError(
            f"a frame of {width}x{height} is too large", f"{MOST_PIXELS} pixels are the most"
        )


def _jpeg(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "JPEG", quality=QUALITY)
    return written.getvalue()


def _endless(clip: Clip | Camera) -> Iterator[np.ndarray]:
    while True:
        yield from clip
