"""Feature pyramids, RetinaNet and Semantic FPN on the two families' backbones."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from edgekit import models
from edgekit.errors import InputError, UsageError
from edgekit.models.counting import count_macs, count_parameters
from edgekit.models.dense_heads import FeaturePyramidNetwork, SemanticHead
from edgekit.models.heads import HEADS, with_head

SIZES = [(64, 64), (96, 160), (70, 45), (33, 65)]
FAMILIES = ["cpubone-nano", "lowformer-e1"]


def sizes(side: int, strides: tuple[int, ...]) -> list[int]:
    return [-(-side // stride) for stride in strides]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_those_of_the_classifier(golden, name: str, size: tuple[int, int]) -> None:
    classifier = golden.fill(models.build(name))
    trunk = golden.fill(models.build(name, features_only=True))
    x = golden.input("features", (2, 3, *size))
    with torch.inference_mode():
        expected, maps = classifier.features(x), trunk(x)
    assert list(maps) == ["stage1", "stage2", "stage3", "stage_final"]
    for stride, (stage, found) in zip((4, 8, 16, 32), maps.items(), strict=True):
        assert torch.equal(found, expected[stage])
        assert found.shape[2:] == tuple(-(-side // stride) for side in size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FAMILIES)
def test_retinanet_answers_for_every_anchor(name: str, size: tuple[int, int]) -> None:
    network = models.build(name, head="retinanet", classes=7)
    with torch.inference_mode():
        found = network(torch.zeros(2, 3, *size))
    strides = (8, 16, 32, 64, 128)
    pixels = sum(h * w for h, w in zip(*(sizes(side, strides) for side in size), strict=True))
    assert found["class_logits"].shape == (2, 9 * pixels, 7)
    assert found["box_deltas"].shape == (2, 9 * pixels, 4)


def test_retinanet_counts_anchors_by_level_row_column_and_ratio() -> None:
    """A head that answers with where it stands: level by brightness, place by position."""
    head = models.build("cpubone-nano", head="retinanet", classes=2).bbox_head
    head.cls_convs, head.reg_convs = nn.ModuleList(), nn.ModuleList()  # levels as they are
    with torch.no_grad():
        head.retina_reg.weight.zero_()
        head.retina_reg.weight[:, 0, 1, 1] = 1  # every anchor repeats the pixel's channel 0
        head.retina_reg.bias.copy_(torch.arange(36) * 1000.0)  # and adds its own number
        levels = [torch.zeros(1, 256, 2, 3), torch.zeros(1, 256, 1, 2)]
        levels[0][0, 0] = torch.arange(6.0).reshape(2, 3)
        levels[1][0, 0] = 100 + torch.arange(2.0)
        _, deltas = head(levels)
    pixels = [0, 1, 2, 3, 4, 5, 100, 101]
    expected = [[p + 1000 * (4 * a + k) for k in range(4)] for p in pixels for a in range(9)]
    torch.testing.assert_close(deltas[0], torch.tensor(expected, dtype=torch.float32))


def test_untrained_detector_is_shy() -> None:
    network = models.build("cpubone-nano", head="retinanet")
    with torch.inference_mode():
        logits = network(torch.zeros(1, 3, 64, 64))["class_logits"]
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.005)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FAMILIES)
def test_semantic_fpn_sees_a_quarter_of_the_resolution(name: str, size: tuple[int, int]) -> None:
    network = models.build(name, head="semantic-fpn", classes=5)
    with torch.inference_mode():
        found = network(torch.zeros(2, 3, *size))
    assert found.shape == (2, 5, *(-(-side // 4) for side in size))


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (5, 3), (1, 2)])
def test_pyramid_network_adds_the_coarser_level_as_the_definition_says(
    size: tuple[int, int],
) -> None:
    """Independent of how maps are enlarged here: nearest pixel of a map stretched to size."""
    torch.manual_seed(0)
    neck = FeaturePyramidNetwork([4, 6], extra=1).eval()
    fine = torch.randn(1, 4, *size)
    coarse = torch.randn(1, 6, *(-(-side // 2) for side in size))
    with torch.inference_mode():
        found = neck([fine, coarse])
        top = neck.lateral_convs[1](coarse)
        bottom = neck.lateral_convs[0](fine) + F.interpolate(top, size=size, mode="nearest")
        torch.testing.assert_close(found[0], neck.fpn_convs[0](bottom))
        torch.testing.assert_close(found[1], neck.fpn_convs[1](top))
        torch.testing.assert_close(found[2], neck.fpn_convs[2](coarse))


def test_semantic_head_brings_every_level_up() -> None:
    torch.manual_seed(0)
    head = SemanticHead(3).eval()
    levels = [torch.randn(1, 256, 16 // 2**i, 24 // 2**i) for i in range(4)]
    with torch.inference_mode():
        parts = []
        for branch, level in zip(head.scale_heads, levels, strict=True):
            x = level
            for layer in branch:
                if hasattr(layer, "conv"):
                    x = F.relu(layer.bn(layer.conv(x)))
                else:
                    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            parts.append(x)
        expected = head.conv_seg(sum(parts))
        torch.testing.assert_close(head(levels), expected)
    assert [len(branch) for branch in head.scale_heads] == [1, 2, 4, 6]


def test_keys_are_those_of_mmdetection_and_mmsegmentation() -> None:
    with torch.device("meta"):
        detector = with_head(models.spec("cpubone-nano"), "retinanet").build().state_dict()
        segmenter = with_head(models.spec("cpubone-nano"), "semantic-fpn").build().state_dict()
    assert {
        "neck.lateral_convs.2.conv.bias",
        "neck.fpn_convs.4.conv.weight",
        "bbox_head.cls_convs.3.conv.weight",
        "bbox_head.reg_convs.0.conv.bias",
        "bbox_head.retina_cls.weight",
        "bbox_head.retina_reg.bias",
    } <= set(detector)
    assert detector["bbox_head.retina_cls.weight"].shape == (720, 256, 3, 3)
    assert {
        "neck.fpn_convs.3.conv.weight",
        "decode_head.scale_heads.0.0.conv.weight",
        "decode_head.scale_heads.3.4.bn.running_mean",
        "decode_head.conv_seg.bias",
    } <= set(segmenter)
    assert segmenter["decode_head.conv_seg.weight"].shape == (150, 128, 1, 1)


def test_costs_are_those_of_the_definition() -> None:
    """RetinaNet's head and neck on 8x8 pixels of stride 8, counted by hand."""
    spec = with_head(models.spec("cpubone-nano"), "retinanet")
    with torch.device("meta"):
        network = spec.build()
        trunk = with_head(models.spec("cpubone-nano"), "features").build()
        x = torch.empty(1, 3, 64, 64)
    own = count_parameters(network) - count_parameters(trunk)
    channels = [48, 96, 192]
    tower, out = 256 * 256 * 9, 256 * 9 * (720 + 36)
    neck = sum(channels) * 256 + 3 * 256 + 4 * tower + 192 * 256 * 9 + 5 * 256
    assert own == neck + 8 * (tower + 256) + out + 720 + 36
    pixels = [64, 16, 4, 1, 1]
    macs = sum(c * 256 * p for c, p in zip(channels, pixels, strict=False))
    macs += tower * sum(pixels[:3]) + 192 * 256 * 9 * pixels[3] + tower * pixels[4]
    macs += (8 * tower + out) * sum(pixels)
    assert count_macs(network, x) - count_macs(trunk, x) == macs


