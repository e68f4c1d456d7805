"""``edgekit demo emotion``: what a voice does, and which emotion a network hears in it, live.

The sound is a viewer's microphone, sent by the page in blocks of 50 ms, or a recording on the
server. One viewer's microphone is heard at a time; the others look on.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from edgekit.errors import EdgekitError, InputError

from ..runtimes import sounds
from ..runtimes.emotion_stream import EmotionStream, Moment
from ..runtimes.tasks.speech_emotion import COMPONENTS, SILENCE, Explanation, SpeechEmotion
from .web.engine import Engine, Timed
from .web.frames import Frame, Kind
from .web.newest import Newest
from .web.pace import Pace
from .web.site import Viewer
from .web.stage import StageDemo

KINDS: Final = ("speech-emotion",)
BLOCK: Final = 0.05  # seconds of a recording at a time, as the page sends a microphone's
LONGEST: Final = 0.25  # seconds of a viewer's block
WAITING: Final = 20  # blocks that may wait: a second
BEHIND: Final = 5  # blocks that wait, from which on answers are not explained
HOP: Final = 0.25  # seconds between answers
SATURATED: Final = 3.0  # deviations of a component from its mean at which its colour ends

log = logging.getLogger("edgekit.demo")


@dataclass(frozen=True)
class Sound:
    """A recording: its name, its samples (N,), and how many there are a second."""

    name: str
    samples: np.ndarray
    rate: int


def read(path: Path, task: SpeechEmotion) -> Sound:
    """A file, at the rate of the network.

    Raises:
        InputError, MissingBackendError: as :func:`edgekit.runtimes.sounds.read_sound`.
    """
    rate = task.params.rate
    return Sound(path.name, sounds.read_sound(path, rate), rate)


@dataclass(frozen=True)
class Turn:
    """Somebody's sound from when they began: ``rate`` samples a second; None: the recording."""

    number: int
    rate: int
    viewer: Viewer | None = None


@dataclass(frozen=True)
class Block:
    """A piece of sound on its way.

    Attributes:
        number: the sender's. place: in its turn, counting those left out before. samples: (N,).
    """

    turn: Turn
    number: int
    place: int
    samples: np.ndarray
    arrived: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.turn.rate


@dataclass(frozen=True)
class Heard:
    """What a block came to.

    Attributes:
        stream: number of the stream. time: seconds of sound in it, the lost ones too.
        moment: the answer, if one was due. since: seconds of sound since the one before.
        why: its explanation. explains: whether there can be one. quiet: there is no sound.
        model, explaining: ms that they took.
    """

    stream: int
    time: float
    moment: Moment | None = None
    since: float = 0.0
    why: Explanation | None = None
    explains: bool = True
    quiet: bool = False
    model: float = 0.0
    explaining: float = 0.0


class Ear:
    """The stream at work, begun anew with each turn and with each task. For the model's thread.

    Attributes:
        lost: seconds of sound that were left out of all streams so far.
    """

    def __init__(self) -> None:
        self._stream: EmotionStream | None = None
        self._turn: Turn | None = None
        self._number = 0
        self.lost = 0.0

    def hear(self, task: SpeechEmotion, block: Block, hurried: bool = False) -> Heard:
        """The next block. ``hurried``: an answer need not be explained.

        Raises:
            InputError: it is no sound. ParityError: an answer is not finite.
        """
        if self._stream is None or self._stream.task is not task or self._turn != block.turn:
            self._begin(task, block)
        gap = (block.place - self._place - 1) * block.seconds
        self._place = block.place
        self._gone += gap
        self.lost += gap
        self._time += gap + block.seconds
        begun = time.perf_counter()
        moments = self._stream.feed(block.samples)
        model = 1000 * (time.perf_counter() - begun)
        if not moments:
            return Heard(self._number, self._time)
        return self._explain(task, moments, model, hurried)

    def _begin(self, task: SpeechEmotion, block: Block) -> None:
        self._stream = EmotionStream(task, rate=block.turn.rate, hop=HOP)
        self._turn, self._place = block.turn, block.place - 1
        self._time = self._gone = 0.0
        self._answered: float | None = None
        self._number += 1

    def _explain(
        self, task: SpeechEmotion, moments: tuple[Moment, ...], model: float, hurried: bool
    ) -> Heard:
        moment, window = moments[-1], self._stream.window
        begun = time.perf_counter()
        why = None if hurried else task.explain(window, int(np.argmax(moment.smoothed)))
        length = task.window / task.params.rate
        before = moment.time - length if self._answered is None else self._answered
        self._answered = moment.time
        return Heard(
            self._number,
            moment.time + self._gone,
            moment,
            moment.time - before,
            why,
            hurried or why is not None,
            float(np.abs(window).max()) < SILENCE,
            model,
            1000 * (time.perf_counter() - begun),
        )


