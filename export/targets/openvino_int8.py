"""int8 for OpenVINO: NNCF's post-training quantisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.errors import UnsupportedError

from ...quant.fidelity import FidelityTally
from ...quant.plan import PERCENTILE, QuantPlan
from .base import shorten
from .silent_nncf import silent_nncf

_WEIGHTED = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
_ATTENTION = ("Softmax", "ScaledDotProductAttention")
_JUDGES = 16  # samples that decide between two ways


def quantise(model: Any, plan: QuantPlan) -> tuple[Any, tuple[str, ...]]:
    """The ``openvino.Model`` with FakeQuantize nodes, which its CPU plugin turns into int8.

    A graph with attention is quantised as a transformer: attention's products stay apart. There
    outliers may be smoothed into the weights before them, which helps where channels differ much,
    and harms where it takes weights off the grid that they were rounded to: both ways are tried,
    and the one that stays nearer the floating-point network on the calibration samples is kept.

    Returns:
        the quantised model, and what a reader should know of how.

    Raises:
        UnsupportedError: NNCF refuses the graph.
    """
    attention = any(op.get_type_name() in _ATTENTION for op in model.get_ordered_ops())
    notes = []
    if plan.method == "entropy":
        notes.append("NNCF has no entropy: ranges minimise the squared error over a histogram")
    if not attention:
        return _quantised(model, plan, attention=False, smoothed=False), tuple(notes)
    ways = {way: _quantised(model, plan, attention=True, smoothed=way) for way in (False, True)}
    errors = _errors(model, ways, plan.samples[:_JUDGES])
    smoothed = errors[True] < errors[False]
    told = "smoothed into the weights" if smoothed else "left where they are"
    figures = f"NMSE {errors[smoothed]:.1e} on calibration samples, {errors[not smoothed]:.1e} else"
    notes.append(f"outliers of activations are {told}: {figures}")
    return ways[smoothed], tuple(notes)


def _quantised(model: Any, plan: QuantPlan, attention: bool, smoothed: bool) -> Any:
    with silent_nncf() as nncf:
        try:
            return nncf.quantize(
                model.clone(),  # NNCF writes remarks into what it is given
                nncf.Dataset([dict(sample) for sample in plan.samples]),
                subset_size=len(plan.samples),
                model_type=nncf.ModelType.TRANSFORMER if attention else None,
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(names=kept_names(model, plan.kept)),
                advanced_parameters=_parameters(plan.method, smoothed),
            )
        except Exception as error:
            raise UnsupportedError(
                "openvino: the graph cannot be quantised",
                f"{type(error).__name__}: {shorten(error)}",
            ) from error


def _errors(
    model: Any, ways: Mapping[bool, Any], samples: Sequence[Mapping[str, np.ndarray]]
) -> dict[bool, float]:
    """The NMSE of each way's outputs, against those of ``model``."""
    wanted = _answers(model, samples)
    found = {}
    for way, quantised in ways.items():
        against = FidelityTally()
        for outputs, expected in zip(_answers(quantised, samples), wanted, strict=True):
            against.add(outputs, expected)
        found[way] = against.fidelity().nmse
    return found


def _answers(
    model: Any, samples: Sequence[Mapping[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = []
    for sample in samples:
        results = compiled(dict(sample))
        found.append({str(i): np.array(results[i]) for i in range(len(compiled.outputs))})
    return found


def kept_names(model: Any, layers: Sequence[str]) -> list[str]:
    """Friendly names of the operations that these nodes became, and of those that multiply with
    their weights."""
    producers = {
        name: op for op in model.get_ordered_ops() for port in op.outputs() for name in port.names
    }
    found: dict[str, None] = {}
    for layer in layers:
        op = producers.get(layer)
        if op is not None:
            found[op.get_friendly_name()] = None
        while op is not None and op.get_type_name() not in _WEIGHTED:
            op = op.input_value(0).get_node() if op.get_input_size() else None
        if op is not None:
            found[op.get_friendly_name()] = None
    return list(found)


def _parameters(method: str, smoothed: bool) -> Any:
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
        OverflowFix,
        QuantizationParameters,
    )
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        RangeEstimatorParametersSet,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    if method == "minmax":
        estimator = RangeEstimatorParametersSet.MINMAX
    elif method == "entropy":
        estimator = RangeEstimatorParametersSet.HISTOGRAM
    else:
        side = StatisticsCollectorParameters(
            statistics_type=StatisticsType.QUANTILE,
            aggregator_type=AggregatorType.MEAN,
            quantile_outlier_prob=1 - PERCENTILE / 100,
        )
        estimator = RangeEstimatorParameters(min=side, max=side)
    return AdvancedQuantizationParameters(
        activations_range_estimator_params=estimator,
        # Its default gives the inputs of depthwise convolutions a range per channel: a channel
        # that slept through the calibration is then cut off when a picture wakes it.
        activations_quantization_params=QuantizationParameters(per_channel=False),
        # Weights are on their grid and biases corrected before any target (see round_weights).
        disable_bias_correction=True,
        **({} if smoothed else {"smooth_quant_alphas": AdvancedSmoothQuantParameters(-1, -1)}),
        overflow_fix=OverflowFix.DISABLE,
    )
