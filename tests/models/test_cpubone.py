"""CPUBone against the keys, shapes and outputs of the official code."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from edgekit.errors import UsageError
from edgekit.models.cpubone import CONFIGS, CPUBone, CPUBoneConfig, build
from edgekit.models.layers import ConvAttention, ConvLayer
from edgekit.models.weights import apply_checkpoint

from .official import check_keys, check_outputs

# The configurations whose outputs were recorded; of the others only keys and shapes were.
RECORDED = [name for name in CONFIGS if name not in ("s0", "b15", "b2")]


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "golden" / "cpubone"


@pytest.mark.parametrize("variant", CONFIGS)
def test_state_dict_is_the_official_one(folder: Path, variant: str) -> None:
    check_keys(folder, variant, build)


@pytest.mark.parametrize("variant", RECORDED)
def test_outputs_are_the_official_ones(folder: Path, golden, variant: str) -> None:
    check_outputs(folder, variant, build(variant), golden)


# The official code fails at all of these but the last.
@pytest.mark.parametrize(
    "size", [(200, 200), (208, 224), (240, 240), (250, 230), (16, 16), (17, 1), (32, 64)]
)
@pytest.mark.parametrize("variant", ["nano", "b1_grouping_smk_laststages", "lowformer_b0"])
def test_every_size_works(variant: str, size: tuple[int, int]) -> None:
    network = build(variant)
    with torch.inference_mode():
        maps = network.features(torch.zeros(1, 3, *size))
        logits = network.head(maps["stage_final"])
    for index, tensor in enumerate(maps.values()):
        stride = 2 ** (index + 1)
        assert tuple(tensor.shape[2:]) == tuple(-(-side // stride) for side in size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", [(13, 15), (13, 14), (14, 15)])
def test_odd_map_is_attended_as_the_even_map_around_it(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    attention = ConvAttention(96, 2, ConvLayer(96, 96, 2, 2, groups=96, act=False)).eval()
    x = torch.randn(2, 96, *size)
    around = F.pad(x, (0, size[1] % 2, 0, size[0] % 2))
    with torch.inference_mode():
        odd, even = attention(x), attention(around)
    assert odd.shape == x.shape
    torch.testing.assert_close(odd, even[..., : size[0], : size[1]])
    assert odd[..., -1, :].abs().max() > 0, "the last row is computed, not filled"


def test_own_configuration() -> None:
    config = CPUBoneConfig((8, 16, 32, 96, 128), (1, 0, 1, 1, 1), classes=10)
    network = CPUBone(config).eval()
    # An empty stage has no downsampling block, so everything behind it is twice as large.
    assert network.features(torch.zeros(1, 3, 64, 64))["stage_final"].shape == (1, 128, 4, 4)
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 10)


def test_unknown_variant_is_refused() -> None:
    with pytest.raises(UsageError, match="nano"):
        build("b1.5")


def test_older_checkpoint_keys_are_translated(golden) -> None:
    network = golden.fill(build("lowformer_b0"))
    older = {
        key.replace(".conv_proj.conv.", ".conv_proj.0.").replace(
            ".conv_proj.norm.", ".conv_proj.1."
        ): value
        for key, value in network.state_dict().items()
    }
    assert set(older) != set(network.state_dict())
    fresh = build("lowformer_b0")
    apply_checkpoint(fresh, older, "older.pt")
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key


def test_export_of_a_fixed_size_has_no_bookkeeping() -> None:
    program = torch.export.export(build("nano"), (torch.zeros(1, 3, 224, 224),))
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert not [t for t in targets if "slice" in t or "index" in t or "sym_size" in t]
    # Two per 2x2 convolution of stride 1 in stage 4's two blocks, one in stage 3's.
    assert sum("pad" in t for t in targets) == 5


def test_export_with_dynamic_height_and_width(golden) -> None:
    network = golden.fill(build("nano"))
    sides = {2: torch.export.Dim("h", min=33, max=1024), 3: torch.export.Dim("w", min=33, max=1024)}
    example = torch.zeros(1, 3, 224, 224)
    program = torch.export.export(network, (example,), dynamic_shapes=(sides,)).module()
    for size in [(224, 224), (200, 240), (250, 230), (33, 65)]:
        x = golden.input("dynamic", (1, 3, *size))
        with torch.inference_mode():
            torch.testing.assert_close(program(x), network(x), atol=1e-5, rtol=1e-5)
