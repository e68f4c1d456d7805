"""DSVT's split graph cut into its parts, each a graph of its own on one runtime, to be timed."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn

from edgekit.export.capture import capture
from edgekit.export.passes import run_pipeline
from edgekit.export.targets import choose
from edgekit.export.verify import PlainFolder
from edgekit.manifest import Artifact, Graph
from edgekit.models.dsvt.detector import DSVT
from edgekit.models.dsvt.inputs import input_names
from edgekit.models.dsvt.voxel_features import grouped_maximum
from edgekit.models.spec import GraphSpec, InputSpec, LoadedModel
from edgekit.runtimes.registry import for_target, session_class

MOST = 1 << 18


class Parts(nn.Module):
    """The four parts as methods; each takes and gives plain tensors."""

    def __init__(self, network: DSVT) -> None:
        super().__init__()
        self.network = network
        self.programs: dict = {}
        names = input_names(network.config)
        self.given = {
            "features": [n for n in names if n.startswith(("points", "merge_", "voxel_rows"))],
            "attention": [
                "x",
                *(n for n in names if n.startswith(("sets", "slots", "cells", "pool"))),
            ],
            "bev": ["x", *(n for n in names if n.startswith(("taps", "middles", "map_rows")))],
            "head": ["map_0", "map_1", "map_2"],
            "split": names,
        }

    def split(self, *inputs):
        return self.network.split(*inputs)

    def features(self, points, *tables):
        return self.network.vfe(points, grouped_maximum(list(tables[:-1]), tables[-1]))

    def attention(self, x, *tables):
        given = dict(zip(self.given["attention"][1:], tables, strict=True))
        stages = [self.network._stage(given, s) for s in range(self.network.config.stages)]
        return self.network.backbone_3d(x, stages)

    def bev(self, x, *tables):
        sites = self.network.sites(dict(zip(self.given["bev"][1:], tables, strict=True)))
        return tuple(self.network.backbone_2d.sparse(x, sites, self.network.shape))

    def head(self, *maps):
        return self.network.dense_head(list(maps))


def chain(parts: Parts, inputs: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """What each part takes for one sweep, in PyTorch."""
    found, values = {}, dict(inputs)
    for part, names in parts.given.items():
        found[part] = {name: values[name] for name in names}
        with torch.inference_mode():
            answer = getattr(parts, part)(*map(torch.from_numpy, found[part].values()))
        values |= follow(part, answer if isinstance(answer, tuple) else (answer,))
    return found


def follow(part: str, answer) -> dict[str, np.ndarray]:
    """What a part gives, by the names under which the next one takes it."""
    names = [f"map_{index}" for index in range(len(answer))] if part == "bev" else ["x"]
    return dict(zip(names, map(np.asarray, answer), strict=False))


def session(
    parts: Parts, part: str, given: dict, target: str, precision: str, folder: Path, threads: int
):
    """One part as a graph with dynamic sizes, loaded on the target's runtime."""
    if part not in parts.programs:  # captured once for all targets, as an export does
        parts.programs[part] = _captured(parts, part, given)
    program = parts.programs[part]
    root = folder / f"{part}-{target}-{precision}"
    root.mkdir()
    lowered = choose([target])[0].lower(program, precision, root)
    graph = Graph(
        name=part, inputs=program.inputs, outputs=program.outputs, dynamic=dict(program.dynamic)
    )
    artifact = Artifact(
        target=target, status="ok", file=lowered.file, extra=lowered.extra, precision=precision
    )
    return session_class(for_target(target))(PlainFolder(root), graph, artifact, threads)


def _captured(parts: Parts, part: str, given: dict):
    specs = tuple(InputSpec(n, v.dtype.name, v.shape) for n, v in given.items())
    dynamic = {n: _axes(n) for n in given if _axes(n)}
    spec = GraphSpec(name=part, inputs=specs, method=part, dynamic=dynamic)
    model = LoadedModel("dsvt", "dsvt", parts, (spec,), "golden rule")
    with mock.patch("edgekit.export.capture.example_inputs", return_value=given):
        return run_pipeline(capture(model, spec))


def _axes(name: str) -> dict[int, tuple[int, int]]:
    if name.startswith("map_"):
        return {}
    if name == "merge_2":
        return {0: (1, MOST), 1: (1, MOST)}
    return {1 if name.startswith(("sets", "slots")) else 0: (1, MOST)}
