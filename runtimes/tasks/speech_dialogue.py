"""Speech dialogue: a recording of one speaker in, what the model says to it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, UnsupportedError, UsageError

from .. import sounds
from ..codec import Framer
from ..conversation import Conversation
from ..dialogue import Dialogue, Layout, Sampling
from ..sessions.base import Session
from .base import Result, Task
from .params import parse_params
from .speech_codec import (
    CodecParams,
    Count,
    Name,
    open_beside,
    open_codec,
    open_stream,
)

VOCABULARY = "assets/vocabulary.txt"
DICTATED = 1e6  # noise that towers over all logits: see the depth graph's inputs


class DialogueParams(BaseModel):
    """The parameters of the task in a manifest.

    Attributes:
        graph, input: what the user's sound goes into. temporal, depth: the language model's
            graphs. codec: parameters of the codec, None where the bundle has none.
        width: of what the depth graph is given. The rest: see
            :class:`edgekit.runtimes.dialogue.Layout`.
        text_padding, text_end_padding: text tokens that say nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: Name
    input: Name
    temporal: Name
    depth: Name
    codec: CodecParams | None = None
    generated: Count
    audio_cards: Count
    text_cards: Count
    width: Count
    delays: Annotated[tuple[Annotated[int, Field(ge=0, le=64)], ...], Field(min_length=2)]
    text_padding: int = 3
    text_end_padding: int = 0

    @property
    def layout(self) -> Layout:
        """The streams of a frame."""
        return Layout(self.generated, self.audio_cards, self.text_cards, self.delays)


@dataclass(frozen=True)
class DialogueResult(Result):
    """What was answered.

    Attributes:
        text: what the model says, as it writes it to itself. tokens: of each frame.
        sound: (samples,) at ``rate``, as long as what was heard.
    """

    text: str
    tokens: tuple[int, ...]
    sound: np.ndarray = field(repr=False)
    rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.sound) / self.rate

    def to_json(self) -> dict[str, Any]:
        """``{"text", "tokens", "seconds"}``."""
        return {"text": self.text, "tokens": list(self.tokens), "seconds": self.seconds}

    def describe(self) -> str:
        """The text, and how long the sound is."""
        said = self.text.strip() or "(no text)"
        return f"{said}\n{self.seconds:.2f} s of sound"

    def save_sound(self, path: Path, kind: str) -> None:
        """Write the sound; see :func:`edgekit.runtimes.sounds.write_sound`."""
        sounds.write_sound(path, self.sound, self.rate, kind)


