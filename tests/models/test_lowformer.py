"""LowFormer against the keys, shapes and outputs of the official code."""

from pathlib import Path

import pytest
import torch

from edgekit.errors import UsageError
from edgekit.models.lowformer import CONFIGS, build
from edgekit.models.weights import apply_checkpoint

from .official import check_keys, check_outputs

# The configurations whose outputs were recorded; of the others only keys and shapes were.
RECORDED = [name for name in CONFIGS if name not in ("b15", "E2", "b1_ablation4")]


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "golden" / "lowformer"


@pytest.mark.parametrize("variant", CONFIGS)
def test_state_dict_is_the_official_one(folder: Path, variant: str) -> None:
    check_keys(folder, variant, build)


@pytest.mark.parametrize("variant", RECORDED)
def test_outputs_are_the_official_ones(folder: Path, golden, variant: str) -> None:
    check_outputs(folder, variant, build(variant), golden)


@pytest.mark.parametrize("size", [(200, 200), (250, 230), (16, 16), (17, 1), (32, 64)])
@pytest.mark.parametrize("variant", ["b0", "E1", "E3", "b1_ablation4"])
def test_every_size_works(variant: str, size: tuple[int, int]) -> None:
    network = build(variant)
    with torch.inference_mode():
        maps = network.features(torch.zeros(1, 3, *size))
        logits = network.head(maps["stage_final"])
    for stride, tensor in zip(network.backbone.strides, maps.values(), strict=True):
        assert tuple(tensor.shape[2:]) == tuple(-(-side // stride) for side in size)
    assert logits.isfinite().all()


def test_b2_has_two_empty_stages() -> None:
    backbone = build("b2").backbone
    assert backbone.strides == [2, 2, 2, 4, 8]
    assert backbone.channels == [24, 24, 24, 192, 384]


def test_edge_variants_leave_out_what_they_say() -> None:
    def kinds(variant: str) -> set[str]:
        with torch.device("meta"):
            return {type(module).__name__ for module in build(variant).modules()}

    assert "ConvAttention" not in kinds("E1") | kinds("E2")
    assert "ConvAttention" in kinds("E3")
    assert "GroupNorm" not in kinds("E3")
    assert {"ConvAttention", "GroupNorm", "GELU"} <= kinds("b0")


def test_unknown_variant_is_refused() -> None:
    with pytest.raises(UsageError, match="E1"):
        build("E4")


def test_older_checkpoint_keys_are_translated(golden) -> None:
    network = golden.fill(build("E1"))
    state = network.state_dict()
    older = {key.replace("head.", "head.opseq."): value for key, value in state.items()}
    assert set(older) != set(state)
    fresh = build("E1")
    apply_checkpoint(fresh, older, "older.pt")
    assert all(torch.equal(value, state[key]) for key, value in fresh.state_dict().items())
