"""``edgekit demo talk`` in Chromium: a fake microphone talks to a small Moshi, and hears it."""

import json

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("av")
pytest.importorskip("playwright")

from edgekit.apps import talk

from ..moshi_micro import PIECES, dialogue_bundle, tone  # noqa: F401 -- fixtures
from .browser import (
    Serving,
    agrees,
    chromium,
    fetch,
    needs_chromium,
    opened,
    screenshot,
    wait,
    write_wav,
)

pytestmark = needs_chromium
RATE = 24_000


class Listening(talk.Talk):
    """Remembers what it heard of the last client."""

    frames: list[np.ndarray] = []  # noqa: RUF012 -- of one test at a time

    def _answer(self, frame, begins, task):
        if begins:
            self.frames.clear()
        self.frames.append(frame.copy())
        return super()._answer(frame, begins, task)


@pytest.fixture(scope="module")
def serving(dialogue_bundle):  # noqa: F811
    with (
        pytest.MonkeyPatch.context() as patch,
        talk.opened([dialogue_bundle], threads=1) as demo,
        Serving(demo, demo.largest) as found,
    ):
        patch.setattr(talk, "Talk", Listening)
        yield found


@pytest.fixture
def speech(tmp_path, shared_data):
    """A recording of speech, for a microphone."""
    soundfile = pytest.importorskip("soundfile")
    path = shared_data / "data/speech/hibiki_intro.flac"
    if not path.is_file():
        pytest.skip("no recorded speech in the shared data")
    samples, rate = soundfile.read(path)
    return write_wav(tmp_path / "speech.wav", samples, rate)


def number(page, name: str) -> float:
    """A figure of the page, without its unit."""
    text = page.inner_text(f"#{name}").split(" ")[0]
    return float(text) if text[0].isdigit() else 0.0


def loudest(page, canvas: str) -> float:
    """How high a strip of levels reaches, as a share of its height."""
    return page.evaluate(
        """(id) => {
            const { width, height } = document.getElementById(id);
            const context = document.getElementById(id).getContext("2d");
            const { data } = context.getImageData(0, 0, width, height);
            for (let place = 0; place < data.length; place += 4) {
                const [red, green, blue, there] = data.subarray(place, place + 4);
                // The levels' own blue: the marks are grey.
                if (!there || blue <= 200 || red >= 120) continue;
                return 1 - Math.floor(place / 4 / width) / height;
            }
            return 0;
        }""",
        canvas,
    )


def test_a_conversation_is_heard_read_and_seen(serving, speech, tmp_path):
    with chromium(microphone=speech) as browser:
        page = opened(browser, serving.url)
        page.wait_for_selector("#start:enabled")
        assert page.inner_text("#status") == "Free: nobody is talking"
        page.focus("#start")
        page.keyboard.press("Enter")
        wait(lambda: page.inner_text("#status") == "You are talking")
        wait(lambda: number(page, "sent") > 30)
        # What it says: words of the vocabulary, in the order that the server drew them.
        said = page.locator("#transcript p").first.inner_text().partition(" s")[2]
        for piece in PIECES:
            said = said.replace(piece.replace("▁", ""), "")
        assert said.strip() == ""
        assert len(page.inner_text("#transcript")) > 40
        # Both voices are there; what came back was decoded and is played.
        assert loudest(page, "mine") > 0.2
        assert loudest(page, "its") > 0.2
        figures = agrees(page, serving)
        assert 0 < figures["p50"] <= figures["p99"]
        assert 0 < number(page, "end") <= 480  # ms that wait to be played: bounded
        assert 0 < number(page, "factor") < 5
        assert page.is_disabled("#runtime")
        assert serving.status()["busy"] is True
        screenshot(page, "demo-talk", tmp_path)

        before = len(page.inner_text("#transcript"))
        page.click("#restart")
        wait(lambda: 0 < len(page.inner_text("#transcript")) < before)
        page.click("#stop")
        wait(lambda: page.inner_text("#status") == "Free: nobody is talking")
        assert page.is_enabled("#start")
        assert page.is_hidden("#why")
        told = serving.demo.sessions[-1]
        assert told.faults == []
        assert told.unknown == 0
        assert page.faults == []


def test_the_server_hears_the_tone_and_a_second_page_is_told_that_it_is_busy(serving, tmp_path):
    phase = 2 * np.pi * 500 * np.arange(48_000) / 48_000
    wav = write_wav(tmp_path / "tone.wav", 0.3 * np.sin(phase), 48_000)
    with chromium(microphone=wav) as browser:
        # The browser's noise filter takes a tone for noise: it is turned off, and only it.
        browser.add_init_script(
            """const ask = MediaDevices.prototype.getUserMedia;
            MediaDevices.prototype.getUserMedia = function ({ audio }) {
                const off = { noiseSuppression: false, autoGainControl: false };
                return ask.call(this, { audio: { ...audio, ...off, echoCancellation: false } });
            };"""
        )
        page = opened(browser, serving.url)
        page.click("#start")
        wait(lambda: page.inner_text("#status") == "You are talking")
        wait(lambda: len(Listening.frames) > 12)
        heard = np.concatenate(Listening.frames[4:12])
        spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
        assert np.argmax(spectrum) * RATE / len(heard) == pytest.approx(500, abs=5)
        assert np.sqrt(np.mean(heard**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.3)

        other = opened(browser, serving.url)
        wait(lambda: other.inner_text("#status") == "Somebody else is talking")
        other.click("#start")
        other.wait_for_selector("#why:visible")
        assert "busy: somebody else is talking" in other.inner_text("#why")
        assert other.is_enabled("#start")
        page.close()  # without a word: the place is free for the other
        wait(lambda: other.inner_text("#status") == "Free: nobody is talking")
        other.click("#start")
        wait(lambda: number(other, "heard") > 2)
        assert other.is_hidden("#why")
        assert other.faults == []
        other.close()
    wait(lambda: not serving.demo.busy)


def test_what_keeps_one_from_talking_is_said(serving):
    with chromium() as browser:
        browser.add_init_script(
            """MediaDevices.prototype.getUserMedia = async () => {
                if (location.hash === "#deaf") throw new DOMException("Permission denied");
                return new AudioContext().createMediaStreamDestination().stream;
            };"""
        )
        page = opened(browser, serving.url + "#deaf")
        page.click("#start")
        page.wait_for_selector("#why:visible")
        assert page.inner_text("#why") == "no microphone: Permission denied"
        assert page.is_enabled("#start")
        assert serving.status()["busy"] is False
        # The address says how tokens are drawn, and the server does not take it.
        page = opened(browser, serving.url + "?text_temperature=hot")
        page.click("#start")
        page.wait_for_selector("#why:visible")
        assert "text_temperature" in page.inner_text("#why")
        without = browser.new_page()
        address = "/".join(serving.url.split("/")[:3])
        assert without.goto(address + "/").status == 403
        assert "no token" in without.inner_text("body")
    assert fetch(address + "/api/status")[0] == 403
    assert json.loads(fetch(serving.url + "api/status")[2])["busy"] is False
