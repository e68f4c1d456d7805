"""ONNX files as networks: whole models against ONNX Runtime, structure, damaged files."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.errors import InputError, UnsupportedError, UsageError  # noqa: E402
from edgekit.models.sources.onnx_module import OnnxModule, load_onnx  # noqa: E402

from .onnx_graphs import (  # noqa: E402
    Case,
    arrays,
    assert_close,
    capture,
    f32,
    i64,
    make_model,
    random,
    run_reference,
    tensors,
    whole,
)

IMAGE = random(1, 4, 9, 11)
X = random(2, 3, 4, 5)

# --- whole models ------------------------------------------------------------------------


class Picture(nn.Module):
    """Convolutions, pooling, a resize to a computed size, group norm, gating."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 5, 2, 2, groups=8), nn.GroupNorm(2, 8), nn.GELU())
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.gate = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, picture):
        x = self.stem(picture)
        y = self.up(nn.functional.max_pool2d(self.deep(x), 3, 1, 1))
        y = nn.functional.interpolate(y, x.shape[-2:], mode="bilinear", align_corners=False)
        x = torch.cat([x, y], 1)
        x, y = x.split(8, 1)
        x = x * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.head(x.mean((2, 3))), y


class Words(nn.Module):
    """Embedding, positions counted from the shape, attention with a causal mask, two layers
    that share a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8), nn.Embedding(16, 8)
        self.norm, self.project = nn.LayerNorm(8), nn.Linear(8, 24)

    def forward(self, ids):
        steps = ids.shape[1]
        x = self.words(ids) + self.places(torch.arange(steps, device=ids.device))
        q, k, v = (
            t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.project(self.norm(x)).chunk(3, -1)
        )
        order = torch.arange(steps, device=ids.device)
        mask = torch.where(order > order.unsqueeze(1), float("-inf"), 0.0)
        weights = torch.softmax(q @ k.transpose(-1, -2) / 2.0 + mask, -1)
        x = x + (weights @ v).transpose(1, 2).flatten(2)
        return x @ self.words.weight.t()


def exported(net: nn.Module, example: torch.Tensor, path: Path, dynamo: bool, **options) -> dict:
    """Export to ``path`` with torch's present or its former exporter; the feeds to run it."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    if dynamo:
        options |= {"external_data": False, "verbose": False}
    else:
        options |= {"opset_version": 13}
    torch.onnx.export(net.eval(), (example,), path, dynamo=dynamo, input_names=["in.1"], **options)
    return {"in.1": example.numpy()}


MODELS = {
    "picture": (Picture, torch.from_numpy(random(1, 3, 17, 20))),
    "words": (Words, torch.from_numpy(whole(1, 7, low=0, high=11))),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "legacy"])
@pytest.mark.parametrize("name", MODELS)
def test_whole_model(name: str, dynamo: bool, tmp_path: Path) -> None:
    kind, example = MODELS[name]
    path = tmp_path / f"{name}.onnx"
    feeds = exported(kind(), example, path, dynamo)
    loaded = load_onnx(path)
    program = capture(loaded.module, feeds)
    expected = run_reference(path.read_bytes(), feeds)
    assert_close(arrays(program.module()(*tensors(feeds))), expected)
    assert_close(arrays(loaded.module(*tensors(feeds))), expected)
    targets = {str(node.target) for node in program.graph.nodes}
    assert "aten.linear.default" in targets
    assert "aten.addmm.default" not in targets
    (graph,) = loaded.graphs
    assert (loaded.name, loaded.weights) == (name, f"onnx file {name}.onnx")
    assert [(i.name, i.shape) for i in graph.inputs] == [("in.1", tuple(example.shape))]
    assert len(graph.outputs) == len(expected)
    if name == "words":
        assert graph.inputs[0].high == 11