@pytest.mark.parametrize("head", ["features", "retinanet", "semantic-fpn"])
@pytest.mark.parametrize("name", FAMILIES)
def test_capture_with_dynamic_height_and_width(golden, name: str, head: str) -> None:
    network = golden.fill(models.build(name, head=head))
    sides = {
        2: torch.export.Dim("h", min=129, max=512),
        3: torch.export.Dim("w", min=129, max=512),
    }
    example = torch.zeros(1, 3, 256, 256)
    program = torch.export.export(network, (example,), dynamic_shapes=(sides,)).module()
    for size in [(256, 256), (160, 320), (150, 201)]:
        x = golden.input("dynamic", (1, 3, *size))
        with torch.inference_mode():
            torch.testing.assert_close(program(x), network(x), atol=1e-4, rtol=1e-4)


def test_specs_say_what_the_networks_give() -> None:
    for head, expected in HEADS.items():
        spec = with_head(models.spec("cpubone-nano"), head)
        (graph,) = spec.graphs
        with torch.device("meta"):
            found = spec.build()(torch.empty(graph.inputs[0].shape))
        found = {"logits": found} if isinstance(found, torch.Tensor) else found
        assert tuple(found) == graph.outputs == expected.outputs
        assert spec.task.kind == expected.task
        assert ("labels" in spec.task.params) == bool(spec.assets) == bool(expected.labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "yolo"}, "features, retinanet, semantic-fpn"),
        ({"head": "features", "classes": 3}, "no classes"),
        ({"classes": 0}, "0 classes"),
    ],
)
def test_wrong_ending_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        models.build("cpubone-nano", "random", **arguments)
    assert message in str(caught.value)


def test_without_a_pyramid_there_is_no_detector() -> None:
    with pytest.raises(UsageError, match="lowformer-b2 has no head retinanet"):
        models.build("lowformer-b2", head="retinanet")
    maps = models.build("lowformer-b2", head="features")(torch.zeros(1, 3, 32, 32))
    assert [m.shape[-1] for m in maps.values()] == [16, 16, 8, 4]


def test_a_classifiers_checkpoint_gives_features(tmp_path, golden) -> None:
    classifier = golden.fill(models.build("cpubone-nano"))
    save_file(dict(classifier.state_dict()), tmp_path / "nano.safetensors")
    trunk = models.build("cpubone-nano", tmp_path / "nano.safetensors", features_only=True)
    for key, value in trunk.state_dict().items():
        assert torch.equal(value, classifier.state_dict()[key])
    with pytest.raises(InputError, match="does not fit RetinaNet"):
        models.build("cpubone-nano", tmp_path / "nano.safetensors", head="retinanet")


@pytest.mark.parametrize(
    ("head", "default"), [("classification", 1000), ("retinanet", 80), ("semantic-fpn", 150)]
)
def test_a_checkpoint_shows_its_number_of_classes(tmp_path, head: str, default: int) -> None:
    path = tmp_path / "eleven.safetensors"
    trained = models.build("cpubone-nano", "random", head=head, classes=11)
    save_file(trained.state_dict(), path)
    loaded = models.load("cpubone-nano", path, head=head)
    for key, value in loaded.module.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key])
    # Nothing is known of eleven classes but their number.
    assert "labels" not in loaded.task.params
    assert not loaded.assets
    assert models.load("cpubone-nano", "random", head=head, classes=default).assets


def test_dense_networks_are_called_after_their_head() -> None:
    model = models.load("cpubone-nano", "random", head="retinanet")
    assert (model.name, model.source) == ("cpubone-nano-retinanet", "cpubone-nano")
    assert isinstance(model.module, nn.Module)
