"""ExecuTorch: a ``.pte`` program with XNNPACK where it has a kernel."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import UnsupportedError
from edgekit.quiet import quiet

from ...quant.plan import QuantPlan
from ..passes.cast_precision import cast_precision
from ..passes.rewrite_for_xnnpack import rewrite_for_xnnpack
from ..program import Program, module_path
from .base import Lowered, Target, refuse, shorten
from .executorch_int8 import notes as notes_on
from .executorch_int8 import quantise
from .executorch_weights import quantise_weights
from .need import need
from .weight_only import refuse_convolutional, refuse_dynamic, refuse_palettes

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class ExecuTorchTarget(Target):
    """XNNPACK takes what it can; portable kernels run the rest, and the share is reported."""

    name = "executorch"
    runtime = "executorch"

    def check(self) -> None:
        need("executorch", "executorch", "ExecuTorch")

    def lower(self, program: Program, precision: str, folder: Path) -> Lowered:
        ready = cast_precision(program, precision).exported
        # A copy, also because ExecuTorch takes constants out of the program that it is given.
        return self._write(program, rewrite_for_xnnpack(ready), folder)

    def lower_quantised(self, program: Program, plan: QuantPlan, folder: Path) -> Lowered:
        if plan.scheme == "weights":
            refuse_convolutional(self.name, program, plan)
            refuse_palettes(self.name, plan)
            own, details, notes = quantise_weights(program, plan)
            lowered = self._write(program, own, folder)
            return replace(
                lowered,
                details={**lowered.details, **details},
                effective_precision=plan.precision,
                notes=notes,
            )
        refuse_dynamic(program, plan)
        lowered = self._write(program, quantise(program, plan), folder)
        return replace(lowered, notes=notes_on(plan))

    def _write(self, program: Program, own: ExportedProgram, folder: Path) -> Lowered:
        """Lower ``own``, which was made of ``program``, as it is."""
        try:
            with quiet(), _shared_history():
                from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
                    XnnpackPartitioner,
                )
                from executorch.exir import to_edge_transform_and_lower

                edge = to_edge_transform_and_lower(own, partitioner=[XnnpackPartitioner()])
                shares = _delegation(edge.exported_program())
                content = edge.to_executorch().buffer
        except Exception as error:
            raise _explain(program, error) from error
        (folder / "model.pte").write_bytes(content)
        kept = shares["undelegated"]
        return Lowered(
            file="model.pte",
            operators={"XNNPACK delegate": shares["partitions"], **kept}
            if shares["partitions"]
            else dict(kept),
            details={"backend": "XNNPACK", **shares},
        )


@contextlib.contextmanager
def _shared_history() -> Iterator[None]:
    """Let nodes share the record of the passes that they went through.

    fx copies that record, deeply, for every node in every one of ExecuTorch's some fifty
    passes, and each pass makes it longer. It is never changed, so sharing it is safe; it
    saves a fifth of the time (34 s to 27 s of CPU for CPUBone-B0).
    """
    from torch.fx.traceback import NodeSource

    NodeSource.__deepcopy__ = lambda self, memo: self
    try:
        yield
    finally:
        del NodeSource.__deepcopy__


# Bookkeeping nodes that compute nothing.
_NOT_WORK = ("getitem", "alloc", "executorch_call_delegate")


def _delegation(edge: ExportedProgram) -> dict[str, Any]:
    """How much of the graph XNNPACK runs, counted in operators of the edge dialect."""
    inside = 0
    partitions = 0
    outside: Counter[str] = Counter()
    places: dict[str, str] = {}
    for node in edge.graph.nodes:
        if node.op != "call_function":
            continue
        name = getattr(node.target, "__name__", str(node.target))
        if "executorch_call_delegate" in name:
            partitions += 1
            module = getattr(edge.graph_module, node.args[0].target)
            inside += _count(module.original_module.graph)
        elif not any(word in name for word in _NOT_WORK):
            outside[name] += 1
            places.setdefault(name, module_path(node))
    total = inside + sum(outside.values())
    return {
        "partitions": partitions,
        "delegated": inside,
        "total": total,
        "delegated_share": round(inside / total, 4) if total else 0.0,
        "undelegated": dict(outside.most_common()),
        "undelegated_in": {name: path for name, path in places.items() if path},
    }


def _count(graph: Any) -> int:
    names = (
        getattr(node.target, "__name__", str(node.target))
        for node in graph.nodes
        if node.op == "call_function"
    )
    return sum(not any(word in name for word in _NOT_WORK) for name in names)


def _explain(program: Program, error: Exception) -> UnsupportedError:
    text = str(error)
    patterns = (
        r"[Mm]issing out variants?: \{?'?([\w:.]+)",
        r"Operator torch\._ops\.([\w.]+) is not Aten Canonical",
        r"Operator: <EdgeOpOverload: ([\w.]+)>",
        r"([\w]+::[\w.]+) is not",
    )
    for pattern in patterns:
        if found := re.search(pattern, text):
            operator = found.group(1).replace("::", ".")
            return refuse("executorch", program, operator, text)
    return UnsupportedError(
        "executorch cannot lower the graph", f"{type(error).__name__}: {shorten(text)}"
    )
