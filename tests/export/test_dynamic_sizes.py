"""Dynamic height and width: what the rewrites of sizes do, and dense networks on the targets."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgekit import models  # noqa: E402
from edgekit.export import export  # noqa: E402
from edgekit.export.passes import Decompose  # noqa: E402
from edgekit.export.passes.read_sizes import ReadSizes  # noqa: E402
from edgekit.export.passes.slice_instead_of_gather import SliceInsteadOfGather  # noqa: E402
from edgekit.export.passes.upsample_by_scale import UpsampleByScale  # noqa: E402
from edgekit.models.layers import crop  # noqa: E402
from edgekit.runtimes import load  # noqa: E402

aten = torch.ops.aten
SIDES = {"x": {2: (4, 64), 3: (4, 64)}}
UPSAMPLES = (aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec)


class Enlarge(nn.Module):
    """Shrink by a strided convolution, enlarge again, cut to the input's size."""

    def __init__(self, mode: str = "nearest", by: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, stride=by, padding=1)
        self.mode, self.by = mode, by

    def forward(self, x):
        small = self.conv(x)
        size = [n * self.by for n in small.shape[-2:]]
        corners = None if self.mode == "nearest" else False
        large = F.interpolate(small, size=size, mode=self.mode, align_corners=corners)
        return crop(large, *x.shape[-2:])


@pytest.fixture
def dynamic(captured):
    """``dynamic(module)``: captured with dynamic sides, decomposed."""

    def make(module, axes=None):
        return Decompose()(
            captured(module, {"x": torch.zeros(1, 3, 16, 24)}, axes or SIDES).exported
        )

    return make


def nodes(program, *targets):
    return [node for node in program.graph.nodes if node.target in targets]


def run(program, x):
    """The graph on ``x``, without the checks of sizes that a capture adds around it."""
    tensors = {**program.state_dict, **program.constants}
    stored = [tensors[spec.target] for spec in program.graph_signature.input_specs if spec.target]
    with torch.no_grad():
        return torch.fx.Interpreter(program.graph_module).run(*stored, x)[0]


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("by", [2, 3])
def test_a_computed_size_becomes_its_factor(dynamic, mode, by):
    network = Enlarge(mode, by).eval()
    before = dynamic(network)
    after = UpsampleByScale()(before)
    (upsample,) = nodes(after, *UPSAMPLES)
    assert upsample.args[1] is None
    assert upsample.args[-1] == [float(by), float(by)]
    assert nodes(before, *UPSAMPLES)[0].args[1] is not None, "the pass changed its input"
    for size in [(16, 24), (4, 63), (9, 10)]:
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(run(after, x), network(x))


class Stretch(nn.Module):
    def forward(self, x):
        return F.interpolate(x, size=[n + 3 for n in x.shape[-2:]], mode="nearest")


class Fixed(nn.Module):
    def forward(self, x):
        return F.interpolate(x, size=[2 * n for n in x.shape[-2:]], mode="nearest")


def test_sizes_that_are_no_multiple_are_left_alone(dynamic):
    (upsample,) = nodes(UpsampleByScale()(dynamic(Stretch())), *UPSAMPLES)
    assert upsample.args[1] is not None


def test_fixed_sizes_are_left_alone(captured):
    program = Decompose()(captured(Fixed(), {"x": torch.zeros(1, 3, 8, 8)}).exported)
    (upsample,) = nodes(UpsampleByScale()(program), *UPSAMPLES)
    assert list(upsample.args[1]) == [16, 16]


def test_a_gathered_range_becomes_a_slice(dynamic):
    network = Enlarge().eval()
    before = dynamic(network)
    assert len(nodes(before, aten.index_select.default)) == 2
    after = SliceInsteadOfGather()(before)
    assert not nodes(after, aten.index_select.default, aten.arange.default)
    assert len(nodes(after, aten.slice.Tensor)) == 2
    for size in [(16, 24), (5, 63)]:
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(run(after, x), network(x))


