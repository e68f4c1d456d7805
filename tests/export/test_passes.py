"""The passes over the common graph: what each rewrites, and what it must not touch."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from edgekit.errors import UnsupportedError
from edgekit.export.locate import cut
from edgekit.export.passes import (
    PIPELINE,
    Decompose,
    FoldBatchNorm,
    FoldConstants,
    Pass,
    PassError,
    RemoveDeadCode,
    RemoveNoops,
    run_pipeline,
)
from edgekit.export.passes.base import in_place_operators
from edgekit.export.passes.cast_precision import cast_precision
from edgekit.export.passes.fold_batchnorm import BATCH_NORM
from edgekit.export.passes.rewrite_for_coreml import rewrite_for_coreml
from edgekit.export.passes.surgery import constant_of, rename_user_inputs, user_inputs

from .graphs import PICTURE, Normalised, assert_same, operators, values, weights
from .nets import Tiny, settle, tiny

aten = torch.ops.aten


class Standardised(nn.Conv2d):
    """Weight standardisation: arithmetic on weights alone."""

    def forward(self, x):
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        spread = self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (spread + 1e-5), self.bias)


def test_arithmetic_on_weights_is_done_once(captured):
    module = settle(Normalised(Standardised(4, 6, 3), nn.BatchNorm2d(6)))
    result = run_pipeline(captured(module, torch.zeros(PICTURE))).exported
    assert operators(result) == [aten.conv2d.default, aten.relu.default]
    assert_same(result, module, torch.randn(PICTURE))


class Table(nn.Module):
    """Positions from ``arange``, as relative position tables make them."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 8))

    def forward(self, x):
        steps = torch.arange(8)
        return x + self.table[(steps[:, None] - steps[None]).abs()].permute(1, 0, 2)[0]


def test_tables_of_positions_become_constants(captured):
    module = Table().eval()
    folded = RemoveDeadCode()(
        FoldConstants()(Decompose()(captured(module, torch.zeros(8)).exported))
    )
    assert operators(folded) == [aten.add.Tensor]
    assert len(weights(folded)) == 1
    assert "folded" in weights(folded)[0]
    assert_same(folded, module, torch.randn(8))


def folded_from(captured, function, x):
    program = Decompose()(captured(Function(function), x).exported)
    return RemoveDeadCode()(FoldConstants()(program))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))

    def forward(self, x):
        return self.function(self.weight, x)


def test_random_numbers_are_drawn_at_every_run(captured):
    folded = folded_from(captured, lambda w, x: x + torch.rand(2, 3), torch.zeros(2, 3))
    assert aten.rand.default in operators(folded)


def test_a_scalar_is_not_traded_for_megabytes(captured):
    # 16 times the weight, and over 64 Ki elements; the sum of the two is small again.
    wide = folded_from(captured, lambda w, x: x + w.repeat(400, 400), torch.zeros(800, 1200))
    assert operators(wide) == [aten.repeat.default, aten.add.Tensor]


def test_a_size_that_is_known_at_run_time_only_is_no_constant(captured):
    module = Function(lambda w, x: x + torch.arange(x.shape[0])[:, None])
    program = captured(module, torch.zeros(3, 3), {"x": {0: (2, 8)}}).exported
    folded = FoldConstants()(Decompose()(program))
    assert any("arange" in str(target) for target in operators(folded))
    assert values(folded, torch.zeros(7, 3))[0][:, 0].tolist() == list(range(7))


def test_growth_up_to_four_times_or_64_ki_elements_is_folded(captured):
    small = folded_from(captured, lambda w, x: x + w.repeat(100, 100).sum(), torch.zeros(2, 3))
    assert operators(small) == [aten.add.Tensor]


def test_an_output_of_the_graph_is_not_folded_away(captured):
    folded = folded_from(captured, lambda w, x: (x + 1, w * 2), torch.zeros(2, 3))
    assert aten.mul.Tensor in operators(folded)
    assert torch.equal(values(folded, torch.zeros(2, 3))[1], torch.arange(6.0).reshape(2, 3) * 2)


def test_a_constant_with_several_results_is_folded(captured):
    x = torch.ones(3)
    folded = folded_from(captured, lambda w, x: x * w.unbind(0)[1], x)
    assert operators(folded) == [aten.mul.Tensor]
    assert torch.equal(values(folded, x)[0], torch.tensor([3.0, 4.0, 5.0]))


