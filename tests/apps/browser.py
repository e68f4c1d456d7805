"""Headless Chromium with a camera and a microphone that files feed, and demos served to it.

The tests of the pages are skipped where Debian's Chromium or Playwright is not installed.
"""

import contextlib
import json
import os
import shutil
import struct
import threading
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Iterable, Iterator
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: Where screenshots for the docs go; elsewhere than into the repository unless asked for.
SHOTS = os.environ.get("EDGEKIT_SCREENSHOTS")
PATIENCE = 30_000  # ms; a cold browser beside another test takes some

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: apt-get install chromium"
)


class Serving:
    """A demo served in a thread, at a free port, as its command would serve it."""

    def __init__(self, demo, largest: int | None = None, **address) -> None:
        from edgekit.apps.web.serve import LARGEST, Address, listen
        from edgekit.apps.web.site import Site

        self.demo = demo
        app = Site(demo).application()
        self._listening = listen(app, Address(**address), largest or LARGEST)
        self.url = self._listening.url
        self._thread = threading.Thread(target=self._listening.run, daemon=True)

    def __enter__(self):
        self._thread.start()
        wait(lambda: self._listening.server.started)
        return self

    def __exit__(self, *exc) -> None:
        self._listening.server.should_exit = True
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()

    def status(self) -> dict:
        return json.loads(fetch(self.url + "status")[2])

    @property
    def socket(self) -> str:
        """The address of the WebSocket."""
        return self.url.replace("http", "ws", 1) + "live"


def fetch(url: str, trusting=None, **headers) -> tuple[int, Message, bytes]:
    """Status, headers and content of an address; ``trusting``: an SSL context."""
    asked = urllib.request.Request(url, headers=headers)  # noqa: S310 -- a test's own server
    try:
        with urllib.request.urlopen(asked, timeout=10, context=trusting) as got:  # noqa: S310
            return got.status, got.headers, got.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def wait(true, seconds: float = 30.0) -> None:
    """Until ``true()``."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def until(page, expression: str, seconds: float = 30.0) -> None:
    """Until a JavaScript expression is true. (Playwright's own waiting evaluates strings, which
    the pages' policy forbids.)"""
    wait(lambda: page.evaluate(expression), seconds)


def claim(client, size: int) -> None:
    """Begin a binary message of ``size`` bytes, and send none of them: a server that refuses a
    message by its size answers to a sender that is not still sending. (Else the rest of the
    message meets a closed socket, and TCP's reset may overtake the reason.)"""
    masked = 0x80
    client.socket.sendall(struct.pack("!BBQ", 0x82, masked | 127, size) + os.urandom(4))


def farewell(client) -> int:
    """The code that the server ends a connection with."""
    from websockets.exceptions import ConnectionClosed

    with pytest.raises(ConnectionClosed) as ended:
        for _ in iter(lambda: client.recv(timeout=10), None):
            pass
    assert ended.value.rcvd is not None, "ended without a reason"
    return ended.value.rcvd.code


@contextlib.contextmanager
def chromium(camera: Path | None = None, microphone: Path | None = None) -> Iterator:
    """A browser context whose camera shows a .y4m or .mjpeg file and whose microphone hears
    a .wav file, both over and over."""
    from playwright.sync_api import sync_playwright

    flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    flags += ["--autoplay-policy=no-user-gesture-required"]
    if camera is None:
        flags += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # WebGL without a GPU
    else:
        # A GPU that is emulated costs 50 ms a frame on the way from the camera; none costs 1.
        flags += ["--disable-gpu"]
        flags.append(f"--use-file-for-fake-video-capture={camera}")
    if microphone is not None:
        flags.append(f"--use-file-for-fake-audio-capture={microphone}")
    with sync_playwright() as playwright:
        # As root, as in a container, Chromium runs without its sandbox alone.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=flags, chromium_sandbox=os.getuid() != 0
        )
        context = browser.new_context(viewport={"width": 1120, "height": 760})
        context.set_default_timeout(PATIENCE)
        try:
            yield context
        finally:
            browser.close()


def opened(context, url: str):
    """A page whose errors fail the test when it is closed by :func:`no_errors`."""
    page = context.new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on(
        "console",
        lambda said: page.faults.append(said.text) if said.type == "error" else None,
    )
    page.goto(url)
    return page


def screenshot(page, name: str, folder: Path) -> Path:
    """A picture of the page; into the docs where ``EDGEKIT_SCREENSHOTS`` names their folder."""
    path = Path(SHOTS or folder) / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as image:
        colours = image.convert("RGB").quantize(192, dither=Image.Dither.NONE)
    colours.save(path, optimize=True)  # a third of the bytes
    return path


def agrees(page, serving: Serving) -> dict:
    """What the page shows is what the server says of the same reading; returns the figures."""
    for _ in range(40):
        told = serving.status()["figures"]
        shown = page.evaluate(
            """() => ({
                reading: JSON.parse(document.getElementById("figures").dataset.reading || "{}"),
                p50: document.getElementById("p50").textContent,
                p99: document.getElementById("p99").textContent,
                fps: document.getElementById("fps").textContent,
                dropped: document.getElementById("dropped").textContent,
            })"""
        )
        if shown["reading"].get("number") == told["number"] and told["p50"] is not None:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the page shows no reading of the server")
    assert abs(float(shown["p50"].removesuffix(" ms")) - told["p50"]) <= 0.051
    assert abs(float(shown["p99"].removesuffix(" ms")) - told["p99"]) <= 0.051
    assert abs(float(shown["fps"]) - told["fps"]) <= 0.051
    assert int(shown["dropped"]) == told["dropped"]
    assert shown["reading"] == {"type": "figures", **told}
    return told


def write_y4m(path: Path, frames: Iterable[Image.Image], rate: int = 30) -> Path:
    """Uncompressed video, 4:2:0, for a camera; sides must be even."""
    with path.open("wb") as file:
        for number, frame in enumerate(frames):
            if number == 0:
                size = f"W{frame.width} H{frame.height}"
                file.write(f"YUV4MPEG2 {size} F{rate}:1 Ip A1:1 C420jpeg\n".encode())
            planes = np.asarray(frame.convert("YCbCr"))
            file.write(b"FRAME\n" + planes[..., 0].tobytes())
            for channel in (1, 2):
                plane = planes[..., channel].astype(np.uint16)
                quarter = plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]
                file.write((quarter // 4).astype(np.uint8).tobytes())
    return path


def write_wav(path: Path, samples: np.ndarray, rate: int) -> Path:
    """Sound in 16 bits, for a microphone; ``samples`` (N,) from -1 to 1."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path
