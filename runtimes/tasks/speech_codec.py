"""Speech codec: a recording to codes and back, or a file of codes to sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError, UsageError

from .. import sounds, token_files
from ..codec import Codec, Framer
from ..sessions.base import Session
from ..streaming import StreamingSession
from ..token_files import Tokens
from .base import Result, Task
from .params import parse_params

Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=1 << 20)]


class CodecParams(BaseModel):
    """The parameters of the task in a manifest.

    Attributes:
        graph: from sound to codes. decoder: back. input: name of the sound.
        rate: samples a second. frame: samples of one. codebooks: codes of a frame.
        codes: how many a codebook has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: Name
    decoder: Name
    input: Name = "pcm"
    rate: Annotated[int, Field(ge=4000, le=384_000)]
    frame: Count
    codebooks: Count
    codes: Count


@dataclass(frozen=True)
class CodecResult(Result):
    """What became of one recording.

    Attributes:
        tokens: its codes. sound: what they sound like, (samples,) at ``rate``.
    """

    tokens: Tokens
    sound: np.ndarray = field(repr=False)
    rate: int
    bits: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.sound) / self.rate

    def to_json(self) -> dict[str, Any]:
        """``{"seconds", "frames", "codebooks", "bits_per_second"}``."""
        codebooks, frames = self.tokens.codes.shape
        return {
            "seconds": self.seconds,
            "frames": frames,
            "codebooks": codebooks,
            "bits_per_second": self.bits * frames / self.seconds,
        }

    def describe(self) -> str:
        """One line."""
        told = self.to_json()
        return (
            f"{told['seconds']:.2f} s, {told['frames']} frames of {told['codebooks']} codes: "
            f"{told['bits_per_second'] / 1000:.2f} kbit/s"
        )

    def save_sound(self, path: Path, kind: str) -> None:
        """Write the sound; see :func:`edgekit.runtimes.sounds.write_sound`."""
        sounds.write_sound(path, self.sound, self.rate, kind)

    def save_tokens(self, path: Path) -> None:
        """Write the codes."""
        token_files.write_tokens(path, self.tokens)


class SpeechCodec(Task):
    """Two graphs with state: sound frame by frame to codes, and codes to sound."""

    kind: ClassVar[str] = "speech-codec"
    suffixes: ClassVar[tuple[str, ...]] = (*sounds.SUFFIXES, token_files.SUFFIX)

    def __init__(self, bundle: Bundle, session: Session) -> None:
        super().__init__(bundle, session)
        self.params = parse_params(bundle, CodecParams)
        self._codec: Codec | None = None

    @property
    def codec(self) -> Codec:
        """Both directions, opened when they are first asked for."""
        if self._codec is None:
            self._codec = open_codec(self.bundle, self.session, self.params)
        return self._codec

    def decode(self, source: str | Path | np.ndarray) -> np.ndarray:
        """The samples (N,) of a recording, at the codec's rate."""
        return sounds.read_sound(source, self.params.rate)

    def frames(self, source: str | Path | np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        """A recording as inputs of the encoder, frame by frame, without the state."""
        framer = Framer(self.params.frame)
        for part in (framer.feed(self.decode(source)), framer.flush()):
            for frame in part:
                yield {self.params.input: frame.reshape(1, 1, -1).copy()}

    def prepare(self, source: str | Path | np.ndarray) -> dict[str, np.ndarray]:
        """The first frame, as at the beginning of a stream: one call to time."""
        first = next(self.frames(source))
        rest = (spec for spec in self.session.inputs if spec.name not in first)
        return {**first, **{spec.name: np.zeros(spec.shape, spec.dtype) for spec in rest}}

    def finish(self, outputs: Mapping[str, np.ndarray]) -> CodecResult:
        """The answer for a single frame: its codes, decoded."""
        codes = outputs["codes"][0]
        self.codec.reset()
        return self._result(Tokens(codes), self.codec.decode(codes[:, 0]))

    def __call__(self, source: str | Path | np.ndarray) -> CodecResult:
        """A whole recording there and back, or a file of codes to sound.

        Raises:
            InputError: it is neither, or of another codec. ParityError: the sound is not finite.
        """
        self.codec.reset()
        if isinstance(source, str | Path) and Path(source).suffix == token_files.SUFFIX:
            tokens = self.read_tokens(Path(source))
            parts = [self.codec.decode(codes) for codes in tokens.codes.T.astype(np.int32)]
            return self._result(tokens, np.concatenate(parts))
        sound = self.decode(source)
        framer, codes, parts = Framer(self.params.frame), [], []
        for frames in (framer.feed(sound), framer.flush()):
            for frame in frames:
                codes.append(self.codec.encode(frame))
                parts.append(self.codec.decode(codes[-1]))
        tokens = Tokens(np.stack(codes, 1), len(sound), self._weights())
        return self._result(tokens, np.concatenate(parts))

    def read_tokens(self, path: Path) -> Tokens:
        """A file of codes of this very codec; errors as in :func:`..token_files.read_tokens`."""
        params = self.params
        found = token_files.read_tokens(path, params.codebooks, params.codes, self._weights())
        if found.samples and not 0 <= found.codes.shape[1] * params.frame - found.samples < (
            params.frame
        ):
            raise InputError(
                f"{path} cannot be read as codes",
                f"{found.codes.shape[1]} frames do not stand for {found.samples} samples",
            )
        return found

    def _weights(self) -> str | None:
        return self.bundle.manifest.model.weights_sha256

    def _result(self, tokens: Tokens, sound: np.ndarray) -> CodecResult:
        bits = float(self.params.codebooks * np.log2(self.params.codes))
        return CodecResult(tokens, sound[: tokens.samples], self.params.rate, bits)


def open_codec(bundle: Bundle, session: Session, params: CodecParams) -> Codec:
    """The codec of a bundle on a session's runtime; the decoder is closed with the session.

    Raises:
        BundleError: the graphs are no codec of these parameters.
        UsageError: the session is of another graph, or the runtime lacks the decoder.
    """
    if params.input not in {spec.name for spec in session.inputs}:
        raise UsageError(
            "the graph that was chosen takes no sound",
            f"this task begins with {params.graph}",
            "leave --graph out",
        )
    encoder = StreamingSession(session)
    decoder = open_stream(bundle, session, params.decoder)
    wanted = {
        "pcm": (1, 1, params.frame),
        "codes": (1, params.codebooks, 1),
    }
    for stream in (encoder, decoder):
        found = {spec.name: spec.shape for spec in (*stream.inputs, *stream.outputs)}
        if any(found.get(name) != shape for name, shape in wanted.items()):
            raise BundleError(
                f"the task of {bundle.path} does not fit its graphs",
                f"sound is {found.get('pcm')}, codes are {found.get('codes')}",
            )
    return Codec(encoder, decoder, params.codes)


def open_stream(bundle: Bundle, session: Session, graph: str) -> StreamingSession:
    """Another streaming graph of the bundle on the same runtime, closed with ``session``."""
    other = open_beside(bundle, session, graph)
    return StreamingSession(other)


def open_beside(bundle: Bundle, session: Session, graph: str) -> Session:
    """Another graph of the bundle on the same runtime, closed with ``session``."""
    from .. import load

    other = load(bundle, session.runtime, threads=session.threads, graph=graph)
    session.own(other)
    return other
