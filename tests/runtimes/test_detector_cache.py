"""Embedded prompts on disk: bit for bit what was computed, for this checkpoint and no other."""

import sys

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, MissingBackendError
from edgekit.runtimes.detector import Detector
from edgekit.runtimes.detector_cache import Embedding, TextCache, fingerprint
from edgekit.runtimes.detector_prompts import Tokenizer

NAMES = ("person", "car", "traffic light", "dog")


@pytest.fixture
def opened(dart_bundle, tmp_path):
    made = []

    def make(classes=NAMES, cache=tmp_path, **options):
        made.append(
            Detector.open(
                dart_bundle, classes, runtime="onnxruntime", threads=1, cache=cache, **options
            )
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


def embeddings(detector):
    return detector.task.prompts.embed(detector.classes)


def test_what_is_read_again_is_bitwise_what_was_written(opened):
    first = opened()
    assert first.runs["text"] == 2  # four prompts, three at once
    again = opened()
    assert again.runs["text"] == 0
    for one, other in zip(embeddings(first), embeddings(again), strict=True):
        assert one.tobytes() == other.tobytes()


def test_another_order_needs_nothing_new_and_gives_the_right_rows(opened):
    first = opened()
    features, masks = embeddings(first)
    other = opened(NAMES[::-1])
    assert other.runs["text"] == 0
    turned, turned_masks = embeddings(other)
    assert np.array_equal(turned, features[::-1])
    assert np.array_equal(turned_masks, masks[::-1])
    assert not np.array_equal(features[0], features[1])


def test_a_new_class_alone_is_embedded(opened, tmp_path):
    opened()
    detector = opened([*NAMES, "kite"])
    assert detector.runs["text"] == 1
    assert len(list(tmp_path.rglob("*.safetensors"))) == len(NAMES) + 1
    detector.classes = ["kite", "kite", "dog"]
    assert detector.runs["text"] == 1


def test_another_checkpoint_or_vocabulary_misses(dart_bundle, tmp_path):
    with Bundle.open(dart_bundle) as bundle:
        text = bundle.graph("text")
        tokenizer = "assets/tokenizer.json"
        mine = fingerprint(bundle, text, "onnx", tokenizer)
        assert mine == fingerprint(bundle, text, "openvino", tokenizer)
        manifest = bundle.manifest
        trained = manifest.model.model_copy(update={"weights_sha256": "0" * 64})
        bundle.manifest = manifest.model_copy(update={"model": trained})
        others = {fingerprint(bundle, text, "onnx", tokenizer)}
        bundle.manifest = manifest
        others.add(fingerprint(bundle, text, "onnx", "assets/labels.txt"))
        halves = tuple(a.model_copy(update={"precision": "fp16"}) for a in text.artifacts)
        low = text.model_copy(update={"artifacts": halves})
        others |= {fingerprint(bundle, low, target, tokenizer) for target in ("onnx", "openvino")}
        # The same checkpoint, quantised by another calibration: other bytes.
        changed = [
            one.model_copy(update={"sha256": "0" * 64}) if "/text/onnx/" in one.path else one
            for one in manifest.files
        ]
        bundle.manifest = manifest.model_copy(update={"files": tuple(changed)})
        assert fingerprint(bundle, text, "onnx", tokenizer) == mine
        others.add(fingerprint(bundle, low, "onnx", tokenizer))
        bundle.manifest = manifest
        assert len(others | {mine}) == 6
    embedding = Embedding(np.ones((4, 2), np.float32), np.ones(4, np.int64))
    TextCache(mine, tmp_path, (4, 2)).write("dog", embedding)
    assert TextCache(mine, tmp_path, (4, 2)).read("dog") is not None
    for other in others:
        assert TextCache(other, tmp_path, (4, 2)).read("dog") is None
    # A fingerprint that only begins alike is another one, too.
    assert TextCache(mine[:-1] + "x", tmp_path, (4, 2)).read("dog") is None
    assert TextCache(mine, tmp_path, (5, 2)).read("dog") is None


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "other prompt", "nan"])
def test_a_damaged_file_is_made_anew(opened, tmp_path, damage):
    first = opened()
    expected = embeddings(first)[0]
    cache = first.task.prompts._cache
    path, other = cache._path("person"), cache._path("car")
    content = path.read_bytes()
    if damage == "nan":
        kept = cache.read("person")
        cache.write("person", Embedding(np.full_like(kept.features, np.nan), kept.mask))
    else:
        path.write_bytes(
            {
                "cut": content[: len(content) // 2],
                "empty": b"",
                "garbage": b"\xff" * 100,
                "other prompt": other.read_bytes(),
            }[damage]
        )
    again = opened()
    assert again.runs["text"] == 1
    assert np.allclose(embeddings(again)[0], expected, atol=1e-6)
    assert opened().runs["text"] == 0


def test_a_folder_that_cannot_be_written_costs_time_alone(opened, tmp_path, frames):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    detector = opened(cache=blocked)
    assert detector.runs["text"] == 2
    detector.detect(frames(1)[0])


def test_no_cache_writes_nothing(opened, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    opened(cache="")
    assert list(tmp_path.iterdir()) == []


def test_a_device_with_the_cache_needs_no_tokenizer(opened, monkeypatch, frames):
    opened()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    detector = opened()
    detector.detect(frames(1)[0])
    assert detector.runs["text"] == 0
    with pytest.raises(MissingBackendError, match="text cache"):
        detector.classes = ["something new"]
    assert detector.classes == NAMES


def test_a_vocabulary_that_is_none_is_refused():
    for document in (b"{}", b"\xff", b'{"model": 1}'):
        with pytest.raises(BundleError, match="tokenizer"):
            Tokenizer(document, 32)
