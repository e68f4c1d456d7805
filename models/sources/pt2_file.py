"""A ``.pt2`` file: an ExportedProgram that somebody saved with ``torch.export.save``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgekit.errors import InputError, UsageError

from ..spec import GraphSpec, InputSpec, LoadedModel
from . import SourceOptions, refuse_resolution, refuse_weights

# A dimension without an upper bound gets one: a device must plan its memory.
OPEN_ENDED = 4


def load_pt2(text: str, options: SourceOptions) -> LoadedModel:
    """Load an exported program; its dynamic dimensions stay dynamic.

    Only load files that you trust: the format holds a graph, but torch's own reader decides
    how it is read.

    Raises:
        InputError: there is no such file, or torch cannot read it.
        UsageError: it takes something else than tensors.
    """
    refuse_weights(text, options)
    refuse_resolution(text, options)
    path = Path(text)
    if not path.is_file():
        raise InputError(f"no file {text}", "a .pt2 file is what torch.export.save writes")
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise InputError(f"cannot read {text}", f"{type(error).__name__}: {error}") from error
    inputs, dynamic = _inputs(program, text)
    given = {spec.name: spec for spec in options.inputs}
    if given.keys() == {spec.name for spec in inputs}:  # in any order, where the names say which
        inputs = tuple(given[spec.name] for spec in inputs)
    elif given:
        inputs = tuple(options.inputs)
    graph = GraphSpec(inputs=inputs, dynamic=dynamic)
    module = program.module(check_guards=False)
    return LoadedModel(path.stem, text, module, (graph,), f"in {path.name}")


def _inputs(
    program: torch.export.ExportedProgram, text: str
) -> tuple[tuple[InputSpec, ...], dict[str, dict[int, tuple[int, int]]]]:
    nodes = {node.name: node for node in program.graph.nodes}
    specs, dynamic = [], {}
    for name in program.graph_signature.user_inputs:
        value = nodes[name].meta.get("val") if isinstance(name, str) else name
        if not isinstance(value, torch.Tensor):
            raise UsageError(f"{text} takes something else than tensors", f"input {name}")
        shape, axes = _sizes(value, program.range_constraints)
        specs.append(InputSpec(name, str(value.dtype).removeprefix("torch."), shape))
        if axes:
            dynamic[name] = axes
    return tuple(specs), dynamic


def _sizes(
    value: torch.Tensor, ranges: Mapping[Any, Any]
) -> tuple[tuple[int, ...], dict[int, tuple[int, int]]]:
    shape, axes = [], {}
    for axis, size in enumerate(value.shape):
        if isinstance(size, int):
            shape.append(size)
            continue
        example = int(size.node.hint if size.node.has_hint() else 2)
        shape.append(example)
        limits = ranges.get(size.node.expr)
        low = int(limits.lower) if limits is not None else 1
        upper = float(limits.upper) if limits is not None else math.inf
        high = int(upper) if upper < 2**31 else OPEN_ENDED * max(example, low)
        axes[axis] = (max(low, 1), high)
    return tuple(shape), axes
