"""A DART detector small enough for tests, as a network and as a bundle of two runtimes."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

# 8 x 8 tokens, and at most three classes at once, so that chunks are made of few classes.
SIDE, QUERIES, AT_ONCE = 112, 12, 3
RUNTIMES = ("onnxruntime", "openvino")


@cache
def micro_model():
    from edgekit.models.dart import load_sized
    from edgekit.models.dart_config import Depths
    from edgekit.models.dart_graphs import DartSize

    size = DartSize((SIDE, SIDE), 14, 32, 4, QUERIES, vocabulary=514, classes=AT_ONCE)
    depths = Depths((32, 64, 2, 2), 4, (1,), 56, (32, 64, 1, 2), 1, 64)
    return load_sized("micro-dart", size, depths, masks=True)


@pytest.fixture(scope="session")
def dart_model():
    """The network, ready for export; not to be changed."""
    pytest.importorskip("transformers")
    return micro_model()


_made: dict[str, Path] = {}


@pytest.fixture(scope="session")
def dart_bundle(dart_model, tmp_path_factory) -> Path:
    """The network on ONNX Runtime and OpenVINO, exported once for all test folders."""
    from edgekit.export import export

    if "bundle" not in _made:
        out = tmp_path_factory.mktemp("dart") / "micro"
        export(dart_model, ["onnx", "openvino"], out, report=False).raise_for_status()
        _made["bundle"] = out
    return _made["bundle"]


@pytest.fixture
def frames() -> Callable[[int], list[np.ndarray]]:
    """``frames(n)``: uint8 pictures of a bright square that moves over noise."""

    def make(count: int) -> list[np.ndarray]:
        noise = np.random.default_rng(0).integers(0, 80, (90, 120, 3), np.uint8)
        pictures = []
        for number in range(count):
            picture = noise.copy()
            picture[20:50, 5 * number : 5 * number + 30] = (250, 200, 40)
            pictures.append(picture)
        return pictures

    return make
