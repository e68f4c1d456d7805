"""From a network to the common graph: its contract, and what cannot be captured."""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.errors import UnsupportedError, UsageError
from edgekit.export import export
from edgekit.export.capture import capture, identifier, output_names
from edgekit.export.program import module_path, source_line
from edgekit.manifest import AxisRange
from edgekit.models.spec import GraphSpec, InputSpec, LoadedModel
from edgekit.runtimes import load

from .nets import Tiny, settle


class Network(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.function(self.linear(x))


class ModelOutput(OrderedDict):
    """As transformers returns: a dictionary that is read by attribute, too."""

    def __init__(self, **values):
        super().__init__(**values)
        self.__dict__.update(values)


X = torch.zeros(2, 3)


def names(program):
    return [spec.name for spec in program.outputs]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda y: y, ["output"]),
        (lambda y: (y, y.sum()), ["output_0", "output_1"]),
        (lambda y: [y, (y + 1, y + 2)], ["output_0", "output_1_output_0", "output_1_output_1"]),
        (lambda y: {"logits": y, "class.token": y + 1}, ["logits", "class_token"]),
        (lambda y: ModelOutput(logits=y, hidden=(y + 1, y + 2)), None),
        (lambda y: (y, None, 3, "text", y + 1), ["output_0", "output_4"]),
        (lambda y: {"lambda": y, "1st": y + 1}, ["lambda_", "_1st"]),
    ],
    ids=["tensor", "tuple", "nested", "dictionary", "model output", "not tensors", "keyword"],
)
def test_outputs_are_named_after_what_the_network_returns(captured, function, expected):
    program = captured(settle(Network(function)), X)
    expected = expected or ["logits", "hidden_output_0", "hidden_output_1"]
    assert names(program) == expected
    assert [spec.dtype for spec in program.outputs] == ["float32"] * len(expected)


def test_a_dataclass_that_torch_knows_is_an_output(captured):
    @dataclass
    class Result:
        boxes: torch.Tensor
        scores: torch.Tensor

    torch.utils._pytree.register_dataclass(Result)
    program = captured(settle(Network(lambda y: Result(y, y.sum(-1)))), X)
    assert names(program) == ["boxes", "scores"]
    assert [spec.shape for spec in program.outputs] == [(2, 3), (2,)]


def test_names_may_be_given_and_must_be_as_many(loaded):
    model = loaded(settle(Network(lambda y: (y, y + 1))), X)
    inputs = model.graphs[0].inputs
    program = capture(model, GraphSpec(inputs=inputs, outputs=("boxes", "the scores")))
    assert names(program) == ["boxes", "the_scores"]
    with pytest.raises(UsageError, match="returns 2 tensors: 1 names were given"):
        capture(model, GraphSpec(inputs=inputs, outputs=("boxes",)))


def test_a_network_without_tensors_to_give_is_refused(captured):
    with pytest.raises(UsageError, match="returns no tensor: it returned int"):
        captured(Network(lambda y: 3), X)
    with pytest.raises(UsageError, match="returns no tensor"):
        output_names(None, ())


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("input.1", "input_1"),
        ("class", "class_"),
        ("0", "_0"),
        ("a b-c", "a_b_c"),
        ("größe", "gr__e"),
        ("", "_"),
        ("fine_1", "fine_1"),
    ],
)
def test_names_become_identifiers(name, clean):
    assert identifier(name) == clean


