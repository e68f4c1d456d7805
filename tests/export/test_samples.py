"""What a model is judged by: seeded inputs, real inputs, and the network's own answers."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from edgekit.errors import BundleError, InputError, UsageError
from edgekit.export import reference
from edgekit.export.capture import FlatGraph
from edgekit.export.real_samples import real_samples, shipped_pictures
from edgekit.export.reference import Reference, compute, load_reference, save_reference
from edgekit.export.samples import DEFAULT_HIGH, Sample, random_inputs, sizes
from edgekit.manifest import AxisRange, TaskInfo, TensorSpec
from edgekit.models.spec import GraphSpec, InputSpec

IMAGE = InputSpec("image", "float32", (2, 3, 4, 4))
IDS = InputSpec("ids", "int64", (50, 50), low=3, high=7)
BITS = InputSpec("bits", "bool", (100,))
OPEN = InputSpec("open", "int32", (1000,))
CLASSES = TensorSpec(name="logits", dtype="float32", shape=(1, 5))
PICTURE = TensorSpec(name="image", dtype="float32", shape=(1, 3, 16, 16))
TASK = TaskInfo(
    kind="classification",
    params={"resolution": 16, "resize": 16, "mean": [0.5] * 3, "std": [0.5] * 3},
)


def test_the_same_seed_gives_the_same_numbers():
    specs = (IMAGE, IDS, BITS)
    one, again, other = (random_inputs(specs, seed=seed) for seed in (3, 3, 4))
    for name in one:
        assert np.array_equal(one[name], again[name])
        assert not np.array_equal(one[name], other[name])
    # Written down, because a bundle's reference must not change with edgekit's version.
    assert one["image"].ravel()[:2].tolist() == pytest.approx([-1.9555180, 0.1179727])


def test_adding_an_input_changes_no_other():
    alone, together = random_inputs((IMAGE,)), random_inputs((IDS, IMAGE))
    assert np.array_equal(alone["image"], together["image"])
    assert list(together) == ["ids", "image"]


def test_ranges_and_types():
    found = random_inputs((IMAGE, IDS, BITS, OPEN, InputSpec("half", "float16", (3,))))
    assert {name: array.dtype.name for name, array in found.items()} == {
        "image": "float32",
        "ids": "int64",
        "bits": "bool",
        "open": "int32",
        "half": "float16",
    }
    assert set(found["ids"].ravel()) == {3, 4, 5, 6}
    assert set(found["bits"]) == {False, True}
    assert set(found["open"]) == set(range(DEFAULT_HIGH))
    ones = random_inputs((InputSpec("mask", "int64", (9,), low=1, high=2),))["mask"]
    assert ones.tolist() == [1] * 9


@pytest.mark.parametrize(
    ("limits", "options", "size"),
    [
        ((1, 8), {}, 2),
        ((4, 8), {}, 4),
        ((1, 1), {}, 1),
        ((1, 8), {"end": "min"}, 1),
        ((1, 8), {"end": "max"}, 8),
        ((1, 1), {"smallest": 2}, 2),
    ],
)
def test_a_dynamic_axis_takes_a_size_in_its_range(limits, options, size):
    found = random_inputs((IMAGE,), {"image": {0: limits}}, **options)
    assert found["image"].shape == (size, 3, 4, 4)


def test_both_ends_of_dynamic_axes_are_judged_and_static_graphs_have_none():
    ends = list(sizes((IMAGE,), {"image": {0: (1, 5)}}))
    assert [sample.inputs["image"].shape[0] for sample in ends] == [1, 5]
    assert all("dynamic axes at" in sample.origin for sample in ends)
    assert list(sizes((IMAGE,), {})) == []


def test_shipped_pictures_go_through_the_models_preprocessing():
    pytest.importorskip("skimage")
    paths = shipped_pictures()
    assert len(paths) == 2
    samples = list(real_samples(TASK, (PICTURE,), (CLASSES,), None))
    assert [sample.origin for sample in samples] == [path.name for path in paths]
    for sample in samples:
        image = sample.inputs["image"]
        assert (image.shape, image.dtype) == ((1, 3, 16, 16), np.float32)
        assert -1 <= image.min() < image.max() <= 1
    assert list(real_samples(TaskInfo(), (PICTURE,), (CLASSES,), None)) == []


def test_dense_tasks_without_their_labels():
    """A bundle in the making has no labels yet, and a dynamic axis its range."""
    pytest.importorskip("skimage")
    picture = PICTURE.model_copy(update={"shape": (1, 3, "h", "w")})
    params = {"resolution": [64, 96], "labels": "assets/labels.txt", "pad_multiple": 16}
    outputs = (
        TensorSpec(name="class_logits", dtype="float32", shape=(1, "a", 80)),
        TensorSpec(name="box_deltas", dtype="float32", shape=(1, "a", 4)),
        TensorSpec(name="logits", dtype="float32", shape=(1, 150, "h", "w")),
    )
    ranges = {"h": AxisRange(min=32, max=64), "w": AxisRange(min=32, max=80)}
    for kind, more in (("detection", {}), ("segmentation", {"output": "logits"})):
        task = TaskInfo(kind=kind, params=params | more)
        sizes = [
            sample.inputs["image"].shape[2:]
            for sample in real_samples(task, (picture,), outputs, None, ranges)
        ]
        # chelsea.png is 300 x 451: 53 x 80 fits. astronaut.png is a square.
        assert sizes == [(64, 80), (64, 64)]
    (out,) = real_samples(
        TaskInfo(kind="features", params={"resolution": 16}),
        (PICTURE,),
        outputs,
        shipped_pictures()[0],
    )
    assert out.inputs["image"].shape == (1, 3, 16, 16)


def test_arrays_and_pictures_of_the_users_own(tmp_path):
    from PIL import Image

    Image.new("RGB", (20, 20), (255, 0, 0)).save(tmp_path / "a.png")
    np.savez(tmp_path / "b.npz", image=np.ones((1, 3, 16, 16)), other=np.zeros(3))
    np.save(tmp_path / "c.npy", np.full((1, 3, 16, 16), 2.0, np.float32))
    samples = list(real_samples(TASK, (PICTURE,), (CLASSES,), tmp_path))
    assert [sample.origin for sample in samples] == ["a.png", "b.npz", "c.npy"]
    assert {sample.inputs["image"].dtype.name for sample in samples} == {"float32"}
    assert samples[0].inputs["image"][0, :, 0, 0].tolist() == [1, -1, -1]


def test_what_cannot_be_fed_is_refused(tmp_path):
    from PIL import Image

    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.save(tmp_path / "code.npy", np.array([object()]), allow_pickle=True)
    tensors = TaskInfo()
    for name, task, message in [
        ("a.png", tensors, "states no preprocessing"),
        ("bad.npz", TASK, "cannot read"),
        ("other.npz", TASK, "lacks image: it has x"),
        ("code.npy", TASK, "cannot read"),
    ]:
        with pytest.raises(InputError, match=message):
            list(real_samples(task, (PICTURE,), (CLASSES,), tmp_path / name))


class Doubled(nn.Module):
    def forward(self, image, ids):
        return {"twice": image.transpose(0, 1) * 2, "ids": ids}


OUTPUTS = (
    TensorSpec(name="twice", dtype="float32", shape=(3, 2, 4, 4)),
    TensorSpec(name="ids", dtype="int64", shape=(50, 50)),
)
INPUTS = (
    TensorSpec(name="image", dtype="float32", shape=(2, 3, 4, 4)),
    TensorSpec(name="ids", dtype="int64", shape=(50, 50)),
)


@pytest.fixture
def judged():
    """A reference of two samples."""
    network = FlatGraph(Doubled(), GraphSpec(inputs=(IMAGE, IDS)))
    samples = [Sample(f"seed {n}", random_inputs((IMAGE, IDS), seed=n)) for n in (0, 1)]
    return compute(network, OUTPUTS, samples)


def test_the_reference_is_what_the_network_answers(judged):
    assert judged.origins == ("seed 0", "seed 1")
    for sample, outputs in zip(judged.samples, judged.outputs, strict=True):
        assert np.array_equal(outputs["twice"], sample.inputs["image"].swapaxes(0, 1) * 2)
        assert np.array_equal(outputs["ids"], sample.inputs["ids"])


def test_a_sample_that_the_network_does_not_take_is_named():
    network = FlatGraph(nn.Linear(3, 3), GraphSpec(inputs=(InputSpec("input", "float32", (3,)),)))
    sample = Sample("at max", {"input": np.zeros((2, 7), np.float32)})
    with pytest.raises(UsageError, match=r"does not run on input\[2, 7\]: RuntimeError"):
        compute(network, (CLASSES,), [sample])


def test_a_reference_comes_back_as_it_was_written(judged, tmp_path):
    save_reference(judged, tmp_path / "verify" / "r.safetensors")
    again = load_reference(tmp_path / "verify" / "r.safetensors", INPUTS, OUTPUTS)
    assert again.origins == judged.origins
    for before, after in zip(judged.outputs, again.outputs, strict=True):
        assert list(after) == ["twice", "ids"]
        assert all(np.array_equal(before[name], after[name]) for name in before)
    for before, after in zip(judged.samples, again.samples, strict=True):
        assert all(np.array_equal(before.inputs[n], after.inputs[n]) for n in before.inputs)


def test_as_many_samples_are_stored_as_fit_and_at_least_one(judged, tmp_path, monkeypatch):
    one = sum(
        array.nbytes
        for part in (judged.samples[0].inputs, judged.outputs[0])
        for array in part.values()
    )
    for limit, stored in ((2 * one, 2), (2 * one - 1, 1), (0, 1)):
        monkeypatch.setattr(reference, "STORED_LIMIT", limit)
        save_reference(judged, tmp_path / "r.safetensors")
        again = load_reference(tmp_path / "r.safetensors", INPUTS, OUTPUTS)
        assert len(again.samples) == stored


def test_a_damaged_reference_is_refused(judged, tmp_path):
    path = tmp_path / "r.safetensors"
    save_reference(judged, path)
    whole = path.read_bytes()
    arrays = {"0/in/image": np.zeros(3, np.float32)}
    for damage in (
        lambda: path.write_bytes(whole[: len(whole) // 2]),
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(b"\xff" * 64),
        lambda: save_file(arrays, path),
        lambda: save_file(arrays, path, metadata={"samples": "not JSON"}),
        lambda: save_file(arrays, path, metadata={"samples": json.dumps(["one"])}),
        lambda: save_file(arrays, path, metadata={"samples": json.dumps(3)}),
        path.unlink,
    ):
        damage()
        with pytest.raises(BundleError, match=r"the reference r\.safetensors cannot be read"):
            load_reference(path, INPUTS, OUTPUTS)


def test_a_network_is_not_asked_for_gradients():
    network = FlatGraph(nn.Linear(3, 3), GraphSpec(inputs=(InputSpec("input", "float32", (3,)),)))
    judged = compute(network, (CLASSES,), [Sample("one", {"input": np.ones((1, 3), np.float32)})])
    assert isinstance(judged, Reference)
    assert torch.is_grad_enabled()
    assert judged.outputs[0]["logits"].shape == (1, 3)
