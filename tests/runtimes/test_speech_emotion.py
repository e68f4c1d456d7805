"""Speech emotion on a device: recordings of any length, and live sound."""

import json

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("soundfile")

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError, UsageError
from edgekit.runtimes import load, tasks
from edgekit.runtimes.emotion_stream import EmotionStream
from edgekit.runtimes.tasks.speech_emotion import COMPONENTS, SpeechEmotion
from tests.emotion_micro import RATE, SAMPLES, emotion_bundle, voice  # noqa: F401 -- a fixture


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def task(request, emotion_bundle):  # noqa: F811
    with Bundle.open(emotion_bundle) as bundle, load(bundle, request.param, threads=1) as session:
        yield tasks.for_bundle(bundle, session)


def changing():
    """Two and a bit seconds in which the voice becomes another."""
    return np.concatenate([voice(1.2, 110), 0.3 * voice(1.07, 260, seed=1)])


def test_a_recording_is_heard_in_windows(task):
    found = task(changing())
    assert [round(one.start, 3) for one in found.windows] == [
        0,
        0.25,
        0.5,
        0.75,
        1,
        1.25,
        1.5,
        1.75,
        1.77,
    ]
    assert found.windows[-1].end == pytest.approx(2.27)
    assert found.seconds == pytest.approx(2.27)
    assert sum(found.chances) == pytest.approx(1, abs=1e-5)
    wanted = np.mean([one.chances for one in found.windows], axis=0)
    assert np.allclose(found.chances, wanted)
    assert found.remarks == ()
    document = json.loads(json.dumps(found.to_json()))
    assert document["emotion"] == found.emotion
    assert next(iter(document["chances"])) == "anger"


def test_contributions_are_what_is_lost_without_a_component(task):
    found = task(voice(0.5))
    (window,) = found.windows
    inputs = {"waveform": voice(0.5)[None]}
    with load(task.bundle, task.session.runtime, threads=1, graph="explain") as session:
        outputs = session.run(inputs)
    told = int(np.argmax(window.chances))
    wanted = [window.chances[told] - one for one in outputs["without"][:, told]]
    assert np.allclose(window.contributions, wanted, atol=1e-6)
    assert found.driver == COMPONENTS[int(np.argmax(wanted))]
    # The graph that only answers gives the same answer.
    plain = task.chances(task.session.run(inputs))
    assert np.allclose(plain, window.chances, atol=1e-6)


def test_a_short_recording_is_repeated(task):
    short = voice(0.3)
    found = task(short)
    assert found.windows[0].end == pytest.approx(0.3)
    assert np.allclose(found.chances, task(np.resize(short, SAMPLES)).chances, atol=1e-6)


def test_pictures(task, tmp_path):
    for sound in (changing(), voice(0.3)):
        picture = task(sound).draw("unused")
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(colours, axis=0)) > 500
    # The maps of a recording twice as long are twice as wide.
    wide, narrow = (task(voice(seconds)).draw("").width for seconds in (8.0, 4.0))
    assert wide - narrow == pytest.approx(4 * 200, abs=2)


def test_what_is_wrong_with_a_recording_is_said(task):
    assert "nothing to hear" in task(np.zeros(RATE, np.float32)).remarks[0]
    assert np.isfinite(task(np.zeros(RATE, np.float32)).chances).all()
    loud = np.clip(20 * voice(1.0), -1, 1)
    assert "clipped" in task(loud).remarks[0]
    with pytest.raises(InputError, match=r"0\.1 s long"):
        task(voice(0.1))
    with pytest.raises(InputError, match=r"0\.1 s long"):
        task.prepare(voice(0.1))


def test_ten_minutes(task):
    found = task(np.tile(voice(2.0), 300))
    assert len(found.windows) == 2399
    assert found.windows[-1].end == pytest.approx(600)
    assert found.draw("").width < 4300


def test_the_loudest_window_stands_for_a_recording(task):
    sound = np.concatenate([0.01 * voice(1.0), voice(0.5), 0.01 * voice(1.0)])
    assert np.allclose(task.prepare(sound)["waveform"][0], sound[RATE : RATE + SAMPLES])


