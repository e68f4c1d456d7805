"""Ogg/Opus as a stream, both ways, by PyAV: sound comes in and goes out while it is spoken."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from edgekit.errors import InputError, MissingBackendError

RATE: Final = 24_000
_PAGE: Final = "20000"  # microseconds of sound in an Ogg page
_BEGINNING: Final = b"OggS"
_INSTALL: Final = 'pip install "edgekit-toolkit[talk]"'
#: Bytes that may wait for the decoder: some seconds of speech. More is no live sound.
MOST_WAITING: Final = 1 << 16


def require_av() -> Any:
    """PyAV.

    Raises:
        MissingBackendError: it is not installed, or without libopus.
    """
    try:
        import av
    except ImportError as error:
        raise MissingBackendError("PyAV is not here", str(error), _INSTALL) from error
    if "libopus" not in av.codecs_available:
        raise MissingBackendError("this PyAV has no libopus", "it was built without", _INSTALL)
    return av


class OpusEncoder:
    """Sound to one continuous Ogg/Opus stream.

    Args:
        rate: samples a second; 24 kHz, as the official clients want it.
    """

    def __init__(self, rate: int = RATE) -> None:
        av = require_av()
        self._av, self._rate, self._time = av, rate, 0
        self._sink = _Sink()
        options = {"flush_packets": "1", "page_duration": _PAGE}
        self._container = av.open(self._sink, "w", format="ogg", options=options)
        self._stream = self._container.add_stream("libopus", rate=rate, layout="mono")
        self._stream.options = {"application": "audio", "frame_duration": "20"}

    def encode(self, samples: np.ndarray) -> bytes:
        """The next bytes of the stream, for samples (N,) float32; headers come with the first."""
        frame = self._av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples, np.float32)[None], format="flt", layout="mono"
        )
        frame.sample_rate, frame.pts = self._rate, self._time
        self._time += len(samples)
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        return self._sink.take()

    def finish(self) -> bytes:
        """The stream's end."""
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()
        return self._sink.take()


class _Sink:
    """What the muxer writes to."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: bytes) -> int:
        self._held += data
        return len(data)

    def take(self) -> bytes:
        found = bytes(self._held)
        self._held.clear()
        return found


class OpusDecoder:
    """An Ogg/Opus stream, cut anywhere, to sound.

    The demuxer pulls, so it has a thread of its own, which waits for bytes.

    Args:
        found: called in that thread with samples (N,) float32, mono at ``rate``.
        failed: called there once with words, when what came is no Ogg/Opus.
    """

    def __init__(
        self,
        found: Callable[[np.ndarray], None],
        failed: Callable[[str], None],
        rate: int = RATE,
    ) -> None:
        self._av, self._rate = require_av(), rate
        self._found, self._failed = found, failed
        self._source, self._begun = _Source(), False
        self._thread = threading.Thread(target=self._run, name="opus-decoder", daemon=True)
        self._thread.start()

    def feed(self, data: bytes) -> None:
        """The next bytes.

        Raises:
            InputError: the stream does not begin as one does, and the demuxer would look for a
                beginning for ever; or so much waits to be decoded that this is no live sound.
        """
        if not self._begun:
            if not data.startswith(_BEGINNING):
                raise InputError("this is no Ogg/Opus", "a stream begins with a page of its own")
            self._begun = True
        self._source.put(data)

    def close(self) -> None:
        """Stop; what has not been decoded is forgotten."""
        self._source.end()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        # It would listen for seconds to find out what it has. (Not "nobuffer", which loses
        # the first packet.)
        options = {"probesize": "32", "analyzeduration": "0"}
        try:
            with self._av.open(
                self._source, "r", format="ogg", options=options, buffer_size=1024
            ) as container:
                self._decode(container)
        except (self._av.FFmpegError, ValueError, IndexError, OSError) as error:
            if not self._source.ended:
                self._failed(f"this is no Ogg/Opus: {error}")
        finally:
            self._source.end()

    def _decode(self, container: Any) -> None:
        if not container.streams.audio or container.streams.audio[0].codec.name not in (
            "opus",
            "libopus",
        ):
            raise ValueError("the stream holds something else")
        convert = self._av.AudioResampler(format="flt", layout="mono", rate=self._rate)
        for frame in container.decode(container.streams.audio[0]):
            for part in convert.resample(frame):
                self._found(part.to_ndarray()[0])


class _Source:
    """What the demuxer reads from: it waits until there is something."""

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self.ended = False

    def put(self, data: bytes) -> None:
        with self._changed:
            if self._waiting + len(data) > MOST_WAITING:
                raise InputError(
                    "too much sound at once", f"more than {MOST_WAITING} bytes wait to be decoded"
                )
            self._parts.append(data)
            self._waiting += len(data)
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify()

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._parts or self.ended)
            if self.ended:
                return b""
            part = self._parts.popleft()
            if len(part) > size:
                self._parts.appendleft(part[size:])
                part = part[:size]
            self._waiting -= len(part)
            return part
