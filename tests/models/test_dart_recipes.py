"""A student learns what its teacher sees, blocks that matter least are found, both deploy."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")

from edgekit.errors import InputError, UsageError
from edgekit.models import load
from edgekit.models.checkpoint_info import CheckpointInfo, info_metadata
from edgekit.models.dart import Dart, LeftOut
from edgekit.models.dart_graphs import SIZES
from edgekit.models.dart_student import make_student
from edgekit.models.recipes import distil_dart, prune_dart
from edgekit.models.recipes.training_state import write_tensors

PHOTOS = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Real photographs that installed packages ship."""
    folder = tmp_path_factory.mktemp("photos")
    for package, name in PHOTOS:
        spec = importlib.util.find_spec(package)
        if spec is None or not (path := Path(spec.origin).parent / name).is_file():
            pytest.skip(f"{package} ships no {name} here")
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((320, 320))
        picture.save(folder / f"{path.stem}.png")
    return folder


def options(parser, **given):
    words = []
    for name, value in {"threads": 2, **given}.items():
        words += [f"--{name}", str(value)]
    return parser.parse_args(words)


@pytest.fixture(scope="module")
def distilled(photos, tmp_path_factory):
    """A student of a few steps, its checkpoint and what it missed before and after."""
    out = tmp_path_factory.mktemp("student") / "student.safetensors"
    parsed = options(distil_dart._parser(), pictures=photos, out=out, steps=30, batch=2)
    return out, distil_dart.distil(parsed)


def test_the_loss_falls_on_real_pictures_that_were_held_back(distilled):
    _, outcome = distilled
    assert outcome.before > 0.9, "a fresh student knows nothing"
    assert outcome.after < 0.8 * outcome.before


def test_a_student_deploys_with_the_teachers_other_parts(distilled):
    out, _ = distilled
    model, teacher = load("sam3-tiny", out), load("sam3-tiny")
    assert model.weights == "random (seed 0), then student.safetensors"
    assert model.module.student is not None
    assert model.graphs == teacher.graphs
    assert model.assets == teacher.assets
    mine, theirs = model.module.sam3.state_dict(), teacher.module.sam3.state_dict()
    assert {key for key in theirs if key not in mine} == {
        key
        for key in theirs
        if key.startswith(("vision_encoder.backbone.", "vision_encoder.neck.fpn_layers."))
    }
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_what_was_measured_is_what_is_deployed(distilled, photos):
    out, outcome = distilled
    _, held_back = distil_dart.read_pictures(photos)
    run = distil_dart.Distillation(
        load("sam3-tiny").module,
        load("sam3-tiny", out).module.student,
        distil_dart.Hyperparameters(),
    )
    assert run.missed(held_back) == pytest.approx(outcome.after, rel=1e-4)


def test_a_student_exports_and_answers(distilled, photos, tmp_path):
    from edgekit.export import export
    from edgekit.runtimes.detector import Detector

    out, _ = distilled
    bundle = tmp_path / "student"
    result = export("sam3-tiny", ["onnx"], bundle, weights=str(out), report=False)
    result.raise_for_status()
    names = ["cat", "cup"]
    with Detector.open(bundle, names, runtime="onnxruntime", threads=1, cache="") as detector:
        found = detector.detect(next(iter(sorted(photos.iterdir()))))
    assert found.remark
    assert {one.label for one in found.detections} <= set(names)


@pytest.mark.slow
def test_a_student_goes_to_every_target(distilled, tmp_path):
    """Its vision graph, which is what is new; the other two are the teacher's."""
    for package in ("openvino", "executorch", "coremltools", "tensorrt_rtx"):
        pytest.importorskip(package)
    from edgekit.export import export

    model = load("sam3-tiny", distilled[0])
    alone = replace(model, name="student-vision", graphs=model.graphs[:1])
    result = export(alone, ["all"], tmp_path / "vision", report=False)
    result.raise_for_status()
    levels = {one.target: one.graphs[0].verify["level"] for one in result.targets}
    assert levels == {
        "onnx": "ran",
        "openvino": "ran",
        "executorch": "ran",
        "coreml": "interpreted",
        "tensorrt": "compiled",
    }


