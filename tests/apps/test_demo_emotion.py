"""``edgekit demo emotion``: a fake microphone in Chromium, and clients without one."""

import base64
import json
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("soxr")

from websockets.sync.client import connect

from edgekit.apps import emotion
from edgekit.apps.emotion import EmotionDemo, Sound
from edgekit.apps.web.engine import Engine
from edgekit.apps.web.frames import Frame, Kind
from edgekit.bundle import Bundle
from edgekit.cli import main
from edgekit.errors import UsageError
from edgekit.runtimes import load, tasks
from edgekit.runtimes.emotion_stream import EmotionStream

from ..emotion_micro import RATE, emotion_bundle, voice  # noqa: F401 -- a fixture
from .browser import (
    Serving,
    agrees,
    chromium,
    claim,
    farewell,
    needs_chromium,
    opened,
    screenshot,
    wait,
    write_wav,
)

PARTS = ("M", "rho", "f_inst", "tau_g")
SIZE = RATE // 20  # samples in a block


@pytest.fixture(scope="module")
def bundle(emotion_bundle) -> Path:  # noqa: F811
    """The small network, which hears half a second, on two runtimes."""
    return emotion_bundle


class Listening(EmotionDemo):
    """Remembers what viewers sent."""

    def __init__(self, engine, source=None):
        super().__init__(engine, source)
        self.blocks: list[tuple[int, np.ndarray]] = []

    def _put(self, number, samples, skipped=0):
        self.blocks.append((self._turn.rate, samples))
        super()._put(number, samples, skipped)

    def heard(self, seconds: float) -> tuple[int, np.ndarray]:
        """The rate and the last seconds of the sound of the turn."""
        rate = self._turn.rate
        wait(lambda: sum(len(part) for own, part in self.blocks if own == rate) > seconds * rate)
        whole = np.concatenate([part for own, part in self.blocks if own == rate])
        return rate, whole[-round(seconds * rate) :]


@contextmanager
def listening(bundle, source=None):
    engine = Engine([bundle], emotion.KINDS, "onnxruntime", threads=1)
    with engine, Serving(Listening(engine, source)) as serving:
        yield serving


