"""DART against transformers' own forward, and what makes sharing the backbone exact."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from edgekit.errors import InputError, UsageError
from edgekit.models import load, spec
from edgekit.models.counting import count_macs
from edgekit.models.dart import Dart, LeftOut, build, load_sized
from edgekit.models.dart_config import DEPTHS, Depths, configure, named, need_transformers
from edgekit.models.dart_graphs import SIZES, TOKENIZER, DartSize
from edgekit.models.dart_tokenizer import byte_tokenizer, tokenizer_of
from edgekit.models.weights import apply_checkpoint, load_checkpoint

CLASSES = 6
# fp32 sums in another order differ by less; the least wrong thing differs by 500 times as much.
EXACT, WRONG = 1e-5, 1e-3


@pytest.fixture(scope="module")
def dart() -> Dart:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build("sam3-tiny", masks=True)


@pytest.fixture(scope="module")
def scene(dart):
    """A picture, token ids and masks of prompts of different lengths, and what comes of them."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, 224, 224, generator=generator)
    ids = torch.randint(0, 512, (CLASSES, 32), generator=generator)
    mask = torch.zeros(CLASSES, 32, dtype=torch.int64)
    for row, length in enumerate((3, 4, 5, 9, 17, 32)):
        mask[row, :length] = 1
    with torch.no_grad():
        maps, text = dart.vision(image), dart.text(ids, mask)
    return {"image": image, "ids": ids, "mask": mask, "maps": maps, "text": text}


def detect(dart, scene, **changes):
    asked = {**scene, **changes}
    with torch.no_grad():
        return dart.detection(asked["maps"][0], asked["text"], asked["mask"])


def furthest(one, other) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def reference(dart, scene, row):
    """``Sam3Model.forward`` for one class, from pixels and token ids."""
    with torch.no_grad():
        return dart.sam3(
            pixel_values=scene["image"],
            input_ids=scene["ids"][row : row + 1],
            attention_mask=scene["mask"][row : row + 1],
        )


def test_sizes_are_those_of_the_library() -> None:
    transformers = need_transformers()
    assert configure(*named("sam3")).to_dict() == transformers.Sam3Config().to_dict()


def test_n_calls_of_the_whole_network_equal_one_shared_batch(dart, scene) -> None:
    boxes, logits, presence = detect(dart, scene)
    for row in range(CLASSES):
        whole = reference(dart, scene, row)
        expected = (whole.pred_boxes[0], whole.pred_logits[0], whole.presence_logits[0])
        assert furthest((boxes[row], logits[row], presence[row]), expected) < EXACT


def test_outlines_are_those_of_the_whole_network(dart, scene) -> None:
    features, twice, four = scene["maps"]
    with torch.no_grad():
        *_, queries, memory = dart.detection_for_masks(features, scene["text"], scene["mask"])
        for row in (0, 5):
            part = slice(row, row + 1)
            chosen = queries[part, [3, 7]]
            drawn = dart.masks(
                twice, four, memory[part], chosen, scene["text"][part], scene["mask"][part]
            )
            expected = reference(dart, scene, row).pred_masks[:, [3, 7]]
            assert furthest([drawn], [expected]) < EXACT * float(expected.abs().max())


def test_text_is_bitwise_the_librarys(dart, scene) -> None:
    with torch.no_grad():
        expected = dart.sam3.get_text_features(scene["ids"], scene["mask"]).pooler_output
    valid = scene["mask"].bool()
    assert torch.equal(scene["text"][valid], expected[valid])


@pytest.mark.parametrize("change", ["neighbour", "mask", "level"])
def test_a_wrong_input_is_seen(dart, scene, change) -> None:
    """Negative controls: the tolerance of the tests above tells right from wrong."""
    _, twice, four = scene["maps"]
    changes = {
        "neighbour": {"text": scene["text"].roll(1, 0)},
        "mask": {"mask": 1 - scene["mask"].roll(1, 0)},
        "level": {"maps": (four[:, :, ::4, ::4], twice, four)},
    }[change]
    wrong, right = detect(dart, scene, **changes), detect(dart, scene)
    assert furthest(wrong[:1], right[:1]) > WRONG
    assert furthest(wrong[1:2], right[1:2]) > WRONG