@pytest.mark.filterwarnings("ignore")
def test_dynamic_axes_stay_dynamic(tmp_path: Path) -> None:
    path = tmp_path / "words.onnx"
    axes = {"in.1": {0: "batch", 1: "seq_len"}}
    exported(Words(), MODELS["words"][1], path, dynamo=False, dynamic_axes=axes)
    loaded = load_onnx(path, {"in.1": (2, 7)})
    batch, steps = torch.export.Dim("batch", max=8), torch.export.Dim("steps", max=16)
    feeds = {"in.1": whole(2, 7, low=0, high=11)}
    program = capture(loaded.module, feeds, ({0: batch, 1: steps},))
    for shape in ((2, 7), (3, 12), (5, 4)):
        feeds = {"in.1": whole(*shape, low=0, high=11)}
        expected = run_reference(path.read_bytes(), feeds)
        assert_close(arrays(program.module()(*tensors(feeds))), expected)


# --- structure ---------------------------------------------------------------------------


def graph_of(nodes: list, feeds: dict, constants: dict, outputs: list[str], opset: int = 18):
    return OnnxModule(make_model(nodes, feeds, constants, outputs, opset))


def test_names_and_module_path() -> None:
    """Names survive where Python allows them; what is traced knows its ONNX node."""
    nodes = [
        helper.make_node("MatMul", ["in.1", "layer.0.weight"], ["a"], name="/layer.0/MatMul"),
        helper.make_node("Add", ["a", "layer/0/weight"], ["out"], name="/layer.0/MatMul"),
    ]
    constants = {"layer.0.weight": random(4, 5), "layer/0/weight": random(3, 5)}
    module = graph_of(nodes, {"in.1": random(3, 4)}, constants, ["out"])
    names = [name for name, _ in module.named_parameters()]
    assert names == ["layer_0_weight", "layer_0_weight_2"]
    assert list(inspect.signature(module.forward).parameters) == ["in_1"]
    assert torch.equal(module(torch.ones(3, 4)), module(in_1=torch.ones(3, 4)))
    program = capture(module, {"in.1": random(3, 4)})
    stacks = [
        list(node.meta["nn_module_stack"].values())[-1][0]
        for node in program.graph.nodes
        if node.op == "call_function"
    ]
    assert stacks == ["layer_0_MatMul", "layer_0_MatMul_2"]


def test_any_input_names_become_parameters() -> None:
    names = ["a.b", "a_b", "in", "self", "3", "/"]
    nodes = [helper.make_node("Sum", names, ["out"])]
    module = graph_of(nodes, {name: random(2) for name in names}, {}, ["out"])
    assert list(inspect.signature(module.forward).parameters) == [
        "a_b", "a_b_2", "in_", "self_2", "n3", "value",
    ]  # fmt: skip
    assert torch.allclose(module(*[torch.ones(2)] * 6), torch.full((2,), 6.0))


def test_linear_takes_its_bias_only_where_it_may() -> None:
    feeds = {"x": random(2, 3, 4)}
    constants = {"w": random(4, 5), "b": random(5), "v": random(5, 4)}
    product = helper.make_node("MatMul", ["x", "w"], ["a"])
    add = helper.make_node("Add", ["b", "a"], ["c"])

    def linears(nodes: list, outputs: list[str]) -> list[bool]:
        """For each linear node whether it has a bias; the results are checked on the way."""
        model = make_model(nodes, feeds, constants, outputs, 18)
        module = OnnxModule(model)
        assert_close(arrays(module(*tensors(feeds))), run_reference(model, feeds))
        ours = [getattr(module, child).node for child in module.child_names]
        return [len(node.inputs) == 3 for node in ours if node.op == "Linear"]

    assert linears([product, add], ["c"]) == [True]
    assert linears([product, add], ["a", "c"]) == [False]
    assert linears([product, add, helper.make_node("Mul", ["a", "c"], ["d"])], ["d"]) == [False]
    shared = [  # one reader wants w transposed, another one as it is
        product,
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Gemm", ["v", "w"], ["d"], transB=1, transA=1),
        helper.make_node("MatMul", ["c", "v"], ["e"]),
    ]
    shared[2] = helper.make_node("Transpose", ["w"], ["d"])
    assert linears(shared, ["d", "e"]) == [True, False]