def said(client, kind: str) -> dict:
    """The next message of a type."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        told = json.loads(client.recv(timeout=10))
        if told["type"] == kind:
            return told
    raise AssertionError(f"no {kind} was told")


def presenting(client, rate=RATE) -> None:
    client.send(json.dumps({"type": "present", "rate": rate}))
    assert said(client, "stage")["yours"] is True


def block(number: int, samples: np.ndarray, skipped: int = 0) -> bytes:
    return Frame(Kind.SOUND, number, samples.astype("<f4").tobytes(), skipped).pack()


def answers(bundle, sound: np.ndarray, rate: int = RATE) -> dict[float, tuple[str, tuple]]:
    """What the stream itself says, by time."""
    with Bundle.open(bundle) as found, load(found, "onnxruntime", threads=1) as session:
        stream = EmotionStream(tasks.for_bundle(found, session), rate=rate, hop=emotion.HOP)
        return {round(one.time, 4): (one.emotion, one.smoothed) for one in stream.feed(sound)}


@pytest.fixture
def speech(shared_data) -> tuple[np.ndarray, int]:
    """Two recordings of EmoDB, 16 kHz."""
    soundfile = pytest.importorskip("soundfile")
    parts = [soundfile.read(path) for path in sorted((shared_data / "data/emodb").glob("*a.flac"))]
    if len(parts) < 2:
        pytest.skip("no recordings of EmoDB in the shared data")
    return np.concatenate([samples for samples, _ in parts[:2]]), parts[0][1]


@needs_chromium
def test_what_a_microphone_hears_is_seen(bundle, speech, tmp_path):
    pytest.importorskip("playwright")
    wav = write_wav(tmp_path / "speech.wav", *speech)
    with listening(bundle) as serving, chromium(microphone=wav) as browser:
        page = opened(browser, serving.url)
        page.wait_for_selector("#listen:visible")
        assert page.inner_text("#emotion") == "Press the button and speak."
        page.focus("#listen")
        page.keyboard.press("Enter")
        with connect(serving.socket) as onlooker:
            told = [said(onlooker, "result") for _ in range(12)]
            shown = page_answer(page)
            while told[-1]["time"] < shown["time"]:
                told.append(said(onlooker, "result"))
        # The page shows what the others are told, too.
        same = next(one for one in told if abs(one["time"] - shown["time"]) < 1e-6)
        assert shown["emotion"] == same["emotion"]
        assert shown["bars"] == {k: f"{100 * v:.1f} %" for k, v in same["chances"].items()}
        assert seen_parts(page) == set(PARTS)
        assert painted(page, "level") > 0.05
        before = shown_time(page)
        wait(lambda: shown_time(page) > before + 0.5)
        figures = agrees(page, serving)
        end = float(page.inner_text("#end").removesuffix(" ms"))
        assert 0 < figures["p50"] < end < 5000
        status = serving.status()
        shown = float(page.inner_text("#factor"))
        assert shown == pytest.approx(status["factor"], rel=0.5)
        assert 0 < shown < 1
        wait(lambda: shown_time(page) > 6)
        screenshot(page, "demo-emotion", tmp_path)
        other_runtime(page, serving)
        page.click("#stop")
        page.wait_for_selector("#listen:visible")
        assert serving.status()["taken"] is False
        assert page.faults == []


def page_answer(page) -> dict:
    """Time, emotion and bars that the page shows, of one moment."""
    return page.evaluate(
        """() => ({
            time: Number(document.getElementById("emotion").dataset.time),
            emotion: document.getElementById("emotion").textContent,
            bars: Object.fromEntries([...document.querySelectorAll("#bars .bar span")].map(
                (bar) => [bar.firstChild.textContent, bar.lastChild.data])),
        })"""
    )


def shown_time(page) -> float:
    """Seconds of sound at the right edge of the strips."""
    return float(page.evaluate("document.body.dataset.time"))


def painted(page, canvas: str) -> float:
    """The share of a canvas that has been drawn on."""
    return page.evaluate(
        """(id) => {
            const canvas = document.getElementById(id);
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            let drawn = 0;
            for (let index = 3; index < data.length; index += 4) drawn += data[index] > 0;
            return drawn / (width * height);
        }""",
        canvas,
    )


def seen_parts(page) -> set[str]:
    """The components that are drawn: in many shades, over some of the time."""
    shades = """(id) => {
        const canvas = document.getElementById(id);
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const found = new Set();
        for (let index = 0; index < data.length; index += 4) {
            const [red, green, blue, there] = data.subarray(index, index + 4);
            if (there) found.add(red * 65536 + green * 256 + blue);
        }
        return found.size;
    }"""
    return {
        part for part in PARTS if painted(page, part) > 0.1 and page.evaluate(shades, part) > 20
    }


def other_runtime(page, serving) -> None:
    """A switch begins a new stream, and the page goes on with it."""
    before = serving.demo.last["stream"]
    other = 1 - serving.status()["chosen"]
    page.select_option("#runtime", index=other)
    wait(lambda: serving.demo.last["stream"] > before)
    assert serving.status()["chosen"] == other
    assert serving.demo.last["time"] < 5
    wait(lambda: 0 < page_answer(page)["time"] < 5)
    names = list(serving.demo.last["chances"])
    assert page.inner_text("#emotion") in names


@needs_chromium
def test_the_server_hears_what_the_microphone_hears_at_any_rate(bundle, tmp_path):
    pytest.importorskip("playwright")
    phase = 2 * np.pi * 1000 * np.arange(48_000) / 48_000  # whole periods: it can begin anew
    wav = write_wav(tmp_path / "tone.wav", 0.25 * np.sin(phase), 48_000)
    with listening(bundle) as serving, chromium(microphone=wav) as browser:
        # A browser that does not convert has a rate of its own, whatever is asked for.
        browser.add_init_script(
            """const own = Number(new URLSearchParams(location.search).get("own"));
            if (own) window.AudioContext = class extends AudioContext {
                constructor() { super({ sampleRate: own }); }
            };"""
        )
        for query, expected in (("", RATE), ("?own=44100", 44_100)):
            page = opened(browser, serving.url + query)
            page.click("#listen")
            wait(lambda: serving.status()["taken"])
            rate, sound = serving.demo.heard(1.0)
            assert rate == expected
            spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
            assert np.argmax(spectrum) * rate / len(sound) == pytest.approx(1000, abs=3)
            # And it is a tone: nothing repeated, nothing missing.
            near = spectrum[round(990 * len(sound) / rate) : round(1010 * len(sound) / rate)]
            assert np.square(near).sum() > 0.9 * np.square(spectrum).sum()
            assert np.sqrt(np.mean(np.square(sound))) == pytest.approx(0.25 / np.sqrt(2), rel=0.2)
            wait(lambda: serving.demo.last.get("turn") == serving.demo._turn.number)
            assert page.faults == []
            page.close()
            wait(lambda: not serving.status()["taken"])


def test_a_recording_gets_the_answers_of_the_stream(bundle):
    sound = voice(1.3)
    expected = answers(bundle, np.tile(sound, 4))
    with listening(bundle, Sound("voice.wav", sound, RATE)) as serving:
        assert serving.status()["source"] == "voice.wav"
        assert serving.status()["taken"] is False
        with connect(serving.socket) as client:
            client.send(json.dumps({"type": "present", "rate": RATE}))
            assert "is played" in said(client, "error")["words"]
            found = [said(client, "result") for _ in range(7)]  # it begins anew in between
        for one in found:
            name, chances = expected[one["time"]]
            assert one["emotion"] == name
            assert list(one["chances"].values()) == pytest.approx(chances, abs=1e-4)
        assert [round(one["time"] % 0.25, 6) for one in found] == [0] * 7
        wait(lambda: serving.status()["viewers"] == 0)
        paused = len(serving.demo.blocks)
        serving._thread.join(0.3)
        assert len(serving.demo.blocks) <= paused + 1  # nobody looks on


def test_a_microphone_of_another_rate_gets_the_answers_of_the_stream(bundle):
    sound = voice(1.5, rate=44_100)
    expected = answers(bundle, sound, 44_100)
    with listening(bundle) as serving, connect(serving.socket) as client:
        presenting(client, 44_100)
        for number in range(18):  # less than may wait
            client.send(block(number, sound[number * 2205 : (number + 1) * 2205]))
        for when, (name, chances) in list(expected.items())[:2]:
            told = said(client, "result")
            assert (told["time"], told["emotion"]) == (when, name)
            assert list(told["chances"].values()) == pytest.approx(chances, abs=1e-3)


def test_the_components_are_those_of_the_explanation(bundle):
    sound = voice(0.5)
    with Bundle.open(bundle) as found, load(found, "onnxruntime", threads=1) as session:
        task = tasks.for_bundle(found, session)
        moment = EmotionStream(task).feed(sound)[0]
        why = task.explain(sound, int(np.argmax(moment.smoothed)))
    with listening(bundle) as serving, connect(serving.socket) as client:
        presenting(client)
        for number in range(10):
            client.send(block(number, sound[number * SIZE : (number + 1) * SIZE]))
        told = said(client, "result")
    shape = len(PARTS), told["bands"], told["columns"]
    assert shape == why.quartet.shape  # the first answer shows its whole window
    shades = np.frombuffer(base64.b64decode(told["quartet"]), np.uint8).reshape(shape)
    back = (shades.astype(np.float32) - 128) / 127 * emotion.SATURATED
    assert np.abs(back - np.clip(why.quartet, -3, 3)).max() < 3 / 127
    assert list(told["contributions"]) == list(PARTS)
    assert list(told["contributions"].values()) == pytest.approx(why.contributions, abs=1e-4)


def test_sound_that_waits_too_long_is_dropped_and_it_is_said(bundle):
    free = threading.Event()
    with listening(bundle) as serving, connect(serving.socket) as client:
        presenting(client)
        client.send(block(0, voice(0.05)))
        wait(lambda: serving.demo._ear._number == 1)
        held = serving.demo.engine._thread.submit(free.wait, 20)
        client.send(block(1, voice(0.05)))
        wait(lambda: len(serving.demo.blocks) == 2)
        for number in range(2, 52):
            client.send(block(number, voice(0.05)))
        client.send(block(60, voice(0.05), skipped=8))
        wait(lambda: len(serving.demo.blocks) == 53)
        # 51 came while the first of them was at work: the newest second of them is kept.
        dropped = 51 - emotion.WAITING
        assert serving.demo.meter.dropped == dropped + 8
        free.set()
        assert held.result() is True
        wait(lambda: serving.status()["lost"] == pytest.approx(0.05 * (dropped + 8)))
        # Two blocks, a gap, then 33 to 51 and 60: answers after half a second, and 0.25 s more.
        told = [said(client, "result") for _ in range(3)]
        assert [one["number"] for one in told] == [40, 45, 50]
        assert [one["time"] for one in told] == pytest.approx(
            [seconds + 0.05 * dropped for seconds in (0.5, 0.75, 1.0)]
        )
        assert [one["lost"] for one in told] == pytest.approx([0.05 * dropped] * 3)


@pytest.mark.parametrize("rate", [None, "many", True, 0, 3999, 10**9, 44_100.5])
def test_a_rate_that_is_none_is_refused(rate, bundle_served):
    with connect(bundle_served.socket) as client:
        client.send(json.dumps({"type": "present", "rate": rate}))
        assert "rate" in said(client, "error")["words"]
        assert bundle_served.status()["taken"] is False


@pytest.fixture(scope="module")
def bundle_served(bundle):
    with listening(bundle) as serving:
        yield serving


@pytest.mark.parametrize(
    "frame",
    [
        Frame(Kind.SOUND, 1, b""),
        Frame(Kind.SOUND, 1, bytes(3)),
        Frame(Kind.SOUND, 1, bytes(4 * (RATE // 4 + 1))),
        Frame(Kind.SOUND, 1, np.full(SIZE, np.nan, "<f4").tobytes()),
        Frame(Kind.SOUND, 1, np.full(SIZE, np.inf, "<f4").tobytes()),
        Frame(Kind.SOUND, 1, np.full(SIZE, 3e38, "<f4").tobytes()),
        Frame(Kind.PICTURE, 1, bytes(400)),
    ],
)
def test_blocks_that_are_no_sound_are_answered_so(frame, bundle_served):
    with connect(bundle_served.socket) as client:
        presenting(client)
        client.send(frame.pack())
        assert said(client, "error")["words"]
        client.send(block(2, voice(0.05)))
        assert said(client, "sound")["rms"] > 0
    wait(lambda: not bundle_served.status()["taken"])


def test_an_oversized_message_ends_the_connection(bundle_served):
    with connect(bundle_served.socket) as client:
        presenting(client)
        claim(client, 5 << 20)
        assert farewell(client) == 1009
    wait(lambda: not bundle_served.status()["taken"])


def test_one_microphone_at_a_time_and_one_that_vanishes(bundle_served):
    with connect(bundle_served.socket) as first, connect(bundle_served.socket) as second:
        presenting(first)
        second.send(json.dumps({"type": "present", "rate": RATE}))
        assert said(second, "stage")["yours"] is False
        second.send(block(1, voice(0.05)))
        assert "not heard" in said(second, "error")["words"]
        second.send(json.dumps({"type": "leave"}))  # which is not theirs to say
        for number in range(10):
            first.send(block(number, voice(0.05, seed=number)))
        assert said(first, "result") == said(second, "result")
        first.socket.shutdown(2)  # no goodbye
        wait(lambda: not bundle_served.status()["taken"])
        presenting(second, 48_000)
        stream = bundle_served.demo.last["stream"]
        for number in range(12):
            second.send(block(number, voice(0.05, rate=48_000)))
        told = said(second, "result")  # of a new stream
        assert told["stream"] == stream + 1
        assert told["time"] == 0.5
        second.send(json.dumps({"type": "leave"}))
        wait(lambda: not bundle_served.status()["taken"])
    wait(lambda: bundle_served.status()["viewers"] == 0)


def test_silence_is_told(bundle_served):
    with connect(bundle_served.socket) as client:
        presenting(client)
        for number in range(10):
            client.send(block(number, np.zeros(SIZE)))
        assert said(client, "result")["quiet"] is True
        for number in range(10):
            client.send(block(number, voice(0.05)))
        assert said(client, "result")["quiet"] is False
    wait(lambda: not bundle_served.status()["taken"])


def test_answers_without_an_explanation_say_why(bundle_served, monkeypatch):
    sound = voice(1.0)
    with connect(bundle_served.socket) as client:
        presenting(client)
        monkeypatch.setattr(emotion, "BEHIND", 0)  # as if sound waited: answers go first
        for number in range(10):
            client.send(block(number, sound[number * SIZE : (number + 1) * SIZE]))
        hurried = said(client, "result")
        monkeypatch.setattr(emotion, "BEHIND", 20)
        # As of a bundle, or a runtime, without the graph.
        monkeypatch.setattr(type(bundle_served.demo.engine.task), "explain", lambda *of: None)
        for number in range(10, 15):
            client.send(block(number, sound[number * SIZE : (number + 1) * SIZE]))
        unable = said(client, "result")
    assert (hurried["explains"], unable["explains"]) == (True, False)
    assert hurried["quartet"] is hurried["driver"] is unable["quartet"] is None
    assert hurried["emotion"] in hurried["chances"]
    wait(lambda: not bundle_served.status()["taken"])


def test_a_bundle_of_another_task_is_refused(bundle):
    with pytest.raises(UsageError, match="speech-emotion"):
        Engine([bundle], ("classification",))


def test_the_command_shows_a_recording_and_tells_its_figures(bundle, tmp_path, monkeypatch, capfd):
    from edgekit.apps.web import show

    wav = write_wav(tmp_path / "voice.wav", voice(0.8, rate=22_050), 22_050)
    seen = {}

    def briefly(listening, say, browser=False):
        say(listening.url)
        thread = threading.Thread(target=listening.run)
        thread.start()
        wait(lambda: listening.server.started)
        with connect(listening.url.replace("http", "ws", 1) + "live") as client:
            seen["state"], seen["result"] = said(client, "state"), said(client, "result")
        listening.server.should_exit = True
        thread.join(20)

    monkeypatch.setattr(show, "serve", briefly)
    code = main(["demo", "emotion", str(bundle), "--source", str(wav), "--port", "0", "--json"])
    out, err = capfd.readouterr()
    assert code == 0, err
    told = json.loads(out)
    assert told["address"] in err
    assert told["figures"]["frames"] >= 1
    assert seen["state"]["source"] == "voice.wav"
    assert seen["result"]["emotion"] in seen["result"]["chances"]
    assert main(["demo", "emotion", str(bundle), "--source", str(tmp_path / "none.wav")]) == 8
    assert "no sound" in capfd.readouterr().err
