"""What is particular to OpenVINO."""

import openvino
import pytest

from edgekit.errors import BundleError
from edgekit.runtimes import load


@pytest.mark.parametrize("asked", ["fp32", "fp16", "bf16", "int8"])
def test_the_precision_is_what_the_processor_has(asked, artifacts, make_bundle, image):
    files, artifact = artifacts("openvino")
    path = make_bundle(files, artifact.model_copy(update={"precision": asked}))
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    native = asked == "fp32" or {"fp16": "FP16", "bf16": "BF16"}.get(asked) in able
    with load(path, "openvino", threads=1) as session:
        if asked == "int8":
            assert session.effective_precision == "int8 + fp32"
        else:
            assert session.effective_precision == (asked if native else f"fp32 ({asked} weights)")
        session.run({"image": image})


def test_weights_that_do_not_belong_to_the_graph(artifacts, make_bundle):
    files, artifact = artifacts("openvino")
    files[artifact.extra[0]] = b"\0" * 4
    with pytest.raises(BundleError, match=r"openvino refuses .*Incorrect weights"):
        load(make_bundle(files, artifact), "openvino")


def test_another_format_is_not_guessed(onnx_bytes, artifacts, make_bundle):
    files, artifact = artifacts("openvino")
    files[artifact.file] = onnx_bytes()
    with pytest.raises(BundleError, match="it is no OpenVINO IR"):
        load(make_bundle(files, artifact), "openvino")


def test_threads_reach_the_runtime(runtime_bundle):
    with load(runtime_bundle("openvino"), "openvino", threads=2) as session:
        model = session._request.get_compiled_model()
        assert model.get_property("INFERENCE_NUM_THREADS") == 2
        assert model.get_property("PERFORMANCE_HINT") == "LATENCY"
