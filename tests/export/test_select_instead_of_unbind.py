"""The pass that takes the parts of a tensor of dynamic size by index."""

import pytest

torch = pytest.importorskip("torch")

from edgekit.export.passes.select_instead_of_unbind import SelectInsteadOfUnbind  # noqa: E402


class Corners(torch.nn.Module):
    """Centre and size to corners; one part is not used."""

    def forward(self, x):
        a, b, _, d = x.unbind(-1)
        return torch.stack([a - d, b + d], dim=-1)


def captured(dynamic):
    shapes = ({0: torch.export.Dim.DYNAMIC(min=1, max=8)},) if dynamic else None
    example = (torch.arange(24.0).reshape(2, 3, 4),)
    program = torch.export.export(Corners().eval(), example, dynamic_shapes=shapes)
    return program.run_decompositions({})


def operators(program):
    return [str(n.target) for n in program.graph.nodes if n.op == "call_function"]


def test_parts_are_taken_by_index():
    before = captured(dynamic=True)
    after = SelectInsteadOfUnbind()(before)
    assert operators(after).count("aten.select.int") == 3
    assert "aten.unbind.int" not in operators(after)
    for count in (1, 5, 8):
        x = torch.randn(count, 3, 4)
        assert torch.equal(after.module()(x), before.module()(x))


def test_fixed_sizes_are_left_alone():
    before = captured(dynamic=False)
    assert operators(SelectInsteadOfUnbind()(before)) == operators(before)