def test_classes_do_not_see_each_other(dart, scene) -> None:
    whole = detect(dart, scene)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    permuted = detect(dart, scene, text=scene["text"][order], mask=scene["mask"][order])
    assert furthest(permuted, [part[order] for part in whole]) < EXACT
    for size in range(1, CLASSES + 1):
        parts = [
            detect(dart, scene, text=text, mask=mask)
            for text, mask in zip(scene["text"].split(size), scene["mask"].split(size), strict=True)
        ]
        chunked = [torch.cat(column) for column in zip(*parts, strict=True)]
        assert furthest(chunked, whole) < EXACT


@pytest.mark.parametrize("hidden", ["all", "all but one", "none"])
def test_padding_classes_change_nothing_and_give_no_nan(dart, scene, hidden) -> None:
    whole = detect(dart, scene)
    mask = torch.zeros(4, 32, dtype=torch.int64)
    mask[:, : {"all": 0, "all but one": 1, "none": 32}[hidden]] = 1
    text = torch.cat([scene["text"], torch.full((4, 32, dart.size.width), 1e3)])
    padded = detect(dart, scene, text=text, mask=torch.cat([scene["mask"], mask]))
    assert all(torch.isfinite(part).all() for part in padded)
    assert furthest([part[:CLASSES] for part in padded], whole) < EXACT


def test_what_a_mask_hides_does_not_matter(dart, scene) -> None:
    garbage = torch.where(scene["mask"][..., None].bool(), scene["text"], torch.tensor(1e3))
    assert furthest(detect(dart, scene, text=garbage), detect(dart, scene)) == 0
    # The control: the same garbage where nothing hides it.
    shown = detect(dart, scene, text=garbage, mask=torch.ones_like(scene["mask"]))
    assert furthest(shown, detect(dart, scene)) > WRONG


def test_text_one_by_one_is_text_in_a_batch(dart, scene) -> None:
    with torch.no_grad():
        single = [
            dart.text(scene["ids"][row : row + 1], scene["mask"][row : row + 1])
            for row in range(CLASSES)
        ]
    assert furthest([torch.cat(single)], [scene["text"]]) < EXACT


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sharing_is_as_exact_as_one_by_one(scene, dtype) -> None:
    """Within one type the batch equals the loop; element by element against fp32 it does not."""
    network = load("sam3-tiny").module.to(dtype)
    lower = {
        "maps": (scene["maps"][0].to(dtype),),
        "text": scene["text"].to(dtype),
        "mask": scene["mask"],
    }
    whole = detect(network, lower)
    assert all(part.dtype == dtype and torch.isfinite(part).all() for part in whole)
    parts = [
        detect(network, lower, text=text, mask=mask)
        for text, mask in zip(lower["text"].split(1), lower["mask"].split(1), strict=True)
    ]
    looped = [torch.cat(column) for column in zip(*parts, strict=True)]
    # Two units in the last place of the largest logit, which a neighbour's text is far beyond.
    bound = 2 * torch.finfo(dtype).eps * float(whole[1].abs().max())
    assert furthest(looped, whole) <= bound
    other = detect(network, lower, text=lower["text"].roll(1, 0))
    assert furthest(other[1:2], whole[1:2]) > 3 * bound
    hidden = torch.zeros_like(lower["mask"])
    assert all(torch.isfinite(part).all() for part in detect(network, lower, mask=hidden))


def test_attention_is_explicit_everywhere(dart) -> None:
    found = {
        module.config._attn_implementation
        for module in dart.modules()
        if getattr(module, "config", None) is not None
        and hasattr(module.config, "_attn_implementation")
    }
    assert found == {"eager"}


