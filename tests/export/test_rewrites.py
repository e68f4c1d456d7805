"""Rewrites of what a target lacks: the operator is gone, and the numbers are the same."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgekit.export.passes import Decompose, RewriteAttention, RewriteCol2im  # noqa: E402
from edgekit.export.passes.choose_from_tensors import ChooseFromTensors  # noqa: E402
from edgekit.export.passes.rewrite_for_coreml import rewrite_for_coreml  # noqa: E402
from edgekit.export.passes.split_before_view import SplitBeforeView  # noqa: E402

aten = torch.ops.aten


def _count(program, *operators):
    return sum(node.target in operators for node in program.graph.nodes)


def _run(program, *inputs):
    with torch.no_grad():
        return program.module()(*inputs)[0]


class Windowed(nn.Module):
    """Attention over (batch, heads, windows, length, features)."""

    def __init__(self, masked: bool = False, scale: float | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.mask = nn.Parameter(torch.randn(3, 1, 1, 6, 6)) if masked else None

    def forward(self, x):
        mask = None if self.mask is None else self.mask.transpose(0, 1)[0]
        return nn.functional.scaled_dot_product_attention(
            x, x * 0.5, x + 1, attn_mask=mask, scale=self.scale
        )


@pytest.mark.parametrize("options", [{}, {"masked": True}, {"scale": 0.3}])
def test_attention_of_another_rank_becomes_products(captured, options):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 6, 8)
    net = Windowed(**options)
    before = Decompose()(captured(net, (x,)).exported)
    assert _count(before, aten.scaled_dot_product_attention.default) == 1
    after = RewriteAttention()(before)
    assert _count(after, aten.scaled_dot_product_attention.default) == 0
    torch.testing.assert_close(_run(after, x), net(x), atol=1e-6, rtol=1e-5)


def test_attention_of_the_usual_rank_stays_one_operator(captured):
    x = torch.randn(2, 3, 6, 8)
    after = RewriteAttention()(Decompose()(captured(Windowed(), (x,)).exported))
    assert _count(after, aten.scaled_dot_product_attention.default) == 1


def test_causal_attention_of_another_rank_is_left_alone(captured):
    class Causal(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)

    x = torch.randn(2, 6, 8)
    after = RewriteAttention()(Decompose()(captured(Causal(), (x,)).exported))
    assert _count(after, aten.scaled_dot_product_attention.default) == 1


@pytest.mark.parametrize(
    ("size", "kernel", "dilation", "padding", "stride"),
    [
        ((8, 10), (3, 3), (1, 1), (1, 1), (2, 2)),  # overlap, and a remainder of 1
        ((9, 7), (3, 2), (1, 1), (0, 1), (1, 1)),
        ((9, 9), (2, 3), (2, 1), (1, 0), (3, 2)),
        ((8, 8), (2, 2), (1, 1), (0, 0), (2, 2)),  # no overlap
    ],
)
def test_overlapping_patches_are_a_transposed_convolution(
    captured, size, kernel, dilation, padding, stride
):
    fold = nn.Fold(size, kernel, dilation, padding, stride)
    unfold = nn.Unfold(kernel, dilation, padding, stride)
    patches = torch.randn_like(unfold(torch.zeros(2, 5, *size)))
    before = Decompose()(captured(fold, (patches,)).exported)
    assert _count(before, aten.col2im.default) == 1
    after = RewriteCol2im()(before)
    assert _count(after, aten.col2im.default) == 0
    torch.testing.assert_close(_run(after, patches), fold(patches), atol=1e-5, rtol=1e-5)


class Projection(nn.Module):
    """q, k and v of one projection over windows: six dimensions on the way."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.order = order

    def forward(self, x):
        parts = self.qkv(x).reshape(x.shape[0], 5, 2, 3, 2, 4).permute(self.order)
        q, k, v = parts.unbind(0)
        return q + 2 * k - 3 * v


@pytest.mark.parametrize("order", [(3, 0, 4, 2, 1, 5), (3, 0, 4, 1, 2, 5), (3, 5, 1, 0, 2, 4)])
def test_core_ml_sees_no_more_than_five_dimensions(captured, order):
    x = torch.randn(1, 10, 8)
    net = Projection(order)
    before = Decompose()(captured(net, (x,)).exported)
    after = SplitBeforeView()(before)
    ranks = [
        node.meta["val"].dim()
        for node in after.graph.nodes
        if isinstance(node.meta.get("val"), torch.Tensor)
    ]
    assert max(ranks) == 5
    torch.testing.assert_close(_run(after, x), net(x), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(_run(rewrite_for_coreml(before), x), net(x), atol=1e-6, rtol=1e-5)


def test_a_view_of_five_dimensions_is_left_alone(captured):
    class Plain(nn.Module):
        def forward(self, x):
            q, k = x.reshape(1, 5, 2, 2, 4).permute(3, 0, 1, 2, 4).unbind(0)
            return q - k

    before = Decompose()(captured(Plain(), (torch.randn(1, 10, 8),)).exported)
    after = SplitBeforeView()(before)
    assert [str(n.target) for n in after.graph.nodes] == [str(n.target) for n in before.graph.nodes]


class Choosing(nn.Module):
    """Choices between numbers, of a number and a row, and of two whole tensors."""

    def forward(self, x):
        low = torch.finfo(x.dtype).min
        seen = torch.where(x > 0, torch.zeros(()), low)
        either = torch.where(x > 0, x[:1], torch.ones(()))
        return (
            torch.where(x > 1, 2.0, -3.0),
            torch.softmax(seen, -1),
            either,
            torch.where(x > 0, x, -x),
        )


def test_a_choice_between_numbers_has_the_shape_of_its_condition(captured):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 1  # no row of which all is masked
    before = captured(Choosing(), (x,), {"x": {0: (1, 8)}}).exported
    after = ChooseFromTensors()(before)
    for node in after.graph.nodes:
        if node.target is aten.where.self:
            assert all(option.meta["val"].dim() == 2 for option in node.args)
    assert _count(after, aten.where.ScalarOther, aten.where.Scalar, aten.where.ScalarSelf) == 0
    for rows in (3, 5):
        some = torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows))
        some[:, 0] = 1
        for found, wanted in zip(after.module()(some), Choosing()(some), strict=True):
            assert torch.equal(found, wanted)


def test_a_choice_between_whole_tensors_is_left_alone(captured):
    class Whole(nn.Module):
        def forward(self, x):
            return torch.where(x > 0, x, -x)

    before = captured(Whole(), (torch.randn(3, 4),)).exported
    after = ChooseFromTensors()(before)
    assert [node.target for node in after.graph.nodes] == [
        node.target for node in before.graph.nodes
    ]
