"""The detector's graph on the targets that the other tests do not go to, at any number of classes.

ONNX and OpenVINO are compared in the tests of the runtimes; here the same network is lowered
by the three other exporters, as one graph: what is dynamic in it is the number of classes.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.bundle import Bundle
from edgekit.export import export
from edgekit.runtimes import load

from ..dart_micro import AT_ONCE, dart_model  # noqa: F401 -- a fixture

LEVELS = {"executorch": "ran", "coreml": "interpreted", "tensorrt": "compiled"}
NEEDS = {"executorch": "executorch", "coreml": "coremltools", "tensorrt": "tensorrt_rtx"}


@pytest.fixture(scope="module")
def detection(dart_model):  # noqa: F811
    """The network with its detection graph alone."""
    (graph,) = [graph for graph in dart_model.graphs if graph.name == "detection"]
    return replace(dart_model, name="micro-dart-detection", graphs=(graph,))


@pytest.mark.parametrize(
    "target", [pytest.param("executorch", marks=pytest.mark.slow), "coreml", "tensorrt"]
)
def test_detection_is_lowered_with_any_number_of_classes(detection, target, tmp_path):
    pytest.importorskip(NEEDS[target])
    out = tmp_path / target
    result = export(detection, [target], out, report=False)
    result.raise_for_status()
    (lowered,) = result.targets
    assert [graph.verify["level"] for graph in lowered.graphs] == [LEVELS[target]]
    with Bundle.open(out) as bundle:
        graph = bundle.graph("detection")
        text = next(one for one in graph.inputs if one.name == "text_features")
        limits = graph.dynamic[text.shape[0]]
        assert (limits.min, limits.max) == (1, AT_ONCE)
        if target == "executorch":
            _compare(bundle, detection.module)


def _compare(bundle, network):
    """Every number of classes against PyTorch, in a session that stays open."""
    random = np.random.default_rng(0)
    with load(bundle, "executorch", threads=1, graph="detection") as session:
        shapes = {one.name: one.shape for one in session.inputs}
        features = random.standard_normal(shapes["features"]).astype(np.float32)
        for classes in (*range(1, AT_ONCE + 1), 1):
            text = random.standard_normal((classes, *shapes["text_features"][1:]))
            mask = (np.arange(32) < random.integers(3, 32, (classes, 1))).astype(np.int64)
            inputs = {"features": features, "text_features": text.astype(np.float32)}
            outputs = session.run({**inputs, "attention_mask": mask})
            with torch.no_grad():
                expected = network.detection_for_masks(
                    *(torch.from_numpy(array) for array in (*inputs.values(), mask))
                )
            for name, other in zip(("boxes", "logits", "presence"), expected, strict=False):
                assert np.abs(outputs[name] - other.numpy()).max() < 1e-5