class Typed(nn.Module):
    """Integers, booleans and floating point, of several shapes."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids, mask, scale):
        chosen = self.table(ids) * scale * mask[..., None]
        return {"chosen": chosen, "count": mask.sum(), "next": ids + 1, "any": mask.any()}


TYPED = {
    "ids": InputSpec("ids", "int64", (2, 3), high=10),
    "mask": InputSpec("mask", "bool", (2, 3)),
    "scale": InputSpec("scale", "float32", (1,)),
}


def typed(order="ids mask scale"):
    inputs = tuple(TYPED[name] for name in order.split())
    return LoadedModel("typed", "typed", settle(Typed()), (GraphSpec(inputs=inputs),), "")


def test_types_and_shapes_are_in_the_contract():
    program = capture(typed(), typed().graphs[0])
    assert [(s.name, s.dtype, s.shape) for s in program.inputs] == [
        ("ids", "int64", (2, 3)),
        ("mask", "bool", (2, 3)),
        ("scale", "float32", (1,)),
    ]
    assert [(s.name, s.dtype, s.shape) for s in program.outputs] == [
        ("chosen", "float32", (2, 3, 4)),
        ("count", "int64", ()),
        ("next", "int64", (2, 3)),
        ("any", "bool", ()),
    ]


def test_inputs_named_like_the_parameters_go_by_keyword():
    model = typed("scale ids mask")
    program = capture(model, model.graphs[0])
    assert [spec.name for spec in program.inputs] == ["scale", "ids", "mask"]
    found = program.exported.module()(
        torch.ones(1), torch.tensor([[1, 2, 3]] * 2), torch.tensor([[True, False, True]] * 2)
    )
    assert found[1] == 4


def test_inputs_of_other_names_go_by_position(loaded):
    class Difference(nn.Module):
        def forward(self, input, other):
            return input - other

    program = capture(
        model := loaded(Difference(), {"input.1": X, "lambda": X + 1}), model.graphs[0]
    )
    assert [spec.name for spec in program.inputs] == ["input_1", "lambda_"]
    assert torch.equal(program.exported.module()(X, X + 1)[0], X - 1)


def test_inputs_may_be_called_like_anything(tmp_path):
    class Named(nn.Module):
        def forward(self, x, y):
            return torch.relu(x).sum(-1) + y.sum()

    # `input` is one of Python's builtins, `relu` what the graph's own node is called.
    inputs = {"input": X, "relu": X + 1}
    result = export(Named(), ["onnx"], tmp_path / "b", inputs=inputs, report=False)
    assert (result.ok, result.targets[0].reason) == (True, None)
    with load(tmp_path / "b") as session:
        found = session.run({name: tensor.numpy() for name, tensor in inputs.items()})
    assert found["output"].tolist() == [6, 6]


def test_another_method_than_forward_can_be_a_graph():
    class Encoder(nn.Module):
        def encode(self, x):
            return x * 2

    graph = GraphSpec("encode", (InputSpec("x", "float32", (3,)),), method="encode")
    program = capture(LoadedModel("e", "e", Encoder(), (graph,), ""), graph)
    assert program.name == "encode"
    assert torch.equal(program.exported.module()(torch.ones(3))[0], torch.full((3,), 2.0))


def test_an_output_that_is_called_like_an_input_is_told_apart(tmp_path):
    class Step(nn.Module):
        def forward(self, state):
            return {"state": state + 1}

    result = export(Step(), ["onnx"], tmp_path / "b", inputs={"state": X}, report=False)
    assert [target.reason for target in result.targets] == [None]
    with load(tmp_path / "b", "onnxruntime") as session:
        assert session.run({"state": X.numpy()})["state_out"].tolist() == [[1.0] * 3] * 2


def test_dynamic_axes_get_names_and_ranges():
    model = typed()
    program = capture(model, model.graphs[0], {"ids": {0: (1, 8)}, "mask": {0: (1, 8)}})
    assert program.inputs[0].shape == program.inputs[1].shape == ("ids_0", 3)
    assert program.outputs[0].shape == ("ids_0", 3, 4)
    assert program.outputs[1].shape == ()
    assert program.dynamic == {"ids_0": AxisRange(min=1, max=8)}


def test_axes_that_need_not_agree_have_names_of_their_own(captured):
    class Outer(nn.Module):
        def forward(self, a, b):
            return a[:, None] * b[None], torch.cat([a, b])

    inputs = {"a": torch.zeros(3), "b": torch.zeros(4)}
    program = captured(Outer(), inputs, {"a": {0: (1, 8)}, "b": {0: (2, 5)}})
    assert program.dynamic == {"a_0": AxisRange(min=1, max=8), "b_0": AxisRange(min=2, max=5)}
    assert program.outputs[0].shape == ("a_0", "b_0")
    assert program.outputs[1].shape in (("a_0 + b_0",), ("b_0 + a_0",))


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({"y": {0: (1, 2)}}, "no input y to make dynamic: inputs: x"),
        ({"x": {5: (1, 2)}}, "x has 2 axes"),
        ({"x": {0: (0, 2)}}, "cannot make x:0=0..2 dynamic"),
        ({"x": {0: (4, 2)}}, "cannot make x:0=4..2 dynamic"),
    ],
)
def test_an_axis_that_is_not_there_is_refused(captured, dynamic, message):
    with pytest.raises(UsageError, match=message):
        captured(Network(torch.relu), X, dynamic)


def test_an_axis_that_the_network_fixes_cannot_be_dynamic(captured):
    with pytest.raises(UnsupportedError, match=r"cannot capture.*dynamic"):
        captured(Network(torch.relu), X, {"x": {1: (1, 8)}})


def test_control_flow_on_values_cannot_be_captured(captured):
    def branch(y):
        return y + 1 if y.sum() > 0 else y - 1

    with pytest.raises(UnsupportedError, match=r"torch\.export cannot capture") as failure:
        captured(Network(branch), X)
    assert failure.value.exit_code == 4
    assert "without control flow" in failure.value.next_step
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    "inputs", [torch.zeros(2, 7), (X, X), X.long()], ids=["shape", "count", "type"]
)
def test_inputs_that_the_network_does_not_take_are_refused(captured, inputs):
    with pytest.raises(UsageError, match="does not run on inputs of shape") as failure:
        captured(Network(torch.relu), inputs)
    assert failure.value.exit_code == 2
    assert "--input NAME:DTYPE[SHAPE]" in str(failure.value)


def test_two_inputs_that_become_one_name_are_refused(captured):
    class Two(nn.Module):
        def forward(self, a, b):
            return a + b

    with pytest.raises(UsageError, match=r"the inputs in\.1, in_1 cannot be told apart"):
        captured(Two(), {"in.1": X, "in_1": X})


def test_two_outputs_that_become_one_name_are_refused(captured):
    with pytest.raises(UsageError, match=r"the outputs a_b, a_b cannot be told apart"):
        captured(Network(lambda y: {"a.b": y, "a_b": y + 1}), X)


def test_outputs_that_are_nothing_new(tmp_path):
    class Outputs(nn.Module):
        def forward(self, x):
            y = x + 1
            return {"own": x, "one": y, "two": y, "copy": y.clone(), "fixed": torch.arange(3.0)}

    targets = ["onnx", "openvino"]
    result = export(Outputs(), targets, tmp_path / "b", inputs=X[0], report=False)
    assert [(t.status, t.reason) for t in result.targets] == [("ok", None)] * 2
    x = np.arange(3, dtype=np.float32)
    wanted = {key: value.numpy() for key, value in Outputs()(torch.from_numpy(x)).items()}
    for runtime in ("onnxruntime", "openvino"):
        with load(tmp_path / "b", runtime) as session:
            found = session.run({"x": x})
        assert list(found) == list(wanted)
        for name, expected in wanted.items():
            assert np.array_equal(found[name], expected)


def test_nodes_know_their_module_and_source_line(captured):
    program = captured(settle(Tiny()))
    nodes = {node.name: node for node in program.exported.graph.nodes}
    assert module_path(nodes["conv2d"]) == "stem.conv"
    assert module_path(nodes["softmax"]) == "attention"
    path, _, line = source_line(nodes["softmax"]).rpartition(":")
    assert path.endswith("tests/export/nets.py")
    with open(path) as source:
        assert "torch.softmax" in source.readlines()[int(line) - 1]
    assert module_path(nodes["image"]) == source_line(nodes["image"]) == ""
