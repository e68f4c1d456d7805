"""``edgekit demo lidar``: what a network finds in lidar sweeps, as a moving 3D view.

Sweeps are played over and over while anybody looks on. Those to come are read and packed
meanwhile in another thread; the model answers each one that is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from edgekit.errors import EdgekitError, InputError

from ..runtimes.tasks.lidar_detection import LidarDetection, LidarResult
from .sweeps import Sweeps, pack
from .web.engine import Engine
from .web.frames import Frame, Kind
from .web.site import Demo, Viewer

KINDS: Final = (LidarDetection.kind,)
RATE: Final = 10.0  # sweeps a second: what most sensors turn
MOST_FAULTS: Final = 100  # files that were passed over are named; the oldest are forgotten
_DEJECTED: Final = 1.0  # seconds until the next try where no sweep can be read at all

log = logging.getLogger("edgekit.demo")


@dataclass(frozen=True)
class Scene:
    """A sweep that is to be shown: its index, its points, and the same packed for pages."""

    index: int
    points: np.ndarray
    packed: bytes


class LidarDemo(Demo):
    """Boxes around what a sweep shows. All viewers see the same sweep.

    Args:
        engine: of a lidar detection. sweeps: what to play.
        rate: sweeps a second at most; slower if the model is.
        least: score from which on the page shows a box at first; None: the bundle's.

    Attributes:
        paused: whether a viewer stopped it; a step shows one sweep more.
        faults: why a sweep was passed over, by name.
    """

    page: ClassVar[str] = "lidar.html"
    title: ClassVar[str] = "lidar"
    largest: ClassVar[int] = 1 << 14  # a viewer has little to say

    def __init__(
        self, engine: Engine, sweeps: Sweeps, rate: float = RATE, least: float | None = None
    ) -> None:
        super().__init__(engine)
        self._sweeps, self._rate, self._least = sweeps, rate, least
        self._ahead: asyncio.Queue[Scene] = asyncio.Queue(1)
        self._woken = asyncio.Event()
        self._next = 0.0  # when the next sweep is due, by the loop's clock
        self._step = self._again = False
        self._number = 0
        self._scene: Scene | None = None
        self._last: tuple[dict[str, Any], bytes] | None = None
        self.paused = False
        self.faults: dict[str, str] = {}

    def details(self) -> dict[str, Any]:
        """What is played, whether it is paused, and the range, classes and scores of the task."""
        params = self.engine.task.params
        lowest = params.score_threshold
        return {
            "source": self._sweeps.source,
            "sweeps": len(self._sweeps),
            "rate": self._rate,
            "paused": self.paused,
            "reach": list(params.layout.point_range),
            "lowest": lowest,
            "threshold": max(lowest, params.show_threshold if self._least is None else self._least),
            "faults": [{"name": name, "words": words} for name, words in self.faults.items()],
        }

    def summary(self) -> dict[str, Any]:
        """Which sweeps were passed over, and why."""
        return {"source": self._sweeps.source, "passed_over": self.faults}

    def arrived(self, viewer: Viewer) -> None:
        """Who comes while nothing moves sees what the others see."""
        if self._last is not None:
            for message in self._last:
                viewer.tell(message)
        self._woken.set()

    def changed(self) -> None:
        """What is paused is answered by the new choice too."""
        self._again = self.paused and self._scene is not None
        self._woken.set()

    async def on_message(self, viewer: Viewer, message: dict[str, Any]) -> None:
        """``pause`` (``paused``: stop, or go on), ``step``: one sweep more and stop, ``clock``:
        what this server's clock says."""
        kind = message["type"]
        if kind == "clock":
            viewer.tell({"type": "clock", "asked": _finite(message.get("asked")), "now": _clock()})
        elif kind == "pause":
            if not isinstance(message.get("paused"), bool):
                raise InputError("paused is true or false")
            self._pause(message["paused"])
        elif kind == "step":
            self._step = True
            self._pause(True)
        else:
            await super().on_message(viewer, message)

    async def work(self) -> None:
        """Show one sweep after the other, each when it is due."""
        reading = asyncio.create_task(self._read_ahead())
        try:
            while True:
                await self._until_due()
                due = _clock()
                if not self._again:
                    self._scene = await self._ahead.get()
                self._again = False
                await self._look(self._scene, due)
        finally:
            reading.cancel()

    def _pause(self, paused: bool) -> None:
        self.paused = paused
        self._woken.set()
        self.tell_state()

    async def _until_due(self) -> None:
        now = asyncio.get_running_loop().time
        self._next = max(self._next + 1 / self._rate, now())
        while not (self._step or self._again):
            going = bool(self.viewers) and not self.paused
            left = self._next - now()
            if going and left <= 0:
                break
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), left if going else None)
        self._step = False

    async def _read_ahead(self) -> None:
        index, failed = 0, 0
        while True:
            try:
                scene = await asyncio.to_thread(self._read, index)
            except EdgekitError as fault:
                self._pass_over(index, str(fault))
            except Exception as fault:  # a file that a library chokes on does not end the demo
                log.exception("a sweep cannot be read")
                self._pass_over(index, f"{type(fault).__name__}: {fault}")
            else:
                failed = -1
                await self._ahead.put(scene)
            failed += 1
            if failed == len(self._sweeps):
                await asyncio.sleep(_DEJECTED)
                failed = 0
            index = (index + 1) % len(self._sweeps)

    def _read(self, index: int) -> Scene:
        points = self._sweeps.read(index)
        return Scene(index, points, pack(points, self._reach))

    @property
    def _reach(self) -> float:
        return max(map(abs, self.engine.task.params.layout.point_range))

    async def _look(self, scene: Scene, due: float) -> None:
        self._number += 1
        try:
            timed = await self.engine.run(lambda task: task(scene.points))
        except EdgekitError as fault:
            self._pass_over(scene.index, str(fault))
            return
        except Exception as fault:  # one sweep that a library chokes on does not end the demo
            log.exception("a sweep failed")
            self._pass_over(scene.index, f"{type(fault).__name__}: {fault}")
            return
        self.meter.take(timed.model, timed.wait)
        name = self._sweeps.names[scene.index]
        if self.faults.pop(name, None) is not None:
            self.tell_state()  # it has been mended
        result = {
            "type": "result",
            "number": self._number,
            "index": scene.index,
            "name": name,
            "due": round(due, 3),
            "ms": {"wait": round(timed.wait, 3), "model": round(timed.model, 3)},
            **answer(timed.answer),
        }
        self._last = result, Frame(Kind.POINTS, self._number, scene.packed).pack()
        # What is small first, and both at once: a viewer whose connection is slow misses whole
        # sweeps then, where points that were sent ahead would find their boxes gone.
        for message in self._last:
            self.tell(message)

    def _pass_over(self, index: int, words: str) -> None:
        name = self._sweeps.names[index]
        if self.faults.get(name) == words:
            return  # it was told the last time round
        self.faults[name] = words
        if len(self.faults) > MOST_FAULTS:
            del self.faults[next(iter(self.faults))]
        log.warning("%s is passed over: %s", name, words)
        self.tell_state()


def answer(result: LidarResult) -> dict[str, Any]:
    """What the task answers as JSON, boxes and velocities in whole millimetres."""
    document = result.to_json()
    for found in document["detections"]:
        for name in {"box", "velocity"} & found.keys():
            found[name] = [round(value, 3) for value in found[name]]
    return document


def _clock() -> float:
    """Milliseconds of a clock that only goes ahead."""
    return 1000 * time.perf_counter()


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise InputError("a time is a number of milliseconds")
    return float(value)
