"""What XNNPACK lacks, written with what it has: the same numbers, and one delegate."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from edgekit.export.passes import Decompose, RemoveDeadCode  # noqa: E402
from edgekit.export.passes.cast_precision import cast_precision  # noqa: E402
from edgekit.export.passes.expand_attention import ExpandAttention  # noqa: E402
from edgekit.export.passes.flatten_matmul import FlattenMatmul  # noqa: E402
from edgekit.export.passes.normalize_by_means import NormalizeByMeans  # noqa: E402
from edgekit.export.passes.repeat_by_broadcast import RepeatByBroadcast  # noqa: E402
from edgekit.export.passes.rewrite_for_xnnpack import rewrite_for_xnnpack  # noqa: E402
from edgekit.export.passes.slice_instead_of_split import SliceInsteadOfSplit  # noqa: E402
from edgekit.export.program import module_path, source_line  # noqa: E402

from .graphs import assert_same, operators, values  # noqa: E402
from .nets import settle  # noqa: E402

aten = torch.ops.aten
MAP = (2, 6, 5, 4)


class Function(nn.Module):
    """A function of one tensor."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def decomposed(captured, module, inputs, dynamic=None):
    return Decompose()(captured(module.eval(), inputs, dynamic).exported)


def rewritten(captured, step, function, inputs, dynamic=None):
    return step()(decomposed(captured, Function(function), inputs, dynamic))


