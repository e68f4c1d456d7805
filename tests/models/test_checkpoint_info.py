"""Checkpoints that say what they are."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgekit import models
from edgekit.errors import InputError
from edgekit.models.checkpoint_info import KEY, CheckpointInfo, info_metadata, read_info

LABELS = ("cat", "dog", "bird")
TASK = {"resolution": [32, 48], "resize": [32, 48], "mean": [0.5] * 3, "std": [0.25] * 3}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return models.build("cpubone-nano", "random", classes=3).state_dict()


def saved(path: Path, state: dict[str, torch.Tensor], **fields: Any) -> Path:
    document = {"model": "cpubone-nano", "classes": 3, "labels": LABELS, "task": TASK, **fields}
    save_file(state, path, metadata={KEY: json.dumps(document)})
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    info = CheckpointInfo(model="cpubone-nano", classes=3, labels=LABELS, task=TASK)
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", metadata=info_metadata(info))
    assert read_info(tmp_path / "x.safetensors") == info
    assert info.task.size == (32, 48)


def test_other_files_say_nothing(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert read_info(tmp_path / "x.safetensors") is None
    assert read_info(tmp_path / "x.pt") is None
    assert read_info(tmp_path / "absent.safetensors") is None


def test_the_network_is_deployed_as_it_was_trained(tmp_path: Path, state) -> None:
    model = models.load("cpubone-nano", saved(tmp_path / "x.safetensors", state))
    assert model.graphs[0].inputs[0].shape == (1, 3, 32, 48)
    params = model.task.params
    assert (params["resolution"], params["resize"]) == ([32, 48], [32, 48])
    assert (params["mean"], params["std"]) == ([0.5] * 3, [0.25] * 3)
    assert params["interpolation"] == "bicubic"  # nothing was said, so the registry's
    assert model.assets[params["labels"]] == b"cat\ndog\nbird\n"
    assert model.module(torch.zeros(1, 3, 32, 48)).shape == (1, 3)


def test_its_trunk_keeps_the_pictures_but_not_the_labels(tmp_path: Path, state) -> None:
    model = models.load("cpubone-nano", saved(tmp_path / "x.safetensors", state), head="features")
    assert model.task.params["resolution"] == [32, 48]
    assert model.assets == {}
    assert "labels" not in model.task.params


def test_another_models_checkpoint_is_named(tmp_path: Path, state) -> None:
    path = saved(tmp_path / "x.safetensors", state, model="lowformer-e1")
    with pytest.raises(InputError) as caught:
        models.load("cpubone-nano", path)
    assert "is of lowformer-e1, not of cpubone-nano" in str(caught.value)
    assert "edgekit export lowformer-e1" in caught.value.next_step


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"labels": ["cat"]}, "1 labels for 3 classes"),
        ({"labels": ["a\nb", "c", "d"]}, "labels.0"),
        ({"task": {"mean": [1, 2]}}, "task.mean"),
        ({"task": {"resolution": 0}}, "task.resolution"),
        ({"task": {"std": [1, 1, float("inf")]}}, "task.std"),
        ({"task": {"shift": 3}}, "task.shift"),
        ({"classes": 0}, "classes"),
        ({"model": None}, "model"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, fields: dict, where: str) -> None:
    path = saved(tmp_path / "x.safetensors", {"x": torch.zeros(1)}, **fields)
    with pytest.raises(InputError, match="says of itself is not valid") as caught:
        read_info(path)
    assert where in caught.value.why


def test_damage_is_one_line(tmp_path: Path, state) -> None:
    path = saved(tmp_path / "x.safetensors", state)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot read checkpoint"):
        read_info(path)