def test_constants_under_other_names_are_shared() -> None:
    nodes = [
        helper.make_node("Identity", ["w"], ["w2"]),
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "w2"], ["y"]),
    ]
    module = graph_of(nodes, {"x": random(9, 9)}, {"w": random(9, 9)}, ["y"])
    assert [name for name, _ in module.named_parameters()] == ["w"]


def test_functions_are_inlined() -> None:
    body = [helper.make_node("Mul", ["a", "a"], ["b"]), helper.make_node("Relu", ["b"], ["c"])]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    function = helper.make_function("mine", "Square", ["a"], ["c"], body, opsets[:1])
    model = make_model([helper.make_node("Relu", ["x"], ["y"])], {"x": X}, {}, ["y"], 18)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Square", "mine"
    model.opset_import.append(opsets[1])
    model.functions.append(function)
    assert_close(arrays(OnnxModule(model)(*tensors({"x": X}))), run_reference(model, {"x": X}))


# --- what is refused ---------------------------------------------------------------------


def test_all_unsupported_operators_are_listed() -> None:
    nodes = [
        helper.make_node("NonMaxSuppression", ["b", "s"], ["n"], name="pick boxes"),
        helper.make_node("Unique", ["n"], ["u"]),
        helper.make_node("Relu", ["u"], ["y"], name="fused"),
    ]
    feeds = {"b": random(1, 3, 4), "s": random(1, 1, 3)}
    model = make_model(nodes, feeds, {}, ["y"], 18)
    model.graph.node[2].op_type, model.graph.node[2].domain = "FusedThing", "com.vendor"
    with pytest.raises(UnsupportedError) as caught:
        OnnxModule(model)
    for part in ("NonMaxSuppression (node 'pick boxes')", "Unique (", "com.vendor.FusedThing"):
        assert part in str(caught.value)
    assert caught.value.exit_code == 4


REFUSED = [
    (Case("NonZero", X), "must be known when the model is captured"),
    (Case("Reshape", X, i64(6, 20)), "must be known"),
    (Case("Resize", X, constants=[f32(0, 0, 0, 0, 1, 1, 1, 1), f32(1, 1, 2, 2)],
          coordinate_transformation_mode="tf_crop_and_resize"), "tf_crop_and_resize"),
    (Case("GRU", random(5, 2, 3), constants=[random(1, 12, 3), random(1, 12, 4)], hidden_size=4,
          opset=14), "linear_before_reset"),
    (Case("BatchNormalization", X, constants=[f32(1, 1, 1)] * 4, opset=13, outputs=5),
     "training mode"),
    (Case("MaxPool", X, kernel_shape=[2, 2], pads=[0, 0, 1, 1], outputs=2), "differ"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "why"), REFUSED, ids=lambda value: str(value)[:16])
def test_a_refused_use_names_the_node(case: Case, why: str) -> None:
    module = OnnxModule(case.model())
    with pytest.raises(UnsupportedError, match=f"'the {case.op}' \\({case.op}\\).*{why}"):
        module(*tensors(case.feeds))


def test_wrong_shapes_name_the_node() -> None:
    module = OnnxModule(Case("Conv", IMAGE, constants=[random(6, 4, 3, 3)]).model())
    with pytest.raises(UnsupportedError, match="'the Conv'"):
        module(torch.zeros(1, 5, 9, 9))


@pytest.mark.parametrize("opset", [10, 25])
def test_opsets_out_of_range(opset: int) -> None:
    model = make_model([helper.make_node("Relu", ["x"], ["y"])], {"x": X}, {}, ["y"], 18)
    model.opset_import[0].version = opset
    with pytest.raises(UnsupportedError, match=f"operator set {opset}"):
        OnnxModule(model)


# --- files -------------------------------------------------------------------------------