def affine(norm):
    """A norm that scales and shifts by something."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for tensor in norm.parameters():
            tensor.uniform_(0.5, 1.5)
    return norm.eval()


@pytest.mark.parametrize("module", [nn.GroupNorm(1, 6), nn.GroupNorm(1, 6, affine=False)])
def test_group_norm_becomes_means(captured, module):
    module = affine(module)
    program = decomposed(captured, module, torch.zeros(MAP))
    result = NormalizeByMeans()(program)
    assert aten.group_norm.default not in operators(result)
    assert operators(result).count(aten.mean.dim) == 2
    assert_same(result, module, 3 * torch.randn(MAP) + 2)


@pytest.mark.parametrize(
    ("module", "shape"),
    [(nn.LayerNorm(7, eps=1e-3), (2, 3, 7)), (nn.LayerNorm(7, bias=False), (2, 7))],
)
def test_layer_norm_becomes_means(captured, module, shape):
    module = affine(module)
    result = NormalizeByMeans()(decomposed(captured, module, torch.zeros(shape)))
    assert aten.layer_norm.default not in operators(result)
    assert_same(result, module, 3 * torch.randn(shape) + 2)


def test_a_large_mean_does_not_cancel(captured):
    module = affine(nn.GroupNorm(1, 6))
    result = NormalizeByMeans()(decomposed(captured, module, torch.zeros(MAP)))
    x = torch.randn(MAP) + 300
    with torch.no_grad():
        theirs = module(x)
        exact = copy.deepcopy(module).double()(x.double())
    ours = values(result, x)[0]
    assert (ours - exact).abs().max() < 4 * (theirs - exact).abs().max() + 1e-6


def test_norms_of_equal_width_share_their_weights(captured):
    module = nn.Sequential(nn.GroupNorm(1, 6), nn.ReLU(), nn.GroupNorm(1, 6))
    result = NormalizeByMeans()(decomposed(captured, module, torch.zeros(MAP)))
    assert len(result.constants) == 2  # the mean's weights, and eps
    assert_same(result, module, torch.randn(MAP))


def test_norms_keep_name_module_and_line(captured):
    program = decomposed(captured, nn.Sequential(nn.GroupNorm(1, 6)), torch.zeros(MAP))
    before = next(n for n in program.graph.nodes if n.target is aten.group_norm.default)
    after = {n.name: n for n in NormalizeByMeans()(program).graph.nodes}
    assert after[before.name].target is aten.conv2d.default
    made = [n for n in after.values() if n.op == "call_function"]
    assert {module_path(n) for n in made} == {module_path(before)} == {"0"}
    assert {source_line(n) for n in made} == {source_line(before)}


def test_a_map_of_dynamic_size_is_normalised_at_every_size(captured):
    module = affine(nn.GroupNorm(1, 6))
    program = decomposed(captured, module, torch.zeros(MAP), {"x": {2: (2, 9)}})
    result = NormalizeByMeans()(program)
    assert aten.group_norm.default not in operators(result)
    for height in (2, 9):
        assert_same(result, module, torch.randn(2, 6, height, 4))


@pytest.mark.parametrize(
    ("module", "shape"),
    [(nn.GroupNorm(2, 6), MAP), (nn.GroupNorm(1, 6), MAP[:3]), (nn.LayerNorm((5, 4)), MAP)],
)
def test_other_norms_are_left_alone(captured, module, shape):
    program = decomposed(captured, module, torch.zeros(shape))
    assert operators(NormalizeByMeans()(program)) == operators(program)


def test_norms_in_sixteen_bits_are_left_alone(captured):
    program = cast_precision(captured(nn.GroupNorm(1, 6).eval(), torch.zeros(MAP)), "fp16")
    assert aten.group_norm.default in operators(NormalizeByMeans()(program.exported))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.split(2, dim=1)[2] - x.split([1, 5], dim=1)[0],
        lambda x: x.split([3, 1], -1)[0] * x.split([3, 1], -1)[1],
        lambda x: x.chunk(2, 2)[1] + 1,
        lambda x: x.unbind(1)[4] * x.unbind(-1)[2][:, :5].sum(),
        lambda x: x.permute(2, 0, 1, 3).unbind()[1] + 1,
    ],
)
def test_parts_are_sliced(captured, function):
    result = rewritten(captured, SliceInsteadOfSplit, function, torch.zeros(MAP))
    assert not {str(op) for op in operators(result) if "split" in str(op) or "unbind" in str(op)}
    x = torch.randn(MAP)
    assert torch.equal(values(result, x)[0], function(x))


def test_a_split_of_dynamic_size_is_left_alone(captured):
    def function(x):
        a, b = x.split(3, 1)
        return a * b

    dynamic = {"x": {0: (1, 4)}}
    program = decomposed(captured, Function(function), torch.zeros(MAP), dynamic)
    assert operators(SliceInsteadOfSplit()(program)) == operators(program)


def test_stacks_of_products_have_one_batch_axis(captured):
    def function(x):
        return x @ x.transpose(-1, -2)

    result = rewritten(captured, FlattenMatmul, function, torch.zeros(MAP))
    assert aten.bmm.default in operators(result)
    assert aten.matmul.default not in operators(result)
    x = torch.randn(MAP)
    torch.testing.assert_close(values(result, x)[0], function(x))


@pytest.mark.parametrize(
    ("function", "shape", "dynamic"),
    [
        (lambda x: x @ x[:1].transpose(-1, -2), MAP, None),  # broadcasts
        (lambda x: x @ x.transpose(-1, -2), MAP[1:], None),  # is one stack already
        (lambda x: x @ x.transpose(-1, -2), MAP, {"x": {0: (1, 4)}}),
    ],
)
def test_other_products_are_left_alone(captured, function, shape, dynamic):
    program = decomposed(captured, Function(function), torch.zeros(shape), dynamic)
    assert aten.matmul.default in operators(program)
    assert operators(FlattenMatmul()(program)) == operators(program)


def test_attention_is_written_out(captured):
    def function(x):
        return functional.scaled_dot_product_attention(x, x + 1, x * 2, scale=0.3)

    result = rewritten(captured, ExpandAttention, function, torch.zeros(MAP))
    assert operators(result).count(aten.matmul.default) == 2
    assert aten.scaled_dot_product_attention.default not in operators(result)
    x = torch.randn(MAP)
    torch.testing.assert_close(values(result, x)[0], function(x))


def test_heads_are_put_together_after_attention(captured):
    def function(x):
        mixed = functional.scaled_dot_product_attention(x, x, x)
        return mixed.transpose(1, 2).reshape(2, 5, 24)

    program = decomposed(captured, Function(function), torch.zeros(MAP))
    x = torch.randn(MAP)
    result = values(rewrite_for_xnnpack(program), x)[0]
    torch.testing.assert_close(result, function(x))


@pytest.mark.parametrize(
    "options", [{"is_causal": True}, {"attn_mask": torch.tril(torch.ones(5, 5)).bool()}]
)
def test_masked_attention_is_left_alone(captured, options):
    module = Function(lambda x: functional.scaled_dot_product_attention(x, x, x, **options))
    program = decomposed(captured, module, torch.zeros(MAP))
    assert operators(ExpandAttention()(program)) == operators(program)


@pytest.mark.parametrize("factors", [(2, 2), (3, 1), (1, 4)])
def test_pixels_are_repeated_exactly(captured, factors):
    height, width = (size * factor for size, factor in zip(MAP[2:], factors, strict=True))

    def function(x):
        return functional.interpolate(x, size=(height, width), mode="nearest") + 1

    result = rewritten(captured, RepeatByBroadcast, function, torch.zeros(MAP))
    assert not [op for op in operators(result) if "upsample" in str(op)]
    x = torch.randn(MAP)
    assert torch.equal(values(result, x)[0], function(x))


@pytest.mark.parametrize(
    ("options", "dynamic"),
    [
        ({"size": (7, 8), "mode": "nearest"}, None),  # 5 rows do not make 7 by whole steps
        ({"scale_factor": 2.0, "mode": "bilinear"}, None),
        ({"scale_factor": 2.0, "mode": "nearest"}, {"x": {2: (2, 9)}}),
    ],
)
def test_other_upsampling_is_left_alone(captured, options, dynamic):
    module = Function(lambda x: functional.interpolate(x, **options))
    program = decomposed(captured, module, torch.zeros(MAP), dynamic)
    assert operators(RepeatByBroadcast()(program)) == operators(program)


class Block(nn.Module):
    """All that is rewritten, between two convolutions, twice in a row."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(6, 12, 1), nn.Conv2d(4, 6, 1)
        self.norm, self.end = nn.GroupNorm(1, 6), nn.LayerNorm(5)

    def forward(self, x):
        for _ in range(2):
            y = functional.max_pool2d(self.first(self.norm(x)), 2)
            q, k, v = y.reshape(2, 2, 6, 4).split(2, dim=2)
            mixed = v @ torch.softmax(q.transpose(-1, -2) @ k, -1)
            small = self.last(mixed.reshape(2, 4, 2, 2))
            x = x + functional.interpolate(small, scale_factor=2, mode="nearest")
        return self.end(functional.pad(x, (0, 1)))


