"""Norms over a whole map, read by OpenVINO as the map lies."""

from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ov = pytest.importorskip("openvino")

from torch import nn  # noqa: E402

from edgekit.export.targets.openvino import OpenVinoTarget  # noqa: E402
from edgekit.export.targets.openvino_norm import normalize_in_place  # noqa: E402

MAP = (2, 6, 5, 4)


@pytest.fixture(scope="module")
def converted(captured):
    def make(module, shape=MAP, dynamic=None):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            for tensor in module.parameters():
                tensor.uniform_(0.5, 1.5)
        program = captured(module.eval(), torch.zeros(shape), dynamic)
        return OpenVinoTarget().convert(program)

    return make


def kinds(model):
    return Counter(op.get_type_name() for op in model.get_ordered_ops())


def run(model, x):
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    return ov.Core().compile_model(model, "CPU", hint)([x.numpy()])[0]


def assert_same(model, module, x):
    with torch.no_grad():
        expected = module.double()(x.double()).numpy()
    module.float()
    np.testing.assert_allclose(run(model, x), expected, atol=2e-5 * np.abs(expected).max())


def test_a_norm_over_a_map_loses_its_views(converted):
    module = nn.Sequential(nn.Conv2d(6, 6, 1), nn.GroupNorm(1, 6), nn.Conv2d(6, 6, 1))
    model = converted(module)
    assert kinds(model)["Reshape"] >= 2
    assert normalize_in_place(model) == 1
    assert kinds(model)["Reshape"] == 0
    assert kinds(model)["MVN"] == 1
    assert_same(model, module, 3 * torch.randn(MAP) + 2)


def test_the_result_keeps_the_name_of_the_last_view(converted):
    model = converted(nn.GroupNorm(1, 6, affine=False))
    before = {name for port in model.outputs for name in port.names}
    assert normalize_in_place(model) == 1
    assert {name for port in model.outputs for name in port.names} == before


@pytest.mark.parametrize("axes", [{0: (1, 4)}, {2: (2, 9), 3: (2, 9)}])
def test_dynamic_sizes_are_normalised_at_both_ends(converted, axes):
    module = nn.GroupNorm(1, 6)
    model = converted(module, dynamic={"x": axes})
    assert normalize_in_place(model) == 1
    for end in (0, 1):
        shape = [axes[i][end] if i in axes else size for i, size in enumerate(MAP)]
        assert_same(model, module, torch.randn(shape))


@pytest.mark.parametrize(
    ("module", "shape", "dynamic"),
    [
        (nn.GroupNorm(2, 6), MAP, None),  # a norm a group
        (nn.GroupNorm(1, 6), MAP[:3], None),  # no map
        (nn.LayerNorm(4), MAP, None),
        (nn.InstanceNorm2d(6), MAP, None),  # a norm a channel
    ],
)
def test_other_norms_are_left_alone(converted, module, shape, dynamic):
    model = converted(module, shape, dynamic)
    before = kinds(model)
    assert normalize_in_place(model) == 0
    assert kinds(model) == before
    assert_same(model, module, torch.randn(shape))


def test_the_target_does_it(captured, tmp_path):
    program = captured(nn.GroupNorm(1, 6).eval(), torch.zeros(MAP))
    lowered = OpenVinoTarget().lower(program, "fp32", tmp_path)
    assert lowered.operators["MVN"] == 1
    assert "Reshape" not in lowered.operators
