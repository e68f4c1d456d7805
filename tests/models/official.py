"""The checks that both backbone families must pass against the official code's golden data."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from edgekit.models.backbone import STAGES, Classifier

INPUTS = {"a": (2, 3, 224, 224), "b": (1, 3, 192, 256)}
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


def check_keys(folder: Path, variant: str, build: Callable[[str], nn.Module]) -> None:
    """Keys, shapes, types and their order are the official ones."""
    official = json.loads((folder / f"keys_{variant}.json").read_text())
    with torch.device("meta"):
        state = build(variant).state_dict()
    ours = {key: [list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in state.items()}
    assert ours == {key: [shape, dtype] for key, shape, dtype in official["keys"]}
    assert list(state) == official["registration_order"]


def check_outputs(folder: Path, variant: str, network: Classifier, golden: SimpleNamespace) -> None:
    """Logits and all five stages, on a square and on an oblong picture, are the official ones."""
    golden.fill(network)
    stats = json.loads((folder / f"meta_{variant}.json").read_text())["stats"]
    with np.load(folder / f"golden_{variant}.npz", allow_pickle=False) as expected:
        for name, shape in INPUTS.items():
            with torch.inference_mode():
                maps = network.features(golden.input(f"input_{name}", shape))
                logits = network.head(maps["stage_final"]).numpy()
            np.testing.assert_allclose(logits, expected[f"logits_{name}"], **TOLERANCE)
            assert logits.argmax(1).tolist() == stats[name]["logits"]["argmax"]
            assert tuple(maps) == STAGES
            for stage, tensor in maps.items():
                _check_map(tensor.numpy(), stage, name, expected, stats[name][stage])


def _check_map(array: np.ndarray, stage: str, name: str, expected, stats: dict) -> None:
    assert list(array.shape) == stats["shape"]
    picked = array.ravel()[np.arange(256) * array.size // 256]
    np.testing.assert_allclose(picked, expected[f"{stage}_samples_{name}"], **TOLERANCE)
    corner = array[0, :8, :4, :4]
    np.testing.assert_allclose(corner, expected[f"{stage}_slice_{name}"], **TOLERANCE)
    wide = array.astype(np.float64)
    ours = [wide.mean(), wide.std(), np.abs(wide).max(), np.sqrt((wide**2).sum())]
    theirs = [stats[key] for key in ("mean", "std", "absmax", "l2")]
    np.testing.assert_allclose(ours, theirs, **TOLERANCE)
