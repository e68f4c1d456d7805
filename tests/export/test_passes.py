"""The passes over the common graph: what each rewrites, and what it must not touch."""

import copy
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

from .nets import Tiny, settle, tiny

aten = torch.ops.aten


def operators(program) -> list:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


def weights(program) -> list[str]:
    return sorted(str(spec.target) for spec in program.graph_signature.input_specs if spec.target)


def values(program, *inputs):
    with torch.no_grad():
        found = program.module()(*inputs)
    return found if isinstance(found, tuple | list) else (found,)


def assert_same(program, module, *inputs):
    """The program against the module in double precision."""
    exact = copy.deepcopy(module).double()
    with torch.no_grad():
        wanted = exact(*(x.double() if x.is_floating_point() else x for x in inputs))
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for value, expected in zip(values(program, *inputs), wanted, strict=True):
        assert_close(value, expected)


def assert_close(value, expected):
    assert value.shape == expected.shape
    assert (value - expected).abs().max() <= 1e-5 * expected.abs().max()


class Normalised(nn.Module):
    """A layer and the batch norm after it."""

    def __init__(self, layer, norm):
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, x):
        return torch.relu(self.norm(self.layer(x)))


PICTURE = (2, 4, 7, 7)
FOLDED = {
    "bias": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), PICTURE),
    "no bias": (nn.Conv2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), PICTURE),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), PICTURE),
    "depthwise": (nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8), PICTURE),
    "dilated": (nn.Conv2d(4, 6, 3, dilation=2, bias=False), nn.BatchNorm2d(6), PICTURE),
    "same": (nn.Conv2d(4, 6, 3, padding="same", bias=False), nn.BatchNorm2d(6), PICTURE),
    "1d": (nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6), (2, 4, 9)),
    "3d": (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), (1, 2, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, 2), nn.BatchNorm2d(6), PICTURE),
    "transposed, wide to narrow groups": (
        nn.ConvTranspose2d(4, 6, 3, 2, groups=2, bias=False),
        nn.BatchNorm2d(6),
        PICTURE,
    ),
    "transposed, depthwise": (nn.ConvTranspose2d(4, 4, 2, groups=4), nn.BatchNorm2d(4), PICTURE),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), (2, 4, 9)),
    "linear": (nn.Linear(4, 6), nn.BatchNorm1d(6), (3, 4)),
    "linear without bias": (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), (3, 4)),
    "not affine": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), PICTURE),
    "neither bias nor affine": (
        nn.Conv2d(4, 6, 3, bias=False),
        nn.BatchNorm2d(6, affine=False, eps=0.1),
        PICTURE,
    ),
}


class Bank(nn.Module):
    """All cases side by side, so that capturing them costs once."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(Normalised(layer, norm) for layer, norm, _ in FOLDED.values())

    def forward(self, *inputs):
        return tuple(part(x) for part, x in zip(self.parts, inputs, strict=True))


@pytest.fixture(scope="module")
def bank(captured):
    """Every case's output after folding, what doubles give, and the folded program."""
    module = settle(Bank())
    inputs = [torch.randn(shape) for _, _, shape in FOLDED.values()]
    program = captured(module, tuple(inputs)).exported
    folded = RemoveDeadCode()(FoldBatchNorm()(Decompose()(program)))
    with torch.no_grad():
        wanted = copy.deepcopy(module).double()(*(x.double() for x in inputs))
    return values(folded, *inputs), wanted, folded


@pytest.mark.parametrize("case", FOLDED)
def test_a_batch_norm_goes_into_its_layer(bank, case):
    found, wanted, folded = bank
    index = list(FOLDED).index(case)
    assert_close(found[index], wanted[index])
    assert BATCH_NORM not in operators(folded)
    # One weight and one bias is all that is left to store.
    assert sum(name.startswith(f"model.parts.{index}.") for name in weights(folded)) == 2


def test_two_batch_norms_in_a_row_both_go_in(captured):
    layer = Normalised(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6))
    module = settle(nn.Sequential(layer.layer, layer.norm, nn.BatchNorm2d(6)))
    folded = FoldBatchNorm()(Decompose()(captured(module, torch.zeros(PICTURE)).exported))
    assert BATCH_NORM not in operators(folded)
    assert_same(folded, module, torch.randn(PICTURE))


class Shared(nn.Module):
    """One convolution, two batch norms."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.two(self.conv(self.one(self.conv(x))))


class Tied(Shared):
    """Two convolutions with one weight."""

    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(4, 4, 3, padding=1)
        self.other.weight = self.conv.weight

    def forward(self, x):
        return self.two(self.other(self.one(self.conv(x))))


class SharedNorm(Shared):
    """Two convolutions, one batch norm."""

    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(4, 4, 3, padding=1, bias=False)

    def forward(self, x):
        return self.one(self.other(self.one(self.conv(x))))


class TwoUsers(Shared):
    """The convolution's own result is used, too."""

    def forward(self, x):
        y = self.conv(x)
        return self.one(y) + y


class Before(Shared):
    """Pre-activation: the batch norm stands before the convolution."""

    def forward(self, x):
        return self.conv(torch.relu(self.one(x)))


class Computed(Shared):
    """The weight is computed from the input."""

    def forward(self, x):
        return self.one(nn.functional.conv2d(x, self.conv.weight * x.mean()))


class Positions(nn.Module):
    """A linear layer over the last axis, a batch norm over the second."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(7, 7), nn.BatchNorm1d(7)

    def forward(self, x):
        return self.norm(self.linear(x[:, 0]))


@pytest.mark.parametrize(
    ("kind", "left"),
    [(Shared, 2), (Tied, 2), (SharedNorm, 2), (TwoUsers, 1), (Before, 1), (Computed, 1)],
)
def test_a_batch_norm_that_is_not_the_layers_own_stays(captured, kind, left):
    module = settle(kind())
    folded = FoldBatchNorm()(Decompose()(captured(module, torch.zeros(PICTURE)).exported))
    assert operators(folded).count(BATCH_NORM) == left
    assert_same(folded, module, torch.randn(PICTURE))


def test_a_batch_norm_over_another_axis_than_the_features_stays(captured):
    module = settle(Positions())
    folded = FoldBatchNorm()(Decompose()(captured(module, torch.zeros(PICTURE)).exported))
    assert BATCH_NORM in operators(folded)
    assert_same(folded, module, torch.randn(PICTURE))


def test_folding_leaves_the_network_and_the_program_alone(captured):
    module = tiny()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    program = Decompose()(captured(module).exported)
    FoldBatchNorm()(program)
    assert BATCH_NORM in operators(program)
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())


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
    assert weights(folded)[0].startswith("folded.")
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
            return self.linear(x.float().exp().to(torch.float32))

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