def test_another_resolution_is_that_of_a_network_built_for_it() -> None:
    model = load("sam3-tiny")
    smaller = model.module.deploy_at(model, (168, 168))
    built = load_sized("built", replace(SIZES["sam3-tiny"], image=(168, 168)), DEPTHS["sam3-tiny"])
    built.module.load_state_dict(smaller.module.state_dict())
    image = torch.randn(1, 3, 168, 168, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(smaller.module.vision(image), built.module.vision(image))
    assert smaller.graphs == built.graphs
    assert smaller.task.params["resolution"] == [168, 168]
    assert smaller.task.params["class_bytes"] == built.task.params["class_bytes"]


@pytest.mark.parametrize("size", [(100, 100), (224, 168)])
def test_a_resolution_that_it_cannot_take_is_refused(size) -> None:
    model = load("sam3-tiny")
    with pytest.raises(UsageError, match="multiples of 14"):
        model.module.deploy_at(model, size)


def test_blocks_are_left_out_and_checkpoints_still_fit(dart, scene, tmp_path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        shorter = build("sam3-tiny", skip=(0, 2))
    official = {key.removeprefix("sam3."): value for key, value in dart.state_dict().items()}
    apply_checkpoint(shorter, official, "official")
    assert [isinstance(b, LeftOut) for b in shorter.sam3.vision_encoder.backbone.layers] == [
        True,
        False,
        True,
        False,
    ]
    with torch.no_grad():
        seen = shorter.vision(scene["image"])
    assert furthest([seen], [scene["maps"][0]]) > WRONG
    for skip in ((4,), (0, 1, 2, 3)):
        with pytest.raises(UsageError):
            build("sam3-tiny", skip=skip)


@pytest.mark.parametrize("kind", ["detector", "video", "parts"])
def test_official_folders_load(dart, tmp_path, kind) -> None:
    """As transformers writes them: the detector alone, in parts, or inside the video model."""
    transformers = need_transformers()
    if kind == "video":
        from safetensors.torch import save_file

        state = {f"detector_model.{k}": v for k, v in dart.sam3.state_dict().items()}
        state["tracker_model.memory"] = state["tracker_neck.weight"] = torch.zeros(1)
        own = {key: value.contiguous().clone() for key, value in state.items()}
        save_file(own, tmp_path / "model.safetensors")
    else:
        limit = {"max_shard_size": "1MB"} if kind == "parts" else {}
        dart.sam3.save_pretrained(tmp_path, **limit)
        assert (tmp_path / "model.safetensors.index.json").exists() == (kind == "parts")
    (tmp_path / "tokenizer.json").write_bytes(byte_tokenizer(514))
    model = load("sam3-tiny", tmp_path)
    assert (model.weights, type(model.module)) == (tmp_path.name, Dart)
    mine, official = model.module.sam3.state_dict(), dart.sam3.state_dict()
    assert mine.keys() == official.keys()
    assert all(torch.equal(mine[key], official[key]) for key in mine)
    assert json.loads(model.assets[TOKENIZER])["model"]["type"] == "BPE"
    if kind == "detector":
        again = transformers.Sam3Model.from_pretrained(tmp_path).state_dict()
        assert all(torch.equal(mine[key], again[key]) for key in mine)


def test_trained_weights_need_their_vocabulary(dart, tmp_path) -> None:
    dart.sam3.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no tokenizer"):
        load("sam3-tiny", tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(byte_tokenizer(49408))
    with pytest.raises(InputError, match="another network"):
        load("sam3-tiny", tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="cannot read the tokenizer"):
        load("sam3-tiny", tmp_path)


def test_a_folder_whose_index_leads_elsewhere_is_refused(tmp_path) -> None:
    index = {"weight_map": {"a": "../model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="not to be trusted"):
        load_checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"as model\.safetensors"):
        load_checkpoint(tmp_path.parent / tmp_path.name / "..")


def test_the_tokenizer_is_clips(tmp_path) -> None:
    """Against transformers' CLIP tokenizer, with merges; and its two ways to be stored."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), need_transformers()
    merges = [("t", "h"), ("th", "e</w>"), ("c", "a"), ("ca", "t</w>")]
    vocab = {k: i for k, i in json.loads(byte_tokenizer(514))["model"]["vocab"].items() if i < 512}
    vocab |= {a + b: 512 + index for index, (a, b) in enumerate(merges)}
    vocab |= {"<|startoftext|>": 516, "<|endoftext|>": 517}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    pairs = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)])
    (tmp_path / "merges.txt").write_text(pairs)
    official = transformers.CLIPTokenizer(vocab=vocab, merges=merges)
    mine = tokenizers.Tokenizer.from_str(tokenizer_of(tmp_path, 518).decode())
    for text in (
        "The cat's 42 dogs",
        "  naïve 猫! THE  theca",
        "a\tb\n",
        "_ - foo_bar",
        "½ Ⅳ",
    ):
        assert mine.encode(text).ids == official(text).input_ids


def test_memory_of_a_class_is_that_of_its_largest_tensors() -> None:
    assert SIZES["sam3"].class_bytes == 2 * 8 * 5184 * 5184 * 4
    assert DartSize(image=(644, 644)).class_bytes == 2 * 8 * 46**4 * 4


def test_the_registry_says_what_there_is() -> None:
    for name in ("sam3", "sam3-half", "sam3-tiny"):
        assert [graph.name for graph in spec(name).graphs] == ["vision", "text", "detection"]
    assert [g.name for g in spec("sam3-masks").graphs] == ["vision", "text", "detection", "masks"]
    with pytest.raises(UsageError, match="no fixed classes"):
        load("sam3-tiny", classes=3)


def test_weights_are_seeded_and_tell_classes_apart(scene) -> None:
    first, second = load("sam3-tiny"), load("sam3-tiny")
    assert first.weights == "random (seed 0)"
    for one, other in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(one, other)
    boxes, logits, _ = detect(first.module, {**scene, "maps": scene["maps"][:1]})
    assert np.ptp(logits.numpy(), axis=1).min() > 0.05
    assert float((logits[0] - logits[1]).abs().max()) > 0.1
    assert len({tuple(box) for box in boxes[0].tolist()}) == SIZES["sam3-tiny"].queries


def test_depths_default_to_sam3() -> None:
    assert DEPTHS["sam3"] == Depths()


def test_the_command_lines_resolution_reaches_every_graph() -> None:
    from edgekit.models.sources import SourceOptions, load_model

    model = load_model("sam3-tiny", SourceOptions(resolution=(168, 168)))
    vision, text, detection = model.graphs
    assert vision.inputs[0].shape == (1, 3, 168, 168)
    assert detection.inputs[0].shape == (1, 64, 12, 12)
    assert text.inputs == spec("sam3-tiny").graphs[1].inputs
    assert model.recipe == {"resolution": [168, 168]}
    with torch.no_grad():
        features = model.module.vision(torch.zeros(1, 3, 168, 168))
    assert features.shape == detection.inputs[0].shape


def test_detection_alone_is_bitwise_the_whole_forward_in_a_batch(dart, scene) -> None:
    """Given the same features and text, leaving the mask decoder out changes no bit."""
    from types import SimpleNamespace

    encode = dart.sam3.vision_encoder.neck.position_encoding
    maps = [level.expand(CLASSES, -1, -1, -1) for level in reversed(scene["maps"])]
    places = [encode(level.shape, level.device, level.dtype) for level in maps]
    vision = SimpleNamespace(
        fpn_hidden_states=(*maps, None),  # the last level is dropped
        fpn_position_encoding=(*places, None),
        hidden_states=None,
        attentions=None,
    )
    with torch.no_grad():
        whole = dart.sam3(
            vision_embeds=vision,
            text_embeds=SimpleNamespace(pooler_output=scene["text"]),
            attention_mask=scene["mask"],
        )
    boxes, logits, presence = detect(dart, scene)
    assert torch.equal(boxes, whole.pred_boxes)
    assert torch.equal(logits, whole.pred_logits)
    assert torch.equal(presence, whole.presence_logits)


def test_operations_of_sam3_at_any_number_of_classes() -> None:
    """Counted, so no load of the machine matters: only the detection grows, and as a line."""
    entry = spec("sam3")
    vision, text, detection = entry.graphs
    with torch.device("meta"):
        network = entry.build()

        def cost(graph, classes):
            shapes = [
                (classes if one.name in graph.dynamic else one.shape[0], *one.shape[1:])
                for one in graph.inputs
            ]
            inputs = [
                torch.empty(shape, dtype=getattr(torch, one.dtype))
                for shape, one in zip(shapes, graph.inputs, strict=True)
            ]
            return count_macs(getattr(network, graph.method), *inputs)

        backbone, prompt = cost(vision, 1), cost(text, 1)
        each = {classes: cost(detection, classes) for classes in (1, 3, 8)}
    assert each[3] == 3 * each[1]
    assert each[8] == 8 * each[1]
    for classes, factor in ((3, 2.7), (80, 15.0)):
        naive = classes * (backbone + prompt + each[1])
        shared = backbone + classes * each[1]
        assert naive / shared > factor
        assert naive / shared < classes * (1 + prompt / backbone)
