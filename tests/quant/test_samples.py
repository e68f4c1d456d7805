"""Samples: from folders, arrays and Python, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from edgekit.errors import InputError
from edgekit.manifest import AxisRange, TensorSpec
from edgekit.quant.samples import Contract, hold_back, open_samples, refuse_overlap

X = TensorSpec(name="x", dtype="float32", shape=(1, 3))
CONTRACT = Contract((X,), {})


class Grey:
    """A task that takes pictures: their mean, three times."""

    suffixes = (".png",)
    takes_pictures = True

    def prepare(self, source):
        try:
            value = np.asarray(Image.open(source), np.float32).mean()
        except OSError as error:
            raise InputError(f"{source} is no picture", str(error)) from error
        return {"x": np.full((1, 3), value, np.float32)}


PICTURES = Contract((X,), {}, Grey())


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for shade in range(10):
        Image.new("L", (4, 4), shade * 20).save(folder / f"{shade}.png")
    return folder


def test_a_folder_is_read_in_the_order_of_its_names(pictures):
    found = open_samples(pictures, PICTURES, "train", "calibration")
    assert [float(found[i]["x"][0, 0]) for i in range(len(found))] == [20.0 * i for i in range(10)]
    assert found.title == "photos"
    assert found.classes is None


def test_the_hash_follows_names_and_content(pictures):
    before = open_samples(pictures, PICTURES, "train", "calibration").sha256
    assert open_samples(pictures, PICTURES, "train", "calibration").sha256 == before
    Image.new("L", (4, 4), 1).save(pictures / "3.png")
    changed = open_samples(pictures, PICTURES, "train", "calibration").sha256
    assert changed != before
    (pictures / "3.png").rename(pictures / "33.png")
    assert open_samples(pictures, PICTURES, "train", "calibration").sha256 not in (before, changed)


def test_drawing_is_seeded_and_keeps_the_order(pictures):
    found = open_samples(pictures, PICTURES, "train", "calibration")
    drawn = found.draw(4)
    assert drawn.names == found.draw(4).names
    assert list(drawn.names) == sorted(drawn.names)
    assert [float(drawn[i]["x"][0, 0]) for i in range(4)] == [
        20.0 * int(name[0]) for name in drawn.names
    ]


def test_what_is_held_back_is_in_neither(pictures):
    found = open_samples(pictures, PICTURES, "train", "calibration")
    rest, held = hold_back(found, 128, 2)
    assert len(held) == 2
    assert sorted(rest.names + held.names) == sorted(found.names)
    refuse_overlap(rest, held)
    with pytest.raises(InputError, match="2 of 2 calibration samples are evaluation samples"):
        refuse_overlap(held, found)
    with pytest.raises(InputError, match="has 1 sample"):
        hold_back(found.pick([0]), 128, 2)


@pytest.mark.parametrize("shape", [(7, 3), (7, 1, 3)])
def test_arrays_hold_many_samples_along_the_first_axis(tmp_path, shape):
    values = np.arange(21, dtype=np.float64).reshape(shape)
    np.savez(tmp_path / "a.npz", anything=values)
    found = open_samples(tmp_path / "a.npz", CONTRACT, "train", "calibration")
    assert len(found) == 7
    assert found[3]["x"].dtype == np.float32
    np.testing.assert_array_equal(found[3]["x"], values.reshape(7, 1, 3)[3])


def test_labels_of_an_npz_are_classes(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 3), np.float32), labels=np.arange(4))
    found = open_samples(tmp_path / "a.npz", CONTRACT, "test", "evaluation")
    assert found.classes == (0, 1, 2, 3)


def test_dynamic_axes_take_their_range(tmp_path):
    spec = TensorSpec(name="x", dtype="float32", shape=("n", 3))
    contract = Contract((spec,), {"n": AxisRange(min=2, max=4)})
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 2, 3), np.float32))
    assert len(open_samples(tmp_path / "a.npz", contract, "train", "calibration")) == 5
    np.savez(tmp_path / "b.npz", x=np.zeros((5, 6, 3), np.float32))
    with pytest.raises(InputError, match=r"shape \[6, 3\]"):
        open_samples(tmp_path / "b.npz", contract, "train", "calibration")


def test_python_may_give_arrays_mappings_and_files(pictures):
    one = np.ones((1, 3), np.float32)
    mixed = [one, {"x": 2 * one}, pictures / "5.png"]
    found = open_samples(iter(mixed), PICTURES, "train", "calibration")
    assert [float(found[i]["x"][0, 0]) for i in range(3)] == [1.0, 2.0, 100.0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"x": np.zeros((4, 5), np.float32)}, r"shape \[1, 5\].*the graph takes \[1, 3\]"),
        ({"x": np.zeros((4, 4, 4, 3), np.float32)}, r"shape \[4, 4, 4, 3\]"),
        ({"x": np.zeros((4, 3), np.complex64)}, "is complex64"),
        ({"x": np.full((4, 3), np.nan, np.float32)}, "not finite"),
        ({"x": np.zeros((0, 3), np.float32)}, "holds no samples"),
        ({"y": np.zeros((4, 3), np.float32), "z": np.zeros(4)}, "has no array x"),
        ({"x": np.zeros((4, 3), np.float32), "labels": np.zeros(3, int)}, "labels of"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, content, said):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(InputError, match=said):
        open_samples(tmp_path / "a.npz", CONTRACT, "train", "calibration")


def test_damage_and_emptiness_are_refused(tmp_path, pictures):
    with pytest.raises(InputError, match="no such file"):
        open_samples(tmp_path / "nothing", PICTURES, "train", "calibration")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no calibration data in .*empty"):
        open_samples(tmp_path / "empty", PICTURES, "train", "calibration")
    (tmp_path / "a.npz").write_bytes(b"PK broken")
    with pytest.raises(InputError, match="cannot be read"):
        open_samples(tmp_path / "a.npz", CONTRACT, "train", "calibration")
    (pictures / "4.png").write_bytes(b"no picture")
    found = open_samples(pictures, PICTURES, "train", "calibration")
    with pytest.raises(InputError, match=r"4\.png is no picture"):
        found[4]
    with pytest.raises(InputError, match="iterable is empty"):
        open_samples([], CONTRACT, "train", "calibration")
    with pytest.raises(InputError, match="int is no calibration data"):
        open_samples(3, CONTRACT, "train", "calibration")