class SpeechDialogue(Task):
    """Four graphs: the codec's two, the language model's two.

    Attributes:
        sampling: how tokens are drawn.
    """

    kind: ClassVar[str] = "speech-dialogue"
    suffixes: ClassVar[tuple[str, ...]] = sounds.SUFFIXES

    def __init__(self, bundle: Bundle, session: Session) -> None:
        super().__init__(bundle, session)
        self.params = parse_params(bundle, DialogueParams)
        self.sampling = Sampling()
        self._conversation: Conversation | None = None

    @classmethod
    def examples(
        cls, params: Mapping[str, Any], names: tuple[str, ...], end: str | None = None
    ) -> tuple[dict[str, np.ndarray], str] | None:
        """For the depth graph: noise that dictates the codes.

        Free codes would differ after the first that another precision draws differently, and
        the logits after it would not be comparable.
        """
        if set(names) != {"hidden", "text_token", "noise", "top_k"}:
            return None
        seed = {None: 0, "min": 1, "max": 2}[end]
        random = np.random.Generator(np.random.PCG64(seed))
        shape = params["generated"], params["audio_cards"]
        noise = np.zeros(shape, np.float32)
        noise[np.arange(shape[0]), random.integers(0, shape[1], shape[0])] = DICTATED
        made = {
            "hidden": random.standard_normal((1, 1, params["width"])).astype(np.float32),
            "text_token": random.integers(0, params["text_cards"], (1, 1)).astype(np.int32),
            "noise": noise,
            "top_k": np.zeros(1, np.int32),
        }
        return {name: made[name] for name in names}, f"dictated codes, seed {seed}"

    def configure(self, sampling: Sampling) -> None:
        """Say how tokens are to be drawn, from the next conversation on."""
        self.sampling = sampling
        self._conversation = None

    @property
    def conversation(self) -> Conversation:
        """All four graphs, opened when they are first asked for.

        Raises:
            UnsupportedError: the bundle has no codec: it takes and gives tokens alone.
            UsageError, BundleError: as :func:`.speech_codec.open_codec`.
        """
        if self._conversation is None:
            self._conversation = self._open()
        return self._conversation

    def _open(self) -> Conversation:
        params = self.params
        if params.codec is None:
            raise UnsupportedError(
                f"{self.bundle.path} takes no sound",
                "it is a language model without a codec",
                "edgekit.runtimes.dialogue.Dialogue talks to it in tokens",
            )
        self._check_codec(params.codec, params.layout)
        codec = open_codec(self.bundle, self.session, params.codec)
        dialogue = open_dialogue(self.bundle, self.session, params, self.sampling)
        silent = (params.text_padding, params.text_end_padding)
        return Conversation(codec, dialogue, read_pieces(self.bundle), silent)

    def _check_codec(self, codec: CodecParams, layout: Layout) -> None:
        if max(layout.generated, layout.heard) > codec.codebooks or codec.codes != (
            layout.audio_cards
        ):
            raise BundleError(
                f"the task of {self.bundle.path} makes no sense",
                f"{layout.generated} streams of {layout.audio_cards} codes do not fit a codec "
                f"of {codec.codebooks} of {codec.codes}",
            )

    def decode(self, source: str | Path | np.ndarray) -> np.ndarray:
        """The samples (N,) of a recording, at the codec's rate."""
        if self.params.codec is None:
            raise UsageError(f"{self.bundle.path} takes no sound", "it has no codec")
        return sounds.read_sound(source, self.params.codec.rate)

    def frames(self, source: str | Path | np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        """A recording as inputs of the encoder, frame by frame, without the state."""
        for frame in self._cut(self.decode(source)):
            yield {self.params.input: frame.reshape(1, 1, -1).copy()}

    def prepare(self, source: str | Path | np.ndarray) -> dict[str, np.ndarray]:
        """The first frame, as at the beginning of a stream: one call to time."""
        first = next(self.frames(source))
        rest = (spec for spec in self.session.inputs if spec.name not in first)
        return {**first, **{spec.name: np.zeros(spec.shape, spec.dtype) for spec in rest}}

    def finish(self, outputs: Mapping[str, np.ndarray]) -> DialogueResult:
        """A single frame has no answer yet."""
        return DialogueResult("", (), np.zeros(0, np.float32), self._rate())

    def __call__(self, source: str | Path | np.ndarray) -> DialogueResult:
        """A whole recording: what the model says while it is played to it."""
        sound, said, parts, tokens = self.decode(source), [], [], []
        for number, frame in enumerate(self._cut(sound)):
            if number == 0:
                self.conversation.begin(frame)
            reply = self.conversation.hear(frame)
            if reply is not None:
                said.append(reply.text)
                tokens.append(reply.token)
                parts.append(reply.sound)
        whole = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        return DialogueResult("".join(said), tuple(tokens), whole[: len(sound)], self._rate())

    def _rate(self) -> int:
        return self.params.codec.rate if self.params.codec else 0

    def _cut(self, sound: np.ndarray) -> Iterator[np.ndarray]:
        framer = Framer(self.params.codec.frame)
        for part in (framer.feed(sound), framer.flush()):
            yield from part


def open_dialogue(
    bundle: Bundle, session: Session, params: DialogueParams, sampling: Sampling
) -> Dialogue:
    """The language model of a bundle on a session's runtime, closed with the session.

    Raises:
        BundleError: the graphs are no language model of these parameters.
    """
    temporal = open_stream(bundle, session, params.temporal)
    depth = open_beside(bundle, session, params.depth)
    layout = params.layout
    found = {spec.name: spec.shape for spec in (*temporal.inputs, *temporal.outputs)}
    below = {spec.name: spec.shape for spec in (*depth.inputs, *depth.outputs)}
    fits = (
        found.get("tokens") == (1, len(layout.delays), 1)
        and found.get("hidden") == below.get("hidden")
        and found.get("text_logits") == (1, 1, layout.text_cards)
        and below.get("audio_logits") == (1, layout.generated, layout.audio_cards)
    )
    if not fits:
        raise BundleError(
            f"the task of {bundle.path} does not fit its graphs",
            f"they are {found} and {below}",
        )
    return Dialogue(temporal, depth, layout, sampling)


def read_pieces(bundle: Bundle) -> Sequence[str] | None:
    """The text of each token, if the bundle has a vocabulary."""
    if all(entry.path != VOCABULARY for entry in bundle.manifest.files):
        return None
    try:
        return bundle.file(VOCABULARY).read_text(encoding="utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise BundleError(f"the vocabulary of {bundle.path} is not UTF-8", str(error)) from error