@pytest.mark.parametrize("block", [1, 160, 1000, 7001, 40_000])
def test_live_sound_is_heard_as_a_recording_is(task, block):
    sound = changing()
    if block == 1:
        sound = sound[: SAMPLES + 5000]
    stream = EmotionStream(task, hop=0.25, smoothing=0.5)
    moments = [
        moment
        for start in range(0, len(sound), block)
        for moment in stream.feed(sound[start : start + block])
    ]
    ends = range(SAMPLES, len(sound) + 1, RATE // 4)
    assert [moment.time for moment in moments] == [end / RATE for end in ends]
    average = None
    for end, moment in zip(ends, moments, strict=True):
        window = sound[end - SAMPLES : end]
        (offline,) = task(window).windows
        assert np.allclose(moment.chances, offline.chances, atol=1e-6)
        now = np.array(moment.chances)
        average = now if average is None else np.exp(-0.5) * average + (1 - np.exp(-0.5)) * now
        assert np.allclose(moment.smoothed, average, atol=1e-9)
        assert moment.emotion == task.labels[int(np.argmax(average))]


def test_a_stream_forgets_when_it_is_told_to(task):
    stream = EmotionStream(task, smoothing=0)
    first = stream.feed(voice(1.0))
    stream.reset()
    assert stream.feed(voice(1.0)) == first
    assert all(moment.smoothed == moment.chances for moment in first)


def test_a_stream_keeps_its_size(task):
    stream = EmotionStream(task)
    sizes = set()
    for _ in range(40):
        stream.feed(voice(0.5))
        sizes.add(sum(a.nbytes for a in vars(stream).values() if isinstance(a, np.ndarray)))
    assert len(sizes) == 1


def test_live_sound_of_another_rate(task):
    stream = EmotionStream(task, rate=48_000)
    sound = voice(2.0, rate=48_000)
    moments = [
        m for start in range(0, len(sound), 4800) for m in stream.feed(sound[start : start + 4800])
    ]
    assert 5 <= len(moments) <= 7
    assert np.allclose(moments[0].chances, task(voice(2.0)[:SAMPLES]).chances, atol=0.05)


def test_bad_streams_are_refused(task):
    with pytest.raises(UsageError, match="leaves gaps"):
        EmotionStream(task, hop=0.6)
    with pytest.raises(UsageError, match="not negative"):
        EmotionStream(task, smoothing=-1)
    stream = EmotionStream(task)
    for block in (np.zeros((5, 2), np.float32), np.zeros(5, np.int16), np.full(5, np.nan)):
        with pytest.raises(InputError, match="no sound"):
            stream.feed(block)


def test_a_task_that_does_not_fit_is_refused(emotion_bundle):  # noqa: F811
    with Bundle.open(emotion_bundle) as bundle, load(bundle, "onnxruntime") as session:
        task = bundle.manifest.task
        for params, why in (({"rate": 1}, "rate"), ({"output": "x"}, "'x' is not one")):
            changed = task.model_copy(update={"params": {**task.params, **params}})
            bundle.manifest = bundle.manifest.model_copy(update={"task": changed})
            with pytest.raises(BundleError, match=why):
                SpeechEmotion(bundle, session)


def test_what_an_export_is_judged_by_beside_random_numbers():
    shapes = {"waveform": (1, 800)}
    assert SpeechEmotion.examples({}, shapes) is None
    (silence, told), (speech, told_too) = (
        SpeechEmotion.examples({"rate": 8_000}, shapes, end) for end in ("min", "max")
    )
    assert (told, told_too) == ("silence", "a made-up voice")
    assert silence["waveform"].shape == speech["waveform"].shape == (1, 800)
    assert not silence["waveform"].any()
    assert np.abs(speech["waveform"]).max() > 0.1
    with pytest.raises(BundleError, match=r"being made.*rate"):
        SpeechEmotion.examples({"rate": 1}, shapes, "max")
