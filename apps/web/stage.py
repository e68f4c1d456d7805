"""A demo with one place on its stage: the camera or the microphone of one viewer at a time."""

from __future__ import annotations

import asyncio

from .engine import Engine
from .site import Demo, Viewer


class StageDemo(Demo):
    """Shows what one viewer presents, to all of them.

    Attributes:
        presenter: whose camera or microphone it is; None: the place is free.
        watched: set while anybody looks on, so that what plays on the server can wait.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.presenter: Viewer | None = None
        self.watched = asyncio.Event()

    def arrived(self, viewer: Viewer) -> None:
        """What plays on the server goes on."""
        self.watched.set()

    def left(self, viewer: Viewer) -> None:
        """Whoever presented makes room for another."""
        if viewer is self.presenter:
            self.presenter = None
        if not self.viewers:
            self.watched.clear()

    def give_stage(self, viewer: Viewer) -> None:
        """Give the place to who asks, if it is free, and tell them whether it is theirs."""
        if self.presenter is None:
            self.presenter = viewer
            self.tell_state()
        viewer.tell({"type": "stage", "yours": viewer is self.presenter})
