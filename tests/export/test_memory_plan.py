"""The plan of memory against sums done by hand."""

import torch
from torch import nn

from edgekit.export.memory_plan import MemoryPlan, plan_memory
from edgekit.export.program import Program
from edgekit.manifest import AxisRange, TensorSpec

FLOAT = 4


def program(module, *inputs, dynamic=None):
    shapes = None
    if dynamic:
        shapes = ({0: torch.export.Dim("batch", min=1, max=dynamic)},) * len(inputs)
    exported = torch.export.export(module.eval(), inputs, dynamic_shapes=shapes)
    exported = exported.run_decompositions({})

    def spec(name, tensor):
        shape = (("batch" if dynamic else tensor.shape[0]), *tensor.shape[1:])
        return TensorSpec(name=name, dtype="float32", shape=shape)

    ranges = {"batch": AxisRange(min=1, max=dynamic)} if dynamic else {}
    outputs = (spec("y", module(*inputs)),)
    named = tuple(spec(f"x{i}", tensor) for i, tensor in enumerate(inputs))
    return Program("forward", exported, named, outputs, ranges)


class Residual(nn.Module):
    """Four results of n floats: two are alive beside the kept one at its widest."""

    def forward(self, x):
        kept = x.sin()
        wide = torch.cat([kept.cos(), kept], 1)  # cos (n), wide (2n), kept (n)
        return wide[:, : x.shape[1]] + kept


def test_values_are_counted_from_where_they_are_made_to_their_last_use():
    n = 2 * 6 * FLOAT
    plan = plan_memory(program(Residual(), torch.zeros(2, 6)), 1000)
    # At the concatenation: what sin gave, what cos gave, and the result of both.
    assert plan == MemoryPlan(weights=1000, inputs=n, outputs=n, values=4 * n)
    assert plan.total == 1000 + n + 4 * n
    assert plan.to_json()["total_bytes"] == plan.total


class Views(nn.Module):
    def forward(self, x):
        return x.sin().reshape(-1).view(3, 4).t().contiguous().cos()


def test_a_view_takes_nothing_and_holds_what_it_shows():
    n = 12 * FLOAT
    assert plan_memory(program(Views(), torch.zeros(4, 3)), 0).values == 2 * n


def test_a_dynamic_axis_counts_with_its_largest_size():
    plan = plan_memory(program(Residual(), torch.zeros(2, 6), dynamic=8), 0)
    n = 8 * 6 * FLOAT
    assert (plan.inputs, plan.outputs, plan.values) == (n, n, 4 * n)