@pytest.fixture(scope="module")
def block():
    return settle(Block())


def test_the_whole_is_the_same_function_and_has_no_constants(captured, block):
    program = RemoveDeadCode()(decomposed(captured, block, torch.zeros(2, 6, 4, 4)))
    result = rewrite_for_xnnpack(program)
    assert not result.constants
    assert_same(result, block, torch.randn(2, 6, 4, 4))


def test_executorch_keeps_it_in_one_piece(captured, block, tmp_path):
    pytest.importorskip("executorch")
    from edgekit.export.targets.executorch import ExecuTorchTarget

    program = captured(block, torch.zeros(2, 6, 4, 4))
    lowered = ExecuTorchTarget().lower(program, "fp32", tmp_path)
    assert lowered.details["undelegated"] == {}
    assert lowered.details["partitions"] == 1


class Fixed(nn.Module):
    """A one-dimensional convolution whose weight no checkpoint holds, and a gain of odd strides."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.randn(4, 1, 5), persistent=False)
        self.register_buffer("gain", torch.randn(4).as_strided((4, 1), (1, 0)), persistent=False)

    def forward(self, x):
        return functional.conv1d(x, self.kernel, stride=2) * self.gain


@pytest.mark.slow
def test_executorch_takes_buffers_that_no_checkpoint_holds(tmp_path):
    pytest.importorskip("executorch")
    from edgekit.export import export

    example = {"x": torch.zeros(1, 1, 32)}
    result = export(Fixed(), ["executorch"], tmp_path / "b", inputs=example, report=False)
    result.raise_for_status()
    assert result.targets[0].graphs[0].verify["metrics"]["nmse"] < 1e-10