class EmotionDemo(StageDemo):
    """A speech-emotion task on live sound.

    Args:
        engine: of a ``speech-emotion``.
        source: a recording to play in place of a viewer's microphone, over and over.

    Attributes:
        last: the last answer, as it was told.
    """

    page: ClassVar[str] = "emotion.html"
    title: ClassVar[str] = "emotion"

    def __init__(self, engine: Engine, source: Sound | None = None) -> None:
        super().__init__(engine)
        self._source = source
        self._inbox: Newest[Block] = Newest(WAITING)
        self._ear, self._pace = Ear(), Pace(round(10 / HOP))
        self._turn = Turn(0, source.rate if source else 0)
        self._skipped = self._place = 0
        self.last: dict[str, Any] = {}

    def details(self) -> dict[str, Any]:
        """Where sound comes from, and what the network takes of it."""
        task = self.engine.task
        rate = task.params.rate
        return {
            "source": self._source.name if self._source else None,
            "taken": self.presenter is not None,
            "components": list(COMPONENTS),
            "rate": rate,
            "window": task.window / rate,
            "factor": self._pace.factor,
            "lost": round(self._ear.lost, 3),
        }

    def changed(self) -> None:
        """Another runtime: the stream begins anew by itself, and so does its pace."""
        self._pace.clear()

    async def on_message(self, viewer: Viewer, message: dict[str, Any]) -> None:
        """``present``: a viewer asks to be heard, at ``rate`` samples a second; ``leave``: they
        have said enough."""
        if message["type"] == "leave":
            if viewer is self.presenter:
                self.left(viewer)
                self.tell_state()
        elif message["type"] == "present":
            await self._present(viewer, message.get("rate"))
        else:
            await super().on_message(viewer, message)

    async def _present(self, viewer: Viewer, rate: object) -> None:
        if self._source is not None:
            raise InputError("no microphone is asked for", f"{self._source.name} is played")
        low, high = sounds.RATES
        if type(rate) is not int or not low <= rate <= high:
            raise InputError(
                "a microphone tells its rate", f"from {low} to {high} samples a second"
            )
        # Whether sound of this rate can be converted here is told before any is sent.
        await self.engine.run(lambda task: EmotionStream(task, rate=rate, hop=HOP))
        if self.presenter is None:
            self._turn, self._place = Turn(self._turn.number + 1, rate, viewer), 0
            self.meter.clear()
            self._pace.clear()
        self.give_stage(viewer)

    async def on_frame(self, viewer: Viewer, frame: Frame) -> None:
        """A block of the presenter's sound: float32, one channel."""
        if viewer is not self.presenter:
            raise InputError("this microphone is not heard", "another is, or nobody asked")
        if frame.kind != Kind.SOUND:
            raise InputError("this demo listens", f"and this is {frame.kind.name.lower()}")
        most = int(LONGEST * self._turn.rate)
        if not 0 < len(frame.content) <= 4 * most or len(frame.content) % 4:
            raise InputError(
                f"a block of {len(frame.content)} bytes is none", f"1 to {most} floats are"
            )
        samples = np.frombuffer(frame.content, "<f4")
        # Beyond a thousand times full scale it is no sound, and squares would overflow.
        if not (np.abs(samples) < 1000).all():  # NaN is not less either
            raise InputError("a block is no sound", "its samples go from -1 to 1")
        self._skipped += frame.skipped
        self._put(frame.number, samples, frame.skipped)

    def _put(self, number: int, samples: np.ndarray, skipped: int = 0) -> None:
        self._place += 1 + skipped
        block = Block(self._turn, number, self._place, samples, time.perf_counter())
        self._inbox.put(block)
        self.meter.dropped = self._inbox.dropped + self._skipped

    async def work(self) -> None:
        """Hear each block."""
        playing = asyncio.create_task(self._play()) if self._source else None
        try:
            while True:
                await self._hear(await self._inbox.get())
        finally:
            if playing is not None:
                playing.cancel()

    async def _hear(self, block: Block) -> None:
        hurried = len(self._inbox) >= BEHIND
        try:
            timed = await self.engine.run(lambda task: self._ear.hear(task, block, hurried))
        except EdgekitError as fault:
            self._fail(block, str(fault))
            return
        except Exception as fault:  # a block that a library chokes on does not end the demo
            log.exception("a block of sound failed")
            self._fail(block, f"{type(fault).__name__}: {fault}")
            return
        heard = timed.answer
        sound = {
            "type": "sound",
            "stream": heard.stream,
            "time": round(heard.time, 4),
            "rms": _rounded(np.sqrt(np.mean(np.square(block.samples)))),
            "peak": _rounded(np.abs(block.samples).max()),
        }
        for viewer in self.viewers:
            viewer.state(sound)  # of those that a viewer is behind, the latest will do
        if heard.moment is not None:
            self._answer(block, timed)

    def _answer(self, block: Block, timed: Timed[Heard]) -> None:
        heard = timed.answer
        wait = 1000 * (time.perf_counter() - block.arrived) - timed.model
        self.meter.take(heard.model, max(wait, 0.0))
        self._pace.take(heard.model + heard.explaining, heard.since)
        spent = {"wait": wait, "model": heard.model, "explaining": heard.explaining}
        self.last = {
            "type": "result",
            "number": block.number,
            "turn": block.turn.number,
            **answer(heard, self.engine.task),
            "ms": {name: round(value, 3) for name, value in spent.items()},
            "factor": self._pace.factor,
            "lost": round(self._ear.lost, 3),
        }
        self.tell(self.last)

    def _fail(self, block: Block, words: str) -> None:
        told = {"type": "error", "words": words, "number": block.number}
        if block.turn.viewer is None:
            self.tell(told)
        else:
            block.turn.viewer.tell(told)

    async def _play(self) -> None:
        loop = asyncio.get_running_loop()
        size, samples = round(BLOCK * self._source.rate), self._source.samples
        number, due = 0, loop.time()
        while True:
            await self.watched.wait()
            due = max(due, loop.time() - BLOCK) + BLOCK
            await asyncio.sleep(due - loop.time())
            self._put(number, np.take(samples, np.arange(size) + number * size, mode="wrap"))
            number += 1