def test_a_student_can_be_deployed_at_another_resolution(distilled):
    model = load("sam3-tiny", distilled[0])
    smaller = model.module.deploy_at(model, (140, 140))
    with torch.no_grad():
        features = smaller.module.vision(torch.zeros(1, 3, 140, 140))
    assert features.shape == smaller.graphs[2].inputs[0].shape == (1, 64, 10, 10)


@pytest.mark.parametrize("name", ["lowformer-b0", "timm:mobilenetv3_small_100"])
def test_students_give_the_teachers_pyramid(name):
    pytest.importorskip("timm")
    size = SIZES["sam3-tiny"]
    student = make_student(name, size).eval()
    with torch.no_grad():
        maps = student(torch.zeros(1, 3, *size.image), (2, 1, 0))
    assert [tuple(one.shape) for one in maps] == [(1, 64, n, n) for n in (16, 32, 64)]
    assert student.sources[0] < student.sources[2]


@pytest.mark.parametrize(
    "name", ["timm:no_such_model", "timm:hf_hub:some/body", "nothing", "../x", "timm:hf-hub:x"]
)
def test_what_is_no_backbone_is_refused(name):
    with pytest.raises(UsageError):
        make_student(name, SIZES["sam3-tiny"])


@torch.no_grad()
def test_the_blocks_that_matter_least_are_left_out(photos, tmp_path):
    """Greedy by measurement: of two choices of one block the recipe takes the better one."""
    out = tmp_path / "pruned.safetensors"
    skipped = prune_dart.prune(
        options(prune_dart._parser(), pictures=photos, out=out, blocks=2, most=2)
    )
    model = load("sam3-tiny", out)
    assert model.module.skipped == frozenset(skipped)
    blocks = model.module.sam3.vision_encoder.backbone.layers
    assert [place for place, one in enumerate(blocks) if isinstance(one, LeftOut)] == list(skipped)
    training, _ = distil_dart.read_pictures(photos)
    images = [distil_dart.picture_tensor(p, (224, 224)) for p in training[:2]]
    first, lost = next(iter(prune_dart.choose(load("sam3-tiny").module, images, 1)))
    whole: Dart = load("sam3-tiny").module
    wanted = [whole.pyramid(image, (2,))[0] for image in images]
    others = {}
    for block in range(4):
        other = load("sam3-tiny").module
        other.sam3.vision_encoder.backbone.layers[block] = LeftOut()
        got = [other.pyramid(image, (2,))[0] for image in images]
        others[block] = prune_dart._share(wanted, got)
    assert first == min(others, key=others.get)
    assert lost == pytest.approx(others[first], rel=1e-5)


def test_a_checkpoint_cannot_change_what_the_network_does_not_have(tmp_path):
    path = tmp_path / "odd.safetensors"
    state = load("cpubone-nano", "random").module.state_dict()
    info = CheckpointInfo(model="cpubone-nano", student="timm:resnet18")
    write_tensors(path, state, info_metadata(info))
    with pytest.raises(InputError, match="other parts"):
        load("cpubone-nano", path)


def test_one_picture_is_not_enough(tmp_path):
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="not enough"):
        distil_dart.read_pictures(tmp_path)


def test_the_programs_say_what_is_wrong_in_one_line(photos, tmp_path, capsys):
    arguments = ["--pictures", str(photos), "-o", str(tmp_path / "x.safetensors")]
    assert distil_dart.main([*arguments, "--student", "nothing"]) == 2
    assert prune_dart.main([*arguments, "--blocks", "4"]) == 2
    assert prune_dart.main([*arguments, "--blocks", "1", "--model", "cpubone-nano"]) == 2
    assert capsys.readouterr().err.count("\n") == 3
    assert (
        json.dumps(CheckpointInfo(model="x").model_dump(exclude_defaults=True)) == '{"model": "x"}'
    )