class Picks(nn.Module):
    """A range from 1 on, and rows that a buffer names: no slices from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.tensor([1, 0]))

    def forward(self, x):
        later = x.index_select(-1, torch.arange(1, x.shape[-1]))
        return later.index_select(-2, self.rows)


def test_other_gathers_are_left_alone(dynamic):
    network = Picks()
    after = SliceInsteadOfGather()(dynamic(network))
    assert len(nodes(after, aten.index_select.default)) == 2
    x = torch.randn(1, 3, 6, 7)
    torch.testing.assert_close(run(after, x), network(x))


class Attended(nn.Module):
    """Flattens a map whose side is computed, and folds it out again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, x):
        y = self.conv(x)
        n, c, h, w = y.shape
        flat = y.reshape(n, c, h * w)
        return flat.softmax(-1).reshape(n, c, h, w)


def test_computed_sizes_are_read_off_tensors(dynamic):
    network = Attended().eval()
    before = dynamic(network)
    arithmetic = [
        n
        for n in before.graph.nodes
        if n.op == "call_function"
        and isinstance(n.meta["val"], torch.SymInt)
        and n.target is not aten.sym_size.int
    ]
    assert arithmetic, "there is nothing to replace"
    after = ReadSizes()(before)
    left = [n for n in after.graph.nodes if "floordiv" in str(n.target) or "mul" in str(n.target)]
    assert left == []
    for size in [(16, 24), (5, 63)]:
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(run(after, x), network(x))


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("cpubone-nano", "retinanet"),
        ("cpubone-nano", "semantic-fpn"),
        ("lowformer-b0", "features"),
    ],
)
def test_dense_networks_at_dynamic_height_and_width(tmp_path, name, head):
    """Judged at both ends of the range; here also at sizes in between, which nobody chose."""
    pytest.importorskip("openvino")
    result = export(
        name,
        targets=["onnx", "openvino"],
        out=tmp_path / "dense",
        head=head,
        resolution=(64, 64),
        dynamic={"image": {"height": (32, 160), "width": (32, 160)}},
        report=False,
    )
    result.raise_for_status()
    network = models.build(name, head=head)
    for runtime in ("onnxruntime", "openvino"):
        with load(tmp_path / "dense", runtime, threads=1) as session:
            for size in [(96, 128), (50, 71)]:
                x = torch.randn(1, 3, *size)
                with torch.no_grad():
                    expected = network(x)
                expected = expected.values() if isinstance(expected, dict) else [expected]
                found = session.run({"image": x.numpy()})
                for ours, theirs in zip(found.values(), expected, strict=True):
                    wanted = theirs.numpy()
                    assert ours.shape == wanted.shape
                    error = np.square(ours - wanted).sum() / np.square(wanted).sum()
                    assert error < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("head", ["features", "retinanet", "semantic-fpn"])
def test_dense_networks_go_to_every_target(tmp_path, head):
    for package in ("openvino", "executorch", "coremltools", "tensorrt_rtx"):
        pytest.importorskip(package)
    result = export(
        "cpubone-nano",
        targets=["all"],
        out=tmp_path / "dense",
        head=head,
        resolution=(64, 96),
        report=False,
    )
    assert {one.target: one.status for one in result.targets} == dict.fromkeys(
        ("onnx", "openvino", "executorch", "coreml", "tensorrt"), "ok"
    )


@pytest.mark.slow
@pytest.mark.parametrize("head", ["features", "retinanet", "semantic-fpn"])
def test_coreml_takes_dynamic_height_and_width(tmp_path, head):
    pytest.importorskip("coremltools")
    result = export(
        "cpubone-nano",
        targets=["coreml"],
        out=tmp_path / "dense",
        head=head,
        resolution=(64, 64),
        dynamic={"image": {"height": (32, 160), "width": (32, 160)}},
        report=False,
    )
    result.raise_for_status()
