"""int8 for ExecuTorch: torchao's quantisation of exported programs, as XNNPACK takes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from edgekit.errors import UnsupportedError
from edgekit.quiet import quiet

from ...quant.plan import PERCENTILE, QuantPlan
from ..layers import CONVOLUTIONS, LINEARS
from ..passes.rewrite_for_xnnpack import rewrite_for_xnnpack
from ..passes.surgery import rename_user_inputs
from ..program import Program
from .base import shorten
from .need import need

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

_ATEN = torch.ops.aten

# Taken along: a sum of two integer layers may then stay an integer.
_CARRIED = (_ATEN.add.Tensor, _ATEN.cat.default, _ATEN.adaptive_avg_pool2d.default)
_RECTIFIERS = (_ATEN.relu.default, _ATEN.relu_.default)
_EPSILON = 2**-12  # the smallest scale, as XNNPACK's own configuration has it


def quantise(program: Program, plan: QuantPlan) -> ExportedProgram:
    """The program with quantise and dequantise nodes around its layers, XNNPACK's way.

    What the rewrites for XNNPACK add (norms as means) stays in floating point.

    Args:
        plan: ``static`` or ``dynamic`` (ranges of activations are found while running).

    Raises:
        UnsupportedError: the graph cannot be quantised.
    """
    need("torchao", "executorch", "torchao, which quantises for ExecuTorch")
    ready = rewrite_for_xnnpack(program.exported)
    try:
        with quiet(stderr=True), torch.no_grad():
            module = _quantised_module(ready.module(), program, plan)
            shapes = program.dynamic_shapes()
            exported = torch.export.export(
                module, program.example_inputs(), dynamic_shapes=shapes, strict=False
            )
    except Exception as error:
        raise UnsupportedError(
            "executorch: the graph cannot be quantised",
            f"{type(error).__name__}: {shorten(error)}",
        ) from error
    return rename_user_inputs(exported, [spec.name for spec in program.inputs])


def _quantised_module(module: Any, program: Program, plan: QuantPlan) -> Any:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    prepared = prepare_pt2e(module, _quantizer(program, plan))
    names = [spec.name for spec in program.inputs]
    for sample in plan.samples:
        prepared(*(torch.from_numpy(sample[name]) for name in names))
    if plan.scheme == "dynamic":
        prepared(*program.example_inputs())  # weights are observed by a run
    return _without_clamps(convert_pt2e(prepared))


def _without_clamps(module: Any) -> Any:
    """Drop each ReLU6 between two quantisations to 0..6: saturating did its work."""
    for node in list(module.graph.nodes):
        if node.target is not _ATEN.relu6.default or not _saturated(node):
            continue
        for quantised in list(node.users):
            for back in list(quantised.users):
                back.replace_all_uses_with(node.args[0])
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _saturated(clamp: Node) -> bool:
    before, after = clamp.args[0], list(clamp.users)
    if "dequantize_per_tensor" not in str(before.target):
        return False
    return all(
        "quantize_per_tensor" in str(user.target) and user.args[1:] == before.args[1:]
        for user in after
    )


def _quantizer(program: Program, plan: QuantPlan) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    dynamic = plan.scheme == "dynamic"
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
    if not dynamic:
        config = _observed_by(config, plan.method)
    kind = XNNPACKQuantizer if dynamic else _clamping(XNNPACKQuantizer)
    return kind().set_global(config).set_filter_function(_chosen(program, plan))


def _clamping(base: type) -> type:
    """XNNPACK's quantiser that knows ReLU6: what a layer gives before it is quantised to 0..6.

    On its own it would spend the 256 levels on all that the layer gives, of which ReLU6 throws
    most away.
    """
    from torchao.quantization.pt2e.quantizer import (
        FixedQParamsQuantizationSpec,
        QuantizationAnnotation,
    )
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    levels = FixedQParamsQuantizationSpec(
        dtype=torch.int8,
        scale=6 / 255,
        zero_point=-128,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
    )

    class ClampingQuantizer(base):
        def annotate(self, model: Any) -> Any:
            model = super().annotate(model)
            for node in model.graph.nodes:
                if node.target is not _ATEN.relu6.default:
                    continue
                layer = node.args[0]
                annotation = layer.meta.get(Q_ANNOTATION_KEY)
                if annotation and annotation.output_qspec and len(layer.users) == 1:
                    annotation.output_qspec = levels
                    node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                        output_qspec=levels, _annotated=True
                    )
            return model

    return ClampingQuantizer


def _chosen(program: Program, plan: QuantPlan) -> Callable[[Node], bool]:
    """Which nodes are quantised: layers of the common graph and what joins them, but not the
    kept ones and what consumes those. (The weights of a chosen layer are asked about, too, and
    a ReLU after it: torchao takes both as one, or leaves the layer in floating point.)"""
    kept = set(plan.kept)
    layers = CONVOLUTIONS.keys() | LINEARS.keys()
    known = set()
    for node in program.exported.graph.nodes:
        after_kept = any(source.name in kept for source in node.all_input_nodes)
        wanted = node.target in layers or (node.target in _CARRIED and not after_kept)
        wanted = wanted or (node.target in _RECTIFIERS and node.args[0].name in known)
        if wanted and node.name not in kept:
            known.add(node.name)
    return lambda node: node.op == "get_attr" or node.name in known


def _observed_by(config: Any, method: str) -> Any:
    """The configuration with observers that find the ranges of activations by ``method``."""
    observer = {"minmax": _minmax, "entropy": _histogram, "percentile": _percentile}[method]()
    spec = dataclasses.replace(
        config.input_activation, observer_or_fake_quant_ctr=observer.with_args(eps=_EPSILON)
    )
    return dataclasses.replace(config, input_activation=spec, output_activation=spec)


def _minmax() -> Any:
    from torchao.quantization.pt2e import MinMaxObserver

    return MinMaxObserver


def _histogram() -> Any:
    from torchao.quantization.pt2e import HistogramObserver

    return HistogramObserver


def _percentile() -> Any:
    """A histogram observer that cuts a fixed share off either end."""
    from torchao.quantization.pt2e import HistogramObserver

    class PercentileObserver(HistogramObserver):
        def _non_linear_param_search(self) -> tuple[torch.Tensor, torch.Tensor]:
            share = torch.cumsum(self.histogram, 0) / self.histogram.sum()
            width = (self.max_val - self.min_val) / self.bins
            cut = 1 - PERCENTILE / 100
            low = int((share <= cut).sum())
            high = int((share < 1 - cut).sum())
            return self.min_val + width * low, self.min_val + width * (high + 1)

    return PercentileObserver


def notes(plan: QuantPlan) -> tuple[str, ...]:
    """What a reader should know of how ranges were found."""
    if plan.scheme == "static" and plan.method == "entropy":
        return ("torchao has no entropy: ranges minimise the squared error over a histogram",)
    return ()
