"""Sharing the backbone and batching classes is exact: in PyTorch and on every runtime here.

The same invariants on each, through the code that a device runs, with negative controls: the
tolerance tells right from wrong by two orders of magnitude.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.runtimes import load
from edgekit.runtimes.detector_head import DetectionHead, score
from edgekit.runtimes.detector_prompts import fill_batch

from ..dart_micro import AT_ONCE, RUNTIMES, SIDE

PYTORCH = "pytorch"
EXACT, WRONG = 1e-5, 1e-3
CLASSES = 7


@pytest.fixture(scope="module", params=(PYTORCH, *RUNTIMES))
def graphs(request, dart_bundle, dart_model):
    """The graphs' sessions on one back end."""
    with Bundle.open(dart_bundle) as bundle:
        if request.param == PYTORCH:
            from edgekit.export.capture import FlatGraph
            from edgekit.export.evaluate import EagerSession

            found = {
                spec.name: EagerSession(
                    FlatGraph(dart_model.module, spec), bundle.graph(spec.name), 1
                )
                for spec in dart_model.graphs
            }
        else:
            names = [graph.name for graph in bundle.manifest.graphs]
            found = {n: load(bundle, request.param, threads=1, graph=n) for n in names}
        yield SimpleNamespace(**found)
        for session in found.values():
            session.close()


@pytest.fixture(scope="module")
def scene(graphs):
    """Features of a picture, and embeddings of prompts of different lengths."""
    random = np.random.default_rng(0)
    image = random.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    ids = random.integers(0, 512, (CLASSES, 32))
    masks = np.zeros((CLASSES, 32), np.int64)
    for row, length in enumerate((3, 4, 5, 9, 17, 31, 32)):
        masks[row, :length] = 1
    seen = graphs.vision.run({"image": image})
    text = np.concatenate(
        [embed(graphs, ids[row : row + 1], masks[row : row + 1]) for row in range(CLASSES)]
    )
    return SimpleNamespace(image=image, ids=ids, masks=masks, seen=seen, text=text)


def embed(graphs, ids, masks):
    return graphs.text.run({"input_ids": ids, "attention_mask": masks})["text_features"]


def detect(graphs, scene, chunk=AT_ONCE, **changes):
    """All classes' boxes, logits and presence, in chunks, by the device's own code."""
    asked = {"features": scene.seen["features"], "text": scene.text, "masks": scene.masks}
    asked |= changes
    head = DetectionHead(graphs.detection, chunk)
    parts = [part for _, part in head._chunks(asked["features"], asked["text"], asked["masks"])]
    names = ("boxes", "logits", "presence")
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def furthest(one, other):
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def test_one_call_a_class_equals_the_shared_batch(graphs, scene):
    """N times the whole network, backbone and text included, against shared and batched."""
    whole = detect(graphs, scene)
    for row in range(CLASSES):
        seen = graphs.vision.run({"image": scene.image})
        part = slice(row, row + 1)
        inputs = {
            "features": seen["features"],
            "text_features": embed(graphs, scene.ids[part], scene.masks[part]),
            "attention_mask": scene.masks[part],
        }
        outputs = graphs.detection.run(inputs)
        alone = {name: outputs[name] for name in whole}
        assert furthest(alone, {name: array[part] for name, array in whole.items()}) < EXACT


@pytest.mark.parametrize("change", ["neighbour", "mask", "picture"])
def test_a_wrong_input_is_seen(graphs, scene, change):
    changes = {
        "neighbour": {"text": np.roll(scene.text, 1, 0)},
        "mask": {"masks": 1 - scene.masks[::-1]},
        "picture": {"features": np.flip(scene.seen["features"], 2).copy()},
    }[change]
    wrong, right = detect(graphs, scene, **changes), detect(graphs, scene)
    for name in ("boxes", "logits"):
        assert np.abs(wrong[name] - right[name]).max() > WRONG


@pytest.mark.parametrize("chunk", range(1, AT_ONCE + 1))
def test_chunks_do_not_matter(graphs, scene, chunk):
    assert furthest(detect(graphs, scene, chunk), detect(graphs, scene)) < EXACT


def test_order_does_not_matter(graphs, scene):
    order = np.random.default_rng(1).permutation(CLASSES)
    permuted = detect(graphs, scene, text=scene.text[order], masks=scene.masks[order])
    whole = detect(graphs, scene)
    assert furthest(permuted, {name: array[order] for name, array in whole.items()}) < EXACT


