"""Networks that the tests of the export room put on every target.

The command line reads them as well: ``tests/export/nets.py:tiny``.
"""

import torch
from torch import nn
from torch.nn import functional

SIDE = 16
CLASSES = 5


def settle(module: nn.Module, seed: int = 0) -> nn.Module:
    """Seeded weights, and running statistics that a fresh batch norm does not have."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                part.running_mean.normal_()
                part.running_var.uniform_(0.2, 2.0)
            if hasattr(part, "reset_parameters"):
                for tensor in part.parameters(recurse=False):
                    tensor.uniform_(-0.5, 0.5)
    return module.eval()


class Stem(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


class Attention(nn.Module):
    """One head over the pixels: matrix products, a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 8**0.5
        return torch.softmax(scores, -1) @ x


class Tiny(nn.Module):
    """A picture of 16 x 16 to five logits, by convolution and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem()
        self.attention = Attention()
        self.head = nn.Linear(8, CLASSES)

    def example_inputs(self) -> dict[str, torch.Tensor]:
        return {"image": torch.zeros(1, 3, SIDE, SIDE)}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.stem(image).flatten(2).transpose(1, 2)
        return self.head(functional.gelu(self.attention(tokens)).mean(1))


class Through(nn.Module):
    """A function between two linear layers, in a module called ``inner``."""

    def __init__(self, function) -> None:
        super().__init__()
        self.inner = Around(function)
        self.last = nn.Linear(8, 4)

    def example_inputs(self) -> torch.Tensor:
        return torch.zeros(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(x))


class Around(nn.Module):
    """A function on its own."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def tiny() -> nn.Module:
    """The network that most tests export."""
    return settle(Tiny())


def linear() -> nn.Module:
    """The smallest thing that can be exported."""
    return settle(Through(torch.relu))


def sorting() -> nn.Module:
    """Sorts, which ExecuTorch has no kernel for."""
    return settle(Through(lambda x: torch.sort(x, -1).values))