def relu_file(folder: Path, dims: list, **names) -> Path:
    """A file with one Relu whose input ``x`` has the given sizes or names of sizes."""
    infos = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, d)
        for n, d in {"x": dims, **names}.items()
    ]
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)
    graph = helper.make_graph(nodes, "g", infos, [out])
    path = folder / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


@pytest.mark.parametrize(
    ("dims", "shapes", "shape"),
    [
        (["batch", 3, 8, 8], None, (1, 3, 8, 8)),
        ([None, 3, 8, 8], None, (1, 3, 8, 8)),
        (["s77", 3, 8, 8], None, (1, 3, 8, 8)),
        (["seq", "batch_size", 4], {"x": (5, 2, 4)}, (5, 2, 4)),
        (["N", 3, "H", "W"], {"x": (2, 3, 6, 7)}, (2, 3, 6, 7)),
    ],
)
def test_shapes_are_settled(dims: list, shapes, shape: tuple, tmp_path: Path) -> None:
    (graph,) = load_onnx(relu_file(tmp_path, dims), shapes).graphs
    assert [(i.name, i.dtype, i.shape) for i in graph.inputs] == [("x", "float32", shape)]
    assert graph.outputs == ("y",)


def test_a_named_size_holds_for_all_inputs(tmp_path: Path) -> None:
    path = relu_file(tmp_path, ["batch", "seq_len"], other=["batch", "seq_len"])
    (graph,) = load_onnx(path, {"x": (2, 7)}).graphs
    assert [i.shape for i in graph.inputs] == [(2, 7), (2, 7)]


def test_an_integer_mask_is_all_ones(tmp_path: Path) -> None:
    node = helper.make_node("Cast", ["attention_mask"], ["y"], to=TensorProto.FLOAT)
    path = tmp_path / "mask.onnx"
    onnx.save(make_model([node], {"attention_mask": i64(1, 1)}, {}, ["y"], 18), path)
    (graph,) = load_onnx(path).graphs
    assert (graph.inputs[0].low, graph.inputs[0].high) == (1, 2)


@pytest.mark.parametrize(
    ("dims", "shapes", "message"),
    [
        (["N", 3, "H", 8], None, r"H can be anything.*--input x:float32\[N,3,H,8\]"),
        (["seq_len", 3], None, "seq_len can be anything"),
        ([2, 3], {"z": (2, 3)}, "no input 'z'"),
        ([2, 3], {"x": (2, 3, 1)}, "2 axes"),
        ([2, 3], {"x": (2, 4)}, "an axis is 3"),
        (["a", "a"], {"x": (2, 4)}, "a is 2"),
    ],
)
def test_shapes_that_cannot_be_settled(dims, shapes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load_onnx(relu_file(tmp_path, dims), shapes)


def test_damaged_files(tmp_path: Path) -> None:
    path = relu_file(tmp_path, [1, 2])
    data = path.read_bytes()
    damaged = [b"", b"these are only words", data[: len(data) // 2], data[:-3], b"\0" * 100]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"tiny\.onnx is not a usable ONNX file") as caught:
            load_onnx(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        load_onnx(tmp_path / "absent.onnx")


def test_external_data_stays_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    weight = random(64, 64)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = make_model(nodes, {"x": random(2, 64)}, {"w": weight}, ["y"], 18)
    path, data = folder / "big.onnx", folder / "w.bin"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert np.array_equal(load_onnx(path).module.w.numpy(), weight.T)

    outside = tmp_path / "w.bin"
    outside.write_bytes(data.read_bytes())
    data.unlink()
    with pytest.raises(InputError):  # missing
        load_onnx(path)
    data.symlink_to(outside)
    with pytest.raises(InputError):  # a link
        load_onnx(path)
    data.unlink()
    for location in ("../w.bin", str(outside)):
        proto = onnx.load(path, load_external_data=False)
        next(
            e for e in proto.graph.initializer[0].external_data if e.key == "location"
        ).value = location
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(InputError):
            load_onnx(path)