def test_unused_weights_go_and_unused_inputs_stay(captured):
    def function(w, x, y):
        w.sum()
        return x * 2

    class Unused(Function):
        def forward(self, x, y):
            return function(self.weight, x, y)

    program = captured(Unused(None), (torch.zeros(3), torch.zeros(2))).exported
    clean = RemoveDeadCode()(program)
    assert operators(clean) == [aten.mul.Tensor]
    assert (weights(clean), dict(clean.state_dict)) == ([], {})
    assert user_inputs(clean) == user_inputs(program) == ["x0", "x1"]


def test_in_place_operators_become_functional(captured):
    class InPlace(nn.Module):
        def forward(self, x):
            y = x.clone()
            y.add_(1).clamp_(min=0)
            y[0] = 5.0
            return nn.functional.relu(y, inplace=True)

    program = captured(InPlace(), torch.zeros(3)).exported
    assert in_place_operators(program)
    result = Decompose()(program)
    assert not in_place_operators(result)
    assert_same(result, InPlace(), torch.tensor([-3.0, -2.0, 4.0]))
    for step in (FoldBatchNorm, FoldConstants):
        with pytest.raises(PassError, match=r"writes in place; run decompose first"):
            step()(program)


class Noops(nn.Module):
    """Eight operators that do nothing, and four that only look so."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        nothing = self.drop(x * 2).clone().view(2, 3).expand(2, 3)[:, 0:3].detach()
        nothing = nn.functional.pad(nothing.reshape(2, 3).to(torch.float32), (0, 0))
        shifted = nn.functional.pad(nothing, (1, -1))
        turned = nothing.t().contiguous().view(2, 3)
        return nothing + shifted, turned.to(torch.float64), x.clone()


def test_what_gives_back_its_input_goes(captured):
    x = torch.arange(6.0).reshape(2, 3)
    program = RemoveNoops()(Decompose()(captured(Noops().eval(), x).exported))
    assert_same(program, Noops().eval(), x)
    names = [str(target).split(".")[1] for target in operators(program)]
    assert "dropout" not in names
    assert {"expand", "slice", "detach", "alias"}.isdisjoint(names)
    # A shift, a copy in another layout, another type, and a copy that is an output.
    assert sum("pad" in name for name in names) == 1
    assert sum(name in ("clone", "contiguous") for name in names) == 2
    assert sum("to" in name for name in names) == 1


def test_layers_that_runtimes_know_stay_whole(captured):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x):
            y = self.linear(self.norm(x))[None, None]
            y = nn.functional.scaled_dot_product_attention(y, y, y)
            return nn.functional.gelu(y)

    result = run_pipeline(captured(settle(Block()), torch.zeros(4, 8))).exported
    kept = {str(target).split(".")[1] for target in operators(result)}
    assert {"layer_norm", "linear", "scaled_dot_product_attention", "gelu"} <= kept


def test_a_pass_that_breaks_its_promise_is_named(captured):
    class Forgetful(Pass):
        name = "forgetful"

        def rewrite(self, program):
            return program

        def ensures(self, program):
            return "nothing was done"

    with pytest.raises(PassError, match="pass forgetful broke its promise: nothing was done"):
        Forgetful()(captured(tiny()).exported)


def test_the_pipeline_tells_its_steps_and_keeps_the_contract(captured):
    program, seen = captured(tiny()), []
    result = run_pipeline(program, seen.append)
    assert seen == [step.name for step in PIPELINE]
    assert (seen[0], seen[-1]) == ("decompose", "remove_dead_code")
    assert seen.index("fold_constants") < seen.index("fold_batchnorm")
    assert replace(result, exported=None) == replace(program, exported=None)
    assert BATCH_NORM not in operators(result.exported)
    assert_same(result.exported, tiny(), torch.randn(1, 3, 16, 16))


class Embedded(nn.Module):
    """Integers and booleans beside floating point."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.register_buffer("order", torch.arange(8))
        self.linear = nn.Linear(8, 4)

    def forward(self, ids, mask):
        x = self.table(ids)[..., self.order] * mask[..., None]
        return self.linear(x), ids + 1


