"""Networks that amplify rounding are held to what fp32 can promise, others to the bound."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgekit.export.conditioning import rounding_noise, widened  # noqa: E402
from edgekit.export.reference import Reference  # noqa: E402
from edgekit.export.samples import Sample  # noqa: E402
from edgekit.models.spec import GraphSpec, InputSpec  # noqa: E402
from edgekit.quant.precision import failures, thresholds  # noqa: E402

SPEC = GraphSpec(inputs=(InputSpec("x", "float32", (1, 64)),))


class Cancelling(nn.Module):
    """A small difference of large numbers: most of fp32's digits are lost."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 64)

    def forward(self, x):
        y = self.fc(x)
        return (y + 3e3).sum(-1, keepdim=True) - 64 * 3e3 + 0 * y


def _reference(module: nn.Module) -> Reference:
    x = np.random.default_rng(0).standard_normal((1, 64), dtype=np.float32)
    with torch.no_grad():
        y = module(torch.from_numpy(x)).numpy()
    return Reference((Sample("x", {"x": x}),), ({"output": y},))


def test_a_sound_network_keeps_its_bounds():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 8)).eval()
    noise = rounding_noise(module, SPEC, _reference(module))
    bounds = thresholds("fp32")
    assert noise.nmse < 1e-12
    assert widened(bounds, noise) == bounds


def test_a_network_that_amplifies_rounding_gets_wider_bounds():
    torch.manual_seed(0)
    module = Cancelling().eval()
    noise = rounding_noise(module, SPEC, _reference(module))
    assert noise.nmse > 1e-9  # or the test would prove nothing
    bounds = thresholds("fp32")
    assert failures(noise, bounds)
    assert not failures(noise, widened(bounds, noise))


def test_the_network_itself_stays_fp32():
    module = nn.Sequential(nn.Linear(64, 8)).eval()
    rounding_noise(module, SPEC, _reference(module))
    assert next(module.parameters()).dtype == torch.float32


def test_a_network_that_does_not_run_in_fp64_is_not_judged_by_it():
    class Single(nn.Module):
        def forward(self, x):
            return x @ torch.ones(64, 2)

    module = Single()
    assert rounding_noise(module, SPEC, _reference(module)) is None
