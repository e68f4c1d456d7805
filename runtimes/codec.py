"""A speech codec frame by frame: sound to codes, codes to sound, each with its own past."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgekit.errors import InputError, ParityError

from .streaming import StreamingSession

Saved = dict[str, dict[str, np.ndarray]]


class Codec:
    """Both directions of one stream.

    Args:
        encoder: from ``pcm`` (1, 1, frame) to ``codes`` (1, codebooks, 1); or None.
        decoder: back; or None.
        count: of codes in a codebook.
    """

    def __init__(
        self, encoder: StreamingSession | None, decoder: StreamingSession | None, count: int
    ) -> None:
        self.encoder, self.decoder, self.count = encoder, decoder, count
        if encoder is not None:
            self._pcm_in = np.zeros(_shape(encoder.inputs, "pcm"), np.float32)
            self._codes_out = {"codes": np.zeros(_shape(encoder.outputs, "codes"), np.int32)}
            # What is not asked for would be a new array in every frame.
            rest = (spec for spec in encoder.outputs if spec.name != "codes")
            self._codes_out |= {spec.name: np.zeros(spec.shape, spec.dtype) for spec in rest}
        if decoder is not None:
            self._codes_in = np.zeros(_shape(decoder.inputs, "codes"), np.int32)
            self._pcm_out = {"pcm": np.zeros(_shape(decoder.outputs, "pcm"), np.float32)}

    @property
    def frame(self) -> int:
        """Samples in a frame."""
        return (self._pcm_in if self.encoder is not None else self._pcm_out["pcm"]).shape[-1]

    @property
    def codebooks(self) -> int:
        """Codes of a frame."""
        found = self._codes_out["codes"] if self.encoder is not None else self._codes_in
        return found.shape[1]

    def encode(self, pcm: np.ndarray) -> np.ndarray:
        """One frame of sound (frame,) to its codes (codebooks,) int32, in a new array."""
        self._pcm_in[0, 0] = pcm
        self.encoder.step({"pcm": self._pcm_in}, self._codes_out)
        return self._codes_out["codes"][0, :, 0].copy()

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """One frame's codes (codebooks,) to sound (frame,) float32, in a new array.

        Raises:
            InputError: there is no such code. ParityError: the sound is not finite.
        """
        if codes.min() < 0 or codes.max() >= self.count:
            raise InputError(
                f"there is no code {int(codes.max())}", f"a codebook has 0 to {self.count - 1}"
            )
        self._codes_in[0, :, 0] = codes
        self.decoder.step({"codes": self._codes_in}, self._pcm_out)
        sound = self._pcm_out["pcm"][0, 0].copy()
        if not np.isfinite(sound).all():
            raise ParityError("the decoded sound is not finite", "the artifact is broken")
        return sound

    def reset(self) -> None:
        """Begin again, both ways."""
        for session in (self.encoder, self.decoder):
            if session is not None:
                session.reset()

    def state(self) -> Saved:
        """A copy of the past, for :meth:`restore`."""
        both = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: one.state() for name, one in both.items() if one is not None}

    def restore(self, saved: Saved) -> None:
        """Go on from there."""
        for name, session in (("encoder", self.encoder), ("decoder", self.decoder)):
            if session is not None:
                session.restore(saved[name])


class Framer:
    """Cuts sound that comes in blocks of any length into frames.

    Args:
        frame: samples in one.
    """

    def __init__(self, frame: int) -> None:
        self._held = np.zeros(frame, np.float32)
        self._count = 0

    @property
    def waiting(self) -> int:
        """Samples that fill no frame yet."""
        return self._count

    def feed(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """The frames that these samples (N,) fill; each holds until the next is taken."""
        while len(samples):
            part = samples[: len(self._held) - self._count]
            self._held[self._count : self._count + len(part)] = part
            self._count += len(part)
            samples = samples[len(part) :]
            if self._count == len(self._held):
                self._count = 0
                yield self._held

    def flush(self) -> Iterator[np.ndarray]:
        """The last frame, filled up with silence, if there is one begun."""
        if self._count:
            self._held[self._count :] = 0
            self._count = 0
            yield self._held

    def reset(self) -> None:
        """Forget what waits."""
        self._count = 0


def _shape(specs, name: str) -> tuple[int, ...]:
    return next(spec.shape for spec in specs if spec.name == name)
