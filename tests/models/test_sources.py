"""What a user may type as MODEL, and what becomes of it."""

import json
import sys
from dataclasses import asdict
from importlib.util import find_spec

import numpy as np
import pytest

from edgekit.errors import InputError, MissingBackendError, UsageError
from edgekit.models.sources import SourceOptions, load_model
from edgekit.models.spec import InputSpec

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.export import export  # noqa: E402
from edgekit.export.capture import capture  # noqa: E402
from edgekit.models.sources.python_callable import describe_inputs, from_module  # noqa: E402
from edgekit.models.sources.vision_operators import declare_vision_operators  # noqa: E402
from edgekit.runtimes import load  # noqa: E402

NETWORK = """
import torch
from neighbour import WIDTH

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.linear(x)

def made():
    net = Net()
    net.example_inputs = torch.zeros(1, WIDTH)
    return net

def silent():
    return Net().train()

def wrong():
    return 3

def failing():
    raise RuntimeError("no weights today")

def wants(argument):
    return Net()

number = 3
"""


X = torch.zeros(1, 3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a network in ``net.py`` that imports its neighbour."""
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("net", "neighbour", "edgekit_user_net", "package", "package.inside"):
        sys.modules.pop(name, None)


def shapes(model):
    return {spec.name: (spec.dtype, spec.shape) for spec in model.graphs[0].inputs}


class TestCallable:
    """``PATH.py:CALLABLE`` and ``package.module:CALLABLE``."""

    def test_a_file_may_import_its_neighbours(self, folder, monkeypatch):
        monkeypatch.chdir("/")
        path = list(sys.path)
        model = load_model(f"{folder}/net.py:made")
        assert (model.name, model.weights) == ("made", "as made made them (seed 0)")
        assert shapes(model) == {"x": ("float32", (1, 4))}
        assert sys.path == path

    def test_weights_are_the_same_every_time_and_leave_the_callers_dice_alone(self, folder):
        torch.manual_seed(5)
        before = torch.rand(1)
        torch.manual_seed(5)
        one, two = (load_model("net.py:made").module.linear.weight for _ in range(2))
        assert torch.equal(one, two)
        assert torch.equal(before, torch.rand(1))

    def test_a_module_of_the_working_directory(self, folder):
        (folder / "package").mkdir()
        (folder / "package" / "inside.py").write_text("from net import made\n")
        model = load_model("package.inside:made")
        assert model.source == "package.inside:made"
        assert not model.module.training

    def test_inputs_may_be_stated(self, folder):
        inputs = (InputSpec("x", "float32", (7, 4)),)
        model = load_model("net.py:silent", SourceOptions(inputs=inputs))
        assert shapes(model) == {"x": ("float32", (7, 4))}
        assert not model.module.training
        assert model.recipe == {"inputs": [{**asdict(inputs[0]), "shape": [7, 4]}]}

    def test_a_checkpoint_fills_it(self, folder):
        state = {"linear.weight": torch.ones(2, 4), "linear.bias": torch.zeros(2)}
        save_file(state, folder / "w.safetensors")
        model = load_model("net.py:made", SourceOptions(weights="w.safetensors"))
        assert torch.equal(model.module.linear.weight, torch.ones(2, 4))
        assert (model.weights, model.recipe) == ("w.safetensors", {"weights": "w.safetensors"})
        save_file({"linear.weight": torch.ones(2, 4)}, folder / "half.safetensors")
        with pytest.raises(InputError, match=r"linear\.bias"):
            load_model("net.py:made", SourceOptions(weights="half.safetensors"))

    @pytest.mark.parametrize(
        ("text", "kind", "message"),
        [
            ("gone.py:made", UsageError, "no file gone.py"),
            ("net.py:gone", UsageError, "no callable gone in net.py: there are .*made"),
            ("net.py:number", UsageError, "no callable number"),
            ("net.py:", UsageError, "no callable"),
            ("net.py:wrong", UsageError, "returns int: it must return an nn.Module"),
            ("net.py:failing", InputError, "RuntimeError: no weights today"),
            ("net.py:wants", InputError, "fails when called without arguments"),
            ("net.py:silent", UsageError, "nothing says what net.py:silent takes"),
            ("no.such.module:made", UsageError, "cannot import no.such.module"),
            ("broken.py:made", InputError, "broken.py fails on import: ZeroDivisionError"),
            ("wrong.py:made", InputError, "wrong.py fails on import: SyntaxError"),
            ("lost.py:made", UsageError, "cannot import lost.py: No module named 'nowhere'"),
            ("net.txt:made", UsageError, "cannot import net.txt"),
        ],
    )
    def test_what_cannot_be_had_is_said(self, folder, text, kind, message):
        (folder / "broken.py").write_text("1 / 0\n")
        (folder / "wrong.py").write_text("def\n")
        (folder / "lost.py").write_text("import nowhere\n")
        with pytest.raises(kind, match=message) as failure:
            load_model(text)
        assert "\n" not in str(failure.value)

    def test_resolution_is_for_others(self, folder):
        with pytest.raises(UsageError, match="--resolution is for registry and timm models"):
            load_model("net.py:made", SourceOptions(resolution=(8, 8)))


class TestModule:
    """A network that Python code hands over."""

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (torch.zeros(2, 3), {"x": ("float32", (2, 3))}),
            (
                (torch.zeros(2), torch.ones(3).long()),
                {"x0": ("float32", (2,)), "x1": ("int64", (3,))},
            ),
            ({"a": torch.zeros(1).bool()}, {"a": ("bool", (1,))}),
            (InputSpec("y", "float16", (4,)), {"y": ("float16", (4,))}),
            ([InputSpec("y", "float16", (4,))], {"y": ("float16", (4,))}),
        ],
    )
    def test_example_inputs_in_any_form(self, given, expected):
        found = describe_inputs(given)
        assert {spec.name: (spec.dtype, spec.shape) for spec in found} == expected

    def test_something_else_is_refused(self):
        with pytest.raises(UsageError, match="the example input x is ndarray: a tensor is needed"):
            describe_inputs((np.zeros(3),))

    def test_lightnings_attribute_is_read_too(self):
        network = nn.Linear(3, 2)
        network.example_input_array = torch.zeros(5, 3)
        model = from_module(network, "n", "n", SourceOptions())
        assert shapes(model) == {"x": ("float32", (5, 3))}


class TestExportedProgram:
    """A ``.pt2`` file."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, left, right):
            return self.linear(left) + right

    @pytest.fixture
    def saved(self, tmp_path):
        def save(dynamic=None):
            example = (torch.zeros(2, 3), torch.zeros(2, 2))
            program = torch.export.export(self.Sum().eval(), example, dynamic_shapes=dynamic)
            torch.export.save(program, tmp_path / "sum.pt2")
            return str(tmp_path / "sum.pt2")

        return save

    def test_static(self, saved):
        model = load_model(saved())
        assert shapes(model) == {"left": ("float32", (2, 3)), "right": ("float32", (2, 2))}
        assert (model.name, model.weights, model.graphs[0].dynamic) == ("sum", "in sum.pt2", {})

    def test_dynamic_dimensions_stay_dynamic_and_run(self, saved, tmp_path):
        batch = torch.export.Dim("batch", min=1, max=6)
        model = load_model(saved({"left": {0: batch}, "right": {0: batch}}))
        assert model.graphs[0].dynamic == {"left": {0: (1, 6)}, "right": {0: (1, 6)}}
        result = export(model, ["onnx"], tmp_path / "b", report=False)
        assert (result.ok, result.targets[0].reason) == (True, None)
        with load(tmp_path / "b") as session:
            for size in (1, 6):
                x = np.ones((size, 3), np.float32), np.ones((size, 2), np.float32)
                found = session.run({"left": x[0], "right": x[1]})["output"]
                wanted = model.module(*map(torch.from_numpy, x)).detach().numpy()
                np.testing.assert_allclose(found, wanted, rtol=1e-5)

    def test_keywords_and_positions_as_they_were_captured(self, tmp_path):
        example = {"right": torch.zeros(2, 2)}
        program = torch.export.export(self.Sum().eval(), (torch.zeros(2, 3),), example)
        torch.export.save(program, tmp_path / "sum.pt2")
        stated = (InputSpec("right", "float32", (2, 2)), InputSpec("left", "float32", (2, 3)))
        options = SourceOptions(inputs=stated)
        model = load_model(str(tmp_path / "sum.pt2"), options)
        assert list(shapes(model)) == ["left", "right"]
        captured = capture(model, model.graphs[0]).exported.module()
        left, right = torch.randn(2, 3), torch.randn(2, 2)
        assert torch.equal(captured(left, right)[0], program.module()(left, right=right))

    def test_a_range_without_an_end_gets_one(self, saved):
        axis = {0: torch.export.Dim.AUTO}
        model = load_model(saved({"left": axis, "right": axis}))
        low, high = model.graphs[0].dynamic["left"][0]
        assert 1 <= low <= 2 < high < 1000

    def test_what_is_no_program_is_refused(self, tmp_path, saved):
        (tmp_path / "bad.pt2").write_bytes(b"no archive")
        with pytest.raises(InputError, match=r"cannot read .*bad\.pt2"):
            load_model(str(tmp_path / "bad.pt2"))
        with pytest.raises(InputError, match=r"no file .*gone\.pt2"):
            load_model(str(tmp_path / "gone.pt2"))
        with pytest.raises(UsageError, match=r"has its own weights: --weights cannot"):
            load_model(saved(), SourceOptions(weights="w.safetensors"))
        with pytest.raises(UsageError, match="states its own input sizes"):
            load_model(saved(), SourceOptions(resolution=(8, 8)))


def test_an_onnx_file_is_a_model(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Relu", ["in.1"], ["out"])],
        "g",
        [helper.make_tensor_value_info("in.1", 1, [2, 3])],
        [helper.make_tensor_value_info("out", 1, [2, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "relu.onnx")
    loaded = load_model(str(tmp_path / "relu.onnx"))
    assert loaded.name == "relu"
    x = torch.randn(2, 3)
    found = loaded.module(x)
    found = (
        found[0]
        if isinstance(found, tuple | list)
        else next(iter(found.values()), found)
        if isinstance(found, dict)
        else found
    )
    assert torch.equal(found, torch.relu(x))
    with pytest.raises(UsageError, match="has its own weights"):
        load_model(str(tmp_path / "relu.onnx"), SourceOptions(weights="x.safetensors"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    declare_vision_operators()
    root = tmp_path_factory.mktemp("hf")
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    bert = transformers.BertConfig(**small, vocab_size=50, num_labels=3)
    vit = transformers.ViTConfig(**small, image_size=16, patch_size=8, num_labels=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transformers.BertForSequenceClassification(bert).save_pretrained(root / "bert")
        transformers.ViTForImageClassification(vit).save_pretrained(root / "vit")
    return root


class TestTransformers:
    """``hf:FOLDER``, without a network."""

    def test_a_text_classifier(self, folders, tmp_path):
        model = load_model(f"hf:{folders}/bert")
        assert shapes(model) == {
            "input_ids": ("int64", (1, 16)),
            "attention_mask": ("int64", (1, 16)),
        }
        assert model.graphs[0].inputs[0].high == 50
        assert (model.name, model.weights) == ("bert", "bert (safetensors)")
        result = export(model, ["onnx"], tmp_path / "b", report=False)
        assert (result.ok, result.targets[0].reason) == (True, None)
        ids = np.arange(16, dtype=np.int64)[None]
        mask = (ids < 9).astype(np.int64)
        with torch.no_grad():
            wanted = model.module(torch.from_numpy(ids), torch.from_numpy(mask)).logits.numpy()
        with load(tmp_path / "b") as session:
            found = session.run({"input_ids": ids, "attention_mask": mask})
        np.testing.assert_allclose(found["logits"], wanted, rtol=1e-4, atol=1e-6)

    def test_a_picture_classifier(self, folders, tmp_path):
        model = load_model(f"hf:{folders}/vit")
        assert shapes(model) == {"pixel_values": ("float32", (1, 3, 16, 16))}
        result = export(model, ["onnx"], tmp_path / "b", report=False)
        assert (result.ok, result.targets[0].reason) == (True, None)

    def test_random_weights_are_the_same_every_time_and_not_the_folders(self, folders):
        kept = load_model(f"hf:{folders}/bert").module.classifier.weight
        options = SourceOptions(weights="random")
        one, two = (load_model(f"hf:{folders}/bert", options) for _ in range(2))
        assert one.weights == "random (seed 0)"
        assert torch.equal(one.module.classifier.weight, two.module.classifier.weight)
        assert not torch.equal(one.module.classifier.weight, kept)

    def test_what_is_no_model_is_refused(self, folders, tmp_path):
        with pytest.raises(InputError, match=r"no model at .*: there is no config\.json"):
            load_model(f"hf:{tmp_path}")
        (tmp_path / "config.json").write_text((folders / "bert" / "config.json").read_text())
        with pytest.raises(InputError, match="cannot load the weights of") as failure:
            load_model(f"hf:{tmp_path}")
        assert "--weights random" in str(failure.value)
        assert load_model(f"hf:{tmp_path}", SourceOptions(weights="random")).module
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(InputError, match="cannot read the model"):
            load_model(f"hf:{tmp_path}")
        with pytest.raises(UsageError, match="--weights does not apply to hf: models"):
            load_model(f"hf:{folders}/bert", SourceOptions(weights="w.safetensors"))
        with pytest.raises(UsageError, match="--resolution"):
            load_model(f"hf:{folders}/vit", SourceOptions(resolution=(8, 8)))

    def test_inputs_that_are_not_known_must_be_stated(self, tmp_path):
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
        config = {"model_type": "t5", "architectures": ["T5Model"], "vocab_size": 50, **sizes}
        (tmp_path / "config.json").write_text(json.dumps(config))
        options = SourceOptions(weights="random")
        with pytest.raises(UsageError, match=r"the inputs of hf:.* are not known") as failure:
            load_model(f"hf:{tmp_path}", options)
        assert "--input" in str(failure.value)

    def test_without_transformers_it_says_what_to_install(self, folders, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(MissingBackendError, match=r"edgekit-toolkit\[hf\]"):
            load_model(f"hf:{folders}/bert")


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
class TestTimm:
    """``timm:NAME``, with random weights."""

    def test_a_classifier_with_its_preprocessing_and_labels(self):
        model = load_model("timm:test_resnet")
        size = model.graphs[0].inputs[0].shape
        assert (model.graphs[0].inputs[0].name, size[:2]) == ("image", (1, 3))
        assert (model.weights, model.task.kind) == ("random (seed 0)", "classification")
        assert model.task.params["resolution"] == list(size[2:])
        assert model.assets == {"assets/labels.txt": "imagenet1k.txt"}
        with torch.no_grad():
            assert model.module(torch.zeros(size)).shape == (1, 1000)
        again = load_model("timm:test_resnet").module.state_dict()
        assert all(torch.equal(again[k], v) for k, v in model.module.state_dict().items())

    def test_the_resolution_can_be_chosen(self):
        model = load_model("timm:test_resnet", SourceOptions(resolution=(64, 96)))
        assert model.graphs[0].inputs[0].shape == (1, 3, 64, 96)
        assert model.task.params["resolution"] == [64, 96]
        vit = load_model("timm:test_vit", SourceOptions(resolution=(64, 64)))
        with torch.no_grad():
            assert vit.module(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)

    def test_an_unknown_name_suggests_others(self):
        with pytest.raises(UsageError, match=r"timm has no model resnet51: it has .*resnet"):
            load_model("timm:resnet51")

    def test_a_checkpoint_must_fit(self, tmp_path):
        save_file({"fc.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
        options = SourceOptions(weights=str(tmp_path / "w.safetensors"))
        with pytest.raises(InputError, match=r"missing|unexpected") as failure:
            load_model("timm:test_resnet", options)
        assert "\n" not in str(failure.value)

    def test_without_timm_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr("edgekit.models.sources.timm_model.find_spec", lambda name: None)
        with pytest.raises(MissingBackendError, match="pip install timm"):
            load_model("timm:test_resnet")


class TestRegistry:
    """A name of ``edgekit models``."""

    def test_an_unknown_name_suggests_the_nearest(self):
        with pytest.raises(UsageError, match="cpubone-b0") as failure:
            load_model("cpubone_b0")
        assert failure.value.exit_code == 2

    def test_resolution_changes_the_contract_and_the_preprocessing(self):
        plain = load_model("cpubone-nano", SourceOptions(weights="random"))
        model = load_model("cpubone-nano", SourceOptions("random", resolution=(96, 160)))
        assert model.graphs[0].inputs[0].shape == (1, 3, 96, 160)
        assert model.task.params["resolution"] == [96, 160]
        ratio = plain.task.params["resize"] / min(plain.graphs[0].inputs[0].shape[2:])
        assert model.task.params["resize"] == round(96 * ratio)
        # The figure of the registry is for another size.
        assert (plain.macs is None, model.macs) == (False, None)
        assert model.recipe == {"weights": "random", "resolution": [96, 160]}
        with torch.no_grad():
            assert model.module(torch.zeros(1, 3, 96, 160)).shape == (1, 1000)

    def test_inputs_are_its_own(self):
        options = SourceOptions(inputs=(InputSpec("x", "float32", (1,)),))
        with pytest.raises(UsageError, match="states its own inputs"):
            load_model("cpubone-nano", options)

    def test_a_head_changes_the_contract_and_is_remembered(self):
        model = load_model("cpubone-nano", SourceOptions("random", head="retinanet", classes=3))
        assert model.graphs[0].outputs == ("class_logits", "box_deltas")
        assert model.graphs[0].inputs[0].shape == (1, 3, 512, 512)
        assert model.recipe == {"weights": "random", "head": "retinanet", "classes": 3}
        smaller = load_model("cpubone-nano", SourceOptions(head="features", resolution=(64, 96)))
        assert smaller.graphs[0].inputs[0].shape == (1, 3, 64, 96)
        assert smaller.task.params["resolution"] == [64, 96]

    @pytest.mark.parametrize("options", [{"head": "features"}, {"classes": 3}])
    @pytest.mark.parametrize("text", ["timm:test_resnet", "net.py:made", "net.pt2", "net.onnx"])
    def test_only_its_own_networks_end_otherwise(self, text, options):
        with pytest.raises(UsageError, match="has the head that it comes with"):
            load_model(text, SourceOptions(**options))
