"""Sixteen-bit graphs whose constants were folded out of several tensors."""

import pytest

torch = pytest.importorskip("torch")

from edgekit.export.captured import capture_graph  # noqa: E402
from edgekit.export.options import ExportOptions  # noqa: E402
from edgekit.export.passes.cast_precision import cast_precision  # noqa: E402
from edgekit.models.spec import GraphSpec, InputSpec, LoadedModel  # noqa: E402


class Positions(torch.nn.Module):
    """A table that is folded into a constant, and a softmax that states its type."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(8, 4)
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        places = torch.arange(8)
        x = self.linear(x.float() + self.table(places)[None] * 2)
        return torch.softmax(x @ x.mT, -1, dtype=torch.float32).to(x.dtype) @ x


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_folded_constants_are_cast_and_a_stated_type_is_kept(precision, dtype):
    graph = GraphSpec(inputs=(InputSpec("x", "float32", (1, 8, 4)),))
    model = LoadedModel("p", "p", Positions().eval(), (graph,), "random")
    program = capture_graph(model, graph, ExportOptions()).program
    assert program.exported.constants, "something was folded"
    cast = cast_precision(program, precision)
    wide = [
        node.name
        for node in cast.exported.graph.nodes
        if node.op == "call_function"
        and "_to_copy" not in str(node.target)
        and isinstance(value := node.meta.get("val"), torch.Tensor)
        and value.dtype == torch.float32
    ]
    assert wide == ["softmax"], "as the network states; everything else is narrow"
    assert any(
        getattr(node.meta.get("val"), "dtype", None) == getattr(torch, dtype)
        for node in cast.exported.graph.nodes
    )
    x = torch.randn(1, 8, 4)
    got, expected = cast.exported.module()(x), program.exported.module()(x)
    assert torch.allclose(got[0], expected[0], atol=0.2)
    assert all(t.dtype == torch.float32 for t in program.exported.constants.values())


class Rotation(torch.nn.Module):
    """Angles of a position, on a weight's output: as rotary positions are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x, position):
        frequencies = torch.exp(torch.arange(4, dtype=torch.float32) * -0.7)
        angles = position.to(torch.float32) * frequencies
        return self.linear(self.linear(x) * torch.cos(angles) + torch.sin(angles))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_angles_of_thousands_of_radians_are_exact(precision):
    inputs = (InputSpec("x", "float32", (1, 4)), InputSpec("position", "int32", (1,), high=1))
    graph = GraphSpec(inputs=inputs)
    model = LoadedModel("r", "r", Rotation().eval(), (graph,), "random")
    program = capture_graph(model, graph, ExportOptions()).program
    cast = cast_precision(program, precision).exported.module()
    bound = {"fp16": 5e-3, "bf16": 5e-2}[precision]
    for position in (0, 5, 3001, 65_537):  # the last is beyond fp16 as a whole
        given = (torch.ones(1, 4), torch.tensor([position], dtype=torch.int32))
        with torch.no_grad():
            difference = cast(*given)[0] - model.module(*given)
        assert difference.abs().max() < bound
