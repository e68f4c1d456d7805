"""What is particular to ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError, UnsupportedError
from edgekit.manifest import Artifact, AxisRange, TensorSpec
from edgekit.runtimes import load
from edgekit.runtimes.sessions.onnxruntime import OnnxRuntimeSession

from .conftest import SIDE

FILE = "graphs/forward/onnx/model.onnx"


def artifact(**changes) -> Artifact:
    return Artifact(target="onnx", status="ok", file=FILE, **changes)


def model(nodes, inputs, outputs, constants, opset=20) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        [c if isinstance(c, TensorProto) else numpy_helper.from_array(*c) for c in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def test_a_dynamic_axis(onnx_bytes, make_bundle, classifier):
    batch = TensorSpec(name="image", dtype="float32", shape=("batch", 3, SIDE, SIDE))
    path = make_bundle(
        {FILE: onnx_bytes("batch")},
        artifact(),
        inputs=(batch,),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 4)),),
        dynamic={"batch": AxisRange(min=1, max=8)},
    )
    rng = np.random.default_rng(3)
    with load(path, "onnxruntime", threads=1) as session:
        for count in (1, 5, 8, 2):
            x = rng.standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)
            np.testing.assert_allclose(
                session.run({"image": x})["logits"], classifier(x), rtol=1e-4, atol=1e-5
            )
        for count in (0, 9):
            with pytest.raises(InputError, match=r"takes \[batch=1\.\.8, 3, 32, 32\]"):
                session.run({"image": np.zeros((count, 3, SIDE, SIDE), np.float32)})


def test_axes_of_one_name_must_agree(make_bundle):
    add = model(
        [helper.make_node("Add", ["a", "b"], ["c"])],
        [("a", TensorProto.FLOAT, ["n"]), ("b", TensorProto.FLOAT, ["n"])],
        [("c", TensorProto.FLOAT, ["n"])],
        [],
    )
    a, b, c = (TensorSpec(name=name, dtype="float32", shape=("n",)) for name in "abc")
    path = make_bundle(
        {FILE: add.SerializeToString()}, artifact(), inputs=(a, b), outputs=(c,), dynamic={}
    )
    with load(path, "onnxruntime") as session:
        ones = np.ones(3, np.float32)
        np.testing.assert_array_equal(session.run({"b": ones, "a": ones})["c"], ones + 1)
        with pytest.raises(InputError, match=r"input b has shape \[2\]"):
            session.run({"a": ones, "b": ones[:2]})


def test_weights_in_a_file_beside_the_graph(onnx_bytes, make_bundle, tmp_path, classifier, image):
    proto = onnx.load_from_string(onnx_bytes())
    onnx.save_model(
        proto,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="model.data",
        size_threshold=60,  # the axes must stay: shape inference reads them
    )
    extra = "graphs/forward/onnx/model.data"
    files = {
        FILE: (tmp_path / "model.onnx").read_bytes(),
        extra: (tmp_path / "model.data").read_bytes(),
    }
    path = make_bundle(files, artifact(extra=(extra,)))
    with load(path, "onnxruntime", threads=1) as session:
        np.testing.assert_allclose(
            session.run({"image": image})["logits"], classifier(image), rtol=1e-4, atol=1e-5
        )
    damaged = bytearray(files[extra])
    damaged[0] ^= 1
    (path / extra).write_bytes(damaged)
    with pytest.raises(BundleError, match=r"model\.data.*checksum"):
        load(path, "onnxruntime")
    path = make_bundle({FILE: files[FILE]}, artifact(), name="without")
    with pytest.raises(BundleError, match="onnxruntime refuses"):
        load(path, "onnxruntime")


def half_precision() -> onnx.ModelProto:
    weight = np.random.default_rng(4).standard_normal((8, 3, 3, 3)).astype(np.float16)
    return model(
        [helper.make_node("Conv", ["image", "w"], ["logits"])],
        [("image", TensorProto.FLOAT16, [1, 3, 8, 8])],
        [("logits", TensorProto.FLOAT16, [1, 8, 6, 6])],
        [(weight, "w")],
    )


def test_the_precision_that_is_really_used(make_bundle, tmp_path):
    """The optimised graph shows whether the convolution runs between casts."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    data = half_precision().SerializeToString()
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    specs = (
        TensorSpec(name="image", dtype="float16", shape=(1, 3, 8, 8)),
        TensorSpec(name="logits", dtype="float16", shape=(1, 8, 6, 6)),
    )
    path = make_bundle(
        {FILE: data}, artifact(precision="fp16"), inputs=specs[:1], outputs=specs[1:]
    )
    with load(path, "onnxruntime") as session:
        casts = operators.count("Cast")
        assert session.effective_precision == ("fp32 (fp16 weights)" if casts else "fp16 + fp32")
        x = np.ones((1, 3, 8, 8), np.float16)
        assert session.run({"image": x})["logits"].dtype == np.float16


def test_an_operator_without_a_kernel(make_bundle):
    weight = helper.make_tensor("w", TensorProto.BFLOAT16, [4, 3, 3, 3], np.zeros(108))
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.BFLOAT16),
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("Cast", ["y"], ["logits"], to=TensorProto.FLOAT),
    ]
    proto = model(
        nodes,
        [("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [("logits", TensorProto.FLOAT, None)],
        [weight],
        opset=22,
    )
    path = make_bundle({FILE: proto.SerializeToString()}, artifact(precision="bf16"))
    with pytest.raises(UnsupportedError, match=r"Conv\(22\)"):
        load(path, "onnxruntime")


def test_values_that_the_graph_cannot_take(make_bundle, capfd):
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    proto = model(
        [helper.make_node("Gather", ["table", "ids"], ["rows"])],
        [("ids", TensorProto.INT64, [2])],
        [("rows", TensorProto.FLOAT, [2, 2])],
        [(table, "table")],
    )
    path = make_bundle(
        {FILE: proto.SerializeToString()},
        artifact(),
        inputs=(TensorSpec(name="ids", dtype="int64", shape=(2,)),),
        outputs=(TensorSpec(name="rows", dtype="float32", shape=(2, 2)),),
    )
    with load(path, "onnxruntime") as session:
        np.testing.assert_array_equal(session.run({"ids": np.array([2, 0])})["rows"], table[[2, 0]])
        with pytest.raises(InputError, match="indices element out of data bounds"):
            session.run({"ids": np.array([0, 3])})


def test_names_must_be_those_of_the_manifest(onnx_bytes, make_bundle):
    wrong = TensorSpec(name="picture", dtype="float32", shape=(1, 3, SIDE, SIDE))
    path = make_bundle({FILE: onnx_bytes()}, artifact(), inputs=(wrong,))
    with pytest.raises(BundleError, match=r"does not fit the manifest.*image.*picture"):
        load(path, "onnxruntime")


def test_threads_and_spinning_reach_the_runtime(onnx_bytes, make_bundle):
    path = make_bundle({FILE: onnx_bytes()}, artifact())
    with Bundle.open(path) as bundle:
        graph = bundle.graph()
        session = OnnxRuntimeSession(bundle, graph, graph.artifacts[0], 2, spinning=False)
        options = session._session.get_session_options()
        assert options.intra_op_num_threads == 2
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert session._session.get_providers() == ["CPUExecutionProvider"]
