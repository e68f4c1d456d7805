"""Batch norm goes into the layer before it, and stays where that is not its own."""

import copy

import pytest
import torch
from torch import nn

from edgekit.export.passes import Decompose, FoldBatchNorm, RemoveDeadCode
from edgekit.export.passes.fold_batchnorm import BATCH_NORM

from .graphs import PICTURE, Normalised, assert_close, assert_same, operators, values, weights
from .nets import settle, tiny

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
