"""Core ML: what can be checked without macOS."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from edgekit.errors import BundleError, MissingBackendError
from edgekit.manifest import Artifact, Graph, TensorSpec
from edgekit.runtimes.sessions import coreml


def spec(name: str, dtype: str = "float32", shape: tuple = (2,)) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def features(*names: str) -> list:
    return [SimpleNamespace(name=name) for name in names]


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is here")
def test_it_runs_on_apple_systems_only(tmp_path):
    graph = Graph(name="forward", inputs=(spec("x"),), outputs=(spec("y"),))
    artifact = Artifact(target="coreml", status="ok", file="model.mlpackage")
    with pytest.raises(MissingBackendError, match="runs on Apple systems only"):
        coreml.CoreMLSession(None, graph, artifact)


def test_tensors_are_paired_by_name_or_by_position():
    a, b = spec("a"), spec("b")
    assert coreml.pair_features("m", (a, b), features("b", "a")) == [(a, "a"), (b, "b")]
    assert coreml.pair_features("m", (a, b), features("x", "y")) == [(a, "x"), (b, "y")]
    with pytest.raises(BundleError, match="does not fit"):
        coreml.pair_features("m", (a, b), features("a"))


@pytest.mark.parametrize(
    ("given", "dtype", "shape"),
    [
        (np.zeros((2, 3), np.float16), np.float16, (2, 3)),
        (np.zeros((2, 3), np.float32).T, np.float32, (3, 2)),
        (np.array([1, 2], np.int64), np.int32, (2,)),
        (np.array([True]), np.int32, (1,)),
        (np.ones((), np.float32), np.float32, (1,)),
    ],
)
def test_inputs_become_what_core_ml_takes(given, dtype, shape):
    array = coreml.to_multiarray(given)
    assert (array.dtype, array.shape, array.flags.c_contiguous) == (dtype, shape, True)


def test_outputs_become_what_the_manifest_says():
    array = coreml.from_multiarray(np.array([1.0], np.float32), spec("n", "int64", ()))
    assert (array.dtype, array.shape) == (np.int64, ())
    half = coreml.from_multiarray(np.ones(2, np.float32), spec("y", "float16"))
    assert half.dtype == np.float16
