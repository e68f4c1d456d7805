"""``edgekit demo chat``: a conversation with a model that runs on several devices, beside them.

The hub's endpoint and its key stay on this server; the pages talk to it alone. Each viewer has a
conversation of their own, which their page keeps: whatever is lost here or at the hub, it is not.
Requests wait in turn at the hub.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgekit.errors import EdgekitError, InputError

from .chat_devices import Cluster
from .chat_hub import BusyError, HubClient, Piece
from .web.site import Demo, Viewer

LOOK: Final = 1.0  # seconds between two looks at the devices
MOST_TEXT: Final = 20_000  # characters of a message
MOST_TURNS: Final = 200  # messages of a conversation
MOST_TOGETHER: Final = 200_000  # characters of a conversation
MOST_TOKENS: Final = 8192  # of an answer; the hub's context is a bound, too
MOST_ANSWER: Final = 500_000  # characters of an answer, whatever the hub sends
MOST_ASKING: Final = 32  # answers under way; the hub has a queue of its own

log = logging.getLogger("edgekit.demo")


class Turn(BaseModel):
    """A message of the conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: Annotated[str, Field(max_length=MOST_TEXT)]


class Question(BaseModel):
    """What a page asks for: the answer to a conversation that ends with a question.

    Attributes:
        id: the page's number of it. system: what the model is told first; empty for nothing.
        most: tokens of the answer.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["ask"]
    id: Annotated[int, Field(ge=0, lt=2**53, strict=True)]
    turns: Annotated[list[Turn], Field(min_length=1, max_length=MOST_TURNS)]
    system: Annotated[str, Field(max_length=MOST_TEXT)] = ""
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.7
    most: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 512

    @model_validator(mode="after")
    def _fits(self) -> Question:
        if self.turns[-1].role != "user" or not self.turns[-1].content.strip():
            raise ValueError("the last message is no question")
        if sum(len(turn.content) for turn in self.turns) > MOST_TOGETHER:
            raise ValueError(f"the conversation has more than {MOST_TOGETHER} characters")
        return self

    def body(self, model: str) -> dict[str, Any]:
        """As the hub takes it."""
        first = [{"role": "system", "content": self.system}] if self.system.strip() else []
        return {
            "model": model,
            "messages": first + [turn.model_dump() for turn in self.turns],
            "temperature": self.temperature,
            "max_tokens": self.most,
        }


class Answer:
    """One on its way to a viewer.

    Attributes:
        state: ``waiting`` (for its turn, and for the first token), ``coming``, ``done``,
            ``stopped`` or ``failed``. why: of a failure, or the hub's reason of the end.
        tokens: so far. first: ms until the first. text: all of it.
    """

    def __init__(self, number: int) -> None:
        self.number, self.state, self.why, self.text = number, "waiting", "", ""
        self.tokens, self._sent = 0, 0
        self.first: float | None = None
        self._asked = self._last = time.perf_counter()

    def take(self, piece: Piece) -> list[float]:
        """Add what came; ms of each token that was not the first.

        Raises:
            InputError: it is longer than any answer.
        """
        count, self.text = piece.tokens - self.tokens, self.text + piece.text
        if len(self.text) > MOST_ANSWER or piece.tokens > MOST_TOKENS:
            raise InputError("the hub does not end", "no answer is so long")
        if not count:
            return []
        now = time.perf_counter()
        spent, self._last, self.tokens = 1e3 * (now - self._last), now, piece.tokens
        if self.first is None:
            self.first = spent
            return []
        return [spent / count] * count

    def end(self, state: str, why: str = "") -> None:
        """No more comes."""
        self.state, self.why = state, why

    @property
    def rate(self) -> float | None:
        """Tokens a second after the first."""
        if self.first is None or self.tokens < 2:
            return None
        seconds = self._last - self._asked - self.first / 1e3
        return (self.tokens - 1) / seconds if seconds > 0 else None

    def told(self) -> dict[str, Any]:
        """What a page has not been told yet."""
        new, self._sent = self.text[self._sent :], len(self.text)
        about = {"type": "answer", "id": self.number, "text": new, "state": self.state}
        about |= {"why": self.why, "tokens": self.tokens}
        return about | {"first": _rounded(self.first), "rate": _rounded(self.rate)}


class ChatDemo(Demo):
    """A page for a hub.

    Args:
        hub: not entered yet; the demo does so.

    Attributes:
        cluster: as the hub told last.
    """

    page: ClassVar[str] = "chat.html"
    title: ClassVar[str] = "chat"

    def __init__(self, hub: HubClient) -> None:
        super().__init__(None)
        self._hub = hub
        self._watched = asyncio.Event()
        self._asking: dict[Viewer, asyncio.Task[None]] = {}
        self.cluster = Cluster()

    def details(self) -> dict[str, Any]:
        """The model's name, and what a page may ask for."""
        limits = {"text": MOST_TEXT, "turns": MOST_TURNS, "tokens": MOST_TOKENS}
        return {"model": self.cluster.model, "limits": limits, "asking": len(self._asking)}

    def arrived(self, viewer: Viewer) -> None:
        """The devices are looked at while anybody looks on."""
        self._watched.set()
        viewer.state(self._devices())

    def left(self, viewer: Viewer) -> None:
        """Nobody waits for that answer any more: the hub computes none of it any further."""
        if (task := self._asking.get(viewer)) is not None:
            task.cancel()
        if not self.viewers:
            self._watched.clear()

    async def on_message(self, viewer: Viewer, message: dict[str, Any]) -> None:
        """``ask`` and ``stop``."""
        kind = message["type"]
        if kind == "stop":
            if (task := self._asking.get(viewer)) is not None:
                task.cancel()
        elif kind == "ask":
            self._ask(viewer, message)
        else:
            await super().on_message(viewer, message)

    async def work(self) -> None:
        """Look at the devices again and again."""
        async with self._hub:
            try:
                while True:
                    await self._watched.wait()
                    await self._look()
                    await asyncio.sleep(LOOK)
            finally:
                for task in (tasks := list(self._asking.values())):
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, viewer: Viewer, message: dict[str, Any]) -> None:
        number = message.get("id")
        answer = Answer(number if isinstance(number, int) else 0)
        try:
            question = _parse(message)
            if viewer in self._asking:
                raise InputError("one answer is on its way", "stop it first, or wait")
        except InputError as refused:
            if viewer not in self._asking:
                answer.end("failed", refused.what)
                viewer.grown("answer", answer.told)
            raise
        if len(self._asking) >= MOST_ASKING:
            self.meter.dropped += 1
            answer.end("failed", f"{MOST_ASKING} others are asking: try again later")
            viewer.grown("answer", answer.told)
            return
        if not self._asking:
            self.meter.clear()  # figures are of the answers since somebody asked
        task = asyncio.create_task(self._answer(viewer, question, answer))
        self._asking[viewer] = task
        task.add_done_callback(lambda done: self._answered(viewer))

    def _answered(self, viewer: Viewer) -> None:
        del self._asking[viewer]

    async def _answer(self, viewer: Viewer, question: Question, answer: Answer) -> None:
        viewer.grown("answer", answer.told)
        try:
            async with aclosing(self._pieces(question)) as pieces:
                async for piece in pieces:
                    for spent in answer.take(piece):
                        self.meter.take(spent)
                    answer.state = "coming" if answer.tokens else "waiting"
                    if piece.reason is not None:
                        answer.end("done", piece.reason)
                    viewer.grown("answer", answer.told)
        except BusyError as busy:
            self.meter.dropped += 1
            answer.end("failed", str(busy))
        except EdgekitError as fault:
            answer.end("failed", str(fault))
        except asyncio.CancelledError:
            answer.end("stopped")
            raise
        except Exception as fault:  # of ours: it ends this answer, not the demo
            log.exception("an answer failed")
            answer.end("failed", f"a fault in edgekit: {type(fault).__name__}")
        finally:
            viewer.grown("answer", answer.told)

    async def _pieces(self, question: Question) -> AsyncIterator[Piece]:
        if not self.cluster.model:
            await self._look()
        if not self.cluster.model:
            raise InputError("the hub was not reached yet", self.cluster.silent or "")
        async with aclosing(self._hub.answer(question.body(self.cluster.model))) as pieces:
            async for piece in pieces:
                yield piece

    async def _look(self) -> None:
        known = self.cluster.model
        try:
            self.cluster = self.cluster.heard(await self._hub.cluster())
        except EdgekitError as fault:
            self.cluster = self.cluster.unheard(fault.why or fault.what)
        if self.cluster.model != known:
            self.tell_state()
        for viewer in self.viewers:
            viewer.state(self._devices())

    def _devices(self) -> dict[str, Any]:
        return {"type": "cluster"} | self.cluster.to_json()


def _parse(message: dict[str, Any]) -> Question:
    try:
        return Question.model_validate(message)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        words = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where}: {words[:1].lower()}{words[1:]}" if where else words) from None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
