"""What a user may ask of an export, and how it is written on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekit.errors import UsageError
from edgekit.manifest import DeviceHint

from ..models.spec import InputSpec
from ..quant.options import QuantOptions

# Axis names that people use, by rank: pictures are (batch, channels, height, width), sound
# and text (batch, length).
_AXES = {
    4: {"batch": 0, "channels": 1, "height": 2, "width": 3},
    3: {"batch": 0, "length": 1},
    2: {"batch": 0, "length": 1},
    1: {"batch": 0, "length": 0},
}

Dynamic = Mapping[str, Mapping[str, tuple[int, int]]]


@dataclass(frozen=True)
class ExportOptions:
    """Everything but the model and the targets.

    Attributes:
        precision: fp32, fp16 or bf16.
        dynamic: per input, per axis (a number or a name such as ``height``), its range.
        tolerance: bounds that replace some of the precision's own.
        allow_drift: keep artifacts that fail the comparison; the manifest says so.
        samples: real inputs to verify with; None takes what installed packages ship.
        locate: name the first node that departs where a target fails.
        device: what the bundle is made for; the manifest carries it.
        evaluation: labelled pictures to measure the accuracy on.
        quantisation: how to quantise, where precision is int8, int4 or mixed.
    """

    precision: str = "fp32"
    dynamic: Dynamic = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=dict)
    allow_drift: bool = False
    samples: Path | None = None
    locate: bool = False
    device: DeviceHint | None = None
    evaluation: Path | None = None
    quantisation: QuantOptions | None = None


def parse_input(text: str) -> InputSpec:
    """``NAME:DTYPE[SHAPE]``, e.g. ``x:float32[1,3,224,224]`` or ``ids:int64[1,16]<30522``.

    ``<N`` bounds random integers.

    Raises:
        UsageError: it is not of that form.
    """
    form = r"(?P<name>[^:]+):(?P<dtype>\w+)\[(?P<shape>[\d,\sx]*)\](?:<(?P<high>\d+))?"
    match = re.fullmatch(form, text.strip())
    advice = "write for example --input x:float32[1,3,224,224]"
    if match is None:
        raise UsageError(f"--input {text} is not NAME:DTYPE[SHAPE]", "", advice)
    sizes = [size for size in re.split(r"[,x\s]+", match["shape"]) if size]
    try:
        dtype = np.dtype(match["dtype"]).name
    except TypeError as error:
        raise UsageError(f"--input {text} has no dtype {match['dtype']}", "", advice) from error
    if any(int(size) < 1 for size in sizes):
        raise UsageError(f"--input {text} has a size of 0", "", advice)
    high = int(match["high"]) if match["high"] else None
    return InputSpec(match["name"], dtype, tuple(int(size) for size in sizes), high=high)


def parse_dynamic(texts: Iterable[str]) -> dict[str, dict[str, tuple[int, int]]]:
    """``NAME:AXIS=MIN..MAX``, each; AXIS is a number or a name such as ``batch``.

    Raises:
        UsageError: one is not of that form.
    """
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for text in texts:
        match = re.fullmatch(r"([^:]+):(\w+)=(\d+)\.\.(\d+)", text.strip())
        if match is None:
            raise UsageError(
                f"--dynamic {text} is not NAME:AXIS=MIN..MAX", "", "write image:batch=1..8"
            )
        found.setdefault(match[1], {})[match[2]] = (int(match[3]), int(match[4]))
    return found


def resolve_axes(
    dynamic: Dynamic, inputs: Iterable[InputSpec]
) -> dict[str, dict[int, tuple[int, int]]]:
    """Axis names to numbers.

    Raises:
        UsageError: there is no such input or axis.
    """
    specs = {spec.name: spec for spec in inputs}
    found: dict[str, dict[int, tuple[int, int]]] = {}
    for name, axes in dynamic.items():
        if name not in specs:
            raise UsageError(f"no input {name} to make dynamic", f"inputs: {', '.join(specs)}")
        known = _AXES.get(len(specs[name].shape), {})
        for axis, limits in axes.items():
            number = int(axis) if axis.isdigit() else known.get(axis)
            if number is None:
                raise UsageError(
                    f"{name} has no axis {axis}", f"it has {', '.join(known)}, or a number"
                )
            found.setdefault(name, {})[number] = limits
    return found


def parse_resolution(text: str | None) -> tuple[int, int] | None:
    """``H`` or ``HxW`` to (height, width).

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    if match is None or int(match[1]) < 1 or (match[2] and int(match[2]) < 1):
        raise UsageError(f"--resolution {text} is not H or HxW", "", "write --resolution 224")
    return int(match[1]), int(match[2] or match[1])
