"""Labelled pictures: idx files and class folders, and what is wrong with damaged ones."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.errors import InputError
from edgekit.runtimes.idx import read_idx
from edgekit.runtimes.labelled_pictures import open_labelled

FASHION = Path("/usr/share/datasets/fashion-mnist")
NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (6, 4, 5), np.uint8)
CLASSES = np.array([2, 0, 1, 1, 0, 2], np.uint8)


def idx(array, sizes=None):
    """An idx file's bytes; ``sizes`` may lie."""
    sizes = array.shape if sizes is None else sizes
    return struct.pack(f">4B{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + array.tobytes()


def write_split(folder, prefix="t10k", pictures=PICTURES, classes=CLASSES, pack=gzip.compress):
    folder.mkdir(exist_ok=True)
    end = ".gz" if pack is gzip.compress else ""
    (folder / f"{prefix}-images-idx3-ubyte{end}").write_bytes(pack(idx(pictures)))
    (folder / f"{prefix}-labels-idx1-ubyte{end}").write_bytes(pack(idx(classes)))
    return folder


def picture_folder(root, counts):
    """``{"cat": 2}``: two pictures in the folder cat, each of another colour."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            shade = tuple(RNG.integers(0, 256, 3).tolist())
            Image.new("RGB", (8, 8), shade).save(root / name / f"{number}.png")
    return root


def refusal(path, *arguments, **options):
    """The one line that refuses it."""
    with pytest.raises(InputError) as caught:
        open_labelled(path, *arguments, **options)
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gz", "plain"])
def test_idx_files_give_grey_pictures_with_their_classes(tmp_path, pack):
    write_split(tmp_path / "data", pack=pack)
    pictures = open_labelled(tmp_path / "data")
    assert (len(pictures), pictures.name, pictures.split) == (6, "data", "test")
    assert pictures.labels == ("0", "1", "2")
    for (source, index), grey, wanted in zip(pictures, PICTURES, CLASSES, strict=True):
        assert (source.dtype, source.shape, index) == (np.uint8, (4, 5, 3), wanted)
        assert all(np.array_equal(source[..., channel], grey) for channel in range(3))


def test_a_file_is_named_beside_its_labels(tmp_path):
    folder = write_split(tmp_path / "data", "train")
    write_split(folder, "t10k", PICTURES[:3], CLASSES[:3])
    assert len(open_labelled(folder)) == 3
    assert len(open_labelled(folder, split="train")) == 6
    named = open_labelled(folder / "train-images-idx3-ubyte.gz")
    assert (len(named), named.title) == (6, "data, train")


def test_fashion_mnist_has_names(tmp_path):
    classes = np.array([9, 0, 1, 2, 3, 4], np.uint8)
    pictures = open_labelled(write_split(tmp_path / "fashion-mnist", classes=classes))
    assert pictures.labels[:5] == NAMES
    assert pictures.labels[9] == "Ankle boot"
    network = [f"class {number}" for number in range(10)]
    assert open_labelled(tmp_path / "fashion-mnist", network).labels == tuple(network)


def test_another_number_of_classes_is_refused(tmp_path):
    folder = write_split(tmp_path / "data")
    assert refusal(folder, ["a", "b"]).startswith("the data set data has 3 classes: the network")
    assert "has 1000" in refusal(folder, [str(number) for number in range(1000)])


def test_the_sha256_names_content_class_and_order(tmp_path):
    first = open_labelled(write_split(tmp_path / "a")).sha256
    assert open_labelled(write_split(tmp_path / "b", pack=bytes)).sha256 == first
    changed = PICTURES.copy()
    changed[3, 0, 0] ^= 1
    others = [
        open_labelled(write_split(tmp_path / "c", pictures=changed)).sha256,
        open_labelled(write_split(tmp_path / "d", classes=np.roll(CLASSES, 1))).sha256,
        open_labelled(write_split(tmp_path / "e", pictures=PICTURES[::-1])).sha256,
    ]
    assert len({first, *others}) == 4


def damages():
    whole = idx(PICTURES)
    packed = gzip.compress(whole)
    yield "empty", b"", "no idx file of pictures"
    yield "text", b"<html>not found</html>", "begins with 3c 68 74 6d"
    yield "labels instead", idx(CLASSES), "begins with 00 00 08 01"
    yield "floats", b"\0\0\x0d\3" + whole[4:], "begins with 00 00 0d 03"
    yield "half a header", whole[:9], "no idx file of pictures"
    yield "cut off", whole[:-1], "it holds 119"
    yield "too long", whole + b"\0", "it holds more than 120"
    yield "gzip cut off", packed[:-9], "is damaged"
    yield "gzip turned to garbage", packed[:30] + b"garbage!" + packed[38:], "damaged"
    yield "gzip in name only", b"\x1f\x8b\x07garbage", "Unknown compression method"
    yield "a bomb", struct.pack(">4B3I", 0, 0, 8, 3, 60000, 65535, 65535), "more than"


@pytest.mark.parametrize(
    ("content", "said"), [d[1:] for d in damages()], ids=[d[0] for d in damages()]
)
def test_damaged_pictures_are_refused_in_one_line(tmp_path, content, said):
    folder = write_split(tmp_path / "data")
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    message = refusal(folder)
    assert "t10k-images-idx3-ubyte.gz" in message
    assert said in message


def test_a_gzip_whose_checksum_is_wrong_is_refused(tmp_path):
    packed = bytearray(gzip.compress(idx(PICTURES)))
    packed[-5] ^= 0xFF
    (tmp_path / "x").write_bytes(packed)
    with pytest.raises(InputError, match="CRC"):
        read_idx(tmp_path / "x", 3)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    folder = write_split(tmp_path / "data", classes=CLASSES[:4])
    assert refusal(folder).endswith("do not belong together: 6 pictures, 4 labels")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert "no t10k-labels-idx1-ubyte lies beside it" in refusal(folder)
    assert "has no train pictures" in refusal(folder, split="train")
    none = write_split(tmp_path / "none", pictures=PICTURES[:0], classes=CLASSES[:0])
    assert "holds no pictures" in refusal(none)


def test_no_pictures_at_all(tmp_path):
    assert "there is no such file or folder" in refusal(tmp_path / "nowhere")
    assert "neither idx files nor a folder for each class" in refusal(tmp_path)
    (tmp_path / "photo.png").write_bytes(b"")
    assert "is no file of labelled pictures" in refusal(tmp_path / "photo.png")
    (tmp_path / "cat").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.png").write_bytes(b"")
    (tmp_path / "cat" / "notes.txt").write_bytes(b"")
    (tmp_path / "cat" / "._a.png").write_bytes(b"")
    assert "no pictures in the folders" in refusal(tmp_path)


def test_class_folders(tmp_path):
    root = picture_folder(tmp_path / "animals", {"dog": 2, "cat": 1, ".cache": 1})
    picture_folder(root / "cat", {"kittens": 1})
    pictures = open_labelled(root)
    assert (pictures.labels, pictures.name, pictures.split) == (("cat", "dog"), "animals", None)
    found = [(source.relative_to(root).as_posix(), index) for source, index in pictures]
    assert found == [("cat/0.png", 0), ("cat/kittens/0.png", 0), ("dog/0.png", 1), ("dog/1.png", 1)]
    before = pictures.sha256
    (root / "dog" / "1.png").rename(root / "cat" / "1.png")
    assert open_labelled(root).sha256 != before


def test_class_folders_are_matched_by_name(tmp_path):
    root = picture_folder(tmp_path / "x", {"ankle_boot": 1, "T-SHIRT_TOP": 1, "bag": 1})
    labels = ["T-shirt/top", "Bag", "Ankle boot", "Coat"]
    pictures = open_labelled(root, labels)
    assert pictures.labels == tuple(labels)
    found = {source.parent.name: index for source, index in pictures}
    assert found == {"T-SHIRT_TOP": 0, "bag": 1, "ankle_boot": 2}


def test_class_folders_of_other_names_are_taken_in_order(tmp_path):
    root = picture_folder(tmp_path / "x", {"n02": 1, "n01": 1})
    found = {source.parent.name: index for source, index in open_labelled(root, ["tench", "shark"])}
    assert found == {"n01": 0, "n02": 1}


@pytest.mark.parametrize(
    ("folders", "labels", "said"),
    [
        (["cat", "dgo"], ["cat", "dog"], "1 of 2 match no label, or several: dgo"),
        (["cat", "dog", "cow"], ["a", "b"], "3 of 3 match no label, or several: cat, cow, dog"),
        (["a b", "a_b"], ["a b", "c"], "several folders of"),
        (["tabby"], ["tabby", "Tabby", "cow"], "1 of 1 match no label, or several: tabby"),
    ],
)
def test_classes_that_do_not_match_are_named(tmp_path, folders, labels, said):
    root = picture_folder(tmp_path / "x", dict.fromkeys(folders, 1))
    assert said in refusal(root, labels)


def test_labels_of_punctuation_are_told_apart(tmp_path):
    root = picture_folder(tmp_path / "x", {"+": 1, "-": 1})
    found = {source.parent.name: index for source, index in open_labelled(root, ["-", "+"])}
    assert found == {"-": 0, "+": 1}


def test_splits_as_folders(tmp_path):
    picture_folder(tmp_path / "x" / "train", {"cat": 3, "dog": 1})
    picture_folder(tmp_path / "x" / "val", {"cat": 1, "dog": 1})
    test, train = open_labelled(tmp_path / "x"), open_labelled(tmp_path / "x", split="train")
    assert (len(test), test.split, test.name) == (2, "test", "x")
    assert (len(train), train.split, train.labels) == (4, "train", ("cat", "dog"))
    assert open_labelled(tmp_path / "x" / "train").split is None
    (tmp_path / "x" / "val").rename(tmp_path / "x" / "valid")
    assert len(open_labelled(tmp_path / "x")) == 2
    (tmp_path / "x" / "train").rename(tmp_path / "x" / "test")
    assert "has no folder train: it has test, valid" in refusal(tmp_path / "x", split="train")


def test_debians_fashion_mnist():
    if not FASHION.is_dir():
        pytest.skip("not installed: apt-get install dataset-fashion-mnist")
    pictures = open_labelled(FASHION)
    assert (len(pictures), pictures.title) == (10_000, "fashion-mnist, test")
    assert np.bincount(pictures.classes).tolist() == [1000] * 10
    source, index = pictures[0]
    assert (source.shape, pictures.labels[index]) == ((28, 28, 3), "Ankle boot")
    train = open_labelled(FASHION, split="train")
    assert np.bincount(train.classes).tolist() == [6000] * 10
