"""The targets by name. Adding one is one file here and one line below."""

from __future__ import annotations

from collections.abc import Iterable

from edgekit.errors import UsageError

from .base import Lowered, Target
from .coreml import CoreMLTarget
from .executorch import ExecuTorchTarget
from .onnx import OnnxTarget
from .openvino import OpenVinoTarget
from .tensorrt import TensorRTTarget

TARGETS: dict[str, type[Target]] = {
    target.name: target
    for target in (OnnxTarget, OpenVinoTarget, ExecuTorchTarget, CoreMLTarget, TensorRTTarget)
}

__all__ = ["TARGETS", "Lowered", "Target", "choose"]


def choose(names: Iterable[str | Target]) -> list[Target]:
    """Targets by name, each once, in the order given; ``all`` stands for every one.

    A :class:`Target` instance stands for itself.

    Raises:
        UsageError: there is no target of that name.
    """
    chosen: dict[str, Target] = {}
    for name in names:
        if isinstance(name, Target):
            chosen.setdefault(name.name, name)
        elif name == "all":
            chosen.update({key: make() for key, make in TARGETS.items() if key not in chosen})
        elif name in TARGETS:
            chosen.setdefault(name, TARGETS[name]())
        else:
            raise UsageError(f"no target {name}", f"targets: {', '.join(TARGETS)}, all")
    return list(chosen.values())
