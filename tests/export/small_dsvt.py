"""DSVT detectors small enough to export in seconds, with all their parts."""

from dataclasses import replace
from typing import Any

import torch

from edgekit.models.dsvt.config import CONFIGS, DSVTConfig
from edgekit.models.dsvt.detector import DSVT
from edgekit.models.dsvt.entries import graphs_of, task_of
from edgekit.models.spec import LABELS, LoadedModel

WIDTH, HIDDEN = 16, 32


def small_config(name: str) -> DSVTConfig:
    """The official configuration on a grid of 24 x 24 (48 x 48 for the query head) columns."""
    config = replace(CONFIGS[name], name=f"small-{name}", width=WIDTH, hidden=HIDDEN)
    if config.head == "transfusion":
        return replace(
            config,
            point_range=(-7.2, -7.2, -5.0, 7.2, 7.2, 3.0),
            window=(10, 10, 1),
            shift=(5, 5, 0),
            set_size=12,
        )
    return replace(config, point_range=(-3.84, -3.84, -2.0, 3.84, 3.84, 4.0))


def small_dsvt(name: str, **changed: Any) -> LoadedModel:
    """A small detector with seeded weights, ready to be exported; ``changed`` in its numbers."""
    config = replace(small_config(name), **changed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DSVT(config).eval()
    return LoadedModel(
        name=config.name,
        source=config.name,
        module=network,
        graphs=graphs_of(config),
        weights="random (seed 0)",
        task=task_of(config),
        assets={LABELS: "".join(f"{label}\n" for label in config.labels).encode()},
    )