def answer(heard: Heard, task: SpeechEmotion) -> dict[str, Any]:
    """A moment as the page takes it.

    ``quartet`` is (components, bands, columns) of bytes in base64, 128 for a component's mean:
    the columns of the sound ``since`` the answer before; None if it is not explained.
    """
    moment, why = heard.moment, heard.why
    names = [task.labels[index] for index in range(len(moment.smoothed))]
    told: dict[str, Any] = {
        "stream": heard.stream,
        "time": round(heard.time, 4),
        "since": round(heard.since, 4),
        "emotion": moment.emotion,
        "chances": dict(zip(names, map(_rounded, moment.smoothed), strict=True)),
        "quiet": heard.quiet,
        "explains": heard.explains,
        "contributions": None,
        "driver": None,
        "quartet": None,
    }
    if why is None:
        return told
    shares = dict(zip(COMPONENTS, map(_rounded, why.contributions), strict=True))
    frames = why.quartet.shape[-1]
    columns = round(frames * heard.since * task.params.rate / task.window)
    return told | {
        "contributions": shares,
        "driver": max(shares, key=shares.__getitem__),
        "columns": (columns := min(max(columns, 1), frames)),
        "bands": why.quartet.shape[1],
        "quartet": base64.b64encode(shades(why.quartet[..., -columns:])).decode(),
    }


def shades(quartet: np.ndarray) -> bytes:
    """Components as bytes: 1 and 255 are three deviations below and above the mean."""
    return np.rint(np.clip(quartet / SATURATED, -1, 1) * 127 + 128).astype(np.uint8).tobytes()


def _rounded(value: float) -> float:
    return round(float(value), 5)
