"""The names of the classes that public checkpoints of dense networks tell apart."""

from pathlib import Path

import pytest

from edgekit import models

ASSETS = Path(models.__file__).parent / "assets"


@pytest.mark.parametrize(
    ("file", "count", "known"),
    [
        # The 80 of COCO's 91 categories that are annotated, in the order of their numbers.
        ("coco80.txt", 80, {0: "person", 11: "stop sign", 24: "backpack", 79: "toothbrush"}),
        # SceneParsing's order: from the most pixels of ADE20K to the fewest.
        ("ade20k150.txt", 150, {0: "wall", 12: "person", 20: "car", 139: "fan", 149: "flag"}),
    ],
)
def test_labels_in_their_order(file, count, known):
    text = (ASSETS / file).read_text(encoding="utf-8")
    labels = text.splitlines()
    assert len(labels) == len(set(labels)) == count
    assert all(label == label.strip() and label for label in labels)
    assert {index: labels[index] for index in known} == known
    assert text.endswith("\n")