def embedded(captured, dynamic=None):
    inputs = {"ids": torch.ones(2, 3, dtype=torch.int64), "mask": torch.ones(2, 3).bool()}
    return run_pipeline(captured(settle(Embedded()), inputs, dynamic))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_sixteen_bits_inside_and_the_contract_outside(captured, precision, dtype):
    program = embedded(captured)
    cast = cast_precision(program, precision)
    assert (cast.inputs, cast.outputs, cast.precision) == (
        program.inputs,
        program.outputs,
        precision,
    )
    kinds = {tensor.dtype for tensor in constant_of(cast.exported).values()}
    assert kinds == {dtype, torch.int64}
    ids, mask = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[True, False, True]] * 2)
    found, wanted = values(cast.exported, ids, mask), values(program.exported, ids, mask)
    assert [value.dtype for value in found] == [torch.float32, torch.int64]
    assert torch.equal(found[1], wanted[1])
    assert not torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[0], wanted[0], rtol=0.03, atol=0.03)


def test_casting_leaves_the_network_and_the_program_alone(captured):
    module = tiny()
    program = captured(module)
    cast_precision(program, "fp16")
    assert {t.dtype for t in module.parameters()} == {torch.float32}
    assert {t.dtype for t in program.exported.state_dict.values() if t.dim()} == {torch.float32}


def test_casting_keeps_dynamic_axes(captured):
    program = embedded(captured, {"ids": {0: (1, 6)}, "mask": {0: (1, 6)}})
    cast = cast_precision(program, "fp16").exported
    for batch in (1, 6):
        ids = torch.zeros(batch, 3, dtype=torch.int64)
        assert values(cast, ids, ids.bool())[0].shape == (batch, 3, 4)


def test_fp32_is_the_program_itself_and_others_are_cast_once(captured):
    program = captured(tiny())
    assert cast_precision(program, "fp32") is program
    assert cast_precision(program, "bf16") is cast_precision(program, "bf16")
    with pytest.raises(UnsupportedError, match="precision int8 is not available"):
        cast_precision(program, "int8")


def test_a_network_that_states_its_own_types_and_cannot_be_cast_is_refused(captured):
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x.double().exp().float())

    with pytest.raises(UnsupportedError, match="does not trace in fp16"):
        cast_precision(captured(Stubborn(), torch.zeros(1, 3)), "fp16")


def test_inputs_take_any_names(captured):
    class Two(nn.Module):
        def forward(self, a, b):
            return torch.relu(a) - b

    a, b = torch.tensor([-1.0, 5.0]), torch.tensor([2.0, 3.0])
    program = captured(Two(), {"a": a, "b": b}).exported
    for names in (
        ["x", "y"],
        ["b", "a"],
        ["relu", "sub"],
        ["relu", "relu_inner"],
        ["input", "sum"],
        ["a", "b"],
    ):
        renamed = rename_user_inputs(program, names)
        assert user_inputs(renamed) == names
        placeholders = [n.name for n in renamed.graph.nodes if n.op == "placeholder"]
        assert placeholders == names
        assert torch.equal(values(renamed, a, b)[0], torch.tensor([-2.0, 2.0]))
    assert user_inputs(program) == ["a", "b"]


def test_a_cut_computes_the_named_nodes_alone(captured):
    program = run_pipeline(captured(Tiny().eval()))
    x = torch.randn(1, 3, 16, 16)
    part = cut(program, ["conv2d", "relu"])
    assert [spec.name for spec in part.outputs] == ["value_0", "value_1"]
    assert part.outputs[0].shape == (1, 8, 8, 8)
    assert len(constant_of(part.exported)) == 2
    first, second = values(part.exported, x)
    assert torch.equal(second, torch.relu(first))
    assert first.min() < 0
    assert part.inputs == program.inputs


def test_core_ml_is_given_nothing_that_it_does_not_know(captured):
    pytest.importorskip("coremltools")

    class Newer(nn.Module):
        def forward(self, x):
            return torch.special.xlog1py(x.abs(), x.abs()) + torch.diagonal(x)

    module = Newer()
    program = run_pipeline(captured(module, torch.zeros(4, 4))).exported
    ready = rewrite_for_coreml(program)
    assert not {aten.special_xlog1py.default} & set(operators(ready))
    assert user_inputs(ready) == ["x"]
    assert_same(ready, module, torch.randn(4, 4))
