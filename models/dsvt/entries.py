"""What the registry knows of the DSVT detectors. Nothing here imports torch."""

from __future__ import annotations

from typing import Any

from edgekit.manifest import PickedRows, TaskInfo

from ..spec import LABELS, GraphSpec, InputSpec, ModelSpec
from .config import CONFIGS, DSVTConfig
from .inputs import described

# More points are refused: eleven sweeps of the densest sensors.
MOST_POINTS = 1 << 21
_EXAMPLE_POINTS = 4000

# Parameters, and multiply-accumulates of the split graph at its example shapes.
_FIGURES = {
    "waymo-pillar": (8_653_292, 80_556_736_768),
    "waymo-voxel": (9_102_188, 81_846_130_432),
    "nuscenes-pillar": (7_118_559, 43_617_966_592),
}

# What the official configurations do with what the heads give.
_DECODING: dict[str, dict[str, Any]] = {
    "center": {
        "score_threshold": 0.1,
        "limits": [-80.0, -80.0, -10.0, 80.0, 80.0, 10.0],
        "overlap_exponents": [0.68, 0.71, 0.65],
        "suppression": {
            "thresholds": [0.7, 0.6, 0.55],
            "rotation": "published",
            "candidates": 4096,
            "limit": 500,
        },
    },
    "transfusion": {
        "score_threshold": 0.0,
        "limits": [-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
        "overlap_exponents": [0.5] * 10,
        "suppression": {
            # Only pedestrians and traffic cones; the peaks of the others are thinned out.
            "thresholds": [None] * 8 + [0.175, 0.175],
            "rotation": "true",
            "candidates": 1000,
            "limit": 100,
        },
    },
}
_OUTPUTS = {
    "center": ("scores", "boxes", "iou", "classes", "cells"),
    "transfusion": ("scores", "boxes", "iou", "classes", "cells", "peaks"),
}
_PICKED_BY = {"center": "scores", "transfusion": "peaks"}


def graphs_of(config: DSVTConfig) -> tuple[GraphSpec, ...]:
    """The two graphs that a detector deploys: ``split``, which every target can, and ``whole``."""
    inputs = tuple(described(config))
    points = InputSpec("points", "float32", (_EXAMPLE_POINTS, 5))
    outputs = _OUTPUTS[config.head]
    picked = PickedRows(keys=("classes", "cells"), by=_PICKED_BY[config.head])
    return (
        GraphSpec(
            name="split",
            inputs=tuple(spec for spec, _ in inputs),
            outputs=outputs,
            method="split",
            dynamic={spec.name: dict(sizes) for spec, sizes in inputs if sizes},
            picked=picked,
        ),
        GraphSpec(
            name="whole",
            inputs=(points,),
            outputs=outputs,
            dynamic={"points": {0: (1, MOST_POINTS)}},
            alternative="split",
            picked=picked,
        ),
    )


def task_of(config: DSVTConfig) -> TaskInfo:
    """How a sweep becomes inputs, and outputs boxes (see edgekit.runtimes.tasks)."""
    layout = {
        "point_range": list(config.point_range),
        "voxel_size": list(config.voxel_size),
        "set_size": config.set_size,
        "windows": [list(config.window_at(stage, 0)) for stage in range(config.stages)],
        "window_factor": list(config.window_factor),
        "shift": list(config.shift),
        "z_strides": list(config.z_strides),
        "map_strides": [list(strides) for strides in config.map_strides],
        "upsample": list(config.upsample),
    }
    params = {
        "graph": "whole",
        "alternatives": ["split"],
        "columns": list(config.columns),
        "squashed": ["intensity", "elongation"] if config.head == "center" else [],
        "layout": layout,
        "head": config.head,
        **_DECODING[config.head],
        "labels": LABELS,
        "show_threshold": 0.3,
    }
    return TaskInfo(kind="lidar-detection", params=params)


def _entry(config: DSVTConfig) -> ModelSpec:
    parameters, macs = _FIGURES[config.name]
    return ModelSpec(
        name=f"dsvt-{config.name}",
        builder="edgekit.models.dsvt:build",
        builder_args=(config.name,),
        graphs=graphs_of(config),
        task=task_of(config),
        parameters=parameters,
        macs=macs,
        paper="DSVT, CVPR 2023, arXiv:2301.06051",
        licence="Apache-2.0",
        assets={LABELS: f"dsvt-{config.name.partition('-')[0]}.txt"},
        heads=("lidar-detection",),
    )


ENTRIES = tuple(_entry(config) for config in CONFIGS.values())