@pytest.mark.parametrize("hidden", [0, 1, 32])
def test_padding_classes_change_nothing(graphs, scene, hidden):
    """Beside a real class, rows of garbage: all hidden, one token shown, all shown."""
    masks = np.zeros((2, 32), np.int64)
    masks[:, :hidden] = 1
    garbage = np.full((2, *scene.text.shape[1:]), 100, np.float32)
    inputs = {
        "features": scene.seen["features"],
        "text_features": np.concatenate([scene.text[:1], garbage]),
        "attention_mask": np.concatenate([scene.masks[:1], masks]),
    }
    outputs = graphs.detection.run(inputs)
    assert all(np.isfinite(array).all() for array in outputs.values())
    whole = detect(graphs, scene)
    assert furthest({n: outputs[n][:1] for n in whole}, {n: whole[n][:1] for n in whole}) < EXACT


def test_what_a_mask_hides_does_not_matter(graphs, scene):
    garbage = np.where(scene.masks[..., None] > 0, scene.text, np.float32(50))
    assert furthest(detect(graphs, scene, text=garbage), detect(graphs, scene)) < EXACT
    shown = detect(graphs, scene, text=garbage, masks=np.ones_like(scene.masks))
    assert furthest(shown, detect(graphs, scene)) > WRONG


def test_text_one_by_one_is_text_in_a_batch(graphs, scene):
    part = slice(0, AT_ONCE)
    together = embed(graphs, scene.ids[part], scene.masks[part])
    valid = scene.masks[part].astype(bool)
    assert np.abs(together[valid] - scene.text[part][valid]).max() < EXACT


def test_every_back_end_answers_as_transformers_own_forward(graphs, scene, dart_model):
    import torch

    whole = detect(graphs, scene)
    for row in (0, CLASSES - 1):
        with torch.no_grad():
            expected = dart_model.module.sam3(
                pixel_values=torch.from_numpy(scene.image),
                input_ids=torch.from_numpy(scene.ids[row : row + 1]),
                attention_mask=torch.from_numpy(scene.masks[row : row + 1]),
            )
        theirs = {
            "boxes": expected.pred_boxes[0].numpy(),
            "logits": expected.pred_logits[0].numpy(),
            "presence": expected.presence_logits[0].numpy(),
        }
        assert furthest(theirs, {name: whole[name][row] for name in theirs}) < 5 * EXACT
        scores = expected.pred_logits.sigmoid() * expected.presence_logits.sigmoid()
        mine = score(whole["logits"][row : row + 1], whole["presence"][row : row + 1])
        assert np.abs(scores.numpy() - mine).max() < EXACT


def test_outlines_are_those_of_transformers_own_forward(graphs, scene, dart_model):
    import torch

    part, chosen = slice(2, 3), [1, 4, 7]
    inputs = {"features": scene.seen["features"], "text_features": scene.text[part]}
    found = graphs.detection.run({**inputs, "attention_mask": scene.masks[part]})
    drawn = graphs.masks.run(
        {
            "features_2x": scene.seen["features_2x"],
            "features_4x": scene.seen["features_4x"],
            "memory": found["memory"],
            "queries": np.ascontiguousarray(found["queries"][:, chosen]),
            "text_features": scene.text[part],
            "attention_mask": scene.masks[part],
        }
    )["masks"]
    with torch.no_grad():
        expected = dart_model.module.sam3(
            pixel_values=torch.from_numpy(scene.image),
            input_ids=torch.from_numpy(scene.ids[part]),
            attention_mask=torch.from_numpy(scene.masks[part]),
        )
    theirs = expected.pred_masks[:, chosen].numpy()
    assert np.abs(theirs - drawn).max() < EXACT * np.abs(theirs).max()


def test_a_least_batch_is_filled_with_valid_rows():
    """An engine of a fixed number of classes gets the last class again, never an empty one."""
    spec = SimpleNamespace(name="text_features", shape=(4, 2), dtype="float32")
    ranged = SimpleNamespace(name="attention_mask", shape=("n", 2), dtype="int64")
    limits = {"n": SimpleNamespace(min=2, max=8)}
    session = SimpleNamespace(inputs=(spec, ranged), dynamic=limits)
    inputs = {
        "text_features": np.arange(6, dtype=np.float32).reshape(3, 2),
        "attention_mask": np.ones((1, 2), np.int64),
    }
    filled = fill_batch(session, inputs)
    assert filled["text_features"].tolist() == [[0, 1], [2, 3], [4, 5], [4, 5]]
    assert filled["attention_mask"].tolist() == [[1, 1], [1, 1]]
